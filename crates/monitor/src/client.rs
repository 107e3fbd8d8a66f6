//! A blocking connection to a monitor, and where its socket is.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::protocol::{self, Reply, Request};

/// The socket in the container's run directory.
pub(crate) const SOCKET: &str = "monitor.sock";

/// Longest path of a socket that every kernel takes (`sun_path`, with its end).
const SOCKET_PATH_BYTES: usize = 108;

/// Connects to the monitor of the container whose run directory is `dir`, however long its path.
///
/// `NotFound` and `ConnectionRefused` mean that no monitor is there: look for `exit.json`.
pub fn connect(dir: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(SocketPath::below(dir)?.path)
}

/// Asks and waits for the answer.
pub fn ask(connection: &UnixStream, request: &Request) -> io::Result<Reply> {
    send(connection, request)?;
    receive(connection)
}

/// Sends one message.
pub fn send<T: Serialize>(mut connection: &UnixStream, message: &T) -> io::Result<()> {
    connection.write_all(&protocol::encode(message))
}

/// Waits for one message. `UnexpectedEof`: the monitor closed the connection, so it has no more.
pub fn receive<T: DeserializeOwned>(mut connection: &UnixStream) -> io::Result<T> {
    let mut frame = Vec::new();
    loop {
        // Decoding refuses a frame that is too long by its length alone, before memory is taken.
        if let Some((message, _)) = protocol::decode(&frame).map_err(io::Error::other)? {
            return Ok(message);
        }
        let had = frame.len();
        frame.resize(protocol::frame_bytes(&frame), 0);
        connection.read_exact(&mut frame[had..])?;
    }
}

/// A path to the socket that is short enough, and what it leads through.
pub(crate) struct SocketPath {
    pub(crate) path: PathBuf,
    /// Keeps `path` valid.
    _through: Option<OwnedFd>,
}

impl SocketPath {
    pub(crate) fn below(dir: &Path) -> io::Result<Self> {
        let path = dir.join(SOCKET);
        if path.as_os_str().len() < SOCKET_PATH_BYTES {
            return Ok(Self {
                path,
                _through: None,
            });
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(dir, flags, Mode::empty())?;
        Ok(Self {
            path: PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", fd.as_raw_fd())),
            _through: Some(fd),
        })
    }
}
