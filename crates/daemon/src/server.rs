//! Connections: accepted, served over HTTP/1.1, and ended in an orderly way.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tasks::{Cancel, Group};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::listen::{Connection, Listener, Peer};
use crate::metrics::Answered;
use crate::reload::Told;
use crate::router;
use crate::scope::Scope;
use crate::tls::Door;

/// How long a client may take to send its headers; also how long a kept connection may be idle
/// (dockerd's ReadHeaderTimeout).
const HEADER_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// The most bytes of a request's headers.
const MAX_HEADER_BYTES: usize = 256 << 10;

/// The most headers of a request.
const MAX_HEADERS: usize = 200;

/// Pause after a failed accept, which mostly means that descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What every request can reach.
#[derive(Debug)]
pub(crate) struct Daemon {
    /// Decides.
    pub(crate) engine: Arc<engine::Engine>,
    /// How requests were answered.
    pub(crate) answered: Answered,
    /// What the daemon was told, last.
    pub(crate) told: Told,
    /// The storage driver that was chosen at the start.
    pub(crate) storage_driver: String,
    /// Connections that were taken over; each has a task here.
    pub(crate) sessions: Group,
    /// Streams without an end of their own end with this.
    pub(crate) stopping: Cancel,
}

/// Accepts clients until `stopping`, then lets those that are there finish.
pub(crate) async fn serve(daemon: Arc<Daemon>, listeners: Vec<Listener>) {
    let clients = Arc::new(Group::new());
    let accepting = Group::new();
    for listener in listeners {
        let (daemon, clients) = (daemon.clone(), clients.clone());
        accepting.spawn("accept", accept(listener, daemon, clients));
    }
    daemon.stopping.cancelled().await;
    accepting.finish().await;
    // Both end by themselves now: requests because no new one is read, sessions with their streams.
    let finished = async {
        daemon.sessions.stop().await;
        clients.stop().await;
    };
    if tokio::time::timeout(daemon.told.settings().shutdown_timeout, finished)
        .await
        .is_err()
    {
        tracing::warn!("some requests did not end in time; their connections are cut");
    }
}

/// Who is at the other end.
#[derive(Clone)]
pub(crate) struct Client {
    daemon: Arc<Daemon>,
    peer: Option<Peer>,
    scope: Arc<Scope>,
}

async fn accept(listener: Listener, daemon: Arc<Daemon>, clients: Arc<Group>) {
    let scope = Arc::new(listener.scope.clone());
    loop {
        match listener.accept().await {
            Ok(connection) => {
                let client = Client {
                    daemon: daemon.clone(),
                    peer: connection.peer(),
                    scope: scope.clone(),
                };
                match connection {
                    Connection::Unix(socket) => {
                        clients.spawn_whole("client", converse(socket, client));
                    }
                    Connection::Tcp(socket, None) => {
                        clients.spawn_whole("client", converse(socket, client));
                    }
                    Connection::Tcp(socket, Some(tls)) => {
                        clients.spawn_whole("client", converse_privately(socket, tls, client));
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, "accept a client");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one connection once the client has introduced itself.
async fn converse_privately(socket: TcpStream, tls: Door, client: Client) {
    match tls.open(socket).await {
        Ok(socket) => converse(socket, client).await,
        Err(error) => tracing::info!(%error, "a client was not let in"),
    }
}

/// Serves one connection to its end.
async fn converse(socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, client: Client) {
    let stopping = client.daemon.stopping.clone();
    let service = service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
        let Client {
            daemon,
            peer,
            scope,
        } = client.clone();
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        async move {
            let answer = router::route(daemon.clone(), &scope, request).await;
            daemon.answered.count(answer.status());
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEADER_BYTES)
        .max_headers(MAX_HEADERS)
        .title_case_headers(true)
        .serve_connection(TokioIo::new(socket), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        // Clients leave whenever they like.
        tracing::debug!(%error, "a connection ended early");
    }
}
