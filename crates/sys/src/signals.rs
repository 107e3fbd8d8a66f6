//! Dispositions and mask as a fresh process has them.

use std::io;
use std::mem;
use std::ptr;

/// The last real-time signal of every architecture berth runs on.
const LAST: libc::c_int = 64;

/// The kernel's `struct sigaction` (asm-generic/signal.h), not libc's.
#[repr(C)]
#[derive(Default)]
struct Action {
    handler: usize,
    flags: libc::c_ulong,
    restorer: usize,
    mask: u64,
}

/// Gives `signal` its default disposition; past libc, which keeps two signals to itself.
pub fn restore(signal: libc::c_int) {
    let default = Action::default();
    let no_old = ptr::null_mut::<Action>();
    let mask_bytes = size_of::<u64>();
    // SAFETY: all zeros are SIG_DFL, no flags, an empty mask, in the kernel's layout, and outlive
    // the call. SIGKILL and SIGSTOP answer an error, and have no other disposition.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            signal,
            &raw const default,
            no_old,
            mask_bytes,
        )
    };
}

/// Gives every signal its default disposition: ignored ones would stay ignored after exec, and
/// Rust ignores SIGPIPE.
pub fn restore_all() {
    (1..=LAST).for_each(restore);
}

extern "C" fn end(signal: libc::c_int) {
    // SAFETY: `_exit` may be called from a handler (signal-safety(7)), and does not return.
    unsafe { libc::_exit(128 + signal) };
}

/// Ends the process when `signal` comes, also the first of a pid namespace, which the kernel spares
/// where nobody handles it (pid_namespaces(7)). A program that it becomes starts without this.
pub fn end_on(signal: libc::c_int) {
    let handler = end as extern "C" fn(libc::c_int);
    // SAFETY: the handler lives for ever and takes what a handler is given.
    unsafe { libc::signal(signal, handler as libc::sighandler_t) };
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
