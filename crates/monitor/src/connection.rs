//! One connection: what was received and not yet understood, what is to be sent and not yet taken.

use std::io::{self, ErrorKind, IoSlice, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use vocab::ExecId;

use crate::log::Stream;
use crate::protocol::{self, CHUNK_BYTES, ChunkHead};

/// A client that has this much waiting for it holds its process back.
const BACKLOG_BYTES: usize = CHUNK_BYTES;

/// A watcher that lets this much wait is cut off; it may come back and ask for the status.
const WATCH_BACKLOG_BYTES: usize = 256 << 10;

/// What a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Requests and replies.
    Asking,
    /// Events.
    Watching,
    /// A process's bytes.
    Attached {
        /// Whose; `None` is the container's own.
        exec: Option<ExecId>,
        /// More input may come from here.
        stdin: bool,
        /// It is sent standard output.
        stdout: bool,
        /// It is sent standard error.
        stderr: bool,
    },
}

/// What came from a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// So many bytes.
    Bytes(usize),
    /// Nothing now.
    Nothing,
    /// Nothing ever again.
    End,
}

#[derive(Debug)]
pub(crate) struct Connection {
    socket: UnixStream,
    /// The one that `spawn` returned.
    control: bool,
    pub(crate) role: Role,
    /// What it becomes with the reply to the current request.
    pub(crate) next_role: Option<Role>,
    /// The process that it is to hear of once that runs, or does not; until then nothing else is
    /// heard from it.
    pub(crate) awaits: Option<Option<ExecId>>,
    /// Requests, or, once attached, input that came right behind one.
    pub(crate) received: Vec<u8>,
    output: Vec<u8>,
    /// So much of `output` was sent.
    sent: usize,
    /// The other side is gone, though something it sent may still be unread.
    pub(crate) hung_up: bool,
    /// To be closed when all was sent.
    closing: bool,
    /// To be closed now.
    pub(crate) gone: bool,
}

impl Connection {
    pub(crate) fn new(socket: UnixStream, control: bool) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            control,
            role: Role::Asking,
            next_role: None,
            awaits: None,
            received: Vec::new(),
            output: Vec::new(),
            sent: 0,
            hung_up: false,
            closing: false,
            gone: false,
        })
    }

    /// Whether nothing remains to be done with it.
    pub(crate) fn is_over(&self) -> bool {
        self.gone || (self.closing && self.waiting() == 0)
    }

    /// Whether it is the one that `spawn` returned.
    pub(crate) fn is_control(&self) -> bool {
        self.control
    }

    /// Whether it is only kept to send what waits.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing
    }

    /// The other side is gone; what it sent may still be unread.
    pub(crate) fn hang_up(&mut self) {
        self.hung_up = true;
        self.output.clear();
        self.sent = 0;
        self.gone |= self.closing;
    }

    /// To be closed when all was sent.
    pub(crate) fn close(&mut self) {
        self.closing = true;
        self.gone |= self.hung_up;
    }

    /// Becomes what the last request asked for.
    pub(crate) fn changed_role(&mut self) {
        if let Some(role) = self.next_role.take() {
            self.role = role;
        }
    }

    /// No more input comes from here.
    pub(crate) fn input_ended(&mut self) {
        if let Role::Attached { stdin, .. } = &mut self.role {
            *stdin = false;
        }
    }

    /// Bytes that the client has not taken yet.
    pub(crate) fn waiting(&self) -> usize {
        self.output.len() - self.sent
    }

    /// Whether it is attached to the process `exec`.
    pub(crate) fn is_attached_to(&self, exec: Option<ExecId>) -> bool {
        matches!(self.role, Role::Attached { exec: of, .. } if of == exec)
    }

    /// Whether it is to be sent this output.
    pub(crate) fn wants(&self, of: Option<ExecId>, stream: Stream) -> bool {
        match self.role {
            Role::Attached {
                exec,
                stdout,
                stderr,
                ..
            } if exec == of && !self.hung_up && !self.closing => match stream {
                Stream::Stdout => stdout,
                Stream::Stderr => stderr,
            },
            _ => false,
        }
    }

    /// Whether its client is so slow that the process has to wait.
    pub(crate) fn is_full(&self) -> bool {
        !self.gone && !self.hung_up && self.waiting() >= BACKLOG_BYTES
    }

    /// Sends a message, or keeps it.
    pub(crate) fn send<T: serde::Serialize>(&mut self, message: &T) {
        self.output.extend_from_slice(&protocol::encode(message));
        self.flush();
        if self.role == Role::Watching && self.waiting() > WATCH_BACKLOG_BYTES {
            self.gone = true;
        }
    }

    /// Sends output, or keeps what is not taken at once.
    pub(crate) fn send_chunk(&mut self, stream: Stream, payload: &[u8]) {
        for payload in payload.chunks(CHUNK_BYTES) {
            let head = ChunkHead {
                stream: stream as u8 + 1,
                bytes: u32::try_from(payload.len()).expect("a chunk is at most 64 KiB"),
            };
            let head = head.encode();
            let mut taken = 0;
            if self.waiting() == 0 && !self.gone {
                let both = [IoSlice::new(&head), IoSlice::new(payload)];
                match self.socket.write_vectored(&both) {
                    Ok(bytes) => taken = bytes,
                    Err(error) => self.failed(&error),
                }
            }
            if self.gone {
                return;
            }
            self.output
                .extend_from_slice(head.get(taken..).unwrap_or_default());
            let of_payload = taken.saturating_sub(head.len());
            self.output.extend_from_slice(&payload[of_payload..]);
        }
    }

    /// Sends what waits, as far as it is taken.
    pub(crate) fn flush(&mut self) {
        while self.waiting() > 0 && !self.gone {
            match self.socket.write(&self.output[self.sent..]) {
                Ok(bytes) => self.sent += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => self.failed(&error),
            }
        }
        if self.waiting() == 0 {
            self.output.clear();
            self.sent = 0;
        } else if self.sent > BACKLOG_BYTES {
            self.output.drain(..self.sent);
            self.sent = 0;
        }
    }

    fn failed(&mut self, error: &io::Error) {
        if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) {
            self.gone = true;
        }
    }

    /// Reads into `buffer`.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> Received {
        match self.socket.read(buffer) {
            Ok(0) => Received::End,
            Ok(bytes) => Received::Bytes(bytes),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::Interrupted => Received::Nothing,
                _ => Received::End,
            },
        }
    }

    /// Gives memory back that only a busy connection needs.
    pub(crate) fn relax(&mut self) {
        self.output.shrink_to_fit();
        self.received.shrink_to_fit();
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
