//! A container's files as a tar, as a new image, and what it changed of those of its image.

use std::collections::HashSet;
use std::io::Write;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

pub use store::Difference;
use store::{NewImage, SnapshotError};
use vocab::config::ContainerConfig;
use vocab::image::History;
use vocab::time::rfc3339_nano;
use vocab::{ContainerId, Digest, Failure, Kind, Platform, Reference};

use crate::Engine;
use crate::containers::{FindError, PauseError, Status};
use crate::events::container as announce;
use crate::spec::cache::{open_layers, open_root};

/// Why a container was not exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// It is not there.
    #[error(transparent)]
    Find(#[from] FindError),
    /// Its layers cannot be mounted.
    #[error("mount the root of the container")]
    Snapshot(#[from] SnapshotError),
    /// Its root cannot be put together.
    #[error("mount the root of the container")]
    Mount(#[source] std::io::Error),
    /// A file of it, or the tar.
    #[error("export the container")]
    Pack(#[source] store::PackError),
}

impl Failure for ExportError {
    fn kind(&self) -> Kind {
        match self {
            Self::Find(error) => error.kind(),
            _ => Kind::Internal,
        }
    }
}

/// Why it is not told what a container changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangesError {
    /// It is not there.
    #[error(transparent)]
    Find(#[from] FindError),
    /// Its layers cannot be mounted.
    #[error("mount the layers of the container")]
    Snapshot(#[from] SnapshotError),
    /// Files of it.
    #[error("compare the container with its image")]
    Files(#[source] std::io::Error),
}

impl Failure for ChangesError {
    fn kind(&self) -> Kind {
        match self {
            Self::Find(error) => error.kind(),
            _ => Kind::Internal,
        }
    }
}

/// What is made at a start, most of it so that something can be mounted there; no container's doing.
const MOUNT_POINTS: &[&str] = &[
    "/.dockerenv",
    "/dev",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/mtab",
    "/etc/resolv.conf",
    "/proc",
    "/sys",
];

/// What an image made of a container is to be.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// Its name.
    pub name: Option<Reference>,
    /// Who made it.
    pub author: String,
    /// Why.
    pub comment: String,
    /// Whether the container's processes stand still meanwhile.
    pub pause: bool,
    /// Dockerfile instructions.
    pub changes: Vec<String>,
    /// How containers of it run, instead of how this one does.
    pub config: Option<ContainerConfig>,
}

/// Why no image was made of a container.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// It is not there.
    #[error(transparent)]
    Find(#[from] FindError),
    /// It cannot be frozen.
    #[error(transparent)]
    Pause(#[from] PauseError),
    /// An instruction cannot be applied.
    #[error("{reason}")]
    Change {
        /// As given.
        change: String,
        /// What is wrong.
        reason: String,
    },
    /// A name with a digest.
    #[error("cannot commit to digest reference")]
    Digested,
    /// The image it was made of is not here any more, and with it what its new layer stands on.
    #[error("the image that the container was made of")]
    Base(#[source] store::FindError),
    /// A layer of that image is gone.
    #[error("layer {0} of the image that the container was made of is gone")]
    Layer(Digest),
    /// It cannot be told what it changed.
    #[error(transparent)]
    Changes(#[from] ChangesError),
    /// What it changed did not become a layer.
    #[error(transparent)]
    Commit(#[from] store::CommitError),
    /// The new configuration cannot be written.
    #[error("write the image configuration")]
    Config(#[source] serde_json::Error),
    /// The image was not stored.
    #[error(transparent)]
    Put(#[from] store::PutError),
    /// The tables of the store.
    #[error("commit the container")]
    Metadata(#[from] store::MetadataError),
}

impl Failure for CommitError {
    fn kind(&self) -> Kind {
        match self {
            Self::Find(error) => error.kind(),
            Self::Pause(error) => error.kind(),
            Self::Change { .. } | Self::Digested => Kind::InvalidArgument,
            Self::Base(error) => error.kind(),
            Self::Changes(error) => error.kind(),
            Self::Commit(error) => error.kind(),
            Self::Put(error) => error.kind(),
            Self::Layer(_) => Kind::NotFound,
            Self::Config(_) | Self::Metadata(_) => Kind::Internal,
        }
    }
}

impl Engine {
    /// Writes all files of a container as a tar, as its image and its changes make them; what is
    /// mounted into it is not among them.
    pub async fn export(
        &self,
        typed: &str,
        mut out: Box<dyn Write + Send>,
    ) -> Result<(), ExportError> {
        let view = self.shared.index().find(typed)?.view();
        let id = view.record.id;
        let store = Arc::clone(&self.shared.store);
        tasks::blocking(move || {
            let mounts = store.mount_snapshot(&id)?;
            let root = open_root(&mounts).map_err(ExportError::Mount)?;
            store::pack(root.as_fd(), &mut out).map_err(ExportError::Pack)
        })
        .await?;
        announce::happened(&self.shared.events, "export", &view.record, &view.name, &[]);
        Ok(())
    }

    /// What a container changed of its image's files, in the order of paths.
    pub async fn changes(&self, typed: &str) -> Result<Vec<(PathBuf, Difference)>, ChangesError> {
        let id = self.shared.index().find(typed)?.view().record.id;
        let store = Arc::clone(&self.shared.store);
        tasks::blocking(move || {
            let mounts = store.mount_snapshot(&id)?;
            let upper = std::fs::File::open(&mounts.upper).map_err(ChangesError::Files)?;
            let lower = open_layers(&mounts.lower).map_err(ChangesError::Files)?;
            let hidden: Vec<_> = MOUNT_POINTS.iter().map(PathBuf::from).collect();
            store::differences(upper.as_fd(), lower.as_fd(), &hidden).map_err(ChangesError::Files)
        })
        .await
    }

    /// Makes an image of a container: that of its image and one layer more.
    pub async fn commit(&self, typed: &str, commit: Commit) -> Result<Digest, CommitError> {
        let view = self.shared.index().find(typed)?.view();
        let id = view.record.id;
        let name = commit.name.clone().map(Reference::or_latest);
        if name.as_ref().is_some_and(|name| name.digest().is_some()) {
            return Err(CommitError::Digested);
        }
        let mut config = commit
            .config
            .clone()
            .unwrap_or_else(|| view.record.config.clone());
        for change in &commit.changes {
            store::changes::apply(&mut config, change).map_err(|reason| CommitError::Change {
                change: change.clone(),
                reason,
            })?;
        }
        let state = view.course.state();
        let freeze = commit.pause && state.status == Status::Running;
        if freeze {
            self.pause(typed).await?;
        }
        let layer = self.changed_layer(typed, id).await;
        if freeze && let Err(error) = self.unpause(typed).await {
            // It ended, or somebody else let it go on.
            tracing::debug!(%id, error = vocab::failure::chain(&error), "not frozen any more");
        }
        let layer = layer?;
        let by: Vec<&str> = std::iter::once(view.record.path.as_str())
            .chain(view.record.args.iter().map(String::as_str))
            .collect();
        let step = History {
            created: Some(rfc3339_nano(SystemTime::now())),
            created_by: by.join(" "),
            author: commit.author,
            comment: commit.comment,
            empty_layer: layer.is_none(),
        };
        let comment = step.comment.clone();
        let base = view.record.image.clone();
        let store = Arc::clone(&self.shared.store);
        let put = name.clone();
        let image =
            tasks::blocking(move || put_on_top(&store, &base, layer, config, step, put)).await?;
        let named = name.as_ref().map(Reference::familiar).unwrap_or_default();
        let more = [
            ("comment", comment),
            ("imageID", image.to_string()),
            ("imageRef", named),
        ];
        announce::happened(
            &self.shared.events,
            "commit",
            &view.record,
            &view.name,
            &more,
        );
        Ok(image)
    }

    /// What a container changed as a layer, if it changed anything.
    async fn changed_layer(
        &self,
        typed: &str,
        id: ContainerId,
    ) -> Result<Option<store::Layer>, CommitError> {
        let changed = self.changes(typed).await?;
        if changed.is_empty() {
            return Ok(None);
        }
        let from_root = |(path, _): (PathBuf, _)| path.strip_prefix("/").map(Path::to_owned);
        let paths = changed.into_iter().filter_map(|one| from_root(one).ok());
        let only: HashSet<PathBuf> = paths.collect();
        let store = Arc::clone(&self.shared.store);
        let layer = tasks::blocking(move || store.commit_snapshot(&id, Some(&only))).await?;
        Ok(Some(layer))
    }
}

/// The image of `base`'s layers, with one more if there is one.
fn put_on_top(
    store: &store::Store,
    base: &Digest,
    layer: Option<store::Layer>,
    config: ContainerConfig,
    step: History,
    name: Option<Reference>,
) -> Result<Digest, CommitError> {
    let typed = base.to_string();
    let below = store
        .find_image_by_id(base)
        .and_then(|found| found.ok_or(store::FindError::NotFound(typed)))
        .map_err(CommitError::Base)?;
    let mut layers = Vec::with_capacity(below.layers.len() + 1);
    for diff_id in &below.config.rootfs.diff_ids {
        let found = store.find_layer(diff_id)?;
        layers.push(found.ok_or_else(|| CommitError::Layer(diff_id.clone()))?);
    }
    layers.extend(layer);
    let host = Platform::host();
    let mut whole = below.config.clone();
    whole.created.clone_from(&step.created);
    whole.author.clone_from(&step.author);
    whole.comment.clone_from(&step.comment);
    whole.config = Some(config);
    whole.docker_version = String::new();
    if whole.os.is_empty() {
        whole.os = host.os;
        whole.architecture = host.architecture;
    }
    whole.rootfs.kind = "layers".to_owned();
    whole.rootfs.diff_ids = layers.iter().map(|layer| layer.diff_id().clone()).collect();
    whole.history.push(step);
    let config = serde_json::to_vec(&whole).map_err(CommitError::Config)?;
    let image = NewImage {
        config,
        layers,
        names: name.into_iter().collect(),
        ..NewImage::default()
    };
    Ok(store.put_image(image)?)
}
