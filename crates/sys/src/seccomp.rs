//! `seccomp(2)`: loading a filter.

use std::io;
use std::os::fd::RawFd;

/// `struct sock_filter` (linux/filter.h) is 8 bytes.
const INSTRUCTION_BYTES: usize = 8;

/// Subjects the calling thread to `program`, an array of `struct sock_filter`. `flags` are
/// `SECCOMP_FILTER_FLAG_*`. Needs `no_new_privs` or `CAP_SYS_ADMIN`.
pub fn load(program: &[u8], flags: libc::c_ulong) -> io::Result<()> {
    set(program, flags).map(|_| ())
}

/// The same, with a listener for the calls that the program answers with `SECCOMP_RET_USER_NOTIF`:
/// its descriptor, close-on-exec and nobody's yet. Nothing else is called afterwards, since even
/// that might be a call to be listened to.
pub fn load_listening(program: &[u8], flags: libc::c_ulong) -> io::Result<RawFd> {
    let fd = set(program, flags | libc::SECCOMP_FILTER_FLAG_NEW_LISTENER)?;
    Ok(RawFd::try_from(fd).expect("a descriptor"))
}

/// Whether this kernel knows all of `flags` for a filter.
pub fn knows_flags(flags: libc::c_ulong) -> bool {
    let nowhere = std::ptr::null::<libc::sock_fprog>();
    // One flag is only for filters with a listener.
    let listener = if flags & libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV == 0 {
        0
    } else {
        libc::SECCOMP_FILTER_FLAG_NEW_LISTENER
    };
    // SAFETY: the kernel looks at the flags, and then finds no program at a null pointer.
    unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags | listener,
            nowhere,
        )
    };
    io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}

fn set(program: &[u8], flags: libc::c_ulong) -> io::Result<libc::c_long> {
    let length = u16::try_from(program.len() / INSTRUCTION_BYTES)
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let filter = libc::sock_fprog {
        len: length,
        filter: program.as_ptr() as *mut _,
    };
    // SAFETY: `filter` covers `length` whole instructions of `program`; the kernel copies them,
    // and takes them from any alignment.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const filter,
        )
    };
    if rc >= 0 {
        Ok(rc)
    } else {
        Err(io::Error::last_os_error())
    }
}
