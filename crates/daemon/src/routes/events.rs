//! What happens, as it happens.

use engine::events::{EventOptions, FILTERS};
use futures_util::StreamExt;

use super::{Outcome, pieces};
use crate::answer::{self, Refusal};
use crate::call::Call;
use crate::render;

/// Byte before each record of `application/json-seq` (RFC 7464).
const RECORD_SEPARATOR: u8 = 0x1E;

/// `GET /events`.
pub(crate) async fn events(call: Call) -> Outcome {
    let options = EventOptions {
        since: call.query.time("since")?,
        until: call.query.time("until")?,
        filters: call.filters(FILTERS)?.into_map(),
    };
    if let (Some(since), Some(until)) = (options.since, options.until)
        && since > until
    {
        let typed = |key| call.query.get(key).unwrap_or_default();
        return Err(Refusal::invalid(format!(
            "`since` time ({}) cannot be after `until` time ({})",
            typed("since"),
            typed("until")
        )));
    }
    let events = call.engine().events(options)?;
    let media_type = negotiate(call.header("accept").unwrap_or_default(), call.speaks(52));
    let separated = media_type == "application/json-seq";
    let (old, creations) = (!call.speaks(52), call.speaks(46));
    let shown = events.filter(move |event| {
        let hidden = !creations
            && event.kind == engine::events::EventKind::Image
            && event.action == "create";
        std::future::ready(!hidden)
    });
    let pieces = pieces(&call.daemon, shown, move |bytes, event| {
        if separated {
            bytes.push(RECORD_SEPARATOR);
        }
        render::line(bytes, &render::event(event, old));
    });
    Ok(answer::stream(media_type, pieces))
}

/// The form in which records are sent.
fn negotiate(accept: &str, new: bool) -> &'static str {
    let accepted = accept
        .split(',')
        .map(|part| part.split(';').next().unwrap_or_default().trim());
    for media_type in accepted {
        for known in [
            "application/x-ndjson",
            "application/jsonl",
            "application/json-seq",
        ] {
            if media_type == known {
                return known;
            }
        }
    }
    if new {
        "application/jsonl"
    } else {
        "application/json"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_choose_how_records_are_separated() {
        for (accept, new, chosen) in [
            ("", false, "application/json"),
            ("", true, "application/jsonl"),
            ("*/*", true, "application/jsonl"),
            ("application/json-seq, */*", false, "application/json-seq"),
            (
                "text/html, application/x-ndjson;q=0.5",
                true,
                "application/x-ndjson",
            ),
        ] {
            assert_eq!(negotiate(accept, new), chosen, "{accept}");
        }
    }
}
