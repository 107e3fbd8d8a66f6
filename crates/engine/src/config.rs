//! What the daemon decides for the engine, from flags and `daemon.json`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use vocab::config::{LogConfig, Ulimit};

/// What the daemon decides for the engine.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where state is kept over reboots (`/var/lib/berth`).
    pub data_root: PathBuf,
    /// Where sockets and state of this boot are kept (`/run/berth`).
    pub exec_root: PathBuf,
    /// Tells kernel objects of daemons side by side apart: six hex digits, or empty for the
    /// default data root.
    pub instance: String,
    /// The program that becomes a monitor when called with `monitor` as first argument.
    pub program: PathBuf,
    /// Storage driver by name; the best one that works when absent.
    pub storage_driver: Option<String>,
    /// Log driver and options of containers that name none.
    pub log: LogConfig,
    /// Bytes that all logs together may take; a tenth of the data root's file system when absent.
    pub log_budget_bytes: Option<u64>,
    /// Limits of containers that name none.
    pub ulimits: Vec<Ulimit>,
    /// Bytes of `/dev/shm` of containers that name none.
    pub shm_bytes: u64,
    /// Parent of every container's cgroup, instead of `/berth`.
    pub cgroup_parent: Option<String>,
    /// `private` or `host` for containers that say neither.
    pub cgroupns_mode: Option<String>,
    /// `private` or `shareable` for containers that say neither.
    pub ipc_mode: Option<String>,
    /// Profile file used instead of the built-in one.
    pub seccomp_profile: Option<PathBuf>,
    /// Whether new privileges are off for every container.
    pub no_new_privileges: bool,
    /// Whether every container gets an init as PID 1.
    pub init: bool,
    /// Where vendors describe their devices; what is in later ones counts more.
    pub cdi_directories: Vec<PathBuf>,
    /// DNS servers of containers that name none.
    pub dns: Vec<IpAddr>,
    /// DNS search domains of containers that name none.
    pub dns_search: Vec<String>,
    /// resolv.conf options of containers that name none.
    pub dns_options: Vec<String>,
    /// What `host-gateway` in extra hosts means; the bridge's gateway when empty.
    pub host_gateway: Vec<IpAddr>,
    /// The predefined bridge network.
    pub bridge: Bridge,
    /// Pools that networks without a subnet get one from: network text (`172.17.0.0/12`) and the
    /// bits of each subnet. The built-in ones when empty.
    pub address_pools: Vec<(String, u8)>,
    /// Labels of the daemon.
    pub labels: Vec<String>,
    /// How registries are reached.
    pub registry: registry::Config,
    /// Grace between the stop signal and SIGKILL for containers that name none.
    pub stop_timeout: Duration,
    /// When images are removed without being asked; never when absent.
    pub image_gc: Option<ImageGc>,
}

/// When images that nobody uses make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageGc {
    /// Begin when the file system of the data root is fuller, in percent.
    pub high_percent: u64,
    /// End when it is not fuller.
    pub low_percent: u64,
    /// What was used within this time stays.
    pub keep: Duration,
}

impl Default for ImageGc {
    fn default() -> Self {
        Self {
            high_percent: 90,
            low_percent: 80,
            keep: Duration::from_secs(14 * 24 * 60 * 60),
        }
    }
}

/// The predefined network `bridge`.
#[derive(Clone, Debug)]
pub struct Bridge {
    /// Whether it exists at all (`--bridge none` says no).
    pub enabled: bool,
    /// Device name; `berth0` or `br-<instance>` when absent.
    pub device: Option<String>,
    /// Gateway address with prefix (`--bip`), such as `172.17.0.1/16`; chosen when absent.
    pub address: Option<String>,
    /// Part of the subnet that containers get addresses from (`--fixed-cidr`).
    pub fixed_cidr: Option<String>,
    /// MTU; the device's default when absent.
    pub mtu: Option<u32>,
    /// Whether containers on it reach each other.
    pub icc: bool,
    /// Whether traffic to the outside is masqueraded.
    pub masquerade: bool,
    /// Host address of published ports that name none.
    pub publish_address: Ipv4Addr,
}

impl Default for Bridge {
    fn default() -> Self {
        Self {
            enabled: true,
            device: None,
            address: None,
            fixed_cidr: None,
            mtu: None,
            icc: true,
            masquerade: true,
            publish_address: Ipv4Addr::UNSPECIFIED,
        }
    }
}

/// Bytes of `/dev/shm` when nobody says otherwise (Docker's default).
pub const SHM_BYTES: u64 = 64 << 20;

/// Grace between the stop signal and SIGKILL when nobody names one (Engine API, ContainerStop).
pub const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Where vendors describe their devices (CDI's SPEC.md).
pub const CDI_DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

impl Config {
    /// Everything at its default for these places.
    pub fn new(data_root: PathBuf, exec_root: PathBuf, instance: String, program: PathBuf) -> Self {
        Self {
            data_root,
            exec_root,
            instance,
            program,
            storage_driver: None,
            log: LogConfig {
                kind: "local".to_owned(),
                config: Some(BTreeMap::new()),
            },
            log_budget_bytes: None,
            ulimits: Vec::new(),
            shm_bytes: SHM_BYTES,
            cgroup_parent: None,
            cgroupns_mode: None,
            ipc_mode: None,
            seccomp_profile: None,
            no_new_privileges: false,
            init: false,
            cdi_directories: CDI_DIRECTORIES.map(PathBuf::from).to_vec(),
            dns: Vec::new(),
            dns_search: Vec::new(),
            dns_options: Vec::new(),
            host_gateway: Vec::new(),
            bridge: Bridge::default(),
            address_pools: Vec::new(),
            labels: Vec::new(),
            registry: registry::Config::default(),
            stop_timeout: STOP_TIMEOUT,
            image_gc: Some(ImageGc::default()),
        }
    }
}
