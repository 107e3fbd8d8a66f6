//! A session keyring of one's own.

use std::ffi::CStr;
use std::io;
use std::ptr;

/// `KEYCTL_JOIN_SESSION_KEYRING` (linux/keyctl.h).
const JOIN_SESSION_KEYRING: libc::c_ulong = 1;

/// Leaves the inherited session keyring for the one called `name`, made if missing; without a
/// name for a new one.
pub fn join_session(name: Option<&CStr>) -> io::Result<()> {
    let name = name.map_or(ptr::null(), CStr::as_ptr);
    // SAFETY: `name` is null or a terminated string that outlives the call.
    let rc = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name) };
    if rc == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
