//! `exec`: one more process in all namespaces of a running container.

use std::os::fd::{BorrowedFd, OwnedFd};

use crate::bundle::ExecProcess;
use crate::error::StartError;
use crate::stdio::{Stdio, Streams};

/// A process that runs in a container beside its first one.
#[derive(Debug)]
pub struct Executed {
    /// In the caller's pid namespace. A child of the caller, who must wait for it.
    pub pid: i32,
    /// The same, free of reuse.
    pub pidfd: OwnedFd,
    /// Our ends of its standard streams.
    pub streams: Streams,
}

/// Runs `exec` in the namespaces of the process `init`; returns once its program runs.
pub fn exec(
    init: BorrowedFd<'_>,
    init_pid: i32,
    exec: &ExecProcess,
    stdio: Stdio,
) -> Result<Executed, StartError> {
    let _ = (init, init_pid, exec, stdio);
    todo!()
}
