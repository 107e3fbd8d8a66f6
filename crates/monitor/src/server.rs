//! The fork server: `berth monitor`. It holds nothing but its request socket, does nothing but
//! fork, and so every monitor begins where it stands.
//!
//! A request is one packet: the run directory's path, and beside it the descriptors
//!
//! | | is |
//! |---|---|
//! | first | the monitor's end of the control socket |
//! | second | `monitor.log`, which becomes its standard error |
//! | third, if present | the network namespace |

use std::ffi::{OsStr, OsString};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::cmsg_space;
use rustix::fs::{Mode, OFlags};
use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::process::Signal;
use sys::daemonise::Forked;

use crate::client;
use crate::monitor::complain;
use crate::protocol::{FailureKind, Reply};
use crate::run::attend;

/// Signals that a stopping host, service manager or terminal may send, and that must not keep a
/// monitor from recording how its container ends. (Rust programs ignore SIGPIPE from the start.)
const IGNORED: [Signal; 4] = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM];

/// The longest path that Linux takes.
const PATH_BYTES: usize = 4096;

/// What a monitor begins with.
pub(crate) struct Order {
    pub(crate) dir: PathBuf,
    pub(crate) control: UnixStream,
    pub(crate) netns: Option<OwnedFd>,
    log: OwnedFd,
}

/// Why the server ends before its daemon.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("usage: berth monitor, started by the daemon: unexpected {0:?}")]
    Usage(OsString),
    #[error("close inherited descriptors")]
    Close(#[source] io::Error),
    #[error("handle signals")]
    Signal(#[source] io::Error),
    #[error("leave the working directory")]
    WorkingDirectory(#[source] io::Error),
    #[error("take a request")]
    Request(#[source] io::Error),
}

/// What the binary's main calls for `berth monitor`; `args` begins with the program's name, the
/// role's is taken out.
///
/// Must be called before any thread exists. Standard input is the request socket.
pub fn run(args: Vec<OsString>) -> ExitCode {
    match serve(args) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(order)) => {
            attend(order);
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain("serve monitors", &error);
            ExitCode::FAILURE
        }
    }
}

/// Asks the server behind `requests` for a monitor in `dir`.
pub(crate) fn ask(
    requests: impl AsFd,
    dir: &Path,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(3))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let path = dir.as_os_str().as_bytes();
    if path.len() > PATH_BYTES {
        return Err(io::ErrorKind::InvalidFilename.into());
    }
    let packet = [IoSlice::new(path)];
    retry_on_intr(|| sendmsg(&requests, &packet, &mut ancillary, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// Forks for each request. An order is what the child returns with; the server ends with `None`.
// Inlined, its frame would lie beneath the monitor's.
#[inline(never)]
fn serve(args: Vec<OsString>) -> Result<Option<Order>, ServeError> {
    if let Some(unexpected) = args.into_iter().nth(1) {
        return Err(ServeError::Usage(unexpected));
    }
    sys::daemonise::close_from(3).map_err(ServeError::Close)?;
    // Children that nobody waits for leave no trace.
    for signal in IGNORED.into_iter().chain([Signal::CHILD]) {
        sys::daemonise::ignore_signal(signal.as_raw()).map_err(ServeError::Signal)?;
    }
    // Not to keep a file system busy.
    rustix::process::chdir("/").map_err(|errno| ServeError::WorkingDirectory(errno.into()))?;
    while let Some(order) = receive().map_err(ServeError::Request)? {
        match sys::daemonise::fork() {
            Ok(Forked::Parent { .. }) => {}
            Ok(Forked::Child) => return Ok(become_monitor(order)),
            Err(error) => refuse(&order, &error),
        }
    }
    Ok(None)
}

/// The next request; `None` once the daemon has closed its end.
fn receive() -> io::Result<Option<Order>> {
    let mut path = [0; PATH_BYTES];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(3))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut packet = [IoSliceMut::new(&mut path)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = retry_on_intr(|| recvmsg(io::stdin(), &mut packet, &mut ancillary, flags));
    let length = match received {
        // The daemon went with a request of its own unread.
        Err(rustix::io::Errno::CONNRESET) => return Ok(None),
        other => other?.bytes,
    };
    let mut descriptors = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let mut descriptors = descriptors.next().into_iter().flatten();
    let (Some(control), Some(log)) = (descriptors.next(), descriptors.next()) else {
        return match length {
            0 => Ok(None),
            _ => Err(io::ErrorKind::InvalidData.into()),
        };
    };
    Ok(Some(Order {
        dir: OsStr::from_bytes(&path[..length]).into(),
        control: control.into(),
        netns: descriptors.next(),
        log,
    }))
}

/// In the child: a session of its own, and the standard descriptors of a monitor.
fn become_monitor(order: Order) -> Option<Order> {
    match stand_alone(&order) {
        Ok(()) => Some(order),
        Err(error) => {
            refuse(&order, &error);
            None
        }
    }
}

fn stand_alone(order: &Order) -> io::Result<()> {
    rustix::stdio::dup2_stderr(&order.log)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    // Takes the place of the request socket, whose end the server must see.
    rustix::stdio::dup2_stdin(&null)?;
    // A monitor waits for its children.
    sys::signals::restore(Signal::CHILD.as_raw());
    rustix::process::setsid()?;
    // Only for who looks at the host's processes.
    let _ = rustix::thread::set_name(c"berth-monitor");
    Ok(())
}

/// There is no monitor: tells who waits for it.
fn refuse(order: &Order, error: &io::Error) {
    let message = format!("start the monitor: {error}");
    let kind = FailureKind::Other;
    if let Err(error) = client::send(&order.control, &Reply::Failed { kind, message }) {
        complain("tell the failure", &error);
    }
}
