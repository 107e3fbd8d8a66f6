//! The host and the totals.

use std::fs;
use std::sync::Arc;

use runtime::cgroup::Layout;

use crate::Engine;
use crate::containers::Status;

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
    /// Where vendors describe their devices.
    pub cdi_directories: Vec<String>,
    /// Labels of the daemon.
    pub labels: Vec<String>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

impl Engine {
    /// The engine and its host.
    pub async fn info(&self) -> Info {
        let shared = Arc::clone(&self.shared);
        let count = |status: Status| {
            let views = self.shared.index().views();
            views
                .iter()
                .filter(|view| view.course.state().status == status)
                .count()
        };
        let containers = self.shared.index().views().len();
        let running = count(Status::Running) + count(Status::Restarting);
        let paused = count(Status::Paused);
        let config = self.shared.config.clone();
        let limits = limits(shared.layout);
        let host = tasks::blocking(move || {
            let images = shared.store.images().map_or(0, |images| images.len());
            (images, Host::read())
        });
        let (images, host) = host.await;
        let mut warnings = Vec::new();
        for limit in ["memory", "swap", "cpu-cfs", "cpuset", "pids", "blkio"] {
            if !limits.iter().any(|own| own == limit) {
                warnings.push(format!("WARNING: No {limit} limit support"));
            }
        }
        let told = self.shared.store.told().iter();
        warnings.extend(told.map(|sentence| format!("WARNING: {sentence}")));
        Info {
            id: self.shared.id.clone(),
            containers,
            running,
            paused,
            stopped: containers.saturating_sub(running + paused),
            images,
            storage_driver: self.shared.store.driver().name().to_owned(),
            storage_status: Vec::new(),
            root: config.data_root.to_string_lossy().into_owned(),
            cgroup_version: match self.shared.layout {
                Layout::V2 => "2".to_owned(),
                Layout::V1 | Layout::Hybrid => "1".to_owned(),
            },
            limits,
            security_options: vec![match &config.seccomp_profile {
                None => "name=seccomp,profile=builtin".to_owned(),
                Some(path) => format!("name=seccomp,profile={}", path.display()),
            }],
            log_driver: config.log.kind,
            kernel: host.kernel,
            operating_system: host.operating_system,
            os_version: host.os_version,
            architecture: host.architecture,
            cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_bytes: memory_bytes(),
            name: host.name,
            ipv4_forwarding: host.ipv4_forwarding,
            cdi_directories: config
                .cdi_directories
                .iter()
                .map(|path| path.display().to_string())
                .collect(),
            labels: config.labels,
            warnings,
        }
    }
}

/// Bytes of the host's memory.
pub(crate) fn memory_bytes() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .unwrap_or(0)
        * 1024
}

struct Host {
    kernel: String,
    architecture: String,
    name: String,
    operating_system: String,
    os_version: String,
    ipv4_forwarding: bool,
}

impl Host {
    fn read() -> Self {
        let names = rustix::system::uname();
        let release = fs::read_to_string("/etc/os-release")
            .or_else(|_| fs::read_to_string("/usr/lib/os-release"))
            .unwrap_or_default();
        let field = |key: &str| {
            let value = release.lines().find_map(|line| line.strip_prefix(key));
            value.unwrap_or_default().trim_matches('"').to_owned()
        };
        let forward = fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap_or_default();
        Self {
            kernel: names.release().to_string_lossy().into_owned(),
            architecture: names.machine().to_string_lossy().into_owned(),
            name: names.nodename().to_string_lossy().into_owned(),
            operating_system: field("PRETTY_NAME="),
            os_version: field("VERSION_ID="),
            ipv4_forwarding: forward.trim() == "1",
        }
    }
}

/// What can be limited: by the kernel's list of controllers.
fn limits(layout: Layout) -> Vec<String> {
    let controllers: Vec<String> = match layout {
        Layout::V2 => fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")
            .unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect(),
        Layout::V1 | Layout::Hybrid => fs::read_to_string("/proc/cgroups")
            .unwrap_or_default()
            .lines()
            .filter(|line| !line.starts_with('#') && line.trim_end().ends_with('1'))
            .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
            .collect(),
    };
    let has = |name: &str| controllers.iter().any(|own| own == name);
    let swap = match layout {
        Layout::V2 => true,
        _ => fs::exists("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").unwrap_or(false),
    };
    [
        ("memory", has("memory")),
        ("swap", has("memory") && swap),
        ("oom-kill", has("memory") && layout != Layout::V2),
        ("cpu-cfs", has("cpu")),
        ("cpu-shares", has("cpu")),
        ("cpuset", has("cpuset")),
        ("pids", has("pids")),
        ("blkio", has("blkio") || has("io")),
    ]
    .into_iter()
    .filter(|(_, there)| *there)
    .map(|(name, _)| name.to_owned())
    .collect()
}
