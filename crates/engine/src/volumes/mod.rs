//! Volumes: the local driver.
//!
//! ```text
//! <data root>/volumes/<name>/_data      what is mounted into containers
//! ```
//!
//! | module | holds |
//! |---|---|
//! | `options` | a file system of its own |
//! | `held` | when that is mounted |

pub(crate) mod held;
pub(crate) mod options;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use serde::{Deserialize, Serialize};
use vocab::{ContainerId, Failure, Kind, NetworkId};

use crate::containers::record::{MountKind, Mounted, nanos};
use crate::containers::{Prune, Pruned};
use crate::copy_up;
use crate::db::{DbError, Durability};
use crate::events::{EventKind, has_label};
use crate::shared::Shared;
use crate::spec::cache::open_root;
use crate::spec::{CheckError, mounts};
use crate::{Engine, FilterError, Filters};
use options::Own;

/// A volume that is wanted.
#[derive(Clone, Debug, Default)]
pub struct CreateVolume {
    /// Its name; made up when empty.
    pub name: String,
    /// `local`, or empty.
    pub driver: String,
    /// Driver options.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// `local`.
    pub driver: String,
    /// On the host.
    pub mountpoint: PathBuf,
    /// When it was made.
    pub created: SystemTime,
    /// Driver options; `None` when none were given.
    pub options: Option<BTreeMap<String, String>>,
    /// Labels; `None` when none were given.
    pub labels: Option<BTreeMap<String, String>>,
}

/// Why a volume was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateVolumeError {
    /// The name, driver or an option cannot be.
    #[error("create {name}")]
    Check {
        /// The volume.
        name: String,
        /// What is wrong.
        source: CheckError,
    },
    /// There is one of that name with another driver or other options.
    #[error("create {0}: conflict: volume name must be unique")]
    Taken(String),
    /// Its directory.
    #[error("create volume {name}: make `{path}`")]
    Files {
        /// The volume.
        name: String,
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A driver that is not there.
    #[error("create {name}: error looking up volume plugin {driver}: plugin {driver:?} not found")]
    Driver {
        /// The volume.
        name: String,
        /// Its driver.
        driver: String,
    },
    /// Its record.
    #[error("create volume {name}")]
    Record {
        /// The volume.
        name: String,
        /// Why not.
        source: DbError,
    },
}

impl Failure for CreateVolumeError {
    fn kind(&self) -> Kind {
        match self {
            Self::Check { source, .. } => source.kind(),
            Self::Driver { .. } => Kind::NotFound,
            Self::Taken(_) => Kind::Conflict,
            Self::Files { .. } | Self::Record { .. } => Kind::Internal,
        }
    }
}

/// Why a volume was not found.
#[derive(Debug, thiserror::Error)]
#[error("get {0}: no such volume")]
pub struct FindVolumeError(pub String);

impl Failure for FindVolumeError {
    fn kind(&self) -> Kind {
        Kind::NotFound
    }
}

/// Why a volume was not removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveVolumeError {
    /// It is not there.
    #[error(transparent)]
    Find(#[from] FindVolumeError),
    /// Containers use it.
    #[error("remove {name}: volume is in use - [{}]", .users.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    InUse {
        /// The volume.
        name: String,
        /// Who does.
        users: Vec<ContainerId>,
    },
    /// Its directory.
    #[error("remove volume {name}: remove `{path}`")]
    Files {
        /// The volume.
        name: String,
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Its record.
    #[error("remove volume {name}")]
    Record {
        /// The volume.
        name: String,
        /// Why not.
        source: DbError,
    },
}

impl Failure for RemoveVolumeError {
    fn kind(&self) -> Kind {
        match self {
            Self::Find(error) => error.kind(),
            Self::InUse { .. } => Kind::Conflict,
            Self::Files { .. } | Self::Record { .. } => Kind::Internal,
        }
    }
}

/// Why the image's content was not copied into a new volume.
#[derive(Debug, thiserror::Error)]
pub enum CopyUpError {
    /// The root of the container.
    #[error("open the image's root to fill a volume")]
    Root(#[source] io::Error),
    /// A file.
    #[error("copy `{path}` of the image into a volume")]
    Copy {
        /// Inside the image.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What is kept of a volume in `engine.db`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    #[serde(with = "nanos")]
    created: SystemTime,
    options: Option<BTreeMap<String, String>>,
    labels: Option<BTreeMap<String, String>>,
    /// Whether nobody named it.
    anonymous: bool,
}

/// A volume's file system could not be mounted.
#[derive(Debug, thiserror::Error)]
#[error("error while mounting volume '{}': failed to mount local volume: {what}", path.display())]
pub struct MountVolumeError {
    path: PathBuf,
    what: String,
    source: io::Error,
}

/// What a volume is made as.
pub(crate) struct Wanted {
    /// Made up when empty.
    pub(crate) name: String,
    pub(crate) anonymous: bool,
    pub(crate) driver: String,
    pub(crate) options: BTreeMap<String, String>,
    pub(crate) labels: BTreeMap<String, String>,
}

impl Wanted {
    fn check(&self) -> Result<(), CreateVolumeError> {
        self.check_driver()?;
        options::check(&self.options).map_err(|source| self.refused(source))
    }

    fn check_driver(&self) -> Result<(), CreateVolumeError> {
        match self.driver.as_str() {
            "" | "local" => Ok(()),
            _ => Err(CreateVolumeError::Driver {
                name: self.name.clone(),
                driver: self.driver.clone(),
            }),
        }
    }

    fn refused(&self, source: CheckError) -> CreateVolumeError {
        let name = self.name.clone();
        CreateVolumeError::Check { name, source }
    }
}

/// All volumes by name.
#[derive(Debug, Default)]
pub(crate) struct Volumes(BTreeMap<String, Record>);

impl Volumes {
    /// Those that were kept.
    pub(crate) fn read(rows: Vec<(String, String)>) -> Result<Self, serde_json::Error> {
        let records = rows
            .into_iter()
            .map(|(name, record)| Ok((name, serde_json::from_str(&record)?)));
        Ok(Self(records.collect::<Result<_, serde_json::Error>>()?))
    }
}

/// Label of volumes that nobody named (Docker's).
const ANONYMOUS: &str = "com.docker.volume.anonymous";

impl Shared {
    fn volume_dir(&self, name: &str) -> PathBuf {
        self.config.data_root.join("volumes").join(name)
    }

    fn volume(&self, name: &str, record: &Record) -> Volume {
        Volume {
            name: name.to_owned(),
            driver: "local".to_owned(),
            mountpoint: self.volume_dir(name).join("_data"),
            created: record.created,
            options: record.options.clone(),
            labels: record.labels.clone(),
        }
    }

    /// Which containers have this volume, running or not.
    fn users(&self, name: &str) -> Vec<ContainerId> {
        let uses = |view: &Arc<crate::containers::index::View>| {
            let mut mounts = view.record.mounts.iter();
            mounts.any(|mounted| mounted.kind == MountKind::Volume && mounted.volume == name)
        };
        let views = self.index().views();
        views
            .iter()
            .filter(|view| uses(view))
            .map(|view| view.record.id)
            .collect()
    }

    /// The volume of that name, made if it is not there, and whether it is new.
    pub(crate) async fn volume_for(
        &self,
        wanted: Wanted,
    ) -> Result<(Volume, bool), CreateVolumeError> {
        let known = self.volumes().0.get(&wanted.name).cloned();
        if let Some(record) = known {
            wanted.check_driver()?;
            return Ok((self.volume(&wanted.name, &record), false));
        }
        wanted.check()?;
        let Wanted {
            mut name,
            anonymous,
            options,
            mut labels,
            ..
        } = wanted;
        if name.is_empty() {
            name = NetworkId::random().to_string();
        }
        if anonymous {
            labels.insert(ANONYMOUS.to_owned(), String::new());
        }
        let record = Record {
            created: SystemTime::now(),
            options: Some(options).filter(|options| !options.is_empty()),
            labels: Some(labels).filter(|labels| !labels.is_empty()),
            anonymous,
        };
        self.make_volume(&name, record.clone()).await?;
        Ok((self.volume(&name, &record), true))
    }

    /// Volumes among these mounts that have a file system of their own, and where it is mounted.
    fn own_file_systems(&self, mounts: &[Mounted]) -> Vec<(String, Own, PathBuf)> {
        let volumes = self.volumes();
        let volume = |mounted: &&Mounted| mounted.kind == MountKind::Volume;
        let own = mounts.iter().filter(volume).filter_map(|mounted| {
            let record = volumes.0.get(&mounted.volume)?;
            let own = Own::of(record.options.as_ref())?;
            let target = self.volume_dir(&mounted.volume).join("_data");
            Some((mounted.volume.clone(), own, target))
        });
        own.collect()
    }

    /// Has the volumes among these mounts mounted for `holder`. Blocks. After a failure none is.
    pub(crate) fn hold_volumes(
        &self,
        mounts: &[Mounted],
        holder: ContainerId,
    ) -> Result<(), MountVolumeError> {
        for (name, own, target) in self.own_file_systems(mounts) {
            if let Err(source) = self.held.hold(&name, &own, &target, holder) {
                self.let_volumes_go(mounts, holder);
                let what = own.describe(&target);
                return Err(MountVolumeError {
                    path: target,
                    what,
                    source,
                });
            }
        }
        Ok(())
    }

    /// `holder` uses these mounts no more. Blocks. Goes on after a failure.
    pub(crate) fn let_volumes_go(&self, mounts: &[Mounted], holder: ContainerId) {
        for (name, _, target) in self.own_file_systems(mounts) {
            if let Err(error) = self.held.let_go(&name, &target, holder) {
                tracing::warn!(volume = name, %error, "unmount a volume");
            }
        }
    }

    /// Takes up again what `running` containers hold, and unmounts what nobody does. Blocks.
    pub(crate) fn restore_volumes<'a>(
        &self,
        running: impl Iterator<Item = (ContainerId, &'a [Mounted])>,
    ) {
        let mut held = std::collections::HashSet::new();
        for (id, mounts) in running {
            for (name, _, _) in self.own_file_systems(mounts) {
                self.held.holds(&name, id);
                held.insert(name);
            }
        }
        let volumes = self.volumes().0.clone();
        for (name, _) in volumes.iter().filter(|(name, _)| !held.contains(*name)) {
            let target = self.volume_dir(name).join("_data");
            if let Err(error) = self.held.clear(name, &target) {
                tracing::warn!(volume = name, %error, "unmount a volume that nobody uses");
            }
        }
    }

    async fn make_volume(&self, name: &str, record: Record) -> Result<(), CreateVolumeError> {
        let row = (name.to_owned(), crate::containers::to_json(&record));
        self.db
            .write(Durability::Full, move |db| {
                db.execute("INSERT OR IGNORE INTO volumes VALUES (?1, ?2)", row)
                    .map(drop)
            })
            .await
            .map_err(|source| CreateVolumeError::Record {
                name: name.to_owned(),
                source,
            })?;
        let path = self.volume_dir(name).join("_data");
        let made = path.clone();
        let made = tasks::blocking(move || fs::create_dir_all(made)).await;
        if let Err(source) = made {
            let key = name.to_owned();
            // Forgotten again; if that fails too, the next start makes the directory.
            let forgotten = self.db.write(Durability::Full, move |db| {
                db.execute("DELETE FROM volumes WHERE name = ?1", [key])
                    .map(drop)
            });
            drop(forgotten.await);
            return Err(CreateVolumeError::Files {
                name: name.to_owned(),
                path,
                source,
            });
        }
        let driver = BTreeMap::from([("driver".to_owned(), "local".to_owned())]);
        self.volumes().0.insert(name.to_owned(), record);
        self.events.publish(
            EventKind::Volume,
            "create".to_owned(),
            name.to_owned(),
            driver,
        );
        Ok(())
    }

    /// Removes a volume unless somebody other than `owner` uses it.
    pub(crate) async fn remove_unused_volume(&self, name: &str, owner: ContainerId) {
        if self.users(name).iter().any(|user| *user != owner) {
            return;
        }
        if let Err(error) = self.delete_volume(name).await {
            tracing::warn!(error = vocab::failure::chain(&error), "remove a volume");
        }
    }

    async fn delete_volume(&self, name: &str) -> Result<(), RemoveVolumeError> {
        let path = self.volume_dir(name);
        let (held, key, doomed) = (Arc::clone(&self.held), name.to_owned(), path.clone());
        let removed = tasks::blocking(move || {
            // What is mounted there is not the volume's to delete.
            held.clear(&key, &doomed.join("_data"))?;
            fs::remove_dir_all(doomed)
        });
        match removed.await {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(RemoveVolumeError::Files {
                    name: name.to_owned(),
                    path,
                    source,
                });
            }
            _ => {}
        }
        let key = name.to_owned();
        self.db
            .write(Durability::Full, move |db| {
                db.execute("DELETE FROM volumes WHERE name = ?1", [key])
                    .map(drop)
            })
            .await
            .map_err(|source| RemoveVolumeError::Record {
                name: name.to_owned(),
                source,
            })?;
        self.volumes().0.remove(name);
        let driver = BTreeMap::from([("driver".to_owned(), "local".to_owned())]);
        self.events.publish(
            EventKind::Volume,
            "destroy".to_owned(),
            name.to_owned(),
            driver,
        );
        Ok(())
    }
}

/// A name for a volume that nobody named.
pub(crate) fn random_name() -> String {
    NetworkId::random().to_string()
}

impl Engine {
    /// Makes a volume, or finds the one of that name.
    pub async fn create_volume(&self, wanted: CreateVolume) -> Result<Volume, CreateVolumeError> {
        let wanted = Wanted {
            anonymous: wanted.name.is_empty(),
            name: wanted.name,
            driver: wanted.driver,
            options: wanted.options,
            labels: wanted.labels,
        };
        wanted.check_driver()?;
        if !wanted.anonymous {
            let checked = mounts::check_volume_name(&wanted.name);
            checked.map_err(|source| wanted.refused(source))?;
        }
        Ok(self.shared.volume_for(wanted).await?.0)
    }

    /// Volumes by name.
    pub async fn list_volumes(&self, filters: Filters) -> Result<Vec<Volume>, FilterError> {
        const KEYS: [&str; 4] = ["dangling", "driver", "label", "name"];
        if let Some(key) = filters.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(FilterError::Unknown(key.clone()));
        }
        let all: Vec<Volume> = {
            let volumes = self.shared.volumes();
            volumes
                .0
                .iter()
                .map(|(name, record)| self.shared.volume(name, record))
                .collect()
        };
        Ok(all
            .into_iter()
            .filter(|volume| self.passes(volume, &filters))
            .collect())
    }

    fn passes(&self, volume: &Volume, filters: &Filters) -> bool {
        let none = BTreeMap::new();
        filters.iter().all(|(key, values)| match key.as_str() {
            "label" => {
                let labels = volume.labels.as_ref().unwrap_or(&none);
                values.iter().all(|wanted| has_label(labels, wanted))
            }
            "driver" => values.contains(&volume.driver),
            "name" => values.iter().any(|value| volume.name.contains(value)),
            _ => values.iter().any(|value| {
                let wanted = matches!(value.as_str(), "true" | "1");
                self.shared.users(&volume.name).is_empty() == wanted
            }),
        })
    }

    /// One volume.
    pub async fn inspect_volume(&self, name: &str) -> Result<Volume, FindVolumeError> {
        let volumes = self.shared.volumes();
        match volumes.0.get(name) {
            Some(record) => Ok(self.shared.volume(name, record)),
            None => Err(FindVolumeError(name.to_owned())),
        }
    }

    /// Removes a volume that no container uses; `force` forgives that there is none.
    pub async fn remove_volume(&self, name: &str, force: bool) -> Result<(), RemoveVolumeError> {
        if !self.shared.volumes().0.contains_key(name) {
            return match force {
                true => Ok(()),
                false => Err(FindVolumeError(name.to_owned()).into()),
            };
        }
        let users = self.shared.users(name);
        if !users.is_empty() {
            return Err(RemoveVolumeError::InUse {
                name: name.to_owned(),
                users,
            });
        }
        self.shared.delete_volume(name).await
    }

    /// Removes anonymous volumes that no container uses, or with `all=true` every such volume.
    pub async fn prune_volumes(&self, filters: Filters) -> Result<Pruned, FilterError> {
        let all = filters.get("all").is_some_and(|values| {
            values
                .iter()
                .any(|value| matches!(value.as_str(), "true" | "1"))
        });
        let mut rest = filters;
        rest.remove("all");
        let prune = Prune::new(&rest)?;
        let candidates: Vec<(String, Record)> = {
            let volumes = self.shared.volumes();
            volumes
                .0
                .iter()
                .map(|(name, record)| (name.clone(), record.clone()))
                .collect()
        };
        let mut pruned = Pruned::default();
        for (name, record) in candidates {
            let labels = record.labels.clone().unwrap_or_default();
            // A file system of its own is not berth's to call unused (Docker's rule too).
            let plain = record.options.is_none();
            let wanted = (all || record.anonymous) && plain && prune.takes(&labels, record.created);
            if !wanted || !self.shared.users(&name).is_empty() {
                continue;
            }
            let bytes = self.volume_bytes(&name).await;
            if self.shared.delete_volume(&name).await.is_ok() {
                pruned.reclaimed_bytes += bytes;
                pruned.removed.push(name);
            }
        }
        Ok(pruned)
    }

    /// Bytes in a volume; those of a file system of its own are not counted.
    pub(crate) async fn volume_bytes(&self, name: &str) -> u64 {
        let path = self.shared.volume_dir(name);
        tasks::blocking(move || tree_bytes(&path)).await
    }

    /// Containers that have this volume.
    pub(crate) fn volume_users(&self, name: &str) -> usize {
        self.shared.users(name).len()
    }
}

fn tree_bytes(path: &Path) -> u64 {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return 0;
    };
    if !metadata.is_dir() {
        return metadata.len();
    }
    let Ok(entries) = fs::read_dir(path) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| tree_bytes(&entry.path()))
        .sum()
}

/// Copies what the image has at each destination into the volume, if that is empty. Blocks.
pub(crate) fn copy_up(root: &store::Mounts, volumes: &[Mounted]) -> Result<(), CopyUpError> {
    let root = open_root(root).map_err(CopyUpError::Root)?;
    for mounted in volumes {
        let copy = |source| CopyUpError::Copy {
            path: PathBuf::from(&mounted.destination),
            source,
        };
        let Some(volume) = open_volume(mounted).map_err(copy)? else {
            continue;
        };
        let mut entries = rustix::fs::Dir::read_from(&volume).map_err(|e| copy(e.into()))?;
        let empty = !entries.any(|entry| {
            entry.is_ok_and(|entry| !matches!(entry.file_name().to_bytes(), b"." | b".."))
        });
        if !empty {
            continue;
        }
        if let Some(dir) = open_inside(&root, &mounted.destination).map_err(copy)? {
            copy_up::directory(dir.as_fd(), volume.as_fd()).map_err(copy)?;
        }
    }
    Ok(())
}

/// What is mounted of a volume, if it is a directory; that it is missing is told at the start.
fn open_volume(mounted: &Mounted) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let volume = rustix::fs::open(&mounted.source, flags, Mode::empty())?;
    if mounted.subpath.is_empty() {
        return Ok(Some(volume));
    }
    let below = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let found = rustix::fs::openat2(&volume, &*mounted.subpath, flags, Mode::empty(), below);
    Ok(found.ok())
}

fn open_inside(root: &OwnedFd, path: &str) -> io::Result<Option<OwnedFd>> {
    let relative = path.trim_start_matches('/');
    let opened = rustix::fs::openat2(
        root.as_fd(),
        relative,
        OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    );
    match opened {
        Ok(dir) => Ok(Some(dir)),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}
