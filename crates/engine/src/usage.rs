//! What takes space: `system df`, and every byte under the data root by what it is for.

use std::path::Path;
use std::sync::Arc;

use vocab::Digest;
use vocab::failure::chain;

use crate::containers::{ListOptions, Summary};
use crate::images::{Image, ListImages};
use crate::volumes::Volume;
use crate::{Engine, Filters};

/// What `system df` shows.
#[derive(Clone, Debug, Default)]
pub struct DiskUsage {
    /// Bytes on the disk of all images, what they share counted once.
    pub images_bytes: u64,
    /// Those of them that would come free if every image that no container uses went.
    pub images_reclaimable_bytes: u64,
    /// Images.
    pub images: Vec<Image>,
    /// Containers with their sizes.
    pub containers: Vec<Summary>,
    /// Volumes, their bytes (not of a file system of their own), and how many containers use them.
    pub volumes: Vec<(Volume, Option<u64>, usize)>,
    /// All that lies under the data root; the sum is what `du` counts there.
    pub places: Places,
}

/// Bytes on the disk under the data root, by what they are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// Layers, as mounted and as distributed, and documents.
    pub images: u64,
    /// Writable layers, logs, files bound into containers.
    pub containers: u64,
    /// Volumes.
    pub volumes: u64,
    /// Downloads under way, and such as wait to be taken up again.
    pub incoming: u64,
    /// Damaged blobs, put aside.
    pub quarantine: u64,
    /// Tables and locks.
    pub metadata: u64,
    /// What berth did not put there.
    pub foreign: u64,
}

impl Engine {
    /// What takes space.
    pub async fn disk_usage(&self) -> DiskUsage {
        let everything = ListOptions {
            all: true,
            size: true,
            ..ListOptions::default()
        };
        let mut volumes = Vec::new();
        for volume in self.list_volumes(Filters::new()).await.unwrap_or_default() {
            let bytes = match volume.options {
                None => Some(self.volume_bytes(&volume.name).await),
                Some(_) => None,
            };
            let users = self.volume_users(&volume.name);
            volumes.push((volume, bytes, users));
        }
        let listed = ListImages {
            shared: true,
            ..ListImages::default()
        };
        let images = self.list_images(listed).await.unwrap_or_default();
        let in_use = images.iter().filter(|image| image.containers > 0);
        let in_use: Vec<Digest> = in_use.map(|image| image.id.clone()).collect();
        let (places, used_bytes) = self.places(in_use).await;
        DiskUsage {
            images_bytes: places.images,
            images_reclaimable_bytes: places.images.saturating_sub(used_bytes),
            images,
            containers: self.list(everything).await.unwrap_or_default(),
            volumes,
            places,
        }
    }

    /// Measures the data root, and those images that are in use.
    async fn places(&self, in_use: Vec<Digest>) -> (Places, u64) {
        let shared = Arc::clone(&self.shared);
        tasks::blocking(move || {
            let store = shared.store.disk_usage().unwrap_or_else(|error| {
                tracing::warn!(error = chain(&error), "not measured");
                store::DiskUsage::default()
            });
            let mut places = Places {
                images: store.images,
                containers: store.snapshots,
                incoming: store.incoming,
                quarantine: store.quarantine,
                metadata: store.metadata,
                ..Places::default()
            };
            places.add_rest(&shared.config.data_root);
            let used_bytes = shared.store.disk_bytes_of(&in_use).unwrap_or_else(|error| {
                tracing::warn!(error = chain(&error), "not measured");
                0
            });
            (places, used_bytes)
        })
        .await
    }
}

impl Places {
    /// Adds what lies beside the store, which has been measured.
    fn add_rest(&mut self, data_root: &Path) {
        let measure = |path: &Path| {
            store::disk_bytes(path).unwrap_or_else(|error| {
                tracing::warn!(path = %path.display(), %error, "not measured");
                0
            })
        };
        if let Ok(own) = std::fs::metadata(data_root) {
            self.metadata += std::os::unix::fs::MetadataExt::blocks(&own) * 512;
        }
        let entries = std::fs::read_dir(data_root).into_iter().flatten();
        for entry in entries.flatten() {
            let name = entry.file_name();
            let place = match &*name.to_string_lossy() {
                "store" => continue,
                "containers" => &mut self.containers,
                "volumes" => &mut self.volumes,
                name if name == "daemon.lock" || name.starts_with("engine.db") => {
                    &mut self.metadata
                }
                _ => &mut self.foreign,
            };
            *place += measure(&entry.path());
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        let Self {
            images,
            containers,
            volumes,
            incoming,
            quarantine,
            metadata,
            foreign,
        } = self;
        images + containers + volumes + incoming + quarantine + metadata + foreign
    }
}
