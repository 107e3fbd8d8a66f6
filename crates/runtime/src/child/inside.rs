//! Paths inside the container's root, resolved by the kernel and never left
//! (`openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)`).
//!
//! What is made here is made relative to a directory descriptor that was resolved this way, so a
//! symbolic link in the image, or one that changes meanwhile, leads nowhere but into the root.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat2, readlinkat};
use rustix::io::Errno;

/// Dangling links followed while a path is made.
const MAX_LINKS: u32 = 16;
/// A rename elsewhere in the tree makes openat2 answer EAGAIN; so often it is asked again.
const MAX_RACES: u32 = 128;

/// This process's root.
pub(crate) fn open_root() -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, "/", flags, Mode::empty())?)
}

/// Opens `path` below `root`.
pub(crate) fn open(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let resolve = resolve | ResolveFlags::IN_ROOT;
    open_resolved(root, path, flags, resolve)
}

/// Opens `path` below `directory`; what leads out of it is refused.
pub(crate) fn open_below(
    directory: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    open_resolved(directory, path, flags, ResolveFlags::BENEATH)
}

fn open_resolved(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let resolve = resolve | ResolveFlags::NO_MAGICLINKS;
    let mut races = 0;
    loop {
        match openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN) if races < MAX_RACES => races += 1,
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Where a descriptor is, as this process sees it.
pub(crate) fn path_of(fd: BorrowedFd<'_>) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// A handle on `path`, links followed.
pub(crate) fn find(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    open(root, path, OFlags::PATH, ResolveFlags::empty())
}

/// A handle on the directory `path`, made with its parents if missing.
pub(crate) fn make_directory(root: BorrowedFd<'_>, path: &Path, mode: u32) -> io::Result<OwnedFd> {
    Ok(directory(root, path, Mode::from_bits_truncate(mode), 0)?)
}

fn directory(root: BorrowedFd<'_>, path: &Path, mode: Mode, links: u32) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    match open(root, path, flags, ResolveFlags::empty()) {
        Err(Errno::NOENT) if links < MAX_LINKS => {}
        other => return other,
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::NOENT);
    };
    let parent_fd = directory(root, parent, mode, links + 1)?;
    match mkdirat(&parent_fd, name, mode) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    match open(root, path, flags, ResolveFlags::empty()) {
        // A link to what is not there: make what it names.
        Err(Errno::NOENT) => {
            let target = target(&parent_fd, parent, name.as_ref())?;
            directory(root, &target, mode, links + 1)
        }
        other => other,
    }
}

/// A handle on the file `path`, made empty (with its parents) if missing.
pub(crate) fn make_file(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    Ok(file(root, path, 0)?)
}

fn file(root: BorrowedFd<'_>, path: &Path, links: u32) -> Result<OwnedFd, Errno> {
    match find(root, path) {
        Err(Errno::NOENT) if links < MAX_LINKS => {}
        other => return other,
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::ISDIR);
    };
    let parent_fd = directory(root, parent, Mode::from_bits_truncate(0o755), 0)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    match rustix::fs::openat(&parent_fd, name, flags, Mode::from_bits_truncate(0o755)) {
        Ok(_) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    match find(root, path) {
        Err(Errno::NOENT) => file(root, &target(&parent_fd, parent, name.as_ref())?, links + 1),
        other => other,
    }
}

/// Where the dangling link `name` in `parent` leads, as a path below the root.
fn target(parent_fd: &OwnedFd, parent: &Path, name: &Path) -> Result<PathBuf, Errno> {
    use std::os::unix::ffi::OsStringExt as _;
    let link = readlinkat(parent_fd, name, Vec::new())?;
    let link = PathBuf::from(std::ffi::OsString::from_vec(link.into_bytes()));
    // `join` starts anew at an absolute one.
    Ok(parent.join(link))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::symlink;

    use super::*;

    fn root() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let fd = rustix::fs::openat(CWD, dir.path(), flags, Mode::empty()).unwrap();
        (dir, fd)
    }

    #[test]
    fn links_stay_inside() {
        let (dir, fd) = root();
        let outside = tempfile::tempdir().unwrap();
        symlink(outside.path(), dir.path().join("out")).unwrap();
        symlink("../../../../../../etc", dir.path().join("up")).unwrap();
        make_directory(fd.as_fd(), Path::new("/out/made"), 0o755).unwrap();
        make_directory(fd.as_fd(), Path::new("/up/made"), 0o755).unwrap();
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        assert!(dir.path().join("etc/made").is_dir());
        let inside = outside.path().strip_prefix("/").unwrap();
        assert!(dir.path().join(inside).join("made").is_dir());
    }

    #[test]
    fn a_file_is_made_behind_a_dangling_link() {
        let (dir, fd) = root();
        symlink("/run/real", dir.path().join("link")).unwrap();
        make_file(fd.as_fd(), Path::new("/link")).unwrap();
        assert!(dir.path().join("run/real").is_file());
    }

    #[test]
    fn a_loop_of_links_is_an_error() {
        let (dir, fd) = root();
        symlink("b", dir.path().join("a")).unwrap();
        symlink("a", dir.path().join("b")).unwrap();
        assert_eq!(
            make_directory(fd.as_fd(), Path::new("/a/x"), 0o755)
                .unwrap_err()
                .raw_os_error(),
            Some(libc::ELOOP)
        );
    }

    #[test]
    fn what_is_there_is_kept() {
        let (dir, fd) = root();
        fs::write(dir.path().join("file"), "content").unwrap();
        make_file(fd.as_fd(), Path::new("/file")).unwrap();
        assert_eq!(
            fs::read_to_string(dir.path().join("file")).unwrap(),
            "content"
        );
        assert!(make_directory(fd.as_fd(), Path::new("/file"), 0o755).is_err());
    }
}
