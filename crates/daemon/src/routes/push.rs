//! `POST /images/{name}/push`: images on their way to a registry.
//!
//! Everything but a name that is none is told in the stream, as dockerd does.

use engine::push::PushError;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use tokio::sync::mpsc;
use vocab::failure::chain;

use super::Outcome;
use super::images::{credentials, name_with_tag};
use super::transfer::{STEPS, failed, line, platform, shown, status};
use crate::answer;
use crate::call::Call;

/// `POST /images/{name}/push`; without a tag, all of the repository's.
pub(crate) async fn push(call: Call) -> Outcome {
    let reference = name_with_tag(call.name(), call.query.said("tag"))?;
    let platform = platform(&call)?;
    let credentials = credentials(&call);
    let (sender, steps) = mpsc::channel(STEPS);
    let engine = call.engine().clone();
    let first = status(format!(
        "The push refers to repository [{}]",
        reference.repository()
    ));
    let pushing = async move {
        let (platform, credentials) = (platform.as_ref(), credentials.as_ref());
        engine.push(&reference, platform, credentials, sender).await
    }
    .boxed();
    let rest = stream::unfold(Some(Pushing { pushing, steps }), Pushing::next);
    let lines = stream::iter([line(&first)]).chain(rest).map(Ok);
    Ok(answer::stream("application/json", lines))
}

/// A push whose progress is being told.
struct Pushing {
    pushing: BoxFuture<'static, Result<(), PushError>>,
    steps: mpsc::Receiver<registry::Progress>,
}

impl Pushing {
    /// The next lines, and what comes after them. Dropping it between two lines ends the push.
    async fn next(this: Option<Self>) -> Option<(bytes::Bytes, Option<Self>)> {
        let mut this = this?;
        let outcome = tokio::select! {
            biased;
            Some(step) = this.steps.recv() => return Some((lines(step), Some(this))),
            outcome = &mut this.pushing => outcome,
        };
        let mut last = Vec::new();
        while let Ok(step) = this.steps.try_recv() {
            last.extend(lines(step));
        }
        if let Err(error) = outcome {
            last.extend(line(&failed(&chain(&error))));
        }
        Some((last.into(), None))
    }
}

/// A step in Docker's words; that an image has arrived is told to people and to programs.
fn lines(step: registry::Progress) -> bytes::Bytes {
    if let registry::Progress::PushedInstead { index, manifest } = &step {
        let result = serde_json::json!({
            "manifestPushedInsteadOfIndex": true,
            "originalIndex": index,
            "selectedManifest": manifest,
        });
        return line(&api::types::Progress {
            detail: Some(api::types::ProgressDetail::default()),
            aux: Some(result),
            ..api::types::Progress::default()
        });
    }
    let registry::Progress::Pushed {
        tag,
        digest,
        size_bytes,
    } = &step
    else {
        return line(&shown(step));
    };
    let mut both = line(&shown(step.clone())).to_vec();
    let result = serde_json::json!({ "Tag": tag, "Digest": digest, "Size": size_bytes });
    both.extend(line(&api::types::Progress {
        detail: Some(api::types::ProgressDetail::default()),
        aux: Some(result),
        ..api::types::Progress::default()
    }));
    both.into()
}
