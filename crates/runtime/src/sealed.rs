//! Running a program of the host so that no container can change it (CVE-2019-5736).
//!
//! Until exec, `/proc/self/exe` of a container's process is the program that forked it. A script
//! in the image whose interpreter is `/proc/self/exe` runs that program inside, where root may keep
//! a handle on it, and write to it once it has ended. So who calls [`crate::create`] runs from a
//! mount of its own file that is read-only and attached nowhere: no copy in memory, no file to
//! clean up, and the handle leads to a file that cannot be opened for writing.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};
use sys::mount::Change;

/// A handle on `program` by which it can be run (as `/proc/self/fd/N`), but never written.
pub fn sealed(program: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = open_tree(CWD, program, flags)?;
    let change = Change {
        set: MountAttrFlags::MOUNT_ATTR_RDONLY,
        ..Change::NONE
    };
    sys::mount::set_attributes(mount.as_fd(), c"", false, &change)?;
    Ok(mount)
}
