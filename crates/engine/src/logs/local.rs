//! Reading a log in blocks; [`monitor::log::blocks`] draws the format.
//!
//! What is remembered is the number of the line wanted next. Where that stands, in a block, in the
//! tail, or nowhere yet, is looked up again whenever the place that was read has come to its end, so
//! no rotation, removal or restart can confuse a reader.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use monitor::log::blocks::{self, Entry, Head, Kind, Mark, Record, Records, TailHead};
use zstd::bulk::Decompressor;

use super::{LogRecord, Wanted};
use crate::attach::Source;

/// Bytes of lines that are handed over at a time.
const ENOUGH: usize = 512 << 10;

/// A log in blocks, being read.
pub(super) struct LocalLines {
    dir: PathBuf,
    /// Number of the line wanted next.
    next: u64,
    blocks: Option<Blocks>,
    tail: Option<Tail>,
    attributes: BTreeMap<String, String>,
    packed: Vec<u8>,
    plain: Vec<u8>,
    over: bool,
    /// Bytes of lines that are handed over at a time.
    enough: usize,
    disk: Disk,
    decompressor: Option<Decompressor<'static>>,
}

impl std::fmt::Debug for LocalLines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalLines")
            .field("dir", &self.dir)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

/// Counts what is read: how much a question costs is part of what is promised.
#[derive(Debug, Default)]
struct Disk {
    bytes: u64,
}

impl Disk {
    /// Fills `buffer` as far as the file goes.
    fn read(&mut self, file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(bytes) => filled += bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.bytes += filled as u64;
        Ok(filled)
    }

    fn exactly<const BYTES: usize>(
        &mut self,
        file: &File,
        offset: u64,
    ) -> io::Result<Option<[u8; BYTES]>> {
        let mut bytes = [0; BYTES];
        let read = self.read(file, &mut bytes, offset)?;
        Ok((read == BYTES).then_some(bytes))
    }

    fn head(&mut self, file: &File, offset: u64) -> io::Result<Option<Head>> {
        let bytes = self.exactly(file, offset)?;
        Ok(bytes.as_ref().and_then(Head::decode))
    }

    fn entry(&mut self, index: &File, place: u64) -> io::Result<Option<Entry>> {
        let bytes = self.exactly(index, place * Entry::BYTES as u64)?;
        Ok(bytes.as_ref().map(Entry::decode))
    }
}

/// A file of blocks.
#[derive(Debug)]
struct Blocks {
    file: File,
    first: u64,
    offset: u64,
}

#[derive(Debug)]
struct Tail {
    file: File,
    inode: u64,
    /// Bytes of it that were read.
    offset: u64,
    /// Number of the line there.
    line: u64,
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl LocalLines {
    /// Opens the log at a line. Blocks, as all here does.
    pub(super) fn at(dir: &Path, next: u64) -> Self {
        Self {
            dir: dir.to_owned(),
            next,
            blocks: None,
            tail: None,
            attributes: BTreeMap::new(),
            packed: Vec::new(),
            plain: Vec::new(),
            over: false,
            enough: ENOUGH,
            disk: Disk::default(),
            decompressor: None,
        }
    }

    /// Opens the log where reading begins.
    pub(super) fn open(dir: &Path, wanted: &Wanted) -> io::Result<Self> {
        let mut lines = Self::at(dir, 0);
        if let Some(tail) = wanted.tail {
            let end = lines.end()?.first;
            lines.next = end.saturating_sub(u64::try_from(tail).unwrap_or(u64::MAX));
        }
        if let Some(since) = wanted.since {
            let since = blocks::nanoseconds(since);
            let first = lines.first_since(since)?;
            lines.next = lines.next.max(first);
        }
        Ok(lines)
    }

    /// Number of the line wanted next.
    pub(super) fn position(&self) -> u64 {
        self.next
    }

    /// Goes to a line.
    pub(super) fn go_to(&mut self, line: u64) {
        self.next = line;
        self.blocks = None;
        self.tail = None;
    }

    /// Hands over no more than about so many bytes at a time.
    pub(super) fn at_most(mut self, bytes: usize) -> Self {
        self.enough = bytes;
        self
    }

    /// Passes over the oldest lines if those that are left are more than so many bytes; says how
    /// many lines that were.
    pub(super) fn skip_beyond(&mut self, bytes: u64) -> io::Result<u64> {
        let end = self.end()?;
        let wanted = end.before.saturating_sub(bytes);
        if self.bytes_before()? >= wanted {
            return Ok(0);
        }
        let mut target = None;
        for first in blocks::files(&self.dir)?.into_iter().rev() {
            if let Some(found) = self.seek(first, |mark| mark.before <= wanted)?
                && let Some(head) = self.disk.head(&found.file, found.offset)?
                && head.mark.before <= wanted
            {
                target = Some(head.end());
                break;
            }
        }
        let before = self.next;
        if let Some(target) = target.filter(|target| *target > before) {
            self.go_to(target);
        }
        Ok(self.next - before)
    }

    /// Bytes of records before the line wanted next, as far as its block tells.
    fn bytes_before(&mut self) -> io::Result<u64> {
        if let Some(found) = self.locate()?
            && let Some(head) = self.disk.head(&found.file, found.offset)?
            && head.end() > self.next
        {
            return Ok(head.mark.before);
        }
        match self.open_tail()? {
            Some((_, mark)) => Ok(mark.before),
            None => Ok(self.end()?.before),
        }
    }

    /// Whether a line after `until` was met: nothing that comes is wanted.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// The place after the last line.
    fn end(&mut self) -> io::Result<Mark> {
        let mut end = Mark::default();
        if let Some(first) = blocks::files(&self.dir)?.last()
            && let Some(mut found) = self.seek(*first, |_| true)?
        {
            while let Some(head) = self.disk.head(&found.file, found.offset)? {
                found.offset += head.whole();
                end = Mark {
                    first: head.end(),
                    before: head.mark.before + u64::from(head.plain),
                    latest: head.mark.latest,
                };
            }
        }
        if let Some((mut tail, mark)) = self.open_tail()? {
            let records = self.read_tail(&mut tail)?;
            let (lines, _) = blocks::count(Records::new(&records));
            let first = mark.first + u64::from(lines);
            if first > end.first {
                end = Mark {
                    first,
                    before: mark.before + records.len() as u64,
                    latest: mark.latest,
                };
            }
        }
        Ok(end)
    }

    /// Number of a line before which all are older than `since`.
    fn first_since(&mut self, since: i64) -> io::Result<u64> {
        let older = |mark: &Mark| mark.latest < since;
        for first in blocks::files(&self.dir)?.into_iter().rev() {
            if let Some(found) = self.seek(first, older)?
                && let Some(head) = self.disk.head(&found.file, found.offset)?
                && older(&head.mark)
            {
                return Ok(head.end());
            }
        }
        Ok(0)
    }

    /// The last block of a file for which, as for all before it, `before` holds; its first block if
    /// there is none. By halves through the index, then from head to head.
    fn seek(&mut self, first: u64, before: impl Fn(&Mark) -> bool) -> io::Result<Option<Blocks>> {
        let Some(file) = open(&blocks::blocks_path(&self.dir, first))? else {
            return Ok(None);
        };
        let mut found = Blocks {
            file,
            first,
            offset: 0,
        };
        if let Some(index) = open(&blocks::index_path(&self.dir, first))? {
            let (mut low, mut high) = (0, index.metadata()?.len() / Entry::BYTES as u64);
            while low < high {
                let middle = low + (high - low) / 2;
                match self.disk.entry(&index, middle)? {
                    Some(entry) if before(&entry.mark) => {
                        found.offset = entry.offset;
                        low = middle + 1;
                    }
                    _ => high = middle,
                }
            }
        }
        while let Some(head) = self.disk.head(&found.file, found.offset)? {
            let beyond = found.offset + head.whole();
            match self.disk.head(&found.file, beyond)? {
                Some(next) if before(&next.mark) => found.offset = beyond,
                _ => break,
            }
        }
        Ok(Some(found))
    }

    /// The block with the line wanted next, or one before it, or the oldest one there is.
    fn locate(&mut self) -> io::Result<Option<Blocks>> {
        let next = self.next;
        let firsts = blocks::files(&self.dir)?;
        let place = firsts.partition_point(|first| *first <= next).max(1) - 1;
        match firsts.get(place) {
            Some(first) => self.seek(*first, |mark| mark.first <= next),
            None => Ok(None),
        }
    }

    /// Hands over the next lines that are wanted; says how many. None when there are no more now.
    pub(super) fn read(
        &mut self,
        wanted: &Wanted,
        mut take: impl FnMut(&LogRecord<'_>),
    ) -> io::Result<usize> {
        let mut given = Given::default();
        while given.bytes < self.enough && !self.over {
            if self.read_block(wanted, &mut given, &mut take)? {
                continue;
            }
            if given.lines > 0 || !self.read_end(wanted, &mut given, &mut take)? {
                break;
            }
        }
        Ok(given.lines)
    }

    /// Goes one block on; `false` when there is none with the line wanted next.
    fn read_block(
        &mut self,
        wanted: &Wanted,
        given: &mut Given,
        take: &mut impl FnMut(&LogRecord<'_>),
    ) -> io::Result<bool> {
        if self.blocks.is_none() {
            self.blocks = self.locate()?;
        }
        let Some(blocks) = &mut self.blocks else {
            return Ok(false);
        };
        if let Some(head) = self.disk.head(&blocks.file, blocks.offset)? {
            if head.end() <= self.next {
                blocks.offset += head.whole();
                return Ok(true);
            }
            let payload = blocks.offset + Head::BYTES as u64;
            self.packed.resize(head.packed as usize, 0);
            let read = self.disk.read(&blocks.file, &mut self.packed, payload)?;
            if read == self.packed.len() {
                blocks.offset += head.whole();
                self.plain.resize(head.plain as usize, 0);
                let whole = unpack(&mut self.decompressor, &self.packed, &mut self.plain);
                let plain = std::mem::take(&mut self.plain);
                // A damaged block says nothing; what follows it does.
                if whole {
                    self.hand_over(&plain, head.mark.first, wanted, given, take);
                }
                self.plain = plain;
                if !self.over {
                    self.next = self.next.max(head.end());
                }
                return Ok(true);
            }
        }
        let first = blocks.first;
        let younger = blocks::files(&self.dir)?
            .into_iter()
            .find(|name| *name > first);
        let Some(younger) = younger else {
            return Ok(false);
        };
        // It may have grown between the look at its end and the one at the directory.
        let offset = blocks.offset;
        if let Some(head) = self.disk.head(&blocks.file, offset)?
            && blocks.file.metadata()?.len() >= offset + head.whole()
        {
            return Ok(true);
        }
        self.blocks = open(&blocks::blocks_path(&self.dir, younger))?.map(|file| Blocks {
            file,
            first: younger,
            offset: 0,
        });
        Ok(true)
    }

    /// Goes on in the tail; `false` when that has nothing new.
    fn read_end(
        &mut self,
        wanted: &Wanted,
        given: &mut Given,
        take: &mut impl FnMut(&LogRecord<'_>),
    ) -> io::Result<bool> {
        let mut tail = match self.tail.take() {
            Some(tail) => tail,
            None => match self.open_tail()? {
                Some((tail, _)) => tail,
                None => return Ok(false),
            },
        };
        if tail.line > self.next {
            // What is between became a block after that was looked for, or is gone.
            self.blocks = self.locate()?;
            if let Some(blocks) = &self.blocks
                && let Some(head) = self.disk.head(&blocks.file, blocks.offset)?
                && head.end() > self.next
                && blocks.file.metadata()?.len() >= blocks.offset + head.whole()
            {
                return Ok(true);
            }
            self.next = tail.line;
        }
        let records = self.read_tail(&mut tail)?;
        if records.is_empty() {
            let current = std::fs::metadata(self.dir.join(blocks::TAIL));
            let replaced = current.is_ok_and(|metadata| metadata.ino() != tail.inode);
            if !replaced {
                self.tail = Some(tail);
            }
            return Ok(replaced);
        }
        let (lines, _) = blocks::count(Records::new(&records));
        self.hand_over(&records, tail.line, wanted, given, take);
        tail.line += u64::from(lines);
        if !self.over {
            self.next = self.next.max(tail.line);
        }
        self.tail = Some(tail);
        Ok(true)
    }

    fn open_tail(&mut self) -> io::Result<Option<(Tail, Mark)>> {
        let Some(file) = open(&self.dir.join(blocks::TAIL))? else {
            return Ok(None);
        };
        let bytes = self.disk.exactly(&file, 0)?;
        let Some(TailHead { mark }) = bytes.as_ref().and_then(TailHead::decode) else {
            return Ok(None);
        };
        let tail = Tail {
            inode: file.metadata()?.ino(),
            file,
            offset: TailHead::BYTES as u64,
            line: mark.first,
        };
        Ok(Some((tail, mark)))
    }

    /// The whole records that were not read yet.
    fn read_tail(&mut self, tail: &mut Tail) -> io::Result<Vec<u8>> {
        let length = tail.file.metadata()?.len().saturating_sub(tail.offset);
        let mut bytes = vec![
            0;
            usize::try_from(length)
                .unwrap_or(0)
                .min(blocks::MAX_PLAIN_BYTES)
        ];
        let read = self.disk.read(&tail.file, &mut bytes, tail.offset)?;
        let mut records = Records::new(&bytes[..read]);
        records.by_ref().for_each(drop);
        let whole = read - records.rest().len();
        bytes.truncate(whole);
        tail.offset += whole as u64;
        Ok(bytes)
    }

    /// Hands over those of the lines that are wanted; the first of them has the number `line`.
    fn hand_over(
        &mut self,
        records: &[u8],
        mut line: u64,
        wanted: &Wanted,
        given: &mut Given,
        take: &mut impl FnMut(&LogRecord<'_>),
    ) {
        for record in Records::new(records) {
            let Kind::Line { stderr, cut } = record.kind else {
                self.attributes = attributes(&record);
                continue;
            };
            line += 1;
            if line <= self.next {
                continue;
            }
            let time = blocks::moment(record.time);
            if wanted.until.is_some_and(|until| time > until) {
                self.over = true;
                return;
            }
            let source = if stderr {
                Source::Stderr
            } else {
                Source::Stdout
            };
            if wanted.since.is_some_and(|since| time < since) || !wanted.wants(source) {
                continue;
            }
            given.lines += 1;
            given.bytes += record.text.len();
            take(&LogRecord {
                source,
                time,
                line: record.text,
                cut,
                attributes: &self.attributes,
            });
        }
    }

    /// Bytes that were read from the disk so far.
    #[cfg(test)]
    fn bytes_read(&self) -> u64 {
        self.disk.bytes
    }
}

/// What one reading came to.
#[derive(Debug, Default)]
struct Given {
    lines: usize,
    bytes: usize,
}

fn attributes(record: &Record<'_>) -> BTreeMap<String, String> {
    serde_json::from_slice(record.text).unwrap_or_default()
}

/// Unpacks a block's records; `false` if they are damaged.
fn unpack(known: &mut Option<Decompressor<'static>>, packed: &[u8], plain: &mut [u8]) -> bool {
    if packed.len() == plain.len() {
        plain.copy_from_slice(packed);
        return true;
    }
    let decompressor = match known {
        Some(decompressor) => decompressor,
        none => match Decompressor::new() {
            Ok(decompressor) => none.insert(decompressor),
            Err(_) => return false,
        },
    };
    let unpacked = decompressor.decompress_to_buffer(packed, plain);
    unpacked.is_ok_and(|bytes| bytes == plain.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write as _;
    use std::time::{Duration, UNIX_EPOCH};

    /// Makes logs whose line N says N, second N, odd ones on standard error.
    struct Writer {
        dir: tempfile::TempDir,
        mark: Mark,
    }

    impl Writer {
        fn new() -> Self {
            Self {
                dir: tempfile::tempdir().unwrap(),
                mark: Mark::default(),
            }
        }

        fn records(&mut self, lines: u64) -> Vec<u8> {
            let mut records = Vec::new();
            for number in self.mark.first..self.mark.first + lines {
                let time = i64::try_from(number).unwrap() * 1_000_000_000;
                let kind = Kind::Line {
                    stderr: number % 2 == 1,
                    cut: false,
                };
                let text = format!("{number}");
                blocks::push_record(&mut records, kind, time, text.as_bytes(), b"\n");
                self.mark.latest = time;
            }
            records
        }

        /// Appends a block to the file that begins with line `first`.
        fn block(&mut self, first: u64, lines: u64) {
            let begin = self.mark;
            let plain = self.records(lines);
            let packed = zstd::bulk::compress(&plain, 1).unwrap();
            let head = Head {
                packed: u32::try_from(packed.len()).unwrap(),
                plain: u32::try_from(plain.len()).unwrap(),
                lines: u32::try_from(lines).unwrap(),
                mark: Mark {
                    latest: self.mark.latest,
                    ..begin
                },
            };
            let mut options = File::options();
            let options = options.append(true).create(true);
            let dir = self.dir.path();
            let mut file = options.open(blocks::blocks_path(dir, first)).unwrap();
            let entry = Entry {
                offset: file.metadata().unwrap().len(),
                mark: head.mark,
            };
            let mut index = options.open(blocks::index_path(dir, first)).unwrap();
            index.write_all(&entry.encode()).unwrap();
            file.write_all(&[&head.encode(), &packed[..]].concat())
                .unwrap();
            self.mark.first += lines;
            self.mark.before += plain.len() as u64;
        }

        /// A new tail.
        fn tail(&mut self, lines: u64) {
            let head = TailHead { mark: self.mark };
            let records = self.records(lines);
            let new = self.dir.path().join("new");
            fs::write(&new, [&head.encode(), &records[..]].concat()).unwrap();
            fs::rename(new, self.dir.path().join(blocks::TAIL)).unwrap();
        }

        fn lines(&self, wanted: &Wanted) -> LocalLines {
            LocalLines::open(self.dir.path(), wanted).unwrap()
        }
    }

    fn both() -> Wanted {
        Wanted {
            stdout: true,
            stderr: true,
            ..Wanted::default()
        }
    }

    fn numbers(lines: &mut LocalLines, wanted: &Wanted) -> Vec<u64> {
        let mut seen = Vec::new();
        let mut take = |record: &LogRecord<'_>| {
            let text = std::str::from_utf8(record.line).unwrap();
            seen.push(text.trim().parse::<u64>().unwrap());
        };
        while lines.read(wanted, &mut take).unwrap() > 0 {}
        seen
    }

    /// Three files of four blocks of ten lines each, and five lines of a tail.
    fn log() -> Writer {
        let mut writer = Writer::new();
        for file in 0..3 {
            for _ in 0..4 {
                writer.block(file * 40, 10);
            }
        }
        writer.tail(5);
        writer
    }

    fn second(second: u64) -> Option<std::time::SystemTime> {
        Some(UNIX_EPOCH + Duration::from_secs(second))
    }

    #[test]
    fn tail_and_moments_choose_lines() {
        let log = log();
        for wanted in 0..130 {
            let options = Wanted {
                tail: Some(wanted),
                ..both()
            };
            let first = 125_u64.saturating_sub(u64::try_from(wanted).unwrap());
            let seen = numbers(&mut log.lines(&options), &options);
            assert_eq!(seen, (first..125).collect::<Vec<_>>(), "tail {wanted}");
        }
        for moment in 0..130 {
            let options = Wanted {
                since: second(moment),
                ..both()
            };
            let seen = numbers(&mut log.lines(&options), &options);
            assert_eq!(seen, (moment..125).collect::<Vec<_>>(), "since {moment}");
            let options = Wanted {
                until: second(moment),
                stderr: false,
                ..both()
            };
            let seen = numbers(&mut log.lines(&options), &options);
            let wanted = (0..125).filter(|number| number % 2 == 0 && *number <= moment);
            assert_eq!(seen, wanted.collect::<Vec<_>>(), "until {moment}");
        }
    }

    #[test]
    fn a_reader_finds_its_way_through_all_that_happens_to_files() {
        let mut log = Writer::new();
        let mut lines = log.lines(&both());
        assert!(numbers(&mut lines, &both()).is_empty());
        log.tail(3);
        assert_eq!(numbers(&mut lines, &both()), [0, 1, 2]);
        // The tail becomes a block, with lines that were in no tail.
        log.block(0, 5);
        assert_eq!(numbers(&mut lines, &both()), [3, 4]);
        log.tail(2);
        assert_eq!(numbers(&mut lines, &both()), [5, 6]);
        log.block(5, 2);
        log.tail(1);
        assert_eq!(numbers(&mut lines, &both()), [7]);
        // The oldest file goes before it was read.
        let mut late = log.lines(&both());
        fs::remove_file(blocks::blocks_path(log.dir.path(), 0)).unwrap();
        assert_eq!(numbers(&mut late, &both()), [5, 6, 7]);
        // Half a block waits for its rest, and a damaged one is passed over.
        log.block(5, 3);
        log.block(5, 3);
        let path = blocks::blocks_path(log.dir.path(), 5);
        let mut bytes = fs::read(&path).unwrap();
        let cut = bytes.split_off(bytes.len() - 4);
        fs::write(&path, &bytes).unwrap();
        assert_eq!(numbers(&mut lines, &both()), [8, 9]);
        File::options()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(&cut)
            .unwrap();
        assert_eq!(numbers(&mut lines, &both()), [10, 11, 12]);
    }

    #[test]
    fn little_of_a_long_log_is_read_for_its_end_or_a_moment() {
        let mut log = Writer::new();
        for _ in 0..2000 {
            log.block(0, 100);
        }
        log.tail(10);
        let size = fs::metadata(blocks::blocks_path(log.dir.path(), 0))
            .unwrap()
            .len();
        let cost = |wanted: &Wanted, expected: usize| {
            let mut lines = log.lines(wanted);
            assert_eq!(numbers(&mut lines, wanted).len(), expected);
            lines.bytes_read()
        };
        let tail = cost(
            &Wanted {
                tail: Some(15),
                ..both()
            },
            15,
        );
        let since = cost(
            &Wanted {
                since: second(199_990),
                ..both()
            },
            20,
        );
        let until = Wanted {
            since: second(100_000),
            until: second(100_009),
            ..both()
        };
        let between = cost(&until, 10);
        assert!(size > 400_000, "{size}");
        for bytes in [tail, since, between] {
            assert!(bytes < 6_000, "{tail} {since} {between}");
        }
    }
}
