//! What all parts of the engine use.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use monitor::Launcher;
use network::Networks;
use runtime::cgroup::Layout;
use store::Store;
use vocab::ContainerId;

use crate::Config;
use crate::containers::index::Index;
use crate::db::Db;
use crate::events::Events;
use crate::exec::Execs;
use crate::images::Pulls;
use crate::networks::Records as NetworkRecords;
use crate::sampler::Sampler;
use crate::spec::cache::Cache;
use crate::volumes::Volumes;
use crate::volumes::held::Held;

/// What all parts of the engine use.
pub(crate) struct Shared {
    pub(crate) config: Config,
    /// Identifies the data root for ever.
    pub(crate) id: String,
    pub(crate) db: Db,
    pub(crate) store: Arc<Store>,
    pub(crate) registry: registry::Client,
    pub(crate) links: Networks,
    pub(crate) launcher: Launcher,
    pub(crate) layout: Layout,
    pub(crate) events: Events,
    pub(crate) tasks: tasks::Group,
    pub(crate) cache: Cache,
    pub(crate) pulls: Pulls,
    pub(crate) execs: Execs,
    pub(crate) sampler: Sampler,
    pub(crate) index: Mutex<Index>,
    pub(crate) volumes: Mutex<Volumes>,
    pub(crate) held: Arc<Held>,
    pub(crate) networks: Mutex<NetworkRecords>,
    /// Held while a network's name and addresses are chosen.
    pub(crate) planning: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("data_root", &self.config.data_root)
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// Where monitor and engine meet over this container.
    pub(crate) fn run_dir(&self, id: &ContainerId) -> PathBuf {
        self.config
            .exec_root
            .join("containers")
            .join(id.to_string())
    }

    /// Where the container's files are kept.
    pub(crate) fn data_dir(&self, id: &ContainerId) -> PathBuf {
        self.config
            .data_root
            .join("containers")
            .join(id.to_string())
    }

    /// The container's json-file log.
    pub(crate) fn log_path(&self, id: &ContainerId) -> PathBuf {
        self.data_dir(id).join(format!("{id}-json.log"))
    }

    /// The container's cgroup below the mounts.
    pub(crate) fn cgroup(&self, id: &ContainerId, parent: &str) -> String {
        format!("{}/{id}", self.cgroup_parent(parent))
    }

    /// The cgroup above containers that ask for `parent`; empty means the default.
    pub(crate) fn cgroup_parent(&self, parent: &str) -> String {
        let parent = match (parent, &self.config.cgroup_parent) {
            ("", None) => match self.config.instance.as_str() {
                "" => "/berth".to_owned(),
                instance => format!("/berth-{instance}"),
            },
            ("", Some(parent)) => parent.clone(),
            (parent, _) => parent.to_owned(),
        };
        format!("/{}", parent.trim_matches('/'))
    }

    pub(crate) fn index(&self) -> MutexGuard<'_, Index> {
        lock(&self.index)
    }

    pub(crate) fn volumes(&self) -> MutexGuard<'_, Volumes> {
        lock(&self.volumes)
    }

    pub(crate) fn networks(&self) -> MutexGuard<'_, NetworkRecords> {
        lock(&self.networks)
    }
}

/// Locks; what a panicking holder left is as good as before, since no holder leaves a half-done
/// change behind.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
