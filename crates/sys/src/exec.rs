//! `execve`: replacing the process.

use std::ffi::{CStr, CString, c_char};
use std::io;
use std::ptr;

/// Runs `path` in place of this process. Returns only if that failed.
pub fn execve(path: &CStr, arguments: &[CString], environment: &[CString]) -> io::Error {
    let terminated = |strings: &[CString]| -> Vec<*const c_char> {
        strings
            .iter()
            .map(|s| s.as_ptr())
            .chain([ptr::null()])
            .collect()
    };
    let (arguments, environment) = (terminated(arguments), terminated(environment));
    // SAFETY: both arrays end with a null pointer, and the strings outlive the call.
    unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}
