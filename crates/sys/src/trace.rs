//! `ptrace(2)`: watching another process step by step, for tests of what its end leaves behind.
//!
//! All calls about a process come from the thread that seized it.

use std::io;
use std::ptr;

/// How far a stopped process goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Its next fork.
    Fork,
    /// The beginning or the end of its next system call.
    SystemCall,
}

/// Why a process stopped, by the status that `waitpid(2)` gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It forked; [`forked`] tells whom.
    Fork,
    /// It began or ended a system call.
    SystemCall,
    /// It became another program.
    Exec,
    /// Something else that tracing brings with it, such as the stop in which a child is born.
    Other,
    /// A signal that is to be handed on when it goes on.
    Signal(i32),
}

/// Begins to trace `pid`, and every process that it makes.
pub fn seize(pid: i32) -> io::Result<()> {
    let options = libc::PTRACE_O_TRACESYSGOOD
        | libc::PTRACE_O_TRACEFORK
        | libc::PTRACE_O_TRACEVFORK
        | libc::PTRACE_O_TRACECLONE
        | libc::PTRACE_O_TRACEEXEC;
    let options = ptr::without_provenance_mut(options.cast_unsigned() as usize);
    request(libc::PTRACE_SEIZE, pid, options)
}

/// Lets a stopped process go on, with a signal or 0.
pub fn go_on(pid: i32, until: Until, signal: i32) -> io::Result<()> {
    let kind = match until {
        Until::Fork => libc::PTRACE_CONT,
        Until::SystemCall => libc::PTRACE_SYSCALL,
    };
    request(kind, pid, number(signal))
}

/// Lets a stopped process go on for good.
pub fn detach(pid: i32) -> io::Result<()> {
    request(libc::PTRACE_DETACH, pid, ptr::null_mut())
}

/// Whom a process made that stopped for [`Stop::Fork`].
pub fn forked(pid: i32) -> io::Result<i32> {
    let mut made: libc::c_ulong = 0;
    request(libc::PTRACE_GETEVENTMSG, pid, (&raw mut made).cast())?;
    i32::try_from(made).map_err(io::Error::other)
}

/// Reads the status of a process that stopped.
pub fn stop(status: i32) -> Stop {
    let signal = libc::WSTOPSIG(status);
    match status >> 16 {
        libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE => Stop::Fork,
        libc::PTRACE_EVENT_EXEC => Stop::Exec,
        0 if signal == libc::SIGTRAP | 0x80 => Stop::SystemCall,
        0 => Stop::Signal(signal),
        _ => Stop::Other,
    }
}

fn number(number: i32) -> *mut libc::c_void {
    ptr::without_provenance_mut(usize::try_from(number).unwrap_or_default())
}

/// What is asked for, as the C library has it.
#[cfg(not(target_env = "musl"))]
type Request = libc::c_uint;
#[cfg(target_env = "musl")]
type Request = libc::c_int;

fn request(kind: Request, pid: i32, data: *mut libc::c_void) -> io::Result<()> {
    // SAFETY: of the requests made here only the one for a message writes, and its `data` is a
    // number of the caller's that lives as long as the call.
    let rc = unsafe { libc::ptrace(kind, pid, ptr::null_mut::<libc::c_void>(), data) };
    if rc == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_are_told_apart() {
        let stopped = |event: i32, signal: i32| stop((event << 16) | (signal << 8) | 0x7f);
        assert_eq!(stopped(libc::PTRACE_EVENT_CLONE, libc::SIGTRAP), Stop::Fork);
        assert_eq!(stopped(libc::PTRACE_EVENT_EXEC, libc::SIGTRAP), Stop::Exec);
        assert_eq!(stopped(libc::PTRACE_EVENT_STOP, libc::SIGTRAP), Stop::Other);
        assert_eq!(stopped(0, libc::SIGTRAP | 0x80), Stop::SystemCall);
        assert_eq!(stopped(0, libc::SIGTERM), Stop::Signal(libc::SIGTERM));
    }
}
