//! The contract between berth's faces: what is said on the Engine API, and the client that says it.
//!
//! Both sides of the wire meet here: `daemon` renders these types, `cli` reads them, and both use
//! the same rules for versions, filters, truth values and stream frames. What you will not find:
//! the engine, a route, anything that decides.
//!
//! | module | holds |
//! |---|---|
//! | [`version`] | API versions, the range that berth serves, negotiation |
//! | [`types`] | requests and answers in Docker's field order, beyond the documents in `vocab::config` |
//! | [`filters`] | the `filters` query in both shapes that clients send |
//! | [`query`] | truth values as Docker reads them |
//! | [`stream`] | the frames that carry stdout and stderr over one connection |
//! | [`client`] | the asynchronous client over unix sockets and TCP |

pub mod client;
pub mod filters;
pub mod query;
pub mod stream;
pub mod types;
pub mod version;

pub use client::Client;
pub use filters::Filters;
pub use version::Version;
