//! The container documents of the Engine API, in Docker's field order and with its nulls.
//!
//! `Config`, `HostConfig` and the endpoint settings are sent by clients, stored with the container
//! and shown by `inspect`, so they are nouns of the whole platform rather than of one layer. Go
//! prints a nil slice or map as `null` and an empty one as `[]` or `{}`; an `Option` here means
//! that clients meet `null`. Read them with [`read`], which treats `null` as "not said".

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

/// Whose a container, volume or network is, where a socket of the daemon is for one owner only
/// (`?scope=own-containers`). Only requests set it: images cannot.
pub const OWNER_LABEL: &str = "io.berth.owner";

/// Reads a document as Go's decoder would: a member that is `null` counts as absent.
pub fn read<T: DeserializeOwned>(json: &[u8]) -> Result<T, serde_json::Error> {
    let mut value: serde_json::Value = serde_json::from_slice(json)?;
    drop_nulls(&mut value);
    serde_json::from_value(value)
}

/// Removes every object member that is `null`, however deep.
pub fn drop_nulls(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(drop_nulls);
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// For single fields of documents that are not read with [`read`].
pub(crate) fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A Go set: keys with empty objects.
pub type Set = BTreeMap<String, Empty>;

/// `{}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// A command as a list, or as one string that stands for a list of one.
#[derive(Deserialize)]
#[serde(untagged)]
enum Words {
    One(String),
    Many(Vec<String>),
}

fn words<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    Ok(
        Option::<Words>::deserialize(deserializer)?.map(|words| match words {
            Words::One(word) => vec![word],
            Words::Many(words) => words,
        }),
    )
}

fn is_false(value: &bool) -> bool {
    !*value
}

/// What runs, as the image or the user says (Engine API `ContainerConfig`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ContainerConfig {
    /// Host name; the short id when empty.
    pub hostname: String,
    /// NIS domain name.
    pub domainname: String,
    /// `user[:group]`, names or numbers.
    pub user: String,
    /// Whether the client wants stdin attached.
    pub attach_stdin: bool,
    /// Whether the client wants stdout attached.
    pub attach_stdout: bool,
    /// Whether the client wants stderr attached.
    pub attach_stderr: bool,
    /// `port/protocol` that the image serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exposed_ports: Option<Set>,
    /// Whether stdio is a pseudo-terminal.
    pub tty: bool,
    /// Whether stdin stays open without a client.
    pub open_stdin: bool,
    /// Whether stdin closes when the first attached client leaves.
    pub stdin_once: bool,
    /// `KEY=value`; a bare `KEY` removes it.
    pub env: Option<Vec<String>>,
    /// Arguments of the entry point, or the command.
    #[serde(deserialize_with = "words")]
    pub cmd: Option<Vec<String>>,
    /// How health is checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Windows only.
    #[serde(skip_serializing_if = "is_false")]
    pub args_escaped: bool,
    /// The image as the user named it.
    pub image: String,
    /// Paths that get an anonymous volume.
    pub volumes: Option<Set>,
    /// Working directory; `/` when empty.
    pub working_dir: String,
    /// What runs before `cmd`.
    #[serde(deserialize_with = "words")]
    pub entrypoint: Option<Vec<String>>,
    /// Whether there is no network at all.
    #[serde(skip_serializing_if = "is_false")]
    pub network_disabled: bool,
    /// MAC address of the main endpoint (API before 1.44).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac_address: String,
    /// Instructions for builds on top of this image.
    pub on_build: Option<Vec<String>>,
    /// Labels.
    pub labels: Option<BTreeMap<String, String>>,
    /// Signal that asks the process to end; `SIGTERM` when empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// Seconds between that signal and SIGKILL; 10 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    /// Shell of the shell form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
}

/// How health is checked; durations in nanoseconds (Engine API `HealthConfig`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", text]`; empty inherits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test: Option<Vec<String>>,
    /// Between checks.
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// Of one check.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// In which failures do not count.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Between checks within the start period.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures in a row before `unhealthy`.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: i64,
}

fn is_zero(value: &i64) -> bool {
    *value == 0
}

/// How it runs on this host (Engine API `HostConfig`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct HostConfig {
    /// `source:destination[:options]`.
    pub binds: Option<Vec<String>>,
    /// Where the client wrote the id.
    #[serde(rename = "ContainerIDFile")]
    pub container_id_file: String,
    /// Log driver and its options.
    pub log_config: LogConfig,
    /// `bridge`, `host`, `none`, `container:X`, or a network.
    pub network_mode: String,
    /// Published ports, by `port/protocol`.
    pub port_bindings: Option<BTreeMap<String, Option<Vec<PortBinding>>>>,
    /// What happens at exit.
    pub restart_policy: RestartPolicy,
    /// Whether the container is removed at exit.
    pub auto_remove: bool,
    /// Driver of volumes named in `binds`.
    pub volume_driver: String,
    /// `container[:ro|rw]` whose mounts are taken too.
    pub volumes_from: Option<Vec<String>>,
    /// Rows and columns of the client's terminal at creation.
    pub console_size: [u16; 2],
    /// Free text for the runtime.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// Capabilities added to the default ones.
    #[serde(deserialize_with = "words")]
    pub cap_add: Option<Vec<String>>,
    /// Capabilities taken from the default ones.
    #[serde(deserialize_with = "words")]
    pub cap_drop: Option<Vec<String>>,
    /// `private` or `host`; empty is the daemon's default.
    pub cgroupns_mode: String,
    /// DNS servers.
    pub dns: Option<Vec<String>>,
    /// resolv.conf options.
    pub dns_options: Option<Vec<String>>,
    /// DNS search domains.
    pub dns_search: Option<Vec<String>>,
    /// `name:address` for /etc/hosts.
    pub extra_hosts: Option<Vec<String>>,
    /// Supplementary groups.
    pub group_add: Option<Vec<String>>,
    /// `none`, `private`, `shareable`, `host` or `container:X`.
    pub ipc_mode: String,
    /// Unused by Docker since 1.13.
    pub cgroup: String,
    /// Legacy links.
    pub links: Option<Vec<String>>,
    /// −1000 … 1000.
    pub oom_score_adj: i32,
    /// `host` or `container:X`; empty is private.
    pub pid_mode: String,
    /// All capabilities and devices, no confinement.
    pub privileged: bool,
    /// Whether every exposed port is published on a free host port.
    pub publish_all_ports: bool,
    /// Whether the root is read-only.
    pub readonly_rootfs: bool,
    /// `key=value`: seccomp, apparmor, label, no-new-privileges, systempaths.
    pub security_opt: Option<Vec<String>>,
    /// Storage driver options.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_opt: Option<BTreeMap<String, String>>,
    /// tmpfs mounts by destination.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmpfs: Option<BTreeMap<String, String>>,
    /// `host`; empty is private.
    #[serde(rename = "UTSMode")]
    pub uts_mode: String,
    /// `host`; empty is the daemon's default.
    pub userns_mode: String,
    /// Bytes of /dev/shm; 64 MiB when 0.
    pub shm_size: i64,
    /// Kernel parameters of the namespaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sysctls: Option<BTreeMap<String, String>>,
    /// OCI runtime by name.
    pub runtime: String,
    /// Windows only.
    pub isolation: String,
    /// Resource limits; Docker flattens them into this document.
    #[serde(flatten)]
    pub resources: Resources,
    /// Mounts in the long form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mounts: Option<Vec<Mount>>,
    /// Paths hidden from the container; `null` means the default list.
    pub masked_paths: Option<Vec<String>>,
    /// Paths that are read-only; `null` means the default list.
    pub readonly_paths: Option<Vec<String>>,
    /// Whether a tiny init is PID 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<bool>,
}

/// Resource limits (Engine API `Resources`), also the body of `update`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Resources {
    /// Relative CPU weight.
    pub cpu_shares: i64,
    /// Bytes.
    pub memory: i64,
    /// CPUs in units of 10⁻⁹.
    pub nano_cpus: i64,
    /// Parent cgroup.
    pub cgroup_parent: String,
    /// 10 … 1000, 0 is off.
    pub blkio_weight: u16,
    /// Per device.
    pub blkio_weight_device: Option<Vec<WeightDevice>>,
    /// Bytes a second.
    pub blkio_device_read_bps: Option<Vec<ThrottleDevice>>,
    /// Bytes a second.
    pub blkio_device_write_bps: Option<Vec<ThrottleDevice>>,
    /// Operations a second.
    #[serde(rename = "BlkioDeviceReadIOps")]
    pub blkio_device_read_iops: Option<Vec<ThrottleDevice>>,
    /// Operations a second.
    #[serde(rename = "BlkioDeviceWriteIOps")]
    pub blkio_device_write_iops: Option<Vec<ThrottleDevice>>,
    /// Microseconds.
    pub cpu_period: i64,
    /// Microseconds of each period.
    pub cpu_quota: i64,
    /// Microseconds.
    pub cpu_realtime_period: i64,
    /// Microseconds.
    pub cpu_realtime_runtime: i64,
    /// `0-3,5`.
    pub cpuset_cpus: String,
    /// `0-1`.
    pub cpuset_mems: String,
    /// Host devices passed in.
    pub devices: Option<Vec<DeviceMapping>>,
    /// `type major:minor mode`.
    pub device_cgroup_rules: Option<Vec<String>>,
    /// Requests to device drivers (GPUs).
    pub device_requests: Option<Vec<DeviceRequest>>,
    /// Bytes; obsolete.
    #[serde(rename = "KernelMemoryTCP", skip_serializing_if = "is_zero")]
    pub kernel_memory_tcp: i64,
    /// Bytes; a soft limit.
    pub memory_reservation: i64,
    /// Bytes of memory and swap together; −1 is unlimited.
    pub memory_swap: i64,
    /// 0 … 100; −1 or absent inherits.
    pub memory_swappiness: Option<i64>,
    /// Whether the kernel must not kill when memory runs out.
    pub oom_kill_disable: Option<bool>,
    /// −1 or 0 is unlimited.
    pub pids_limit: Option<i64>,
    /// Resource limits of processes.
    pub ulimits: Option<Vec<Ulimit>>,
    /// Windows only.
    pub cpu_count: i64,
    /// Windows only.
    pub cpu_percent: i64,
    /// Windows only.
    #[serde(rename = "IOMaximumIOps")]
    pub io_maximum_iops: u64,
    /// Windows only.
    #[serde(rename = "IOMaximumBandwidth")]
    pub io_maximum_bandwidth: u64,
}

/// Weight of one block device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct WeightDevice {
    /// Device node on the host.
    pub path: String,
    /// 10 … 1000.
    pub weight: u16,
}

/// Rate of one block device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ThrottleDevice {
    /// Device node on the host.
    pub path: String,
    /// Bytes or operations a second.
    pub rate: u64,
}

/// A host device inside the container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DeviceMapping {
    /// On the host.
    pub path_on_host: String,
    /// Inside.
    pub path_in_container: String,
    /// Of `r`, `w`, `m`.
    pub cgroup_permissions: String,
}

/// A request to a device driver (GPUs, CDI).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DeviceRequest {
    /// Driver name.
    pub driver: String,
    /// How many; −1 is all.
    pub count: i64,
    /// Which.
    #[serde(rename = "DeviceIDs")]
    pub device_ids: Option<Vec<String>>,
    /// Alternatives of sets.
    pub capabilities: Option<Vec<Vec<String>>>,
    /// Driver options.
    pub options: Option<BTreeMap<String, String>>,
}

/// A resource limit of processes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Ulimit {
    /// `nofile`, …
    pub name: String,
    /// −1 is unlimited.
    pub hard: i64,
    /// −1 is unlimited.
    pub soft: i64,
}

/// Log driver and its options.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct LogConfig {
    /// Driver name; empty is the daemon's default.
    #[serde(rename = "Type")]
    pub kind: String,
    /// Driver options.
    pub config: Option<BTreeMap<String, String>>,
}

/// Where a container port is published.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortBinding {
    /// Host address; empty is all.
    #[serde(rename = "HostIp")]
    pub host_ip: String,
    /// Host port or range; empty is any free one.
    #[serde(rename = "HostPort")]
    pub host_port: String,
}

/// What happens at exit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct RestartPolicy {
    /// `no`, `always`, `unless-stopped`, `on-failure`; empty is `no`.
    pub name: String,
    /// Of `on-failure`; 0 is unlimited.
    pub maximum_retry_count: i64,
}

/// A mount in the long form (Engine API `Mount`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Mount {
    /// `bind`, `volume`, `tmpfs`, `npipe`, `cluster`, `image`.
    #[serde(rename = "Type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Host path, volume or image.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// Path inside.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub target: String,
    /// Whether writing is refused.
    #[serde(skip_serializing_if = "is_false")]
    pub read_only: bool,
    /// Obsolete.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub consistency: String,
    /// Of `bind`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind_options: Option<BindOptions>,
    /// Of `volume`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_options: Option<VolumeOptions>,
    /// Of `image`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_options: Option<ImageOptions>,
    /// Of `tmpfs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmpfs_options: Option<TmpfsOptions>,
}

/// Options of a bind mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct BindOptions {
    /// `[r]private`, `[r]shared`, `[r]slave`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub propagation: String,
    /// Whether submounts are left out.
    #[serde(skip_serializing_if = "is_false")]
    pub non_recursive: bool,
    /// Whether a missing source is made as a directory.
    #[serde(skip_serializing_if = "is_false")]
    pub create_mountpoint: bool,
    /// Whether submounts of a read-only bind stay writable.
    #[serde(skip_serializing_if = "is_false")]
    pub read_only_non_recursive: bool,
    /// Whether a bind whose submounts cannot be made read-only fails.
    #[serde(skip_serializing_if = "is_false")]
    pub read_only_force_recursive: bool,
    /// Berth's own: `UID[:GID]` of the host to whom belongs what the container's user makes.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub map: String,
}

/// Options of a volume mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct VolumeOptions {
    /// Whether image content is not copied into an empty volume.
    #[serde(skip_serializing_if = "is_false")]
    pub no_copy: bool,
    /// Labels of a volume made by this mount.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Path inside the volume.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subpath: String,
    /// Driver of a volume made by this mount.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver_config: Option<DriverConfig>,
}

/// A volume driver and its options.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DriverConfig {
    /// Driver name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Driver options.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub options: Option<BTreeMap<String, String>>,
}

/// Options of an image mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageOptions {
    /// Path inside the image.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subpath: String,
}

/// Options of a tmpfs mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct TmpfsOptions {
    /// Bytes; 0 is unlimited.
    #[serde(skip_serializing_if = "is_zero")]
    pub size_bytes: i64,
    /// Mode bits.
    #[serde(skip_serializing_if = "is_zero_mode")]
    pub mode: u32,
    /// Each an option, or a key and its value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub options: Option<Vec<Vec<String>>>,
}

fn is_zero_mode(value: &u32) -> bool {
    *value == 0
}

/// Networks a new container joins (Engine API `NetworkingConfig`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct NetworkingConfig {
    /// By network name or id.
    pub endpoints_config: Option<BTreeMap<String, Option<EndpointSettings>>>,
}

/// A container on a network: what was asked, and what it got (Engine API `EndpointSettings`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct EndpointSettings {
    /// Wanted static addresses.
    #[serde(rename = "IPAMConfig")]
    pub ipam_config: Option<EndpointIpamConfig>,
    /// Legacy links.
    pub links: Option<Vec<String>>,
    /// Further DNS names.
    pub aliases: Option<Vec<String>>,
    /// Wanted or given MAC address.
    pub mac_address: String,
    /// Driver options.
    pub driver_opts: Option<BTreeMap<String, String>>,
    /// The highest gives the default route.
    pub gw_priority: i64,
    /// The network's id.
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    /// The endpoint's id.
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    /// IPv4 gateway.
    pub gateway: String,
    /// IPv4 address.
    #[serde(rename = "IPAddress")]
    pub ip_address: String,
    /// Bits of the IPv4 network.
    #[serde(rename = "IPPrefixLen")]
    pub ip_prefix_len: u8,
    /// IPv6 gateway.
    #[serde(rename = "IPv6Gateway")]
    pub ipv6_gateway: String,
    /// IPv6 address.
    #[serde(rename = "GlobalIPv6Address")]
    pub global_ipv6_address: String,
    /// Bits of the IPv6 network.
    #[serde(rename = "GlobalIPv6PrefixLen")]
    pub global_ipv6_prefix_len: u8,
    /// Names it answers to.
    #[serde(rename = "DNSNames")]
    pub dns_names: Option<Vec<String>>,
}

/// Wanted static addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointIpamConfig {
    /// IPv4.
    #[serde(rename = "IPv4Address", skip_serializing_if = "String::is_empty")]
    pub ipv4_address: String,
    /// IPv6.
    #[serde(rename = "IPv6Address", skip_serializing_if = "String::is_empty")]
    pub ipv6_address: String,
    /// Link-local.
    #[serde(rename = "LinkLocalIPs", skip_serializing_if = "Option::is_none")]
    pub link_local_ips: Option<Vec<String>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_counts_as_absent() {
        let config: ContainerConfig =
            read(br#"{"Env":null,"Cmd":"one","Tty":null,"Labels":{"a":"b"}}"#).unwrap();
        assert_eq!(config.cmd, Some(vec!["one".to_owned()]));
        assert!(!config.tty);
    }

    #[test]
    fn resources_lie_flat_in_the_host_config() {
        let host: HostConfig = read(br#"{"Memory":64,"UTSMode":"host"}"#).unwrap();
        assert_eq!(host.resources.memory, 64);
        let json = serde_json::to_value(&host).unwrap();
        assert_eq!(json["Memory"], 64);
        assert!(json["Binds"].is_null());
    }
}
