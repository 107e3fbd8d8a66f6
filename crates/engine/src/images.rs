//! Images: names, pulls and removals, thin over `store` and `registry`.

use std::io::{Read, Write};
use std::time::SystemTime;

use registry::{Credentials, Progress, Pulled};
use tokio::sync::mpsc;
use vocab::image::ImageConfig;
use vocab::{Digest, Failure, Kind, Platform, Reference};

use crate::containers::Pruned;
use crate::{Engine, FilterError, Filters};

/// An image that is here.
#[derive(Clone, Debug)]
pub struct Image {
    /// Digest of its configuration.
    pub id: Digest,
    /// What berth reads in the configuration.
    pub config: ImageConfig,
    /// The configuration as it came.
    pub config_json: Vec<u8>,
    /// Its names with tags, as users type them.
    pub tags: Vec<String>,
    /// Its names with digests, as users type them.
    pub digests: Vec<String>,
    /// Bytes of its layers, uncompressed.
    pub size_bytes: u64,
    /// When it was made.
    pub created: Option<SystemTime>,
    /// When a name was last given to it here.
    pub last_tagged: Option<SystemTime>,
    /// Containers made of it.
    pub containers: usize,
}

/// One step in an image's history, newest first.
#[derive(Clone, Debug)]
pub struct HistoryEntry {
    /// The image's id for the newest; absent (`<missing>`) for the others.
    pub id: Option<Digest>,
    /// When.
    pub created: Option<SystemTime>,
    /// By which command.
    pub created_by: String,
    /// Names of that image.
    pub tags: Vec<String>,
    /// Bytes it added.
    pub size_bytes: u64,
    /// Why.
    pub comment: String,
}

/// Which images a list shows.
#[derive(Clone, Debug, Default)]
pub struct ListImages {
    /// Intermediate ones, too.
    pub all: bool,
    /// What must match.
    pub filters: Filters,
}

/// One thing that a removal did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemovedImage {
    /// A name was taken away.
    Untagged(String),
    /// An image was deleted: its id.
    Deleted(String),
}

/// How a root file system becomes an image.
#[derive(Clone, Debug, Default)]
pub struct ImportImage {
    /// Comment of the new layer.
    pub message: String,
    /// Dockerfile instructions.
    pub changes: Vec<String>,
    /// The platform it is for; the host's when absent.
    pub platform: Option<Platform>,
    /// Its name.
    pub name: Option<Reference>,
}

/// Something that a load met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadedImage {
    /// An image that has a name.
    Named(String),
    /// An image without one: its id.
    Unnamed(String),
}

macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => { $(
        $(#[$doc])*
        #[derive(Debug, thiserror::Error)]
        pub enum $name {}

        impl Failure for $name {
            fn kind(&self) -> Kind {
                match *self {}
            }
        }
    )* };
}

errors!(
    /// Why an image was not found.
    FindImageError,
    /// Why an image did not get a name.
    TagError,
    /// Why an image was not removed.
    RemoveImageError,
    /// Why nothing was loaded.
    LoadError,
    /// Why nothing was imported.
    ImportError,
    /// Why nothing was saved.
    SaveError,
    /// Why images were not listed.
    ListImagesError,
    /// Why an image was not pulled.
    PullError,
);

impl Engine {
    /// Pulls an image. Callers of the same reference at the same time share one download.
    pub async fn pull(
        &self,
        _reference: &Reference,
        _platform: Option<&Platform>,
        _credentials: Option<&Credentials>,
        _progress: mpsc::Sender<Progress>,
    ) -> Result<Pulled, PullError> {
        todo!()
    }

    /// The image that was named: reference, id or prefix of an id.
    pub async fn inspect_image(&self, _typed: &str) -> Result<Image, FindImageError> {
        todo!()
    }

    /// Images, newest first.
    pub async fn list_images(&self, _options: ListImages) -> Result<Vec<Image>, ListImagesError> {
        todo!()
    }

    /// How the image came to be.
    pub async fn image_history(&self, _typed: &str) -> Result<Vec<HistoryEntry>, FindImageError> {
        todo!()
    }

    /// Gives an image another name.
    pub async fn tag_image(&self, _typed: &str, _name: &Reference) -> Result<(), TagError> {
        todo!()
    }

    /// Takes a name away, and deletes the image when it was the last one.
    pub async fn remove_image(
        &self,
        _typed: &str,
        _force: bool,
        _no_prune: bool,
    ) -> Result<Vec<RemovedImage>, RemoveImageError> {
        todo!()
    }

    /// Loads a `docker save` or OCI tar. The reader blocks; it is read on the blocking pool.
    pub async fn load_images(
        &self,
        _tar: Box<dyn Read + Send>,
    ) -> Result<Vec<LoadedImage>, LoadError> {
        todo!()
    }

    /// Makes an image of a root file system tar.
    pub async fn import_image(
        &self,
        _tar: Box<dyn Read + Send>,
        _options: ImportImage,
    ) -> Result<Digest, ImportError> {
        todo!()
    }

    /// Writes images as a `docker save` tar.
    pub async fn save_images(
        &self,
        _typed: &[String],
        _out: Box<dyn Write + Send>,
    ) -> Result<(), SaveError> {
        todo!()
    }

    /// Removes images that no container uses: unnamed ones, or with `dangling=false` all.
    pub async fn prune_images(
        &self,
        _filters: Filters,
    ) -> Result<(Vec<RemovedImage>, Pruned), FilterError> {
        todo!()
    }
}
