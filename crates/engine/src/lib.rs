//! The engine: containers, commands inside them, events, logs, volumes and networks as users know
//! them. It decides, owns and recovers; the mechanisms beneath do as they are told.
//!
//! Every container has one task that owns it ([`containers`]); everybody else sends it requests.
//! What must not be lost is in `engine.db` before it is done (module `db`); what
//! a monitor can tell again is not waited for. [`Engine::open`] compares the records with the
//! monitors that are alive and finishes what was begun.
//!
//! | module | holds |
//! |---|---|
//! | [`config`] | what the daemon decides for the engine |
//! | [`containers`] | records, the state machine, the owner task, every container operation |
//! | [`exec`] | commands started inside running containers |
//! | [`archive`] | files of a container, taken out and put in |
//! | [`attach`] | stdio of a container or a command, detach keys |
//! | [`logs`] | reading what monitors wrote |
//! | [`stats`] | resource usage and process tables |
//! | `sampler` | the last two readings of every container |
//! | [`push`] | images on their way to a registry |
//! | [`images`] | names, pulls and removals, thin over `store` and `registry` |
//! | [`volumes`] | the local driver |
//! | [`networks`] | records of networks |
//! | [`endpoints`] | containers on networks: joining, leaving, names, the way out |
//! | [`events`] | what happened, as a stream with a history |
//! | [`system`] | the host and the totals |
//! | [`export`] | a container's files as a tar or as an image |
//! | [`explain`] | what is in an image, and whether it is whole |
//! | `reclaim` | room on the disk, made before it runs out |
//! | [`usage`] | what takes space |
//! | [`spec`] | `Config` and `HostConfig` become an OCI specification; pure but for what it looks up |
//!
//! What you will not find: HTTP, JSON of the API, `fork`, `mount`.

pub mod archive;
pub mod attach;
pub mod config;
pub mod containers;
mod copy_up;
mod db;
mod detach;
pub mod endpoints;
pub mod events;
pub mod exec;
pub mod explain;
pub mod export;
pub mod images;
pub mod logs;
pub mod manifests;
pub mod networks;
pub mod push;
mod reclaim;
mod sampler;
mod shared;
pub mod spec;
pub mod stats;
pub mod system;
mod top;
pub mod usage;
pub mod volumes;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use monitor::Launcher;
use runtime::cgroup::{Cgroup, CgroupError, Layout};
use store::Store;
use vocab::{ContainerId, Failure, Kind};

use containers::index::Index;
use containers::recover;
use db::{Db, Durability, Rows};
use events::Events;
use exec::Execs;
use images::Pulls;
use shared::Shared;
use spec::cache::Cache;
use volumes::Volumes;

pub use config::Config;
pub use db::{DbError, OpenDbError};
pub use detach::KeysError;
pub use networks::OpenNetworksError;
pub use top::ArgumentsError;

/// Filters of a list or a stream: values of one key are alternatives, keys must all match.
pub type Filters = BTreeMap<String, Vec<String>>;

/// A stream that a client reads.
pub type Stream<T> = futures_util::stream::BoxStream<'static, T>;

/// A filter that the list does not know, or a value that it cannot read.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// No such key.
    #[error("invalid filter '{0}'")]
    Unknown(String),
    /// A moment is wanted.
    #[error("failed to parse value as time or duration: {0:?}")]
    Moment(String),
    /// It names an image that is not here.
    #[error("{0}")]
    Image(String),
    /// The key takes another kind of value.
    #[error("invalid filter '{key}={value}'")]
    Value {
        /// The filter.
        key: String,
        /// What was given.
        value: String,
    },
    /// The same, and why.
    #[error("invalid filter '{key}={value}': {why}")]
    Because {
        /// The filter.
        key: String,
        /// What was given.
        value: String,
        /// What is wrong with it.
        why: String,
    },
}

impl Failure for FilterError {
    fn kind(&self) -> Kind {
        match self {
            Self::Image(_) => Kind::NotFound,
            _ => Kind::InvalidArgument,
        }
    }
}

/// The engine of one daemon.
#[derive(Debug)]
pub struct Engine {
    shared: Arc<Shared>,
}

/// Why the engine did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A directory of it.
    #[error("make `{path}`")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The state.
    #[error(transparent)]
    Db(#[from] OpenDbError),
    /// A row of the state.
    #[error("understand the records in `{path}`")]
    Row {
        /// The database.
        path: PathBuf,
        /// Why not.
        source: serde_json::Error,
    },
    /// A fact about this data root.
    #[error("write the identity of the data root")]
    Identity(#[source] DbError),
    /// A storage driver that is not known.
    #[error(transparent)]
    Driver(store::ParseDriverError),
    /// The image store.
    #[error("open the image store")]
    Store(#[source] store::OpenError),
    /// A container that runs and cannot be looked after.
    #[error(transparent)]
    Monitor(#[from] recover::MonitorError),
    /// The registry client.
    #[error("set up the registry client")]
    Registry(#[source] registry::NewClientError),
    /// An address pool that cannot be read.
    #[error("invalid address pool {0}")]
    Pool(String),
    /// The network.
    #[error("open the networks")]
    Links(#[source] network::OpenError),
    /// The predefined networks.
    #[error(transparent)]
    Networks(#[from] OpenNetworksError),
    /// A default for containers that cannot be.
    #[error("the daemon's defaults for containers")]
    Defaults(#[source] spec::CheckError),
    /// The control groups.
    #[error("find the control groups of this host")]
    Cgroups(#[source] CgroupError),
}

impl Failure for OpenError {
    fn kind(&self) -> Kind {
        match self {
            Self::Store(error) => error.kind(),
            Self::Driver(_) | Self::Pool(_) => Kind::InvalidArgument,
            Self::Defaults(error) => error.kind(),
            _ => Kind::Internal,
        }
    }
}

/// What `Engine::open` sets up on the blocking pool.
struct Ground {
    db: Db,
    rows: Rows,
    store: Store,
    layout: Layout,
}

/// Has the fork server of the monitors ready before the first start asks for it. A failure is no
/// reason not to serve what runs already; the start that needs it tries again and reports it.
async fn prepare_launcher(shared: &Arc<Shared>) {
    let owner = Arc::clone(shared);
    if let Err(error) = tasks::blocking(move || owner.launcher.prepare()).await {
        let error = vocab::failure::chain(&error);
        tracing::warn!(error, "containers cannot be started");
    }
}

impl Engine {
    /// Opens the state, finds the containers that still run, and applies restart policies.
    pub async fn open(config: Config) -> Result<Arc<Self>, OpenError> {
        spec::check::check_defaults(&config).map_err(OpenError::Defaults)?;
        let ground = {
            let config = config.clone();
            tasks::blocking(move || open_ground(&config)).await?
        };
        let Ground {
            db,
            rows,
            store,
            layout,
        } = ground;
        let row = |source| OpenError::Row {
            path: config.data_root.join("engine.db"),
            source,
        };
        let id = identity(&db, &rows).await?;
        let own = network_config(&config)?;
        let links = network::Networks::open(own.clone()).map_err(OpenError::Links)?;
        let mut records = networks::Records::read(rows.networks).map_err(row)?;
        networks::open(&mut records, &db, &links, &own, &config.bridge).await?;
        let cache = Cache::new(
            config.exec_root.join("seccomp"),
            config.seccomp_profile.clone(),
        );
        let registry =
            registry::Client::new(config.registry.clone()).map_err(OpenError::Registry)?;
        let found = recover::read(rows.containers).map_err(row)?;
        let shared = Arc::new(Shared {
            id,
            db,
            store: Arc::new(store),
            registry,
            links,
            launcher: Launcher::new(config.program.clone()),
            layout,
            events: Events::new(),
            tasks: tasks::Group::new(),
            cache,
            pulls: Pulls::default(),
            execs: Execs::default(),
            sampler: sampler::Sampler::default(),
            index: Mutex::new(Index::default()),
            volumes: Mutex::new(Volumes::read(rows.volumes).map_err(row)?),
            held: Arc::default(),
            networks: Mutex::new(records),
            planning: tokio::sync::Mutex::new(()),
            config,
        });
        prepare_launcher(&shared).await;
        recover::recover(&shared, found).await?;
        let sampled = sampler::run(Arc::downgrade(&shared));
        shared.tasks.spawn("sampler", sampled);
        let engine = Arc::new(Self { shared });
        engine.watch_disk();
        engine.watch_logs();
        Ok(engine)
    }

    /// Ends the engine's tasks. Containers keep running; their monitors hold what happens
    /// meanwhile. `grace` bounds the wait for operations that are under way.
    pub async fn shutdown(&self, grace: Duration) {
        if tokio::time::timeout(grace, self.shared.tasks.stop())
            .await
            .is_err()
        {
            tracing::warn!(?grace, "operations were still under way at shutdown");
        }
        self.leave_host().await;
    }

    /// Takes from the host what no container uses: bridges without members, and the parent cgroup
    /// when nothing runs. The next daemon makes them again.
    async fn leave_host(&self) {
        let shared = &self.shared;
        let bridges = shared.networks().with_bridges();
        for network in bridges {
            match shared.links.remove_bridge(&network).await {
                Ok(()) | Err(network::BridgeError::Active { .. }) => {}
                Err(error) => {
                    let error = vocab::failure::chain(&error);
                    tracing::warn!(%network, error, "remove a bridge at shutdown");
                }
            }
        }
        let views = shared.index().views();
        if views.iter().any(|view| view.course.phase.has_process()) {
            return;
        }
        let parent = shared.cgroup_parent("");
        let removed = tasks::blocking(move || Cgroup::open(&parent)?.remove()).await;
        if let Err(error) = removed {
            let error = vocab::failure::chain(&error);
            tracing::debug!(error, "remove the parent of the containers' cgroups");
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Owners hold the shared parts, so these do not end by themselves.
        self.shared.tasks.cancel().cancel();
    }
}

/// Directories, database, store. Blocks.
fn open_ground(config: &Config) -> Result<Ground, OpenError> {
    use std::os::unix::fs::DirBuilderExt as _;
    const PRIVATE: u32 = 0o710;
    for path in [
        config.data_root.clone(),
        config.data_root.join("containers"),
        config.data_root.join("volumes"),
        config.exec_root.clone(),
        config.exec_root.join("containers"),
        config.exec_root.join("seccomp"),
    ] {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(PRIVATE)
            .create(&path)
            .map_err(|source| OpenError::Directory { path, source })?;
    }
    let driver = config
        .storage_driver
        .as_deref()
        .map(str::parse)
        .transpose()
        .map_err(OpenError::Driver)?;
    // First, because it is the store that keeps a second engine away.
    let store = Store::open(
        &config.data_root.join("store"),
        &config.exec_root,
        &store::Options { driver },
    )
    .map_err(OpenError::Store)?;
    let (db, rows) = Db::open(&config.data_root.join("engine.db"))?;
    let layout = Layout::detect().map_err(OpenError::Cgroups)?;
    Ok(Ground {
        db,
        rows,
        store,
        layout,
    })
}

/// What identifies this data root for ever.
async fn identity(db: &Db, rows: &Rows) -> Result<String, OpenError> {
    const KEY: &str = "id";
    if let Some((_, id)) = rows.facts.iter().find(|(key, _)| key == KEY) {
        return Ok(id.clone());
    }
    let id = ContainerId::random().to_string();
    let value = id.clone();
    db.write(Durability::Full, move |db| {
        db.execute("INSERT INTO facts VALUES (?1, ?2)", (KEY, value))
            .map(drop)
    })
    .await
    .map_err(OpenError::Identity)?;
    Ok(id)
}

fn network_config(config: &Config) -> Result<network::Config, OpenError> {
    let mut own = network::Config::new(&config.instance);
    if !config.address_pools.is_empty() {
        own.pools = config
            .address_pools
            .iter()
            .map(|(base, size)| {
                let base = base.parse().map_err(|_| OpenError::Pool(base.clone()))?;
                Ok(network::SubnetPool { base, size: *size })
            })
            .collect::<Result<_, OpenError>>()?;
    }
    Ok(own)
}
