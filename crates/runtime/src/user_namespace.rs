//! The caller's part in a container that has a user namespace of its own: everything that needs
//! rights on the host, which its processes do not have from the moment they are in there.
//!
//! ```text
//!  caller                                   child, in the new user namespace
//!  ──────                                   ────────────────────────────────
//!  writes its mappings, oom_score_adj       waits; without a name, so without a file of its own
//!  maps the ids of what it mounts
//!  Admitted (the root) ───────────────────▶ becomes root there, mounts, …
//!  limits, ownership of the streams ◀────── Ready
//! ```

use std::ffi::{CString, OsStr};
use std::fs;
use std::io;
use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, Gid, Uid};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    DumpableBehavior, Pid, Rlimit, Signal, WaitId, WaitIdOptions, dumpable_behavior, prlimit,
    set_dumpable_behavior, waitid,
};
use rustix::thread::UnshareFlags;

use crate::error::{CreateError, During as _, Reason, SetupError, Step};
use crate::mapping::{self, Mappings, Run};
use crate::plan::Process;
use crate::sources::is_root;
use crate::stdio::Streams;

/// Whether this process is in another user namespace than the first, which alone maps everything to
/// itself.
pub fn is_in_user_namespace() -> bool {
    let everything = |map: String| map.split_whitespace().eq(["0", "0", "4294967295"]);
    !fs::read_to_string("/proc/self/uid_map").is_ok_and(everything)
}

/// As much of what a mapping tool says is told.
const MAX_TOOL_WORDS: u64 = 4 << 10;

/// Users or groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Users,
    Groups,
}

impl Kind {
    fn file(self) -> &'static str {
        match self {
            Self::Users => "uid_map",
            Self::Groups => "gid_map",
        }
    }

    /// The program of package `uidmap` that may map what `/etc/subuid` and `/etc/subgid` grant.
    fn tool(self) -> &'static str {
        match self {
            Self::Users => "newuidmap",
            Self::Groups => "newgidmap",
        }
    }
}

/// Makes a child whose files in `/proc` are the ordinary user's who calls, as the kernel wants it
/// of who writes mappings, even if the caller's own are not because its program is not readable.
pub(crate) fn seen<T>(make: impl FnOnce() -> Result<T, CreateError>) -> Result<T, CreateError> {
    let before = dumpable_behavior().map_err(|error| CreateError::Clone(error.into()))?;
    // What cannot be changed shows when the mappings are written.
    let _ = set_dumpable_behavior(DumpableBehavior::Dumpable);
    let made = make();
    let _ = set_dumpable_behavior(before);
    made
}

/// Gives the new user namespace of `pid` its users and groups.
pub(crate) fn map(pid: i32, mappings: &Mappings) -> Result<(), SetupError> {
    let own_group = rustix::process::getegid().as_raw();
    if !is_root() && is_own(&mappings.groups, own_group) {
        // Else a member of a group that is denied something could leave it (CVE-2014-8989).
        let path = format!("/proc/{pid}/setgroups");
        fs::write(&path, "deny").during(Step::Namespace, || format!("write `{path}`"))?;
    }
    let own_user = rustix::process::geteuid().as_raw();
    map_kind(pid, Kind::Groups, &mappings.groups, own_group)?;
    map_kind(pid, Kind::Users, &mappings.users, own_user)
}

fn map_kind(pid: i32, kind: Kind, runs: &[Run], own: u32) -> Result<(), SetupError> {
    if is_root() || is_own(runs, own) {
        let path = format!("/proc/{pid}/{}", kind.file());
        let text = mapping::text(runs);
        return fs::write(&path, &text).during(Step::Namespace, || {
            format!("write {:?} to `{path}`", text.trim_end())
        });
    }
    run_tool(pid, kind, runs)
}

/// The one mapping that the kernel allows an ordinary user: of the user's own id.
fn is_own(runs: &[Run], own: u32) -> bool {
    matches!(runs, [Run { outside, length: 1, .. }] if *outside == own)
}

fn run_tool(pid: i32, kind: Kind, runs: &[Run]) -> Result<(), SetupError> {
    let tool = kind.tool();
    let Some(program) = find(tool) else {
        let what = format!(
            "map more than one's own id as an ordinary user: `{tool}` (package uidmap) is not in PATH"
        );
        return Err(SetupError::new(Step::Namespace, what, None));
    };
    let mut arguments = vec![tool.to_owned(), pid.to_string()];
    for run in runs {
        arguments.extend([run.inside, run.outside, run.length].map(|number| number.to_string()));
    }
    let what = || format!("run {}", arguments.join(" "));
    let (ended_well, said) = run(&program, &arguments).during(Step::Namespace, what)?;
    if ended_well {
        return Ok(());
    }
    let mut failure = SetupError::new(Step::Namespace, what(), None);
    failure.reason = (!said.is_empty()).then_some(Reason(said));
    Err(failure)
}

/// `name` in the caller's PATH.
fn find(name: &str) -> Option<PathBuf> {
    let search = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&search)
        .map(|directory| directory.join(name))
        .find(|path| path.is_absolute() && rustix::fs::access(path, Access::EXEC_OK).is_ok())
}

/// Runs a program to its end: whether that was good, and what it said.
fn run(program: &Path, arguments: &[String]) -> io::Result<(bool, String)> {
    let c_string = |text: &OsStr| CString::new(text.as_bytes()).map_err(io::Error::from);
    let program = c_string(program.as_os_str())?;
    let arguments: Vec<CString> = arguments
        .iter()
        .map(|argument| c_string(argument.as_ref()))
        .collect::<io::Result<_>>()?;
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    let child = sys::clone::spawn(UnshareFlags::empty(), None, || {
        let _ = rustix::stdio::dup2_stdout(&write);
        let _ = rustix::stdio::dup2_stderr(&write);
        let _ = sys::descriptors::close_on_exec_from(3);
        let error = sys::exec::execve(&program, &arguments, &[]);
        let _ = rustix::io::write(&write, error.to_string().as_bytes());
        127
    })?;
    drop(write);
    let mut said = Vec::new();
    let read = fs::File::from(read)
        .take(MAX_TOOL_WORDS)
        .read_to_end(&mut said);
    let ended = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED)?;
    read?;
    let ended_well = ended.is_some_and(|status| status.exit_status() == Some(0));
    let said = String::from_utf8_lossy(&said);
    Ok((ended_well, said.trim().replace('\n', "; ")))
}

/// Sets what makes the kernel choose a process when memory runs out; the child may not lower it.
pub(crate) fn set_oom_score(pid: i32, process: &Process) -> Result<(), SetupError> {
    let Some(score) = process.oom_score else {
        return Ok(());
    };
    fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string()).during(Step::Limit, || {
        let hint = if is_root() {
            ""
        } else {
            " (an ordinary user may only raise it)"
        };
        format!("set oom_score_adj to {score}{hint}")
    })
}

/// The user namespace of a child.
pub(crate) fn of(pid: i32) -> Result<OwnedFd, SetupError> {
    let path = format!("/proc/{pid}/ns/user");
    let opened = crate::create::open_cloexec(Path::new(&path));
    opened.during(Step::Namespace, || format!("open `{path}`"))
}

/// A user namespace that nobody is in. The process that it is made with ends.
pub(crate) fn make(mappings: &Mappings) -> Result<OwnedFd, SetupError> {
    let what = || "make a user namespace for the ids of a mount";
    let child = sys::clone::spawn(UnshareFlags::NEWUSER, None, || {
        // Should the caller be killed meanwhile.
        let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
        loop {
            rustix::event::pause();
        }
    })
    .during(Step::Namespace, what)?;
    let made = map(child.pid, mappings).and_then(|()| of(child.pid));
    crate::create::end(child.pidfd.as_fd());
    made
}

/// User and group that are root in the user namespace of `pid`, as the caller counts; where it has
/// none, the first that it has.
pub(crate) fn root_of(pid: i32) -> Result<(u32, u32), SetupError> {
    let root = |kind: Kind| {
        let path = format!("/proc/{pid}/{}", kind.file());
        let what = || format!("read `{path}`");
        let text = fs::read_to_string(&path).during(Step::Namespace, what)?;
        let runs = mapping::parse(&text).unwrap_or_default();
        let root = mapping::outside(&runs, 0).or_else(|| Some(runs.first()?.outside));
        root.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
            .during(Step::Namespace, what)
    };
    Ok((root(Kind::Users)?, root(Kind::Groups)?))
}

/// What is left when the child is ready: limits that only the caller may raise, and the pipes,
/// which belong to nobody whom the child's user namespace knows.
pub(crate) fn hand_over(pid: i32, process: &Process, streams: &Streams) -> Result<(), SetupError> {
    let child = Pid::from_raw(pid);
    for limit in &process.limits {
        let new = Rlimit {
            current: limit.soft,
            maximum: limit.hard,
        };
        prlimit(child, limit.resource, new)
            .during(Step::Limit, || format!("set {}", limit.name))?;
    }
    let pipes = [&streams.stdin, &streams.stdout, &streams.stderr];
    if !is_root() || pipes.iter().all(|pipe| pipe.is_none()) {
        return Ok(());
    }
    let what = || "give the standard streams to the user";
    let (uid, gid) = ids(pid).during(Step::User, what)?;
    for pipe in pipes.into_iter().flatten() {
        rustix::fs::fchown(pipe, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
            .during(Step::User, what)?;
    }
    Ok(())
}

/// User and group of a process, as the caller counts.
fn ids(pid: i32) -> io::Result<(u32, u32)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let ids = field("Uid:").zip(field("Gid:"));
    ids.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_id_of_ones_own_needs_no_tool() {
        let run = |outside, length| Run {
            inside: 0,
            outside,
            length,
        };
        assert!(is_own(&[run(1000, 1)], 1000));
        assert!(!is_own(&[run(1000, 2)], 1000));
        assert!(!is_own(&[run(1001, 1)], 1000));
        assert!(!is_own(&[run(1000, 1), run(5, 1)], 1000));
    }
}
