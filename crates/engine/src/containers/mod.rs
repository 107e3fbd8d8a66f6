//! Containers: what users ask of them, and what they see.
//!
//! Every operation takes what the user typed: a full id, a name, or a unique prefix of an id.
//!
//! | module | holds |
//! |---|---|
//! | `state` | the state machine, drawn and pure |
//! | `owner` | the task that owns one container |
//! | `record` | what `engine.db` keeps of it |
//! | `index` | all containers by id and name |
//! | `create`, `launch`, `remove`, `update` | the operations that take steps |
//! | `link` | connections to monitors |
//! | `recover` | what a restarted engine finds |
//! | `health` | whether a container is well |
//! | `list` | what users see, and filters |

pub(crate) mod create;
pub(crate) mod health;
pub(crate) mod index;
pub(crate) mod ipc;
pub(crate) mod launch;
pub(crate) mod link;
mod list;
pub(crate) mod names;
pub(crate) mod owner;
pub(crate) mod ports;
pub(crate) mod record;
pub(crate) mod recover;
mod remove;
pub(crate) mod state;
mod update;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use network::{NamesError, SandboxError};
use runtime::cgroup::CgroupError;
use serde::Serialize;
use tokio::sync::{oneshot, watch};
use vocab::config::{
    ContainerConfig, EndpointSettings, HostConfig, NetworkingConfig, PortBinding, Resources,
    RestartPolicy,
};
use vocab::{ContainerId, Digest, ExecId, Failure, Kind, Platform};

use crate::db::DbError;
use crate::endpoints::JoinError;
use crate::networks::FindNetworkError;
use crate::spec::{CheckError, DeviceError, SeccompError, UserError};
use crate::volumes::{CopyUpError, CreateVolumeError, MountVolumeError};
use crate::{Engine, FilterError, Filters};
use index::View;
pub use ipc::IpcError;
use owner::Request;

pub use health::{Checked, Health, HealthStatus};
pub use link::LinkError;
pub use list::LIST_FILTERS;
pub(crate) use list::Prune;

/// A container that is wanted.
#[derive(Clone, Debug, Default)]
pub struct CreateContainer {
    /// Its name, with or without the slash; made up when absent.
    pub name: Option<String>,
    /// What runs.
    pub config: ContainerConfig,
    /// How it runs here.
    pub host: HostConfig,
    /// The networks it joins.
    pub networking: NetworkingConfig,
    /// The platform the image must be for.
    pub platform: Option<Platform>,
}

/// A container that was made.
#[derive(Clone, Debug)]
pub struct Created {
    /// Its id.
    pub id: ContainerId,
    /// What was asked and has no effect.
    pub warnings: Vec<String>,
}

/// Where a container is in its life, in the API's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// Never started.
    Created,
    /// Its process runs.
    Running,
    /// Its process is frozen.
    Paused,
    /// It ended and will start again.
    Restarting,
    /// It is being removed.
    Removing,
    /// It ended.
    Exited,
    /// Its removal failed half-way.
    Dead,
}

impl Status {
    /// The API's word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
            Self::Dead => "dead",
        }
    }
}

/// The state that `inspect` shows.
#[derive(Clone, Debug)]
pub struct State {
    /// Where it is in its life.
    pub status: Status,
    /// Whether the kernel killed it for want of memory.
    pub oom_killed: bool,
    /// PID 1 on the host; 0 when it does not run.
    pub pid: i32,
    /// Of the last run; 0 before the first.
    pub exit_code: i32,
    /// Why the last start failed; empty when it did not.
    pub error: String,
    /// When it started last.
    pub started_at: Option<SystemTime>,
    /// When it ended last.
    pub finished_at: Option<SystemTime>,
    /// How well it is, where that is checked.
    pub health: Option<Health>,
}

impl State {
    /// Whether a process exists: running, paused, or between two runs.
    pub fn is_running(&self) -> bool {
        matches!(
            self.status,
            Status::Running | Status::Paused | Status::Restarting
        )
    }

    /// What `ps` prints: `Up 3 minutes`, `Exited (0) 2 hours ago`.
    pub fn sentence(&self, now: SystemTime) -> String {
        list::sentence(self, now)
    }
}

/// Something mounted into a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountPoint {
    /// `bind`, `volume` or `tmpfs`.
    pub kind: String,
    /// Of a volume.
    pub name: String,
    /// On the host.
    pub source: String,
    /// Inside.
    pub destination: String,
    /// Of a volume.
    pub driver: String,
    /// Options as they were typed.
    pub mode: String,
    /// Whether writing is allowed.
    pub writable: bool,
    /// `rprivate`, …; empty for volumes and tmpfs.
    pub propagation: String,
}

/// A port in a list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// Host address, when published.
    pub host_ip: Option<String>,
    /// Port inside.
    pub container: u16,
    /// Port on the host, when published.
    pub host: Option<u16>,
    /// `tcp`, `udp`, `sctp`.
    pub protocol: String,
}

/// Bytes of a container's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct Size {
    /// Of its writable layer.
    pub writable_bytes: u64,
    /// With the image beneath.
    pub root_bytes: u64,
}

/// One line of a list.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Its id.
    pub id: ContainerId,
    /// Its name, without the slash.
    pub name: String,
    /// The image as it was named.
    pub image: String,
    /// The image.
    pub image_id: Digest,
    /// Entry point and arguments in one line, quoted as Docker quotes them.
    pub command: String,
    /// When it was made.
    pub created: SystemTime,
    /// Ports, published or only exposed.
    pub ports: Vec<Port>,
    /// When asked for.
    pub size: Option<Size>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its state.
    pub state: State,
    /// What `ps` prints.
    pub status: String,
    /// `HostConfig.NetworkMode`.
    pub network_mode: String,
    /// `HostConfig.Annotations`.
    pub annotations: Option<BTreeMap<String, String>>,
    /// Its endpoints by network name.
    pub networks: BTreeMap<String, EndpointSettings>,
    /// Its mounts.
    pub mounts: Vec<MountPoint>,
}

/// What `inspect` shows.
#[derive(Clone, Debug)]
pub struct Details {
    /// Its id.
    pub id: ContainerId,
    /// Its name, without the slash.
    pub name: String,
    /// When it was made.
    pub created: SystemTime,
    /// The program.
    pub path: String,
    /// The program's arguments.
    pub args: Vec<String>,
    /// Its state.
    pub state: State,
    /// The image.
    pub image: Digest,
    /// On the host; empty before the first start.
    pub resolv_conf_path: PathBuf,
    /// On the host; empty before the first start.
    pub hostname_path: PathBuf,
    /// On the host; empty before the first start.
    pub hosts_path: PathBuf,
    /// The json-file log on the host; empty with another driver.
    pub log_path: PathBuf,
    /// Restarts by its policy.
    pub restart_count: u32,
    /// Storage driver.
    pub driver: String,
    /// Operating system of the image.
    pub platform: String,
    /// Running commands inside.
    pub execs: Vec<ExecId>,
    /// How it runs here, with the daemon's defaults filled in.
    pub host: HostConfig,
    /// What runs, with the image's part filled in.
    pub config: ContainerConfig,
    /// Its mounts.
    pub mounts: Vec<MountPoint>,
    /// Id of the network namespace as Docker would name it; empty when it does not run.
    pub sandbox_id: String,
    /// Ports by `port/protocol`; `None` for exposed and not published.
    pub ports: BTreeMap<String, Option<Vec<PortBinding>>>,
    /// Its endpoints by network name.
    pub networks: BTreeMap<String, EndpointSettings>,
    /// When asked for.
    pub size: Option<Size>,
}

/// Which containers a list shows.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// Those that do not run, too.
    pub all: bool,
    /// The newest so many, running or not.
    pub limit: Option<usize>,
    /// With their sizes.
    pub size: bool,
    /// What must match.
    pub filters: Filters,
}

/// How a container is removed.
#[derive(Clone, Copy, Debug, Default)]
pub struct RemoveOptions {
    /// Kill it first.
    pub force: bool,
    /// Remove its anonymous volumes.
    pub volumes: bool,
    /// Remove only the link of that name.
    pub link: bool,
}

/// What a waiter waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WaitCondition {
    /// That it does not run; true at once when it does not.
    #[default]
    NotRunning,
    /// The next exit.
    NextExit,
    /// That it is gone.
    Removed,
}

/// What a waiter hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitOutcome {
    /// The exit code.
    pub code: i32,
    /// What went wrong, when something did.
    pub error: Option<String>,
}

/// A registered waiter.
#[derive(Debug)]
pub struct Wait {
    view: watch::Receiver<Arc<View>>,
    condition: WaitCondition,
    /// Ends at the time of registration.
    exits: u64,
    /// Whether it was waited for a container that ran.
    ran: bool,
}

impl Wait {
    /// Waits for what was registered.
    pub async fn outcome(mut self) -> WaitOutcome {
        loop {
            let view = Arc::clone(&self.view.borrow_and_update());
            let met = match self.condition {
                WaitCondition::NotRunning => {
                    !self.ran || view.exits > self.exits || !counts_as_running(&view)
                }
                WaitCondition::NextExit => view.exits > self.exits,
                WaitCondition::Removed => false,
            };
            if met || view.gone {
                return WaitOutcome {
                    code: view.course.exit_code,
                    error: None,
                };
            }
            if self.view.changed().await.is_err() {
                // Its owner has ended without removing it: the engine is being shut down.
                let view = self.view.borrow();
                return WaitOutcome {
                    code: view.course.exit_code,
                    error: (!view.gone).then(|| "the engine is shutting down".to_owned()),
                };
            }
        }
    }
}

/// Changes to a container in place.
#[derive(Clone, Debug, Default)]
pub struct Update {
    /// Limits; zero and absent members stay as they are.
    pub resources: Resources,
    /// The restart policy, when it changes.
    pub restart_policy: Option<RestartPolicy>,
}

/// What a prune removed.
#[derive(Clone, Debug, Default)]
pub struct Pruned {
    /// Ids or names.
    pub removed: Vec<String>,
    /// Bytes that became free.
    pub reclaimed_bytes: u64,
}

/// No container, or several, for what was typed.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// None.
    #[error("No such container: {0}")]
    NotFound(String),
    /// Several ids begin so.
    #[error("multiple IDs found with provided prefix: {0}")]
    Ambiguous(String),
}

impl Failure for FindError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound(_) => Kind::NotFound,
            Self::Ambiguous(_) => Kind::InvalidArgument,
        }
    }
}

/// Why a container was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The image is not here.
    #[error(transparent)]
    Image(store::FindError),
    /// It is for another platform.
    #[error(
        "image with reference {image} was found but does not match the specified platform: wanted \
         {wanted}, actual: {actual}"
    )]
    Platform {
        /// As it was named.
        image: String,
        /// What was asked for.
        wanted: Box<Platform>,
        /// What the image says.
        actual: Box<Platform>,
    },
    /// A container that is referred to was not found.
    #[error(transparent)]
    Find(FindError),
    /// A network was not found.
    #[error(transparent)]
    Network(FindNetworkError),
    /// Neither user nor image say what to run.
    #[error("no command specified")]
    NoCommand,
    /// An option cannot be.
    #[error(transparent)]
    Check(CheckError),
    /// The name is not fine.
    #[error("Invalid container name ({0}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")]
    Name(String),
    /// The name is taken.
    #[error(
        "Conflict. The container name \"/{name}\" is already in use by container \"{owner}\". You \
         have to remove (or rename) that container to be able to reuse that name."
    )]
    Taken {
        /// The name.
        name: String,
        /// Who has it.
        owner: ContainerId,
    },
    /// A volume of it.
    #[error(transparent)]
    Volume(CreateVolumeError),
    /// A volume was not filled.
    #[error(transparent)]
    CopyUp(CopyUpError),
    /// A volume with a file system of its own.
    #[error(transparent)]
    MountVolume(MountVolumeError),
    /// Its writable layer.
    #[error("make the writable layer")]
    Snapshot(#[source] store::SnapshotError),
    /// Its record.
    #[error("record the container")]
    Record(#[source] DbError),
}

impl Failure for CreateError {
    fn kind(&self) -> Kind {
        match self {
            Self::Image(error) => error.kind(),
            Self::Platform { .. } => Kind::NotFound,
            Self::Find(error) => error.kind(),
            Self::Network(error) => error.kind(),
            Self::NoCommand | Self::Name(_) => Kind::InvalidArgument,
            Self::Check(error) => error.kind(),
            Self::Taken { .. } => Kind::Conflict,
            Self::Volume(error) => error.kind(),
            Self::Snapshot(error) => error.kind(),
            Self::CopyUp(_) | Self::MountVolume(_) | Self::Record(_) => Kind::Internal,
        }
    }
}

/// Why a container did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The container was not found.
    #[error(transparent)]
    Find(#[from] FindError),
    /// It runs.
    #[error("container is already running")]
    Running,
    /// It is paused.
    #[error("cannot start a paused container, try unpause instead")]
    Paused,
    /// It is being removed.
    #[error("container {0} is marked for removal and cannot be started")]
    Removing(ContainerId),
    /// It was started by somebody else at the same time, who was told more.
    #[error("{0}")]
    Again(String),
    /// The engine shuts down.
    #[error("the engine is shutting down")]
    Closing,
    /// A signal that nobody knows.
    #[error("invalid signal: {0}")]
    Signal(String),
    /// An option that cannot be any more.
    #[error(transparent)]
    Check(CheckError),
    /// Its user is not there.
    #[error(transparent)]
    User(UserError),
    /// Its users cannot be read.
    #[error("read /etc/passwd and /etc/group of the container")]
    Accounts(#[source] std::io::Error),
    /// A device of it.
    #[error(transparent)]
    Device(DeviceError),
    /// Its system call filter.
    #[error(transparent)]
    Seccomp(SeccompError),
    /// Its root file system.
    #[error("mount the container's root")]
    Root(#[source] store::SnapshotError),
    /// A volume of it.
    #[error(transparent)]
    MountVolume(#[from] MountVolumeError),
    /// The memory that it shares, or those with whom it wants to.
    #[error(transparent)]
    Ipc(#[from] IpcError),
    /// Its files on the host.
    #[error("write `{path}`")]
    Files {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The sink of its log.
    #[error("failed to create task for container: failed to initialize logging driver")]
    Log(#[source] sinks::SendError),
    /// Its network namespace.
    #[error("failed to set up container networking")]
    Sandbox(#[source] SandboxError),
    /// The answers to its questions for names.
    #[error("failed to set up container networking")]
    Names(#[source] NamesError),
    /// Its networks.
    #[error(transparent)]
    Network(JoinError),
    /// Its monitor or its process.
    #[error("failed to create task for container")]
    Spawn(#[source] monitor::SpawnError),
    /// The connection to its monitor.
    #[error("talk to the container's monitor")]
    Control(#[source] std::io::Error),
    /// Its monitor.
    #[error(transparent)]
    Monitor(LinkError),
    /// Its program.
    #[error(
        "failed to create task for container: OCI runtime create failed: unable to start container \
         process: {message}"
    )]
    Launch {
        /// 126, 127 or 128.
        code: i32,
        /// What the runtime said.
        message: String,
    },
    /// Its record.
    #[error("record the start")]
    Record(#[source] DbError),
    /// It did not stop, so it was not started again.
    #[error(transparent)]
    Stop(StopError),
}

impl StartError {
    /// The exit code that the container shows after this failure.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Launch { code, .. } => *code,
            Self::Spawn(monitor::SpawnError::Create { kind, .. }) => kind.exit_code(),
            _ => 128,
        }
    }
}

impl Failure for StartError {
    fn kind(&self) -> Kind {
        match self {
            Self::Find(error) => error.kind(),
            Self::Running => Kind::NotModified,
            Self::Paused | Self::Removing(_) => Kind::Conflict,
            Self::Closing => Kind::Unavailable,
            Self::Signal(_) => Kind::InvalidArgument,
            Self::Check(error) => error.kind(),
            Self::User(error) => error.kind(),
            Self::Device(error) => error.kind(),
            Self::Seccomp(error) => error.kind(),
            Self::Network(error) => error.kind(),
            Self::Spawn(error) => error.kind(),
            Self::Launch {
                code: 126 | 127, ..
            } => Kind::InvalidArgument,
            Self::Stop(error) => error.kind(),
            Self::Ipc(error) => error.kind(),
            Self::Again(_)
            | Self::MountVolume(_)
            | Self::Accounts(_)
            | Self::Root(_)
            | Self::Files { .. }
            | Self::Log(_)
            | Self::Sandbox(_)
            | Self::Names(_)
            | Self::Control(_)
            | Self::Monitor(_)
            | Self::Launch { .. }
            | Self::Record(_) => Kind::Internal,
        }
    }
}

/// Why a container did not stop.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// The container was not found.
    #[error(transparent)]
    Find(#[from] FindError),
    /// It does not run.
    #[error("container is already stopped")]
    NotRunning,
    /// A signal that nobody knows.
    #[error("invalid signal: {0}")]
    Signal(String),
    /// The engine shuts down.
    #[error("the engine is shutting down")]
    Closing,
}

impl Failure for StopError {
    fn kind(&self) -> Kind {
        match self {
            Self::Find(error) => error.kind(),
            Self::NotRunning => Kind::NotModified,
            Self::Signal(_) => Kind::InvalidArgument,
            Self::Closing => Kind::Unavailable,
        }
    }
}

/// How long a SIGKILL may take to end a container before its sender is answered anyway.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// Why a signal was not sent.
#[derive(Debug, thiserror::Error)]
pub enum KillError {
    /// The container was not found.
    #[error(transparent)]
    Find(#[from] FindError),
    /// A signal that nobody knows.
    #[error("invalid signal: {0}")]
    Signal(String),
    /// It does not run.
    #[error("container {0} is not running")]
    NotRunning(ContainerId),
    /// The monitor did not send it.
    #[error(transparent)]
    Monitor(#[from] LinkError),
    /// It stays frozen.
    #[error("thaw the container")]
    Thaw(#[source] CgroupError),
    /// The engine shuts down.
    #[error("the engine is shutting down")]
    Closing,
    /// Any of these, and to which container.
    #[error("cannot kill container: {typed}")]
    Of {
        /// As it was typed.
        typed: String,
        /// Why not.
        source: Box<KillError>,
    },
}

impl Failure for KillError {
    fn kind(&self) -> Kind {
        match self {
            Self::Find(error) => error.kind(),
            Self::Signal(_) => Kind::InvalidArgument,
            Self::NotRunning(_) => Kind::Conflict,
            Self::Closing => Kind::Unavailable,
            Self::Monitor(_) | Self::Thaw(_) => Kind::Internal,
            Self::Of { source, .. } => source.kind(),
        }
    }
}

/// Why a container was not paused or resumed.
#[derive(Debug, thiserror::Error)]
pub enum PauseError {
    /// The container was not found.
    #[error(transparent)]
    Find(#[from] FindError),
    /// It does not run.
    #[error("container {0} is not running")]
    NotRunning(ContainerId),
    /// It is paused.
    #[error("Container {0} is already paused")]
    Paused(ContainerId),
    /// It is not.
    #[error("Container {0} is not paused")]
    NotPaused(ContainerId),
    /// It is between two runs.
    #[error("Container {0} is restarting, wait until the container is running")]
    Restarting(ContainerId),
    /// The kernel did not.
    #[error("freeze or thaw the container")]
    Freezer(#[source] CgroupError),
    /// The engine shuts down.
    #[error("the engine is shutting down")]
    Closing,
}

impl Failure for PauseError {
    fn kind(&self) -> Kind {
        match self {
            Self::Find(error) => error.kind(),
            Self::Freezer(_) => Kind::Internal,
            Self::Closing => Kind::Unavailable,
            _ => Kind::Conflict,
        }
    }
}

/// Why a container was not renamed.
#[derive(Debug, thiserror::Error)]
pub enum RenameError {
    /// The container was not found.
    #[error(transparent)]
    Find(#[from] FindError),
    /// No name was given.
    #[error("Neither old nor new names may be empty")]
    Empty,
    /// The name is not fine.
    #[error(
        "Error when allocating new name: Invalid container name (/{0}), only \
         [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
    )]
    Name(String),
    /// It has that name.
    #[error("Renaming a container with the same name as its current name")]
    Same,
    /// Another has it.
    #[error(
        "Error when allocating new name: Conflict. The container name \"/{name}\" is already in \
         use by container \"{owner}\". You have to remove (or rename) that container to be able to \
         reuse that name."
    )]
    Taken {
        /// The name.
        name: String,
        /// Who has it.
        owner: ContainerId,
    },
    /// It is being removed.
    #[error("container {0} is marked for removal and cannot be renamed")]
    Removing(ContainerId),
    /// Its record.
    #[error("record the name")]
    Record(#[source] DbError),
    /// The engine shuts down.
    #[error("the engine is shutting down")]
    Closing,
}

impl Failure for RenameError {
    fn kind(&self) -> Kind {
        match self {
            Self::Find(error) => error.kind(),
            Self::Empty | Self::Name(_) | Self::Same => Kind::InvalidArgument,
            Self::Taken { .. } | Self::Removing(_) => Kind::Conflict,
            Self::Record(_) => Kind::Internal,
            Self::Closing => Kind::Unavailable,
        }
    }
}

/// Why a container was not removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// The container was not found.
    #[error(transparent)]
    Find(#[from] FindError),
    /// It runs.
    #[error("container is running: stop the container before removing or force remove")]
    Running,
    /// It is paused.
    #[error("container is paused and must be unpaused first")]
    Paused,
    /// It is between two runs.
    #[error("container is restarting: stop the container before removing or force remove")]
    Restarting,
    /// It is in one of these states, and which it is.
    #[error("cannot remove container {typed:?}")]
    Of {
        /// As it was typed.
        typed: String,
        /// Its state.
        source: Box<RemoveError>,
    },
    /// Somebody else removes it.
    #[error("removal of container {0} is already in progress")]
    Removing(ContainerId),
    /// Links are not done.
    #[error("berth does not do legacy links yet")]
    Link,
    /// Its writable layer.
    #[error("remove the writable layer")]
    Snapshot(#[source] store::SnapshotError),
    /// Its files on the host.
    #[error("remove `{path}`")]
    Files {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Its record.
    #[error("forget the container")]
    Record(#[source] DbError),
    /// It was removed by somebody else at the same time, who was told more.
    #[error("{0}")]
    Again(String),
    /// The engine shuts down.
    #[error("the engine is shutting down")]
    Closing,
}

impl Failure for RemoveError {
    fn kind(&self) -> Kind {
        match self {
            Self::Find(error) => error.kind(),
            Self::Running | Self::Paused | Self::Restarting | Self::Removing(_) => Kind::Conflict,
            Self::Of { source, .. } => source.kind(),
            Self::Link => Kind::NotImplemented,
            Self::Closing => Kind::Unavailable,
            Self::Snapshot(_) | Self::Files { .. } | Self::Record(_) | Self::Again(_) => {
                Kind::Internal
            }
        }
    }
}

/// Why a waiter was not registered.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    /// The container was not found.
    #[error(transparent)]
    Find(#[from] FindError),
}

impl Failure for WaitError {
    fn kind(&self) -> Kind {
        match self {
            Self::Find(error) => error.kind(),
        }
    }
}

/// Why a terminal was not resized.
#[derive(Debug, thiserror::Error)]
pub enum ResizeError {
    /// The container was not found.
    #[error(transparent)]
    Find(#[from] FindError),
    /// It does not run.
    #[error("container {0} is not running")]
    NotRunning(ContainerId),
    /// The monitor did not.
    #[error("resize the terminal")]
    Monitor(#[from] LinkError),
}

impl Failure for ResizeError {
    fn kind(&self) -> Kind {
        match self {
            Self::Find(error) => error.kind(),
            Self::NotRunning(_) => Kind::Conflict,
            Self::Monitor(_) => Kind::Internal,
        }
    }
}

/// Why a container was not changed.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// The container was not found.
    #[error(transparent)]
    Find(#[from] FindError),
    /// A limit cannot be.
    #[error(transparent)]
    Check(CheckError),
    /// A policy cannot be.
    #[error("Restart policy cannot be updated because AutoRemove is enabled for the container")]
    AutoRemove,
    /// The kernel refused a limit.
    #[error("Cannot update container")]
    Cgroup(#[source] CgroupError),
    /// Its record.
    #[error("record the change")]
    Record(#[source] DbError),
    /// The engine shuts down.
    #[error("the engine is shutting down")]
    Closing,
}

impl Failure for UpdateError {
    fn kind(&self) -> Kind {
        match self {
            Self::Find(error) => error.kind(),
            Self::Check(error) => error.kind(),
            Self::AutoRemove => Kind::InvalidArgument,
            Self::Closing => Kind::Unavailable,
            Self::Cgroup(_) | Self::Record(_) => Kind::Internal,
        }
    }
}

/// Why a container is not shown.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The container was not found.
    #[error(transparent)]
    Find(#[from] FindError),
}

impl Failure for InspectError {
    fn kind(&self) -> Kind {
        match self {
            Self::Find(error) => error.kind(),
        }
    }
}

/// A record as it is kept.
pub(crate) fn to_json(record: &impl Serialize) -> String {
    serde_json::to_string(record).expect("records are maps with string keys")
}

impl Engine {
    /// Makes a container; the image must be there.
    pub async fn create(&self, wanted: CreateContainer) -> Result<Created, CreateError> {
        create::create(&self.shared, wanted).await
    }

    /// Starts a container; [`Kind::NotModified`] when it runs.
    pub async fn start(self: &Arc<Self>, typed: &str) -> Result<(), StartError> {
        let asked = self.ask_owner(typed, Request::Start).await?;
        asked.unwrap_or(Err(StartError::Closing))
    }

    /// Asks a container to end, then kills it; [`Kind::NotModified`] when it does not run.
    /// `timeout` in seconds, −1 for ever.
    pub async fn stop(
        &self,
        typed: &str,
        signal: Option<&str>,
        timeout: Option<i64>,
    ) -> Result<(), StopError> {
        let signal = parse_signal(signal).map_err(StopError::Signal)?;
        let grace = self.grace(typed, timeout)?;
        let asked = self
            .ask_owner(typed, |answer| Request::Stop {
                signal,
                grace,
                answer,
            })
            .await?;
        asked.unwrap_or(Err(StopError::Closing))
    }

    /// Stops it, if it runs, and starts it.
    pub async fn restart(
        &self,
        typed: &str,
        signal: Option<&str>,
        timeout: Option<i64>,
    ) -> Result<(), StartError> {
        let signal = parse_signal(signal).map_err(StartError::Signal)?;
        let grace = self.grace(typed, timeout)?;
        let asked = self
            .ask_owner(typed, |answer| Request::Restart {
                signal,
                grace,
                answer,
            })
            .await?;
        asked.unwrap_or(Err(StartError::Closing))
    }

    /// Sends a signal by name or number; SIGKILL when absent.
    pub async fn kill(&self, typed: &str, signal: Option<&str>) -> Result<(), KillError> {
        let sent = self.send_signal(typed, signal).await;
        sent.map_err(|error| KillError::Of {
            typed: typed.to_owned(),
            source: Box::new(error),
        })
    }

    async fn send_signal(&self, typed: &str, signal: Option<&str>) -> Result<(), KillError> {
        const SIGKILL: i32 = 9;
        let signal = parse_signal(signal)
            .map_err(KillError::Signal)?
            .unwrap_or(SIGKILL);
        let mut view = self.shared.index().find(typed)?.view;
        let exits = view.borrow().exits;
        let asked = self
            .ask_owner(typed, |answer| Request::Kill { signal, answer })
            .await?;
        asked.unwrap_or(Err(KillError::Closing))?;
        if signal == SIGKILL {
            // Whoever kills looks next at what came of it. A process that the kernel holds on to
            // (a disk that does not answer) is no reason to hold the caller as well.
            let ended = view.wait_for(|view| view.exits > exits || view.gone);
            let _ = tokio::time::timeout(KILL_PATIENCE, ended).await;
        }
        Ok(())
    }

    /// Freezes it.
    pub async fn pause(&self, typed: &str) -> Result<(), PauseError> {
        let asked = self.ask_owner(typed, Request::Pause).await?;
        asked.unwrap_or(Err(PauseError::Closing))
    }

    /// Lets it go on.
    pub async fn unpause(&self, typed: &str) -> Result<(), PauseError> {
        let asked = self.ask_owner(typed, Request::Unpause).await?;
        asked.unwrap_or(Err(PauseError::Closing))
    }

    /// Gives it another name.
    pub async fn rename(&self, typed: &str, name: &str) -> Result<(), RenameError> {
        if name.is_empty() {
            return Err(RenameError::Empty);
        }
        self.shared.index().find(typed)?;
        let name = name.strip_prefix('/').unwrap_or(name).to_owned();
        if !names::is_fine(&name) {
            return Err(RenameError::Name(name));
        }
        let asked = self
            .ask_owner(typed, |answer| Request::Rename { name, answer })
            .await?;
        asked.unwrap_or(Err(RenameError::Closing))
    }

    /// Removes it with its files.
    pub async fn remove(&self, typed: &str, options: RemoveOptions) -> Result<(), RemoveError> {
        if options.link {
            return Err(RemoveError::Link);
        }
        let asked = self
            .ask_owner(typed, |answer| Request::Remove {
                force: options.force,
                volumes: options.volumes,
                answer,
            })
            .await?;
        let removed = asked.unwrap_or(Err(RemoveError::Closing));
        removed.map_err(|error| match error {
            RemoveError::Running | RemoveError::Paused | RemoveError::Restarting => {
                RemoveError::Of {
                    typed: typed.to_owned(),
                    source: Box::new(error),
                }
            }
            other => other,
        })
    }

    /// Registers a waiter: what happens after this call returns is not missed.
    pub async fn wait(&self, typed: &str, condition: WaitCondition) -> Result<Wait, WaitError> {
        let handle = self.shared.index().find(typed)?;
        let view = handle.view();
        Ok(Wait {
            view: handle.view,
            condition,
            exits: view.exits,
            ran: counts_as_running(&view),
        })
    }

    /// Sets the size of its terminal.
    pub async fn resize(&self, typed: &str, rows: u16, columns: u16) -> Result<(), ResizeError> {
        let view = self.shared.index().find(typed)?.view();
        if !view.course.phase.has_process() {
            return Err(ResizeError::NotRunning(view.record.id));
        }
        let request = monitor::protocol::Request::Resize {
            exec: None,
            rows,
            columns,
        };
        let dir = self.shared.run_dir(&view.record.id);
        link::ask(&dir, &request).await?;
        Ok(())
    }

    /// Changes limits and restart policy; answers with warnings.
    pub async fn update(&self, typed: &str, update: Update) -> Result<Vec<String>, UpdateError> {
        let update = Box::new(update);
        let asked = self
            .ask_owner(typed, |answer| Request::Update { update, answer })
            .await?;
        asked.unwrap_or(Err(UpdateError::Closing))?;
        Ok(Vec::new())
    }

    /// Removes every container that does not run and matches.
    pub async fn prune_containers(&self, filters: Filters) -> Result<Pruned, FilterError> {
        let prune = Prune::new(&filters)?;
        let mut pruned = Pruned::default();
        let views = self.shared.index().views();
        for view in views {
            let idle = !view.course.phase.has_process()
                && !matches!(
                    view.course.phase,
                    state::Phase::Waiting | state::Phase::Starting
                );
            if !idle || !prune.takes(&view.record.labels(), view.record.created) {
                continue;
            }
            let id = view.record.id;
            let bytes = self.writable_bytes(id).await;
            // One that was started meanwhile refuses, and stays.
            if self
                .remove(&id.to_string(), RemoveOptions::default())
                .await
                .is_ok()
            {
                pruned.reclaimed_bytes += bytes;
                pruned.removed.push(id.to_string());
            }
        }
        Ok(pruned)
    }

    pub(crate) async fn writable_bytes(&self, id: ContainerId) -> u64 {
        let store = Arc::clone(&self.shared.store);
        let bytes = tasks::blocking(move || store.snapshot_bytes(&id)).await;
        bytes.unwrap_or_else(|error| {
            tracing::warn!(%id, error = vocab::failure::chain(&error), "measure a layer");
            0
        })
    }

    /// Sends a request to the owner of a container and waits; `None` when the owner has gone.
    pub(crate) async fn ask_owner<T>(
        &self,
        typed: &str,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<Option<T>, FindError> {
        let handle = self.shared.index().find(typed)?;
        let (sender, answer) = oneshot::channel();
        if handle.requests.send(request(sender)).await.is_err() {
            return match handle.view().gone {
                true => Err(FindError::NotFound(typed.to_owned())),
                false => Ok(None),
            };
        }
        match answer.await {
            Ok(answer) => Ok(Some(answer)),
            Err(_) if handle.view().gone => Err(FindError::NotFound(typed.to_owned())),
            Err(_) => Ok(None),
        }
    }

    fn grace(&self, typed: &str, timeout: Option<i64>) -> Result<Option<Duration>, FindError> {
        let view = self.shared.index().find(typed)?.view();
        let seconds = timeout.or(view.record.config.stop_timeout);
        Ok(match seconds {
            None => Some(self.shared.config.stop_timeout),
            // A negative one is for ever.
            Some(seconds) => u64::try_from(seconds).ok().map(Duration::from_secs),
        })
    }
}

/// Whether it runs, or will without being asked.
fn counts_as_running(view: &View) -> bool {
    let phase = view.course.phase;
    phase.has_process() || matches!(phase, state::Phase::Waiting | state::Phase::Starting)
}

fn parse_signal(typed: Option<&str>) -> Result<Option<i32>, String> {
    match typed.filter(|typed| !typed.is_empty()) {
        None => Ok(None),
        Some(typed) => match vocab::signal::parse(typed) {
            Some(signal) => Ok(Some(signal)),
            None => Err(typed.to_owned()),
        },
    }
}
