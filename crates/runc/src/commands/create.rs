//! `create`: a container up to where its program could start.

use std::process::ExitCode;

use super::{Command, Outcome, id};
use crate::Context;
use crate::arguments::{Arguments, Flag};
use crate::launch::{self, Attendance, Handover, LaunchError};
use crate::state::Phase;

pub(crate) const COMMAND: Command = Command::new(
    "create",
    "creates a container",
    "<container-id>",
    &[
        BUNDLE,
        CONSOLE_SOCKET,
        PIDFD_SOCKET,
        PID_FILE,
        NO_PIVOT,
        NO_NEW_KEYRING,
        PRESERVE_FDS,
    ],
    run,
)
.fails_with("create failed: ", 1);

pub(super) const BUNDLE: Flag = Flag::value(
    &["bundle", "b"],
    "the bundle's directory (default: the current one)",
);
pub(super) const CONSOLE_SOCKET: Flag = Flag::value(
    &["console-socket"],
    "unix socket that receives the other side of the terminal",
);
pub(super) const PIDFD_SOCKET: Flag = Flag::value(
    &["pidfd-socket"],
    "unix socket that receives a handle on the process",
);
pub(super) const PID_FILE: Flag = Flag::value(&["pid-file"], "file to write the process id to");
pub(super) const NO_PIVOT: Flag = Flag::switch(
    &["no-pivot"],
    "do without pivot_root, for a root on an initramfs",
);
pub(super) const NO_NEW_KEYRING: Flag = Flag::switch(
    &["no-new-keyring"],
    "leave the container in the caller's session keyring",
);
pub(super) const PRESERVE_FDS: Flag = Flag::value(
    &["preserve-fds"],
    "hand so many descriptors from 3 up to the container",
);

fn run(context: &Context, arguments: &Arguments) -> Outcome {
    runtime::seal_self().map_err(LaunchError::Seal)?;
    let handover = Handover::new(arguments)?;
    let read = launch::read(context, id(arguments)?, arguments.value("bundle"))?;
    let attendance = Attendance::Detached;
    handover.check_terminal(read.terminal, attendance)?;
    let launched = launch::launch(context, read, arguments, &handover, attendance, true)?;
    let mut container = launched.container;
    container.record.phase = Phase::Created;
    let left = container
        .directory
        .write(&container.record)
        .map_err(LaunchError::from);
    // Only now may it outlive this program: what is not written down ends with it.
    let pidfd = launched.created.pidfd.try_clone();
    let left = left.and_then(|()| Ok(launched.created.detach()?));
    if let Err(error) = left {
        if let Ok(pidfd) = pidfd {
            launch::abandon(context, &container, std::os::fd::AsFd::as_fd(&pidfd));
        }
        return Err(error.into());
    }
    Ok(ExitCode::SUCCESS)
}
