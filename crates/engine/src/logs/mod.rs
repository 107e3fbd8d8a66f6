//! Reading what monitors wrote.

use std::collections::BTreeMap;
use std::time::SystemTime;

use bytes::Bytes;
use vocab::{Failure, Kind};

use crate::attach::Source;
use crate::containers::FindError;
use crate::{Engine, Stream};

/// Which lines.
#[derive(Clone, Debug, Default)]
pub struct LogOptions {
    /// Of stdout.
    pub stdout: bool,
    /// Of stderr.
    pub stderr: bool,
    /// Not older.
    pub since: Option<SystemTime>,
    /// Not younger.
    pub until: Option<SystemTime>,
    /// The last so many; all when absent.
    pub tail: Option<usize>,
    /// And those to come, until the container ends.
    pub follow: bool,
}

/// A line, or a piece of a long one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// Where it came from.
    pub source: Source,
    /// When.
    pub time: SystemTime,
    /// With its newline, if it had one.
    pub line: Bytes,
    /// Attributes that the log options asked for.
    pub attributes: BTreeMap<String, String>,
}

/// A log being read.
pub struct Logs {
    /// Whether the container's stdio is a terminal.
    pub tty: bool,
    /// The lines.
    pub records: Stream<Result<LogRecord, LogsError>>,
}

impl std::fmt::Debug for Logs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Logs")
            .field("tty", &self.tty)
            .finish_non_exhaustive()
    }
}

/// Why a log is not read.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    /// The container was not found.
    #[error(transparent)]
    Find(#[from] FindError),
}

impl Failure for LogsError {
    fn kind(&self) -> Kind {
        match self {
            Self::Find(error) => error.kind(),
        }
    }
}

impl Engine {
    /// Reads a container's log.
    pub async fn logs(&self, _typed: &str, _options: LogOptions) -> Result<Logs, LogsError> {
        todo!()
    }
}
