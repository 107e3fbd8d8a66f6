//! Real busybox containers under real monitors. All need root, for the namespaces.

#![expect(
    clippy::unwrap_used,
    reason = "tests panic; the message and the line are what they tell"
)]

mod harness;

mod ends;
mod execs;
mod output;
mod process;
mod streams;
