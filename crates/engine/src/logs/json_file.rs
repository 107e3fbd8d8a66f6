//! The files of one log, oldest first: `x.2`, `x.1`, `x`. A full `x` is renamed to `x.1`, and so on;
//! what is open stays readable under whatever name.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use memchr::memchr;

use super::line;
use super::{LogRecord, Wanted};

/// Bytes read at a time.
const PIECE: usize = 256 << 10;

/// Bytes read at a time while a moment is searched: several lines, unless they are the longest.
const SEARCH_PIECE: usize = 32 << 10;

/// A line longer than this is none of ours: monitors cut output at 16 KiB, and escapes make at
/// most six bytes of one.
const LINE_MAX: usize = 1 << 20;

/// Rotated files that are looked for.
const ROTATED_MAX: u32 = 1000;

/// So many numbers in a row may be without a file: the monitor renames the oldest first, so that
/// while it rotates one number is free, and another one when the next rotation overtakes the reader.
const GAP_MAX: u32 = 2;

/// The files of one log, being read.
#[derive(Debug)]
pub(super) struct Files {
    path: PathBuf,
    /// Those to read, oldest first; the last one may still grow.
    files: VecDeque<Open>,
    /// Bytes that were read and are not lines yet.
    rest: Vec<u8>,
    reader: line::Reader,
    over: bool,
}

#[derive(Debug)]
struct Open {
    file: File,
    inode: u64,
}

impl Open {
    fn new(path: &Path) -> io::Result<Option<Self>> {
        match File::open(path) {
            Ok(file) => {
                let inode = file.metadata()?.ino();
                Ok(Some(Self { file, inode }))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Files {
    /// Opens the log where reading begins. Blocks.
    pub(super) fn open(path: &Path, options: &Wanted) -> io::Result<Self> {
        let mut files = all(path)?;
        if let Some(since) = options.since {
            // A file that was written last before `since` has no line after it.
            while files.len() > 1
                && let Some(oldest) = files.front()
                && oldest.file.metadata()?.modified()? < since
            {
                files.pop_front();
            }
            if let Some(oldest) = files.front_mut() {
                seek_to_moment(&mut oldest.file, since)?;
            }
        }
        if let Some(tail) = options.tail {
            seek_to_last(&mut files, tail)?;
        }
        Ok(Self {
            path: path.to_owned(),
            files,
            rest: Vec::new(),
            reader: line::Reader::default(),
            over: false,
        })
    }

    /// Whether a line after `until` was met: nothing that comes is wanted.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Hands over the next lines that are wanted; says how many. None when there are no more now.
    /// Blocks.
    pub(super) fn read(
        &mut self,
        wanted: &Wanted,
        mut take: impl FnMut(&LogRecord<'_>),
    ) -> io::Result<usize> {
        let mut given = 0;
        while given == 0 && !self.over {
            if self.files.is_empty() {
                match Open::new(&self.path)? {
                    Some(file) => self.files.push_back(file),
                    None => break,
                }
            }
            let before = self.rest.len();
            let Some(current) = self.files.front_mut() else {
                break;
            };
            self.rest.resize(before + PIECE, 0);
            let read = current.file.read(&mut self.rest[before..])?;
            self.rest.truncate(before + read);
            if read > 0 {
                given = self.cut(wanted, &mut take);
            } else if !self.next_file()? {
                break;
            }
        }
        Ok(given)
    }

    /// Goes on to the next younger file; `false` when there is none.
    fn next_file(&mut self) -> io::Result<bool> {
        if self.files.len() > 1 {
            self.files.pop_front();
            return Ok(true);
        }
        let Some(current) = self.files.front_mut() else {
            return Ok(false);
        };
        let position = current.file.stream_position()?;
        let length = current.file.metadata()?.len();
        if length < position {
            // Emptied in place, as a log of a single file is when it is full.
            current.file.seek(SeekFrom::Start(0))?;
            self.rest.clear();
            return Ok(true);
        }
        let inode = current.inode;
        match std::fs::metadata(&self.path) {
            Ok(metadata) if metadata.ino() != inode => {}
            _ => return Ok(false),
        }
        if length > position {
            // Written between the read that found nothing and the renaming.
            return Ok(true);
        }
        let mut younger = all(&self.path)?;
        // One that was rotated away altogether is not met: then all that is left is younger.
        if let Some(place) = younger.iter().position(|file| file.inode == inode) {
            younger.drain(..=place);
        }
        self.files = younger;
        Ok(!self.files.is_empty())
    }

    /// Hands over the whole lines in `rest`.
    fn cut(&mut self, wanted: &Wanted, take: &mut impl FnMut(&LogRecord<'_>)) -> usize {
        let mut start = 0;
        let mut given = 0;
        while let Some(length) = memchr(b'\n', &self.rest[start..]) {
            let line = &self.rest[start..start + length];
            start += length + 1;
            let Some(parsed) = self.reader.read(line) else {
                continue;
            };
            if wanted.since.is_some_and(|since| parsed.time < since) {
                continue;
            }
            if wanted.until.is_some_and(|until| parsed.time > until) {
                self.over = true;
                break;
            }
            if wanted.wants(parsed.source) {
                given += 1;
                take(&parsed);
            }
        }
        self.rest.drain(..start);
        if self.rest.len() > LINE_MAX {
            self.rest.clear();
        }
        given
    }
}

/// Goes to where lines before are older, as far as a search by halves can tell: lines stand in the
/// order in which they were written, which is that of the clock unless it was set back meanwhile.
fn seek_to_moment(file: &mut File, since: SystemTime) -> io::Result<()> {
    let position = file.stream_position()?;
    let (mut low, mut high) = (position, file.metadata()?.len());
    let mut window = vec![0; SEARCH_PIECE];
    while high - low > SEARCH_PIECE as u64 {
        let middle = low + (high - low) / 2;
        let read = file.read_at(&mut window, middle)?;
        let mut lines = window[..read].split_inclusive(|byte| *byte == b'\n');
        // The first one began before.
        let skipped = lines.next().map_or(0, <[u8]>::len) as u64;
        let time = lines.next().and_then(line::time_of);
        match time {
            Some(time) if time < since => low = middle + skipped,
            Some(_) => high = middle,
            None => break,
        }
    }
    file.seek(SeekFrom::Start(low))?;
    Ok(())
}

/// All files, oldest first. The youngest is opened first: what is renamed meanwhile is met again
/// under its new name, and then left out.
fn all(path: &Path) -> io::Result<VecDeque<Open>> {
    let mut files: VecDeque<Open> = VecDeque::new();
    files.extend(Open::new(path)?);
    let mut missing = 0;
    for number in 1..=ROTATED_MAX {
        let mut rotated = path.as_os_str().to_owned();
        rotated.push(format!(".{number}"));
        match Open::new(Path::new(&rotated))? {
            Some(file) => {
                missing = 0;
                if !files.iter().any(|known| known.inode == file.inode) {
                    files.push_front(file);
                }
            }
            None if missing == GAP_MAX => break,
            None => missing += 1,
        }
    }
    Ok(files)
}

/// Goes to the beginning of the last so many lines.
fn seek_to_last(files: &mut VecDeque<Open>, wanted: usize) -> io::Result<()> {
    let mut left = wanted;
    for index in (0..files.len()).rev() {
        let file = &mut files[index].file;
        let (offset, found) = last_lines(file, left)?;
        if found >= left {
            file.seek(SeekFrom::Start(offset))?;
            files.drain(..index);
            return Ok(());
        }
        left -= found;
    }
    Ok(())
}

/// Where the last `wanted` lines of a file begin, and how many there are.
fn last_lines(file: &File, wanted: usize) -> io::Result<(u64, usize)> {
    let length = file.metadata()?.len();
    if wanted == 0 {
        return Ok((length, 0));
    }
    let mut buffer = vec![0; PIECE];
    let mut end = length;
    let mut found = 0;
    while end > 0 {
        let size = end.min(PIECE as u64);
        let start = end - size;
        let piece = &mut buffer[..usize::try_from(size).unwrap_or(PIECE)];
        file.read_exact_at(piece, start)?;
        for (at, byte) in piece.iter().enumerate().rev() {
            let offset = start + at as u64 + 1;
            // A newline at the very end closes the last line rather than beginning one.
            if *byte == b'\n' && offset < length {
                found += 1;
                if found == wanted {
                    return Ok((offset, found));
                }
            }
        }
        end = start;
    }
    Ok((0, found + usize::from(length > 0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::time::{Duration, UNIX_EPOCH};

    fn write(path: &Path, numbers: std::ops::Range<u64>) {
        use std::io::Write as _;
        let mut file = File::options()
            .append(true)
            .create(true)
            .open(path)
            .unwrap();
        for number in numbers {
            let time = vocab::time::rfc3339_nano(UNIX_EPOCH + Duration::from_secs(number));
            let stream = if number % 2 == 0 { "stdout" } else { "stderr" };
            writeln!(
                file,
                r#"{{"log":"{number}\n","stream":"{stream}","time":"{time}"}}"#
            )
            .unwrap();
        }
    }

    fn both() -> Wanted {
        Wanted {
            stdout: true,
            stderr: true,
            ..Wanted::default()
        }
    }

    fn numbers(files: &mut Files, wanted: &Wanted) -> Vec<u64> {
        let mut seen = Vec::new();
        let mut take = |record: &LogRecord<'_>| {
            let text = std::str::from_utf8(record.line).unwrap();
            seen.push(text.trim().parse::<u64>().unwrap());
        };
        while files.read(wanted, &mut take).unwrap() > 0 {}
        seen
    }

    #[track_caller]
    fn check(options: &Wanted, wanted: impl Iterator<Item = u64>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        write(&dir.path().join("x.2"), 0..10);
        write(&dir.path().join("x.1"), 10..20);
        write(&path, 20..30);
        let mut files = Files::open(&path, options).unwrap();
        assert_eq!(
            numbers(&mut files, options),
            wanted.collect::<Vec<_>>(),
            "{options:?}"
        );
    }

    #[test]
    fn older_files_are_read_while_a_rotation_is_under_way() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        write(&path.with_extension("3"), 0..10);
        write(&path.with_extension("2"), 10..20);
        // Number 1 is free: the current file is about to become it.
        write(&path, 20..30);
        let mut files = Files::open(&path, &both()).unwrap();
        assert_eq!(numbers(&mut files, &both()), (0..30).collect::<Vec<_>>());
    }

    #[test]
    fn rotated_files_are_read_oldest_first() {
        let at = |seconds| Some(UNIX_EPOCH + Duration::from_secs(seconds));
        check(&both(), 0..30);
        check(
            &Wanted {
                tail: Some(3),
                ..both()
            },
            27..30,
        );
        check(
            &Wanted {
                tail: Some(10),
                ..both()
            },
            20..30,
        );
        check(
            &Wanted {
                tail: Some(25),
                ..both()
            },
            5..30,
        );
        check(
            &Wanted {
                tail: Some(99),
                ..both()
            },
            0..30,
        );
        check(
            &Wanted {
                tail: Some(0),
                ..both()
            },
            0..0,
        );
        check(
            &Wanted {
                since: at(15),
                ..both()
            },
            15..30,
        );
        check(
            &Wanted {
                until: at(12),
                ..both()
            },
            0..13,
        );
        check(
            &Wanted {
                stderr: false,
                ..both()
            },
            (0..30).step_by(2),
        );
    }

    #[test]
    fn following_survives_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let mut files = Files::open(&path, &both()).unwrap();
        assert!(
            numbers(&mut files, &both()).is_empty(),
            "nothing was written yet"
        );
        write(&path, 0..5);
        assert_eq!(numbers(&mut files, &both()), [0, 1, 2, 3, 4]);
        write(&path, 5..6);
        fs::rename(&path, dir.path().join("x.1")).unwrap();
        write(&path, 6..8);
        assert_eq!(numbers(&mut files, &both()), [5, 6, 7]);
        // Twice between two looks.
        fs::rename(dir.path().join("x.1"), dir.path().join("x.2")).unwrap();
        fs::rename(&path, dir.path().join("x.1")).unwrap();
        write(&path, 8..9);
        fs::rename(dir.path().join("x.2"), dir.path().join("x.3")).unwrap();
        fs::rename(dir.path().join("x.1"), dir.path().join("x.2")).unwrap();
        fs::rename(&path, dir.path().join("x.1")).unwrap();
        write(&path, 9..10);
        assert_eq!(numbers(&mut files, &both()), [8, 9]);
    }

    #[test]
    fn a_log_that_was_emptied_is_read_from_its_beginning() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        write(&path, 0..5);
        let mut files = Files::open(&path, &both()).unwrap();
        assert_eq!(numbers(&mut files, &both()).len(), 5);
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(0)
            .unwrap();
        write(&path, 5..6);
        assert_eq!(numbers(&mut files, &both()), [5]);
    }

    #[test]
    fn half_a_line_waits_for_its_rest() {
        use std::io::Write as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let mut file = File::create(&path).unwrap();
        file.write_all(br#"{"log":"7\n","stream":"stdout","#)
            .unwrap();
        let mut files = Files::open(&path, &both()).unwrap();
        assert!(numbers(&mut files, &both()).is_empty());
        file.write_all(b"\"time\":\"1970-01-01T00:00:01Z\"}\n")
            .unwrap();
        assert_eq!(numbers(&mut files, &both()), [7]);
    }
}
