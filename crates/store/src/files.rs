//! Files and directories that appear whole or not at all.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, openat, statat};
use rustix::io::Errno;

/// A file or directory under `ingest/` that is deleted when dropped, unless it was kept; or one
/// under `partial/`, which stays there unless it was discarded.
#[derive(Debug)]
pub(crate) struct Staged {
    path: PathBuf,
    /// Whether dropping it deletes nothing.
    kept: bool,
}

impl Staged {
    /// A new file, open for reading and writing.
    pub(crate) fn file(ingest: &Path) -> io::Result<(Self, File)> {
        let path = ingest.join(random_name());
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)?;
        Ok((Self { path, kept: false }, file))
    }

    /// A new directory.
    pub(crate) fn directory(ingest: &Path) -> io::Result<Self> {
        let path = ingest.join(random_name());
        fs::create_dir(&path)?;
        Ok(Self { path, kept: false })
    }

    /// Something that is moved here to be deleted, so that it vanishes from its place at once.
    pub(crate) fn doomed(ingest: &Path, victim: &Path) -> io::Result<Self> {
        let path = ingest.join(random_name());
        fs::rename(victim, &path)?;
        Ok(Self { path, kept: false })
    }

    /// A file that is there or is made, open for reading and appending; dropping it leaves it.
    pub(crate) fn lasting(path: PathBuf) -> io::Result<(Self, File)> {
        let file = File::options()
            .read(true)
            .append(true)
            .create(true)
            .open(&path)?;
        Ok((Self { path, kept: true }, file))
    }

    /// Dropping it deletes it, whatever was said before.
    pub(crate) fn discard(&mut self) {
        self.kept = false;
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Moves it to where it belongs; that is not durable yet.
    pub(crate) fn keep(mut self, destination: &Path) -> io::Result<()> {
        // Nothing is left behind where it cannot be moved.
        self.kept = false;
        fs::rename(&self.path, destination)?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = remove(&self.path)
        {
            // The next open tries again.
            tracing::warn!(path = %self.path.display(), %error, "left behind");
        }
    }
}

/// Deletes a file or a whole directory; what is not there is fine.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Makes one directory of exactly this mode; one that is there already stays as it is.
pub(crate) fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    match fs::create_dir(path) {
        Ok(()) => fs::set_permissions(path, PermissionsExt::from_mode(mode)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Makes the names in a directory durable.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

pub(crate) fn random_name() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the kernel's random source is always there");
    hex::encode(bytes)
}

/// Bytes of the files beneath a directory that containers may be changing, as their lengths say;
/// what vanishes meanwhile is not counted, symbolic links are never followed.
pub(crate) fn tree_bytes(root: &Path) -> io::Result<u64> {
    let mut total = 0;
    walk(root, &mut |found| {
        if FileType::from_raw_mode(found.st_mode) == FileType::RegularFile {
            total += u64::try_from(found.st_size).unwrap_or(0);
        }
    })?;
    Ok(total)
}

/// Bytes that a file or a tree occupies on its disk, directories included: what `du` counts.
/// Nothing for what is not there.
pub fn disk_bytes(root: &Path) -> io::Result<u64> {
    let blocks = |found: &Stat| u64::try_from(found.st_blocks).unwrap_or(0) * STAT_BLOCK;
    let found = match statat(CWD, root, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => found,
        Err(Errno::NOENT) => return Ok(0),
        Err(error) => return Err(error.into()),
    };
    let mut total = blocks(&found);
    if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
        walk(root, &mut |found| total += blocks(found))?;
    }
    Ok(total)
}

/// Bytes in each of `st_blocks` (stat(2)).
const STAT_BLOCK: u64 = 512;

/// Shows everything beneath a directory, files with several names once.
fn walk(root: &Path, visit: &mut dyn FnMut(&Stat)) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut linked = HashSet::new();
    let mut open = vec![Dir::new(openat(CWD, root, flags, Mode::empty())?)?];
    while let Some(directory) = open.last_mut() {
        let Some(entry) = directory.read() else {
            open.pop();
            continue;
        };
        let entry = entry?;
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        let at = directory.fd()?;
        let Ok(found) = statat(at, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
            visit(&found);
            if let Ok(below) = openat(at, entry.file_name(), flags, Mode::empty()) {
                let below = Dir::new(below)?;
                open.push(below);
            }
        } else if found.st_nlink == 1 || linked.insert((found.st_dev, found.st_ino)) {
            visit(&found);
        }
    }
    Ok(())
}
