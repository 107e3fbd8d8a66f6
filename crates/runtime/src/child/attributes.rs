//! Scheduling, memory policy and labels of this process.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::thread::{CpuSet, sched_setaffinity};

use super::hide;
use crate::attributes::{Attributes, Label};
use crate::error::{During as _, SetupError, Step};

/// A procfs of this process's pid namespace, for what is written when the rights to mount it are gone.
#[derive(Debug)]
pub(crate) struct OwnProc(OwnedFd);

/// Sets all that takes effect at once, while this process still may. `None`: there is nothing to
/// [`put_on`] later.
pub(crate) fn set(attributes: &Attributes) -> Result<Option<OwnProc>, SetupError> {
    if let Some(scheduler) = &attributes.scheduler {
        sys::schedule::set_scheduler(scheduler)
            .during(Step::Attribute, || "set process.scheduler")?;
    }
    if let Some(value) = attributes.io_priority {
        sys::schedule::set_io_priority(value)
            .during(Step::Attribute, || "set process.ioPriority")?;
    }
    if let Some(domain) = attributes.personality {
        sys::schedule::set_personality(domain)
            .during(Step::Attribute, || "set linux.personality")?;
    }
    if let Some(policy) = &attributes.memory {
        sys::numa::set_policy(policy).during(Step::Attribute, || "set linux.memoryPolicy")?;
    }
    match attributes.label {
        None => Ok(None),
        Some(_) => {
            let proc = hide::private_proc();
            let proc = proc.during(Step::Attribute, || "mount a private procfs")?;
            Ok(Some(OwnProc(proc)))
        }
    }
}

/// Has the program run under its label. The last thing before exec: whatever else this process ran
/// would carry it too.
pub(crate) fn put_on(label: &Label, proc: &OwnProc) -> Result<(), SetupError> {
    // Of AppArmor's own file older kernels know nothing.
    let (paths, text): (&[&str], _) = match label {
        Label::AppArmor(profile) => (
            &["thread-self/attr/apparmor/exec", "thread-self/attr/exec"],
            format!("exec {profile}"),
        ),
        Label::SeLinux(label) => (&["thread-self/attr/exec"], label.clone()),
    };
    let what = || match label {
        Label::AppArmor(profile) => format!("apply the AppArmor profile `{profile}`"),
        Label::SeLinux(label) => format!("apply the SELinux label `{label}`"),
    };
    // `thread-self` is a link, but the kernel's own: nothing else can be in this procfs.
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let mut opened = Err(Errno::NOENT);
    for path in paths {
        opened = openat2(&proc.0, *path, flags, Mode::empty(), resolve);
        if !matches!(opened, Err(Errno::NOENT)) {
            break;
        }
    }
    let file = opened.during(Step::Attribute, what)?;
    rustix::io::write(&file, text.as_bytes()).during(Step::Attribute, what)?;
    Ok(())
}

/// Runs on every processor that its cgroup allows, whatever the caller was bound to.
pub(crate) fn stay_nowhere() -> Result<(), SetupError> {
    let mut all = CpuSet::new();
    (0..CpuSet::MAX_CPU).for_each(|cpu| all.set(cpu));
    match sched_setaffinity(None, &all) {
        // Where it is not allowed, the caller's own binding is kept.
        Err(Errno::PERM) => Ok(()),
        other => other.during(Step::Attribute, || "reset the CPU affinity"),
    }
}

/// Runs only on these processors from now on.
pub(crate) fn stay_on(processors: Option<&CpuSet>, name: &str) -> Result<(), SetupError> {
    let Some(processors) = processors else {
        return Ok(());
    };
    sched_setaffinity(None, processors).during(Step::Attribute, || {
        format!("set process.execCPUAffinity.{name}")
    })
}
