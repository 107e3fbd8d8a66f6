//! Images and their names, by Docker's rules: what a typed text means, what removal leaves.

use std::time::SystemTime;

use vocab::image::ImageConfig;
use vocab::{ContainerId, Digest, Failure, Kind, Reference};

use crate::{Layer, LayerBlob, MetadataError};

/// An image that is in the store.
#[derive(Clone, Debug)]
pub struct Image {
    /// Digest of the configuration's exact bytes.
    pub id: Digest,
    /// What berth reads in the configuration.
    pub config: ImageConfig,
    /// Its exact bytes.
    pub raw_config: Vec<u8>,
    /// Its tags, sorted.
    pub names: Vec<Reference>,
    /// Repositories that know it by digest (`repo@sha256:…`), sorted.
    pub digests: Vec<Reference>,
    /// Bytes of the files in all its layers.
    pub size_bytes: u64,
    /// What the configuration says.
    pub created: Option<SystemTime>,
    /// When a name was last put on it.
    pub tagged: Option<SystemTime>,
    /// The manifest it was pulled or loaded with, if any.
    pub manifest: Option<Document>,
    /// The layers as distributed, lowest first; as many as `config.rootfs.diff_ids`.
    pub layers: Vec<LayerBlob>,
}

/// A manifest or index, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Its media type.
    pub media_type: String,
    /// Its exact bytes.
    pub bytes: Vec<u8>,
}

/// An image to be put in; every layer is in the store already.
#[derive(Clone, Debug, Default)]
pub struct NewImage {
    /// The configuration's exact bytes.
    pub config: Vec<u8>,
    /// The manifest it came with.
    pub manifest: Option<Document>,
    /// The index through which the manifest was found.
    pub index: Option<Document>,
    /// Its layers, lowest first.
    pub layers: Vec<Layer>,
    /// Tags that now mean this image, and `repo@digest` names by which it is known.
    pub names: Vec<Reference>,
}

/// Who uses an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// The container.
    pub container: ContainerId,
    /// Whether it runs.
    pub running: bool,
}

/// One record of a removal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// A name is gone; as people write it.
    Untagged(String),
    /// An image or a layer is gone.
    Deleted(Digest),
}

/// Why a text names no image here.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// Nothing has that name, id or digest.
    #[error("No such image: {0}")]
    NotFound(String),
    /// It is the beginning of more than one id.
    #[error("image id prefix `{0}` is ambiguous")]
    Ambiguous(String),
    /// It is no name at all.
    #[error("{0}")]
    Invalid(#[source] vocab::reference::ParseReferenceError),
    /// The tables.
    #[error("look up image `{typed}`")]
    Metadata {
        /// What was typed.
        typed: String,
        /// Cause.
        source: MetadataError,
    },
}

impl Failure for FindError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound(_) => Kind::NotFound,
            Self::Ambiguous(_) | Self::Invalid(_) => Kind::InvalidArgument,
            Self::Metadata { .. } => Kind::Internal,
        }
    }
}

/// Why an image was not put in.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// The configuration cannot be read.
    #[error("image configuration {digest} is malformed")]
    Config {
        /// Digest of its bytes.
        digest: Digest,
        /// What the reader said.
        source: serde_json::Error,
    },
    /// Something is larger than accepted.
    #[error("{what} of image {image} has {actual}, more than the {limit} accepted")]
    TooLarge {
        /// What is.
        what: &'static str,
        /// Which image.
        image: Digest,
        /// Found, with its unit.
        actual: String,
        /// Accepted.
        limit: u64,
    },
    /// The layers are not those that the configuration names.
    #[error("the layers of image {image} do not match its configuration: {reason}")]
    Layers {
        /// Which image.
        image: Digest,
        /// How they differ.
        reason: String,
    },
    /// A document could not be stored.
    #[error("store image {image}")]
    Ingest {
        /// Which image.
        image: Digest,
        /// Cause.
        source: crate::IngestError,
    },
    /// The tables.
    #[error("record image {image}")]
    Metadata {
        /// Which image.
        image: Digest,
        /// Cause.
        source: MetadataError,
    },
}

impl Failure for PutError {
    fn kind(&self) -> Kind {
        match self {
            Self::Config { .. } | Self::TooLarge { .. } | Self::Layers { .. } => {
                Kind::InvalidArgument
            }
            Self::Ingest { source, .. } => source.kind(),
            Self::Metadata { .. } => Kind::Internal,
        }
    }
}

/// Why a name was not changed.
#[derive(Debug, thiserror::Error)]
pub enum TagError {
    /// The image is not there.
    #[error("No such image: {0}")]
    NotFound(Digest),
    /// A tag is wanted, and a digest was given.
    #[error("refusing to create a tag with a digest reference")]
    Digested,
    /// The tables.
    #[error("tag {name}")]
    Metadata {
        /// Which name.
        name: String,
        /// Cause.
        source: MetadataError,
    },
}

impl Failure for TagError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound(_) => Kind::NotFound,
            Self::Digested => Kind::InvalidArgument,
            Self::Metadata { .. } => Kind::Internal,
        }
    }
}

/// Why an image was not removed; the conflicts are Docker's sentences.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// No such image.
    #[error(transparent)]
    Find(#[from] FindError),
    /// Its last name is wanted by a container.
    #[error(
        "conflict: unable to remove repository reference {name:?} (must force) - container {container} is using its referenced image {image}"
    )]
    NameInUse {
        /// As typed.
        name: String,
        /// Short id.
        container: String,
        /// Short id.
        image: String,
    },
    /// Something else needs it.
    #[error("conflict: unable to delete {image} ({force}) - {reason}")]
    InUse {
        /// Short id.
        image: String,
        /// `must be forced` or `cannot be forced`.
        force: &'static str,
        /// Who needs it.
        reason: String,
    },
    /// The tables.
    #[error("remove image {image}")]
    Metadata {
        /// Which image.
        image: String,
        /// Cause.
        source: MetadataError,
    },
}

impl Failure for RemoveError {
    fn kind(&self) -> Kind {
        match self {
            Self::Find(error) => error.kind(),
            Self::NameInUse { .. } | Self::InUse { .. } => Kind::Conflict,
            Self::Metadata { .. } => Kind::Internal,
        }
    }
}
