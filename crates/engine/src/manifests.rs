//! What an image consists of as it travels: its manifest, or those of the index that led to it.

use std::sync::Arc;

use store::{Bundle, Content, Member, SaveError, Store, attests};
use vocab::manifest::{Descriptor, Manifest, media_type};
use vocab::{Digest, Platform};

use crate::Engine;
use crate::images::FindImageError;

/// What the names of an image point at.
#[derive(Clone, Debug)]
pub struct Target {
    /// The index, or the manifest where there is none.
    pub descriptor: Descriptor,
    /// The manifests that it leads to.
    pub manifests: Vec<ImageManifest>,
}

/// A manifest, and what of it is here.
#[derive(Clone, Debug)]
pub struct ImageManifest {
    /// What points at it.
    pub descriptor: Descriptor,
    /// Whether everything that it names is here.
    pub available: bool,
    /// Bytes as distributed of what is here: manifest, configuration, layers.
    pub content_bytes: u64,
    /// What it is.
    pub kind: ManifestKind,
}

/// What a manifest is.
#[derive(Clone, Debug)]
pub enum ManifestKind {
    /// An image.
    Image {
        /// What it is for.
        platform: Platform,
        /// Ids of the containers made of it.
        containers: Vec<String>,
        /// Bytes of its files.
        unpacked_bytes: u64,
    },
    /// Something said about the image of this manifest.
    Attestation(Digest),
    /// Something else.
    Unknown,
}

/// A statement that an attestation makes.
#[derive(Clone, Debug)]
pub struct Statement {
    /// The blob it stands in.
    pub descriptor: Descriptor,
    /// Which kind of statement it is, as its manifest says.
    pub predicate_type: String,
    /// The blob's bytes, where they were asked for.
    pub statement: Option<Vec<u8>>,
}

/// Why statements were not found.
#[derive(Debug, thiserror::Error)]
pub enum StatementsError {
    /// The image.
    #[error(transparent)]
    Find(#[from] store::FindError),
    /// A blob.
    #[error(transparent)]
    Read(#[from] SaveError),
}

impl vocab::Failure for StatementsError {
    fn kind(&self) -> vocab::Kind {
        match self {
            Self::Find(error) => error.kind(),
            Self::Read(error) => error.kind(),
        }
    }
}

/// Annotation of a layer that tells which kind of statement it is (in-toto).
const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";

impl Engine {
    /// What the names of an image point at, and which manifests that leads to.
    pub async fn image_target(&self, typed: &str) -> Result<Target, FindImageError> {
        let (shared, typed) = (Arc::clone(&self.shared), typed.to_owned());
        let found = tasks::blocking(move || {
            let image = shared.store.find_image(&typed)?;
            let users = |id: &Digest| {
                let users = shared.image_users(id).into_iter();
                users.map(|user| user.container.to_string()).collect()
            };
            Ok(target(&shared.store, &image, &users))
        });
        found.await.map_err(FindImageError)
    }

    /// What attestations say about the image for a platform, of these kinds or all.
    pub async fn image_statements(
        &self,
        typed: &str,
        platform: Option<Platform>,
        kinds: Vec<String>,
        read: bool,
    ) -> Result<Vec<Statement>, StatementsError> {
        let (store, typed) = (Arc::clone(&self.shared.store), typed.to_owned());
        tasks::blocking(move || {
            let platform = platform.unwrap_or_else(Platform::host);
            let image = store.find_image_for(&typed, &platform)?;
            let own = image.manifest.as_ref().map(|manifest| &manifest.digest);
            let Some(bundle) = store.bundle(&image)? else {
                return Ok(Vec::new());
            };
            let mut found = Vec::new();
            for member in &bundle.members {
                if attests(&member.descriptor).as_ref() == own {
                    found.extend(statements(&store, member, &kinds, read)?);
                }
            }
            Ok(found)
        })
        .await
    }
}

/// The statements of one attestation.
fn statements(
    store: &Store,
    member: &Member,
    kinds: &[String],
    read: bool,
) -> Result<Vec<Statement>, SaveError> {
    let Content::Attached { manifest, .. } = &member.content else {
        return Ok(Vec::new());
    };
    let layers = serde_json::from_slice::<Manifest>(&manifest.bytes);
    let mut found = Vec::new();
    for descriptor in layers.map(|manifest| manifest.layers).unwrap_or_default() {
        let Some(kind) = descriptor.annotations.get(PREDICATE_TYPE).cloned() else {
            continue;
        };
        if !kinds.is_empty() && !kinds.contains(&kind) {
            continue;
        }
        let statement = match read {
            true => store.small_blob(&descriptor.digest)?,
            false => None,
        };
        found.push(Statement {
            descriptor,
            predicate_type: kind,
            statement,
        });
    }
    Ok(found)
}

/// Blocking: what the names of an image point at. An index that cannot be read is as none.
pub(crate) fn target(
    store: &Store,
    image: &store::Image,
    users: &dyn Fn(&Digest) -> Vec<String>,
) -> Target {
    let bundle = store.bundle(image).unwrap_or_else(|error| {
        tracing::warn!(image = %image.id, error = vocab::failure::chain(&error), "index");
        None
    });
    if let Some(Bundle {
        descriptor,
        members,
        ..
    }) = bundle
    {
        let members = members.into_iter();
        return Target {
            descriptor,
            manifests: members.map(|member| manifest(member, users)).collect(),
        };
    }
    let descriptor = own_descriptor(store, image);
    let member = Member {
        descriptor: descriptor.clone(),
        content: Content::Image(Box::new(image.clone())),
    };
    Target {
        descriptor,
        manifests: vec![manifest(member, users)],
    }
}

/// What points at the manifest with which an image leaves.
fn own_descriptor(store: &Store, image: &store::Image) -> Descriptor {
    let made = || {
        let document = store.manifest(image).ok()?;
        Some(Descriptor {
            media_type: document.media_type,
            digest: store::digest(&document.bytes),
            size: document.bytes.len() as u64,
            ..bare(&image.id)
        })
    };
    let known = image.manifest.clone().or_else(made);
    known.unwrap_or_else(|| bare(&image.id))
}

fn bare(digest: &Digest) -> Descriptor {
    Descriptor {
        media_type: media_type::OCI_MANIFEST.to_owned(),
        digest: digest.clone(),
        size: 0,
        urls: Vec::new(),
        annotations: std::collections::BTreeMap::new(),
        platform: None,
        artifact_type: None,
    }
}

fn manifest(member: Member, users: &dyn Fn(&Digest) -> Vec<String>) -> ImageManifest {
    let Member {
        descriptor,
        content,
    } = member;
    let attested = attests(&descriptor);
    let said = descriptor
        .platform
        .clone()
        .filter(|said| said.os != "unknown");
    let (available, content_bytes, kind) = match (content, attested) {
        (Content::Image(image), _) => {
            let layers: u64 = image.layers.iter().map(|layer| layer.size_bytes).sum();
            let kind = ManifestKind::Image {
                platform: said.unwrap_or_else(|| image.config.platform()),
                containers: users(&image.id),
                unpacked_bytes: image.size_bytes,
            };
            let documents = image.raw_config.len() as u64 + descriptor.size;
            (true, layers + documents, kind)
        }
        (Content::Attached { blobs, .. }, attested) => {
            let blobs: u64 = blobs.iter().map(|blob| blob.size).sum();
            let kind = attested.map_or(ManifestKind::Unknown, ManifestKind::Attestation);
            (true, blobs + descriptor.size, kind)
        }
        (Content::Missing, Some(image)) => (false, 0, ManifestKind::Attestation(image)),
        (Content::Missing, None) => {
            let image = said.map(|platform| ManifestKind::Image {
                platform,
                containers: Vec::new(),
                unpacked_bytes: 0,
            });
            (false, 0, image.unwrap_or(ManifestKind::Unknown))
        }
    };
    ImageManifest {
        descriptor,
        available,
        content_bytes,
        kind,
    }
}
