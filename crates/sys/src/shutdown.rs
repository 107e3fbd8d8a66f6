//! A file system that writes nothing more, as after a power cut.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// `EXT4_IOC_SHUTDOWN`, which other file systems know by the same number (linux/ext4.h).
const SHUTDOWN: u32 = 0x8004_587d;
/// `EXT4_GOING_FLAGS_NOLOGFLUSH`: not even the journal.
const WITHOUT_JOURNAL: u32 = 2;

/// Lets the file system of `directory` write nothing more until it is mounted anew. Tests do so to
/// see what is on the disk at any moment.
pub fn without_writing(directory: impl AsFd) -> io::Result<()> {
    let fd = directory.as_fd().as_raw_fd();
    let how = WITHOUT_JOURNAL;
    let request = SHUTDOWN as libc::Ioctl;
    // SAFETY: `fd` stays open while `directory` is borrowed, and the number lives through the call,
    // which only reads it.
    let rc = unsafe { libc::ioctl(fd, request, &raw const how) };
    if rc == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
