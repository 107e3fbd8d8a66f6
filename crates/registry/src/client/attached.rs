//! What an index leads to beside the image that was chosen from it: attestations (provenance, lists
//! of contents), artifacts, and the indexes on the way.
//!
//! Nothing needs them to run the image, so one that cannot be had does not fail the pull; but without
//! it the index cannot leave as it came, so that is told.

use std::sync::Arc;

use store::limits::{ATTACHED, ATTACHED_BLOBS, ATTACHED_BYTES, INDEX_DEPTH};
use store::{HeldBlob, IngestError, Store, attests};
use vocab::Digest;
use vocab::manifest::{Descriptor, Index, Manifest, media_type};

use super::RequestError;
use super::session::{Document, Session};

/// What came beside an image.
#[derive(Debug, Default)]
pub(super) struct Attached {
    pub(super) held: Vec<HeldBlob>,
    /// What did not, and why.
    pub(super) left_out: Vec<(Digest, LeftOut)>,
}

/// Why an entry of an index does not come along.
#[derive(Debug, thiserror::Error)]
pub(super) enum LeftOut {
    #[error("the index leads to more than {ATTACHED} attestations and artifacts")]
    Many,
    #[error("it is an index more than {INDEX_DEPTH} deep in others")]
    Deep,
    #[error("it has {0} blobs, more than the {ATTACHED_BLOBS} accepted")]
    Blobs(usize),
    #[error(
        "with its {0} bytes there would be more than the {ATTACHED_BYTES} accepted for one image"
    )]
    Large(u64),
    #[error("it is malformed")]
    Malformed(#[source] serde_json::Error),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    Ingest(#[from] IngestError),
}

/// Everything that `index` leads to and belongs to the image of this manifest. `nested` are the
/// indexes in it that are at hand.
pub(super) async fn attached(
    session: &Session<'_>,
    store: &Arc<Store>,
    index: Option<&Document>,
    nested: &[Document],
    image: &Digest,
) -> Attached {
    let mut walk = Walk {
        session,
        store,
        nested,
        left: ATTACHED,
        left_bytes: ATTACHED_BYTES,
        found: Attached::default(),
    };
    let index = index.and_then(|index| serde_json::from_slice::<Index>(&index.bytes).ok());
    let mut indexes: Vec<(Index, usize)> = index.into_iter().map(|index| (index, 0)).collect();
    while let Some((index, depth)) = indexes.pop() {
        for entry in index.manifests.iter().filter(|entry| belongs(entry, image)) {
            match walk.entry(entry, depth).await {
                Ok(nested) => indexes.extend(nested.map(|nested| (nested, depth + 1))),
                Err(reason) => walk.found.left_out.push((entry.digest.clone(), reason)),
            }
        }
    }
    walk.found
}

/// Whether an entry may belong to an image: it is not another image, nor said about one.
fn belongs(entry: &Descriptor, image: &Digest) -> bool {
    if media_type::is_index(&entry.media_type) {
        return true;
    }
    match attests(entry) {
        Some(subject) => subject == *image,
        None => entry.digest != *image && (entry.platform.is_none() || entry.is_for_nothing()),
    }
}

struct Walk<'a> {
    session: &'a Session<'a>,
    store: &'a Arc<Store>,
    nested: &'a [Document],
    left: usize,
    left_bytes: u64,
    found: Attached,
}

impl Walk<'_> {
    /// Brings what an entry leads to; answers an index, for what that leads to.
    async fn entry(&mut self, entry: &Descriptor, depth: usize) -> Result<Option<Index>, LeftOut> {
        self.left = self.left.checked_sub(1).ok_or(LeftOut::Many)?;
        let is_index = media_type::is_index(&entry.media_type);
        if is_index && depth >= INDEX_DEPTH {
            return Err(LeftOut::Deep);
        }
        let mut at_hand = self.nested.iter();
        let document = match at_hand.find(|nested| nested.digest == entry.digest) {
            Some(document) => document.clone(),
            None => {
                let address = entry.digest.to_string();
                self.session.manifest(&address, Some(&entry.digest)).await?
            }
        };
        let mut index = None;
        let mut held = Vec::new();
        if is_index {
            let read = serde_json::from_slice(&document.bytes).map_err(LeftOut::Malformed)?;
            self.charge(document.bytes.len() as u64)?;
            index = Some(read);
        } else {
            let read = serde_json::from_slice(&document.bytes);
            let manifest: Manifest = read.map_err(LeftOut::Malformed)?;
            // An image without a platform is another one.
            if manifest.is_image() && attests(entry).is_none() && !entry.is_for_nothing() {
                return Ok(None);
            }
            held = self.blobs(manifest, document.bytes.len() as u64).await?;
        }
        held.push(self.put(entry, document.bytes).await?);
        self.found.held.extend(held);
        Ok(index)
    }

    /// The blobs of an attestation or artifact.
    async fn blobs(
        &mut self,
        manifest: Manifest,
        manifest_bytes: u64,
    ) -> Result<Vec<HeldBlob>, LeftOut> {
        let Manifest { layers, config, .. } = manifest;
        let blobs: Vec<Descriptor> = layers.into_iter().chain([config]).collect();
        if blobs.len() > ATTACHED_BLOBS {
            return Err(LeftOut::Blobs(blobs.len()));
        }
        let sizes = blobs.iter().map(|blob| blob.size);
        self.charge(sizes.fold(manifest_bytes, u64::saturating_add))?;
        let mut held = Vec::with_capacity(blobs.len() + 1);
        for blob in &blobs {
            held.push(self.blob(blob).await?);
        }
        Ok(held)
    }

    fn charge(&mut self, bytes: u64) -> Result<(), LeftOut> {
        let left = self.left_bytes.checked_sub(bytes);
        self.left_bytes = left.ok_or(LeftOut::Large(bytes))?;
        Ok(())
    }

    /// Stores a manifest or index.
    async fn put(&self, entry: &Descriptor, bytes: Vec<u8>) -> Result<HeldBlob, LeftOut> {
        let (store, entry) = (Arc::clone(self.store), entry.clone());
        let put = move || store.put_blob(&entry.digest, &entry.media_type, &bytes);
        Ok(tasks::blocking(put).await?)
    }

    /// Brings a blob to the store, unless it is there.
    async fn blob(&self, blob: &Descriptor) -> Result<HeldBlob, LeftOut> {
        let _lease = self.store.hold(vec![blob.digest.clone()]);
        if let Some(held) = self.find(blob).await? {
            return Ok(held);
        }
        self.session.tried(|| self.fetch(blob)).await??;
        let missing = || {
            let source = std::io::ErrorKind::NotFound.into();
            writing(blob)(source)
        };
        Ok(self.find(blob).await?.ok_or_else(missing)?)
    }

    async fn find(&self, blob: &Descriptor) -> Result<Option<HeldBlob>, IngestError> {
        let (store, wanted) = (Arc::clone(self.store), blob.clone());
        let found = tasks::blocking(move || store.hold_blob(&wanted)).await;
        found.map_err(writing(blob))
    }

    /// One try; what the store says is no reason for another.
    async fn fetch(&self, blob: &Descriptor) -> Result<Result<(), IngestError>, RequestError> {
        let mut response = self.session.blob(blob, 0, None).await?;
        let (store, wanted) = (Arc::clone(self.store), blob.clone());
        let begun = tasks::blocking(move || store.ingest(&wanted.digest, Some(wanted.size)));
        let mut ingest = begun.await;
        while let Some(chunk) = response.chunk().await? {
            ingest = match ingest {
                Ok(mut taking) => {
                    tasks::blocking(move || taking.receive(&chunk).map(|()| taking)).await
                }
                Err(error) => return Ok(Err(error)),
            };
        }
        let commit = move || ingest.and_then(store::Ingest::commit);
        Ok(tasks::blocking(commit).await.map(drop))
    }
}

/// For `map_err`.
fn writing(blob: &Descriptor) -> impl FnOnce(std::io::Error) -> IngestError {
    let digest = blob.digest.clone();
    move |source| IngestError::Write { digest, source }
}
