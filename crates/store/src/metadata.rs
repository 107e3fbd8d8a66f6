//! The tables: which bytes make an image, what it is called, which layers a snapshot stands on.
//!
//! ```text
//! images(id, tagged)                         id: digest of the configuration
//! image_layers(image, position, diff_id, blob, size, media_type)   lowest layer at position 0
//! documents(image, digest, media_type, size, kind)   kind: 'manifest', 'index', 'attached'
//! names(name, image)                         name: repository:tag or repository@digest, in full
//! layers(diff_id, size, made)                a layer that is there; size: bytes of its files
//! layer_blobs(diff_id, blob, size, media_type)       the forms in which it came
//! unsynced(diff_id, blob, epoch)             came in this form, and the disk was not waited for (`durable`)
//! uses(image, moment)                        when a container of it was last made or removed, or it came
//! snapshots(owner, image, made)
//! snapshot_layers(owner, position, diff_id)  outlives the image's row
//! sums(image, sum)                           of its record, see `records`
//! generation(number)                         how often an image changed
//! ```
//!
//! Times are nanoseconds since 1970. Nothing here touches files; the callers move files first and
//! record them second, so that a record never promises what is not there. A transaction is durable
//! when it is committed, but for [`put_layer`](Tables::put_layer), which the next other one makes so.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use vocab::{ContainerId, Digest, Reference};

use crate::layers::LayerBlob;
use crate::records::{self, Base, LayerRecord, Record, Records};

/// The tables could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("image metadata")]
pub struct MetadataError(#[from] rusqlite::Error);

/// The format that this code writes (`PRAGMA user_version`).
pub(crate) const FORMAT: i64 = 4;

/// Kept beside the format (`PRAGMA application_id`), so that no turned bit passes for a later one.
const APPLICATION: i64 = 0x6265_0000;

const SCHEMA: &str = "
    CREATE TABLE images(id TEXT PRIMARY KEY, tagged INTEGER) STRICT, WITHOUT ROWID;
    CREATE TABLE image_layers(
        image TEXT NOT NULL REFERENCES images(id) ON DELETE CASCADE,
        position INTEGER NOT NULL,
        diff_id TEXT NOT NULL,
        blob TEXT NOT NULL,
        size INTEGER NOT NULL,
        media_type TEXT NOT NULL,
        PRIMARY KEY(image, position)) STRICT, WITHOUT ROWID;
    CREATE INDEX image_layers_by_diff ON image_layers(diff_id);
    CREATE TABLE documents(
        image TEXT NOT NULL REFERENCES images(id) ON DELETE CASCADE,
        digest TEXT NOT NULL,
        media_type TEXT NOT NULL,
        size INTEGER NOT NULL,
        kind TEXT NOT NULL,
        PRIMARY KEY(image, digest)) STRICT, WITHOUT ROWID;
    CREATE INDEX documents_by_digest ON documents(digest);
    CREATE TABLE names(
        name TEXT PRIMARY KEY,
        image TEXT NOT NULL REFERENCES images(id) ON DELETE CASCADE) STRICT, WITHOUT ROWID;
    CREATE INDEX names_by_image ON names(image);
    CREATE TABLE layers(diff_id TEXT PRIMARY KEY, size INTEGER NOT NULL, made INTEGER NOT NULL)
        STRICT, WITHOUT ROWID;
    CREATE TABLE layer_blobs(
        diff_id TEXT NOT NULL REFERENCES layers(diff_id) ON DELETE CASCADE,
        blob TEXT NOT NULL,
        size INTEGER NOT NULL,
        media_type TEXT NOT NULL,
        PRIMARY KEY(diff_id, blob)) STRICT, WITHOUT ROWID;
    CREATE INDEX layer_blobs_by_blob ON layer_blobs(blob);
    CREATE TABLE snapshots(owner TEXT PRIMARY KEY, image TEXT NOT NULL, made INTEGER NOT NULL)
        STRICT, WITHOUT ROWID;
    CREATE TABLE snapshot_layers(
        owner TEXT NOT NULL REFERENCES snapshots(owner) ON DELETE CASCADE,
        position INTEGER NOT NULL,
        diff_id TEXT NOT NULL,
        PRIMARY KEY(owner, position)) STRICT, WITHOUT ROWID;
    CREATE INDEX snapshot_layers_by_diff ON snapshot_layers(diff_id);
";

/// What format 2 has more than format 1. Images count as used when the tables are converted.
const USES: &str = "
    CREATE TABLE uses(
        image TEXT PRIMARY KEY REFERENCES images(id) ON DELETE CASCADE,
        moment INTEGER NOT NULL) STRICT, WITHOUT ROWID;
";

/// What format 3 has more than format 2.
const SUMS: &str = "
    CREATE TABLE sums(
        image TEXT PRIMARY KEY REFERENCES images(id) ON DELETE CASCADE,
        sum TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE generation(number INTEGER NOT NULL) STRICT;
    INSERT INTO generation VALUES (0);
";

/// What format 4 has more than format 3, in which layers were durable as soon as they were recorded.
const UNSYNCED: &str = "
    CREATE TABLE unsynced(
        diff_id TEXT NOT NULL,
        blob TEXT NOT NULL,
        epoch TEXT NOT NULL,
        PRIMARY KEY(diff_id, blob),
        FOREIGN KEY(diff_id, blob) REFERENCES layer_blobs(diff_id, blob) ON DELETE CASCADE)
        STRICT, WITHOUT ROWID;
";

/// The open database, and the copies of what it says.
#[derive(Debug)]
pub(crate) struct Tables(Connection, Records);

/// What the tables know of an image.
#[derive(Clone, Debug)]
pub(crate) struct ImageRow {
    pub(crate) id: Digest,
    pub(crate) tagged: Option<SystemTime>,
    pub(crate) size_bytes: u64,
    pub(crate) layers: Vec<LayerBlob>,
    pub(crate) names: Vec<Reference>,
    pub(crate) manifest: Option<DocumentRow>,
}

/// A manifest or index.
#[derive(Clone, Debug)]
pub(crate) struct DocumentRow {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    pub(crate) size_bytes: u64,
}

/// An image being put in.
pub(crate) struct NewRow<'a> {
    pub(crate) id: &'a Digest,
    pub(crate) layers: &'a [(Digest, LayerBlob)],
    pub(crate) manifest: Option<DocumentRow>,
    pub(crate) index: Option<DocumentRow>,
    /// What goes with the image without being of it.
    pub(crate) attached: Vec<DocumentRow>,
    pub(crate) names: &'a [Reference],
    /// What the disk has by now.
    pub(crate) synced: &'a [Unsynced],
}

/// A layer in one of its forms, for which the disk was not waited.
#[derive(Clone, Debug)]
pub(crate) struct Unsynced {
    pub(crate) diff_id: Digest,
    pub(crate) blob: Digest,
    /// When it came.
    pub(crate) epoch: String,
}

/// Why the tables did not open.
pub(crate) enum TablesError {
    Version(i64),
    /// They are not what was written.
    Damaged(String),
    Other(MetadataError),
}

impl From<rusqlite::Error> for TablesError {
    /// What is not the disk's, the system's or another process's fault is the file's.
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode::{
            CannotOpen, DatabaseBusy, DatabaseLocked, DiskFull, FileLockingProtocolFailed,
            OutOfMemory, PermissionDenied, SystemIoFailure,
        };
        match error.sqlite_error_code() {
            Some(
                CannotOpen
                | DatabaseBusy
                | DatabaseLocked
                | DiskFull
                | FileLockingProtocolFailed
                | OutOfMemory
                | PermissionDenied
                | SystemIoFailure,
            ) => Self::Other(error.into()),
            _ => Self::Damaged(error.to_string()),
        }
    }
}

impl From<MetadataError> for TablesError {
    fn from(error: MetadataError) -> Self {
        Self::from(error.0)
    }
}

type Result<T> = std::result::Result<T, MetadataError>;

impl Tables {
    /// Opens the tables, and makes their copies agree with them. Answers also the images that the
    /// tables had lost and the copies had not.
    /// New ones, `is_new`, learn all images from the copies.
    pub(crate) fn open(
        path: &Path,
        is_new: bool,
    ) -> std::result::Result<(Self, Vec<Digest>), TablesError> {
        let records = Records::of(path);
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // An image or a tag that was acknowledged survives a power cut.
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        let application: i64 =
            connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
        if application != 0 && application != APPLICATION + found || found < 0 {
            return Err(TablesError::Damaged(format!(
                "its format cannot be {found}"
            )));
        }
        if found > FORMAT {
            return Err(TablesError::Version(found));
        }
        if found < FORMAT {
            if found == 0 && !is_new && records.read().is_ok_and(|copies| !copies.is_empty()) {
                return Err(TablesError::Damaged("there is nothing in it".to_owned()));
            }
            let transaction = connection.transaction()?;
            if found == 0 {
                transaction.execute_batch(SCHEMA)?;
            }
            if found < 2 {
                transaction.execute_batch(USES)?;
                transaction.execute("INSERT INTO uses SELECT id, ?1 FROM images", [now()])?;
            }
            if found < 3 {
                transaction.execute_batch(SUMS)?;
            }
            transaction.execute_batch(UNSYNCED)?;
            transaction.pragma_update(None, "user_version", FORMAT)?;
            transaction.pragma_update(None, "application_id", APPLICATION + FORMAT)?;
            transaction.commit()?;
        } else if let Some(reason) = records::damage(&connection)? {
            return Err(TablesError::Damaged(reason));
        }
        let lost = records::reconcile(&mut connection, &records)?;
        Ok((Self(connection, records), lost))
    }

    /// Puts back an image of which only blobs tell.
    pub(crate) fn restore_image(&mut self, record: &Record) -> Result<()> {
        let transaction = self.0.transaction()?;
        records::restore(&transaction, record)?;
        let sealed = records::seal(&transaction, std::slice::from_ref(&record.image.id))?;
        transaction.commit()?;
        self.1.write(&sealed);
        Ok(())
    }

    /// Puts back what a writable layer stands on.
    pub(crate) fn restore_snapshot(&mut self, owner: &str, base: &Base) -> Result<()> {
        let transaction = self.0.transaction()?;
        transaction.execute("DELETE FROM snapshots WHERE owner = ?1", [owner])?;
        transaction.execute(
            "INSERT INTO snapshots VALUES (?1, ?2, ?3)",
            params![owner, base.image.to_string(), now()],
        )?;
        for (position, layer) in (0_i64..).zip(&base.layers) {
            transaction.execute(
                "INSERT INTO snapshot_layers VALUES (?1, ?2, ?3)",
                params![owner, position, layer.to_string()],
            )?;
        }
        for (size, layer) in &base.forms {
            records::restore_layer(&transaction, *size, layer)?;
        }
        Ok(transaction.commit()?)
    }

    /// What a writable layer stands on, to be kept beside it.
    pub(crate) fn base_of(&self, owner: &ContainerId, image: &Digest) -> Result<Base> {
        let layers = self.snapshot_layers(owner)?.unwrap_or_default();
        let mut forms = Vec::with_capacity(layers.len());
        for diff_id in &layers {
            let Some((size, found)) = self.find_layer(diff_id)? else {
                continue;
            };
            forms.extend(found.into_iter().map(|form| {
                let layer = LayerRecord {
                    diff_id: diff_id.clone(),
                    blob: form.digest,
                    size: form.size_bytes.cast_signed(),
                    media_type: form.media_type,
                };
                (size.cast_signed(), layer)
            }));
        }
        Ok(Base {
            image: image.clone(),
            layers,
            forms,
        })
    }

    /// Begins several changes that become durable together; dropping them undoes them.
    pub(crate) fn begin(&self) -> Result<Change<'_>> {
        Ok(Change {
            transaction: self.0.unchecked_transaction()?,
            records: &self.1,
            images: Vec::new(),
        })
    }

    // Layers.

    /// Size and distributed forms of a layer; the form named `blob` first.
    pub(crate) fn find_layer(&self, diff_id: &Digest) -> Result<Option<(u64, Vec<LayerBlob>)>> {
        let size: Option<i64> = self
            .0
            .prepare_cached("SELECT size FROM layers WHERE diff_id = ?1")?
            .query_row([diff_id.to_string()], |row| row.get(0))
            .optional()?;
        let Some(size) = size else { return Ok(None) };
        let mut forms = self.0.prepare_cached(
            "SELECT blob, size, media_type FROM layer_blobs WHERE diff_id = ?1 ORDER BY size, blob",
        )?;
        let forms = forms
            .query_map([diff_id.to_string()], |row| {
                Ok(LayerBlob {
                    digest: digest(row, 0)?,
                    size_bytes: bytes(row, 1)?,
                    media_type: row.get(2)?,
                })
            })?
            .collect::<rusqlite::Result<_>>()?;
        Ok(Some((size.cast_unsigned(), forms)))
    }

    /// The layer that a blob unpacks to.
    pub(crate) fn find_layer_of_blob(&self, blob: &Digest) -> Result<Option<Digest>> {
        Ok(self
            .0
            .prepare_cached("SELECT diff_id FROM layer_blobs WHERE blob = ?1")?
            .query_row([blob.to_string()], |row| digest(row, 0))
            .optional()?)
    }

    /// A layer is there; in `epoch`, if the disk was not waited for. Whether a power cut takes the
    /// record is found out when it has happened.
    pub(crate) fn put_layer(
        &mut self,
        diff_id: &Digest,
        size_bytes: u64,
        blob: &LayerBlob,
        epoch: Option<&str>,
    ) -> Result<()> {
        self.0.pragma_update(None, "synchronous", "NORMAL")?;
        let put = self.put_layer_unsynced(diff_id, size_bytes, blob, epoch);
        self.0.pragma_update(None, "synchronous", "FULL")?;
        put
    }

    fn put_layer_unsynced(
        &mut self,
        diff_id: &Digest,
        size_bytes: u64,
        blob: &LayerBlob,
        epoch: Option<&str>,
    ) -> Result<()> {
        let transaction = self.0.transaction()?;
        transaction
            .prepare_cached("INSERT OR IGNORE INTO layers VALUES (?1, ?2, ?3)")?
            .execute(params![
                diff_id.to_string(),
                size_bytes.cast_signed(),
                now()
            ])?;
        transaction
            .prepare_cached("INSERT OR IGNORE INTO layer_blobs VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![
                diff_id.to_string(),
                blob.digest.to_string(),
                blob.size_bytes.cast_signed(),
                blob.media_type
            ])?;
        if let Some(epoch) = epoch {
            transaction
                .prepare_cached("INSERT OR REPLACE INTO unsynced VALUES (?1, ?2, ?3)")?
                .execute(params![diff_id.to_string(), blob.digest.to_string(), epoch])?;
        }
        Ok(transaction.commit()?)
    }

    /// The layers that no image made durable yet.
    pub(crate) fn unsynced(&self) -> Result<Vec<Unsynced>> {
        let mut statement = self
            .0
            .prepare_cached("SELECT diff_id, blob, epoch FROM unsynced")?;
        let rows = statement.query_map([], |row| {
            Ok(Unsynced {
                diff_id: digest(row, 0)?,
                blob: digest(row, 1)?,
                epoch: row.get(2)?,
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// The disk has these by now, or never will.
    pub(crate) fn forget_unsynced(&mut self, rows: &[Unsynced]) -> Result<()> {
        let transaction = self.0.transaction()?;
        forget_unsynced(&transaction, rows)?;
        Ok(transaction.commit()?)
    }

    /// Every layer, and when it came.
    pub(crate) fn layers(&self) -> Result<Vec<(Digest, SystemTime)>> {
        let mut statement = self.0.prepare_cached("SELECT diff_id, made FROM layers")?;
        let layers = statement.query_map([], |row| Ok((digest(row, 0)?, moment(row.get(1)?))))?;
        Ok(layers.collect::<rusqlite::Result<_>>()?)
    }

    /// The layers that neither an image nor a snapshot stands on, and when each came.
    pub(crate) fn unneeded_layers(&self) -> Result<Vec<(Digest, SystemTime)>> {
        let mut statement = self.0.prepare_cached(
            "SELECT diff_id, made FROM layers AS own
             WHERE NOT EXISTS(SELECT 1 FROM image_layers WHERE diff_id = own.diff_id)
               AND NOT EXISTS(SELECT 1 FROM snapshot_layers WHERE diff_id = own.diff_id)",
        )?;
        let layers = statement.query_map([], |row| Ok((digest(row, 0)?, moment(row.get(1)?))))?;
        Ok(layers.collect::<rusqlite::Result<_>>()?)
    }

    /// Each layer with a form in which it came.
    pub(crate) fn forms(&self) -> Result<Vec<(Digest, Digest)>> {
        let mut statement = self
            .0
            .prepare_cached("SELECT diff_id, blob FROM layer_blobs")?;
        let forms = statement.query_map([], |row| Ok((digest(row, 0)?, digest(row, 1)?)))?;
        Ok(forms.collect::<rusqlite::Result<_>>()?)
    }

    /// Bytes of the files in all layers.
    pub(crate) fn layers_bytes(&self) -> Result<u64> {
        let sum = "SELECT coalesce(sum(size), 0) FROM layers";
        Ok(self.0.query_row(sum, [], |row| bytes(row, 0))?)
    }

    /// Whether an image or a snapshot stands on a layer.
    pub(crate) fn is_layer_needed(&self, diff_id: &Digest) -> Result<bool> {
        Ok(self
            .0
            .prepare_cached(
                "SELECT EXISTS(SELECT 1 FROM image_layers WHERE diff_id = ?1)
                     OR EXISTS(SELECT 1 FROM snapshot_layers WHERE diff_id = ?1)",
            )?
            .query_row([diff_id.to_string()], |row| row.get(0))?)
    }

    pub(crate) fn remove_layer(&self, diff_id: &Digest) -> Result<()> {
        self.0
            .prepare_cached("DELETE FROM layers WHERE diff_id = ?1")?
            .execute([diff_id.to_string()])?;
        Ok(())
    }

    /// No layer is there in the form of this blob any more.
    pub(crate) fn forget_form(&self, blob: &Digest) -> Result<()> {
        self.0
            .prepare_cached("DELETE FROM layer_blobs WHERE blob = ?1")?
            .execute([blob.to_string()])?;
        Ok(())
    }

    /// Whether a row needs a blob.
    pub(crate) fn is_blob_needed(&self, blob: &Digest) -> Result<bool> {
        Ok(self
            .0
            .prepare_cached(
                "SELECT EXISTS(SELECT 1 FROM layer_blobs WHERE blob = ?1)
                     OR EXISTS(SELECT 1 FROM documents WHERE digest = ?1)
                     OR EXISTS(SELECT 1 FROM images WHERE id = ?1)",
            )?
            .query_row([blob.to_string()], |row| row.get(0))?)
    }

    /// Every blob that a row needs.
    pub(crate) fn needed_blobs(&self) -> Result<HashSet<Digest>> {
        let mut statement = self.0.prepare_cached(
            "SELECT blob FROM layer_blobs UNION SELECT digest FROM documents
             UNION SELECT id FROM images",
        )?;
        let blobs = statement.query_map([], |row| digest(row, 0))?;
        Ok(blobs.collect::<rusqlite::Result<_>>()?)
    }

    /// The blobs whose length is recorded.
    pub(crate) fn blob_sizes(&self) -> Result<Vec<(Digest, u64)>> {
        let mut statement = self.0.prepare_cached(
            "SELECT blob, size FROM layer_blobs UNION SELECT digest, size FROM documents",
        )?;
        let blobs = statement.query_map([], |row| Ok((digest(row, 0)?, bytes(row, 1)?)))?;
        Ok(blobs.collect::<rusqlite::Result<_>>()?)
    }

    /// The blobs that make an image: its configuration, documents, and layers as distributed.
    pub(crate) fn blobs_of(&self, image: &Digest) -> Result<Vec<Digest>> {
        let mut statement = self.0.prepare_cached(
            "SELECT id FROM images WHERE id = ?1 UNION
             SELECT digest FROM documents WHERE image = ?1 UNION
             SELECT blob FROM image_layers WHERE image = ?1",
        )?;
        let blobs = statement.query_map([image.to_string()], |row| digest(row, 0))?;
        Ok(blobs.collect::<rusqlite::Result<_>>()?)
    }

    /// The manifest and the indexes of an image.
    pub(crate) fn documents_of(&self, image: &Digest) -> Result<Vec<Digest>> {
        let mut statement = self.0.prepare_cached(
            "SELECT digest FROM documents
                 WHERE image = ?1 AND kind IN ('manifest', 'index')",
        )?;
        let documents = statement.query_map([image.to_string()], |row| digest(row, 0))?;
        Ok(documents.collect::<rusqlite::Result<_>>()?)
    }

    /// The layers of an image, lowest first.
    pub(crate) fn layers_of(&self, image: &Digest) -> Result<Vec<Digest>> {
        let mut statement = self.0.prepare_cached(
            "SELECT diff_id FROM image_layers WHERE image = ?1 ORDER BY position",
        )?;
        let layers = statement.query_map([image.to_string()], |row| digest(row, 0))?;
        Ok(layers.collect::<rusqlite::Result<_>>()?)
    }

    /// Bytes of the layers of each image that another image has too.
    pub(crate) fn shared_bytes(&self) -> Result<HashMap<Digest, u64>> {
        let mut statement = self.0.prepare_cached(
            "SELECT own.image, sum(layers.size) FROM image_layers AS own JOIN layers USING (diff_id)
             WHERE EXISTS(SELECT 1 FROM image_layers AS other
                          WHERE other.diff_id = own.diff_id AND other.image <> own.image)
             GROUP BY own.image",
        )?;
        let rows = statement.query_map([], |row| Ok((digest(row, 0)?, bytes(row, 1)?)))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    // Images.

    pub(crate) fn has_image(&self, id: &Digest) -> Result<bool> {
        Ok(self
            .0
            .prepare_cached("SELECT EXISTS(SELECT 1 FROM images WHERE id = ?1)")?
            .query_row([id.to_string()], |row| row.get(0))?)
    }

    pub(crate) fn put_image(&mut self, new: &NewRow<'_>) -> Result<()> {
        let image = new.id.to_string();
        let transaction = self.0.transaction()?;
        let names: Vec<String> = new.names.iter().map(key).collect();
        let mut changed = records::holders(&transaction, &names)?;
        changed.retain(|holder| holder != new.id);
        changed.push(new.id.clone());
        let tagged = (!new.names.is_empty()).then(now);
        transaction.execute(
            "INSERT INTO images VALUES (?1, ?2)
             ON CONFLICT(id) DO UPDATE SET tagged = coalesce(excluded.tagged, tagged)",
            params![image, tagged],
        )?;
        let known: i64 = transaction.query_row(
            "SELECT count(*) FROM image_layers WHERE image = ?1",
            [&image],
            |row| row.get(0),
        )?;
        // The forms of the layers belong to the manifest: a new one brings its own.
        if known == 0 || new.manifest.is_some() {
            transaction.execute("DELETE FROM image_layers WHERE image = ?1", [&image])?;
            for (position, (diff_id, blob)) in (0_i64..).zip(new.layers) {
                transaction.execute(
                    "INSERT INTO image_layers VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                    params![
                        image,
                        position,
                        diff_id.to_string(),
                        blob.digest.to_string(),
                        blob.size_bytes.cast_signed(),
                        blob.media_type
                    ],
                )?;
            }
        }
        let documents = new.manifest.iter().map(|document| ("manifest", document));
        let documents = documents.chain(new.index.iter().map(|document| ("index", document)));
        let attached = new.attached.iter().map(|document| ("attached", document));
        for (kind, document) in documents.chain(attached) {
            // The last manifest is the one that fits the forms above.
            transaction.execute(
                "DELETE FROM documents WHERE image = ?1 AND kind = ?2 AND ?2 = 'manifest'",
                params![image, kind],
            )?;
            transaction.execute(
                "INSERT OR REPLACE INTO documents VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    image,
                    document.digest.to_string(),
                    document.media_type,
                    document.size_bytes.cast_signed(),
                    kind
                ],
            )?;
        }
        for name in names {
            transaction.execute(
                "INSERT OR REPLACE INTO names VALUES (?1, ?2)",
                params![name, image],
            )?;
        }
        forget_unsynced(&transaction, new.synced)?;
        used(&transaction, &image)?;
        let sealed = records::seal(&transaction, &changed)?;
        transaction.commit()?;
        self.1.write(&sealed);
        Ok(())
    }

    /// The indexes through which an image was found.
    pub(crate) fn indexes_of(&self, image: &Digest) -> Result<Vec<DocumentRow>> {
        let mut statement = self.0.prepare_cached(
            "SELECT digest, media_type, size FROM documents
             WHERE image = ?1 AND kind = 'index' ORDER BY digest",
        )?;
        let rows = statement.query_map([image.to_string()], |row| {
            Ok(DocumentRow {
                digest: digest(row, 0)?,
                media_type: row.get(1)?,
                size_bytes: bytes(row, 2)?,
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Where each name of `from` goes from now on.
    pub(crate) fn move_names(&mut self, from: &Digest, to: &Digest) -> Result<()> {
        let transaction = self.0.transaction()?;
        transaction.execute(
            "UPDATE names SET image = ?2 WHERE image = ?1",
            params![from.to_string(), to.to_string()],
        )?;
        let sealed = records::seal(&transaction, &[from.clone(), to.clone()])?;
        transaction.commit()?;
        self.1.write(&sealed);
        Ok(())
    }

    /// The images that an index led to as well.
    pub(crate) fn siblings(&self, image: &Digest) -> Result<Vec<Digest>> {
        let mut statement = self.0.prepare_cached(
            "SELECT DISTINCT other.image FROM documents AS own
             JOIN documents AS other ON other.digest = own.digest AND other.kind = 'index'
             WHERE own.image = ?1 AND own.kind = 'index' AND other.image <> ?1
             ORDER BY other.image",
        )?;
        let images = statement.query_map([image.to_string()], |row| digest(row, 0))?;
        Ok(images.collect::<rusqlite::Result<_>>()?)
    }

    /// Every image with the moment when it was last used, the longest unused first.
    pub(crate) fn images_by_use(&self) -> Result<Vec<(Digest, SystemTime)>> {
        let mut statement = self.0.prepare_cached(
            "SELECT id, coalesce(moment, 0) FROM images LEFT JOIN uses ON uses.image = images.id
             ORDER BY 2, 1",
        )?;
        let images = statement.query_map([], |row| Ok((digest(row, 0)?, moment(row.get(1)?))))?;
        Ok(images.collect::<rusqlite::Result<_>>()?)
    }

    pub(crate) fn image_ids(&self) -> Result<Vec<Digest>> {
        let mut statement = self.0.prepare_cached("SELECT id FROM images")?;
        Ok(statement
            .query_map([], |row| digest(row, 0))?
            .collect::<rusqlite::Result<_>>()?)
    }

    /// The images whose id begins so, at most two of them.
    pub(crate) fn image_ids_with_prefix(&self, prefix: &str) -> Result<Vec<Digest>> {
        let mut statement = self.0.prepare_cached(
            "SELECT id FROM images WHERE substr(id, 1, length(?1)) = ?1 ORDER BY id LIMIT 2",
        )?;
        Ok(statement
            .query_map([prefix], |row| digest(row, 0))?
            .collect::<rusqlite::Result<_>>()?)
    }

    pub(crate) fn find_name(&self, name: &Reference) -> Result<Option<Digest>> {
        Ok(self
            .0
            .prepare_cached("SELECT image FROM names WHERE name = ?1")?
            .query_row([key(name)], |row| digest(row, 0))
            .optional()?)
    }

    pub(crate) fn names_of(&self, id: &Digest) -> Result<Vec<Reference>> {
        let mut statement = self
            .0
            .prepare_cached("SELECT name FROM names WHERE image = ?1 ORDER BY name")?;
        let names = statement
            .query_map([id.to_string()], |row| row.get::<_, String>(0))?
            .collect::<rusqlite::Result<Vec<_>>>()?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    pub(crate) fn find_image(&self, id: &Digest) -> Result<Option<ImageRow>> {
        let text = id.to_string();
        let tagged: Option<Option<i64>> = self
            .0
            .prepare_cached("SELECT tagged FROM images WHERE id = ?1")?
            .query_row([&text], |row| row.get(0))
            .optional()?;
        let Some(tagged) = tagged else {
            return Ok(None);
        };
        let mut statement = self.0.prepare_cached(
            "SELECT blob, size, media_type FROM image_layers WHERE image = ?1 ORDER BY position",
        )?;
        let layers = statement
            .query_map([&text], |row| {
                Ok(LayerBlob {
                    digest: digest(row, 0)?,
                    size_bytes: bytes(row, 1)?,
                    media_type: row.get(2)?,
                })
            })?
            .collect::<rusqlite::Result<_>>()?;
        let size: i64 = self
            .0
            .prepare_cached(
                "SELECT coalesce(sum(layers.size), 0) FROM image_layers
                 JOIN layers USING (diff_id) WHERE image = ?1",
            )?
            .query_row([&text], |row| row.get(0))?;
        let manifest = self
            .0
            .prepare_cached(
                "SELECT digest, media_type, size FROM documents
                 WHERE image = ?1 AND kind = 'manifest'",
            )?
            .query_row([&text], |row| {
                Ok(DocumentRow {
                    digest: digest(row, 0)?,
                    media_type: row.get(1)?,
                    size_bytes: bytes(row, 2)?,
                })
            })
            .optional()?;
        Ok(Some(ImageRow {
            id: id.clone(),
            tagged: tagged.map(moment),
            size_bytes: size.cast_unsigned(),
            layers,
            names: self.names_of(id)?,
            manifest,
        }))
    }

    pub(crate) fn tag(&mut self, id: &Digest, name: &Reference) -> Result<()> {
        let transaction = self.0.transaction()?;
        let mut changed = records::holders(&transaction, &[key(name)])?;
        changed.retain(|holder| holder != id);
        changed.push(id.clone());
        transaction.execute(
            "INSERT OR REPLACE INTO names VALUES (?1, ?2)",
            params![key(name), id.to_string()],
        )?;
        transaction.execute(
            "UPDATE images SET tagged = ?2 WHERE id = ?1",
            params![id.to_string(), now()],
        )?;
        used(&transaction, &id.to_string())?;
        let sealed = records::seal(&transaction, &changed)?;
        transaction.commit()?;
        self.1.write(&sealed);
        Ok(())
    }

    // Snapshots.

    pub(crate) fn has_snapshot(&self, owner: &ContainerId) -> Result<bool> {
        Ok(self
            .0
            .prepare_cached("SELECT EXISTS(SELECT 1 FROM snapshots WHERE owner = ?1)")?
            .query_row([owner.to_string()], |row| row.get(0))?)
    }

    pub(crate) fn create_snapshot(&mut self, owner: &ContainerId, image: &Digest) -> Result<()> {
        let transaction = self.0.transaction()?;
        transaction
            .prepare_cached("INSERT INTO snapshots VALUES (?1, ?2, ?3)")?
            .execute(params![owner.to_string(), image.to_string(), now()])?;
        transaction
            .prepare_cached(
                "INSERT INTO snapshot_layers
                 SELECT ?1, position, diff_id FROM image_layers WHERE image = ?2",
            )?
            .execute(params![owner.to_string(), image.to_string()])?;
        used(&transaction, &image.to_string())?;
        Ok(transaction.commit()?)
    }

    /// The layers beneath a snapshot, lowest first.
    pub(crate) fn snapshot_layers(&self, owner: &ContainerId) -> Result<Option<Vec<Digest>>> {
        if !self.has_snapshot(owner)? {
            return Ok(None);
        }
        let mut statement = self.0.prepare_cached(
            "SELECT diff_id FROM snapshot_layers WHERE owner = ?1 ORDER BY position",
        )?;
        let layers = statement
            .query_map([owner.to_string()], |row| digest(row, 0))?
            .collect::<rusqlite::Result<_>>()?;
        Ok(Some(layers))
    }

    /// Forgets a snapshot; answers the layers it stood on.
    pub(crate) fn remove_snapshot(&mut self, owner: &ContainerId) -> Result<Vec<Digest>> {
        let layers = self.snapshot_layers(owner)?.unwrap_or_default();
        let transaction = self.0.transaction()?;
        let image: Option<String> = transaction
            .prepare_cached("DELETE FROM snapshots WHERE owner = ?1 RETURNING image")?
            .query_row([owner.to_string()], |row| row.get(0))
            .optional()?;
        if let Some(image) = image {
            // Until now its container may have run.
            used(&transaction, &image)?;
        }
        transaction.commit()?;
        Ok(layers)
    }

    pub(crate) fn snapshots(&self) -> Result<Vec<String>> {
        let mut statement = self.0.prepare_cached("SELECT owner FROM snapshots")?;
        Ok(statement
            .query_map([], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?)
    }
}

/// Several changes that become durable together; dropping them undoes them.
pub(crate) struct Change<'a> {
    transaction: Transaction<'a>,
    records: &'a Records,
    /// Those whose records change.
    images: Vec<Digest>,
}

impl Change<'_> {
    pub(crate) fn untag(&mut self, names: &[Reference]) -> Result<()> {
        let names: Vec<String> = names.iter().map(key).collect();
        let holders = records::holders(&self.transaction, &names)?;
        for holder in holders {
            self.touch(&holder);
        }
        for name in &names {
            self.transaction
                .execute("DELETE FROM names WHERE name = ?1", [name])?;
        }
        Ok(())
    }

    /// Removes an image with its names; answers its layers, lowest first, and its documents.
    pub(crate) fn remove_image(&mut self, id: &Digest) -> Result<(Vec<Digest>, Vec<Digest>)> {
        let list = |sql: &str| -> Result<Vec<Digest>> {
            let mut statement = self.transaction.prepare_cached(sql)?;
            let found = statement.query_map([id.to_string()], |row| digest(row, 0))?;
            Ok(found.collect::<rusqlite::Result<_>>()?)
        };
        let layers = list("SELECT diff_id FROM image_layers WHERE image = ?1 ORDER BY position")?;
        let mut documents = list("SELECT digest FROM documents WHERE image = ?1")?;
        documents.push(id.clone());
        self.transaction
            .execute("DELETE FROM images WHERE id = ?1", [id.to_string()])?;
        self.touch(id);
        Ok((layers, documents))
    }

    fn touch(&mut self, image: &Digest) {
        if !self.images.contains(image) {
            self.images.push(image.clone());
        }
    }

    pub(crate) fn commit(self) -> Result<()> {
        let sealed = match &*self.images {
            [] => Vec::new(),
            images => records::seal(&self.transaction, images)?,
        };
        self.transaction.commit()?;
        self.records.write(&sealed);
        Ok(())
    }
}

fn forget_unsynced(connection: &Connection, rows: &[Unsynced]) -> Result<()> {
    let mut statement = connection
        .prepare_cached("DELETE FROM unsynced WHERE (diff_id, blob, epoch) = (?1, ?2, ?3)")?;
    for row in rows {
        statement.execute(params![
            row.diff_id.to_string(),
            row.blob.to_string(),
            row.epoch
        ])?;
    }
    Ok(())
}

/// An image was used just now, if it is there.
fn used(connection: &Connection, image: &str) -> Result<()> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO uses SELECT id, ?2 FROM images WHERE id = ?1")?
        .execute(params![image, now()])?;
    Ok(())
}

/// How a name is spelled in the tables: a digest says it all, so a tag beside it is left out.
fn key(name: &Reference) -> String {
    match name.digest() {
        Some(digest) => name.with_digest(digest.clone()).to_string(),
        None => name.to_string(),
    }
}

pub(crate) fn digest(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Digest> {
    // The text came from a `Digest`, so this fails only on a damaged file.
    row.get::<_, String>(column)?
        .parse()
        .map_err(|error: vocab::digest::ParseDigestError| {
            rusqlite::Error::FromSqlConversionFailure(
                column,
                rusqlite::types::Type::Text,
                Box::new(error),
            )
        })
}

fn bytes(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<u64> {
    Ok(row.get::<_, i64>(column)?.cast_unsigned())
}

pub(crate) fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

fn moment(nanoseconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(nanoseconds.cast_unsigned())
}
