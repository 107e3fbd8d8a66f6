//! The store itself: opened once for each data root, shared by all threads.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use vocab::{ContainerId, Digest, Failure, Kind};

use crate::blobs::{Blobs, Ingest, IngestError};
use crate::durable;
use crate::files;
use crate::images::Image;
use crate::layers::{Layer, LayerBlob, ReceiveError};
use crate::lease::{Lease, Leases};
use crate::metadata::{MetadataError, Tables};
use crate::reaper::Reaper;
use crate::recovery;
use crate::snapshots::{self, Driver, Layers};
use crate::windows::Wide;

/// Bytes moved at once from file to file.
pub(crate) const COPY_BYTES: usize = 256 << 10;

/// Choices at open.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// How layers become directories; the best that this host can do when absent.
    pub driver: Option<Driver>,
}

/// Blobs, images, layers and snapshots under one data root.
#[derive(Debug)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    root: PathBuf,
    driver: Driver,
    pub(crate) blobs: Arc<Blobs>,
    pub(crate) layers: Box<dyn Layers>,
    /// Also what keeps the collector and commits apart.
    tables: Mutex<Tables>,
    pub(crate) leases: Leases,
    /// Whose turn it is among layers that take much memory.
    pub(crate) wide: Arc<Wide>,
    told: OnceLock<Vec<String>>,
    /// Until when this process can lose nothing that it wrote.
    pub(crate) epoch: String,
    /// Before the lock, since it still deletes.
    pub(crate) reaper: Reaper,
    /// Locked while this lives.
    _lock: File,
}

impl Inner {
    pub(crate) fn tables(&self) -> MutexGuard<'_, Tables> {
        // A panic in the middle of a transaction rolled it back.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

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
    /// The tables are not what was written, and neither are new ones.
    #[error("`{path}` is damaged: {reason}")]
    Damaged {
        /// The database.
        path: PathBuf,
        /// How that shows.
        reason: String,
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

impl Store {
    /// Opens the store at `root` (made if absent), with layer mounts under `run`, and deletes what
    /// an earlier process left unfinished.
    pub fn open(root: &Path, run: &Path, options: &Options) -> Result<Self, OpenError> {
        let file = |what: &'static str, path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::File { what, path, source }
        };
        std::fs::create_dir_all(root).map_err(file("make directory", root))?;
        // What images hold is nobody's business on the host, set-id programs least of all.
        std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o700))
            .map_err(file("set the mode of", root))?;
        let lock_path = root.join("lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(file("open", &lock_path))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| OpenError::Locked(root.to_owned()))?;
        for name in [
            "blobs",
            "ingest",
            "layers",
            "snapshots",
            "quarantine",
            "empty",
        ] {
            let path = root.join(name);
            files::make_directory(&path, 0o755).map_err(file("make directory", &path))?;
        }
        let blobs = Blobs::open(root).map_err(file("open", root))?;
        let path = root.join("metadata.db");
        let (tables, mut recovery) = recovery::open(root)?;
        let (driver, layers) = snapshots::open(root, run, options.driver)?;
        let store = Self(Arc::new(Inner {
            root: root.to_owned(),
            driver,
            blobs: Arc::new(blobs),
            layers,
            tables: Mutex::new(tables),
            leases: Leases::default(),
            wide: Arc::default(),
            told: OnceLock::new(),
            epoch: durable::epoch(run).map_err(file("write the epoch to", run))?,
            reaper: Reaper::default(),
            _lock: lock,
        }));
        store.check(&path, &mut recovery)?;
        let _ = store.0.told.set(recovery.told);
        Ok(store)
    }

    /// What was wrong when it was opened, in sentences.
    pub fn told(&self) -> &[String] {
        self.0.told.get().map_or(&[], Vec::as_slice)
    }

    /// How layers become directories here.
    pub fn driver(&self) -> Driver {
        self.0.driver
    }

    /// The blob of this digest, open for reading, if it is there.
    pub fn find_blob(&self, digest: &Digest) -> io::Result<Option<File>> {
        self.blobs().find(digest)
    }

    /// Begins a blob. When it is there already, the bytes are verified all the same. A blob that no
    /// image comes to need is deleted by the collector, unless somebody [holds](Self::hold) it.
    pub fn ingest(&self, expected: &Digest, size: Option<u64>) -> Result<Ingest, IngestError> {
        Ingest::begin(Arc::clone(self.blobs()), expected, size)
    }

    /// Takes up a blob where the last one who ingested it ended, in this process or an earlier one:
    /// [`received_bytes`](Ingest::received_bytes) says how many bytes need not come again. While
    /// somebody else is ingesting the same blob it begins at nothing, beside that one.
    pub fn resume(&self, expected: &Digest, size: u64) -> Result<Ingest, IngestError> {
        Ingest::resume(Arc::clone(self.blobs()), expected, size)
    }

    /// Those who have a snapshot.
    pub fn snapshot_owners(&self) -> Result<Vec<ContainerId>, MetadataError> {
        let owners = self.tables().snapshots()?;
        Ok(owners.iter().filter_map(|id| id.parse().ok()).collect())
    }

    /// Keeps blobs from the collector, also such as are still to come.
    pub fn hold(&self, blobs: Vec<Digest>) -> Lease {
        Lease::new(self.inner(), blobs)
    }

    /// Keeps all that makes an image from the collector, whoever removes it meanwhile.
    pub fn hold_image(&self, image: &Image) -> Result<Lease, MetadataError> {
        let tables = self.tables();
        let mut held = tables.blobs_of(&image.id)?;
        held.extend(image.config.rootfs.diff_ids.iter().cloned());
        Ok(Lease::new(self.inner(), held))
    }

    /// Makes a layer again in this driver's form, after a change of driver or a loss.
    pub(crate) fn rebuild_layer(&self, diff_id: &Digest) -> Result<(), ReceiveError> {
        let layer = || diff_id.to_string();
        let forms = self
            .tables()
            .find_layer(diff_id)
            .map_err(|source| ReceiveError::Metadata {
                layer: layer(),
                source,
            })?
            .map(|(_, forms)| forms)
            .unwrap_or_default();
        for form in forms {
            if self.receive_again(&form, diff_id)?.is_some() {
                return Ok(());
            }
        }
        Err(ReceiveError::Write {
            layer: layer(),
            source: io::Error::new(io::ErrorKind::NotFound, "no blob of it is left"),
        })
    }

    /// Takes a layer in from its blob, if that is there, as the layer of this diff id.
    pub(crate) fn receive_again(
        &self,
        form: &LayerBlob,
        diff_id: &Digest,
    ) -> Result<Option<Layer>, ReceiveError> {
        let read = |source| ReceiveError::Write {
            layer: form.digest.to_string(),
            source,
        };
        let Some(mut blob) = self.find_blob(&form.digest).map_err(read)? else {
            return Ok(None);
        };
        let mut ingest =
            self.receive_layer(Some(&form.digest), Some(form.size_bytes), Some(diff_id))?;
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            match blob.read(&mut buffer).map_err(read)? {
                0 => return ingest.commit().map(Some),
                count => ingest.receive(&buffer[..count])?,
            }
        }
    }

    /// Waits until the bytes of all that was removed are free.
    pub fn wait_for_removals(&self) {
        self.0.reaper.wait();
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.0
    }

    pub(crate) fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.tables()
    }

    pub(crate) fn blobs(&self) -> &Arc<Blobs> {
        &self.0.blobs
    }

    pub(crate) fn layers(&self) -> &dyn Layers {
        &*self.0.layers
    }

    pub(crate) fn root(&self) -> &Path {
        &self.0.root
    }
}
