//! The one collector: what no root needs is deleted.
//!
//! Roots are the images, the snapshots and the [leases](crate::Lease). An image needs its
//! configuration, its documents and its layers; a snapshot needs the layers it stands on, also
//! after its image is gone; a layer needs the blobs it came as. What is being taken in lies under
//! `ingest/` and `partial/` and is none of the collector's business.
//!
//! The tables are locked from the question to the deletion, and everything that makes something
//! needed locks them too. Rows go first, in one transaction, files second: a crash between the two
//! leaves files that nothing needs, for the next open.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use vocab::Digest;

use crate::metadata::{MetadataError, Tables};
use crate::store::Store;

impl Store {
    /// Deletes everything that nothing needs; answers the bytes that came free.
    pub fn collect(&self) -> Result<u64, MetadataError> {
        let layers = self.tables().layers()?;
        let layers: Vec<Digest> = layers.into_iter().map(|(diff_id, _)| diff_id).collect();
        let (_, freed) = self.collect_layers(&layers)?;
        Ok(freed + self.sweep_blobs()?)
    }

    /// Deletes what only waits: layers and blobs that nothing needs, transfers that nobody has taken
    /// up for so long.
    pub fn collect_waiting(&self, keep: Duration) -> Result<u64, MetadataError> {
        let freed = self.collect()?;
        let expired = self.blobs().partials().expire(keep);
        Ok(freed
            + expired.unwrap_or_else(|error| {
                tracing::warn!(%error, "partial downloads are not removed yet");
                0
            }))
    }

    /// Every image with the moment when it was last used, the longest unused first: when it came or
    /// got a name, or a container of it was made or removed.
    pub fn images_by_use(&self) -> Result<Vec<(Digest, SystemTime)>, MetadataError> {
        self.tables().images_by_use()
    }

    /// Those of `candidates` that nothing needs are deleted, with their blobs; answers which went
    /// and the bytes that came free.
    pub(crate) fn collect_layers(
        &self,
        candidates: &[Digest],
    ) -> Result<(Vec<Digest>, u64), MetadataError> {
        let tables = self.tables();
        let change = tables.begin()?;
        let orphans = self.forget_orphans(&tables, candidates)?;
        change.commit()?;
        self.discard(&tables, orphans)
    }

    /// Takes those of `candidates` that nothing needs out of the tables.
    pub(crate) fn forget_orphans(
        &self,
        tables: &Tables,
        candidates: &[Digest],
    ) -> Result<Orphans, MetadataError> {
        let leases = &self.inner().leases;
        let mut orphans = Orphans::default();
        let passed_over = leases.take_passed_over();
        for diff_id in candidates.iter().chain(&passed_over) {
            if tables.is_layer_needed(diff_id)? {
                continue;
            }
            let Some((size_bytes, forms)) = tables.find_layer(diff_id)? else {
                orphans.blobs.push(diff_id.clone());
                continue;
            };
            if leases.keeps(diff_id) {
                continue;
            }
            tables.remove_layer(diff_id)?;
            orphans.layers_bytes += size_bytes;
            orphans
                .blobs
                .extend(forms.into_iter().map(|form| form.digest));
            orphans.layers.push(diff_id.clone());
        }
        Ok(orphans)
    }

    /// Deletes the files of what is in no table any more; answers which layers went and the bytes
    /// that came free. Only space is at stake: what stays behind goes at the next open.
    pub(crate) fn discard(
        &self,
        tables: &Tables,
        orphans: Orphans,
    ) -> Result<(Vec<Digest>, u64), MetadataError> {
        let Orphans {
            layers,
            blobs,
            layers_bytes: mut freed,
        } = orphans;
        for diff_id in &layers {
            match self.layers().remove(diff_id.hex()) {
                Ok(doomed) => self.inner().reaper.reap(doomed),
                Err(error) => tracing::warn!(layer = %diff_id, %error, "not removed yet"),
            }
        }
        for blob in &blobs {
            freed += self.collect_blob(tables, blob)?;
        }
        Ok((layers, freed))
    }

    /// Deletes a blob that no row and no lease needs; answers the bytes that came free.
    pub(crate) fn collect_blob(
        &self,
        tables: &Tables,
        blob: &Digest,
    ) -> Result<u64, MetadataError> {
        if tables.is_blob_needed(blob)? || self.inner().leases.keeps(blob) {
            return Ok(0);
        }
        Ok(self.remove_blob(blob))
    }

    /// Those of `candidates` that nothing needs are deleted; answers the bytes that came free.
    pub(crate) fn collect_blobs(&self, candidates: &[Digest]) -> Result<u64, MetadataError> {
        let tables = self.tables();
        let freed = candidates
            .iter()
            .map(|blob| self.collect_blob(&tables, blob));
        freed.sum()
    }

    /// Deletes the blobs that no row and no lease needs.
    pub(crate) fn sweep_blobs(&self) -> Result<u64, MetadataError> {
        let tables = self.tables();
        let needed: HashSet<Digest> = tables.needed_blobs()?;
        let there = self.blobs().list().unwrap_or_else(|error| {
            tracing::warn!(%error, "the blobs cannot be listed");
            Vec::new()
        });
        let unneeded = there
            .iter()
            .filter(|blob| !needed.contains(blob) && !self.inner().leases.keeps(blob));
        Ok(unneeded.map(|blob| self.remove_blob(blob)).sum())
    }

    fn remove_blob(&self, blob: &Digest) -> u64 {
        match self.blobs().remove(blob) {
            Ok(None) => 0,
            Ok(Some((doomed, bytes))) => {
                self.inner().reaper.reap(vec![doomed]);
                bytes
            }
            Err(error) => {
                tracing::warn!(%blob, %error, "not removed yet");
                0
            }
        }
    }
}

/// What is in no table any more, and still on the disk.
#[derive(Debug, Default)]
pub(crate) struct Orphans {
    layers: Vec<Digest>,
    /// Bytes of the files in those layers.
    layers_bytes: u64,
    /// Those that may be needed for something else.
    pub(crate) blobs: Vec<Digest>,
}
