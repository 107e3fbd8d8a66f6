//! Closing or marking ranges of descriptors.

use std::io;
use std::os::fd::RawFd;

/// Closes every descriptor but those in `keep`, whoever owns it: only for a forked child that is
/// about to become another program and uses none of them again.
pub fn close_other_than(keep: &[RawFd]) -> io::Result<()> {
    let mut keep = keep.to_vec();
    keep.sort_unstable();
    let mut next = 0;
    for kept in keep {
        if kept > next {
            range(next, kept - 1, 0)?;
        }
        next = next.max(kept + 1);
    }
    range(next, RawFd::MAX, 0)
}

/// Closes a descriptor that nobody owns.
pub fn close_raw(fd: RawFd) -> io::Result<()> {
    range(fd, fd, 0)
}

/// Has every descriptor from `first` up closed at exec.
pub fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    range(first, RawFd::MAX, libc::CLOSE_RANGE_CLOEXEC)
}

fn range(first: RawFd, last: RawFd, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: takes no pointers.
    let rc = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
