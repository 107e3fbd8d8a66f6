//! Containers: what users ask of them, and what they see.
//!
//! Every operation takes what the user typed: a full id, a name, or a unique prefix of an id.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use vocab::config::{
    ContainerConfig, EndpointSettings, HostConfig, NetworkingConfig, PortBinding, Resources,
    RestartPolicy,
};
use vocab::{ContainerId, Digest, ExecId, Failure, Kind, Platform};

use crate::{Engine, FilterError, Filters};

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
    pub fn sentence(&self, _now: SystemTime) -> String {
        todo!()
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
pub struct Wait {}

impl Wait {
    /// Waits for what was registered.
    pub async fn outcome(self) -> WaitOutcome {
        todo!()
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

macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => { $(
        $(#[$doc])*
        #[derive(Debug, thiserror::Error)]
        pub enum $name {
            /// The container was not found.
            #[error(transparent)]
            Find(#[from] FindError),
        }

        impl Failure for $name {
            fn kind(&self) -> Kind {
                match self {
                    Self::Find(error) => error.kind(),
                }
            }
        }
    )* };
}

errors!(
    /// Why a container was not created.
    CreateError,
    /// Why a container did not start.
    StartError,
    /// Why a container did not stop.
    StopError,
    /// Why a signal was not sent.
    KillError,
    /// Why a container was not paused or resumed.
    PauseError,
    /// Why a container was not renamed.
    RenameError,
    /// Why a container was not removed.
    RemoveError,
    /// Why a waiter was not registered.
    WaitError,
    /// Why a terminal was not resized.
    ResizeError,
    /// Why a container was not changed.
    UpdateError,
    /// Why a container is not shown.
    InspectError,
);

impl Engine {
    /// Makes a container; the image must be there.
    pub async fn create(&self, _wanted: CreateContainer) -> Result<Created, CreateError> {
        todo!()
    }

    /// Starts a container; [`Kind::NotModified`] when it runs.
    pub async fn start(self: &Arc<Self>, _typed: &str) -> Result<(), StartError> {
        todo!()
    }

    /// Asks a container to end, then kills it; [`Kind::NotModified`] when it does not run.
    /// `timeout` in seconds, −1 for ever.
    pub async fn stop(
        &self,
        _typed: &str,
        _signal: Option<&str>,
        _timeout: Option<i64>,
    ) -> Result<(), StopError> {
        todo!()
    }

    /// Stops it, if it runs, and starts it.
    pub async fn restart(
        &self,
        _typed: &str,
        _signal: Option<&str>,
        _timeout: Option<i64>,
    ) -> Result<(), StartError> {
        todo!()
    }

    /// Sends a signal by name or number; SIGKILL when absent.
    pub async fn kill(&self, _typed: &str, _signal: Option<&str>) -> Result<(), KillError> {
        todo!()
    }

    /// Freezes it.
    pub async fn pause(&self, _typed: &str) -> Result<(), PauseError> {
        todo!()
    }

    /// Lets it go on.
    pub async fn unpause(&self, _typed: &str) -> Result<(), PauseError> {
        todo!()
    }

    /// Gives it another name.
    pub async fn rename(&self, _typed: &str, _name: &str) -> Result<(), RenameError> {
        todo!()
    }

    /// Removes it with its files.
    pub async fn remove(&self, _typed: &str, _options: RemoveOptions) -> Result<(), RemoveError> {
        todo!()
    }

    /// Registers a waiter: what happens after this call returns is not missed.
    pub async fn wait(&self, _typed: &str, _condition: WaitCondition) -> Result<Wait, WaitError> {
        todo!()
    }

    /// Sets the size of its terminal.
    pub async fn resize(&self, _typed: &str, _rows: u16, _columns: u16) -> Result<(), ResizeError> {
        todo!()
    }

    /// Changes limits and restart policy; answers with warnings.
    pub async fn update(&self, _typed: &str, _update: Update) -> Result<Vec<String>, UpdateError> {
        todo!()
    }

    /// Containers, newest first.
    pub async fn list(&self, _options: ListOptions) -> Result<Vec<Summary>, FilterError> {
        todo!()
    }

    /// Everything about one container.
    pub async fn inspect(&self, _typed: &str, _size: bool) -> Result<Details, InspectError> {
        todo!()
    }

    /// Removes every container that does not run and matches.
    pub async fn prune_containers(&self, _filters: Filters) -> Result<Pruned, FilterError> {
        todo!()
    }
}
