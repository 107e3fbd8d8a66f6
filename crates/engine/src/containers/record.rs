//! What is kept of a container in `engine.db`: what was asked ([`Record`]) and where it is
//! ([`Course`]).

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use vocab::config::{ContainerConfig, EndpointSettings, HostConfig};
use vocab::{ContainerId, Digest, NetworkId};

use super::health::Health;
use super::state::Phase;
use super::{State, Status};

/// What was asked, with the image's part and the defaults filled in. Changes by `update` alone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: ContainerId,
    #[serde(with = "nanos")]
    pub(crate) created: SystemTime,
    pub(crate) image: Digest,
    pub(crate) os: String,
    pub(crate) path: String,
    pub(crate) args: Vec<String>,
    pub(crate) config: ContainerConfig,
    pub(crate) host: HostConfig,
    /// Networks to join by name, in order: the first has the default route.
    pub(crate) networks: Vec<(String, EndpointSettings)>,
    pub(crate) mounts: Vec<Mounted>,
}

/// A mount that was planned at creation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Mounted {
    pub(crate) kind: MountKind,
    /// Of a volume.
    pub(crate) volume: String,
    /// Whether nobody gave that volume a name: it goes with `rm -v`.
    pub(crate) anonymous: bool,
    /// On the host; empty for tmpfs.
    pub(crate) source: String,
    pub(crate) destination: String,
    /// As it was typed.
    pub(crate) mode: String,
    pub(crate) read_only: bool,
    pub(crate) propagation: String,
    /// Whether submounts come along.
    pub(crate) non_recursive: bool,
    /// Whether submounts stay writable under a read-only mount.
    pub(crate) read_only_non_recursive: bool,
    /// Whether a read-only mount fails if its submounts cannot be read-only.
    pub(crate) read_only_force_recursive: bool,
    /// Whether a missing source is made.
    pub(crate) create_source: bool,
    /// Whether it was in `Mounts` rather than in `Binds`, `Volumes` or `Tmpfs`.
    pub(crate) long_form: bool,
    /// Further options of a tmpfs.
    pub(crate) options: Vec<String>,
    /// What of the volume or the image; all of it when empty.
    pub(crate) subpath: String,
    /// Of a volume: what it is made as if it is not there.
    pub(crate) driver: String,
    pub(crate) driver_options: BTreeMap<String, String>,
    pub(crate) labels: BTreeMap<String, String>,
    /// Of an image: which one `source` meant at creation, and who holds its layers.
    pub(crate) image: Option<(Digest, ContainerId)>,
    /// User and group of the host that the container's own are shown as, and make files as.
    pub(crate) map: Option<(u32, u32)>,
}

/// What is mounted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum MountKind {
    #[default]
    Bind,
    Volume,
    Tmpfs,
    Image,
}

impl MountKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Volume => "volume",
            Self::Tmpfs => "tmpfs",
            Self::Image => "image",
        }
    }
}

/// Where a container is, and what its runs came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Course {
    pub(crate) phase: Phase,
    pub(crate) pid: i32,
    pub(crate) exit_code: i32,
    pub(crate) error: String,
    pub(crate) oom_killed: bool,
    #[serde(with = "nanos_option")]
    pub(crate) started_at: Option<SystemTime>,
    #[serde(with = "nanos_option")]
    pub(crate) finished_at: Option<SystemTime>,
    pub(crate) restart_count: u32,
    /// The pause before the latest restart by policy.
    #[serde(default = "first_backoff")]
    pub(crate) backoff: Duration,
    /// When that pause is over.
    #[serde(default, with = "nanos_option")]
    pub(crate) again_at: Option<SystemTime>,
    /// How the stop that is under way is done.
    #[serde(default)]
    pub(crate) manner: Manner,
    /// Whether somebody stopped it: `unless-stopped` then leaves it alone.
    pub(crate) stopped_by_hand: bool,
    /// Whether the policy does not apply to the end of this run: somebody wants it.
    #[serde(default)]
    pub(crate) restarts_not: bool,
    /// Removal takes its anonymous volumes along; kept for a removal that is finished later.
    pub(crate) remove_volumes: bool,
    /// What it holds on networks while it runs.
    pub(crate) endpoints: Vec<Joined>,
    /// Once it was checked.
    #[serde(default)]
    pub(crate) health: Option<Health>,
}

/// The pause before the first restart by policy (Docker's).
pub(crate) const BACKOFF_FIRST: Duration = Duration::from_millis(100);

fn first_backoff() -> Duration {
    BACKOFF_FIRST
}

/// How a stop is done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Manner {
    /// Instead of the configured one.
    pub(crate) signal: Option<i32>,
    /// Time until SIGKILL; `None` is for ever.
    pub(crate) grace: Option<Duration>,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            signal: None,
            grace: Some(crate::config::STOP_TIMEOUT),
        }
    }
}

/// An endpoint on a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Joined {
    /// The network's name at that time.
    pub(crate) network: String,
    pub(crate) network_id: NetworkId,
    pub(crate) endpoint_id: String,
    /// Absent for `host` and `none`.
    pub(crate) endpoint: Option<network::Endpoint>,
}

impl Course {
    /// Never started.
    pub(crate) fn new() -> Self {
        Self {
            phase: Phase::Created,
            pid: 0,
            exit_code: 0,
            error: String::new(),
            oom_killed: false,
            started_at: None,
            finished_at: None,
            restart_count: 0,
            backoff: BACKOFF_FIRST,
            again_at: None,
            manner: Manner::default(),
            stopped_by_hand: false,
            restarts_not: false,
            remove_volumes: false,
            endpoints: Vec::new(),
            health: None,
        }
    }

    /// As users see it.
    pub(crate) fn state(&self) -> State {
        let status = match self.phase {
            Phase::Created => Status::Created,
            // Between two runs that a policy asked for, users see one long restart.
            Phase::Starting if self.restart_count > 0 => Status::Restarting,
            Phase::Starting | Phase::Exited if self.finished_at.is_some() => Status::Exited,
            Phase::Starting | Phase::Exited => Status::Created,
            Phase::Running | Phase::Stopping(_) => Status::Running,
            Phase::Paused => Status::Paused,
            Phase::Waiting => Status::Restarting,
            Phase::Removing => Status::Removing,
            Phase::Dead => Status::Dead,
        };
        State {
            status,
            oom_killed: self.oom_killed,
            pid: self.pid,
            exit_code: self.exit_code,
            error: self.error.clone(),
            started_at: self.started_at,
            finished_at: self.finished_at,
            health: self.health.clone(),
        }
    }
}

impl Record {
    /// Labels of the container.
    pub(crate) fn labels(&self) -> BTreeMap<String, String> {
        self.config.labels.clone().unwrap_or_default()
    }
}

/// Nanoseconds since 1970, as far as 64 bits go.
pub(crate) fn to_nanos(moment: SystemTime) -> u64 {
    let since = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// The moment so many nanoseconds after 1970.
pub(crate) fn from_nanos(nanos: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(nanos)
}

pub(crate) mod nanos {
    //! A moment as nanoseconds since 1970.
    use super::{Deserialize, Deserializer, Serializer, SystemTime, from_nanos, to_nanos};

    pub(crate) fn serialize<S: Serializer>(moment: &SystemTime, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u64(to_nanos(*moment))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<SystemTime, D::Error> {
        u64::deserialize(d).map(from_nanos)
    }
}

mod nanos_option {
    use super::{
        Deserialize, Deserializer, Serialize, Serializer, SystemTime, from_nanos, to_nanos,
    };

    #[expect(clippy::ref_option, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(
        moment: &Option<SystemTime>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        moment.map(to_nanos).serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Option<SystemTime>, D::Error> {
        Ok(Option::<u64>::deserialize(d)?.map(from_nanos))
    }
}
