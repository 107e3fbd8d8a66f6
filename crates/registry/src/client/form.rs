//! What travels in a push: an image, or an index with everything that it leads to.

use std::io;
use std::sync::Arc;

use store::{Bundle, Content, Document, Image, Layer, Store};
use vocab::Reference;
use vocab::manifest::{Descriptor, media_type};

use super::PushError;
use super::session::digest_of;
use super::upload::Outgoing;

/// Repositories of the registry that are tried for a blob before it is sent (as dockerd does).
const ELSEWHERE: usize = 4;

/// An image in the form in which it travels, and what goes with it.
pub(super) struct Form {
    /// The image's.
    pub(super) manifest: Document,
    /// Lowest first; of those that are kept as a plain tar, the compressed ones.
    pub(super) layers: Vec<Layer>,
    /// Configurations, layers, and what attestations consist of.
    pub(super) blobs: Vec<Outgoing>,
    /// The index, if all that it leads to goes.
    pub(super) index: Option<Document>,
    /// The manifests of that index.
    pub(super) members: Vec<Document>,
    /// The index that is not here as a whole, and the manifest that goes in its place.
    pub(super) instead: Option<(Box<Descriptor>, Box<Descriptor>)>,
}

impl Form {
    /// Blocking: what travels of an image; `alone` if what belongs to it by an index stays.
    pub(super) fn new(
        store: &Store,
        image: Image,
        reference: &Reference,
        alone: bool,
    ) -> Result<Self, PushError> {
        let bundle = match alone {
            true => None,
            false => bundle(store, &image, reference)?,
        };
        let mut form = form(store, image, reference)?;
        let Some(bundle) = bundle else {
            return Ok(form);
        };
        let own = digest_of(&form.manifest.bytes, vocab::Algorithm::Sha256);
        let of_index = |member: &&store::Member| member.descriptor.digest == own;
        let Some(own) = bundle.members.iter().find(of_index) else {
            // It has another manifest by now than the index knows.
            return Ok(form);
        };
        if !bundle.is_complete() {
            let own = Box::new(own.descriptor.clone());
            form.instead = Some((Box::new(bundle.descriptor), own));
            return Ok(form);
        }
        form.add(store, bundle, reference)?;
        Ok(form)
    }

    /// What the tag is to mean.
    pub(super) fn target(&self) -> &Document {
        self.index.as_ref().unwrap_or(&self.manifest)
    }

    /// Everything that the index leads to goes as well.
    fn add(
        &mut self,
        store: &Store,
        bundle: Bundle,
        reference: &Reference,
    ) -> Result<(), PushError> {
        for member in bundle.members {
            match member.content {
                Content::Image(image) => {
                    let other = form(store, *image, reference)?;
                    for blob in other.blobs {
                        self.add_blob(blob);
                    }
                    self.members.push(other.manifest);
                }
                Content::Attached { manifest, blobs } => {
                    for blob in blobs {
                        self.add_blob(Outgoing {
                            file: open(store, &blob.digest)?,
                            digest: blob.digest,
                            size: blob.size,
                            elsewhere: Vec::new(),
                            id: None,
                        });
                    }
                    self.members.push(manifest);
                }
                Content::Missing => {}
            }
        }
        self.index = Some(bundle.index);
        Ok(())
    }

    fn add_blob(&mut self, blob: Outgoing) {
        if self.blobs.iter().all(|known| known.digest != blob.digest) {
            self.blobs.push(blob);
        }
    }
}

/// The index that led to an image. One of which several images are here, but not all, is neither one
/// image nor whole.
fn bundle(
    store: &Store,
    image: &Image,
    reference: &Reference,
) -> Result<Option<Bundle>, PushError> {
    let bundle = store.bundle(image).map_err(|source| PushError::Index {
        reference: reference.familiar(),
        source,
    })?;
    match bundle {
        Some(bundle) if !bundle.is_complete() && bundle.images().count() > 1 => {
            let here: Vec<String> = bundle
                .images()
                .map(|image| image.config.platform().to_string())
                .collect();
            Err(PushError::Incomplete {
                reference: reference.familiar(),
                here: here.join(", "),
            })
        }
        bundle => Ok(bundle),
    }
}

/// Blocking: what travels of an image. One that has a manifest travels as that says, byte for byte;
/// for another one, its layers are compressed and a manifest is made.
fn form(store: &Store, mut image: Image, reference: &Reference) -> Result<Form, PushError> {
    let diff_ids = image.config.rootfs.diff_ids.clone();
    let read = |what: &str| {
        let what = what.to_owned();
        move |source| PushError::Read { what, source }
    };
    let mut layers = Vec::new();
    for (diff_id, blob) in diff_ids.iter().zip(&mut image.layers) {
        let missing = || PushError::Missing {
            digest: diff_id.clone(),
            reference: reference.familiar(),
        };
        let made_here = image.manifest.is_none() && blob.media_type == media_type::OCI_LAYER;
        let layer = match made_here {
            true => store.compress_layer(diff_id).map_err(PushError::Compress)?,
            false => {
                let found = store.find_layer_of_blob(&blob.digest);
                let found = found.map_err(|source| PushError::LookUp {
                    what: format!("layer {}", blob.digest),
                    source,
                })?;
                found.map(|layer| layer.with_media_type(&blob.media_type))
            }
        };
        let layer = layer.ok_or_else(missing)?;
        *blob = layer.blob().clone();
        layers.push(layer);
    }
    let manifest = store.manifest(&image).map_err(read("the manifest"))?;
    let elsewhere = elsewhere(store, &image, reference)?;
    let mut blobs = vec![Outgoing {
        digest: image.id.clone(),
        size: image.raw_config.len() as u64,
        file: open(store, &image.id)?,
        elsewhere: Vec::new(),
        id: None,
    }];
    for ((diff_id, layer), elsewhere) in diff_ids.iter().zip(&layers).zip(elsewhere) {
        let blob = layer.blob();
        if is_foreign(&blob.media_type) || blobs.iter().any(|known| known.digest == blob.digest) {
            continue;
        }
        blobs.push(Outgoing {
            digest: blob.digest.clone(),
            size: blob.size_bytes,
            file: open(store, &blob.digest)?,
            elsewhere,
            id: Some(diff_id.short().to_owned()),
        });
    }
    Ok(Form {
        manifest,
        layers,
        blobs,
        index: None,
        members: Vec::new(),
        instead: None,
    })
}

/// Layers that nobody but their owner may hand out.
fn is_foreign(media_type: &str) -> bool {
    media_type.contains(".nondistributable.") || media_type.contains(".foreign.")
}

fn open(store: &Store, digest: &vocab::Digest) -> Result<Option<Arc<std::fs::File>>, PushError> {
    let file = store.find_blob(digest).map_err(|source: io::Error| {
        let what = format!("blob {digest}");
        PushError::Read { what, source }
    })?;
    Ok(file.map(Arc::new))
}

/// For each layer of `image`, other repositories of the same registry whose images have it.
fn elsewhere(
    store: &Store,
    image: &Image,
    reference: &Reference,
) -> Result<Vec<Vec<String>>, PushError> {
    let images = store.images().map_err(|source| PushError::LookUp {
        what: "other images".to_owned(),
        source,
    })?;
    let of_layer = |digest: &vocab::Digest| {
        let mut found: Vec<String> = images
            .iter()
            .filter(|other| other.layers.iter().any(|layer| layer.digest == *digest))
            .flat_map(|other| &other.digests)
            .filter(|name| name.domain() == reference.domain() && name.path() != reference.path())
            .map(|name| name.path().to_owned())
            .collect();
        found.sort_unstable();
        found.dedup();
        found.truncate(ELSEWHERE);
        found
    };
    Ok(image
        .layers
        .iter()
        .map(|layer| of_layer(&layer.digest))
        .collect())
}
