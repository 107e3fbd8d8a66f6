//! `seccomp(2)`: loading a filter.

use std::io;

/// `struct sock_filter` (linux/filter.h) is 8 bytes.
const INSTRUCTION_BYTES: usize = 8;

/// Subjects the calling thread to `program`, an array of `struct sock_filter`. `flags` are
/// `SECCOMP_FILTER_FLAG_*`. Needs `no_new_privs` or `CAP_SYS_ADMIN`.
pub fn load(program: &[u8], flags: libc::c_ulong) -> io::Result<()> {
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
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
