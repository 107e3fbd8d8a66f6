//! The host and the totals.

use crate::Engine;
use crate::containers::Summary;
use crate::images::Image;
use crate::volumes::Volume;

/// What `info` shows of the engine and its host.
#[derive(Clone, Debug, Default)]
pub struct Info {
    /// Identifies this data root for ever.
    pub id: String,
    /// Containers in all.
    pub containers: usize,
    /// That run.
    pub running: usize,
    /// That are frozen.
    pub paused: usize,
    /// That do not run.
    pub stopped: usize,
    /// Images.
    pub images: usize,
    /// Storage driver.
    pub storage_driver: String,
    /// Rows that the storage driver shows.
    pub storage_status: Vec<(String, String)>,
    /// Data root.
    pub root: String,
    /// `1` or `2`.
    pub cgroup_version: String,
    /// Resources that can be limited here: `memory`, `swap`, `pids`, `cpu-cfs`, `cpu-shares`,
    /// `cpuset`, `blkio`, `oom-kill`.
    pub limits: Vec<String>,
    /// `name=seccomp,profile=builtin`, …
    pub security_options: Vec<String>,
    /// Log driver of containers that name none.
    pub log_driver: String,
    /// Kernel release.
    pub kernel: String,
    /// `PRETTY_NAME` of the host's os-release.
    pub operating_system: String,
    /// `VERSION_ID` of the host's os-release.
    pub os_version: String,
    /// `x86_64`, `aarch64`.
    pub architecture: String,
    /// Processors.
    pub cpus: usize,
    /// Bytes.
    pub memory_bytes: u64,
    /// Host name.
    pub name: String,
    /// Whether packets are forwarded between interfaces.
    pub ipv4_forwarding: bool,
    /// Labels of the daemon.
    pub labels: Vec<String>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// What `system df` shows.
#[derive(Clone, Debug, Default)]
pub struct DiskUsage {
    /// Bytes of all layers, each counted once.
    pub layers_bytes: u64,
    /// Images.
    pub images: Vec<Image>,
    /// Containers with their sizes.
    pub containers: Vec<Summary>,
    /// Volumes, their bytes, and how many containers use them.
    pub volumes: Vec<(Volume, u64, usize)>,
}

impl Engine {
    /// The engine and its host.
    pub async fn info(&self) -> Info {
        todo!()
    }

    /// What takes space.
    pub async fn disk_usage(&self) -> DiskUsage {
        todo!()
    }
}
