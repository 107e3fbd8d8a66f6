//! What an index leads to beside images: indexes in it, attestations, artifacts.
//!
//! None of it is looked into: it is kept as blobs, so that the index can leave as it came. It may be
//! large, so it goes to the disk as it comes, and is held until an image that it belongs to is put
//! in.

use std::io;
use std::sync::Arc;

use vocab::Digest;
use vocab::manifest::Descriptor;

use crate::blobs::IngestError;
use crate::lease::Lease;
use crate::metadata::DocumentRow;
use crate::store::Store;

/// A blob that is in the store, and stays there while a value of this type lives.
#[derive(Clone, Debug)]
pub struct HeldBlob {
    media_type: String,
    digest: Digest,
    size_bytes: u64,
    _lease: Arc<Lease>,
}

impl HeldBlob {
    /// Its address.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    pub(crate) fn row(&self) -> DocumentRow {
        DocumentRow {
            digest: self.digest.clone(),
            media_type: self.media_type.clone(),
            size_bytes: self.size_bytes,
        }
    }
}

impl Store {
    /// Holds the blob of a descriptor, if it is there and as long as that says.
    pub fn hold_blob(&self, blob: &Descriptor) -> io::Result<Option<HeldBlob>> {
        // So that the collector does not come between.
        let _tables = self.tables();
        let Some(file) = self.find_blob(&blob.digest)? else {
            return Ok(None);
        };
        if file.metadata()?.len() != blob.size {
            return Ok(None);
        }
        Ok(Some(HeldBlob {
            media_type: blob.media_type.clone(),
            digest: blob.digest.clone(),
            size_bytes: blob.size,
            _lease: Arc::new(self.hold(vec![blob.digest.clone()])),
        }))
    }

    /// Stores bytes at hand and holds them; they must have this digest.
    pub fn put_blob(
        &self,
        digest: &Digest,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<HeldBlob, IngestError> {
        let held = HeldBlob {
            media_type: media_type.to_owned(),
            digest: digest.clone(),
            size_bytes: bytes.len() as u64,
            _lease: Arc::new(self.hold(vec![digest.clone()])),
        };
        let mut ingest = self.ingest(digest, Some(held.size_bytes))?;
        ingest.receive(bytes)?;
        ingest.commit()?;
        Ok(held)
    }
}
