//! `clone3`: a forked child, or sibling, in new namespaces, with its pidfd.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::thread::UnshareFlags;

/// The exit code of a child that panicked (`EX_SOFTWARE`).
const PANICKED: i32 = 70;

/// `CLONE_INTO_CGROUP` (linux/sched.h); libc's is too narrow.
const INTO_CGROUP: u64 = 0x2_0000_0000;

/// A forked child. The caller is its parent and waits for it.
#[derive(Debug)]
pub struct Child {
    /// In the caller's pid namespace.
    pub pid: i32,
    /// The same, free of reuse.
    pub pidfd: OwnedFd,
}

/// `struct clone_args` (clone3(2)), version 2: with `cgroup`.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Forks into new `namespaces`, and into the version 2 cgroup whose directory is `cgroup`, if
/// given. The child runs `child` and exits with what it returns; nothing is dropped or flushed there.
///
/// The child is a copy of the calling thread alone: a lock that another thread held stays locked
/// in it, the allocator's included. So this is for programs with one thread.
pub fn spawn(
    namespaces: UnshareFlags,
    cgroup: Option<BorrowedFd<'_>>,
    child: impl FnOnce() -> i32,
) -> io::Result<Child> {
    let mut args = CloneArgs {
        flags: u64::from(namespaces.bits()),
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        args.flags |= INTO_CGROUP;
        args.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    fork(args, child)
}

/// As [`spawn`], but the new process is a child of the caller's parent, who waits for it.
pub fn spawn_sibling(namespaces: UnshareFlags, child: impl FnOnce() -> i32) -> io::Result<Child> {
    let args = CloneArgs {
        // The signal is that of the caller's own end; naming one here is refused.
        flags: u64::from(namespaces.bits()) | libc::CLONE_PARENT as u64,
        ..CloneArgs::default()
    };
    fork(args, child)
}

fn fork(mut args: CloneArgs, child: impl FnOnce() -> i32) -> io::Result<Child> {
    let mut pidfd: RawFd = -1;
    args.flags |= libc::CLONE_PIDFD as u64;
    args.pidfd = &raw mut pidfd as u64;
    // SAFETY: without CLONE_VM and with no stack given this is a fork: the child goes on with its
    // own copy of this frame. `args` and `pidfd` outlive the call.
    let rc = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) };
    match rc {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let code = catch_unwind(AssertUnwindSafe(child)).unwrap_or(PANICKED);
            // SAFETY: takes no pointers and does not return.
            unsafe { libc::_exit(code) }
        }
        pid => Ok(Child {
            pid: i32::try_from(pid).expect("a pid fits pid_t"),
            // SAFETY: the kernel stored a new descriptor there, which nobody else knows.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
    }
}
