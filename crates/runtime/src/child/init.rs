//! A small init: it starts the program, hands on what signals come, reaps, and ends as the program
//! does.
//!
//! It is the first process of the container, which after its last preparation forks the program
//! instead of becoming it; nothing has to be mounted into the container or executed for that. It
//! has the program's user, capabilities and system call filter, and of descriptors only the
//! standard streams. To `ps` it is what Docker's init is there.
//!
//! ```text
//!  first process ─ fork ─▶ program: own process group, which the terminal belongs to ─▶ execve
//!       │ signals but SIGCHLD ──────▶ kill
//!       │ SIGCHLD ─ reap all; of the program: exit with its code, or 128 + its signal
//! ```

use std::ffi::CString;
use std::io;

use rustix::io::Errno;
use rustix::process::{
    DumpableBehavior, Pid, WaitOptions, WaitStatus, set_dumpable_behavior, setpgid, wait,
};
use sys::daemonise::Forked;

use super::identity;
use crate::error::{During as _, SetupError, Step};
use crate::plan::Process;

/// What Docker calls it inside a container.
const PATH: &str = "/sbin/docker-init";
const NAME: &std::ffi::CStr = c"docker-init";

/// Forks. Returns in the program's process; the other stays here and ends with the program.
pub(super) fn stay(process: &Process) -> Result<(), SetupError> {
    // Blocked before there is anybody to hand them on to, so that none is lost.
    sys::signalfd::block_all().during(Step::Channel, || "block signals")?;
    match sys::daemonise::fork().during(Step::Exec, || "fork below the init")? {
        Forked::Child => become_group().during(Step::Console, || "make a process group"),
        Forked::Parent { child } => sys::exec::exit(attend(process, child)),
    }
}

/// Signals that the terminal sends are for the program alone.
fn become_group() -> io::Result<()> {
    setpgid(None, None)?;
    let own = rustix::process::getpgrp();
    match rustix::termios::tcsetpgrp(rustix::stdio::stdin(), own) {
        // No terminal, or not the one of this session.
        Ok(()) | Err(Errno::NOTTY | Errno::NXIO | Errno::PERM | Errno::BADF) => {}
        Err(error) => return Err(error.into()),
    }
    sys::signals::unblock_all()
}

/// Returns the exit code, once the program has ended.
fn attend(process: &Process, program: i32) -> i32 {
    // The channel is one of them: its end tells that the program runs. What fails of the rest is
    // no reason to end the program.
    let _ = sys::descriptors::close_other_than(&[0, 1, 2]);
    let _ = identity::as_if_executed(process);
    let _ = rename(&process.arguments);
    // Whom the user may trace, as if it had been executed: `/proc/1/fd/1` is where programs write
    // to the log.
    let _ = set_dumpable_behavior(DumpableBehavior::Dumpable);
    let Some(program) = Pid::from_raw(program) else {
        return super::FAILED;
    };
    loop {
        match sys::signalfd::wait() {
            Ok(libc::SIGCHLD) => {
                if let Some(code) = reap(program) {
                    return code;
                }
            }
            Ok(signal) => hand_on(program, signal),
            Err(_) => {}
        }
    }
}

fn hand_on(program: Pid, signal: i32) {
    if let Ok(pidfd) = rustix::process::pidfd_open(program, rustix::process::PidfdFlags::empty()) {
        // It may just have ended, or be another user's by now.
        let _ = sys::pidfd::send_signal(std::os::fd::AsFd::as_fd(&pidfd), signal);
    }
}

/// Reaps everybody who has ended; the exit code if the program is among them.
fn reap(program: Pid) -> Option<i32> {
    let mut code = None;
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if pid == program {
            code = Some(code_of(status));
        }
    }
    code
}

fn code_of(status: WaitStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => super::FAILED,
    }
}

/// Has the kernel show another command line and name. Where it cannot (it was built without
/// checkpointing), those of berth stay.
fn rename(arguments: &[CString]) -> io::Result<()> {
    rustix::thread::set_name(NAME)?;
    let mut line = format!("{PATH}\0--\0").into_bytes();
    for argument in arguments {
        line.extend_from_slice(argument.as_bytes_with_nul());
    }
    // For as long as the process lives.
    let line: &'static [u8] = line.leak();
    let start = line.as_ptr() as u64;
    let mut map = own_map()?;
    (map.arg_start, map.arg_end) = (start, start + line.len() as u64);
    sys::title::set(&map)
}

/// Where the kernel says that the parts of this program are (proc_pid_stat(5)).
fn own_map() -> io::Result<sys::title::Map> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The second field holds the name, which may hold anything.
    let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let fields: Vec<u64> = after_name
        .split_whitespace()
        .map(|field| field.parse().unwrap_or(0))
        .collect();
    let field = |number: usize| {
        let value = fields.get(number - 3).copied();
        value.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    };
    let mut map = sys::title::Map::NOWHERE;
    map.start_code = field(26)?;
    map.end_code = field(27)?;
    map.start_data = field(45)?;
    map.end_data = field(46)?;
    map.start_brk = field(47)?;
    map.brk = sys::title::end_of_heap();
    map.start_stack = field(28)?;
    map.arg_start = field(48)?;
    map.arg_end = field(49)?;
    map.env_start = field(50)?;
    map.env_end = field(51)?;
    Ok(map)
}
