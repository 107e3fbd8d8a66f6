//! `run`: creates a container, starts it, and stays with it to its end.

use std::os::fd::AsFd as _;
use std::process::ExitCode;

use super::create::{
    BUNDLE, CONSOLE_SOCKET, NO_NEW_KEYRING, NO_PIVOT, PID_FILE, PIDFD_SOCKET, PRESERVE_FDS,
};
use super::{Command, Outcome, id};
use crate::Context;
use crate::arguments::{Arguments, Flag};
use crate::attend::Attendant;
use crate::launch::{self, Attendance, Handover, LaunchError, Launched};
use crate::state::Phase;

pub(crate) const COMMAND: Command = Command::new(
    "run",
    "creates and runs a container",
    "<container-id>",
    &[
        BUNDLE,
        CONSOLE_SOCKET,
        PIDFD_SOCKET,
        DETACH,
        Flag::switch(&["keep"], "keep the container when it has ended"),
        PID_FILE,
        NO_SUBREAPER,
        NO_PIVOT,
        NO_NEW_KEYRING,
        PRESERVE_FDS,
    ],
    run,
)
.fails_with("run failed: ", 1);

pub(super) const DETACH: Flag = Flag::switch(
    &["detach", "d"],
    "leave the process to whoever takes over the orphans",
);
pub(super) const NO_SUBREAPER: Flag = Flag::switch(
    &["no-subreaper"],
    "do not take over orphans of the container",
);

fn run(context: &Context, arguments: &Arguments) -> Outcome {
    runtime::seal_self().map_err(LaunchError::Seal)?;
    let handover = Handover::new(arguments)?;
    let read = launch::read(context, id(arguments)?, arguments.value("bundle"))?;
    let attendance = if arguments.switch("detach")? {
        Attendance::Detached
    } else {
        Attendance::Foreground
    };
    handover.check_terminal(read.terminal, attendance)?;
    // Before there is a process, so that no signal for it is lost.
    let attendant = match attendance {
        Attendance::Foreground => Some(Attendant::new(!arguments.switch("no-subreaper")?)?),
        Attendance::Detached => None,
    };
    let launched = launch::launch(context, read, arguments, &handover, attendance, false)?;
    let mut launched = launched;
    if let Err(error) = start(&mut launched) {
        launch::abandon(context, &launched.container, launched.created.pidfd.as_fd());
        return Err(error.into());
    }
    let Some(attendant) = attendant else {
        return Ok(ExitCode::SUCCESS);
    };
    let Launched {
        container,
        mut created,
        bundle,
    } = launched;
    drop(bundle);
    let console = created.streams.console.take();
    let code = attendant.attend(created.pid, created.pidfd.as_fd(), console)?;
    if !arguments.switch("keep")? {
        container.directory.lock()?;
        launch::destroy(context, &container)?;
    }
    Ok(ExitCode::from(code))
}

fn start(launched: &mut Launched) -> Result<(), LaunchError> {
    launched.created.start()?;
    let container = &mut launched.container;
    container.record.phase = Phase::Running;
    container.directory.write(&container.record)?;
    launch::poststart(container)?;
    container.directory.unlock();
    Ok(())
}
