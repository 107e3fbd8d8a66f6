//! Room on the disk, made before it runs out.
//!
//! When the file system of the data root is fuller than the high mark, what only waits is deleted
//! first, then images, the longest unused first, until it is emptier than the low mark. An image
//! that a container uses, running or not, stays; so does every image that came, got a name, or had
//! a container within the time that images are kept.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use vocab::failure::chain;

use crate::Engine;
use crate::config::ImageGc;

/// Pause between two looks at the disk.
const LOOK: Duration = Duration::from_secs(5 * 60);
/// Transfers that broke off are kept so long even when the disk is short.
const PARTIAL_KEEP: Duration = Duration::from_secs(60 * 60);

impl Engine {
    /// Looks after the disk until the engine ends.
    pub(crate) fn watch_disk(self: &Arc<Self>) {
        let Some(gc) = self.shared.config.image_gc else {
            return;
        };
        let engine = Arc::downgrade(self);
        self.shared.tasks.spawn("image collection", async move {
            loop {
                match engine.upgrade() {
                    Some(engine) => engine.make_room(&gc).await,
                    None => return,
                }
                tokio::time::sleep(LOOK).await;
            }
        });
    }

    async fn make_room(&self, gc: &ImageGc) {
        let Some(before) = self
            .used_percent()
            .await
            .filter(|used| *used > gc.high_percent)
        else {
            return;
        };
        let store = Arc::clone(&self.shared.store);
        let collected = tasks::blocking(move || {
            store.collect_waiting(PARTIAL_KEEP)?;
            store.images_by_use()
        });
        let candidates = match collected.await {
            Ok(candidates) => candidates,
            Err(error) => {
                tracing::warn!(error = chain(&error), "images are not collected");
                return;
            }
        };
        let oldest = SystemTime::now().checked_sub(gc.keep);
        let mut removed = 0;
        for (image, used) in candidates {
            if self
                .used_percent()
                .await
                .is_none_or(|used| used <= gc.low_percent)
            {
                break;
            }
            if Some(used) >= oldest || !self.shared.image_users(&image).is_empty() {
                continue;
            }
            // By force: it may have several names. A container that came meanwhile keeps it.
            match self.remove_image(&image.to_string(), true, false).await {
                Ok(_) => removed += 1,
                Err(error) => tracing::info!(%image, error = chain(&error), "is not collected"),
            }
        }
        let after = self.used_percent().await.unwrap_or(before);
        tracing::info!(
            before,
            after,
            removed,
            "made room on the disk, in percent of it"
        );
    }

    async fn used_percent(&self) -> Option<u64> {
        let root = self.shared.config.data_root.clone();
        let store = Arc::clone(&self.shared.store);
        tasks::blocking(move || {
            // What was removed just now would count.
            store.wait_for_removals();
            used_percent(&root)
        })
        .await
    }
}

/// How full the file system is, as `df` counts.
fn used_percent(path: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(path).ok()?;
    let used = found.f_blocks.checked_sub(found.f_bfree)?;
    let whole = used + found.f_bavail;
    (used * 100).checked_div(whole)
}
