//! Driver `overlay`: a layer is an unpacked directory.
//!
//! Unpacking is relative to descriptors throughout. The parent of every entry is opened with
//! `openat2` in the layer's root, which stays inside whatever symbolic links and `..` say and
//! refuses mount points; the last component is only ever named to calls that do not follow links.
//! Nobody else can reach the directory while it is being filled: the store is closed to other users.
//!
//! A name that comes twice keeps its last meaning, except that a directory stays. Owner comes
//! before mode, since changing it drops set-id bits; directory times come last, since filling a
//! directory changes them. Directories that no entry names are 0755, root's, of 1970: the same as
//! in an EROFS index.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, XattrFlags};
use rustix::io::Errno;
use vocab::Digest;

use super::{Layers, Unpack, Unpacked};
use crate::directories::{Directories, times};
use crate::files::Staged;
use crate::filling::{Fill, Filling};
use crate::tree::{Entry, Moment, Node, Splitter, UnpackError, shown, split};

/// Whose rights there are: which attributes overlayfs may read and which nodes may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rights {
    /// The host's.
    Root,
    /// Those of a user namespace: overlayfs is mounted with `userxattr`, and there are no devices.
    User,
}

impl Rights {
    /// On a directory that hides what lower layers have in it.
    fn opaque(self) -> &'static [u8] {
        match self {
            Self::Root => b"trusted.overlay.opaque",
            Self::User => b"user.overlay.opaque",
        }
    }

    /// On a directory that has whiteouts, so that overlayfs does not list them where no lower layer
    /// has the directory too.
    fn origin(self) -> &'static [u8] {
        match self {
            Self::Root => b"trusted.overlay.origin",
            Self::User => b"user.overlay.origin",
        }
    }
}

/// The unpacked layers under one directory.
#[derive(Debug)]
pub(crate) struct Overlay {
    layers: PathBuf,
    ingest: PathBuf,
    rights: Rights,
}

impl Overlay {
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        let layers = root.join("layers/overlay");
        let ingest = root.join("ingest");
        fs::create_dir_all(&layers)?;
        let probe = Staged::directory(&ingest)?;
        let set = set_xattr(probe.path(), Rights::Root.opaque(), b"y");
        let rights = match set {
            Ok(()) => Rights::Root,
            Err(Errno::PERM) => Rights::User,
            Err(error) => return Err(error.into()),
        };
        Ok(Self {
            layers,
            ingest,
            rights,
        })
    }
}

impl Layers for Overlay {
    fn begin(&self, _kept: Option<File>) -> io::Result<Box<dyn Unpack>> {
        let staged = Staged::directory(&self.ingest)?;
        fs::set_permissions(
            staged.path(),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )?;
        let root = rustix::fs::open(
            staged.path(),
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let mut directories = Directories::new(Some(self.ingest.clone()));
        directories
            .note(b"", &root, Moment::default())
            .map_err(io::Error::other)?;
        Ok(Box::new(Unpacking {
            splitter: Splitter::new(),
            tree: Tree {
                root,
                rights: self.rights,
                parent: None,
                file: None,
                directories,
                size_bytes: 0,
            },
            staged,
        }))
    }

    fn keep(&self, unpacked: Unpacked, diff_id: &Digest) -> io::Result<()> {
        for (staged, suffix) in unpacked.parts {
            staged.keep(&self.layers.join(format!("{}{suffix}", diff_id.hex())))?;
        }
        Ok(())
    }

    /// Files in a directory have no digest to be compared with.
    fn has_survived(&self, _diff_id: &Digest) -> io::Result<bool> {
        Ok(false)
    }

    fn sync(&self, layers: &[&Digest]) -> io::Result<()> {
        match layers {
            [] => Ok(()),
            // Fewer waits than one for each of thousands of files.
            _ => Ok(rustix::fs::syncfs(File::open(&self.layers)?)?),
        }
    }

    fn list(&self) -> io::Result<Vec<String>> {
        super::names(&self.layers)
    }

    fn has(&self, diff_id: &Digest) -> bool {
        self.layers.join(diff_id.hex()).is_dir()
    }

    fn as_user(&self) -> bool {
        self.rights == Rights::User
    }

    fn files(&self, diff_id: &Digest) -> Vec<PathBuf> {
        vec![self.layers.join(diff_id.hex())]
    }

    fn open_tar(&self, _diff_id: &Digest) -> io::Result<Option<File>> {
        Ok(None)
    }

    fn verify(&self, diff_id: &Digest) -> io::Result<Result<u64, String>> {
        Ok(match self.has(diff_id) {
            true => Ok(0),
            false => Err("its directory is missing".to_owned()),
        })
    }

    fn mount(&self, diff_id: &Digest) -> io::Result<PathBuf> {
        let path = self.layers.join(diff_id.hex());
        fs::metadata(&path)?;
        Ok(path)
    }

    fn remove(&self, hex: &str) -> io::Result<Vec<Staged>> {
        match Staged::doomed(&self.ingest, &self.layers.join(hex)) {
            Ok(doomed) => Ok(vec![doomed]),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

struct Unpacking {
    splitter: Splitter,
    tree: Tree,
    staged: Staged,
}

impl Unpack for Unpacking {
    fn push(&mut self, bytes: &[u8]) -> Result<(), UnpackError> {
        self.splitter.push(bytes, &mut self.tree)
    }

    fn finish(self: Box<Self>) -> Result<Unpacked, UnpackError> {
        let Self {
            splitter,
            mut tree,
            staged,
        } = *self;
        splitter.finish()?;
        let directories = std::mem::replace(&mut tree.directories, Directories::new(None));
        directories.set_times(|path| tree.beneath(path))?;
        Ok(Unpacked {
            parts: vec![(staged, "")],
            size_bytes: tree.size_bytes,
        })
    }
}

/// The directory being filled.
struct Tree {
    root: OwnedFd,
    rights: Rights,
    /// The directory that the last entry was in.
    parent: Option<(Vec<u8>, OwnedFd)>,
    file: Option<Filling>,
    directories: Directories,
    size_bytes: u64,
}

impl Fill for Tree {
    fn begin(&mut self, entry: Entry) -> Result<(), UnpackError> {
        if entry.path.is_empty() {
            return self.change_root(&entry);
        }
        let path = entry.path.clone();
        let (parent_path, name) = split(&path);
        if entry.node == Node::Opaque {
            self.open_parent(&path)?;
            let directory = &self.parent.as_ref().expect("opened just now").1;
            return set_xattr(&magic(directory, b"."), self.rights.opaque(), b"y")
                .map_err(UnpackError::io("make opaque", &path));
        }
        self.open_parent(parent_path)?;
        let parent = &self.parent.as_ref().expect("opened just now").1;
        let existing = kind_of(parent, name, &path)?;
        match (&entry.node, existing) {
            (Node::Directory, Some(Existing::Directory)) => return self.settle(&entry, name),
            // What this layer brings itself is not hidden by its own whiteout; only what lower
            // layers have beneath it is.
            (Node::Whiteout, Some(Existing::Directory)) => {
                return self.make_opaque(parent_path, name);
            }
            (Node::Whiteout, Some(_)) => return Ok(()),
            (Node::Directory, Some(Existing::Whiteout)) => {
                self.clear(name, &path, Existing::Whiteout)?;
                self.create(entry, name)?;
                return self.make_opaque(parent_path, name);
            }
            // A link to itself would delete what it links to.
            (Node::HardLink(target), Some(_)) if *target == path => return Ok(()),
            (_, Some(existing)) => self.clear(name, &path, existing)?,
            (_, None) => {}
        }
        self.create(entry, name)
    }

    fn filling(&mut self) -> &mut Option<Filling> {
        &mut self.file
    }

    fn filled(&mut self, entry: &Entry, _file: &File) -> Result<(), UnpackError> {
        let (_, name) = split(&entry.path);
        self.settle(entry, name)
    }
}

/// What is at a name already.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Existing {
    Directory,
    Whiteout,
    Other,
}

fn kind_of(parent: &OwnedFd, name: &[u8], path: &[u8]) -> Result<Option<Existing>, UnpackError> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory => Existing::Directory,
            FileType::CharacterDevice if found.st_rdev == 0 => Existing::Whiteout,
            _ => Existing::Other,
        })),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(UnpackError::io("look at", path)(error)),
    }
}

impl Tree {
    fn create(&mut self, entry: Entry, name: &[u8]) -> Result<(), UnpackError> {
        if self.rights == Rights::User
            && matches!(entry.node, Node::Character { .. } | Node::Block { .. })
        {
            // As Docker and Podman do it: whoever needs a device is given one at start.
            return Ok(());
        }
        let path = entry.path.clone();
        let parent = &self.parent.as_ref().expect("the caller opened it").1;
        let made = |what| UnpackError::io(what, &path);
        match &entry.node {
            Node::Directory => {
                rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700))
                    .map_err(made("make directory"))?;
            }
            Node::File(content) => {
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let file = rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))
                    .map_err(made("make file"))?;
                self.size_bytes += content.size;
                self.file = Some(Filling::new(entry, File::from(file)));
                // The rest waits for the data.
                return Ok(());
            }
            Node::Symlink(target) => {
                rustix::fs::symlinkat(target.as_slice(), parent, name)
                    .map_err(made("make symbolic link"))?;
            }
            Node::HardLink(target) => return self.link(&path, name, target),
            Node::Character { major, minor } => {
                let device = rustix::fs::makedev(*major, *minor);
                rustix::fs::mknodat(
                    parent,
                    name,
                    FileType::CharacterDevice,
                    Mode::empty(),
                    device,
                )
                .map_err(made("make device"))?;
            }
            Node::Block { major, minor } => {
                let device = rustix::fs::makedev(*major, *minor);
                rustix::fs::mknodat(parent, name, FileType::BlockDevice, Mode::empty(), device)
                    .map_err(made("make device"))?;
            }
            Node::Fifo => {
                rustix::fs::mknodat(parent, name, FileType::Fifo, Mode::empty(), 0)
                    .map_err(made("make fifo"))?;
            }
            Node::Whiteout => {
                return rustix::fs::mknodat(
                    parent,
                    name,
                    FileType::CharacterDevice,
                    Mode::empty(),
                    0,
                )
                .and_then(|()| set_xattr(&magic(parent, b"."), self.rights.origin(), b""))
                .map_err(made("make whiteout"));
            }
            Node::Opaque => unreachable!("opaque entries make nothing"),
        }
        self.settle(&entry, name)
    }

    fn link(&mut self, path: &[u8], name: &[u8], target: &[u8]) -> Result<(), UnpackError> {
        let missing = || {
            UnpackError::Malformed(format!(
                "`{}` is a hard link to `{}`, which is no file of this layer",
                shown(path),
                shown(target)
            ))
        };
        let (target_parent, target_name) = split(target);
        if target_name.is_empty() {
            return Err(missing());
        }
        let there = match self.beneath(target_parent) {
            Ok(there) => there,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => return Err(missing()),
            Err(error) => return Err(UnpackError::io("open", target_parent)(error)),
        };
        match kind_of(&there, target_name, target)? {
            Some(Existing::Other) => {}
            _ => return Err(missing()),
        }
        let parent = &self.parent.as_ref().expect("the caller opened it").1;
        rustix::fs::linkat(&there, target_name, parent, name, AtFlags::empty())
            .map_err(UnpackError::io("make hard link", path))
    }

    /// Owner, mode, attributes and times of what was just made.
    fn settle(&mut self, entry: &Entry, name: &[u8]) -> Result<(), UnpackError> {
        let parent = &self.parent.as_ref().expect("the caller opened it").1;
        let failed = |what| UnpackError::io(what, &entry.path);
        rustix::fs::chownat(
            parent,
            name,
            Some(Uid::from_raw(entry.uid)),
            Some(Gid::from_raw(entry.gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(failed("set the owner of"))?;
        if !matches!(entry.node, Node::Symlink(_)) {
            let mode = Mode::from_raw_mode(entry.mode);
            rustix::fs::chmodat(parent, name, mode, AtFlags::empty())
                .map_err(failed("set the mode of"))?;
        }
        if !entry.xattrs.is_empty() {
            let path = magic(parent, name);
            for (key, value) in &entry.xattrs {
                set_xattr(&path, key, value).map_err(failed("set an extended attribute of"))?;
            }
        }
        if entry.node == Node::Directory {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let opened =
                rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(failed("open"))?;
            return self.directories.note(&entry.path, opened, entry.mtime);
        }
        rustix::fs::utimensat(parent, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed("set the times of"))
    }

    fn change_root(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        let failed = |what| UnpackError::io(what, b"/");
        if entry.node == Node::Opaque {
            return set_xattr(&magic(&self.root, b"."), self.rights.opaque(), b"y")
                .map_err(failed("make opaque"));
        }
        rustix::fs::fchown(
            &self.root,
            Some(Uid::from_raw(entry.uid)),
            Some(Gid::from_raw(entry.gid)),
        )
        .map_err(failed("set the owner of"))?;
        rustix::fs::fchmod(&self.root, Mode::from_raw_mode(entry.mode))
            .map_err(failed("set the mode of"))?;
        for (key, value) in &entry.xattrs {
            set_xattr(&magic(&self.root, b"."), key, value)
                .map_err(failed("set an extended attribute of"))?;
        }
        self.directories.note(b"", &self.root, entry.mtime)
    }

    fn make_opaque(&mut self, parent_path: &[u8], name: &[u8]) -> Result<(), UnpackError> {
        self.open_parent(parent_path)?;
        let parent = &self.parent.as_ref().expect("opened just now").1;
        set_xattr(&magic(parent, name), self.rights.opaque(), b"y")
            .map_err(UnpackError::io("make opaque", name))
    }

    /// Takes away what an entry replaces.
    fn clear(&mut self, name: &[u8], path: &[u8], existing: Existing) -> Result<(), UnpackError> {
        let parent = &self.parent.as_ref().expect("the caller opened it").1;
        if existing == Existing::Directory {
            fs::remove_dir_all(magic(parent, name)).map_err(|source| UnpackError::Io {
                what: "replace directory",
                path: shown(path),
                source,
            })?;
            return Ok(());
        }
        rustix::fs::unlinkat(parent, name, AtFlags::empty())
            .map_err(UnpackError::io("replace", path))
    }

    /// Opens a directory beneath the root. Symbolic links are followed as if the root were all there
    /// is: neither an absolute one nor `..` leads out of it.
    fn beneath(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        rustix::fs::openat2(
            &self.root,
            path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV,
        )
    }

    /// Makes `self.parent` the directory `path`, which is made if nothing named it.
    fn open_parent(&mut self, path: &[u8]) -> Result<(), UnpackError> {
        if let Some((open, _)) = &self.parent
            && open == path
        {
            return Ok(());
        }
        let opened = match self.beneath(path) {
            Ok(opened) => opened,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => self.make_parents(path)?,
            Err(error) => return Err(UnpackError::io("open", path)(error)),
        };
        self.parent = Some((path.to_vec(), opened));
        Ok(())
    }

    fn make_parents(&mut self, path: &[u8]) -> Result<OwnedFd, UnpackError> {
        let ends = path
            .iter()
            .enumerate()
            .filter_map(|(at, byte)| (*byte == b'/').then_some(at))
            .chain([path.len()]);
        let mut opened = self.beneath(b"").map_err(UnpackError::io("open", b"/"))?;
        for end in ends {
            let here = &path[..end];
            let (_, name) = split(here);
            let existing = kind_of(&opened, name, here)?;
            let mut is_new = false;
            match existing {
                Some(Existing::Directory) => {}
                // A link that leads to a directory is as good as one.
                Some(Existing::Other) if self.beneath(here).is_ok() => {}
                Some(Existing::Other) => {
                    return Err(UnpackError::Malformed(format!(
                        "`{}` leads through `{}`, which is no directory",
                        shown(path),
                        shown(here)
                    )));
                }
                None | Some(Existing::Whiteout) => {
                    if existing.is_some() {
                        rustix::fs::unlinkat(&opened, name, AtFlags::empty())
                            .map_err(UnpackError::io("replace", here))?;
                    }
                    rustix::fs::mkdirat(&opened, name, Mode::from_raw_mode(0o755))
                        .and_then(|()| {
                            rustix::fs::chmodat(
                                &opened,
                                name,
                                Mode::from_raw_mode(0o755),
                                AtFlags::empty(),
                            )
                        })
                        .map_err(UnpackError::io("make directory", here))?;
                    if existing.is_some() {
                        set_xattr(&magic(&opened, name), self.rights.opaque(), b"y")
                            .map_err(UnpackError::io("make opaque", here))?;
                    }
                    is_new = true;
                }
            }
            opened = self.beneath(here).map_err(UnpackError::io("open", here))?;
            if is_new {
                self.directories.note(here, &opened, Moment::default())?;
            }
        }
        Ok(opened)
    }
}

/// A path for the calls that take no descriptor. Nobody else changes the directory meanwhile.
fn magic(parent: &OwnedFd, name: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    Path::new("/proc/self/fd")
        .join(parent.as_raw_fd().to_string())
        .join(std::ffi::OsStr::from_bytes(name))
}

fn set_xattr(path: &Path, key: &[u8], value: &[u8]) -> Result<(), Errno> {
    match rustix::fs::lsetxattr(path, key, value, XattrFlags::empty()) {
        // The kernel keeps `user.` from symbolic links and devices, and a file system may know
        // fewer name spaces than the one the image was made on.
        Err(Errno::OPNOTSUPP) => Ok(()),
        Err(Errno::PERM) if key.starts_with(b"user.") => Ok(()),
        other => other,
    }
}
