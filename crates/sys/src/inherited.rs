//! Sockets that systemd opened for this process: `sd_listen_fds(3)` without its library.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// The first descriptor that is passed on (`SD_LISTEN_FDS_START`).
const FIRST: RawFd = 3;

/// The sockets, in their order, each closed on exec; none when none were passed to this very
/// process, or when they were taken before.
pub fn take_sockets() -> io::Result<Vec<OwnedFd>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    let ours = number("LISTEN_PID") == Some(std::process::id());
    let count = number("LISTEN_FDS").filter(|_| ours).unwrap_or(0);
    if count == 0 || TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    let count = RawFd::try_from(count).map_err(io::Error::other)?;
    let mut sockets = Vec::new();
    for number in FIRST..FIRST.saturating_add(count) {
        // SAFETY: F_GETFD takes no pointer; a number that is no descriptor is EBADF.
        if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it is open, and by the protocol it is this process's alone: LISTEN_PID names
        // it, nothing else here uses the numbers, and `TAKEN` lets nobody take them twice.
        let socket = unsafe { OwnedFd::from_raw_fd(number) };
        rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
        sockets.push(socket);
    }
    Ok(sockets)
}
