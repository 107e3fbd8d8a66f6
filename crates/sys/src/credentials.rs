//! The ids by which a thread's access to files is judged, apart from its others.

use std::io;

/// Makes files the calling thread's as if it were `uid`; gives the id before. Changing from root
/// takes the capabilities over files out of the effective set.
pub fn set_fs_uid(uid: u32) -> io::Result<u32> {
    // SAFETY: takes no pointers.
    let before = unsafe { libc::syscall(libc::SYS_setfsuid, uid) };
    u32::try_from(before).map_err(io::Error::other)
}

/// The same for the group.
pub fn set_fs_gid(gid: u32) -> io::Result<u32> {
    // SAFETY: takes no pointers.
    let before = unsafe { libc::syscall(libc::SYS_setfsgid, gid) };
    u32::try_from(before).map_err(io::Error::other)
}
