//! The log of a container.

use std::time::{SystemTime, UNIX_EPOCH};

use api::stream::{self, Stream};
use bytes::Bytes;
use engine::attach::Source;
use engine::logs::{LogOptions, LogRecord};
use futures_util::StreamExt as _;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::Outcome;
use crate::answer::{self, Refusal};
use crate::call::Call;

/// What Go's `url.QueryEscape` leaves alone.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// `GET /containers/{id}/logs`.
pub(crate) async fn logs(call: Call) -> Outcome {
    let query = &call.query;
    let options = LogOptions {
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        since: moment(&call, "since")?,
        until: moment(&call, "until")?,
        // "all", a negative number and nonsense all mean everything.
        tail: query.get("tail").and_then(|tail| tail.parse().ok()),
        follow: query.flag("follow"),
    };
    if !options.stdout && !options.stderr {
        return Err(Refusal::invalid(
            "Bad parameters: you must choose at least one stream",
        ));
    }
    let form = Form {
        framed: false,
        timestamps: query.flag("timestamps"),
        details: query.flag("details"),
    };
    let tty = call.engine().has_terminal(call.name())?;
    let form = Form {
        framed: !tty,
        ..form
    };
    let write = move |bytes: &mut Vec<u8>, record: &LogRecord<'_>| form.write(bytes, record);
    let logs = call.engine().logs(call.name(), options, write).await?;
    let stopping = call.daemon.stopping.clone().cancelled_owned();
    let pieces = logs.take_until(stopping).map(move |batch| {
        let bytes = batch.unwrap_or_else(|error| {
            // The headers are gone; this is what stream 3 is for.
            let message = vocab::failure::chain(&error);
            let mut bytes = Vec::new();
            if form.framed {
                frame(&mut bytes, Stream::Failure, message.as_bytes());
            } else {
                bytes.extend_from_slice(message.as_bytes());
            }
            bytes
        });
        Ok(Bytes::from(bytes))
    });
    Ok(answer::stream(media_type(&call, tty), pieces))
}

/// What the bytes of output are called in the version that the client speaks.
pub(super) fn media_type(call: &Call, tty: bool) -> &'static str {
    if tty || !call.speaks(42) {
        stream::RAW
    } else {
        stream::MULTIPLEXED
    }
}

/// Zero is how clients say "not".
fn moment(call: &Call, key: &str) -> Result<Option<SystemTime>, Refusal> {
    Ok(call.query.time(key)?.filter(|moment| *moment > UNIX_EPOCH))
}

/// How lines are written.
#[derive(Clone, Copy)]
struct Form {
    framed: bool,
    timestamps: bool,
    details: bool,
}

impl Form {
    fn write(self, bytes: &mut Vec<u8>, record: &LogRecord<'_>) {
        let begin = bytes.len();
        if self.framed {
            bytes.extend(stream::header(of(record.source), 0));
        }
        let head = bytes.len();
        if self.timestamps {
            bytes.extend_from_slice(vocab::time::rfc3339_nine(record.time).as_bytes());
            bytes.push(b' ');
        }
        if self.details {
            let encode = |text| {
                utf8_percent_encode(text, QUERY)
                    .to_string()
                    .replace("%20", "+")
            };
            let pairs = record.attributes.iter();
            let pairs: Vec<_> = pairs
                .map(|(key, value)| format!("{}={}", encode(key), encode(value)))
                .collect();
            bytes.extend_from_slice(pairs.join(",").as_bytes());
            bytes.push(b' ');
        }
        bytes.extend_from_slice(record.line);
        if self.framed {
            let length = u32::try_from(bytes.len() - head).unwrap_or(u32::MAX);
            bytes[begin..head].copy_from_slice(&stream::header(of(record.source), length));
        }
    }
}

/// The number of a source.
pub(super) fn of(source: Source) -> Stream {
    match source {
        Source::Stdout => Stream::Stdout,
        Source::Stderr => Stream::Stderr,
    }
}

/// Appends one frame.
pub(super) fn frame(bytes: &mut Vec<u8>, stream: Stream, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    bytes.extend(stream::header(stream, length));
    bytes.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;

    fn written(form: Form) -> String {
        let attributes = BTreeMap::from([
            ("a b".to_owned(), "c".to_owned()),
            ("d".to_owned(), "e".to_owned()),
        ]);
        let record = LogRecord {
            source: Source::Stderr,
            time: UNIX_EPOCH + Duration::from_millis(1_700_000_000_120),
            line: b"hi\n",
            cut: false,
            attributes: &attributes,
        };
        let mut bytes = Vec::new();
        form.write(&mut bytes, &record);
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_line_has_its_time_then_its_details() {
        let form = Form {
            framed: false,
            timestamps: true,
            details: true,
        };
        assert_eq!(
            written(form),
            "2023-11-14T22:13:20.120000000Z a+b=c,d=e hi\n"
        );
        let form = Form {
            framed: true,
            timestamps: false,
            details: false,
        };
        assert_eq!(written(form), "\u{2}\0\0\0\0\0\0\u{3}hi\n");
    }
}
