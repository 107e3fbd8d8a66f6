//! Whole images in and out of tars: `docker save` and OCI-layout archives, and bare root trees.

use std::io;

use vocab::{Digest, Failure, Kind, Platform, Reference};

/// How far a load has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Twelve digits of the layer's diff id or blob digest.
    pub layer: String,
    /// Bytes read of it.
    pub current_bytes: u64,
    /// Bytes it has.
    pub total_bytes: u64,
}

/// An image that was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Its id.
    pub id: Digest,
    /// The tags it got.
    pub names: Vec<Reference>,
}

/// What an imported root tree becomes.
#[derive(Clone, Debug)]
pub struct Import {
    /// Comment of its history; `Imported from -` when empty.
    pub message: String,
    /// Dockerfile instructions: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD,
    /// STOPSIGNAL, USER, VOLUME, WORKDIR.
    pub changes: Vec<String>,
    /// What it runs on.
    pub platform: Platform,
}

/// Why an archive was not loaded. Images that were whole before the failure stay.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The archive could not be read on.
    #[error("read the image archive")]
    Read(#[source] io::Error),
    /// It is neither kind of archive, or contradicts itself.
    #[error("invalid image archive: {0}")]
    Malformed(String),
    /// A file it names is not in it.
    #[error("invalid image archive: {0} is missing")]
    Missing(String),
    /// Nothing in it runs on this platform.
    #[error("the image archive holds no image for {0}")]
    Platform(Platform),
    /// A layer.
    #[error("load {layer}")]
    Layer {
        /// Its path in the archive.
        layer: String,
        /// Cause.
        source: crate::ReceiveError,
    },
    /// A blob.
    #[error("load {path}")]
    Blob {
        /// Its path in the archive.
        path: String,
        /// Cause.
        source: crate::IngestError,
    },
    /// An image.
    #[error("load image")]
    Put(#[source] crate::PutError),
    /// The tables.
    #[error("load image")]
    Metadata(#[source] crate::MetadataError),
}

impl Failure for LoadError {
    fn kind(&self) -> Kind {
        match self {
            Self::Read(_) | Self::Malformed(_) | Self::Missing(_) => Kind::InvalidArgument,
            Self::Platform(_) => Kind::NotFound,
            Self::Layer { source, .. } => source.kind(),
            Self::Blob { source, .. } => source.kind(),
            Self::Put(source) => source.kind(),
            Self::Metadata(_) => Kind::Internal,
        }
    }
}

/// Why a root tree was not imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The tar could not be read on.
    #[error("read the root tar")]
    Read(#[source] io::Error),
    /// An instruction cannot be applied.
    #[error("{change}: {reason}")]
    Change {
        /// As given.
        change: String,
        /// What is wrong.
        reason: String,
    },
    /// The tree.
    #[error("import the root tar")]
    Layer(#[source] crate::ReceiveError),
    /// The image.
    #[error("import the root tar")]
    Put(#[source] crate::PutError),
}

impl Failure for ImportError {
    fn kind(&self) -> Kind {
        match self {
            Self::Read(_) | Self::Change { .. } => Kind::InvalidArgument,
            Self::Layer(source) => source.kind(),
            Self::Put(source) => source.kind(),
        }
    }
}

/// Why images were not saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// One of them is not there.
    #[error(transparent)]
    Find(#[from] crate::FindError),
    /// A blob it needs cannot be read.
    #[error("read blob {digest}")]
    Blob {
        /// Which.
        digest: Digest,
        /// What the system said.
        source: io::Error,
    },
    /// The archive could not be written on.
    #[error("write the image archive")]
    Write(#[source] io::Error),
}

impl Failure for SaveError {
    fn kind(&self) -> Kind {
        match self {
            Self::Find(error) => error.kind(),
            Self::Blob { .. } | Self::Write(_) => Kind::Internal,
        }
    }
}
