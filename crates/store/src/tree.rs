//! A layer's tar as checked, typed entries: what every driver reads.
//!
//! [`Splitter`] is fed bytes in any portions and calls a [`Visit`] for each entry and its data. It
//! is the one place where a stranger's paths are judged, so both drivers refuse the same things:
//! `..`, NUL, components or paths that Linux would not take, sparse maps that contradict
//! themselves, entries beyond the limits. Leading `/` and `.` are dropped, as every tar reader
//! does; what is left is relative to the layer's root. Whether a path leads through something that
//! is no directory only the driver can tell.
//!
//! Whiteouts are named here (image-spec layer.md, "Whiteouts"): `.wh.NAME` hides NAME of the lower
//! layers, `.wh..wh..opq` hides all that lower layers have in the directory; other names that
//! begin with `.wh..wh.` are AUFS' own and ignored. Overlayfs' private attributes never come out of
//! a tar: a stranger could redirect a directory with them.

use std::io;

use tar_core::parse::{Limits, ParseEvent, ParsedEntry, Parser};
use tar_core::{EntryType, PaxExtensions};

use crate::acl;
use crate::limits;

const BLOCK: u64 = 512;
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const AUFS: &[u8] = b".wh..wh.";

/// One thing in a layer.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Relative to the layer's root, no `.` or `..`; empty for the root itself.
    pub(crate) path: Vec<u8>,
    pub(crate) node: Node,
    /// Permission bits with set-id and sticky.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Moment,
    /// Names and values.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    /// Bytes of what is not of one size.
    fn names_bytes(&self) -> u64 {
        let node = match &self.node {
            Node::Symlink(target) | Node::HardLink(target) => target.len(),
            Node::File(content) => {
                content.sparse.as_ref().map_or(0, Vec::len) * size_of::<Extent>()
            }
            _ => 0,
        };
        let xattrs: usize = self
            .xattrs
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        (self.path.len() + node + xattrs) as u64
    }
}

/// Seconds and nanoseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
}

/// What kind of thing it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    Directory,
    File(Content),
    Symlink(Vec<u8>),
    /// Another name for this path, which came earlier.
    HardLink(Vec<u8>),
    Character {
        major: u32,
        minor: u32,
    },
    Block {
        major: u32,
        minor: u32,
    },
    Fifo,
    /// `path` is gone from the lower layers.
    Whiteout,
    /// All that lower layers have in `path` is gone.
    Opaque,
}

/// The bytes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    /// As `stat` shows it.
    pub(crate) size: u64,
    /// Where its stored bytes begin in the tar.
    pub(crate) position: u64,
    /// How many are stored.
    pub(crate) stored: u64,
    /// Where they go; `None` means all of it in one piece.
    pub(crate) sparse: Option<Vec<Extent>>,
}

/// A stored piece of a sparse file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// Who is shown the entries.
pub(crate) trait Visit {
    /// An entry begins. The data of a file follows.
    fn entry(&mut self, entry: Entry) -> Result<(), UnpackError>;
    /// Stored bytes of the file that began last.
    fn data(&mut self, bytes: &[u8]) -> Result<(), UnpackError>;
    /// The file that began last is complete.
    fn end(&mut self) -> Result<(), UnpackError>;
}

/// Why a tar did not become a layer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    #[error("{0}")]
    Malformed(String),
    #[error("{what} `{path}`")]
    Io {
        what: &'static str,
        path: String,
        source: io::Error,
    },
}

impl UnpackError {
    /// For `map_err`.
    pub(crate) fn io(what: &'static str, path: &[u8]) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |source| Self::Io {
            what,
            path: shown(path),
            source: source.into(),
        }
    }
}

/// A stranger's path, fit to be printed.
pub(crate) fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).escape_debug().to_string()
}

#[derive(Debug)]
enum State {
    Header,
    /// Bytes of content, then of padding, still to come.
    Content {
        left: u64,
        padding: u64,
    },
    Padding(u64),
    Done,
}

/// What names that begin with `.wh.` mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    /// That something of the layers beneath is gone.
    Whiteouts,
    /// Nothing: they are names.
    Plain,
}

/// Splits a tar that comes in portions.
#[derive(Debug)]
pub(crate) struct Splitter {
    parser: Parser,
    names: Names,
    /// Header bytes that do not make a whole header yet.
    pending: Vec<u8>,
    state: State,
    /// Bytes of the tar that are dealt with.
    position: u64,
    entries: u64,
    /// What has to be remembered of the entries.
    names_bytes: u64,
    /// The last path, for errors.
    last: Vec<u8>,
}

impl Splitter {
    /// For a layer.
    pub(crate) fn new() -> Self {
        Self::with_names(Names::Whiteouts)
    }

    pub(crate) fn with_names(names: Names) -> Self {
        let mut parser = Parser::new(Limits {
            max_metadata_size: u32::try_from(limits::HEADER_BYTES).unwrap_or(u32::MAX),
            max_path_len: u32::try_from(limits::PATH_BYTES).ok(),
            max_sparse_entries: limits::SPARSE_PIECES,
            ..Limits::default()
        });
        parser.set_allow_empty_path(true);
        // Its own reading of times stops at 1970 and at whole seconds; `extended` reads them again.
        parser.set_ignore_pax_errors(true);
        Self {
            parser,
            names,
            pending: Vec::new(),
            state: State::Header,
            position: 0,
            entries: 0,
            names_bytes: 0,
            last: Vec::new(),
        }
    }

    pub(crate) fn push(
        &mut self,
        mut bytes: &[u8],
        visit: &mut dyn Visit,
    ) -> Result<(), UnpackError> {
        while !bytes.is_empty() {
            match self.state {
                State::Done => return Ok(()),
                State::Content { left, padding } => {
                    let take = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    let (now, rest) = bytes.split_at(take);
                    visit.data(now)?;
                    bytes = rest;
                    self.position += take as u64;
                    let left = left - take as u64;
                    if left == 0 {
                        visit.end()?;
                        self.state = State::Padding(padding);
                    } else {
                        self.state = State::Content { left, padding };
                    }
                }
                State::Padding(0) => self.state = State::Header,
                State::Padding(padding) => {
                    let take = usize::try_from(padding)
                        .unwrap_or(usize::MAX)
                        .min(bytes.len());
                    bytes = &bytes[take..];
                    self.position += take as u64;
                    self.state = State::Padding(padding - take as u64);
                }
                State::Header if self.pending.is_empty() => {
                    let (used, wanted) = self.header(bytes, visit)?;
                    bytes = &bytes[used..];
                    if used == 0 && wanted > 0 {
                        self.pending.extend_from_slice(bytes);
                        return Ok(());
                    }
                }
                State::Header => {
                    // Small steps: most headers are one block, and what is beyond the header is
                    // content that need not be copied.
                    let before = self.pending.len();
                    let block = usize::try_from(BLOCK).unwrap_or(512);
                    let take = (block - before % block).min(bytes.len());
                    self.pending.extend_from_slice(&bytes[..take]);
                    bytes = &bytes[take..];
                    if !self.pending.len().is_multiple_of(block) {
                        return Ok(());
                    }
                    let pending = std::mem::take(&mut self.pending);
                    let (used, _) = self.header(&pending, visit)?;
                    // A header that was read ends with the block that came just now.
                    if used == 0 {
                        self.pending = pending;
                    }
                }
            }
        }
        Ok(())
    }

    /// Passes over the rest of a file's content, if so many bytes are there; answers how many need
    /// not be pushed.
    pub(crate) fn pass_over(
        &mut self,
        visit: &mut dyn Visit,
        there: u64,
    ) -> Result<u64, UnpackError> {
        let State::Content { left, padding } = self.state else {
            return Ok(0);
        };
        if left > there {
            return Ok(0);
        }
        visit.end()?;
        self.position += left;
        self.state = State::Padding(padding);
        Ok(left)
    }

    /// The tar has ended.
    pub(crate) fn finish(self) -> Result<(), UnpackError> {
        let whole = match self.state {
            State::Done | State::Padding(0) => true,
            State::Header => self.pending.iter().all(|byte| *byte == 0),
            // Some writers leave out the last padding.
            State::Padding(_) => true,
            State::Content { .. } => false,
        };
        if whole {
            Ok(())
        } else {
            Err(UnpackError::Malformed(format!(
                "it ends within or after `{}`",
                shown(&self.last)
            )))
        }
    }

    /// Reads one header from the beginning of `bytes`: how many bytes it used, and how many it
    /// wants when that is none.
    fn header(
        &mut self,
        bytes: &[u8],
        visit: &mut dyn Visit,
    ) -> Result<(usize, usize), UnpackError> {
        let event = self.parser.parse(bytes).map_err(|error| {
            UnpackError::Malformed(format!("after `{}`: {error}", shown(&self.last)))
        })?;
        let (consumed, entry, sparse) = match event {
            ParseEvent::NeedData { min_bytes } => return Ok((0, min_bytes)),
            ParseEvent::End { consumed } => {
                self.position += consumed as u64;
                self.state = State::Done;
                return Ok((consumed, 0));
            }
            ParseEvent::GlobalExtensions { consumed, .. } => {
                self.position += consumed as u64;
                return Ok((consumed, 0));
            }
            ParseEvent::Entry { consumed, entry } => (consumed, entry, None),
            ParseEvent::SparseEntry {
                consumed,
                entry,
                sparse_map,
                real_size,
            } => (consumed, entry, Some((sparse_map, real_size))),
        };
        self.position += consumed as u64;
        self.entries += 1;
        if self.entries > limits::LAYER_ENTRIES {
            return Err(UnpackError::Malformed(format!(
                "it has more than {} entries",
                limits::LAYER_ENTRIES
            )));
        }
        self.last.clear();
        self.last.extend_from_slice(&entry.path);
        let extended = extended(&entry).map_err(|reason| wrong(&entry.path, &reason))?;
        let size = entry.size;
        let checked = check(&entry, extended, self.position, sparse, self.names)?;
        let padding = (BLOCK - size % BLOCK) % BLOCK;
        match checked {
            Some(entry) => {
                self.names_bytes += entry.names_bytes();
                if self.names_bytes > limits::NAMES_BYTES {
                    return Err(UnpackError::Malformed(format!(
                        "its names and attributes have more than {} bytes",
                        limits::NAMES_BYTES
                    )));
                }
                let has_data = matches!(entry.node, Node::File(_));
                visit.entry(entry)?;
                if has_data {
                    if size > 0 {
                        self.state = State::Content {
                            left: size,
                            padding,
                        };
                    } else {
                        visit.end()?;
                    }
                } else {
                    self.state = State::Padding(skipped(size, padding)?);
                }
            }
            None => self.state = State::Padding(skipped(size, padding)?),
        }
        Ok((consumed, 0))
    }
}

fn skipped(size: u64, padding: u64) -> Result<u64, UnpackError> {
    size.checked_add(padding)
        .ok_or_else(|| UnpackError::Malformed(format!("an entry claims {size} bytes")))
}

fn wrong(path: &[u8], reason: &str) -> UnpackError {
    UnpackError::Malformed(format!("`{}` {reason}", shown(path)))
}

/// What the PAX records say that the parser does not keep exactly.
struct Extended {
    mtime: Option<Moment>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Extended {
    fn put(&mut self, name: &[u8], value: Vec<u8>) {
        self.xattrs.retain(|(earlier, _)| earlier != name);
        self.xattrs.push((name.to_vec(), value));
    }

    /// An access control list that is written as text.
    fn put_list(&mut self, name: &[u8], text: &[u8]) -> Result<(), String> {
        let list = acl::read(text).map_err(|error| error.to_string())?;
        // What a mode says as well no file system keeps beside it, but for what is inherited.
        let list = list.filter(|list| name.ends_with(b"default") || !acl::is_mode(list));
        if let Some(list) = list {
            self.put(name, list);
        }
        Ok(())
    }
}

fn extended(entry: &ParsedEntry<'_>) -> Result<Extended, String> {
    let mut found = Extended {
        mtime: None,
        xattrs: Vec::new(),
    };
    for record in entry.pax.map(PaxExtensions::new).into_iter().flatten() {
        let record = record.map_err(|error| format!("has a damaged PAX record: {error}"))?;
        let value = record.value_bytes();
        match record.key_bytes() {
            // The parser passes over what it cannot read; a size must not be passed over.
            key @ (b"size" | b"uid" | b"gid") => {
                let number = std::str::from_utf8(value).ok().map(str::parse::<u64>);
                if !matches!(number, Some(Ok(_))) {
                    return Err(format!("has a PAX {} that is no number", shown(key)));
                }
            }
            b"mtime" => {
                found.mtime = Some(moment(value).ok_or("has a PAX mtime that is no moment")?);
            }
            b"SCHILY.acl.access" => found.put_list(b"system.posix_acl_access", value)?,
            // Nothing is ever made in what is no directory.
            b"SCHILY.acl.default" if entry.entry_type != EntryType::Directory => {}
            b"SCHILY.acl.default" => found.put_list(b"system.posix_acl_default", value)?,
            key => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    let private =
                        name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.");
                    if name.is_empty() || name.len() > 255 || name.contains(&0) {
                        return Err("has an extended attribute with an impossible name".to_owned());
                    }
                    if value.len() > 65536 {
                        return Err("has an extended attribute above 64 KiB".to_owned());
                    }
                    if !private {
                        found.put(name, value.to_vec());
                    }
                }
            }
        }
    }
    Ok(found)
}

/// `[-]seconds[.fraction]`
fn moment(text: &[u8]) -> Option<Moment> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let nanoseconds: u32 = digits.parse().ok()?;
    // −1.25 is 0.75 after −2.
    if whole.starts_with('-') && nanoseconds > 0 {
        return Some(Moment {
            seconds: seconds.checked_sub(1)?,
            nanoseconds: 1_000_000_000 - nanoseconds,
        });
    }
    Some(Moment {
        seconds,
        nanoseconds,
    })
}

/// The typed entry, or `None` for one that is to be ignored.
fn check(
    raw: &ParsedEntry<'_>,
    extended: Extended,
    position: u64,
    sparse: Option<(Vec<tar_core::SparseEntry>, u64)>,
    names: Names,
) -> Result<Option<Entry>, UnpackError> {
    let path = clean(&raw.path).map_err(|reason| wrong(&raw.path, reason))?;
    let number =
        |value: u64| u32::try_from(value).map_err(|_| wrong(&raw.path, "has an owner above 2³²"));
    let device = || match (raw.dev_major, raw.dev_minor) {
        // The kernel's own bounds (MINORBITS); more would name another device after the cut.
        (Some(major), Some(minor)) if major < 1 << 12 && minor < 1 << 20 => Ok((major, minor)),
        _ => Err(wrong(&raw.path, "is a device with an impossible number")),
    };
    let target = || {
        let target = raw.link_target.as_deref().unwrap_or_default();
        if target.is_empty() || target.contains(&0) || target.len() > limits::PATH_BYTES {
            Err(wrong(&raw.path, "is a link with an impossible target"))
        } else {
            Ok(target.to_vec())
        }
    };
    let node = match raw.entry_type {
        // Before POSIX a directory was a file whose name ends in a slash.
        EntryType::Regular if raw.path.ends_with(b"/") && raw.size == 0 => Node::Directory,
        EntryType::Regular | EntryType::Continuous | EntryType::GnuSparse => {
            Node::File(content(raw, position, sparse)?)
        }
        EntryType::Directory => Node::Directory,
        EntryType::Symlink => Node::Symlink(target()?),
        EntryType::Link => {
            let typed = target()?;
            Node::HardLink(clean(&typed).map_err(|reason| {
                wrong(
                    &raw.path,
                    &format!("is a hard link to `{}`, which {reason}", shown(&typed)),
                )
            })?)
        }
        EntryType::Char => {
            let (major, minor) = device()?;
            Node::Character { major, minor }
        }
        EntryType::Block => {
            let (major, minor) = device()?;
            Node::Block { major, minor }
        }
        EntryType::Fifo => Node::Fifo,
        other => {
            return Err(wrong(
                &raw.path,
                &format!("is of the unknown type {:?}", char::from(other.as_byte())),
            ));
        }
    };
    if path.is_empty() && node != Node::Directory {
        return Err(wrong(&raw.path, "would replace the root directory"));
    }
    let (path, node) = match names {
        Names::Plain => (path, node),
        Names::Whiteouts => match whiteout(path, node) {
            Some(found) => found,
            None => return Ok(None),
        },
    };
    if matches!(node, Node::Character { major: 0, minor: 0 }) {
        // On overlayfs this is a whiteout, which a layer must spell `.wh.`.
        return Err(wrong(&raw.path, "is the character device 0:0"));
    }
    Ok(Some(Entry {
        path,
        node,
        mode: raw.mode & 0o7777,
        uid: number(raw.uid)?,
        gid: number(raw.gid)?,
        mtime: match extended.mtime {
            Some(mtime) => mtime,
            None => Moment {
                seconds: i64::try_from(raw.mtime)
                    .map_err(|_| wrong(&raw.path, "has an impossible mtime"))?,
                nanoseconds: 0,
            },
        },
        xattrs: extended.xattrs,
    }))
}

/// Turns the names that stand for removals into what they mean.
fn whiteout(path: Vec<u8>, node: Node) -> Option<(Vec<u8>, Node)> {
    let (parent, name) = split(&path);
    if !name.starts_with(WHITEOUT) {
        // A directory `.wh..wh.plnk` may have things in it.
        let hidden = path
            .split(|byte| *byte == b'/')
            .any(|part| part.starts_with(AUFS));
        return (!hidden).then_some((path, node));
    }
    if name == OPAQUE {
        return Some((parent.to_vec(), Node::Opaque));
    }
    if name.starts_with(AUFS) || name == WHITEOUT {
        return None;
    }
    let mut hidden = parent.to_vec();
    if !hidden.is_empty() {
        hidden.push(b'/');
    }
    hidden.extend_from_slice(&name[WHITEOUT.len()..]);
    Some((hidden, Node::Whiteout))
}

/// Parent and last component.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

fn clean(path: &[u8]) -> Result<Vec<u8>, &'static str> {
    if path.contains(&0) {
        return Err("has a NUL byte in its path");
    }
    let mut cleaned = Vec::with_capacity(path.len());
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err("leads out of the layer by `..`"),
            part if part.len() > 255 => return Err("has a name above 255 bytes"),
            part => {
                if !cleaned.is_empty() {
                    cleaned.push(b'/');
                }
                cleaned.extend_from_slice(part);
            }
        }
    }
    if cleaned.len() > limits::PATH_BYTES {
        return Err("has a path above 4095 bytes");
    }
    // `.wh...` would name `..` once the prefix is off.
    let (_, name) = split(&cleaned);
    if matches!(name.strip_prefix(WHITEOUT), Some(b"." | b"..")) {
        return Err("leads out of the layer by a whiteout");
    }
    Ok(cleaned)
}

fn content(
    raw: &ParsedEntry<'_>,
    position: u64,
    sparse: Option<(Vec<tar_core::SparseEntry>, u64)>,
) -> Result<Content, UnpackError> {
    let stored = raw.size;
    if i64::try_from(stored).is_err() || position.checked_add(stored).is_none() {
        return Err(wrong(&raw.path, &format!("claims {stored} bytes")));
    }
    let Some((map, size)) = sparse else {
        return Ok(Content {
            size: stored,
            position,
            stored,
            sparse: None,
        });
    };
    let damaged = || wrong(&raw.path, "has a sparse map that contradicts its sizes");
    if i64::try_from(size).is_err() {
        return Err(damaged());
    }
    let mut extents: Vec<Extent> = Vec::new();
    let (mut end, mut sum) = (0_u64, 0_u64);
    for piece in map {
        if piece.offset < end {
            return Err(damaged());
        }
        end = piece.offset.checked_add(piece.length).ok_or_else(damaged)?;
        sum = sum.checked_add(piece.length).ok_or_else(damaged)?;
        let (offset, length) = (piece.offset, piece.length);
        match extents.last_mut() {
            _ if length == 0 => {}
            // What follows in the file follows in the tar.
            Some(Extent {
                offset: before,
                length: so_far,
            }) if *before + *so_far == offset => *so_far += length,
            _ => extents.push(Extent { offset, length }),
        }
    }
    if end > size || sum != stored {
        return Err(damaged());
    }
    Ok(Content {
        size,
        position,
        stored,
        sparse: Some(extents),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks at nothing.
    struct Blind;

    impl Visit for Blind {
        fn entry(&mut self, _entry: Entry) -> Result<(), UnpackError> {
            Ok(())
        }
        fn data(&mut self, _bytes: &[u8]) -> Result<(), UnpackError> {
            Ok(())
        }
        fn end(&mut self) -> Result<(), UnpackError> {
            Ok(())
        }
    }

    #[test]
    fn a_layer_ends_at_a_million_entries() {
        let mut header = tar::Header::new_ustar();
        header.set_path("x").unwrap();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(0);
        header.set_cksum();
        let thousand = header.as_bytes().repeat(1000);
        let mut splitter = Splitter::new();
        for _ in 0..limits::LAYER_ENTRIES / 1000 {
            splitter.push(&thousand, &mut Blind).unwrap();
        }
        let refused = splitter.push(header.as_bytes(), &mut Blind);
        assert_eq!(
            refused.unwrap_err().to_string(),
            "it has more than 1000000 entries"
        );
    }
}
