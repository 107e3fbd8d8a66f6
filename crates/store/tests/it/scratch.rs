//! A store in a directory of its own, and tars to put in it.

use std::io::Write;
use std::path::{Path, PathBuf};

use store::{Driver, Layer, NewImage, Options, ReceiveError, Store};
use vocab::{ContainerId, Digest, Reference};

/// What layers are kept by, and on what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// This driver, where tests have their files.
    Usual(Driver),
    /// `erofs` on a file system from whose files nothing is mounted.
    Loops,
}

impl From<Driver> for Place {
    fn from(driver: Driver) -> Self {
        Self::Usual(driver)
    }
}

impl Place {
    pub(crate) fn driver(self) -> Driver {
        match self {
            Self::Usual(driver) => driver,
            Self::Loops => Driver::Erofs,
        }
    }
}

/// A store that vanishes with its directory.
pub(crate) struct Scratch {
    pub(crate) store: Option<Store>,
    pub(crate) driver: Driver,
    // Before the directory that it is mounted on.
    _tmpfs: Option<Tmpfs>,
    directory: tempfile::TempDir,
}

/// A file system in memory, gone with its value.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn at(path: &Path) -> Self {
        use rustix::mount::{MountFlags, mount};

        let size = c"size=256m,mode=700";
        mount("tmpfs", path, "tmpfs", MountFlags::empty(), size).unwrap();
        Self(path.to_owned())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        use rustix::mount::{UnmountFlags, unmount};

        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

impl Scratch {
    pub(crate) fn new(place: impl Into<Place>) -> Self {
        let place = place.into();
        let directory = tempfile::tempdir().unwrap();
        let tmpfs = (place == Place::Loops).then(|| Tmpfs::at(directory.path()));
        let store = open(directory.path(), place.driver());
        Self {
            store: Some(store),
            driver: place.driver(),
            _tmpfs: tmpfs,
            directory,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.path().join("store")
    }

    /// The same data root, opened again.
    pub(crate) fn reopen(&mut self) {
        self.store = None;
        self.store = Some(open(self.directory.path(), self.driver));
    }

    /// A layer from a plain tar.
    pub(crate) fn layer(&self, tar: &[u8]) -> Result<Layer, ReceiveError> {
        let mut ingest = self.receive_layer(None, None, None)?;
        for portion in tar.chunks(1000) {
            ingest.receive(portion)?;
        }
        ingest.commit()
    }

    /// An image of these tars, lowest first.
    pub(crate) fn image(&self, tars: &[Vec<u8>], name: &str) -> Digest {
        let layers: Vec<Layer> = tars.iter().map(|tar| self.layer(tar).unwrap()).collect();
        let names = if name.is_empty() {
            vec![]
        } else {
            vec![reference(name)]
        };
        self.put(&layers, names)
    }

    /// A nameless image of these layers, lowest first.
    pub(crate) fn image_of(&self, layers: &[Layer]) -> Digest {
        self.put(layers, Vec::new())
    }

    fn put(&self, layers: &[Layer], names: Vec<Reference>) -> Digest {
        self.put_image(NewImage {
            config: config(layers),
            layers: layers.to_vec(),
            names,
            ..NewImage::default()
        })
        .unwrap()
    }

    /// The lower directories of a fresh container of an image, topmost first.
    pub(crate) fn mounted(&self, image: &Digest) -> Vec<PathBuf> {
        let owner = ContainerId::random();
        self.create_snapshot(&owner, image).unwrap();
        self.mount_snapshot(&owner).unwrap().lower
    }

    /// Names of what lies in one of the store's directories, when all that was removed is gone.
    pub(crate) fn names(&self, below: &str) -> Vec<String> {
        if let Some(store) = &self.store {
            store.wait_for_removals();
        }
        let entries = std::fs::read_dir(self.root().join(below)).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }
}

impl std::ops::Deref for Scratch {
    type Target = Store;

    fn deref(&self) -> &Store {
        self.store.as_ref().unwrap()
    }
}

fn open(directory: &Path, driver: Driver) -> Store {
    let options = Options {
        driver: Some(driver),
    };
    Store::open(&directory.join("store"), &directory.join("run"), &options).unwrap()
}

pub(crate) fn reference(name: &str) -> Reference {
    name.parse::<Reference>().unwrap().or_latest()
}

/// A configuration that names these layers, with members that berth does not know.
pub(crate) fn config(layers: &[Layer]) -> Vec<u8> {
    let diff_ids: Vec<_> = layers.iter().map(Layer::diff_id).collect();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "created": "2026-01-02T03:04:05.678Z",
        "config": { "Cmd": ["true"], "Healthcheck": { "Test": ["NONE"] }, "Unknown": 1 },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    serde_json::to_vec_pretty(&config).unwrap()
}

/// Writes tars, also such as no honest tool writes.
#[derive(Default)]
pub(crate) struct Tar(Vec<u8>);

impl Tar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// One entry; `edit` has the last word on its header. `pax` records come before it.
    pub(crate) fn entry(
        mut self,
        path: &str,
        kind: tar::EntryType,
        data: &[u8],
        pax: &[(&str, &[u8])],
        edit: impl FnOnce(&mut tar::Header),
    ) -> Self {
        if !pax.is_empty() {
            let mut records = Vec::new();
            for (key, value) in pax {
                let rest = key.len() + value.len() + 3;
                let mut length = rest + 1;
                while length != rest + length.to_string().len() {
                    length = rest + length.to_string().len();
                }
                write!(records, "{length} {key}=").unwrap();
                records.extend_from_slice(value);
                records.push(b'\n');
            }
            self.raw("pax", tar::EntryType::XHeader, &records, |_| {});
        }
        self.raw(path, kind, data, edit);
        self
    }

    fn raw(
        &mut self,
        path: &str,
        kind: tar::EntryType,
        data: &[u8],
        edit: impl FnOnce(&mut tar::Header),
    ) {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(kind);
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        edit(&mut header);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    pub(crate) fn file(self, path: &str, data: &[u8]) -> Self {
        self.entry(path, tar::EntryType::Regular, data, &[], |_| {})
    }

    /// A sparse file in one of the four ways that GNU tar knows: its old header, or PAX records of
    /// version 0.0, 0.1 or 1.0. Each piece is an offset and its bytes.
    pub(crate) fn sparse(self, way: &str, path: &str, size: u64, pieces: &[(u64, &[u8])]) -> Self {
        let data: Vec<u8> = pieces
            .iter()
            .flat_map(|(_, data)| data.iter().copied())
            .collect();
        let numbers = || {
            pieces
                .iter()
                .flat_map(|(offset, data)| [*offset, data.len() as u64])
        };
        let (size, count) = (size.to_string(), pieces.len().to_string());
        let regular = tar::EntryType::Regular;
        match way {
            "old" => self.entry(path, tar::EntryType::GNUSparse, &data, &[], |header| {
                let gnu = header.as_gnu_mut().unwrap();
                gnu.set_real_size(size.parse().unwrap());
                for (slot, (offset, data)) in gnu.sparse.iter_mut().zip(pieces) {
                    slot.set_offset(*offset);
                    slot.set_length(data.len() as u64);
                }
            }),
            "0.0" => {
                let pieces: Vec<_> = pieces
                    .iter()
                    .map(|(offset, data)| (offset.to_string(), data.len().to_string()))
                    .collect();
                let mut pax: Vec<(&str, &[u8])> = vec![
                    ("GNU.sparse.size", size.as_bytes()),
                    ("GNU.sparse.numblocks", count.as_bytes()),
                ];
                for (offset, length) in &pieces {
                    pax.push(("GNU.sparse.offset", offset.as_bytes()));
                    pax.push(("GNU.sparse.numbytes", length.as_bytes()));
                }
                self.entry(path, regular, &data, &pax, |_| {})
            }
            "0.1" => {
                let map: Vec<String> = numbers().map(|number| number.to_string()).collect();
                let map = map.join(",");
                let pax: [(&str, &[u8]); 4] = [
                    ("GNU.sparse.size", size.as_bytes()),
                    ("GNU.sparse.numblocks", count.as_bytes()),
                    ("GNU.sparse.name", path.as_bytes()),
                    ("GNU.sparse.map", map.as_bytes()),
                ];
                self.entry("GNUSparseFile.0/x", regular, &data, &pax, |_| {})
            }
            "1.0" => {
                let map: String = std::iter::once(count)
                    .chain(numbers().map(|number| number.to_string()))
                    .map(|number| number + "\n")
                    .collect();
                let mut stored = map.into_bytes();
                stored.resize(stored.len().next_multiple_of(512), 0);
                stored.extend_from_slice(&data);
                let pax: [(&str, &[u8]); 4] = [
                    ("GNU.sparse.major", b"1"),
                    ("GNU.sparse.minor", b"0"),
                    ("GNU.sparse.name", path.as_bytes()),
                    ("GNU.sparse.realsize", size.as_bytes()),
                ];
                self.entry("GNUSparseFile.0/x", regular, &stored, &pax, |_| {})
            }
            other => panic!("no way {other:?}"),
        }
    }

    pub(crate) fn directory(self, path: &str, mode: u32) -> Self {
        self.entry(path, tar::EntryType::Directory, b"", &[], |header| {
            header.set_mode(mode);
        })
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(path, tar::EntryType::Symlink, b"", &[], |header| {
            header.set_link_name_literal(target).unwrap();
        })
    }

    pub(crate) fn link(self, path: &str, target: &str) -> Self {
        self.entry(path, tar::EntryType::Link, b"", &[], |header| {
            header.set_link_name_literal(target).unwrap();
        })
    }

    pub(crate) fn bytes(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }

    /// Without the two blocks that end a tar.
    pub(crate) fn unfinished(self) -> Vec<u8> {
        self.0
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn digest512(bytes: &[u8]) -> Digest {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA512, bytes);
    format!("sha512:{}", hex::encode(hash)).parse().unwrap()
}

pub(crate) fn digest(bytes: &[u8]) -> Digest {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    format!("sha256:{}", hex::encode(hash)).parse().unwrap()
}

/// The whole chain of causes.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    vocab::failure::chain(error)
}

pub(crate) fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    let mut state = 1_u64;
    for byte in &mut noise {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        *byte = state.to_be_bytes()[0];
    }
    noise
}

/// The root of a fresh container of an image, read-only and attached nowhere.
pub(crate) struct Merged(std::os::fd::OwnedFd);

impl Merged {
    /// The root of a container that writes, attached nowhere.
    pub(crate) fn writable(mounts: &store::Mounts) -> Self {
        use rustix::mount::{
            FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
            fsconfig_set_string, fsmount, fsopen,
        };
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
        for lower in &mounts.lower {
            fsconfig_set_string(&context, "lowerdir+", lower).unwrap();
        }
        fsconfig_set_string(&context, "upperdir", &mounts.upper).unwrap();
        fsconfig_set_string(&context, "workdir", &mounts.work).unwrap();
        if mounts.as_user {
            fsconfig_set_flag(&context, "userxattr").unwrap();
        }
        fsconfig_create(&context).unwrap();
        let flags = FsMountFlags::FSMOUNT_CLOEXEC;
        Self(fsmount(&context, flags, MountAttrFlags::empty()).unwrap())
    }

    pub(crate) fn of(scratch: &Scratch, image: &Digest) -> Self {
        use rustix::mount::{
            FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string,
            fsmount, fsopen,
        };
        let owner = ContainerId::random();
        scratch.create_snapshot(&owner, image).unwrap();
        let mounts = scratch.mount_snapshot(&owner).unwrap();
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
        for lower in std::iter::once(&mounts.upper).chain(&mounts.lower) {
            fsconfig_set_string(&context, "lowerdir+", lower).unwrap();
        }
        fsconfig_create(&context).unwrap();
        let flags = FsMountFlags::FSMOUNT_CLOEXEC;
        Self(fsmount(&context, flags, MountAttrFlags::MOUNT_ATTR_RDONLY).unwrap())
    }

    pub(crate) fn path(&self) -> PathBuf {
        use std::os::fd::AsRawFd;
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}
