//! The asynchronous client of the Engine API, over unix sockets and TCP.
//!
//! ```text
//! Client::connect("unix:///run/berth.sock")     HEAD /_ping decides the version
//!   .get("/containers/json").query("all", 1)    a Call is filled in …
//!   .read::<Vec<ContainerSummary>>().await      … and sent: read, text, done, stream or hijack
//! ```
//!
//! Every call has a connection of its own, which lives as long as what the call returned: a client
//! owns no task and no pool, so dropping an answer ends the request. An answer of 400 and above is
//! an [`CallError::Api`] with the daemon's own sentence.

use std::fmt::Display;
use std::future::poll_fn;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::header::{self, HeaderMap, HeaderName};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::stream;
use crate::types::Failure;
use crate::version::{self, Version};

/// Where `berth daemon` listens unless told otherwise.
pub const DEFAULT_HOST: &str = "unix:///run/berth.sock";

/// The most bytes of an answer that is gathered in memory.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// Everything but what RFC 3986 calls unreserved.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// The same for paths, where names keep their `/` and `:` and digests their `@`.
const PATH: &AsciiSet = &QUERY.remove(b'/').remove(b':').remove(b'@');

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The text after `-H` or in `DOCKER_HOST`.
    #[error("`{0}` is not an address: unix:///path or tcp://host:port is wanted")]
    Address(String),
    /// Nobody listens there, or we may not ask.
    #[error("connect to the daemon at {address}")]
    Connect {
        /// Where.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// The daemon refused; its own words.
    #[error("{message}")]
    Api {
        /// HTTP status.
        status: StatusCode,
        /// What the daemon says.
        message: String,
    },
    /// The connection broke, or what answers is no daemon.
    #[error("talk to the daemon")]
    Http(#[source] hyper::Error),
    /// The request itself cannot be written.
    #[error("write the request")]
    Request(#[source] http::Error),
    /// Bytes of a connection that was taken over.
    #[error("read from the daemon")]
    Read(#[source] io::Error),
    /// The answer is not the JSON that was expected.
    #[error("understand the daemon's answer to {path}")]
    Answer {
        /// What was asked.
        path: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The request body is not JSON; a bug of the caller's types.
    #[error("write the request as JSON")]
    Body(#[source] serde_json::Error),
    /// The answer is longer than anything the daemon says in one piece.
    #[error("the daemon's answer is longer than {MAX_ANSWER_BYTES} bytes")]
    TooLong,
    /// A connection could not be taken over.
    #[error("unable to upgrade to tcp, received {0}")]
    NotUpgraded(StatusCode),
}

impl CallError {
    /// The status of a refusal, if it was one.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Api { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether what was named is not there.
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(StatusCode::NOT_FOUND)
    }
}

/// Where a daemon listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A socket in the file system.
    Unix(PathBuf),
    /// `host:port`.
    Tcp(String),
}

impl FromStr for Address {
    type Err = CallError;

    fn from_str(text: &str) -> Result<Self, CallError> {
        let wrong = || CallError::Address(text.to_owned());
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        match scheme {
            "unix" if !rest.is_empty() => Ok(Self::Unix(PathBuf::from(rest))),
            "tcp" | "http" if !rest.is_empty() && !rest.contains('/') => {
                let (host, port) = match rest.rsplit_once(':') {
                    Some((host, port)) if !port.contains(']') => (host, port),
                    _ => (rest, "2375"),
                };
                let host = if host.is_empty() { "localhost" } else { host };
                port.parse::<u16>().map_err(|_| wrong())?;
                Ok(Self::Tcp(format!("{host}:{port}")))
            }
            _ => Err(wrong()),
        }
    }
}

impl Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(host) => write!(f, "tcp://{host}"),
        }
    }
}

/// A daemon that answered, and the version both speak.
#[derive(Clone, Debug)]
pub struct Client {
    address: Address,
    version: Version,
    headers: HeaderMap,
}

/// What `_ping` says in its headers.
#[derive(Clone, Debug, Default)]
pub struct Ping {
    /// The newest version that the daemon speaks.
    pub api_version: Option<Version>,
    /// `linux`.
    pub os_type: String,
    /// Whether experimental features are on.
    pub experimental: bool,
    /// `2` when the daemon has BuildKit.
    pub builder_version: String,
    /// State of the swarm, such as `inactive`.
    pub swarm: String,
    /// Name and version of the server.
    pub server: String,
}

impl Client {
    /// Connects to the daemon at `host` (`unix:///path` or `tcp://host:port`) and agrees on a
    /// version.
    pub async fn connect(host: &str) -> Result<Self, CallError> {
        let mut client = Self::new(host.parse()?, version::NEWEST);
        let ping = client.ping().await?;
        client.version = version::NEWEST.negotiate(ping.api_version);
        Ok(client)
    }

    /// A client that speaks `version` without asking.
    pub fn new(address: Address, version: Version) -> Self {
        Self {
            address,
            version,
            headers: HeaderMap::new(),
        }
    }

    /// The version that is spoken.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Where the daemon is.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Sends `name: value` with every call (`HttpHeaders` of Docker's config.json).
    pub fn add_header(&mut self, name: HeaderName, value: HeaderValue) {
        self.headers.append(name, value);
    }

    /// Whether the daemon is there, and what it says of itself.
    pub async fn ping(&self) -> Result<Ping, CallError> {
        let head = Call::new(self, Method::HEAD, "/_ping".to_owned())
            .send()
            .await;
        let answer = match head {
            // Very old daemons know only GET.
            Err(CallError::Api { .. }) => {
                Call::new(self, Method::GET, "/_ping".to_owned())
                    .send()
                    .await?
            }
            other => other?,
        };
        let text = |name: &str| {
            let value = answer
                .headers
                .get(name)
                .and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        Ok(Ping {
            api_version: text("Api-Version").parse().ok(),
            os_type: text("Ostype"),
            experimental: text("Docker-Experimental") == "true",
            builder_version: text("Builder-Version"),
            swarm: text("Swarm"),
            server: text("Server"),
        })
    }

    /// A call of `path`, which has no version in front and is percent-encoded here, slashes and
    /// colons excepted.
    pub fn call(&self, method: Method, path: impl Display) -> Call<'_> {
        let path = path.to_string();
        let target = format!("/v{}{}", self.version, utf8_percent_encode(&path, PATH));
        Call::new(self, method, target)
    }

    /// GET `path`.
    pub fn get(&self, path: impl Display) -> Call<'_> {
        self.call(Method::GET, path)
    }

    /// POST `path`.
    pub fn post(&self, path: impl Display) -> Call<'_> {
        self.call(Method::POST, path)
    }

    /// HEAD `path`.
    pub fn head(&self, path: impl Display) -> Call<'_> {
        self.call(Method::HEAD, path)
    }

    /// PUT `path`.
    pub fn put(&self, path: impl Display) -> Call<'_> {
        self.call(Method::PUT, path)
    }

    /// DELETE `path`.
    pub fn delete(&self, path: impl Display) -> Call<'_> {
        self.call(Method::DELETE, path)
    }

    async fn dial(&self) -> Result<Socket, CallError> {
        let failed = |source| CallError::Connect {
            address: self.address.to_string(),
            source,
        };
        match &self.address {
            Address::Unix(path) => {
                let socket = UnixStream::connect(path).await.map_err(failed)?;
                Ok(Socket::Unix(socket))
            }
            Address::Tcp(host) => {
                let socket = TcpStream::connect(host).await.map_err(failed)?;
                socket.set_nodelay(true).map_err(failed)?;
                Ok(Socket::Tcp(socket))
            }
        }
    }
}

type RequestBody = UnsyncBoxBody<Bytes, io::Error>;

/// A call that is being filled in.
#[must_use = "a call does nothing until it is sent"]
pub struct Call<'c> {
    client: &'c Client,
    method: Method,
    target: String,
    headers: HeaderMap,
    body: Result<RequestBody, CallError>,
}

impl<'c> Call<'c> {
    fn new(client: &'c Client, method: Method, target: String) -> Self {
        Self {
            client,
            method,
            target,
            headers: client.headers.clone(),
            body: Ok(no_body()),
        }
    }

    /// Adds a query parameter.
    pub fn query(mut self, key: &str, value: impl Display) -> Self {
        let separator = if self.target.contains('?') { '&' } else { '?' };
        let value = value.to_string();
        let value = utf8_percent_encode(&value, QUERY);
        self.target.push_str(&format!(
            "{separator}{}={value}",
            utf8_percent_encode(key, QUERY)
        ));
        self
    }

    /// Adds a query parameter if there is a value.
    pub fn query_some(self, key: &str, value: Option<impl Display>) -> Self {
        match value {
            Some(value) => self.query(key, value),
            None => self,
        }
    }

    /// Adds `key=1` if `on`.
    pub fn flag(self, key: &str, on: bool) -> Self {
        if on { self.query(key, 1) } else { self }
    }

    /// Adds the `filters` query unless there are none.
    pub fn filters(self, filters: &crate::Filters) -> Self {
        if filters.is_empty() {
            self
        } else {
            self.query("filters", filters.to_query())
        }
    }

    /// Adds a header, such as `X-Registry-Auth`. A value that no header may carry fails the call.
    pub fn header(mut self, name: HeaderName, value: &str) -> Self {
        match HeaderValue::from_str(value) {
            Ok(value) => {
                self.headers.insert(name, value);
            }
            Err(error) => self.body = Err(CallError::Request(error.into())),
        }
        self
    }

    /// Sends `document` as JSON.
    pub fn json(mut self, document: &impl Serialize) -> Self {
        let json = HeaderValue::from_static("application/json");
        self.headers.insert(header::CONTENT_TYPE, json);
        self.body = match serde_json::to_vec(document) {
            Ok(json) => Ok(Full::new(json.into())
                .map_err(|never| match never {})
                .boxed_unsync()),
            Err(error) => Err(CallError::Body(error)),
        };
        self
    }

    /// Sends bytes as they come, such as a tar.
    pub fn body(
        mut self,
        media_type: &'static str,
        pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Self {
        let media_type = HeaderValue::from_static(media_type);
        self.headers.insert(header::CONTENT_TYPE, media_type);
        self.body = Ok(StreamBody::new(pieces.map(|piece| piece.map(Frame::data))).boxed_unsync());
        self
    }

    /// Sends it and returns as soon as the headers of the answer are there.
    pub async fn send(self) -> Result<Answer, CallError> {
        let answer = self.exchange().await?;
        if answer.status.is_client_error() || answer.status.is_server_error() {
            return Err(answer.into_refusal().await);
        }
        Ok(answer)
    }

    /// Sends it and reads the JSON of the answer, where `null` counts as absent.
    pub async fn read<T: DeserializeOwned>(self) -> Result<T, CallError> {
        let path = self.target.clone();
        let bytes = self.bytes().await?;
        vocab::config::read(&bytes).map_err(|source| CallError::Answer { path, source })
    }

    /// Sends it and gathers the answer as it came.
    pub async fn bytes(self) -> Result<Bytes, CallError> {
        self.send().await?.gather().await
    }

    /// Sends it, reads the answer to its end and tells only the status (304 is how a daemon says
    /// that nothing had to be done).
    pub async fn done(self) -> Result<StatusCode, CallError> {
        let mut answer = self.send().await?;
        while answer.next().await.transpose()?.is_some() {}
        Ok(answer.status)
    }

    /// Sends it and takes the connection over: what follows are bytes in both directions.
    pub async fn hijack(mut self) -> Result<Hijacked, CallError> {
        let upgrade = HeaderValue::from_static("Upgrade");
        self.headers.insert(header::CONNECTION, upgrade);
        let tcp = HeaderValue::from_static("tcp");
        self.headers.insert(header::UPGRADE, tcp);
        let answer = self.exchange().await?;
        match answer.status {
            StatusCode::SWITCHING_PROTOCOLS => answer.into_hijacked().await,
            status if status.is_client_error() || status.is_server_error() => {
                Err(answer.into_refusal().await)
            }
            status => Err(CallError::NotUpgraded(status)),
        }
    }

    async fn exchange(self) -> Result<Answer, CallError> {
        let mut request = Request::new(self.body?);
        *request.method_mut() = self.method;
        *request.uri_mut() = self
            .target
            .parse()
            .map_err(|error: http::uri::InvalidUri| CallError::Request(error.into()))?;
        *request.headers_mut() = self.headers;
        let host = match &self.client.address {
            Address::Unix(_) => HeaderValue::from_static("localhost"),
            Address::Tcp(host) => {
                HeaderValue::from_str(host).map_err(|error| CallError::Request(error.into()))?
            }
        };
        request.headers_mut().insert(header::HOST, host);
        let agent = concat!("berth/", env!("CARGO_PKG_VERSION"), " (linux)");
        request
            .headers_mut()
            .insert(header::USER_AGENT, HeaderValue::from_static(agent));

        let socket = self.client.dial().await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket))
            .await
            .map_err(CallError::Http)?;
        let mut connection = Connection::Running(Box::pin(connection.with_upgrades()));
        let mut sending = std::pin::pin!(sender.send_request(request));
        let mut response = poll_fn(|context| {
            connection.drive(context);
            sending.as_mut().poll(context)
        })
        .await
        .map_err(CallError::Http)?;
        let upgrade = hyper::upgrade::on(&mut response);
        let (parts, body) = response.into_parts();
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            upgrade,
            body,
            connection,
        })
    }
}

fn no_body() -> RequestBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// The answer of a daemon: its headers now, its body as it comes.
///
/// As a [`futures_util::Stream`] it yields the body in pieces.
pub struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    upgrade: hyper::upgrade::OnUpgrade,
    body: Incoming,
    connection: Connection,
}

impl Answer {
    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Its headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// What its bytes are.
    pub fn media_type(&self) -> &str {
        let value = self.headers.get(header::CONTENT_TYPE);
        value
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// Whether the body is frames of [`crate::stream`]. Daemons before API 1.42 do not say, so the
    /// caller who knows that there is no terminal knows better.
    pub fn is_multiplexed(&self) -> bool {
        self.media_type() == stream::MULTIPLEXED
    }

    /// The next piece of the body.
    pub async fn next(&mut self) -> Option<Result<Bytes, CallError>> {
        StreamExt::next(self).await
    }

    /// The whole body.
    pub async fn gather(mut self) -> Result<Bytes, CallError> {
        let mut all = Vec::new();
        while let Some(piece) = self.next().await.transpose()? {
            if all.len() + piece.len() > MAX_ANSWER_BYTES {
                return Err(CallError::TooLong);
            }
            all.extend_from_slice(&piece);
        }
        Ok(all.into())
    }

    /// The body as JSON documents one after the other: progress, events, samples.
    pub fn documents<T: DeserializeOwned>(self) -> Documents<T> {
        Documents {
            answer: self,
            buffer: Vec::new(),
            ended: false,
            of: std::marker::PhantomData,
        }
    }

    async fn into_refusal(self) -> CallError {
        let status = self.status;
        match self.gather().await {
            Ok(body) => {
                let message = match serde_json::from_slice::<Failure>(&body) {
                    Ok(failure) => failure.message,
                    Err(_) => String::from_utf8_lossy(&body).trim().to_owned(),
                };
                let message = if message.is_empty() {
                    status.to_string()
                } else {
                    message
                };
                CallError::Api { status, message }
            }
            Err(error) => error,
        }
    }

    async fn into_hijacked(mut self) -> Result<Hijacked, CallError> {
        let media_type = self.media_type().to_owned();
        let mut upgrade = std::pin::pin!(self.upgrade);
        let upgraded = poll_fn(|context| {
            self.connection.drive(context);
            upgrade.as_mut().poll(context)
        })
        .await
        .map_err(CallError::Http)?;
        let parts = upgraded
            .downcast::<TokioIo<Socket>>()
            .expect("the connection was made over this socket");
        let (read, write): (
            Box<dyn AsyncRead + Send + Unpin>,
            Box<dyn AsyncWrite + Send + Unpin>,
        ) = match parts.io.into_inner() {
            Socket::Unix(socket) => {
                let (read, write) = socket.into_split();
                (Box::new(read), Box::new(write))
            }
            Socket::Tcp(socket) => {
                let (read, write) = socket.into_split();
                (Box::new(read), Box::new(write))
            }
        };
        Ok(Hijacked {
            media_type,
            output: Output {
                early: parts.read_buf,
                socket: read,
            },
            input: Input(write),
        })
    }
}

impl Stream for Answer {
    type Item = Result<Bytes, CallError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            self.connection.drive(context);
            match std::task::ready!(Pin::new(&mut self.body).poll_frame(context)) {
                // Trailers say nothing here.
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(CallError::Http(error)))),
                None => return Poll::Ready(None),
            }
        }
    }
}

/// JSON documents that follow one another in the body of an answer, whatever stands between them.
pub struct Documents<T> {
    answer: Answer,
    buffer: Vec<u8>,
    ended: bool,
    of: std::marker::PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Documents<T> {
    /// The next document, or `None` at the end of the answer.
    pub async fn next(&mut self) -> Option<Result<T, CallError>> {
        loop {
            match self.take() {
                Ok(Some(document)) => return Some(Ok(document)),
                Ok(None) if self.ended => return None,
                Ok(None) => {}
                Err(error) => return Some(Err(error)),
            }
            match self.answer.next().await {
                Some(Ok(piece)) => self.buffer.extend_from_slice(&piece),
                Some(Err(error)) => return Some(Err(error)),
                None => self.ended = true,
            }
        }
    }

    fn take(&mut self) -> Result<Option<T>, CallError> {
        let wrong = |source| CallError::Answer {
            path: "a stream".to_owned(),
            source,
        };
        // json-seq puts 0x1E before each record.
        let blank = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x1E;
        let start = self
            .buffer
            .iter()
            .position(|byte| !blank(byte))
            .unwrap_or(self.buffer.len());
        self.buffer.drain(..start);
        if self.buffer.is_empty() {
            return Ok(None);
        }
        let mut documents =
            serde_json::Deserializer::from_slice(&self.buffer).into_iter::<serde_json::Value>();
        let mut value = match documents.next() {
            None => return Ok(None),
            Some(Err(error)) if error.is_eof() && !self.ended => return Ok(None),
            Some(Err(error)) => return Err(wrong(error)),
            Some(Ok(value)) => value,
        };
        let taken = documents.byte_offset();
        self.buffer.drain(..taken);
        vocab::config::drop_nulls(&mut value);
        serde_json::from_value(value).map(Some).map_err(wrong)
    }
}

/// A connection that was taken over. What goes in is stdin; what comes out is frames of
/// [`crate::stream`] or, with a terminal, bytes.
pub struct Hijacked {
    /// What the daemon says it sends; see [`Answer::is_multiplexed`] for its limits.
    pub media_type: String,
    /// From the daemon.
    pub output: Output,
    /// To the daemon.
    pub input: Input,
}

/// The reading half of a connection that was taken over; it ends when the process's output does.
pub struct Output {
    early: Bytes,
    socket: Box<dyn AsyncRead + Send + Unpin>,
}

impl AsyncRead for Output {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.early.is_empty() {
            return Pin::new(&mut self.socket).poll_read(context, buffer);
        }
        let length = buffer.remaining().min(self.early.len());
        buffer.put_slice(&self.early.split_to(length));
        Poll::Ready(Ok(()))
    }
}

/// The writing half of a connection that was taken over.
///
/// Shutting it down ([`Input::close`]) is the end of stdin; the output goes on.
pub struct Input(Box<dyn AsyncWrite + Send + Unpin>);

impl Input {
    /// Ends stdin without ending the output.
    pub async fn close(&mut self) -> io::Result<()> {
        self.0.shutdown().await
    }
}

impl AsyncWrite for Input {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// The connection beneath an answer. It does its work whenever the answer is polled.
enum Connection {
    Running(Pin<Box<Driver>>),
    Ended,
}

type Driver = dyn Future<Output = hyper::Result<()>> + Send;

impl Connection {
    /// A failure is told by the answer or its body too, where the caller meets it.
    fn drive(&mut self, context: &mut Context<'_>) {
        if let Self::Running(driver) = self
            && driver.as_mut().poll(context).is_ready()
        {
            *self = Self::Ended;
        }
    }
}

/// Either kind of socket, whole, so that hyper can hand it back.
enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(socket) => Pin::new(socket).poll_read(context, buffer),
            Self::Tcp(socket) => Pin::new(socket).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(socket) => Pin::new(socket).poll_write(context, bytes),
            Self::Tcp(socket) => Pin::new(socket).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(socket) => Pin::new(socket).poll_flush(context),
            Self::Tcp(socket) => Pin::new(socket).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(socket) => Pin::new(socket).poll_shutdown(context),
            Self::Tcp(socket) => Pin::new(socket).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_docker_reads_them() {
        let address = |text: &str| {
            text.parse::<Address>()
                .ok()
                .map(|address| address.to_string())
        };
        for (typed, meant) in [
            ("unix:///run/berth.sock", Some("unix:///run/berth.sock")),
            ("tcp://127.0.0.1:2375", Some("tcp://127.0.0.1:2375")),
            ("tcp://[::1]:2375/", Some("tcp://[::1]:2375")),
            ("tcp://:2375", Some("tcp://localhost:2375")),
            ("tcp://host", Some("tcp://host:2375")),
            ("unix://", None),
            ("tcp://host:port", None),
            ("/run/berth.sock", None),
            ("ssh://host", None),
        ] {
            assert_eq!(address(typed).as_deref(), meant, "{typed}");
        }
    }

    #[test]
    fn names_keep_their_slashes_and_values_are_encoded() {
        let client = Client::new(Address::Tcp("h:1".to_owned()), Version::new(1, 47));
        let call = client
            .get("/images/a/b:c@sha256:d e/json")
            .query("x", "a b&/ü")
            .flag("y", true);
        assert_eq!(
            call.target,
            "/v1.47/images/a/b:c@sha256:d%20e/json?x=a%20b%26%2F%C3%BC&y=1"
        );
    }
}
