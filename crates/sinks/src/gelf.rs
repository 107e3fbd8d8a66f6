//! GELF 1.1: a JSON object for each line, in datagrams (compressed, and cut into chunks when they do
//! not fit) or over TCP, each followed by a zero byte.
//!
//! ```text
//! 1e 0f │ id, 8 bytes │ number u8 │ count u8 │ at most 1,408 bytes
//! ```

use std::io::Write as _;
use std::time::UNIX_EPOCH;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use serde_json::{Map, Value};

use crate::transport::Address;
use crate::{Batch, Kind, Line, OptionError, Options, Origin, Target, address, options};

/// Bytes of a datagram that pass any Ethernet.
const CHUNK_BYTES: usize = 1420;

/// Bytes before the data of a chunk.
const CHUNK_HEAD: usize = 12;

/// Chunks that a message may have.
const MAX_CHUNKS: usize = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    Gzip,
    Zlib,
    None,
}

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    packing: Packing,
    level: Compression,
}

pub(crate) fn parse(options: &Options) -> Result<Target, OptionError> {
    let own = [
        "gelf-address",
        "gelf-compression-level",
        "gelf-compression-type",
        "gelf-tcp-max-reconnect",
        "gelf-tcp-reconnect-delay",
    ];
    options::known("gelf", options, &own)?;
    let text = options::text(options, "gelf-address");
    let wrong = |text: String| Err(OptionError(text));
    if text.is_empty() {
        return wrong("gelf-address is a required parameter".to_owned());
    }
    let Some(url) = address::split(text) else {
        return wrong(format!(
            "gelf-address should be in form proto://address, got {text}"
        ));
    };
    let host = url.host.to_owned();
    let complete = address::host_and_port(url.host).is_some();
    let address = match url.scheme {
        "udp" if complete => Address::Udp(host),
        "tcp" if complete => Address::Tcp(host),
        "udp" | "tcp" => {
            return wrong("gelf: please provide gelf-address as proto://host:port".to_owned());
        }
        _ => return wrong("gelf: endpoint needs to be TCP or UDP".to_owned()),
    };
    let tcp = matches!(address, Address::Tcp(_));
    let unknown = |key: &str| {
        let value = options::text(options, key);
        OptionError(format!(
            "unknown value {value:?} for log opt {key:?} for gelf log driver"
        ))
    };
    for key in ["gelf-compression-level", "gelf-compression-type"] {
        if tcp && options.contains_key(key) {
            return wrong("compression is only supported on UDP".to_owned());
        }
    }
    for key in ["gelf-tcp-max-reconnect", "gelf-tcp-reconnect-delay"] {
        let Some(value) = options.get(key) else {
            continue;
        };
        if !tcp {
            return wrong(format!("{key:?} is only supported on TCP"));
        }
        if value.parse::<u32>().is_err() {
            return Err(unknown(key));
        }
    }
    let level = match options.get("gelf-compression-level") {
        None => Compression::fast(),
        Some(text) => match text.parse::<i32>() {
            Ok(-1) => Compression::default(),
            Ok(level @ 0..=9) => Compression::new(level.unsigned_abs()),
            _ => return Err(unknown("gelf-compression-level")),
        },
    };
    let packing = match options.get("gelf-compression-type").map(String::as_str) {
        None | Some("gzip") => Packing::Gzip,
        Some("zlib") => Packing::Zlib,
        Some("none") => Packing::None,
        Some(_) => return Err(unknown("gelf-compression-type")),
    };
    Ok(Target {
        kind: Kind::Gelf(Settings { packing, level }),
        address,
    })
}

#[derive(Debug)]
pub(crate) struct Format {
    settings: Settings,
    datagrams: bool,
    host: String,
    /// Fields that all lines have.
    fields: Map<String, Value>,
}

impl Format {
    pub(crate) fn new(settings: &Settings, address: &Address, origin: &Origin) -> Self {
        let mut fields = Map::new();
        for (key, value) in &origin.attributes {
            let underscore = if key.starts_with('_') { "" } else { "_" };
            fields.insert(format!("{underscore}{key}"), value.as_str().into());
        }
        let own = [
            ("_container_id", &origin.id),
            ("_container_name", &origin.name),
            ("_image_id", &origin.image_id),
            ("_image_name", &origin.image_name),
            ("_command", &origin.command),
            ("_tag", &origin.tag),
            ("_created", &origin.created),
        ];
        for (key, value) in own {
            fields.insert(key.to_owned(), value.as_str().into());
        }
        Self {
            settings: settings.clone(),
            datagrams: matches!(address, Address::Udp(_)),
            host: origin.host.clone(),
            fields,
        }
    }

    pub(crate) fn add(&mut self, line: &Line<'_>, batch: &mut Batch) {
        let since = line.time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut message = self.fields.clone();
        message.insert("version".to_owned(), "1.1".into());
        message.insert("host".to_owned(), self.host.as_str().into());
        let text = String::from_utf8_lossy(line.text);
        message.insert("short_message".to_owned(), text.into());
        // Milliseconds, as Docker sends them.
        let seconds = Value::from(since.as_secs_f64() * 1000.0);
        let seconds = seconds.as_f64().map(|millis| millis.floor() / 1000.0);
        message.insert("timestamp".to_owned(), seconds.into());
        message.insert("level".to_owned(), if line.stderr { 3 } else { 6 }.into());
        let message = Value::Object(message).to_string().into_bytes();
        if !self.datagrams {
            batch.bytes.extend_from_slice(&message);
            batch.bytes.push(0);
            batch.end_message();
            return;
        }
        self.chunks(&self.packed(message), batch);
    }

    fn packed(&self, message: Vec<u8>) -> Vec<u8> {
        let out = Vec::with_capacity(message.len() / 2);
        let level = self.settings.level;
        let packed = match self.settings.packing {
            Packing::None => return message,
            Packing::Gzip => {
                let mut encoder = GzEncoder::new(out, level);
                encoder.write_all(&message).and_then(|()| encoder.finish())
            }
            Packing::Zlib => {
                let mut encoder = ZlibEncoder::new(out, level);
                encoder.write_all(&message).and_then(|()| encoder.finish())
            }
        };
        // Writing to memory does not fail; a receiver tells the two apart.
        packed.unwrap_or(message)
    }

    fn chunks(&self, message: &[u8], batch: &mut Batch) {
        if message.len() <= CHUNK_BYTES {
            batch.bytes.extend_from_slice(message);
            batch.end_message();
            return;
        }
        let chunks = message.chunks(CHUNK_BYTES - CHUNK_HEAD);
        let count = chunks.len();
        let mut id = [0; 8];
        let (Ok(count), true, Ok(())) = (
            u8::try_from(count),
            count <= MAX_CHUNKS,
            getrandom::fill(&mut id),
        ) else {
            // Docker cannot send it either.
            return;
        };
        for (number, chunk) in (0..count).zip(chunks) {
            batch.bytes.extend_from_slice(&[0x1e, 0x0f]);
            batch.bytes.extend_from_slice(&id);
            batch.bytes.extend_from_slice(&[number, count]);
            batch.bytes.extend_from_slice(chunk);
            batch.end_message();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(pairs: &[(&str, &str)]) -> String {
        parse(&options::of(pairs)).unwrap_err().0
    }

    #[test]
    fn options_are_refused_in_dockers_words() {
        let udp = ("gelf-address", "udp://h:1");
        let tcp = ("gelf-address", "tcp://h:1");
        assert_eq!(refused(&[]), "gelf-address is a required parameter");
        assert_eq!(
            refused(&[("gelf-address", "h:1")]),
            "gelf-address should be in form proto://address, got h:1"
        );
        assert_eq!(
            refused(&[("gelf-address", "unix:///x")]),
            "gelf: endpoint needs to be TCP or UDP"
        );
        assert_eq!(
            refused(&[("gelf-address", "udp://h")]),
            "gelf: please provide gelf-address as proto://host:port"
        );
        assert_eq!(
            refused(&[udp, ("x", "1")]),
            "unknown log opt \"x\" for gelf log driver"
        );
        assert_eq!(
            refused(&[udp, ("gelf-compression-level", "10")]),
            "unknown value \"10\" for log opt \"gelf-compression-level\" for gelf log driver"
        );
        assert_eq!(
            refused(&[tcp, ("gelf-compression-type", "gzip")]),
            "compression is only supported on UDP"
        );
        assert_eq!(
            refused(&[udp, ("gelf-tcp-max-reconnect", "1")]),
            "\"gelf-tcp-max-reconnect\" is only supported on TCP"
        );
    }
}
