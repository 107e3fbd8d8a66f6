//! Moments as Go prints them: RFC 3339 in UTC with up to nine fraction digits.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The moment that Go prints for "never"; Docker shows it for a container that has not started.
pub const ZERO: &str = "0001-01-01T00:00:00Z";

/// `time.RFC3339Nano` of Go: trailing zeros of the fraction are cut.
pub fn rfc3339_nano(moment: SystemTime) -> String {
    let timestamp = jiff::Timestamp::try_from(moment).unwrap_or(jiff::Timestamp::MIN);
    timestamp.to_string()
}

/// Exactly nine fraction digits, as log lines carry them.
pub fn rfc3339_nine(moment: SystemTime) -> String {
    let timestamp = jiff::Timestamp::try_from(moment).unwrap_or(jiff::Timestamp::MIN);
    format!("{timestamp:.9}")
}

/// Reads RFC 3339 with an offset or `Z`.
pub fn parse_rfc3339(text: &str) -> Option<SystemTime> {
    let timestamp: jiff::Timestamp = text.parse().ok()?;
    Some(timestamp.into())
}

/// Seconds since 1970, with nanoseconds after the dot, as `since` and `until` carry them.
pub fn parse_unix(text: &str) -> Option<SystemTime> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: u64 = seconds.parse().ok()?;
    if fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanos: u32 = format!("{fraction:0<9}").parse().ok()?;
    UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_print_as_go_prints_them() {
        let moment = parse_unix("1700000000.12").unwrap();
        assert_eq!(rfc3339_nano(moment), "2023-11-14T22:13:20.12Z");
        assert_eq!(rfc3339_nine(moment), "2023-11-14T22:13:20.120000000Z");
        assert_eq!(parse_rfc3339("2023-11-14T23:13:20.12+01:00"), Some(moment));
        assert_eq!(
            rfc3339_nano(parse_unix("1700000000").unwrap()),
            "2023-11-14T22:13:20Z"
        );
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for text in ["", "x", "-1", "1.x", "1.0000000001"] {
            assert_eq!(parse_unix(text), None, "{text}");
        }
    }
}
