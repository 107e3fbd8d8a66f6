//! An index with what of its members is here: images of several platforms, attestations, artifacts,
//! and indexes with members of their own.
//!
//! The index itself is a document, byte for byte as it came, so that it can leave as it came. Which
//! of its members are here is found out when somebody asks.

use std::io::Read;

use vocab::Digest;
use vocab::manifest::{Descriptor, Index, Manifest, media_type};

use crate::archive::SaveError;
use crate::images::{Document, FindError, Image};
use crate::limits;
use crate::store::Store;

/// Annotation by which `BuildKit` says what an entry of an index is there for.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
/// Annotation that names the manifest which the entry says something about.
const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";

/// An index that led to an image.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// The index, byte for byte.
    pub index: Document,
    /// What points at it.
    pub descriptor: Descriptor,
    /// Its entries, in its order; what an index in it leads to stands before that.
    pub members: Vec<Member>,
}

/// An entry of an index.
#[derive(Clone, Debug)]
pub struct Member {
    /// The entry.
    pub descriptor: Descriptor,
    /// What of it is here.
    pub content: Content,
}

/// What is here of a member.
#[derive(Clone, Debug)]
pub enum Content {
    /// An image.
    Image(Box<Image>),
    /// Something else, whole: what its manifest names.
    Attached {
        /// The manifest, or the index in the index, byte for byte.
        manifest: Document,
        /// The configuration, and then the other blobs.
        blobs: Vec<Descriptor>,
    },
    /// Nothing that could be used.
    Missing,
}

impl Bundle {
    /// Whether everything that the index leads to is here.
    pub fn is_complete(&self) -> bool {
        let missing = |member: &Member| matches!(member.content, Content::Missing);
        !self.members.iter().any(missing)
    }

    /// The images that are here.
    pub fn images(&self) -> impl Iterator<Item = &Image> {
        self.members
            .iter()
            .filter_map(|member| match &member.content {
                Content::Image(image) => Some(&**image),
                _ => None,
            })
    }

    /// Whether more is here than one image.
    pub fn holds_more_than_an_image(&self) -> bool {
        let there = |member: &&Member| !matches!(member.content, Content::Missing);
        self.members.iter().filter(there).count() > 1
    }
}

/// The digest of the manifest that an entry of an index attests something about, if it does.
pub fn attests(entry: &Descriptor) -> Option<Digest> {
    let kind = entry.annotations.get(REFERENCE_TYPE)?;
    let subject = entry.annotations.get(REFERENCE_DIGEST)?;
    (kind == "attestation-manifest").then(|| subject.parse().ok())?
}

impl Store {
    /// The index that led to an image, with what of its members is here.
    pub fn bundle(&self, image: &Image) -> Result<Option<Bundle>, SaveError> {
        let Some(index) = self.index_of(image)? else {
            return Ok(None);
        };
        let Ok(read) = serde_json::from_slice::<Index>(&index.bytes) else {
            return Ok(None);
        };
        let mut images = self.siblings(image)?;
        images.push(image.clone());
        let mut members = Vec::with_capacity(read.manifests.len());
        self.add_members(read.manifests, &images, limits::INDEX_DEPTH, &mut members)?;
        let descriptor = Descriptor {
            media_type: index.media_type.clone(),
            digest: crate::hash::Hasher::sha256(&index.bytes),
            size: index.bytes.len() as u64,
            urls: Vec::new(),
            annotations: read.annotations,
            platform: None,
            artifact_type: None,
        };
        Ok(Some(Bundle {
            index,
            descriptor,
            members,
        }))
    }

    /// Adds the entries of an index, and in front of an index among them what that leads to.
    fn add_members(
        &self,
        entries: Vec<Descriptor>,
        images: &[Image],
        depth: usize,
        members: &mut Vec<Member>,
    ) -> Result<(), SaveError> {
        for descriptor in entries {
            let is_it = |image: &&Image| {
                let manifest = image.manifest.as_ref();
                manifest.is_some_and(|manifest| manifest.digest == descriptor.digest)
            };
            let content = match images.iter().find(is_it) {
                Some(image) => Content::Image(Box::new(image.clone())),
                None if media_type::is_index(&descriptor.media_type) => {
                    self.add_nested(&descriptor, images, depth, members)?
                }
                None => self.attachment(&descriptor)?,
            };
            members.push(Member {
                descriptor,
                content,
            });
        }
        Ok(())
    }

    /// Adds the entries of an index in an index; answers that one itself.
    fn add_nested(
        &self,
        entry: &Descriptor,
        images: &[Image],
        depth: usize,
        members: &mut Vec<Member>,
    ) -> Result<Content, SaveError> {
        if depth == 0 || members.len() > limits::INDEX_ENTRIES {
            return Ok(Content::Missing);
        }
        let Some(bytes) = self.small_blob(&entry.digest)? else {
            return Ok(Content::Missing);
        };
        let Ok(index) = serde_json::from_slice::<Index>(&bytes) else {
            return Ok(Content::Missing);
        };
        self.add_members(index.manifests, images, depth - 1, members)?;
        Ok(Content::Attached {
            manifest: Document {
                media_type: entry.media_type.clone(),
                bytes,
            },
            blobs: Vec::new(),
        })
    }

    /// What an entry leads to that is no image, if all of it is here.
    fn attachment(&self, entry: &Descriptor) -> Result<Content, SaveError> {
        if !matches!(
            &*entry.media_type,
            media_type::OCI_MANIFEST | media_type::DOCKER_MANIFEST
        ) {
            return Ok(Content::Missing);
        }
        let Some(bytes) = self.small_blob(&entry.digest)? else {
            return Ok(Content::Missing);
        };
        let Ok(manifest) = serde_json::from_slice::<Manifest>(&bytes) else {
            return Ok(Content::Missing);
        };
        let mut blobs = vec![manifest.config];
        blobs.extend(manifest.layers);
        for blob in &blobs {
            let found = self.find_blob(&blob.digest);
            let found = found.map_err(|source| SaveError::Blob {
                digest: blob.digest.clone(),
                source,
            })?;
            if found.is_none() {
                return Ok(Content::Missing);
            }
        }
        let media_type = entry.media_type.clone();
        let manifest = Document { media_type, bytes };
        Ok(Content::Attached { manifest, blobs })
    }

    /// The index that led to an image, byte for byte.
    fn index_of(&self, image: &Image) -> Result<Option<Document>, SaveError> {
        let indexes = self.tables().indexes_of(&image.id);
        let indexes = indexes.map_err(|source| FindError::Metadata {
            typed: image.id.to_string(),
            source,
        })?;
        for row in indexes {
            if let Some(bytes) = self.small_blob(&row.digest)? {
                let media_type = row.media_type;
                return Ok(Some(Document { media_type, bytes }));
            }
        }
        Ok(None)
    }

    /// The bytes of a blob that is a document.
    pub fn small_blob(&self, digest: &Digest) -> Result<Option<Vec<u8>>, SaveError> {
        let failed = |source| SaveError::Blob {
            digest: digest.clone(),
            source,
        };
        let Some(file) = self.find_blob(digest).map_err(failed)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        let mut file = file.take(limits::CONFIG_BYTES);
        file.read_to_end(&mut bytes).map_err(failed)?;
        Ok(Some(bytes))
    }
}
