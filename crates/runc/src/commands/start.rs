//! `start`: a created container runs its program.

use std::os::fd::AsFd as _;
use std::process::ExitCode;

use runtime::{StartError, Status};

use super::{Command, Outcome, locked};
use crate::Context;
use crate::arguments::Arguments;
use crate::launch::{self, LaunchError};
use crate::state::{Phase, Record};

pub(crate) const COMMAND: Command = Command::new(
    "start",
    "runs the program of a created container",
    "<container-id>",
    &[],
    run,
);

#[derive(Debug, thiserror::Error)]
enum StateError {
    #[error("cannot start a container that has stopped")]
    Stopped,
    #[error("cannot start an already running container")]
    Running,
    #[error("cannot start a container in the {0} state")]
    Other(&'static str),
}

fn run(context: &Context, arguments: &Arguments) -> Outcome {
    let container = locked(context, arguments)?;
    match container.status() {
        Status::Created => {}
        Status::Stopped => return Err(StateError::Stopped.into()),
        Status::Running => return Err(StateError::Running.into()),
        other => return Err(StateError::Other(super::word(other)).into()),
    }
    match runtime::start(container.directory.as_fd()) {
        Err(StartError::Twice) => return Err(StateError::Running.into()),
        other => other.map_err(LaunchError::from)?,
    }
    let record = Record {
        phase: Phase::Running,
        ..container.record.clone()
    };
    container.directory.write(&record)?;
    launch::poststart(&container)?;
    Ok(ExitCode::SUCCESS)
}
