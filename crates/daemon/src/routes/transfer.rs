//! Images that travel: pull, import, load, save.
//!
//! What fails before the first line of progress is a real refusal with a status; afterwards the
//! status is gone and the failure is the last line. Bodies are always chunked, because docker-py
//! takes anything else for a single result.
//!
//! Tars cross between the connection, which is asynchronous, and the store, which blocks, through
//! short queues of pieces: neither side ever holds more than a few of them.

use std::io::{self, Read, Write};
use std::sync::Arc;

use api::types::{ErrorDetail, Progress, ProgressDetail};
use bytes::{Buf, Bytes};
use engine::images::{ImportImage, PullError};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, Stream, StreamExt, stream};
use registry::LayerState;
use tokio::sync::mpsc;
use vocab::failure::chain;
use vocab::{Platform, Reference};

use super::Outcome;
use super::images::{credentials, name_with_tag};
use crate::answer::{self, Refusal};
use crate::call::Call;

/// Pieces of a tar between the connection and the store.
const PIECES: usize = 16;

/// Bytes in each piece that is written.
const PIECE_BYTES: usize = 128 << 10;

/// Steps of a pull or push that wait for a slow client.
pub(super) const STEPS: usize = 64;

/// `POST /images/create`: a pull, or an import.
pub(crate) async fn create(call: Call) -> Outcome {
    match (call.query.said("fromImage"), call.query.said("fromSrc")) {
        (Some(_), _) => pull(call).await,
        (None, Some(_)) => import(call).await,
        (None, None) => Err(Refusal::invalid("fromImage or fromSrc is wanted")),
    }
}

pub(super) fn platform(call: &Call) -> Result<Option<Platform>, Refusal> {
    let text = call.query.said("platform");
    text.map(read_platform).transpose()
}

/// All that are named by a key that may stand there several times.
pub(super) fn platforms(call: &Call, key: &str) -> Result<Vec<Platform>, Refusal> {
    let said = call.query.all(key).filter(|text| !text.is_empty());
    said.map(read_platform).collect()
}

fn read_platform(text: &str) -> Result<Platform, Refusal> {
    // Either `os/arch/variant`, or a platform object of OCI.
    if text.starts_with('{') {
        return serde_json::from_str(text)
            .map_err(|error| Refusal::invalid(format!("failed to parse platform: {error}")));
    }
    text.parse()
        .map_err(|error: vocab::platform::ParsePlatformError| Refusal::invalid(error.to_string()))
}

async fn pull(call: Call) -> Outcome {
    let from = call.query.said("fromImage").unwrap_or_default();
    // Old clients write a repository of which they want all tags like this.
    let from = from.strip_suffix(':').unwrap_or(from);
    let reference = name_with_tag(from, call.query.said("tag"))?;
    let platform = platform(&call)?;
    let credentials = credentials(&call);
    let (sender, mut steps) = mpsc::channel(STEPS);
    let (engine, wanted) = (call.engine().clone(), reference.clone());
    let mut pulling: BoxFuture<'static, _> = async move {
        let (platform, credentials) = (platform.as_ref(), credentials.as_ref());
        if wanted.tag().is_none() && wanted.digest().is_none() {
            return engine
                .pull_all(&wanted, platform, credentials, sender)
                .await;
        }
        let pulled = engine.pull(&wanted, platform, credentials, sender).await?;
        Ok(pulled.up_to_date)
    }
    .boxed();
    let first = tokio::select! {
        biased;
        // Nobody tells steps any more before the outcome is there.
        Some(step) = steps.recv() => Some(step),
        outcome = &mut pulling => match (outcome, steps.try_recv().ok()) {
            (Err(error), None) => return Err(error.into()),
            (outcome, step) => {
                pulling = std::future::ready(outcome).boxed();
                step
            }
        },
    };
    let first = first.map(|step| line(&shown(step)));
    let rest = stream::unfold(
        Some(Pulling {
            pulling,
            steps,
            reference,
        }),
        Pulling::next,
    );
    let lines = stream::iter(first).chain(rest).map(Ok);
    Ok(answer::stream("application/json", lines))
}

/// A pull whose progress is being told.
struct Pulling {
    /// Whether all was there before.
    pulling: BoxFuture<'static, Result<bool, PullError>>,
    steps: mpsc::Receiver<registry::Progress>,
    reference: Reference,
}

impl Pulling {
    /// The next lines, and what comes after them. Dropping it between two lines ends the pull.
    async fn next(this: Option<Self>) -> Option<(Bytes, Option<Self>)> {
        let mut this = this?;
        let outcome = tokio::select! {
            biased;
            Some(step) = this.steps.recv() => return Some((line(&shown(step)), Some(this))),
            outcome = &mut this.pulling => outcome,
        };
        let mut lines = Vec::new();
        while let Ok(step) = this.steps.try_recv() {
            lines.extend(line(&shown(step)));
        }
        let end = match outcome {
            Ok(up_to_date) => {
                let news = if up_to_date {
                    "Image is up to date"
                } else {
                    "Downloaded newer image"
                };
                status(format!("Status: {news} for {}", this.reference.familiar()))
            }
            Err(error) => failed(&chain(&error)),
        };
        lines.extend(line(&end));
        Some((lines.into(), None))
    }
}

/// A step in Docker's words.
pub(super) fn shown(step: registry::Progress) -> Progress {
    match step {
        registry::Progress::PullingFrom { repository, tag } => Progress {
            id: tag,
            ..status(format!("Pulling from {repository}"))
        },
        // That is for programs, and told by whoever pushes.
        registry::Progress::PushedInstead { .. } => Progress::default(),
        registry::Progress::LeftOut { digest, reason } => {
            status(format!("{digest} of the index was left out: {reason}"))
        }
        registry::Progress::Digest(digest) => status(format!("Digest: {digest}")),
        registry::Progress::Pushed {
            tag,
            digest,
            size_bytes,
        } => status(format!("{tag}: digest: {digest} size: {size_bytes}")),
        registry::Progress::Layer { id, state } => {
            let detail = match state {
                LayerState::Downloading { current, total }
                | LayerState::Extracting { current, total }
                | LayerState::Pushing { current, total } => ProgressDetail {
                    current: i64::try_from(current).unwrap_or(i64::MAX),
                    total: i64::try_from(total).unwrap_or(i64::MAX),
                    ..ProgressDetail::default()
                },
                _ => ProgressDetail::default(),
            };
            Progress {
                detail: Some(detail),
                id,
                ..status(state.to_string())
            }
        }
    }
}

pub(super) fn status(status: String) -> Progress {
    Progress {
        status,
        ..Progress::default()
    }
}

pub(super) fn failed(message: &str) -> Progress {
    Progress {
        error_detail: Some(ErrorDetail {
            code: 0,
            message: message.to_owned(),
        }),
        error: message.to_owned(),
        ..Progress::default()
    }
}

/// One line of progress; they end in CR LF.
pub(super) fn line(progress: &Progress) -> Bytes {
    let mut bytes = serde_json::to_vec(progress).expect("progress always serialises");
    bytes.extend_from_slice(b"\r\n");
    bytes.into()
}

fn lines(all: Vec<Progress>) -> answer::Answer {
    let pieces = all.into_iter().map(|progress| Ok(line(&progress)));
    answer::stream("application/json", stream::iter(pieces.collect::<Vec<_>>()))
}

async fn import(call: Call) -> Outcome {
    let source = call.query.said("fromSrc").filter(|source| *source != "-");
    // Who names a host only means the web.
    let source = source.map(|source| match source.contains("://") {
        true => source.to_owned(),
        false => format!("http://{source}"),
    });
    let name = match call.query.said("repo") {
        Some(repository) => Some(name_with_tag(repository, call.query.said("tag"))?.or_latest()),
        None => None,
    };
    let message = match (call.query.said("message"), &source) {
        (Some(message), _) => message.to_owned(),
        (None, Some(source)) => format!("Imported from {source}"),
        (None, None) => String::new(),
    };
    let options = ImportImage {
        message,
        changes: call.query.all("changes").map(str::to_owned).collect(),
        platform: platform(&call)?,
        name,
    };
    let engine = call.engine().clone();
    let Some(source) = source else {
        let id = with_tar(call, |tar| async move {
            engine.import_image(tar, options).await
        })
        .await?;
        return Ok(lines(vec![status(id.to_string())]));
    };
    let mut fetched = call.daemon.told.registry().fetch(&source).await?;
    let (sender, reader) = BodyReader::new();
    let feed = async move {
        loop {
            let piece = match fetched.next().await {
                Ok(piece) => Ok(piece),
                Err(error) => Err(io::Error::other(chain(&error))),
            };
            let is_last = !matches!(piece, Ok(Some(_)));
            if sender.send(piece).await.is_err() || is_last {
                return;
            }
        }
    };
    let work = engine.import_image(Box::new(reader), options);
    let (id, ()) = tokio::join!(work, feed);
    Ok(lines(vec![
        status(format!("Downloading from {source}")),
        status(id?.to_string()),
    ]))
}

/// Runs `work` on the body of `call` as something that can be read.
pub(super) async fn with_tar<T, E, F>(
    mut call: Call,
    work: impl FnOnce(Box<dyn Read + Send>) -> F,
) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
{
    let (sender, reader) = BodyReader::new();
    let body = &mut call.body;
    let feed = async move {
        while let Some(piece) = body.next().await {
            if sender.send(piece.map(Some)).await.is_err() {
                return;
            }
        }
        // The reader is gone only if the work is done.
        let _ = sender.send(Ok(None)).await;
    };
    let mut work = std::pin::pin!(work(Box::new(reader)));
    let outcome = tokio::select! {
        outcome = &mut work => outcome,
        () = feed => work.await,
    };
    // A tar that was refused half-way, or that goes on behind its end.
    call.body.drain().await;
    outcome
}

/// The body of a request, for code that blocks. The end is said explicitly: a queue that merely
/// closes means that the client is gone, and what came is not the whole.
struct BodyReader {
    pieces: mpsc::Receiver<io::Result<Option<Bytes>>>,
    current: Bytes,
    ended: bool,
}

impl BodyReader {
    fn new() -> (mpsc::Sender<io::Result<Option<Bytes>>>, Self) {
        let (sender, pieces) = mpsc::channel(PIECES);
        let reader = Self {
            pieces,
            current: Bytes::new(),
            ended: false,
        };
        (sender, reader)
    }
}

impl Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Ok(Some(piece))) => self.current = piece,
                Some(Ok(None)) => self.ended = true,
                Some(Err(error)) => return Err(error),
                None => {
                    let gone = "the client left before the end of its upload";
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, gone));
                }
            }
        }
        let length = buffer.len().min(self.current.len());
        buffer[..length].copy_from_slice(&self.current[..length]);
        self.current.advance(length);
        Ok(length)
    }
}

/// `GET /images/{name}/get`.
pub(crate) async fn save_one(call: Call) -> Outcome {
    let names = vec![call.name().to_owned()];
    save(call, names).await
}

/// `GET /images/get`.
pub(crate) async fn save_several(call: Call) -> Outcome {
    let names: Vec<_> = call
        .query
        .all("names")
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    if names.is_empty() {
        return Err(Refusal::invalid("names of images are wanted"));
    }
    save(call, names).await
}

async fn save(call: Call, names: Vec<String>) -> Outcome {
    let platforms = match call.speaks(48) {
        true => platforms(&call, "platform")?,
        false => Vec::new(),
    };
    let engine = Arc::clone(call.engine());
    written(|out| {
        async move {
            let outcome = engine.save_images(&names, platforms, out).await;
            outcome.map_err(Refusal::from)
        }
        .boxed()
    })
    .await
}

/// `GET /containers/{id}/export`.
pub(crate) async fn export(call: Call) -> Outcome {
    let (engine, typed) = (Arc::clone(call.engine()), call.name().to_owned());
    written(|out| {
        async move {
            let outcome = engine.export(&typed, out).await;
            outcome.map_err(Refusal::from)
        }
        .boxed()
    })
    .await
}

/// Answers with the tar that `write` writes. What it says before the first byte is a refusal.
pub(super) async fn written(
    write: impl FnOnce(Box<dyn Write + Send>) -> BoxFuture<'static, Result<(), Refusal>>,
) -> Outcome {
    let (sender, mut pieces) = mpsc::channel(PIECES);
    let mut writing = write(Box::new(BodyWriter {
        pieces: sender,
        gathered: Vec::with_capacity(PIECE_BYTES),
    }));
    let first = tokio::select! {
        biased;
        // The writer may be gone before its outcome is told.
        Some(piece) = pieces.recv() => Some(piece),
        outcome = &mut writing => {
            outcome?;
            writing = std::future::ready(Ok(())).boxed();
            pieces.recv().await
        }
    };
    let rest = stream::unfold(Some((pieces, writing)), |state| async {
        let (mut pieces, mut writing) = state?;
        tokio::select! {
            biased;
            Some(piece) = pieces.recv() => Some((Ok(piece), Some((pieces, writing)))),
            outcome = &mut writing => match outcome {
                // What was written last may still be in the queue.
                Ok(()) => {
                    let piece = pieces.recv().await?;
                    Some((Ok(piece), Some((pieces, std::future::ready(Ok(())).boxed()))))
                }
                // Cut off: the client must not take a part for the whole.
                Err(refusal) => Some((Err(io::Error::other(refusal.message)), None)),
            },
        }
    });
    Ok(answer::stream("application/x-tar", first_then(first, rest)))
}

fn first_then(
    first: Option<Bytes>,
    rest: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    stream::iter(first.map(Ok)).chain(rest)
}

/// The body of an answer, for code that blocks.
struct BodyWriter {
    pieces: mpsc::Sender<Bytes>,
    gathered: Vec<u8>,
}

impl Write for BodyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.gathered, Vec::with_capacity(PIECE_BYTES));
        let sent = self.pieces.blocking_send(piece.into());
        sent.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the client left"))
    }
}

impl Drop for BodyWriter {
    fn drop(&mut self) {
        // A client that is gone misses nothing.
        let _ = self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(progress: &Progress) -> String {
        String::from_utf8(line(progress).to_vec()).unwrap()
    }

    #[test]
    fn steps_are_told_in_dockers_words() {
        let layer = |state| {
            text(&shown(registry::Progress::Layer {
                id: "0123456789ab".to_owned(),
                state,
            }))
        };
        assert_eq!(
            layer(LayerState::Pending),
            "{\"status\":\"Pulling fs layer\",\"progressDetail\":{},\"id\":\"0123456789ab\"}\r\n"
        );
        assert_eq!(
            layer(LayerState::Downloading {
                current: 1,
                total: 2
            }),
            "{\"status\":\"Downloading\",\"progressDetail\":{\"current\":1,\"total\":2},\
             \"id\":\"0123456789ab\"}\r\n"
        );
        assert_eq!(
            text(&shown(registry::Progress::PullingFrom {
                repository: "library/a".to_owned(),
                tag: "latest".to_owned(),
            })),
            "{\"status\":\"Pulling from library/a\",\"id\":\"latest\"}\r\n"
        );
        assert_eq!(
            text(&failed("no")),
            "{\"errorDetail\":{\"message\":\"no\"},\"error\":\"no\"}\r\n"
        );
    }

    #[test]
    fn an_upload_that_breaks_off_is_not_the_whole() {
        let (sender, pieces) = mpsc::channel(4);
        sender
            .try_send(Ok(Some(Bytes::from_static(b"ab"))))
            .unwrap();
        sender.try_send(Ok(Some(Bytes::from_static(b"c")))).unwrap();
        let mut reader = BodyReader {
            pieces,
            current: Bytes::new(),
            ended: false,
        };
        let mut three = [0; 3];
        reader.read_exact(&mut three).unwrap();
        assert_eq!(&three, b"abc");
        drop(sender);
        let broken = reader.read(&mut three).unwrap_err();
        assert_eq!(broken.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn an_upload_ends_when_the_client_says_so() {
        let (sender, pieces) = mpsc::channel(4);
        sender.try_send(Ok(None)).unwrap();
        let mut reader = BodyReader {
            pieces,
            current: Bytes::new(),
            ended: false,
        };
        let mut all = Vec::new();
        assert_eq!(reader.read_to_end(&mut all).unwrap(), 0);
        assert_eq!(reader.read_to_end(&mut all).unwrap(), 0);
    }
}
