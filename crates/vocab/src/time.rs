//! Moments and durations as Go and Docker print and read them.

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

/// As Go prints a `time.Duration`: `1m30s`, `1.5s`, `250ms`.
pub fn go_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let fraction = |unit: u128, name: &str| {
        let digits = unit.ilog10() as usize;
        let text = format!("{}.{:0digits$}", nanos / unit, nanos % unit);
        let text = text.trim_end_matches('0').trim_end_matches('.');
        format!("{text}{name}")
    };
    let seconds = duration.as_secs();
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => fraction(1_000, "µs"),
        1_000_000..1_000_000_000 => fraction(1_000_000, "ms"),
        _ if seconds < 60 => fraction(1_000_000_000, "s"),
        _ => {
            let rest = Duration::new(seconds % 60, duration.subsec_nanos());
            let rest = match rest.as_nanos() {
                0..1_000_000_000 if rest.is_zero() => "0s".to_owned(),
                0..1_000_000_000 => {
                    format!("0.{:09}", rest.subsec_nanos())
                        .trim_end_matches('0')
                        .to_owned()
                        + "s"
                }
                _ => go_duration(rest),
            };
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            match hours {
                0 => format!("{minutes}m{rest}"),
                _ => format!("{hours}h{minutes}m{rest}"),
            }
        }
    }
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

/// What people write for a moment in a filter: seconds since 1970, RFC 3339, a date or a time without
/// an offset, which is local, or how long ago in Go's words (`1h30m`).
pub fn parse_when(text: &str) -> Option<SystemTime> {
    parse_unix(text)
        .or_else(|| parse_rfc3339(text))
        .or_else(|| parse_local(text))
        .or_else(|| SystemTime::now().checked_sub(parse_duration(text)?))
}

fn parse_local(text: &str) -> Option<SystemTime> {
    let (plain, zone) = match text.strip_suffix('Z') {
        Some(plain) => (plain, jiff::tz::TimeZone::UTC),
        None => (text, jiff::tz::TimeZone::system()),
    };
    let moment: jiff::civil::DateTime = plain.parse().ok()?;
    Some(moment.to_zoned(zone).ok()?.timestamp().into())
}

/// How long something lasts, as Docker tells people: `About an hour` (go-units, `HumanDuration`).
pub fn human_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let minutes = seconds / 60;
    // Rounded, unlike the minutes.
    let hours = (seconds + 1800) / 3600;
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

/// Reads a duration as Go writes it: `1h30m`, `1.5s`, `100ms`. A sign is not taken.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut sum = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit = after
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        let part = number.parse::<f64>().ok()? * seconds;
        sum = sum.checked_add(Duration::try_from_secs_f64(part).ok()?)?;
        rest = after;
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_of_filters_are_read_in_every_form() {
        let when = |text| parse_when(text).map(rfc3339_nano);
        let noon = Some("2026-01-02T12:00:00Z".to_owned());
        assert_eq!(when("1767355200"), noon);
        assert_eq!(when("2026-01-02T13:00:00+01:00"), noon);
        assert_eq!(when("2026-01-02T12:00Z"), noon);
        // Where the clock stands is the machine's business; that it is read is ours.
        assert!(when("2026-01-02").is_some() && when("2026-01-02T12:00:00").is_some());
        assert!(parse_when("10m") < Some(SystemTime::now()));
        assert_eq!(when("nonsense"), None);
        assert_eq!(when(""), None);
    }

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

    #[test]
    fn durations_are_printed_as_go_prints_them() {
        for (millis, text) in [
            (0, "0s"),
            (250, "250ms"),
            (1_500, "1.5s"),
            (30_000, "30s"),
            (60_000, "1m0s"),
            (90_500, "1m30.5s"),
            (60_250, "1m0.25s"),
            (3_600_000, "1h0m0s"),
        ] {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn durations_are_said_as_docker_says_them() {
        for (seconds, said) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (5399, "About an hour"),
            (5400, "2 hours"),
            (47 * 3600, "47 hours"),
            (48 * 3600, "2 days"),
            (14 * 86400, "2 weeks"),
            (60 * 86400, "2 months"),
            (730 * 86400, "2 years"),
        ] {
            assert_eq!(
                human_duration(Duration::from_secs(seconds)),
                said,
                "{seconds}"
            );
        }
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        assert_eq!(parse_duration("1h30m"), Some(Duration::from_secs(5400)));
        assert_eq!(parse_duration("1.5s"), Some(Duration::from_millis(1500)));
        for wrong in ["", "5", "h", "1x", "-1h", "2026-01-01T00:00:00Z"] {
            assert_eq!(parse_duration(wrong), None, "{wrong}");
        }
    }
}
