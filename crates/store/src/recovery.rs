//! Tables that are damaged: put aside, and made again from what else tells of images.
//!
//! First come the [records](crate::records), which have everything. What they do not tell of is
//! found by its manifest or configuration among the blobs, and has no name then. Writable layers
//! come back by what is kept beside each; one that has no such thing is not deleted but put aside.
//! In the end the [check](crate::fsck) forgets what has no bytes any more.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use vocab::image::ImageConfig;
use vocab::manifest::{Manifest, media_type};
use vocab::{ContainerId, Digest};

use crate::limits;
use crate::metadata::{self, MetadataError, Tables, TablesError};
use crate::records::{self, Base, DocumentRecord, ImageRecord, LayerRecord, Record};
use crate::store::{OpenError, Store};

/// What the files of a database end in.
const SUFFIXES: [&str; 3] = ["", "-wal", "-shm"];

/// What opening the tables took.
#[derive(Debug, Default)]
pub(crate) struct Recovery {
    /// Sentences for whoever runs the host.
    pub(crate) told: Vec<String>,
    /// The tables are new, and know only what records told them.
    pub(crate) is_new: bool,
}

impl Recovery {
    pub(crate) fn tell(&mut self, sentence: String) {
        tracing::error!("{sentence}");
        self.told.push(sentence);
    }
}

/// Opens the tables, or new ones in place of damaged ones.
pub(crate) fn open(root: &Path) -> Result<(Tables, Recovery), OpenError> {
    let path = root.join("metadata.db");
    let failed = |error| match error {
        TablesError::Version(found) => OpenError::Version {
            path: path.clone(),
            found,
            known: metadata::FORMAT,
        },
        TablesError::Other(source) => OpenError::Metadata {
            path: path.clone(),
            source,
        },
        TablesError::Damaged(reason) => OpenError::Damaged {
            path: path.clone(),
            reason,
        },
    };
    let mut recovery = Recovery::default();
    let reason = match Tables::open(&path, false) {
        Ok((tables, lost)) => {
            if !lost.is_empty() {
                recovery.tell(format!(
                    "`{}` had lost {} of its latest changes to images; they were put back from their records",
                    path.display(),
                    lost.len()
                ));
            }
            return Ok((tables, recovery));
        }
        Err(TablesError::Damaged(reason)) => reason,
        Err(error) => return Err(failed(error)),
    };
    let place = put_aside(root, &path).map_err(|source| OpenError::File {
        what: "put aside",
        path: path.clone(),
        source,
    })?;
    let (tables, restored) = Tables::open(&path, true).map_err(failed)?;
    recovery.is_new = true;
    recovery.tell(format!(
        "`{}` was damaged ({reason}) and is kept as `{}`; {} images were put back from their records",
        path.display(),
        place.display(),
        restored.len()
    ));
    Ok((tables, recovery))
}

/// Moves the database to the quarantine, under a name that is free.
fn put_aside(root: &Path, path: &Path) -> io::Result<PathBuf> {
    let quarantine = root.join("quarantine");
    let place = (1..)
        .map(|number| quarantine.join(format!("metadata-{number}.db")))
        .find(|place| !place.exists())
        .expect("a directory has fewer entries than there are numbers");
    for suffix in SUFFIXES {
        let with = |path: &Path| {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        match fs::rename(with(path), with(&place)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(place)
}

impl Store {
    /// Puts back what no record tells of: images by their manifests and configurations.
    pub(crate) fn find_images_by_blobs(
        &self,
        recovery: &mut Recovery,
    ) -> Result<(), MetadataError> {
        let blobs = self.blobs().list().unwrap_or_else(|error| {
            tracing::warn!(%error, "the blobs cannot be listed");
            Vec::new()
        });
        let known = self.tables().image_ids()?;
        let mut known: HashSet<Digest> = known.into_iter().collect();
        let mut found = 0;
        // Manifests first: they tell in which form the layers are there.
        for as_manifest in [true, false] {
            for blob in &blobs {
                let image = match as_manifest {
                    true => self.by_manifest(blob),
                    false => self.by_config(blob, Vec::new()),
                };
                let Some(image) = image.filter(|image| !known.contains(&image.id)) else {
                    continue;
                };
                known.insert(image.id.clone());
                found += 1;
                let sizes = image.layers.iter().map(|layer| layer.size).collect();
                self.tables().restore_image(&Record {
                    generation: 0,
                    sizes,
                    image,
                })?;
            }
        }
        if found > 0 {
            recovery.tell(format!(
                "{found} more images were found by their manifests; they have lost their names"
            ));
        }
        Ok(())
    }

    /// A small blob, if it is what its name says.
    fn read_document(&self, blob: &Digest) -> Option<Vec<u8>> {
        let length = fs::metadata(self.blobs().path(blob)).ok()?.len();
        if length > limits::CONFIG_BYTES {
            return None;
        }
        let bytes = self.find_document(blob, limits::CONFIG_BYTES).ok()??;
        (bytes.first() == Some(&b'{')).then_some(bytes)
    }

    fn by_manifest(&self, blob: &Digest) -> Option<ImageRecord> {
        let bytes = self.read_document(blob)?;
        let manifest: Manifest = serde_json::from_slice(&bytes).ok()?;
        let forms = manifest.layers.into_iter().map(|layer| {
            let size = i64::try_from(layer.size).ok()?;
            Some((layer.digest, size, layer.media_type))
        });
        let mut image = self.by_config(&manifest.config.digest, forms.collect::<Option<_>>()?)?;
        let media_type = match manifest.media_type.as_str() {
            "" => media_type::OCI_MANIFEST.to_owned(),
            _ => manifest.media_type,
        };
        image.documents.push(DocumentRecord {
            digest: blob.clone(),
            media_type,
            size: i64::try_from(bytes.len()).ok()?,
            kind: "manifest".to_owned(),
        });
        Some(image)
    }

    /// The image of a configuration; without forms its layers are expected as plain tars.
    fn by_config(&self, id: &Digest, forms: Vec<(Digest, i64, String)>) -> Option<ImageRecord> {
        let config: ImageConfig = vocab::config::read(&self.read_document(id)?).ok()?;
        let diff_ids = config.rootfs.diff_ids;
        let forms = match forms.is_empty() {
            false => forms,
            true => diff_ids
                .iter()
                .map(|diff_id| {
                    let found = fs::metadata(self.blobs().path(diff_id)).ok()?;
                    let size = i64::try_from(found.len()).ok()?;
                    Some((diff_id.clone(), size, media_type::OCI_LAYER.to_owned()))
                })
                .collect::<Option<_>>()?,
        };
        let there = forms
            .iter()
            .all(|(blob, ..)| self.blobs().path(blob).exists());
        if diff_ids.is_empty() || diff_ids.len() != forms.len() || !there {
            return None;
        }
        let layers = diff_ids.into_iter().zip(forms);
        Some(ImageRecord {
            id: id.clone(),
            tagged: None,
            names: Vec::new(),
            layers: layers
                .map(|(diff_id, (blob, size, media_type))| LayerRecord {
                    diff_id,
                    blob,
                    size,
                    media_type,
                })
                .collect(),
            documents: Vec::new(),
        })
    }

    /// Makes the rows of writable layers what is kept beside each. One that has neither is put aside
    /// where the tables are new, and else is debris of a kill.
    pub(crate) fn restore_snapshots(
        &self,
        recovery: &mut Recovery,
        names: &[String],
    ) -> Result<(), MetadataError> {
        let snapshots = self.root().join("snapshots");
        let mut tables = self.tables();
        let mut restored = 0;
        for name in names {
            let Ok(owner) = name.parse::<ContainerId>() else {
                continue;
            };
            let directory = snapshots.join(name);
            match records::read::<Base>(&directory.join("base")) {
                Some(base) if tables.snapshot_layers(&owner)?.as_ref() != Some(&base.layers) => {
                    tables.restore_snapshot(name, &base)?;
                    restored += 1;
                }
                None if recovery.is_new => {
                    let place = self.root().join("quarantine").join(name);
                    if let Err(error) = fs::rename(&directory, &place) {
                        tracing::warn!(path = %directory.display(), %error, "cannot be put aside");
                        continue;
                    }
                    recovery.tell(format!(
                        "it is not known any more what container {owner} stands on; what it wrote is kept in `{}`",
                        place.display()
                    ));
                }
                _ => {}
            }
        }
        if restored > 0 {
            recovery.tell(format!(
                "the writable layers of {restored} containers were put back into the tables"
            ));
        }
        Ok(())
    }
}
