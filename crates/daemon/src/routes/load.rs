//! `POST /images/load`: images that come as a tar.
//!
//! Progress is told while the tar is still coming, as dockerd does; what a slow client has no room
//! for is left out. A tar that is refused before anything was told is refused with a status.

use api::types::{Progress, ProgressDetail};
use bytes::Bytes;
use engine::images::{LoadError, LoadProgress, LoadedImage};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use tokio::sync::mpsc;
use vocab::failure::chain;

use super::Outcome;
use super::transfer::{STEPS, failed, line, platforms, status, with_tar};
use crate::answer;
use crate::call::Call;

/// `POST /images/load`.
pub(crate) async fn load(call: Call) -> Outcome {
    let platforms = match call.speaks(48) {
        true => platforms(&call, "platform")?,
        false => Vec::new(),
    };
    let quiet = call.query.flag("quiet");
    let (sender, mut steps) = mpsc::channel(STEPS);
    let engine = call.engine().clone();
    let mut loading: BoxFuture<'static, _> = async move {
        with_tar(call, |tar| async move {
            engine.load_images(tar, platforms, sender).await
        })
        .await
    }
    .boxed();
    if quiet {
        let loaded = loading.await?;
        let lines = loaded.into_iter().map(|image| Ok(line(&said(image))));
        let lines = lines.collect::<Vec<_>>();
        return Ok(answer::stream("application/json", stream::iter(lines)));
    }
    let first = tokio::select! {
        biased;
        Some(step) = steps.recv() => Some(step),
        outcome = &mut loading => {
            let loaded = outcome?;
            loading = std::future::ready(Ok(loaded)).boxed();
            None
        }
    };
    let first = first.map(|step| line(&shown(step)));
    let rest = stream::unfold(Some(Loading { loading, steps }), Loading::next);
    let lines = stream::iter(first).chain(rest).map(Ok);
    Ok(answer::stream("application/json", lines))
}

/// A load whose progress is being told.
struct Loading {
    loading: BoxFuture<'static, Result<Vec<LoadedImage>, LoadError>>,
    steps: mpsc::Receiver<LoadProgress>,
}

impl Loading {
    /// The next lines, and what comes after them.
    async fn next(this: Option<Self>) -> Option<(Bytes, Option<Self>)> {
        let mut this = this?;
        let outcome = tokio::select! {
            biased;
            Some(step) = this.steps.recv() => return Some((line(&shown(step)), Some(this))),
            outcome = &mut this.loading => outcome,
        };
        let mut lines = Vec::new();
        while let Ok(step) = this.steps.try_recv() {
            lines.extend(line(&shown(step)));
        }
        match outcome {
            Ok(loaded) => lines.extend(loaded.into_iter().flat_map(|image| line(&said(image)))),
            Err(error) => lines.extend(line(&failed(&chain(&error)))),
        }
        Some((lines.into(), None))
    }
}

fn shown(step: LoadProgress) -> Progress {
    let bytes = |count| i64::try_from(count).unwrap_or(i64::MAX);
    Progress {
        detail: Some(ProgressDetail {
            current: bytes(step.current_bytes),
            total: bytes(step.total_bytes),
            ..ProgressDetail::default()
        }),
        id: step.layer,
        ..status("Loading layer".to_owned())
    }
}

fn said(image: LoadedImage) -> Progress {
    let text = match image {
        LoadedImage::Named(name) => format!("Loaded image: {name}\n"),
        LoadedImage::Unnamed(id) => format!("Loaded image ID: {id}\n"),
    };
    Progress {
        stream: text,
        ..Progress::default()
    }
}
