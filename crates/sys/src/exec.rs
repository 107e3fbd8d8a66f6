//! `execve`: replacing the process.

use std::ffi::{CStr, CString, c_char};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr;

/// Runs `path` in place of this process. Returns only if that failed.
pub fn execve(path: &CStr, arguments: &[CString], environment: &[CString]) -> io::Error {
    let (arguments, environment) = (terminated(arguments), terminated(environment));
    // SAFETY: both arrays end with a null pointer, and the strings outlive the call.
    unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

/// Runs the program that `file` is open on, as [`execve`] does.
pub fn execveat(file: BorrowedFd<'_>, arguments: &[CString], environment: &[CString]) -> io::Error {
    let (arguments, environment) = (terminated(arguments), terminated(environment));
    // SAFETY: both arrays end with a null pointer, and the strings outlive the call; so does the
    // empty path.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

/// Ends this process; nothing is dropped or flushed.
pub fn exit(code: i32) -> ! {
    // SAFETY: takes no pointers and does not return.
    unsafe { libc::_exit(code) }
}

/// Pointers to `strings`, with a null pointer at their end.
fn terminated(strings: &[CString]) -> Vec<*const c_char> {
    let pointers = strings.iter().map(|string| string.as_ptr());
    pointers.chain([ptr::null()]).collect()
}
