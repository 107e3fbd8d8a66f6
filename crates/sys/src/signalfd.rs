//! Signals as something to read, instead of something that interrupts.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::ptr;

/// Blocks every signal that can be blocked, for the calling thread.
pub fn block_all() -> io::Result<()> {
    let all = every_signal();
    // SAFETY: `all` outlives the call; the old mask is not asked for.
    let rc = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, ptr::null_mut()) };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(rc))
    }
}

/// Every blocked signal can be read from it. It does not wait.
pub fn open() -> io::Result<OwnedFd> {
    let all = every_signal();
    let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
    // SAFETY: -1 asks for a new descriptor, and `all` outlives the call.
    match unsafe { libc::signalfd(-1, &raw const all, flags) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the kernel just made it, and nobody else knows it.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
    }
}

/// The next signal that came; `None` if there is none.
pub fn read(signals: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    // SAFETY: all zeros are a `signalfd_siginfo`, which is plain numbers.
    let mut info: libc::signalfd_siginfo = unsafe { mem::zeroed() };
    let size = size_of::<libc::signalfd_siginfo>();
    // SAFETY: the kernel writes whole records only, and there is room for one.
    match unsafe { libc::read(signals.as_raw_fd(), (&raw mut info).cast(), size) } {
        -1 => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            error => Err(error),
        },
        _ => Ok(i32::try_from(info.ssi_signo).ok()),
    }
}

/// Waits for a blocked signal, and takes it.
pub fn wait() -> io::Result<i32> {
    let all = every_signal();
    // SAFETY: `all` outlives the call; what more there is to tell of the signal is not asked for.
    match unsafe { libc::sigwaitinfo(&raw const all, ptr::null_mut()) } {
        -1 => Err(io::Error::last_os_error()),
        signal => Ok(signal),
    }
}

fn every_signal() -> libc::sigset_t {
    // SAFETY: all zeros are a set with every libc berth is built with.
    let mut all: libc::sigset_t = unsafe { mem::zeroed() };
    // SAFETY: `all` is a set that outlives the call.
    unsafe { libc::sigfillset(&raw mut all) };
    all
}
