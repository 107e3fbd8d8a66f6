//! Hooks: programs that run at six points of a container's life (runtime-spec, config.md
//! "POSIX-platform Hooks", and runtime.md "Lifecycle" for the order and for what a failure means).
//!
//! | hook | when | its program is found | and runs | a failure |
//! |---|---|---|---|---|
//! | `prestart` | `create`, mounts stand | host | host | ends `create` |
//! | `createRuntime` | the same, after those | host | host | ends `create` |
//! | `createContainer` | the same, after those | host | container's namespaces | ends `create` |
//! | `startContainer` | `start` | container | container, as its user | ends `start` |
//! | `poststart` | the program runs | host | host | stops the container |
//! | `poststop` | after `delete` | host | host | is warned of |
//!
//! [`crate::create`] and [`crate::Created::start`] run the first four; the last two are for the
//! caller, who knows when its container is running and gone.
//!
//! A hook gets the container's [`State`] on standard input, an environment that is exactly the one
//! listed (the program's for `startContainer` where none is), and a session of its own, so that a timeout ends it with all its children. What it prints
//! is told if it fails.

use std::ffi::{CString, NulError};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};
use sys::clone::Child;

use crate::oci;
use crate::state::State;

/// As much of what a hook prints is kept for its error.
const KEPT_BYTES: usize = 4 << 10;
/// So often a pipe is read at a time: 64 KiB, which is all it holds.
const MAX_READS: u32 = 16;
/// The exit code of a child that could not become the hook; nobody sees it, the errno is told.
const NOT_RUN: i32 = 127;

/// One of the six points.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// Deprecated by the specification for the next one.
    Prestart,
    /// Once the namespaces and mounts are there.
    CreateRuntime,
    /// The same, within them.
    CreateContainer,
    /// Right before the program.
    StartContainer,
    /// Right after the program began.
    Poststart,
    /// Once nothing of the container is left.
    Poststop,
}

impl Kind {
    /// In the order of a container's life.
    pub const ALL: [Self; 6] = [
        Self::Prestart,
        Self::CreateRuntime,
        Self::CreateContainer,
        Self::StartContainer,
        Self::Poststart,
        Self::Poststop,
    ];

    /// The name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }

    /// The hooks of this kind.
    pub fn of(self, hooks: &oci::Hooks) -> &[oci::Hook] {
        let listed = match self {
            Self::Prestart => hooks.prestart(),
            Self::CreateRuntime => hooks.create_runtime(),
            Self::CreateContainer => hooks.create_container(),
            Self::StartContainer => hooks.start_container(),
            Self::Poststart => hooks.poststart(),
            Self::Poststop => hooks.poststop(),
        };
        listed.as_deref().unwrap_or_default()
    }
}

/// A hook that failed, in runc's words as far as they go:
/// ``error running poststop hook #1: `/usr/bin/hook`: exited with code 3: what it printed``.
#[derive(Debug, thiserror::Error)]
#[error("error running {} hook #{index}: `{path}`", kind.name())]
pub struct HookError {
    /// Of which kind.
    pub kind: Kind,
    /// Which of its kind.
    pub index: usize,
    /// Its program.
    pub path: PathBuf,
    /// What happened.
    #[source]
    pub failure: Failure,
}

/// How a hook failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It could not be run.
    #[error("run it")]
    Run(#[source] io::Error),
    /// Its exit code was not 0.
    #[error("exited with code {code}{}", after(said))]
    Exit {
        /// The exit code.
        code: i32,
        /// The end of what it printed.
        said: String,
    },
    /// A signal ended it.
    #[error("was killed by signal {signal}{}", after(said))]
    Signal {
        /// Its number.
        signal: i32,
        /// The end of what it printed.
        said: String,
    },
    /// It took longer than its `timeout`, and was killed.
    #[error("did not end within {} s{}", limit.as_secs(), after(said))]
    Timeout {
        /// What it was allowed.
        limit: Duration,
        /// The end of what it printed.
        said: String,
    },
}

fn after(said: &str) -> String {
    if said.is_empty() {
        String::new()
    } else {
        format!(": {said}")
    }
}

/// Runs the hooks of one kind in their order. The first that fails is the last that is run.
///
/// Those that run on the host do so in the bundle's directory. Those that name no environment get
/// `environment`. Forks the calling thread: call it from a program with one thread.
pub fn run(
    hooks: &oci::Hooks,
    kind: Kind,
    state: &State,
    environment: &[CString],
) -> Result<(), HookError> {
    each(hooks, kind, state, environment)
        .find(Result::is_err)
        .unwrap_or(Ok(()))
}

/// Runs the hooks of one kind in their order, all of them: for `poststop`. Returns those that failed.
pub fn run_all(hooks: &oci::Hooks, kind: Kind, state: &State) -> Vec<HookError> {
    each(hooks, kind, state, &[])
        .filter_map(Result::err)
        .collect()
}

fn each(
    hooks: &oci::Hooks,
    kind: Kind,
    state: &State,
    environment: &[CString],
) -> impl Iterator<Item = Result<(), HookError>> {
    let on_host = !matches!(kind, Kind::CreateContainer | Kind::StartContainer);
    let directory = on_host.then_some(state.bundle.as_path());
    let listed = kind.of(hooks).iter().enumerate();
    listed.map(move |(index, hook)| {
        execute(hook, state, directory, environment).map_err(|failure| HookError {
            kind,
            index,
            path: hook.path().clone(),
            failure,
        })
    })
}

/// What the fork needs, made before it.
struct Program {
    path: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Program {
    fn new(hook: &oci::Hook, environment: &[CString]) -> Result<Self, NulError> {
        let path = CString::new(hook.path().as_os_str().as_bytes())?;
        let strings = |texts: &Option<Vec<String>>| -> Result<Vec<CString>, NulError> {
            let texts = texts.iter().flatten();
            texts.map(|text| CString::new(text.as_str())).collect()
        };
        let mut arguments = strings(hook.args())?;
        if arguments.is_empty() {
            arguments.push(path.clone());
        }
        Ok(Self {
            path,
            arguments,
            environment: match hook.env() {
                Some(_) => strings(hook.env())?,
                None => environment.to_vec(),
            },
        })
    }
}

fn execute(
    hook: &oci::Hook,
    state: &State,
    directory: Option<&Path>,
    environment: &[CString],
) -> Result<(), Failure> {
    let limit = hook
        .timeout()
        .and_then(|seconds| u64::try_from(seconds).ok());
    let limit = limit.map(Duration::from_secs);
    let run = |error: io::Error| Failure::Run(error);
    let program = Program::new(hook, environment).map_err(|error| run(error.into()))?;
    let input = input(state).map_err(run)?;
    let (output, printed) = read_soon().map_err(run)?;
    let (refused, refusal) = read_soon().map_err(run)?;
    let child = sys::clone::spawn(UnshareFlags::empty(), None, || {
        let error = become_hook(&program, directory, &input, &printed);
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        // A caller that is gone does not hear it.
        let _ = rustix::io::write(&refusal, &errno.to_ne_bytes());
        NOT_RUN
    })
    .map_err(run)?;
    drop((printed, refusal));
    let (ended, said) = attend(&child, &output, limit);
    let status = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED);
    let status = status
        .map_err(|error| run(error.into()))?
        .ok_or_else(|| run(io::ErrorKind::NotFound.into()))?;
    let mut errno = [0; 4];
    if let Ok(4) = rustix::io::read(&refused, &mut errno) {
        return Err(run(io::Error::from_raw_os_error(i32::from_ne_bytes(errno))));
    }
    let said = String::from_utf8_lossy(&said).trim_end().to_owned();
    match (ended, limit, status.exit_status()) {
        (false, Some(limit), _) => Err(Failure::Timeout { limit, said }),
        (_, _, Some(0)) => Ok(()),
        (_, _, Some(code)) => Err(Failure::Exit { code, said }),
        (_, _, None) => {
            let signal = status.terminating_signal().unwrap_or(0);
            Err(Failure::Signal { signal, said })
        }
    }
}

/// Standard input with the whole state in it, for a hook that may not read it.
fn input(state: &State) -> io::Result<OwnedFd> {
    let mut file = std::fs::File::from(rustix::fs::memfd_create("state", MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(state)?)?;
    rustix::fs::seek(&file, SeekFrom::Start(0))?;
    Ok(file.into())
}

/// A pipe whose reading end does not wait.
fn read_soon() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::fs::fcntl_setfl(&read, OFlags::NONBLOCK)?;
    Ok((read, write))
}

/// Runs in the fork; returns why it could not become the hook.
fn become_hook(
    program: &Program,
    directory: Option<&Path>,
    input: &OwnedFd,
    printed: &OwnedFd,
) -> io::Error {
    let prepared = (|| -> io::Result<()> {
        sys::signals::restore_all();
        sys::signals::unblock_all()?;
        rustix::process::setsid()?;
        if let Some(directory) = directory {
            // A bundle may be gone when its container is; the hook is told its path all the same.
            rustix::process::chdir(directory).or_else(|_| rustix::process::chdir("/"))?;
        } else {
            // In the container's own process nothing is masked while it is set up.
            rustix::process::umask(Mode::from_bits_truncate(0o022));
        }
        // Away from 0, 1 and 2, where a caller without standard streams may have got them.
        let [input, printed] = [input, printed].map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 3));
        let (input, printed) = (input?, printed?);
        dup2_stdin(&input)?;
        dup2_stdout(&printed)?;
        dup2_stderr(&printed)?;
        sys::descriptors::close_on_exec_from(3)
    })();
    match prepared {
        Ok(()) => sys::exec::execve(&program.path, &program.arguments, &program.environment),
        Err(error) => error,
    }
}

/// Reads what the hook prints until it ends, or kills it. Says whether it ended by itself, and the
/// end of what it printed. What its children print after its end is of no interest.
fn attend(child: &Child, output: &OwnedFd, limit: Option<Duration>) -> (bool, Vec<u8>) {
    let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
    let mut said = Vec::new();
    let mut open = true;
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            kill(child);
            gather(output.as_fd(), &mut said);
            return (false, said);
        }
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        let mut fds = [
            PollFd::new(&child.pidfd, PollFlags::IN),
            PollFd::new(output, PollFlags::IN),
        ];
        let watched = if open { 2 } else { 1 };
        // An interrupted wait is a wait that saw nothing.
        let _ = poll(&mut fds[..watched], left.as_ref());
        let [exited, printed] = fds.map(|fd| !fd.revents().is_empty());
        if printed {
            open = gather(output.as_fd(), &mut said);
        }
        if exited {
            gather(output.as_fd(), &mut said);
            return (true, said);
        }
    }
}

/// Reads what is there, keeps the end of all; `false` once nobody can write any more.
fn gather(output: BorrowedFd<'_>, said: &mut Vec<u8>) -> bool {
    let mut bytes = [0; KEPT_BYTES];
    // Not for ever: a hook may print faster than this reads.
    for _ in 0..MAX_READS {
        match rustix::io::read(output, &mut bytes) {
            Ok(0) => return false,
            Ok(length) => {
                said.extend(&bytes[..length]);
                said.drain(..said.len().saturating_sub(KEPT_BYTES));
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return true,
            Err(_) => return false,
        }
    }
    true
}

/// The hook and whatever it has started.
fn kill(child: &Child) {
    if let Some(group) = Pid::from_raw(child.pid) {
        // It may not be a session of its own yet.
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = sys::pidfd::send_signal(child.pidfd.as_fd(), libc::SIGKILL);
}
