//! `create`: from a bundle to a process that waits at the gate.

use std::os::fd::{BorrowedFd, OwnedFd};

use crate::bundle::Bundle;
use crate::error::{CreateError, StartError};
use crate::stdio::{Stdio, Streams};

/// A container whose process exists, is fully set up, and waits to be started.
///
/// Dropping it unstarted ends the process; the caller reaps it and removes the cgroup.
#[derive(Debug)]
pub struct Created {
    /// The process, in the caller's pid namespace. A child of the caller, who must wait for it.
    pub pid: i32,
    /// The same, free of reuse.
    pub pidfd: OwnedFd,
    /// Our ends of its standard streams.
    pub streams: Streams,
}

impl Created {
    /// Lets the process run its program; returns when that happened, or failed.
    pub fn start(&mut self) -> Result<(), StartError> {
        todo!()
    }
}

/// Makes the container's process. `netns` is the network namespace to join, if the specification
/// does not say otherwise by path. The cgroup is created too; on failure nothing is left.
pub fn create(
    bundle: &Bundle,
    netns: Option<BorrowedFd<'_>>,
    stdio: Stdio,
) -> Result<Created, CreateError> {
    let _ = (bundle, netns, stdio);
    todo!()
}
