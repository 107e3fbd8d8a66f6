//! Layers as directories, and the writable layer of each container.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;

use vocab::{ContainerId, Digest, Failure, Kind};

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
            Self::Mount { .. } | Self::File { .. } | Self::Metadata { .. } => Kind::Internal,
        }
    }
}
