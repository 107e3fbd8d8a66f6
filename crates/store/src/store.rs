//! The store itself: opened once for each data root, shared by all threads.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use vocab::{ContainerId, Digest, Failure, Kind, Reference};

use crate::{
    Driver, FindError, Image, Import, ImportError, Ingest, IngestError, Layer, LayerIngest,
    LoadError, Loaded, Mounts, NewImage, Progress, PutError, ReceiveError, RemoveError, Removed,
    SaveError, SnapshotError, TagError, User,
};

/// Choices at open.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// How layers become directories; the best that this host can do when absent.
    pub driver: Option<Driver>,
}

/// Blobs, images, layers and snapshots under one data root.
#[derive(Debug)]
pub struct Store {}

/// What the store occupies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of layers as mounted.
    pub layers_bytes: u64,
    /// Bytes of blobs as distributed.
    pub blobs_bytes: u64,
    /// Bytes of writable layers.
    pub snapshots_bytes: u64,
}

/// The tables could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("image metadata")]
pub struct MetadataError(#[from] rusqlite::Error);

/// Why the store did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("`{0}` is in use by another berth daemon")]
    Locked(PathBuf),
    /// A file or directory of it.
    #[error("{what} `{path}`")]
    File {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The driver that was asked for does not work on this host.
    #[error("storage driver {driver} does not work here")]
    Driver {
        /// Which.
        driver: Driver,
        /// What the system said.
        source: io::Error,
    },
    /// The tables.
    #[error("open `{path}`")]
    Metadata {
        /// The database.
        path: PathBuf,
        /// Cause.
        source: MetadataError,
    },
    /// The tables are of a later berth.
    #[error(
        "`{path}` was written by a later version of berth (format {found}; this one reads {known})"
    )]
    Version {
        /// The database.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The format known here.
        known: i64,
    },
}

impl Failure for OpenError {
    fn kind(&self) -> Kind {
        match self {
            Self::Locked(_) => Kind::Conflict,
            _ => Kind::Internal,
        }
    }
}

#[expect(unused_variables, reason = "the interface comes first")]
impl Store {
    /// Opens the store at `root` (made if absent), with layer mounts under `run`, and deletes what
    /// an earlier process left unfinished.
    pub fn open(root: &Path, run: &Path, options: &Options) -> Result<Self, OpenError> {
        todo!()
    }

    /// How layers become directories here.
    pub fn driver(&self) -> Driver {
        todo!()
    }

    /// The blob of this digest, open for reading, if it is there.
    pub fn find_blob(&self, digest: &Digest) -> io::Result<Option<File>> {
        todo!()
    }

    /// Begins a blob. When it is there already, the bytes are verified and the old blob stays.
    pub fn ingest(&self, expected: &Digest, size: Option<u64>) -> Result<Ingest, IngestError> {
        todo!()
    }

    /// The layer of this diff id, held against the collector, if it is there.
    pub fn find_layer(&self, diff_id: &Digest) -> Result<Option<Layer>, MetadataError> {
        todo!()
    }

    /// Begins a layer: its bytes as they come (gzip, zstd or plain, told by their magic), verified
    /// against what is given.
    pub fn receive_layer(
        &self,
        blob: Option<&Digest>,
        size: Option<u64>,
        diff_id: Option<&Digest>,
    ) -> Result<LayerIngest, ReceiveError> {
        todo!()
    }

    /// Puts an image in, with its names; answers its id.
    pub fn put_image(&self, image: NewImage) -> Result<Digest, PutError> {
        todo!()
    }

    /// All images, newest first.
    pub fn images(&self) -> Result<Vec<Image>, MetadataError> {
        todo!()
    }

    /// The image of this id.
    pub fn find_image_by_id(&self, id: &Digest) -> Result<Option<Image>, MetadataError> {
        todo!()
    }

    /// The image that a user means: a name, `name@digest`, an id, or the beginning of one.
    pub fn find_image(&self, typed: &str) -> Result<Image, FindError> {
        todo!()
    }

    /// Lets `name` mean this image, whatever it meant before.
    pub fn tag(&self, id: &Digest, name: &Reference) -> Result<(), TagError> {
        todo!()
    }

    /// Removes a name or an image by Docker's rules; `users` tells which containers use an image.
    pub fn remove_image(
        &self,
        typed: &str,
        force: bool,
        no_prune: bool,
        users: &dyn Fn(&Digest) -> Vec<User>,
    ) -> Result<Vec<Removed>, RemoveError> {
        todo!()
    }

    /// Loads a `docker save` or OCI-layout archive, plain or compressed, from any reader.
    pub fn load(
        &self,
        archive: &mut dyn Read,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Loaded>, LoadError> {
        todo!()
    }

    /// Makes an image of one layer from a root tar, plain or compressed.
    pub fn import(
        &self,
        tar: &mut dyn Read,
        import: &Import,
        name: Option<&Reference>,
    ) -> Result<Digest, ImportError> {
        todo!()
    }

    /// Writes the named images as one archive that is both a `docker save` one and an OCI layout.
    pub fn save(&self, typed: &[String], out: &mut dyn Write) -> Result<(), SaveError> {
        todo!()
    }

    /// Gives `owner` a writable layer on top of an image.
    pub fn create_snapshot(
        &self,
        owner: &ContainerId,
        image: &Digest,
    ) -> Result<(), SnapshotError> {
        todo!()
    }

    /// What the root of `owner` is mounted from; mounts layers that are not mounted yet.
    pub fn mount_snapshot(&self, owner: &ContainerId) -> Result<Mounts, SnapshotError> {
        todo!()
    }

    /// Says that the root of `owner` is no longer mounted. Doing it twice does no harm.
    pub fn release_snapshot(&self, owner: &ContainerId) -> Result<(), SnapshotError> {
        todo!()
    }

    /// Deletes the writable layer of `owner`, if there is one.
    pub fn remove_snapshot(&self, owner: &ContainerId) -> Result<(), SnapshotError> {
        todo!()
    }

    /// Bytes that `owner` has written.
    pub fn snapshot_bytes(&self, owner: &ContainerId) -> Result<u64, SnapshotError> {
        todo!()
    }

    /// Deletes layers and blobs that nothing needs; answers the bytes that came free.
    pub fn collect(&self) -> Result<u64, MetadataError> {
        todo!()
    }

    /// What the store occupies.
    pub fn usage(&self) -> Result<Usage, MetadataError> {
        todo!()
    }
}
