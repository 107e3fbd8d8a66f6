//! The store as its users see it: real tars, real files, a real kernel.

#![expect(clippy::unwrap_used, reason = "the helpers of a test are part of it")]

mod algorithms;
mod archives;
mod damage;
mod disk;
mod erofs;
mod explain;
mod guest;
mod hostile;
mod images;
mod interruption;
mod layers;
mod platforms;
mod resume;
mod rootless;
mod scratch;
mod torn;
mod trees;
