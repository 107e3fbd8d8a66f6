//! What the store occupies, and what of it belongs to whom.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::PathBuf;

use vocab::{Digest, Failure, Kind};

use crate::files::{self, disk_bytes};
use crate::metadata::MetadataError;
use crate::store::Store;

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

/// What the store occupies on its disk, as `du` counts it; the sum is all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Layers, as mounted and as distributed, and documents.
    pub images: u64,
    /// Writable layers.
    pub snapshots: u64,
    /// What is being taken in, or waits to go on.
    pub incoming: u64,
    /// Damaged blobs.
    pub quarantine: u64,
    /// Tables, locks, empty directories.
    pub metadata: u64,
}

/// Why the store could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// A directory of it.
    #[error("measure `{path}`")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The tables.
    #[error("measure the store")]
    Metadata(#[from] MetadataError),
}

impl Failure for UsageError {
    fn kind(&self) -> Kind {
        Kind::Internal
    }
}

impl Store {
    /// What the store occupies.
    pub fn usage(&self) -> Result<Usage, UsageError> {
        let layers_bytes = self.tables().layers_bytes()?;
        let measure = |name| {
            let path = self.root().join(name);
            files::tree_bytes(&path).map_err(|source| UsageError::File { path, source })
        };
        Ok(Usage {
            layers_bytes,
            blobs_bytes: measure("blobs")?,
            snapshots_bytes: measure("snapshots")?,
        })
    }

    /// What the store occupies on its disk; what is removed but not yet deleted is waited for.
    pub fn disk_usage(&self) -> Result<DiskUsage, UsageError> {
        self.wait_for_removals();
        let mut usage = DiskUsage::default();
        let failed = |path: PathBuf| move |source| UsageError::File { path, source };
        let root = self.root();
        // The directory itself, without what is in it.
        let empty = fs::metadata(root).map_err(failed(root.to_owned()))?;
        usage.metadata += std::os::unix::fs::MetadataExt::blocks(&empty) * 512;
        for entry in fs::read_dir(root).map_err(failed(root.to_owned()))? {
            let path = entry.map_err(failed(root.to_owned()))?.path();
            let bytes = disk_bytes(&path).map_err(failed(path.clone()))?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            *match &*name {
                "blobs" | "layers" => &mut usage.images,
                "snapshots" => &mut usage.snapshots,
                "ingest" | "partial" => &mut usage.incoming,
                "quarantine" => &mut usage.quarantine,
                _ => &mut usage.metadata,
            } += bytes;
        }
        Ok(usage)
    }

    /// Bytes on the disk that these images take, what they share counted once.
    pub fn disk_bytes_of(&self, images: &[Digest]) -> Result<u64, UsageError> {
        let mut paths = HashSet::new();
        for image in images {
            let tables = self.tables();
            let blobs = tables.blobs_of(image)?;
            let layers = tables.layers_of(image)?;
            drop(tables);
            paths.extend(blobs.iter().map(|blob| self.blobs().path(blob)));
            paths.extend(layers.iter().flat_map(|layer| self.layers().files(layer)));
        }
        let mut bytes = 0;
        for path in paths {
            bytes += disk_bytes(&path).map_err(|source| UsageError::File { path, source })?;
        }
        Ok(bytes)
    }

    /// For each image, the bytes of those of its layers that other images have too.
    pub fn shared_bytes(&self) -> Result<HashMap<Digest, u64>, MetadataError> {
        self.tables().shared_bytes()
    }
}
