//! What containers use.

use std::sync::Arc;

use engine::stats::{Reading, Sample};
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
        let mut before: Option<Arc<Sample>> = None;
        let shown = samples.map(move |sample| {
            let shown = render::stats(&sample, before.as_deref());
            before = Some(sample);
            shown
        });
        let pieces = pieces(&call.daemon, shown, |bytes, stats| {
            render::line(bytes, &stats);
        });
        return Ok(answer::stream("application/json", pieces));
    }
    // With `one-shot` too: what rates are made of is there already, and nobody has to wait for it.
    let reading = engine.stats(call.name()).await?;
    Ok(answer::ok(&shown(&reading)))
}

/// `GET /containers/stats`, berth's own.
pub(crate) async fn all_stats(call: Call) -> Outcome {
    let readings = call.engine().all_stats().await;
    let shown: Vec<_> = readings.iter().map(shown).collect();
    Ok(answer::ok(&shown))
}

fn shown(reading: &Reading) -> api::types::Stats {
    render::stats(&reading.now, reading.before.as_deref())
}
