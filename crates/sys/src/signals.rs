//! Dispositions and mask as a fresh process has them.

use std::io;
use std::mem;
use std::ptr;

/// The last real-time signal of every architecture berth runs on.
const LAST: libc::c_int = 64;

/// Gives `signal` its default disposition.
fn restore(signal: libc::c_int) {
    // SAFETY: all zeros are a valid sigaction: SIG_DFL, no flags, an empty mask.
    let default: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: `default` outlives the call; the old action is not asked for. A signal that cannot
    // be changed (SIGKILL, those that libc keeps) answers an error and keeps its disposition.
    unsafe { libc::sigaction(signal, &raw const default, ptr::null_mut()) };
}

/// Gives every signal its default disposition: ignored ones would stay ignored after exec, and
/// Rust ignores SIGPIPE.
pub fn restore_all() {
    (1..=LAST).for_each(restore);
}

/// Unblocks every signal for the calling thread.
pub fn unblock_all() -> io::Result<()> {
    // SAFETY: all zeros are the empty set with every libc berth is built with.
    let none: libc::sigset_t = unsafe { mem::zeroed() };
    // SAFETY: `none` outlives the call; the old mask is not asked for.
    let rc = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut()) };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(rc))
    }
}
