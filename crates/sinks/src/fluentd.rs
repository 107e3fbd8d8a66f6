//! fluentd's forward protocol, in its Forward mode: one MessagePack array for a whole batch.
//!
//! ```text
//! [TAG, [[TIME, {"log": …}], …]]             or, to have it acknowledged,
//! [TAG, [[TIME, {"log": …}], …], {"chunk": ID}]   ◀── {"ack": ID}
//! ```
//! TIME is seconds, or with sub-second precision an EventTime: `d7 00 │ seconds u32 │ nanoseconds u32`.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::transport::{Address, SendError, Transport};
use crate::{Batch, Kind, Line, OptionError, Options, Origin, Target, address, options};

const PORT: u16 = 24224;

/// How long an acknowledgement may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Longest acknowledgement that is read.
const ACK_BYTES: usize = 256;

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Whether the container may start before fluentd answers.
    pub(crate) later: bool,
    precise: bool,
    acknowledged: bool,
}

pub(crate) fn parse(options: &Options) -> Result<Target, OptionError> {
    let own = [
        "fluentd-address",
        "fluentd-async",
        "fluentd-async-connect",
        "fluentd-async-reconnect-interval",
        "fluentd-buffer-limit",
        "fluentd-max-retries",
        "fluentd-request-ack",
        "fluentd-retry-wait",
        "fluentd-sub-second-precision",
        "fluentd-write-timeout",
    ];
    options::known("fluentd", options, &own)?;
    let address = parse_address(options::text(options, "fluentd-address"))?;
    let given = |key: &str| !options::text(options, key).is_empty();
    if given("fluentd-async") && given("fluentd-async-connect") {
        return Err(OptionError(
            "conflicting options: cannot specify both 'fluentd-async' and 'fluentd-async-connect'"
                .to_owned(),
        ));
    }
    let retries = options::text(options, "fluentd-max-retries");
    if !retries.is_empty() && retries.parse::<u64>().is_err() {
        return Err(OptionError(format!(
            "strconv.ParseUint: parsing {retries:?}: invalid syntax"
        )));
    }
    for key in [
        "fluentd-retry-wait",
        "fluentd-async-reconnect-interval",
        "fluentd-write-timeout",
    ] {
        let text = options::text(options, key);
        if !text.is_empty() && vocab::time::parse_duration(text).is_none() {
            return Err(OptionError(format!("time: invalid duration {text:?}")));
        }
    }
    let settings = Settings {
        later: options::flag(options, "fluentd-async")?
            || options::flag(options, "fluentd-async-connect")?,
        precise: options::flag(options, "fluentd-sub-second-precision")?,
        acknowledged: options::flag(options, "fluentd-request-ack")?,
    };
    Ok(Target {
        kind: Kind::Fluentd(settings),
        address,
    })
}

fn parse_address(text: &str) -> Result<Address, OptionError> {
    if text.is_empty() {
        return Ok(Address::Tcp(format!("127.0.0.1:{PORT}")));
    }
    let Some(url) = address::split(text) else {
        if text.contains("://") {
            return Err(OptionError(format!(
                "invalid fluentd-address {text}: unsupported scheme"
            )));
        }
        return Ok(Address::Tcp(address::with_port(text, PORT)));
    };
    let tcp_path = || {
        Err(OptionError(format!(
            "invalid fluentd-address {text}: should not contain a path element"
        )))
    };
    Ok(match url.scheme {
        "unix" => Address::Unix(Path::new(url.path).to_owned()),
        "tcp" | "tcp+tls" | "udp" if !url.path.is_empty() => return tcp_path(),
        "tcp" => Address::Tcp(address::with_port(url.host, PORT)),
        other => {
            return Err(OptionError(format!(
                "unsupported scheme in fluentd-address {text}: {other}"
            )));
        }
    })
}

#[derive(Debug)]
pub(crate) struct Format {
    settings: Settings,
    tag: String,
    /// Fields that all lines have, as MessagePack, and how many.
    fields: Vec<u8>,
    count: usize,
    /// Lines that are not in a message yet, and how many.
    entries: Vec<u8>,
    lines: u32,
    /// What is to be acknowledged.
    chunk: Option<String>,
}

impl Format {
    pub(crate) fn new(settings: &Settings, origin: &Origin) -> Self {
        let mut fields = Vec::new();
        // An attribute may have the name of a field of ours; the attribute is what Docker sends.
        let name = format!("/{}", origin.name);
        let own = [("container_id", &origin.id), ("container_name", &name)];
        let own = own
            .iter()
            .filter(|(key, _)| !origin.attributes.contains_key(*key));
        let own = own.map(|(key, value)| (*key, value.as_str()));
        let attributes = origin.attributes.iter();
        let attributes = attributes
            .filter(|(key, _)| !matches!(key.as_str(), "source" | "log"))
            .map(|(key, value)| (key.as_str(), value.as_str()));
        let mut count = 0;
        for (key, value) in own.chain(attributes) {
            text(&mut fields, key.as_bytes());
            text(&mut fields, value.as_bytes());
            count += 1;
        }
        Self {
            settings: settings.clone(),
            tag: origin.tag.clone(),
            fields,
            count,
            entries: Vec::new(),
            lines: 0,
            chunk: None,
        }
    }

    pub(crate) fn add(&mut self, line: &Line<'_>, _batch: &mut Batch) {
        let out = &mut self.entries;
        out.push(0x92);
        let since = line.time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = u32::try_from(since.as_secs()).unwrap_or(u32::MAX);
        if self.settings.precise {
            out.extend_from_slice(&[0xd7, 0x00]);
            out.extend_from_slice(&seconds.to_be_bytes());
            out.extend_from_slice(&since.subsec_nanos().to_be_bytes());
        } else {
            out.push(0xce);
            out.extend_from_slice(&seconds.to_be_bytes());
        }
        let parts = if line.part.is_some() { 4 } else { 0 };
        map_head(out, self.count + 2 + parts);
        out.extend_from_slice(&self.fields);
        text(out, b"source");
        text(out, if line.stderr { b"stderr" } else { b"stdout" });
        text(out, b"log");
        text(out, line.text);
        if let Some(part) = &line.part {
            text(out, b"partial_message");
            text(out, b"true");
            text(out, b"partial_id");
            text(out, part.id.as_bytes());
            text(out, b"partial_ordinal");
            text(out, part.ordinal.to_string().as_bytes());
            text(out, b"partial_last");
            text(out, part.last.to_string().as_bytes());
        }
        self.lines += 1;
    }

    /// Makes a message of the lines that were added.
    pub(crate) fn finish(&mut self, batch: &mut Batch) {
        if self.lines == 0 || !batch.ends.is_empty() {
            return;
        }
        let mut id = [0; 16];
        self.chunk = match self.settings.acknowledged && getrandom::fill(&mut id).is_ok() {
            true => Some(STANDARD.encode(id)),
            false => None,
        };
        let out = &mut batch.bytes;
        out.push(if self.chunk.is_some() { 0x93 } else { 0x92 });
        text(out, self.tag.as_bytes());
        out.push(0xdd);
        out.extend_from_slice(&self.lines.to_be_bytes());
        out.extend_from_slice(&self.entries);
        if let Some(chunk) = &self.chunk {
            out.push(0x81);
            text(out, b"chunk");
            text(out, chunk.as_bytes());
        }
        batch.end_message();
        self.entries.clear();
        self.lines = 0;
    }

    /// Waits until what was sent is acknowledged, if it is to be.
    pub(crate) async fn acknowledged(
        &mut self,
        transport: &mut Transport,
    ) -> Result<(), SendError> {
        let Some(chunk) = &self.chunk else {
            return Ok(());
        };
        let mut wanted = vec![0x81];
        text(&mut wanted, b"ack");
        text(&mut wanted, chunk.as_bytes());
        let mut bytes = Vec::new();
        while !bytes.windows(wanted.len()).any(|window| window == wanted) {
            if bytes.len() > ACK_BYTES {
                return Err(SendError::Acknowledgement);
            }
            transport.receive(&mut bytes, PATIENCE).await?;
        }
        self.chunk = None;
        Ok(())
    }
}

fn map_head(out: &mut Vec<u8>, entries: usize) {
    match u8::try_from(entries) {
        Ok(few @ 0..16) => out.push(0x80 | few),
        _ => {
            out.push(0xdf);
            out.extend_from_slice(&u32::try_from(entries).unwrap_or(u32::MAX).to_be_bytes());
        }
    }
}

fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    match u32::try_from(bytes.len()).unwrap_or(u32::MAX) {
        length @ 0..32 => out.push(0xa0 | length.to_be_bytes()[3]),
        length => {
            out.push(0xdb);
            out.extend_from_slice(&length.to_be_bytes());
        }
    }
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(pairs: &[(&str, &str)]) -> String {
        parse(&options::of(pairs)).unwrap_err().0
    }

    #[test]
    fn options_are_refused_in_dockers_words() {
        assert_eq!(
            refused(&[("x", "1")]),
            "unknown log opt 'x' for fluentd log driver"
        );
        assert_eq!(
            refused(&[("fluentd-async", "x")]),
            "strconv.ParseBool: parsing \"x\": invalid syntax"
        );
        assert_eq!(
            refused(&[("fluentd-max-retries", "-1")]),
            "strconv.ParseUint: parsing \"-1\": invalid syntax"
        );
        assert_eq!(
            refused(&[("fluentd-async", "true"), ("fluentd-async-connect", "true")]),
            "conflicting options: cannot specify both 'fluentd-async' and 'fluentd-async-connect'"
        );
        assert_eq!(
            refused(&[("fluentd-address", "tcp://h:1/x")]),
            "invalid fluentd-address tcp://h:1/x: should not contain a path element"
        );
    }
}
