//! Copies of what the tables say of each image, by which damage to the tables is noticed and mended.
//!
//! ```text
//! records/<hex of the image>    JSON in one line, and in a second one its SHA-256
//! snapshots/<id>/base           the same for what a writable layer stands on
//! ```
//!
//! SQLite has no sums of its pages, so the sum of each image's record is a row too: where tables
//! and sums disagree, something else than berth wrote them. A record is written right after the
//! transaction that it copies, and numbered by it. So after a kill between the two it is older than
//! the tables and written again; only where the tables lost transactions is it newer, and believed.
//! Records are not synced, and none is needed while the tables are whole.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use vocab::Digest;

use crate::files;
use crate::hash::Hasher;

/// An image as the tables have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Of the transaction that this copies.
    pub(crate) generation: i64,
    /// Bytes of the files in each layer.
    pub(crate) sizes: Vec<i64>,
    pub(crate) image: ImageRecord,
}

/// What the sum is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    pub(crate) id: Digest,
    pub(crate) tagged: Option<i64>,
    pub(crate) names: Vec<String>,
    /// Lowest first.
    pub(crate) layers: Vec<LayerRecord>,
    pub(crate) documents: Vec<DocumentRecord>,
}

/// A layer, and a form that it came in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    pub(crate) diff_id: Digest,
    pub(crate) blob: Digest,
    pub(crate) size: i64,
    pub(crate) media_type: String,
}

/// A manifest or index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DocumentRecord {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    pub(crate) size: i64,
    pub(crate) kind: String,
}

/// What a writable layer stands on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Base {
    pub(crate) image: Digest,
    /// Lowest first.
    pub(crate) layers: Vec<Digest>,
    /// Bytes of the files in each layer, as far as known, and the forms that it came in.
    pub(crate) forms: Vec<(i64, LayerRecord)>,
}

impl ImageRecord {
    fn sum(&self) -> rusqlite::Result<String> {
        let json = serde_json::to_vec(self)
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
        Ok(Hasher::sha256(&json).hex().to_owned())
    }
}

/// The directory of records.
#[derive(Debug)]
pub(crate) struct Records(PathBuf);

impl Records {
    /// Beside the database.
    pub(crate) fn of(database: &Path) -> Self {
        Self(database.with_file_name("records"))
    }

    fn path(&self, image: &Digest) -> PathBuf {
        self.0.join(image.hex())
    }

    /// Copies what a transaction came to. That it fails is only told: the tables have it.
    pub(crate) fn write(&self, sealed: &[Sealed]) {
        for sealed in sealed {
            let (image, written) = match sealed {
                Sealed::There(record) => (
                    &record.image.id,
                    write(&self.path(&record.image.id), record),
                ),
                Sealed::Gone(image) => (image, files::remove(&self.path(image))),
            };
            if let Err(error) = written {
                tracing::warn!(%image, %error, "the copy of its record is not up to date");
            }
        }
    }

    /// Every record that is whole; what is not is deleted.
    pub(crate) fn read(&self) -> io::Result<BTreeMap<String, Record>> {
        fs::create_dir_all(&self.0)?;
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(&self.0)? {
            let path = entry?.path();
            match read::<Record>(&path) {
                Some(record) if self.path(&record.image.id) == path => {
                    found.insert(record.image.id.to_string(), record);
                }
                _ => files::remove(&path)?,
            }
        }
        Ok(found)
    }
}

/// Puts a value where it is read whole or not at all.
pub(crate) fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_string(value)?;
    let sum = Hasher::sha256(text.as_bytes());
    text.push('\n');
    text.push_str(sum.hex());
    text.push('\n');
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(new, path)
}

/// Reads what [`write`] put there, if it still is that.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let text = fs::read_to_string(path).ok()?;
    let (json, sum) = text.trim_end().split_once('\n')?;
    let whole = Hasher::sha256(json.as_bytes()).hex() == sum;
    whole.then(|| serde_json::from_str(json).ok()).flatten()
}

/// What became of an image in a transaction.
#[derive(Debug)]
pub(crate) enum Sealed {
    There(Box<Record>),
    Gone(Digest),
}

/// Ends a transaction that changed these images: their sums, and what is to be copied.
pub(crate) fn seal(
    transaction: &Transaction<'_>,
    images: &[Digest],
) -> rusqlite::Result<Vec<Sealed>> {
    let generation: i64 = transaction.query_row(
        "UPDATE generation SET number = number + 1 RETURNING number",
        [],
        |row| row.get(0),
    )?;
    let mut sealed = Vec::with_capacity(images.len());
    for id in images {
        let Some(image) = image(transaction, id)? else {
            sealed.push(Sealed::Gone(id.clone()));
            continue;
        };
        transaction
            .prepare_cached("INSERT OR REPLACE INTO sums VALUES (?1, ?2)")?
            .execute(params![id.to_string(), image.sum()?])?;
        sealed.push(Sealed::There(Box::new(Record {
            generation,
            sizes: sizes(transaction, &image)?,
            image,
        })));
    }
    Ok(sealed)
}

/// The images that have these names.
pub(crate) fn holders(connection: &Connection, names: &[String]) -> rusqlite::Result<Vec<Digest>> {
    let mut find = connection.prepare_cached("SELECT image FROM names WHERE name = ?1")?;
    let mut found: Vec<Digest> = Vec::new();
    for name in names {
        let holder = find.query_row([name], |row| digest(row, 0)).optional()?;
        found.extend(holder.filter(|holder| !found.contains(holder)));
    }
    Ok(found)
}

/// What is wrong with the tables, if anything: for people.
pub(crate) fn damage(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let said: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if said != "ok" {
        return Ok(Some(said));
    }
    let foreign: i64 =
        connection.query_row("SELECT count(*) FROM pragma_foreign_key_check", [], |row| {
            row.get(0)
        })?;
    if foreign > 0 {
        return Ok(Some("a row refers to one that is not there".to_owned()));
    }
    for id in ids(connection)? {
        let found = image(connection, &id)?;
        if found.map(|image| image.sum()).transpose()? != sum(connection, &id)? {
            return Ok(Some(format!(
                "the rows of image {id} are not what was written"
            )));
        }
    }
    // Each of these has digests that may not be any.
    for sql in [
        "SELECT diff_id FROM layers",
        "SELECT blob FROM layer_blobs",
        "SELECT diff_id FROM snapshot_layers",
        "SELECT image FROM snapshots",
    ] {
        let mut statement = connection.prepare(sql)?;
        statement
            .query_map([], |row| digest(row, 0))?
            .collect::<rusqlite::Result<Vec<_>>>()?;
    }
    Ok(None)
}

/// Makes records and tables agree: what the tables lost is put back from records that are newer,
/// and all other records are written as the tables are. Answers the images that were put back.
pub(crate) fn reconcile(
    connection: &mut Connection,
    records: &Records,
) -> Result<Vec<Digest>, crate::MetadataError> {
    // Without the copies the tables are still the truth.
    let copies = records.read().unwrap_or_else(|error| {
        tracing::warn!(%error, "the records of images cannot be read");
        BTreeMap::new()
    });
    let transaction = connection.transaction()?;
    let generation: i64 =
        transaction.query_row("SELECT number FROM generation", [], |row| row.get(0))?;
    let mut restored = Vec::new();
    let mut newest: Vec<&Record> = copies
        .values()
        .filter(|record| record.generation > generation)
        .collect();
    newest.sort_by_key(|record| record.generation);
    for record in newest {
        restore(&transaction, record)?;
        transaction.execute("UPDATE generation SET number = ?1", [record.generation])?;
        restored.push(record.image.id.clone());
    }
    let mut sealed = Vec::new();
    for id in ids(&transaction)? {
        let known = copies.get(&id.to_string()).map(|record| &record.image);
        if known != image(&transaction, &id)?.as_ref()
            || sum(&transaction, &id)?.is_none()
            || restored.contains(&id)
        {
            sealed.extend(seal(&transaction, std::slice::from_ref(&id))?);
        }
    }
    let there: Vec<String> = ids(&transaction)?.iter().map(Digest::to_string).collect();
    let gone = copies.values().filter(|record| {
        let id = record.image.id.to_string();
        !there.contains(&id)
    });
    sealed.extend(gone.map(|record| Sealed::Gone(record.image.id.clone())));
    transaction.commit()?;
    records.write(&sealed);
    Ok(restored)
}

/// Puts an image back as its record has it.
pub(crate) fn restore(transaction: &Transaction<'_>, record: &Record) -> rusqlite::Result<()> {
    let image = &record.image;
    let id = image.id.to_string();
    transaction.execute("DELETE FROM images WHERE id = ?1", [&id])?;
    transaction.execute(
        "INSERT INTO images VALUES (?1, ?2)",
        params![id, image.tagged],
    )?;
    for ((position, layer), size) in (0_i64..).zip(&image.layers).zip(&record.sizes) {
        restore_layer(transaction, *size, layer)?;
        transaction.execute(
            "INSERT INTO image_layers VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                id,
                position,
                layer.diff_id.to_string(),
                layer.blob.to_string(),
                layer.size,
                layer.media_type
            ],
        )?;
    }
    for document in &image.documents {
        transaction.execute(
            "INSERT INTO documents VALUES (?1, ?2, ?3, ?4, ?5)",
            params![
                id,
                document.digest.to_string(),
                document.media_type,
                document.size,
                document.kind
            ],
        )?;
    }
    for name in &image.names {
        transaction.execute(
            "INSERT OR REPLACE INTO names VALUES (?1, ?2)",
            params![name, id],
        )?;
    }
    transaction.execute(
        "INSERT OR REPLACE INTO uses VALUES (?1, ?2)",
        params![id, crate::metadata::now()],
    )?;
    Ok(())
}

/// Puts a layer back, in one of its forms. Whether it is there the check at open finds out.
pub(crate) fn restore_layer(
    transaction: &Transaction<'_>,
    size: i64,
    layer: &LayerRecord,
) -> rusqlite::Result<()> {
    let diff_id = layer.diff_id.to_string();
    transaction.execute(
        "INSERT OR IGNORE INTO layers VALUES (?1, ?2, ?3)",
        params![diff_id, size, crate::metadata::now()],
    )?;
    transaction.execute(
        "INSERT OR IGNORE INTO layer_blobs VALUES (?1, ?2, ?3, ?4)",
        params![
            diff_id,
            layer.blob.to_string(),
            layer.size,
            layer.media_type
        ],
    )?;
    Ok(())
}

fn ids(connection: &Connection) -> rusqlite::Result<Vec<Digest>> {
    let mut statement = connection.prepare_cached("SELECT id FROM images")?;
    statement.query_map([], |row| digest(row, 0))?.collect()
}

fn image(connection: &Connection, id: &Digest) -> rusqlite::Result<Option<ImageRecord>> {
    let text = id.to_string();
    let tagged: Option<Option<i64>> = connection
        .prepare_cached("SELECT tagged FROM images WHERE id = ?1")?
        .query_row([&text], |row| row.get(0))
        .optional()?;
    let Some(tagged) = tagged else {
        return Ok(None);
    };
    let names = connection
        .prepare_cached("SELECT name FROM names WHERE image = ?1 ORDER BY name")?
        .query_map([&text], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let layers = connection
        .prepare_cached(
            "SELECT diff_id, blob, size, media_type FROM image_layers
             WHERE image = ?1 ORDER BY position",
        )?
        .query_map([&text], |row| {
            Ok(LayerRecord {
                diff_id: digest(row, 0)?,
                blob: digest(row, 1)?,
                size: row.get(2)?,
                media_type: row.get(3)?,
            })
        })?
        .collect::<rusqlite::Result<_>>()?;
    let documents = connection
        .prepare_cached(
            "SELECT digest, media_type, size, kind FROM documents
             WHERE image = ?1 ORDER BY digest",
        )?
        .query_map([&text], |row| {
            Ok(DocumentRecord {
                digest: digest(row, 0)?,
                media_type: row.get(1)?,
                size: row.get(2)?,
                kind: row.get(3)?,
            })
        })?
        .collect::<rusqlite::Result<_>>()?;
    Ok(Some(ImageRecord {
        id: id.clone(),
        tagged,
        names,
        layers,
        documents,
    }))
}

fn sum(connection: &Connection, id: &Digest) -> rusqlite::Result<Option<String>> {
    connection
        .prepare_cached("SELECT sum FROM sums WHERE image = ?1")?
        .query_row([id.to_string()], |row| row.get(0))
        .optional()
}

fn sizes(connection: &Connection, image: &ImageRecord) -> rusqlite::Result<Vec<i64>> {
    let mut find = connection.prepare_cached("SELECT size FROM layers WHERE diff_id = ?1")?;
    let mut sizes = Vec::with_capacity(image.layers.len());
    for layer in &image.layers {
        let size = find.query_row([layer.diff_id.to_string()], |row| row.get(0));
        sizes.push(size.optional()?.unwrap_or(0));
    }
    Ok(sizes)
}

fn digest(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Digest> {
    crate::metadata::digest(row, column)
}
