//! Delivery: lines of a log in blocks go on to a remote sink.
//!
//! ```text
//! container ─▶ monitor ─▶ blocks on disk ─▶ delivery (here) ─▶ syslog, journald, GELF, fluentd
//!                            ▲                  │
//!                            └──── delivered ◀──┘  number of the first line the sink does not have
//! ```
//!
//! The disk is the buffer: a sink that is slow or away costs no memory and holds up nobody else, and
//! after a restart of the daemon delivery goes on where it was. A line that was sent just before a
//! SIGKILL may be sent again; none is skipped.
//!
//! In mode `blocking` the monitor keeps what was not delivered and lets the container wait when its
//! files are full; in mode `non-blocking` no more than `max-buffer-size` waits, and how many lines
//! were dropped is told to the sink itself.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use monitor::log::blocks;
use sinks::{Line, Part, Sink};
use tasks::Backoff;
use tokio::sync::{oneshot, watch};
use vocab::failure::chain;

use super::local::LocalLines;
use super::wakeups::Wakeups;
use super::{LogOptions, LogRecord, driver, writes};
use crate::attach::Source;
use crate::containers::index::View;
use crate::containers::record::Record;
use crate::shared::Shared;

/// Bytes of lines that are sent together.
const BATCH_BYTES: usize = 64 << 10;

/// Pauses between attempts to reach a sink.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_CEILING: Duration = Duration::from_secs(30);

/// Looks at a log that cannot be watched (the host has no more inotify instances).
const LOOK: Duration = Duration::from_millis(500);

/// How long a removal waits for what was not delivered yet (dockerd's closing of a logger).
const FINISH_GRACE: Duration = Duration::from_secs(10);

/// The delivery of one container's log, by a task that ends with this.
#[derive(Debug)]
pub(crate) struct Delivery {
    finish: watch::Sender<bool>,
    done: oneshot::Receiver<()>,
}

impl Delivery {
    /// Begins where the last one ended; `None` for a log that stays here.
    pub(crate) fn begin(
        shared: &Arc<Shared>,
        record: &Record,
        name: &str,
        view: watch::Receiver<Arc<View>>,
    ) -> Option<Self> {
        let remote = driver::remote(shared, record, name)?;
        let (finish, finishes) = watch::channel(false);
        let (told, done) = oneshot::channel();
        let delivering = Delivering {
            lines: Some(LocalLines::at(&remote.dir, 0).at_most(BATCH_BYTES)),
            sink: Some(remote.sink),
            parts: Default::default(),
            max_buffer: remote.max_buffer,
            dir: remote.dir,
            name: name.to_owned(),
            view,
            finishes: finishes.clone(),
        };
        shared.tasks.spawn("log delivery", async move {
            tokio::select! {
                () = delivering.run() => {}
                () = given_up(finishes) => {}
            }
            // Nobody waits any more if this fails.
            let _ = told.send(());
        });
        Some(Self { finish, done })
    }

    /// Waits until everything was delivered, but not for ever.
    pub(crate) async fn finish(self, name: &str) {
        // It may have ended with the engine.
        let _ = self.finish.send(true);
        if tokio::time::timeout(FINISH_GRACE, self.done).await.is_err() {
            tracing::warn!(
                container = name,
                "removed before all of its log was delivered"
            );
        }
    }
}

/// Whether the sink of a container that is to start answers.
pub(crate) async fn probe(
    shared: &Shared,
    record: &Record,
    name: &str,
) -> Result<(), sinks::SendError> {
    match driver::remote(shared, record, name) {
        Some(mut remote) if !remote.connects_later => remote.sink.connect().await,
        _ => Ok(()),
    }
}

/// Whoever wanted the delivery is gone.
async fn given_up(mut finishes: watch::Receiver<bool>) {
    while finishes.changed().await.is_ok() {}
}

struct Delivering {
    lines: Option<LocalLines>,
    sink: Option<Sink>,
    /// Long lines that are under way, of each stream.
    parts: [Option<Parts>; 2],
    max_buffer: Option<u64>,
    dir: PathBuf,
    name: String,
    view: watch::Receiver<Arc<View>>,
    finishes: watch::Receiver<bool>,
}

/// A line that comes in parts.
#[derive(Clone, Debug)]
struct Parts {
    id: String,
    ordinal: u32,
}

impl Delivering {
    async fn run(mut self) {
        let dir = self.dir.clone();
        let position = tasks::blocking(move || blocks::delivered(&dir)).await;
        if let Some(lines) = &mut self.lines {
            lines.go_to(position);
        }
        let mut wakeups = None;
        loop {
            match self.fill().await {
                Ok(0) => {}
                Ok(_) => {
                    self.send().await;
                    self.note().await;
                    continue;
                }
                Err(error) => {
                    let error = chain(&error);
                    tracing::warn!(container = self.name, error, "read a log to deliver it");
                    tokio::time::sleep(LOOK).await;
                    continue;
                }
            }
            if *self.finishes.borrow_and_update() {
                return;
            }
            if !writes(&self.view.borrow_and_update()) {
                wakeups = None;
                if !self.changed().await {
                    return;
                }
                continue;
            }
            let Some(watching) = &wakeups else {
                // What came before the watch began is read once more.
                wakeups = Some(self.watch());
                continue;
            };
            tokio::select! {
                () = wait(watching.as_ref()) => {}
                going_on = self.changed() => if !going_on {
                    return;
                }
            }
        }
    }

    fn watch(&self) -> Option<Wakeups> {
        match std::fs::create_dir(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => None,
            _ => Wakeups::new(&self.dir).ok(),
        }
    }

    /// Waits until the container, or what is wanted of the delivery, changes; `false` when the
    /// container is gone.
    async fn changed(&mut self) -> bool {
        tokio::select! {
            changed = self.view.changed() => changed.is_ok(),
            changed = self.finishes.changed() => changed.is_ok(),
        }
    }

    /// Reads the next lines into the sink's batch.
    async fn fill(&mut self) -> io::Result<usize> {
        let (Some(mut lines), Some(mut sink)) = (self.lines.take(), self.sink.take()) else {
            return Ok(0);
        };
        let mut parts = std::mem::take(&mut self.parts);
        let max_buffer = self.max_buffer;
        let (lines, sink, parts, dropped, read) = tasks::blocking(move || {
            let skipped = match max_buffer {
                Some(max) => lines.skip_beyond(max),
                None => Ok(0),
            };
            let read = skipped.and_then(|dropped| {
                if dropped > 0 {
                    let text =
                        format!("berth: {dropped} lines were dropped, the sink was too slow");
                    sink.add(&Line {
                        stderr: true,
                        time: SystemTime::now(),
                        text: text.as_bytes(),
                        part: None,
                    });
                }
                let wanted = LogOptions {
                    stdout: true,
                    stderr: true,
                    ..LogOptions::default()
                };
                let read = lines.read(&wanted, |record| add(&mut sink, &mut parts, record))?;
                Ok((dropped, read))
            });
            let dropped = read.as_ref().map_or(0, |(dropped, _)| *dropped);
            (lines, sink, parts, dropped, read.map(|(_, read)| read))
        })
        .await;
        if dropped > 0 {
            tracing::warn!(
                container = self.name,
                dropped,
                "lines were dropped, the log's sink was too slow"
            );
        }
        self.lines = Some(lines);
        self.sink = Some(sink);
        self.parts = parts;
        read
    }

    /// Sends the batch, however long that takes.
    async fn send(&mut self) {
        let Some(sink) = &mut self.sink else { return };
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_CEILING);
        let mut told = false;
        while let Err(error) = sink.send().await {
            if !told {
                let error = chain(&error);
                tracing::warn!(
                    container = self.name,
                    error,
                    "deliver a log; it is tried again"
                );
                told = true;
            }
            tokio::time::sleep(backoff.pause()).await;
        }
    }

    /// Notes how far delivery came.
    async fn note(&mut self) {
        let Some(position) = self.lines.as_ref().map(LocalLines::position) else {
            return;
        };
        let path = self.dir.join(blocks::DELIVERED);
        let noted = tasks::blocking(move || note(&path, position)).await;
        if let Err(error) = noted {
            let error = chain(&error);
            tracing::warn!(
                container = self.name,
                error,
                "note how far a log was delivered"
            );
        }
    }
}

/// Eight bytes in their place: a reader finds the old number or the new one.
fn note(path: &Path, position: u64) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let file = options
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o640)
        .open(path)?;
    file.write_all_at(&position.to_le_bytes(), 0)
}

async fn wait(wakeups: Option<&Wakeups>) {
    let woken = match wakeups {
        Some(wakeups) => wakeups.wait().await.is_ok(),
        None => false,
    };
    if !woken {
        tokio::time::sleep(LOOK).await;
    }
}

fn add(sink: &mut Sink, parts: &mut [Option<Parts>; 2], record: &LogRecord<'_>) {
    let stderr = record.source == Source::Stderr;
    let place = &mut parts[usize::from(stderr)];
    let part = match place.take() {
        Some(before) => Some(Parts {
            ordinal: before.ordinal + 1,
            ..before
        }),
        None => record.cut.then(|| Parts {
            id: part_id(),
            ordinal: 1,
        }),
    };
    sink.add(&Line {
        stderr,
        time: record.time,
        text: record.line.strip_suffix(b"\n").unwrap_or(record.line),
        part: part.as_ref().map(|part| Part {
            id: &part.id,
            ordinal: part.ordinal,
            last: !record.cut,
        }),
    });
    *place = part.filter(|_| record.cut);
}

fn part_id() -> String {
    let mut bytes = [0; 32];
    // Zeros would still be an id, only not one of its own.
    let _ = getrandom::fill(&mut bytes);
    hex::encode(bytes)
}
