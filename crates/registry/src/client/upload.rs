//! One blob on its way from the store into a registry.
//!
//! ```text
//!  HEAD ──▶ there already
//!  POST ?mount=&from= ──201──▶ taken from another repository
//!   │ 202, a place to write to
//!   ├─ short ──▶ PUT with everything
//!   └─ long ───▶ PATCH, PATCH, … PUT        where one broke: GET tells how much has come
//! ```
//!
//! A registry that forgot what had come is sent everything again, and one that takes no chunks gets
//! the blob in one request.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::header::{CONTENT_RANGE, HeaderName, RANGE};
use http::{HeaderValue, Method, StatusCode};
use reqwest::Url;
use tokio::time::sleep;
use vocab::Digest;

use super::RequestError;
use super::progress::{LayerState, Teller};
use super::retry::is_unreachable;
use super::session::Session;
use super::transport::{Body, Part, Request, Response};

/// Pause between two reports of the same transfer.
const REPORT: Duration = Duration::from_millis(100);
/// A try that brought this much is not counted as a failed one.
const PROGRESS_BYTES: u64 = 1 << 20;

/// The shortest chunk that a registry takes (distribution-spec 1.1).
const CHUNK_MIN_LENGTH: HeaderName = HeaderName::from_static("oci-chunk-min-length");

/// A blob that is wanted there.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    pub(super) digest: Digest,
    pub(super) size: u64,
    /// Absent if the store does not have it; the registry may.
    pub(super) file: Option<Arc<File>>,
    /// Repositories of the same registry that may have it.
    pub(super) elsewhere: Vec<String>,
    /// How its progress is called; nothing is told where this is absent.
    pub(super) id: Option<String>,
}

/// How a blob came to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Arrived {
    Before,
    Mounted(String),
    Sent,
    /// It did not: it is not here either.
    Missing,
}

/// One blob's way, over as many connections as it takes.
pub(super) struct Upload<'a> {
    session: &'a Session<'a>,
    blob: &'a Outgoing,
    tell: &'a Teller,
    /// Where the next bytes go, and how many have come there.
    place: Option<(Url, u64)>,
    /// Whether the registry takes blobs in pieces.
    chunks: bool,
    /// What one request carries; more goes in several, so that little is lost when one breaks.
    chunk_bytes: u64,
}

impl<'a> Upload<'a> {
    pub(super) fn new(
        session: &'a Session<'a>,
        blob: &'a Outgoing,
        tell: &'a Teller,
        chunk_bytes: u64,
    ) -> Self {
        Self {
            session,
            blob,
            tell,
            place: None,
            chunks: true,
            chunk_bytes,
        }
    }

    pub(super) async fn run(mut self) -> Result<Arrived, RequestError> {
        let mut tries = self.session.tries();
        loop {
            let before = self.sent();
            let error = match self.attempt().await {
                Ok(arrived) => return Ok(arrived),
                Err(error) => error,
            };
            if self.sent() >= before + PROGRESS_BYTES {
                tries.start_over();
            }
            if self.has_another_way(&error) {
                continue;
            }
            // Where nobody is, another place may be asked at once.
            if tries.made() == 0 && before == 0 && is_unreachable(&error) {
                return Err(error);
            }
            let Some(pause) = tries.pause_after(&error) else {
                return Err(error);
            };
            tracing::debug!(blob = %self.blob.digest, ?pause, %error, "the upload goes on after a pause");
            let seconds = pause.as_millis().div_ceil(1000);
            let seconds = u64::try_from(seconds).unwrap_or(u64::MAX);
            self.say(LayerState::Retrying { seconds }).await;
            sleep(pause).await;
        }
    }

    fn sent(&self) -> u64 {
        self.place.as_ref().map_or(0, |(_, offset)| *offset)
    }

    /// Whether the failure is one of chunks, which are not sent from now on.
    fn has_another_way(&mut self, error: &RequestError) -> bool {
        let RequestError::Refused(refusal) = error else {
            return false;
        };
        let of_chunks = matches!(refusal.status.as_u16(), 400 | 404 | 405 | 411 | 416 | 501)
            && self.place.is_some()
            && self.chunks
            && self.blob.size > self.chunk_bytes;
        if of_chunks {
            self.chunks = false;
            self.place = None;
        }
        of_chunks
    }

    async fn attempt(&mut self) -> Result<Arrived, RequestError> {
        if let Some((place, _)) = self.place.take() {
            self.place = self.ask(place).await;
        }
        if self.place.is_none() {
            if self.is_there().await? {
                self.say(LayerState::LayerExists).await;
                return Ok(Arrived::Before);
            }
            if let Some(from) = self.begin().await? {
                self.say(LayerState::Mounted { from: from.clone() }).await;
                return Ok(Arrived::Mounted(from));
            }
        }
        let Some(file) = self.blob.file.clone() else {
            return Ok(Arrived::Missing);
        };
        let short = self.blob.size <= self.chunk_bytes || !self.chunks;
        if self.sent() == 0 && short {
            self.put(Some(file)).await?;
        } else {
            while self.sent() < self.blob.size {
                self.patch(Arc::clone(&file)).await?;
            }
            self.put(None).await?;
        }
        self.say(LayerState::Pushed).await;
        Ok(Arrived::Sent)
    }

    async fn is_there(&self) -> Result<bool, RequestError> {
        let path = format!("blobs/{}", self.blob.digest);
        let request = self.session.request(Method::HEAD, &path)?;
        let response = self.session.answer(&request).await?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(false),
            status if status.is_success() => Ok(true),
            _ => Err(self.session.refused(response, &request).await),
        }
    }

    /// Gets a place to write to, unless the blob can be taken from another repository, which is
    /// then told.
    async fn begin(&mut self) -> Result<Option<String>, RequestError> {
        for from in &self.blob.elsewhere {
            let mut request = self.session.request(Method::POST, "blobs/uploads/")?;
            let digest = self.blob.digest.to_string();
            let query = [("mount", digest.as_str()), ("from", from)];
            request.url.query_pairs_mut().extend_pairs(query);
            let response = self.session.answer(&request).await?;
            match response.status() {
                StatusCode::CREATED => return Ok(Some(from.clone())),
                StatusCode::ACCEPTED => return self.placed(&response).map(|()| None),
                // It may be that we may not read there.
                _ => {}
            }
        }
        if self.blob.file.is_none() {
            return Ok(None);
        }
        let request = self.session.request(Method::POST, "blobs/uploads/")?;
        let response = self.session.send(request).await?;
        self.placed(&response)?;
        let shortest = response.header(&CHUNK_MIN_LENGTH);
        let shortest = shortest.and_then(|length| length.parse().ok()).unwrap_or(0);
        self.chunk_bytes = self.chunk_bytes.max(shortest);
        Ok(None)
    }

    fn placed(&mut self, response: &Response) -> Result<(), RequestError> {
        self.place = Some((self.session.location(response)?, 0));
        Ok(())
    }

    /// How much has come to where we wrote; `None` if that place is gone.
    async fn ask(&self, place: Url) -> Option<(Url, u64)> {
        let request = Request::to(Method::GET, place.clone());
        let response = self.session.send(request).await.ok()?;
        let offset = received(&response)?;
        let next = self.session.location(&response).unwrap_or(place);
        Some((next, offset)).filter(|(_, offset)| *offset <= self.blob.size)
    }

    /// Sends the next chunk.
    async fn patch(&mut self, file: Arc<File>) -> Result<(), RequestError> {
        let Some((place, start)) = self.place.clone() else {
            return Ok(());
        };
        let end = (start + self.chunk_bytes).min(self.blob.size);
        let mut request = Request::to(Method::PATCH, place.clone());
        let range = HeaderValue::try_from(format!("{start}-{}", end - 1));
        request
            .headers
            .insert(CONTENT_RANGE, range.expect("digits are visible"));
        let response = self.carry(request, file, start, end).await?;
        let next = self.session.location(&response).unwrap_or(place);
        self.place = Some((next, end));
        Ok(())
    }

    /// Ends the upload, with everything or with nothing more.
    async fn put(&mut self, file: Option<Arc<File>>) -> Result<(), RequestError> {
        let Some((place, _)) = self.place.clone() else {
            return Ok(());
        };
        let mut request = Request::to(Method::PUT, place);
        let digest = self.blob.digest.to_string();
        request.url.query_pairs_mut().append_pair("digest", &digest);
        let sent = match file {
            Some(file) => self.carry(request, file, 0, self.blob.size).await,
            None => self.session.send(request).await,
        };
        sent.map(drop).inspect_err(|_| {
            // What is there now, if anything, is not known to be ours.
            self.place = None;
        })
    }

    /// Sends a part of the blob, telling how far it is.
    async fn carry(
        &self,
        mut request: Request,
        file: Arc<File>,
        start: u64,
        end: u64,
    ) -> Result<Response, RequestError> {
        let sent = Arc::new(AtomicU64::new(start));
        request.body = Body::Part(Part {
            file,
            start,
            end,
            sent: Arc::clone(&sent),
        });
        let mut answer = std::pin::pin!(self.session.send(request));
        loop {
            if let Ok(answer) = tokio::time::timeout(REPORT, &mut answer).await {
                return answer;
            }
            self.report(sent.load(Ordering::Relaxed));
        }
    }

    fn report(&self, current: u64) {
        if let Some(id) = &self.blob.id {
            let total = self.blob.size;
            let state = LayerState::Pushing { current, total };
            self.tell.layer_if_listened(id, state);
        }
    }

    async fn say(&self, state: LayerState) {
        if let Some(id) = &self.blob.id {
            self.tell.layer(id, state).await;
        }
    }
}

/// The bytes that a registry has, from `Range: 0-9`. Nothing at all is told as `0-0`.
fn received(response: &Response) -> Option<u64> {
    let text = response.header(&RANGE)?;
    let (_, last) = text.trim().trim_start_matches("bytes=").split_once('-')?;
    match last.trim().parse().ok()? {
        0 => Some(0),
        last => u64::checked_add(last, 1),
    }
}
