//! Layers as directories, and the writable layer of each container.
//!
//! [`Layers`] is what a driver owes; the one suite that all drivers pass is `suite`. A driver knows
//! nothing of images, names or tables: it is shown a tar, answers something staged, and is told
//! when to keep it. Writable layers are the same for all drivers: two directories for overlayfs.

use std::collections::HashSet;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use vocab::{ContainerId, Digest, Failure, Kind};

use crate::files::{self, Staged};
use crate::layers::Layer;
use crate::pack;
use crate::store::{OpenError, Store};
use crate::tree::UnpackError;

mod erofs;
mod loops;
mod overlay;

/// How one driver keeps layers and makes directories of them.
pub(crate) trait Layers: fmt::Debug + Send + Sync {
    /// Begins a layer. `kept` is where the caller is writing its plain tar, if that is to become a
    /// blob, so that no second copy is needed.
    fn begin(&self, kept: Option<File>) -> io::Result<Box<dyn Unpack>>;
    /// Makes a finished layer visible; it is not durable yet.
    fn keep(&self, unpacked: Unpacked, diff_id: &Digest) -> io::Result<()>;
    /// Whether a layer that the disk was not waited for is what was written. If that cannot be told,
    /// it is not.
    fn has_survived(&self, diff_id: &Digest) -> io::Result<bool>;
    /// Makes layers durable.
    fn sync(&self, layers: &[&Digest]) -> io::Result<()>;
    /// The layers that are there, by the digits of their diff id.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Whether a layer is there.
    fn has(&self, diff_id: &Digest) -> bool;
    /// Whether overlayfs has to be mounted with `userxattr` on these layers.
    fn as_user(&self) -> bool {
        false
    }
    /// The files and directories that hold a layer, whether they are there or not.
    fn files(&self, diff_id: &Digest) -> Vec<PathBuf>;
    /// The plain tar of a layer, where this driver keeps one of its own.
    fn open_tar(&self, diff_id: &Digest) -> io::Result<Option<File>>;
    /// Reads all of a layer that can be compared with a digest: how many bytes that were, or in
    /// words what is wrong with it.
    fn verify(&self, diff_id: &Digest) -> io::Result<Result<u64, String>>;
    /// The directory of a layer, mounted if that is what it takes. Doing it twice does no harm.
    fn mount(&self, diff_id: &Digest) -> io::Result<PathBuf>;
    /// Takes a layer away at once, its mount included; dropping the answer frees its bytes, which
    /// may take a while. One that is not there is fine.
    fn remove(&self, hex: &str) -> io::Result<Vec<Staged>>;
}

/// A layer being taken in: its plain tar, in any portions. Dropping it abandons it.
pub(crate) trait Unpack: Send {
    /// Takes the next bytes.
    fn push(&mut self, bytes: &[u8]) -> Result<(), UnpackError>;
    /// The tar has ended.
    fn finish(self: Box<Self>) -> Result<Unpacked, UnpackError>;
}

/// What a driver made of a tar.
#[derive(Debug)]
pub(crate) struct Unpacked {
    /// Each with what is added to the digits of the diff id; moved into place in this order.
    pub(crate) parts: Vec<(Staged, &'static str)>,
    /// Bytes of the files in it.
    pub(crate) size_bytes: u64,
}

/// Opens the driver that was asked for, or the best that works here.
pub(crate) fn open(
    root: &Path,
    run: &Path,
    wanted: Option<Driver>,
) -> Result<(Driver, Box<dyn Layers>), OpenError> {
    let overlay = || {
        let opened = overlay::Overlay::open(root);
        opened.map_err(|source| OpenError::Driver {
            driver: Driver::Overlay,
            source,
        })
    };
    match wanted {
        Some(Driver::Overlay) => Ok((Driver::Overlay, Box::new(overlay()?))),
        Some(driver @ Driver::Erofs) => match erofs::Erofs::open(root, run) {
            Ok(erofs) => Ok((driver, Box::new(erofs))),
            Err(source) => Err(OpenError::Driver { driver, source }),
        },
        None => match erofs::Erofs::open(root, run) {
            Ok(erofs) => Ok((Driver::Erofs, Box::new(erofs))),
            Err(error) => {
                tracing::info!(%error, "layers cannot be mounted as EROFS here; they are unpacked");
                Ok((Driver::Overlay, Box::new(overlay()?)))
            }
        },
    }
}

/// The names in a directory that could be digests.
pub(crate) fn names(directory: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        found.push(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(found)
}

/// How layers become directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// Unpacked directories, stacked by overlayfs.
    Overlay,
    /// Plain tars with an EROFS index, mounted and stacked by overlayfs.
    Erofs,
}

impl Driver {
    /// As `storage-driver` names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Overlay => "overlay",
            Self::Erofs => "erofs",
        }
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text names no storage driver.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("storage driver `{0}` is not known: overlay (or overlay2) and erofs are")]
pub struct ParseDriverError(pub String);

impl FromStr for Driver {
    type Err = ParseDriverError;

    fn from_str(text: &str) -> Result<Self, ParseDriverError> {
        match text {
            "overlay" | "overlay2" | "overlayfs" => Ok(Self::Overlay),
            "erofs" => Ok(Self::Erofs),
            _ => Err(ParseDriverError(text.to_owned())),
        }
    }
}

/// What the overlay root of a container is mounted from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounts {
    /// Read-only directories, topmost first; never empty.
    pub lower: Vec<PathBuf>,
    /// Where changes go.
    pub upper: PathBuf,
    /// Scratch space of overlayfs.
    pub work: PathBuf,
    /// With `userxattr`, as in a user namespace.
    pub as_user: bool,
}

/// Why a snapshot did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The image is not there.
    #[error("No such image: {0}")]
    NoImage(Digest),
    /// The container has no snapshot.
    #[error("container {0} has no snapshot")]
    NotFound(ContainerId),
    /// The container has one already.
    #[error("container {0} has a snapshot already")]
    Exists(ContainerId),
    /// A layer cannot be mounted.
    #[error("mount layer {layer}")]
    Mount {
        /// Which layer.
        layer: Digest,
        /// What the system said.
        source: io::Error,
    },
    /// A layer is not there in this driver's form and cannot be made from its blob.
    #[error("make layer {layer} again from its blob")]
    Rebuild {
        /// Which layer.
        layer: Digest,
        /// Cause.
        source: Box<crate::ReceiveError>,
    },
    /// A file or directory of the snapshot.
    #[error("{what} `{path}`")]
    File {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The tables.
    #[error("snapshot of {owner}")]
    Metadata {
        /// Whose.
        owner: ContainerId,
        /// Cause.
        source: crate::MetadataError,
    },
}

impl Failure for SnapshotError {
    fn kind(&self) -> Kind {
        match self {
            Self::NoImage(_) | Self::NotFound(_) => Kind::NotFound,
            Self::Exists(_) => Kind::Conflict,
            Self::Mount { .. }
            | Self::Rebuild { .. }
            | Self::File { .. }
            | Self::Metadata { .. } => Kind::Internal,
        }
    }
}

/// Why changes did not become a layer.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The container has no snapshot.
    #[error("container {0} has no snapshot")]
    NotFound(ContainerId),
    /// The changes cannot be read.
    #[error("read what the container changed")]
    Pack(#[source] crate::PackError),
    /// The layer cannot be stored.
    #[error("store what the container changed")]
    Receive(#[source] crate::ReceiveError),
}

impl Failure for CommitError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound(_) => Kind::NotFound,
            Self::Pack(error) => error.kind(),
            Self::Receive(error) => error.kind(),
        }
    }
}

impl Store {
    /// Gives `owner` a writable layer on top of an image.
    pub fn create_snapshot(
        &self,
        owner: &ContainerId,
        image: &Digest,
    ) -> Result<(), SnapshotError> {
        let metadata = |source| SnapshotError::Metadata {
            owner: *owner,
            source,
        };
        // Recorded first: a directory without a record is debris, a record without a directory
        // is a snapshot in which nothing was written yet.
        let mut tables = self.tables();
        if tables.has_snapshot(owner).map_err(metadata)? {
            return Err(SnapshotError::Exists(*owner));
        }
        if !tables.has_image(image).map_err(metadata)? {
            return Err(SnapshotError::NoImage(image.clone()));
        }
        tables.create_snapshot(owner, image).map_err(metadata)?;
        let base = tables.base_of(owner, image).map_err(metadata)?;
        drop(tables);
        let made = self.make_snapshot_directories(owner).and_then(|_| {
            let path = self.snapshot_directory(owner).join("base");
            crate::records::write(&path, &base).map_err(|source| SnapshotError::File {
                what: "write",
                path,
                source,
            })
        });
        if made.is_err() {
            // The first failure is the one to tell.
            let _ = self.remove_snapshot(owner);
        }
        made
    }

    /// What the root of `owner` is mounted from; mounts layers that are not mounted yet.
    pub fn mount_snapshot(&self, owner: &ContainerId) -> Result<Mounts, SnapshotError> {
        let layers = self
            .tables()
            .snapshot_layers(owner)
            .map_err(|source| SnapshotError::Metadata {
                owner: *owner,
                source,
            })?
            .ok_or(SnapshotError::NotFound(*owner))?;
        let (upper, work) = self.make_snapshot_directories(owner)?;
        let mut lower = Vec::with_capacity(layers.len().max(1));
        for layer in layers.into_iter().rev() {
            if !self.layers().has(&layer) {
                self.rebuild_layer(&layer)
                    .map_err(|source| SnapshotError::Rebuild {
                        layer: layer.clone(),
                        source: Box::new(source),
                    })?;
            }
            match self.layers().mount(&layer) {
                Ok(path) => lower.push(path),
                Err(source) => return Err(SnapshotError::Mount { layer, source }),
            }
        }
        if lower.is_empty() {
            lower.push(self.root().join("empty"));
        }
        Ok(Mounts {
            lower,
            upper,
            work,
            as_user: self.layers().as_user(),
        })
    }

    /// Says that the root of `owner` is no longer mounted. Doing it twice does no harm.
    pub fn release_snapshot(&self, owner: &ContainerId) -> Result<(), SnapshotError> {
        // Layer mounts are shared and cheap; they stay until the layer goes. What overlayfs left
        // in its scratch space does not.
        let work = self.snapshot_directory(owner).join("work/work");
        files::remove(&work).map_err(|source| SnapshotError::File {
            what: "clear",
            path: work,
            source,
        })
    }

    /// Deletes the writable layer of `owner`, if there is one.
    pub fn remove_snapshot(&self, owner: &ContainerId) -> Result<(), SnapshotError> {
        let path = self.snapshot_directory(owner);
        let doomed = match Staged::doomed(self.blobs().ingest_directory(), &path) {
            Ok(doomed) => Some(doomed),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => {
                return Err(SnapshotError::File {
                    what: "remove",
                    path,
                    source,
                });
            }
        };
        let forgotten =
            self.tables()
                .remove_snapshot(owner)
                .map_err(|source| SnapshotError::Metadata {
                    owner: *owner,
                    source,
                });
        drop(doomed);
        let orphans = forgotten?;
        self.collect_layers(&orphans)
            .map_err(|source| SnapshotError::Metadata {
                owner: *owner,
                source,
            })?;
        Ok(())
    }

    /// What `owner` has changed, as a layer; if `only` is given, that of it which is at these paths
    /// (from the root, without a slash before them).
    pub fn commit_snapshot(
        &self,
        owner: &ContainerId,
        only: Option<&HashSet<PathBuf>>,
    ) -> Result<Layer, CommitError> {
        let upper = self.snapshot_directory(owner).join("upper");
        let directory = match File::open(&upper) {
            Ok(directory) => directory,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(CommitError::NotFound(*owner));
            }
            Err(source) => {
                let source = crate::PackError::Read {
                    path: upper,
                    source,
                };
                return Err(CommitError::Pack(source));
            }
        };
        let mut ingest = self
            .receive_layer(None, None, None)
            .map_err(CommitError::Receive)?;
        let tree = pack::Tree::Changes {
            as_user: self.layers().as_user(),
        };
        let packed = pack::pack_tree(directory.as_fd(), tree, only, &mut ingest);
        match packed {
            // What the ingest could only say in words is told by committing it.
            Ok(()) | Err(crate::PackError::Write(_)) => {
                ingest.commit().map_err(CommitError::Receive)
            }
            Err(error) => Err(CommitError::Pack(error)),
        }
    }

    /// Bytes that `owner` has written.
    pub fn snapshot_bytes(&self, owner: &ContainerId) -> Result<u64, SnapshotError> {
        let path = self.snapshot_directory(owner).join("upper");
        match files::tree_bytes(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(SnapshotError::NotFound(*owner))
            }
            other => other.map_err(|source| SnapshotError::File {
                what: "measure",
                path,
                source,
            }),
        }
    }

    fn snapshot_directory(&self, owner: &ContainerId) -> PathBuf {
        self.root().join("snapshots").join(owner.to_string())
    }

    fn make_snapshot_directories(
        &self,
        owner: &ContainerId,
    ) -> Result<(PathBuf, PathBuf), SnapshotError> {
        let directory = self.snapshot_directory(owner);
        let make = |path: PathBuf, mode| match files::make_directory(&path, mode) {
            Ok(()) => Ok(path),
            Err(source) => Err(SnapshotError::File {
                what: "make directory",
                path,
                source,
            }),
        };
        let directory = make(directory, 0o700)?;
        // The upper directory's own owner and mode are those of the container's root.
        Ok((
            make(directory.join("upper"), 0o755)?,
            make(directory.join("work"), 0o700)?,
        ))
    }
}
