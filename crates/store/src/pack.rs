//! A directory tree as a tar: what a container shows (export), what it changed (commit), or one
//! thing in it (copy).
//!
//! The tree is walked relative to descriptors, names sorted, and nothing in it is followed: links
//! are written as links, devices as devices, sockets left out. What ustar cannot say is said by PAX
//! records: long names, large numbers, parts of a second, extended attributes. A file that shrinks
//! while it is read is filled with zeros, one that grows is cut.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat};
use rustix::io::Errno;
use tar::{EntryType, Header};

/// Bytes of all extended attribute names of one file, as the kernel bounds them (XATTR_LIST_MAX).
const XATTR_NAMES_BYTES: usize = 64 << 10;
/// Bytes of one extended attribute (XATTR_SIZE_MAX).
const XATTR_BYTES: usize = 64 << 10;

/// What a tree stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tree {
    /// Everything that is seen.
    Whole,
    /// The upper directory of an overlay: whiteouts and opaque directories are told as in layers.
    Changes {
        /// Of one with `userxattr`.
        as_user: bool,
    },
}

impl Tree {
    /// What overlayfs puts on a directory that hides what is beneath it.
    fn opaque(self) -> Option<&'static str> {
        match self {
            Self::Whole => None,
            Self::Changes { as_user: false } => Some("trusted.overlay.opaque"),
            Self::Changes { as_user: true } => Some("user.overlay.opaque"),
        }
    }
}

/// Why a tree did not become a tar.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// Something in the tree.
    #[error("read `{path}`")]
    Read {
        /// From the tree's root.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The tar could not be written on.
    #[error("write the tar")]
    Write(#[source] io::Error),
}

impl vocab::Failure for PackError {
    fn kind(&self) -> vocab::Kind {
        vocab::Kind::Internal
    }
}

/// Writes all that is beneath a directory, as a tar.
pub fn pack(root: BorrowedFd<'_>, out: &mut dyn Write) -> Result<(), PackError> {
    pack_tree(root, Tree::Whole, None, out)
}

/// Writes a tree; if `only` is given, what it names, by its path from the root.
pub(crate) fn pack_tree(
    root: BorrowedFd<'_>,
    tree: Tree,
    only: Option<&HashSet<PathBuf>>,
    out: &mut dyn Write,
) -> Result<(), PackError> {
    let mut packing = Packing {
        tree,
        only,
        out,
        links: HashMap::new(),
        closed: &[],
    };
    let root = open_directory(root, b".").map_err(reading(b""))?;
    packing.directory(&root, &mut Vec::new())?;
    packing.end()
}

/// Which file that is: its device and its number there.
pub type FileId = (u64, u64);

/// Writes one thing as a tar: `name` in the directory `at`, and what is beneath it, as `shown`.
/// Directories in `closed` are written without what is in them.
pub fn pack_one(
    at: BorrowedFd<'_>,
    name: &[u8],
    shown: &[u8],
    closed: &[FileId],
    out: &mut dyn Write,
) -> Result<(), PackError> {
    let mut packing = Packing {
        tree: Tree::Whole,
        only: None,
        out,
        links: HashMap::new(),
        closed,
    };
    packing.entry(at, name, &mut shown.to_vec())?;
    packing.end()
}

fn open_directory(at: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(at, name, flags, Mode::empty())
}

/// For `map_err`.
fn reading<E: Into<io::Error>>(path: &[u8]) -> impl FnOnce(E) -> PackError {
    let path = PathBuf::from(OsStr::from_bytes(path));
    move |source| PackError::Read {
        path,
        source: source.into(),
    }
}

struct Packing<'a> {
    tree: Tree,
    /// Nothing else is written.
    only: Option<&'a HashSet<PathBuf>>,
    out: &'a mut dyn Write,
    /// Where each file with several names was written first.
    links: HashMap<FileId, Vec<u8>>,
    /// Directories that are not gone into.
    closed: &'a [FileId],
}

impl Packing<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), PackError> {
        self.out.write_all(bytes).map_err(PackError::Write)
    }

    /// Two blocks of zeros end a tar.
    fn end(mut self) -> Result<(), PackError> {
        self.write(&[0; 1024])?;
        self.out.flush().map_err(PackError::Write)
    }

    /// What is in a directory; `path` is its own, and is the same again afterwards.
    fn directory(&mut self, at: &OwnedFd, path: &mut Vec<u8>) -> Result<(), PackError> {
        let mut names: Vec<Vec<u8>> = Vec::new();
        for entry in Dir::read_from(at).map_err(reading(path))? {
            let entry = entry.map_err(reading(path))?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                names.push(name.to_vec());
            }
        }
        names.sort();
        for name in names {
            let length = path.len();
            if length > 0 && !path.ends_with(b"/") {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            self.entry(at.as_fd(), &name, path)?;
            path.truncate(length);
        }
        Ok(())
    }

    fn entry(
        &mut self,
        at: BorrowedFd<'_>,
        name: &[u8],
        path: &mut Vec<u8>,
    ) -> Result<(), PackError> {
        if let Some(only) = self.only
            && !only.contains(Path::new(OsStr::from_bytes(path)))
        {
            return Ok(());
        }
        let found = match statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => found,
            // It went while the others were written.
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(reading(path)(error)),
        };
        let kind = FileType::from_raw_mode(found.st_mode);
        if self.tree != Tree::Whole && kind == FileType::CharacterDevice && found.st_rdev == 0 {
            return self.whiteout(path, name.len());
        }
        let mut entry = Entry::new(path, &found);
        let place = magic(at, name);
        entry.add_xattrs(&place).map_err(reading(path))?;
        if kind != FileType::Directory && found.st_nlink > 1 {
            let key = (found.st_dev, found.st_ino);
            if let Some(first) = self.links.get(&key) {
                entry.link(EntryType::Link, first);
                return self.write(&entry.finish(0));
            }
            self.links.insert(key, path.clone());
        }
        match kind {
            FileType::Directory => {
                let below = open_directory(at, name).map_err(reading(path))?;
                entry.kind(EntryType::Directory);
                self.write(&entry.finish(0))?;
                if self.closed.contains(&(found.st_dev, found.st_ino)) {
                    return Ok(());
                }
                if let Some(attribute) = self.tree.opaque()
                    && is_opaque(&place, attribute).map_err(reading(path))?
                {
                    let length = path.len();
                    path.extend_from_slice(b"/.wh..wh..opq");
                    self.write(&Entry::empty(path).finish(0))?;
                    path.truncate(length);
                }
                self.directory(&below, path)
            }
            FileType::RegularFile => {
                let file = open_regular(at, name).map_err(reading(path))?;
                self.file(&entry, file, path)
            }
            FileType::Symlink => {
                let target = readlinkat(at, name, Vec::new()).map_err(reading(path))?;
                entry.link(EntryType::Symlink, target.as_bytes());
                self.write(&entry.finish(0))
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                entry.device(kind, found.st_rdev);
                self.write(&entry.finish(0))
            }
            FileType::Fifo => {
                entry.kind(EntryType::Fifo);
                self.write(&entry.finish(0))
            }
            // A socket is nothing without its program.
            _ => Ok(()),
        }
    }

    /// Something of the lower layers is gone.
    fn whiteout(&mut self, path: &[u8], name_bytes: usize) -> Result<(), PackError> {
        let (parent, name) = path.split_at(path.len() - name_bytes);
        let path = [parent, b".wh.", name].concat();
        self.write(&Entry::empty(&path).finish(0))
    }

    fn file(&mut self, entry: &Entry, file: File, path: &[u8]) -> Result<(), PackError> {
        let size = file.metadata().map_err(reading(path))?.len();
        self.write(&entry.finish(size))?;
        let mut left = size;
        let mut buffer = vec![0; crate::store::COPY_BYTES];
        let mut content = file.take(size);
        loop {
            let count = content.read(&mut buffer).map_err(reading(path))?;
            if count == 0 {
                break;
            }
            left -= count as u64;
            self.write(&buffer[..count])?;
        }
        // What is missing by now, and up to the next block.
        let mut zeros = left + (512 - size % 512) % 512;
        buffer.fill(0);
        while zeros > 0 {
            let count = usize::try_from(zeros)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            self.write(&buffer[..count])?;
            zeros -= count as u64;
        }
        Ok(())
    }
}

/// Opens a file that was a regular one a moment ago. A fifo in its place must not hold us up, and
/// a device must not even be opened: some do things then.
fn open_regular(at: BorrowedFd<'_>, name: &[u8]) -> Result<File, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = openat(at, name, flags, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&found)?.st_mode) != FileType::RegularFile {
        return Err(Errno::STALE);
    }
    let link = format!("/proc/self/fd/{}", found.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(link, flags, Mode::empty())?))
}

/// A path for the calls that take no descriptor.
fn magic(at: BorrowedFd<'_>, name: &[u8]) -> PathBuf {
    Path::new("/proc/self/fd")
        .join(at.as_raw_fd().to_string())
        .join(OsStr::from_bytes(name))
}

fn is_opaque(place: &Path, attribute: &str) -> Result<bool, Errno> {
    let mut value = [0; 2];
    match rustix::fs::lgetxattr(place, attribute, &mut value) {
        Ok(count) => Ok(value[..count] == *b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error),
    }
}

/// One entry's header and the records before it.
struct Entry {
    header: Header,
    pax: Vec<u8>,
    is_directory: bool,
}

impl Entry {
    fn new(path: &[u8], found: &Stat) -> Self {
        let mut entry = Self::empty(path);
        entry.header.set_mode(found.st_mode & 0o7777);
        entry.number(b"uid", u64::from(found.st_uid), Header::set_uid);
        entry.number(b"gid", u64::from(found.st_gid), Header::set_gid);
        let seconds = found.st_mtime;
        let nanoseconds = found.st_mtime_nsec;
        entry
            .header
            .set_mtime(u64::try_from(seconds).unwrap_or(0).min(OCTAL_MAX));
        if nanoseconds != 0 || u64::try_from(seconds).is_err() {
            entry.record(b"mtime", mtime(seconds, nanoseconds).as_bytes());
        }
        entry
    }

    /// An empty file of root's.
    fn empty(path: &[u8]) -> Self {
        let mut header = Header::new_ustar();
        header.set_mode(0o600);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_entry_type(EntryType::Regular);
        let mut entry = Self {
            header,
            pax: Vec::new(),
            is_directory: false,
        };
        entry.text(b"path", path, |header| &mut header.as_old_mut().name);
        entry
    }

    /// A record `LENGTH KEY=VALUE`, whose length counts itself.
    fn record(&mut self, key: &[u8], value: &[u8]) {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        self.pax.extend_from_slice(format!("{length} ").as_bytes());
        self.pax.extend_from_slice(key);
        self.pax.push(b'=');
        self.pax.extend_from_slice(value);
        self.pax.push(b'\n');
    }

    /// In the header, or, where it does not fit, in a record.
    fn text(&mut self, key: &[u8], text: &[u8], field: fn(&mut Header) -> &mut [u8; 100]) {
        let place = field(&mut self.header);
        let count = text.len().min(place.len());
        place[..count].copy_from_slice(&text[..count]);
        if text.len() > count {
            self.record(key, text);
        }
    }

    fn number(&mut self, key: &[u8], number: u64, set: fn(&mut Header, u64)) {
        // Seven octal digits.
        const ID_MAX: u64 = 0o7_777_777;
        set(&mut self.header, number.min(ID_MAX));
        if number > ID_MAX {
            self.record(key, number.to_string().as_bytes());
        }
    }

    fn kind(&mut self, kind: EntryType) {
        self.header.set_entry_type(kind);
        self.is_directory = kind == EntryType::Directory;
    }

    fn link(&mut self, kind: EntryType, target: &[u8]) {
        self.kind(kind);
        self.text(b"linkpath", target, |header| {
            &mut header.as_old_mut().linkname
        });
    }

    fn device(&mut self, kind: FileType, device: u64) {
        self.kind(match kind {
            FileType::BlockDevice => EntryType::Block,
            _ => EntryType::Char,
        });
        // The kernel's numbers fit seven octal digits.
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        for set in [
            self.header.set_device_major(major),
            self.header.set_device_minor(minor),
        ] {
            set.expect("a ustar header has places for devices");
        }
    }

    /// Attributes that a layer can have; those that only mean something on this host stay.
    fn add_xattrs(&mut self, place: &Path) -> Result<(), Errno> {
        let mut names = vec![0; XATTR_NAMES_BYTES];
        let count = match rustix::fs::llistxattr(place, &mut names) {
            Ok(count) => count,
            Err(Errno::OPNOTSUPP) => return Ok(()),
            Err(error) => return Err(error),
        };
        for name in names[..count].split(|byte| *byte == 0) {
            let travels = name == b"security.capability"
                || name.starts_with(b"user.")
                || name.starts_with(b"system.posix_acl_");
            if !travels || name.starts_with(b"user.overlay.") {
                continue;
            }
            let mut value = vec![0; XATTR_BYTES];
            match rustix::fs::lgetxattr(place, name, &mut value) {
                Ok(count) => {
                    let key = [b"SCHILY.xattr.", name].concat();
                    self.record(&key, &value[..count]);
                }
                Err(Errno::NODATA) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// All the bytes that come before the data.
    fn finish(&self, size: u64) -> Vec<u8> {
        let mut this = Self {
            header: self.header.clone(),
            pax: self.pax.clone(),
            is_directory: self.is_directory,
        };
        if this.is_directory {
            // Old readers tell a directory by its slash.
            let name = &mut this.header.as_old_mut().name;
            let end = name.iter().position(|byte| *byte == 0);
            if let Some(end) = end
                && !name[..end].ends_with(b"/")
            {
                name[end] = b'/';
            }
        }
        // Eleven octal digits.
        this.header.set_size(size.min(OCTAL_MAX));
        if size > OCTAL_MAX {
            this.record(b"size", size.to_string().as_bytes());
        }
        this.header.set_cksum();
        let mut bytes = Vec::with_capacity(512);
        if !this.pax.is_empty() {
            let mut header = Header::new_ustar();
            header.as_old_mut().name[..9].copy_from_slice(b"PaxHeader");
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_entry_type(EntryType::XHeader);
            header.set_size(this.pax.len() as u64);
            header.set_cksum();
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(&this.pax);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
        bytes.extend_from_slice(this.header.as_bytes());
        bytes
    }
}

/// The largest number of eleven octal digits.
const OCTAL_MAX: u64 = 0o77_777_777_777;

/// Seconds and nanoseconds since 1970 as PAX writes them.
fn mtime(seconds: i64, nanoseconds: u64) -> String {
    // 0.75 after −2 is −1.25.
    let (sign, seconds, nanoseconds) = match (seconds, nanoseconds) {
        (..0, 0) => ("-", seconds.unsigned_abs(), 0),
        (..0, _) => (
            "-",
            (seconds + 1).unsigned_abs(),
            1_000_000_000 - nanoseconds,
        ),
        _ => ("", seconds.unsigned_abs(), nanoseconds),
    };
    format!("{sign}{seconds}.{nanoseconds:09}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_before_1970_are_written_as_they_are_read() {
        assert_eq!(mtime(1, 5), "1.000000005");
        assert_eq!(mtime(-2, 750_000_000), "-1.250000000");
        assert_eq!(mtime(-2, 0), "-2.000000000");
        assert_eq!(mtime(-1, 500_000_000), "-0.500000000");
    }
}
