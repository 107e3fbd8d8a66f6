//! Driver `erofs`: a layer is its plain tar and an index of it, mounted from the files.
//!
//! ```text
//! layers/erofs/<hex>.tar     the tar, unless a blob is it already
//! layers/erofs/<hex>.index   the EROFS image, and behind it its SHA-256: 32 bytes
//! RUN/layers/<hex>/          the mount, shared by all containers
//! ```
//!
//! Where the kernel mounts from no files (before Linux 6.12, and on tmpfs), index and tar are each
//! attached to a loop device. Nobody has to detach them: the mount holds them, and with the last
//! overlay that stands on it they come free.
//!
//! The index is moved into place last and says that the layer is there. It is hashed before it is
//! mounted, and made again from the blob when it is damaged. Overlayfs keeps what it is mounted
//! from, so a layer's own mount is only needed while a container starts: it is taken away with the
//! driver, and what a killed process left mounted is used or taken away by the next.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};
use vocab::{Algorithm, Digest};

use super::loops::LoopDevice;
use super::{Layers, Unpack, Unpacked};
use crate::durable::{self, WriteBehind};
use crate::erofs::{Budget, Tree};
use crate::files::{self, Staged};
use crate::hash::Hasher;
use crate::store::COPY_BYTES;
use crate::tree::{Splitter, UnpackError};

/// `EROFS_SUPER_MAGIC_V1`, as `statfs` shows it.
const MAGIC: u64 = 0xE0F5_E1E2;
/// Bytes of the hash behind an index.
const SUM_BYTES: usize = 32;
/// Memory for the trees of all layers that are being taken in: about 60,000 entries. What is more
/// goes to files meanwhile.
const TREE_BYTES: usize = 8 << 20;

/// The indexed layers under one directory.
#[derive(Debug)]
pub(crate) struct Erofs {
    layers: PathBuf,
    ingest: PathBuf,
    blobs: PathBuf,
    mounts: PathBuf,
    /// Held while a mount is looked for and made.
    mounting: Mutex<()>,
    through: Through,
    trees: Arc<Budget>,
}

/// What the kernel reads an index and its tar through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Through {
    Files,
    LoopDevices,
}

impl Erofs {
    /// Opens the driver; fails where such a layer cannot be mounted beneath overlayfs.
    pub(crate) fn open(root: &Path, run: &Path) -> io::Result<Self> {
        let layers = root.join("layers/erofs");
        let mounts = run.join("layers");
        fs::create_dir_all(&layers)?;
        fs::create_dir_all(&mounts)?;
        fs::set_permissions(&mounts, PermissionsExt::from_mode(0o700))?;
        let mut driver = Self {
            layers,
            ingest: root.join("ingest"),
            blobs: root.join("blobs"),
            mounts,
            mounting: Mutex::new(()),
            through: Through::Files,
            trees: Budget::of(TREE_BYTES),
        };
        driver.through = driver.probe()?;
        for name in super::names(&driver.mounts)? {
            if !driver.layers.join(format!("{name}.index")).exists() {
                driver.unmount(&name)?;
            }
        }
        Ok(driver)
    }

    /// Mounts a layer of nothing, and overlayfs on top of it; answers how that went.
    fn probe(&self) -> io::Result<Through> {
        let directory = Staged::directory(&self.ingest)?;
        let tar = directory.path().join("tar");
        fs::write(&tar, [0; 1024])?;
        let image = crate::erofs::index(&File::open(&tar)?).map_err(io::Error::other)?;
        let index = directory.path().join("index");
        fs::write(&index, image)?;
        let point = directory.path().join("mount");
        fs::create_dir(&point)?;
        let through = match mount(Through::Files, &index, &tar, &point) {
            Ok(()) => Through::Files,
            Err(files) => match mount(Through::LoopDevices, &index, &tar, &point) {
                Ok(()) => Through::LoopDevices,
                Err(devices) => {
                    return Err(io::Error::other(format!(
                        "from files: {files}; through loop devices: {devices}"
                    )));
                }
            },
        };
        let stacked = stack(&point, directory.path());
        unmount(&point, UnmountFlags::DETACH)?;
        stacked.map(|()| through)
    }

    fn index(&self, hex: &str) -> PathBuf {
        self.layers.join(format!("{hex}.index"))
    }

    fn tar(&self, hex: &str) -> PathBuf {
        self.layers.join(format!("{hex}.tar"))
    }

    fn blob(&self, diff_id: &Digest) -> PathBuf {
        let algorithm = diff_id.algorithm().name();
        self.blobs.join(algorithm).join(diff_id.hex())
    }

    fn unmount(&self, hex: &str) -> io::Result<()> {
        let point = self.mounts.join(hex);
        match unmount(&point, UnmountFlags::DETACH) {
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        match fs::remove_dir(&point) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl Drop for Erofs {
    fn drop(&mut self) {
        for name in super::names(&self.mounts).unwrap_or_default() {
            if let Err(error) = self.unmount(&name) {
                tracing::warn!(layer = name, %error, "stays mounted");
            }
        }
    }
}

impl Layers for Erofs {
    fn begin(&self, kept: Option<File>) -> io::Result<Box<dyn Unpack>> {
        let own = match kept {
            Some(_) => None,
            None => Some(Staged::file(&self.ingest)?),
        };
        Ok(Box::new(Indexing {
            splitter: Splitter::new(),
            tree: Tree::new(Arc::clone(&self.trees), Some(self.ingest.clone()))
                .map_err(io::Error::other)?,
            kept,
            own,
            behind: WriteBehind::default(),
            ingest: self.ingest.clone(),
        }))
    }

    fn keep(&self, unpacked: Unpacked, diff_id: &Digest) -> io::Result<()> {
        for (staged, suffix) in unpacked.parts {
            staged.keep(&self.layers.join(format!("{}{suffix}", diff_id.hex())))?;
        }
        Ok(())
    }

    fn has_survived(&self, diff_id: &Digest) -> io::Result<bool> {
        Ok(self.verify(diff_id)?.is_ok())
    }

    fn sync(&self, layers: &[&Digest]) -> io::Result<()> {
        let files: Vec<PathBuf> = layers.iter().flat_map(|layer| self.files(layer)).collect();
        durable::sync_files(&self.layers, files.iter().map(PathBuf::as_path))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut found: Vec<String> = super::names(&self.layers)?
            .iter()
            .filter_map(|name| Some(name.split_once('.')?.0.to_owned()))
            .collect();
        found.sort();
        found.dedup();
        Ok(found)
    }

    fn has(&self, diff_id: &Digest) -> bool {
        let point = self.mounts.join(diff_id.hex());
        is_mounted(&point)
            || is_whole(&self.index(diff_id.hex())).unwrap_or(false)
                && (self.tar(diff_id.hex()).exists() || self.blob(diff_id).exists())
    }

    fn files(&self, diff_id: &Digest) -> Vec<PathBuf> {
        vec![self.tar(diff_id.hex()), self.index(diff_id.hex())]
    }

    fn open_tar(&self, diff_id: &Digest) -> io::Result<Option<File>> {
        match File::open(self.tar(diff_id.hex())) {
            Ok(tar) => Ok(Some(tar)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn verify(&self, diff_id: &Digest) -> io::Result<Result<u64, String>> {
        let index = self.index(diff_id.hex());
        match is_whole(&index) {
            Ok(true) => {}
            Ok(false) => return Ok(Err("its index is damaged".to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Err("its index is missing".to_owned()));
            }
            Err(error) => return Err(error),
        }
        let index_bytes = fs::metadata(&index)?.len();
        // A tar that is a blob is verified as one.
        let Some(tar) = self.open_tar(diff_id)? else {
            return Ok(match self.blob(diff_id).exists() {
                true => Ok(index_bytes),
                false => Err("its tar is missing".to_owned()),
            });
        };
        let (actual, tar_bytes) = crate::fsck::digest_of(tar, diff_id)?;
        Ok(match actual == *diff_id {
            true => Ok(index_bytes + tar_bytes),
            false => Err(format!("its tar has digest {actual}")),
        })
    }

    fn mount(&self, diff_id: &Digest) -> io::Result<PathBuf> {
        let point = self.mounts.join(diff_id.hex());
        let _mounting = self.mounting.lock().unwrap_or_else(PoisonError::into_inner);
        if is_mounted(&point) {
            return Ok(point);
        }
        fs::create_dir_all(&point)?;
        let own = self.tar(diff_id.hex());
        let tar = match own.exists() {
            true => own,
            false => self.blob(diff_id),
        };
        mount(self.through, &self.index(diff_id.hex()), &tar, &point)?;
        Ok(point)
    }

    fn remove(&self, hex: &str) -> io::Result<Vec<Staged>> {
        let _mounting = self.mounting.lock().unwrap_or_else(PoisonError::into_inner);
        self.unmount(hex)?;
        let mut doomed = Vec::new();
        // The index first: without it the tar is no layer.
        for path in [self.index(hex), self.tar(hex)] {
            match Staged::doomed(&self.ingest, &path) {
                Ok(staged) => doomed.push(staged),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(doomed)
    }
}

struct Indexing {
    splitter: Splitter,
    tree: Tree,
    /// The tar that somebody else is writing.
    kept: Option<File>,
    /// The one that is written here.
    own: Option<(Staged, File)>,
    behind: WriteBehind,
    ingest: PathBuf,
}

impl Unpack for Indexing {
    fn push(&mut self, bytes: &[u8]) -> Result<(), UnpackError> {
        if let Some((_, tar)) = &mut self.own {
            tar.write_all(bytes).map_err(storing)?;
            self.behind.wrote(tar, bytes.len());
        }
        self.splitter.push(bytes, &mut self.tree)
    }

    fn finish(self: Box<Self>) -> Result<Unpacked, UnpackError> {
        let Self {
            splitter,
            tree,
            kept,
            own,
            mut behind,
            ingest,
        } = *self;
        splitter.finish()?;
        let size_bytes = tree.size_bytes();
        let mut parts = Vec::with_capacity(2);
        let tar = match (kept, own) {
            (_, Some((staged, tar))) => {
                behind.send_rest(&tar);
                parts.push((staged, ".tar"));
                tar
            }
            (Some(tar), None) => tar,
            (None, None) => unreachable!("one of them was given"),
        };
        let (staged, mut index) = Staged::file(&ingest).map_err(storing)?;
        tree.write_image(&tar, &mut index)?;
        seal(&index).map_err(storing)?;
        WriteBehind::send(&index);
        parts.push((staged, ".index"));
        Ok(Unpacked { parts, size_bytes })
    }
}

fn storing(source: io::Error) -> UnpackError {
    UnpackError::Io {
        what: "write",
        path: "the layer's tar and index".to_owned(),
        source,
    }
}

/// Puts its hash behind an index.
fn seal(index: &File) -> io::Result<()> {
    let (bytes, sum) = sum(index, index.metadata()?.len())?;
    index.write_all_at(&sum, bytes)
}

/// Whether an index is what was written.
fn is_whole(path: &Path) -> io::Result<bool> {
    let index = File::open(path)?;
    let Some(length) = index.metadata()?.len().checked_sub(SUM_BYTES as u64) else {
        return Ok(false);
    };
    let (bytes, actual) = sum(&index, length)?;
    let mut promised = [0; SUM_BYTES];
    index.read_exact_at(&mut promised, bytes)?;
    Ok(bytes == length && actual == promised)
}

/// The hash of the first bytes of a file, and how many there were.
fn sum(file: &File, length: u64) -> io::Result<(u64, [u8; SUM_BYTES])> {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut buffer = vec![0; COPY_BYTES];
    let mut at = 0;
    while at < length {
        let take = usize::try_from(length - at).map_or(buffer.len(), |left| left.min(buffer.len()));
        match file.read_at(&mut buffer[..take], at)? {
            0 => break,
            count => {
                hasher.update(&buffer[..count]);
                at += count as u64;
            }
        }
    }
    let mut sum = [0; SUM_BYTES];
    hex::decode_to_slice(hasher.finish().hex(), &mut sum).expect("digests are hexadecimal");
    Ok((at, sum))
}

fn is_mounted(point: &Path) -> bool {
    rustix::fs::statfs(point).is_ok_and(|found| u64::try_from(found.f_type) == Ok(MAGIC))
}

/// Mounts an index over its tar, read-only.
fn mount(through: Through, index: &Path, tar: &Path, point: &Path) -> io::Result<()> {
    let context = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    // Open until the mount holds them itself.
    let _devices = match through {
        Through::Files => {
            fsconfig_set_string(&context, "source", index)?;
            fsconfig_set_string(&context, "device", tar)?;
            fsconfig_create(&context)?;
            None
        }
        Through::LoopDevices => {
            let devices = (LoopDevice::attach(index)?, LoopDevice::attach(tar)?);
            fsconfig_set_string(&context, "source", devices.0.path())?;
            fsconfig_set_string(&context, "device", devices.1.path())?;
            // Else the devices would be opened for writing, which they are not.
            fsconfig_set_flag(&context, "ro")?;
            fsconfig_create(&context)?;
            Some(devices)
        }
    };
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOSUID;
    let mounted = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    move_mount(
        &mounted,
        "",
        CWD,
        point,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?;
    Ok(())
}

/// Whether overlayfs goes on top: where the data root is itself on overlayfs it does not.
fn stack(lower: &Path, scratch: &Path) -> io::Result<()> {
    let (upper, work) = (scratch.join("upper"), scratch.join("work"));
    files::make_directory(&upper, 0o755)?;
    files::make_directory(&work, 0o755)?;
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    // Before Linux 6.7 all layers stand in one string of 255 bytes at most, and a path may be longer.
    let lower = File::open(lower)?;
    let place = format!("/proc/self/fd/{}", lower.as_raw_fd());
    fsconfig_set_string(&context, "lowerdir", &place)?;
    fsconfig_set_string(&context, "upperdir", &upper)?;
    fsconfig_set_string(&context, "workdir", &work)?;
    fsconfig_create(&context)?;
    // Never attached anywhere: it goes with its descriptor.
    fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )?;
    Ok(())
}
