//! Control groups: versions 1, 2 and the hybrid of both, behind one type.

mod stats;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

pub use stats::{BlockIo, Cpu, DeviceIo, Memory, Pids, Stats};

use crate::oci;

/// How this host mounts cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Only version 1 hierarchies.
    V1,
    /// Version 1 hierarchies hold the controllers, version 2 is mounted beside them.
    Hybrid,
    /// One version 2 hierarchy holds everything.
    V2,
}

impl Layout {
    /// What is mounted here.
    pub fn detect() -> Result<Self, CgroupError> {
        todo!()
    }
}

/// An operation on a cgroup that failed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No cgroup hierarchy is mounted.
    #[error("no cgroup file system is mounted below /sys/fs/cgroup")]
    NotMounted,
    /// A controller that a limit needs is not there.
    #[error("the kernel's `{controller}` cgroup controller is not available, needed for {limit}")]
    Missing {
        /// Such as `memory`.
        controller: &'static str,
        /// The limit that was asked for.
        limit: &'static str,
    },
    /// A value that makes no sense.
    #[error("invalid value for {limit}: {value}")]
    Invalid {
        /// The limit.
        limit: &'static str,
        /// What was given.
        value: String,
    },
    /// A file or directory of the hierarchy.
    #[error("{action} `{path}`")]
    File {
        /// `create`, `write "…" to`, `read`, `remove`.
        action: String,
        /// Which.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The device filter of version 2.
    #[error("attach the device filter to `{path}`")]
    Devices {
        /// The cgroup.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// One cgroup: a path that exists in every hierarchy. Dropping the value leaves the cgroup.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes the cgroup and applies the limits. `path` is absolute below the mounts.
    pub fn create(
        path: &str,
        resources: Option<&oci::LinuxResources>,
    ) -> Result<Self, CgroupError> {
        let _ = (path, resources);
        todo!()
    }

    /// One that exists (or did: operations on a removed cgroup say so).
    pub fn open(path: &str) -> Result<Self, CgroupError> {
        let _ = path;
        todo!()
    }

    /// The path below the mounts.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves a process into it.
    pub fn add(&self, pid: i32) -> Result<(), CgroupError> {
        let _ = pid;
        todo!()
    }

    /// Every process in it and below.
    pub fn pids(&self) -> Result<Vec<i32>, CgroupError> {
        todo!()
    }

    /// Stops all its processes; returns when they stand still.
    pub fn freeze(&self) -> Result<(), CgroupError> {
        todo!()
    }

    /// Lets them go on.
    pub fn thaw(&self) -> Result<(), CgroupError> {
        todo!()
    }

    /// Whether it is frozen.
    pub fn is_frozen(&self) -> Result<bool, CgroupError> {
        todo!()
    }

    /// SIGKILL to every process in it and below, forks included.
    pub fn kill_all(&self) -> Result<(), CgroupError> {
        todo!()
    }

    /// Changes the limits that are given; leaves the others.
    pub fn update(&self, resources: &oci::LinuxResources) -> Result<(), CgroupError> {
        let _ = resources;
        todo!()
    }

    /// What it has used.
    pub fn stats(&self) -> Result<Stats, CgroupError> {
        todo!()
    }

    /// How many of its processes the kernel killed for want of memory.
    pub fn oom_kills(&self) -> Result<u64, CgroupError> {
        todo!()
    }

    /// A descriptor that becomes readable when memory runs out.
    pub fn watch_oom(&self) -> Result<OomWatch, CgroupError> {
        todo!()
    }

    /// Removes it and what the container made below. No process may be left in it; one that is
    /// just ending is waited for, briefly. A cgroup that is gone is no error.
    pub fn remove(self) -> Result<(), CgroupError> {
        todo!()
    }
}

/// Readable when the cgroup ran out of memory. Drain with [`OomWatch::drain`], then compare
/// [`Cgroup::oom_kills`].
#[derive(Debug)]
pub struct OomWatch {
    fd: OwnedFd,
}

impl OomWatch {
    /// Forgets what was signalled.
    pub fn drain(&self) {
        todo!()
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
