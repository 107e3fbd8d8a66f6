//! Connections: accepted, served over HTTP/1.1, and ended in an orderly way.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tasks::{Cancel, Group};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::config::Settings;
use crate::listen::{Connection, Listener, Peer};
use crate::router;

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
    /// Asks registries on behalf of users.
    pub(crate) registry: registry::Client,
    /// What the daemon was told.
    pub(crate) settings: Settings,
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
    if tokio::time::timeout(daemon.settings.shutdown_timeout, finished)
        .await
        .is_err()
    {
        tracing::warn!("some requests did not end in time; their connections are cut");
    }
}

async fn accept(listener: Listener, daemon: Arc<Daemon>, clients: Arc<Group>) {
    loop {
        match listener.accept().await {
            Ok(connection) => {
                let peer = connection.peer();
                let daemon = daemon.clone();
                match connection {
                    Connection::Unix(socket) => {
                        clients.spawn_whole("client", converse(socket, peer, daemon));
                    }
                    Connection::Tcp(socket) => {
                        clients.spawn_whole("client", converse(socket, peer, daemon));
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

/// Serves one connection to its end.
async fn converse(
    socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Option<Peer>,
    daemon: Arc<Daemon>,
) {
    let stopping = daemon.stopping.clone();
    let service = service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
        let daemon = daemon.clone();
        if let Some(peer) = &peer {
            request.extensions_mut().insert(peer.clone());
        }
        async move { Ok::<_, Infallible>(router::route(daemon, request).await) }
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
