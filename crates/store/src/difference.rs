//! What a container's writable layer changes of the layers beneath it: `diff`.
//!
//! Both are walked by descriptors and nothing in them is followed. A directory counts as changed
//! when something in it did, or when it is not what it was itself.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fgetxattr, openat, statat};
use rustix::io::Errno;

/// Directories nest no deeper; a bound for the stack.
const MAX_DEPTH: u32 = 2048;
const OPAQUE: &str = "trusted.overlay.opaque";

/// What happened to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// It was there, and is another.
    Changed,
    /// It is new.
    Added,
    /// It is gone.
    Removed,
}

/// Lists what `upper`, the writable directory of an overlay, changes of `lower`, in the order of
/// paths. What is at `hidden` paths is not the container's doing, and not told.
pub fn differences(
    upper: BorrowedFd<'_>,
    lower: BorrowedFd<'_>,
    hidden: &[PathBuf],
) -> io::Result<Vec<(PathBuf, Difference)>> {
    let mut walk = Walk {
        hidden,
        found: Vec::new(),
    };
    walk.directory(upper, Some(lower), Path::new("/"), 0)?;
    walk.found.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(walk.found)
}

struct Walk<'a> {
    hidden: &'a [PathBuf],
    found: Vec<(PathBuf, Difference)>,
}

impl Walk<'_> {
    /// Answers whether something in the directory was passed over.
    fn directory(
        &mut self,
        upper: BorrowedFd<'_>,
        lower: Option<BorrowedFd<'_>>,
        path: &Path,
        depth: u32,
    ) -> io::Result<bool> {
        if depth > MAX_DEPTH {
            return Err(Errno::NAMETOOLONG.into());
        }
        let mut passed_over = false;
        let names = names(upper)?;
        if let Some(lower) = lower
            && depth > 0
            && is_opaque(upper)?
        {
            for name in self::names(lower)? {
                if !names.contains(&name) {
                    self.found.push((path.join(name), Difference::Removed));
                }
            }
        }
        for name in names {
            let place = path.join(&name);
            if self.hidden.contains(&place) {
                passed_over = true;
                continue;
            }
            self.entry(upper, lower, &name, place, depth)?;
        }
        Ok(passed_over)
    }

    fn entry(
        &mut self,
        upper: BorrowedFd<'_>,
        lower: Option<BorrowedFd<'_>>,
        name: &OsStr,
        path: PathBuf,
        depth: u32,
    ) -> io::Result<()> {
        let Some(now) = look(upper, name)? else {
            return Ok(());
        };
        if is_whiteout(&now) {
            self.found.push((path, Difference::Removed));
            return Ok(());
        }
        let before = match lower {
            Some(lower) => look(lower, name)?,
            None => None,
        };
        if !is_directory(&now) {
            let difference = match &before {
                Some(_) => Difference::Changed,
                None => Difference::Added,
            };
            self.found.push((path, difference));
            return Ok(());
        }
        let below = match &before {
            Some(before) if is_directory(before) => lower.map(|at| open(at, name)).transpose()?,
            _ => None,
        };
        let told = self.found.len();
        let own = open(upper, name)?;
        let lower_fd = below.as_ref().map(OwnedFd::as_fd);
        let passed_over = self.directory(own.as_fd(), lower_fd, &path, depth + 1)?;
        let same = match &before {
            // It was made for what was passed over.
            None if passed_over && self.found.len() == told => true,
            // What was passed over has left its time on the directory.
            Some(before) if is_directory(before) => {
                self.found.len() == told
                    && (now.st_mode, now.st_uid, now.st_gid)
                        == (before.st_mode, before.st_uid, before.st_gid)
                    && (passed_over || mtime(&now) == mtime(before))
            }
            _ => false,
        };
        if !same {
            let difference = match &before {
                None if !passed_over => Difference::Added,
                _ => Difference::Changed,
            };
            self.found.push((path, difference));
        }
        Ok(())
    }
}

fn mtime(status: &Stat) -> (i64, u64) {
    (status.st_mtime, status.st_mtime_nsec)
}

fn names(directory: BorrowedFd<'_>) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}

fn look(at: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<Stat>> {
    match statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn open(at: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(at, name, flags, Mode::empty())?)
}

fn is_directory(status: &Stat) -> bool {
    FileType::from_raw_mode(status.st_mode) == FileType::Directory
}

fn is_whiteout(status: &Stat) -> bool {
    FileType::from_raw_mode(status.st_mode) == FileType::CharacterDevice && status.st_rdev == 0
}

/// Whether all that the lower layers have in the directory is gone.
fn is_opaque(directory: BorrowedFd<'_>) -> io::Result<bool> {
    let mut value = [0; 2];
    match fgetxattr(directory, OPAQUE, &mut value) {
        Ok(count) => Ok(value[..count] == *b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    #[test]
    fn a_directory_that_only_holds_what_is_hidden_is_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let (upper, lower) = (dir.path().join("upper"), dir.path().join("lower"));
        for path in ["etc", "home", "var/log"] {
            fs::create_dir_all(lower.join(path)).unwrap();
        }
        fs::write(lower.join("var/log/old"), "").unwrap();
        for path in ["etc", "home/new", "var/log", "srv"] {
            fs::create_dir_all(upper.join(path)).unwrap();
        }
        fs::write(upper.join("etc/hosts"), "").unwrap();
        fs::write(upper.join("var/log/old"), "other").unwrap();
        let open = |path| File::open(path).unwrap();
        let (upper, lower) = (open(upper), open(lower));
        let hidden = [PathBuf::from("/etc/hosts")];
        let found = differences(upper.as_fd(), lower.as_fd(), &hidden).unwrap();
        let shown: Vec<_> = found
            .iter()
            .map(|(path, kind)| format!("{kind:?} {}", path.display()))
            .collect();
        assert_eq!(
            shown,
            [
                "Changed /home",
                "Added /home/new",
                "Added /srv",
                "Changed /var",
                "Changed /var/log",
                "Changed /var/log/old"
            ]
        );
    }
}
