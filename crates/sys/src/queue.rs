//! What is still on its way through a socket.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// Whether bytes that were sent on this Unix socket wait to be read by the other end
/// (`SIOCOUTQ`; on TCP it would tell what was not acknowledged, which is another thing).
pub fn is_unread(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open while it is borrowed, and the request writes one `int`.
    let rc = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    match rc {
        0 => Ok(bytes > 0),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn what_the_other_end_has_read_is_on_its_way_no_more() {
        let (mut near, mut far) = UnixStream::pair().unwrap();
        assert!(!is_unread(near.as_fd()).unwrap());
        near.write_all(b"four").unwrap();
        assert!(is_unread(near.as_fd()).unwrap());
        far.read_exact(&mut [0; 4]).unwrap();
        assert!(!is_unread(near.as_fd()).unwrap());
    }
}
