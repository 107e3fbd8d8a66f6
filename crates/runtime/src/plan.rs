//! The pure half of `create`: a specification becomes checked values, before anything is made.
//!
//! What it refuses names the JSON path. What is planned here is what the child does, in order.

use std::ffi::CString;
use std::fmt::Display;
use std::path::{Component, Path, PathBuf};

use rustix::mount::{MountAttrFlags, MountPropagationFlags};
use rustix::process::Resource;
use rustix::thread::UnshareFlags;

use crate::attributes::{self, Affinity, Attributes};
use crate::bundle::{Bundle, Rootfs};
use crate::capability;
use crate::error::CreateError;
use crate::hooks::{self, HookError, Kind};
use crate::mapping::Mappings;
use crate::namespaces::{Namespaces, UserNamespace};
use crate::netdevices::{self, NetDevice};
use crate::oci;
use crate::origin::Origin;
use crate::resources;
use crate::state::{State, Status};

/// Everything the child of `create` does.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) namespaces: Namespaces,
    pub(crate) root: Root,
    pub(crate) mounts: Vec<Mount>,
    /// Whether `/dev` is ours to fill (it is not when the user bound one there).
    pub(crate) fill_dev: bool,
    pub(crate) devices: Vec<Device>,
    pub(crate) sysctl: Vec<(String, String)>,
    pub(crate) masked: Vec<PathBuf>,
    pub(crate) readonly: Vec<PathBuf>,
    pub(crate) hostname: Option<String>,
    pub(crate) domainname: Option<String>,
    pub(crate) process: Process,
    /// Those that run before the program does; mostly none.
    pub(crate) hooks: Option<Hooks>,
    /// Devices of the host's network that it is given; mostly none.
    pub(crate) net_devices: Vec<NetDevice>,
}

/// The hooks, and what they are told.
#[derive(Debug)]
pub(crate) struct Hooks {
    given: oci::Hooks,
    state: State,
}

impl Hooks {
    /// `environment` is for those that name none.
    pub(crate) fn run(
        &self,
        kind: Kind,
        status: Status,
        pid: i32,
        environment: &[CString],
    ) -> Result<(), HookError> {
        let state = State {
            status,
            pid,
            ..self.state.clone()
        };
        hooks::run(&self.given, kind, &state, environment)
    }

    pub(crate) fn has(&self, kind: Kind) -> bool {
        !kind.of(&self.given).is_empty()
    }
}

/// The root file system.
#[derive(Debug)]
pub(crate) struct Root {
    pub(crate) source: Rootfs,
    /// Where hooks look for an overlay.
    pub(crate) mount_point: Option<PathBuf>,
    pub(crate) readonly: bool,
    /// Applied to every mount of the host as the container sees them, first of all.
    pub(crate) host_propagation: MountPropagationFlags,
    /// Applied to the root after it became `/`.
    pub(crate) propagation: Option<Propagation>,
}

impl Root {
    /// Where the bundle says that it is.
    pub(crate) fn directory(&self) -> Option<PathBuf> {
        match &self.source {
            Rootfs::Directory(directory) => Some(directory.clone()),
            Rootfs::Overlay(_) => self.mount_point.clone(),
        }
    }
}

/// A propagation and whether mounts below get it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Propagation {
    pub(crate) kind: MountPropagationFlags,
    pub(crate) recursive: bool,
}

/// One mount.
#[derive(Debug)]
pub(crate) struct Mount {
    pub(crate) destination: PathBuf,
    pub(crate) kind: MountKind,
    pub(crate) options: MountOptions,
    /// Whose ids are shown as others', if any are.
    pub(crate) ids: Option<Ids>,
    /// Of a bind, where its source does not say it all.
    pub(crate) origin: Option<Origin>,
}

/// How a mount shows the ids of its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ids {
    /// Through this mapping; else through that of the container's user namespace.
    pub(crate) mappings: Option<Mappings>,
    /// The mounts below too.
    pub(crate) recursive: bool,
}

/// What is mounted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum MountKind {
    Bind {
        source: PathBuf,
        recursive: bool,
    },
    /// Changes a mount that is there: with `bind` its own flags, else the file system too.
    Remount {
        bind: bool,
    },
    New {
        kind: String,
        source: String,
    },
    Cgroup,
}

/// Options, sorted by who takes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MountOptions {
    pub(crate) set: MountAttrFlags,
    pub(crate) clear: MountAttrFlags,
    pub(crate) set_recursive: MountAttrFlags,
    pub(crate) clear_recursive: MountAttrFlags,
    pub(crate) propagation: Vec<Propagation>,
    /// Fill a tmpfs with what it covers.
    pub(crate) copy_up: bool,
    pub(crate) remount: bool,
    /// Map the ids of the mount, or of those below too.
    pub(crate) map_ids: Option<bool>,
    /// For the file system: a key, or a key and its value.
    pub(crate) parameters: Vec<(String, Option<String>)>,
}

/// A node in `/dev`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) path: PathBuf,
    pub(crate) kind: rustix::fs::FileType,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// The process: as whom, with what, where.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) arguments: Vec<CString>,
    pub(crate) environment: Vec<CString>,
    pub(crate) cwd: PathBuf,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) umask: Option<u32>,
    pub(crate) limits: Vec<Limit>,
    /// None at all where the specification names none.
    pub(crate) capabilities: capability::Sets,
    pub(crate) no_new_privileges: bool,
    pub(crate) oom_score: Option<i32>,
    pub(crate) attributes: Attributes,
    /// Only for a process that is executed.
    pub(crate) affinity: Affinity,
    /// Whether it runs below an init.
    pub(crate) init: bool,
}

/// A resource limit; `None` is unlimited.
#[derive(Clone, Debug)]
pub(crate) struct Limit {
    pub(crate) name: String,
    pub(crate) resource: Resource,
    pub(crate) soft: Option<u64>,
    pub(crate) hard: Option<u64>,
}

pub(crate) fn invalid(path: impl Into<String>, reason: impl Display) -> CreateError {
    CreateError::invalid(path, reason.to_string())
}

fn c_string(path: &str, text: &str) -> Result<CString, CreateError> {
    CString::new(text).map_err(|_| invalid(path, "contains a NUL byte"))
}

impl Plan {
    /// Whether the caller has something to do to the container once its mounts stand.
    pub(crate) fn needs_caller(&self) -> bool {
        let hooks = [Kind::Prestart, Kind::CreateRuntime];
        let hooks = |given: &Hooks| hooks.iter().any(|kind| given.has(*kind));
        !self.net_devices.is_empty() || self.hooks.as_ref().is_some_and(hooks)
    }

    /// The path within the container of a bind's source that lies in the container's own root: it
    /// is looked up when its turn comes, and finds what was mounted before.
    pub(crate) fn own_source<'a>(&self, mount: &'a Mount) -> Option<&'a Path> {
        match (&mount.kind, &self.root.source) {
            (MountKind::Bind { source, .. }, Rootfs::Directory(root)) => {
                let within = source.strip_prefix(root).ok();
                within.filter(|path| !path.as_os_str().is_empty())
            }
            _ => None,
        }
    }

    /// Checks a bundle. `joins_network`: the caller brings a network namespace.
    pub(crate) fn new(bundle: &Bundle, joins_network: bool) -> Result<Self, CreateError> {
        let spec = &bundle.spec;
        let nothing = oci::Linux::default();
        let linux = spec.linux().as_ref().unwrap_or(&nothing);
        let process = spec
            .process()
            .as_ref()
            .ok_or_else(|| invalid("process", "is missing"))?;

        refuse_unsupported(linux)?;
        if let Some(resources) = linux.resources() {
            resources::check(resources)?;
        }

        let namespaces = Namespaces::new(linux, joins_network)?;
        let given = if joins_network {
            UnshareFlags::NEWNET
        } else {
            UnshareFlags::empty()
        };
        let own = namespaces.own(given);
        let owns = |kind| own.contains(kind);
        let own_names = owns(UnshareFlags::NEWUTS);
        let hostname = name_of_host("hostname", spec.hostname(), own_names)?;
        let domainname = name_of_host("domainname", spec.domainname(), own_names)?;

        let mounts = spec.mounts().iter().flatten().enumerate();
        let mut mounts = mounts
            .map(|(i, m)| mount(i, m, bundle))
            .collect::<Result<Vec<_>, _>>()?;
        for mount in &mut mounts {
            mount.origin = bundle.extras.origins.get(&mount.destination).cloned();
        }
        if let Some(label) = attributes::mount_label(linux.mount_label().as_deref())? {
            label_files(&mut mounts, &label);
        }
        if namespaces.user.is_callers() {
            refuse_ids_of_no_namespace(&mounts)?;
        }
        let fill_dev = !mounts.iter().any(|mount| {
            matches!(mount.kind, MountKind::Bind { .. })
                && clean(&mount.destination) == Path::new("/dev")
        });
        let root = spec.root().as_ref();
        let plan = Self {
            root: Root {
                source: bundle.rootfs.clone(),
                mount_point: root
                    .filter(|root| root.path().is_absolute())
                    .map(|root| root.path().clone()),
                readonly: root.and_then(|root| root.readonly()).unwrap_or(false),
                ..root_propagation(linux.rootfs_propagation().as_deref(), &bundle.rootfs)?
            },
            fill_dev,
            devices: devices(linux)?,
            sysctl: sysctl(linux, owns)?,
            namespaces,
            mounts,
            masked: absolute("linux.maskedPaths", linux.masked_paths().as_deref())?,
            readonly: absolute("linux.readonlyPaths", linux.readonly_paths().as_deref())?,
            hostname,
            domainname,
            process: Process {
                init: bundle.extras.init,
                ..process_of_container(process, linux)?
            },
            hooks: hooks_of(bundle)?,
            net_devices: netdevices::plan(linux, owns(UnshareFlags::NEWNET))?,
        };
        if let UserNamespace::New(mappings) = &plan.namespaces.user {
            plan.check_ids(mappings)?;
        }
        Ok(plan)
    }
}

/// Checks all hooks, and takes those that run before the program does.
fn hooks_of(bundle: &Bundle) -> Result<Option<Hooks>, CreateError> {
    let Some(given) = bundle.spec.hooks() else {
        return Ok(None);
    };
    for kind in Kind::ALL {
        for (i, hook) in kind.of(given).iter().enumerate() {
            check_hook(&format!("hooks.{}[{i}]", kind.name()), hook)?;
        }
    }
    let late = [Kind::Poststart, Kind::Poststop];
    let mut early = Kind::ALL.iter().filter(|kind| !late.contains(kind));
    if early.all(|kind| kind.of(given).is_empty()) {
        return Ok(None);
    }
    Ok(Some(Hooks {
        given: given.clone(),
        state: State::new(bundle, Status::Creating, 0),
    }))
}

fn check_hook(at: &str, hook: &oci::Hook) -> Result<(), CreateError> {
    let path = hook.path();
    if !path.is_absolute() {
        let reason = format!("`{}` is not an absolute path", path.display());
        return Err(invalid(format!("{at}.path"), reason));
    }
    c_string(&format!("{at}.path"), &path.to_string_lossy())?;
    if let Some(timeout) = hook.timeout().filter(|timeout| *timeout <= 0) {
        let reason = format!("{timeout} is not a number of seconds above 0");
        return Err(invalid(format!("{at}.timeout"), reason));
    }
    for (name, texts) in [("args", hook.args()), ("env", hook.env())] {
        for (i, text) in texts.iter().flatten().enumerate() {
            c_string(&format!("{at}.{name}[{i}]"), text)?;
        }
    }
    Ok(())
}

impl Plan {
    /// That every id the specification names is one that the user namespace has.
    fn check_ids(&self, mappings: &Mappings) -> Result<(), CreateError> {
        let user = |at: String, uid| match mappings.has_user(uid) {
            true => Ok(()),
            false => Err(invalid(
                at,
                format!("user {uid} is not mapped in linux.uidMappings"),
            )),
        };
        let group = |at: String, gid| match mappings.has_group(gid) {
            true => Ok(()),
            false => Err(invalid(
                at,
                format!("group {gid} is not mapped in linux.gidMappings"),
            )),
        };
        let process = &self.process;
        user(String::from("process.user.uid"), process.uid)?;
        group(String::from("process.user.gid"), process.gid)?;
        for (i, gid) in process.groups.iter().enumerate() {
            group(format!("process.user.additionalGids[{i}]"), *gid)?;
        }
        for (i, mount) in self.mounts.iter().enumerate() {
            if !matches!(mount.kind, MountKind::New { .. }) {
                continue;
            }
            for (key, value) in &mount.options.parameters {
                let Some(id) = value.as_deref().and_then(|value| value.parse().ok()) else {
                    continue;
                };
                let at = || format!("mounts[{i}].options: `{key}={id}`");
                match key.as_str() {
                    "uid" => user(at(), id)?,
                    "gid" => group(at(), id)?,
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// `__NEW_UTS_LEN` (linux/utsname.h).
const MAX_HOSTNAME_BYTES: usize = 64;

/// An empty one is none, as everybody who writes with Go means it.
fn name_of_host(
    at: &str,
    name: &Option<String>,
    own_names: bool,
) -> Result<Option<String>, CreateError> {
    let Some(name) = name.as_ref().filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    if !own_names {
        return Err(invalid(at, "needs a UTS namespace of the container's own"));
    }
    if name.len() > MAX_HOSTNAME_BYTES {
        let reason = format!("is longer than {MAX_HOSTNAME_BYTES} bytes");
        return Err(invalid(at, reason));
    }
    Ok(Some(name.clone()))
}

/// What is asked for and not done is refused, not ignored.
fn refuse_unsupported(linux: &oci::Linux) -> Result<(), CreateError> {
    // Intel's allocation of caches has no users here, and no machine to show it on.
    if linux.intel_rdt().is_some() {
        return Err(invalid("linux.intelRdt", "is not supported"));
    }
    Ok(())
}

fn root_propagation(name: Option<&str>, rootfs: &Rootfs) -> Result<Root, CreateError> {
    let propagation = match name {
        None | Some("") => None,
        Some(name) => Some(propagation(name).ok_or_else(|| {
            invalid("linux.rootfsPropagation", format!("unknown value {name:?}"))
        })?),
    };
    // Mounts of the host are seen as they come, but nothing goes back, unless asked for.
    let host_propagation = match propagation {
        Some(asked) if asked.kind == MountPropagationFlags::SHARED => MountPropagationFlags::SHARED,
        Some(asked) if asked.kind == MountPropagationFlags::PRIVATE => {
            MountPropagationFlags::PRIVATE
        }
        _ => MountPropagationFlags::DOWNSTREAM,
    };
    Ok(Root {
        source: rootfs.clone(),
        mount_point: None,
        readonly: false,
        host_propagation,
        propagation,
    })
}

/// How mounts of the host and of the container reach each other.
const PROPAGATIONS: [(&str, MountPropagationFlags); 4] = [
    ("shared", MountPropagationFlags::SHARED),
    ("slave", MountPropagationFlags::DOWNSTREAM),
    ("private", MountPropagationFlags::PRIVATE),
    ("unbindable", MountPropagationFlags::UNBINDABLE),
];

fn propagation(name: &str) -> Option<Propagation> {
    let find = |bare: &str, recursive| {
        let mut all = PROPAGATIONS.iter().copied();
        let kind = all.find_map(|(known, kind)| (known == bare).then_some(kind))?;
        Some(Propagation { kind, recursive })
    };
    find(name, false).or_else(|| find(name.strip_prefix('r')?, true))
}

/// `/a/./b/../c` as `/a/c`, without looking at the file system.
pub(crate) fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => cleaned.push(name),
            Component::ParentDir => {
                cleaned.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    cleaned
}

/// Where programs, and this one, expect the kernel's procfs.
pub(crate) const PROC: &str = "/proc";

/// Files of `/proc` that others (lxcfs) replace, as runc allows them; the rest of `/proc` is not
/// to be covered, since security modules and our own checks rely on it.
const PROC_FILES: [&str; 11] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/net/dev",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
];

/// Whether something other than procfs may be mounted at `destination`, which lies in a procfs.
pub(crate) fn may_cover_proc(destination: &Path) -> bool {
    PROC_FILES.iter().any(|file| Path::new(file) == destination)
}

fn mount(i: usize, mount: &oci::Mount, bundle: &Bundle) -> Result<Mount, CreateError> {
    let at = format!("mounts[{i}]");
    let mut bind = None;
    let options = mount_options(mount.options().as_deref().unwrap_or_default(), &mut bind);
    // Relative destinations are below `/`, and those that name the root are within it, as runc
    // reads them.
    let destination = match &bundle.rootfs {
        Rootfs::Directory(root) => mount.destination().strip_prefix(root).ok(),
        Rootfs::Overlay(_) => None,
    };
    let destination = clean(destination.unwrap_or(mount.destination()));
    let kind = mount.typ().as_deref().unwrap_or_default();
    let kind = match (kind, bind) {
        _ if options.remount => MountKind::Remount {
            bind: bind.is_some() || kind == "bind",
        },
        ("bind", None) => bind_of(&at, mount, &bundle.directory, false)?,
        (_, Some(recursive)) => bind_of(&at, mount, &bundle.directory, recursive)?,
        ("cgroup" | "cgroup2", None) => MountKind::Cgroup,
        ("", None) => return Err(invalid(format!("{at}.type"), "is missing")),
        (kind, None) => MountKind::New {
            kind: kind.to_owned(),
            source: mount.source().as_ref().map_or_else(
                || kind.to_owned(),
                |source| source.to_string_lossy().into_owned(),
            ),
        },
    };
    if destination == Path::new("/") {
        return Err(invalid(
            format!("{at}.destination"),
            "the root is not to be covered",
        ));
    }
    let is_proc = matches!(&kind, MountKind::New { kind, .. } if kind == "proc");
    let is_bind = matches!(kind, MountKind::Bind { .. });
    let refused = if options.remount {
        // Covers nothing.
        None
    } else if destination == Path::new(PROC) {
        // What a bind brings is seen once it is opened.
        (!is_proc && !is_bind).then(|| String::from("only a procfs can be mounted at `/proc`"))
    } else if destination.starts_with(PROC) && !is_proc && !may_cover_proc(&destination) {
        Some(format!("`{}` is inside /proc", destination.display()))
    } else {
        None
    };
    if let Some(reason) = refused {
        return Err(invalid(format!("{at}.destination"), reason));
    }
    Ok(Mount {
        ids: ids(&at, mount, &kind, &options)?,
        destination,
        kind,
        options,
        origin: None,
    })
}

fn refuse_ids_of_no_namespace(mounts: &[Mount]) -> Result<(), CreateError> {
    let lacking = |mount: &Mount| mount.ids.as_ref().is_some_and(|ids| ids.mappings.is_none());
    match mounts.iter().position(lacking) {
        None => Ok(()),
        Some(i) => Err(invalid(
            format!("mounts[{i}].options"),
            "without uidMappings and gidMappings ids are mapped as in the container's user \
             namespace, and it has none",
        )),
    }
}

/// Mappings without a word mean the mount alone, and a word without mappings those of the
/// container's user namespace (config.md "Linux mount options").
fn ids(
    at: &str,
    mount: &oci::Mount,
    kind: &MountKind,
    options: &MountOptions,
) -> Result<Option<Ids>, CreateError> {
    let mappings = Mappings::new(
        at,
        mount.uid_mappings().as_deref(),
        mount.gid_mappings().as_deref(),
    )?;
    if mappings.is_none() && options.map_ids.is_none() {
        return Ok(None);
    }
    if !matches!(kind, MountKind::Bind { .. }) {
        return Err(invalid(at, "only a bind mount can have mapped ids"));
    }
    Ok(Some(Ids {
        mappings,
        recursive: options.map_ids.unwrap_or(false),
    }))
}

/// File systems that come with labels of their own, or take none as an option.
const UNLABELLED: [&str; 3] = ["proc", "sysfs", "mqueue"];

fn label_files(mounts: &mut [Mount], label: &str) {
    for mount in mounts {
        if matches!(&mount.kind, MountKind::New { kind, .. } if !UNLABELLED.contains(&kind.as_str()))
        {
            let context = (String::from("context"), Some(label.to_owned()));
            mount.options.parameters.push(context);
        }
    }
}

/// A relative source is in the bundle's directory, where the caller has one.
fn bind_of(
    at: &str,
    mount: &oci::Mount,
    bundle: &Path,
    recursive: bool,
) -> Result<MountKind, CreateError> {
    match mount.source() {
        Some(source) if source.is_absolute() || bundle.is_absolute() => Ok(MountKind::Bind {
            source: bundle.join(source),
            recursive,
        }),
        Some(source) => {
            let reason = format!("`{}` is not an absolute path", source.display());
            Err(invalid(format!("{at}.source"), reason))
        }
        None => Err(invalid(
            format!("{at}.source"),
            "is missing for a bind mount",
        )),
    }
}

/// The bits in which a mount says how it keeps access times (`MOUNT_ATTR__ATIME`); one value, not
/// flags.
const ACCESS_TIME: MountAttrFlags = MountAttrFlags::from_bits_retain(0x70);

/// What an option takes away of those before it.
fn replaced(set: MountAttrFlags, clear: MountAttrFlags) -> MountAttrFlags {
    if set.intersects(ACCESS_TIME) {
        clear | ACCESS_TIME
    } else {
        clear
    }
}

/// Names of a mount's flags: those that each sets, and those that it clears. With an `r` before it a
/// name means the mounts below too.
const ATTRIBUTES: [(&str, MountAttrFlags, MountAttrFlags); 18] = {
    use MountAttrFlags as F;
    let none = F::empty();
    let atime = ACCESS_TIME;
    [
        ("ro", F::MOUNT_ATTR_RDONLY, none),
        ("rw", none, F::MOUNT_ATTR_RDONLY),
        ("nosuid", F::MOUNT_ATTR_NOSUID, none),
        ("suid", none, F::MOUNT_ATTR_NOSUID),
        ("nodev", F::MOUNT_ATTR_NODEV, none),
        ("dev", none, F::MOUNT_ATTR_NODEV),
        ("noexec", F::MOUNT_ATTR_NOEXEC, none),
        ("exec", none, F::MOUNT_ATTR_NOEXEC),
        ("nodiratime", F::MOUNT_ATTR_NODIRATIME, none),
        ("diratime", none, F::MOUNT_ATTR_NODIRATIME),
        ("noatime", F::MOUNT_ATTR_NOATIME, none),
        ("strictatime", F::MOUNT_ATTR_STRICTATIME, none),
        ("atime", none, atime),
        ("relatime", none, atime),
        ("norelatime", none, atime),
        ("nostrictatime", none, atime),
        ("nosymfollow", F::MOUNT_ATTR_NOSYMFOLLOW, none),
        ("symfollow", none, F::MOUNT_ATTR_NOSYMFOLLOW),
    ]
};

fn attribute(name: &str) -> Option<(MountAttrFlags, MountAttrFlags)> {
    let mut all = ATTRIBUTES.iter();
    all.find_map(|(known, set, clear)| (*known == name).then_some((*set, *clear)))
}

/// Options that are the default anyway, or never had an effect on a mount.
const IDLE_OPTIONS: [&str; 10] = [
    "defaults",
    "async",
    "nomand",
    "mand",
    "loud",
    "silent",
    "nolazytime",
    "iversion",
    "noiversion",
    "newinstance",
];

/// Options that are neither flags nor propagation.
const OTHER_OPTIONS: [&str; 6] = ["bind", "rbind", "remount", "tmpcopyup", "idmap", "ridmap"];

/// All that the runtime itself knows; others are the file system's.
pub(crate) fn option_names() -> impl Iterator<Item = String> {
    let attributes = ATTRIBUTES.iter().map(|(name, ..)| *name);
    let recursive = attributes.clone().map(|name| format!("r{name}"));
    let propagation = PROPAGATIONS.iter().map(|(name, _)| *name);
    let below = propagation.clone().map(|name| format!("r{name}"));
    let single = attributes.chain(propagation);
    let single = single.chain(IDLE_OPTIONS).chain(OTHER_OPTIONS);
    single.map(str::to_owned).chain(recursive).chain(below)
}

pub(crate) fn mount_options(options: &[String], bind: &mut Option<bool>) -> MountOptions {
    let mut sorted = MountOptions {
        set: MountAttrFlags::empty(),
        clear: MountAttrFlags::empty(),
        set_recursive: MountAttrFlags::empty(),
        clear_recursive: MountAttrFlags::empty(),
        propagation: Vec::new(),
        copy_up: false,
        remount: false,
        map_ids: None,
        parameters: Vec::new(),
    };
    for option in options {
        let recursive = option.strip_prefix('r').and_then(attribute);
        match option.as_str() {
            "bind" => *bind = Some(bind.unwrap_or(false)),
            "rbind" => *bind = Some(true),
            "tmpcopyup" => sorted.copy_up = true,
            "remount" => sorted.remount = true,
            "idmap" => sorted.map_ids = Some(false),
            "ridmap" => sorted.map_ids = Some(true),
            name if IDLE_OPTIONS.contains(&name) => {}
            name => {
                if let Some(propagation) = propagation(name) {
                    sorted.propagation.push(propagation);
                } else if let Some((set, clear)) = attribute(name) {
                    // The last one said counts.
                    sorted.set = (sorted.set & !replaced(set, clear)) | set;
                    sorted.clear = (sorted.clear & !set) | clear;
                } else if let Some((set, clear)) = recursive {
                    sorted.set_recursive = (sorted.set_recursive & !replaced(set, clear)) | set;
                    sorted.clear_recursive = (sorted.clear_recursive & !set) | clear;
                } else {
                    sorted.parameters.push(match name.split_once('=') {
                        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                        None => (name.to_owned(), None),
                    });
                }
            }
        }
    }
    sorted
}

/// What every container finds in `/dev` (runtime-spec, config-linux, default devices).
const DEFAULT_DEVICES: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

fn devices(linux: &oci::Linux) -> Result<Vec<Device>, CreateError> {
    use rustix::fs::FileType;
    let mut all: Vec<Device> = DEFAULT_DEVICES
        .iter()
        .map(|&(path, major, minor)| Device {
            path: PathBuf::from(path),
            kind: FileType::CharacterDevice,
            major,
            minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
        })
        .collect();
    for (i, device) in linux.devices().iter().flatten().enumerate() {
        let at = format!("linux.devices[{i}]");
        let number = |name: &str, number: i64| {
            u32::try_from(number)
                .map_err(|_| invalid(format!("{at}.{name}"), "is no device number"))
        };
        let kind = match device.typ() {
            oci::LinuxDeviceType::B => FileType::BlockDevice,
            oci::LinuxDeviceType::C | oci::LinuxDeviceType::U => FileType::CharacterDevice,
            oci::LinuxDeviceType::P => FileType::Fifo,
            oci::LinuxDeviceType::A => {
                return Err(invalid(format!("{at}.type"), "`a` is not a device"));
            }
        };
        let path = clean(device.path());
        // runc makes /dev/ptmx and /dev/console itself, whatever is listed.
        if path == Path::new("/dev/ptmx") || path == Path::new("/dev/console") {
            continue;
        }
        let device = Device {
            kind,
            major: number("major", device.major())?,
            minor: number("minor", device.minor())?,
            mode: device.file_mode().unwrap_or(0o666) & 0o7777,
            uid: device.uid().unwrap_or(0),
            gid: device.gid().unwrap_or(0),
            path,
        };
        match all.iter_mut().find(|known| known.path == device.path) {
            Some(known) => *known = device,
            None => all.push(device),
        }
    }
    Ok(all)
}

/// Kernel parameters that belong to the IPC namespace, beside `fs.mqueue.*`.
const IPC_SYSCTLS: [&str; 10] = [
    "kernel.auto_msgmni",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.sem_next_id",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// Checks that each parameter belongs to a namespace of the container's own.
fn sysctl(
    linux: &oci::Linux,
    owns: impl Fn(UnshareFlags) -> bool,
) -> Result<Vec<(String, String)>, CreateError> {
    let mut all = Vec::new();
    for (name, value) in linux.sysctl().iter().flatten() {
        // Both spellings are known: dots, and slashes where a name has dots (`net/ipv4/conf/eth0.1`).
        let dotted = if name.contains('/') {
            name.replace('/', ".")
        } else {
            name.clone()
        };
        let needs = if dotted.starts_with("net.") {
            UnshareFlags::NEWNET
        } else if dotted.starts_with("fs.mqueue.") || IPC_SYSCTLS.contains(&dotted.as_str()) {
            UnshareFlags::NEWIPC
        } else if dotted == "kernel.domainname" || dotted == "kernel.hostname" {
            UnshareFlags::NEWUTS
        } else {
            return Err(invalid(
                format!("linux.sysctl[{name:?}]"),
                "is not in a namespace of its own",
            ));
        };
        if !owns(needs) {
            let reason = "needs a namespace of the container's own, which it shares with the host";
            return Err(invalid(format!("linux.sysctl[{name:?}]"), reason));
        }
        let path = if name.contains('/') {
            name.clone()
        } else {
            name.replace('.', "/")
        };
        if Path::new(&path)
            .components()
            .any(|c| !matches!(c, Component::Normal(_)))
        {
            return Err(invalid(
                format!("linux.sysctl[{name:?}]"),
                "is not a parameter's name",
            ));
        }
        all.push((path, value.clone()));
    }
    all.sort();
    Ok(all)
}

fn absolute(at: &str, paths: Option<&[String]>) -> Result<Vec<PathBuf>, CreateError> {
    let paths = paths.unwrap_or_default().iter().enumerate();
    paths
        .map(|(i, path)| match Path::new(path) {
            path if path.is_absolute() => Ok(clean(path)),
            _ => Err(invalid(
                format!("{at}[{i}]"),
                format!("`{path}` is not absolute"),
            )),
        })
        .collect()
}

/// What `/proc/PID/oom_score_adj` takes.
const OOM_SCORES: std::ops::RangeInclusive<i32> = -1000..=1000;

impl Process {
    /// Checks a process.
    pub(crate) fn new(process: &oci::Process) -> Result<Self, CreateError> {
        let strings = |at: &str, texts: &Option<Vec<String>>| {
            let texts = texts.iter().flatten().enumerate();
            texts
                .map(|(i, text)| c_string(&format!("{at}[{i}]"), text))
                .collect::<Result<_, _>>()
        };
        let arguments: Vec<CString> = strings("process.args", process.args())?;
        if arguments.is_empty() {
            return Err(invalid("process.args", "is empty"));
        }
        if !process.cwd().is_absolute() {
            return Err(invalid(
                "process.cwd",
                format!("`{}` is not an absolute path", process.cwd().display()),
            ));
        }
        if let Some(score) = process.oom_score_adj()
            && !OOM_SCORES.contains(&score)
        {
            let reason = format!("{score} is not between -1000 and 1000");
            return Err(invalid("process.oomScoreAdj", reason));
        }
        if let Some(umask) = process.user().umask().filter(|umask| *umask > 0o777) {
            let reason = format!("{umask} (0{umask:o}) is more than 511 (0777)");
            return Err(invalid("process.user.umask", reason));
        }
        let user = process.user();
        Ok(Self {
            arguments,
            environment: strings("process.env", process.env())?,
            cwd: process.cwd().clone(),
            uid: user.uid(),
            gid: user.gid(),
            groups: user.additional_gids().clone().unwrap_or_default(),
            umask: user.umask(),
            limits: limits(process)?,
            capabilities: process
                .capabilities()
                .as_ref()
                .map_or(capability::Sets::NONE, capability::Sets::new),
            no_new_privileges: process.no_new_privileges().unwrap_or(false),
            oom_score: process.oom_score_adj(),
            attributes: Attributes::new(process)?,
            affinity: Affinity::new(process)?,
            init: false,
        })
    }
}

/// With what the container has for all its processes.
fn process_of_container(
    process: &oci::Process,
    linux: &oci::Linux,
) -> Result<Process, CreateError> {
    let mut planned = Process::new(process)?;
    let (personality, memory) = (linux.personality(), linux.memory_policy());
    planned
        .attributes
        .of_container(personality.as_ref(), memory.as_ref())?;
    Ok(planned)
}

fn limits(process: &oci::Process) -> Result<Vec<Limit>, CreateError> {
    use oci::PosixRlimitType as Type;
    let mut limits = Vec::new();
    for (i, limit) in process.rlimits().iter().flatten().enumerate() {
        let resource = match limit.typ() {
            Type::RlimitCpu => Resource::Cpu,
            Type::RlimitFsize => Resource::Fsize,
            Type::RlimitData => Resource::Data,
            Type::RlimitStack => Resource::Stack,
            Type::RlimitCore => Resource::Core,
            Type::RlimitRss => Resource::Rss,
            Type::RlimitNproc => Resource::Nproc,
            Type::RlimitNofile => Resource::Nofile,
            Type::RlimitMemlock => Resource::Memlock,
            Type::RlimitAs => Resource::As,
            Type::RlimitLocks => Resource::Locks,
            Type::RlimitSigpending => Resource::Sigpending,
            Type::RlimitMsgqueue => Resource::Msgqueue,
            Type::RlimitNice => Resource::Nice,
            Type::RlimitRtprio => Resource::Rtprio,
            Type::RlimitRttime => Resource::Rttime,
        };
        if limits
            .iter()
            .any(|known: &Limit| known.resource == resource)
        {
            let reason = format!("{} is listed twice", limit.typ());
            return Err(invalid(format!("process.rlimits[{i}].type"), reason));
        }
        if limit.soft() > limit.hard() {
            return Err(invalid(
                format!("process.rlimits[{i}]"),
                format!(
                    "the soft limit {} is above the hard limit {}",
                    limit.soft(),
                    limit.hard()
                ),
            ));
        }
        let value = |value: u64| (value != u64::MAX).then_some(value);
        limits.push(Limit {
            name: limit.typ().to_string(),
            resource,
            soft: value(limit.soft()),
            hard: value(limit.hard()),
        });
    }
    Ok(limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(options: &[&str]) -> (MountOptions, Option<bool>) {
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        let mut bind = None;
        (mount_options(&options, &mut bind), bind)
    }

    #[test]
    fn options_go_to_who_takes_them() {
        use MountAttrFlags as F;
        let (options, bind) = planned(&[
            "rbind",
            "ro",
            "nosuid",
            "rslave",
            "rnoexec",
            "size=64k",
            "nr_inodes=2",
            "x",
        ]);
        assert_eq!(bind, Some(true));
        assert_eq!(options.set, F::MOUNT_ATTR_RDONLY | F::MOUNT_ATTR_NOSUID);
        assert_eq!(options.set_recursive, F::MOUNT_ATTR_NOEXEC);
        let slave = Propagation {
            kind: MountPropagationFlags::DOWNSTREAM,
            recursive: true,
        };
        assert_eq!(options.propagation, [slave]);
        let value = |text: &str| Some(text.to_owned());
        assert_eq!(
            options.parameters,
            [
                (String::from("size"), value("64k")),
                (String::from("nr_inodes"), value("2")),
                (String::from("x"), None),
            ]
        );
    }

    #[test]
    fn what_others_take_for_a_default_is_accepted() {
        let bundle = Bundle {
            id: String::from("x"),
            directory: PathBuf::new(),
            spec: oci::Spec::default(),
            rootfs: Rootfs::Directory(PathBuf::from("/")),
            seccomp: None,
            extras: crate::bundle::Extras::default(),
        };
        let plan = Plan::new(&bundle, false).unwrap();
        assert!(plan.namespaces.new.contains(UnshareFlags::NEWNET) && plan.fill_dev);
        assert!(
            !Plan::new(&bundle, true)
                .unwrap()
                .namespaces
                .new
                .contains(UnshareFlags::NEWNET)
        );
    }

    #[test]
    fn every_option_that_is_said_to_be_known_is() {
        for name in option_names() {
            let (options, _) = planned(&[&name]);
            assert!(options.parameters.is_empty(), "{name}");
        }
    }

    #[test]
    fn of_opposites_the_last_one_counts() {
        let (options, _) = planned(&["ro", "rw"]);
        assert_eq!(options.set, MountAttrFlags::empty());
        assert_eq!(options.clear, MountAttrFlags::MOUNT_ATTR_RDONLY);
        let (options, _) = planned(&["rw", "ro"]);
        assert_eq!(options.set, MountAttrFlags::MOUNT_ATTR_RDONLY);
        assert_eq!(options.clear, MountAttrFlags::empty());
    }

    #[test]
    fn of_the_ways_to_keep_access_times_the_last_one_counts() {
        use MountAttrFlags as F;
        for (options, set) in [
            (&["noatime", "strictatime"][..], F::MOUNT_ATTR_STRICTATIME),
            (&["strictatime", "noatime"], F::MOUNT_ATTR_NOATIME),
            (&["noatime", "relatime"], F::empty()),
            (
                &["nodiratime", "noatime"],
                F::MOUNT_ATTR_NODIRATIME | F::MOUNT_ATTR_NOATIME,
            ),
        ] {
            assert_eq!(planned(options).0.set, set, "{options:?}");
            let recursive: Vec<String> = options.iter().map(|name| format!("r{name}")).collect();
            let recursive: Vec<&str> = recursive.iter().map(String::as_str).collect();
            assert_eq!(planned(&recursive).0.set_recursive, set, "{options:?}");
        }
    }

    #[test]
    fn relatime_and_rro_are_what_they_are() {
        let (options, _) = planned(&["relatime", "rro"]);
        assert_eq!(options.set, MountAttrFlags::empty());
        assert_eq!(options.set_recursive, MountAttrFlags::MOUNT_ATTR_RDONLY);
        assert!(options.parameters.is_empty());
    }

    #[test]
    fn paths_are_cleaned_without_looking() {
        for (path, expected) in [
            ("/a/./b//c", "/a/b/c"),
            ("/a/../../b", "/b"),
            ("a", "/a"),
            ("/..", "/"),
        ] {
            assert_eq!(clean(Path::new(path)), Path::new(expected));
        }
    }
}
