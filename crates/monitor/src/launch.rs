//! The daemon's side of starting monitors: a fork server that is there before it is needed.
//!
//! A monitor that began with an exec would pay for it twice: close to a millisecond of every start
//! for loading and relocating the program, and its relocated pages as memory of its own for as
//! long as the container lives. So one process with one thread is started beforehand, and each
//! monitor is a fork of it, whose pages they all share.
//!
//! ```text
//!  daemon                         berth monitor (fork server)          a monitor
//!  Launcher::new ── exec ───────▶ waits, one thread
//!  spawn ── path + descriptors ─▶ fork ──────────────────────────────▶ setsid, runtime::create
//!    ◀───────────────────────────────────────────── Created on its control socket
//! ```
//!
//! The daemon itself never forks: `std::process::Command` takes the `posix_spawn` path, which
//! shares no lock with other threads and does not copy page tables. The server runs from a sealed
//! handle on the program ([`runtime::sealed`]), so that nothing in a container can ever write to
//! it. It ends when its daemon does; its monitors do not.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use vocab::{Failure, Kind};

use crate::protocol::{FailureKind, Reply};
use crate::{Setup, client, exit, server};

/// The [`Setup`] in the run directory.
pub(crate) const FILE: &str = "setup.json";

/// The heap of server and monitors, where the allocator is jemalloc (static builds): one arena,
/// nothing held back.
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
    /// The fork server did not start, or does not take requests.
    #[error("start a monitor from `{program}`")]
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

/// Starts monitors.
#[derive(Debug)]
pub struct Launcher {
    program: PathBuf,
    server: Mutex<Option<Arc<Server>>>,
}

impl Launcher {
    /// `program` is berth's own binary, or one whose first argument `monitor` leads to
    /// [`crate::run`]. Nothing is started yet.
    pub fn new(program: PathBuf) -> Self {
        Self {
            program,
            server: Mutex::new(None),
        }
    }

    /// Has the fork server ready for the first [`Launcher::spawn`]. Blocks.
    pub fn prepare(&self) -> Result<(), SpawnError> {
        match self.known() {
            Some(_) => Ok(()),
            None => self.replace(None).map(drop),
        }
    }

    /// Starts a monitor for the container described by `setup`, in its run directory `dir`.
    ///
    /// Blocks until the container is created or could not be. What an earlier run left in `dir` is
    /// forgotten.
    pub fn spawn(
        &self,
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
        self.request(dir, theirs, log, netns)?;
        match client::receive(&control) {
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

    /// Asks for a monitor; of a new server, if the one that is known has gone.
    fn request(
        &self,
        dir: &Path,
        control: UnixStream,
        log: File,
        netns: Option<BorrowedFd<'_>>,
    ) -> Result<(), SpawnError> {
        let mut descriptors = vec![control.as_fd(), log.as_fd()];
        descriptors.extend(netns);
        let server = match self.known() {
            Some(server) => server,
            None => self.replace(None)?,
        };
        let asked = server::ask(&server.requests, dir, &descriptors).or_else(|error| {
            let gone = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
            if !gone.contains(&error.kind()) {
                return Err(self.failed(error));
            }
            let server = self.replace(Some(&server))?;
            server::ask(&server.requests, dir, &descriptors).map_err(|error| self.failed(error))
        });
        // Dropped only now: the end of the control socket tells that nobody has it any more.
        drop((control, log));
        asked
    }

    fn known(&self) -> Option<Arc<Server>> {
        self.lock().clone()
    }

    /// A server in the place of `gone`, unless another thread was quicker. Started without the
    /// lock, since it takes its time.
    fn replace(&self, gone: Option<&Arc<Server>>) -> Result<Arc<Server>, SpawnError> {
        let started = Server::start(&self.program).map_err(|source| self.failed(source))?;
        let started = Arc::new(started);
        let mut place = self.lock();
        match &*place {
            Some(other) if gone.is_none_or(|gone| !Arc::ptr_eq(other, gone)) => Ok(other.clone()),
            _ => {
                *place = Some(started.clone());
                Ok(started)
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<Server>>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, source: io::Error) -> SpawnError {
        SpawnError::Start {
            program: self.program.clone(),
            source,
        }
    }
}

/// A running fork server; ended by dropping it.
#[derive(Debug)]
struct Server {
    requests: OwnedFd,
    process: Child,
}

impl Server {
    fn start(program: &Path) -> io::Result<Self> {
        let (requests, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let sealed = runtime::sealed(program)?;
        #[expect(clippy::disallowed_methods, reason = "posix_spawn of our own program")]
        let process = Command::new(format!("/proc/self/fd/{}", sealed.as_raw_fd()))
            .arg0("berth")
            .arg("monitor")
            .env_clear()
            .env("_RJEM_MALLOC_CONF", ALLOCATOR)
            .stdin(theirs)
            .stdout(Stdio::null())
            // A signal from the daemon's terminal is not meant for it.
            .process_group(0)
            .spawn()?;
        Ok(Self { requests, process })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The server takes the end of its requests for its own; it has nothing else to do.
        let _ = rustix::net::shutdown(&self.requests, rustix::net::Shutdown::Both);
        let _ = self.process.wait();
    }
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
