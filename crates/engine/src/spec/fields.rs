//! Every member of `HostConfig`, and what becomes of it: nothing is silently ignored.
//!
//! The table is docs/compat.md's, and the test below asks for each member in turn.

/// What becomes of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It does what Docker's does.
    Works,
    /// The same, but for what is said here.
    Partly(&'static str),
    /// The container is made without, and whoever asked is told with these words.
    Warns(&'static str),
    /// The container is not made, with these words.
    Refused(&'static str),
}

/// A member.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// As it is called in JSON.
    pub key: &'static str,
    /// A value that somebody could ask for, as JSON.
    pub sample: &'static str,
    /// What becomes of it.
    pub effect: Effect,
}

use Effect::{Partly, Refused, Warns, Works};

const fn field(key: &'static str, sample: &'static str, effect: Effect) -> Field {
    Field {
        key,
        sample,
        effect,
    }
}

const WINDOWS: &str = "is for Windows only";

/// All of them, in the order of the API's definition (1.55).
pub const FIELDS: &[Field] = &[
    field("CpuShares", "512", Works),
    field("Memory", "67108864", Works),
    field("CgroupParent", "\"/a\"", Works),
    field("BlkioWeight", "100", Works),
    field("BlkioWeightDevice", "[]", Works),
    field("BlkioDeviceReadBps", "[]", Works),
    field("BlkioDeviceWriteBps", "[]", Works),
    field("BlkioDeviceReadIOps", "[]", Works),
    field("BlkioDeviceWriteIOps", "[]", Works),
    field("CpuPeriod", "100000", Works),
    field("CpuQuota", "50000", Works),
    field(
        "CpuRealtimePeriod",
        "1000000",
        Partly("an error of the kernel where it has no real-time groups (version 2 never has)"),
    ),
    field("CpuRealtimeRuntime", "1000", Partly("the same")),
    field("CpusetCpus", "\"0\"", Works),
    field("CpusetMems", "\"0\"", Works),
    field(
        "Devices",
        r#"[{"PathOnHost":"/dev/null","PathInContainer":"/dev/x","CgroupPermissions":"r"}]"#,
        Works,
    ),
    field("DeviceCgroupRules", "[\"c 1:3 rwm\"]", Works),
    field(
        "DeviceRequests",
        r#"[{"Driver":"cdi","DeviceIDs":["acme.com/card=one"]}]"#,
        Partly(
            "CDI names, and GPUs that CDI files describe; no other drivers; `intelRdt` and `netDevices` of such files are refused",
        ),
    ),
    field(
        "KernelMemoryTCP",
        "1",
        Warns("kernel memory TCP limit has no effect"),
    ),
    field("MemoryReservation", "6291456", Works),
    field("MemorySwap", "-1", Works),
    field(
        "MemorySwappiness",
        "10",
        Partly("version 1 only; on version 2 a warning, as Docker's"),
    ),
    field("NanoCpus", "500000000", Works),
    field(
        "OomKillDisable",
        "true",
        Partly("version 1 only; on version 2 a warning, as Docker's"),
    ),
    field("Init", "true", Works),
    field("PidsLimit", "100", Works),
    field(
        "Ulimits",
        r#"[{"Name":"nofile","Soft":10,"Hard":20}]"#,
        Works,
    ),
    field("CpuCount", "1", Refused(WINDOWS)),
    field("CpuPercent", "1", Refused(WINDOWS)),
    field("IOMaximumIOps", "1", Refused(WINDOWS)),
    field("IOMaximumBandwidth", "1", Refused(WINDOWS)),
    field("Binds", "[\"/tmp:/a:ro,map=1000\"]", Works),
    field("ContainerIDFile", "\"/a\"", Works),
    field(
        "LogConfig",
        r#"{"Type":"json-file","Config":{"max-size":"1m"}}"#,
        Works,
    ),
    field("NetworkMode", "\"none\"", Works),
    field("PortBindings", r#"{"80/tcp":[{"HostPort":"8080"}]}"#, Works),
    field("RestartPolicy", r#"{"Name":"always"}"#, Works),
    field("AutoRemove", "true", Works),
    field(
        "VolumeDriver",
        "\"local\"",
        Partly("`local`; there are no plugins yet, and one that is not there is named"),
    ),
    field("VolumesFrom", "[\"a:ro\"]", Works),
    field(
        "Mounts",
        r#"[{"Type":"tmpfs","Target":"/a"}]"#,
        Partly("`bind`, `volume`, `tmpfs`, `image`; `cluster` and `npipe` are refused"),
    ),
    field("ConsoleSize", "[24,80]", Works),
    field("Annotations", r#"{"a":"b"}"#, Works),
    field("CapAdd", "[\"NET_ADMIN\"]", Works),
    field("CapDrop", "[\"ALL\"]", Works),
    field("CgroupnsMode", "\"private\"", Works),
    field("Dns", "[\"10.0.0.1\"]", Works),
    field("DnsOptions", "[\"ndots:1\"]", Works),
    field("DnsSearch", "[\"a\"]", Works),
    field("ExtraHosts", "[\"a:10.0.0.1\"]", Works),
    field("GroupAdd", "[\"7\"]", Works),
    field("IpcMode", "\"shareable\"", Works),
    field("Cgroup", "\"a\"", Warns("HostConfig.Cgroup has no effect")),
    field("Links", "[\"a:b\"]", Refused("legacy links (--link)")),
    field("OomScoreAdj", "10", Works),
    field("PidMode", "\"host\"", Works),
    field("Privileged", "true", Works),
    field("PublishAllPorts", "true", Works),
    field("ReadonlyRootfs", "true", Works),
    field(
        "SecurityOpt",
        "[\"seccomp=unconfined\"]",
        Partly(
            "seccomp, no-new-privileges, systempaths, writable-cgroups, apparmor where the kernel has it; of a module that it has not: a warning; SELinux labels where it has SELinux: refused",
        ),
    ),
    field(
        "StorageOpt",
        r#"{"size":"1G"}"#,
        Refused("storage options (--storage-opt)"),
    ),
    field("Tmpfs", r#"{"/a":"size=1m"}"#, Works),
    field("UTSMode", "\"host\"", Works),
    field("UsernsMode", "\"host\"", Works),
    field("ShmSize", "1048576", Works),
    field("Sysctls", r#"{"net.ipv4.ip_forward":"1"}"#, Works),
    field(
        "Runtime",
        "\"crun\"",
        Refused("unknown or invalid runtime name: crun"),
    ),
    field(
        "Isolation",
        "\"hyperv\"",
        Refused("invalid isolation 'hyperv' on linux"),
    ),
    field("MaskedPaths", "[]", Works),
    field("ReadonlyPaths", "[]", Works),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::check;
    use vocab::config::{ContainerConfig, HostConfig};

    /// `HostConfig` and `Resources` of the API's definition, 1.55.
    const DEFINED: &str = "CpuShares Memory CgroupParent BlkioWeight BlkioWeightDevice \
        BlkioDeviceReadBps BlkioDeviceWriteBps BlkioDeviceReadIOps BlkioDeviceWriteIOps CpuPeriod \
        CpuQuota CpuRealtimePeriod CpuRealtimeRuntime CpusetCpus CpusetMems Devices \
        DeviceCgroupRules DeviceRequests MemoryReservation MemorySwap MemorySwappiness NanoCpus \
        OomKillDisable Init PidsLimit Ulimits CpuCount CpuPercent IOMaximumIOps IOMaximumBandwidth \
        Binds ContainerIDFile LogConfig NetworkMode PortBindings RestartPolicy AutoRemove \
        VolumeDriver VolumesFrom Mounts ConsoleSize Annotations CapAdd CapDrop CgroupnsMode Dns \
        DnsOptions DnsSearch ExtraHosts GroupAdd IpcMode Cgroup Links OomScoreAdj PidMode \
        Privileged PublishAllPorts ReadonlyRootfs SecurityOpt StorageOpt Tmpfs UTSMode UsernsMode \
        ShmSize Sysctls Runtime Isolation MaskedPaths ReadonlyPaths";

    #[test]
    fn every_member_that_is_defined_has_its_row() {
        let known: Vec<&str> = FIELDS.iter().map(|field| field.key).collect();
        for key in DEFINED.split_whitespace() {
            assert!(known.contains(&key), "{key}");
        }
        let ours = serde_json::to_value(HostConfig::default()).unwrap();
        for key in ours.as_object().unwrap().keys() {
            assert!(known.contains(&key.as_str()), "{key}");
        }
    }

    #[test]
    fn every_member_is_taken_warned_of_or_refused_as_its_row_says() {
        for field in FIELDS {
            let text = format!("{{\"{}\":{}}}", field.key, field.sample);
            let host: HostConfig = vocab::config::read(text.as_bytes()).unwrap();
            // It is understood: what came in comes out.
            let back = serde_json::to_value(&host).unwrap();
            let given: serde_json::Value = serde_json::from_str(field.sample).unwrap();
            let kept = &back[field.key];
            match (&given, kept) {
                (serde_json::Value::Object(given), serde_json::Value::Object(kept)) => {
                    assert!(
                        given.keys().all(|key| kept.contains_key(key)),
                        "{text}: {kept:?}"
                    );
                }
                _ => assert!(!kept.is_null(), "{text}"),
            }
            let mut host = host;
            if field.key == "MemorySwap" {
                host.resources.memory = 64 << 20;
            }
            let checked = check::check(&ContainerConfig::default(), &host);
            let said = match &checked {
                Ok(warnings) => warnings.join("\n"),
                Err(error) => error.to_string(),
            };
            match field.effect {
                Works | Partly(_) => assert!(checked.is_ok() && said.is_empty(), "{text}: {said}"),
                Warns(words) => assert!(checked.is_ok() && said.contains(words), "{text}: {said}"),
                Refused(words) => {
                    assert!(checked.is_err() && said.contains(words), "{text}: {said}");
                }
            }
        }
    }
}
