//! Docker's `json-file`, byte for byte.
//!
//! ```text
//! {"log":"text\n","stream":"stdout","attrs":{"label":"value"},"time":"2006-01-02T15:04:05.999999999Z"}
//! ```
//!
//! One object for each entry; `attrs` only if there are any, and only the last part of a line has
//! the `\n`. Text is escaped as Docker does it: `<`, `>`, `&`, control characters and the line
//! separators of JavaScript as `\u00xx`, bytes that are not UTF-8 as `\ufffd`.
//!
//! A full file is renamed to `<path>.1`, after `<path>.1` became `<path>.2` and so on; with one file
//! in all it is emptied.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::{End, Entry, Failures, Keep, Stream, blocks, find};

/// Gathered objects are written when they are this many bytes.
const BATCH_BYTES: usize = 64 << 10;

impl Stream {
    fn name(self) -> &'static [u8] {
        match self {
            Self::Stdout => b"stdout",
            Self::Stderr => b"stderr",
        }
    }
}

/// A log in Docker's format.
#[derive(Debug)]
pub(super) struct JsonFile {
    path: PathBuf,
    file: File,
    /// Bytes in `file`.
    size: u64,
    max_bytes: Option<u64>,
    max_files: u32,
    /// `,"attrs":{…}` or nothing.
    attrs: Vec<u8>,
    /// Whole objects that are not written yet.
    buffer: Vec<u8>,
    failures: Failures,
    /// A moment and its text: all lines that were read together have the same.
    moment: (i64, String),
}

impl JsonFile {
    pub(super) fn open(
        path: &Path,
        max_bytes: Option<u64>,
        max_files: u32,
        attrs: &BTreeMap<String, String>,
    ) -> io::Result<Self> {
        let mut encoded = Vec::new();
        if !attrs.is_empty() {
            encoded.extend_from_slice(b",\"attrs\":");
            serde_json::to_writer(&mut encoded, attrs)?;
        }
        let file = open_file(path)?;
        let size = file.metadata()?.len();
        Ok(Self {
            path: path.to_owned(),
            file,
            size,
            max_bytes,
            max_files,
            attrs: encoded,
            buffer: Vec::new(),
            failures: Failures::default(),
            moment: (0, String::new()),
        })
    }
}

impl Keep for JsonFile {
    fn take(&mut self, entry: Entry<'_>) {
        let full = |size: u64, max: Option<u64>| max.is_some_and(|max| size >= max);
        if full(self.size + self.buffer.len() as u64, self.max_bytes) {
            self.write();
            if full(self.size, self.max_bytes) {
                let rotated = self.rotate();
                self.failures.note(rotated);
            }
        }
        if self.moment.0 != entry.time || self.moment.1.is_empty() {
            self.moment = (entry.time, blocks::text_of(entry.time));
        }
        let buffer = &mut self.buffer;
        buffer.extend_from_slice(b"{\"log\":\"");
        escape(entry.text, buffer);
        if entry.end == End::Newline {
            buffer.extend_from_slice(b"\\n");
        }
        buffer.extend_from_slice(b"\",\"stream\":\"");
        buffer.extend_from_slice(entry.stream.name());
        buffer.push(b'"');
        buffer.extend_from_slice(&self.attrs);
        buffer.extend_from_slice(b",\"time\":\"");
        buffer.extend_from_slice(self.moment.1.as_bytes());
        buffer.extend_from_slice(b"\"}\n");
        if buffer.len() >= BATCH_BYTES {
            self.write();
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write();
        self.failures.tell()
    }

    fn relax(&mut self) {
        self.buffer = Vec::new();
        self.moment = Default::default();
    }
}

impl JsonFile {
    fn write(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        let written = self.file.write_all(&self.buffer);
        match &written {
            Ok(()) => self.size += self.buffer.len() as u64,
            // Half an object would make the rest of the file unreadable. If even this fails,
            // there is nothing left to try.
            Err(_) => drop(self.file.set_len(self.size)),
        }
        self.buffer.clear();
        self.failures.note(written);
    }

    fn rotate(&mut self) -> io::Result<()> {
        if self.max_files < 2 {
            self.file.set_len(0)?;
        } else {
            for young in (1..self.max_files - 1).rev() {
                rename_if_there(
                    &numbered(&self.path, young),
                    &numbered(&self.path, young + 1),
                )?;
            }
            rename_if_there(&self.path, &numbered(&self.path, 1))?;
            self.file = open_file(&self.path)?;
        }
        self.size = 0;
        Ok(())
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o640)
        .open(path)
}

/// `<path>.<number>`
fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether a byte cannot stand for itself inside JSON as Docker writes it, or begins a character of
/// several bytes that might not.
fn is_special(byte: u8) -> bool {
    !matches!(byte, 0x20..0x80)
        | (byte == b'"')
        | (byte == b'\\')
        | (byte == b'<')
        | (byte == b'>')
        | (byte == b'&')
}

/// Appends `text` to `out` as the inside of a JSON string.
fn escape(mut text: &[u8], out: &mut Vec<u8>) {
    loop {
        let plain = find(text, is_special).unwrap_or(text.len());
        out.extend_from_slice(&text[..plain]);
        text = &text[plain..];
        let Some(&byte) = text.first() else { return };
        let taken = match byte {
            b'\n' => escaped(out, b"\\n"),
            b'\r' => escaped(out, b"\\r"),
            b'"' => escaped(out, b"\\\""),
            b'\\' => escaped(out, b"\\\\"),
            0..0x80 => {
                let digit = |value: u8| b"0123456789abcdef"[usize::from(value)];
                escaped(
                    out,
                    &[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)],
                )
            }
            _ => match first_character(text) {
                None => escaped(out, b"\\ufffd"),
                Some('\u{2028}') => escaped(out, b"\\u2028") + 2,
                Some('\u{2029}') => escaped(out, b"\\u2029") + 2,
                Some(character) => {
                    out.extend_from_slice(&text[..character.len_utf8()]);
                    character.len_utf8()
                }
            },
        };
        text = &text[taken..];
    }
}

/// Appends `replacement` for one byte.
fn escaped(out: &mut Vec<u8>, replacement: &[u8]) -> usize {
    out.extend_from_slice(replacement);
    1
}

/// The character that `text` begins with, if it is UTF-8.
fn first_character(text: &[u8]) -> Option<char> {
    let head = &text[..text.len().min(4)];
    head.utf8_chunks().next()?.valid().chars().next()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::mem;

    use proptest::prelude::*;
    use serde_json::Value;

    use super::super::{Keeper, LINE_BYTES, Sink};
    use super::*;
    use crate::Log;

    const TEXT: &str = "2023-11-14T22:13:20.12Z";
    const NOW: i64 = 1_700_000_000_120_000_000;

    fn json_file(path: &Path) -> Log {
        Log::JsonFile {
            path: path.to_owned(),
            max_bytes: None,
            max_files: 1,
            attrs: BTreeMap::new(),
        }
    }

    /// What the file holds after `write` and the end of both streams.
    fn written(write: impl FnOnce(&mut Sink)) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut sink = Sink::open(&json_file(&path)).unwrap();
        write(&mut sink);
        sink.end(Stream::Stdout, NOW);
        sink.end(Stream::Stderr, NOW);
        sink.flush().unwrap();
        fs::read_to_string(path).unwrap()
    }

    fn texts(log: &str) -> Vec<String> {
        log.lines()
            .map(|line| {
                let object: Value = serde_json::from_str(line).unwrap();
                object["log"].as_str().unwrap().to_owned()
            })
            .collect()
    }

    #[test]
    fn lines_are_written_as_docker_writes_them() {
        let log = written(|sink| {
            sink.append(Stream::Stdout, b"one\ntw", NOW);
            sink.append(Stream::Stderr, b"oh \"no\" <b>&\x1b\t\x7f\\\r\n", NOW);
            sink.append(Stream::Stdout, b"o\n\nno end", NOW);
        });
        let expected = [
            r#"{"log":"one\n","stream":"stdout","time":"2023-11-14T22:13:20.12Z"}"#,
            "{\"log\":\"oh \\\"no\\\" \\u003cb\\u003e\\u0026\\u001b\\u0009\x7f\\\\\\r\\n\",\"stream\":\"stderr\",\"time\":\"2023-11-14T22:13:20.12Z\"}",
            r#"{"log":"two\n","stream":"stdout","time":"2023-11-14T22:13:20.12Z"}"#,
            r#"{"log":"\n","stream":"stdout","time":"2023-11-14T22:13:20.12Z"}"#,
            r#"{"log":"no end","stream":"stdout","time":"2023-11-14T22:13:20.12Z"}"#,
        ];
        assert_eq!(log.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_is_not_utf8_becomes_one_replacement_for_each_byte() {
        let mut out = Vec::new();
        escape(
            b"\xc3\xa4\xff\xe2\x82 \xe2\x80\xa8\xe2\x80\xa9\xf0\x9f\x90\x8b",
            &mut out,
        );
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "ä\\ufffd\\ufffd\\ufffd \\u2028\\u2029🐋"
        );
    }

    #[test]
    fn a_long_line_is_split_at_16_kib_and_keeps_the_time_of_its_beginning() {
        let log = written(|sink| {
            sink.append(Stream::Stdout, &[b'x'; LINE_BYTES + 1], NOW);
            sink.append(Stream::Stdout, b"y\nz\n", NOW + 1);
        });
        assert_eq!(
            texts(&log),
            ["x".repeat(LINE_BYTES), "xy\n".to_owned(), "z\n".to_owned()]
        );
        let times: Vec<bool> = log.lines().map(|line| line.contains(TEXT)).collect();
        assert_eq!(times, [true, true, false]);
    }

    #[test]
    fn a_line_of_exactly_16_kib_leaves_its_end_for_an_object_of_its_own() {
        let log = written(|sink| {
            let mut line = vec![b'x'; LINE_BYTES];
            line.push(b'\n');
            sink.append(Stream::Stdout, &line, NOW);
            sink.append(Stream::Stdout, &line[1..], NOW);
        });
        let lengths: Vec<usize> = texts(&log).iter().map(String::len).collect();
        assert_eq!(lengths, [LINE_BYTES, 1, LINE_BYTES]);
    }

    #[test]
    fn attributes_stand_between_stream_and_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = Log::JsonFile {
            path: path.clone(),
            max_bytes: None,
            max_files: 1,
            attrs: BTreeMap::from([
                ("b".to_owned(), "2".to_owned()),
                ("a".to_owned(), "1".to_owned()),
            ]),
        };
        let mut sink = Sink::open(&log).unwrap();
        sink.append(Stream::Stdout, b"x\n", NOW);
        sink.flush().unwrap();
        assert_eq!(
            fs::read_to_string(path).unwrap(),
            "{\"log\":\"x\\n\",\"stream\":\"stdout\",\"attrs\":{\"a\":\"1\",\"b\":\"2\"},\"time\":\"2023-11-14T22:13:20.12Z\"}\n"
        );
    }

    /// Writes numbered lines; gives the numbers that each file holds, the current one first.
    fn rotated(max_files: u32, lines: usize) -> Vec<Vec<usize>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = Log::JsonFile {
            path: path.clone(),
            max_bytes: Some(200),
            max_files,
            attrs: BTreeMap::new(),
        };
        let mut sink = Sink::open(&log).unwrap();
        for number in 0..lines {
            sink.append(Stream::Stdout, format!("{number:03}\n").as_bytes(), NOW);
        }
        sink.flush().unwrap();
        let count = fs::read_dir(dir.path()).unwrap().count();
        let names = (0..count).map(|number| match number {
            0 => path.clone(),
            number => numbered(&path, u32::try_from(number).unwrap()),
        });
        names
            .map(|name| {
                let text = fs::read_to_string(name).unwrap();
                texts(&text)
                    .iter()
                    .map(|line| line.trim().parse().unwrap())
                    .collect()
            })
            .collect()
    }

    #[test]
    fn a_full_file_is_rotated_before_the_next_object() {
        // An object is 70 bytes: the third one reaches 200.
        assert_eq!(rotated(3, 3), [[0, 1, 2]]);
        assert_eq!(rotated(3, 8), [vec![6, 7], vec![3, 4, 5], vec![0, 1, 2]]);
        assert_eq!(rotated(3, 10), [vec![9], vec![6, 7, 8], vec![3, 4, 5]]);
        assert_eq!(rotated(2, 10), [vec![9], vec![6, 7, 8]]);
        assert_eq!(rotated(1, 10), [[9]]);
    }

    #[test]
    fn a_log_goes_on_where_an_earlier_run_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for text in [b"1\n", b"2\n"] {
            let mut sink = Sink::open(&json_file(&path)).unwrap();
            sink.append(Stream::Stdout, text, NOW);
            sink.flush().unwrap();
        }
        assert_eq!(texts(&fs::read_to_string(path).unwrap()), ["1\n", "2\n"]);
    }

    #[test]
    fn a_failure_is_told_once_and_writing_goes_on_when_it_can() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut sink = Sink::open(&json_file(&path)).unwrap();
        let Keeper::JsonFile(file) = &mut sink.keeper else {
            unreachable!()
        };
        let good = mem::replace(&mut file.file, File::open("/dev/full").unwrap());
        file.file = OpenOptions::new().append(true).open("/dev/full").unwrap();
        let told = Cell::new(0);
        for _ in 0..3 {
            sink.append(Stream::Stdout, b"lost\n", NOW);
            told.set(told.get() + usize::from(sink.flush().is_err()));
        }
        assert_eq!(told.get(), 1);
        let Keeper::JsonFile(file) = &mut sink.keeper else {
            unreachable!()
        };
        file.file = good;
        sink.append(Stream::Stdout, b"kept\n", NOW);
        sink.flush().unwrap();
        assert_eq!(texts(&fs::read_to_string(path).unwrap()), ["kept\n"]);
    }

    proptest! {
        #[test]
        fn what_was_written_is_what_a_json_reader_finds(
            text in "(\\PC|[\\x00-\\x1f\u{2028}]){0,200}",
            cuts in prop::collection::vec(0usize..600, 0..6),
        ) {
            let log = written(|sink| {
                let mut bytes = text.as_bytes();
                for cut in cuts {
                    let (head, rest) = bytes.split_at(cut.min(bytes.len()));
                    sink.append(Stream::Stdout, head, NOW);
                    bytes = rest;
                }
                sink.append(Stream::Stdout, bytes, NOW);
            });
            prop_assert_eq!(texts(&log).concat(), text);
        }
    }
}
