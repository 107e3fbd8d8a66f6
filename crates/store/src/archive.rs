//! Whole images in and out of tars: `docker save` and OCI-layout archives, and bare root trees.
//!
//! An archive is read once, from the front, whatever its order: documents are kept (they are
//! small), everything else is taken in as a layer at once, and only at the end is it known which
//! belongs to which image. What no image came to need is given up again.
//!
//! What is written is both kinds in one, as Docker does it since version 25:
//! ```text
//! blobs/sha256/<hex>   layers, configs, manifests
//! index.json           OCI: the manifests, with their names as annotations
//! manifest.json        docker: configs, layers, tags
//! oci-layout
//! ```

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use vocab::config::ContainerConfig;
use vocab::image::ImageConfig;
use vocab::manifest::{Descriptor, Index, Manifest, media_type};
use vocab::{Digest, Failure, Kind, Platform, Reference};

use crate::attached::HeldBlob;
use crate::bundle::{self, Content};
use crate::compression::{self, Compression, read_full};
use crate::hash::Hasher;
use crate::images::{Document, FindError, Image, NewImage};
use crate::layers::{Layer, LayerIngest, ReceiveError};
use crate::limits;
use crate::store::{COPY_BYTES, Store};

/// How far a load has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Twelve digits of the layer's diff id or blob digest.
    pub layer: String,
    /// Bytes read of it.
    pub current_bytes: u64,
    /// Bytes it has.
    pub total_bytes: u64,
}

/// An image that was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Its id.
    pub id: Digest,
    /// The tags it got.
    pub names: Vec<Reference>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// An image that was saved, and its labels.
pub type Saved = (Digest, BTreeMap<String, String>);

/// What an imported root tree becomes.
#[derive(Clone, Debug)]
pub struct Import {
    /// Comment of its history; `Imported from -` when empty.
    pub message: String,
    /// Dockerfile instructions: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD,
    /// STOPSIGNAL, USER, VOLUME, WORKDIR.
    pub changes: Vec<String>,
    /// What it runs on.
    pub platform: Platform,
}

/// Why an archive was not loaded. Images that were whole before the failure stay.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The archive could not be read on.
    #[error("read the image archive")]
    Read(#[source] io::Error),
    /// It is neither kind of archive, or contradicts itself.
    #[error("invalid image archive: {0}")]
    Malformed(String),
    /// A file it names is not in it.
    #[error("invalid image archive: {0} is missing")]
    Missing(String),
    /// Nothing in it runs on this platform.
    #[error("the image archive holds no image for {0}")]
    Platform(Platform),
    /// A layer.
    #[error("load {layer}")]
    Layer {
        /// Its path in the archive.
        layer: String,
        /// Cause.
        source: ReceiveError,
    },
    /// A blob that is no layer.
    #[error("load blob {digest}")]
    Blob {
        /// Which.
        digest: Digest,
        /// Cause.
        source: crate::IngestError,
    },
    /// An image.
    #[error("load image")]
    Put(#[source] crate::PutError),
    /// The tables.
    #[error("load image")]
    Metadata(#[source] crate::MetadataError),
}

impl LoadError {
    /// For `map_err`.
    fn of_blob(digest: &Digest) -> impl Fn(crate::IngestError) -> Self {
        let digest = digest.clone();
        move |source| Self::Blob {
            digest: digest.clone(),
            source,
        }
    }
}

impl Failure for LoadError {
    fn kind(&self) -> Kind {
        match self {
            Self::Read(_) | Self::Malformed(_) | Self::Missing(_) => Kind::InvalidArgument,
            Self::Platform(_) => Kind::NotFound,
            Self::Layer { source, .. } => source.kind(),
            Self::Blob { source, .. } => source.kind(),
            Self::Put(source) => source.kind(),
            Self::Metadata(_) => Kind::Internal,
        }
    }
}

/// Why a root tree was not imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The tar could not be read on.
    #[error("read the root tar")]
    Read(#[source] io::Error),
    /// An instruction cannot be applied.
    #[error("{reason}")]
    Change {
        /// As given.
        change: String,
        /// What is wrong.
        reason: String,
    },
    /// The tree.
    #[error("import the root tar")]
    Layer(#[source] ReceiveError),
    /// The image.
    #[error("import the root tar")]
    Put(#[source] crate::PutError),
}

impl Failure for ImportError {
    fn kind(&self) -> Kind {
        match self {
            Self::Read(_) | Self::Change { .. } => Kind::InvalidArgument,
            Self::Layer(source) => source.kind(),
            Self::Put(source) => source.kind(),
        }
    }
}

/// Why images were not saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// One of them is not there.
    #[error(transparent)]
    Find(#[from] FindError),
    /// A blob it needs cannot be read.
    #[error("read blob {digest}")]
    Blob {
        /// Which.
        digest: Digest,
        /// What the system said.
        source: io::Error,
    },
    /// The archive could not be written on.
    #[error("write the image archive")]
    Write(#[source] io::Error),
}

impl Failure for SaveError {
    fn kind(&self) -> Kind {
        match self {
            Self::Find(error) => error.kind(),
            Self::Blob { .. } | Self::Write(_) => Kind::Internal,
        }
    }
}

/// Annotation that holds a full image name (containerd's and Docker's).
const IMAGE_NAME: &str = "io.containerd.image.name";
/// Annotation that holds a tag, or by some tools a full name (image-spec annotations.md).
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// A member of `manifest.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    repo_tags: Vec<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    layers: Vec<String>,
}

fn null_is_empty<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// What an archive turned out to hold.
#[derive(Default)]
struct Contents {
    documents: HashMap<String, Vec<u8>>,
    document_bytes: u64,
    layers: HashMap<String, Layer>,
    /// Blobs that are neither document nor layer.
    blobs: HashMap<String, HeldBlob>,
    /// What looked like a layer and was none; told only if an image wants it.
    refused: HashMap<String, ReceiveError>,
    /// Links, by the path that they stand at.
    links: HashMap<String, String>,
}

impl Contents {
    /// Follows the links that old archives have between equal layers.
    fn resolve<'a>(&'a self, path: &'a str) -> &'a str {
        let mut path = path;
        for _ in 0..8 {
            match self.links.get(path) {
                Some(target) => path = target,
                None => break,
            }
        }
        path
    }

    fn document(&self, path: &str) -> Result<&[u8], LoadError> {
        match self.documents.get(self.resolve(path)) {
            Some(bytes) => Ok(bytes),
            None => Err(LoadError::Missing(path.to_owned())),
        }
    }

    /// A document by its address, which is checked here.
    fn blob(&self, digest: &Digest) -> Result<&[u8], LoadError> {
        let path = blob_path(digest);
        let bytes = self.document(&path)?;
        let mut hasher = Hasher::new(digest.algorithm());
        hasher.update(bytes);
        let actual = hasher.finish();
        if actual != *digest {
            return Err(LoadError::Malformed(format!("{path} has digest {actual}")));
        }
        Ok(bytes)
    }

    /// Puts down what became of a layer. The disk's failures are ours, whoever wants the layer; all
    /// others are told if an image wants it.
    fn settle(
        &mut self,
        path: String,
        layer: Result<Layer, ReceiveError>,
    ) -> Result<(), LoadError> {
        match layer {
            Ok(layer) => drop(self.layers.insert(path, layer)),
            Err(source) if source.kind() == Kind::Internal => {
                let layer = path;
                return Err(LoadError::Layer { layer, source });
            }
            Err(source) => drop(self.refused.insert(path, source)),
        }
        Ok(())
    }

    fn layer(&mut self, path: &str) -> Result<Layer, LoadError> {
        let resolved = self.resolve(path).to_owned();
        if let Some(layer) = self.layers.get(&resolved) {
            return Ok(layer.clone());
        }
        match self.refused.remove(&resolved) {
            Some(source) => Err(LoadError::Layer {
                layer: path.to_owned(),
                source,
            }),
            None => Err(LoadError::Missing(path.to_owned())),
        }
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

impl Store {
    /// Loads a `docker save` or OCI-layout archive, plain or compressed, from any reader.
    pub fn load(
        &self,
        archive: &mut dyn Read,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Loaded>, LoadError> {
        self.load_for(archive, &[], progress)
    }

    /// The same; if platforms are given, only what is for those, and there must be something for each.
    pub fn load_for(
        &self,
        archive: &mut dyn Read,
        platforms: &[Platform],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Loaded>, LoadError> {
        let mut contents = Contents::default();
        let outcome = self.load_contents(archive, &mut contents, platforms, progress);
        // Layers that no image wanted, or that came before what made it fail.
        let layers: Vec<Digest> = contents
            .layers
            .values()
            .map(|layer| layer.diff_id().clone())
            .collect();
        let blobs = contents.blobs.values().map(HeldBlob::digest);
        let blobs: Vec<Digest> = blobs.cloned().collect();
        drop(contents);
        let collected = self.collect_layers(&layers);
        let collected = collected.and_then(|_| self.collect_blobs(&blobs));
        let collected = collected.map_err(LoadError::Metadata);
        let loaded = outcome?;
        collected?;
        Ok(loaded)
    }

    fn load_contents(
        &self,
        archive: &mut dyn Read,
        contents: &mut Contents,
        platforms: &[Platform],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Loaded>, LoadError> {
        let mut plain = compression::reader(archive).map_err(LoadError::Read)?;
        self.read_archive(&mut plain, contents, progress)?;
        // What follows the end of the tar is padding; a pipe's writer wants it read.
        io::copy(&mut plain, &mut io::sink()).map_err(LoadError::Read)?;
        let is_docker = contents.documents.contains_key("manifest.json");
        let mut images = match is_docker && !names_an_index(contents) {
            true => docker_images(contents)?,
            false => oci_images(self, contents)?,
        };
        choose_platforms(&mut images, platforms)?;
        let mut loaded = Vec::with_capacity(images.len());
        for image in images {
            let names = image.names.clone();
            let config: Option<ImageConfig> = vocab::config::read(&image.config).ok();
            let config = config.and_then(|config| config.config);
            let labels = config.and_then(|config| config.labels).unwrap_or_default();
            let image = self.as_configured(image)?;
            let id = self.put_image(image).map_err(LoadError::Put)?;
            loaded.push(Loaded { id, names, labels });
        }
        Ok(loaded)
    }

    /// With its layers under the kind of digest that its configuration has for them: while they were
    /// read that was not known yet, and they are read once more.
    fn as_configured(&self, mut image: NewImage) -> Result<NewImage, LoadError> {
        let Ok(config) = vocab::config::read::<ImageConfig>(&image.config) else {
            return Ok(image);
        };
        for (layer, diff_id) in image.layers.iter_mut().zip(&config.rootfs.diff_ids) {
            if layer.diff_id().algorithm() != diff_id.algorithm() {
                let form = layer.blob().clone();
                let again = self.receive_again(&form, diff_id);
                let again = again.map_err(|source| LoadError::Layer {
                    layer: form.digest.to_string(),
                    source,
                })?;
                *layer = again.ok_or_else(|| LoadError::Missing(blob_path(&form.digest)))?;
            }
        }
        Ok(image)
    }

    fn read_archive(
        &self,
        plain: &mut dyn Read,
        contents: &mut Contents,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), LoadError> {
        let mut tar = tar::Archive::new(plain);
        let mut buffer = vec![0; COPY_BYTES];
        for (count, entry) in tar.entries().map_err(LoadError::Read)?.enumerate() {
            if count >= limits::ARCHIVE_ENTRIES {
                let limit = limits::ARCHIVE_ENTRIES;
                return Err(LoadError::Malformed(format!(
                    "it has more than {limit} entries"
                )));
            }
            let mut entry = entry.map_err(LoadError::Read)?;
            let path = tidy(&entry.path_bytes());
            let kind = entry.header().entry_type();
            if kind.is_symlink() || kind.is_hard_link() {
                let target = entry.link_name_bytes().map(|name| name.into_owned());
                let target = target.unwrap_or_default();
                let base = if kind.is_symlink() {
                    Path::new(&path).parent()
                } else {
                    None
                };
                contents
                    .links
                    .insert(path.clone(), join(base, &tidy(&target), &target));
                continue;
            }
            if !kind.is_file() {
                continue;
            }
            let size = entry.size();
            let head = read_full(&mut entry, &mut buffer).map_err(LoadError::Read)?;
            let is_document = is_document(&buffer[..head]);
            if let Some(digest) = promised(&path)
                && (is_document && size > limits::CONFIG_BYTES || is_other(&buffer[..head]))
            {
                let head = &buffer[..head];
                let blob = self.read_blob(&digest, size, &mut head.chain(&mut entry))?;
                contents.blobs.extend(blob.map(|blob| (path, blob)));
                continue;
            }
            if is_document {
                contents.document_bytes = contents.document_bytes.saturating_add(size);
                if size > limits::CONFIG_BYTES
                    || contents.document_bytes > limits::ARCHIVE_DOCUMENT_BYTES
                {
                    return Err(LoadError::Malformed(format!(
                        "{path} is too large ({size} bytes)"
                    )));
                }
                let mut bytes = buffer[..head].to_vec();
                entry.read_to_end(&mut bytes).map_err(LoadError::Read)?;
                contents.documents.insert(path, bytes);
                continue;
            }
            self.read_layer(
                contents,
                path,
                size,
                &mut entry,
                &mut buffer,
                head,
                progress,
            )?;
        }
        Ok(())
    }

    /// Takes in what looks like a layer. That it is none is remembered rather than told, since an
    /// OCI layout may carry blobs of other kinds; that the archive ends early is told.
    #[expect(clippy::too_many_arguments, reason = "the state of one loop")]
    fn read_layer(
        &self,
        contents: &mut Contents,
        path: String,
        size: u64,
        entry: &mut dyn Read,
        buffer: &mut [u8],
        head: usize,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), LoadError> {
        let promised = promised(&path);
        if let Some(digest) = &promised
            && let Some(layer) = self
                .find_layer_of_blob(digest)
                .map_err(LoadError::Metadata)?
        {
            io::copy(entry, &mut io::sink()).map_err(LoadError::Read)?;
            contents.layers.insert(path, layer);
            return Ok(());
        }
        let label = match &promised {
            Some(digest) => digest.short().to_owned(),
            None => path
                .split(['/', '.'])
                .next()
                .unwrap_or_default()
                .chars()
                .take(12)
                .collect(),
        };
        if !Compression::of(&buffer[..head]).has_media_type() {
            let layer = match promised {
                None => self.read_foreign_layer(&path, &buffer[..head], entry),
                // An OCI layout that has this is none.
                Some(digest) => Err(ReceiveError::Malformed {
                    layer: digest.to_string(),
                    reason: "it is compressed in a way that manifests have no name for".to_owned(),
                }),
            };
            return contents.settle(path, layer);
        }
        let mut ingest: Result<LayerIngest, ReceiveError> =
            self.receive_layer(promised.as_ref(), Some(size), None);
        let mut current = 0;
        let mut count = head;
        while count > 0 {
            if let Ok(taking) = &mut ingest
                && let Err(error) = taking.receive(&buffer[..count])
            {
                ingest = Err(error);
            }
            current += count as u64;
            let layer = label.clone();
            progress(Progress {
                layer,
                current_bytes: current,
                total_bytes: size,
            });
            count = entry.read(buffer).map_err(LoadError::Read)?;
        }
        if current < size {
            return Err(LoadError::Read(io::ErrorKind::UnexpectedEof.into()));
        }
        contents.settle(path, ingest.and_then(LayerIngest::commit))
    }

    /// Takes in a blob as it is, of an artifact perhaps; one that is not what its path says is none.
    fn read_blob(
        &self,
        digest: &Digest,
        size: u64,
        bytes: &mut dyn Read,
    ) -> Result<Option<HeldBlob>, LoadError> {
        let blob = Descriptor {
            media_type: String::new(),
            digest: digest.clone(),
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            platform: None,
            artifact_type: None,
        };
        let failed = &LoadError::of_blob(digest);
        let _lease = self.hold(vec![digest.clone()]);
        let mut ingest = self.ingest(digest, Some(size)).map_err(failed)?;
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            match bytes.read(&mut buffer).map_err(LoadError::Read)? {
                0 => break,
                count => ingest.receive(&buffer[..count]).map_err(failed)?,
            }
        }
        match ingest.commit() {
            Ok(_) => {}
            Err(error) if error.kind() == Kind::Internal => return Err(failed(error)),
            Err(_) => return Ok(None),
        }
        let held = self.hold_blob(&blob);
        held.map_err(|source| {
            let digest = digest.clone();
            failed(crate::IngestError::Write { digest, source })
        })
    }

    /// Takes in a layer that is compressed in a way of its own, as its plain tar.
    fn read_foreign_layer(
        &self,
        path: &str,
        head: &[u8],
        rest: &mut dyn Read,
    ) -> Result<Layer, ReceiveError> {
        let decompress = |source| ReceiveError::Decompress {
            layer: path.to_owned(),
            source,
        };
        let mut plain = compression::reader(head.chain(rest)).map_err(decompress)?;
        let mut ingest = self.receive_layer(None, None, None)?;
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            match plain.read(&mut buffer).map_err(decompress)? {
                0 => return ingest.commit(),
                count => ingest.receive(&buffer[..count])?,
            }
        }
    }

    /// Makes an image of one layer from a root tar, plain or compressed.
    pub fn import(
        &self,
        tar: &mut dyn Read,
        import: &Import,
        name: Option<&Reference>,
    ) -> Result<Digest, ImportError> {
        // Judged first: a wrong instruction should not cost the upload.
        let mut config = ContainerConfig::default();
        for change in &import.changes {
            crate::changes::apply(&mut config, change).map_err(|reason| ImportError::Change {
                change: change.clone(),
                reason,
            })?;
        }
        let mut ingest = self
            .receive_layer(None, None, None)
            .map_err(ImportError::Layer)?;
        let mut tar = compression::layer_reader(tar).map_err(ImportError::Read)?;
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            match tar.read(&mut buffer).map_err(ImportError::Read)? {
                0 => break,
                count => ingest
                    .receive(&buffer[..count])
                    .map_err(ImportError::Layer)?,
            }
        }
        let layer = ingest.commit().map_err(ImportError::Layer)?;
        let config = imported(import, &config, layer.diff_id());
        self.put_image(NewImage {
            config,
            layers: vec![layer],
            names: name
                .cloned()
                .map(Reference::or_latest)
                .into_iter()
                .collect(),
            ..NewImage::default()
        })
        .map_err(ImportError::Put)
    }

    /// The manifest of an image: the one it came with, if its layers are kept in the form that it
    /// names; else one that berth makes, always the same for the same image.
    pub fn manifest(&self, image: &Image) -> io::Result<Document> {
        if let Some(manifest) = &image.manifest
            && let Some(bytes) = self.find_document(&manifest.digest, limits::MANIFEST_BYTES)?
        {
            let named: Manifest = serde_json::from_slice(&bytes)?;
            let (named, kept) = (named.layers.iter(), image.layers.iter());
            if named
                .map(|layer| &layer.digest)
                .eq(kept.map(|layer| &layer.digest))
            {
                return Ok(Document {
                    media_type: manifest.media_type.clone(),
                    bytes,
                });
            }
        }
        let blob = |media_type: &str, digest: &Digest, size: u64| serde_json::json!({ "mediaType": media_type, "digest": digest, "size": size });
        let config = blob(
            media_type::OCI_CONFIG,
            &image.id,
            image.raw_config.len() as u64,
        );
        let layers: Vec<_> = image
            .layers
            .iter()
            .map(|layer| blob(&layer.media_type, &layer.digest, layer.size_bytes))
            .collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
            "config": config, "layers": layers,
        });
        let bytes = serde_json::to_vec(&manifest)?;
        Ok(Document {
            media_type: media_type::OCI_MANIFEST.to_owned(),
            bytes,
        })
    }

    /// Writes the named images as one archive that is both a `docker save` one and an OCI layout.
    ///
    /// An image named by its id goes without a name, one named by a bare repository with all its
    /// tags there. Where an index led to an image, and more than this image or all of it is here, the
    /// index goes with what is here.
    pub fn save(&self, typed: &[String], out: &mut dyn Write) -> Result<Vec<Saved>, SaveError> {
        self.save_for(typed, &[], out)
    }

    /// The same; if platforms are given, only what is for those.
    pub fn save_for(
        &self,
        typed: &[String],
        platforms: &[Platform],
        out: &mut dyn Write,
    ) -> Result<Vec<Saved>, SaveError> {
        let mut chosen: Vec<(Image, Vec<Reference>)> = Vec::new();
        for typed in typed {
            for (image, names) in self.choose(typed, platforms)? {
                match chosen.iter_mut().find(|(known, _)| known.id == image.id) {
                    Some((_, known)) => {
                        known.extend(names);
                        known.sort();
                        known.dedup();
                    }
                    None => chosen.push((image, names)),
                }
            }
        }
        // Whoever removes one of them meanwhile does not spoil the archive.
        let mut leases = Vec::with_capacity(chosen.len());
        for (image, _) in &chosen {
            for image in self.siblings(image)?.iter().chain([image]) {
                let lease = self.hold_image(image);
                leases.push(lease.map_err(|source| FindError::Metadata {
                    typed: image.id.to_string(),
                    source,
                })?);
            }
        }
        let mut tar = tar::Builder::new(out);
        let mut written: HashSet<Digest> = HashSet::new();
        let (mut docker, mut manifests) = (Vec::new(), Vec::new());
        for (image, names) in &chosen {
            let manifest = self.save_image(image, &mut tar, &mut written)?;
            let target = self.save_bundle(image, platforms, &mut tar, &mut written)?;
            let target = target.unwrap_or(manifest);
            manifests.extend(index_entries(image, &target, names));
            docker.push(DockerImage {
                config: blob_path(&image.id),
                repo_tags: names.iter().map(Reference::familiar).collect(),
                layers: image
                    .layers
                    .iter()
                    .map(|layer| blob_path(&layer.digest))
                    .collect(),
            });
        }
        let index = serde_json::json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": manifests,
        });
        let layout = serde_json::json!({ "imageLayoutVersion": "1.0.0" });
        let docker =
            serde_json::to_value(docker).map_err(|error| SaveError::Write(error.into()))?;
        for (path, document) in [
            ("index.json", index),
            ("manifest.json", docker),
            ("oci-layout", layout),
        ] {
            let bytes = document.to_string();
            append(&mut tar, path, bytes.len() as u64, bytes.as_bytes())?;
        }
        tar.into_inner()
            .and_then(|out| out.flush())
            .map_err(SaveError::Write)?;
        let saved = chosen.into_iter().map(|(image, _)| {
            let config = image.config.config;
            let labels = config.and_then(|config| config.labels);
            (image.id, labels.unwrap_or_default())
        });
        Ok(saved.collect())
    }
}

impl Store {
    /// Writes what makes an image, as far as it is not in the archive yet; answers its manifest.
    fn save_image(
        &self,
        image: &Image,
        tar: &mut tar::Builder<&mut dyn Write>,
        written: &mut HashSet<Digest>,
    ) -> Result<Document, SaveError> {
        let unread = |digest: &Digest| {
            let digest = digest.clone();
            move |source| SaveError::Blob { digest, source }
        };
        for layer in &image.layers {
            if written.insert(layer.digest.clone()) {
                let file = self.opened(&layer.digest)?;
                append(tar, &blob_path(&layer.digest), layer.size_bytes, file)?;
            }
        }
        if image.raw_config.is_empty() {
            return Err(unread(&image.id)(io::Error::new(
                io::ErrorKind::NotFound,
                "the configuration is damaged or lost",
            )));
        }
        let manifest = self.manifest(image).map_err(unread(&image.id))?;
        if written.insert(image.id.clone()) {
            let config = image.raw_config.as_slice();
            append(tar, &blob_path(&image.id), config.len() as u64, config)?;
        }
        save_document(&manifest, tar, written)?;
        Ok(manifest)
    }

    /// Writes the index that led to an image and what of its members is wanted and here, if the
    /// index is to go; answers it.
    fn save_bundle(
        &self,
        image: &Image,
        platforms: &[Platform],
        tar: &mut tar::Builder<&mut dyn Write>,
        written: &mut HashSet<Digest>,
    ) -> Result<Option<Document>, SaveError> {
        let Some(bundle) = self.bundle(image)? else {
            return Ok(None);
        };
        let goes = match platforms {
            [] => bundle.holds_more_than_an_image() || bundle.is_complete(),
            [_] => false,
            _ => true,
        };
        if !goes {
            return Ok(None);
        }
        let wanted = |entry: &Descriptor| {
            let suits = |platform: &Platform| {
                let own = entry.platform.as_ref();
                own.and_then(|own| own.rank_on(platform)).is_some()
            };
            platforms.is_empty() || platforms.iter().any(suits)
        };
        for member in &bundle.members {
            match &member.content {
                Content::Image(other) if wanted(&member.descriptor) => {
                    self.save_image(other, tar, written)?;
                }
                Content::Attached { manifest, blobs } if platforms.is_empty() => {
                    for blob in blobs {
                        if written.insert(blob.digest.clone()) {
                            let file = self.opened(&blob.digest)?;
                            append(tar, &blob_path(&blob.digest), blob.size, file)?;
                        }
                    }
                    save_document(manifest, tar, written)?;
                }
                _ => {}
            }
        }
        save_document(&bundle.index, tar, written)?;
        Ok(Some(bundle.index))
    }

    fn opened(&self, digest: &Digest) -> Result<std::fs::File, SaveError> {
        self.find_blob(digest)
            .and_then(|file| file.ok_or_else(|| io::ErrorKind::NotFound.into()))
            .map_err(|source| SaveError::Blob {
                digest: digest.clone(),
                source,
            })
    }

    /// The images that a text to be saved means, each with the names it is saved under.
    fn choose(
        &self,
        typed: &str,
        platforms: &[Platform],
    ) -> Result<Vec<(Image, Vec<Reference>)>, SaveError> {
        let reference = typed.parse::<Reference>().ok();
        if let Some(reference) = &reference
            && reference.tag().is_none()
            && reference.digest().is_none()
        {
            let repository = reference.repository();
            let metadata = |source| FindError::Metadata {
                typed: typed.to_owned(),
                source,
            };
            let mut chosen: Vec<(Image, Vec<Reference>)> = Vec::new();
            for image in self.images().map_err(metadata)? {
                let mut names = image.names.clone();
                names.retain(|name| name.repository() == repository);
                if !names.is_empty() {
                    chosen.push((image, names));
                }
            }
            if !chosen.is_empty() {
                return Ok(chosen);
            }
        }
        let image = self.find_image(typed).map_err(|error| match error {
            FindError::NotFound(_) => FindError::NotFound(typed.to_owned()),
            error => error,
        })?;
        let named = image
            .names
            .iter()
            .filter(|name| Some(*name) == reference.as_ref());
        let names = named.cloned().collect();
        // All of them must be here, and the first speaks for the others.
        let mut suiting = Vec::with_capacity(platforms.len());
        for platform in platforms {
            suiting.push(self.find_image_for(typed, platform)?);
        }
        let image = suiting.into_iter().next().unwrap_or(image);
        Ok(vec![(image, names)])
    }
}

fn append(
    tar: &mut tar::Builder<&mut dyn Write>,
    path: &str,
    size: u64,
    data: impl Read,
) -> Result<(), SaveError> {
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_size(size);
    tar.append_data(&mut header, path, data.take(size))
        .map_err(SaveError::Write)
}

/// Writes a manifest or index, unless it is in the archive already.
fn save_document(
    document: &Document,
    tar: &mut tar::Builder<&mut dyn Write>,
    written: &mut HashSet<Digest>,
) -> Result<(), SaveError> {
    let digest = Hasher::sha256(&document.bytes);
    if !written.insert(digest.clone()) {
        return Ok(());
    }
    let bytes = document.bytes.as_slice();
    append(tar, &blob_path(&digest), bytes.len() as u64, bytes)
}

/// The entries of `index.json` for an image: its manifest, or the index that led to it.
fn index_entries(image: &Image, target: &Document, names: &[Reference]) -> Vec<Descriptor> {
    let is_index = media_type::is_index(&target.media_type);
    let entry = |annotations| Descriptor {
        media_type: target.media_type.clone(),
        digest: Hasher::sha256(&target.bytes),
        size: target.bytes.len() as u64,
        urls: Vec::new(),
        annotations,
        platform: (!is_index).then(|| image.config.platform()),
        artifact_type: None,
    };
    if names.is_empty() {
        return vec![entry(BTreeMap::new())];
    }
    names
        .iter()
        .map(|name| {
            let mut annotations = BTreeMap::new();
            annotations.insert(IMAGE_NAME.to_owned(), name.to_string());
            annotations.insert(
                REF_NAME.to_owned(),
                name.tag().unwrap_or_default().to_owned(),
            );
            entry(annotations)
        })
        .collect()
}

/// Leaves what is for one of these platforms; none of them may be in vain.
fn choose_platforms(images: &mut Vec<NewImage>, platforms: &[Platform]) -> Result<(), LoadError> {
    let suits = |image: &NewImage, platform: &Platform| {
        let config: Option<ImageConfig> = vocab::config::read(&image.config).ok();
        config.is_some_and(|config| config.platform().rank_on(platform).is_some())
    };
    for platform in platforms {
        if !images.iter().any(|image| suits(image, platform)) {
            return Err(LoadError::Platform(platform.clone()));
        }
    }
    if !platforms.is_empty() {
        images.retain(|image| platforms.iter().any(|platform| suits(image, platform)));
    }
    Ok(())
}

/// The images of a `docker save` archive.
fn docker_images(contents: &mut Contents) -> Result<Vec<NewImage>, LoadError> {
    let list: Vec<DockerImage> = serde_json::from_slice(contents.document("manifest.json")?)
        .map_err(|error| LoadError::Malformed(format!("manifest.json: {error}")))?;
    if list.len() > limits::ARCHIVE_IMAGES {
        let limit = limits::ARCHIVE_IMAGES;
        return Err(LoadError::Malformed(format!(
            "manifest.json lists more than {limit} images"
        )));
    }
    let manifests = manifests_by_config(contents);
    let mut images = Vec::with_capacity(list.len());
    for item in list {
        let config = contents.document(&tidy(item.config.as_bytes()))?.to_vec();
        let mut layers = Vec::with_capacity(item.layers.len());
        for path in &item.layers {
            layers.push(contents.layer(&tidy(path.as_bytes()))?);
        }
        let mut names = Vec::with_capacity(item.repo_tags.len());
        for tag in &item.repo_tags {
            let name: Reference = tag
                .parse()
                .map_err(|error| LoadError::Malformed(format!("RepoTags `{tag}`: {error}")))?;
            names.push(name.or_latest());
        }
        // The OCI half of the archive, if there is one, knows the manifest.
        let manifest = manifests
            .get(&Hasher::sha256(&config))
            .and_then(|(document, parsed)| {
                let fits = parsed.layers.len() == layers.len()
                    && parsed
                        .layers
                        .iter()
                        .zip(&layers)
                        .all(|(a, b)| a.digest == b.blob().digest);
                fits.then(|| document.clone())
            });
        images.push(NewImage {
            config,
            manifest,
            layers,
            names,
            ..NewImage::default()
        });
    }
    Ok(images)
}

/// Every image manifest among the documents, by its configuration.
fn manifests_by_config(contents: &Contents) -> HashMap<Digest, (Document, Manifest)> {
    let mut found = HashMap::new();
    for (path, bytes) in &contents.documents {
        let Some(digest) = promised(path) else {
            continue;
        };
        if Hasher::sha256(bytes) != digest {
            continue;
        }
        let Ok(manifest) = serde_json::from_slice::<Manifest>(bytes) else {
            continue;
        };
        let media_type = match manifest.media_type.is_empty() {
            true => media_type::OCI_MANIFEST.to_owned(),
            false => manifest.media_type.clone(),
        };
        let document = Document {
            media_type,
            bytes: bytes.clone(),
        };
        found.insert(manifest.config.digest.clone(), (document, manifest));
    }
    found
}

/// The images of an OCI layout.
fn oci_images(store: &Store, contents: &mut Contents) -> Result<Vec<NewImage>, LoadError> {
    if !contents.documents.contains_key("index.json") {
        return Err(LoadError::Malformed(
            "it has neither a manifest.json nor an index.json; a root tar is imported, not loaded"
                .to_owned(),
        ));
    }
    let index: Index = serde_json::from_slice(contents.document("index.json")?)
        .map_err(|error| LoadError::Malformed(format!("index.json: {error}")))?;
    if index.manifests.len() > limits::ARCHIVE_IMAGES {
        let limit = limits::ARCHIVE_IMAGES;
        return Err(LoadError::Malformed(format!(
            "index.json lists more than {limit} images"
        )));
    }
    let mut images: Vec<NewImage> = Vec::new();
    for entry in &index.manifests {
        let names = annotated_names(entry);
        images.extend(oci_image(
            store,
            contents,
            entry,
            names,
            limits::INDEX_DEPTH,
        )?);
    }
    if images.is_empty() {
        return Err(LoadError::Platform(Platform::host()));
    }
    Ok(images)
}

/// Whether the OCI half of an archive has what the other cannot tell: images of several platforms.
fn names_an_index(contents: &Contents) -> bool {
    let index = contents.documents.get("index.json");
    let index = index.and_then(|bytes| serde_json::from_slice::<Index>(bytes).ok());
    let is_index = |entry: &Descriptor| media_type::is_index(&entry.media_type);
    index.is_some_and(|index| index.manifests.iter().any(is_index))
}

fn oci_image(
    store: &Store,
    contents: &mut Contents,
    entry: &Descriptor,
    names: Vec<Reference>,
    depth: usize,
) -> Result<Vec<NewImage>, LoadError> {
    let bytes = contents.blob(&entry.digest)?.to_vec();
    let malformed =
        |error: serde_json::Error| LoadError::Malformed(format!("{}: {error}", entry.digest));
    match entry.media_type.as_str() {
        media_type::OCI_INDEX | media_type::DOCKER_LIST => {
            if depth == 0 {
                return Err(LoadError::Malformed(format!(
                    "{} is nested too deep",
                    entry.digest
                )));
            }
            let index: Index = serde_json::from_slice(&bytes).map_err(malformed)?;
            let document = Document {
                media_type: entry.media_type.clone(),
                bytes,
            };
            let mut images = Vec::new();
            for member in &index.manifests {
                let is_image = match &member.platform {
                    Some(_) => !member.is_for_nothing(),
                    None => index.manifests.len() == 1 || media_type::is_index(&member.media_type),
                };
                // Not every platform that an index names need be in the archive.
                if is_image && contents.documents.contains_key(&blob_path(&member.digest)) {
                    let names = names.clone();
                    images.extend(oci_image(store, contents, member, names, depth - 1)?);
                }
            }
            for image in &mut images {
                // The outermost index is the one that the names mean.
                image.index = Some(document.clone());
                let mut found = Vec::new();
                attached(store, contents, &index, image, depth - 1, &mut found)?;
                image.attached = found;
            }
            Ok(images)
        }
        media_type::OCI_MANIFEST | media_type::DOCKER_MANIFEST => {
            let manifest: Manifest = serde_json::from_slice(&bytes).map_err(malformed)?;
            if !manifest.is_image() {
                return Ok(Vec::new());
            }
            let config = contents.blob(&manifest.config.digest)?.to_vec();
            let mut layers = Vec::with_capacity(manifest.layers.len());
            for layer in &manifest.layers {
                let found = contents.layer(&blob_path(&layer.digest))?;
                layers.push(found.with_media_type(&layer.media_type));
            }
            let media_type = entry.media_type.clone();
            let manifest = Some(Document { media_type, bytes });
            Ok(vec![NewImage {
                config,
                manifest,
                layers,
                names,
                ..NewImage::default()
            }])
        }
        _ => Ok(Vec::new()),
    }
}

/// Adds what an index leads to beside images, as far as it is in the archive and belongs to this one.
fn attached(
    store: &Store,
    contents: &Contents,
    index: &Index,
    image: &NewImage,
    depth: usize,
    found: &mut Vec<HeldBlob>,
) -> Result<(), LoadError> {
    let manifest = image.manifest.as_ref();
    let own = manifest.map(|manifest| Hasher::sha256(&manifest.bytes));
    for entry in &index.manifests {
        let subject = bundle::attests(entry);
        let is_of_another = subject.is_some() && subject != own;
        let path = blob_path(&entry.digest);
        // An archive may leave out what nothing needs to run.
        if is_of_another || !contents.documents.contains_key(contents.resolve(&path)) {
            continue;
        }
        let bytes = contents.blob(&entry.digest)?;
        let malformed =
            |error: serde_json::Error| LoadError::Malformed(format!("{}: {error}", entry.digest));
        if media_type::is_index(&entry.media_type) {
            if depth == 0 {
                continue;
            }
            let nested: Index = serde_json::from_slice(bytes).map_err(malformed)?;
            attached(store, contents, &nested, image, depth - 1, found)?;
        } else {
            // Nothing needs it, whatever it is.
            let Ok(manifest) = serde_json::from_slice::<Manifest>(bytes) else {
                continue;
            };
            if manifest.is_image() && !entry.is_for_nothing() {
                continue;
            }
            let blobs = manifest.layers.iter().chain([&manifest.config]);
            let held: Option<Vec<HeldBlob>> = blobs
                .map(|blob| held(store, contents, blob).transpose())
                .collect::<Option<Result<_, _>>>()
                .transpose()?;
            let Some(held) = held else { continue };
            found.extend(held);
        }
        let held = store.put_blob(&entry.digest, &entry.media_type, bytes);
        found.push(held.map_err(LoadError::of_blob(&entry.digest))?);
        if found.len() > limits::ATTACHED * limits::ATTACHED_BLOBS {
            return Err(LoadError::Malformed(format!(
                "{} leads to too much beside images",
                entry.digest
            )));
        }
    }
    Ok(())
}

/// A blob of an artifact, if it is in the archive.
fn held(
    store: &Store,
    contents: &Contents,
    blob: &Descriptor,
) -> Result<Option<HeldBlob>, LoadError> {
    let path = blob_path(&blob.digest);
    let held = match contents.documents.contains_key(contents.resolve(&path)) {
        true => {
            let bytes = contents.blob(&blob.digest)?;
            store
                .put_blob(&blob.digest, &blob.media_type, bytes)
                .map(Some)
        }
        // What looked like a layer is here as one.
        false => store.hold_blob(blob).map_err(|source| {
            let digest = blob.digest.clone();
            crate::IngestError::Write { digest, source }
        }),
    };
    held.map_err(LoadError::of_blob(&blob.digest))
}

fn annotated_names(entry: &Descriptor) -> Vec<Reference> {
    let full = entry.annotations.get(IMAGE_NAME).or_else(|| {
        // A bare tag names no repository, so it cannot be used.
        entry
            .annotations
            .get(REF_NAME)
            .filter(|name| name.contains(['/', ':']))
    });
    full.and_then(|name| name.parse::<Reference>().ok())
        .map(Reference::or_latest)
        .into_iter()
        .collect()
}

/// The configuration of an imported root tree, as Docker lays it out.
fn imported(import: &Import, config: &ContainerConfig, diff_id: &Digest) -> Vec<u8> {
    let created = vocab::time::rfc3339_nano(SystemTime::now());
    let comment = match import.message.is_empty() {
        true => "Imported from -",
        false => &import.message,
    };
    let mut document = serde_json::json!({
        "architecture": import.platform.architecture,
        "comment": comment,
        "config": config,
        "created": created,
        "history": [{ "created": created, "comment": comment }],
        "os": import.platform.os,
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
    });
    if !import.platform.variant.is_empty() {
        document["variant"] = import.platform.variant.clone().into();
    }
    document.to_string().into_bytes()
}

/// Whether a file of an archive is a document rather than a layer, by its first bytes.
fn is_document(head: &[u8]) -> bool {
    let is_tar = head.get(257..262).is_some_and(|magic| magic == b"ustar");
    if is_tar || Compression::of(head) != Compression::None {
        return false;
    }
    let first = head.iter().find(|byte| !byte.is_ascii_whitespace());
    // Shorter than a block it can be no tar; old archives have a VERSION file.
    head.len() < 512 || matches!(first, Some(b'{' | b'['))
}

/// Whether a file of an archive can be neither document nor layer, by its first bytes.
fn is_other(head: &[u8]) -> bool {
    let Some(block) = head.first_chunk::<512>() else {
        return false;
    };
    let is_text = |bytes: &[u8]| {
        bytes
            .iter()
            .all(|byte| matches!(byte, b'0'..=b'7' | b' ' | 0))
    };
    // A tar that is older than its magic still has a sum there; an empty one has nothing.
    let is_tar = block[257..262] == *b"ustar" || is_text(&block[148..156]);
    !is_tar && Compression::of(head) == Compression::None && !is_document(head)
}

/// The digest that a path in an archive promises.
fn promised(path: &str) -> Option<Digest> {
    let (algorithm, hex) = path.strip_prefix("blobs/")?.split_once('/')?;
    format!("{algorithm}:{hex}").parse().ok()
}

/// A path of an archive without `.` and `..`; it only ever names something in memory.
fn tidy(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Where a link points, seen from the root of the archive.
fn join(base: Option<&Path>, plain: &str, raw: &[u8]) -> String {
    match base.map(Path::to_string_lossy) {
        Some(base) if !raw.starts_with(b"/") => {
            tidy(format!("{base}/{}", String::from_utf8_lossy(raw)).as_bytes())
        }
        _ => plain.to_owned(),
    }
}
