//! Names: each container on a network of a user asks `127.0.0.11`, and the daemon answers.
//!
//! The sockets are the daemon's, but live in the container's own network namespace: who asks is
//! known by the socket that hears it, no firewall of the host is in the way, and what is asked of
//! the outside leaves as the container's own packets do. Port 53 stays free for the container's
//! programs: the sockets have ports of the kernel's choice, and two stateless rules inside the
//! namespace put 53 in their place (`rules/names.nft`).
//!
//! ```text
//! query ─▶ answer: own name? ── yes ──▶ reply
//!                      └─ no ─▶ a way out? ── no ──▶ NXDOMAIN
//!                                   └─ yes ─▶ upstream: cache, then the servers in turn
//! ```
//!
//! Nothing of it is stored. While there is no daemon nobody answers and queries are refused at once;
//! the next daemon opens the sockets anew.
//!
//! | module | hides |
//! |---|---|
//! | [`names`] | who is called what on which network |
//! | [`answer`] | queries and replies as messages; pure |
//! | [`upstream`] | what is asked of others, and for how long an answer is kept |
//! | [`server`] | sockets and tasks |

mod answer;
mod names;
mod server;
mod upstream;

pub use answer::{Lookup, Verdict, judge};
pub(crate) use names::Names;
pub(crate) use server::Resolvers;
pub use server::{ADDRESS, Asking};
pub use upstream::retold;
