//! What is said on `monitor.sock` and on the control socket: no I/O, only the words.
//!
//! Any number of connections. Each is a sequence of [`Request`] → [`Reply`], in order, each a frame:
//!
//! ```text
//! length u32 BE │ JSON, at most MESSAGE_BYTES
//! ```
//!
//! The control socket (the one [`crate::spawn()`] returns) speaks the same, after one unasked
//! [`Reply::Created`] or [`Reply::Failed`]. If it closes before `Start`, the container that nobody
//! will ever start is removed.
//!
//! Two requests change what a connection is, after their `Ok`:
//!
//! * [`Request::Watch`]: the monitor sends [`Event`] frames, beginning with those exits that it
//!   still remembers; the client sends nothing more.
//! * [`Request::Attach`]: the connection carries bytes.
//!
//! ```text
//! monitor → client   stream u8 (1 stdout or terminal, 2 stderr) │ length u32 BE │ payload
//! client → monitor   stdin, as it is; shutdown(WR) is its end
//! ```
//!
//! The end of input goes on to the container when it was set up with `stdin_once`, to an exec'd
//! command always, to a terminal never (there ^D is a character). A connection that merely vanishes,
//! as all do when the daemon is killed, ends the input of an exec'd command (nobody else could
//! ever reach it), and not that of the container: for that say `shutdown` and keep reading,
//! or [`Request::CloseStdin`]. The monitor closes an attached connection when the process is gone
//! and all its output has been sent.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use vocab::ExecId;

/// The protocol's version; a monitor answers [`Request::Hello`] with its own.
pub const VERSION: u32 = 1;

/// Bound of one message, without its length.
pub const MESSAGE_BYTES: usize = 1 << 20;

/// Commands that one monitor keeps at a time, running or not.
pub const MAX_EXECS: usize = 1024;

/// Bound of the payload in one frame of output.
pub const CHUNK_BYTES: usize = 64 << 10;

/// What a client asks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Which version of this protocol? Answered by [`Reply::Hello`].
    Hello {
        /// The client's own.
        version: u32,
    },
    /// Let the created container run. Answered by [`Reply::Started`] or [`Reply::Failed`], after
    /// which the monitor records the exit and goes.
    Start,
    /// What is there? Answered by [`Reply::Status`].
    Status,
    /// Send a signal to the init process, or to an exec'd command.
    Signal {
        /// Whom; `None` is the init process.
        exec: Option<ExecId>,
        /// The signal's number.
        signal: i32,
    },
    /// Set the size of a terminal; for a command not yet started, the one it will begin with.
    Resize {
        /// Whose; `None` is the container's own.
        exec: Option<ExecId>,
        /// Its height in characters.
        rows: u16,
        /// Its width in characters.
        columns: u16,
    },
    /// Remember a command, so that clients can attach to it before it runs.
    Exec {
        /// The caller's name for it.
        id: ExecId,
        /// What to run.
        process: Box<runtime::ExecProcess>,
        /// Rows and columns of its terminal; `None` gives pipes.
        terminal: Option<(u16, u16)>,
        /// Whether it has a standard input other than `/dev/null`.
        stdin: bool,
    },
    /// Run it. Answered by [`Reply::Started`] or [`Reply::Failed`]; a failed one is forgotten.
    ExecStart {
        /// Which.
        id: ExecId,
    },
    /// Forget a command: one that never ran, or has exited.
    ForgetExec {
        /// Which.
        id: ExecId,
    },
    /// Make this connection carry the process's bytes.
    Attach {
        /// Whose; `None` is the container's own.
        exec: Option<ExecId>,
        /// Whether bytes sent here are its input.
        stdin: bool,
        /// Whether to be sent its standard output (or its terminal's).
        stdout: bool,
        /// Whether to be sent its standard error.
        stderr: bool,
    },
    /// Close standard input, after what was already sent to it.
    CloseStdin {
        /// Whose; `None` is the container's own.
        exec: Option<ExecId>,
    },
    /// Make this connection a stream of [`Event`]s.
    Watch,
}

/// What a monitor answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Done.
    Ok,
    /// The monitor's version.
    Hello {
        /// See [`VERSION`].
        version: u32,
    },
    /// Unasked, first on the control socket: the container is there and waits for `Start`.
    Created {
        /// Its init process, as the host numbers it.
        pid: i32,
        /// The monitor itself.
        monitor_pid: i32,
    },
    /// It runs.
    Started {
        /// Its process, as the host numbers it.
        pid: i32,
    },
    /// What is there.
    Status(Status),
    /// It could not be done.
    Failed {
        /// What Docker's exit code follows from.
        kind: FailureKind,
        /// The chain of causes.
        message: String,
    },
}

/// Why a process could not be started, as far as exit codes tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// There is no such executable (127).
    NotFound,
    /// It is there and cannot be executed (126).
    NotExecutable,
    /// What was asked for cannot be right, such as a mount of something absent (128).
    Invalid,
    /// The request names something that is not there, or does not fit its state.
    Refused,
    /// Everything else (128).
    Other,
}

impl FailureKind {
    /// The exit code that Docker reports for a container that failed to start this way.
    pub fn exit_code(self) -> i32 {
        match self {
            Self::NotFound => 127,
            Self::NotExecutable => 126,
            Self::Invalid | Self::Refused | Self::Other => 128,
        }
    }
}

/// What a monitor knows about its container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The init process, as the host numbers it.
    pub pid: i32,
    /// The monitor itself.
    pub monitor_pid: i32,
    /// Where in its life the container is.
    pub state: State,
    /// The commands it remembers, oldest first.
    pub execs: Vec<ExecStatus>,
}

/// Where in its life a process is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// It waits for `Start`.
    Created,
    /// It runs.
    Running,
    /// It has ended, and its output is being drained: `exit.json` comes soon.
    Ending,
}

/// One command inside the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecStatus {
    /// The caller's name for it.
    pub id: ExecId,
    /// As the host numbers it; `None` before its start.
    pub pid: Option<i32>,
    /// Set when it has ended.
    pub code: Option<i32>,
}

/// What a watcher is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The container ended; `exit.json` is in place. The last event.
    Exited(Exit),
    /// A command ended.
    ExecExited {
        /// The caller's name for it.
        id: ExecId,
        /// Its exit code; 128 + n for a signal.
        code: i32,
    },
    /// The kernel killed something in the container for its memory limit.
    OutOfMemory,
}

/// How a container ended; also the content of `exit.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Its exit code; 128 + n for a signal.
    pub code: i32,
    /// Whether the kernel killed something in it for its memory limit.
    pub oom_killed: bool,
    /// Nanoseconds since 1970.
    pub at: u64,
    /// Why it never ran, if it did not.
    pub error: Option<String>,
}

/// The bytes on the wire are not a message.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Its length is beyond [`MESSAGE_BYTES`].
    #[error("a message of {0} bytes is longer than {MESSAGE_BYTES}")]
    TooLong(usize),
    /// Its text is something else.
    #[error("read a message")]
    Json(#[source] serde_json::Error),
}

/// One frame: the length, then `message` as JSON.
///
/// # Panics
/// If `message` does not serialise, which the types above always do.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message).expect("a message of plain fields serialises");
    let length = u32::try_from(frame.len() - 4).expect("a message is far below 4 GiB");
    frame[..4].copy_from_slice(&length.to_be_bytes());
    frame
}

/// The first message in `bytes` and how many of them it took; `None` if it is not complete yet.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<Option<(T, usize)>, DecodeError> {
    let Some((head, rest)) = bytes.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*head) as usize;
    if length > MESSAGE_BYTES {
        return Err(DecodeError::TooLong(length));
    }
    let Some(text) = rest.get(..length) else {
        return Ok(None);
    };
    let message = serde_json::from_slice(text).map_err(DecodeError::Json)?;
    Ok(Some((message, 4 + length)))
}

/// Bytes of the whole frame whose beginning is `bytes`, as far as that tells.
pub fn frame_bytes(bytes: &[u8]) -> usize {
    match bytes.first_chunk::<4>() {
        Some(head) => 4 + u32::from_be_bytes(*head) as usize,
        None => 4,
    }
}

/// The head of a frame of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkHead {
    /// 1 for stdout or the terminal, 2 for stderr.
    pub stream: u8,
    /// Bytes that follow.
    pub bytes: u32,
}

impl ChunkHead {
    /// Its length on the wire.
    pub const BYTES: usize = 5;

    /// As it is sent.
    pub fn encode(self) -> [u8; Self::BYTES] {
        let [a, b, c, d] = self.bytes.to_be_bytes();
        [self.stream, a, b, c, d]
    }

    /// As it was received.
    pub fn decode([stream, a, b, c, d]: [u8; Self::BYTES]) -> Self {
        Self {
            stream,
            bytes: u32::from_be_bytes([a, b, c, d]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_the_wire() {
        let exit = Event::Exited(Exit {
            code: 137,
            oom_killed: true,
            at: 1_700_000_000_000_000_001,
            error: None,
        });
        let mut bytes = encode(&exit);
        bytes.extend(encode(&Event::OutOfMemory));
        let (first, used) = decode::<Event>(&bytes).unwrap().unwrap();
        let (second, rest) = decode::<Event>(&bytes[used..]).unwrap().unwrap();
        assert_eq!((first, second), (exit, Event::OutOfMemory));
        assert_eq!(used + rest, bytes.len());
    }

    #[test]
    fn an_incomplete_message_waits_for_its_rest() {
        let bytes = encode(&Reply::Started { pid: 7 });
        for end in 0..bytes.len() {
            assert!(decode::<Reply>(&bytes[..end]).unwrap().is_none(), "{end}");
        }
    }

    #[test]
    fn a_message_beyond_the_bound_is_refused_by_its_length_alone() {
        let length = u32::try_from(MESSAGE_BYTES + 1).unwrap().to_be_bytes();
        assert!(matches!(
            decode::<Reply>(&length),
            Err(DecodeError::TooLong(_))
        ));
        assert!(matches!(
            decode::<Reply>(b"\0\0\0\x02{]"),
            Err(DecodeError::Json(_))
        ));
    }
}
