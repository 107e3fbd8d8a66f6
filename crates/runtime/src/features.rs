//! What this runtime can do (runtime-spec, features.md), said from the tables that it does it by.
//!
//! Features of the runtime, not of the host: `linux.apparmor.enabled` means that a profile is applied
//! where the kernel runs AppArmor.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::attributes::{MEMORY_FLAGS, MEMORY_MODES};
use crate::hooks::Kind;
use crate::state::OCI_VERSION;
use crate::{capability, oci, plan, seccomp};

/// The oldest version of the specification whose documents are understood.
const OLDEST_VERSION: &str = "1.0.0";

/// Namespaces that are made and joined.
const NAMESPACES: [oci::LinuxNamespaceType; 8] = {
    use oci::LinuxNamespaceType as Type;
    [
        Type::Cgroup,
        Type::Ipc,
        Type::Mount,
        Type::Network,
        Type::Pid,
        Type::Time,
        Type::User,
        Type::Uts,
    ]
};

/// The features document.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Features {
    oci_version_min: &'static str,
    oci_version_max: &'static str,
    hooks: Vec<&'static str>,
    mount_options: Vec<String>,
    linux: Linux,
    /// What else is to be told; the runtime's command line adds its own version.
    pub annotations: BTreeMap<String, String>,
    /// Annotations of a configuration that change what is done: none does.
    potentially_unsafe_config_annotations: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Linux {
    namespaces: Vec<oci::LinuxNamespaceType>,
    capabilities: Vec<&'static str>,
    cgroup: Cgroup,
    seccomp: Seccomp,
    apparmor: Enabled,
    selinux: Enabled,
    intel_rdt: Enabled,
    memory_policy: MemoryPolicy,
    mount_extensions: MountExtensions,
    net_devices: Enabled,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Cgroup {
    v1: bool,
    v2: bool,
    systemd: bool,
    systemd_user: bool,
    rdma: bool,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Seccomp {
    enabled: bool,
    actions: Vec<oci::LinuxSeccompAction>,
    operators: Vec<oci::LinuxSeccompOperator>,
    archs: Vec<oci::Arch>,
    known_flags: Vec<oci::LinuxSeccompFilterFlag>,
    /// Those that this kernel knows too.
    supported_flags: Vec<oci::LinuxSeccompFilterFlag>,
}

#[derive(Clone, Debug, Serialize)]
struct MemoryPolicy {
    modes: Vec<oci::MemoryPolicyModeType>,
    flags: Vec<oci::MemoryPolicyFlagType>,
}

#[derive(Clone, Debug, Serialize)]
struct MountExtensions {
    idmap: Enabled,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Enabled {
    enabled: bool,
}

const YES: Enabled = Enabled { enabled: true };
const NO: Enabled = Enabled { enabled: false };

/// What this runtime can do.
pub fn features() -> Features {
    let mut mount_options: Vec<String> = plan::option_names().collect();
    mount_options.sort_unstable();
    let flags = seccomp::FLAGS.iter();
    let known_here = flags
        .clone()
        .filter(|(_, bits)| sys::seccomp::knows_flags(*bits));
    Features {
        oci_version_min: OLDEST_VERSION,
        oci_version_max: OCI_VERSION,
        hooks: Kind::ALL.map(Kind::name).to_vec(),
        mount_options,
        linux: Linux {
            namespaces: NAMESPACES.to_vec(),
            capabilities: capability::NAMES.to_vec(),
            cgroup: Cgroup {
                v1: true,
                v2: true,
                systemd: true,
                systemd_user: true,
                rdma: true,
            },
            seccomp: Seccomp {
                enabled: true,
                actions: seccomp::ACTIONS.to_vec(),
                operators: seccomp::OPERATORS.to_vec(),
                archs: seccomp::ARCHITECTURES.to_vec(),
                known_flags: flags.clone().map(|(flag, _)| *flag).collect(),
                supported_flags: known_here.map(|(flag, _)| *flag).collect(),
            },
            apparmor: YES,
            selinux: YES,
            intel_rdt: NO,
            memory_policy: MemoryPolicy {
                modes: MEMORY_MODES.to_vec(),
                flags: MEMORY_FLAGS.map(|(flag, _)| flag).to_vec(),
            },
            mount_extensions: MountExtensions { idmap: YES },
            net_devices: YES,
        },
        annotations: BTreeMap::new(),
        potentially_unsafe_config_annotations: Vec::new(),
    }
}
