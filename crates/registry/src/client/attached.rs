//! What an index says about the image that was chosen from it: attestations (provenance, lists of
//! contents), which travel as manifests of their own beside the image's.
//!
//! Nothing needs them to run the image, so one that cannot be had does not fail the pull.

use store::{Document as Stored, attests};
use vocab::manifest::{Descriptor, Index, Manifest};

use super::RequestError;
use super::session::{Document, Session};

/// Bytes of all attestations of one image.
const ATTACHED_BYTES: u64 = 8 << 20;
/// Blobs of one attestation.
const ATTACHED_BLOBS: usize = 64;

/// Everything that `index` has about the image of this manifest.
pub(super) async fn attached(
    session: &Session<'_>,
    index: Option<&Document>,
    image: &vocab::Digest,
) -> Vec<Stored> {
    let index = index.and_then(|index| serde_json::from_slice::<Index>(&index.bytes).ok());
    let entries = index.map(|index| index.manifests).unwrap_or_default();
    let mut left = ATTACHED_BYTES;
    let mut found = Vec::new();
    for entry in entries {
        if attests(&entry).as_ref() != Some(image) {
            continue;
        }
        match one(session, &entry, &mut left).await {
            Ok(documents) => found.extend(documents),
            Err(error) => {
                let error = vocab::failure::chain(&error);
                tracing::debug!(attestation = %entry.digest, error, "does not come along");
            }
        }
    }
    found
}

/// One attestation: its blobs, then its manifest. Nothing if it is larger than what is left.
async fn one(
    session: &Session<'_>,
    entry: &Descriptor,
    left: &mut u64,
) -> Result<Vec<Stored>, RequestError> {
    let address = entry.digest.to_string();
    let document = session.manifest(&address, Some(&entry.digest)).await?;
    let Ok(manifest) = serde_json::from_slice::<Manifest>(&document.bytes) else {
        return Ok(Vec::new());
    };
    let blobs: Vec<Descriptor> = manifest
        .layers
        .into_iter()
        .chain([manifest.config])
        .collect();
    let size = blobs.iter().map(|blob| blob.size);
    let size = size.fold(document.bytes.len() as u64, u64::saturating_add);
    if size > *left || blobs.len() > ATTACHED_BLOBS {
        tracing::debug!(attestation = %entry.digest, size, "is too large to come along");
        return Ok(Vec::new());
    }
    *left -= size;
    let mut found = Vec::with_capacity(blobs.len() + 1);
    for blob in blobs {
        let bytes = session.config_blob(&blob).await?;
        let media_type = blob.media_type;
        found.push(Stored { media_type, bytes });
    }
    found.push(Stored {
        media_type: document.media_type(),
        bytes: document.bytes,
    });
    Ok(found)
}
