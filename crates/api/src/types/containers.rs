//! Containers and what runs in them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use vocab::config::{
    ContainerConfig, EndpointSettings, HostConfig, NetworkingConfig, PortBinding, Resources,
    RestartPolicy,
};

use super::is_zero;

/// The body of `POST /containers/create`: a `Config` with two members more.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct CreateRequest {
    /// What runs.
    #[serde(flatten)]
    pub config: ContainerConfig,
    /// How it runs on this host.
    pub host_config: HostConfig,
    /// Networks it joins.
    pub networking_config: NetworkingConfig,
}

/// The answer to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct CreateResponse {
    /// The new container.
    pub id: String,
    /// What was not taken as it was said; never `null`.
    pub warnings: Vec<String>,
}

/// The body of `POST /containers/{id}/update`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct UpdateRequest {
    /// New limits; zero keeps the old one.
    #[serde(flatten)]
    pub resources: Resources,
    /// New policy, unless its name is empty.
    pub restart_policy: RestartPolicy,
}

/// The answer to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct UpdateResponse {
    /// What was not taken as it was said.
    pub warnings: Option<Vec<String>>,
}

/// One line of `docker ps`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ContainerSummary {
    /// 64 digits.
    pub id: String,
    /// With a leading slash.
    pub names: Vec<String>,
    /// As the user named it, or its id when that name means another image now.
    pub image: String,
    /// `sha256:…`.
    #[serde(rename = "ImageID")]
    pub image_id: String,
    /// Entry point and arguments as one line.
    pub command: String,
    /// Seconds since 1970.
    pub created: i64,
    /// Exposed and published ports.
    pub ports: Vec<Port>,
    /// Bytes of the writable layer, when asked for.
    #[serde(skip_serializing_if = "is_zero")]
    pub size_rw: i64,
    /// Bytes of all layers, when asked for.
    #[serde(skip_serializing_if = "is_zero")]
    pub size_root_fs: i64,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// `created`, `running`, `paused`, `restarting`, `removing`, `exited` or `dead`.
    pub state: String,
    /// The same for people: `Up 5 minutes (healthy)`.
    pub status: String,
    /// A little of the host configuration.
    pub host_config: HostSummary,
    /// Health in short (API 1.52).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthSummary>,
    /// Its networks.
    pub network_settings: NetworkSettingsSummary,
    /// Its mounts.
    pub mounts: Vec<MountPoint>,
}

/// What a list tells of the host configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct HostSummary {
    /// As asked for.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub network_mode: String,
    /// Free text (API 1.46).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// Health in a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct HealthSummary {
    /// `none`, `starting`, `healthy` or `unhealthy`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub status: String,
    /// Failed checks in a row.
    pub failing_streak: i64,
}

/// What a list tells of the networks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct NetworkSettingsSummary {
    /// By network name.
    pub networks: BTreeMap<String, EndpointSettings>,
}

/// An exposed port, and where it is published.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Port {
    /// Host address, when published.
    #[serde(rename = "IP", skip_serializing_if = "String::is_empty")]
    pub ip: String,
    /// In the container.
    pub private_port: u16,
    /// On the host, when published.
    #[serde(skip_serializing_if = "is_zero")]
    pub public_port: u16,
    /// `tcp`, `udp` or `sctp`.
    #[serde(rename = "Type")]
    pub protocol: String,
}

/// A mount as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct MountPoint {
    /// `bind`, `volume`, `tmpfs`, `image`.
    #[serde(rename = "Type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Of the volume.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// On the host.
    pub source: String,
    /// In the container.
    pub destination: String,
    /// Of the volume.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub driver: String,
    /// Options as they were typed.
    pub mode: String,
    /// Whether writing is allowed.
    #[serde(rename = "RW")]
    pub writable: bool,
    /// `rprivate`, …
    pub propagation: String,
}

/// Everything about one container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ContainerInspect {
    /// 64 digits.
    pub id: String,
    /// RFC 3339.
    pub created: String,
    /// The program.
    pub path: String,
    /// Its arguments; never `null`.
    pub args: Vec<String>,
    /// What it does now.
    pub state: ContainerState,
    /// `sha256:…`.
    pub image: String,
    /// On the host.
    pub resolv_conf_path: String,
    /// On the host.
    pub hostname_path: String,
    /// On the host.
    pub hosts_path: String,
    /// On the host; empty when logs are kept elsewhere.
    pub log_path: String,
    /// With a leading slash.
    pub name: String,
    /// How often its restart policy started it again.
    pub restart_count: i64,
    /// Snapshot driver.
    pub driver: String,
    /// Operating system.
    pub platform: String,
    /// SELinux.
    pub mount_label: String,
    /// SELinux.
    pub process_label: String,
    /// AppArmor.
    pub app_armor_profile: String,
    /// Commands that run inside now.
    #[serde(rename = "ExecIDs")]
    pub exec_ids: Option<Vec<String>>,
    /// As asked for, with defaults.
    pub host_config: HostConfig,
    /// Where its files are (before API 1.52).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub graph_driver: Option<DriverData>,
    /// Where its files are (API 1.52).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<Storage>,
    /// Bytes of the writable layer, when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_rw: Option<i64>,
    /// Bytes of all layers, when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_root_fs: Option<i64>,
    /// Its mounts.
    pub mounts: Vec<MountPoint>,
    /// As asked for, with what the image says.
    pub config: ContainerConfig,
    /// Its networks as they are.
    pub network_settings: NetworkSettings,
}

/// What a container does now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ContainerState {
    /// `created`, `running`, `paused`, `restarting`, `removing`, `exited` or `dead`.
    pub status: String,
    /// Also while paused.
    pub running: bool,
    /// Frozen.
    pub paused: bool,
    /// Between two runs.
    pub restarting: bool,
    /// Whether the kernel ended it for lack of memory.
    #[serde(rename = "OOMKilled")]
    pub oom_killed: bool,
    /// Could not be removed.
    pub dead: bool,
    /// On the host; 0 when not running.
    pub pid: i64,
    /// Of the last run.
    pub exit_code: i64,
    /// Why it could not start.
    pub error: String,
    /// RFC 3339; [`vocab::time::ZERO`] before the first start.
    pub started_at: String,
    /// RFC 3339; [`vocab::time::ZERO`] before the first exit.
    pub finished_at: String,
    /// Health, when it is checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
}

/// The results of health checks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Health {
    /// `starting`, `healthy` or `unhealthy`.
    pub status: String,
    /// Failed checks in a row.
    pub failing_streak: i64,
    /// The last few.
    pub log: Vec<HealthResult>,
}

/// One health check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct HealthResult {
    /// RFC 3339.
    pub start: String,
    /// RFC 3339.
    pub end: String,
    /// 0 is healthy.
    pub exit_code: i64,
    /// What it printed.
    pub output: String,
}

/// Where the files of a container or an image are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DriverData {
    /// What the driver tells.
    pub data: Option<BTreeMap<String, String>>,
    /// Its name.
    pub name: String,
}

/// The same since API 1.52.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Storage {
    /// The root file system.
    #[serde(rename = "RootFS", skip_serializing_if = "Option::is_none")]
    pub root_fs: Option<RootFsStorage>,
}

/// How the root file system is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct RootFsStorage {
    /// As a snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotStorage>,
}

/// A snapshot driver.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct SnapshotStorage {
    /// Its name.
    pub name: String,
}

/// Networks of a container as they are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct NetworkSettings {
    /// Always empty (before API 1.52).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// Of the network namespace.
    #[serde(rename = "SandboxID")]
    pub sandbox_id: String,
    /// Where it can be entered.
    pub sandbox_key: String,
    /// By `port/protocol`; `null` when exposed and not published.
    pub ports: BTreeMap<String, Option<Vec<PortBinding>>>,
    /// Members that API 1.52 dropped.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub unused: Option<UnusedSettings>,
    /// Members that API 1.52 dropped.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub default: Option<DefaultEndpoint>,
    /// By network name.
    pub networks: BTreeMap<String, EndpointSettings>,
}

/// Members at the top of [`NetworkSettings`] before API 1.52 that mean nothing any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct UnusedSettings {
    /// Always false.
    pub hairpin_mode: bool,
    /// Always empty.
    #[serde(rename = "LinkLocalIPv6Address")]
    pub link_local_ipv6_address: String,
    /// Always 0.
    #[serde(rename = "LinkLocalIPv6PrefixLen")]
    pub link_local_ipv6_prefix_len: u8,
    /// Always `null`.
    #[serde(rename = "SecondaryIPAddresses")]
    pub secondary_ip_addresses: Option<Vec<String>>,
    /// Always `null`.
    #[serde(rename = "SecondaryIPv6Addresses")]
    pub secondary_ipv6_addresses: Option<Vec<String>>,
}

/// Members at the top of [`NetworkSettings`] before API 1.52: the endpoint on the
/// default bridge once more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DefaultEndpoint {
    /// The endpoint.
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    /// IPv4 gateway.
    pub gateway: String,
    /// IPv6 address.
    #[serde(rename = "GlobalIPv6Address")]
    pub global_ipv6_address: String,
    /// Bits of the IPv6 network.
    #[serde(rename = "GlobalIPv6PrefixLen")]
    pub global_ipv6_prefix_len: u8,
    /// IPv4 address.
    #[serde(rename = "IPAddress")]
    pub ip_address: String,
    /// Bits of the IPv4 network.
    #[serde(rename = "IPPrefixLen")]
    pub ip_prefix_len: u8,
    /// IPv6 gateway.
    #[serde(rename = "IPv6Gateway")]
    pub ipv6_gateway: String,
    /// MAC address.
    pub mac_address: String,
}

/// The process table of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Top {
    /// A row for each process.
    pub processes: Vec<Vec<String>>,
    /// What the columns are.
    pub titles: Vec<String>,
}

/// The end of `wait`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct WaitResponse {
    /// Why waiting failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<WaitError>,
    /// The exit code.
    pub status_code: i64,
}

/// Why waiting failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct WaitError {
    /// For people.
    pub message: String,
}

/// The body of `POST /containers/{id}/exec`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ExecConfig {
    /// User and group; the container's when empty.
    pub user: String,
    /// All capabilities.
    pub privileged: bool,
    /// With a terminal.
    pub tty: bool,
    /// Rows and columns of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console_size: Option<[u16; 2]>,
    /// Whether stdin is wanted.
    pub attach_stdin: bool,
    /// Whether stderr is wanted.
    pub attach_stderr: bool,
    /// Whether stdout is wanted.
    pub attach_stdout: bool,
    /// Old clients say it here too; the start call decides.
    #[serde(skip_serializing_if = "is_zero")]
    pub detach: bool,
    /// Keys that detach.
    pub detach_keys: String,
    /// Added to the container's.
    pub env: Option<Vec<String>>,
    /// The container's when empty.
    pub working_dir: String,
    /// The command.
    pub cmd: Vec<String>,
}

/// The body of `POST /exec/{id}/start`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ExecStart {
    /// Whether the call returns at once.
    pub detach: bool,
    /// As it was created.
    pub tty: bool,
    /// Rows and columns of the terminal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console_size: Option<[u16; 2]>,
}

/// An exec instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ExecInspect {
    /// 64 digits.
    #[serde(rename = "ID")]
    pub id: String,
    /// Whether it runs.
    pub running: bool,
    /// `null` until it ended.
    pub exit_code: Option<i64>,
    /// What it is.
    pub process_config: ProcessConfig,
    /// Whether stdin is attached.
    pub open_stdin: bool,
    /// Whether stderr is attached.
    pub open_stderr: bool,
    /// Whether stdout is attached.
    pub open_stdout: bool,
    /// Whether it is forgotten soon.
    pub can_remove: bool,
    /// Where it runs.
    #[serde(rename = "ContainerID")]
    pub container_id: String,
    /// Base64 of the bytes.
    pub detach_keys: String,
    /// On the host; 0 when not running.
    pub pid: i64,
}

/// The command of an exec instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessConfig {
    /// With a terminal.
    pub tty: bool,
    /// The program.
    pub entrypoint: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// All capabilities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub privileged: Option<bool>,
    /// User and group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
}

/// One sample of what a container uses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// The container, with a leading slash.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The container.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// When; RFC 3339.
    pub read: String,
    /// When `precpu_stats` was read; RFC 3339.
    pub preread: String,
    /// Processes.
    pub pids_stats: PidsStats,
    /// Block devices.
    pub blkio_stats: BlkioStats,
    /// Windows only.
    pub num_procs: u32,
    /// Windows only.
    pub storage_stats: vocab::config::Empty,
    /// CPU time until now.
    pub cpu_stats: CpuStats,
    /// CPU time until the sample before.
    pub precpu_stats: CpuStats,
    /// Memory.
    pub memory_stats: MemoryStats,
    /// By interface.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub networks: BTreeMap<String, NetworkStats>,
}

/// Processes of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PidsStats {
    /// Now.
    #[serde(skip_serializing_if = "is_zero")]
    pub current: u64,
    /// At most; the greatest number when unlimited.
    #[serde(skip_serializing_if = "is_zero")]
    pub limit: u64,
}

/// What block devices did; `null` where the kernel does not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlkioStats {
    /// Bytes by operation.
    pub io_service_bytes_recursive: Option<Vec<BlkioEntry>>,
    /// Operations.
    pub io_serviced_recursive: Option<Vec<BlkioEntry>>,
    /// Cgroup v1 only.
    pub io_queue_recursive: Option<Vec<BlkioEntry>>,
    /// Cgroup v1 only.
    pub io_service_time_recursive: Option<Vec<BlkioEntry>>,
    /// Cgroup v1 only.
    pub io_wait_time_recursive: Option<Vec<BlkioEntry>>,
    /// Cgroup v1 only.
    pub io_merged_recursive: Option<Vec<BlkioEntry>>,
    /// Cgroup v1 only.
    pub io_time_recursive: Option<Vec<BlkioEntry>>,
    /// Cgroup v1 only.
    pub sectors_recursive: Option<Vec<BlkioEntry>>,
}

/// One device and operation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlkioEntry {
    /// Of the device.
    pub major: u64,
    /// Of the device.
    pub minor: u64,
    /// `read`, `write`, …
    pub op: String,
    /// Bytes, operations or nanoseconds.
    pub value: u64,
}

/// CPU time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuStats {
    /// Of the container.
    pub cpu_usage: CpuUsage,
    /// Of the whole host, nanoseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub system_cpu_usage: u64,
    /// CPUs of the host.
    #[serde(skip_serializing_if = "is_zero")]
    pub online_cpus: u32,
    /// What limits did.
    pub throttling_data: Throttling,
}

/// CPU time of a container, nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuUsage {
    /// In all.
    pub total_usage: u64,
    /// By CPU (cgroup v1 only).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_usage: Vec<u64>,
    /// In the kernel.
    pub usage_in_kernelmode: u64,
    /// In programs.
    pub usage_in_usermode: u64,
}

/// What CPU limits did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Throttling {
    /// That were enforced.
    pub periods: u64,
    /// In which it had to wait.
    pub throttled_periods: u64,
    /// Nanoseconds of waiting.
    pub throttled_time: u64,
}

/// Memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryStats {
    /// Bytes.
    #[serde(skip_serializing_if = "is_zero")]
    pub usage: u64,
    /// Bytes (cgroup v1 only).
    #[serde(skip_serializing_if = "is_zero")]
    pub max_usage: u64,
    /// memory.stat.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub stats: BTreeMap<String, u64>,
    /// How often the limit was met.
    #[serde(skip_serializing_if = "is_zero")]
    pub failcnt: u64,
    /// Bytes; the host's memory when unlimited.
    #[serde(skip_serializing_if = "is_zero")]
    pub limit: u64,
}

/// One network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkStats {
    /// Received.
    pub rx_bytes: u64,
    /// Received.
    pub rx_packets: u64,
    /// Received.
    pub rx_errors: u64,
    /// Received.
    pub rx_dropped: u64,
    /// Sent.
    pub tx_bytes: u64,
    /// Sent.
    pub tx_packets: u64,
    /// Sent.
    pub tx_errors: u64,
    /// Sent.
    pub tx_dropped: u64,
}

/// The answer to `POST /containers/prune`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ContainersPruned {
    /// Ids; `null` when there were none.
    pub containers_deleted: Option<Vec<String>>,
    /// Bytes.
    pub space_reclaimed: u64,
}

/// One path that differs from the image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Change {
    /// 0 changed, 1 added, 2 removed.
    pub kind: u8,
    /// In the container.
    pub path: String,
}

/// What is at a path in a container; in the header [`PATH_STAT`], as JSON in base64.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ContainerPathStat {
    /// The last part of the path.
    pub name: String,
    /// Bytes.
    pub size: i64,
    /// As Go writes modes: permissions, and what it is in the upper bits.
    pub mode: u32,
    /// When it changed.
    pub mtime: String,
    /// Where a link leads in the end.
    pub link_target: String,
}

/// The header with a [`ContainerPathStat`].
pub const PATH_STAT: &str = "x-docker-container-path-stat";

impl ContainerPathStat {
    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.mode & (1 << 31) != 0
    }

    /// Whether it is a symbolic link.
    pub fn is_link(&self) -> bool {
        self.mode & (1 << 27) != 0
    }

    /// Whether it is neither device, pipe nor socket.
    pub fn is_plain(&self) -> bool {
        const OTHERS: u32 = 1 << 26 | 1 << 25 | 1 << 24 | 1 << 21;
        self.mode & OTHERS == 0
    }
}
