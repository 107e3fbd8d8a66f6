//! Requests and replies, without any knowledge of registries: TLS, redirects, bounded bodies.
//!
//! Redirects are followed here rather than by `reqwest`, because each hop is judged by its own host:
//! whether its certificate is verified, and whether it sees the `Authorization` header. Only the
//! origin that was asked ever does.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use reqwest::{Certificate, Identity, NoProxy, Proxy, Url, redirect};
use serde::Deserialize;

use super::challenge::Challenge;
use super::hosts::{Hosts, is_loopback};
use super::{Config, NewClientError, Proxies, Refusal, RequestError};

/// How long a host may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(15);
/// The same where TLS is only tried: a server of plain HTTP may wait for more of what it does not
/// understand.
const CONNECT_UNSURE: Duration = Duration::from_secs(5);
/// Silences that a registry may keep when it has a whole blob and checks it.
const CHECKING: u32 = 5;
/// Hops from the registry to where its bytes are; one is usual.
const REDIRECTS: usize = 5;
/// Bytes of an error document that are read.
const REFUSAL_BYTES: u64 = 64 * 1024;
/// Characters of a registry's words that are shown.
const MESSAGE_LENGTH: usize = 500;
/// Bytes read at once of what is sent.
const PIECE_BYTES: u64 = 256 << 10;
/// Bytes in flight for one HTTP/2 stream; the default of 64 kB is too few for a long line.
const WINDOW_BYTES: u32 = 2 << 20;

/// Connections of all kinds.
#[derive(Debug)]
pub(super) struct Transport {
    pub(super) hosts: Hosts,
    user_agent: String,
    silence: Duration,
    certs_dirs: Vec<PathBuf>,
    proxies: Vec<Proxy>,
    clients: Mutex<HashMap<Manner, reqwest::Client>>,
}

/// How a host is spoken to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Manner {
    /// It may be silent while it takes what is sent.
    sending: bool,
    /// Its certificate has to be valid.
    verified: bool,
    /// It is reached through the proxy that the environment names, if it names one.
    proxied: bool,
    /// It has roots or a client certificate of its own here.
    certificates: Option<PathBuf>,
}

/// What is asked.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    /// Shown to the origin of `url` and to nobody else.
    pub(super) authorization: Option<HeaderValue>,
    /// What goes along; a request with something is not redirected.
    pub(super) body: Body,
}

impl Request {
    pub(super) fn new(method: Method, address: &str) -> Result<Self, RequestError> {
        let url = Url::parse(address).map_err(|_| RequestError::Address {
            url: address.to_owned(),
        })?;
        Ok(Self::to(method, url))
    }

    /// The same for an address that was read.
    pub(super) fn to(method: Method, url: Url) -> Self {
        Self {
            method,
            url,
            headers: HeaderMap::new(),
            authorization: None,
            body: Body::Empty,
        }
    }
}

/// What goes along with a request. It can be sent several times.
#[derive(Clone, Debug)]
pub(super) enum Body {
    Empty,
    Form(String),
    /// A document; its type is a header.
    Bytes(Bytes),
    Part(Part),
}

/// Some bytes of a file.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) file: Arc<File>,
    pub(super) start: u64,
    pub(super) end: u64,
    /// Where in the file the bytes end that were handed to the connection.
    pub(super) sent: Arc<AtomicU64>,
}

impl Body {
    fn put(&self, builder: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match self {
            Self::Empty => builder,
            Self::Form(form) => builder
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(form.clone()),
            Self::Bytes(bytes) => builder.body(bytes.clone()),
            Self::Part(part) => builder
                .header(CONTENT_TYPE, "application/octet-stream")
                .header(CONTENT_LENGTH, part.end - part.start)
                .body(part.stream()),
        }
    }
}

impl Part {
    fn stream(&self) -> reqwest::Body {
        self.sent.store(self.start, Ordering::Relaxed);
        let pieces = stream::try_unfold((self.clone(), self.start), |(part, at)| async move {
            part.sent.store(at, Ordering::Relaxed);
            if at == part.end {
                return Ok(None);
            }
            let length = PIECE_BYTES.min(part.end - at);
            let file = Arc::clone(&part.file);
            let read = move || {
                let mut piece = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
                file.read_exact_at(&mut piece, at).map(|()| piece)
            };
            let piece = Bytes::from(tasks::blocking(read).await?);
            Ok::<_, io::Error>(Some((piece, (part, at + length))))
        });
        reqwest::Body::wrap_stream(pieces)
    }
}

/// What came back; its body is still to come.
#[derive(Debug)]
pub(super) struct Response {
    inner: reqwest::Response,
    pub(super) method: Method,
    /// Where the request went first, without its query.
    pub(super) url: String,
    /// Whether the answer is of another origin than the one asked: then it is not entitled to ask
    /// for a proof.
    pub(super) elsewhere: bool,
}

impl Transport {
    pub(super) fn new(config: &Config, hosts: Hosts) -> Result<Self, NewClientError> {
        Ok(Self {
            hosts,
            proxies: proxies(&config.proxies)?,
            user_agent: config.user_agent.clone(),
            silence: config.silence,
            certs_dirs: config.certs_dirs.clone(),
            clients: Mutex::default(),
        })
    }

    /// Sends a request and follows where it leads.
    pub(super) async fn send(&self, request: &Request) -> Result<Response, RequestError> {
        let shown = shown(&request.url);
        let mut url = request.url.clone();
        for _ in 0..=REDIRECTS {
            let elsewhere = url.origin() != request.url.origin();
            let sending = matches!(request.body, Body::Part(_));
            let client = self.client(&url, sending).await?;
            let mut builder = client
                .request(request.method.clone(), url.clone())
                .headers(request.headers.clone());
            if let Some(proof) = request.authorization.clone().filter(|_| !elsewhere) {
                builder = builder.header(AUTHORIZATION, proof);
            }
            builder = request.body.put(builder);
            let answer = self.patiently(&request.body, builder.send()).await;
            let answer = answer.ok_or_else(|| RequestError::Stalled {
                method: request.method.clone(),
                url: shown.clone(),
            })?;
            let response = answer.map_err(|source| RequestError::Send {
                method: request.method.clone(),
                url: shown.clone(),
                source: source.without_url(),
            })?;
            match self.find_redirect(request, &url, &response)? {
                Some(next) => url = next,
                None => {
                    return Ok(Response {
                        inner: response,
                        method: request.method.clone(),
                        url: shown,
                        elsewhere,
                    });
                }
            }
        }
        Err(RequestError::Redirects {
            url: shown,
            limit: REDIRECTS,
        })
    }

    /// Waits for an answer as long as a body that is sent meanwhile moves; `None` if nothing does.
    async fn patiently<T>(&self, body: &Body, answer: impl Future<Output = T>) -> Option<T> {
        let mut answer = std::pin::pin!(answer);
        let Body::Part(part) = body else {
            return Some(answer.await);
        };
        let (mut before, mut silent) = (part.start, 0);
        loop {
            if let Ok(answer) = tokio::time::timeout(self.silence, &mut answer).await {
                return Some(answer);
            }
            let sent = part.sent.load(Ordering::Relaxed);
            silent = if sent == before { silent + 1 } else { 0 };
            before = sent;
            // Who has everything may take its time to check it.
            let most = if sent == part.end { CHECKING } else { 1 };
            if silent >= most {
                return None;
            }
        }
    }

    /// Where a response points, if it points somewhere.
    fn find_redirect(
        &self,
        request: &Request,
        url: &Url,
        response: &reqwest::Response,
    ) -> Result<Option<Url>, RequestError> {
        let followed = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308)
            && matches!(request.body, Body::Empty);
        let Some(location) = response.headers().get(LOCATION).filter(|_| followed) else {
            return Ok(None);
        };
        let refused = |to: String| RequestError::Redirect {
            url: shown(&request.url),
            to: clean(&to, MESSAGE_LENGTH),
        };
        let location = String::from_utf8_lossy(location.as_bytes());
        let next = url
            .join(&location)
            .map_err(|_| refused(location.into_owned()))?;
        let http = next.scheme() == "http";
        let downgrade = http && url.scheme() == "https" && !self.hosts.is_insecure(&next);
        let userinfo = !next.username().is_empty() || next.password().is_some();
        if !(http || next.scheme() == "https") || downgrade || userinfo {
            return Err(refused(shown(&next)));
        }
        Ok(Some(next))
    }

    /// The connections to use for the host of `url`.
    async fn client(&self, url: &Url, sending: bool) -> Result<reqwest::Client, RequestError> {
        let manner = Manner {
            sending,
            verified: url.scheme() == "https" && !self.hosts.is_insecure(url),
            proxied: !is_loopback(url),
            certificates: self.certificates_of(url),
        };
        let clients = || self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients().get(&manner) {
            return Ok(client.clone());
        }
        // Reading the host's certificates takes some milliseconds of file access.
        let (user_agent, silence) = (self.user_agent.clone(), self.silence);
        let (building, proxies) = (manner.clone(), self.proxies.clone());
        let client = tasks::blocking(move || build(&building, &user_agent, silence, proxies))
            .await
            .map_err(|source| RequestError::Tls {
                host: url.authority().to_owned(),
                source,
            })?;
        Ok(clients().entry(manner).or_insert(client).clone())
    }

    /// `certs.d/<host[:port]>`, if it is there; the port only as the reference would write it.
    fn certificates_of(&self, url: &Url) -> Option<PathBuf> {
        if url.scheme() != "https" {
            return None;
        }
        let host = match url.port() {
            Some(port) => format!("{}:{port}", url.host_str()?),
            None => url.host_str()?.to_owned(),
        };
        let mut directories = self
            .certs_dirs
            .iter()
            .map(|directory| directory.join(&host));
        directories.find(|directory| directory.is_dir())
    }
}

/// What `reqwest`, the files and we ourselves say about TLS settings.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

fn build(
    manner: &Manner,
    user_agent: &str,
    silence: Duration,
    proxies: Vec<Proxy>,
) -> Result<reqwest::Client, BoxError> {
    let patience = if manner.verified {
        CONNECT
    } else {
        CONNECT_UNSURE
    };
    let mut builder = reqwest::Client::builder()
        .user_agent(user_agent)
        .redirect(redirect::Policy::none())
        .referer(false)
        .connect_timeout(patience)
        .http2_initial_stream_window_size(WINDOW_BYTES)
        .http2_initial_connection_window_size(4 * WINDOW_BYTES);
    if !manner.sending {
        builder = builder.read_timeout(silence);
    }
    if !manner.proxied || !proxies.is_empty() {
        builder = builder.no_proxy();
    }
    for proxy in proxies.into_iter().filter(|_| manner.proxied) {
        builder = builder.proxy(proxy);
    }
    if !manner.verified {
        builder = builder.tls_danger_accept_invalid_certs(true);
    }
    if let Some(directory) = &manner.certificates {
        builder = with_certificates(builder, directory)?;
    }
    Ok(builder.build()?)
}

/// The proxies that were named; what was not, is what the environment says. None if none was.
fn proxies(config: &Proxies) -> Result<Vec<Proxy>, NewClientError> {
    if *config == Proxies::default() {
        return Ok(Vec::new());
    }
    let or_environment = |named: &Option<String>, variables: [&str; 2]| {
        let found = || variables.iter().find_map(|name| std::env::var(name).ok());
        let address = named.clone().or_else(found);
        address.filter(|address| !address.is_empty())
    };
    let none_for = or_environment(&config.none_for, ["NO_PROXY", "no_proxy"]);
    let none_for = none_for.as_deref().and_then(NoProxy::from_string);
    let http = or_environment(&config.http, ["HTTP_PROXY", "http_proxy"]);
    let https = or_environment(&config.https, ["HTTPS_PROXY", "https_proxy"]);
    let http = http.map(|address| (Proxy::http(&address), address));
    let https = https.map(|address| (Proxy::https(&address), address));
    let named = http.into_iter().chain(https);
    named
        .map(|(proxy, entry)| match proxy {
            Ok(proxy) => Ok(proxy.no_proxy(none_for.clone())),
            Err(source) => Err(NewClientError::Proxy { entry, source }),
        })
        .collect()
}

/// Roots (`*.crt`) and the client's own pair (`*.cert`, `*.key`), as Docker lays them out.
fn with_certificates(
    mut builder: reqwest::ClientBuilder,
    directory: &Path,
) -> Result<reqwest::ClientBuilder, BoxError> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => {
                let roots = Certificate::from_pem_bundle(&read(&path)?)?;
                if roots.is_empty() {
                    return Err(format!("`{}` holds no certificate", path.display()).into());
                }
                builder = builder.tls_certs_merge(roots);
            }
            Some("cert") => {
                let pair = [read(&path)?, read(&path.with_extension("key"))?].join(&b'\n');
                builder = builder.identity(Identity::from_pem(&pair)?);
            }
            _ => {}
        }
    }
    Ok(builder)
}

fn read(path: &Path) -> Result<Vec<u8>, BoxError> {
    std::fs::read(path).map_err(|error| format!("read `{}`: {error}", path.display()).into())
}

impl Response {
    pub(super) fn status(&self) -> StatusCode {
        self.inner.status()
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        self.inner.headers()
    }

    /// A header as text, if it is there and is text.
    pub(super) fn header(&self, name: &http::HeaderName) -> Option<&str> {
        self.inner.headers().get(name)?.to_str().ok()
    }

    /// The next piece of the body.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, RequestError> {
        let chunk = self.inner.chunk().await;
        chunk.map_err(|source| RequestError::Receive {
            method: self.method.clone(),
            url: self.url.clone(),
            source: source.without_url(),
        })
    }

    /// The whole body, if it is not longer than `limit_bytes`.
    pub(super) async fn body(&mut self, limit_bytes: u64) -> Result<Vec<u8>, RequestError> {
        let too_big = || RequestError::TooBig {
            url: self.url.clone(),
            limit_bytes,
        };
        if self.inner.content_length().is_some_and(|n| n > limit_bytes) {
            return Err(too_big());
        }
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if body.len() as u64 + chunk.len() as u64 > limit_bytes {
                return Err(RequestError::TooBig {
                    url: self.url.clone(),
                    limit_bytes,
                });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// Reads a reply that is a "no".
    pub(super) async fn refusal(mut self) -> Refusal {
        let status = self.status();
        let retry_after = retry_after(self.headers());
        // A proof that was not good enough is told in the challenge (RFC 6750 §3), not in the body.
        let oauth = Challenge::all(self.headers())
            .iter()
            .filter(|challenge| challenge.scheme == "bearer")
            .find_map(|challenge| {
                let (code, usual) = match challenge.parameter("error")? {
                    "insufficient_scope" => {
                        ("DENIED", "requested access to the resource is denied")
                    }
                    "invalid_token" => ("UNAUTHORIZED", "authentication required"),
                    _ => return None,
                };
                let said = challenge.parameter("error_description").unwrap_or(usual);
                Some((code.to_owned(), said.to_owned()))
            });
        let body = self.body(REFUSAL_BYTES).await.unwrap_or_default();
        let (code, message) = match oauth {
            Some((code, message)) => (Some(code), message),
            None => read_refusal(status, &body),
        };
        Refusal {
            status,
            code,
            message: clean(&message, MESSAGE_LENGTH),
            retry_after,
        }
    }
}

/// The error document of the distribution specification, and the two habits of token servers.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ErrorDocument {
    errors: Vec<ErrorEntry>,
    details: Option<String>,
    error_description: Option<String>,
    message: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ErrorEntry {
    code: String,
    message: Option<String>,
}

fn read_refusal(status: StatusCode, body: &[u8]) -> (Option<String>, String) {
    let document: ErrorDocument = serde_json::from_slice(body).unwrap_or_default();
    let code = match status.as_u16() {
        401 => Some("UNAUTHORIZED".to_owned()),
        403 => Some("DENIED".to_owned()),
        429 => Some("TOOMANYREQUESTS".to_owned()),
        _ => None,
    };
    if let Some(entry) = document.errors.into_iter().next() {
        let given = clean(&entry.code, 64);
        let code = if given.is_empty() { code } else { Some(given) };
        return (code, entry.message.unwrap_or_default());
    }
    let message = document
        .details
        .or(document.error_description)
        .or(document.message);
    let usual = match status.as_u16() {
        401 => "authentication required",
        403 => "requested access to the resource is denied",
        _ => "",
    };
    (code, message.unwrap_or_else(|| usual.to_owned()))
}

/// How long the server wants to be left alone: seconds, or a date (RFC 9110 §10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::DateTimeParser::new()
        .parse_timestamp(text)
        .ok()?;
    let wait = at.duration_since(jiff::Timestamp::now());
    Some(wait.unsigned_abs()).filter(|_| wait.is_positive())
}

/// An address without its query, which may carry a signature.
pub(super) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}

/// A stranger's words on one line, without what could drive a terminal.
pub(super) fn clean(text: &str, length: usize) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(length)
        .collect::<String>()
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(status: u16, body: &str, printed: &str) {
        let status = StatusCode::from_u16(status).unwrap();
        let (code, message) = read_refusal(status, body.as_bytes());
        let refusal = Refusal {
            status,
            code,
            message,
            retry_after: None,
        };
        assert_eq!(refusal.to_string(), printed);
    }

    #[test]
    fn a_refusal_prints_as_dockers_does() {
        check(
            404,
            r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{}}]}"#,
            "manifest unknown: manifest unknown",
        );
        check(401, "", "unauthorized: authentication required");
        check(
            401,
            r#"{"details":"incorrect username or password"}"#,
            "unauthorized: incorrect username or password",
        );
        check(
            403,
            "<html>",
            "denied: requested access to the resource is denied",
        );
        check(502, "<html>", "unexpected status 502 Bad Gateway");
        check(404, r#"{"errors":[]}"#, "unexpected status 404 Not Found");
    }

    #[test]
    fn a_server_says_when_to_come_back() {
        let headers = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_str(text).unwrap());
            headers
        };
        assert_eq!(retry_after(&headers("7")), Some(Duration::from_secs(7)));
        assert_eq!(retry_after(&headers("soon")), None);
        let past = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(retry_after(&headers(past)), None);
        let future = "Fri, 06 Nov 2093 08:49:37 GMT";
        assert!(retry_after(&headers(future)) > Some(Duration::from_secs(1_000_000)));
    }

    #[test]
    fn words_of_a_registry_cannot_drive_a_terminal() {
        assert_eq!(clean("a\x1b[31mb\nc\u{9b}d", 100), "a [31mb c d");
        assert_eq!(clean("abc", 2), "ab");
    }

    #[test]
    fn a_signature_in_an_address_is_not_shown() {
        let url = Url::parse("https://x/y?X-Amz-Signature=secret#z").unwrap();
        assert_eq!(shown(&url), "https://x/y");
    }
}
