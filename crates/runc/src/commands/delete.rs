//! `delete`: takes away everything of a container.

use std::os::fd::AsFd as _;
use std::process::ExitCode;
use std::time::Duration;

use runtime::Status;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Command, Outcome, id, word};
use crate::Context;
use crate::arguments::{Arguments, Flag};
use crate::launch;
use crate::state::{Container, Directory, StateError};

pub(crate) const COMMAND: Command = Command::new(
    "delete",
    "takes away all that is left of a container",
    "<container-id>",
    &[Flag::switch(
        &["force", "f"],
        "end the container if it still runs (SIGKILL)",
    )],
    run,
);

/// So long a killed process may take to end.
const KILL: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub(super) enum DeleteError {
    #[error("cannot delete container {id} that is not stopped: {status}")]
    NotStopped { id: String, status: &'static str },
    #[error("kill the container")]
    Kill(#[source] std::io::Error),
    #[error("container init still running")]
    StillRunning,
}

fn run(context: &Context, arguments: &Arguments) -> Outcome {
    let id = id(arguments)?;
    let force = arguments.switch("force")?;
    let removed = delete(context, id, force);
    match removed {
        // Gone already, which is what was asked for.
        Err(error) if force && is_gone(error.as_ref()) => Ok(ExitCode::SUCCESS),
        other => other,
    }
}

fn is_gone(error: &(dyn std::error::Error + 'static)) -> bool {
    matches!(error.downcast_ref(), Some(StateError::NotFound))
}

fn delete(context: &Context, id: &str, force: bool) -> Outcome {
    let directory = context.containers.directory(id)?;
    if force && let Some(record) = directory.record()? {
        // Before the lock: whoever holds it may be waiting for this very process.
        let container = Container { directory, record };
        end(&container)?;
        return finish(context, container.directory, id, true);
    }
    finish(context, directory, id, force)
}

fn finish(context: &Context, directory: Directory, id: &str, force: bool) -> Outcome {
    directory.lock()?;
    let Some(record) = directory.record()? else {
        // Killed before it had written a word: there is nothing else.
        if !force {
            return Err(StateError::NotFound.into());
        }
        directory.remove()?;
        return Ok(ExitCode::SUCCESS);
    };
    let container = Container { directory, record };
    match container.status() {
        Status::Stopped => {}
        Status::Created => end(&container)?,
        _ if force => end(&container)?,
        status => {
            let (id, status) = (id.to_owned(), word(status));
            return Err(DeleteError::NotStopped { id, status }.into());
        }
    }
    if force && let Some(cgroup) = container.cgroup() {
        // What a killed `create` began and did not write down.
        match cgroup.kill_all() {
            Err(error) if !error.is_gone() => {
                context.log.warn(&vocab::failure::chain(&error));
            }
            _ => {}
        }
    }
    launch::destroy(context, &container)?;
    Ok(ExitCode::SUCCESS)
}

/// Kills the first process, and waits until it is gone.
pub(super) fn end(container: &Container) -> Result<(), DeleteError> {
    let Some(init) = container.init() else {
        return Ok(());
    };
    match sys::pidfd::send_signal(init.as_fd(), libc::SIGKILL) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
        other => other.map_err(DeleteError::Kill)?,
    }
    if let Some(cgroup) = container.cgroup()
        && cgroup.is_frozen().unwrap_or(false)
    {
        // A frozen process of a version 1 cgroup is not killed before it thaws.
        let _ = cgroup.thaw();
    }
    let limit = Timespec::try_from(KILL).unwrap_or_default();
    let mut fds = [PollFd::new(&init, PollFlags::IN)];
    let ended = rustix::io::retry_on_intr(|| poll(&mut fds, Some(&limit)));
    match ended {
        Ok(0) => Err(DeleteError::StillRunning),
        Ok(_) => Ok(()),
        Err(error) => Err(DeleteError::Kill(error.into())),
    }
}
