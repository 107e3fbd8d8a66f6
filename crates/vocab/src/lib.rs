//! The nouns of berth: ids, digests, references, platforms, the documents that Docker and OCI
//! define, and the kinds of failure.
//!
//! Everything here is a value: parsed once at the edge, proved by its type, printed the way the
//! field prints it. What you will not find: input or output, a clock, logging, a default that
//! depends on the host (the one exception, [`Platform::host`], is decided by the compiler).
//!
//! | module | holds |
//! |---|---|
//! | [`id`] | 64-digit ids of containers, execs and networks, and what users type for them |
//! | [`digest`] | content addresses (`sha256:…`, `sha512:…`) |
//! | [`reference`] | image names as users type them and as registries know them |
//! | [`platform`] | `os/arch/variant`, and which image platform suits which host |
//! | [`config`] | the container documents of the Engine API: `Config`, `HostConfig`, endpoints |
//! | [`image`] | the image configuration, kept byte for byte beside what Docker reads in it |
//! | [`manifest`] | manifests, indexes and descriptors of both schemes (OCI and Docker v2.2) |
//! | [`failure`] | what a failure means to the caller, apart from what it says |
//! | [`signal`] | signals as people name them |
//! | [`time`] | RFC 3339 as Go prints it |

pub mod config;
pub mod digest;
pub mod failure;
pub mod id;
pub mod image;
pub mod manifest;
pub mod platform;
pub mod reference;
pub mod signal;
pub mod time;

pub use digest::{Algorithm, Digest};
pub use failure::{Failure, Kind};
pub use id::{ContainerId, ExecId, NetworkId};
pub use platform::Platform;
pub use reference::Reference;
