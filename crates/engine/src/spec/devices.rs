//! Device nodes of the host inside a container.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use runtime::oci;
use vocab::config::HostConfig;
use vocab::{Failure, Kind};

use super::CheckError;
use super::cdi::{self, CdiError, Edits};

/// Device nodes to make, and rules that allow their use.
#[derive(Clone, Debug, Default)]
pub(crate) struct Devices {
    pub(crate) nodes: Vec<oci::LinuxDevice>,
    pub(crate) rules: Vec<oci::LinuxDeviceCgroup>,
    /// What else devices need that their vendors describe.
    pub(crate) edits: Edits,
}

/// A device that cannot be passed in.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// It cannot be looked at.
    #[error("error gathering device information while adding custom device \"{path}\"")]
    Look {
        /// On the host.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It is something else.
    #[error(
        "error gathering device information while adding custom device \"{0}\": not a device node"
    )]
    NotADevice(PathBuf),
    /// One that its vendor describes.
    #[error(transparent)]
    Cdi(#[from] CdiError),
}

impl Failure for DeviceError {
    fn kind(&self) -> Kind {
        match self {
            Self::Cdi(error) => error.kind(),
            _ => Kind::InvalidArgument,
        }
    }
}

/// Directory levels below a device directory that are searched.
const DEPTH: usize = 8;

/// Looks up what the container wants. Blocks.
pub(crate) fn look_up(host: &HostConfig, descriptions: &[PathBuf]) -> Result<Devices, DeviceError> {
    let requests = host.resources.device_requests.as_deref();
    let mut devices = Devices {
        edits: cdi::resolve(requests.unwrap_or_default(), descriptions)?,
        ..Devices::default()
    };
    if host.privileged {
        collect(
            Path::new("/dev"),
            Path::new("/dev"),
            DEPTH,
            &mut devices.nodes,
        );
        devices.rules = vec![rule(true, None, None, None, "rwm")];
    }
    for wanted in host.resources.devices.iter().flatten() {
        let outside = Path::new(&wanted.path_on_host);
        let inside = if wanted.path_in_container.is_empty() {
            outside
        } else {
            Path::new(&wanted.path_in_container)
        };
        let access = if wanted.cgroup_permissions.is_empty() {
            "rwm"
        } else {
            &wanted.cgroup_permissions
        };
        let metadata = std::fs::metadata(outside).map_err(|source| DeviceError::Look {
            path: outside.to_owned(),
            source,
        })?;
        let before = devices.nodes.len();
        if metadata.is_dir() {
            collect(outside, inside, DEPTH, &mut devices.nodes);
        } else {
            devices.nodes.extend(node(&metadata, inside));
        }
        if devices.nodes.len() == before {
            return Err(DeviceError::NotADevice(outside.to_owned()));
        }
        for node in &devices.nodes[before..] {
            devices.rules.push(rule(
                true,
                Some(node.typ()),
                Some(node.major()),
                Some(node.minor()),
                access,
            ));
        }
    }
    described(&mut devices)?;
    for text in host.resources.device_cgroup_rules.iter().flatten() {
        devices.rules.extend(parse_rule(text).ok());
    }
    Ok(devices)
}

/// Device nodes that a vendor's description wants.
fn described(devices: &mut Devices) -> Result<(), DeviceError> {
    for wanted in &devices.edits.device_nodes {
        let inside = Path::new(&wanted.path);
        let mut node = if wanted.kind.is_empty() || (wanted.major, wanted.minor) == (0, 0) {
            let outside = match wanted.host_path.as_str() {
                "" => inside,
                path => Path::new(path),
            };
            let metadata = std::fs::metadata(outside).map_err(|source| DeviceError::Look {
                path: outside.to_owned(),
                source,
            })?;
            let found = node(&metadata, inside);
            found.ok_or_else(|| DeviceError::NotADevice(outside.to_owned()))?
        } else {
            let mut device = oci::LinuxDevice::default();
            let typ = match wanted.kind.as_str() {
                "b" => oci::LinuxDeviceType::B,
                "p" => oci::LinuxDeviceType::P,
                _ => oci::LinuxDeviceType::C,
            };
            device
                .set_path(inside.to_owned())
                .set_typ(typ)
                .set_major(wanted.major)
                .set_minor(wanted.minor);
            device
        };
        if let Some(mode) = wanted.file_mode {
            node.set_file_mode(Some(mode));
        }
        if let Some(uid) = wanted.uid {
            node.set_uid(Some(uid));
        }
        if let Some(gid) = wanted.gid {
            node.set_gid(Some(gid));
        }
        let access = match wanted.permissions.as_str() {
            "" => "rwm",
            access => access,
        };
        let numbers = (Some(node.major()), Some(node.minor()));
        let allowed = rule(true, Some(node.typ()), numbers.0, numbers.1, access);
        devices.rules.push(allowed);
        devices.nodes.push(node);
    }
    Ok(())
}

fn collect(outside: &Path, inside: &Path, depth: usize, nodes: &mut Vec<oci::LinuxDevice>) {
    // What vanishes while it is looked at is not there.
    let Ok(entries) = std::fs::read_dir(outside) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        // What the runtime makes or mounts itself (as runc's `devices.GetDevices`).
        if ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"]
            .iter()
            .any(|own| name == **own)
        {
            continue;
        }
        let Ok(metadata) = std::fs::symlink_metadata(entry.path()) else {
            continue;
        };
        if metadata.is_dir() {
            if depth > 0 {
                collect(&entry.path(), &inside.join(name), depth - 1, nodes);
            }
        } else if name != "console" && name != "ptmx" {
            nodes.extend(node(&metadata, &inside.join(name)));
        }
    }
}

fn node(metadata: &std::fs::Metadata, inside: &Path) -> Option<oci::LinuxDevice> {
    let typ = if metadata.file_type().is_char_device() {
        oci::LinuxDeviceType::C
    } else if metadata.file_type().is_block_device() {
        oci::LinuxDeviceType::B
    } else {
        return None;
    };
    let number = metadata.rdev();
    let mut device = oci::LinuxDevice::default();
    device
        .set_path(inside.to_owned())
        .set_typ(typ)
        .set_major(rustix::fs::major(number).into())
        .set_minor(rustix::fs::minor(number).into())
        .set_file_mode(Some(metadata.mode() & 0o7777))
        .set_uid(Some(metadata.uid()))
        .set_gid(Some(metadata.gid()));
    Some(device)
}

/// Reads `type major:minor mode`, where numbers may be `*`.
pub(crate) fn parse_rule(text: &str) -> Result<oci::LinuxDeviceCgroup, CheckError> {
    let refused = || CheckError::Invalid(format!("invalid device cgroup rule format: '{text}'"));
    let mut words = text.split(' ');
    let (typ, numbers, access) = (
        words.next().ok_or_else(refused)?,
        words.next().ok_or_else(refused)?,
        words.next().ok_or_else(refused)?,
    );
    let typ = match typ {
        "a" => oci::LinuxDeviceType::A,
        "b" => oci::LinuxDeviceType::B,
        "c" => oci::LinuxDeviceType::C,
        _ => return Err(refused()),
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(refused)?;
    let number = |text: &str| match text {
        "*" => Ok(None),
        digits => digits
            .parse::<u32>()
            .map(|n| Some(i64::from(n)))
            .map_err(|_| refused()),
    };
    let fine = (1..=3).contains(&access.len()) && access.bytes().all(|b| b"rwm".contains(&b));
    if !fine || words.next().is_some() {
        return Err(refused());
    }
    Ok(rule(
        true,
        Some(typ),
        number(major)?,
        number(minor)?,
        access,
    ))
}

/// Docker's: nothing, then making nodes, then the harmless ones.
pub(crate) fn default_rules() -> Vec<oci::LinuxDeviceCgroup> {
    use oci::LinuxDeviceType::{B, C};
    let mut rules = vec![
        rule(false, None, None, None, "rwm"),
        rule(true, Some(C), None, None, "m"),
        rule(true, Some(B), None, None, "m"),
    ];
    // null, zero, full, random, urandom, tty, console, ptmx, pts/*.
    let harmless = [
        (1, Some(3)),
        (1, Some(5)),
        (1, Some(7)),
        (1, Some(8)),
        (1, Some(9)),
        (5, Some(0)),
        (5, Some(1)),
        (5, Some(2)),
        (136, None),
    ];
    rules.extend(harmless.map(|(major, minor)| rule(true, Some(C), Some(major), minor, "rwm")));
    rules
}

fn rule(
    allow: bool,
    typ: Option<oci::LinuxDeviceType>,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> oci::LinuxDeviceCgroup {
    let mut rule = oci::LinuxDeviceCgroup::default();
    rule.set_allow(allow)
        .set_typ(typ)
        .set_major(major)
        .set_minor(minor)
        .set_access(Some(access.to_owned()));
    rule
}

#[cfg(test)]
mod tests {
    use super::*;
    use vocab::config::{DeviceMapping, Resources};

    #[test]
    fn device_rules_are_read() {
        let rule = parse_rule("c 42:* rmw").unwrap();
        assert_eq!((rule.major(), rule.minor()), (Some(42), None));
        for wrong in [
            "",
            "c",
            "x 1:1 r",
            "c 1 r",
            "c 1:1 q",
            "c 1:1 r r",
            "c -1:1 r",
        ] {
            assert!(parse_rule(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_device_is_found_with_its_numbers() {
        let host = |path: &str| HostConfig {
            resources: Resources {
                devices: Some(vec![DeviceMapping {
                    path_on_host: path.to_owned(),
                    path_in_container: "/dev/x".to_owned(),
                    cgroup_permissions: "r".to_owned(),
                }]),
                ..Resources::default()
            },
            ..HostConfig::default()
        };
        let devices = look_up(&host("/dev/null"), &[]).unwrap();
        assert_eq!((devices.nodes[0].major(), devices.nodes[0].minor()), (1, 3));
        assert_eq!(devices.nodes[0].path(), Path::new("/dev/x"));
        assert_eq!(devices.rules[0].access().as_deref(), Some("r"));
        assert!(look_up(&host("/dev/nope"), &[]).is_err());
        assert!(matches!(
            look_up(&host("/etc/passwd"), &[]),
            Err(DeviceError::NotADevice(_))
        ));
    }
}
