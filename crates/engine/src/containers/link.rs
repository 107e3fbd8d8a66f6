//! The engine's connections to a monitor.

use std::io;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use monitor::protocol::{self, CHUNK_BYTES, ChunkHead, FailureKind, Reply, Request};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// What a monitor did not do.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// It cannot be spoken to.
    #[error("talk to the monitor in `{dir}`")]
    Io {
        /// The run directory.
        dir: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It refused.
    #[error("{message}")]
    Refused {
        /// What the exit code follows from.
        kind: FailureKind,
        /// Its words.
        message: String,
    },
    /// It is of another berth.
    #[error(
        "the monitor in `{dir}` speaks version {version} of the protocol, and this berth version {}",
        protocol::VERSION
    )]
    Version {
        /// The run directory.
        dir: PathBuf,
        /// What it speaks.
        version: u32,
    },
    /// It answered something else.
    #[error("the monitor in `{dir}` answered {answer}")]
    Unexpected {
        /// The run directory.
        dir: PathBuf,
        /// What it said.
        answer: String,
    },
}

/// A connection that carries messages.
#[derive(Debug)]
pub(crate) struct Link {
    stream: UnixStream,
    buffer: BytesMut,
}

impl Link {
    /// Takes over a connected socket.
    pub(crate) fn new(stream: std::os::unix::net::UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream: UnixStream::from_std(stream)?,
            buffer: BytesMut::new(),
        })
    }

    /// Sends messages at once.
    pub(crate) async fn send(&mut self, messages: &[&(impl Serialize + Sync)]) -> io::Result<()> {
        let mut bytes = Vec::new();
        for message in messages {
            bytes.extend(protocol::encode(message));
        }
        self.stream.write_all(&bytes).await
    }

    /// The next message; `None` when the monitor closed. May be dropped while it waits.
    pub(crate) async fn receive<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        loop {
            match protocol::decode(&self.buffer) {
                Ok(Some((message, used))) => {
                    let _ = self.buffer.split_to(used);
                    return Ok(Some(message));
                }
                Ok(None) => {}
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// The connection itself, once it has changed what it carries.
    pub(crate) fn into_stream(self) -> (UnixStream, BytesMut) {
        (self.stream, self.buffer)
    }
}

/// Connects to the monitor in `dir`.
pub(crate) async fn connect(dir: &Path) -> io::Result<Link> {
    let dir = dir.to_owned();
    let stream = tasks::blocking(move || monitor::connect(&dir)).await?;
    Link::new(stream)
}

impl LinkError {
    /// Whether nobody is there to be spoken to.
    pub(crate) fn is_gone(&self) -> bool {
        use io::ErrorKind as K;
        let Self::Io { source, .. } = self else {
            return false;
        };
        matches!(
            source.kind(),
            K::NotFound
                | K::ConnectionRefused
                | K::ConnectionReset
                | K::BrokenPipe
                | K::UnexpectedEof
        )
    }
}

/// [`ask`] of a monitor that an earlier engine may have started: it must speak our version.
pub(crate) async fn ask_anew(dir: &Path, request: &Request) -> Result<(Link, Reply), LinkError> {
    let hello = Request::Hello {
        version: protocol::VERSION,
    };
    match ask(dir, &hello).await? {
        (mut link, Reply::Hello { version }) if version == protocol::VERSION => {
            let reply = ask_on(&mut link, dir, request).await?;
            Ok((link, reply))
        }
        (_, Reply::Hello { version }) => Err(LinkError::Version {
            dir: dir.to_owned(),
            version,
        }),
        (_, answer) => Err(unexpected(dir, &answer)),
    }
}

/// An answer to something else.
pub(crate) fn unexpected(dir: &Path, answer: &impl std::fmt::Debug) -> LinkError {
    LinkError::Unexpected {
        dir: dir.to_owned(),
        answer: format!("{answer:?}"),
    }
}

/// Asks on a connection of its own, which it returns for more.
pub(crate) async fn ask(dir: &Path, request: &Request) -> Result<(Link, Reply), LinkError> {
    let io = |source| LinkError::Io {
        dir: dir.to_owned(),
        source,
    };
    let mut link = connect(dir).await.map_err(io)?;
    let reply = ask_on(&mut link, dir, request).await?;
    Ok((link, reply))
}

/// Asks on this connection; a refusal is an error.
pub(crate) async fn ask_on(
    link: &mut Link,
    dir: &Path,
    request: &Request,
) -> Result<Reply, LinkError> {
    let io = |source| LinkError::Io {
        dir: dir.to_owned(),
        source,
    };
    link.send(&[request]).await.map_err(io)?;
    match link.receive().await.map_err(io)? {
        Some(Reply::Failed { kind, message }) => Err(LinkError::Refused { kind, message }),
        Some(reply) => Ok(reply),
        None => Err(io(io::ErrorKind::UnexpectedEof.into())),
    }
}

/// The reading half of an attached connection.
#[derive(Debug)]
pub(crate) struct Output<R> {
    stream: R,
    buffer: BytesMut,
}

impl<R: tokio::io::AsyncRead + Unpin> Output<R> {
    pub(crate) fn new(stream: R, buffer: BytesMut) -> Self {
        Self { stream, buffer }
    }

    /// The next piece of output and its stream (1 or 2); `None` at the end.
    pub(crate) async fn next(&mut self) -> io::Result<Option<(u8, Bytes)>> {
        loop {
            if let Some(head) = self.buffer.first_chunk::<{ ChunkHead::BYTES }>() {
                let head = ChunkHead::decode(*head);
                let bytes = head.bytes as usize;
                if bytes > CHUNK_BYTES {
                    return Err(io::Error::other(format!(
                        "the monitor sent a piece of {bytes} bytes, more than {CHUNK_BYTES}"
                    )));
                }
                if self.buffer.len() >= ChunkHead::BYTES + bytes {
                    let mut frame = self.buffer.split_to(ChunkHead::BYTES + bytes);
                    let payload = frame.split_off(ChunkHead::BYTES).freeze();
                    return Ok(Some((head.stream, payload)));
                }
                self.buffer
                    .reserve(ChunkHead::BYTES + bytes - self.buffer.len());
            } else {
                self.buffer.reserve(CHUNK_BYTES / 4);
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }
}
