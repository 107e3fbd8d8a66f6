//! One line of a json-file log:
//!
//! ```text
//! {"log":"text\n","stream":"stdout","attrs":{"key":"value"},"time":"2026-01-02T03:04:05.6Z"}
//! ```

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::SystemTime;

use memchr::memchr2;
use serde::Deserialize;
use vocab::time::parse_rfc3339;

use super::LogRecord;
use crate::attach::Source;

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow, default)]
    log: Cow<'a, str>,
    #[serde(borrow, default)]
    stream: Cow<'a, str>,
    #[serde(default)]
    attrs: Option<BTreeMap<String, String>>,
    #[serde(borrow)]
    time: Cow<'a, str>,
}

/// Reads lines, with room that they share.
#[derive(Debug, Default)]
pub(super) struct Reader {
    text: Vec<u8>,
    attributes: BTreeMap<String, String>,
    /// The last moment that was read, and its text: lines that came together have the same.
    moment: Option<(Vec<u8>, SystemTime)>,
}

impl Reader {
    /// Reads a line; `None` for what is none, such as half of one after the host's death.
    pub(super) fn read(&mut self, line: &[u8]) -> Option<LogRecord<'_>> {
        let (source, time) = match self.as_written(line) {
            Some(read) => read,
            None => self.as_json(line)?,
        };
        Some(LogRecord {
            source,
            time,
            line: &self.text,
            cut: self.text.last() != Some(&b'\n'),
            attributes: &self.attributes,
        })
    }

    /// A line without attributes, exactly as monitors and Docker write it.
    fn as_written(&mut self, line: &[u8]) -> Option<(Source, SystemTime)> {
        let mut rest = line.strip_prefix(br#"{"log":""#)?;
        self.text.clear();
        loop {
            let plain = memchr2(b'"', b'\\', rest)?;
            self.text.extend_from_slice(&rest[..plain]);
            let special = rest[plain];
            rest = &rest[plain + 1..];
            if special == b'"' {
                break;
            }
            let (byte, after) = rest.split_first()?;
            rest = after;
            self.text.push(match byte {
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'"' | b'\\' => *byte,
                b'u' => {
                    let (digits, after) = rest.split_at_checked(4)?;
                    rest = after;
                    let code = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
                    if code >= 0x80 {
                        return None;
                    }
                    code
                }
                _ => return None,
            });
        }
        let rest = rest.strip_prefix(br#","stream":"std"#)?;
        let (source, rest) = match rest {
            [b'o', b'u', b't', rest @ ..] => (Source::Stdout, rest),
            [b'e', b'r', b'r', rest @ ..] => (Source::Stderr, rest),
            _ => return None,
        };
        let time = rest
            .strip_prefix(br#"","time":""#)?
            .strip_suffix(br#""}"#)?;
        let time = match &self.moment {
            Some((text, moment)) if text == time => *moment,
            _ => {
                let moment = fast(time)?;
                self.moment = Some((time.to_vec(), moment));
                moment
            }
        };
        self.attributes.clear();
        Some((source, time))
    }

    fn as_json(&mut self, line: &[u8]) -> Option<(Source, SystemTime)> {
        let line: Line<'_> = serde_json::from_slice(line).ok()?;
        let time = parse_time(&line.time)?;
        self.text.clear();
        self.text.extend_from_slice(line.log.as_bytes());
        self.attributes = line.attrs.unwrap_or_default();
        let source = match line.stream.as_ref() {
            "stderr" => Source::Stderr,
            _ => Source::Stdout,
        };
        Some((source, time))
    }
}

/// The moment of a line, without reading the rest of it.
pub(super) fn time_of(line: &[u8]) -> Option<SystemTime> {
    const MARK: &[u8] = b"\"time\":\"";
    let start = line
        .windows(MARK.len())
        .rposition(|window| window == MARK)?
        + MARK.len();
    let length = line[start..].iter().position(|byte| *byte == b'"')?;
    parse_time(std::str::from_utf8(&line[start..start + length]).ok()?)
}

fn parse_time(text: &str) -> Option<SystemTime> {
    fast(text.as_bytes()).or_else(|| parse_rfc3339(text))
}

/// `YYYY-MM-DDThh:mm:ss[.fraction]Z`, as the monitor writes it.
fn fast(text: &[u8]) -> Option<SystemTime> {
    let (head, tail) = text.split_first_chunk::<19>()?;
    let number = |from: usize, to: usize| -> Option<u64> {
        head[from..to].iter().try_fold(0, |sum: u64, digit| {
            digit
                .is_ascii_digit()
                .then(|| sum * 10 + u64::from(digit - b'0'))
        })
    };
    let marks = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if marks.iter().any(|(at, mark)| head[*at] != *mark) {
        return None;
    }
    let fraction = match tail {
        b"Z" => 0,
        [b'.', digits @ .., b'Z'] if (1..=9).contains(&digits.len()) => {
            let mut nanos = 0u32;
            for place in 0..9 {
                let digit = match digits.get(place) {
                    Some(digit) if digit.is_ascii_digit() => digit - b'0',
                    Some(_) => return None,
                    None => 0,
                };
                nanos = nanos * 10 + u32::from(digit);
            }
            nanos
        }
        _ => return None,
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Days since 1970 of the civil calendar, with years that begin in March.
    let shifted = if month > 2 { year } else { year - 1 };
    let month = (month + 9) % 12;
    let of_era = shifted * 365 + shifted / 4 - shifted / 100 + shifted / 400;
    let days = of_era + (month * 153 + 2) / 5 + day - 1 - 719_468;
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    SystemTime::UNIX_EPOCH.checked_add(std::time::Duration::new(seconds, fraction))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn a_line_is_read() {
        let text = br#"{"log":"a \"b\"\n","stream":"stderr","attrs":{"k":"v"},"time":"2023-11-14T22:13:20.12Z"}"#;
        let mut reader = Reader::default();
        let record = reader.read(text).unwrap();
        assert_eq!(record.line, b"a \"b\"\n");
        assert_eq!(record.source, Source::Stderr);
        assert_eq!(record.attributes["k"], "v");
        assert_eq!(time_of(text), Some(record.time));
        let moment = UNIX_EPOCH + Duration::new(1_700_000_000, 120_000_000);
        assert_eq!(record.time, moment);
        let plain = br#"{"log":"x","stream":"stdout","time":"2023-11-14T22:13:20.12Z"}"#;
        let record = reader.read(plain).unwrap();
        assert!(record.attributes.is_empty() && record.cut);
    }

    #[test]
    fn half_a_line_is_none() {
        assert_eq!(Reader::default().read(br#"{"log":"a"#), None);
        assert_eq!(Reader::default().read(b""), None);
    }

    proptest! {
        #[test]
        fn the_quick_way_reads_what_the_json_reader_reads(text in "(\\PC|[\\x00-\\x1f\u{2028}\"\\\\]){0,60}") {
            let log = serde_json::to_string(&text).unwrap();
            let line = format!("{{\"log\":{log},\"stream\":\"stdout\",\"time\":\"2023-11-14T22:13:20.12Z\"}}");
            let (mut quick, mut json) = (Reader::default(), Reader::default());
            let read = quick.as_written(line.as_bytes());
            prop_assert_eq!(json.as_json(line.as_bytes()).is_some(), true);
            if read.is_some() {
                prop_assert_eq!(&quick.text, &json.text);
            }
            prop_assert_eq!(quick.read(line.as_bytes()).unwrap().line, text.as_bytes());
        }

        #[test]
        fn moments_are_read_as_the_slow_way_reads_them(seconds in 0u64..4_000_000_000, nanos in 0u32..1_000_000_000) {
            let moment = UNIX_EPOCH + Duration::new(seconds, nanos);
            let text = vocab::time::rfc3339_nano(moment);
            prop_assert_eq!(fast(text.as_bytes()), Some(moment));
        }
    }
}
