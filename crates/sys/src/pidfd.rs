//! Processes by descriptor, which are not mistaken for another when their number is used again.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr;

/// Sends any signal, real-time ones included, to the process behind `pidfd`.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let fd = pidfd.as_raw_fd();
    let no_info = ptr::null::<libc::siginfo_t>();
    // SAFETY: `fd` is open while it is borrowed, and a null siginfo is allowed (man page).
    match unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, no_info, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
