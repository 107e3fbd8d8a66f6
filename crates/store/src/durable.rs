//! What a power cut may take, and what it may not.
//!
//! An image, a name or a removal that was acknowledged is on the disk. Layers on their way to an
//! image are not yet: they are written, moved into place and recorded without waiting for the disk,
//! and [`put_image`](Store::put_image) waits once for all of its layers. Until then a row of
//! `unsynced` says in which epoch a layer came.
//!
//! An epoch ends when the host goes down, which is when what the kernel had not written is lost: its
//! name is in `RUN/epoch`, with the kernel's boot id, and does not outlive either. A process that is
//! killed loses nothing, so its successor goes on with the layers of its epoch. Those of an earlier
//! one are judged at [open](Store::open): what has its digest stays, the rest is deleted and will be
//! fetched again. Directories of files have no digest; they are made again from their blob at once.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use vocab::Digest;

use crate::files;
use crate::fsck::digest_of;
use crate::layers::Layer;
use crate::metadata::{MetadataError, Unsynced};
use crate::store::{OpenError, Store};

/// A new one for every boot of the kernel (random(4)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What is worth a request to the disk of its own.
const WRITE_BEHIND_BYTES: u64 = 4 << 20;

/// The epoch of this store, which begins now if the last one is over.
pub(crate) fn epoch(run: &Path) -> io::Result<String> {
    let boot = fs::read_to_string(BOOT_ID)?;
    let boot = boot.trim();
    fs::create_dir_all(run)?;
    let path = run.join("epoch");
    match fs::read_to_string(&path) {
        Ok(epoch) if epoch.starts_with(boot) => return Ok(epoch),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let epoch = format!("{boot} {}", files::random_name());
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(&path)?.write_all(epoch.as_bytes())?;
    Ok(epoch)
}

impl Store {
    /// Waits until the disk has these layers; answers which rows say no longer what is so.
    pub(crate) fn sync_layers(&self, layers: &[Layer]) -> io::Result<Vec<Unsynced>> {
        let unsynced = self.tables().unsynced().map_err(io::Error::other)?;
        let is_of = |row: &Unsynced| layers.iter().any(|layer| *layer.diff_id() == row.diff_id);
        let rows: Vec<Unsynced> = unsynced.into_iter().filter(is_of).collect();
        let blobs: Vec<&Digest> = rows.iter().map(|row| &row.blob).collect();
        let diff_ids: Vec<&Digest> = rows.iter().map(|row| &row.diff_id).collect();
        self.blobs().sync(&blobs)?;
        self.layers().sync(&diff_ids)?;
        Ok(rows)
    }

    /// Keeps what survived the end of an earlier epoch, and deletes the rest.
    pub(crate) fn judge_unsynced(&self, path: &Path) -> Result<(), OpenError> {
        let metadata = |source: MetadataError| OpenError::Metadata {
            path: path.to_owned(),
            source,
        };
        let file = |source| OpenError::File {
            what: "read the layers in",
            path: self.root().to_owned(),
            source,
        };
        let unsynced = self.tables().unsynced().map_err(metadata)?;
        let earlier = unsynced.into_iter();
        let earlier: Vec<Unsynced> = earlier
            .filter(|row| row.epoch != self.inner().epoch)
            .collect();
        for Unsynced { diff_id, blob, .. } in &earlier {
            let found = self.find_blob(blob).map_err(file)?;
            let read = found.map(|found| digest_of(found, blob)).transpose();
            if read
                .map_err(file)?
                .is_none_or(|(actual, _)| actual != *blob)
            {
                tracing::info!(%blob, "did not survive, and was not promised to");
                drop(self.blobs().remove(blob).map_err(file)?);
                self.tables().forget_form(blob).map_err(metadata)?;
            }
            if !self.layers().has_survived(diff_id).map_err(file)? {
                drop(self.layers().remove(diff_id.hex()).map_err(file)?);
                if let Err(error) = self.rebuild_layer(diff_id) {
                    tracing::info!(layer = %diff_id, %error, "did not survive, and was not promised to");
                }
            }
            // Read, perhaps, from memory: it need not be the host that went down.
            self.blobs().sync(&[blob]).map_err(file)?;
            self.layers().sync(&[diff_id]).map_err(file)?;
        }
        self.tables().forget_unsynced(&earlier).map_err(metadata)
    }
}

/// Sends a long file to the disk while it is being written, so that little is left to wait for.
#[derive(Debug, Default)]
pub(crate) struct WriteBehind {
    written: u64,
    begun: u64,
}

impl WriteBehind {
    /// So many bytes were there already.
    pub(crate) fn passed(&mut self, count: usize) {
        self.written += count as u64;
        self.begun = self.written;
    }

    /// So many more bytes were written at the end of `file`.
    pub(crate) fn wrote(&mut self, file: &File, count: usize) {
        self.written += count as u64;
        if self.written - self.begun >= WRITE_BEHIND_BYTES {
            self.send_rest(file);
        }
    }

    /// Sends all of a file.
    pub(crate) fn send(file: &File) {
        // To the end (sync_file_range(2)).
        let _ = sys::writeback::begin(file, 0, 0);
    }

    /// Nothing more comes.
    pub(crate) fn send_rest(&mut self, file: &File) {
        // Where a file system does not know it, all is left for the end.
        let _ = sys::writeback::begin(file, self.begun, self.written - self.begun);
        self.begun = self.written;
    }
}

/// Makes files durable, and the names of them in their directory.
pub(crate) fn sync_files<'a>(
    directory: &Path,
    files: impl Iterator<Item = &'a Path>,
) -> io::Result<()> {
    let mut some = false;
    for path in files {
        match File::open(path) {
            Ok(file) => file.sync_all()?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        }
        some = true;
    }
    if some {
        files::sync_directory(directory)?;
    }
    Ok(())
}
