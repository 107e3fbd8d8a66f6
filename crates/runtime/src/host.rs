//! File systems that are mounted on the host for containers: a volume's own, and memory that several
//! containers share.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};

use crate::child::view;
use crate::overlay::explain;
use crate::plan::{MountOptions, mount_options};

/// How often a mount may lie over another one at the same place.
const MAX_DEEP: usize = 64;

/// Mounts on the host what mount(8) would with `-t kind -o options device target`, as far as the
/// kernel does it. Words of programs (`loop`, `nofail`, …) mean nothing to it.
pub fn mount(kind: &str, device: &str, options: &str, target: &Path) -> io::Result<()> {
    let words: Vec<String> = options
        .split(',')
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect();
    let mut bind = None;
    let options = mount_options(&words, &mut bind);
    let tree = match bind {
        Some(recursive) => {
            let tree = view::clone_tree(CWD, Path::new(device), recursive)?;
            view::apply(tree.as_fd(), &options)?;
            tree
        }
        None => file_system(kind, device, &options)?,
    };
    move_mount(
        &tree,
        "",
        CWD,
        target,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?;
    view::propagate(tree.as_fd(), &options.propagation)
}

fn file_system(kind: &str, device: &str, options: &MountOptions) -> io::Result<OwnedFd> {
    let fs = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|error| match error {
        Errno::NODEV => io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("the kernel does not know the file system `{kind}`"),
        ),
        error => error.into(),
    })?;
    let said = |error: io::Error| match explain(&fs, String::new()) {
        said if said.is_empty() => error,
        said => io::Error::new(error.kind(), format!("{error}{said}")),
    };
    fsconfig_set_string(&fs, "source", device).map_err(|error| said(error.into()))?;
    let flags = options.set | options.set_recursive;
    if flags.contains(MountAttrFlags::MOUNT_ATTR_RDONLY) {
        // A device that cannot be written to is not to be tried.
        fsconfig_set_flag(&fs, "ro").map_err(|error| said(error.into()))?;
    }
    view::configure(&fs, options).map_err(|(what, error)| {
        let what = what.trim_start_matches(": ");
        io::Error::new(error.kind(), format!("{what}: {error}"))
    })?;
    fsconfig_create(&fs).map_err(|error| said(error.into()))?;
    Ok(fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, flags)?)
}

/// Takes away whatever is mounted at `target`; containers that have it keep it.
pub fn unmount_all(target: &Path) -> io::Result<()> {
    for _ in 0..MAX_DEEP {
        if !is_mount_point(target)? {
            return Ok(());
        }
        let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
        match unmount(target, flags) {
            Ok(()) | Err(Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Errno::BUSY.into())
}

/// Whether something is mounted at `path`.
pub fn is_mount_point(path: &Path) -> io::Result<bool> {
    // A server that is gone is not asked for news.
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    match statx(CWD, path, flags, StatxFlags::empty()) {
        Ok(status) => Ok(status.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
