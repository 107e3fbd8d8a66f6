//! From a method and a path to a handler, and what every answer has in common.
//!
//! An unknown path and an unknown method are both 404 with Docker's words. An operation that is in
//! the table and not done answers 501 with its name. A handler that panics answers 500, and the
//! daemon lives.

mod pattern;
mod table;

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, LazyLock};

use api::Version;
use api::version::{NEWEST, OLDEST};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::header::{HeaderName, SERVER};
use http::{HeaderValue, Method, Request, StatusCode};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use vocab::Kind;

use crate::answer::{self, Answer, Refusal};
use crate::call::{Body, Call, Query};
use crate::scope::Scope;
use crate::server::Daemon;

pub(crate) use pattern::Names;
use pattern::Pattern;
pub(crate) use table::OPERATIONS;

/// What answers a call.
pub(crate) type Handler = fn(Call) -> BoxFuture<'static, Result<Answer, Refusal>>;

/// One operation of the Engine API.
#[derive(Debug)]
pub(crate) struct Operation {
    /// Of HTTP.
    pub(crate) method: Method,
    /// Without a version.
    pub(crate) path: Pattern,
    /// For people.
    pub(crate) meaning: &'static str,
    /// How far it is done.
    pub(crate) does: Does,
}

/// How far an operation is done.
#[derive(Debug)]
pub(crate) enum Does {
    /// As Docker does it.
    Works(Handler),
    /// With something missing, which is said here, for `docs/compat.md`.
    #[cfg_attr(not(test), expect(dead_code, reason = "the page is made by a test"))]
    Partly(Handler, &'static str),
    /// It answers 501.
    NotYet,
}

const fn operation(
    method: Method,
    path: &'static str,
    meaning: &'static str,
    does: Does,
) -> Operation {
    Operation {
        method,
        path: Pattern(path),
        meaning,
        does,
    }
}

/// Operations whose body is not a form, whatever its Content-Type says: `curl --data-binary` calls
/// a tar a form.
const TAKES_BYTES: [&str; 4] = [
    "/images/create",
    "/images/load",
    "/build",
    "/containers/{id}/archive",
];

/// The operations, those with more literal text first, so that the first match is the right one.
static BY_PRECISION: LazyLock<Vec<&'static Operation>> = LazyLock::new(|| {
    let mut operations: Vec<_> = OPERATIONS.iter().collect();
    // A pattern without names beats one with names however short it is.
    operations.sort_by_key(|operation| {
        let path = operation.path;
        (
            path.0.contains('{'),
            std::cmp::Reverse(path.literal_bytes()),
        )
    });
    operations
});

/// The operation that a method and a path without version name.
fn find(method: &Method, path: &str) -> Option<(&'static Operation, Names)> {
    BY_PRECISION.iter().find_map(|operation| {
        let names = (operation.method == *method).then(|| operation.path.find(path))??;
        Some((*operation, names))
    })
}

/// Splits `/v1.41/info` into the version as it is written and the rest.
fn split_version(path: &str) -> (Option<&str>, &str) {
    let parse = || {
        let rest = path.strip_prefix("/v")?;
        let (version, _) = rest.split_once('/')?;
        let digits =
            !version.is_empty() && version.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        digits.then(|| (Some(version), &rest[version.len()..]))
    };
    parse().unwrap_or((None, path))
}

/// The version that a request speaks, within what berth serves.
fn check_version(written: Option<&str>) -> Result<Version, Refusal> {
    let Some(written) = written else {
        return Ok(NEWEST);
    };
    let version: Version = written
        .parse()
        .map_err(|error: api::version::ParseVersionError| Refusal::invalid(error.to_string()))?;
    if version > NEWEST {
        return Err(Refusal::invalid(format!(
            "client version {version} is too new. Maximum supported API version is {NEWEST}"
        )));
    }
    if version < OLDEST {
        return Err(Refusal::invalid(format!(
            "client version {version} is too old. Minimum supported API version is {OLDEST}, \
             please upgrade your client to a newer version"
        )));
    }
    Ok(version)
}

/// Answers a request, whatever it is.
pub(crate) async fn route(
    daemon: Arc<Daemon>,
    scope: &Scope,
    request: Request<Incoming>,
) -> Answer {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let handled = AssertUnwindSafe(handle(daemon, scope, request))
        .catch_unwind()
        .await;
    let mut answer = match handled {
        Ok(Ok(answer)) => answer,
        Ok(Err(refusal)) => {
            let status = refusal.status.as_u16();
            tracing::debug!(%method, path, status, refusal = refusal.message, "refused");
            // Clients before 1.24 read text.
            match split_version(&path)
                .0
                .and_then(|version| version.parse::<Version>().ok())
            {
                Some(old) if old < OLDEST => {
                    answer::text(refusal.status, &format!("{}\n", refusal.message))
                }
                _ => answer::refuse(&refusal),
            }
        }
        Err(_) => {
            tracing::error!(%method, path, "a handler panicked; see the message above");
            answer::refuse(&Refusal::new(
                Kind::Internal,
                format!("berth failed on {method} {path}: this is a bug; its log says more"),
            ))
        }
    };
    add_headers(&mut answer);
    answer
}

/// What every answer says, refusals too.
fn add_headers(answer: &mut Answer) {
    static API_VERSION: LazyLock<HeaderValue> = LazyLock::new(|| {
        HeaderValue::from_str(&NEWEST.to_string()).expect("a version is plain text")
    });
    let headers = answer.headers_mut();
    let server = concat!("Docker/", env!("CARGO_PKG_VERSION"), " (linux)");
    headers.insert(SERVER, HeaderValue::from_static(server));
    headers.insert(HeaderName::from_static("api-version"), API_VERSION.clone());
    headers.insert(
        HeaderName::from_static("ostype"),
        HeaderValue::from_static("linux"),
    );
    let experimental = HeaderName::from_static("docker-experimental");
    headers.insert(experimental, HeaderValue::from_static("false"));
}

async fn handle(
    daemon: Arc<Daemon>,
    scope: &Scope,
    mut request: Request<Incoming>,
) -> Result<Answer, Refusal> {
    if request.method() == Method::OPTIONS {
        return Ok(answer::empty(StatusCode::OK));
    }
    let path = percent_decode_str(request.uri().path())
        .decode_utf8_lossy()
        .into_owned();
    let upgrade = hyper::upgrade::on(&mut request);
    let (mut parts, body) = request.into_parts();
    let mut body = Body::new(body);
    let (operation, names, version, handler) = match choose(&parts.method, &path) {
        Ok(chosen) => chosen,
        Err(refusal) => {
            body.drain().await;
            return Err(refusal);
        }
    };
    let rest = body.rest();
    let mut call = Call {
        daemon,
        version,
        names,
        query: Query::parse(parts.uri.query().unwrap_or_default()),
        headers: parts.headers,
        body,
        upgrade,
        peer: parts.extensions.remove(),
    };
    let reads_form = !TAKES_BYTES.contains(&operation.path.0);
    let answered = async move {
        if reads_form {
            call.read_form().await?;
        }
        scope.admit(operation, &mut call).await?;
        handler(call).await
    };
    let answer = answered.await;
    // docker sends `{}` with a push, for which nobody asks.
    rest.drain().await;
    answer
}

/// What a method and a path ask for, or why they are not answered.
fn choose(
    method: &Method,
    path: &str,
) -> Result<(&'static Operation, Names, Version, Handler), Refusal> {
    let (written, path) = split_version(path);
    let (operation, names) =
        find(method, path).ok_or_else(|| Refusal::new(Kind::NotFound, "page not found"))?;
    let version = check_version(written)?;
    match operation.does {
        Does::Works(handler) | Does::Partly(handler, _) => Ok((operation, names, version, handler)),
        Does::NotYet => Err(Refusal::new(
            Kind::NotImplemented,
            format!(
                "berth does not do {method} {} yet: {}",
                operation.path.0, operation.meaning
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn found(method: &Method, path: &str) -> Option<(&'static str, String)> {
        let (operation, names) = find(method, path)?;
        Some((operation.path.0, names.first))
    }

    #[test]
    fn the_table_has_every_operation_once() {
        let mut seen = BTreeSet::new();
        for operation in OPERATIONS {
            let row = format!("{} {}", operation.method, operation.path.0);
            assert!(seen.insert(row.clone()), "{row}");
        }
        // Docker's, those that differ by method only, and the three of berth's own.
        assert_eq!(OPERATIONS.len(), 108 + 6 + 3);
    }

    #[test]
    fn every_operation_finds_itself() {
        for operation in OPERATIONS {
            let path = operation.path.0.replace(['{', '}'], "");
            let (found, _) = find(&operation.method, &path).unwrap();
            assert_eq!(found.path.0, operation.path.0, "{path}");
        }
    }

    #[test]
    fn names_may_look_like_operations() {
        for (method, path, pattern, name) in [
            (Method::GET, "/images/json", "/images/json", ""),
            (Method::GET, "/images/get", "/images/get", ""),
            (Method::GET, "/images/search", "/images/search", ""),
            (
                Method::GET,
                "/images/h:1/a/b:c/json",
                "/images/{name}/json",
                "h:1/a/b:c",
            ),
            (
                Method::GET,
                "/images/a/history/json",
                "/images/{name}/json",
                "a/history",
            ),
            (Method::DELETE, "/images/a/b/c", "/images/{name}", "a/b/c"),
            (
                Method::GET,
                "/containers/x/attach/ws",
                "/containers/{id}/attach/ws",
                "x",
            ),
            (
                Method::DELETE,
                "/containers/x/checkpoints/y",
                "/containers/{id}/checkpoints/{checkpoint}",
                "x",
            ),
            (Method::GET, "/networks/", "/networks/", ""),
            (Method::GET, "/volumes/a", "/volumes/{name}", "a"),
        ] {
            assert_eq!(
                found(&method, path),
                Some((pattern, name.to_owned())),
                "{path}"
            );
        }
    }

    #[test]
    fn unknown_paths_and_methods_are_not_found() {
        for (method, path) in [
            (Method::GET, "/"),
            (Method::GET, "/nope"),
            (Method::PUT, "/version"),
            (Method::HEAD, "/info"),
            (Method::GET, "/debug/pprof"),
            (Method::GET, "/containers/json/"),
        ] {
            assert_eq!(found(&method, path), None, "{path}");
        }
    }

    #[test]
    fn versions_stand_in_front_of_any_path() {
        assert_eq!(split_version("/v1.41/info"), (Some("1.41"), "/info"));
        assert_eq!(split_version("/info"), (None, "/info"));
        assert_eq!(split_version("/volumes/x"), (None, "/volumes/x"));
        assert_eq!(split_version("/v1.41"), (None, "/v1.41"));
        assert_eq!(split_version("/v1.x/info"), (None, "/v1.x/info"));
    }

    #[test]
    fn versions_out_of_range_are_told_the_range() {
        let message = |version: &str| check_version(Some(version)).unwrap_err().message;
        assert_eq!(
            message("1.99"),
            "client version 1.99 is too new. Maximum supported API version is 1.55"
        );
        assert_eq!(
            message("1.23"),
            "client version 1.23 is too old. Minimum supported API version is 1.24, please upgrade \
             your client to a newer version"
        );
        assert!(check_version(Some("1..2")).is_err());
        assert_eq!(check_version(None), Ok(NEWEST));
        assert_eq!(check_version(Some("1.24")), Ok(OLDEST));
    }
}
