//! A tar put into a directory that others write to as well: copying into a container.
//!
//! The container may change its files meanwhile, and all that is in the tar is a stranger's. So
//! every directory is opened by the kernel within the container's root (`RESOLVE_IN_ROOT`: links
//! are the container's, and lead nowhere else), everything is made by name in an open directory and
//! never over something else or through a link, and is then changed by its own descriptor. Names
//! that begin with `.wh.` are only names here.
//!
//! What is there already makes way, except that a directory stays when one comes, and, on demand,
//! a directory never makes way for something else, nor the other way round.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, XattrFlags, chownat, fchmod, fchown,
    fsetxattr, fstat, futimens, linkat, mkdirat, mknodat, openat, openat2, statat, symlinkat,
    unlinkat, utimensat,
};
use rustix::io::Errno;
use vocab::{Failure, Kind};

use crate::compression;
use crate::directories::{Directories, times};
use crate::filling::{Fill, Filling};
use crate::tree::{Entry, Names, Node, Splitter, UnpackError, shown, split};

/// A rename elsewhere in the tree makes openat2 answer EAGAIN; so often it is asked again.
const MAX_RACES: u32 = 128;

/// Where a tar goes, and how.
#[derive(Clone, Copy, Debug)]
pub struct Unpacking<'a> {
    /// What symbolic links cannot leave.
    pub root: BorrowedFd<'a>,
    /// A directory in it.
    pub directory: &'a Path,
    /// Whether it is refused to replace a directory by something else, or something else by one.
    pub keep_kinds: bool,
    /// Whose everything is to be, instead of whose the tar says.
    pub owner: Option<(u32, u32)>,
}

/// Why a tar was not unpacked, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum UnpackIntoError {
    /// The tar cannot be read.
    #[error("read the tar")]
    Read(#[source] io::Error),
    /// What it says cannot be done.
    #[error("{0}")]
    Malformed(String),
    /// A directory and something else are of one name.
    #[error("{0}")]
    Kinds(String),
    /// A file.
    #[error("{what} `{path}`")]
    File {
        /// What was done.
        what: &'static str,
        /// As the tar has it.
        path: String,
        /// Why not.
        source: io::Error,
    },
}

impl Failure for UnpackIntoError {
    fn kind(&self) -> Kind {
        match self {
            Self::Read(_) | Self::Malformed(_) | Self::Kinds(_) => Kind::InvalidArgument,
            Self::File { source, .. } => match source.kind() {
                io::ErrorKind::ReadOnlyFilesystem => Kind::Forbidden,
                _ => Kind::Internal,
            },
        }
    }
}

impl From<UnpackError> for UnpackIntoError {
    fn from(error: UnpackError) -> Self {
        match error {
            UnpackError::Malformed(reason) => Self::Malformed(reason),
            UnpackError::Io { what, path, source } => Self::File { what, path, source },
        }
    }
}

/// Unpacks a tar, which may be compressed in any of the known ways.
pub fn unpack(into: &Unpacking<'_>, tar: impl Read) -> Result<(), UnpackIntoError> {
    let mut plain = compression::reader(tar).map_err(UnpackIntoError::Read)?;
    let mut splitter = Splitter::with_names(Names::Plain);
    let mut filler = Filler {
        into,
        parent: None,
        file: None,
        directories: Directories::new(None),
        kinds: None,
    };
    let mut buffer = vec![0; crate::store::COPY_BYTES];
    loop {
        let count = match plain.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(UnpackIntoError::Read(error)),
        };
        let pushed = splitter.push(&buffer[..count], &mut filler);
        if let Some(kinds) = filler.kinds.take() {
            return Err(UnpackIntoError::Kinds(kinds));
        }
        pushed?;
    }
    splitter.finish()?;
    let directories = std::mem::replace(&mut filler.directories, Directories::new(None));
    // Filling a directory changed its time. One that is gone has none.
    Ok(directories.set_times(|path| filler.open(path))?)
}

struct Filler<'a> {
    into: &'a Unpacking<'a>,
    /// The directory that the last entry was in.
    parent: Option<(Vec<u8>, OwnedFd)>,
    file: Option<Filling>,
    directories: Directories,
    /// The refusal to replace a directory or to replace by one.
    kinds: Option<String>,
}

impl Fill for Filler<'_> {
    fn begin(&mut self, entry: Entry) -> Result<(), UnpackError> {
        // The directory itself is there, and stays as it is.
        if entry.path.is_empty() {
            return Ok(());
        }
        let path = entry.path.clone();
        let (parent, name) = split(&path);
        self.open_parent(parent)?;
        if self.make_way(&entry, name)? {
            return self.settle_directory(&entry, name);
        }
        self.create(entry, name)
    }

    fn filling(&mut self) -> &mut Option<Filling> {
        &mut self.file
    }

    fn filled(&mut self, entry: &Entry, file: &File) -> Result<(), UnpackError> {
        self.settle(entry, file.as_fd())
    }
}

impl Filler<'_> {
    fn parent(&self) -> BorrowedFd<'_> {
        self.parent.as_ref().expect("opened before").1.as_fd()
    }

    /// Opens a directory of the tar, links followed as the container would follow them.
    fn open(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let path = self.into.directory.join(OsStr::from_bytes(path));
        open_directory(self.into.root, &path)
    }

    /// Makes `self.parent` the directory `path`, which is made if nothing named it.
    fn open_parent(&mut self, path: &[u8]) -> Result<(), UnpackError> {
        if let Some((open, _)) = &self.parent
            && open == path
        {
            return Ok(());
        }
        let opened = match self.open(path) {
            Err(Errno::NOENT) => self.make_parents(path)?,
            other => other.map_err(UnpackError::io("open", path))?,
        };
        self.parent = Some((path.to_vec(), opened));
        Ok(())
    }

    fn make_parents(&self, path: &[u8]) -> Result<OwnedFd, UnpackError> {
        let mut opened = self.open(b"").map_err(UnpackError::io("open", b"."))?;
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        for end in slashes.map(|(at, _)| at).chain([path.len()]) {
            let here = &path[..end];
            let (_, name) = split(here);
            match mkdirat(&opened, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(UnpackError::io("make directory", here)(error)),
            }
            opened = self.open(here).map_err(UnpackError::io("open", here))?;
        }
        Ok(opened)
    }

    /// Takes away what `entry` replaces; answers whether a directory is there that stays.
    fn make_way(&mut self, entry: &Entry, name: &[u8]) -> Result<bool, UnpackError> {
        let found = match statat(self.parent(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => found,
            Err(Errno::NOENT) => return Ok(false),
            Err(error) => return Err(UnpackError::io("look at", &entry.path)(error)),
        };
        let is_directory = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
        let comes_directory = entry.node == Node::Directory;
        if is_directory && comes_directory {
            return Ok(true);
        }
        if self.into.keep_kinds && is_directory != comes_directory {
            let text = self.refusal(entry, is_directory);
            self.kinds = Some(text.clone());
            return Err(UnpackError::Malformed(text));
        }
        // A link to itself would delete what it links to.
        if matches!(&entry.node, Node::HardLink(target) if *target == entry.path) {
            return Err(UnpackError::Malformed(format!(
                "`{}` is a hard link to itself",
                shown(&entry.path)
            )));
        }
        if is_directory {
            // Does not follow a link that takes its place meanwhile.
            let place = magic(self.parent(), name);
            fs::remove_dir_all(place).map_err(|source| UnpackError::Io {
                what: "replace directory",
                path: shown(&entry.path),
                source,
            })?;
        } else {
            unlinkat(self.parent(), name, AtFlags::empty())
                .map_err(UnpackError::io("replace", &entry.path))?;
        }
        Ok(false)
    }

    /// Docker's sentence.
    fn refusal(&self, entry: &Entry, is_directory: bool) -> String {
        let path = self.into.directory.join(OsStr::from_bytes(&entry.path));
        let (path, directory) = (path.display(), self.into.directory.display());
        if is_directory {
            format!("cannot overwrite directory \"{path}\" with non-directory \"{directory}\"")
        } else {
            format!("cannot overwrite non-directory \"{path}\" with directory \"{directory}\"")
        }
    }

    fn create(&mut self, entry: Entry, name: &[u8]) -> Result<(), UnpackError> {
        let path = entry.path.clone();
        let failed = |what| UnpackError::io(what, &path);
        let parent = self.parent();
        match &entry.node {
            Node::Directory => {
                mkdirat(parent, name, Mode::RWXU).map_err(failed("make directory"))?;
                self.settle_directory(&entry, name)
            }
            Node::File(_) => {
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let file = openat(parent, name, flags, Mode::RUSR | Mode::WUSR)
                    .map_err(failed("make file"))?;
                // Its attributes wait for the data.
                self.file = Some(Filling::new(entry, File::from(file)));
                Ok(())
            }
            Node::Symlink(target) => {
                symlinkat(target.as_slice(), parent, name).map_err(failed("make symbolic link"))?;
                let (uid, gid) = self.owner(&entry);
                chownat(
                    parent,
                    name,
                    Some(uid),
                    Some(gid),
                    AtFlags::SYMLINK_NOFOLLOW,
                )
                .map_err(failed("set the owner of"))?;
                let times = times(entry.mtime);
                utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(failed("set the times of"))
            }
            Node::HardLink(target) => {
                let (target_parent, target_name) = split(target);
                let there = self
                    .open(target_parent)
                    .map_err(failed("find the link of"))?;
                linkat(&there, target_name, parent, name, AtFlags::empty())
                    .map_err(failed("make hard link"))
            }
            Node::Character { major, minor } => {
                let device = rustix::fs::makedev(*major, *minor);
                self.special(&entry, name, FileType::CharacterDevice, device)
            }
            Node::Block { major, minor } => {
                let device = rustix::fs::makedev(*major, *minor);
                self.special(&entry, name, FileType::BlockDevice, device)
            }
            Node::Fifo => self.special(&entry, name, FileType::Fifo, 0),
            Node::Whiteout | Node::Opaque => unreachable!("names are plain"),
        }
    }

    fn special(
        &self,
        entry: &Entry,
        name: &[u8],
        kind: FileType,
        device: u64,
    ) -> Result<(), UnpackError> {
        let failed = |what| UnpackError::io(what, &entry.path);
        let mode = Mode::from_raw_mode(entry.mode);
        mknodat(self.parent(), name, kind, mode, device).map_err(failed("make"))?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = openat(self.parent(), name, flags, Mode::empty()).map_err(failed("open"))?;
        let found = fstat(&made).map_err(failed("look at"))?;
        // Something else has taken its place: it is not ours to change.
        if FileType::from_raw_mode(found.st_mode) != kind || found.st_rdev != device {
            return Err(failed("make")(Errno::STALE));
        }
        let (uid, gid) = self.owner(entry);
        chownat(&made, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
            .map_err(failed("set the owner of"))?;
        // Of a descriptor that only names a file, the mode is changed by its link.
        let link = format!("/proc/self/fd/{}", made.as_raw_fd());
        rustix::fs::chmod(&link, mode).map_err(failed("set the mode of"))?;
        utimensat(
            rustix::fs::CWD,
            &link,
            &times(entry.mtime),
            AtFlags::empty(),
        )
        .map_err(failed("set the times of"))
    }

    fn settle_directory(&mut self, entry: &Entry, name: &[u8]) -> Result<(), UnpackError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = openat(self.parent(), name, flags, Mode::empty())
            .map_err(UnpackError::io("open", &entry.path))?;
        self.settle(entry, opened.as_fd())?;
        self.directories.note(&entry.path, &opened, entry.mtime)
    }

    /// Owner before attributes and mode, since its change clears capabilities and set-user-id;
    /// times last.
    fn settle(&self, entry: &Entry, file: BorrowedFd<'_>) -> Result<(), UnpackError> {
        let failed = |what| UnpackError::io(what, &entry.path);
        let (uid, gid) = self.owner(entry);
        fchown(file, Some(uid), Some(gid)).map_err(failed("set the owner of"))?;
        for (key, value) in &entry.xattrs {
            match fsetxattr(file, key.as_slice(), value, XattrFlags::empty()) {
                // A file system may know fewer name spaces than the one the tar was made on.
                Ok(()) | Err(Errno::OPNOTSUPP) => {}
                Err(Errno::PERM) if key.starts_with(b"user.") => {}
                Err(error) => return Err(failed("set an extended attribute of")(error)),
            }
        }
        fchmod(file, Mode::from_raw_mode(entry.mode)).map_err(failed("set the mode of"))?;
        futimens(file, &times(entry.mtime)).map_err(failed("set the times of"))
    }

    fn owner(&self, entry: &Entry) -> (Uid, Gid) {
        let (uid, gid) = self.into.owner.unwrap_or((entry.uid, entry.gid));
        (Uid::from_raw(uid), Gid::from_raw(gid))
    }
}

fn open_directory(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let mut races = 0;
    loop {
        match openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) if races < MAX_RACES => races += 1,
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// A path for the calls that take no descriptor.
fn magic(at: BorrowedFd<'_>, name: &[u8]) -> PathBuf {
    Path::new("/proc/self/fd")
        .join(at.as_raw_fd().to_string())
        .join(OsStr::from_bytes(name))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn tar(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o755);
            // The tests run as whoever they run as.
            header.set_uid(rustix::process::getuid().as_raw().into());
            header.set_gid(rustix::process::getgid().as_raw().into());
            header.set_mtime(1_000_000_000);
            if matches!(kind, tar::EntryType::Symlink | tar::EntryType::Link) {
                header.set_size(0);
                tar.append_link(&mut header, path, content).unwrap();
            } else {
                header.set_size(content.len() as u64);
                tar.append_data(&mut header, path, content.as_bytes())
                    .unwrap();
            }
        }
        tar.into_inner().unwrap()
    }

    fn put(root: &Path, directory: &str, keep_kinds: bool, tar: &[u8]) -> Result<(), String> {
        let root = File::open(root).unwrap();
        let into = Unpacking {
            root: root.as_fd(),
            directory: Path::new(directory),
            keep_kinds,
            owner: None,
        };
        unpack(&into, tar).map_err(|error| vocab::failure::chain(&error))
    }

    const FILE: tar::EntryType = tar::EntryType::Regular;
    const DIRECTORY: tar::EntryType = tar::EntryType::Directory;
    const LINK: tar::EntryType = tar::EntryType::Symlink;

    #[test]
    fn a_tar_is_unpacked_over_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("to/kept")).unwrap();
        fs::write(dir.path().join("to/kept/old"), "old").unwrap();
        fs::write(dir.path().join("to/file"), "old").unwrap();
        let tar = tar(&[
            ("kept", DIRECTORY, ""),
            ("kept/new", FILE, "new"),
            ("file", FILE, "new"),
            (".wh.kept", FILE, "only a name"),
            ("a/b/c", FILE, "parents are made"),
        ]);
        put(dir.path(), "/to", true, &tar).unwrap();
        let read = |path: &str| fs::read_to_string(dir.path().join("to").join(path)).unwrap();
        assert_eq!(read("kept/old"), "old");
        assert_eq!(read("kept/new"), "new");
        assert_eq!(read("file"), "new");
        assert_eq!(read(".wh.kept"), "only a name");
        assert_eq!(read("a/b/c"), "parents are made");
        let made = fs::metadata(dir.path().join("to/kept")).unwrap();
        let time = made.modified().unwrap();
        let since = time.duration_since(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(since.as_secs(), 1_000_000_000);
    }

    #[test]
    fn a_directory_and_something_else_do_not_replace_one_another_unless_allowed() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("to/d/below")).unwrap();
        fs::write(dir.path().join("to/f"), "").unwrap();
        let (file, directory) = (tar(&[("d", FILE, "x")]), tar(&[("f", DIRECTORY, "")]));
        assert_eq!(
            put(dir.path(), "/to", true, &file).unwrap_err(),
            "cannot overwrite directory \"/to/d\" with non-directory \"/to\""
        );
        assert_eq!(
            put(dir.path(), "/to", true, &directory).unwrap_err(),
            "cannot overwrite non-directory \"/to/f\" with directory \"/to\""
        );
        put(dir.path(), "/to", false, &file).unwrap();
        put(dir.path(), "/to", false, &directory).unwrap();
        assert!(dir.path().join("to/d").is_file() && dir.path().join("to/f").is_dir());
    }

    #[test]
    fn links_are_those_of_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        fs::create_dir_all(root.join("inside")).unwrap();
        fs::create_dir_all(&outside).unwrap();
        symlink("/inside", root.join("link")).unwrap();
        symlink(&outside, root.join("out")).unwrap();
        put(&root, "/", true, &tar(&[("link/file", FILE, "x")])).unwrap();
        assert!(root.join("inside/file").exists());
        put(&root, "/", true, &tar(&[("out/file", FILE, "x")])).unwrap_err();
        let both = tar(&[("l", LINK, outside.to_str().unwrap()), ("l/f", FILE, "x")]);
        let _ = put(&root, "/", true, &both);
        for typed in ["../outside/f", "a/../../outside/f"] {
            let mut header = tar::Header::new_gnu();
            header.set_size(1);
            header.set_mode(0o644);
            header.as_old_mut().name[..typed.len()].copy_from_slice(typed.as_bytes());
            header.set_cksum();
            let mut tar = tar::Builder::new(Vec::new());
            tar.append(&header, &b"x"[..]).unwrap();
            let refused = put(&root, "/", true, &tar.into_inner().unwrap()).unwrap_err();
            assert!(refused.contains("`..`"), "{refused}");
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }

    /// What a container does to its own files while they are copied: a directory is a link to the
    /// host, and again a directory, and again.
    ///
    /// Taken out: `RESOLVE_IN_ROOT` in `open_directory`. Seen: files outside.
    #[test]
    fn a_directory_exchanged_for_a_link_leads_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        fs::create_dir_all(root.join("x")).unwrap();
        fs::create_dir_all(&outside).unwrap();
        let files: Vec<String> = (0..50).map(|number| format!("x/{number}/f")).collect();
        let entries: Vec<_> = files.iter().map(|f| (f.as_str(), FILE, "x")).collect();
        let tar = tar(&entries);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let _ = fs::rename(root.join("x"), root.join("y"));
                    let _ = symlink(&outside, root.join("x"));
                    let _ = fs::remove_file(root.join("x"));
                    let _ = fs::rename(root.join("y"), root.join("x"));
                }
            });
            for _ in 0..100 {
                // It may fail, where names are taken.
                let _ = put(&root, "/", true, &tar);
            }
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }
}
