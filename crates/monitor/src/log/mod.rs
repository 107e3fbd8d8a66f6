//! The container's log: what was read becomes lines, and a driver keeps them.
//!
//! A line longer than [`LINE_BYTES`] is kept in several parts with the time of the first. Objects
//! are gathered and written in batches, always whole: what cannot be written (a full disk) is
//! dropped rather than left in pieces or held against the container.
//!
//! | module | keeps lines |
//! |---|---|
//! | `json_file` | as Docker's `json-file` does, byte for byte |
//! | `local` | in compressed blocks with an index |
//! | [`blocks`] | the format of those, also for who reads them |

use std::io;

use crate::Log;

pub mod blocks;
mod json_file;
mod local;

use json_file::JsonFile;
use local::Local;

/// Longest text in one entry (dockerd's copier buffer).
const LINE_BYTES: usize = 16 << 10;

/// Which of its two outputs a container wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How an entry ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// With the line.
    Newline,
    /// In the middle of a line that is too long.
    Cut,
    /// With the stream, in the middle of a line.
    Stream,
}

/// A line, or a part of a long one.
#[derive(Clone, Copy, Debug)]
struct Entry<'a> {
    stream: Stream,
    /// Without its newline; at most [`LINE_BYTES`].
    text: &'a [u8],
    end: End,
    /// Nanoseconds since 1970 at which its beginning was read.
    time: i64,
}

/// What keeps entries.
trait Keep {
    /// Takes an entry; it may be written later.
    fn take(&mut self, entry: Entry<'_>);
    /// Writes what was taken. An error is returned once for each time that writing stops working.
    fn flush(&mut self) -> io::Result<()>;
    /// Gives memory back that only a busy log needs.
    fn relax(&mut self);
}

/// Where output is kept.
#[derive(Debug)]
pub(crate) struct Sink {
    lines: [Line; 2],
    keeper: Keeper,
}

#[derive(Debug)]
enum Keeper {
    None,
    JsonFile(Box<JsonFile>),
    Local(Box<Local>),
}

impl Sink {
    /// Opens what `log` describes.
    pub(crate) fn open(log: &Log) -> io::Result<Self> {
        let keeper = match log {
            Log::None => Keeper::None,
            Log::JsonFile {
                path,
                max_bytes,
                max_files,
                attrs,
            } => Keeper::JsonFile(Box::new(JsonFile::open(
                path, *max_bytes, *max_files, attrs,
            )?)),
            Log::Local(settings) => Keeper::Local(Box::new(Local::new(settings)?)),
        };
        Ok(Self {
            lines: Default::default(),
            keeper,
        })
    }

    /// Takes what was read at the moment `now`.
    pub(crate) fn append(&mut self, stream: Stream, bytes: &[u8], now: i64) {
        let line = &mut self.lines[stream as usize];
        match &mut self.keeper {
            Keeper::None => {}
            Keeper::JsonFile(file) => line.append(stream, bytes, now, &mut **file),
            Keeper::Local(local) => line.append(stream, bytes, now, &mut **local),
        }
    }

    /// Takes the end of a stream: a line without its end is one too.
    pub(crate) fn end(&mut self, stream: Stream, now: i64) {
        let line = &mut self.lines[stream as usize];
        match &mut self.keeper {
            Keeper::None => {}
            Keeper::JsonFile(file) => line.end(stream, now, &mut **file),
            Keeper::Local(local) => line.end(stream, now, &mut **local),
        }
    }

    /// Writes what was gathered. An error is returned once for each time that writing stops working.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        match &mut self.keeper {
            Keeper::None => Ok(()),
            Keeper::JsonFile(file) => file.flush(),
            Keeper::Local(local) => local.flush(),
        }
    }

    /// Whether more would be lost: the container has to wait.
    pub(crate) fn is_full(&self) -> bool {
        matches!(&self.keeper, Keeper::Local(local) if local.is_full())
    }

    /// Looks whether there is room again.
    pub(crate) fn make_room(&mut self) {
        if let Keeper::Local(local) = &mut self.keeper {
            local.make_room();
        }
    }

    /// Gives memory back that only a busy log needs.
    pub(crate) fn relax(&mut self) {
        match &mut self.keeper {
            Keeper::None => {}
            Keeper::JsonFile(file) => file.relax(),
            Keeper::Local(local) => local.relax(),
        }
        for line in &mut self.lines {
            line.text.shrink_to_fit();
        }
    }
}

/// A line whose end has not come.
#[derive(Debug, Default)]
struct Line {
    /// Less than [`LINE_BYTES`].
    text: Vec<u8>,
    /// When its first part was read, if there are several.
    since: Option<i64>,
}

impl Line {
    fn append(&mut self, stream: Stream, mut bytes: &[u8], now: i64, keeper: &mut impl Keep) {
        while !bytes.is_empty() {
            let room = LINE_BYTES - self.text.len();
            let window = &bytes[..bytes.len().min(room)];
            let (taken, end) = match find_newline(window) {
                Some(place) => (place, End::Newline),
                None if window.len() == room => (room, End::Cut),
                None => {
                    self.text.extend_from_slice(window);
                    return;
                }
            };
            let time = self.since.unwrap_or(now);
            let mut entry = Entry {
                stream,
                text: &bytes[..taken],
                end,
                time,
            };
            if self.text.is_empty() {
                keeper.take(entry);
            } else {
                self.text.extend_from_slice(&bytes[..taken]);
                entry.text = &self.text;
                keeper.take(entry);
                self.text.clear();
            }
            self.since = (end == End::Cut).then_some(time);
            bytes = &bytes[taken + usize::from(end == End::Newline)..];
        }
    }

    fn end(&mut self, stream: Stream, now: i64, keeper: &mut impl Keep) {
        if !self.text.is_empty() {
            keeper.take(Entry {
                stream,
                text: &self.text,
                end: End::Stream,
                time: self.since.unwrap_or(now),
            });
        }
        *self = Self::default();
    }
}

/// Remembers a failure that follows a success.
#[derive(Debug, Default)]
struct Failures {
    /// The last write failed.
    failing: bool,
    /// What failed and has not been told.
    untold: Option<io::Error>,
}

impl Failures {
    fn note(&mut self, result: io::Result<()>) {
        let failing = result.is_err();
        if let Err(error) = result
            && !self.failing
        {
            self.untold = Some(error);
        }
        self.failing = failing;
    }

    fn tell(&mut self) -> io::Result<()> {
        self.untold.take().map_or(Ok(()), Err)
    }
}

/// Bytes looked at together: a loop without an early end, which the compiler makes one or two
/// vector instructions.
const LANE: usize = 32;

fn find_newline(bytes: &[u8]) -> Option<usize> {
    find(bytes, |byte| byte == b'\n')
}

fn find(bytes: &[u8], wanted: impl Fn(u8) -> bool) -> Option<usize> {
    let mut start = 0;
    while let Some(lane) = bytes[start..].first_chunk::<LANE>() {
        if lane.iter().fold(false, |any, &byte| any | wanted(byte)) {
            break;
        }
        start += LANE;
    }
    let rest = bytes[start..].iter().position(|&byte| wanted(byte))?;
    Some(start + rest)
}
