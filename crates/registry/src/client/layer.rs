//! One layer on its way from the registry into the store, in one pass.
//!
//! ```text
//!  registry ──HTTP──▶ transfer (async) ──bounded queue──▶ writer (blocking thread) ──▶ LayerIngest
//! ```
//!
//! The transfer survives broken connections: it asks for the rest by range, and where a server
//! sends everything again it drops what the writer already has. The writer never sees a break. It
//! commits only when it is told that all bytes have come; whatever ends the transfer otherwise
//! leaves the bytes that came to the store, where the next pull of that blob goes on from them, be
//! it after a restart or a reboot.
//!
//! A long layer is fetched in segments over several connections, which reach the writer in order:
//! what lies on the disk is always the beginning of the blob. Of one blob there is one transfer at
//! a time, whoever wants it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use http::StatusCode;
use http::header::CONTENT_RANGE;
use std::io::Write as _;
use store::{Layer, LayerIngest, ReceiveError, Store};
use tasks::Cancel;
use tokio::sync::{OwnedMutexGuard, mpsc, oneshot};
use tokio::time::sleep;
use vocab::Digest;
use vocab::manifest::Descriptor;

use super::progress::{LayerState, Teller};
use super::session::Session;
use super::transport::Response;
use super::{Client, LayerError, RequestError};

/// Pieces that wait for the writer; `hyper` makes them up to half a megabyte long.
const QUEUE: usize = 4;
/// Pause between two reports of the same transfer.
const REPORT: Duration = Duration::from_millis(100);
/// A connection that brought this much before it broke is not counted as a failed try.
const PROGRESS_BYTES: u64 = 1 << 20;
/// With so much to come, several connections are worth their while.
const LONG_BYTES: u64 = 16 << 20;
/// What one request of several asks for; as much of each waits in memory for its turn.
const SEGMENT_BYTES: u64 = 1 << 20;
/// Segments in transfer at a time.
const SEGMENTS: usize = 4;
/// Connections that may break in one segment before all go on over a single one.
const BREAKS: usize = 4;

/// What the transfer hands to the writer.
enum Piece {
    Bytes(Bytes),
    /// That was all; without it nothing is committed.
    End,
}

/// A layer that is wanted.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) descriptor: Descriptor,
    pub(super) diff_id: Digest,
}

/// What all layers of a pull have in common.
#[derive(Clone, Copy)]
pub(super) struct Fetch<'a> {
    pub(super) client: &'a Client,
    pub(super) session: &'a Session<'a>,
    pub(super) store: &'a Arc<Store>,
    pub(super) tell: &'a Teller,
    pub(super) cancel: &'a Cancel,
}

impl Fetch<'_> {
    /// Fetches one layer. `None` if it was cancelled.
    pub(super) async fn layer(&self, wanted: &Wanted) -> Result<Option<Layer>, LayerError> {
        let Some(layer) = self.in_turn(wanted).await? else {
            return Ok(None);
        };
        let id = wanted.descriptor.digest.short();
        self.tell.layer(id, LayerState::PullComplete).await;
        Ok(Some(layer.with_media_type(&wanted.descriptor.media_type)))
    }

    /// Waits for whoever transfers the same blob, and for a slot.
    async fn in_turn(&self, wanted: &Wanted) -> Result<Option<Layer>, LayerError> {
        let id = wanted.descriptor.digest.short();
        let turns = self.client.turns(self.store, &wanted.descriptor.digest);
        let turn = match Arc::clone(&turns).try_lock_owned() {
            Ok(turn) => turn,
            Err(_) => {
                self.tell.layer(id, LayerState::Waiting).await;
                let Some(turn) = self.cancel.run_until_cancelled(turns.lock_owned()).await else {
                    return Ok(None);
                };
                if let Some(layer) = self.find(wanted).await? {
                    return Ok(Some(layer));
                }
                turn
            }
        };
        let slots = self.client.slots();
        let _slot = match slots.try_acquire() {
            Ok(slot) => slot,
            Err(_) => {
                self.tell.layer(id, LayerState::Waiting).await;
                let Some(slot) = self.cancel.run_until_cancelled(slots.acquire()).await else {
                    return Ok(None);
                };
                slot.expect("nobody closes it")
            }
        };
        let turn = Arc::new(turn);
        match self.once(wanted, Arc::clone(&turn)).await {
            // What an earlier pull left may have suffered in a power cut; it is gone by now.
            (Err(LayerError::Receive(error)), resumed @ 1..) if is_of_content(&error) => {
                tracing::info!(layer = id, resumed, %error, "the transfer begins anew");
                self.once(wanted, turn).await.0
            }
            (outcome, _) => outcome,
        }
    }

    async fn find(&self, wanted: &Wanted) -> Result<Option<Layer>, LayerError> {
        let (store, diff_id) = (Arc::clone(self.store), wanted.diff_id.clone());
        let found = tasks::blocking(move || store.find_layer(&diff_id)).await;
        found.map_err(|source| {
            LayerError::Receive(ReceiveError::Metadata {
                layer: wanted.descriptor.digest.to_string(),
                source,
            })
        })
    }

    /// Transfers the layer from where an earlier transfer ended; tells also how many bytes were
    /// there.
    async fn once(
        &self,
        wanted: &Wanted,
        turn: Arc<OwnedMutexGuard<()>>,
    ) -> (Result<Option<Layer>, LayerError>, u64) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let (begun, beginning) = oneshot::channel();
        let writer = {
            let (store, wanted) = (Arc::clone(self.store), wanted.clone());
            tasks::blocking(move || {
                // Even if nobody waits any more, the next one begins when this one has ended.
                let _turn = turn;
                write(&store, &wanted, begun, receiver)
            })
        };
        let transfer = async {
            // A writer that did not begin tells why itself.
            let resumed = beginning.await.unwrap_or(0);
            let transfer = Transfer {
                session: self.session,
                descriptor: &wanted.descriptor,
                writer: sender,
                tell: self.tell,
                offset: resumed,
                ranges: true,
                segments: true,
                reported: Instant::now(),
            };
            let brought = self.cancel.run_until_cancelled(transfer.bring()).await;
            (brought.unwrap_or(Ok(())), resumed)
        };
        // The writer is always waited for, so that a failed pull leaves nothing half done behind.
        let (written, (transferred, resumed)) = tokio::join!(writer, transfer);
        let outcome = match (written, transferred) {
            // It hung up, and the transfer only noticed.
            (Err(error), _) => Err(error.into()),
            (Ok(_), Err(error)) => Err(error),
            (Ok(layer), Ok(())) => Ok(layer),
        };
        (outcome, resumed)
    }
}

/// Whether other bytes would have been fine.
fn is_of_content(error: &ReceiveError) -> bool {
    !matches!(
        error,
        ReceiveError::Write { .. } | ReceiveError::Unpack { .. } | ReceiveError::Metadata { .. }
    )
}

/// Blocking: takes pieces until the end, or until the transfer is given up.
fn write(
    store: &Store,
    wanted: &Wanted,
    begun: oneshot::Sender<u64>,
    mut pieces: mpsc::Receiver<Piece>,
) -> Result<Option<Layer>, ReceiveError> {
    let Descriptor { digest, size, .. } = &wanted.descriptor;
    let mut ingest = store.resume_layer(digest, *size, Some(&wanted.diff_id))?;
    // A transfer that is gone already closes the queue, too.
    let _ = begun.send(ingest.received_bytes());
    while let Some(piece) = pieces.blocking_recv() {
        match piece {
            Piece::Bytes(bytes) => {
                if ingest.write_all(&bytes).is_err() {
                    // Committing what failed tells the reason in full.
                    return ingest.commit().map(Some);
                }
            }
            Piece::End => return ingest.commit().map(Some),
        }
    }
    leave(ingest);
    Ok(None)
}

/// What came waits for the next pull; nothing is not worth keeping.
fn leave(ingest: LayerIngest) {
    if ingest.received_bytes() == 0 {
        ingest.discard();
    }
}

/// A layer's bytes on their way to the writer, over as many connections as it takes.
struct Transfer<'a> {
    session: &'a Session<'a>,
    descriptor: &'a Descriptor,
    writer: mpsc::Sender<Piece>,
    tell: &'a Teller,
    /// Bytes that the writer has.
    offset: u64,
    /// Whether the server can be asked for the rest only.
    ranges: bool,
    /// Whether several connections at a time are worth a try.
    segments: bool,
    reported: Instant,
}

enum Ended {
    Whole,
    NobodyWrites,
}

impl Transfer<'_> {
    /// Ends early, and without an error of its own, when the writer is gone: then the writer knows
    /// why.
    async fn bring(mut self) -> Result<(), LayerError> {
        let mut tries = self.session.tries();
        loop {
            let (begun, segments) = (self.offset, self.segments);
            let error = match self.run().await {
                Ok(Ended::Whole) => break,
                Ok(Ended::NobodyWrites) => return Ok(()),
                // Another manner is no other try.
                Err(error) if segments && !self.segments && is_about_ranges(&error) => continue,
                Err(error) => error,
            };
            if self.offset - begun >= PROGRESS_BYTES {
                tries.start_over();
            }
            let Some(pause) = tries.pause_after(&error) else {
                return Err(match tries.made() {
                    1 => LayerError::Request(error),
                    attempts => LayerError::Attempts {
                        attempts,
                        source: error,
                    },
                });
            };
            let id = self.descriptor.digest.short();
            tracing::debug!(layer = id, ?pause, %error, "the transfer goes on after a pause");
            let seconds = pause.as_millis().div_ceil(1000);
            let seconds = u64::try_from(seconds).unwrap_or(u64::MAX);
            self.tell.layer(id, LayerState::Retrying { seconds }).await;
            sleep(pause).await;
        }
        self.end().await;
        Ok(())
    }

    async fn end(self) {
        let id = self.descriptor.digest.short();
        let total = self.descriptor.size;
        let extracting = LayerState::Extracting {
            current: total,
            total,
        };
        for state in [
            LayerState::VerifyingChecksum,
            LayerState::DownloadComplete,
            extracting,
        ] {
            self.tell.layer(id, state).await;
        }
        // A writer that is gone tells why itself.
        let _ = self.writer.send(Piece::End).await;
    }

    fn missing(&self) -> u64 {
        self.descriptor.size - self.offset
    }

    /// The rest, from where the last try broke.
    async fn run(&mut self) -> Result<Ended, RequestError> {
        if self.missing() == 0 {
            return Ok(Ended::Whole);
        }
        if self.segments && self.ranges && self.missing() >= LONG_BYTES {
            return self.run_segments().await;
        }
        self.run_one().await
    }

    /// One connection.
    async fn run_one(&mut self) -> Result<Ended, RequestError> {
        let from = if self.ranges { self.offset } else { 0 };
        let asked = self.session.blob(self.descriptor, from, None).await;
        let response = match asked {
            Err(RequestError::Refused(refusal))
                if from > 0 && refusal.status == StatusCode::RANGE_NOT_SATISFIABLE =>
            {
                self.ranges = false;
                self.session.blob(self.descriptor, 0, None).await?
            }
            outcome => outcome?,
        };
        self.take(response, self.descriptor.size).await
    }

    /// Several connections, for one segment each. The first one finds out whether the server knows
    /// ranges: if it sends everything, that is taken.
    async fn run_segments(&mut self) -> Result<Ended, RequestError> {
        let (session, descriptor) = (self.session, self.descriptor);
        let first_end = self.offset + SEGMENT_BYTES;
        let first = session.blob(descriptor, self.offset, Some(first_end));
        let response = first.await.inspect_err(|error| {
            self.segments = !is_about_ranges(error);
        })?;
        let end = match response.status() {
            StatusCode::PARTIAL_CONTENT => first_end,
            _ => descriptor.size,
        };
        if matches!(self.take(response, end).await?, Ended::NobodyWrites) {
            return Ok(Ended::NobodyWrites);
        }
        // Whatever goes wrong with several is tried again with one.
        self.segments = false;
        let starts = std::iter::successors(Some(self.offset), |start| Some(start + SEGMENT_BYTES))
            .take_while(|start| *start < descriptor.size);
        let mut segments = stream::iter(starts)
            .map(|start| {
                let end = (start + SEGMENT_BYTES).min(descriptor.size);
                segment(session, descriptor, start, end)
            })
            .buffered(SEGMENTS);
        while let Some(segment) = segments.next().await {
            for chunk in segment? {
                if !self.pass(chunk).await {
                    return Ok(Ended::NobodyWrites);
                }
            }
        }
        Ok(Ended::Whole)
    }

    /// Takes what `response` brings up to `end`; what the writer has already is dropped from it.
    async fn take(&mut self, mut response: Response, end: u64) -> Result<Ended, RequestError> {
        let mut position = beginning(&response)
            .filter(|start| *start <= self.offset)
            .ok_or_else(|| elsewhere(&response, self.offset))?;
        while let Some(mut chunk) = response.chunk().await? {
            let length = chunk.len() as u64;
            if position + length > end {
                return Err(RequestError::TooBig {
                    url: response.url.clone(),
                    limit_bytes: end,
                });
            }
            let known = self.offset.saturating_sub(position).min(length);
            position += length;
            let _ = chunk.split_to(usize::try_from(known).unwrap_or(chunk.len()));
            if !self.pass(chunk).await {
                return Ok(Ended::NobodyWrites);
            }
        }
        if self.offset < end {
            return Err(RequestError::Short {
                url: response.url.clone(),
                expected: self.descriptor.size,
                found: self.offset,
            });
        }
        Ok(Ended::Whole)
    }

    /// Hands the next bytes to the writer; whether there is one.
    async fn pass(&mut self, chunk: Bytes) -> bool {
        if chunk.is_empty() {
            return true;
        }
        self.offset += chunk.len() as u64;
        if self.writer.send(Piece::Bytes(chunk)).await.is_err() {
            return false;
        }
        let (current, total) = (self.offset, self.descriptor.size);
        if self.reported.elapsed() >= REPORT || current == total {
            self.reported = Instant::now();
            let state = LayerState::Downloading { current, total };
            self.tell
                .layer_if_listened(self.descriptor.digest.short(), state);
        }
        true
    }
}

/// The bytes from `start` to `end`, over a few connections if they break.
async fn segment(
    session: &Session<'_>,
    descriptor: &Descriptor,
    start: u64,
    end: u64,
) -> Result<Vec<Bytes>, RequestError> {
    let mut chunks = Vec::new();
    let mut position = start;
    let mut broken = 0;
    loop {
        let before = position;
        let error = match part(session, descriptor, &mut position, end, &mut chunks).await {
            Ok(()) => return Ok(chunks),
            Err(error) => error,
        };
        broken += 1;
        if position == before || broken > BREAKS {
            return Err(error);
        }
    }
}

/// One connection's share of a segment.
async fn part(
    session: &Session<'_>,
    descriptor: &Descriptor,
    position: &mut u64,
    end: u64,
    chunks: &mut Vec<Bytes>,
) -> Result<(), RequestError> {
    let mut response = session.blob(descriptor, *position, Some(end)).await?;
    if beginning(&response) != Some(*position) {
        return Err(elsewhere(&response, *position));
    }
    while let Some(chunk) = response.chunk().await? {
        if *position + chunk.len() as u64 > end {
            return Err(elsewhere(&response, *position));
        }
        *position += chunk.len() as u64;
        chunks.push(chunk);
    }
    match *position == end {
        true => Ok(()),
        false => Err(RequestError::Short {
            url: response.url.clone(),
            expected: descriptor.size,
            found: *position,
        }),
    }
}

/// Where the bytes of an answer begin in the blob.
fn beginning(response: &Response) -> Option<u64> {
    match response.status() {
        StatusCode::PARTIAL_CONTENT => range_start(response),
        _ => Some(0),
    }
}

/// Whether the server does not do what ranges ask of it.
fn is_about_ranges(error: &RequestError) -> bool {
    match error {
        RequestError::Refused(refusal) => refusal.status == StatusCode::RANGE_NOT_SATISFIABLE,
        error => matches!(error, RequestError::Range { .. }),
    }
}

fn elsewhere(response: &Response, wanted: u64) -> RequestError {
    RequestError::Range {
        url: response.url.clone(),
        wanted,
    }
}

/// The first number of `Content-Range: bytes 5-9/10`.
fn range_start(response: &Response) -> Option<u64> {
    let text = response.header(&CONTENT_RANGE)?;
    let (start, _) = text.trim().strip_prefix("bytes ")?.split_once('-')?;
    start.trim().parse().ok()
}
