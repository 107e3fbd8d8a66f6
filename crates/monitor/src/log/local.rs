//! Writes a log in blocks; [`super::blocks`] draws the format.
//!
//! Lines become visible with the flush after they were read, in `tail` or, when there are enough,
//! in a block at once: a container that writes at full speed has each byte written once, compressed.
//! Nothing is opened before the first line.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use zstd::bulk::Compressor;
use zstd::zstd_safe::compress_bound;

use super::blocks::{self, BLOCK_BYTES, Entry as IndexEntry, Head, Kind, Mark, Records, TailHead};
use super::{End, Entry, Failures, Keep, Stream};
use crate::LocalLog;

/// The fastest of zstd's levels that are not lossy in ratio; it keeps up with a pipe.
const LEVEL: i32 = 1;

/// Bytes of an entry in an index.
const INDEX_WIDTH: u64 = IndexEntry::BYTES as u64;

/// A log in blocks.
pub(super) struct Local {
    settings: LocalLog,
    /// The attributes record that a block or tail begins with, or nothing.
    attributes: Vec<u8>,
    /// Bytes of records that make a block.
    block_bytes: usize,
    files: Option<Files>,
    /// Records that are not written yet.
    buffer: Vec<u8>,
    /// Lines among them.
    lines: u32,
    /// The latest moment of a line.
    latest: i64,
    /// While the log is busy.
    compressor: Option<Compressor<'static>>,
    /// Room for a block while the log is busy.
    packed: Vec<u8>,
    failures: Failures,
    /// The oldest file has lines that were not delivered, and would have to go.
    full: bool,
}

impl std::fmt::Debug for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Local")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// What is open, and where it ends.
#[derive(Debug, Default)]
struct Files {
    blocks: Option<Blocks>,
    tail: Option<Tail>,
    /// After all that was written.
    next: Mark,
}

/// The current file of blocks.
#[derive(Debug)]
struct Blocks {
    file: File,
    index: File,
    /// Bytes in `file`.
    size: u64,
    /// Bytes in `index`.
    index_size: u64,
    /// `before` of its first block.
    from: u64,
}

/// Lines that are in no block.
#[derive(Debug)]
struct Tail {
    file: File,
    /// Its beginning.
    mark: Mark,
    /// Bytes of records.
    bytes: u64,
}

impl Local {
    pub(super) fn new(settings: &LocalLog) -> io::Result<Self> {
        let mut attributes = Vec::new();
        if !settings.attrs.is_empty() {
            attributes = attributes_record(&settings.attrs)?;
        }
        let max = settings.max_bytes.and_then(|max| usize::try_from(max).ok());
        Ok(Self {
            settings: settings.clone(),
            attributes,
            block_bytes: max.map_or(BLOCK_BYTES, |max| max.min(BLOCK_BYTES)),
            files: None,
            buffer: Vec::new(),
            lines: 0,
            latest: i64::MIN,
            compressor: None,
            packed: Vec::new(),
            failures: Failures::default(),
            full: false,
        })
    }

    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    /// Removes what has become superfluous since.
    pub(super) fn make_room(&mut self) {
        if self.full {
            let removed = self.remove_oldest();
            self.failures.note(removed);
        }
    }

    fn commit(&mut self) {
        if self.lines == 0 {
            return;
        }
        let written = self.write();
        if let (Ok(_), Some(files)) = (&written, &mut self.files) {
            files.next.first += u64::from(self.lines);
            files.next.before += self.buffer.len() as u64;
            files.next.latest = files.next.latest.max(self.latest);
        }
        self.buffer.clear();
        self.lines = 0;
        let kept = match written {
            Ok(true) => self.remove_oldest(),
            written => written.map(drop),
        };
        self.failures.note(kept);
    }

    /// Writes the records in `buffer`, all or none. Whether they begin a file.
    fn write(&mut self) -> io::Result<bool> {
        if self.files.is_none() {
            let files = Files::open(&self.settings.dir)?;
            if files.tail.is_some() {
                // Lines of an earlier run have attributes of their own.
                let record = attributes_record(&self.settings.attrs)?;
                if !self.buffer.starts_with(&record) {
                    self.buffer.splice(0..0, record);
                }
            }
            self.files = Some(files);
        }
        let waiting = self.tail_bytes();
        if waiting + self.buffer.len() < self.block_bytes {
            return self.append_to_tail().map(|()| false);
        }
        self.append_block()
    }

    fn tail_bytes(&self) -> usize {
        let tail = self.files.as_ref().and_then(|files| files.tail.as_ref());
        tail.map_or(0, |tail| usize::try_from(tail.bytes).unwrap_or(usize::MAX))
    }

    fn append_to_tail(&mut self) -> io::Result<()> {
        let Some(files) = &mut self.files else {
            return Ok(());
        };
        match &mut files.tail {
            Some(tail) => {
                append(
                    &mut tail.file,
                    TailHead::BYTES as u64 + tail.bytes,
                    &[&self.buffer],
                )?;
                tail.bytes += self.buffer.len() as u64;
            }
            None => {
                let tail = Tail::create(&self.settings.dir, files.next, &self.buffer)?;
                files.tail = Some(tail);
            }
        }
        Ok(())
    }

    fn append_block(&mut self) -> io::Result<bool> {
        let Some(files) = &mut self.files else {
            return Ok(false);
        };
        let mut joined = Vec::new();
        let (mark, plain) = match &files.tail {
            Some(tail) => {
                joined.reserve_exact(BLOCK_BYTES + self.buffer.len());
                tail.read(&mut joined)?;
                joined.extend_from_slice(&self.buffer);
                (tail.mark, &joined)
            }
            None => (files.next, &self.buffer),
        };
        let lines = files.next.first - mark.first + u64::from(self.lines);
        let mark = Mark {
            latest: files.next.latest.max(self.latest),
            ..mark
        };
        let mut payload: &[u8] = plain;
        if self.settings.compress {
            let compressor = match &mut self.compressor {
                Some(compressor) => compressor,
                none => none.insert(compressor()?),
            };
            self.packed.resize(compress_bound(plain.len()), 0);
            let packed = compressor.compress_to_buffer(plain, &mut self.packed[..])?;
            if packed < plain.len() {
                payload = &self.packed[..packed];
            }
        }
        let too_long = |_| io::Error::from(ErrorKind::FileTooLarge);
        let head = Head {
            packed: u32::try_from(payload.len()).map_err(too_long)?,
            plain: u32::try_from(plain.len()).map_err(too_long)?,
            lines: u32::try_from(lines).map_err(too_long)?,
            mark,
        };
        let full = |blocks: &Blocks| {
            let max = self.settings.max_bytes;
            max.is_some_and(|max| mark.before - blocks.from >= max)
        };
        let rotates = files.blocks.as_ref().is_some_and(full);
        let blocks = match &mut files.blocks {
            Some(blocks) if !rotates => blocks,
            place => place.insert(Blocks::create(&self.settings.dir, mark)?),
        };
        blocks.append(&head, payload)?;
        files.tail = None;
        Ok(rotates)
    }

    /// Removes files beyond the number that may be, unless something of them is still needed.
    fn remove_oldest(&mut self) -> io::Result<()> {
        let dir = &self.settings.dir;
        let firsts = blocks::files(dir)?;
        let keep = usize::try_from(self.settings.max_files.max(1)).unwrap_or(usize::MAX);
        let delivered = match self.settings.hold {
            true => blocks::delivered(dir),
            false => u64::MAX,
        };
        self.full = false;
        // A file ends where the next one begins.
        for pair in firsts.windows(2).take(firsts.len().saturating_sub(keep)) {
            if pair[1] > delivered {
                self.full = true;
                break;
            }
            remove(&blocks::blocks_path(dir, pair[0]))?;
            remove(&blocks::index_path(dir, pair[0]))?;
        }
        Ok(())
    }
}

impl Keep for Local {
    fn take(&mut self, entry: Entry<'_>) {
        if self.buffer.is_empty() && self.tail_bytes() == 0 {
            self.buffer.extend_from_slice(&self.attributes);
        }
        let kind = Kind::Line {
            stderr: entry.stream == Stream::Stderr,
            cut: entry.end == End::Cut,
        };
        let end: &[u8] = if entry.end == End::Newline {
            b"\n"
        } else {
            b""
        };
        blocks::push_record(&mut self.buffer, kind, entry.time, entry.text, end);
        self.lines += 1;
        self.latest = self.latest.max(entry.time);
        if self.buffer.len() >= self.block_bytes {
            self.commit();
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.commit();
        self.failures.tell()
    }

    fn relax(&mut self) {
        self.buffer = Vec::new();
        self.packed = Vec::new();
        self.compressor = None;
    }
}

fn compressor() -> io::Result<Compressor<'static>> {
    let mut compressor = Compressor::new(LEVEL)?;
    compressor.include_checksum(true)?;
    compressor.include_contentsize(true)?;
    Ok(compressor)
}

fn attributes_record(attrs: &BTreeMap<String, String>) -> io::Result<Vec<u8>> {
    let mut record = Vec::new();
    let text = serde_json::to_vec(attrs)?;
    blocks::push_record(&mut record, Kind::Attributes, 0, &text, b"");
    Ok(record)
}

/// Appends all parts at `size`, or nothing.
fn append(file: &mut File, size: u64, parts: &[&[u8]]) -> io::Result<()> {
    let written = match parts {
        [only] => file.write_all(only),
        _ => file.write_all(&parts.concat()),
    };
    if written.is_err() {
        // Half of it would make the rest unreadable. If even this fails, there is nothing to try.
        let _ = file.set_len(size);
    }
    written
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o640);
    options
}

impl Files {
    /// Goes on after what earlier runs left, of which the host's death may have taken a part.
    fn open(dir: &Path) -> io::Result<Self> {
        match fs::create_dir(dir) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let mut files = Self::default();
        files.next.latest = i64::MIN;
        if let Some(&first) = blocks::files(dir)?.last() {
            let (blocks, next) = Blocks::open(dir, first)?;
            files.blocks = Some(blocks);
            files.next = next;
        }
        let tail = match Tail::open(dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            other => other?,
        };
        if let Some((tail, end)) = tail
            && end.first > files.next.first
        {
            files.tail = Some(tail);
            files.next = end;
        }
        Ok(files)
    }
}

impl Blocks {
    fn create(dir: &Path, mark: Mark) -> io::Result<Self> {
        Ok(Self {
            file: options().open(blocks::blocks_path(dir, mark.first))?,
            index: options().open(blocks::index_path(dir, mark.first))?,
            size: 0,
            index_size: 0,
            from: mark.before,
        })
    }

    /// Opens what is there; gives the place after it.
    fn open(dir: &Path, first: u64) -> io::Result<(Self, Mark)> {
        let mut next = Mark {
            first,
            before: 0,
            latest: i64::MIN,
        };
        let mut blocks = Self::create(dir, next)?;
        let length = blocks.file.metadata()?.len();
        let indexed = blocks.index.metadata()?.len() / INDEX_WIDTH;
        if indexed > 0 {
            let mut bytes = [0; IndexEntry::BYTES];
            let at = (indexed - 1) * INDEX_WIDTH;
            blocks.index.read_exact_at(&mut bytes, at)?;
            let last = IndexEntry::decode(&bytes);
            if head_at(&blocks.file, last.offset)?.is_some_and(|head| head.mark == last.mark) {
                blocks.size = last.offset;
                blocks.index_size = at;
            }
        }
        let mut missing = Vec::new();
        while let Some(head) = head_at(&blocks.file, blocks.size)?
            && blocks.size + head.whole() <= length
        {
            let entry = IndexEntry {
                offset: blocks.size,
                mark: head.mark,
            };
            missing.extend(entry.encode());
            blocks.size += head.whole();
            next = Mark {
                first: head.end(),
                before: head.mark.before + u64::from(head.plain),
                latest: head.mark.latest,
            };
        }
        if blocks.size < length {
            blocks.file.set_len(blocks.size)?;
        }
        blocks.index.set_len(blocks.index_size)?;
        blocks.index.write_all(&missing)?;
        blocks.index_size += missing.len() as u64;
        blocks.from = head_at(&blocks.file, 0)?.map_or(0, |head| head.mark.before);
        Ok((blocks, next))
    }

    fn append(&mut self, head: &Head, payload: &[u8]) -> io::Result<()> {
        append(&mut self.file, self.size, &[&head.encode(), payload])?;
        let entry = IndexEntry {
            offset: self.size,
            mark: head.mark,
        };
        self.size += head.whole();
        // Readers walk over what is not indexed.
        if append(&mut self.index, self.index_size, &[&entry.encode()]).is_ok() {
            self.index_size += INDEX_WIDTH;
        }
        Ok(())
    }
}

fn head_at(file: &File, offset: u64) -> io::Result<Option<Head>> {
    let mut bytes = [0; Head::BYTES];
    match file.read_exact_at(&mut bytes, offset) {
        Ok(()) => Ok(Head::decode(&bytes)),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

impl Tail {
    /// Takes the place of the one before, with its first records.
    fn create(dir: &Path, mark: Mark, records: &[u8]) -> io::Result<Self> {
        let new = dir.join("tail.new");
        remove(&new)?;
        let mut file = options().open(&new)?;
        append(&mut file, 0, &[&TailHead { mark }.encode(), records])?;
        fs::rename(&new, dir.join(blocks::TAIL))?;
        Ok(Self {
            file,
            mark,
            bytes: records.len() as u64,
        })
    }

    /// Opens what is there, without half a record at its end; gives the place after it.
    fn open(dir: &Path) -> io::Result<Option<(Self, Mark)>> {
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .open(dir.join(blocks::TAIL))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let Some((head, records)) = bytes.split_first_chunk() else {
            return Ok(None);
        };
        let Some(TailHead { mark }) = TailHead::decode(head) else {
            return Ok(None);
        };
        let mut whole = Records::new(records);
        whole.by_ref().for_each(drop);
        let records = &records[..records.len() - whole.rest().len()];
        if !whole.rest().is_empty() {
            file.set_len((TailHead::BYTES + records.len()) as u64)?;
        }
        let (lines, latest) = blocks::count(Records::new(records));
        let tail = Self {
            file,
            mark,
            bytes: records.len() as u64,
        };
        let end = Mark {
            first: mark.first + u64::from(lines),
            before: mark.before + tail.bytes,
            latest: mark.latest.max(latest),
        };
        Ok(Some((tail, end)))
    }

    fn read(&self, out: &mut Vec<u8>) -> io::Result<()> {
        out.resize(usize::try_from(self.bytes).unwrap_or(usize::MAX), 0);
        self.file.read_exact_at(out, TailHead::BYTES as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Sink, blocks};
    use super::*;
    use crate::Log;

    fn settings(dir: &Path) -> LocalLog {
        LocalLog {
            dir: dir.join("log"),
            max_bytes: None,
            max_files: 5,
            compress: true,
            attrs: BTreeMap::new(),
            hold: false,
        }
    }

    fn open(settings: &LocalLog) -> Sink {
        Sink::open(&Log::Local(settings.clone())).unwrap()
    }

    /// Numbered lines, each flushed; a hundred bytes each.
    fn write(sink: &mut Sink, numbers: std::ops::Range<i64>) {
        for number in numbers {
            let line = format!("{number:086}\n");
            sink.append(Stream::Stdout, line.as_bytes(), number);
            sink.flush().unwrap();
        }
    }

    fn lines(dir: &Path) -> u64 {
        Files::open(&dir.join("log")).unwrap().next.first
    }

    #[test]
    fn what_was_written_is_numbered_on_by_the_next_run() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path());
        for run in 0..3 {
            let mut sink = open(&settings);
            write(&mut sink, run * 1000..(run + 1) * 1000);
        }
        assert_eq!(lines(dir.path()), 3000);
    }

    #[test]
    fn a_quiet_log_is_a_tail_and_a_busy_one_compressed_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path());
        let mut sink = open(&settings);
        write(&mut sink, 0..10);
        assert!(blocks::files(&settings.dir).unwrap().is_empty());
        let text = "0123456789012345678901234567890123456789\n".repeat(25_000);
        sink.append(Stream::Stdout, text.as_bytes(), 10);
        sink.flush().unwrap();
        let size = fs::metadata(blocks::blocks_path(&settings.dir, 0))
            .unwrap()
            .len();
        assert!(size < 100_000, "{size} bytes for {}", text.len());
        assert_eq!(lines(dir.path()), 25_010);
    }

    #[test]
    fn the_oldest_files_go_and_numbers_stay() {
        let dir = tempfile::tempdir().unwrap();
        let settings = LocalLog {
            max_bytes: Some(10_000),
            max_files: 3,
            ..settings(dir.path())
        };
        let mut sink = open(&settings);
        write(&mut sink, 0..1000);
        let firsts = blocks::files(&settings.dir).unwrap();
        assert_eq!(firsts.len(), 3);
        assert!(firsts[0] > 500, "{firsts:?}");
        assert_eq!(fs::read_dir(&settings.dir).unwrap().count(), 3 + 3 + 1);
        assert_eq!(lines(dir.path()), 1000);
    }

    #[test]
    fn what_is_not_delivered_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let settings = LocalLog {
            max_bytes: Some(10_000),
            max_files: 2,
            hold: true,
            ..settings(dir.path())
        };
        let mut sink = open(&settings);
        write(&mut sink, 0..500);
        assert!(sink.is_full());
        assert_eq!(
            blocks::files(&settings.dir).unwrap()[0],
            0,
            "nothing is lost"
        );
        fs::write(settings.dir.join(blocks::DELIVERED), 500_u64.to_le_bytes()).unwrap();
        sink.make_room();
        assert!(!sink.is_full());
        assert_eq!(blocks::files(&settings.dir).unwrap().len(), 2);
    }

    #[test]
    fn what_a_power_cut_left_is_mended() {
        let dir = tempfile::tempdir().unwrap();
        let settings = LocalLog {
            max_bytes: Some(100_000),
            ..settings(dir.path())
        };
        write(&mut open(&settings), 0..700);
        let whole = lines(dir.path());
        let file = blocks::blocks_path(&settings.dir, 0);
        let index = blocks::index_path(&settings.dir, 0);
        let add =
            |path: &Path, bytes: &[u8]| options().open(path).unwrap().write_all(bytes).unwrap();
        // Half a record, half a block, an index that is behind.
        add(&settings.dir.join(blocks::TAIL), b"\x40\0\0\0half");
        add(&file, b"BLK1 and not more");
        fs::write(&index, b"").unwrap();
        write(&mut open(&settings), 700..710);
        assert_eq!(lines(dir.path()), whole + 10);
        assert!(!fs::read(&index).unwrap().is_empty());
        // A tail that became a block before it was replaced.
        let tail = fs::read(settings.dir.join(blocks::TAIL)).unwrap();
        write(&mut open(&settings), 710..2000);
        fs::write(settings.dir.join(blocks::TAIL), tail).unwrap();
        let next = lines(dir.path());
        assert!(next > 1300 && next <= 2000, "{next}");
    }
}
