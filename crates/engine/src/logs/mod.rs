//! Logs: which driver keeps a container's output, and reading what monitors wrote.
//!
//! | module | holds |
//! |---|---|
//! | `driver` | drivers and their options, checked; what a monitor is told |
//! | `budget` | what all logs together may take |
//! | `delivery` | lines that go on to a remote sink |
//! | `tag` | the template language of tags |
//! | `json_file` | the rotated files of a json-file log, oldest first, and following them |
//! | `line` | one line of those |
//! | `local` | a log in blocks |
//! | `wakeups` | how a reader hears of new lines |

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::StreamExt as _;
use tokio::sync::watch;
use vocab::{Failure, Kind};

use crate::attach::Source;
use crate::containers::FindError;
use crate::containers::index::View;
use crate::containers::state::Phase;
use crate::{Engine, Stream};
use json_file::Files;
use local::LocalLines;
use wakeups::Wakeups;

mod budget;
pub(crate) mod delivery;
pub(crate) mod driver;
mod json_file;
mod line;
mod local;
mod tag;
mod wakeups;

pub use driver::drivers;

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

use LogOptions as Wanted;

impl LogOptions {
    fn wants(&self, source: Source) -> bool {
        match source {
            Source::Stdout => self.stdout,
            Source::Stderr => self.stderr,
        }
    }
}

/// A line, or a piece of a long one, in the reader's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRecord<'a> {
    /// Where it came from.
    pub source: Source,
    /// When.
    pub time: SystemTime,
    /// With its newline, if it had one.
    pub line: &'a [u8],
    /// Whether the line goes on in a later record.
    pub cut: bool,
    /// Attributes that the log options asked for.
    pub attributes: &'a BTreeMap<String, String>,
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
    /// Reads a container's log. `write` adds a line to what is handed on together.
    pub async fn logs<B, W>(
        &self,
        typed: &str,
        options: LogOptions,
        write: W,
    ) -> Result<Stream<Result<B, LogsError>>, LogsError>
    where
        B: Default + Send + 'static,
        W: Fn(&mut B, &LogRecord<'_>) + Send + Sync + 'static,
    {
        let handle = self.shared.index().find(typed)?;
        if !options.stdout && !options.stderr {
            return Err(LogsError::NoStream);
        }
        let view = handle.view();
        let place = driver::place(&self.shared, &view.record).ok_or(LogsError::Driver)?;
        let path = place.path().to_owned();
        let failed = |source| LogsError::Read {
            path: path.clone(),
            source,
        };
        // What is not running writes nothing more (and Docker does not wait for it either).
        let follow = options.follow && writes(&view);
        let wakeups = match follow {
            true => Some(place.watch().map_err(failed)?),
            false => None,
        };
        let opened = {
            let options = options.clone();
            tasks::blocking(move || place.open(&options)).await
        };
        let reading = Reading {
            lines: Some(opened.map_err(failed)?),
            path,
            options: Arc::new(options),
            follow: wakeups.map(|wakeups| (wakeups, handle.view)),
            ended: false,
            write: Arc::new(write),
        };
        let batches = futures_util::stream::unfold(reading, |mut reading| async move {
            let batch = reading.next().await?;
            Some((batch, reading))
        });
        Ok(batches.boxed())
    }

    /// Whether the container's stdio is a terminal.
    pub fn has_terminal(&self, typed: &str) -> Result<bool, FindError> {
        let handle = self.shared.index().find(typed)?;
        Ok(handle.view().record.config.tty)
    }
}

/// Where a log is, and how it is kept.
#[derive(Debug)]
pub(crate) enum Place {
    /// The current file of a json-file log.
    JsonFile(PathBuf),
    /// The directory of a log in blocks.
    Local(PathBuf),
}

impl Place {
    fn path(&self) -> &std::path::Path {
        match self {
            Self::JsonFile(path) | Self::Local(path) => path,
        }
    }

    fn watch(&self) -> io::Result<Wakeups> {
        match self {
            Self::JsonFile(path) => {
                Wakeups::new(path.parent().unwrap_or_else(|| std::path::Path::new("/")))
            }
            Self::Local(dir) => {
                // The monitor makes it only with the first line.
                match std::fs::create_dir(dir) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
                    _ => Wakeups::new(dir),
                }
            }
        }
    }

    /// Blocks.
    fn open(&self, wanted: &Wanted) -> io::Result<Lines> {
        Ok(match self {
            Self::JsonFile(path) => Lines::JsonFile(Files::open(path, wanted)?),
            Self::Local(dir) => Lines::Local(Box::new(LocalLines::open(dir, wanted)?)),
        })
    }
}

/// A log being read.
#[derive(Debug)]
enum Lines {
    JsonFile(Files),
    Local(Box<LocalLines>),
}

impl Lines {
    fn read(&mut self, wanted: &Wanted, take: impl FnMut(&LogRecord<'_>)) -> io::Result<usize> {
        match self {
            Self::JsonFile(files) => files.read(wanted, take),
            Self::Local(lines) => lines.read(wanted, take),
        }
    }

    fn is_over(&self) -> bool {
        match self {
            Self::JsonFile(files) => files.is_over(),
            Self::Local(lines) => lines.is_over(),
        }
    }
}

/// Whether more may come.
fn writes(view: &View) -> bool {
    let phase = view.course.phase;
    !view.gone && (phase.has_process() || matches!(phase, Phase::Waiting | Phase::Starting))
}

/// A log being read, a batch at a time.
struct Reading<W> {
    lines: Option<Lines>,
    path: PathBuf,
    options: Arc<LogOptions>,
    follow: Option<(Wakeups, watch::Receiver<Arc<View>>)>,
    /// Whether the container had ended before the last look at the files.
    ended: bool,
    write: Arc<W>,
}

impl<W> Reading<W> {
    async fn next<B>(&mut self) -> Option<Result<B, LogsError>>
    where
        B: Default + Send + 'static,
        W: Fn(&mut B, &LogRecord<'_>) + Send + Sync + 'static,
    {
        loop {
            let mut lines = self.lines.take()?;
            let options = Arc::clone(&self.options);
            let write = Arc::clone(&self.write);
            let (lines, batch, read) = tasks::blocking(move || {
                let mut batch = B::default();
                let read = lines.read(&options, |record| write(&mut batch, record));
                (lines, batch, read)
            })
            .await;
            match read {
                Err(source) => {
                    let path = self.path.clone();
                    return Some(Err(LogsError::Read { path, source }));
                }
                Ok(count) => {
                    let over = lines.is_over();
                    if !over {
                        self.lines = Some(lines);
                    }
                    if count > 0 {
                        return Some(Ok(batch));
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
                    self.lines = None;
                    let path = self.path.clone();
                    return Some(Err(LogsError::Read { path, source }));
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
