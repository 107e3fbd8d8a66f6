//! Images and their names, by Docker's rules: what a typed text means, what removal leaves.

use std::io::{self, Read};
use std::time::SystemTime;

use vocab::image::ImageConfig;
use vocab::manifest::Descriptor;
use vocab::{ContainerId, Digest, Failure, Kind, Platform, Reference};

use crate::attached::HeldBlob;
use crate::hash::Hasher;
use crate::layers::{Layer, LayerBlob};
use crate::limits;
use crate::metadata::{DocumentRow, ImageRow, MetadataError, NewRow};
use crate::platforms;
use crate::store::Store;

/// An image that is in the store.
#[derive(Clone, Debug)]
pub struct Image {
    /// Digest of the configuration's exact bytes.
    pub id: Digest,
    /// What berth reads in the configuration.
    pub config: ImageConfig,
    /// Its exact bytes.
    pub raw_config: Vec<u8>,
    /// Its tags, sorted.
    pub names: Vec<Reference>,
    /// Repositories that know it by digest (`repo@sha256:…`), sorted.
    pub digests: Vec<Reference>,
    /// Bytes of the files in all its layers.
    pub size_bytes: u64,
    /// What the configuration says.
    pub created: Option<SystemTime>,
    /// When a name was last put on it.
    pub tagged: Option<SystemTime>,
    /// The manifest it was pulled or loaded with, if any; a blob.
    pub manifest: Option<Descriptor>,
    /// The layers as distributed, lowest first; as many as `config.rootfs.diff_ids`.
    pub layers: Vec<LayerBlob>,
}

/// A manifest or index, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Its media type.
    pub media_type: String,
    /// Its exact bytes.
    pub bytes: Vec<u8>,
}

/// An image to be put in; every layer is in the store already.
#[derive(Clone, Debug, Default)]
pub struct NewImage {
    /// The configuration's exact bytes.
    pub config: Vec<u8>,
    /// The manifest it came with.
    pub manifest: Option<Document>,
    /// The index through which the manifest was found.
    pub index: Option<Document>,
    /// What else that index leads to and is kept with the image: indexes in it, the manifests of
    /// attestations and artifacts, and the blobs that those name.
    pub attached: Vec<HeldBlob>,
    /// Its layers, lowest first.
    pub layers: Vec<Layer>,
    /// Tags that now mean this image, and `repo@digest` names by which it is known.
    pub names: Vec<Reference>,
}

/// Who uses an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// The container.
    pub container: ContainerId,
    /// Whether it runs.
    pub running: bool,
}

/// One record of a removal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// A name is gone; as people write it.
    Untagged(String),
    /// An image or a layer is gone.
    Deleted(Digest),
}

/// Why a text names no image here.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// Nothing has that name, id or digest.
    #[error("No such image: {0}")]
    NotFound(String),
    /// It is there, but not for this platform; Docker's sentence.
    #[error(
        "image with reference {typed} was found but its platform ({found}) does not match the specified platform ({wanted})"
    )]
    Platform {
        /// What was typed.
        typed: String,
        /// What it is for.
        found: Box<Platform>,
        /// What was asked for.
        wanted: Box<Platform>,
    },
    /// It is the beginning of more than one id.
    #[error("image id prefix `{0}` is ambiguous")]
    Ambiguous(String),
    /// It is no name at all.
    #[error("{0}")]
    Invalid(#[source] vocab::reference::ParseReferenceError),
    /// It is there, but its configuration cannot be read.
    #[error("read the configuration of image {id}")]
    Config {
        /// Which image.
        id: Digest,
        /// What the system or the reader said.
        source: io::Error,
    },
    /// The tables.
    #[error("look up image `{typed}`")]
    Metadata {
        /// What was typed.
        typed: String,
        /// Cause.
        source: MetadataError,
    },
}

impl Failure for FindError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound(_) | Self::Platform { .. } => Kind::NotFound,
            Self::Ambiguous(_) | Self::Invalid(_) => Kind::InvalidArgument,
            Self::Config { .. } | Self::Metadata { .. } => Kind::Internal,
        }
    }
}

/// Why an image was not put in.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// The configuration cannot be read.
    #[error("image configuration {digest} is malformed")]
    Config {
        /// Digest of its bytes.
        digest: Digest,
        /// What the reader said.
        source: serde_json::Error,
    },
    /// Something is larger than accepted.
    #[error("{what} of image {image} has {actual}, more than the {limit} accepted")]
    TooLarge {
        /// What is.
        what: &'static str,
        /// Which image.
        image: Digest,
        /// Found, with its unit.
        actual: String,
        /// Accepted.
        limit: u64,
    },
    /// The layers are not those that the configuration names.
    #[error("the layers of image {image} do not match its configuration: {reason}")]
    Layers {
        /// Which image.
        image: Digest,
        /// How they differ.
        reason: String,
    },
    /// A document could not be stored.
    #[error("store image {image}")]
    Ingest {
        /// Which image.
        image: Digest,
        /// Cause.
        source: crate::IngestError,
    },
    /// The tables.
    #[error("record image {image}")]
    Metadata {
        /// Which image.
        image: Digest,
        /// Cause.
        source: MetadataError,
    },
}

impl Failure for PutError {
    fn kind(&self) -> Kind {
        match self {
            Self::Config { .. } | Self::TooLarge { .. } | Self::Layers { .. } => {
                Kind::InvalidArgument
            }
            Self::Ingest { source, .. } => source.kind(),
            Self::Metadata { .. } => Kind::Internal,
        }
    }
}

/// Why a name was not changed.
#[derive(Debug, thiserror::Error)]
pub enum TagError {
    /// The image is not there.
    #[error("No such image: {0}")]
    NotFound(Digest),
    /// A tag is wanted, and a digest was given.
    #[error("refusing to create a tag with a digest reference")]
    Digested,
    /// The tables.
    #[error("tag {name}")]
    Metadata {
        /// Which name.
        name: String,
        /// Cause.
        source: MetadataError,
    },
}

impl Failure for TagError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound(_) => Kind::NotFound,
            Self::Digested => Kind::InvalidArgument,
            Self::Metadata { .. } => Kind::Internal,
        }
    }
}

/// Why an image was not removed; the conflicts are Docker's sentences.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// No such image.
    #[error(transparent)]
    Find(#[from] FindError),
    /// Its last name is wanted by a container.
    #[error(
        "conflict: unable to remove repository reference {name:?} (must force) - container {container} is using its referenced image {image}"
    )]
    NameInUse {
        /// As typed.
        name: String,
        /// Short id.
        container: String,
        /// Short id.
        image: String,
    },
    /// Something else needs it.
    #[error("conflict: unable to delete {image} ({force}) - {reason}")]
    InUse {
        /// Short id.
        image: String,
        /// `must be forced` or `cannot be forced`.
        force: &'static str,
        /// Who needs it.
        reason: String,
    },
    /// The tables.
    #[error("remove image {image}")]
    Metadata {
        /// Which image.
        image: String,
        /// Cause.
        source: MetadataError,
    },
}

impl Failure for RemoveError {
    fn kind(&self) -> Kind {
        match self {
            Self::Find(error) => error.kind(),
            Self::NameInUse { .. } | Self::InUse { .. } => Kind::Conflict,
            Self::Metadata { .. } => Kind::Internal,
        }
    }
}

impl Store {
    /// Puts an image in, with its names; answers its id. The disk has all of it then.
    pub fn put_image(&self, image: NewImage) -> Result<Digest, PutError> {
        let NewImage {
            config,
            manifest,
            index,
            attached,
            layers,
            names,
        } = image;
        let id = Hasher::sha256(&config);
        check(&id, &config, &layers)?;
        for document in [&manifest, &index].into_iter().flatten() {
            bound(
                "manifest",
                &id,
                document.bytes.len() as u64,
                limits::MANIFEST_BYTES,
            )?;
        }
        let put = |bytes: &[u8]| {
            let ingested = self.blobs().put(bytes);
            ingested.map_err(|source| PutError::Ingest {
                image: id.clone(),
                source,
            })
        };
        let unsynced = |source| PutError::Ingest {
            image: id.clone(),
            source: crate::IngestError::Write {
                digest: id.clone(),
                source,
            },
        };
        // Others may look at the tables while the disk is waited for; the layers are held.
        let synced = self.sync_layers(&layers).map_err(unsynced)?;
        let document = |document: &Document| {
            Ok(DocumentRow {
                digest: put(&document.bytes)?,
                media_type: document.media_type.clone(),
                size_bytes: document.bytes.len() as u64,
            })
        };
        // Held throughout, so that no removal takes a document between its file and its record.
        let mut tables = self.tables();
        put(&config)?;
        let manifest = manifest.as_ref().map(document).transpose()?;
        let index = index.as_ref().map(document).transpose()?;
        let attached: Vec<DocumentRow> = attached.iter().map(HeldBlob::row).collect();
        let documents = manifest.iter().chain(&index).chain(&attached);
        let mut written: Vec<&Digest> = documents.map(|row| &row.digest).collect();
        written.push(&id);
        self.blobs().sync(&written).map_err(unsynced)?;
        let index_digest = index.as_ref().map(|index| &index.digest);
        let names = self
            .names_to_move(&tables, &id, index_digest, names)
            .map_err(|source| PutError::Metadata {
                image: id.clone(),
                source,
            })?;
        let pairs: Vec<(Digest, LayerBlob)> = layers
            .iter()
            .map(|layer| (layer.diff_id().clone(), layer.blob().clone()))
            .collect();
        let row = NewRow {
            id: &id,
            layers: &pairs,
            manifest,
            index,
            attached,
            names: &names,
            synced: &synced,
        };
        match tables.put_image(&row) {
            Ok(()) => Ok(id),
            Err(source) => Err(PutError::Metadata { image: id, source }),
        }
    }

    /// All images, newest first; without those that are only here for other platforms under the name
    /// of their sibling. One whose configuration is lost or damaged is among them, so that it can be
    /// seen and removed, with an empty one.
    pub fn images(&self) -> Result<Vec<Image>, MetadataError> {
        let tables = self.tables();
        let mut rows = Vec::new();
        for id in tables.image_ids()? {
            if !platforms::is_hidden(&tables, &id)? {
                rows.extend(tables.find_image(&id)?);
            }
        }
        drop(tables);
        let mut images: Vec<Image> = rows
            .into_iter()
            .map(|row| self.complete_or_torn(row))
            .collect();
        images.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
        Ok(images)
    }

    /// The image of this id.
    pub fn find_image_by_id(&self, id: &Digest) -> Result<Option<Image>, FindError> {
        let row = self
            .tables()
            .find_image(id)
            .map_err(|source| FindError::Metadata {
                typed: id.to_string(),
                source,
            })?;
        row.map(|row| self.complete(row)).transpose()
    }

    /// The image that a user means: a name, `name@digest`, an id, or the beginning of one.
    pub fn find_image(&self, typed: &str) -> Result<Image, FindError> {
        let (id, _) = self.resolve(typed)?;
        self.find_image_by_id(&id)?
            .ok_or_else(|| FindError::NotFound(typed.to_owned()))
    }

    /// The image that a user means, also if its configuration is lost or damaged, and empty then.
    pub fn find_image_or_torn(&self, typed: &str) -> Result<Image, FindError> {
        let (id, _) = self.resolve(typed)?;
        let row = self.tables().find_image(&id);
        let row = row.map_err(|source| FindError::Metadata {
            typed: typed.to_owned(),
            source,
        })?;
        row.map(|row| self.complete_or_torn(row))
            .ok_or_else(|| FindError::NotFound(typed.to_owned()))
    }

    fn complete_or_torn(&self, row: ImageRow) -> Image {
        match self.complete(row.clone()) {
            Ok(image) => image,
            Err(error) => {
                let error = vocab::failure::chain(&error);
                tracing::warn!(image = %row.id, %error, "is damaged");
                assembled(row, Vec::new(), ImageConfig::default())
            }
        }
    }

    /// The id of the image that a user means, without a look at the image.
    pub fn find_image_id(&self, typed: &str) -> Result<Digest, FindError> {
        self.resolve(typed).map(|(id, _)| id)
    }

    /// Lets `name` mean this image, whatever it meant before.
    pub fn tag(&self, id: &Digest, name: &Reference) -> Result<(), TagError> {
        if name.digest().is_some() {
            return Err(TagError::Digested);
        }
        let name = name.clone().or_latest();
        let failed = |source| TagError::Metadata {
            name: name.familiar(),
            source,
        };
        let mut tables = self.tables();
        if !tables.has_image(id).map_err(failed)? {
            return Err(TagError::NotFound(id.clone()));
        }
        tables.tag(id, &name).map_err(failed)
    }

    /// Removes a name or an image by Docker's rules; `users` tells which containers use an image.
    ///
    /// A name goes alone while other names are left, and takes the image along when it was the
    /// last. An id takes all its names along if they are of one repository; else it has to be
    /// forced. A running container always keeps its image, a stopped one unless forced.
    pub fn remove_image(
        &self,
        typed: &str,
        force: bool,
        _no_prune: bool,
        users: &dyn Fn(&Digest) -> Vec<User>,
    ) -> Result<Vec<Removed>, RemoveError> {
        let (id, by) = self.resolve(typed)?;
        let metadata = |source| RemoveError::Metadata {
            image: id.short().to_owned(),
            source,
        };
        let names = self.tables().names_of(&id).map_err(metadata)?;
        let find_users = users;
        let users = find_users(&id);
        let had_name = !names.is_empty();
        let untagged = match by {
            By::Name(name) => {
                if !force
                    && is_single(&names)
                    && let Some(user) = users.first()
                {
                    return Err(RemoveError::NameInUse {
                        name: typed.to_owned(),
                        container: user.container.short(),
                        image: id.short().to_owned(),
                    });
                }
                // With its last tag a repository also loses the digests it was known by.
                let same = |other: &Reference| other.repository() == name.repository();
                let tag_left = names
                    .iter()
                    .any(|other| *other != name && same(other) && other.tag().is_some());
                let gone = |other: &Reference| {
                    *other == name
                        || (name.digest().is_none()
                            && !tag_left
                            && same(other)
                            && other.digest().is_some())
                };
                let mut untagged = vec![name.clone()];
                untagged.extend(
                    names
                        .iter()
                        .filter(|other| **other != name && gone(other))
                        .cloned(),
                );
                if untagged.len() < names.len() || conflict(&id, force, &[], &users).is_some() {
                    // The name is gone as asked; that a container keeps the image is no failure.
                    return self.untag(&untagged).map_err(metadata);
                }
                untagged
            }
            By::Id => {
                let several: &[Reference] = if is_single(&names) { &[] } else { &names };
                if let Some(conflict) = conflict(&id, force, several, &users) {
                    return Err(conflict);
                }
                names
            }
        };
        let siblings = self.tables().siblings(&id).map_err(metadata)?;
        let mut records = self.delete(&id, &untagged).map_err(metadata)?;
        for sibling in siblings {
            let tables = self.tables();
            let nameless = tables.names_of(&sibling).map_err(metadata)?.is_empty();
            let kept = platforms::is_hidden(&tables, &sibling).map_err(metadata)?;
            drop(tables);
            // Without a name and a sibling that has one nobody would find it again.
            if nameless && !kept && had_name && find_users(&sibling).is_empty() {
                records.extend(self.delete(&sibling, &[]).map_err(metadata)?);
            }
        }
        Ok(records)
    }

    /// Removes an image with its last names.
    pub(crate) fn delete(
        &self,
        id: &Digest,
        names: &[Reference],
    ) -> Result<Vec<Removed>, MetadataError> {
        let tables = self.tables();
        // One transaction, so that the disk is waited for once.
        let mut change = tables.begin()?;
        change.untag(names)?;
        let (layers, documents) = change.remove_image(id)?;
        let mut orphans = self.forget_orphans(&tables, &layers)?;
        orphans.blobs.extend(documents);
        change.commit()?;
        let (gone, _) = self.discard(&tables, orphans)?;
        drop(tables);
        let mut records = untagged(names);
        records.push(Removed::Deleted(id.clone()));
        // Docker names a layer by the chain of layers up to it, topmost first.
        let chains = chain_ids(&layers);
        let gone = layers
            .iter()
            .zip(chains)
            .rev()
            .filter(|(layer, _)| gone.contains(layer));
        records.extend(gone.map(|(_, chain)| Removed::Deleted(chain)));
        Ok(records)
    }

    fn untag(&self, names: &[Reference]) -> Result<Vec<Removed>, MetadataError> {
        let tables = self.tables();
        let mut change = tables.begin()?;
        change.untag(names)?;
        change.commit()?;
        Ok(untagged(names))
    }

    /// What a typed text means, and how it said so.
    fn resolve(&self, typed: &str) -> Result<(Digest, By), FindError> {
        let metadata = |source| FindError::Metadata {
            typed: typed.to_owned(),
            source,
        };
        let tables = self.tables();
        let digits = typed.strip_prefix("sha256:").unwrap_or(typed);
        let is_hex = !digits.is_empty()
            && digits
                .bytes()
                .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let reference = if is_hex && digits.len() == 64 {
            // A whole id is never a name.
            None
        } else {
            match typed.parse::<Reference>() {
                Ok(reference) => Some(normal(reference)),
                Err(_) if is_hex => None,
                Err(error) => return Err(FindError::Invalid(error)),
            }
        };
        if let Some(reference) = &reference
            && let Some(id) = tables.find_name(reference).map_err(metadata)?
        {
            return Ok((id, By::Name(reference.clone())));
        }
        if is_hex {
            let prefix = format!("sha256:{digits}");
            match tables
                .image_ids_with_prefix(&prefix)
                .map_err(metadata)?
                .as_slice()
            {
                [id] => return Ok((id.clone(), By::Id)),
                [] => {}
                _ => return Err(FindError::Ambiguous(typed.to_owned())),
            }
        }
        Err(FindError::NotFound(match reference {
            Some(reference) => reference.familiar(),
            None => format!("sha256:{digits}"),
        }))
    }

    fn complete(&self, row: ImageRow) -> Result<Image, FindError> {
        let unreadable = |source| FindError::Config {
            id: row.id.clone(),
            source,
        };
        let raw_config = self
            .find_document(&row.id, limits::CONFIG_BYTES)
            .and_then(|bytes| bytes.ok_or_else(|| io::ErrorKind::NotFound.into()))
            .map_err(unreadable)?;
        let config = vocab::config::read(&raw_config)
            .map_err(|error| unreadable(io::Error::other(error)))?;
        Ok(assembled(row, raw_config, config))
    }

    /// The bytes of a small blob, if they are what its name says.
    pub(crate) fn find_document(&self, blob: &Digest, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(file) = self.find_blob(blob)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes)?;
        let mut hasher = Hasher::new(blob.algorithm());
        hasher.update(&bytes);
        let actual = hasher.finish();
        if actual != *blob {
            let reason = format!("blob {blob} has digest {actual}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        Ok(Some(bytes))
    }
}

/// What the tables and the configuration say.
fn assembled(row: ImageRow, raw_config: Vec<u8>, config: ImageConfig) -> Image {
    let (digests, names) = row
        .names
        .into_iter()
        .partition(|name| name.digest().is_some());
    Image {
        created: config
            .created
            .as_deref()
            .and_then(vocab::time::parse_rfc3339),
        id: row.id,
        config,
        raw_config,
        names,
        digests,
        size_bytes: row.size_bytes,
        tagged: row.tagged,
        manifest: row.manifest.map(|row| Descriptor {
            media_type: row.media_type,
            digest: row.digest,
            size: row.size_bytes,
            urls: Vec::new(),
            annotations: std::collections::BTreeMap::new(),
            platform: None,
            artifact_type: None,
        }),
        layers: row.layers,
    }
}

fn untagged(names: &[Reference]) -> Vec<Removed> {
    let names = names.iter();
    names
        .map(|name| Removed::Untagged(name.familiar()))
        .collect()
}

/// How a text named an image.
enum By {
    Name(Reference),
    Id,
}

/// A digest says it all; without one, no tag means `latest`.
fn normal(reference: Reference) -> Reference {
    match reference.digest().cloned() {
        Some(digest) => reference.with_digest(digest),
        None => reference.or_latest(),
    }
}

/// Whether the names are at most one tag, and digests of that one repository only.
fn is_single(names: &[Reference]) -> bool {
    let mut tags = names.iter().filter(|name| name.digest().is_none());
    let first = tags.next();
    let repository = first.or_else(|| names.first()).map(Reference::repository);
    tags.next().is_none()
        && names
            .iter()
            .all(|name| Some(name.repository()) == repository)
}

/// What keeps an image.
pub(crate) fn conflict(
    id: &Digest,
    force: bool,
    names: &[Reference],
    users: &[User],
) -> Option<RemoveError> {
    let conflict = |force: &'static str, reason: String| {
        Some(RemoveError::InUse {
            image: id.short().to_owned(),
            force,
            reason,
        })
    };
    if let Some(user) = users.iter().find(|user| user.running) {
        let reason = format!(
            "image is being used by running container {}",
            user.container.short()
        );
        return conflict("cannot be forced", reason);
    }
    if force {
        return None;
    }
    if !names.is_empty() {
        return conflict(
            "must be forced",
            "image is referenced in multiple repositories".to_owned(),
        );
    }
    let user = users.first()?;
    let reason = format!(
        "image is being used by stopped container {}",
        user.container.short()
    );
    conflict("must be forced", reason)
}

/// The chain id of each layer, lowest first (image-spec config.md, "Layer ChainID").
fn chain_ids(layers: &[Digest]) -> Vec<Digest> {
    let mut chains: Vec<Digest> = Vec::with_capacity(layers.len());
    for layer in layers {
        chains.push(match chains.last() {
            Some(below) => Hasher::sha256(format!("{below} {layer}").as_bytes()),
            None => layer.clone(),
        });
    }
    chains
}

fn bound(what: &'static str, image: &Digest, actual: u64, limit: u64) -> Result<(), PutError> {
    if actual <= limit {
        return Ok(());
    }
    Err(PutError::TooLarge {
        what,
        image: image.clone(),
        actual: format!("{actual} bytes"),
        limit,
    })
}

fn check(id: &Digest, config: &[u8], layers: &[Layer]) -> Result<(), PutError> {
    bound(
        "configuration",
        id,
        config.len() as u64,
        limits::CONFIG_BYTES,
    )?;
    let parsed: ImageConfig = vocab::config::read(config).map_err(|source| PutError::Config {
        digest: id.clone(),
        source,
    })?;
    let wanted = &parsed.rootfs.diff_ids;
    if wanted.len() > limits::LAYERS {
        return Err(PutError::TooLarge {
            what: "configuration",
            image: id.clone(),
            actual: format!("{} layers", wanted.len()),
            limit: limits::LAYERS as u64,
        });
    }
    let reason = if wanted.len() != layers.len() {
        format!(
            "it names {} layers, and there are {}",
            wanted.len(),
            layers.len()
        )
    } else if let Some((position, (wanted, layer))) = wanted
        .iter()
        .zip(layers)
        .enumerate()
        .find(|(_, (wanted, layer))| *wanted != layer.diff_id())
    {
        format!(
            "layer {position} is {}, and {wanted} is named",
            layer.diff_id()
        )
    } else {
        return Ok(());
    };
    Err(PutError::Layers {
        image: id.clone(),
        reason,
    })
}
