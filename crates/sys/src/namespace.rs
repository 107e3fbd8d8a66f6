//! Leaving namespaces, and telling what one is.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use rustix::thread::UnshareFlags;

/// Moves the calling thread (for a pid namespace: its later children) into new namespaces.
pub fn unshare(namespaces: UnshareFlags) -> io::Result<()> {
    assert!(
        !namespaces.contains(UnshareFlags::FILES),
        "would split what descriptors mean"
    );
    // SAFETY: the descriptor table stays shared, see above.
    unsafe { rustix::thread::unshare_unsafe(namespaces) }.map_err(io::Error::from)
}

/// `_IO(0xb7, 0x3)`, include/uapi/linux/nsfs.h.
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;

/// Which kind of namespace a descriptor is of; ENOTTY if of none.
pub fn kind(namespace: BorrowedFd<'_>) -> io::Result<UnshareFlags> {
    // SAFETY: the descriptor is open while it is borrowed, and the request has no argument.
    let kind = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_NSTYPE) };
    match u32::try_from(kind) {
        Ok(kind) => Ok(UnshareFlags::from_bits_retain(kind)),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn a_namespace_tells_its_kind() {
        let network = File::open("/proc/self/ns/net").unwrap();
        assert_eq!(kind(network.as_fd()).unwrap(), UnshareFlags::NEWNET);
        let file = File::open("/proc/self/status").unwrap();
        assert_eq!(
            kind(file.as_fd()).unwrap_err().raw_os_error(),
            Some(libc::ENOTTY)
        );
    }
}
