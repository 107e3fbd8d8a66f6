//! End to end: the real binary, real containers from real images, the real docker command line.
//!
//! Each test has a daemon of its own on scratch roots, so that all of them run side by side. Where a
//! test says `for client in CLIENTS`, the unmodified docker command line and `berth` must behave the
//! same.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "tests panic, and start the programs they are about"
)]

mod access;
mod accounts;
mod archives;
mod client;
mod compose;
mod configuration;
mod conformance;
mod contexts;
mod copy;
mod crash;
mod daemon;
mod daily;
mod damaged;
mod errors;
mod escapes;
mod guest;
mod health;
mod host;
mod image_use;
mod images;
mod interrupted;
mod killed;
mod layers;
mod libraries;
mod likeness;
mod makers;
mod memory;
mod nested;
mod networks;
mod options;
mod platforms;
mod policies;
mod refusals;
mod refused_requests;
mod registries;
mod runtime;
mod strangers;
mod terminal;
mod transfers;
mod upgrade;
mod usage;
mod wire;
