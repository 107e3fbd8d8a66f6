//! JSON as Go's decoder reads it: members match whatever their case, `null` counts as absent, what
//! is unknown is ignored, and nothing may follow the document.
//!
//! Matching needs to know which keys are members and which are the user's (labels, ports, driver
//! options), so both are listed here: the members of every request document, and the members whose
//! value is an object with keys of the user's.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::answer::Refusal;

/// Members of request documents that begin with a capital.
#[rustfmt::skip]
const MEMBERS: &[&str] = &[
    "Aliases", "Annotations", "ArgsEscaped", "AttachStderr", "AttachStdin", "AttachStdout",
    "Attachable", "AutoRemove", "AuxiliaryAddresses", "BindOptions", "Binds",
    "BlkioDeviceReadBps", "BlkioDeviceReadIOps", "BlkioDeviceWriteBps", "BlkioDeviceWriteIOps",
    "BlkioWeight", "BlkioWeightDevice", "CapAdd", "CapDrop", "Capabilities", "Cgroup",
    "CgroupParent", "CgroupPermissions", "CgroupnsMode", "CheckDuplicate", "Cmd", "Config",
    "ConfigFrom", "ConfigOnly", "Consistency", "ConsoleSize", "Container", "ContainerIDFile",
    "Count", "CpuCount", "CpuPercent", "CpuPeriod", "CpuQuota", "CpuRealtimePeriod",
    "CpuRealtimeRuntime", "CpuShares", "CpusetCpus", "CpusetMems", "CreateMountpoint", "DNSNames",
    "Detach", "DetachKeys", "DeviceCgroupRules", "DeviceIDs", "DeviceRequests", "Devices", "Dns",
    "DnsOptions", "DnsSearch", "Domainname", "Driver", "DriverConfig", "DriverOpts", "EnableIPv4",
    "EnableIPv6", "EndpointConfig", "EndpointID", "EndpointsConfig", "Entrypoint", "Env",
    "ExposedPorts", "ExtraHosts", "Force", "Gateway", "GlobalIPv6Address", "GlobalIPv6PrefixLen",
    "GroupAdd", "GwPriority", "Hard", "Healthcheck", "HostConfig", "HostIp", "HostPort",
    "Hostname", "IOMaximumBandwidth", "IOMaximumIOps", "IPAM", "IPAMConfig", "IPAddress",
    "IPPrefixLen", "IPRange", "IPv4Address", "IPv6Address", "IPv6Gateway", "Image",
    "ImageOptions", "Ingress", "Init", "Internal", "Interval", "IpcMode", "Isolation",
    "KernelMemoryTCP", "Labels", "LinkLocalIPs", "Links", "LogConfig", "MacAddress",
    "MaskedPaths", "MaximumRetryCount", "Memory", "MemoryReservation", "MemorySwap",
    "MemorySwappiness", "Mode", "Mounts", "Name", "NanoCpus", "Network", "NetworkDisabled",
    "NetworkID", "NetworkMode", "NetworkingConfig", "NoCopy", "NonRecursive", "OnBuild",
    "OomKillDisable", "OomScoreAdj", "OpenStdin", "Options", "Path", "PathInContainer",
    "PathOnHost", "PidMode", "PidsLimit", "PortBindings", "Privileged", "Propagation",
    "PublishAllPorts", "Rate", "ReadOnly", "ReadOnlyForceRecursive", "ReadOnlyNonRecursive",
    "ReadonlyPaths", "ReadonlyRootfs", "RestartPolicy", "Retries", "Runtime", "Scope",
    "SecurityOpt", "Shell", "ShmSize", "SizeBytes", "Soft", "Source", "StartInterval",
    "StartPeriod", "StdinOnce", "StopSignal", "StopTimeout", "StorageOpt", "Subnet", "Subpath",
    "Sysctls", "Target", "Test", "Timeout", "Tmpfs", "TmpfsOptions", "Tty", "Type", "UTSMode",
    "Ulimits", "User", "UsernsMode", "VolumeDriver", "VolumeOptions", "Volumes", "VolumesFrom",
    "Weight", "WorkingDir",
];

/// Members whose value has the user's keys, and plain values under them.
const OF_USERS: &[&str] = &[
    "Annotations",
    "AuxiliaryAddresses",
    "Config",
    "DriverOpts",
    "ExposedPorts",
    "Labels",
    "Options",
    "StorageOpt",
    "Sysctls",
    "Tmpfs",
    "Volumes",
];

/// Members whose value has the user's keys, and documents under them.
const BY_USERS_KEY: &[&str] = &["EndpointsConfig", "PortBindings"];

/// Reads a document; nothing at all is an empty object.
pub(crate) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    let bytes = if bytes.iter().all(u8::is_ascii_whitespace) {
        b"{}"
    } else {
        bytes
    };
    let parse = || {
        let mut value: Value = serde_json::from_slice(bytes)?;
        settle_case(&mut value);
        vocab::config::drop_nulls(&mut value);
        serde_json::from_value(value)
    };
    parse().map_err(|error: serde_json::Error| {
        let text = error.to_string();
        if text.starts_with("trailing characters") {
            Refusal::invalid("unexpected content after JSON")
        } else {
            Refusal::invalid(format!("invalid JSON: {text}"))
        }
    })
}

/// Gives members the case that their type has. One that is already right wins over its twins.
fn settle_case(value: &mut Value) {
    static BY_LOWER_CASE: LazyLock<BTreeMap<String, &str>> = LazyLock::new(|| {
        MEMBERS
            .iter()
            .map(|name| (name.to_lowercase(), *name))
            .collect()
    });
    match value {
        Value::Array(items) => items.iter_mut().for_each(settle_case),
        Value::Object(members) => {
            let others = members
                .keys()
                .filter(|key| !MEMBERS.contains(&key.as_str()));
            let misspelt: Vec<_> = others
                .filter_map(|key| Some((key.clone(), *BY_LOWER_CASE.get(&key.to_lowercase())?)))
                .collect();
            for (written, right) in misspelt {
                if let Some(value) = members.remove(&written) {
                    members.entry(right).or_insert(value);
                }
            }
            for (key, value) in members {
                match value {
                    Value::Object(_) if OF_USERS.contains(&key.as_str()) => {}
                    Value::Object(inner) if BY_USERS_KEY.contains(&key.as_str()) => {
                        inner.values_mut().for_each(settle_case);
                    }
                    value => settle_case(value),
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use api::types::{CreateRequest, ExecConfig, NetworkCreate, VolumeCreate};

    use super::*;

    #[test]
    fn members_match_whatever_their_case() {
        let request: CreateRequest = read(
            br#"{"image":"i","ENV":["a=b"],"labels":{"tty":"x","Image":"y"},
                "hostconfig":{"memory":7,"portBindings":{"80/tcp":[{"hostport":"8080"}]},
                    "logconfig":{"type":"none","config":{"name":"z"}},
                    "mounts":[{"type":"bind","target":"/t"}]}}"#,
        )
        .unwrap();
        assert_eq!(request.config.image, "i");
        assert_eq!(request.config.env.unwrap(), ["a=b"]);
        let labels = request.config.labels.unwrap();
        assert_eq!(labels.keys().collect::<Vec<_>>(), ["Image", "tty"]);
        let host = request.host_config;
        assert_eq!(host.resources.memory, 7);
        let ports = host.port_bindings.unwrap();
        assert_eq!(ports["80/tcp"].as_ref().unwrap()[0].host_port, "8080");
        assert_eq!(host.log_config.config.unwrap()["name"], "z");
        assert_eq!(host.mounts.unwrap()[0].target, "/t");
    }

    #[test]
    fn the_right_case_wins() {
        let request: VolumeCreate = read(br#"{"name":"a","Name":"b"}"#).unwrap();
        assert_eq!(request.name, "b");
    }

    #[test]
    fn every_member_that_a_request_prints_is_listed() {
        fn check(value: &Value) {
            for (key, value) in value.as_object().into_iter().flatten() {
                assert!(MEMBERS.contains(&key.as_str()), "{key}");
                check(value);
            }
        }
        check(&serde_json::to_value(CreateRequest::default()).unwrap());
        check(&serde_json::to_value(ExecConfig::default()).unwrap());
        check(&serde_json::to_value(NetworkCreate::default()).unwrap());
        check(&serde_json::to_value(VolumeCreate::default()).unwrap());
    }

    #[test]
    fn documents_are_read_as_gos_decoder_reads_them() {
        let read = |text: &str| read::<VolumeCreate>(text.as_bytes()).map(|body| body.name);
        assert_eq!(read(r#"{"Name":"x","Unknown":1}"#), Ok("x".to_owned()));
        assert_eq!(read(r#"{"Name":null}"#), Ok(String::new()));
        assert_eq!(read(" \n"), Ok(String::new()));
        let refusal = |text: &str| read(text).unwrap_err().message;
        assert_eq!(
            refusal(r#"{"Name":"x"} {"#),
            "unexpected content after JSON"
        );
        assert!(refusal(r#"{"Name":"#).starts_with("invalid JSON: "));
        assert!(refusal(r#"{"Name":1}"#).starts_with("invalid JSON: "));
    }
}
