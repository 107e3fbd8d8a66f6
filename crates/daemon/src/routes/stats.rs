//! What containers use.

use engine::stats::Sample;
use futures_util::StreamExt;

use super::{Outcome, pieces};
use crate::answer;
use crate::call::Call;
use crate::render;

/// `GET /containers/{id}/stats`.
pub(crate) async fn stats(call: Call) -> Outcome {
    let engine = call.engine();
    if call.query.flag_or("stream", true) {
        let samples = engine.stats_stream(call.name()).await?;
        let mut before: Option<Sample> = None;
        let shown = samples.map(move |sample| {
            let shown = render::stats(&sample, before.as_ref());
            before = Some(sample);
            shown
        });
        let pieces = pieces(&call.daemon, shown, |bytes, stats| {
            render::line(bytes, &stats);
        });
        return Ok(answer::stream("application/json", pieces));
    }
    if call.query.flag("one-shot") && call.speaks(41) {
        let sample = engine.stats(call.name()).await?;
        return Ok(answer::ok(&render::stats(&sample, None)));
    }
    // Clients compute a rate from two readings, so the second one is waited for.
    let mut samples = engine.stats_stream(call.name()).await?;
    let first = samples.next().await;
    let second = match &first {
        Some(first) if first.read.is_some() => samples.next().await,
        _ => None,
    };
    match (first, second) {
        (Some(before), Some(now)) => Ok(answer::ok(&render::stats(&now, Some(&before)))),
        (Some(only), None) => Ok(answer::ok(&render::stats(&only, None))),
        // Removed meanwhile: the engine says so better than an empty answer would.
        _ => Ok(answer::ok(&render::stats(
            &engine.stats(call.name()).await?,
            None,
        ))),
    }
}
