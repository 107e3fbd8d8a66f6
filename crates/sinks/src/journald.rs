//! systemd's native protocol: a datagram of fields for each line.
//!
//! ```text
//! KEY=value\n            or, for values with a newline,
//! KEY\n length u64 LE value \n
//! ```

use std::path::Path;

use crate::transport::Address;
use crate::{Batch, Kind, Line, OptionError, Options, Origin, Target, options};

const SOCKET: &str = "/run/systemd/journal/socket";

/// Priorities of syslog.
const ERROR: &str = "3";
const INFO: &str = "6";

pub(crate) fn parse(options: &Options) -> Result<Target, OptionError> {
    options::known("journald", options, &[])?;
    Ok(Target {
        kind: Kind::Journald,
        address: Address::Journal(Path::new(SOCKET).to_owned()),
    })
}

#[derive(Debug)]
pub(crate) struct Format {
    /// Fields that all lines have.
    fields: Vec<u8>,
    /// Of the lines so far.
    ordinal: u64,
}

impl Format {
    pub(crate) fn new(origin: &Origin) -> Self {
        let mut fields = Vec::new();
        let short: String = origin.id.chars().take(12).collect();
        let own = [
            ("CONTAINER_ID", short.as_str()),
            ("CONTAINER_ID_FULL", &origin.id),
            ("CONTAINER_NAME", &origin.name),
            ("CONTAINER_TAG", &origin.tag),
            ("IMAGE_NAME", &origin.image_name),
            ("SYSLOG_IDENTIFIER", &origin.tag),
        ];
        for (key, value) in own {
            field(&mut fields, key, value.as_bytes());
        }
        for (key, value) in &origin.attributes {
            let key = sanitised(key);
            if !key.is_empty() {
                field(&mut fields, &key, value.as_bytes());
            }
        }
        Self { fields, ordinal: 0 }
    }

    pub(crate) fn add(&mut self, line: &Line<'_>, batch: &mut Batch) {
        let out = &mut batch.bytes;
        field(out, "MESSAGE", line.text);
        let priority = if line.stderr { ERROR } else { INFO };
        field(out, "PRIORITY", priority.as_bytes());
        self.ordinal += 1;
        field(
            out,
            "CONTAINER_LOG_ORDINAL",
            self.ordinal.to_string().as_bytes(),
        );
        let time = vocab::time::rfc3339_nano(line.time);
        field(out, "SYSLOG_TIMESTAMP", time.as_bytes());
        if let Some(part) = &line.part {
            if !part.last {
                field(out, "CONTAINER_PARTIAL_MESSAGE", b"true");
            }
            field(out, "CONTAINER_PARTIAL_ID", part.id.as_bytes());
            field(
                out,
                "CONTAINER_PARTIAL_ORDINAL",
                part.ordinal.to_string().as_bytes(),
            );
            field(
                out,
                "CONTAINER_PARTIAL_LAST",
                part.last.to_string().as_bytes(),
            );
        }
        out.extend_from_slice(&self.fields);
        batch.end_message();
    }
}

fn field(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    out.extend_from_slice(key.as_bytes());
    if value.contains(&b'\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Upper case letters, digits and underscores, of which none at the beginning.
fn sanitised(key: &str) -> String {
    let known = |character: char| match character.to_ascii_uppercase() {
        fine @ ('A'..='Z' | '0'..='9') => fine,
        _ => '_',
    };
    let mapped: String = key.chars().map(known).collect();
    mapped.trim_start_matches('_').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_what_journald_takes() {
        assert_eq!(sanitised("__a.b-C9"), "A_B_C9");
        assert_eq!(sanitised("ä"), "");
    }

    #[test]
    fn values_with_newlines_are_counted() {
        let mut out = Vec::new();
        field(&mut out, "A", b"1");
        field(&mut out, "B", b"x\ny");
        assert_eq!(out, b"A=1\nB\n\x03\0\0\0\0\0\0\0x\ny\n");
    }
}
