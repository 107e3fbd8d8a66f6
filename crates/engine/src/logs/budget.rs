//! The budget of all logs of the host: when they take more than their share of the disk, the oldest
//! files go, whosever they are, but never the file that a container writes to.
//!
//! Each container's log is bounded by its own options; what has no bound is their number.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use monitor::log::blocks;
use vocab::failure::chain;

use crate::Engine;

/// Pause between two looks.
const LOOK: Duration = Duration::from_secs(60);

/// The share of the file system of the data root that logs may take, when nobody names bytes.
const SHARE: u64 = 10;

/// A file that a container's log could do without.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rotated {
    path: PathBuf,
    bytes: u64,
    written: SystemTime,
}

/// What the logs take.
#[derive(Debug, Default)]
struct Logs {
    bytes: u64,
    rotated: Vec<Rotated>,
}

impl Engine {
    /// Keeps logs within their budget until the engine ends.
    pub(crate) fn watch_logs(self: &Arc<Self>) {
        let engine = Arc::downgrade(self);
        self.shared.tasks.spawn("log budget", async move {
            while let Some(engine) = engine.upgrade() {
                let budget = engine.shared.config.log_budget_bytes;
                let root = engine.shared.config.data_root.clone();
                drop(engine);
                match tasks::blocking(move || keep(&root, budget)).await {
                    Ok(0) => {}
                    Ok(bytes) => {
                        tracing::warn!(bytes, "removed the oldest logs, all take too much");
                    }
                    Err(error) => tracing::warn!(error = chain(&error), "keep the budget of logs"),
                }
                tokio::time::sleep(LOOK).await;
            }
        });
    }
}

/// Removes what is too much; says how many bytes that was. Blocks.
fn keep(data_root: &Path, budget: Option<u64>) -> io::Result<u64> {
    let budget = match budget {
        Some(budget) => budget,
        None => {
            let disk = rustix::fs::statvfs(data_root)?;
            disk.f_blocks.saturating_mul(disk.f_frsize) / SHARE
        }
    };
    let mut removed = 0;
    for file in too_much(look(&data_root.join("containers"))?, budget) {
        match fs::remove_file(&file.path) {
            Ok(()) => removed += file.bytes,
            // It was rotated away, or its container removed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(removed)
}

/// The oldest files, until the rest is within the budget.
fn too_much(mut logs: Logs, budget: u64) -> Vec<Rotated> {
    logs.rotated.sort_by_key(|file| file.written);
    let mut left = logs.bytes;
    let goes = |file: &Rotated| {
        let over = left > budget;
        if over {
            left = left.saturating_sub(file.bytes);
        }
        over
    };
    logs.rotated.into_iter().take_while(goes).collect()
}

/// Looks at the logs of all containers.
fn look(containers: &Path) -> io::Result<Logs> {
    let mut logs = Logs::default();
    for container in fs::read_dir(containers)? {
        let dir = container?.path();
        // A container that goes meanwhile has no files any more.
        let local = dir.join("local-logs");
        let files = [list(&dir), list(&local)].concat();
        logs.bytes += files.iter().map(|file| file.bytes).sum::<u64>();
        logs.rotated.extend(superfluous(&local, &files));
    }
    Ok(logs)
}

/// The log files in a directory.
fn list(dir: &Path) -> Vec<Rotated> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut files = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_log = name.to_str().is_some_and(|name| {
            name.contains("-json.log") || name.ends_with(".blocks") || name == blocks::TAIL
        });
        if is_log && let Ok(metadata) = entry.metadata() {
            files.push(Rotated {
                path: entry.path(),
                bytes: metadata.len(),
                written: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
            });
        }
    }
    files
}

/// Those that nobody writes to and no sink waits for.
fn superfluous(local: &Path, files: &[Rotated]) -> Vec<Rotated> {
    let firsts = blocks::files(local).unwrap_or_default();
    let waits = local.join(blocks::DELIVERED).exists();
    let delivered = blocks::delivered(local);
    // A file ends where the next one begins; the last one is written to.
    let ends: HashMap<PathBuf, u64> = firsts
        .windows(2)
        .map(|pair| (blocks::blocks_path(local, pair[0]), pair[1]))
        .collect();
    let goes = |file: &&Rotated| match ends.get(&file.path) {
        Some(end) => !waits || *end <= delivered,
        None => {
            let name = file.path.file_name().and_then(|name| name.to_str());
            let number = name.and_then(|name| name.rsplit_once("-json.log."));
            number.is_some_and(|(_, number)| number.parse::<u32>().is_ok())
        }
    };
    files.iter().filter(goes).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of so many bytes, written so many seconds after the first.
    fn write(path: &Path, bytes: usize, second: u64) {
        fs::write(path, vec![b'x'; bytes]).unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(time).unwrap();
    }

    #[test]
    fn the_oldest_files_of_all_go_and_those_in_use_stay() {
        let root = tempfile::tempdir().unwrap();
        let container = |name: &str| {
            let local = root.path().join("containers").join(name).join("local-logs");
            fs::create_dir_all(&local).unwrap();
            local
        };
        let (one, two, sent) = (container("one"), container("two"), container("sent"));
        write(&blocks::blocks_path(&one, 0), 100, 10);
        write(&blocks::blocks_path(&one, 50), 100, 30);
        write(&blocks::blocks_path(&one, 90), 100, 1);
        write(&one.join(blocks::TAIL), 100, 1);
        let json = root.path().join("containers/two/two-json.log");
        write(&json, 100, 1);
        let rotated = json.with_extension("log.1");
        write(&rotated, 100, 20);
        // Line 70 and those after it are still wanted elsewhere.
        write(&blocks::blocks_path(&sent, 0), 100, 2);
        write(&blocks::blocks_path(&sent, 60), 100, 3);
        write(&blocks::blocks_path(&sent, 80), 100, 4);
        fs::write(sent.join(blocks::DELIVERED), 70_u64.to_le_bytes()).unwrap();
        drop(two);

        assert_eq!(keep(root.path(), Some(900)).unwrap(), 0);
        assert_eq!(keep(root.path(), Some(700)).unwrap(), 200);
        assert!(!blocks::blocks_path(&sent, 0).exists());
        assert!(!blocks::blocks_path(&one, 0).exists());
        assert!(rotated.exists());
        assert_eq!(keep(root.path(), Some(0)).unwrap(), 200);
        let left = [
            blocks::blocks_path(&one, 90),
            one.join(blocks::TAIL),
            json,
            blocks::blocks_path(&sent, 60),
            blocks::blocks_path(&sent, 80),
        ];
        for path in left {
            assert!(path.exists(), "{}", path.display());
        }
    }
}
