//! Files of a container: told about, taken out, put in, compared with its image's.

use std::sync::Arc;

use api::types::{Change, ContainerPathStat, PATH_STAT};
use base64::Engine as _;
use engine::archive::{PathStat, PutOptions};
use engine::export::Difference;
use futures_util::FutureExt as _;
use http::header::HeaderName;
use http::{HeaderValue, StatusCode};
use tokio::sync::oneshot;
use vocab::time::rfc3339_nano;

use super::Outcome;
use super::transfer::{with_tar, written};
use crate::answer::{self, Answer, Refusal};
use crate::call::Call;

/// `HEAD /containers/{id}/archive`.
pub(crate) async fn head(call: Call) -> Outcome {
    let stat = call.engine().stat_path(call.name(), path(&call)?).await?;
    let mut answer = answer::empty(StatusCode::OK);
    tell(&mut answer, stat);
    Ok(answer)
}

/// `GET /containers/{id}/archive`.
pub(crate) async fn get(call: Call) -> Outcome {
    let (told, mut stat) = oneshot::channel();
    let (engine, typed) = (Arc::clone(call.engine()), call.name().to_owned());
    let path = path(&call)?.to_owned();
    let mut answer = written(|out| {
        async move {
            let outcome = engine.get_archive(&typed, &path, told, out).await;
            outcome.map_err(Refusal::from)
        }
        .boxed()
    })
    .await?;
    if let Ok(stat) = stat.try_recv() {
        tell(&mut answer, stat);
    }
    Ok(answer)
}

/// `PUT /containers/{id}/archive`.
pub(crate) async fn put(call: Call) -> Outcome {
    let (engine, typed) = (Arc::clone(call.engine()), call.name().to_owned());
    let path = path(&call)?.to_owned();
    let options = PutOptions {
        keep_kinds: call.query.flag("noOverwriteDirNonDir"),
        as_user: call.query.flag("copyUIDGID"),
    };
    with_tar(call, |tar| async move {
        engine.put_archive(&typed, &path, options, tar).await
    })
    .await?;
    Ok(answer::empty(StatusCode::OK))
}

/// `GET /containers/{id}/changes`.
pub(crate) async fn changes(call: Call) -> Outcome {
    let found = call.engine().changes(call.name()).await?;
    let changes: Vec<_> = found
        .into_iter()
        .map(|(path, difference)| Change {
            kind: match difference {
                Difference::Changed => 0,
                Difference::Added => 1,
                Difference::Removed => 2,
            },
            path: path.to_string_lossy().into_owned(),
        })
        .collect();
    Ok(answer::ok(&(!changes.is_empty()).then_some(changes)))
}

fn path(call: &Call) -> Result<&str, Refusal> {
    let path = call.query.said("path");
    path.ok_or_else(|| Refusal::invalid("bad parameter: path cannot be empty"))
}

/// Adds what it is to the headers.
fn tell(answer: &mut Answer, stat: PathStat) {
    let stat = ContainerPathStat {
        name: stat.name,
        size: stat.size,
        mode: stat.mode,
        mtime: rfc3339_nano(stat.mtime),
        link_target: stat.link_target,
    };
    let json = serde_json::to_vec(&stat).expect("a map with string keys");
    let text = base64::engine::general_purpose::STANDARD.encode(json);
    let value = HeaderValue::from_str(&text).expect("base64 is ASCII");
    let headers = answer.headers_mut();
    headers.insert(HeaderName::from_static(PATH_STAT), value);
}
