//! As whom, with which limits and privileges, and where.
//!
//! The order is forced: limits while they may still be raised, groups before the user, the
//! bounding set before `CAP_SETPCAP` goes, permitted sets after the user (which clears them).

use std::io;

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{Gid, Rlimit, Uid, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
    set_keep_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

use super::attributes::OwnProc;
use crate::capability;
use crate::error::{During as _, SetupError, Step};
use crate::plan::Process;

/// What is known only inside: where the user is at home, and what a label is written through.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) home: Option<String>,
    pub(crate) proc: Option<OwnProc>,
}

impl Ready {
    pub(crate) fn with_proc(self, proc: Option<OwnProc>) -> Self {
        Self { proc, ..self }
    }
}

/// Becomes the user. `own_limits`: the limits are set here, not by the caller (who must where this
/// process's rights are those of another user namespace). With `will_filter`, the right to load a filter is kept until exec, which
/// computes the program's capabilities anew from the bounding, inheritable and ambient sets.
pub(crate) fn assume(
    process: &Process,
    own_limits: bool,
    will_filter: bool,
) -> Result<Ready, SetupError> {
    let home = super::program::home(process);
    for limit in process.limits.iter().filter(|_| own_limits) {
        let new = Rlimit {
            current: limit.soft,
            maximum: limit.hard,
        };
        setrlimit(limit.resource, new).during(Step::Limit, || format!("set {}", limit.name))?;
    }
    // Root reaches directories that the user may not, and the other way round over NFS.
    let entered = match rustix::process::chdir(&process.cwd) {
        Ok(()) => true,
        Err(Errno::ACCESS | Errno::PERM) => false,
        Err(error) => return Err(cwd_error(process, error)),
    };
    restrict(process.capabilities.bounding)
        .during(Step::Privilege, || "restrict the bounding set")?;
    set_keep_capabilities(true).during(Step::Privilege, || "keep capabilities")?;
    become_user(process).during(Step::User, || {
        format!("become user {} of group {}", process.uid, process.gid)
    })?;
    if !entered {
        rustix::process::chdir(&process.cwd).map_err(|error| cwd_error(process, error))?;
    }
    verify_cwd()?;
    set_keep_capabilities(false).during(Step::Privilege, || "stop keeping capabilities")?;
    let keep = will_filter && !process.no_new_privileges;
    limit_to(&process.capabilities, keep).during(Step::Privilege, || "set the capabilities")?;
    if process.no_new_privileges {
        set_no_new_privs(true).during(Step::Privilege, || "set no_new_privs")?;
    }
    if let Some(umask) = process.umask {
        rustix::process::umask(Mode::from_bits_truncate(umask));
    } else {
        rustix::process::umask(Mode::from_bits_truncate(0o022));
    }
    Ok(Ready { home, proc: None })
}

fn cwd_error(process: &Process, error: Errno) -> SetupError {
    let what = format!("chdir to cwd ({:?}) set in config.json failed", process.cwd);
    SetupError::new(Step::WorkingDirectory, what, Some(&error.into()))
}

/// Whether the working directory is inside the root: the kernel says `(unreachable)` otherwise.
fn verify_cwd() -> Result<(), SetupError> {
    let escaped = match rustix::process::getcwd(Vec::new()) {
        Ok(path) => path.as_bytes().first() != Some(&b'/'),
        Err(Errno::NOENT) => true,
        Err(error) => return Err(error).during(Step::WorkingDirectory, || "find the cwd"),
    };
    if escaped {
        let what = "current working directory is outside of container mount namespace root \
                    -- possible container breakout detected";
        return Err(SetupError::new(Step::WorkingDirectory, what, None));
    }
    Ok(())
}

/// The kernel itself says where its capabilities end: a file in `/proc` would be the container's.
fn restrict(bounding: CapabilitySet) -> io::Result<()> {
    for number in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if !bounding.contains(one) {
            match remove_capability_from_bounding_set(one) {
                Err(Errno::INVAL) => break,
                other => other?,
            }
        }
    }
    Ok(())
}

fn become_user(process: &Process) -> io::Result<()> {
    let groups: Vec<Gid> = process
        .groups
        .iter()
        .map(|gid| Gid::from_raw(*gid))
        .collect();
    if groups.is_empty() {
        super::enter::drop_groups()?;
    } else {
        set_thread_groups(&groups)?;
    }
    let (uid, gid) = (Uid::from_raw(process.uid), Gid::from_raw(process.gid));
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

/// Has what exec would leave of the capabilities (capabilities(7)), in a process that does none.
pub(super) fn as_if_executed(process: &Process) -> io::Result<()> {
    let sets = &process.capabilities;
    let permitted = if process.uid == 0 {
        sets.bounding | sets.inheritable
    } else {
        sets.ambient
    };
    let left = capability::Sets {
        permitted,
        effective: permitted,
        ..*sets
    };
    limit_to(&left, false)
}

/// What is asked for and not held (berth may itself run with less) is left out, as runc does.
fn limit_to(sets: &capability::Sets, keep_admin: bool) -> io::Result<()> {
    let held = capabilities(None)?.permitted;
    let mut permitted = sets.permitted & held;
    let mut effective = sets.effective & permitted;
    let inheritable = sets.inheritable & held;
    let ambient = sets.ambient & permitted & inheritable;
    if keep_admin {
        let admin = CapabilitySet::SYS_ADMIN & held;
        permitted |= admin;
        effective |= admin;
    }
    set_capabilities(
        None,
        CapabilitySets {
            effective,
            permitted,
            inheritable,
        },
    )?;
    match clear_ambient_capability_set() {
        // Before Linux 4.3.
        Err(Errno::INVAL) if ambient.is_empty() => return Ok(()),
        other => other?,
    }
    ambient
        .iter()
        .try_for_each(|one| configure_capability_in_ambient_set(one, true))?;
    Ok(())
}
