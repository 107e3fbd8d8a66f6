//! What is in an image, and whether it is what it should be.

use std::sync::Arc;

pub use store::{Damage, Explained, ExplainedLayer, LayerBlob, NamedFile, Verified};
use store::{ExplainError, VerifyError};
use vocab::{Failure, Kind};

use crate::Engine;
use crate::images::Image;

/// Why an image was not explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainImageError {
    /// It is not here.
    #[error(transparent)]
    Find(#[from] store::FindError),
    /// It cannot be read.
    #[error(transparent)]
    Explain(#[from] ExplainError),
}

impl Failure for ExplainImageError {
    fn kind(&self) -> Kind {
        match self {
            Self::Find(error) => error.kind(),
            Self::Explain(error) => error.kind(),
        }
    }
}

/// Why an image was not verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyImageError {
    /// It is not here.
    #[error(transparent)]
    Find(#[from] store::FindError),
    /// It cannot be read.
    #[error(transparent)]
    Verify(#[from] VerifyError),
}

impl Failure for VerifyImageError {
    fn kind(&self) -> Kind {
        match self {
            Self::Find(error) => error.kind(),
            Self::Verify(error) => error.kind(),
        }
    }
}

impl Engine {
    /// Reads an image through: its layers, what they bring, what is in vain.
    pub async fn explain_image(
        &self,
        typed: &str,
    ) -> Result<(Image, Vec<LayerBlob>, Explained), ExplainImageError> {
        let (store, typed) = (Arc::clone(&self.shared.store), typed.to_owned());
        let (image, explained) = tasks::blocking(move || {
            let image = store.find_image(&typed)?;
            let explained = store.explain(&image)?;
            Ok::<_, ExplainImageError>((image, explained))
        })
        .await?;
        let blobs = image.layers.clone();
        Ok((self.shared.image(image), blobs, explained))
    }

    /// Compares every byte of an image with its digests, and mends what can be mended.
    pub async fn verify_image(&self, typed: &str) -> Result<(Image, Verified), VerifyImageError> {
        let (store, typed) = (Arc::clone(&self.shared.store), typed.to_owned());
        let (image, verified) = tasks::blocking(move || {
            let image = store.find_image_or_torn(&typed)?;
            let verified = store.verify(&image)?;
            Ok::<_, VerifyImageError>((image, verified))
        })
        .await?;
        Ok((self.shared.image(image), verified))
    }
}
