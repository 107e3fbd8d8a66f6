//! Stdio of a container or of a command in it, as an attached client has it.
//!
//! Detach keys are interpreted here, on the bytes that a client sends to a terminal.

use bytes::Bytes;
use vocab::{Failure, Kind};

use crate::containers::FindError;
use crate::{Engine, Stream};

/// Where a piece of output came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// Standard output, or a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A piece of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Where it came from.
    pub source: Source,
    /// The bytes.
    pub bytes: Bytes,
}

/// What a client wants of a container's stdio.
#[derive(Clone, Debug, Default)]
pub struct AttachOptions {
    /// To send input.
    pub stdin: bool,
    /// To see stdout.
    pub stdout: bool,
    /// To see stderr.
    pub stderr: bool,
    /// To go on with what comes.
    pub stream: bool,
    /// To see first what the log holds.
    pub logs: bool,
    /// Keys that detach (`ctrl-p,ctrl-q` when absent).
    pub detach_keys: Option<String>,
}

/// An attached client's ends.
pub struct Attached {
    /// Whether stdio is a terminal: then output is raw and comes as [`Source::Stdout`] alone.
    pub tty: bool,
    /// Ends when the process has ended and all is read, or when the client detached.
    pub output: Stream<std::io::Result<Chunk>>,
    /// When stdin was wanted and is open.
    pub input: Option<Input>,
}

impl std::fmt::Debug for Attached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attached")
            .field("tty", &self.tty)
            .finish_non_exhaustive()
    }
}

/// The way to the process's stdin. Dropping it leaves: with `StdinOnce`, or for a command, stdin
/// closes; otherwise it stays open for the next client.
#[derive(Debug)]
pub struct Input {}

/// What became of written bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// They are on their way.
    All,
    /// They held the detach keys: the output ends too.
    Detached,
    /// The process does not read any more.
    Closed,
}

impl Input {
    /// Sends bytes; waits while the process does not read.
    pub async fn write(&mut self, _bytes: &[u8]) -> std::io::Result<Written> {
        todo!()
    }

    /// The client's input has ended.
    pub async fn close(self) -> std::io::Result<()> {
        todo!()
    }
}

/// Why a client was not attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The container was not found.
    #[error(transparent)]
    Find(#[from] FindError),
}

impl Failure for AttachError {
    fn kind(&self) -> Kind {
        match self {
            Self::Find(error) => error.kind(),
        }
    }
}

impl Engine {
    /// Attaches to a container, also before it starts.
    pub async fn attach(
        &self,
        _typed: &str,
        _options: AttachOptions,
    ) -> Result<Attached, AttachError> {
        todo!()
    }
}
