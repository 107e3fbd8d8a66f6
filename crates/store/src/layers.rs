//! One pass over a layer's bytes: hashed as they came, decompressed, hashed again, unpacked.

use std::io::{self, Write};

use vocab::{Digest, Failure, Kind};

/// A layer that is in the store, whole. While a value of this type lives, the collector leaves the
/// layer alone, so an image being put together cannot lose one.
#[derive(Clone, Debug)]
pub struct Layer {
    pub(crate) diff_id: Digest,
    pub(crate) size_bytes: u64,
    pub(crate) blob: LayerBlob,
}

/// A layer as it is distributed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerBlob {
    /// Digest of the bytes as they came.
    pub digest: Digest,
    /// How many bytes came.
    pub size_bytes: u64,
    /// What its manifest calls it, or what berth would.
    pub media_type: String,
}

impl Layer {
    /// Digest of the uncompressed tar.
    pub fn diff_id(&self) -> &Digest {
        &self.diff_id
    }

    /// Bytes of the files in it.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The form in which it is distributed.
    pub fn blob(&self) -> &LayerBlob {
        &self.blob
    }

    /// The same layer, called `media_type` in the manifest at hand.
    #[must_use]
    pub fn with_media_type(mut self, media_type: &str) -> Self {
        media_type.clone_into(&mut self.blob.media_type);
        self
    }
}

/// A layer on its way in: compressed or plain bytes are written to it, in order.
/// [`commit`](Self::commit) makes it visible; dropping it abandons it.
#[derive(Debug)]
pub struct LayerIngest {}

/// Why bytes did not become a layer.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The disk, or the file system.
    #[error("store layer {layer}")]
    Write {
        /// Which layer, as far as known.
        layer: String,
        /// What the system said.
        source: io::Error,
    },
    /// The bytes as they came have another digest.
    #[error("layer {expected} has digest {actual}")]
    Digest {
        /// Promised.
        expected: Digest,
        /// Found.
        actual: Digest,
    },
    /// There are more or fewer bytes than promised.
    #[error("layer {layer} has {actual} bytes instead of {expected}")]
    Size {
        /// Which layer.
        layer: String,
        /// Promised.
        expected: u64,
        /// Found so far.
        actual: u64,
    },
    /// The uncompressed bytes are not those that the image configuration names.
    #[error("layer {layer} unpacks to {actual}, but the image configuration says {expected}")]
    DiffId {
        /// The layer as distributed.
        layer: String,
        /// Named by the configuration.
        expected: Digest,
        /// Found.
        actual: Digest,
    },
    /// The compressed stream is damaged or ends too early.
    #[error("decompress layer {layer}")]
    Decompress {
        /// Which layer.
        layer: String,
        /// What the decoder said.
        source: io::Error,
    },
    /// It unpacks to far more than its own size warrants.
    #[error("layer {layer} unpacks to more than {limit} bytes, refused as a decompression bomb")]
    Bomb {
        /// Which layer.
        layer: String,
        /// The bound it crossed.
        limit: u64,
    },
    /// The tar in it cannot be a layer.
    #[error("layer {layer} is not a sound tar: {reason}")]
    Malformed {
        /// Which layer.
        layer: String,
        /// What is wrong, naming the entry.
        reason: String,
    },
    /// The tables.
    #[error("record layer {layer}")]
    Metadata {
        /// Which layer.
        layer: String,
        /// Cause.
        source: crate::MetadataError,
    },
}

impl Failure for ReceiveError {
    fn kind(&self) -> Kind {
        match self {
            Self::Write { .. } | Self::Metadata { .. } => Kind::Internal,
            _ => Kind::InvalidArgument,
        }
    }
}

impl LayerIngest {
    /// Bytes taken so far.
    pub fn received_bytes(&self) -> u64 {
        todo!()
    }

    /// Verifies everything and makes the layer visible and durable. The error of a failed write is
    /// told here again with its full reason.
    pub fn commit(self) -> Result<Layer, ReceiveError> {
        todo!()
    }
}

impl Write for LayerIngest {
    fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
        todo!()
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
