//! RFC 3164 and RFC 5424.
//!
//! ```text
//! (none)        <30>Jan  2 15:04:05 TAG[PID]: TEXT
//! rfc3164       <30>Jan  2 15:04:05 HOST TAG[PID]: TEXT
//! rfc5424       <30>1 2006-01-02T15:04:05Z HOST TAG PID TAG - TEXT
//! rfc5424micro  the same with microseconds
//! ```
//!
//! Each ends with a newline; over TLS, RFC 5424 messages are preceded by their length (RFC 5425).
//! Times are those of the lines, in UTC.

use std::path::Path;
use std::sync::Arc;

use crate::transport::{Address, TlsSettings};
use crate::{Batch, Kind, Line, OptionError, Options, Origin, Target, address, options};

const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv",
    "ftp", "", "", "", "", "local0", "local1", "local2", "local3", "local4", "local5", "local6",
    "local7",
];

/// Facility when nobody names one.
const DAEMON: u8 = 3;

/// Severities.
const ERROR: u8 = 3;
const INFO: u8 = 6;

/// Port of the protocol.
const PORT: u16 = 514;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Unix,
    Rfc3164,
    Rfc5424 { micro: bool },
}

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    facility: u8,
    form: Form,
    /// Whether messages are preceded by their length.
    counted: bool,
}

pub(crate) fn parse(options: &Options) -> Result<Target, OptionError> {
    let own = [
        "syslog-address",
        "syslog-facility",
        "syslog-format",
        "syslog-tls-ca-cert",
        "syslog-tls-cert",
        "syslog-tls-key",
        "syslog-tls-skip-verify",
    ];
    options::known("syslog", options, &own)?;
    let address = parse_address(options)?;
    let facility = parse_facility(options::text(options, "syslog-facility"))?;
    let form = match options::text(options, "syslog-format") {
        "" => Form::Unix,
        "rfc3164" => Form::Rfc3164,
        "rfc5424" => Form::Rfc5424 { micro: false },
        "rfc5424micro" => Form::Rfc5424 { micro: true },
        _ => return Err(OptionError("Invalid syslog format".to_owned())),
    };
    let tls = matches!(address, Address::Tls(..));
    let settings = Settings {
        facility,
        form,
        counted: tls && matches!(form, Form::Rfc5424 { .. }),
    };
    Ok(Target {
        kind: Kind::Syslog(settings),
        address,
    })
}

fn parse_facility(text: &str) -> Result<u8, OptionError> {
    if text.is_empty() {
        return Ok(DAEMON);
    }
    let numbered = text.parse::<u8>().ok().filter(|number| *number < 24);
    let named = FACILITIES.iter().position(|name| *name == text);
    let named = named.and_then(|place| u8::try_from(place).ok());
    named
        .or(numbered)
        .ok_or_else(|| OptionError("invalid syslog facility".to_owned()))
}

fn parse_address(options: &Options) -> Result<Address, OptionError> {
    let text = options::text(options, "syslog-address");
    if text.is_empty() {
        return Ok(Address::LocalSyslog);
    }
    let url = address::split(text).ok_or_else(|| {
        OptionError(format!(
            "syslog-address should be in form proto://address, got {text}"
        ))
    })?;
    let path = Path::new(url.path).to_owned();
    if matches!(url.scheme, "unix" | "unixgram") && !path.exists() {
        return Err(OptionError(format!(
            "stat {}: no such file or directory",
            url.path
        )));
    }
    let host = address::with_port(url.host, PORT);
    Ok(match url.scheme {
        "unix" => Address::Unix(path),
        "unixgram" => Address::UnixDatagram(path),
        "udp" => Address::Udp(host),
        "tcp" => Address::Tcp(host),
        _ => Address::Tls(host, Arc::new(parse_tls(options))),
    })
}

fn parse_tls(options: &Options) -> TlsSettings {
    let path = |key: &str| {
        let text = options::text(options, key);
        (!text.is_empty()).then(|| Path::new(text).to_owned())
    };
    TlsSettings {
        ca: path("syslog-tls-ca-cert"),
        certificate: path("syslog-tls-cert"),
        key: path("syslog-tls-key"),
        // Present is enough, as at Docker.
        skip_verify: options.contains_key("syslog-tls-skip-verify"),
    }
}

#[derive(Debug)]
pub(crate) struct Format {
    settings: Settings,
    host: String,
    tag: String,
    pid: u32,
    message: Vec<u8>,
}

impl Format {
    pub(crate) fn new(settings: &Settings, origin: &Origin) -> Self {
        Self {
            settings: settings.clone(),
            host: origin.host.clone(),
            tag: origin.tag.clone(),
            pid: std::process::id(),
            message: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, line: &Line<'_>, batch: &mut Batch) {
        let severity = if line.stderr { ERROR } else { INFO };
        let priority = self.settings.facility << 3 | severity;
        let Self { host, tag, pid, .. } = &*self;
        // YYYY-MM-DDThh:mm:ss.fffffffffZ
        let time = vocab::time::rfc3339_nine(line.time);
        let head = match self.settings.form {
            Form::Unix => format!("<{priority}>{} {tag}[{pid}]: ", stamp(&time)),
            Form::Rfc3164 => format!("<{priority}>{} {host} {tag}[{pid}]: ", stamp(&time)),
            Form::Rfc5424 { micro } => {
                let time = match micro {
                    true => format!("{}Z", time.get(..26).unwrap_or_default()),
                    false => format!("{}Z", time.get(..19).unwrap_or_default()),
                };
                format!("<{priority}>1 {time} {host} {tag} {pid} {tag} - ")
            }
        };
        self.message.clear();
        self.message.extend_from_slice(head.as_bytes());
        self.message.extend_from_slice(line.text);
        self.message.push(b'\n');
        if self.settings.counted {
            let length = format!("{} ", self.message.len());
            batch.bytes.extend_from_slice(length.as_bytes());
        }
        batch.bytes.extend_from_slice(&self.message);
        batch.end_message();
    }
}

/// `Jan _2 15:04:05` of a moment as RFC 3339 writes it.
fn stamp(time: &str) -> String {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let number = |from: usize| -> usize {
        let digits = time.get(from..from + 2).unwrap_or_default();
        digits.parse().unwrap_or_default()
    };
    let month = MONTHS[number(5).clamp(1, 12) - 1];
    format!(
        "{month} {:>2} {}",
        number(8),
        time.get(11..19).unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn written(format: &str, address: &str, stderr: bool) -> String {
        let given = options::of(&[
            ("syslog-format", format),
            ("syslog-address", address),
            ("syslog-facility", "local1"),
        ]);
        let target = parse(&given).unwrap();
        let Kind::Syslog(settings) = &target.kind else {
            unreachable!()
        };
        let origin = Origin {
            host: "host".to_owned(),
            tag: "tag".to_owned(),
            ..Origin::default()
        };
        let mut batch = Batch::default();
        let line = Line {
            stderr,
            time: UNIX_EPOCH + Duration::new(1_701_500_000, 123_456_789),
            text: b"hi",
            part: None,
        };
        Format::new(settings, &origin).add(&line, &mut batch);
        String::from_utf8(batch.bytes)
            .unwrap()
            .replace(&std::process::id().to_string(), "PID")
    }

    #[test]
    fn messages_are_those_of_docker() {
        let udp = "udp://127.0.0.1:1";
        assert_eq!(
            written("", udp, false),
            "<142>Dec  2 06:53:20 tag[PID]: hi\n"
        );
        assert_eq!(
            written("rfc3164", udp, true),
            "<139>Dec  2 06:53:20 host tag[PID]: hi\n"
        );
        assert_eq!(
            written("rfc5424", udp, false),
            "<142>1 2023-12-02T06:53:20Z host tag PID tag - hi\n"
        );
        assert_eq!(
            written("rfc5424micro", udp, false),
            "<142>1 2023-12-02T06:53:20.123456Z host tag PID tag - hi\n"
        );
        let counted = written("rfc5424", "tcp+tls://h:1", false);
        let (length, message) = counted.split_once(' ').unwrap();
        let pid_digits = std::process::id().to_string().len() - "PID".len();
        assert_eq!(length.parse::<usize>().unwrap(), message.len() + pid_digits);
    }

    #[test]
    fn options_are_refused_in_dockers_words() {
        let cases = [
            (
                "syslog-address",
                "nope",
                "syslog-address should be in form proto://address, got nope",
            ),
            (
                "syslog-address",
                "unix:///no/such",
                "stat /no/such: no such file or directory",
            ),
            ("syslog-facility", "24", "invalid syslog facility"),
            ("syslog-format", "x", "Invalid syslog format"),
            ("x", "y", "unknown log opt 'x' for syslog log driver"),
        ];
        for (key, value, text) in cases {
            assert_eq!(parse(&options::of(&[(key, value)])).unwrap_err().0, text);
        }
        assert_eq!(parse_facility("5"), Ok(5));
        assert_eq!(parse_facility("cron"), Ok(9));
    }
}
