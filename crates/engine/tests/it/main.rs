//! The engine with real containers of busybox on roots of their own. All need root.

#![expect(
    clippy::unwrap_used,
    reason = "tests panic; the message and the line are what they tell"
)]

mod place;

mod creating;
mod delivering;
mod disk;
mod lifecycle;
mod networking;
mod recovery;
mod stdio;
