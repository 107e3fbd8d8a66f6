//! Where a bind comes from, where OCI's `source` does not say it all: from beneath a directory that
//! others can write to, or from the layers of an image.
//!
//! What is bound is found by the kernel within that directory or image (`openat2`), and bound by its
//! descriptor: no link planted there leads anywhere else, before or between (as CVE-2017-1002101 and
//! CVE-2021-25741 did to others).

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MoveMountFlags, UnmountFlags, move_mount, unmount};
use serde::{Deserialize, Serialize};
use sys::mount::Change;

use crate::child::{inside, view};
use crate::overlay;

/// Where a bind comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// From beneath the mount's source.
    Beneath(PathBuf),
    /// From an image, read-only; the mount's source is only its name.
    Layers {
        /// The uppermost first.
        lower: Vec<PathBuf>,
        /// What of the image; all of it when empty.
        subpath: PathBuf,
    },
}

/// What is bound, as a mount that is attached nowhere.
pub(crate) fn open_tree(
    source: &Path,
    origin: Option<&Origin>,
    recursive: bool,
) -> io::Result<OwnedFd> {
    match origin {
        None => Ok(view::clone_tree(CWD, source, recursive)?),
        Some(Origin::Beneath(subpath)) => {
            let directory = open(source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
            let found = find(directory.as_fd(), subpath)?;
            Ok(view::clone_of(found.as_fd(), recursive)?)
        }
        Some(Origin::Layers { lower, subpath }) => {
            let image = join(lower)?;
            if subpath.as_os_str().is_empty() {
                return Ok(image);
            }
            part_of(&image, lower, subpath)
        }
    }
}

/// Links are followed as long as they stay below.
fn find(directory: BorrowedFd<'_>, subpath: &Path) -> io::Result<OwnedFd> {
    let found = inside::open_below(directory, subpath, OFlags::PATH);
    found.map_err(|error| {
        let path = subpath.display();
        match error {
            Errno::XDEV => io::Error::other(format!("`{path}` leads out of it")),
            error => {
                let error = io::Error::from(error);
                io::Error::new(error.kind(), format!("`{path}` in it: {error}"))
            }
        }
    })
}

/// The layers as one read-only mount.
fn join(lower: &[PathBuf]) -> io::Result<OwnedFd> {
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV;
    // Overlayfs wants at least two.
    if let [only] = lower {
        let tree = view::clone_tree(CWD, only, false)?;
        let change = Change {
            set: attributes,
            ..Change::NONE
        };
        view::set(tree.as_fd(), false, &change)?;
        return Ok(tree);
    }
    let layers: Vec<&Path> = lower.iter().map(PathBuf::as_path).collect();
    overlay::mount(&layers, None, attributes).map_err(|error| error.source)
}

/// Before Linux 6.15 only what is attached in the caller's mount namespace can be copied, so there
/// the image is attached for a moment where its lowest layer lies: the namespace is the container's.
fn part_of(image: &OwnedFd, lower: &[PathBuf], subpath: &Path) -> io::Result<OwnedFd> {
    let part = |image: &OwnedFd| -> io::Result<OwnedFd> {
        let found = find(image.as_fd(), subpath)?;
        Ok(view::clone_of(found.as_fd(), false)?)
    };
    match (part(image), lower.last()) {
        (Err(error), Some(place)) if error.raw_os_error() == Some(libc::EINVAL) => {
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            move_mount(image, "", CWD, place, flags)?;
            let copied = part(image);
            unmount(place, UnmountFlags::DETACH)?;
            copied
        }
        (other, _) => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_as_long_as_they_stay_below() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::os::unix::fs::symlink("a/b", root.join("inner")).unwrap();
        std::os::unix::fs::symlink("../..", root.join("a/up")).unwrap();
        std::os::unix::fs::symlink("/etc", root.join("absolute")).unwrap();
        std::os::unix::fs::symlink("/proc/self/root", root.join("magic")).unwrap();
        let directory = open(&root, OFlags::PATH, Mode::empty()).unwrap();
        let found =
            |path: &str| find(directory.as_fd(), Path::new(path)).map_err(|e| e.to_string());
        assert!(found("a/b").is_ok() && found("inner").is_ok() && found("a/../a").is_ok());
        for path in ["a/up", "absolute", "../root", "magic", "/etc"] {
            assert_eq!(
                found(path).unwrap_err(),
                format!("`{path}` leads out of it")
            );
        }
        assert_eq!(
            found("none").unwrap_err(),
            "`none` in it: No such file or directory (os error 2)"
        );
    }
}
