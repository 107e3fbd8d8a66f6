//! Kernel parameters, and paths that a container may not write or not see.
//!
//! Parameters are written through a procfs of our own that is mounted nowhere, so nothing in the
//! image can stand in for it (CVE-2025-52881). A mask is a mount over a descriptor resolved
//! inside the root; what it is made of is checked to be what it should (CVE-2025-31133).

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};
use sys::mount::Change;

use super::view::Root;
use super::{dev, inside, view};
use crate::error::{During as _, SetupError, Step};

/// Writes kernel parameters; names are paths below `/proc/sys`.
pub(crate) fn write_parameters(parameters: &[(String, String)]) -> Result<(), SetupError> {
    if parameters.is_empty() {
        return Ok(());
    }
    let proc = private_proc().during(Step::Sysctl, || "mount a private procfs")?;
    for (name, value) in parameters {
        write_parameter(&proc, name, value).during(Step::Sysctl, || {
            format!("set the kernel parameter `{name}` to {value:?}")
        })?;
    }
    Ok(())
}

pub(crate) fn private_proc() -> io::Result<OwnedFd> {
    let fs = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&fs)?;
    Ok(fsmount(
        &fs,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )?)
}

fn write_parameter(proc: &OwnedFd, name: &str, value: &str) -> io::Result<()> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let path = Path::new("sys").join(name);
    let file = openat2(proc, path, flags, Mode::empty(), resolve)?;
    rustix::io::write(&file, value.as_bytes())?;
    Ok(())
}

/// Makes each path that is there read-only, with all that is mounted below.
pub(crate) fn make_readonly(root: &Root, paths: &[PathBuf]) -> Result<(), SetupError> {
    for path in paths {
        let what = || format!("make `{}` read-only", path.display());
        let Some(target) = find(root, path).during(Step::Mask, what)? else {
            continue;
        };
        let tree = view::clone_of(target.as_fd(), true).during(Step::Mask, what)?;
        let change = Change {
            set: MountAttrFlags::MOUNT_ATTR_RDONLY,
            ..Change::NONE
        };
        view::set(tree.as_fd(), true, &change).during(Step::Mask, what)?;
        view::attach(&tree, target.as_fd()).during(Step::Mask, what)?;
    }
    Ok(())
}

/// Hides each path that is there: a directory behind an empty one, a file behind `/dev/null`.
pub(crate) fn mask(root: &Root, paths: &[PathBuf]) -> Result<(), SetupError> {
    let (mut empty, mut null) = (None, None);
    for path in paths {
        let what = || format!("mask `{}`", path.display());
        let Some(target) = find(root, path).during(Step::Mask, what)? else {
            continue;
        };
        let status = rustix::fs::fstat(&target).during(Step::Mask, what)?;
        let covered = if FileType::from_raw_mode(status.st_mode) == FileType::Directory {
            cover(&target, &mut empty, empty_directory)
        } else {
            cover(&target, &mut null, || null_device(root.as_fd()))
        };
        covered.during(Step::Mask, what)?;
    }
    Ok(())
}

/// All directories share one empty file system, all files one node: the first is attached itself,
/// the others as copies of it. (A mount that is never attached costs a grace period when closed.)
fn cover(
    target: &OwnedFd,
    cover: &mut Option<OwnedFd>,
    make: impl FnOnce() -> io::Result<OwnedFd>,
) -> io::Result<()> {
    match cover {
        Some(first) => view::attach(&view::clone_of(first.as_fd(), false)?, target.as_fd())?,
        None => view::attach(cover.insert(make()?), target.as_fd())?,
    }
    Ok(())
}

fn find(root: &Root, path: &Path) -> Result<Option<OwnedFd>, Errno> {
    let (from, path) = root.within(path);
    match inside::find(from, path) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error),
    }
}

fn empty_directory() -> io::Result<OwnedFd> {
    let fs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&fs, "source", "tmpfs")?;
    fsconfig_set_string(&fs, "nr_inodes", "2")?;
    fsconfig_set_string(&fs, "mode", "755")?;
    fsconfig_create(&fs)?;
    let flags = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, flags)?)
}

/// The container's `/dev/null`, if that is what it is; else the host's. Read-only, so that the
/// node itself cannot be changed through a mask.
fn null_device(root: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let own = inside::open(
        root,
        Path::new("/dev/null"),
        OFlags::PATH,
        ResolveFlags::NO_SYMLINKS,
    );
    let null = match own {
        Ok(own) if dev::is_null(own.as_fd()) => own,
        _ => {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let host = rustix::fs::open("/dev/null", flags, Mode::empty())?;
            if !dev::is_null(host.as_fd()) {
                return Err(io::Error::other(
                    "`/dev/null` of the host is no null device",
                ));
            }
            host
        }
    };
    let mount = view::clone_of(null.as_fd(), false)?;
    let change = Change {
        set: MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NOEXEC,
        ..Change::NONE
    };
    view::set(mount.as_fd(), false, &change)?;
    Ok(mount)
}
