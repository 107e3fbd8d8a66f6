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
//!
//! The program runs from a sealed handle on itself ([`runtime::sealed`]), so that nothing in a
//! container can ever write to it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use vocab::{Failure, Kind};

use crate::protocol::{FailureKind, Reply};
use crate::{Setup, client, exit};

/// The [`Setup`] in the run directory.
pub(crate) const FILE: &str = "setup.json";

/// A monitor's heap, where the allocator is jemalloc (static builds): one arena, nothing held back.
const ALLOCATOR: &str = "narenas:1,tcache:false,dirty_decay_ms:0,muzzy_decay_ms:0";

/// What the monitor complained about, in the run directory.
const LOG: &str = "monitor.log";

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
/// Blocks until the container is created or could not be. `program` is berth's own binary. What an
/// earlier run left in `dir` is forgotten.
pub fn spawn(
    program: &Path,
    dir: &Path,
    setup: &Setup,
    netns: Option<BorrowedFd<'_>>,
) -> Result<Spawned, SpawnError> {
    for stale in [exit::FILE, client::SOCKET] {
        write(dir, stale, |path| match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        })?;
    }
    write(dir, FILE, |path| {
        fs::write(path, serde_json::to_vec(setup)?)
    })?;
    let log = write(dir, LOG, |path| File::create(path))?;
    let (control, theirs) = UnixStream::pair().map_err(SpawnError::Control)?;

    let failed = |source| SpawnError::Start {
        program: program.to_owned(),
        source,
    };
    let mut first = {
        #[expect(clippy::disallowed_methods, reason = "posix_spawn of our own program")]
        let mut command = Command::new(sealed(program).map_err(failed)?);
        command
            .arg0("berth")
            .args(["monitor", "--dir"])
            .arg(dir)
            .env_clear();
        command.env("_RJEM_MALLOC_CONF", ALLOCATOR);
        command
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(log);
        if let Some(netns) = netns {
            let netns = netns.try_clone_to_owned().map_err(failed)?;
            command.arg("--netns").stdout(netns);
        }
        // A signal from the daemon's terminal must not meet the monitor before its setsid.
        command.process_group(0);
        command.spawn().map_err(failed)?
    };
    let said = client::receive(&control);
    // The first process has long ended, since what answered is its child.
    let _ = first.wait();
    match said {
        Ok(Reply::Created { pid, monitor_pid }) => Ok(Spawned {
            control,
            pid,
            monitor_pid,
        }),
        Ok(Reply::Failed { kind, message }) => Err(SpawnError::Create { kind, message }),
        Ok(_) | Err(_) => Err(SpawnError::Died {
            said: last_line(&dir.join(LOG)),
        }),
    }
}

/// Where `program` can be run but never written. Sealed once, since it costs a mount, and kept open
/// as long as this process lives.
fn sealed(program: &Path) -> io::Result<PathBuf> {
    static SEALED: Mutex<BTreeMap<PathBuf, OwnedFd>> = Mutex::new(BTreeMap::new());
    let mut sealed = SEALED.lock().unwrap_or_else(PoisonError::into_inner);
    let handle = match sealed.entry(program.to_owned()) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(new) => new.insert(runtime::sealed(program)?),
    };
    Ok(format!("/proc/self/fd/{}", handle.as_raw_fd()).into())
}

fn write<T>(
    dir: &Path,
    name: &str,
    step: impl FnOnce(&Path) -> io::Result<T>,
) -> Result<T, SpawnError> {
    let path = dir.join(name);
    match step(&path) {
        Ok(done) => Ok(done),
        Err(source) => Err(SpawnError::Write { path, source }),
    }
}

fn last_line(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    match text.lines().next_back() {
        Some(line) => line.to_owned(),
        None => "it said nothing".to_owned(),
    }
}
