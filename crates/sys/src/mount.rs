//! `mount_setattr`: flags, propagation and ids of a mount that is already there, attached or not.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use rustix::mount::{MountAttrFlags, MountPropagationFlags};

/// `struct mount_attr` (mount_setattr(2)).
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// What changes about a mount. The access-time modes are one field: setting one clears the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Flags that come.
    pub set: MountAttrFlags,
    /// Flags that go.
    pub clear: MountAttrFlags,
    /// The new propagation; empty leaves it.
    pub propagation: MountPropagationFlags,
}

impl Change {
    /// Changes nothing.
    pub const NONE: Self = Self {
        set: MountAttrFlags::empty(),
        clear: MountAttrFlags::empty(),
        propagation: MountPropagationFlags::empty(),
    };
}

/// Changes the mount at `path` below `directory` (itself, if `path` is empty), and with
/// `recursive` all mounts below it.
pub fn set_attributes(
    directory: BorrowedFd<'_>,
    path: &CStr,
    recursive: bool,
    change: &Change,
) -> io::Result<()> {
    let mut clear = u64::from(change.clear.bits());
    if change.set.intersects(access_time()) {
        clear |= u64::from(access_time().bits());
    }
    let attr = MountAttr {
        set: u64::from(change.set.bits()),
        clear,
        propagation: u64::from(change.propagation.bits()),
        user_namespace: 0,
    };
    set(directory, path, recursive, &attr)
}

/// Has the detached mount `mount` show its ids through the mapping of a user namespace.
pub fn map_ids(
    mount: BorrowedFd<'_>,
    recursive: bool,
    user_namespace: BorrowedFd<'_>,
) -> io::Result<()> {
    let attr = MountAttr {
        set: libc::MOUNT_ATTR_IDMAP,
        clear: 0,
        propagation: 0,
        user_namespace: u64::from(user_namespace.as_raw_fd().cast_unsigned()),
    };
    set(mount, c"", recursive, &attr)
}

fn set(
    directory: BorrowedFd<'_>,
    path: &CStr,
    recursive: bool,
    attr: &MountAttr,
) -> io::Result<()> {
    let flags = if recursive { libc::AT_RECURSIVE } else { 0 }
        | if path.is_empty() {
            libc::AT_EMPTY_PATH
        } else {
            0
        };
    // SAFETY: `path` and `attr` outlive the call, and the size is that of `attr`.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            directory.as_raw_fd(),
            path.as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// `MOUNT_ATTR__ATIME`: the bits that choose how access times are kept.
fn access_time() -> MountAttrFlags {
    MountAttrFlags::from_bits_retain(0x70)
}
