//! What the daemon says back: JSON as Go writes it, streams, refusals.

use std::convert::Infallible;
use std::io;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Frame;
use serde::Serialize;
use vocab::failure::chain;
use vocab::{Failure, Kind};

/// The body of an answer.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// An answer.
pub(crate) type Answer = Response<Body>;

/// Exactly this, without parameters: the Go client compares the header literally.
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A request that is not done, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// HTTP status.
    pub(crate) status: StatusCode,
    /// One sentence.
    pub(crate) message: String,
}

impl Refusal {
    /// With a sentence of our own.
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            status: status(kind),
            message: message.into(),
        }
    }

    /// The request itself cannot be right.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::InvalidArgument, message)
    }
}

impl<E: Failure + 'static> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self::new(error.kind(), chain(&error))
    }
}

/// What a failure is in HTTP.
fn status(kind: Kind) -> StatusCode {
    match kind {
        Kind::InvalidArgument => StatusCode::BAD_REQUEST,
        Kind::Unauthorized => StatusCode::UNAUTHORIZED,
        Kind::Forbidden => StatusCode::FORBIDDEN,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Conflict => StatusCode::CONFLICT,
        Kind::NotModified => StatusCode::NOT_MODIFIED,
        Kind::NotImplemented => StatusCode::NOT_IMPLEMENTED,
        Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Nothing but a status.
pub(crate) fn empty(status: StatusCode) -> Answer {
    let body = Empty::new().map_err(|never: Infallible| match never {});
    with_status(status, body.boxed_unsync())
}

/// A document, with the newline that Go's encoder writes after it.
pub(crate) fn json(status: StatusCode, document: &impl Serialize) -> Answer {
    let mut bytes = Vec::with_capacity(1024);
    match serde_json::to_writer(&mut bytes, document) {
        Ok(()) => {
            bytes.push(b'\n');
            typed(status, JSON, bytes)
        }
        // Only a map with keys that are no texts can fail, and no type of ours has one.
        Err(error) => refuse(&Refusal::new(Kind::Internal, error.to_string())),
    }
}

/// The same with 200.
pub(crate) fn ok(document: &impl Serialize) -> Answer {
    json(StatusCode::OK, document)
}

/// Text.
pub(crate) fn text(status: StatusCode, text: &str) -> Answer {
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    typed(status, kind, text.as_bytes().to_vec())
}

/// A refusal as clients expect it. "Not modified" has no body.
pub(crate) fn refuse(refusal: &Refusal) -> Answer {
    if refusal.status == StatusCode::NOT_MODIFIED {
        return empty(refusal.status);
    }
    let failure = api::types::Failure {
        message: refusal.message.clone(),
    };
    json(refusal.status, &failure)
}

/// A body that comes piece by piece; the headers go out at once.
pub(crate) fn stream(
    media_type: &'static str,
    pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> Answer {
    let body = StreamBody::new(pieces.map(|piece| piece.map(Frame::data)));
    let mut answer = with_status(StatusCode::OK, body.boxed_unsync());
    let media_type = HeaderValue::from_static(media_type);
    answer.headers_mut().insert(CONTENT_TYPE, media_type);
    answer
}

fn typed(status: StatusCode, media_type: HeaderValue, bytes: Vec<u8>) -> Answer {
    let body = Full::new(Bytes::from(bytes)).map_err(|never: Infallible| match never {});
    let mut answer = with_status(status, body.boxed_unsync());
    answer.headers_mut().insert(CONTENT_TYPE, media_type);
    answer
}

fn with_status(status: StatusCode, body: Body) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer
}
