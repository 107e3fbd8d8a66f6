//! The format of `local` logs, shared by who writes them (the monitor) and who reads them.
//!
//! ```text
//! DIR/00000000000000000000.blocks   Head │ records, compressed │ Head │ records, …
//! DIR/00000000000000000000.index    one Entry for each of those blocks
//! DIR/00000000000000180042.blocks   younger; the name is the number of its first line
//! DIR/00000000000000180042.index
//! DIR/tail                          TailHead │ records, as they are
//! DIR/delivered                     number of the first line that a remote sink does not have yet
//! ```
//!
//! Lines are numbered from the log's first one. New ones go to `tail`; when that and what is to be
//! added make a block, they become one, and the next `tail` replaces the old one by rename. So
//! between two steps a line may stand in a block and in a stale `tail`, and its number tells which
//! to ignore. Numbers never come twice: a reader that remembers the number of the line it wants
//! next finds its way after any rotation, removal, or restart of anybody.
//!
//! An index only spares walking from head to head; what of it is missing after the host's death is
//! made anew by the next writer.
//!
//! Integers are little-endian. A record is
//!
//! ```text
//! text bytes u32 │ kind u8 │ nanoseconds since 1970 i64 │ text
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bytes of records that make a block.
pub const BLOCK_BYTES: usize = 64 << 10;

/// More than any block's records: what does not fit the tail, and one read of its output.
pub const MAX_PLAIN_BYTES: usize = 1 << 20;

/// File of the newest lines.
pub const TAIL: &str = "tail";

/// File with the number of the first line that a remote sink does not have yet, as eight bytes.
pub const DELIVERED: &str = "delivered";

const BLOCK_MAGIC: u32 = u32::from_le_bytes(*b"BLK1");
const TAIL_MAGIC: u32 = u32::from_le_bytes(*b"TLR1");

/// What stands before a block's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Bytes that follow.
    pub packed: u32,
    /// Bytes of the records; the same as `packed` if they are not compressed.
    pub plain: u32,
    /// Lines among them.
    pub lines: u32,
    /// Where in the log the block is.
    pub mark: Mark,
}

/// A place in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Number of the first line here.
    pub first: u64,
    /// Bytes of records before it, over the log's whole life.
    pub before: u64,
    /// In a block: the latest moment of a line in it or anywhere before. So it never falls, whatever
    /// the clock does, and can be searched by halves.
    pub latest: i64,
}

impl Mark {
    const BYTES: usize = 24;

    fn encode(self, out: &mut [u8]) {
        out[..8].copy_from_slice(&self.first.to_le_bytes());
        out[8..16].copy_from_slice(&self.before.to_le_bytes());
        out[16..24].copy_from_slice(&self.latest.to_le_bytes());
    }

    fn decode(bytes: &[u8; Self::BYTES]) -> Self {
        let [first, before, latest] = eights(bytes);
        Self {
            first: u64::from_le_bytes(first),
            before: u64::from_le_bytes(before),
            latest: i64::from_le_bytes(latest),
        }
    }
}

fn eights<const WORDS: usize>(bytes: &[u8]) -> [[u8; 8]; WORDS] {
    let mut words = [[0; 8]; WORDS];
    for (word, eight) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        word.copy_from_slice(eight);
    }
    words
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(four)
}

fn last<const BYTES: usize, const OF: usize>(bytes: &[u8; OF]) -> &[u8; BYTES] {
    bytes
        .last_chunk()
        .expect("a part is shorter than the whole")
}

impl Head {
    /// Its length on disk.
    pub const BYTES: usize = 16 + Mark::BYTES;

    /// As it is written.
    pub fn encode(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let words = [BLOCK_MAGIC, self.packed, self.plain, self.lines];
        for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        self.mark.encode(&mut bytes[16..]);
        bytes
    }

    /// As it is read; `None` for what is none.
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let head = Self {
            packed: word(bytes, 4),
            plain: word(bytes, 8),
            lines: word(bytes, 12),
            mark: Mark::decode(last(bytes)),
        };
        let fits = |size: u32| size as usize <= MAX_PLAIN_BYTES;
        (word(bytes, 0) == BLOCK_MAGIC && fits(head.packed) && fits(head.plain)).then_some(head)
    }

    /// Number of the line after its last.
    pub fn end(&self) -> u64 {
        self.mark.first + u64::from(self.lines)
    }

    /// Bytes of head and records on disk.
    pub fn whole(&self) -> u64 {
        Self::BYTES as u64 + u64::from(self.packed)
    }
}

/// Where a block begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// In its file.
    pub offset: u64,
    /// In the log.
    pub mark: Mark,
}

impl Entry {
    /// Its length on disk.
    pub const BYTES: usize = 8 + Mark::BYTES;

    /// As it is written.
    pub fn encode(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.offset.to_le_bytes());
        self.mark.encode(&mut bytes[8..]);
        bytes
    }

    /// As it is read.
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Self {
        let [offset] = eights(bytes);
        Self {
            offset: u64::from_le_bytes(offset),
            mark: Mark::decode(last(bytes)),
        }
    }
}

/// What stands before the records of a tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TailHead {
    /// Where in the log it begins; `latest` is that of what is before.
    pub mark: Mark,
}

impl TailHead {
    /// Its length on disk.
    pub const BYTES: usize = 8 + Mark::BYTES;

    /// As it is written.
    pub fn encode(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..4].copy_from_slice(&TAIL_MAGIC.to_le_bytes());
        self.mark.encode(&mut bytes[8..]);
        bytes
    }

    /// As it is read; `None` for what is none.
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let mark = Mark::decode(last(bytes));
        (word(bytes, 0) == TAIL_MAGIC).then_some(Self { mark })
    }
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A line, or a part of one.
    Line {
        /// Of standard error rather than standard output.
        stderr: bool,
        /// The next record of the same stream goes on with the same line.
        cut: bool,
    },
    /// A JSON object: the attributes of all lines that follow. No line itself.
    Attributes,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::Line { stderr, cut } => u8::from(stderr) | u8::from(cut) << 1,
            Self::Attributes => 0x80,
        }
    }

    fn of(code: u8) -> Self {
        match code & 0x80 {
            0 => Self::Line {
                stderr: code & 1 != 0,
                cut: code & 2 != 0,
            },
            _ => Self::Attributes,
        }
    }
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What it is.
    pub kind: Kind,
    /// Nanoseconds since 1970.
    pub time: i64,
    /// Of a line: with its newline, if it has one.
    pub text: &'a [u8],
}

/// Bytes of a record before its text.
const RECORD_HEAD: usize = 13;

/// Appends a record whose text is `text` and then `end`.
pub fn push_record(out: &mut Vec<u8>, kind: Kind, time: i64, text: &[u8], end: &[u8]) {
    let length = u32::try_from(text.len() + end.len()).expect("a line is cut at 16 KiB");
    let mut head = [0; RECORD_HEAD];
    head[..4].copy_from_slice(&length.to_le_bytes());
    head[4] = kind.code();
    head[5..].copy_from_slice(&time.to_le_bytes());
    out.extend_from_slice(&head);
    out.extend_from_slice(text);
    out.extend_from_slice(end);
}

/// The whole records in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Records<'a> {
    bytes: &'a [u8],
}

impl<'a> Records<'a> {
    /// Begins at the first.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// What comes after the records that were taken.
    pub fn rest(&self) -> &'a [u8] {
        self.bytes
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        let (head, rest) = self.bytes.split_first_chunk::<RECORD_HEAD>()?;
        let (text, rest) = rest.split_at_checked(word(head, 0) as usize)?;
        self.bytes = rest;
        Some(Record {
            kind: Kind::of(head[4]),
            time: i64::from_le_bytes(*last(head)),
            text,
        })
    }
}

/// How many lines the records hold, and the latest moment of one.
pub fn count(records: Records<'_>) -> (u32, i64) {
    let mut lines = 0;
    let mut latest = i64::MIN;
    for record in records {
        if let Kind::Line { .. } = record.kind {
            lines += 1;
            latest = latest.max(record.time);
        }
    }
    (lines, latest)
}

/// The file of blocks that begins with this line.
pub fn blocks_path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:020}.blocks"))
}

/// Its index.
pub fn index_path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:020}.index"))
}

/// The first lines of all files of blocks, oldest first.
pub fn files(dir: &Path) -> io::Result<Vec<u64>> {
    let mut firsts = Vec::new();
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(firsts),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".blocks"));
        firsts.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    firsts.sort_unstable();
    Ok(firsts)
}

/// Number of the first line that a remote sink does not have yet.
pub fn delivered(dir: &Path) -> u64 {
    match fs::read(dir.join(DELIVERED))
        .as_deref()
        .map(<[u8; 8]>::try_from)
    {
        Ok(Ok(bytes)) => u64::from_le_bytes(bytes),
        _ => 0,
    }
}

/// The moment of a record.
pub fn moment(time: i64) -> SystemTime {
    match u64::try_from(time) {
        Ok(since) => UNIX_EPOCH + Duration::from_nanos(since),
        Err(_) => UNIX_EPOCH - Duration::from_nanos(time.unsigned_abs()),
    }
}

/// Nanoseconds since 1970 of a moment; the first or the last one for what is out of their reach.
pub fn nanoseconds(moment: SystemTime) -> i64 {
    match moment.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |nanos| -nanos),
    }
}

/// The moment as log lines carry it.
pub(super) fn text_of(time: i64) -> String {
    vocab::time::rfc3339_nano(moment(time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_and_entries_survive_the_disk() {
        let mark = Mark {
            first: 7,
            before: 1 << 40,
            latest: -3,
        };
        let head = Head {
            packed: 10,
            plain: 20,
            lines: 2,
            mark,
        };
        assert_eq!(Head::decode(&head.encode()), Some(head));
        assert_eq!((head.end(), head.whole()), (9, Head::BYTES as u64 + 10));
        let entry = Entry { offset: 99, mark };
        assert_eq!(Entry::decode(&entry.encode()), entry);
        let tail = TailHead { mark };
        assert_eq!(TailHead::decode(&tail.encode()), Some(tail));
        assert_eq!(TailHead::decode(&[0; TailHead::BYTES]), None);
        let large = Head {
            packed: u32::MAX,
            ..head
        };
        assert_eq!(Head::decode(&large.encode()), None, "sizes are bounded");
    }

    #[test]
    fn half_a_record_is_none() {
        let mut bytes = Vec::new();
        let kind = Kind::Line {
            stderr: true,
            cut: false,
        };
        push_record(&mut bytes, kind, 5, b"text", b"\n");
        let whole = bytes.len();
        push_record(&mut bytes, Kind::Attributes, 6, b"{}", b"");
        for end in 0..bytes.len() {
            let mut records = Records::new(&bytes[..end]);
            let found = records.by_ref().count();
            assert_eq!(found, usize::from(end >= whole), "{end}");
            assert_eq!(records.rest().len(), end - found * whole);
        }
        let record = Records::new(&bytes).next().unwrap();
        assert_eq!(
            (record.kind, record.time, record.text),
            (kind, 5, &b"text\n"[..])
        );
        assert_eq!(count(Records::new(&bytes)), (1, 5));
    }
}
