//! `-v`, `--mount`, `--tmpfs`, `VOLUME`, and the mounts that every container has.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use runtime::{Origin, oci};
use vocab::ContainerId;
use vocab::config::{ContainerConfig, HostConfig, Mount};

use super::user::{ID_MAX, Identity};
use super::{CheckError, Facts, Namespace};
use crate::containers::record::{MountKind, Mounted};

/// What the container wants mounted. Volumes that nobody named have an empty name.
///
/// `inherited` are the mounts of other containers (`--volumes-from`); the container's own win.
pub(crate) fn plan(
    config: &ContainerConfig,
    host: &HostConfig,
    inherited: Vec<Mounted>,
) -> Result<Vec<Mounted>, CheckError> {
    let mut own: Vec<Mounted> = Vec::new();
    let binds = host.binds.iter().flatten().map(|text| parse_bind(text));
    let mounts = host.mounts.iter().flatten().map(parse_mount);
    for mounted in binds.chain(mounts) {
        let mounted = mounted?;
        if own
            .iter()
            .any(|other| other.destination == mounted.destination)
        {
            return Err(CheckError::Invalid(format!(
                "Duplicate mount point: {}",
                mounted.destination
            )));
        }
        own.push(mounted);
    }
    for (destination, options) in host.tmpfs.iter().flatten() {
        let destination = clean(destination, destination)?;
        if own.iter().any(|other| other.destination == destination) {
            return Err(CheckError::Invalid(format!(
                "Duplicate mount point: {destination}"
            )));
        }
        own.push(Mounted {
            kind: MountKind::Tmpfs,
            destination,
            mode: options.clone(),
            options: tmpfs_options(options)?,
            ..Mounted::default()
        });
    }
    for mounted in inherited {
        if !own
            .iter()
            .any(|other| other.destination == mounted.destination)
        {
            own.push(mounted);
        }
    }
    for (destination, _) in config.volumes.iter().flatten() {
        let destination = clean(destination, destination)?;
        if !own.iter().any(|other| other.destination == destination) {
            own.push(Mounted {
                kind: MountKind::Volume,
                anonymous: true,
                destination,
                ..Mounted::default()
            });
        }
    }
    for mounted in &mut own {
        let bare = mounted.kind == MountKind::Volume && !mounted.long_form;
        if bare && mounted.driver.is_empty() {
            mounted.driver.clone_from(&host.volume_driver);
        }
    }
    Ok(own)
}

/// Options that stand alone where a destination is wanted (moby: `linuxParser.isValidMountMode`).
const MODES: [&str; 5] = ["ro", "rw", "z", "Z", "nocopy"];

/// Reads `source:destination[:options]`.
fn parse_bind(text: &str) -> Result<Mounted, CheckError> {
    let refuse = || CheckError::Invalid(format!("invalid volume specification: '{text}'"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, destination, mode) = match parts.as_slice() {
        [destination] => ("", *destination, ""),
        // Options need a source: `/d:ro` is neither a volume nor a bind.
        [_, mode] if MODES.contains(mode) => return Err(refuse()),
        [source, destination] => (*source, *destination, ""),
        [source, destination, mode] => (*source, *destination, *mode),
        _ => return Err(refuse()),
    };
    if parts.len() > 1 && parts[0].is_empty() || destination.is_empty() {
        return Err(refuse());
    }
    let mut mounted = Mounted {
        destination: clean(destination, text)?,
        mode: mode.to_owned(),
        ..Mounted::default()
    };
    if source.starts_with('/') {
        mounted.kind = MountKind::Bind;
        mounted.source = clean_host(source);
        mounted.create_source = true;
        "rprivate".clone_into(&mut mounted.propagation);
    } else {
        mounted.kind = MountKind::Volume;
        source.clone_into(&mut mounted.volume);
        mounted.anonymous = source.is_empty();
        if !source.is_empty() {
            check_volume_name(source)?;
        }
    }
    for word in mode.split(',').filter(|word| !word.is_empty()) {
        option(&mut mounted, word)
            .ok_or_else(|| CheckError::Invalid(format!("invalid mode: {mode}")))?;
    }
    Ok(mounted)
}

fn option(mounted: &mut Mounted, word: &str) -> Option<()> {
    match word {
        "ro" => mounted.read_only = true,
        "rw" => mounted.read_only = false,
        "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave"
            if mounted.kind == MountKind::Bind =>
        {
            word.clone_into(&mut mounted.propagation);
        }
        "nocopy" if mounted.kind == MountKind::Volume => {
            mounted.options.push("nocopy".to_owned());
        }
        // SELinux labels and the consistency of another operating system: nothing to do here, as
        // in Docker on a host without SELinux.
        "z" | "Z" | "consistent" | "cached" | "delegated" | "default" => {}
        word if mounted.kind == MountKind::Bind => {
            mounted.map = Some(parse_map(word.strip_prefix("map=")?)?);
        }
        _ => return None,
    }
    Some(())
}

/// Reads `UID[:GID]`; in `-v`, where a colon ends the options, `UID/GID`. One number is both.
fn parse_map(text: &str) -> Option<(u32, u32)> {
    let number = |text: &str| text.parse().ok().filter(|id| *id <= ID_MAX);
    match text.split_once([':', '/']) {
        Some((user, group)) => Some((number(user)?, number(group)?)),
        None => number(text).map(|id| (id, id)),
    }
}

/// Reads the long form.
fn parse_mount(mount: &Mount) -> Result<Mounted, CheckError> {
    let refuse = |why: &str| {
        Err(CheckError::Invalid(format!(
            "invalid mount config for type {:?}: {why}",
            mount.kind
        )))
    };
    if mount.target.is_empty() {
        return refuse("field Target must not be empty");
    }
    let mut mounted = Mounted {
        destination: clean(&mount.target, &mount.target)?,
        read_only: mount.read_only,
        long_form: true,
        ..Mounted::default()
    };
    for (set, kind, name) in [
        (mount.bind_options.is_some(), "bind", "BindOptions"),
        (mount.volume_options.is_some(), "volume", "VolumeOptions"),
        (mount.tmpfs_options.is_some(), "tmpfs", "TmpfsOptions"),
        (mount.image_options.is_some(), "image", "ImageOptions"),
    ] {
        if set && mount.kind != kind {
            return refuse(&format!("field {name} must not be specified"));
        }
    }
    match mount.kind.as_str() {
        "bind" => {
            if mount.source.is_empty() {
                return refuse("field Source must not be empty");
            }
            if !mount.source.starts_with('/') {
                return refuse(&format!(
                    "invalid mount path: '{}' mount path must be absolute",
                    mount.source
                ));
            }
            mounted.source = clean_host(&mount.source);
            "rprivate".clone_into(&mut mounted.propagation);
            if let Some(options) = &mount.bind_options {
                match options.propagation.as_str() {
                    "" => {}
                    known
                    @ ("private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave") => {
                        known.clone_into(&mut mounted.propagation);
                    }
                    other => return refuse(&format!("invalid propagation mode: {other}")),
                }
                mounted.non_recursive = options.non_recursive;
                mounted.create_source = options.create_mountpoint;
                mounted.read_only_non_recursive = options.read_only_non_recursive;
                mounted.read_only_force_recursive = options.read_only_force_recursive;
                if !options.map.is_empty() {
                    let Some(map) = parse_map(&options.map) else {
                        return refuse(&format!("invalid map (UID[:GID]): {}", options.map));
                    };
                    mounted.map = Some(map);
                }
                if (options.read_only_non_recursive || options.read_only_force_recursive)
                    && !mount.read_only
                {
                    return refuse("mount must be read-only for its submounts to be");
                }
            }
            if !mounted.create_source && !Path::new(&mounted.source).exists() {
                return refuse(&format!(
                    "bind source path does not exist: {}",
                    mounted.source
                ));
            }
        }
        "volume" => {
            mounted.kind = MountKind::Volume;
            mounted.anonymous = mount.source.is_empty();
            mounted.volume.clone_from(&mount.source);
            if !mount.source.is_empty() {
                check_volume_name(&mount.source)?;
            }
            if let Some(options) = &mount.volume_options {
                if options.no_copy {
                    mounted.options.push("nocopy".to_owned());
                }
                if !is_local(&options.subpath) {
                    return refuse("subpath must be a relative path within the volume");
                }
                mounted.subpath.clone_from(&options.subpath);
                mounted.labels = options.labels.clone().unwrap_or_default();
                if let Some(driver) = &options.driver_config {
                    mounted.driver.clone_from(&driver.name);
                    mounted.driver_options = driver.options.clone().unwrap_or_default();
                }
            }
        }
        "tmpfs" => {
            mounted.kind = MountKind::Tmpfs;
            if !mount.source.is_empty() {
                return refuse("field Source must not be specified");
            }
            if let Some(options) = &mount.tmpfs_options {
                if options.size_bytes > 0 {
                    mounted.options.push(format!("size={}", options.size_bytes));
                }
                if options.mode > 0 {
                    mounted.options.push(format!("mode={:o}", options.mode));
                }
                for words in options.options.iter().flatten() {
                    let word = words.join("=");
                    mounted.options.extend(tmpfs_options(&word)?);
                }
            }
        }
        "image" => {
            mounted.kind = MountKind::Image;
            if mount.source.is_empty() {
                return refuse("field Source must not be empty");
            }
            mounted.source.clone_from(&mount.source);
            mounted.read_only = true;
            if let Some(options) = &mount.image_options {
                if !is_local(&options.subpath) {
                    return refuse("subpath must be a relative path within the image");
                }
                mounted.subpath.clone_from(&options.subpath);
            }
        }
        "cluster" => return refuse("cluster volumes are those of a swarm, and this is none"),
        "npipe" => return refuse("named pipes are Windows' own"),
        _ => return refuse("mount type unknown"),
    }
    Ok(mounted)
}

fn tmpfs_options(text: &str) -> Result<Vec<String>, CheckError> {
    const FLAGS: [&str; 22] = [
        "ro",
        "rw",
        "exec",
        "noexec",
        "suid",
        "nosuid",
        "dev",
        "nodev",
        "sync",
        "async",
        "atime",
        "noatime",
        "diratime",
        "nodiratime",
        "relatime",
        "norelatime",
        "strictatime",
        "nostrictatime",
        "private",
        "rprivate",
        "defaults",
        "bind",
    ];
    const VALUES: [&str; 6] = ["size", "mode", "uid", "gid", "nr_inodes", "nr_blocks"];
    text.split(',')
        .filter(|word| !word.is_empty())
        .map(|word| {
            let known = match word.split_once('=') {
                Some((key, value)) => VALUES.contains(&key) && !value.is_empty(),
                None => FLAGS.contains(&word),
            };
            if known {
                Ok(word.to_owned())
            } else {
                Err(CheckError::Invalid(format!(
                    "Invalid tmpfs option {word:?}"
                )))
            }
        })
        .collect()
}

/// Whether a path is relative and stays below where it begins, by its words alone.
fn is_local(path: &str) -> bool {
    let mut depth = 0_i32;
    for part in Path::new(path).components() {
        depth += match part {
            Component::Normal(_) => 1,
            Component::ParentDir => -1,
            Component::CurDir => 0,
            Component::RootDir | Component::Prefix(_) => return false,
        };
        if depth < 0 {
            return false;
        }
    }
    !path.contains('\0')
}

/// Refuses names that would not be one path component.
pub(crate) fn check_volume_name(name: &str) -> Result<(), CheckError> {
    let fine = name.len() > 1
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        && name.len() <= 255;
    if fine {
        return Ok(());
    }
    Err(CheckError::Invalid(format!(
        "{name:?} includes invalid characters for a local volume name, only \
         \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use \
         absolute path"
    )))
}

/// An absolute path without `.`, `..` and doubled slashes, that is not the root itself.
fn clean(path: &str, whole: &str) -> Result<String, CheckError> {
    if !path.starts_with('/') {
        return Err(CheckError::Invalid(format!(
            "invalid volume specification: '{whole}': invalid mount path: '{path}' mount path must \
             be absolute"
        )));
    }
    let cleaned = clean_host(path);
    if cleaned == "/" {
        return Err(CheckError::Invalid(format!(
            "invalid volume specification: '{whole}': invalid specification: destination can't be \
             '/'"
        )));
    }
    Ok(cleaned)
}

fn clean_host(path: &str) -> String {
    let mut cleaned = PathBuf::from("/");
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => cleaned.push(name),
            Component::ParentDir => drop(cleaned.pop()),
            _ => {}
        }
    }
    cleaned.to_string_lossy().into_owned()
}

/// Every mount of the container, parents before children.
pub(crate) fn all(facts: &Facts<'_>) -> Vec<oci::Mount> {
    let own: Vec<&str> = facts
        .mounts
        .iter()
        .map(|mounted| mounted.destination.as_str())
        .collect();
    let mut mounts: Vec<oci::Mount> = system(facts)
        .into_iter()
        .filter(|mount| !own.iter().any(|own| mount.destination() == Path::new(own)))
        .collect();
    let identity = facts.identity;
    let mut rest: Vec<oci::Mount> = facts
        .mounts
        .iter()
        .map(|mounted| mount_of(mounted, identity))
        .collect();
    rest.extend(facts.devices.edits.mounts.iter().map(described));
    if let Some(files) = facts.files {
        for name in ["resolv.conf", "hostname", "hosts"] {
            let inside = format!("/etc/{name}");
            if !own.contains(&inside.as_str()) {
                let source = files.join(name).to_string_lossy().into_owned();
                rest.push(mount(&inside, "bind", &source, &["rbind", "rprivate"]));
            }
        }
    }
    rest.sort_by_key(|mount| mount.destination().components().count());
    mounts.extend(rest);
    mounts
}

/// What a device wants mounted.
fn described(wanted: &super::cdi::Mount) -> oci::Mount {
    let kind = match wanted.kind.as_str() {
        "" => "bind",
        kind => kind,
    };
    let options: Vec<&str> = wanted.options.iter().map(String::as_str).collect();
    mount(&wanted.container_path, kind, &wanted.host_path, &options)
}

fn system(facts: &Facts<'_>) -> Vec<oci::Mount> {
    let access = |write| if write { "rw" } else { "ro" };
    let cgroups = access(facts.security.writable_cgroups);
    let access = access(facts.host.privileged);
    let shm_bytes = match u64::try_from(facts.host.shm_size) {
        Ok(bytes @ 1..) => bytes,
        _ => facts.shm_bytes,
    };
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount(
            "/sys",
            "sysfs",
            "sysfs",
            &["nosuid", "noexec", "nodev", access],
        ),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &[cgroups, "nosuid", "noexec", "nodev"],
        ),
    ];
    let flags = ["nosuid", "noexec", "nodev"];
    if facts.namespaces.ipc == Namespace::Host {
        let bind = ["rbind", "rprivate"];
        mounts.push(mount("/dev/mqueue", "bind", "/dev/mqueue", &bind));
    } else {
        mounts.push(mount("/dev/mqueue", "mqueue", "mqueue", &flags));
    }
    if let Some(shm) = facts.shm {
        let bind = ["rbind", "rprivate"];
        mounts.push(mount("/dev/shm", "bind", &shm.to_string_lossy(), &bind));
    } else if facts.host.ipc_mode != "none" {
        let size = format!("size={shm_bytes}");
        let options = ["nosuid", "noexec", "nodev", "mode=1777", size.as_str()];
        mounts.push(mount("/dev/shm", "tmpfs", "shm", &options));
    }
    mounts
}

fn mount_of(mounted: &Mounted, identity: &Identity) -> oci::Mount {
    let mut options: Vec<&str> = Vec::new();
    match mounted.kind {
        MountKind::Tmpfs => {
            options.extend(["noexec", "nosuid", "nodev"]);
            if mounted.read_only {
                options.push("ro");
            }
            // A later word takes an earlier one back.
            for word in &mounted.options {
                let opposite = match word.strip_prefix("no") {
                    Some(word) => word.to_owned(),
                    None => format!("no{word}"),
                };
                options.retain(|other| *other != opposite);
                options.push(word);
            }
            mount(&mounted.destination, "tmpfs", "tmpfs", &options)
        }
        MountKind::Image => mount(
            &mounted.destination,
            "bind",
            &format!("/image:{}", mounted.source),
            &["bind", "ro", "rprivate"],
        ),
        MountKind::Bind | MountKind::Volume => {
            options.push(if mounted.non_recursive {
                "bind"
            } else {
                "rbind"
            });
            if mounted.read_only {
                let shallow = mounted.read_only_non_recursive || mounted.non_recursive;
                options.push(if shallow { "ro" } else { "rro" });
            }
            options.push(if mounted.propagation.is_empty() {
                "rprivate"
            } else {
                &mounted.propagation
            });
            let mut bind = mount(&mounted.destination, "bind", &mounted.source, &options);
            if let Some((user, group)) = mounted.map {
                bind.set_uid_mappings(one_id(user, identity.uid))
                    .set_gid_mappings(one_id(group, identity.gid));
            }
            bind
        }
    }
}

/// What is `outside`'s on the disk is `inside`'s in the container, and the other way round.
fn one_id(outside: u32, inside: u32) -> Option<Vec<oci::LinuxIdMapping>> {
    let mapping = oci::LinuxIdMappingBuilder::default()
        .container_id(outside)
        .host_id(inside);
    Some(vec![mapping.size(1_u32).build().ok()?])
}

/// Where binds come from whose source does not say it all.
pub(crate) fn origins(
    mounts: &[Mounted],
    layers: impl Fn(&ContainerId) -> Result<Vec<PathBuf>, store::SnapshotError>,
) -> Result<BTreeMap<PathBuf, Origin>, store::SnapshotError> {
    let mut origins = BTreeMap::new();
    for mounted in mounts {
        if let Some(origin) = origin_of(mounted, &layers)? {
            origins.insert(PathBuf::from(&mounted.destination), origin);
        }
    }
    Ok(origins)
}

/// The same for one.
pub(crate) fn origin_of(
    mounted: &Mounted,
    layers: impl Fn(&ContainerId) -> Result<Vec<PathBuf>, store::SnapshotError>,
) -> Result<Option<Origin>, store::SnapshotError> {
    let subpath = PathBuf::from(&mounted.subpath);
    Ok(match &mounted.image {
        Some((_, holder)) => Some(Origin::Layers {
            lower: layers(holder)?,
            subpath,
        }),
        None if mounted.subpath.is_empty() => None,
        None => Some(Origin::Beneath(subpath)),
    })
}

fn mount(destination: &str, typ: &str, source: &str, options: &[&str]) -> oci::Mount {
    let mut mount = oci::Mount::default();
    mount
        .set_destination(PathBuf::from(destination))
        .set_typ(Some(typ.to_owned()))
        .set_source(Some(PathBuf::from(source)))
        .set_options(Some(
            options.iter().map(|&option| option.to_owned()).collect(),
        ));
    mount
}

/// How mounts of the root travel: as far as the mounts in it need.
pub(crate) fn root_propagation(mounts: &[Mounted]) -> Option<&'static str> {
    let any = |suffix: &str| {
        mounts
            .iter()
            .any(|mounted| mounted.propagation.ends_with(suffix))
    };
    if any("shared") {
        Some("shared")
    } else if any("slave") {
        Some("slave")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(text: &str) -> Result<Vec<Mounted>, CheckError> {
        let host = HostConfig {
            binds: Some(vec![text.to_owned()]),
            ..HostConfig::default()
        };
        plan(&ContainerConfig::default(), &host, Vec::new())
    }

    #[test]
    fn binds_are_read() {
        let bound = bind("/a//b/../c:/d:ro,rslave").unwrap().remove(0);
        assert_eq!(
            (bound.source.as_str(), bound.destination.as_str()),
            ("/a/c", "/d")
        );
        assert_eq!(bound.kind, MountKind::Bind);
        assert!(bound.read_only && bound.create_source);
        assert_eq!(bound.propagation, "rslave");
        let named = bind("data:/d").unwrap().remove(0);
        assert_eq!(
            (named.kind, named.volume.as_str()),
            (MountKind::Volume, "data")
        );
        assert!(bind("/d").unwrap().remove(0).anonymous);
    }

    #[test]
    fn binds_that_cannot_be_are_refused() {
        for (text, part) in [
            ("", "invalid volume specification"),
            ("a:b:c:d", "invalid volume specification"),
            ("/a:b", "'b' mount path must be absolute"),
            ("/a:ro", "invalid volume specification: '/a:ro'"),
            ("data:relative", "must be absolute"),
            ("/a:/", "destination can't be '/'"),
            ("/a:/b:nope", "invalid mode: nope"),
            (
                "../x:/b",
                "includes invalid characters for a local volume name",
            ),
        ] {
            let error = bind(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn one_destination_has_one_mount() {
        let host = HostConfig {
            binds: Some(vec!["/a:/x".into(), "/b:/x/".into()]),
            ..HostConfig::default()
        };
        let error = plan(&ContainerConfig::default(), &host, Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), "Duplicate mount point: /x");
    }

    #[test]
    fn volumes_of_the_image_give_way() {
        let config = ContainerConfig {
            volumes: Some(
                [
                    ("/x".to_owned(), Default::default()),
                    ("/y".to_owned(), Default::default()),
                ]
                .into(),
            ),
            ..ContainerConfig::default()
        };
        let host = HostConfig {
            binds: Some(vec!["data:/x".into()]),
            ..HostConfig::default()
        };
        let planned = plan(&config, &host, Vec::new()).unwrap();
        let seen: Vec<_> = planned
            .iter()
            .map(|m| (m.destination.as_str(), m.anonymous))
            .collect();
        assert_eq!(seen, [("/x", false), ("/y", true)]);
    }

    #[test]
    fn a_later_tmpfs_option_takes_an_earlier_one_back() {
        let mounted = Mounted {
            kind: MountKind::Tmpfs,
            destination: "/t".into(),
            options: tmpfs_options("exec,size=5m").unwrap(),
            ..Mounted::default()
        };
        let identity = Identity {
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            home: String::new(),
        };
        let options = mount_of(&mounted, &identity).options().clone().unwrap();
        assert_eq!(options, ["nosuid", "nodev", "exec", "size=5m"]);
        assert!(tmpfs_options("nope").is_err());
    }
}
