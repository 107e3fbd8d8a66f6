//! Limits: open files, processors, memory, restarts.

use vocab::config::{RestartPolicy, Ulimit};

use crate::flags::parse_integer;

const ULIMITS: [&str; 16] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
    "as",
];

/// Whether a text is a `--ulimit` value.
pub fn check_ulimit(spec: &str) -> Result<(), String> {
    ulimit(spec).map(drop)
}

/// Reads `name=soft[:hard]`.
pub fn ulimit(spec: &str) -> Result<Ulimit, String> {
    let (name, limits) = spec
        .split_once('=')
        .ok_or_else(|| format!("invalid ulimit argument: {spec}"))?;
    if !ULIMITS.contains(&name) {
        return Err(format!("invalid ulimit type: {name}"));
    }
    let parts: Vec<&str> = limits.split(':').collect();
    if parts.len() > 2 {
        return Err(format!(
            "too many limit value arguments - {limits}, can only have up to two, `soft[:hard]`"
        ));
    }
    let soft = parse_integer(parts[0])?;
    let hard = match parts.get(1) {
        Some(hard) => parse_integer(hard)?,
        None => soft,
    };
    if hard != -1 && (soft == -1 || soft > hard) {
        let soft = if soft == -1 {
            "-1".to_owned()
        } else {
            soft.to_string()
        };
        return Err(format!(
            "ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"
        ));
    }
    Ok(Ulimit {
        name: name.to_owned(),
        hard,
        soft,
    })
}

/// Whether a text is a `--cpus` value.
pub fn check_cpus(text: &str) -> Result<(), String> {
    cpus(text).map(drop)
}

/// A decimal number of processors, in units of 10⁻⁹.
pub fn cpus(text: &str) -> Result<i64, String> {
    let wrong = || format!("failed to parse {text} as a rational number");
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let fine = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if !fine(whole) || !fine(fraction) || whole.len() + fraction.len() == 0 {
        return Err(wrong());
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > 9 {
        return Err("value is too precise".to_owned());
    }
    let number: i64 = format!("{whole}{fraction:0<9}")
        .parse()
        .map_err(|_| "value is too big".to_owned())?;
    Ok(if negative { -number } else { number })
}

/// Whether a text is a `--memory-swap` value.
pub fn check_swap(text: &str) -> Result<(), String> {
    swap(text).map(drop)
}

/// Bytes, or −1 for no limit.
pub fn swap(text: &str) -> Result<i64, String> {
    if text == "-1" {
        return Ok(-1);
    }
    crate::human::parse_size(text).map_err(|error| error.to_string())
}

/// Reads `no`, `always`, `unless-stopped` or `on-failure[:times]`; the daemon knows the names.
pub fn restart(policy: &str) -> Result<RestartPolicy, String> {
    if policy.is_empty() {
        return Ok(RestartPolicy {
            name: "no".to_owned(),
            maximum_retry_count: 0,
        });
    }
    let (name, count) = match policy.split_once(':') {
        Some((name, count)) => (name, Some(count)),
        None => (policy, None),
    };
    if name.is_empty() {
        return Err("invalid restart policy format: no policy provided before colon".to_owned());
    }
    let maximum_retry_count = match count {
        Some("") | None => 0,
        Some(count) => parse_integer(count).map_err(|_| {
            "invalid restart policy format: maximum retry count must be an integer".to_owned()
        })?,
    };
    Ok(RestartPolicy {
        name: name.to_owned(),
        maximum_retry_count,
    })
}

/// Whether a text names a stream.
pub fn check_stream(text: &str) -> Result<(), String> {
    match text.to_lowercase().as_str() {
        "stdin" | "stdout" | "stderr" => Ok(()),
        _ => Err("valid streams are STDIN, STDOUT and STDERR".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ulimits_are_understood() {
        let limit = ulimit("nofile=1024:2048").unwrap();
        assert_eq!((limit.soft, limit.hard), (1024, 2048));
        assert_eq!(ulimit("core=-1").unwrap().hard, -1);
        assert_eq!(ulimit("core=5:-1").unwrap().soft, 5);
        for (spec, wanted) in [
            ("x", "invalid ulimit argument: x"),
            ("foo=1", "invalid ulimit type: foo"),
            (
                "nofile=a",
                "strconv.ParseInt: parsing \"a\": invalid syntax",
            ),
            (
                "nofile=10:5",
                "ulimit soft limit must be less than or equal to hard limit: 10 > 5",
            ),
        ] {
            assert_eq!(ulimit(spec).unwrap_err(), wanted, "{spec}");
        }
    }

    #[test]
    fn processors_are_decimals() {
        for (text, nano) in [
            ("0.5", 500_000_000),
            ("2", 2_000_000_000),
            (".25", 250_000_000),
            ("1.50", 1_500_000_000),
            ("0.000000001", 1),
        ] {
            assert_eq!(cpus(text), Ok(nano), "{text}");
        }
        assert_eq!(
            cpus("x").unwrap_err(),
            "failed to parse x as a rational number"
        );
        assert_eq!(
            cpus("1.2.3").unwrap_err(),
            "failed to parse 1.2.3 as a rational number"
        );
        assert_eq!(cpus("0.0000000001").unwrap_err(), "value is too precise");
        assert!(cpus("").is_err());
    }

    #[test]
    fn restart_policies_are_understood() {
        assert_eq!(restart("on-failure:3").unwrap().maximum_retry_count, 3);
        assert_eq!(restart("").unwrap().name, "no");
        assert_eq!(restart("unless-stopped").unwrap().name, "unless-stopped");
        assert_eq!(
            restart("on-failure:x").unwrap_err(),
            "invalid restart policy format: maximum retry count must be an integer"
        );
        assert!(restart(":3").is_err());
    }

    #[test]
    fn swap_may_be_unlimited() {
        assert_eq!(swap("-1"), Ok(-1));
        assert_eq!(swap("1g"), Ok(1 << 30));
        assert!(swap("x").is_err());
    }
}
