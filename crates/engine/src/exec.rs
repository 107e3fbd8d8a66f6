//! Commands started inside running containers.

use vocab::{ContainerId, ExecId, Failure, Kind};

use crate::Engine;
use crate::attach::Attached;
use crate::containers::FindError;

/// A command that is wanted.
#[derive(Clone, Debug, Default)]
pub struct CreateExec {
    /// Program and arguments.
    pub cmd: Vec<String>,
    /// `KEY=value`, added to the container's.
    pub env: Vec<String>,
    /// `user[:group]`; the container's when absent.
    pub user: Option<String>,
    /// The container's when absent.
    pub working_dir: Option<String>,
    /// All capabilities.
    pub privileged: bool,
    /// On a terminal.
    pub tty: bool,
    /// With input.
    pub attach_stdin: bool,
    /// With stdout.
    pub attach_stdout: bool,
    /// With stderr.
    pub attach_stderr: bool,
    /// Keys that detach.
    pub detach_keys: Option<String>,
    /// Rows and columns.
    pub console_size: Option<(u16, u16)>,
}

/// How a command is started.
#[derive(Clone, Copy, Debug, Default)]
pub struct StartExec {
    /// Without a client.
    pub detach: bool,
    /// Rows and columns, when not those given at creation.
    pub console_size: Option<(u16, u16)>,
}

/// What `inspect` shows of a command.
#[derive(Clone, Debug)]
pub struct ExecDetails {
    /// Its id.
    pub id: ExecId,
    /// Its container.
    pub container: ContainerId,
    /// What was wanted.
    pub wanted: CreateExec,
    /// Whether it runs.
    pub running: bool,
    /// Once it has ended, or failed to start (126, 127).
    pub exit_code: Option<i32>,
    /// On the host; 0 before the start.
    pub pid: i32,
    /// Whether its stdin can be written to.
    pub can_remove: bool,
}

/// Why a command was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateExecError {
    /// The container was not found.
    #[error(transparent)]
    Find(#[from] FindError),
}

impl Failure for CreateExecError {
    fn kind(&self) -> Kind {
        match self {
            Self::Find(error) => error.kind(),
        }
    }
}

/// No such command.
#[derive(Debug, thiserror::Error)]
#[error("No such exec instance: {0}")]
pub struct FindExecError(pub String);

impl Failure for FindExecError {
    fn kind(&self) -> Kind {
        Kind::NotFound
    }
}

/// Why a command did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartExecError {
    /// No such command.
    #[error(transparent)]
    Find(#[from] FindExecError),
    /// It could not be executed. To an attached client this is output, not a failed request: the
    /// face upgrades the connection and writes the text there.
    #[error("OCI runtime exec failed: exec failed: {message}")]
    Launch {
        /// 126, 127 or 128: what the exec's `ExitCode` became.
        code: i32,
        /// What the runtime said.
        message: String,
    },
}

impl Failure for StartExecError {
    fn kind(&self) -> Kind {
        match self {
            Self::Find(error) => error.kind(),
            Self::Launch { .. } => Kind::InvalidArgument,
        }
    }
}

impl Engine {
    /// Registers a command; the container must run.
    pub async fn create_exec(
        &self,
        _typed: &str,
        _wanted: CreateExec,
    ) -> Result<ExecId, CreateExecError> {
        todo!()
    }

    /// Runs it. Attached unless `detach` says otherwise; no byte is lost in between.
    pub async fn start_exec(
        &self,
        _id: &str,
        _options: StartExec,
    ) -> Result<Option<Attached>, StartExecError> {
        todo!()
    }

    /// Sets the size of its terminal.
    pub async fn resize_exec(
        &self,
        _id: &str,
        _rows: u16,
        _columns: u16,
    ) -> Result<(), StartExecError> {
        todo!()
    }

    /// What is known about it.
    pub async fn inspect_exec(&self, _id: &str) -> Result<ExecDetails, FindExecError> {
        todo!()
    }
}
