//! Linux calls behind safe, owning types: the one crate that may say `unsafe`.
//!
//! One file per topic, one call per wrapper, and a `SAFETY:` that names the fact which makes it
//! sound. What you will not find: a decision, a second call in one wrapper, a policy about errors.

#![expect(unsafe_code, reason = "this crate is where it is allowed")]

pub mod daemonise;
pub mod pidfd;
