//! Images on their way to a registry.

use registry::{Credentials, Progress};
use std::sync::Arc;
use tokio::sync::mpsc;
use vocab::{Failure, Kind, Platform, Reference};

use crate::Engine;
use crate::images::labels_of;

/// Why an image was not pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// No image has a name in this repository.
    #[error("An image does not exist locally with the tag: {0}")]
    NoImage(String),
    /// None has this tag.
    #[error("tag does not exist: {0}")]
    NoTag(String),
    /// A tag is wanted.
    #[error("cannot push a digest reference")]
    Digested,
    /// An image is there and cannot be read.
    #[error(transparent)]
    Find(#[from] store::FindError),
    /// The store.
    #[error("list images")]
    Store(#[source] store::MetadataError),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] registry::PushError),
}

impl Failure for PushError {
    fn kind(&self) -> Kind {
        match self {
            Self::NoImage(_) | Self::NoTag(_) => Kind::NotFound,
            Self::Digested => Kind::InvalidArgument,
            Self::Find(error) => error.kind(),
            Self::Store(_) => Kind::Internal,
            Self::Registry(error) => error.kind(),
        }
    }
}

impl Engine {
    /// Sends an image to its registry, or, for a name without a tag, all that have a tag in that
    /// repository. Dropping the future ends it.
    pub async fn push(
        &self,
        reference: &Reference,
        platform: Option<&Platform>,
        credentials: Option<&Credentials>,
        progress: mpsc::Sender<Progress>,
    ) -> Result<(), PushError> {
        if reference.digest().is_some() {
            return Err(PushError::Digested);
        }
        for (name, image) in self.find_pushed(reference).await? {
            let store = Arc::clone(&self.shared.store);
            let image = match platform {
                Some(_) => self.find_image_for(&name.familiar(), platform).await?,
                None => image,
            };
            let alone = platform.is_some();
            let labels = labels_of(&image);
            self.shared
                .registry
                .push(store, image, &name, alone, credentials, progress.clone())
                .await?;
            let repository = name.familiar_name();
            self.shared
                .announce_image("push", &name.familiar(), &repository, &labels);
        }
        Ok(())
    }

    /// The images that are meant, with the names that they are to have.
    async fn find_pushed(
        &self,
        reference: &Reference,
    ) -> Result<Vec<(Reference, store::Image)>, PushError> {
        let store = Arc::clone(&self.shared.store);
        let images = tasks::blocking(move || store.images()).await;
        let repository = reference.repository();
        let mut found = Vec::new();
        for image in images.map_err(PushError::Store)? {
            let names = image.names.iter();
            let names = names.filter(|name| name.repository() == repository);
            found.extend(names.cloned().map(|name| (name, image.clone())));
        }
        if found.is_empty() {
            return Err(PushError::NoImage(reference.familiar_name()));
        }
        if reference.tag().is_some() {
            found.retain(|(name, _)| name == reference);
        }
        if found.is_empty() {
            return Err(PushError::NoTag(reference.familiar()));
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(found)
    }
}
