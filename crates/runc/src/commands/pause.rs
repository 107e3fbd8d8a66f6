//! `pause` and `resume`: all processes of a container stand still, and go on.

use std::process::ExitCode;

use runtime::Status;
use runtime::cgroup::CgroupError;

use super::{Command, Outcome, locked};
use crate::Context;
use crate::arguments::Arguments;

pub(crate) const PAUSE: Command = Command::new(
    "pause",
    "suspends all processes of a container",
    "<container-id>",
    &[],
    pause,
);

pub(crate) const RESUME: Command = Command::new(
    "resume",
    "lets all processes of a paused container go on",
    "<container-id>",
    &[],
    resume,
);

#[derive(Debug, thiserror::Error)]
enum PauseError {
    #[error("container not running")]
    NotRunning,
    #[error("container not paused")]
    NotPaused,
    #[error("the container has no cgroup to freeze")]
    NoCgroup,
    #[error("freeze the container")]
    Freeze(#[source] CgroupError),
    #[error("thaw the container")]
    Thaw(#[source] CgroupError),
}

fn pause(context: &Context, arguments: &Arguments) -> Outcome {
    let container = locked(context, arguments)?;
    if !matches!(container.status(), Status::Running | Status::Created) {
        return Err(PauseError::NotRunning.into());
    }
    let cgroup = container.cgroup().ok_or(PauseError::NoCgroup)?;
    if let Err(error) = cgroup.freeze() {
        // Half frozen is worse than not at all; the reason is what the caller needs.
        let _ = cgroup.thaw();
        return Err(PauseError::Freeze(error).into());
    }
    Ok(ExitCode::SUCCESS)
}

fn resume(context: &Context, arguments: &Arguments) -> Outcome {
    let container = locked(context, arguments)?;
    if container.status() != Status::Paused {
        return Err(PauseError::NotPaused.into());
    }
    let cgroup = container.cgroup().ok_or(PauseError::NoCgroup)?;
    cgroup.thaw().map_err(PauseError::Thaw)?;
    Ok(ExitCode::SUCCESS)
}
