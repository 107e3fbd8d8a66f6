//! As much of the D-Bus protocol as asking systemd for something needs (D-Bus Specification 0.43).
//!
//! ```text
//! byte order 'l', type, flags, version 1 │ body length │ serial │ fields: array of (code, variant) │ padding to 8 │ body
//! ```
//!
//! Spoken over systemd's private socket, where the other end is the manager itself: no bus, no
//! names. Values are aligned to their size, from the beginning of the message; the body begins at
//! a multiple of 8, so it can be written by itself.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// The longest message that is read; systemd's answers have some hundred bytes.
const MAX_MESSAGE_BYTES: usize = 1 << 20;
/// systemd answers at once, or waits for a disk that is not coming back.
const PATIENCE: Duration = Duration::from_secs(30);

const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

const FIELD_PATH: u8 = 1;
const FIELD_INTERFACE: u8 = 2;
const FIELD_MEMBER: u8 = 3;
const FIELD_ERROR_NAME: u8 = 4;
const FIELD_REPLY_SERIAL: u8 = 5;
const FIELD_SIGNATURE: u8 = 8;

/// A value of the kinds that unit properties have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Bool(bool),
    Number(u64),
    Text(String),
    Texts(Vec<String>),
    Short(u32),
    Signed(i64),
    SignedShort(i32),
    Pids(Vec<u32>),
    Bytes(Vec<u8>),
    Pairs(Vec<(String, String)>),
}

impl Value {
    fn signature(&self) -> &'static str {
        match self {
            Self::Bool(_) => "b",
            Self::Number(_) => "t",
            Self::Text(_) => "s",
            Self::Texts(_) => "as",
            Self::Short(_) => "u",
            Self::Signed(_) => "x",
            Self::SignedShort(_) => "i",
            Self::Pids(_) => "au",
            Self::Bytes(_) => "ay",
            Self::Pairs(_) => "a(ss)",
        }
    }
}

/// Values one after the other, each aligned.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    bytes: Vec<u8>,
}

impl Encoder {
    fn align(&mut self, to: usize) {
        let length = self.bytes.len().next_multiple_of(to);
        self.bytes.resize(length, 0);
    }

    fn byte(&mut self, value: u8) {
        self.bytes.push(value);
    }

    fn number(&mut self, value: u32) {
        self.align(4);
        self.bytes.extend(value.to_le_bytes());
    }

    pub(super) fn boolean(&mut self, value: bool) -> &mut Self {
        self.number(u32::from(value));
        self
    }

    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        self.number(length_of(text.as_bytes()));
        self.bytes.extend(text.as_bytes());
        self.byte(0);
        self
    }

    fn signature(&mut self, signature: &str) {
        self.byte(u8::try_from(signature.len()).expect("signatures here are short"));
        self.bytes.extend(signature.as_bytes());
        self.byte(0);
    }

    /// An array whose elements are aligned to `to`; its length does not count the padding before
    /// the first.
    fn array(&mut self, to: usize, elements: impl FnOnce(&mut Self)) {
        self.number(0);
        let place = self.bytes.len() - 4;
        self.align(to);
        let start = self.bytes.len();
        elements(self);
        let length = length_of(&self.bytes[start..]);
        self.bytes[place..place + 4].copy_from_slice(&length.to_le_bytes());
    }

    fn variant(&mut self, value: &Value) {
        self.signature(value.signature());
        match value {
            Value::Bool(value) => self.number(u32::from(*value)),
            Value::Number(value) => {
                self.align(8);
                self.bytes.extend(value.to_le_bytes());
            }
            Value::Text(value) => {
                self.text(value);
            }
            Value::Texts(texts) => self.array(4, |array| {
                for text in texts {
                    array.text(text);
                }
            }),
            Value::Short(value) => self.number(*value),
            Value::SignedShort(value) => self.number(value.cast_unsigned()),
            Value::Signed(value) => {
                self.align(8);
                self.bytes.extend(value.to_le_bytes());
            }
            Value::Pids(pids) => self.array(4, |array| pids.iter().for_each(|p| array.number(*p))),
            Value::Pairs(pairs) => self.array(8, |array| {
                for (first, second) in pairs {
                    array.align(8);
                    array.text(first).text(second);
                }
            }),
            Value::Bytes(bytes) => self.array(1, |array| array.bytes.extend(bytes)),
        }
    }

    /// `a(sv)`
    pub(super) fn properties(&mut self, properties: &[(&str, Value)]) -> &mut Self {
        self.array(8, |array| {
            for (name, value) in properties {
                array.align(8);
                array.text(name);
                array.variant(value);
            }
        });
        self
    }

    /// `a(sa(sv))` without elements.
    pub(super) fn no_further_units(&mut self) -> &mut Self {
        self.array(8, |_| {});
        self
    }
}

fn length_of(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("messages here are small")
}

/// A message, as far as it is looked at.
#[derive(Debug, Default)]
struct Message {
    kind: u8,
    member: String,
    error: String,
    reply_to: Option<u32>,
    body: Vec<u8>,
}

/// Reads values from a body.
struct Decoder<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Decoder<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(taken)
    }

    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn number(&mut self) -> Option<u32> {
        self.align(4);
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<String> {
        let length = self.number()?;
        let text = self.take(usize::try_from(length).ok()?)?;
        self.byte()?;
        Some(String::from_utf8_lossy(text).into_owned())
    }

    fn signature(&mut self) -> Option<&'a [u8]> {
        let length = self.byte()?;
        let signature = self.take(usize::from(length))?;
        self.byte()?;
        Some(signature)
    }
}

/// The answer to a call that was refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// The manager refused, with the name of an error and a sentence.
    #[error("{text}")]
    Refused { name: String, text: String },
    /// The connection.
    #[error("talk to systemd")]
    Connection(#[from] io::Error),
}

/// A conversation with a systemd manager.
pub(super) struct Connection {
    stream: BufReader<UnixStream>,
    serial: u32,
    /// Jobs that ended while something else was waited for, and their results.
    ended: Vec<(String, String)>,
}

impl Connection {
    /// Connects to the private socket of a manager.
    pub(super) fn open(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut stream = BufReader::new(stream);
        // The user id in decimal digits, each as two hexadecimal ones.
        let uid = rustix::process::geteuid().as_raw().to_string();
        let uid: String = uid.bytes().map(|digit| format!("{digit:02x}")).collect();
        // All in one, so that systemd has read the end of it when it answers: a message that it
        // reads together with that would lie there until another comes.
        let hello = format!("\0AUTH EXTERNAL {uid}\r\nBEGIN\r\n");
        stream.get_mut().write_all(hello.as_bytes())?;
        let mut answer = String::new();
        (&mut stream).take(1024).read_line(&mut answer)?;
        if !answer.starts_with("OK ") {
            return Err(io::Error::other(format!("systemd answered {answer:?}")));
        }
        Ok(Self {
            stream,
            serial: 0,
            ended: Vec::new(),
        })
    }

    /// Calls a method of the manager; gives the text that its answer begins with, if any.
    pub(super) fn call(
        &mut self,
        method: &str,
        signature: &str,
        body: &Encoder,
    ) -> Result<Option<String>, CallError> {
        self.serial += 1;
        let message = method_call(self.serial, method, signature, &body.bytes);
        self.stream.get_mut().write_all(&message)?;
        loop {
            let message = self.next()?;
            let mine = message.reply_to == Some(self.serial);
            let text = Decoder {
                bytes: &message.body,
                at: 0,
            }
            .text();
            match message.kind {
                METHOD_RETURN if mine => return Ok(text),
                ERROR if mine => {
                    return Err(CallError::Refused {
                        name: message.error,
                        text: text.unwrap_or_default(),
                    });
                }
                _ => self.notice(&message),
            }
        }
    }

    /// Waits until a job is over; gives its result, such as `done` or `failed`.
    pub(super) fn job(&mut self, job: &str) -> io::Result<String> {
        loop {
            if let Some((_, result)) = self.ended.iter().find(|(ended, _)| ended == job) {
                return Ok(result.clone());
            }
            let message = self.next()?;
            self.notice(&message);
        }
    }

    fn notice(&mut self, message: &Message) {
        if message.kind == SIGNAL && message.member == "JobRemoved" {
            let mut body = Decoder {
                bytes: &message.body,
                at: 0,
            };
            // uoss: number, job, unit, result
            let mut ended = || {
                body.number()?;
                let (job, _unit) = (body.text()?, body.text()?);
                Some((job, body.text()?))
            };
            self.ended.extend(ended());
        }
    }

    fn next(&mut self) -> io::Result<Message> {
        let mut head = [0; 16];
        self.stream.read_exact(&mut head)?;
        let number = |at: usize| {
            let bytes = head[at..at + 4].try_into().expect("four bytes");
            usize::try_from(u32::from_le_bytes(bytes)).unwrap_or(usize::MAX)
        };
        let (body, fields) = (number(4), number(12));
        let length = fields
            .checked_next_multiple_of(8)
            .and_then(|fields| fields.checked_add(body))
            .filter(|length| *length <= MAX_MESSAGE_BYTES && head[0] == b'l');
        let Some(length) = length else {
            return Err(io::Error::other("systemd sent no message of D-Bus"));
        };
        let mut rest = vec![0; length];
        self.stream.read_exact(&mut rest)?;
        let (fields, body) = (&rest[..fields], rest[length - body..].to_vec());
        let message = Message {
            kind: head[1],
            body,
            ..Message::default()
        };
        read_fields(fields, message)
            .ok_or_else(|| io::Error::other("systemd sent a message that cannot be read"))
    }
}

/// The fields begin at byte 16 of a message, so their alignment is that of the message.
fn read_fields(bytes: &[u8], mut message: Message) -> Option<Message> {
    let mut fields = Decoder { bytes, at: 0 };
    while fields.at < bytes.len() {
        fields.align(8);
        let code = fields.byte()?;
        match fields.signature()? {
            b"s" | b"o" => {
                let text = fields.text()?;
                match code {
                    FIELD_MEMBER => message.member = text,
                    FIELD_ERROR_NAME => message.error = text,
                    _ => {}
                }
            }
            b"u" => {
                let number = fields.number()?;
                if code == FIELD_REPLY_SERIAL {
                    message.reply_to = Some(number);
                }
            }
            b"g" => {
                fields.signature()?;
            }
            _ => return None,
        }
    }
    Some(message)
}

fn method_call(serial: u32, method: &str, signature: &str, body: &[u8]) -> Vec<u8> {
    let mut message = Encoder::default();
    for byte in [b'l', METHOD_CALL, 0, 1] {
        message.byte(byte);
    }
    message.number(length_of(body));
    message.number(serial);
    message.array(8, |fields| {
        for (code, kind, value) in [
            (FIELD_PATH, "o", "/org/freedesktop/systemd1"),
            (FIELD_INTERFACE, "s", "org.freedesktop.systemd1.Manager"),
            (FIELD_MEMBER, "s", method),
        ] {
            fields.align(8);
            fields.byte(code);
            fields.signature(kind);
            fields.text(value);
        }
        if !signature.is_empty() {
            fields.align(8);
            fields.byte(FIELD_SIGNATURE);
            fields.signature("g");
            fields.signature(signature);
        }
    });
    message.align(8);
    message.bytes.extend(body);
    message.bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_aligned_and_arrays_know_their_length() {
        let mut body = Encoder::default();
        body.text("a").properties(&[
            ("Delegate", Value::Bool(true)),
            ("PIDs", Value::Pids(vec![7])),
        ]);
        let expected: &[u8] = &[
            1, 0, 0, 0, b'a', 0, 0, 0, // "a"
            44, 0, 0, 0, 0, 0, 0, 0, // the array: its length, padding
            8, 0, 0, 0, b'D', b'e', b'l', b'e', b'g', b'a', b't', b'e', 0, // name
            1, b'b', 0, 1, 0, 0, 0, 0, 0, 0, 0, // variant, padding to the next
        ];
        // 13 + 3 bytes end at a multiple of four, where the value begins.
        assert_eq!(body.bytes[..8], expected[..8]);
        assert_eq!(body.bytes[16..32], expected[16..32]);
        let length = u32::from_le_bytes(body.bytes[8..12].try_into().unwrap());
        assert_eq!(usize::try_from(length).unwrap(), body.bytes.len() - 16);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let sent = method_call(9, "StartTransientUnit", "s", b"\x01\0\0\0x\0");
        let fields = u32::from_le_bytes(sent[12..16].try_into().unwrap());
        let fields = &sent[16..16 + usize::try_from(fields).unwrap()];
        let message = read_fields(fields, Message::default()).unwrap();
        assert_eq!(message.member, "StartTransientUnit");
        assert!(sent.ends_with(b"\x01\0\0\0x\0"));
    }

    #[test]
    fn a_message_that_is_cut_off_is_no_message() {
        let sent = method_call(9, "Subscribe", "", &[]);
        for length in 17..60 {
            // No panic; most of them cannot be read.
            let _ = read_fields(&sent[16..length], Message::default());
        }
        assert!(read_fields(&sent[16..30], Message::default()).is_none());
    }
}
