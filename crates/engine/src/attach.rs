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
use tokio::sync::{Mutex, OnceCell, oneshot};
use vocab::{ContainerId, Failure, Kind};

use crate::containers::FindError;
use crate::containers::launch::PendingAttach;
use crate::containers::link::Output;
use crate::containers::owner::Request;
use crate::detach::{DetachKeys, KeysError};
use crate::logs::{LogOptions, LogRecord, LogsError};
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

impl Attached {
    /// Told when the client types the detach keys; never where nothing can be typed.
    pub(crate) fn detached(&self) -> Cancel {
        let input = self.input.as_ref();
        input
            .map(|input| input.detached.clone())
            .unwrap_or_default()
    }
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
    connection: Arc<Connection>,
    /// Once there is a connection.
    writer: Option<OwnedWriteHalf>,
    keys: Option<DetachKeys>,
    detached: Cancel,
}

/// A connection to a monitor that may still be to come. Whoever needs it first waits for it.
#[derive(Debug)]
struct Connection {
    coming: Mutex<oneshot::Receiver<std::os::unix::net::UnixStream>>,
    /// `None` when it never came.
    halves: OnceCell<Mutex<Option<Halves>>>,
}

/// What the two users take; a half that nobody takes stays, since closing it would end stdin.
#[derive(Debug)]
struct Halves {
    read: Option<OwnedReadHalf>,
    write: Option<OwnedWriteHalf>,
}

impl Connection {
    /// Waits for the connection and takes a half of it. May be dropped while it waits.
    async fn take<T>(&self, half: impl FnOnce(&mut Halves) -> Option<T>) -> io::Result<Option<T>> {
        let halves = self.halves.get_or_try_init(|| self.connect()).await?;
        Ok(halves.lock().await.as_mut().and_then(half))
    }

    async fn connect(&self) -> io::Result<Mutex<Option<Halves>>> {
        let mut coming = self.coming.lock().await;
        // Dropped by an owner that could not start the container.
        let Ok(stream) = (&mut *coming).await else {
            return Ok(Mutex::new(None));
        };
        stream.set_nonblocking(true)?;
        let (read, write) = UnixStream::from_std(stream)?.into_split();
        Ok(Mutex::new(Some(Halves {
            read: Some(read),
            write: Some(write),
        })))
    }
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
        let Some(writer) = self.connected().await? else {
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
                self.writer = None;
                Ok(Written::Closed)
            }
            Err(error) => Err(error),
        }
    }

    async fn connected(&mut self) -> io::Result<Option<&mut OwnedWriteHalf>> {
        if self.writer.is_none() {
            self.writer = self.connection.take(|halves| halves.write.take()).await?;
        }
        Ok(self.writer.as_mut())
    }

    /// The client's input has ended.
    pub async fn close(mut self) -> io::Result<()> {
        if let Some(writer) = self.connected().await? {
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
            let keep = |chunks: &mut Vec<Chunk>, record: &LogRecord<'_>| {
                chunks.push(Chunk {
                    source: record.source,
                    bytes: Bytes::copy_from_slice(record.line),
                });
            };
            let logs = self.logs(typed, wanted, keep).await?;
            let chunks = |batch: Result<Vec<Chunk>, LogsError>| match batch {
                Ok(batch) => batch.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(io::Error::other(error))],
            };
            logs.map(chunks)
                .flat_map(futures_util::stream::iter)
                .boxed()
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
    let connection = Arc::new(Connection {
        coming: Mutex::new(connected),
        halves: OnceCell::new(),
    });
    let input = wants_input.then(|| Input {
        connection: Arc::clone(&connection),
        writer: None,
        keys,
        detached: detached.clone(),
    });
    let reading = Reading {
        connection,
        output: None,
        detached,
    };
    let output = futures_util::stream::unfold(Some(reading), |reading| async move {
        let mut reading = reading?;
        match reading.next().await {
            Ok(Some(chunk)) => Some((Ok(chunk), Some(reading))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    });
    Attached {
        tty,
        output: output.boxed(),
        input,
    }
}

/// The reading side of an attached client.
struct Reading {
    connection: Arc<Connection>,
    output: Option<Output<OwnedReadHalf>>,
    detached: Cancel,
}

impl Reading {
    async fn next(&mut self) -> io::Result<Option<Chunk>> {
        let detached = self.detached.clone();
        tokio::select! {
            biased;
            chunk = self.read() => chunk,
            () = detached.cancelled() => Ok(None),
        }
    }

    async fn read(&mut self) -> io::Result<Option<Chunk>> {
        let output = match &mut self.output {
            Some(output) => output,
            none => {
                let half = self.connection.take(|halves| halves.read.take()).await?;
                let Some(half) = half else {
                    return Ok(None);
                };
                none.insert(Output::new(half, BytesMut::new()))
            }
        };
        match output.next().await {
            Ok(Some((stream, bytes))) => Ok(Some(Chunk {
                source: match stream {
                    2 => Source::Stderr,
                    _ => Source::Stdout,
                },
                bytes,
            })),
            Ok(None) => Ok(None),
            // The monitor went with bytes of ours unread; there is nothing more to come.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            Err(error) => Err(error),
        }
    }
}
