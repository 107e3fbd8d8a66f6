//! Handing the listener of a seccomp filter to the agent that answers for it
//! (`linux.seccomp.listenerPath`; config-linux.md "The Container Process State").
//!
//! The listener exists only once the filter is loaded, and from then on any system call of the
//! process may be one that the agent has to answer. So the process makes none of those until the
//! agent has the listener: its descriptor is told through memory. Then it waits in `read`, which
//! ends with whoever starts it; only where the filter does not plainly allow that, it looks at the
//! memory until it sees the answer.
//!
//! ```text
//!  the process                               whoever starts it
//!  shared word, `L` + word, itself, text ──▶ maps the word
//!  seccomp(2)                                looks at the word
//!  word := descriptor + 1 ─────────────────▶ pidfd_getfd, connects to the agent, sends
//!  reads ◀────────────────────────────────── `S`
//!   or spins ◀────────────────────────────── word := TAKEN
//!  closes the descriptor, execve
//! ```

use std::fs;
use std::io::{self, IoSlice, Read as _, Write as _};
use std::mem::{ManuallyDrop, MaybeUninit};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::cmsg_space;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, SeekFrom};
use rustix::io::retry_on_intr;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, sendmsg, socket_with,
};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use serde::{Deserialize, Serialize};
use sys::shared::SharedWord;

use crate::channel::{Channel, Order};
use crate::error::CreateError;
use crate::oci;
use crate::seccomp;
use crate::state::{OCI_VERSION, State};

/// What the word is once the agent has the listener.
const TAKEN: u32 = u32::MAX;
/// So often a process that may not read looks at the word before it gives up: some seconds.
const MAX_LOOKS: u32 = 1 << 28;
/// Between two looks of whoever starts it.
const PAUSE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000,
};
/// The state is that of one container.
const MAX_STATE_BYTES: u64 = crate::config::MAX_BYTES as u64;

/// Where the agent listens, and what it is told beside the listener.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Listener {
    path: PathBuf,
    metadata: Option<String>,
    state: State,
    /// Whether the process waits in `read`.
    reads: bool,
}

/// `ContainerProcessState`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ProcessState {
    oci_version: &'static str,
    fds: [&'static str; 1],
    pid: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<String>,
    state: State,
}

impl Listener {
    /// `None` if no call is anybody else's to answer. A state without a process is that of the
    /// process itself.
    pub(crate) fn new(
        filter: &oci::LinuxSeccomp,
        state: State,
    ) -> Result<Option<Self>, CreateError> {
        if !seccomp::notifies(filter) {
            return Ok(None);
        }
        let refuse = |reason: &str| Err(CreateError::invalid("linux.seccomp.listenerPath", reason));
        match filter.listener_path() {
            None => refuse("is missing, and SCMP_ACT_NOTIFY needs somebody who answers"),
            Some(path) if !path.is_absolute() => refuse("is not an absolute path"),
            Some(path) => Ok(Some(Self {
                path: path.clone(),
                metadata: filter.listener_metadata().clone(),
                state,
                reads: seccomp::plainly_allows(filter, "read"),
            })),
        }
    }
}

/// The process's side, ready to load.
#[derive(Debug)]
pub(crate) struct Prepared<'a> {
    word: SharedWord,
    /// To read from, if that is allowed.
    channel: Option<&'a Channel>,
}

/// Tells whoever starts this process that a listener is coming.
pub(crate) fn prepare<'a>(listener: &Listener, channel: &'a Channel) -> io::Result<Prepared<'a>> {
    let word = SharedWord::new()?;
    let itself = pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
    let mut text = fs::File::from(rustix::fs::memfd_create("listener", MemfdFlags::CLOEXEC)?);
    text.write_all(&serde_json::to_vec(listener)?)?;
    rustix::fs::seek(&text, SeekFrom::Start(0))?;
    channel.send_listener([word.as_fd(), itself.as_fd(), text.as_fd()])?;
    let channel = listener.reads.then_some(channel);
    Ok(Prepared { word, channel })
}

impl Prepared<'_> {
    /// Returns once the agent has the listener, and this process no longer: else nobody would ever
    /// hear of the agent's end. Until then it makes no system call but `read`, and then this one
    /// (`close_range`, which hardly a filter names).
    pub(crate) fn hand_over(self, listener: RawFd) -> io::Result<()> {
        // Giving it back would take calls too; exec does it.
        let kept = ManuallyDrop::new(self);
        let word = kept.word.word();
        word.store(listener.cast_unsigned() + 1, Ordering::Release);
        match kept.channel {
            Some(channel) => channel.read_order().map(drop)?,
            None => look_for_the_answer(word)?,
        }
        // If the filter does not allow it, exec closes it.
        let _ = sys::descriptors::close_raw(listener);
        Ok(())
    }
}

fn look_for_the_answer(word: &AtomicU32) -> io::Result<()> {
    for _ in 0..MAX_LOOKS {
        if word.load(Ordering::Acquire) == TAKEN {
            return Ok(());
        }
        std::hint::spin_loop();
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// Why an agent did not get a listener.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    /// The process's side of it.
    #[error("take the seccomp listener from the container's process")]
    Take(#[source] io::Error),
    /// The agent.
    #[error("failed to connect with seccomp agent `{path}`")]
    Send {
        /// `linux.seccomp.listenerPath`.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What the process sent: its word, itself, and a [`Listener`].
pub(crate) type Coming = [OwnedFd; 3];

/// Waits for the listener and sends it on. Ends early if the process has something to say on
/// `channel`, which is why it did not load its filter, or is gone. If it fails, the process is killed.
pub(crate) fn pass_on(coming: Coming, channel: &Channel) -> Result<(), ListenerError> {
    let [word, process, text] = coming;
    let passed = (|| {
        let word = SharedWord::map(word).map_err(ListenerError::Take)?;
        let Some(number) = awaited(&word, channel.as_fd()).map_err(ListenerError::Take)? else {
            return Ok(());
        };
        let flags = PidfdGetfdFlags::empty();
        let fd = pidfd_getfd(&process, number, flags);
        let fd = fd.map_err(|error| ListenerError::Take(error.into()))?;
        let listener = read(text).map_err(ListenerError::Take)?;
        let pid = pid_of(&process).map_err(ListenerError::Take)?;
        let (path, reads) = (listener.path.clone(), listener.reads);
        send(listener, pid, &fd).map_err(|source| ListenerError::Send { path, source })?;
        if reads {
            return channel
                .send_order(Order::Start)
                .map_err(ListenerError::Take);
        }
        word.word().store(TAKEN, Ordering::Release);
        Ok(())
    })();
    if passed.is_err() {
        // Nobody would ever answer it.
        let _ = sys::pidfd::send_signal(process.as_fd(), libc::SIGKILL);
    }
    passed
}

fn awaited(word: &SharedWord, channel: BorrowedFd<'_>) -> io::Result<Option<RawFd>> {
    loop {
        let mut fds = [PollFd::from_borrowed_fd(channel, PollFlags::IN)];
        retry_on_intr(|| poll(&mut fds, Some(&PAUSE)))?;
        match word.word().load(Ordering::Acquire) {
            0 if fds[0].revents().is_empty() => {}
            0 => return Ok(None),
            number => return Ok(Some((number - 1).cast_signed())),
        }
    }
}

fn read(text: OwnedFd) -> io::Result<Listener> {
    let mut json = Vec::new();
    fs::File::from(text)
        .take(MAX_STATE_BYTES)
        .read_to_end(&mut json)?;
    Ok(serde_json::from_slice(&json)?)
}

/// The process's id as it is seen here (proc_pid_fdinfo(5)).
fn pid_of(process: &OwnedFd) -> io::Result<i32> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", process.as_raw_fd()))?;
    let pid = info
        .lines()
        .find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
    let pid = pid.and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
    Ok(pid.as_raw_nonzero().get())
}

fn send(listener: Listener, pid: i32, fd: &OwnedFd) -> io::Result<()> {
    let mut state = listener.state;
    if state.pid == 0 {
        state.pid = pid;
    }
    let said = serde_json::to_vec(&ProcessState {
        oci_version: OCI_VERSION,
        fds: ["seccompFd"],
        pid,
        metadata: listener.metadata,
        state,
    })?;
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    retry_on_intr(|| connect(&socket, &SocketAddrUnix::new(&listener.path)?))?;
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [fd.as_fd()];
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    let parts = [IoSlice::new(&said)];
    let sent = retry_on_intr(|| sendmsg(&socket, &parts, &mut ancillary, SendFlags::NOSIGNAL))?;
    let mut rest = &said[sent..];
    while !rest.is_empty() {
        let sent = retry_on_intr(|| rustix::net::send(&socket, rest, SendFlags::NOSIGNAL))?;
        rest = &rest[sent..];
    }
    Ok(())
}
