//! A request on its way to a route: who asked for what, in which version, with which body.

use std::fmt::Display;
use std::io;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use api::query::{truth, truth_or};
use api::{Filters, Version};
use bytes::Bytes;
use http::header::{
    CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, TRANSFER_ENCODING, UPGRADE,
};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde::de::DeserializeOwned;
use vocab::Kind;

use crate::answer::Refusal;
use crate::json;
use crate::listen::Peer;
use crate::router::Names;
use crate::server::Daemon;

/// The most bytes of a JSON body. The largest that clients send are services with many labels and
/// configs of half a megabyte.
pub(crate) const MAX_JSON_BYTES: usize = 8 << 20;

/// The most bytes of a refused request's body that are read before the refusal is sent.
const MAX_DRAINED_BYTES: usize = 64 << 20;

/// How long that may take.
const DRAIN_TIME: Duration = Duration::from_secs(10);

/// A request.
pub(crate) struct Call {
    /// The daemon that was asked.
    pub(crate) daemon: Arc<Daemon>,
    /// The version in the path, or the newest.
    pub(crate) version: Version,
    /// Names in the path.
    pub(crate) names: Names,
    /// The query.
    pub(crate) query: Query,
    /// Headers.
    pub(crate) headers: HeaderMap,
    /// The body, not yet read.
    pub(crate) body: Body,
    /// The connection, for whoever takes it over.
    pub(crate) upgrade: OnUpgrade,
    /// Its other end, where it can be told what that has read.
    pub(crate) peer: Option<Peer>,
}

impl Call {
    /// The engine.
    pub(crate) fn engine(&self) -> &Arc<engine::Engine> {
        &self.daemon.engine
    }

    /// The name in the path. Containers may be named with the slash that lists show.
    pub(crate) fn name(&self) -> &str {
        &self.names.first
    }

    /// Whether the client speaks this version or a newer one.
    pub(crate) fn speaks(&self, minor: u16) -> bool {
        self.version >= Version::new(1, minor)
    }

    /// A header as text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Whether the client wants to take the connection over.
    pub(crate) fn wants_upgrade(&self) -> bool {
        self.headers.contains_key(UPGRADE)
    }

    /// Whether there is a body at all.
    pub(crate) fn has_body(&self) -> bool {
        let length = self.header(CONTENT_LENGTH.as_str());
        length.is_some_and(|length| length.trim() != "0")
            || self.headers.contains_key(TRANSFER_ENCODING)
    }

    /// The `filters` query, with only keys that are known.
    pub(crate) fn filters(&self, known: &[&str]) -> Result<Filters, Refusal> {
        let filters = Filters::parse(self.query.get("filters").unwrap_or_default())?;
        filters.check(known)?;
        Ok(filters)
    }

    /// The body as JSON. None at all is an empty object; unknown members are ignored.
    pub(crate) async fn json<T: DeserializeOwned>(&mut self) -> Result<T, Refusal> {
        if !self.has_body() {
            return json::read(b"");
        }
        let bytes = self.body.gather().await?;
        let media_type = self.header(CONTENT_TYPE.as_str()).unwrap_or_default();
        let essence = media_type.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            return Err(Refusal::invalid(format!(
                "unsupported Content-Type header ({media_type}): must be 'application/json'"
            )));
        }
        json::read(&bytes)
    }

    /// Puts another document in the place of the body.
    pub(crate) fn rewrite(&mut self, document: &impl Serialize) -> Result<(), Refusal> {
        let bytes = serde_json::to_vec(document)
            .map_err(|error| Refusal::new(Kind::Internal, error.to_string()))?;
        self.headers
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.headers
            .insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
        self.body.ready = Some(Bytes::from(bytes));
        Ok(())
    }

    /// Adds the members of a form in the body to the query, as Go's `ParseForm` does.
    pub(crate) async fn read_form(&mut self) -> Result<(), Refusal> {
        let media_type = self.header(CONTENT_TYPE.as_str()).unwrap_or_default();
        if media_type.starts_with("application/x-www-form-urlencoded") {
            let form = self.body.gather().await?;
            let mut query = Query::parse(&String::from_utf8_lossy(&form));
            query.0.append(&mut self.query.0);
            self.query = query;
        }
        Ok(())
    }
}

/// The body of a request. It is read to its end whatever becomes of the request: a client that
/// still writes when the connection closes sees the broken connection instead of the answer.
#[derive(Debug)]
pub(crate) struct Body {
    /// What is read before the rest.
    ready: Option<Bytes>,
    incoming: Option<Incoming>,
    rest: Rest,
}

/// What a handler has left of a body, once it has dropped it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rest(Arc<Mutex<Option<Incoming>>>);

impl Rest {
    fn slot(&self) -> MutexGuard<'_, Option<Incoming>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads it as [`Body::drain`] does.
    pub(crate) async fn drain(&self) {
        let left = self.slot().take();
        if let Some(incoming) = left {
            Body::new(incoming).drain().await;
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Some(incoming) = self.incoming.take() {
            *self.rest.slot() = Some(incoming);
        }
    }
}

impl Body {
    /// One that is coming.
    pub(crate) fn new(incoming: Incoming) -> Self {
        Self {
            ready: None,
            incoming: Some(incoming),
            rest: Rest::default(),
        }
    }

    /// What will be left of it.
    pub(crate) fn rest(&self) -> Rest {
        self.rest.clone()
    }

    /// The whole body, which is bounded; nothing the second time.
    async fn gather(&mut self) -> Result<Vec<u8>, Refusal> {
        let mut all = Vec::new();
        while let Some(piece) = self.next().await {
            let piece =
                piece.map_err(|error| Refusal::invalid(format!("read the body: {error}")))?;
            if all.len() + piece.len() > MAX_JSON_BYTES {
                return Err(Refusal {
                    status: http::StatusCode::PAYLOAD_TOO_LARGE,
                    message: format!("the body is longer than {MAX_JSON_BYTES} bytes"),
                });
            }
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }

    /// The next piece.
    pub(crate) async fn next(&mut self) -> Option<io::Result<Bytes>> {
        if let Some(ready) = self.ready.take() {
            return Some(Ok(ready));
        }
        loop {
            let frame = self.incoming.as_mut()?.frame().await;
            match frame {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Some(Ok(data));
                    }
                }
                Some(Err(error)) => {
                    self.incoming = None;
                    return Some(Err(io::Error::other(error)));
                }
                None => {
                    self.incoming = None;
                    return None;
                }
            }
        }
    }

    /// Reads what is left and forgets it, within limits: who sends more than that, or takes longer,
    /// is not going to read the answer either.
    pub(crate) async fn drain(&mut self) {
        let read = async {
            let mut left = MAX_DRAINED_BYTES;
            while let Some(Ok(piece)) = self.next().await {
                left = left.saturating_sub(piece.len());
                if left == 0 {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(DRAIN_TIME, read).await;
        self.incoming = None;
    }
}

/// The query of a request, decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads `a=b&c`.
    pub(crate) fn parse(text: &str) -> Self {
        let decode = |part: &str| {
            let spaced = part.replace('+', " ");
            percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
        };
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        });
        Self(pairs.collect())
    }

    /// Makes this the only value of `key`.
    pub(crate) fn set(&mut self, key: &str, value: String) {
        self.0.retain(|(name, _)| name != key);
        self.0.push((key.to_owned(), value));
    }

    /// The first value of `key`.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        let found = self.0.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value.as_str())
    }

    /// The first value of `key`, unless it is empty.
    pub(crate) fn said(&self, key: &str) -> Option<&str> {
        self.get(key).filter(|value| !value.is_empty())
    }

    /// All values of `key`.
    pub(crate) fn all<'q>(&'q self, key: &'q str) -> impl Iterator<Item = &'q str> {
        self.0
            .iter()
            .filter(move |(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// A truth value, false unless said otherwise.
    pub(crate) fn flag(&self, key: &str) -> bool {
        truth(self.get(key))
    }

    /// A truth value, `default` unless said otherwise.
    pub(crate) fn flag_or(&self, key: &str, default: bool) -> bool {
        truth_or(self.get(key), default)
    }

    /// A number, if there is one.
    pub(crate) fn number<T: FromStr<Err: Display>>(&self, key: &str) -> Result<Option<T>, Refusal> {
        let Some(text) = self.said(key) else {
            return Ok(None);
        };
        text.parse().map(Some).map_err(|error| {
            Refusal::invalid(format!("invalid value for \"{key}\": \"{text}\": {error}"))
        })
    }

    /// A moment in seconds since 1970 with a fraction, or in RFC 3339.
    pub(crate) fn time(&self, key: &str) -> Result<Option<SystemTime>, Refusal> {
        let Some(text) = self.said(key) else {
            return Ok(None);
        };
        let time = vocab::time::parse_unix(text).or_else(|| vocab::time::parse_rfc3339(text));
        match time {
            Some(time) => Ok(Some(time)),
            None => Err(Refusal::invalid(format!(
                "invalid value for \"{key}\": \"{text}\": seconds since 1970 are wanted"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse("a=b%20c+d&a=2&flag&empty=&=x&u=%C3%BC%FF");
        assert_eq!(query.get("a"), Some("b c d"));
        assert_eq!(query.all("a").count(), 2);
        assert_eq!(query.get("flag"), Some(""));
        assert_eq!(query.said("empty"), None);
        assert_eq!(query.get("u"), Some("ü\u{fffd}"));
        assert!(!query.flag("flag"));
        assert!(query.flag_or("nope", true));
    }

    #[test]
    fn numbers_and_moments_are_read_or_refused() {
        let query = Query::parse("n=3&x=three&t=1700000000.5&r=2023-11-14T22:13:20Z");
        assert_eq!(query.number::<u16>("n").unwrap(), Some(3));
        assert_eq!(query.number::<u16>("absent").unwrap(), None);
        assert!(query.number::<u16>("x").is_err());
        assert!(query.time("x").is_err());
        assert!(query.time("t").unwrap() > query.time("r").unwrap());
    }
}
