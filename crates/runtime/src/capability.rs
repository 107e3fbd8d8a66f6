//! Capabilities by name, and as the five sets that a process holds.

use std::fs;

use rustix::thread::{CapabilitySet, capabilities};

use crate::oci;

/// What Docker grants a container that asks for nothing.
pub const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Every capability's name; its number is its place.
pub const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// Whether a capability of this name is read (`CAP_` may be left out).
pub(crate) fn is_known(name: &str) -> bool {
    let upper = name.to_uppercase();
    let bare = upper.trim_start_matches("CAP_");
    NAMES
        .iter()
        .any(|known| known.strip_prefix("CAP_") == Some(bare))
}

/// The number of the last capability that this kernel knows.
fn last() -> u32 {
    let known = u32::try_from(NAMES.len() - 1).expect("a small constant");
    fs::read_to_string("/proc/sys/kernel/cap_last_cap")
        .ok()
        .and_then(|text| text.trim().parse::<u32>().ok())
        .map_or(known, |last| last.min(63))
}

/// All that this kernel knows (up to its last) and the caller itself may hold: what a privileged
/// container gets.
pub fn all() -> Vec<String> {
    let held = capabilities(None).map_or(CapabilitySet::all(), |sets| sets.permitted);
    let last = last() as usize;
    let known = NAMES
        .iter()
        .enumerate()
        .take_while(|(number, _)| *number <= last);
    known
        .filter(|(number, _)| held.contains(CapabilitySet::from_bits_retain(1 << number)))
        .map(|(_, name)| (*name).to_owned())
        .collect()
}

/// The five sets of a process (capabilities(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sets {
    pub(crate) bounding: CapabilitySet,
    pub(crate) effective: CapabilitySet,
    pub(crate) permitted: CapabilitySet,
    pub(crate) inheritable: CapabilitySet,
    pub(crate) ambient: CapabilitySet,
}

impl Sets {
    /// No capability in any of them.
    pub(crate) const NONE: Self = Self {
        bounding: CapabilitySet::empty(),
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
        ambient: CapabilitySet::empty(),
    };

    /// From the specification.
    pub(crate) fn new(capabilities: &oci::LinuxCapabilities) -> Self {
        Self {
            bounding: set(capabilities.bounding().as_ref()),
            effective: set(capabilities.effective().as_ref()),
            permitted: set(capabilities.permitted().as_ref()),
            inheritable: set(capabilities.inheritable().as_ref()),
            ambient: set(capabilities.ambient().as_ref()),
        }
    }
}

fn set(names: Option<&oci::Capabilities>) -> CapabilitySet {
    let numbers = names
        .into_iter()
        .flatten()
        .filter_map(|capability| number(*capability));
    numbers.fold(CapabilitySet::empty(), |set, n| {
        set | CapabilitySet::from_bits_retain(1 << n)
    })
}

/// A capability's number, by its name: `oci_spec` orders them otherwise.
fn number(capability: oci::Capability) -> Option<usize> {
    let name = capability.to_string();
    NAMES
        .iter()
        .position(|known| known.strip_prefix("CAP_") == Some(&name) || *known == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_specification_has_its_number() {
        for (expected, name) in NAMES.iter().enumerate() {
            let capability: oci::Capability =
                serde_json::from_str(&format!("{name:?}")).expect("a capability");
            assert_eq!(number(capability), Some(expected), "{name}");
        }
    }

    #[test]
    fn the_default_ones_are_known() {
        assert!(DEFAULT.iter().all(|name| NAMES.contains(name)));
    }
}
