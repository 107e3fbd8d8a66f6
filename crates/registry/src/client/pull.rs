//! A pull: name → manifest or index → platform → configuration → layers → image in the store.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use store::limits::INDEX_DEPTH;
use store::{Document as Stored, Image, Layer, NewImage, Store};
use tasks::Cancel;
use vocab::image::ImageConfig;
use vocab::manifest::Manifest;
use vocab::{Digest, Platform, Reference};

use super::attached::{Attached, attached};
use super::document::{Understood, check_image, read_config};
use super::hosts::Endpoint;
use super::layer::{Fetch, Wanted};
use super::places::Places;
use super::progress::{LayerState, Progress, Teller};
use super::session::{Document, Purpose, Session};
use super::{Client, Credentials, PullError, Pulled, RequestError, Resolved};

/// What is wanted, and what is known before anybody is asked.
pub(super) struct Pull<'a> {
    pub(super) client: &'a Client,
    pub(super) store: Arc<Store>,
    pub(super) reference: Reference,
    pub(super) platform: Option<&'a Platform>,
    pub(super) credentials: Option<&'a Credentials>,
    pub(super) tell: Teller,
}

/// The manifest of the image that was chosen.
struct Chosen {
    /// What the name points at.
    digest: Digest,
    index: Option<Document>,
    /// The indexes between that and the manifest.
    nested: Vec<Document>,
    document: Document,
    manifest: Box<Manifest>,
}

/// What its manifest named, and what was said about it.
struct Came {
    config: Vec<u8>,
    layers: Vec<Layer>,
    attached: Attached,
}

impl Pull<'_> {
    /// Asks one place after the other until one has the image.
    pub(super) async fn run(&self) -> Result<Pulled, PullError> {
        let before = self.find_present().await?;
        let mut places = Places::new(self.client, &self.reference);
        loop {
            let outcome = self.pull_from(places.place(), before.as_ref()).await;
            if let Some(outcome) = places.settle(outcome) {
                return outcome;
            }
        }
    }

    /// The image that the name means in the store now.
    async fn find_present(&self) -> Result<Option<Image>, PullError> {
        let store = Arc::clone(&self.store);
        let typed = self.reference.to_string();
        let found = tasks::blocking(move || store.find_image(&typed)).await;
        match found {
            Ok(image) => Ok(Some(image)),
            Err(store::FindError::Metadata { source, typed }) => Err(PullError::LookUp {
                what: format!("image {typed}"),
                source,
            }),
            Err(_) => Ok(None),
        }
    }

    async fn pull_from(
        &self,
        endpoint: &Endpoint,
        before: Option<&Image>,
    ) -> Result<Pulled, PullError> {
        let repository = self.reference.path().to_owned();
        let purpose = Purpose::Pull { repository };
        let session = self
            .client
            .session(endpoint.clone(), purpose, self.credentials);
        if let Some(pulled) = self.find_unchanged(&session, before).await? {
            self.begin().await;
            self.tell
                .tell(Progress::Digest(pulled.digest.clone()))
                .await;
            return Ok(pulled);
        }
        let platform = self.platform.cloned().unwrap_or_else(Platform::host);
        let chosen = choose(&session, &self.reference, &platform).await?;
        self.begin().await;
        let config = session.config_blob(&chosen.manifest.config).await?;
        let read = read_config(&config, &chosen.manifest)?;
        self.check_platform(&read)?;
        let (layers, attached) = tokio::join!(
            self.layers(&session, &chosen.manifest, &read),
            Box::pin(attached(
                &session,
                &self.store,
                chosen.index.as_ref(),
                &chosen.nested,
                &chosen.document.digest
            )),
        );
        for (digest, reason) in &attached.left_out {
            let reason = vocab::failure::chain(reason);
            let digest = digest.clone();
            self.tell.tell(Progress::LeftOut { digest, reason }).await;
        }
        let came = Came {
            config,
            layers: layers?,
            attached,
        };
        let pulled = self.put(chosen, came, before).await?;
        self.tell
            .tell(Progress::Digest(pulled.digest.clone()))
            .await;
        Ok(pulled)
    }

    async fn begin(&self) {
        let tag = match self.reference.digest() {
            Some(_) => self.reference.to_string(),
            None => tag_of(&self.reference),
        };
        let repository = self.reference.path().to_owned();
        self.tell
            .tell(Progress::PullingFrom { repository, tag })
            .await;
    }

    /// What is there already, if the registry still means the same by that tag. Asking so costs
    /// no download where those are counted.
    async fn find_unchanged(
        &self,
        session: &Session<'_>,
        before: Option<&Image>,
    ) -> Result<Option<Pulled>, PullError> {
        let Some(image) = before.filter(|_| self.reference.digest().is_none()) else {
            return Ok(None);
        };
        let suits = match self.platform {
            Some(wanted) => image.config.platform().rank_on(wanted) == Some(0),
            None => image.config.platform().rank_on(&Platform::host()).is_some(),
        };
        let repository = self.reference.repository();
        let mut known = image.digests.iter();
        let known = known.find(|known| known.repository() == repository);
        let (Some(known), true) = (known.and_then(Reference::digest), suits) else {
            return Ok(None);
        };
        let told = match session.find_digest(&tag_of(&self.reference)).await {
            Ok(told) => told,
            // The GET that follows says what is wrong, or that nothing is.
            Err(RequestError::Refused(_)) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(told.filter(|told| told == known).map(|digest| Pulled {
            id: image.id.clone(),
            digest,
            up_to_date: true,
        }))
    }

    fn check_platform(&self, config: &ImageConfig) -> Result<(), PullError> {
        let found = config.platform();
        if found.os != "linux" {
            return Err(PullError::OperatingSystem { os: found.os });
        }
        match self.platform {
            Some(wanted) if !config.architecture.is_empty() && found.rank_on(wanted).is_none() => {
                Err(PullError::OtherPlatform {
                    reference: self.reference.familiar(),
                    wanted: Box::new(wanted.clone()),
                    found: Box::new(found),
                })
            }
            _ => Ok(()),
        }
    }

    /// All layers, lowest first; those that are not there are fetched, several at a time.
    async fn layers(
        &self,
        session: &Session<'_>,
        manifest: &Manifest,
        config: &ImageConfig,
    ) -> Result<Vec<Layer>, PullError> {
        let wanted: Vec<Wanted> = manifest
            .layers
            .iter()
            .zip(&config.rootfs.diff_ids)
            .map(|(descriptor, diff_id)| Wanted {
                descriptor: descriptor.clone(),
                diff_id: diff_id.clone(),
            })
            .collect();
        let mut found = self.find_layers(&wanted).await?;
        // Of an image that is here whole nothing is told, as with Docker.
        let is_here = self.find_image(&manifest.config.digest).await?.is_some();
        let mut missing: Vec<&Wanted> = Vec::new();
        for layer in &wanted {
            let id = layer.descriptor.digest.short();
            if found.contains_key(&layer.diff_id) {
                if !is_here {
                    self.tell.layer(id, LayerState::AlreadyExists).await;
                }
            } else if missing.iter().all(|other| other.diff_id != layer.diff_id) {
                self.tell.layer(id, LayerState::Pending).await;
                missing.push(layer);
            }
        }
        for (diff_id, layer) in self.fetch_all(session, &missing).await? {
            found.insert(diff_id, layer);
        }
        let layers = wanted
            .iter()
            .filter_map(|wanted| found.get(&wanted.diff_id));
        Ok(layers.cloned().collect())
    }

    async fn find_image(&self, id: &Digest) -> Result<Option<Image>, PullError> {
        let (store, wanted) = (Arc::clone(&self.store), id.clone());
        let found = tasks::blocking(move || store.find_image_by_id(&wanted)).await;
        match found {
            Ok(found) => Ok(found),
            Err(store::FindError::Metadata { source, typed }) => Err(PullError::LookUp {
                what: format!("image {typed}"),
                source,
            }),
            Err(_) => Ok(None),
        }
    }

    async fn find_layers(&self, wanted: &[Wanted]) -> Result<HashMap<Digest, Layer>, PullError> {
        let store = Arc::clone(&self.store);
        let diff_ids: Vec<Digest> = wanted.iter().map(|layer| layer.diff_id.clone()).collect();
        let found = tasks::blocking(move || {
            let mut found = HashMap::new();
            for diff_id in diff_ids {
                match store.find_layer(&diff_id) {
                    Ok(Some(layer)) => drop(found.insert(diff_id, layer)),
                    Ok(None) => {}
                    Err(source) => return Err((diff_id, source)),
                }
            }
            Ok(found)
        });
        found.await.map_err(|(diff_id, source)| PullError::LookUp {
            what: format!("layer {diff_id}"),
            source,
        })
    }

    /// The first failure ends the other transfers; all of them have ended when this returns.
    async fn fetch_all(
        &self,
        session: &Session<'_>,
        missing: &[&Wanted],
    ) -> Result<Vec<(Digest, Layer)>, PullError> {
        let cancel = Cancel::new();
        let mut transfers: FuturesUnordered<_> = missing
            .iter()
            .map(|wanted| {
                let fetch = Fetch {
                    client: self.client,
                    session,
                    store: &self.store,
                    tell: &self.tell,
                    cancel: &cancel,
                };
                async move { (*wanted, fetch.layer(wanted).await) }
            })
            .collect();
        let mut fetched = Vec::new();
        let mut failed = None;
        while let Some((wanted, outcome)) = transfers.next().await {
            match outcome {
                Ok(Some(layer)) => fetched.push((wanted.diff_id.clone(), layer)),
                Ok(None) => {}
                Err(source) => {
                    cancel.cancel();
                    let digest = wanted.descriptor.digest.clone();
                    let source = Box::new(source);
                    failed.get_or_insert(PullError::Layer { digest, source });
                }
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(fetched),
        }
    }

    /// Everything is here: now it becomes an image with names.
    async fn put(
        &self,
        chosen: Chosen,
        came: Came,
        before: Option<&Image>,
    ) -> Result<Pulled, PullError> {
        let mut names = vec![self.reference.with_digest(chosen.digest.clone())];
        if self.reference.digest().is_none() {
            names.push(self.reference.clone());
        }
        let image = NewImage {
            config: came.config,
            manifest: Some(stored(chosen.document)),
            index: chosen.index.map(stored),
            attached: came.attached.held,
            layers: came.layers,
            names,
        };
        let store = Arc::clone(&self.store);
        let id = tasks::blocking(move || store.put_image(image)).await?;
        let up_to_date = before.is_some_and(|image| image.id == id);
        Ok(Pulled {
            digest: chosen.digest,
            up_to_date,
            id,
        })
    }
}

fn stored(document: Document) -> Stored {
    Stored {
        media_type: document.media_type(),
        bytes: document.bytes,
    }
}

/// Follows a name to the manifest of one image.
async fn choose(
    session: &Session<'_>,
    reference: &Reference,
    platform: &Platform,
) -> Result<Chosen, PullError> {
    let mut document = session
        .manifest(&tag_of(reference), reference.digest())
        .await?;
    let digest = document.digest.clone();
    let mut index = None;
    let mut nested = Vec::new();
    for _ in 0..=INDEX_DEPTH {
        match document.understand(reference)? {
            Understood::Manifest(manifest) => {
                check_image(&manifest, &document.digest, reference)?;
                return Ok(Chosen {
                    digest,
                    index,
                    nested,
                    document,
                    manifest,
                });
            }
            Understood::Index(entries) => {
                let entry = entries.find_best(platform);
                let entry = entry.ok_or_else(|| PullError::NoPlatform {
                    wanted: Box::new(platform.clone()),
                })?;
                let address = entry.digest.to_string();
                let next = session.manifest(&address, Some(&entry.digest)).await?;
                // The outermost index is the one that the name means.
                match index {
                    None => index = Some(document),
                    Some(_) => nested.push(document),
                }
                document = next;
            }
        }
    }
    Err(PullError::Malformed {
        what: "index",
        digest,
        reason: format!("it holds indexes more than {INDEX_DEPTH} deep"),
    })
}

/// What a name points at, without its layers.
pub(super) async fn resolve(
    client: &Client,
    reference: &Reference,
    credentials: Option<&Credentials>,
) -> Result<Resolved, PullError> {
    let mut places = Places::new(client, reference);
    loop {
        let outcome = resolve_from(client, places.place(), reference, credentials).await;
        if let Some(outcome) = places.settle(outcome) {
            return outcome;
        }
    }
}

async fn resolve_from(
    client: &Client,
    endpoint: &Endpoint,
    reference: &Reference,
    credentials: Option<&Credentials>,
) -> Result<Resolved, PullError> {
    let repository = reference.path().to_owned();
    let session = client.session(endpoint.clone(), Purpose::Pull { repository }, credentials);
    let document = session
        .manifest(&tag_of(reference), reference.digest())
        .await?;
    let platforms = match document.understand(reference)? {
        Understood::Index(index) => {
            let platforms = index.manifests.iter();
            let platforms = platforms.filter_map(|entry| entry.platform.clone());
            platforms.collect()
        }
        Understood::Manifest(manifest) => {
            check_image(&manifest, &document.digest, reference)?;
            let config = session.config_blob(&manifest.config).await?;
            vec![read_config(&config, &manifest)?.platform()]
        }
    };
    Ok(Resolved {
        descriptor: document.descriptor(),
        platforms,
    })
}

/// What stands in the address: the digest, where there is one.
fn tag_of(reference: &Reference) -> String {
    match (reference.digest(), reference.tag()) {
        (Some(digest), _) => digest.to_string(),
        (None, tag) => tag.unwrap_or(vocab::reference::DEFAULT_TAG).to_owned(),
    }
}
