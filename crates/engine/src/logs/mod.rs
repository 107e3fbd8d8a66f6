//! Reading what monitors wrote.
//!
//! | module | holds |
//! |---|---|
//! | `line` | one line of a json-file log |
//! | `files` | the rotated files of one log, oldest first, and following them |

mod files;
mod line;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::watch;
use vocab::{Failure, Kind};

use crate::attach::Source;
use crate::containers::FindError;
use crate::containers::index::View;
use crate::containers::state::Phase;
use crate::{Engine, Stream};
use files::{Files, Wakeups};

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
    /// Neither of the two.
    #[error("Bad parameters: you must choose at least one stream")]
    NoStream,
    /// The driver keeps nothing that could be read.
    #[error("configured logging driver does not support reading")]
    Driver,
    /// A file of it.
    #[error("read the log `{path}`")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl Failure for LogsError {
    fn kind(&self) -> Kind {
        match self {
            Self::Find(error) => error.kind(),
            Self::NoStream => Kind::InvalidArgument,
            Self::Driver => Kind::NotImplemented,
            Self::Read { .. } => Kind::Internal,
        }
    }
}

impl Engine {
    /// Reads a container's log.
    pub async fn logs(&self, typed: &str, options: LogOptions) -> Result<Logs, LogsError> {
        let handle = self.shared.index().find(typed)?;
        if !options.stdout && !options.stderr {
            return Err(LogsError::NoStream);
        }
        let view = handle.view();
        if view.record.host.log_config.kind != "json-file" {
            return Err(LogsError::Driver);
        }
        let path = self.shared.log_path(&view.record.id);
        // What is not running writes nothing more (and Docker does not wait for it either).
        let follow = options.follow && writes(&view);
        let wakeups = match follow {
            true => Some(Wakeups::new(&path).map_err(|source| LogsError::Read {
                path: path.clone(),
                source,
            })?),
            false => None,
        };
        let opened = {
            let (path, options) = (path.clone(), options.clone());
            tasks::blocking(move || Files::open(&path, &options)).await
        };
        let files = opened.map_err(|source| LogsError::Read {
            path: path.clone(),
            source,
        })?;
        let reading = Reading {
            files: Some(files),
            path,
            options: Arc::new(options),
            follow: wakeups.map(|wakeups| (wakeups, handle.view)),
            ended: false,
        };
        let batches = futures_util::stream::unfold(reading, |mut reading| async move {
            let batch = reading.next().await?;
            Some((futures_util::stream::iter(batch), reading))
        });
        Ok(Logs {
            tty: view.record.config.tty,
            records: batches.flatten().boxed(),
        })
    }
}

/// Whether more may come.
fn writes(view: &View) -> bool {
    let phase = view.course.phase;
    !view.gone && (phase.has_process() || matches!(phase, Phase::Waiting | Phase::Starting))
}

type Batch = Vec<Result<LogRecord, LogsError>>;

/// A log being read, a batch at a time.
struct Reading {
    files: Option<Files>,
    path: PathBuf,
    options: Arc<LogOptions>,
    follow: Option<(Wakeups, watch::Receiver<Arc<View>>)>,
    /// Whether the container had ended before the last look at the files.
    ended: bool,
}

impl Reading {
    async fn next(&mut self) -> Option<Batch> {
        loop {
            let mut files = self.files.take()?;
            let options = Arc::clone(&self.options);
            let (files, batch) = tasks::blocking(move || {
                let batch = files.read(&options);
                (files, batch)
            })
            .await;
            match batch {
                Err(source) => {
                    let path = self.path.clone();
                    return Some(vec![Err(LogsError::Read { path, source })]);
                }
                Ok(batch) => {
                    let over = files.is_over();
                    if !over {
                        self.files = Some(files);
                    }
                    if !batch.is_empty() {
                        return Some(batch.into_iter().map(Ok).collect());
                    }
                    if over {
                        return None;
                    }
                }
            }
            // Everything that is there has been read.
            let (wakeups, view) = self.follow.as_mut()?;
            if self.ended {
                return None;
            }
            if !writes(&view.borrow_and_update()) {
                // It wrote its last line before it was seen to end: one more look is enough.
                self.ended = true;
                continue;
            }
            tokio::select! {
                woken = wakeups.wait() => if let Err(source) = woken {
                    self.files = None;
                    let path = self.path.clone();
                    return Some(vec![Err(LogsError::Read { path, source })]);
                },
                changed = view.changed() => if changed.is_err() {
                    self.ended = true;
                },
                () = until(self.options.until) => self.ended = true,
            }
        }
    }
}

async fn until(moment: Option<SystemTime>) {
    match moment {
        None => std::future::pending().await,
        Some(moment) => {
            let left = moment.duration_since(SystemTime::now()).unwrap_or_default();
            tokio::time::sleep(left).await;
        }
    }
}
