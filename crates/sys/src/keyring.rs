//! A session keyring of one's own.

use std::ffi::CStr;
use std::io;

/// `KEYCTL_JOIN_SESSION_KEYRING` (linux/keyctl.h).
const JOIN_SESSION_KEYRING: libc::c_ulong = 1;

/// Leaves the inherited session keyring for the one called `name`, made if missing.
pub fn join_session(name: &CStr) -> io::Result<()> {
    // SAFETY: `name` is a terminated string that outlives the call.
    let rc = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name.as_ptr()) };
    if rc == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
