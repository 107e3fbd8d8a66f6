//! `restore`: a container goes on from where `checkpoint` saved it.

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::ExitCode;

use runtime::criu::{self, Options, Restore, Restored};

use super::checkpoint::{
    AUTO_DEDUP, EMPTY_NS, EXT_UNIX_SK, FILE_LOCKS, IMAGE_PATH, LAZY_PAGES, MANAGE_CGROUPS_MODE,
    SHELL_JOB, TCP_ESTABLISHED, WORK_PATH, make_directory, options,
};
use super::create::{BUNDLE, CONSOLE_SOCKET, NO_PIVOT, PID_FILE};
use super::run::{DETACH, NO_SUBREAPER};
use super::{Command, Outcome, id};
use crate::Context;
use crate::arguments::{Arguments, Flag};
use crate::attend::Attendant;
use crate::launch::{self, Attendance, Handover, LaunchError};
use crate::state::{Container, Life, Phase, StateError};

pub(crate) const COMMAND: Command = Command::new(
    "restore",
    "restores a saved container, through CRIU",
    "<container-id>",
    &[
        CONSOLE_SOCKET,
        IMAGE_PATH,
        WORK_PATH,
        TCP_ESTABLISHED,
        EXT_UNIX_SK,
        SHELL_JOB,
        FILE_LOCKS,
        MANAGE_CGROUPS_MODE,
        BUNDLE,
        DETACH,
        PID_FILE,
        NO_SUBREAPER,
        NO_PIVOT,
        EMPTY_NS,
        AUTO_DEDUP,
        LAZY_PAGES,
        Flag::value(
            &["lsm-profile"],
            "TYPE:PROFILE of a security module, in place of the saved one",
        ),
        Flag::value(
            &["lsm-mount-context"],
            "mount context of a security module, in place of the saved ones",
        ),
    ],
    restore,
)
.fails_with("restore failed: ", 1);

/// Where CRIU sees the root mounted, in the container's directory of state.
const STAGE: &str = "criu-root";

#[derive(Debug, thiserror::Error)]
enum StageError {
    #[error("find the current directory")]
    Directory(#[source] io::Error),
    #[error("create the directory `{path}`")]
    Create { path: PathBuf, source: io::Error },
}

fn restore(context: &Context, arguments: &Arguments) -> Outcome {
    let handover = Handover::new(arguments)?;
    let options = options(arguments)?;
    // The more useful answer where there is neither.
    if let Err(source) = fs::metadata(&options.images) {
        let path = options.images;
        return Err(criu::PrepareError::Directory { path, source }.into());
    }
    if let Some(work) = &options.work {
        make_directory(work)?;
    }
    let mut read = launch::read(context, id(arguments)?, arguments.value("bundle"))?;
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
    let scope = read.scope.take();
    let mut container = launch::claim(context, &read.bundle, scope, read.terminal)?;
    let restored = revive(&mut container, &mut read, arguments, &options);
    let mut restored = match restored {
        Ok(restored) => restored,
        Err(error) => {
            launch::forget(&container);
            return Err(error);
        }
    };
    let console = restored.console.as_ref().map(|fd| fd.as_fd());
    let console = console.filter(|_| attendance == Attendance::Detached);
    let told = handover
        .tell(restored.pid, restored.pidfd.as_fd(), console)
        .and_then(|()| started(&mut container));
    if let Err(error) = told {
        launch::abandon(context, &container, restored.pidfd.as_fd());
        return Err(error.into());
    }
    let Some(attendant) = attendant else {
        return Ok(ExitCode::SUCCESS);
    };
    let console = restored.console.take();
    let code = attendant.attend(restored.pid, restored.pidfd.as_fd(), console)?;
    container.directory.lock()?;
    launch::destroy(context, &container)?;
    Ok(ExitCode::from(code))
}

/// Has CRIU make the processes; the record knows of them as soon as there are any.
fn revive(
    container: &mut Container,
    read: &mut launch::Read,
    arguments: &Arguments,
    options: &Options,
) -> Result<Restored, Box<dyn std::error::Error>> {
    launch::keep(container, &read.json)?;
    // Holds the scope until the container's processes are in it.
    let _started = launch::start_scope(&mut read.bundle, container)?;
    let stage = container.directory.path().join(STAGE);
    let stage = std::path::absolute(stage).map_err(StageError::Directory)?;
    fs::create_dir(&stage).map_err(|source| StageError::Create {
        path: stage.clone(),
        source,
    })?;
    let restore = Restore {
        bundle: &read.bundle,
        stage: &stage,
        own_streams: !read.terminal,
        lsm_profile: arguments.text("lsm-profile")?,
        lsm_mount_context: arguments.text("lsm-mount-context")?,
    };
    let Container { directory, record } = container;
    let mut born = |pid| {
        record.set_life(Life::of(pid));
        directory
            .write(record)
            .map_err(|error: StateError| io::Error::other(vocab::failure::chain(&error)))
    };
    let restored = criu::restore(&restore, options, &mut born)?;
    // It is removed with the rest at the latest.
    let _ = fs::remove_dir(&stage);
    Ok(restored)
}

fn started(container: &mut Container) -> Result<(), LaunchError> {
    container.record.phase = Phase::Running;
    container.directory.write(&container.record)?;
    container.directory.unlock();
    Ok(())
}
