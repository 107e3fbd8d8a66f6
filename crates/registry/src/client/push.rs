//! A push: the blobs that the registry does not have, several at a time, then the manifest.

use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method};
use store::{Document, Image, NewImage, Store};
use vocab::{Algorithm, Digest, Reference};

use super::form::Form;
use super::progress::{LayerState, Progress, Teller};
use super::retry::is_unreachable;
use super::session::{Purpose, Session, content_digest, digest_of};
use super::transport::Body;
use super::upload::{Arrived, Outgoing, Upload};
use super::{Client, Credentials, PushError, RequestError};

/// What is to go, and where.
pub(super) struct Push<'a> {
    pub(super) client: &'a Client,
    pub(super) store: Arc<Store>,
    pub(super) image: Image,
    /// With a tag.
    pub(super) reference: &'a Reference,
    /// Whether what belongs to the image by an index stays here.
    pub(super) alone: bool,
    pub(super) credentials: Option<&'a Credentials>,
    pub(super) tell: Teller,
}

impl Push<'_> {
    /// Answers the digest of the manifest.
    pub(super) async fn run(&self) -> Result<Digest, PushError> {
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

    async fn form(&self) -> Result<Form, PushError> {
        let (store, image) = (Arc::clone(&self.store), self.image.clone());
        let (reference, alone) = (self.reference.clone(), self.alone);
        tasks::blocking(move || Form::new(&store, image, &reference, alone)).await
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
        for member in &form.members {
            let digest = digest_of(&member.bytes, Algorithm::Sha256).to_string();
            let Document { media_type, bytes } = member;
            session.put_manifest(&digest, media_type, bytes).await?;
        }
        let Document { media_type, bytes } = form.target();
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
        if let Some((index, manifest)) = form.instead.clone() {
            self.tell
                .tell(Progress::PushedInstead { index, manifest })
                .await;
        }
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
            index: form.index.clone(),
            attached: Vec::new(),
            layers: form.layers.clone(),
            names: vec![self.reference.with_digest(digest.clone())],
        };
        let store = Arc::clone(&self.store);
        tasks::blocking(move || store.put_image(new)).await?;
        Ok(())
    }
}

impl Session<'_> {
    /// Puts a manifest down, under a tag or its digest; answers what the registry calls it, if it says so.
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
