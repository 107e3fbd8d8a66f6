//! The daemon itself: version, info, events, disk usage.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ContainerSummary, ImageSummary, Volume, is_zero};

/// The answer to `GET /version`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct SystemVersion {
    /// What this is.
    pub platform: PlatformName,
    /// What it is made of.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub components: Vec<Component>,
    /// Of the engine.
    pub version: String,
    /// Newest API.
    pub api_version: String,
    /// Oldest API.
    #[serde(rename = "MinAPIVersion", skip_serializing_if = "String::is_empty")]
    pub min_api_version: String,
    /// Commit of the build.
    pub git_commit: String,
    /// Clients show it; berth names its compiler.
    pub go_version: String,
    /// Operating system.
    pub os: String,
    /// CPU architecture.
    pub arch: String,
    /// Kernel.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kernel_version: String,
    /// Whether experimental features are on.
    #[serde(skip_serializing_if = "is_zero")]
    pub experimental: bool,
    /// RFC 3339.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub build_time: String,
}

/// What a daemon calls itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct PlatformName {
    /// For people.
    pub name: String,
}

/// A part of a daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Component {
    /// `Engine`, …
    pub name: String,
    /// Its version.
    pub version: String,
    /// Free text.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub details: BTreeMap<String, String>,
}

/// The answer to `GET /info`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Info {
    /// Of this daemon.
    #[serde(rename = "ID")]
    pub id: String,
    /// In all.
    pub containers: u64,
    /// Of them.
    pub containers_running: u64,
    /// Of them.
    pub containers_paused: u64,
    /// Of them.
    pub containers_stopped: u64,
    /// Images.
    pub images: u64,
    /// Snapshot driver.
    pub driver: String,
    /// What it tells, as pairs.
    pub driver_status: Option<Vec<[String; 2]>>,
    /// What can be plugged in.
    pub plugins: PluginsInfo,
    /// Whether memory can be limited.
    pub memory_limit: bool,
    /// Whether swap can be limited.
    pub swap_limit: bool,
    /// Whether CPU time can be limited.
    pub cpu_cfs_period: bool,
    /// Whether CPU time can be limited.
    pub cpu_cfs_quota: bool,
    /// Whether CPU weights work.
    #[serde(rename = "CPUShares")]
    pub cpu_shares: bool,
    /// Whether CPUs can be chosen.
    #[serde(rename = "CPUSet")]
    pub cpu_set: bool,
    /// Whether processes can be limited.
    pub pids_limit: bool,
    /// Whether the host forwards.
    #[serde(rename = "IPv4Forwarding")]
    pub ipv4_forwarding: bool,
    /// Always false (before API 1.50).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bridge_nf_iptables: Option<bool>,
    /// Always false (before API 1.50).
    #[serde(rename = "BridgeNfIp6tables", skip_serializing_if = "Option::is_none")]
    pub bridge_nf_ip6tables: Option<bool>,
    /// Whether the log says more.
    pub debug: bool,
    /// Open descriptors.
    pub n_fd: u64,
    /// Whether the kernel's killer can be switched off.
    pub oom_kill_disable: bool,
    /// Clients show it; berth tells its threads.
    pub n_goroutines: u64,
    /// RFC 3339.
    pub system_time: String,
    /// Default of containers.
    pub logging_driver: String,
    /// `cgroupfs`, `systemd` or `none`.
    pub cgroup_driver: String,
    /// `1` or `2`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cgroup_version: String,
    /// Clients of `GET /events`.
    pub n_events_listener: u64,
    /// Kernel.
    pub kernel_version: String,
    /// Distribution.
    pub operating_system: String,
    /// Its version.
    #[serde(rename = "OSVersion")]
    pub os_version: String,
    /// `linux`.
    #[serde(rename = "OSType")]
    pub os_type: String,
    /// In the kernel's words.
    pub architecture: String,
    /// Where names without a registry are looked for.
    pub index_server_address: String,
    /// How registries are spoken to.
    pub registry_config: Option<RegistryConfig>,
    /// CPUs.
    #[serde(rename = "NCPU")]
    pub ncpu: u64,
    /// Bytes.
    pub mem_total: u64,
    /// Of a swarm.
    pub generic_resources: Option<Vec<serde_json::Value>>,
    /// The data root.
    pub docker_root_dir: String,
    /// Proxy.
    pub http_proxy: String,
    /// Proxy.
    pub https_proxy: String,
    /// Exceptions.
    pub no_proxy: String,
    /// Host name.
    pub name: String,
    /// Of this daemon; never `null`.
    pub labels: Vec<String>,
    /// Whether experimental features are on.
    pub experimental_build: bool,
    /// Of the engine.
    pub server_version: String,
    /// OCI runtimes by name.
    pub runtimes: BTreeMap<String, RuntimeInfo>,
    /// The one that is used.
    pub default_runtime: String,
    /// The cluster.
    pub swarm: SwarmInfo,
    /// Whether containers survive the daemon.
    pub live_restore_enabled: bool,
    /// Windows only.
    pub isolation: String,
    /// Init of `--init`.
    pub init_binary: String,
    /// Docker's parts; berth has none of them.
    pub containerd_commit: Commit,
    /// Docker's parts; berth has none of them.
    pub runc_commit: Commit,
    /// Docker's parts; berth has none of them.
    pub init_commit: Commit,
    /// `name=seccomp,profile=builtin`, …
    pub security_options: Vec<String>,
    /// Pools that networks get.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub default_address_pools: Vec<AddressPool>,
    /// How packets are filtered (API 1.49).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firewall_backend: Option<FirewallInfo>,
    /// Where CDI devices are described.
    #[serde(rename = "CDISpecDirs")]
    pub cdi_spec_dirs: Vec<String>,
    /// What the host lacks; `null` when nothing.
    pub warnings: Option<Vec<String>>,
}

/// What can be plugged in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct PluginsInfo {
    /// Volume drivers.
    pub volume: Vec<String>,
    /// Network drivers.
    pub network: Vec<String>,
    /// Authorization plugins.
    pub authorization: Option<Vec<String>>,
    /// Log drivers.
    pub log: Vec<String>,
}

/// How registries are spoken to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct RegistryConfig {
    /// Networks whose registries need no TLS.
    #[serde(rename = "InsecureRegistryCIDRs")]
    pub insecure_registry_cidrs: Vec<String>,
    /// By name.
    pub index_configs: BTreeMap<String, IndexInfo>,
    /// Mirrors of docker.io.
    pub mirrors: Option<Vec<String>>,
}

/// One registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct IndexInfo {
    /// Name.
    pub name: String,
    /// Mirrors; never `null`.
    pub mirrors: Vec<String>,
    /// Whether TLS is demanded.
    pub secure: bool,
    /// Whether it is docker.io.
    pub official: bool,
}

/// An OCI runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RuntimeInfo {
    /// Program.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
}

/// The cluster, as far as this node is part of one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct SwarmInfo {
    /// Empty outside a cluster.
    #[serde(rename = "NodeID")]
    pub node_id: String,
    /// Empty outside a cluster.
    pub node_addr: String,
    /// `inactive`, `pending`, `active`, `error`, `locked`.
    pub local_node_state: String,
    /// Whether it may change the cluster.
    pub control_available: bool,
    /// Why it is in state `error`.
    pub error: String,
    /// `null` outside a cluster.
    pub remote_managers: Option<Vec<serde_json::Value>>,
}

/// A commit of a part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Commit {
    /// Empty when there is no such part.
    #[serde(rename = "ID")]
    pub id: String,
}

/// A pool that networks get their subnets from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct AddressPool {
    /// In CIDR notation.
    pub base: String,
    /// Bits of each subnet.
    pub size: u8,
}

/// How packets are filtered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct FirewallInfo {
    /// `nftables`.
    pub driver: String,
    /// Details as pairs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub info: Vec<[String; 2]>,
}

/// Something that happened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    /// The action once more (before API 1.52; containers and images only).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub status: String,
    /// The actor's id once more (before API 1.52; containers and images only).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// The container's image once more (before API 1.52; containers only).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub from: String,
    /// Kind of the actor.
    #[serde(rename = "Type")]
    pub kind: String,
    /// What it did.
    #[serde(rename = "Action")]
    pub action: String,
    /// Who.
    #[serde(rename = "Actor")]
    pub actor: EventActor,
    /// `local` or `swarm`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub scope: String,
    /// Seconds since 1970.
    #[serde(skip_serializing_if = "is_zero")]
    pub time: i64,
    /// Nanoseconds since 1970.
    #[serde(rename = "timeNano", skip_serializing_if = "is_zero")]
    pub time_nano: i64,
}

/// What an event is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventActor {
    /// An id or a name.
    #[serde(rename = "ID")]
    pub id: String,
    /// Labels and facts.
    #[serde(rename = "Attributes")]
    pub attributes: BTreeMap<String, String>,
}

/// The answer to `GET /system/df`: the members of both layouts, of which the version that is
/// spoken decides.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DiskUsage {
    /// Bytes of all layers (before API 1.52).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers_size: Option<i64>,
    /// Before API 1.52.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images: Option<Vec<ImageSummary>>,
    /// Before API 1.52.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub containers: Option<Vec<ContainerSummary>>,
    /// Before API 1.52.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volumes: Option<Vec<Volume>>,
    /// Before API 1.52.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build_cache: Option<Vec<serde_json::Value>>,
    /// API 1.52.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_usage: Option<Usage<ImageSummary>>,
    /// API 1.52.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_usage: Option<Usage<ContainerSummary>>,
    /// API 1.52.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_usage: Option<Usage<Volume>>,
    /// API 1.52.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build_cache_usage: Option<Usage<serde_json::Value>>,
    /// With `data-root`, berth's own: all that lies under its data root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_root: Option<DataRootUsage>,
}

/// Bytes on the disk under the data root by what they are for; the sum is what `du` counts there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DataRootUsage {
    /// Layers, as mounted and as distributed, and documents.
    pub images: i64,
    /// Writable layers and logs.
    pub containers: i64,
    /// Volumes.
    pub volumes: i64,
    /// Downloads under way, and such as wait to be taken up again.
    pub incoming: i64,
    /// Damaged blobs, put aside.
    pub quarantine: i64,
    /// Tables and locks.
    pub metadata: i64,
    /// What berth did not put there.
    pub foreign: i64,
}

/// Disk usage of one kind of thing (API 1.52).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Usage<T> {
    /// That are in use.
    #[serde(skip_serializing_if = "is_zero")]
    pub active_count: i64,
    /// With `verbose`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<T>,
    /// Bytes that a prune would free.
    #[serde(skip_serializing_if = "is_zero")]
    pub reclaimable: i64,
    /// In all.
    #[serde(skip_serializing_if = "is_zero")]
    pub total_count: i64,
    /// Bytes.
    #[serde(skip_serializing_if = "is_zero")]
    pub total_size: i64,
}
