//! Content by digest: a blob is a file named by the hash of its bytes.

use std::io::{self, Write};

use vocab::{Digest, Failure, Kind};

/// A blob on its way in. [`commit`](Self::commit) makes it visible; dropping it abandons it.
#[derive(Debug)]
pub struct Ingest {}

/// Why bytes did not become a blob.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The disk, or the file system.
    #[error("write blob {digest}")]
    Write {
        /// What was being written.
        digest: Digest,
        /// What the system said.
        source: io::Error,
    },
    /// The bytes are not those that were promised.
    #[error("blob {expected} has digest {actual}")]
    Digest {
        /// Promised.
        expected: Digest,
        /// Found.
        actual: Digest,
    },
    /// There are more or fewer bytes than promised.
    #[error("blob {digest} has {actual} bytes instead of {expected}")]
    Size {
        /// Which blob.
        digest: Digest,
        /// Promised.
        expected: u64,
        /// Found so far.
        actual: u64,
    },
}

impl Failure for IngestError {
    fn kind(&self) -> Kind {
        match self {
            Self::Write { .. } => Kind::Internal,
            Self::Digest { .. } | Self::Size { .. } => Kind::InvalidArgument,
        }
    }
}

impl Ingest {
    /// Verifies length and digest, and makes the blob visible and durable.
    pub fn commit(self) -> Result<Digest, IngestError> {
        todo!()
    }
}

impl Write for Ingest {
    fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
        todo!()
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
