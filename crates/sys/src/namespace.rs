//! Leaving namespaces.

use std::io;

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
