//! Filling a volume with what the image has where it is mounted.
//!
//! A container that has the volume already may change it meanwhile. So everything is made by name
//! in an open directory, never over something else and never through a link, and is then changed
//! by its descriptor: nothing outside the volume can be met.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
    chownat, fchmod, fchown, fgetxattr, flistxattr, fsetxattr, fstat, futimens, mkdirat, mknodat,
    openat, readlinkat, statat, symlinkat,
};
use rustix::io::Errno;

/// No image nests deeper; a bound for the stack.
const MAX_DEPTH: u32 = 256;
/// All names of a file's attributes, and one value: the kernel takes no more.
const XATTR_BYTES: usize = 64 << 10;

/// Copies the content of `from` to `to`, and its own owner, mode and time.
pub(crate) fn directory(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    level(from, to, 0)
}

fn level(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: u32) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(Errno::NAMETOOLONG.into());
    }
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let status = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(status.st_mode) {
            FileType::Directory => {
                mkdirat(to, name, Mode::RWXU)?;
                let (below, made) = (open_directory(from, name)?, open_directory(to, name)?);
                level(below.as_fd(), made.as_fd(), depth + 1)?;
            }
            FileType::Symlink => {
                symlinkat(readlinkat(from, name, Vec::new())?, to, name)?;
                let (uid, gid) = owner(&status);
                chownat(to, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            FileType::RegularFile => file(from, to, name, &status)?,
            kind => special(to, name, kind, &status)?,
        }
    }
    attributes(&fstat(from)?, to)
}

fn open_directory(at: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(at, name, flags, Mode::empty())?)
}

fn file(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, status: &Stat) -> io::Result<()> {
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let source = openat(from, name, flags | OFlags::RDONLY, Mode::empty())?;
    let create = flags | OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
    let copy = openat(to, name, create, Mode::RUSR | Mode::WUSR)?;
    let (mut source, mut copy) = (File::from(source), File::from(copy));
    io::copy(&mut source, &mut copy)?;
    // A change of owner drops file capabilities, which are attributes.
    let (uid, gid) = owner(status);
    fchown(&copy, uid, gid)?;
    xattrs(source.as_fd(), copy.as_fd())?;
    attributes(status, copy.as_fd())
}

fn special(to: BorrowedFd<'_>, name: &CStr, kind: FileType, status: &Stat) -> io::Result<()> {
    let mode = Mode::from_raw_mode(status.st_mode);
    mknodat(to, name, kind, mode, status.st_rdev)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = openat(to, name, flags, Mode::empty())?;
    let found = fstat(&made)?;
    // Something else has taken its place: it is not ours to change.
    if FileType::from_raw_mode(found.st_mode) != kind || found.st_rdev != status.st_rdev {
        return Err(Errno::STALE.into());
    }
    let (uid, gid) = owner(status);
    chownat(&made, c"", uid, gid, AtFlags::EMPTY_PATH)?;
    // Of a descriptor that only names a file, the mode is changed by its link.
    let link = format!("/proc/self/fd/{}", made.as_raw_fd());
    rustix::fs::chmod(link, mode)?;
    Ok(())
}

/// Owner before mode, because a change of owner clears set-user-id; times last.
fn attributes(status: &Stat, to: BorrowedFd<'_>) -> io::Result<()> {
    let (uid, gid) = owner(status);
    fchown(to, uid, gid)?;
    fchmod(to, Mode::from_raw_mode(status.st_mode))?;
    let time = Timespec {
        tv_sec: status.st_mtime,
        tv_nsec: status.st_mtime_nsec.cast_signed(),
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    Ok(futimens(to, &times)?)
}

fn owner(status: &Stat) -> (Option<Uid>, Option<Gid>) {
    let (uid, gid) = (Uid::from_raw(status.st_uid), Gid::from_raw(status.st_gid));
    (Some(uid), Some(gid))
}

fn xattrs(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let mut names = vec![0_u8; XATTR_BYTES];
    let length = match flistxattr(from, &mut names) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let mut value = vec![0_u8; XATTR_BYTES];
    for name in names[..length].split(|byte| *byte == 0) {
        // Overlayfs keeps its own notes there.
        if name.is_empty() || name.starts_with(b"trusted.overlay.") {
            continue;
        }
        let length = fgetxattr(from, name, &mut value)?;
        fsetxattr(to, name, &value[..length], XattrFlags::empty())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn copy(from: &Path, to: &Path) -> io::Result<()> {
        let open = |path| File::open(path).unwrap();
        directory(open(from).as_fd(), open(to).as_fd())
    }

    #[test]
    fn a_tree_is_copied_with_its_attributes() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("sub")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("sub/file"), "content").unwrap();
        let mode = fs::Permissions::from_mode(0o2750);
        fs::set_permissions(from.join("sub"), mode).unwrap();
        symlink("/etc/passwd", from.join("link")).unwrap();
        copy(&from, &to).unwrap();
        let content = fs::read_to_string(to.join("sub/file")).unwrap();
        assert_eq!(content, "content");
        let target = fs::read_link(to.join("link")).unwrap();
        assert_eq!(target, Path::new("/etc/passwd"));
        let (old, new) = ("from/sub", "to/sub");
        let [old, new] = [old, new].map(|path| fs::metadata(dir.path().join(path)).unwrap());
        assert_eq!((old.mode(), old.mtime()), (new.mode(), new.mtime()));
    }

    /// What another container does that has the volume: links in the place of what is made there.
    /// Gives what then is outside.
    fn attacked(make: fn(&Path), attack: fn(&Path, &Path)) -> usize {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| {
            let place = dir.path().join(name);
            fs::create_dir(&place).unwrap();
            place
        };
        let (from, to, outside) = (place("from"), place("to"), place("outside"));
        (0..20).for_each(|number| make(&from.join(number.to_string())));
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    (0..20).for_each(|number| attack(&to.join(number.to_string()), &outside));
                }
            });
            for _ in 0..30 {
                // It may fail, where names are taken.
                let _ = copy(&from, &to);
                for entry in fs::read_dir(&to).unwrap().flatten() {
                    let _ = fs::remove_file(entry.path());
                    let _ = fs::remove_dir_all(entry.path());
                }
            }
            done.store(true, Ordering::Relaxed);
        });
        fs::read_dir(&outside).unwrap().count()
    }

    /// Taken out: `EXCL` and `NOFOLLOW` in `file`. Seen: 1 outside.
    #[test]
    fn no_file_is_written_through_a_link() {
        let make = |path: &Path| fs::write(path, "x").unwrap();
        let attack = |path: &Path, outside: &Path| drop(symlink(outside.join("file"), path));
        assert_eq!(attacked(make, attack), 0);
    }

    /// Taken out: `NOFOLLOW` in `open_directory`. Seen: 1 outside.
    #[test]
    fn no_directory_is_filled_through_a_link() {
        let make = |path: &Path| {
            fs::create_dir(path).unwrap();
            fs::write(path.join("file"), "x").unwrap();
        };
        let attack = |path: &Path, outside: &Path| {
            if fs::remove_dir(path).is_ok() {
                let _ = symlink(outside, path);
            }
        };
        assert_eq!(attacked(make, attack), 0);
    }
}
