//! Sizes, durations and moments as Docker writes and reads them.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::template::print::float_g;

const DECIMAL: [&str; 9] = ["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"];
const BINARY: [&str; 9] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"];

fn scaled(size: f64, base: f64, units: [&str; 9], precision: usize) -> String {
    let mut size = size;
    let mut unit = 0;
    while size >= base && unit < units.len() - 1 {
        size /= base;
        unit += 1;
    }
    format!("{}{}", float_g(size, Some(precision), false), units[unit])
}

/// `187MB`: three digits in steps of 1000 (`units.HumanSizeWithPrecision(size, 3)`).
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub fn size(bytes: i64) -> String {
    scaled(bytes as f64, 1000.0, DECIMAL, 3)
}

/// `1.952GiB`: four digits in steps of 1024 (`units.BytesSize`).
#[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
pub fn size_binary(bytes: u64) -> String {
    scaled(bytes as f64, 1024.0, BINARY, 4)
}

/// `units.HumanSize`: four digits in steps of 1000.
#[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
pub fn size_four(bytes: u64) -> String {
    scaled(bytes as f64, 1000.0, DECIMAL, 4)
}

pub use vocab::time::human_duration as duration;

/// `3 minutes ago`, of seconds since 1970.
pub fn ago(moment: i64, now: i64) -> String {
    let seconds = u64::try_from(now.saturating_sub(moment)).unwrap_or(0);
    format!("{} ago", duration(Duration::from_secs(seconds)))
}

/// Seconds since 1970, now.
pub fn now() -> i64 {
    Timestamp::now().as_second()
}

/// `2006-01-02 15:04:05 -0700 MST`, of seconds since 1970, in the caller's time zone.
pub fn moment(seconds: i64) -> String {
    moment_in(seconds, TimeZone::system())
}

fn moment_in(seconds: i64, zone: TimeZone) -> String {
    let timestamp = Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH);
    timestamp
        .to_zoned(zone)
        .strftime("%Y-%m-%d %H:%M:%S %z %Z")
        .to_string()
}

/// How Go prints a moment that JSON carries: `2006-01-02 15:04:05.999 +0000 UTC`.
pub fn moment_of(rfc3339: &str) -> String {
    let Ok(timestamp) = rfc3339.parse::<Timestamp>() else {
        return rfc3339.to_owned();
    };
    let fraction = format!("{:09}", timestamp.subsec_nanosecond());
    let fraction = fraction.trim_end_matches('0');
    let dot = if fraction.is_empty() { "" } else { "." };
    format!(
        "{}{dot}{fraction} +0000 UTC",
        timestamp.strftime("%Y-%m-%d %H:%M:%S")
    )
}

/// RFC 3339 in the caller's time zone, of seconds since 1970.
pub fn moment_rfc3339(seconds: i64) -> String {
    let timestamp = Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH);
    let zoned = timestamp.to_zoned(TimeZone::system());
    let offset = zoned.strftime("%:z").to_string();
    let offset = if offset == "+00:00" { "Z" } else { &offset };
    format!("{}{offset}", zoned.strftime("%Y-%m-%dT%H:%M:%S"))
}

/// RFC 3339 with nine digits in the caller's time zone, as `events` begins its lines.
pub fn moment_nine(nanoseconds: i64) -> String {
    let timestamp = Timestamp::from_nanosecond(nanoseconds.into()).unwrap_or(Timestamp::UNIX_EPOCH);
    let zoned = timestamp.to_zoned(TimeZone::system());
    let offset = zoned.strftime("%:z").to_string();
    let offset = if offset == "+00:00" { "Z" } else { &offset };
    format!("{}{offset}", zoned.strftime("%Y-%m-%dT%H:%M:%S.%9f"))
}

/// Why a text is no size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// No number.
    #[error("invalid size: '{0}'")]
    Size(String),
    /// An unknown unit.
    #[error("invalid suffix: '{0}'")]
    Suffix(String),
}

/// Bytes in steps of 1024: `64m`, `1.5g`, `100KiB` (`units.RAMInBytes`).
#[expect(clippy::cast_possible_truncation, reason = "saturates, as is wanted")]
pub fn parse_size(text: &str) -> Result<i64, SizeError> {
    let invalid = || SizeError::Size(text.to_owned());
    let end = text
        .rfind(|c: char| c.is_ascii_digit() || c == '.')
        .ok_or_else(invalid)?;
    let (mut number, mut suffix) = text.split_at(end + 1);
    if let Some(shorter) = number.strip_suffix(' ') {
        number = shorter;
    }
    suffix = suffix.strip_prefix(' ').unwrap_or(suffix);
    let number: f64 = number
        .bytes()
        .all(|b| b.is_ascii_digit() || b == b'.' || b == b'-' || b == b'+')
        .then(|| number.parse().ok())
        .flatten()
        .filter(|number: &f64| *number >= 0.0)
        .ok_or_else(invalid)?;
    let unknown = || SizeError::Suffix(suffix.to_owned());
    let lower = suffix.to_ascii_lowercase();
    let power = match lower.as_str() {
        "" | "b" => 0,
        word => {
            let unit = word.chars().next().ok_or_else(unknown)?;
            if !matches!(&word[unit.len_utf8()..], "" | "b" | "ib") {
                return Err(unknown());
            }
            "kmgtp".find(unit).ok_or_else(unknown)? + 1
        }
    };
    Ok((number * 1024_f64.powi(i32::try_from(power).unwrap_or(0))) as i64)
}

/// Nanoseconds of a Go duration: `1h30m`, `1.5s`, `-2ms`.
pub fn parse_duration(text: &str) -> Result<i64, String> {
    let invalid = || {
        format!(
            "time: invalid duration {}",
            crate::template::print::quote(text)
        )
    };
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total = 0_f64;
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, tail) = rest.split_at(end);
        let number: f64 = number.parse().map_err(|_| invalid())?;
        let end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let scale = match unit {
            "" => {
                return Err(format!(
                    "time: missing unit in duration {}",
                    crate::template::print::quote(text)
                ));
            }
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            unknown => {
                return Err(format!(
                    "time: unknown unit {} in duration {}",
                    crate::template::print::quote(unknown),
                    crate::template::print::quote(text)
                ));
            }
        };
        total += number * scale;
        rest = tail;
    }
    if total > 9.2e18 {
        return Err(invalid());
    }
    #[expect(clippy::cast_possible_truncation, reason = "checked above")]
    let total = total.round() as i64;
    Ok(if negative { -total } else { total })
}

/// What `--since` and `--until` take, as the API wants it: seconds with nanoseconds after the dot.
/// A duration means that long before now; a time without an offset is local.
pub fn parse_moment(text: &str, now: Timestamp) -> Option<String> {
    if let Ok(nanoseconds) = parse_duration(text) {
        let moment = now
            .checked_sub(jiff::SignedDuration::from_nanos(nanoseconds))
            .ok()?;
        return Some(unix(moment));
    }
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return Some(unix(timestamp));
    }
    let local = text
        .parse::<jiff::civil::DateTime>()
        .or_else(|_| text.trim_end_matches('Z').parse::<jiff::civil::DateTime>());
    if let Ok(local) = local {
        let zone = if text.ends_with('Z') {
            TimeZone::UTC
        } else {
            TimeZone::system()
        };
        return Some(unix(local.to_zoned(zone).ok()?.timestamp()));
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    (digits(seconds) && digits(fraction)).then(|| text.to_owned())
}

fn unix(timestamp: Timestamp) -> String {
    format!(
        "{}.{:09}",
        timestamp.as_second(),
        timestamp.subsec_nanosecond()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_print_as_docker_prints_them() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (4_261_550, "4.26MB"),
            (187_000_000, "187MB"),
            (1_240_000_000, "1.24GB"),
            (999_900, "1e+03kB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        for (bytes, text) in [
            (0, "0B"),
            (1536, "1.5KiB"),
            (64 << 20, "64MiB"),
            (2_095_951_872, "1.952GiB"),
        ] {
            assert_eq!(size_binary(bytes), text);
        }
        assert_eq!(size_four(12_345), "12.35kB");
    }

    #[test]
    fn ages_print_as_docker_prints_them() {
        assert_eq!(ago(100, 220), "2 minutes ago");
        assert_eq!(ago(220, 100), "Less than a second ago");
    }

    #[test]
    fn moments_print_as_go_prints_them() {
        assert_eq!(
            moment_in(1_700_000_000, TimeZone::UTC),
            "2023-11-14 22:13:20 +0000 UTC"
        );
    }

    #[test]
    fn moments_in_json_print_as_go_prints_them() {
        for (json, text) in [
            (
                "2026-11-21T03:12:00.58826992Z",
                "2026-11-21 03:12:00.58826992 +0000 UTC",
            ),
            ("2026-11-21T03:12:00Z", "2026-11-21 03:12:00 +0000 UTC"),
            ("never", "never"),
        ] {
            assert_eq!(moment_of(json), text);
        }
    }

    #[test]
    fn sizes_are_read_as_docker_reads_them() {
        for (text, bytes) in [
            ("32", 32),
            ("32b", 32),
            ("64m", 64 << 20),
            ("64M", 64 << 20),
            ("64MB", 64 << 20),
            ("64MiB", 64 << 20),
            ("1.5g", 3 << 29),
            ("2 k", 2048),
            ("1t", 1 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        assert_eq!(
            parse_size("x").unwrap_err().to_string(),
            "invalid size: 'x'"
        );
        assert_eq!(
            parse_size("1x").unwrap_err().to_string(),
            "invalid suffix: 'x'"
        );
        assert_eq!(
            parse_size("-1").unwrap_err().to_string(),
            "invalid size: '-1'"
        );
        assert_eq!(parse_size("").unwrap_err().to_string(), "invalid size: ''");
        assert!(parse_size("1 2 3").is_err());
        assert!(parse_size("1kx").is_err());
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, nanoseconds) in [
            ("0", 0),
            ("1s", 1_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1.5s", 1_500_000_000),
            ("-2ms", -2_000_000),
            ("3us", 3_000),
        ] {
            assert_eq!(parse_duration(text), Ok(nanoseconds), "{text}");
        }
        assert_eq!(
            parse_duration("x").unwrap_err(),
            "time: invalid duration \"x\""
        );
        assert_eq!(
            parse_duration("3").unwrap_err(),
            "time: missing unit in duration \"3\""
        );
        assert_eq!(
            parse_duration("3d").unwrap_err(),
            "time: unknown unit \"d\" in duration \"3d\""
        );
    }

    #[test]
    fn since_takes_times_and_durations() {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        for (text, wanted) in [
            ("10m", Some("1699999400.000000000")),
            ("1699999400", Some("1699999400")),
            ("1699999400.5", Some("1699999400.5")),
            ("2023-11-14T22:13:20Z", Some("1700000000.000000000")),
            ("2023-11-14T23:13:20.5+01:00", Some("1700000000.500000000")),
            ("foo", None),
            ("", None),
        ] {
            assert_eq!(parse_moment(text, now).as_deref(), wanted, "{text}");
        }
    }
}
