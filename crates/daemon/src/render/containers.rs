//! Containers: the list, everything about one, its readings.

use api::Version;
use api::types::{
    BlkioEntry, BlkioStats, ContainerInspect, ContainerState, ContainerSummary, CpuStats, CpuUsage,
    DefaultEndpoint, DriverData, Health, HealthResult, HealthSummary, HostSummary, MemoryStats,
    MountPoint, NetworkSettings, NetworkSettingsSummary, NetworkStats, PidsStats, Port,
    RootFsStorage, SnapshotStorage, Stats, Storage, Throttling, UnusedSettings,
};
use engine::containers::{Details, State, Status, Summary};
use engine::stats::{Block, Sample};
use vocab::config::EndpointSettings;

use super::{bytes, moment, seconds};

/// One line of `docker ps`.
pub(crate) fn container_summary(one: Summary, version: Version) -> ContainerSummary {
    ContainerSummary {
        id: one.id.to_string(),
        names: vec![format!("/{}", one.name)],
        image: one.image,
        image_id: one.image_id.to_string(),
        command: one.command,
        created: seconds(one.created),
        ports: one.ports.into_iter().map(port).collect(),
        size_rw: one.size.map_or(0, |size| bytes(size.writable_bytes)),
        size_root_fs: one.size.map_or(0, |size| bytes(size.root_bytes)),
        labels: one.labels,
        state: one.state.status.name().to_owned(),
        status: one.status,
        host_config: HostSummary {
            network_mode: one.network_mode,
            annotations: one.annotations.filter(|_| version >= Version::new(1, 46)),
        },
        health: (version >= Version::new(1, 52)).then(|| HealthSummary {
            status: match &one.state.health {
                Some(health) => health.status.name().to_owned(),
                None => "none".to_owned(),
            },
            failing_streak: one
                .state
                .health
                .map_or(0, |health| health.failing_streak.into()),
        }),
        network_settings: NetworkSettingsSummary {
            networks: one.networks,
        },
        mounts: one.mounts.into_iter().map(mount).collect(),
    }
}

fn port(port: engine::containers::Port) -> Port {
    Port {
        ip: port.host_ip.unwrap_or_default(),
        private_port: port.container,
        public_port: port.host.unwrap_or_default(),
        protocol: port.protocol,
    }
}

fn mount(mount: engine::containers::MountPoint) -> MountPoint {
    MountPoint {
        kind: mount.kind,
        name: mount.name,
        source: mount.source,
        destination: mount.destination,
        driver: mount.driver,
        mode: mount.mode,
        writable: mount.writable,
        propagation: mount.propagation,
    }
}

/// Everything about one container.
pub(crate) fn container_inspect(details: Details, version: Version) -> ContainerInspect {
    let speaks = |minor| version >= Version::new(1, minor);
    let path = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
    let mut networks = details.networks;
    let mut config = details.config;
    if !speaks(45) {
        for endpoint in networks.values_mut() {
            let aliases = endpoint.aliases.get_or_insert_default();
            for name in [details.id.short(), config.hostname.clone()] {
                if !name.is_empty() && !aliases.contains(&name) {
                    aliases.push(name);
                }
            }
        }
    }
    let main = networks.get(main_network(&details.host.network_mode));
    if speaks(52) {
        config.mac_address.clear();
    } else if !speaks(44)
        && let Some(main) = main
    {
        config.mac_address.clone_from(&main.mac_address);
    }
    let default = (!speaks(52)).then(|| main.map(default_endpoint).unwrap_or_default());
    let driver = details.driver;
    ContainerInspect {
        id: details.id.to_string(),
        created: vocab::time::rfc3339_nano(details.created),
        path: details.path,
        args: details.args,
        state: state(details.state),
        image: details.image.to_string(),
        resolv_conf_path: path(details.resolv_conf_path),
        hostname_path: path(details.hostname_path),
        hosts_path: path(details.hosts_path),
        log_path: path(details.log_path),
        name: format!("/{}", details.name),
        restart_count: i64::from(details.restart_count),
        driver: driver.clone(),
        platform: details.platform,
        mount_label: String::new(),
        process_label: String::new(),
        app_armor_profile: String::new(),
        exec_ids: (!details.execs.is_empty())
            .then(|| details.execs.iter().map(ToString::to_string).collect()),
        host_config: details.host,
        graph_driver: (!speaks(52)).then(|| DriverData {
            data: None,
            name: driver.clone(),
        }),
        storage: speaks(52).then_some(Storage {
            root_fs: Some(RootFsStorage {
                snapshot: Some(SnapshotStorage { name: driver }),
            }),
        }),
        size_rw: details.size.map(|size| bytes(size.writable_bytes)),
        size_root_fs: details.size.map(|size| bytes(size.root_bytes)),
        mounts: details.mounts.into_iter().map(mount).collect(),
        config,
        network_settings: NetworkSettings {
            bridge: (!speaks(52)).then(String::new),
            sandbox_id: details.sandbox_id,
            sandbox_key: String::new(),
            ports: details.ports,
            unused: (!speaks(52)).then(UnusedSettings::default),
            default,
            networks,
        },
    }
}

/// The network whose endpoint old clients meet at the top.
fn main_network(mode: &str) -> &str {
    match mode {
        "" | "default" => "bridge",
        other => other,
    }
}

fn default_endpoint(endpoint: &EndpointSettings) -> DefaultEndpoint {
    DefaultEndpoint {
        endpoint_id: endpoint.endpoint_id.clone(),
        gateway: endpoint.gateway.clone(),
        global_ipv6_address: endpoint.global_ipv6_address.clone(),
        global_ipv6_prefix_len: endpoint.global_ipv6_prefix_len,
        ip_address: endpoint.ip_address.clone(),
        ip_prefix_len: endpoint.ip_prefix_len,
        ipv6_gateway: endpoint.ipv6_gateway.clone(),
        mac_address: endpoint.mac_address.clone(),
    }
}

fn state(state: State) -> ContainerState {
    ContainerState {
        status: state.status.name().to_owned(),
        running: state.is_running(),
        paused: state.status == Status::Paused,
        restarting: state.status == Status::Restarting,
        oom_killed: state.oom_killed,
        dead: state.status == Status::Dead,
        pid: i64::from(state.pid),
        exit_code: i64::from(state.exit_code),
        error: state.error,
        started_at: moment(state.started_at),
        finished_at: moment(state.finished_at),
        health: state.health.map(health),
    }
}

fn health(health: engine::containers::Health) -> Health {
    let log = health.log.into_iter().map(|checked| HealthResult {
        start: moment(Some(checked.start)),
        end: moment(Some(checked.end)),
        exit_code: checked.exit_code.into(),
        output: checked.output,
    });
    Health {
        status: health.status.name().to_owned(),
        failing_streak: health.failing_streak.into(),
        log: log.collect(),
    }
}

/// A reading, with the processor time of the one before it.
pub(crate) fn stats(sample: &Sample, before: Option<&Sample>) -> Stats {
    let running = sample.read.is_some();
    Stats {
        name: format!("/{}", sample.name),
        id: sample.id.to_string(),
        read: moment(sample.read),
        preread: moment(before.and_then(|before| before.read)),
        pids_stats: PidsStats {
            current: sample.pids,
            limit: match sample.pids_limit {
                // The kernel's "max".
                None if running => u64::MAX,
                limit => limit.unwrap_or_default(),
            },
        },
        blkio_stats: BlkioStats {
            io_service_bytes_recursive: entries(&sample.block, |block| block.bytes),
            io_serviced_recursive: entries(&sample.block, |block| block.count),
            ..BlkioStats::default()
        },
        num_procs: 0,
        storage_stats: vocab::config::Empty {},
        cpu_stats: cpu(sample),
        precpu_stats: before.map(cpu).unwrap_or_default(),
        memory_stats: MemoryStats {
            usage: sample.memory.usage_bytes,
            max_usage: sample.memory.max_usage_bytes.unwrap_or_default(),
            stats: sample.memory.stats.clone(),
            failcnt: sample.memory.failures.unwrap_or_default(),
            limit: sample.memory.limit_bytes,
        },
        networks: sample
            .networks
            .iter()
            .map(|(name, counters)| (name.clone(), interface(counters)))
            .collect(),
    }
}

fn entries(block: &[Block], value: impl Fn(&Block) -> u64) -> Option<Vec<BlkioEntry>> {
    let entries = block.iter().map(|block| BlkioEntry {
        major: block.major,
        minor: block.minor,
        op: block.operation.clone(),
        value: value(block),
    });
    (!block.is_empty()).then(|| entries.collect())
}

fn cpu(sample: &Sample) -> CpuStats {
    let cpu = &sample.cpu;
    CpuStats {
        cpu_usage: CpuUsage {
            total_usage: cpu.total_nanos,
            percpu_usage: cpu.per_cpu_nanos.clone(),
            usage_in_kernelmode: cpu.system_nanos,
            usage_in_usermode: cpu.user_nanos,
        },
        system_cpu_usage: cpu.host_nanos,
        online_cpus: cpu.online,
        throttling_data: Throttling {
            periods: cpu.periods,
            throttled_periods: cpu.throttled_periods,
            throttled_time: cpu.throttled_nanos,
        },
    }
}

fn interface(counters: &engine::stats::Interface) -> NetworkStats {
    NetworkStats {
        rx_bytes: counters.rx_bytes,
        rx_packets: counters.rx_packets,
        rx_errors: counters.rx_errors,
        rx_dropped: counters.rx_dropped,
        tx_bytes: counters.tx_bytes,
        tx_packets: counters.tx_packets,
        tx_errors: counters.tx_errors,
        tx_dropped: counters.tx_dropped,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;
    use std::time::UNIX_EPOCH;

    use serde_json::Value;
    use vocab::config::{ContainerConfig, HostConfig};
    use vocab::{ContainerId, Digest};

    use super::*;

    fn details() -> Details {
        Details {
            id: ContainerId::random(),
            name: "n".to_owned(),
            created: UNIX_EPOCH,
            path: "true".to_owned(),
            args: Vec::new(),
            state: State {
                status: Status::Created,
                oom_killed: false,
                pid: 0,
                exit_code: 0,
                error: String::new(),
                started_at: None,
                finished_at: None,
                health: None,
            },
            image: Digest::sha256(&[0; 32]),
            resolv_conf_path: PathBuf::new(),
            hostname_path: PathBuf::new(),
            hosts_path: PathBuf::new(),
            log_path: PathBuf::new(),
            restart_count: 0,
            driver: "overlay".to_owned(),
            platform: "linux".to_owned(),
            execs: Vec::new(),
            host: HostConfig {
                network_mode: "bridge".to_owned(),
                ..HostConfig::default()
            },
            config: ContainerConfig {
                hostname: "h".to_owned(),
                ..ContainerConfig::default()
            },
            mounts: Vec::new(),
            sandbox_id: String::new(),
            ports: BTreeMap::from([("80/tcp".to_owned(), None)]),
            networks: BTreeMap::from([(
                "bridge".to_owned(),
                EndpointSettings {
                    ip_address: "172.17.0.2".to_owned(),
                    mac_address: "02:42:ac:11:00:02".to_owned(),
                    ..EndpointSettings::default()
                },
            )]),
            size: None,
        }
    }

    fn inspect(minor: u16) -> Value {
        serde_json::to_value(container_inspect(details(), Version::new(1, minor))).unwrap()
    }

    #[test]
    fn the_bridge_endpoint_stands_at_the_top_before_1_52() {
        assert_eq!(inspect(51)["NetworkSettings"]["IPAddress"], "172.17.0.2");
        assert_eq!(
            inspect(51)["NetworkSettings"]["SecondaryIPAddresses"],
            Value::Null
        );
        assert!(
            inspect(51)["NetworkSettings"]
                .as_object()
                .unwrap()
                .contains_key("HairpinMode")
        );
        assert_eq!(inspect(52)["NetworkSettings"].get("IPAddress"), None);
        assert_eq!(inspect(52)["NetworkSettings"].get("Bridge"), None);
        assert_eq!(
            inspect(52)["NetworkSettings"]["Ports"]["80/tcp"],
            Value::Null
        );
    }

    #[test]
    fn where_files_are_is_told_in_the_words_of_the_version() {
        assert_eq!(inspect(51)["GraphDriver"]["Name"], "overlay");
        assert_eq!(inspect(51).get("Storage"), None);
        assert_eq!(inspect(52).get("GraphDriver"), None);
        assert_eq!(
            inspect(52)["Storage"]["RootFS"]["Snapshot"]["Name"],
            "overlay"
        );
    }

    #[test]
    fn old_clients_find_names_and_mac_where_they_were() {
        let aliases = &inspect(44)["NetworkSettings"]["Networks"]["bridge"]["Aliases"];
        assert_eq!(aliases.as_array().unwrap().len(), 2);
        assert!(inspect(45)["NetworkSettings"]["Networks"]["bridge"]["Aliases"].is_null());
        assert_eq!(inspect(43)["Config"]["MacAddress"], "02:42:ac:11:00:02");
        assert_eq!(inspect(44)["Config"].get("MacAddress"), None);
    }

    #[test]
    fn what_never_was_is_gos_zero_time() {
        assert_eq!(inspect(55)["State"]["StartedAt"], "0001-01-01T00:00:00Z");
        assert_eq!(inspect(55)["ExecIDs"], Value::Null);
        assert_eq!(inspect(55)["Args"], serde_json::json!([]));
    }
}
