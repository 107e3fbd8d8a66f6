//! The gate of a container that outlives who created it.
//!
//! `runtime create` ends before `runtime start` begins. So the waiting process holds a listening
//! `SOCK_SEQPACKET` socket, bound in the container's state directory: who starts the container
//! connects, and goes on with what [`channel`](crate::channel) says.
//!
//! ```text
//!  start                                  the waiting process
//!  connect, `S` ────────────────────────▶ accept
//!  ◀──────────────── `E`, end of file: the program runs, since descriptors close at exec
//!  ◀──────────────── `F` and why not
//! ```
//!
//! Whoever can reach the socket may start the container: the directory is the caller's to guard.
//! One who connects and goes away without `S` changes nothing.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
    socket_with,
};

use crate::channel::{Channel, Order};
use crate::error::{CreateError, StartError};
use crate::starting::Starting;

/// The socket's name in the state directory.
pub const SOCKET: &str = "start.sock";

/// One starter at a time; another waits its turn.
const BACKLOG: i32 = 1;

/// The listening end, for the process that waits.
#[derive(Debug)]
pub struct Gate(OwnedFd);

impl Gate {
    /// Binds [`SOCKET`] in the directory behind `state`.
    pub fn listen(state: BorrowedFd<'_>) -> io::Result<Self> {
        let socket = socket()?;
        bind(&socket, &address(state)?)?;
        listen(&socket, BACKLOG)?;
        Ok(Self(socket))
    }
}

impl AsFd for Gate {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Starts the container that waits at the gate in `state`: returns when its program runs, or why
/// it does not.
pub fn start(state: BorrowedFd<'_>) -> Result<(), StartError> {
    let failed = |error: Errno| CreateError::Channel(error.into());
    let socket = socket().map_err(failed)?;
    let address = address(state).map_err(CreateError::Channel)?;
    match retry_on_intr(|| connect(&socket, &address)) {
        // It waits no more: it runs, or has ended.
        Err(Errno::CONNREFUSED | Errno::NOENT) => return Err(StartError::Twice),
        other => other.map_err(failed)?,
    }
    let channel = Channel::from(socket);
    channel
        .send_order(Order::Start)
        .map_err(CreateError::Channel)?;
    Starting::new(channel).finish()
}

/// Whether a container waits at the gate in `state`. It is not disturbed.
pub fn is_waiting(state: BorrowedFd<'_>) -> bool {
    let connected = socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
    .map_err(io::Error::from)
    .and_then(|socket| Ok(connect(&socket, &address(state)?)?));
    match connected {
        Ok(()) => true,
        // Others ask at the same time, or the container is frozen.
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

/// In the waiting process: returns with the connection of the one who said `S`.
pub(crate) fn wait(gate: BorrowedFd<'_>) -> io::Result<Channel> {
    loop {
        let accepted = retry_on_intr(|| accept_with(gate, SocketFlags::CLOEXEC))?;
        let channel = Channel::from(accepted);
        if channel.order().is_ok_and(|order| order == Order::Start) {
            return Ok(channel);
        }
    }
}

fn socket() -> Result<OwnedFd, Errno> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    socket_with(family, kind, SocketFlags::CLOEXEC, None)
}

/// Through the descriptor, since the directory's path may be longer than `sun_path`.
fn address(state: BorrowedFd<'_>) -> io::Result<SocketAddrUnix> {
    let path = format!("/proc/self/fd/{}/{SOCKET}", state.as_raw_fd());
    Ok(SocketAddrUnix::new(path)?)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::error::{SetupError, Step};

    fn state() -> (tempfile::TempDir, File) {
        let long = "x".repeat(150);
        let dir = tempfile::Builder::new().prefix(&long).tempdir().unwrap();
        let fd = File::open(dir.path()).unwrap();
        (dir, fd)
    }

    #[test]
    fn a_failure_to_exec_reaches_whoever_starts() {
        let (_dir, state) = state();
        let gate = Gate::listen(state.as_fd()).unwrap();
        std::thread::scope(|scope| {
            let starter = scope.spawn(|| start(state.as_fd()));
            let channel = wait(gate.as_fd()).unwrap();
            let failure = SetupError::new(Step::NotFound, "exec: nope", None);
            channel.send_failure(&failure).unwrap();
            let error = starter.join().unwrap().unwrap_err();
            assert!(matches!(error, StartError::NotFound(_)), "{error:?}");
        });
    }

    #[test]
    fn the_end_of_the_connection_means_that_the_program_runs() {
        let (_dir, state) = state();
        let gate = Gate::listen(state.as_fd()).unwrap();
        std::thread::scope(|scope| {
            let starter = scope.spawn(|| start(state.as_fd()));
            wait(gate.as_fd()).unwrap().send_program().unwrap();
            starter.join().unwrap().unwrap();
        });
    }

    #[test]
    fn an_end_before_the_program_is_a_failure() {
        let (_dir, state) = state();
        let gate = Gate::listen(state.as_fd()).unwrap();
        std::thread::scope(|scope| {
            let starter = scope.spawn(|| start(state.as_fd()));
            drop(wait(gate.as_fd()).unwrap());
            let error = starter.join().unwrap().unwrap_err();
            assert!(matches!(error, StartError::Create(CreateError::Died)));
        });
    }

    #[test]
    fn one_who_connects_and_leaves_changes_nothing() {
        let (_dir, state) = state();
        let gate = Gate::listen(state.as_fd()).unwrap();
        assert!(is_waiting(state.as_fd()));
        std::thread::scope(|scope| {
            let starter = scope.spawn(|| start(state.as_fd()));
            wait(gate.as_fd()).unwrap().send_program().unwrap();
            starter.join().unwrap().unwrap();
        });
    }

    #[test]
    fn a_container_that_waits_no_more_cannot_be_started() {
        let (_dir, state) = state();
        assert!(matches!(start(state.as_fd()), Err(StartError::Twice)));
        assert!(!is_waiting(state.as_fd()));
        drop(Gate::listen(state.as_fd()).unwrap());
        assert!(matches!(start(state.as_fd()), Err(StartError::Twice)));
    }
}
