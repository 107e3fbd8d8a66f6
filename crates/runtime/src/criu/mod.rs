//! Saving a container to a directory of images, and restoring it, through CRIU.
//!
//! ```text
//!  dump / restore                                    criu swrk FD
//!  ──────────────                                    ────────────
//!  plan: spec → what is mounted from the host
//!  cgroup::Cgroup::create (restore)
//!  fork ────────────────────────────────────────────▶ own mounts, root bound to `stage` (restore),
//!                                                     the container's cgroup (restore), execve
//!  Request: DUMP, PRE_DUMP or RESTORE, and options ─▶ stops the processes, or makes them
//!  ◀──────────────────────────── NOTIFY: a point was reached (hooks, terminal), answered each time
//!  ◀──────────────────────────── done, or why not; more is in its log
//! ```
//!
//! | module | holds |
//! |---|---|
//! | `rpc` | CRIU's messages |
//! | `swrk` | the program `criu`, found, started and talked to |
//! | `external` | which mounts are the host's, and what they are made of when it is restored |
//! | `mapped` | user namespaces and mounts that map ids |
//! | `streams` | standard streams that lead out of it |
//! | `dump` | a container becomes images |
//! | `restore` | images become a container |
//!
//! As in runc, network devices are not CRIU's business: a namespace of the container's own is saved
//! and restored empty, one that was joined by path is to be there again. Images are as trusted as a
//! program that root runs: whoever writes them decides what the restored processes are.

mod dump;
mod external;
mod mapped;
mod restore;
mod rpc;
mod streams;
mod swrk;

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::thread::UnshareFlags;

pub use dump::{Dump, DumpError, PageServer, dump};
pub use restore::{Restore, RestoreError, Restored, restore};
pub use streams::own_streams;
pub use swrk::CriuError;

use crate::bundle::Bundle;
use crate::error::CreateError;

/// Why CRIU was not asked.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// What the container is made of.
    #[error(transparent)]
    Plan(#[from] CreateError),
    /// One of the directories.
    #[error("open the directory `{path}`")]
    Directory {
        /// Which one.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What is known of the container, or of the host.
    #[error("read `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What is kept beside the images.
    #[error("write `{path}`")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A restored container's users could not reach its images.
    #[error("let the container's group {group} into `{path}`")]
    Admit {
        /// The directory.
        path: PathBuf,
        /// What its first group is on the host.
        group: u32,
        /// Why not.
        source: io::Error,
    },
}

impl PrepareError {
    fn read(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Read {
            path: path.to_owned(),
            source,
        }
    }
}

/// What concerns both ways.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The directory of the images.
    pub images: PathBuf,
    /// Where CRIU writes its log; [`images`](Self::images) by default.
    pub work: Option<PathBuf>,
    /// Connections of TCP are saved with the rest.
    pub tcp_established: bool,
    /// Unix sockets may lead out of the container.
    pub external_unix_sockets: bool,
    /// The session's leader, or its terminal, may be outside.
    pub shell_job: bool,
    /// Locks of files are saved with the rest.
    pub file_locks: bool,
    /// What a later image replaces is dropped from the earlier.
    pub auto_dedup: bool,
    /// Memory follows when it is asked for.
    pub lazy_pages: bool,
    /// What is done about cgroups; [`CgroupMode::Soft`] by default.
    pub cgroups: Option<CgroupMode>,
}

/// `--manage-cgroups-mode`, in CRIU's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupMode {
    /// They are neither saved nor restored.
    Ignore = 0,
    /// Properties only of those that are made.
    Soft = 3,
    /// Properties of all.
    Full = 4,
    /// Properties of all, none of which may be there before.
    Strict = 5,
}

impl CgroupMode {
    /// By the word for it.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "ignore" => Some(Self::Ignore),
            "soft" => Some(Self::Soft),
            "full" => Some(Self::Full),
            "strict" => Some(Self::Strict),
            _ => None,
        }
    }
}

/// Beside the images: what descriptors 0, 1 and 2 of the container were (runc's file, and form).
const DESCRIPTORS: &str = "descriptors.json";
/// The container's annotation that names a file of options for CRIU.
const CONFIGURATION: &str = "org.criu.config";
/// Options for CRIU where the container names none; runc's, so that they hold for berth too.
const HOSTS_CONFIGURATION: &str = "/etc/criu/runc.conf";
/// `log_level` 4: all that is of use when it fails.
const LOG_LEVEL: i32 = 4;
/// Names of external namespaces in the images. runc's.
const EXTERNAL_NAMESPACES: [(UnshareFlags, &str, &str); 2] = [
    (UnshareFlags::NEWNET, "net", "extRootNetNS"),
    (UnshareFlags::NEWPID, "pid", "extRootPidNS"),
];

/// The directories, open: CRIU takes them by our descriptors.
struct Directories {
    images: OwnedFd,
    work: Option<OwnedFd>,
    log: PathBuf,
}

impl Options {
    /// As the process `viewer` sees them: CRIU mounts in them, and can so only in mounts of its own.
    fn open(&self, log: &str, viewer: i32) -> Result<Directories, PrepareError> {
        let open = |path: &Path| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let absolute = std::path::absolute(path);
            let opened = absolute.and_then(|absolute| {
                let below = absolute.strip_prefix("/").unwrap_or(&absolute);
                let seen = Path::new("/proc").join(viewer.to_string()).join("root");
                Ok(rustix::fs::open(seen.join(below), flags, Mode::empty())?)
            });
            opened.map_err(|source| PrepareError::Directory {
                path: path.to_owned(),
                source,
            })
        };
        let work = self.work.as_deref();
        Ok(Directories {
            images: open(&self.images)?,
            work: work.map(open).transpose()?,
            log: work.unwrap_or(&self.images).join(log),
        })
    }

    /// What both requests have in common.
    fn request(&self, directories: &Directories, bundle: &Bundle) -> rpc::Options {
        use std::os::fd::AsRawFd as _;
        let on = |switch: bool| switch.then_some(true);
        let log = directories.log.file_name().map(OsStr::to_string_lossy);
        rpc::Options {
            images_directory: directories.images.as_raw_fd(),
            work_directory: directories.work.as_ref().map(|fd| fd.as_raw_fd()),
            log_file: log.map(String::from),
            log_level: Some(LOG_LEVEL),
            notify: Some(true),
            orphan_pts_master: Some(true),
            manage_cgroups: Some(true),
            manage_cgroups_mode: self.cgroups.map(|mode| mode as i32),
            tcp_established: on(self.tcp_established),
            external_unix_sockets: on(self.external_unix_sockets),
            shell_job: on(self.shell_job),
            file_locks: on(self.file_locks),
            auto_dedup: on(self.auto_dedup),
            lazy_pages: on(self.lazy_pages),
            empty_namespaces: Some(UnshareFlags::NEWNET.bits()),
            configuration: configuration(bundle),
            ..rpc::Options::default()
        }
    }
}

/// The file of options for CRIU, if there is one.
fn configuration(bundle: &Bundle) -> Option<String> {
    let annotations = bundle.spec.annotations().as_ref();
    let named = annotations.and_then(|all| all.get(CONFIGURATION));
    let hosts = || {
        let hosts = Path::new(HOSTS_CONFIGURATION);
        hosts.exists().then(|| HOSTS_CONFIGURATION.to_owned())
    };
    named.cloned().or_else(hosts)
}
