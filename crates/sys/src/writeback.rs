//! Dirty pages on their way to the disk.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Begins to write `length` bytes from `offset` on to the disk, or all from there with a length of
/// nothing, without waiting for it.
pub fn begin(file: impl AsFd, offset: u64, length: u64) -> io::Result<()> {
    let too_far = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let offset = libc::off64_t::try_from(offset).map_err(too_far)?;
    let length = libc::off64_t::try_from(length).map_err(too_far)?;
    let fd = file.as_fd().as_raw_fd();
    let flags = libc::SYNC_FILE_RANGE_WRITE;
    // SAFETY: `fd` stays open while `file` is borrowed; no memory is passed.
    let rc = unsafe { libc::sync_file_range(fd, offset, length, flags) };
    if rc == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    #[test]
    fn what_is_being_written_back_can_still_be_read() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 10_000]).unwrap();
        super::begin(&file, 0, 10_000).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 10_000);
        assert!(super::begin(&file, u64::MAX, 1).is_err());
    }
}
