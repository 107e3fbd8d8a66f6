//! Does the disk hold what the tables promise? Asked in brief at open, and to the last byte by
//! [`verify`](Store::verify).
//!
//! Nothing that is found stops the store. A blob that is not what its name says is moved to
//! `quarantine/`, so that nobody reads it and the next pull or load brings it anew; a layer whose
//! files are gone or damaged is made again from its blob, or else forgotten, so that it is fetched
//! again. What lies in quarantine is for people to look at, and is deleted after
//! [`QUARANTINE_KEEP`].

use std::collections::HashSet;
use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, SystemTime};

use vocab::{Digest, Failure, Kind, Reference};

use crate::files;
use crate::hash::Hasher;
use crate::images::Image;
use crate::limits;
use crate::metadata::MetadataError;
use crate::recovery::Recovery;
use crate::snapshots;
use crate::store::{COPY_BYTES, OpenError, Store};

/// How long a layer that no image needs is kept for a pull to be taken up again.
const ORPHAN_KEEP: Duration = Duration::from_secs(24 * 60 * 60);
/// How long damaged files are kept to be looked at.
const QUARANTINE_KEEP: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Bytes that were read and compared with their digests.
    pub bytes: u64,
    /// What was wrong.
    pub damage: Vec<Damage>,
}

/// Something that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The blob or layer.
    pub digest: Digest,
    /// What is wrong with it, and what was done.
    pub reason: String,
    /// Whether it is whole again.
    pub mended: bool,
}

/// Why an image could not be verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A file of it.
    #[error("read {digest}")]
    Read {
        /// Which blob or layer.
        digest: Digest,
        /// What the system said.
        source: io::Error,
    },
    /// The tables.
    #[error("verify image")]
    Metadata(#[from] MetadataError),
}

impl Failure for VerifyError {
    fn kind(&self) -> Kind {
        Kind::Internal
    }
}

impl Store {
    /// Makes tables and directories agree again after whatever ended the last process.
    pub(crate) fn check(&self, path: &Path, recovery: &mut Recovery) -> Result<(), OpenError> {
        let metadata = |source| OpenError::Metadata {
            path: path.to_owned(),
            source,
        };
        if recovery.is_new {
            self.find_images_by_blobs(recovery).map_err(metadata)?;
        }
        self.judge_unsynced(path)?;
        self.quarantine_torn_blobs().map_err(metadata)?;
        self.quarantine_torn_documents(recovery).map_err(metadata)?;
        self.remove_unknown_snapshots(path, recovery)?;
        self.forget_lost_layers(path)?;
        let old = SystemTime::now()
            .checked_sub(ORPHAN_KEEP)
            .unwrap_or(SystemTime::UNIX_EPOCH);
        let layers = self.tables().unneeded_layers().map_err(metadata)?;
        let old = layers
            .into_iter()
            .filter_map(|(diff_id, made)| (made < old).then_some(diff_id));
        self.collect_layers(&old.collect::<Vec<_>>())
            .map_err(metadata)?;
        self.sweep_blobs().map_err(metadata)?;
        self.empty_quarantine();
        Ok(())
    }

    /// Blobs that are gone, shorter or longer than recorded: the file system lost something.
    fn quarantine_torn_blobs(&self) -> Result<(), MetadataError> {
        let recorded = self.tables().blob_sizes()?;
        for (blob, size_bytes) in recorded {
            match fs::metadata(self.blobs().path(&blob)) {
                Ok(found) if found.len() != size_bytes => self.quarantine(&blob)?,
                // No layer came as it, so that it can come again.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.tables().forget_form(&blob)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Configurations, manifests and indexes are small enough to be read each time.
    fn quarantine_torn_documents(&self, recovery: &mut Recovery) -> Result<(), MetadataError> {
        let ids = self.tables().image_ids()?;
        for id in ids {
            let documents = self.tables().documents_of(&id)?;
            for document in documents.into_iter().chain([id.clone()]) {
                let reason = match self.find_document(&document, limits::CONFIG_BYTES) {
                    Ok(Some(_)) => continue,
                    Ok(None) => "is missing".to_owned(),
                    Err(error) => {
                        self.quarantine(&document)?;
                        format!("is damaged and was put aside ({error})")
                    }
                };
                let names = self.tables().names_of(&id)?;
                let names: Vec<String> = names.iter().map(Reference::familiar).collect();
                recovery.tell(match document == id {
                    true => format!(
                        "the configuration of image {id} ({}) {reason}: pull, load or remove it",
                        names.join(", ")
                    ),
                    false => format!(
                        "the manifest {document} of image {id} ({}) {reason}: pull or load it again",
                        names.join(", ")
                    ),
                });
            }
        }
        Ok(())
    }

    /// Deletes layers that no row knows, and forgets those whose files and blobs are gone.
    fn forget_lost_layers(&self, path: &Path) -> Result<(), OpenError> {
        let metadata = |source| OpenError::Metadata {
            path: path.to_owned(),
            source,
        };
        let file = |what, path| move |source| OpenError::File { what, path, source };
        let tables = self.tables();
        let recorded = tables.layers().map_err(metadata)?;
        let known: HashSet<&str> = recorded.iter().map(|(diff_id, _)| diff_id.hex()).collect();
        let layers = self.root().join("layers");
        for hex in self.layers().list().map_err(file("list", layers.clone()))? {
            if !known.contains(hex.as_str()) {
                let removed = self.layers().remove(&hex);
                drop(removed.map_err(file("remove", layers.join(&hex)))?);
            }
        }
        // All forms in one question: there may be tens of thousands.
        let forms = tables.forms().map_err(metadata)?;
        let there = self.blobs().list();
        let there: HashSet<Digest> = there
            .map_err(file("list", self.root().join("blobs")))?
            .into_iter()
            .collect();
        let have_blob: HashSet<&Digest> = forms
            .iter()
            .filter_map(|(diff_id, blob)| there.contains(blob).then_some(diff_id))
            .collect();
        for (diff_id, _) in &recorded {
            if !have_blob.contains(diff_id) && !self.layers().has(diff_id) {
                tracing::warn!(layer = %diff_id, "is gone; images that need it have to be pulled again");
                tables.remove_layer(diff_id).map_err(metadata)?;
            }
        }
        Ok(())
    }

    fn remove_unknown_snapshots(
        &self,
        path: &Path,
        recovery: &mut Recovery,
    ) -> Result<(), OpenError> {
        let file = |what, path| move |source| OpenError::File { what, path, source };
        let snapshots = self.root().join("snapshots");
        let names = snapshots::names(&snapshots).map_err(file("list", snapshots.clone()))?;
        self.restore_snapshots(recovery, &names)
            .map_err(|source| OpenError::Metadata {
                path: path.to_owned(),
                source,
            })?;
        let owners = self.tables().snapshots();
        let owners: HashSet<String> = owners
            .map_err(|source| OpenError::Metadata {
                path: path.to_owned(),
                source,
            })?
            .into_iter()
            .collect();
        for name in names {
            if !owners.contains(&name) {
                let path = snapshots.join(&name);
                files::remove(&path).map_err(file("remove", path.clone()))?;
            }
        }
        Ok(())
    }

    /// Reads every byte of an image and compares it with its digests; mends what can be mended.
    pub fn verify(&self, image: &Image) -> Result<Verified, VerifyError> {
        let _lease = self.hold_image(image)?;
        let mut found = Verified::default();
        let blobs = self.tables().blobs_of(&image.id)?;
        for blob in blobs {
            self.verify_blob(&blob, &mut found)?;
        }
        let layers = self.tables().layers_of(&image.id)?;
        for diff_id in layers {
            self.verify_layer(&diff_id, &mut found)?;
        }
        Ok(found)
    }

    fn verify_blob(&self, blob: &Digest, found: &mut Verified) -> Result<(), VerifyError> {
        let read = |source| VerifyError::Read {
            digest: blob.clone(),
            source,
        };
        let reason = match self.find_blob(blob).map_err(read)? {
            None => {
                self.tables().forget_form(blob)?;
                "is missing".to_owned()
            }
            Some(file) => {
                let (actual, bytes) = digest_of(file, blob).map_err(read)?;
                found.bytes += bytes;
                if actual == *blob {
                    return Ok(());
                }
                self.quarantine(blob)?;
                format!("has digest {actual}; it was moved to the quarantine")
            }
        };
        found.damage.push(Damage {
            digest: blob.clone(),
            reason,
            mended: false,
        });
        Ok(())
    }

    fn verify_layer(&self, diff_id: &Digest, found: &mut Verified) -> Result<(), VerifyError> {
        let read = |source| VerifyError::Read {
            digest: diff_id.clone(),
            source,
        };
        let reason = match self.layers().verify(diff_id).map_err(read)? {
            Ok(bytes) => {
                found.bytes += bytes;
                return Ok(());
            }
            Err(reason) => reason,
        };
        drop(self.layers().remove(diff_id.hex()).map_err(read)?);
        let (mended, reason) = match self.rebuild_layer(diff_id) {
            Ok(()) => (true, format!("{reason}; it was made again from its blob")),
            Err(error) => {
                // Without the row the next pull or load brings it again.
                self.tables().remove_layer(diff_id)?;
                let error = vocab::failure::chain(&error);
                (false, format!("{reason}, and {error}"))
            }
        };
        found.damage.push(Damage {
            digest: diff_id.clone(),
            reason,
            mended,
        });
        Ok(())
    }

    /// Moves a blob away from where it would be read, and forgets that a layer came as it, so that
    /// it can come again. That it cannot be moved is only told: the blob was bad before.
    fn quarantine(&self, blob: &Digest) -> Result<(), MetadataError> {
        let name = format!("{}-{}", blob.algorithm().name(), blob.hex());
        let place = self.root().join("quarantine").join(name);
        match fs::rename(self.blobs().path(blob), &place) {
            Ok(()) => tracing::warn!(%blob, place = %place.display(), "is damaged; put aside"),
            Err(error) => tracing::warn!(%blob, %error, "is damaged, and cannot be put aside"),
        }
        self.tables().forget_form(blob)
    }

    fn empty_quarantine(&self) {
        let oldest = SystemTime::now().checked_sub(QUARANTINE_KEEP);
        let entries = fs::read_dir(self.root().join("quarantine"));
        for entry in entries.into_iter().flatten().flatten() {
            let changed = entry.metadata().and_then(|found| found.modified());
            if changed.is_ok_and(|changed| Some(changed) < oldest)
                && let Err(error) = files::remove(&entry.path())
            {
                tracing::warn!(path = %entry.path().display(), %error, "not removed yet");
            }
        }
    }
}

/// The digest of a file by the algorithm of `like`, and how long it is.
pub(crate) fn digest_of(mut file: impl Read, like: &Digest) -> io::Result<(Digest, u64)> {
    let mut hasher = Hasher::new(like.algorithm());
    let mut buffer = vec![0; COPY_BYTES];
    let mut bytes = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((hasher.finish(), bytes)),
            count => {
                hasher.update(&buffer[..count]);
                bytes += count as u64;
            }
        }
    }
}
