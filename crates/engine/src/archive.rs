//! Files of a container, told about, taken out and put in: `cp`.
//!
//! Paths are the container's. They are resolved by the kernel within its root, so that neither its
//! links nor what it does meanwhile lead anywhere else, and what is done to a file is done by its
//! descriptor (SECURITY.md, CVE-2018-15664). No program and no library of the image is used
//! (CVE-2019-14271).
//!
//! | the container | its root |
//! |---|---|
//! | has a process | that process's, with all that is mounted there |
//! | has none | its layers, volumes and binds, mounted for this alone ([`runtime::offline`]) |
//!
//! Only what is written without a process keeps its owner waiting: two overlays must not have the
//! same writable layer.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use runtime::offline::{self, Access, Bind, OfflineError};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, StatVfsMountFlags, StatxFlags, fstat,
    fstatvfs, openat, openat2, readlinkat, statat, statx,
};
use rustix::io::Errno;
use tokio::sync::oneshot;
use vocab::{ContainerId, Failure, Kind};

use crate::Engine;
use crate::containers::FindError;
use crate::containers::index::View;
use crate::containers::owner::{Lent, Request};
use crate::containers::record::{MountKind, Record};
use crate::events::container as announce;
use crate::shared::Shared;
use crate::spec::cache::read_accounts;
use crate::spec::mounts;
use crate::spec::user::{self, UserError};
use crate::volumes::MountVolumeError;

/// Links in one path, as the kernel bounds them (MAXSYMLINKS).
const MAX_LINKS: usize = 40;
/// A rename elsewhere in the tree makes openat2 answer EAGAIN; so often it is asked again.
const MAX_RACES: u32 = 128;

/// One thing in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathStat {
    /// Its name.
    pub name: String,
    /// Bytes.
    pub size: i64,
    /// As Go writes modes (`os.FileMode`).
    pub mode: u32,
    /// When it changed.
    pub mtime: SystemTime,
    /// Where a link leads in the end, from the container's root.
    pub link_target: String,
}

/// How a tar is put in.
#[derive(Clone, Copy, Debug, Default)]
pub struct PutOptions {
    /// Whether it is refused to replace a directory by something else, or something else by one.
    pub keep_kinds: bool,
    /// Whether all of it is to be the container's user's.
    pub as_user: bool,
}

/// Why a file of a container was not reached.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The container is not there.
    #[error(transparent)]
    Find(#[from] FindError),
    /// The file is not there.
    #[error("Could not find the file {path} in container {container}")]
    NotFound {
        /// As typed.
        path: String,
        /// As typed.
        container: String,
    },
    /// A tar goes into directories only.
    #[error("extraction point is not a directory")]
    NotDirectory,
    /// The root cannot be written to.
    #[error("container rootfs is marked read-only")]
    ReadOnlyRoot,
    /// What is mounted there cannot be written to.
    #[error("mounted volume is marked read-only")]
    ReadOnlyVolume,
    /// Its layers are not there.
    #[error("mount the root of the container")]
    Snapshot(#[from] store::SnapshotError),
    /// A volume of it.
    #[error(transparent)]
    MountVolume(#[from] MountVolumeError),
    /// Its files cannot be put together.
    #[error("mount the root of the container")]
    Offline(#[from] OfflineError),
    /// A file.
    #[error("{what} {path}")]
    File {
        /// What was done.
        what: &'static str,
        /// As typed.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// The tar that goes out.
    #[error(transparent)]
    Pack(#[from] store::PackError),
    /// The tar that comes in.
    #[error(transparent)]
    Unpack(#[from] store::UnpackIntoError),
    /// Whose the files are to be.
    #[error(transparent)]
    User(#[from] UserError),
    /// The engine shuts down.
    #[error("the engine is shutting down")]
    Closing,
}

impl Failure for ArchiveError {
    fn kind(&self) -> Kind {
        match self {
            Self::Find(error) => error.kind(),
            Self::NotFound { .. } => Kind::NotFound,
            Self::NotDirectory => Kind::InvalidArgument,
            Self::ReadOnlyRoot | Self::ReadOnlyVolume => Kind::Forbidden,
            Self::File { source, .. } => match Errno::from_io_error(source) {
                Some(Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG | Errno::INVAL) => {
                    Kind::InvalidArgument
                }
                _ => Kind::Internal,
            },
            Self::Unpack(error) => error.kind(),
            Self::User(error) => error.kind(),
            Self::Snapshot(error) => error.kind(),
            Self::Closing => Kind::Unavailable,
            Self::Offline(_) | Self::MountVolume(_) | Self::Pack(_) => Kind::Internal,
        }
    }
}

impl Engine {
    /// What is at `path`; a link is told as a link.
    pub async fn stat_path(&self, typed: &str, path: &str) -> Result<PathStat, ArchiveError> {
        let at = Place::new(typed, path);
        self.with_files(typed, false, move |root, _| at.stat(root))
            .await?
    }

    /// Writes what is at `path` as a tar. `told` hears what it is before the first byte.
    pub async fn get_archive(
        &self,
        typed: &str,
        path: &str,
        told: oneshot::Sender<PathStat>,
        mut out: Box<dyn Write + Send>,
    ) -> Result<(), ArchiveError> {
        let at = Place::new(typed, path);
        let view = self
            .with_files(typed, false, move |root, view| {
                let stat = at.stat(root)?;
                // Who asked may have gone.
                let _ = told.send(stat);
                at.pack(root, &mut out)?;
                Ok::<_, ArchiveError>(Arc::clone(view))
            })
            .await??;
        self.tell("archive-path", &view);
        Ok(())
    }

    /// Unpacks a tar into the directory at `path`.
    pub async fn put_archive(
        &self,
        typed: &str,
        path: &str,
        options: PutOptions,
        tar: Box<dyn Read + Send>,
    ) -> Result<(), ArchiveError> {
        let at = Place::new(typed, path);
        let view = self
            .with_files(typed, true, move |root, view| {
                at.unpack(root, &view.record, options, tar)?;
                Ok::<_, ArchiveError>(Arc::clone(view))
            })
            .await??;
        self.tell("extract-to-dir", &view);
        Ok(())
    }

    fn tell(&self, action: &str, view: &View) {
        announce::happened(&self.shared.events, action, &view.record, &view.name, &[]);
    }

    /// Runs `work` with the root of a container.
    async fn with_files<T: Send + 'static>(
        &self,
        typed: &str,
        write: bool,
        work: impl FnOnce(BorrowedFd<'_>, &Arc<View>) -> T + Send + 'static,
    ) -> Result<T, ArchiveError> {
        let lent = self.borrow(typed).await?;
        let view = self.shared.index().find(typed)?.view();
        let shared = Arc::clone(&self.shared);
        let held = match lent {
            Lent::Process(pid) => {
                return tasks::blocking(move || {
                    let root = root_of(pid, &view.record.id)?;
                    Ok(work(root.as_fd(), &view))
                })
                .await;
            }
            Lent::Files(held) => held,
        };
        tasks::blocking(move || {
            let _volumes = HeldVolumes::new(&shared, &view.record)?;
            let (overlay, binds) = files(&shared, &view.record)?;
            if write {
                let access = Access::Write {
                    read_only_root: view.record.host.readonly_rootfs,
                };
                let done = offline::within(&overlay, &binds, access, |root| work(root, &view));
                drop(held);
                return Ok(done?);
            }
            // Looked for first, since the work can be begun only once.
            match offline::within(&overlay, &binds, Access::Read, |_| ()) {
                Err(OfflineError::NoMountPoint(_)) => {
                    let all = Access::Write {
                        read_only_root: false,
                    };
                    offline::within(&overlay, &binds, all, |_| ())?;
                }
                other => other?,
            }
            drop(held);
            Ok(offline::within(&overlay, &binds, Access::Read, |root| {
                work(root, &view)
            })?)
        })
        .await
    }

    /// Asks the owner where the container's files are now.
    async fn borrow(&self, typed: &str) -> Result<Lent, ArchiveError> {
        let asked = self.ask_owner(typed, Request::Lend).await?;
        let lent = asked.ok_or(ArchiveError::Closing)?;
        lent.ok_or_else(|| FindError::NotFound(typed.to_owned()).into())
    }
}

/// The root of a running container. The process is held on to by its directory in `/proc`, so that
/// another one that got its number meanwhile is not taken for it.
fn root_of(pid: i32, id: &ContainerId) -> Result<OwnedFd, ArchiveError> {
    let failed = |what: &'static str| {
        move |source: io::Error| ArchiveError::File {
            what,
            path: format!("/proc/{pid}"),
            source,
        }
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let process = rustix::fs::open(format!("/proc/{pid}"), flags, Mode::empty())
        .map_err(|error| failed("find the process")(error.into()))?;
    let groups = openat(
        &process,
        "cgroup",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|error| failed("find the cgroup of")(error.into()))?;
    let mut text = String::new();
    std::fs::File::from(groups)
        .read_to_string(&mut text)
        .map_err(failed("read the cgroup of"))?;
    if !text.contains(&id.to_string()) {
        return Err(failed("find the process")(Errno::SRCH.into()));
    }
    openat(&process, "root", flags, Mode::empty())
        .map_err(|error| failed("open the root of")(error.into()))
}

/// Volumes with a file system of their own, mounted as long as this lives.
struct HeldVolumes<'a> {
    shared: &'a Shared,
    record: &'a Record,
    holder: ContainerId,
}

impl<'a> HeldVolumes<'a> {
    fn new(shared: &'a Shared, record: &'a Record) -> Result<Self, MountVolumeError> {
        let holder = ContainerId::random();
        shared.hold_volumes(&record.mounts, holder)?;
        Ok(Self {
            shared,
            record,
            holder,
        })
    }
}

impl Drop for HeldVolumes<'_> {
    fn drop(&mut self) {
        let Self { shared, record, .. } = self;
        shared.let_volumes_go(&record.mounts, self.holder);
    }
}

/// Layers, volumes and binds of a container that does not run. Blocks.
fn files(shared: &Shared, record: &Record) -> Result<(runtime::Overlay, Vec<Bind>), ArchiveError> {
    let mounts = shared.store.mount_snapshot(&record.id)?;
    let overlay = runtime::Overlay {
        lower: mounts.lower,
        upper: mounts.upper,
        work: mounts.work,
    };
    let mut binds: Vec<Bind> = record
        .mounts
        .iter()
        .filter(|mounted| mounted.kind != MountKind::Tmpfs)
        .map(|mounted| {
            Ok(Bind {
                source: PathBuf::from(&mounted.source),
                origin: mounts::origin_of(mounted, |holder| {
                    Ok(shared.store.mount_snapshot(holder)?.lower)
                })?,
                destination: PathBuf::from(&mounted.destination),
                recursive: !mounted.non_recursive,
                read_only: mounted.read_only,
            })
        })
        .collect::<Result<_, store::SnapshotError>>()?;
    let own = shared.data_dir(&record.id);
    binds.extend(["hosts", "hostname", "resolv.conf"].map(|name| Bind {
        source: own.join(name),
        origin: None,
        destination: Path::new("/etc").join(name),
        recursive: false,
        read_only: false,
    }));
    // What is made at a start is not there before the first one.
    binds.retain(|bind| {
        matches!(bind.origin, Some(runtime::Origin::Layers { .. })) || bind.source.exists()
    });
    binds.sort_by_key(|bind| bind.destination.components().count());
    Ok((overlay, binds))
}

/// A path as somebody typed it, and in which container.
struct Place {
    container: String,
    typed: String,
    /// From the root, without `.` and `..`, but with the last slash or dot that was typed: it says
    /// whether a link at the end is followed.
    path: PathBuf,
}

impl Place {
    fn new(container: &str, typed: &str) -> Self {
        let mut path = PathBuf::from("/");
        for part in Path::new(typed).components() {
            match part {
                Component::ParentDir => drop(path.pop()),
                Component::Normal(name) => path.push(name),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
        if typed == "." || typed.ends_with("/.") {
            path.push(".");
        } else if typed.ends_with('/') {
            path.push("");
        }
        Self {
            container: container.to_owned(),
            typed: typed.to_owned(),
            path,
        }
    }

    /// The last part: what the members of a tar begin with.
    fn name(&self) -> &[u8] {
        let bytes = self.path.as_os_str().as_bytes();
        let trimmed = match bytes.strip_suffix(b"/") {
            Some(b"") => return b"/",
            Some(rest) => rest,
            None => bytes,
        };
        trimmed.rsplit(|byte| *byte == b'/').next().unwrap_or(b"/")
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(Errno) -> ArchiveError {
        let (path, container) = (self.typed.clone(), self.container.clone());
        move |errno| match errno {
            Errno::NOENT => ArchiveError::NotFound { path, container },
            errno => ArchiveError::File {
                what,
                path,
                source: errno.into(),
            },
        }
    }

    fn stat(&self, root: BorrowedFd<'_>) -> Result<PathStat, ArchiveError> {
        let found = open(root, &self.path, OFlags::PATH | OFlags::NOFOLLOW)
            .map_err(self.failed("lstat"))?;
        let found = fstat(&found).map_err(self.failed("lstat"))?;
        let link_target = match FileType::from_raw_mode(found.st_mode) {
            FileType::Symlink => resolve(root, &self.path)
                .map_err(self.failed("follow"))?
                .to_string_lossy()
                .into_owned(),
            _ => String::new(),
        };
        Ok(PathStat {
            name: String::from_utf8_lossy(self.name()).into_owned(),
            size: found.st_size,
            mode: go_mode(&found),
            mtime: mtime(&found),
            link_target,
        })
    }

    fn pack(&self, root: BorrowedFd<'_>, out: &mut dyn Write) -> Result<(), ArchiveError> {
        let closed = kernels_directories(root).map_err(self.failed("look at the root for"))?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY;
        match open(root, &self.path, flags) {
            Ok(directory) => {
                store::pack_one(directory.as_fd(), b".", self.name(), &closed, out)?;
            }
            Err(Errno::NOTDIR | Errno::LOOP) => {
                let parent = self.path.parent().unwrap_or_else(|| Path::new("/"));
                let flags = OFlags::PATH | OFlags::DIRECTORY;
                let parent = open(root, parent, flags).map_err(self.failed("open"))?;
                store::pack_one(parent.as_fd(), self.name(), self.name(), &closed, out)?;
            }
            Err(error) => return Err(self.failed("open")(error)),
        }
        Ok(())
    }

    fn unpack(
        &self,
        root: BorrowedFd<'_>,
        record: &Record,
        options: PutOptions,
        tar: Box<dyn Read + Send>,
    ) -> Result<(), ArchiveError> {
        // Here a slash at the end says nothing.
        let path: PathBuf = self.path.components().collect();
        let directory = open(root, &path, OFlags::PATH).map_err(self.failed("open"))?;
        let found = fstat(&directory).map_err(self.failed("look at"))?;
        if FileType::from_raw_mode(found.st_mode) != FileType::Directory {
            return Err(ArchiveError::NotDirectory);
        }
        self.check_writable(root, directory.as_fd())?;
        let owner = if options.as_user && !record.config.user.is_empty() {
            let accounts = read_accounts(root).map_err(|source| ArchiveError::File {
                what: "read the accounts for",
                path: self.typed.clone(),
                source,
            })?;
            let user = &record.config.user;
            let identity = user::find(user, &[], &accounts.passwd, &accounts.group)?;
            Some((identity.uid, identity.gid))
        } else {
            None
        };
        let into = store::Unpacking {
            root,
            directory: &path,
            keep_kinds: options.keep_kinds,
            owner,
        };
        Ok(store::unpack(&into, tar)?)
    }

    fn check_writable(
        &self,
        root: BorrowedFd<'_>,
        directory: BorrowedFd<'_>,
    ) -> Result<(), ArchiveError> {
        let flags = fstatvfs(directory).map_err(self.failed("look at"))?.f_flag;
        if !flags.contains(StatVfsMountFlags::RDONLY) {
            return Ok(());
        }
        let mount = |fd| statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID);
        let [of_root, of_this] = [root, directory].map(mount);
        let (of_root, of_this) = (
            of_root.map_err(self.failed("look at"))?,
            of_this.map_err(self.failed("look at"))?,
        );
        Err(match of_root.stx_mnt_id == of_this.stx_mnt_id {
            true => ArchiveError::ReadOnlyRoot,
            false => ArchiveError::ReadOnlyVolume,
        })
    }
}

fn open(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = flags | OFlags::CLOEXEC;
    let mut races = 0;
    loop {
        match openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) if races < MAX_RACES => races += 1,
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Where a path leads once all its links are followed. What is not there leads nowhere else.
fn resolve(root: BorrowedFd<'_>, path: &Path) -> Result<PathBuf, Errno> {
    let mut done = PathBuf::from("/");
    let mut ahead: Vec<_> = path.components().rev().map(own).collect();
    let mut links = 0;
    while let Some(part) = ahead.pop() {
        let name = match part {
            Part::Up => {
                done.pop();
                continue;
            }
            Part::Root => {
                done = PathBuf::from("/");
                continue;
            }
            Part::Here => continue,
            Part::Name(name) => name,
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let target = open(root, &done, flags).and_then(|at| readlinkat(&at, &name, Vec::new()));
        match target {
            Ok(target) => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::LOOP);
                }
                let target = Path::new(std::ffi::OsStr::from_bytes(target.as_bytes()));
                ahead.extend(target.components().rev().map(own));
            }
            Err(Errno::INVAL | Errno::NOENT | Errno::NOTDIR) => done.push(name),
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// A part of a path that outlives it.
enum Part {
    Root,
    Here,
    Up,
    Name(std::ffi::OsString),
}

fn own(component: Component<'_>) -> Part {
    match component {
        Component::RootDir | Component::Prefix(_) => Part::Root,
        Component::CurDir => Part::Here,
        Component::ParentDir => Part::Up,
        Component::Normal(name) => Part::Name(name.to_owned()),
    }
}

/// What the kernel shows of itself in a running container. Nobody who copies the root wants that.
fn kernels_directories(root: BorrowedFd<'_>) -> Result<Vec<store::FileId>, Errno> {
    let own = fstat(root)?;
    let mut closed = Vec::new();
    for name in ["proc", "sys", "dev"] {
        match statat(root, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) if found.st_dev != own.st_dev => closed.push((found.st_dev, found.st_ino)),
            Ok(_) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(closed)
}

fn mtime(found: &Stat) -> SystemTime {
    let nanos = std::time::Duration::from_nanos(found.st_mtime_nsec);
    let seconds = std::time::Duration::from_secs(found.st_mtime.unsigned_abs());
    let whole = match found.st_mtime {
        0.. => SystemTime::UNIX_EPOCH.checked_add(seconds),
        _ => SystemTime::UNIX_EPOCH.checked_sub(seconds),
    };
    whole
        .and_then(|whole| whole.checked_add(nanos))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The bits of Go's `os.FileMode`.
fn go_mode(found: &Stat) -> u32 {
    const DIRECTORY: u32 = 1 << 31;
    const SYMLINK: u32 = 1 << 27;
    const DEVICE: u32 = 1 << 26;
    const PIPE: u32 = 1 << 25;
    const SOCKET: u32 = 1 << 24;
    const SETUID: u32 = 1 << 23;
    const SETGID: u32 = 1 << 22;
    const CHARACTER: u32 = 1 << 21;
    const STICKY: u32 = 1 << 20;
    let kind = match FileType::from_raw_mode(found.st_mode) {
        FileType::Directory => DIRECTORY,
        FileType::Symlink => SYMLINK,
        FileType::BlockDevice => DEVICE,
        FileType::CharacterDevice => DEVICE | CHARACTER,
        FileType::Fifo => PIPE,
        FileType::Socket => SOCKET,
        _ => 0,
    };
    [
        (Mode::SUID, SETUID),
        (Mode::SGID, SETGID),
        (Mode::SVTX, STICKY),
    ]
    .iter()
    .filter(|(bit, _)| Mode::from_raw_mode(found.st_mode).contains(*bit))
    .fold(kind | (found.st_mode & 0o777), |mode, (_, go)| mode | go)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn paths_are_the_containers_and_keep_what_their_end_says() {
        for (typed, path, name) in [
            ("", "/", "/"),
            ("/", "/", "/"),
            ("etc", "/etc", "etc"),
            ("/etc/", "/etc/", "etc"),
            ("/etc/.", "/etc/.", "."),
            (".", "/.", "."),
            ("../../etc/../var//log", "/var/log", "log"),
        ] {
            let place = Place::new("c", typed);
            assert_eq!(place.path.as_os_str(), path, "{typed}");
            assert_eq!(place.name(), name.as_bytes(), "{typed}");
        }
    }

    #[test]
    fn links_are_told_with_where_they_lead_within_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = File::open(dir.path()).unwrap();
        symlink("../../../b", dir.path().join("a")).unwrap();
        symlink("/c/d", dir.path().join("b")).unwrap();
        std::fs::create_dir(dir.path().join("c")).unwrap();
        symlink("loop", dir.path().join("loop")).unwrap();
        let stat = Place::new("c", "/a").stat(root.as_fd()).unwrap();
        assert_eq!(stat.link_target, "/c/d");
        assert_eq!(stat.mode, 1 << 27 | 0o777);
        let error = Place::new("c", "/loop").stat(root.as_fd()).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument);
        let error = Place::new("box", "nope").stat(root.as_fd()).unwrap_err();
        let text = "Could not find the file nope in container box";
        assert_eq!(error.to_string(), text);
    }
}
