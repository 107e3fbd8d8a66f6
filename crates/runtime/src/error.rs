//! What can go wrong on the way from a bundle to a process.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vocab::{Failure, Kind};

use crate::{ListenerError, NetDeviceError, cgroup, hooks};

/// What the child was doing when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Entering the cgroup.
    Cgroup,
    /// Joining or making a namespace.
    Namespace,
    /// Mounting the root file system.
    Root,
    /// A mount of the specification.
    Mount,
    /// A device node or one of the links in `/dev`.
    Device,
    /// Hiding a path, or making it read-only.
    Mask,
    /// The pseudo-terminal.
    Console,
    /// Changing to the new root.
    Pivot,
    /// Host and domain name.
    Hostname,
    /// A kernel parameter.
    Sysctl,
    /// A resource limit.
    Limit,
    /// Scheduling, memory policy, processors, labels.
    Attribute,
    /// User, groups, umask.
    User,
    /// Capabilities, `no_new_privs`.
    Privilege,
    /// The working directory.
    WorkingDirectory,
    /// Loading the system call filter.
    Seccomp,
    /// Finding the program: it is not there.
    NotFound,
    /// Finding the program: it is there and cannot be run.
    NotExecutable,
    /// `execve` itself.
    Exec,
    /// A hook that runs in the container.
    Hook,
    /// Talking to the caller, descriptors.
    Channel,
}

/// A step of the child that failed. Its text is complete: step, operands, the kernel's reason.
#[derive(Clone, Debug, thiserror::Error, Serialize, Deserialize)]
#[error("{what}")]
pub struct SetupError {
    /// What it was doing.
    pub step: Step,
    /// What was being done to what, such as ``mount `proc` at `/proc` ``.
    pub what: String,
    /// The kernel's reason; 0 if it was none of the kernel's.
    pub errno: i32,
    /// The reason in words, when there is an errno.
    #[source]
    pub reason: Option<Reason>,
}

impl SetupError {
    /// A step that failed, perhaps for a reason of the kernel's.
    pub(crate) fn new(step: Step, what: impl Into<String>, reason: Option<&io::Error>) -> Self {
        Self {
            step,
            what: what.into(),
            errno: reason.and_then(io::Error::raw_os_error).unwrap_or(0),
            reason: reason.map(Reason::from),
        }
    }
}

/// Adds the step to an error of the kernel's.
pub(crate) trait During<T> {
    /// What was being done to what.
    fn during<W: Into<String>>(self, step: Step, what: impl FnOnce() -> W)
    -> Result<T, SetupError>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during<W: Into<String>>(
        self,
        step: Step,
        what: impl FnOnce() -> W,
    ) -> Result<T, SetupError> {
        self.map_err(|error| SetupError::new(step, what(), Some(&error.into())))
    }
}

impl From<&io::Error> for Reason {
    fn from(error: &io::Error) -> Self {
        let text = error.to_string();
        // "No such file or directory (os error 2)"
        let text = text
            .split_once(" (os error")
            .map_or(text.as_str(), |(text, _)| text);
        let mut letters = text.chars();
        let first = letters.next().map(|first| first.to_ascii_lowercase());
        Self(first.into_iter().chain(letters).collect())
    }
}

/// An errno in the words that people search for (`strerror`, in lower case as Go prints it).
#[derive(Clone, Debug, thiserror::Error, Serialize, Deserialize)]
#[error("{0}")]
pub struct Reason(pub String);

/// Why a container was not created. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The specification cannot be right: the JSON path, and why.
    #[error("invalid specification: {path}: {reason}")]
    Invalid {
        /// Such as `process.args`.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The cgroup.
    #[error("prepare the cgroup")]
    Cgroup(#[source] cgroup::CgroupError),
    /// The compiled seccomp program.
    #[error("read the seccomp program `{path}`")]
    SeccompProgram {
        /// Where it should be.
        path: PathBuf,
        /// Why it is not.
        source: io::Error,
    },
    /// Pipes, sockets.
    #[error("prepare the standard streams")]
    Stdio(#[source] io::Error),
    /// The process itself.
    #[error("create the process")]
    Clone(#[source] io::Error),
    /// Calls that an agent is to answer.
    #[error(transparent)]
    Listener(#[from] ListenerError),
    /// The process in a new user namespace, which hosts restrict in ways of their own.
    #[error(
        "create the process in a new user namespace (see user.max_user_namespaces, and \
         kernel.unprivileged_userns_clone or kernel.apparmor_restrict_unprivileged_userns where \
         they exist)"
    )]
    UserNamespace(#[source] io::Error),
    /// A device of the host's network.
    #[error(transparent)]
    NetDevice(#[from] NetDeviceError),
    /// A hook that runs on the host.
    #[error("run the hooks")]
    Hook(#[source] hooks::HookError),
    /// The caller could not note down what was made.
    #[error("record the container's process")]
    Record(#[source] io::Error),
    /// A step of the child.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The child ended without a word, most likely killed (the memory limit is too small).
    #[error("the container's process was killed while it was set up")]
    Died,
    /// Talking to the child.
    #[error("talk to the container's process")]
    Channel(#[source] io::Error),
}

impl CreateError {
    /// What is wrong with the specification, and where in it.
    pub(crate) fn invalid(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid {
            path: path.into(),
            reason: reason.into(),
        }
    }
}

impl Failure for CreateError {
    fn kind(&self) -> Kind {
        match self {
            Self::Invalid { .. } => Kind::InvalidArgument,
            Self::Setup(failed)
                if matches!(
                    failed.step,
                    Step::WorkingDirectory | Step::Mount | Step::Limit
                ) =>
            {
                Kind::InvalidArgument
            }
            _ => Kind::Internal,
        }
    }
}

/// Why a process was not started, in runc's own words where tools look for them.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The command is not there: exit code 127. Text: `exec: "nope": executable file not found in $PATH`.
    #[error("{0}")]
    NotFound(String),
    /// The command cannot be run: exit code 126. Text: `exec: "/etc/passwd": permission denied`.
    #[error("{0}")]
    NotExecutable(String),
    /// Anything before: for `exec` the whole preparation is part of the start. Exit code 128.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// It was started before.
    #[error("the container was started before")]
    Twice,
}

impl StartError {
    /// What a shell, and Docker, report for a process that failed this way.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::NotFound(_) => 127,
            Self::NotExecutable(_) => 126,
            Self::Create(_) | Self::Twice => 128,
        }
    }
}

impl Failure for StartError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound(_) | Self::NotExecutable(_) => Kind::InvalidArgument,
            Self::Create(error) => error.kind(),
            Self::Twice => Kind::Conflict,
        }
    }
}
