//! A push: the blobs that the registry does not have, several at a time, then the manifest.

use std::io;
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method};
use store::{Document, Image, Layer, NewImage, Store};
use vocab::manifest::media_type;
use vocab::{Algorithm, Digest, Platform, Reference};

use super::progress::{LayerState, Progress, Teller};
use super::retry::is_unreachable;
use super::session::{Purpose, Session, content_digest, digest_of};
use super::transport::Body;
use super::upload::{Arrived, Outgoing, Upload};
use super::{Client, Credentials, PushError, RequestError};

/// Repositories of the registry that are tried for a blob before it is sent (as dockerd does).
const ELSEWHERE: usize = 4;

/// What is to go, and where.
pub(super) struct Push<'a> {
    pub(super) client: &'a Client,
    pub(super) store: Arc<Store>,
    pub(super) image: Image,
    /// With a tag.
    pub(super) reference: &'a Reference,
    pub(super) platform: Option<&'a Platform>,
    pub(super) credentials: Option<&'a Credentials>,
    pub(super) tell: Teller,
}

/// The image in the form in which it travels.
struct Form {
    manifest: Document,
    /// Lowest first; of those that are kept as a plain tar, the compressed ones.
    layers: Vec<Layer>,
    /// The configuration and the layers.
    blobs: Vec<Outgoing>,
}

impl Push<'_> {
    /// Answers the digest of the manifest.
    pub(super) async fn run(&self) -> Result<Digest, PushError> {
        self.check_platform()?;
        for diff_id in self.image.config.rootfs.diff_ids.iter().rev() {
            self.tell
                .layer(diff_id.short(), LayerState::Preparing)
                .await;
        }
        let form = Arc::new(self.form().await?);
        let endpoints = self.client.origins(self.reference.domain());
        let last = endpoints.len() - 1;
        for (at, endpoint) in endpoints.iter().enumerate() {
            let repository = self.reference.path().to_owned();
            let purpose = Purpose::Push { repository };
            let session = self
                .client
                .session(endpoint.clone(), purpose, self.credentials);
            match self.push_to(&session, &form).await {
                Err(error) if at != last && is_nobody(&error) => {}
                outcome => {
                    if outcome.is_ok() {
                        self.client.remember(self.reference.domain(), endpoint);
                    }
                    return outcome.map_err(plain);
                }
            }
        }
        unreachable!("the last place's outcome is returned")
    }

    fn check_platform(&self) -> Result<(), PushError> {
        let found = self.image.config.platform();
        match self.platform {
            Some(wanted) if found.rank_on(wanted).is_none() => Err(PushError::OtherPlatform {
                reference: self.reference.familiar(),
                wanted: Box::new(wanted.clone()),
                found: Box::new(found),
            }),
            _ => Ok(()),
        }
    }

    async fn form(&self) -> Result<Form, PushError> {
        let (store, image) = (Arc::clone(&self.store), self.image.clone());
        let reference = self.reference.clone();
        tasks::blocking(move || form(&store, image, &reference)).await
    }

    async fn push_to(&self, session: &Session<'_>, form: &Arc<Form>) -> Result<Digest, PushError> {
        let mut uploads: FuturesUnordered<_> = form
            .blobs
            .iter()
            .map(|blob| self.push_blob(session, blob))
            .collect();
        // The first failure ends the others.
        while let Some(outcome) = uploads.next().await {
            outcome?;
        }
        self.push_manifest(session, form).await
    }

    async fn push_blob(&self, session: &Session<'_>, blob: &Outgoing) -> Result<(), PushError> {
        let slots = self.client.upload_slots();
        let _slot = match slots.try_acquire() {
            Ok(slot) => slot,
            Err(_) => {
                if let Some(id) = &blob.id {
                    self.tell.layer(id, LayerState::Waiting).await;
                }
                slots.acquire().await.expect("nobody closes it")
            }
        };
        match Upload::new(session, blob, &self.tell, self.client.chunk_bytes())
            .run()
            .await
        {
            Ok(Arrived::Missing) => Err(PushError::Missing {
                digest: blob.digest.clone(),
                reference: self.reference.familiar(),
            }),
            Ok(_) => Ok(()),
            Err(source) => Err(PushError::Blob {
                digest: blob.digest.clone(),
                source,
            }),
        }
    }

    async fn push_manifest(
        &self,
        session: &Session<'_>,
        form: &Arc<Form>,
    ) -> Result<Digest, PushError> {
        let tag = self.reference.tag().unwrap_or_default();
        let Document { media_type, bytes } = &form.manifest;
        let digest = digest_of(bytes, Algorithm::Sha256);
        let told = session.put_manifest(tag, media_type, bytes).await?;
        if let Some(found) = told.filter(|found| *found != digest) {
            return Err(PushError::Taken {
                reference: self.reference.familiar(),
                expected: digest,
                found,
            });
        }
        self.note(form, &digest).await?;
        self.tell
            .tell(Progress::Pushed {
                tag: tag.to_owned(),
                digest: digest.clone(),
                size_bytes: bytes.len() as u64,
            })
            .await;
        Ok(digest)
    }

    /// Puts down that the registry knows the image by this digest, and in which form.
    async fn note(&self, form: &Arc<Form>, digest: &Digest) -> Result<(), PushError> {
        let new = NewImage {
            config: self.image.raw_config.clone(),
            manifest: Some(form.manifest.clone()),
            index: None,
            layers: form.layers.clone(),
            names: vec![self.reference.with_digest(digest.clone())],
        };
        let store = Arc::clone(&self.store);
        tasks::blocking(move || store.put_image(new)).await?;
        Ok(())
    }
}

impl Session<'_> {
    /// Gives a manifest a tag; answers what the registry calls it, if it says so.
    async fn put_manifest(
        &self,
        tag: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<Option<Digest>, RequestError> {
        let mut request = self.request(Method::PUT, &format!("manifests/{tag}"))?;
        let media_type = HeaderValue::try_from(media_type).map_err(|_| RequestError::Address {
            url: media_type.to_owned(),
        })?;
        request.headers.insert(CONTENT_TYPE, media_type);
        request.body = Body::Bytes(bytes.to_vec().into());
        let request = &request;
        self.tried(|| async move {
            let response = self.send(request.clone()).await?;
            content_digest(&response)
        })
        .await
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
    })
}

/// Layers that nobody but their owner may hand out.
fn is_foreign(media_type: &str) -> bool {
    media_type.contains(".nondistributable.") || media_type.contains(".foreign.")
}

fn open(store: &Store, digest: &Digest) -> Result<Option<Arc<std::fs::File>>, PushError> {
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
    let of_layer = |digest: &Digest| {
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

/// Whether nothing came of it because nobody was there.
fn is_nobody(error: &PushError) -> bool {
    match error {
        PushError::Request(error) | PushError::Blob { source: error, .. } => is_unreachable(error),
        _ => false,
    }
}

/// What a registry says of the user is not said of a blob.
fn plain(error: PushError) -> PushError {
    match error {
        PushError::Request(RequestError::NoCredentials { .. })
        | PushError::Blob {
            source: RequestError::NoCredentials { .. },
            ..
        } => PushError::NoCredentials,
        PushError::Blob {
            source: RequestError::Refused(refusal),
            ..
        } if matches!(refusal.status.as_u16(), 401 | 403) => {
            PushError::Request(RequestError::Refused(refusal))
        }
        PushError::Blob {
            source: source @ RequestError::Token { .. },
            ..
        } => PushError::Request(source),
        error => error,
    }
}
