//! Stdio of a container or of a command in it, as an attached client has it.
//!
//! Detach keys are interpreted here, on the bytes that a client sends to a terminal.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use tasks::Cancel;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::oneshot;
use vocab::{ContainerId, Failure, Kind};

use crate::containers::FindError;
use crate::containers::launch::PendingAttach;
use crate::containers::link::Output;
use crate::containers::owner::Request;
use crate::detach::{DetachKeys, KeysError};
use crate::logs::{LogOptions, LogsError};
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
    pub output: Stream<io::Result<Chunk>>,
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
pub struct Input {
    writer: Writer,
    keys: Option<DetachKeys>,
    detached: Cancel,
}

#[derive(Debug)]
enum Writer {
    /// The container does not run yet.
    Waiting(oneshot::Receiver<OwnedWriteHalf>),
    Connected(OwnedWriteHalf),
    /// The process has gone.
    Closed,
}

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
    /// Sends bytes; waits while the process does not read, or does not run yet.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<Written> {
        let (passed, detach) = match &mut self.keys {
            Some(keys) => keys.pass(bytes),
            None => (bytes.to_vec(), false),
        };
        let written = self.send(&passed).await?;
        if detach {
            self.detached.cancel();
            return Ok(Written::Detached);
        }
        Ok(written)
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<Written> {
        let Some(writer) = self.connected().await else {
            return Ok(Written::Closed);
        };
        match writer.write_all(bytes).await {
            Ok(()) => Ok(Written::All),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                ) =>
            {
                self.writer = Writer::Closed;
                Ok(Written::Closed)
            }
            Err(error) => Err(error),
        }
    }

    async fn connected(&mut self) -> Option<&mut OwnedWriteHalf> {
        if let Writer::Waiting(half) = &mut self.writer {
            self.writer = match half.await {
                Ok(half) => Writer::Connected(half),
                Err(_) => Writer::Closed,
            };
        }
        match &mut self.writer {
            Writer::Connected(half) => Some(half),
            _ => None,
        }
    }

    /// The client's input has ended.
    pub async fn close(mut self) -> io::Result<()> {
        if let Some(writer) = self.connected().await {
            match writer.shutdown().await {
                Err(error) if error.kind() != io::ErrorKind::NotConnected => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Why a client was not attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The container was not found.
    #[error(transparent)]
    Find(#[from] FindError),
    /// The detach keys cannot be read.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// It stands still and cannot answer.
    #[error("container {0} is paused, unpause the container before attach")]
    Paused(ContainerId),
    /// Its log cannot be read.
    #[error(transparent)]
    Logs(#[from] LogsError),
    /// The engine shuts down.
    #[error("the engine is shutting down")]
    Closing,
}

impl Failure for AttachError {
    fn kind(&self) -> Kind {
        match self {
            Self::Find(error) => error.kind(),
            Self::Keys(_) => Kind::InvalidArgument,
            Self::Paused(_) => Kind::Conflict,
            Self::Logs(error) => error.kind(),
            Self::Closing => Kind::Unavailable,
        }
    }
}

impl Engine {
    /// Attaches to a container, also before it starts.
    pub async fn attach(
        &self,
        typed: &str,
        options: AttachOptions,
    ) -> Result<Attached, AttachError> {
        let handle = self.shared.index().find(typed)?;
        let view = handle.view();
        let config = &view.record.config;
        if view.course.phase == crate::containers::state::Phase::Paused {
            return Err(AttachError::Paused(view.record.id));
        }
        let keys = DetachKeys::read(options.detach_keys.as_deref())?;
        // Registered before the log is read, so that nothing falls between.
        let live = if options.stream {
            let (connected, stream) = oneshot::channel();
            let pending = PendingAttach {
                stdin: options.stdin && config.open_stdin,
                stdout: options.stdout,
                stderr: options.stderr,
                connected,
            };
            let sent = handle.requests.send(Request::Attach(pending)).await;
            sent.map_err(|_| AttachError::Closing)?;
            Some(stream)
        } else {
            None
        };
        let past: Stream<io::Result<Chunk>> = if options.logs {
            let wanted = LogOptions {
                stdout: options.stdout,
                stderr: options.stderr,
                ..LogOptions::default()
            };
            let logs = self.logs(typed, wanted).await?;
            let chunk = |record: Result<crate::logs::LogRecord, LogsError>| match record {
                Ok(record) => Ok(Chunk {
                    source: record.source,
                    bytes: record.line,
                }),
                Err(error) => Err(io::Error::other(error)),
            };
            logs.records.map(chunk).boxed()
        } else {
            futures_util::stream::empty().boxed()
        };
        let tty = config.tty;
        let wants_input = options.stdin && config.open_stdin;
        let Some(live) = live else {
            return Ok(Attached {
                tty,
                output: past,
                input: None,
            });
        };
        // Only a terminal has keys; elsewhere the same bytes are data.
        let mut attached = attached(tty, live, wants_input, tty.then_some(keys));
        attached.output = past.chain(attached.output).boxed();
        let shared = Arc::clone(&self.shared);
        crate::events::container::happened(&shared.events, "attach", &view.record, &view.name, &[]);
        Ok(attached)
    }
}

/// A client's ends of a connection that may still be to come.
pub(crate) fn attached(
    tty: bool,
    connected: oneshot::Receiver<std::os::unix::net::UnixStream>,
    wants_input: bool,
    keys: Option<DetachKeys>,
) -> Attached {
    let detached = Cancel::new();
    let (write_half, waiting) = oneshot::channel();
    let input = wants_input.then(|| Input {
        writer: Writer::Waiting(waiting),
        keys,
        detached: detached.clone(),
    });
    let state = Reading {
        phase: ReadPhase::Waiting(connected, Some(write_half)),
        detached,
    };
    let output = futures_util::stream::unfold(state, |mut state| async move {
        let next = state.next().await;
        next.map(|chunk| (chunk, state))
    });
    Attached {
        tty,
        output: output.boxed(),
        input,
    }
}

/// The reading side of an attached client.
struct Reading {
    phase: ReadPhase,
    detached: Cancel,
}

enum ReadPhase {
    Waiting(
        oneshot::Receiver<std::os::unix::net::UnixStream>,
        Option<oneshot::Sender<OwnedWriteHalf>>,
    ),
    Reading(
        Output<OwnedReadHalf>,
        #[expect(dead_code, reason = "closing an unwanted writing half would end stdin")]
        Option<OwnedWriteHalf>,
    ),
    Done,
}

impl Reading {
    async fn next(&mut self) -> Option<io::Result<Chunk>> {
        let detached = self.detached.clone();
        tokio::select! {
            biased;
            chunk = self.read() => match chunk {
                Ok(Some(chunk)) => Some(Ok(chunk)),
                Ok(None) => {
                    self.phase = ReadPhase::Done;
                    None
                }
                Err(error) => {
                    self.phase = ReadPhase::Done;
                    Some(Err(error))
                }
            },
            () = detached.cancelled() => {
                self.phase = ReadPhase::Done;
                None
            }
        }
    }

    async fn read(&mut self) -> io::Result<Option<Chunk>> {
        loop {
            match &mut self.phase {
                ReadPhase::Waiting(connected, write_half) => {
                    // Dropped by an owner that could not start the container.
                    let Ok(stream) = connected.await else {
                        return Ok(None);
                    };
                    let write_half = write_half.take();
                    stream.set_nonblocking(true)?;
                    let (read, write) = UnixStream::from_std(stream)?.into_split();
                    let kept = match write_half {
                        Some(sender) => sender.send(write).err(),
                        None => Some(write),
                    };
                    self.phase = ReadPhase::Reading(Output::new(read, BytesMut::new()), kept);
                }
                ReadPhase::Reading(output, _) => {
                    return match output.next().await {
                        Ok(Some((2, bytes))) => Ok(Some(Chunk {
                            source: Source::Stderr,
                            bytes,
                        })),
                        Ok(Some((_, bytes))) => Ok(Some(Chunk {
                            source: Source::Stdout,
                            bytes,
                        })),
                        Ok(None) => Ok(None),
                        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
                        Err(error) => Err(error),
                    };
                }
                ReadPhase::Done => return Ok(None),
            }
        }
    }
}
