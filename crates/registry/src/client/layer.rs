//! One layer on its way from the registry into the store, in one pass.
//!
//! ```text
//!  registry ──HTTP──▶ transfer (async) ──bounded queue──▶ writer (blocking thread) ──▶ LayerIngest
//! ```
//!
//! The transfer survives broken connections: it asks for the rest by range, and where a server
//! sends everything again it drops what the writer already has. The writer never sees a break. It
//! commits only when it is told that all bytes have come, so whatever ends the transfer otherwise
//! leaves nothing behind.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use http::header::CONTENT_RANGE;
use std::io::Write as _;
use store::{Layer, ReceiveError, Store};
use tasks::Cancel;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::sleep;
use vocab::Digest;
use vocab::manifest::Descriptor;

use super::progress::{LayerState, Teller};
use super::session::Session;
use super::{LayerError, RequestError};

/// Pieces that wait for the writer; `hyper` makes them up to half a megabyte long.
const QUEUE: usize = 8;
/// Pause between two reports of the same transfer.
const REPORT: Duration = Duration::from_millis(100);
/// A connection that brought this much before it broke is not counted as a failed try.
const PROGRESS_BYTES: u64 = 1 << 20;

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

/// Fetches one layer. `None` if it was cancelled.
pub(super) async fn fetch(
    session: &Session<'_>,
    store: &Arc<Store>,
    wanted: &Wanted,
    tell: &Teller,
    slots: &Semaphore,
    cancel: &Cancel,
) -> Result<Option<Layer>, LayerError> {
    let id = wanted.descriptor.digest.short();
    let slot = match slots.try_acquire() {
        Ok(slot) => slot,
        Err(_) => {
            tell.layer(id, LayerState::Waiting).await;
            tokio::select! {
                slot = slots.acquire() => slot.expect("nobody closes it"),
                () = cancel.cancelled() => return Ok(None),
            }
        }
    };
    let (sender, receiver) = mpsc::channel(QUEUE);
    let writer = {
        let (store, wanted) = (Arc::clone(store), wanted.clone());
        tasks::blocking(move || write(&store, &wanted, receiver))
    };
    let transfer = async {
        let transfer = transfer(session, &wanted.descriptor, tell, sender);
        tokio::select! {
            outcome = transfer => outcome,
            () = cancel.cancelled() => Ok(()),
        }
    };
    // The writer is always waited for, so that a failed pull leaves nothing half done behind.
    let (written, transferred) = tokio::join!(writer, transfer);
    drop(slot);
    transferred?;
    let Some(layer) = written? else {
        return Ok(None);
    };
    tell.layer(id, LayerState::PullComplete).await;
    Ok(Some(layer.with_media_type(&wanted.descriptor.media_type)))
}

/// Blocking: takes pieces until the end, or until the transfer is given up.
fn write(
    store: &Store,
    wanted: &Wanted,
    mut pieces: mpsc::Receiver<Piece>,
) -> Result<Option<Layer>, ReceiveError> {
    let descriptor = &wanted.descriptor;
    let mut ingest = store.receive_layer(
        Some(&descriptor.digest),
        Some(descriptor.size),
        Some(&wanted.diff_id),
    )?;
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
    Ok(None)
}

/// Sends a layer's bytes to the writer, over as many connections as it takes. Ends early, and
/// without an error of its own, when the writer is gone: then the writer knows why.
async fn transfer(
    session: &Session<'_>,
    descriptor: &Descriptor,
    tell: &Teller,
    writer: mpsc::Sender<Piece>,
) -> Result<(), LayerError> {
    let id = descriptor.digest.short();
    let mut progress = Transfer {
        session,
        descriptor,
        writer,
        tell,
        offset: 0,
        ranges: true,
        reported: Instant::now(),
    };
    let mut tries = session.tries();
    loop {
        let begun = progress.offset;
        match progress.run().await {
            Ok(Ended::Whole) => break,
            Ok(Ended::NobodyWrites) => return Ok(()),
            Err(error) => {
                if progress.offset - begun >= PROGRESS_BYTES {
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
                tracing::debug!(layer = id, ?pause, %error, "the transfer goes on after a pause");
                let seconds = pause.as_millis().div_ceil(1000);
                let seconds = u64::try_from(seconds).unwrap_or(u64::MAX);
                tell.layer(id, LayerState::Retrying { seconds }).await;
                sleep(pause).await;
            }
        }
    }
    tell.layer(id, LayerState::VerifyingChecksum).await;
    tell.layer(id, LayerState::DownloadComplete).await;
    let total = descriptor.size;
    let extracting = LayerState::Extracting {
        current: total,
        total,
    };
    tell.layer(id, extracting).await;
    // A writer that is gone tells why itself.
    let _ = progress.writer.send(Piece::End).await;
    Ok(())
}

struct Transfer<'a> {
    session: &'a Session<'a>,
    descriptor: &'a Descriptor,
    writer: mpsc::Sender<Piece>,
    tell: &'a Teller,
    /// Bytes that the writer has.
    offset: u64,
    /// Whether the server can be asked for the rest only.
    ranges: bool,
    reported: Instant,
}

enum Ended {
    Whole,
    NobodyWrites,
}

impl Transfer<'_> {
    /// One connection, from where the last one broke.
    async fn run(&mut self) -> Result<Ended, RequestError> {
        let total = self.descriptor.size;
        let from = if self.ranges { self.offset } else { 0 };
        let mut response = match self.session.blob(self.descriptor, from).await {
            Err(RequestError::Refused(refusal))
                if from > 0 && refusal.status == StatusCode::RANGE_NOT_SATISFIABLE =>
            {
                self.ranges = false;
                self.session.blob(self.descriptor, 0).await?
            }
            outcome => outcome?,
        };
        // Where this answer begins: what the writer has is dropped from it.
        let mut position = match response.status() {
            StatusCode::PARTIAL_CONTENT => range_start(&response)
                .filter(|start| *start <= self.offset)
                .ok_or_else(|| RequestError::Range {
                    url: response.url.clone(),
                    wanted: self.offset,
                })?,
            _ => 0,
        };
        while let Some(mut chunk) = response.chunk().await? {
            let length = chunk.len() as u64;
            if position + length > total {
                return Err(RequestError::TooBig {
                    url: response.url.clone(),
                    limit_bytes: total,
                });
            }
            let known = self.offset.saturating_sub(position).min(length);
            position += length;
            let _ = chunk.split_to(usize::try_from(known).unwrap_or(chunk.len()));
            if chunk.is_empty() {
                continue;
            }
            self.offset += chunk.len() as u64;
            if self.writer.send(Piece::Bytes(chunk)).await.is_err() {
                return Ok(Ended::NobodyWrites);
            }
            if self.reported.elapsed() >= REPORT || self.offset == total {
                self.reported = Instant::now();
                let current = self.offset;
                let state = LayerState::Downloading { current, total };
                self.tell
                    .layer_if_listened(self.descriptor.digest.short(), state);
            }
        }
        if self.offset < total {
            return Err(RequestError::Short {
                url: response.url.clone(),
                expected: total,
                found: self.offset,
            });
        }
        Ok(Ended::Whole)
    }
}

/// The first number of `Content-Range: bytes 5-9/10`.
fn range_start(response: &super::transport::Response) -> Option<u64> {
    let text = response.header(&CONTENT_RANGE)?;
    let (start, _) = text.trim().strip_prefix("bytes ")?.split_once('-')?;
    start.trim().parse().ok()
}
