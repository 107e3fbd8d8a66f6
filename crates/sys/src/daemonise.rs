//! What a process needs to stand on its own: a fork of a single-threaded program, ignored signals,
//! no descriptors but those it knows.

use std::fs;
use std::io;
use std::os::fd::RawFd;

/// Which of the two a process is after a fork.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forked {
    /// The one that called.
    Parent {
        /// The new one.
        child: i32,
    },
    /// The new one.
    Child,
}

/// fork(2), refused unless the calling thread is the only one.
pub fn fork() -> io::Result<Forked> {
    if fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("a process with threads cannot fork"));
    }
    // SAFETY: there is one thread, as was just counted, so no lock can be held by a thread that
    // the child lacks, and the child may do all that the parent could.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        child => Ok(Forked::Parent { child }),
    }
}

/// Ignores `signal` from now on. Inherited over fork and exec.
pub fn ignore_signal(signal: i32) -> io::Result<()> {
    // SAFETY: SIG_IGN is a valid disposition and runs no code of ours.
    match unsafe { libc::signal(signal, libc::SIG_IGN) } {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Closes every descriptor from `first` on.
///
/// For the beginning of `main`, where everything above standard error came from elsewhere: an
/// `OwnedFd` of ours among them would no longer own anything.
pub fn close_from(first: RawFd) -> io::Result<()> {
    let first = libc::c_uint::try_from(first).map_err(io::Error::other)?;
    // SAFETY: close_range touches no memory; that nobody owns these descriptors is what the
    // documentation above demands of the caller.
    match unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
