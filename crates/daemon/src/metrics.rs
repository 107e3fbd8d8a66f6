//! What Prometheus and probes ask, on an address of its own (`--metrics-addr`): `/metrics` in the
//! text format with dockerd's names, `/healthz` for whether the daemon lives, `/readyz` for whether
//! it has started.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tasks::Group;
use tokio::net::{TcpListener, TcpStream};

use crate::server::Daemon;

/// Prometheus's text format.
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// How many requests were answered with which status.
#[derive(Debug, Default)]
pub(crate) struct Answered(Mutex<BTreeMap<u16, u64>>);

impl Answered {
    /// Counts one.
    pub(crate) fn count(&self, status: StatusCode) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(status.as_u16()).or_default() += 1;
    }

    fn counts(&self) -> BTreeMap<u16, u64> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// The daemon, once it has started.
pub(crate) type Started = Arc<OnceLock<Arc<Daemon>>>;

/// Answers until it is dropped.
pub(crate) async fn serve(listener: TcpListener, started: Started) {
    let clients = Group::new();
    loop {
        if let Ok((socket, _)) = listener.accept().await {
            clients.spawn("metrics", converse(socket, started.clone()));
        }
    }
}

async fn converse(socket: TcpStream, started: Started) {
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let started = started.clone();
        async move { Ok::<_, Infallible>(answer(request.uri().path(), started.get()).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(socket), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection for metrics ended early");
    }
}

async fn answer(path: &str, daemon: Option<&Arc<Daemon>>) -> Response<Full<Bytes>> {
    let (status, text) = match (path, daemon) {
        ("/metrics", Some(daemon)) => (StatusCode::OK, metrics(daemon).await),
        ("/healthz", _) | ("/readyz", Some(_)) => (StatusCode::OK, "ok\n".to_owned()),
        ("/metrics" | "/readyz", None) => {
            let text = "the daemon is starting\n".to_owned();
            (StatusCode::SERVICE_UNAVAILABLE, text)
        }
        _ => (StatusCode::NOT_FOUND, "404 page not found\n".to_owned()),
    };
    let mut answer = Response::new(Full::new(Bytes::from(text)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, TEXT);
    answer
}

async fn metrics(daemon: &Daemon) -> String {
    let info = daemon.engine.info().await;
    let mut page = Page::default();
    let states = [
        ("paused", info.paused),
        ("running", info.running),
        ("stopped", info.stopped),
    ];
    page.metric(
        "engine_daemon_container_states_containers",
        "gauge",
        "The count of containers in various states",
        &states.map(|(state, count)| (vec![("state", state)], count.to_string())),
    );
    let about = vec![
        ("architecture", info.architecture.as_str()),
        ("commit", ""),
        ("daemon_id", &info.id),
        ("graphdriver", &info.storage_driver),
        ("kernel", &info.kernel),
        ("os", &info.operating_system),
        ("os_type", "linux"),
        ("os_version", &info.os_version),
        ("version", env!("CARGO_PKG_VERSION")),
    ];
    page.metric(
        "engine_daemon_engine_info",
        "gauge",
        "The information related to the engine and the OS it is running on",
        &[(about, "1".to_owned())],
    );
    page.metric(
        "engine_daemon_engine_cpus_cpus",
        "gauge",
        "The number of cpus that the host system of the engine has",
        &[(Vec::new(), info.cpus.to_string())],
    );
    page.metric(
        "engine_daemon_engine_memory_bytes",
        "gauge",
        "The number of bytes of memory that the host system of the engine has",
        &[(Vec::new(), info.memory_bytes.to_string())],
    );
    page.metric(
        "engine_daemon_events_total",
        "counter",
        "The number of events logged",
        &[(Vec::new(), daemon.engine.events_told().to_string())],
    );
    let answered = daemon.answered.counts();
    let answered: Vec<_> = answered
        .iter()
        .map(|(status, count)| (status.to_string(), count.to_string()))
        .collect();
    let answered: Vec<_> = answered
        .iter()
        .map(|(status, count)| (vec![("code", status.as_str())], count.clone()))
        .collect();
    page.metric(
        "berth_api_requests_total",
        "counter",
        "The number of requests of the API by the status of their answer",
        &answered,
    );
    page.0
}

/// The text format.
#[derive(Default)]
struct Page(String);

impl Page {
    fn metric(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        values: &[(Vec<(&str, &str)>, String)],
    ) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in values {
            let labels: Vec<_> = labels
                .iter()
                .map(|(key, value)| format!("{key}=\"{}\"", escaped(value)))
                .collect();
            let labels = match labels.join(",") {
                none if none.is_empty() => none,
                some => format!("{{{some}}}"),
            };
            let _ = writeln!(self.0, "{name}{labels} {value}");
        }
    }
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_labels_are_escaped() {
        let mut page = Page::default();
        page.metric(
            "a",
            "gauge",
            "b",
            &[(vec![("l", "x\"\\\n")], "1".to_owned())],
        );
        assert_eq!(
            page.0,
            "# HELP a b\n# TYPE a gauge\na{l=\"x\\\"\\\\\\n\"} 1\n"
        );
    }
}
