//! What a container finds in `/dev`: nodes, and links into `/proc/self/fd`.
//!
//! In a user namespace the kernel makes no nodes; there the host's own are bound, which keep
//! their owner and mode.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dev, FileType, Gid, Mode, Uid, chownat, fstat, makedev, mknodat, statat,
    symlinkat,
};
use rustix::io::Errno;

use super::inside;
use super::view::{self, Root};
use crate::error::{During as _, SetupError, Step};
use crate::plan::Device;

/// Links that every container has (runtime-spec, runtime-linux, `/dev` symbolic links).
const LINKS: [(&str, &str); 6] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
    ("/proc/kcore", "core"),
];

/// The number of the null device.
pub(crate) fn null() -> Dev {
    makedev(1, 3)
}

/// Whether a descriptor is a null device, whoever's.
pub(crate) fn is_null(fd: BorrowedFd<'_>) -> bool {
    fstat(fd).is_ok_and(|status| {
        FileType::from_raw_mode(status.st_mode) == FileType::CharacterDevice
            && status.st_rdev == null()
    })
}

/// Makes all nodes and links.
pub(crate) fn fill(root: &Root, devices: &[Device]) -> Result<(), SetupError> {
    for device in devices {
        node(root, device).during(Step::Device, || {
            format!("make the device `{}`", device.path.display())
        })?;
    }
    let dev = inside::make_directory(root.as_fd(), Path::new("/dev"), 0o755)
        .during(Step::Device, || "open `/dev`")?;
    for (target, name) in LINKS {
        // As the others do: no link to what no kernel of this configuration has.
        if name == "core" && inside::find(root.as_fd(), Path::new(target)).is_err() {
            continue;
        }
        match symlinkat(target, &dev, name) {
            Err(Errno::EXIST) => {}
            other => other.during(Step::Device, || format!("link `/dev/{name}`"))?,
        }
    }
    Ok(())
}

fn node(root: &Root, device: &Device) -> io::Result<()> {
    let (Some(parent), Some(name)) = (device.path.parent(), device.path.file_name()) else {
        return Err(Errno::INVAL.into());
    };
    let parent = inside::make_directory(root.as_fd(), parent, 0o755)?;
    let mode = Mode::from_bits_truncate(device.mode);
    let number = makedev(device.major, device.minor);
    match mknodat(&parent, name, device.kind, mode, number) {
        // Something the image brought, when /dev is part of it: only the same device will do.
        Err(Errno::EXIST) => {
            let found = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let same = FileType::from_raw_mode(found.st_mode) == device.kind
                && (device.kind == FileType::Fifo || found.st_rdev == number);
            if !same {
                return Err(Errno::EXIST.into());
            }
        }
        Err(Errno::PERM) => return bind(root, device),
        // The mode is right already, since there is no umask here; changing it would follow a
        // link that took the node's place.
        other => other?,
    }
    if (device.uid, device.gid) != (0, 0) {
        let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
        chownat(
            &parent,
            name,
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
    }
    Ok(())
}

/// The host's node of the same path, if it is the same device.
fn bind(root: &Root, device: &Device) -> io::Result<()> {
    let tree = view::clone_tree(CWD, &device.path, false)?;
    let status = fstat(&tree)?;
    let same = FileType::from_raw_mode(status.st_mode) == device.kind
        && status.st_rdev == makedev(device.major, device.minor);
    if !same {
        let reason = "a user namespace cannot make it, and the host's file of this path is another";
        return Err(io::Error::other(reason));
    }
    let target = inside::make_file(root.as_fd(), &device.path)?;
    Ok(view::attach(&tree, target.as_fd())?)
}
