//! The removal of a container that has no process.

use std::fs;
use std::io;
use std::sync::Arc;

use vocab::ContainerId;

use super::RemoveError;
use super::record::{MountKind, Mounted, Record};
use crate::db::{DbError, Durability};
use crate::shared::Shared;

/// Deletes its writable layer, its files, with `volumes` its anonymous volumes, and its record.
/// Can be done again after any failure.
pub(crate) async fn delete(
    shared: &Arc<Shared>,
    record: &Arc<Record>,
    volumes: bool,
) -> Result<(), RemoveError> {
    // First, while the record still says which they are.
    if volumes {
        remove_volumes(shared, record).await;
    }
    let files = {
        let (shared, record) = (Arc::clone(shared), Arc::clone(record));
        tasks::blocking(move || delete_files(&shared, &record))
    };
    // At the same time: both wait for the disk. Files without a record are swept at the next open.
    let (files, forgotten) = tokio::join!(files, forget(shared, record.id));
    files?;
    forgotten.map_err(RemoveError::Record)?;
    Ok(())
}

/// Removes the anonymous volumes of a container, but for those that another one uses.
pub(crate) async fn remove_volumes(shared: &Shared, record: &Record) {
    for mounted in &record.mounts {
        if mounted.kind == MountKind::Volume && mounted.anonymous {
            shared
                .remove_unused_volume(&mounted.volume, record.id)
                .await;
        }
    }
}

/// Deletes the record.
pub(crate) fn forget(
    shared: &Shared,
    id: ContainerId,
) -> impl Future<Output = Result<(), DbError>> + Send + use<> {
    let key = id.to_string();
    shared.db.write(Durability::Full, move |db| {
        db.prepare_cached("DELETE FROM containers WHERE id = ?1")?
            .execute([key])
            .map(drop)
    })
}

/// Deletes the writable layer, and lets go the images that are mounted. Blocks.
pub(crate) fn snapshots(
    shared: &Shared,
    id: ContainerId,
    mounts: &[Mounted],
) -> Result<(), store::SnapshotError> {
    let images = mounts.iter().filter_map(|mounted| mounted.image.as_ref());
    for holder in images.map(|(_, holder)| holder).chain([&id]) {
        shared.store.remove_snapshot(holder)?;
    }
    Ok(())
}

fn delete_files(shared: &Shared, record: &Record) -> Result<(), RemoveError> {
    snapshots(shared, record.id, &record.mounts).map_err(RemoveError::Snapshot)?;
    for path in [shared.data_dir(&record.id), shared.run_dir(&record.id)] {
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(RemoveError::Files {
                    path,
                    source: error,
                });
            }
            _ => {}
        }
    }
    Ok(())
}
