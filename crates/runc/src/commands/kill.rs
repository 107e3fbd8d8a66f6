//! `kill`: a signal for a container.

use std::process::ExitCode;

use super::{Command, Outcome, container};
use crate::Context;
use crate::arguments::{Arguments, Flag, text};
use crate::state::Container;

pub(crate) const COMMAND: Command = Command::new(
    "kill",
    "sends a signal (default: SIGTERM) to the container's first process",
    "<container-id> [signal]",
    &[Flag::switch(
        &["all", "a"],
        "send it to every process of the container",
    )],
    run,
)
.operands(1, 2);

#[derive(Debug, thiserror::Error)]
enum KillError {
    #[error("unknown signal {0:?}")]
    Signal(String),
    #[error("container not running")]
    NotRunning,
    #[error("unable to signal init")]
    Send(#[source] std::io::Error),
    #[error("signal the container's processes")]
    All(#[source] runtime::cgroup::CgroupError),
}

fn run(context: &Context, arguments: &Arguments) -> Outcome {
    let container = container(context, arguments)?;
    let signal = arguments.operands.get(1).map(|word| text(word));
    let signal = signal.transpose()?.unwrap_or("TERM");
    let number = vocab::signal::parse(signal)
        // Whether there is such a number, the kernel says.
        .or_else(|| signal.parse().ok())
        .ok_or_else(|| KillError::Signal(signal.to_owned()))?;
    if arguments.switch("all")? {
        send_all(&container, number)?;
    } else {
        send(&container, number)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn send(container: &Container, signal: i32) -> Result<(), KillError> {
    // Without a pid namespace of its own, a container's processes outlive its first one.
    let survivors = signal == libc::SIGKILL && !container.record.own_pids;
    let Some(init) = container.init() else {
        if survivors && container.cgroup().is_some() {
            return send_all(container, signal);
        }
        return Err(KillError::NotRunning);
    };
    if survivors && container.cgroup().is_some() {
        return send_all(container, signal);
    }
    match sys::pidfd::send_signal(std::os::fd::AsFd::as_fd(&init), signal) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Err(KillError::NotRunning),
        other => other.map_err(KillError::Send),
    }?;
    if signal == libc::SIGKILL {
        wake(container);
    }
    Ok(())
}

/// A frozen process of a version 1 cgroup is not killed before it thaws.
fn wake(container: &Container) {
    if let Some(cgroup) = container.cgroup()
        && cgroup.is_frozen().unwrap_or(false)
    {
        // The kill is what was asked for, and is done.
        let _ = cgroup.thaw();
    }
}

/// To all processes of the cgroup. One without any has nobody to hear it, which is no error.
fn send_all(container: &Container, signal: i32) -> Result<(), KillError> {
    let Some(cgroup) = container.cgroup() else {
        return match container.init() {
            Some(init) => sys::pidfd::send_signal(std::os::fd::AsFd::as_fd(&init), signal)
                .map_err(KillError::Send),
            None => Err(KillError::NotRunning),
        };
    };
    let gone = |error: &runtime::cgroup::CgroupError| error.is_gone();
    if signal == libc::SIGKILL {
        return match cgroup.kill_all() {
            Err(error) if gone(&error) => Ok(()),
            other => other.map_err(KillError::All),
        };
    }
    let pids = match cgroup.pids() {
        Err(error) if gone(&error) => return Ok(()),
        other => other.map_err(KillError::All)?,
    };
    for pid in pids {
        // Opened by number right after it was read; one that ended since hears nothing.
        let pidfd = rustix::process::Pid::from_raw(pid).and_then(|pid| {
            rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
        });
        if let Some(pidfd) = pidfd {
            match sys::pidfd::send_signal(std::os::fd::AsFd::as_fd(&pidfd), signal) {
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                other => other.map_err(KillError::Send)?,
            }
        }
    }
    Ok(())
}
