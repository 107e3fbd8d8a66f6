//! Running a program of the host so that no container can change it (CVE-2019-5736).
//!
//! Until exec, `/proc/self/exe` of a container's process is the program that forked it. A script
//! in the image whose interpreter is `/proc/self/exe` runs that program inside, where root may keep
//! a handle on it, and write to it once it has ended. So who calls [`crate::create`] runs from a
//! mount of its own file that is read-only and attached nowhere: no copy in memory, no file to
//! clean up, and the handle leads to a file that cannot be opened for writing.
//!
//! Who may not mount (an ordinary user) and owns the program runs from a sealed copy in memory.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use rustix::fs::{
    Access, AtFlags, CWD, MemfdFlags, Mode, OFlags, SealFlags, StatVfsMountFlags, accessat,
    fcntl_add_seals, fcntl_get_seals, fstatvfs, memfd_create,
};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};
use sys::mount::Change;

/// The kernel's link to the program of this process.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// A handle on `program` by which it can be run (as `/proc/self/fd/N`), but never written.
pub fn sealed(program: &Path) -> io::Result<OwnedFd> {
    Ok(read_only_mount(program)?)
}

/// Has this process run a program that cannot be written through it: where it is not so already,
/// it runs itself again from a sealed handle, with the same arguments and environment. To be called
/// first of all by a program that is not started sealed, before it starts a container.
pub fn seal_self() -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let program = rustix::fs::open(OWN_PROGRAM, flags, Mode::empty())?;
    if is_sealed(program.as_fd())? {
        return Ok(());
    }
    let handle = match read_only_mount(OWN_PROGRAM.as_ref()) {
        // Without the right to mount: a file of others is out of reach as well, of one's own there
        // must be a copy.
        Err(Errno::PERM) => match accessat(CWD, OWN_PROGRAM, Access::WRITE_OK, AtFlags::EACCESS) {
            Err(_) => return Ok(()),
            Ok(()) => sealed_copy(program.into())?,
        },
        other => other?,
    };
    let strings = |strings: Vec<OsString>| {
        let strings = strings.into_iter();
        strings
            .map(|string| CString::new(string.into_vec()))
            .collect::<Result<Vec<_>, _>>()
    };
    let arguments = strings(std::env::args_os().collect())?;
    let variable = |(mut name, value): (OsString, OsString)| {
        name.push("=");
        name.push(value);
        name
    };
    let environment = strings(std::env::vars_os().map(variable).collect())?;
    Err(sys::exec::execveat(
        handle.as_fd(),
        &arguments,
        &environment,
    ))
}

/// Whether the file cannot be written by the way it was opened: it lies on a read-only mount, which
/// no container can change, or is a sealed copy.
fn is_sealed(file: BorrowedFd<'_>) -> io::Result<bool> {
    let mount = fstatvfs(file)?.f_flag;
    let seals = fcntl_get_seals(file).unwrap_or(SealFlags::empty());
    Ok(mount.contains(StatVfsMountFlags::RDONLY) || seals.contains(SealFlags::WRITE))
}

fn sealed_copy(mut program: File) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut copy = File::from(memfd_create("berth", flags)?);
    io::copy(&mut program, &mut copy)?;
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    fcntl_add_seals(&copy, seals)?;
    Ok(copy.into())
}

fn read_only_mount(program: &Path) -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = open_tree(CWD, program, flags)?;
    let change = Change {
        set: MountAttrFlags::MOUNT_ATTR_RDONLY,
        ..Change::NONE
    };
    sys::mount::set_attributes(mount.as_fd(), c"", false, &change)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(mount)
}
