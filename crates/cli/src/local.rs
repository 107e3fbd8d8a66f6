//! Files of this host on their way into a tar and out of one: the near end of `cp`.
//!
//! What comes out of a tar is a stranger's. Directories are opened by the kernel beneath the one
//! that was asked for (`RESOLVE_BENEATH`), and nothing is written through a link, so that no tar
//! reaches beyond it. A directory never makes way for something else, nor the other way round.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, chownat, fchmod,
    fchown, futimens, linkat, mkdirat, mknodat, openat, openat2, statat, symlinkat, unlinkat,
    utimensat,
};
use rustix::io::Errno;
use tar::{EntryType, Header};

/// Writes `source` and what is beneath it as a tar whose members begin with `shown`.
pub fn pack(source: &Path, shown: &Path, out: impl Write) -> io::Result<()> {
    let mut tar = tar::Builder::new(out);
    entry(&mut tar, source, shown)?;
    tar.finish()
}

fn entry(tar: &mut tar::Builder<impl Write>, path: &Path, shown: &Path) -> io::Result<()> {
    let told =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let found = fs::symlink_metadata(path).map_err(told)?;
    let kind = found.file_type();
    // A socket is nothing without its program.
    if kind.is_socket() {
        return Ok(());
    }
    let mut header = Header::new_gnu();
    header.set_metadata(&found);
    if kind.is_symlink() {
        header.set_size(0);
        let target = fs::read_link(path).map_err(told)?;
        return tar.append_link(&mut header, shown, target);
    }
    if kind.is_file() {
        let file = File::open(path).map_err(told)?;
        let size = found.len();
        header.set_size(size);
        // One that grows meanwhile is cut, one that shrinks is filled up.
        let whole = file.chain(io::repeat(0)).take(size);
        return tar.append_data(&mut header, shown, whole);
    }
    header.set_size(0);
    // What stands for the directory that the tar goes into is not in it.
    if shown.components().any(|part| part != Component::CurDir) {
        tar.append_data(&mut header, shown, io::empty())?;
    }
    if kind.is_dir() {
        let mut names: Vec<_> = fs::read_dir(path)
            .map_err(told)?
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<io::Result<_>>()
            .map_err(told)?;
        names.sort();
        for name in names {
            entry(tar, &path.join(&name), &shown.join(&name))?;
        }
    }
    Ok(())
}

/// Bytes of all regular files at and beneath a path, as far as they can be seen.
pub fn content_bytes(path: &Path) -> u64 {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_file() => found.len(),
        Ok(found) if found.is_dir() => fs::read_dir(path)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| content_bytes(&entry.path()))
            .sum(),
        _ => 0,
    }
}

/// Where a tar goes.
#[derive(Clone, Debug)]
pub struct Target {
    /// An existing directory.
    pub directory: PathBuf,
    /// What the members begin with, and what they are to begin with instead.
    pub rename: Option<(Vec<u8>, Vec<u8>)>,
    /// Whether owners are the tar's.
    pub keep_owner: bool,
}

/// Unpacks a tar.
pub fn unpack(target: &Target, tar: impl Read) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(&target.directory, flags, Mode::empty())?;
    let mut directories = Vec::new();
    let mut archive = tar::Archive::new(tar);
    for member in archive.entries()? {
        let mut member = member?;
        let path = target.path(&member.path_bytes())?;
        if path.as_os_str().is_empty() {
            continue;
        }
        let header = member.header().clone();
        put(target, &root, &path, &mut member).map_err(|error| {
            let place = target.directory.join(&path);
            io::Error::new(error.kind(), format!("{}: {}", place.display(), error))
        })?;
        if header.entry_type().is_dir() {
            directories.push((path, header.mtime()?));
        }
    }
    // Filling a directory changed its time.
    for (path, mtime) in directories.iter().rev() {
        let opened = beneath(root.as_fd(), path)?;
        utimensat(&opened, c".", &times(*mtime), AtFlags::empty())?;
    }
    Ok(())
}

impl Target {
    /// A member's name as a path below the directory.
    fn path(&self, name: &[u8]) -> io::Result<PathBuf> {
        let renamed = match &self.rename {
            Some((old, new)) => {
                let rest = name.strip_prefix(old.as_slice()).unwrap_or(name);
                [new.as_slice(), rest].concat()
            }
            None => name.to_vec(),
        };
        let mut path = PathBuf::new();
        for part in Path::new(OsStr::from_bytes(&renamed)).components() {
            match part {
                Component::Normal(part) => path.push(part),
                Component::CurDir | Component::RootDir => {}
                Component::ParentDir | Component::Prefix(_) => {
                    let text = format!(
                        "a member of the tar leads out of it: {}",
                        String::from_utf8_lossy(name)
                    );
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
            }
        }
        Ok(path)
    }
}

fn beneath(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    openat2(root, path, flags, Mode::empty(), resolve)
}

/// The directory that `path` is in, made if it is missing.
fn parent(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let parent = path.parent().unwrap_or_else(|| Path::new(""));
    match beneath(root.as_fd(), parent) {
        Err(Errno::NOENT) => {}
        other => return Ok(other?),
    }
    let above = self::parent(root, parent)?;
    match mkdirat(
        &above,
        parent.file_name().unwrap_or_default(),
        Mode::from_raw_mode(0o755),
    ) {
        Ok(()) | Err(Errno::EXIST) => Ok(beneath(root.as_fd(), parent)?),
        Err(error) => Err(error.into()),
    }
}

fn put(
    target: &Target,
    root: &OwnedFd,
    path: &Path,
    member: &mut tar::Entry<'_, impl Read>,
) -> io::Result<()> {
    let header = member.header().clone();
    let kind = header.entry_type();
    let at = parent(root, path)?;
    let name = path.file_name().unwrap_or_default();
    let stays = make_way(&at, name, kind.is_dir())?;
    let mode = Mode::from_raw_mode(header.mode()? & 0o7777);
    let mtime = header.mtime()?;
    let owner = match target.keep_owner {
        true => Some((id(header.uid()?)?, id(header.gid()?)?)),
        false => None,
    };
    let settle = |file: BorrowedFd<'_>| -> io::Result<()> {
        if let Some((uid, gid)) = owner {
            fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        fchmod(file, mode)?;
        Ok(futimens(file, &times(mtime))?)
    };
    match kind {
        EntryType::Directory => {
            if !stays {
                mkdirat(&at, name, Mode::RWXU)?;
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            settle(openat(&at, name, flags, Mode::empty())?.as_fd())
        }
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            let flags =
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut file = File::from(openat(&at, name, flags, Mode::RUSR | Mode::WUSR)?);
            io::copy(member, &mut file)?;
            settle(file.as_fd())
        }
        EntryType::Symlink => {
            let link = member.link_name_bytes().unwrap_or_default();
            symlinkat(link.as_ref(), &at, name)?;
            if let Some((uid, gid)) = owner {
                let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
                chownat(&at, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            Ok(utimensat(
                &at,
                name,
                &times(mtime),
                AtFlags::SYMLINK_NOFOLLOW,
            )?)
        }
        EntryType::Link => {
            let link = target.path(&member.link_name_bytes().unwrap_or_default())?;
            let there = parent(root, &link)?;
            let linked = link.file_name().unwrap_or_default();
            Ok(linkat(&there, linked, &at, name, AtFlags::empty())?)
        }
        EntryType::Fifo => Ok(mknodat(&at, name, FileType::Fifo, mode, 0)?),
        EntryType::Char | EntryType::Block => {
            let number = |number: Option<u32>| number.ok_or(Errno::INVAL);
            let device = rustix::fs::makedev(
                number(header.device_major()?)?,
                number(header.device_minor()?)?,
            );
            let kind = match kind {
                EntryType::Block => FileType::BlockDevice,
                _ => FileType::CharacterDevice,
            };
            Ok(mknodat(&at, name, kind, mode, device)?)
        }
        _ => Ok(()),
    }
}

/// Takes away what is in the way; answers whether it is a directory that stays.
fn make_way(at: &OwnedFd, name: &OsStr, comes_directory: bool) -> io::Result<bool> {
    let found = match statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => FileType::from_raw_mode(found.st_mode) == FileType::Directory,
        Err(Errno::NOENT) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    match (found, comes_directory) {
        (true, true) => Ok(true),
        (false, false) => Ok(unlinkat(at, name, AtFlags::empty()).map(|()| false)?),
        (true, false) => Err(io::Error::other(
            "cannot overwrite directory with non-directory",
        )),
        (false, true) => Err(io::Error::other(
            "cannot overwrite non-directory with directory",
        )),
    }
}

fn id(number: u64) -> io::Result<u32> {
    u32::try_from(number).map_err(|_| io::Error::other(format!("{number} is no owner")))
}

fn times(seconds: u64) -> Timestamps {
    let at = Timespec {
        tv_sec: i64::try_from(seconds).unwrap_or(i64::MAX),
        tv_nsec: 0,
    };
    Timestamps {
        last_access: at,
        last_modification: at,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn target(directory: &Path, rename: Option<(&str, &str)>) -> Target {
        Target {
            directory: directory.to_owned(),
            rename: rename.map(|(old, new)| (old.as_bytes().to_vec(), new.as_bytes().to_vec())),
            keep_owner: false,
        }
    }

    #[test]
    fn what_is_packed_is_unpacked_under_another_name() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("d")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("d/f"), "content").unwrap();
        symlink("f", from.join("d/l")).unwrap();
        let mut tar = Vec::new();
        pack(&from, Path::new("from"), &mut tar).unwrap();
        unpack(&target(&to, Some(("from", "new"))), tar.as_slice()).unwrap();
        assert_eq!(fs::read_to_string(to.join("new/d/l")).unwrap(), "content");
        assert!(
            fs::symlink_metadata(to.join("new/d/l"))
                .unwrap()
                .is_symlink()
        );
    }

    /// CVE-2022-39253 and its like: a link of the tar, and then something beneath it.
    ///
    /// Taken out: `BENEATH` in `beneath`. Seen: a file outside.
    #[test]
    fn a_tar_reaches_nothing_outside_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let (to, outside) = (dir.path().join("to"), dir.path().join("outside"));
        fs::create_dir(&to).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("secret"), "of the host").unwrap();
        for link in [outside.to_str().unwrap(), "../outside"] {
            let mut tar = tar::Builder::new(Vec::new());
            let mut header = Header::new_gnu();
            header.set_entry_type(EntryType::Symlink);
            header.set_size(0);
            tar.append_link(&mut header, "l", link).unwrap();
            let mut header = Header::new_gnu();
            header.set_size(4);
            header.set_mode(0o644);
            tar.append_data(&mut header, "l/made", &b"evil"[..])
                .unwrap();
            let tar = tar.into_inner().unwrap();
            unpack(&target(&to, None), tar.as_slice()).unwrap_err();
        }
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Link);
        header.set_size(0);
        tar.append_link(&mut header, "hard", "l/secret").unwrap();
        let tar = tar.into_inner().unwrap();
        unpack(&target(&to, None), tar.as_slice()).unwrap_err();
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    }
}
