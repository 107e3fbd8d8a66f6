//! What does not change from start to start: compiled system call filters, the users of an image.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use runtime::seccomp::{self, CompileError, Machine, ProfileError};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::mount::MountAttrFlags;
use vocab::{Digest, Failure, Kind};

use super::security::{Seccomp, Security};
use crate::shared::lock;

/// Bytes of `/etc/passwd` and `/etc/group` that are read at most.
const ACCOUNTS_BYTES: u64 = 4 << 20;

/// The two files of one root.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    pub(crate) passwd: String,
    pub(crate) group: String,
}

/// Why there is no system call filter.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// The profile file of the daemon.
    #[error("read the seccomp profile `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is no profile.
    #[error("decoding seccomp profile failed")]
    Profile(#[source] ProfileError),
    /// It is a profile that cannot be loaded.
    #[error("compile the seccomp profile")]
    Compile(#[source] CompileError),
    /// The compiled program was not kept.
    #[error("write `{path}`")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl Failure for SeccompError {
    fn kind(&self) -> Kind {
        match self {
            Self::Profile(_) | Self::Compile(_) => Kind::InvalidArgument,
            Self::Read { .. } | Self::Write { .. } => Kind::Internal,
        }
    }
}

/// A profile in Docker's format, or the built-in one, and the capabilities it is resolved for.
type ProgramKey = (Option<String>, Vec<String>);

/// What does not change from start to start.
#[derive(Debug)]
pub(crate) struct Cache {
    /// Where programs are kept.
    dir: PathBuf,
    /// The daemon's profile, when it is not the built-in one.
    profile: Option<PathBuf>,
    /// By profile and capabilities.
    programs: Mutex<HashMap<ProgramKey, PathBuf>>,
    accounts: Mutex<HashMap<Digest, Arc<Accounts>>>,
}

impl Cache {
    /// Programs are kept in `dir`, which exists, until the next boot.
    pub(crate) fn new(dir: PathBuf, profile: Option<PathBuf>) -> Self {
        Self {
            dir,
            profile,
            programs: Mutex::new(HashMap::new()),
            accounts: Mutex::new(HashMap::new()),
        }
    }

    /// The file of the compiled filter; `None` for none. Blocks when it is not compiled yet.
    pub(crate) fn program(&self, security: &Security) -> Result<Option<PathBuf>, SeccompError> {
        let profile = match (&security.seccomp, &self.profile) {
            (Seccomp::Unconfined, _) => return Ok(None),
            (Seccomp::Profile(text), _) => Some(text.clone()),
            (Seccomp::Default, None) => None,
            (Seccomp::Default, Some(path)) => Some(std::fs::read_to_string(path).map_err(
                |source| SeccompError::Read {
                    path: path.clone(),
                    source,
                },
            )?),
        };
        let key = (profile, security.capabilities.clone());
        if let Some(path) = lock(&self.programs).get(&key) {
            return Ok(Some(path.clone()));
        }
        let filter = match &key.0 {
            None => seccomp::docker_default(&security.capabilities, Machine::HOST),
            Some(text) => {
                seccomp::from_docker_profile(text.as_bytes(), &security.capabilities, Machine::HOST)
                    .map_err(SeccompError::Profile)?
            }
        };
        let program = seccomp::compile(&filter).map_err(SeccompError::Compile)?;
        let mut programs = lock(&self.programs);
        let path = self.dir.join(format!("{}.bpf", programs.len()));
        // A monitor of an earlier engine may be reading the old file: replace, never rewrite.
        let new = path.with_extension("new");
        std::fs::write(&new, program)
            .and_then(|()| std::fs::rename(&new, &path))
            .map_err(|source| SeccompError::Write {
                path: path.clone(),
                source,
            })?;
        programs.insert(key, path.clone());
        Ok(Some(path))
    }

    /// The accounts of a container that does not run. Blocks.
    pub(crate) fn accounts(
        &self,
        image: &Digest,
        mounts: &store::Mounts,
    ) -> io::Result<Arc<Accounts>> {
        // As long as the container has not written below /etc, the image's files are its own.
        let untouched = rustix::fs::lstat(mounts.upper.join("etc")).is_err();
        if untouched && let Some(accounts) = lock(&self.accounts).get(image) {
            return Ok(Arc::clone(accounts));
        }
        let root = open_root(mounts)?;
        let accounts = Arc::new(read_accounts(root.as_fd())?);
        if untouched {
            lock(&self.accounts).insert(image.clone(), Arc::clone(&accounts));
        }
        Ok(accounts)
    }

    /// Forgets an image that is gone.
    pub(crate) fn forget(&self, image: &Digest) {
        lock(&self.accounts).remove(image);
    }
}

/// The container's root as a read-only mount that is attached nowhere: it ends with the descriptor.
pub(crate) fn open_root(mounts: &store::Mounts) -> io::Result<OwnedFd> {
    // The writable layer is only read here, so it is one more lower directory.
    let layers: Vec<PathBuf> = std::iter::once(&mounts.upper)
        .chain(&mounts.lower)
        .cloned()
        .collect();
    open_layers(&layers)
}

/// Layers joined, the uppermost first, as a read-only mount that is attached nowhere.
pub(crate) fn open_layers(layers: &[PathBuf]) -> io::Result<OwnedFd> {
    // Overlayfs wants at least two.
    if let [only] = layers {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        return Ok(rustix::fs::open(only, flags, Mode::empty())?);
    }
    let layers: Vec<&Path> = layers.iter().map(PathBuf::as_path).collect();
    let careful = MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID;
    runtime::overlay::mount_read_only(&layers, careful).map_err(|error| error.source)
}

/// The accounts of a running container, through the root of its first process. Blocks.
pub(crate) fn accounts_of_process(pid: i32) -> io::Result<Accounts> {
    let root = rustix::fs::open(
        format!("/proc/{pid}/root"),
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    read_accounts(root.as_fd())
}

/// The accounts in a root that strangers wrote. Blocks.
pub(crate) fn read_accounts(root: std::os::fd::BorrowedFd<'_>) -> io::Result<Accounts> {
    Ok(Accounts {
        passwd: read_inside(root, "etc/passwd")?,
        group: read_inside(root, "etc/group")?,
    })
}

/// A plain file inside a root that strangers wrote; empty when it is not there. Only looked at
/// before it is known to be plain: a device would be opened with the host's rights.
fn read_inside(root: std::os::fd::BorrowedFd<'_>, path: &str) -> io::Result<String> {
    let opened = rustix::fs::openat2(
        root,
        Path::new(path),
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    );
    let found = match opened {
        Ok(found) => found,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
            return Ok(String::new());
        }
        Err(error) => return Err(error.into()),
    };
    let mode = rustix::fs::fstat(&found)?.st_mode;
    if FileType::from_raw_mode(mode) != FileType::RegularFile {
        return Ok(String::new());
    }
    let file = File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))?;
    let mut bytes = Vec::new();
    file.take(ACCOUNTS_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use rustix::fs::CWD;

    use super::*;

    /// Layers that overlayfs takes in one mount (`OVL_MAX_STACK`).
    const STACK_MAX: usize = 500;

    /// As many as an image may have, and what its container wrote.
    #[test]
    fn privileged_more_layers_than_one_mount_takes_are_joined() {
        let scratch = tempfile::tempdir().unwrap();
        let layers: Vec<PathBuf> = (0..=STACK_MAX)
            .map(|number| {
                let layer = scratch.path().join(number.to_string());
                std::fs::create_dir(&layer).unwrap();
                std::fs::write(layer.join(format!("own-{number}")), b"").unwrap();
                std::fs::write(layer.join("all"), number.to_string()).unwrap();
                layer
            })
            .collect();
        // Hidden in the lowest by the uppermost.
        let flags = Mode::empty();
        let whiteout = layers[0].join(format!("own-{STACK_MAX}"));
        rustix::fs::mknodat(CWD, &whiteout, FileType::CharacterDevice, flags, 0).unwrap();
        let root = open_layers(&layers).unwrap();
        let path = PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()));
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), STACK_MAX + 1);
        assert_eq!(std::fs::read_to_string(path.join("all")).unwrap(), "0");
        assert!(!path.join(format!("own-{STACK_MAX}")).exists());
        let own = layers.last().unwrap().join("all");
        let own = std::fs::read_to_string(own).unwrap();
        assert_eq!(own, STACK_MAX.to_string(), "nothing is mounted here");
    }
}
