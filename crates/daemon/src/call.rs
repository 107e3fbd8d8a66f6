//! A request on its way to a route: who asked for what, in which version, with which body.

use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use api::query::{truth, truth_or};
use api::{Filters, Version};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, TRANSFER_ENCODING, UPGRADE};
use http_body_util::{BodyExt, BodyStream};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;

use crate::answer::Refusal;
use crate::router::Names;
use crate::server::Daemon;

/// The most bytes of a JSON body. The largest that clients send are services with many labels and
/// configs of half a megabyte.
pub(crate) const MAX_JSON_BYTES: usize = 8 << 20;

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
    pub(crate) body: Incoming,
    /// The connection, for whoever takes it over.
    pub(crate) upgrade: OnUpgrade,
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
    fn has_body(&self) -> bool {
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
            return read_json(b"{}");
        }
        let media_type = self.header(CONTENT_TYPE.as_str()).unwrap_or_default();
        let essence = media_type.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            return Err(Refusal::invalid(format!(
                "unsupported Content-Type header ({media_type}): must be 'application/json'"
            )));
        }
        let bytes = self.bytes(MAX_JSON_BYTES).await?;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return read_json(b"{}");
        }
        read_json(&bytes)
    }

    /// The whole body, of which there may be `limit` bytes.
    pub(crate) async fn bytes(&mut self, limit: usize) -> Result<Vec<u8>, Refusal> {
        let mut all = Vec::new();
        while let Some(frame) = self.body.frame().await {
            let frame =
                frame.map_err(|error| Refusal::invalid(format!("read the body: {error}")))?;
            if let Ok(data) = frame.into_data() {
                if all.len() + data.len() > limit {
                    return Err(Refusal {
                        status: http::StatusCode::PAYLOAD_TOO_LARGE,
                        message: format!("the body is longer than {limit} bytes"),
                    });
                }
                all.extend_from_slice(&data);
            }
        }
        Ok(all)
    }

    /// The body piece by piece.
    pub(crate) fn into_pieces(self) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
        BodyStream::new(self.body).filter_map(|frame| async {
            match frame {
                Ok(frame) => frame.into_data().ok().map(Ok),
                Err(error) => Some(Err(std::io::Error::other(error))),
            }
        })
    }

    /// Adds the members of a form in the body to the query, as Go's `ParseForm` does.
    pub(crate) async fn read_form(&mut self) -> Result<(), Refusal> {
        let media_type = self.header(CONTENT_TYPE.as_str()).unwrap_or_default();
        if self.has_body() && media_type.starts_with("application/x-www-form-urlencoded") {
            let body = self.bytes(MAX_JSON_BYTES).await?;
            let mut query = Query::parse(&String::from_utf8_lossy(&body));
            query.0.append(&mut self.query.0);
            self.query = query;
        }
        Ok(())
    }
}

fn read_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    vocab::config::read(bytes).map_err(|error| {
        let text = error.to_string();
        if text.starts_with("trailing characters") {
            Refusal::invalid("unexpected content after JSON")
        } else {
            Refusal::invalid(format!("invalid JSON: {text}"))
        }
    })
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

    #[test]
    fn bodies_are_read_as_gos_decoder_reads_them() {
        #[derive(Debug, Default, serde::Deserialize)]
        #[serde(default)]
        struct Body {
            a: String,
        }
        let read = |text: &str| read_json::<Body>(text.as_bytes()).map(|body| body.a);
        assert_eq!(read(r#"{"a":"x","unknown":1}"#), Ok("x".to_owned()));
        assert_eq!(read(r#"{"a":null}"#), Ok(String::new()));
        assert_eq!(
            read(r#"{"a":"x"} {"#).unwrap_err().message,
            "unexpected content after JSON"
        );
        assert!(
            read(r#"{"a":"#)
                .unwrap_err()
                .message
                .starts_with("invalid JSON: ")
        );
        assert!(read(r#"{"a":1}"#).is_err());
    }
}
