//! Starting a monitor from a process with many threads.
//!
//! The daemon never forks: `std::process::Command` takes the `posix_spawn` path, which shares no
//! lock with other threads and does not copy page tables. What the monitor inherits are its three
//! standard descriptors and nothing else:
//!
//! | descriptor | is |
//! |---|---|
//! | 0 | the control socket |
//! | 1 | the network namespace, or `/dev/null` |
//! | 2 | `monitor.log` |

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use vocab::{Failure, Kind};

use crate::Setup;
use crate::protocol::FailureKind;

/// A container that waits for `Start`.
#[derive(Debug)]
pub struct Spawned {
    /// Speaks [`crate::protocol`]; closing it before `Start` abandons the container.
    pub control: UnixStream,
    /// The container's init process.
    pub pid: i32,
    /// Its monitor.
    pub monitor_pid: i32,
}

/// Why there is no container. Nothing of it is left but files in its run directory.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The run directory cannot be written.
    #[error("write `{path}`")]
    Write {
        /// What was written.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No control socket.
    #[error("make the control socket")]
    Control(#[source] io::Error),
    /// The monitor did not start.
    #[error("start `{program}`")]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The monitor ended without a word.
    #[error("the monitor died: {said}")]
    Died {
        /// The last line in its log.
        said: String,
    },
    /// The container could not be created.
    #[error("{message}")]
    Create {
        /// What the exit code follows from.
        kind: FailureKind,
        /// The chain of causes.
        message: String,
    },
}

impl Failure for SpawnError {
    fn kind(&self) -> Kind {
        match self {
            Self::Create {
                kind: FailureKind::Invalid,
                ..
            } => Kind::InvalidArgument,
            _ => Kind::Internal,
        }
    }
}

/// Starts a monitor for the container described by `setup`, in its run directory `dir`.
///
/// Blocks until the container is created or could not be. `program` is berth's own binary.
pub fn spawn(
    program: &Path,
    dir: &Path,
    setup: &Setup,
    netns: Option<BorrowedFd<'_>>,
) -> Result<Spawned, SpawnError> {
    let _ = (program, dir, setup, netns);
    todo!()
}
