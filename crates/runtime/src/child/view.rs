//! The container's view of files: its root, what is mounted in it, and the step into it.
//!
//! Everything is a detached mount first (`open_tree`, `fsmount`) and is then attached to a
//! descriptor that was resolved inside the root, so that no path is looked up twice.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags, statx,
    symlinkat,
};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MountFlags, MountPropagationFlags,
    MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_reconfigure,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, fspick, mount_change, move_mount,
    open_tree, unmount,
};
use rustix::thread::UnshareFlags;
use sys::mount::Change;

use super::{First, inside};
use crate::bundle::{Overlay, Rootfs};
use crate::cgroup::Cgroup;
use crate::error::{During as _, SetupError, Step};
use crate::origin;
use crate::overlay::{self, explain};
use crate::plan::{self, Mount, MountKind, MountOptions, Plan, Propagation};

/// `PROC_SUPER_MAGIC` (linux/magic.h).
const PROC_MAGIC: rustix::fs::FsWord = 0x9fa0;
/// The inode of a procfs's root (`PROC_ROOT_INO`, linux/proc_fs.h).
const PROC_ROOT: u64 = 1;

/// The container's root, attached over the host's in this mount namespace, not yet stepped into.
#[derive(Debug)]
pub(crate) struct Root {
    mount: OwnedFd,
    /// Bind sources, opened while the host could be seen and before anything of the image was,
    /// by the mount's place in the plan.
    sources: HashMap<usize, OwnedFd>,
    /// What was mounted so far, in this order, and the mount itself where it is the kernel's own
    /// view (procfs, sysfs).
    mounted: Vec<(PathBuf, Option<OwnedFd>)>,
}

impl Root {
    fn new(mount: OwnedFd, sources: HashMap<usize, OwnedFd>) -> Self {
        Self {
            mount,
            sources,
            mounted: Vec::new(),
        }
    }

    /// The descriptors that are still needed once all is mounted.
    pub(crate) fn raw(&self) -> impl Iterator<Item = RawFd> + '_ {
        let mounted = self.mounted.iter().filter_map(|(_, mount)| mount.as_ref());
        mounted.chain([&self.mount]).map(|fd| fd.as_raw_fd())
    }

    /// From where to resolve `path`, and what is left of it then. What lies in a procfs or sysfs
    /// is found in that very mount, wherever its mount point may have been moved to meanwhile by
    /// somebody else who can write to the root (CVE-2019-19921).
    pub(crate) fn within<'a>(&'a self, path: &'a Path) -> (BorrowedFd<'a>, &'a Path) {
        let mut under = self.mounted.iter().rev().filter_map(|(at, mount)| {
            let rest = path.strip_prefix(at).ok()?;
            Some((mount.as_ref(), rest))
        });
        match under.next() {
            Some((Some(mount), rest)) if rest.as_os_str().is_empty() => {
                (mount.as_fd(), Path::new("."))
            }
            Some((Some(mount), rest)) => (mount.as_fd(), rest),
            _ => (self.mount.as_fd(), path),
        }
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }
}

/// Separates this mount namespace from the host's, opens every bind source that the caller did
/// not, and attaches the root: `given`, if the caller had to mount it.
pub(crate) fn mount_root(first: &First<'_>, given: Option<OwnedFd>) -> Result<Root, SetupError> {
    let plan = first.plan;
    mount_change("/", plan.root.host_propagation | MountPropagationFlags::REC)
        .during(Step::Root, || "separate the mounts from the host's")?;

    let mut sources = HashMap::new();
    for (place, mount) in plan.mounts.iter().enumerate() {
        if let MountKind::Bind { source, recursive } = &mount.kind
            && !first.sources.binds.contains_key(&place)
            && plan.own_source(mount).is_none()
        {
            let opened = origin::open_tree(source, mount.origin.as_ref(), *recursive);
            let tree = opened.during(Step::Mount, || {
                let destination = mount.destination.display();
                format!(
                    "bind `{}` to `{destination}`: open the source",
                    source.display()
                )
            })?;
            sources.insert(place, tree);
        }
    }
    let mount = match (given, &plan.root.source, &first.sources.root) {
        (Some(mount), ..) => mount,
        (None, Rootfs::Directory(_), Some(taken)) => taken
            .try_clone()
            .during(Step::Root, || "use the root that was opened")?,
        (None, Rootfs::Directory(directory), None) => clone_tree(CWD, directory, true)
            .during(Step::Root, || {
                format!("open the root `{}`", directory.display())
            })?,
        (None, Rootfs::Overlay(overlay), _) => mount_overlay(overlay, !first.user().is_callers())?,
    };
    if plan.hooks.is_some()
        && let Some(directory) = plan.root.directory()
    {
        match attach_in_place(&mount, &directory) {
            // The container's root may not get there; nor then may what it runs.
            Err(failure) if failure.errno == libc::EACCES && !first.user().is_callers() => {}
            other => {
                other?;
                return Ok(Root::new(mount, sources));
            }
        }
    }
    // Attached over `/`, which needs no directory on the host. Neither may be shared, or the host
    // would see it (and pivot_root refuses).
    mount_change("/", MountPropagationFlags::PRIVATE)
        .during(Step::Root, || "make the host's root private")?;
    set(
        mount.as_fd(),
        false,
        &Change {
            propagation: MountPropagationFlags::PRIVATE,
            ..Change::NONE
        },
    )
    .during(Step::Root, || "make the root private")?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&mount, "", CWD, "/", flags).during(Step::Root, || "attach the root")?;
    Ok(Root::new(mount, sources))
}

/// Hooks find the container's root where the bundle says it is, and may mount below.
fn attach_in_place(mount: &OwnedFd, directory: &Path) -> Result<(), SetupError> {
    let what = || format!("attach the root at `{}`", directory.display());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let place = rustix::fs::open(directory, flags, Mode::empty()).during(Step::Root, what)?;
    // As over `/`: neither may be shared.
    let private = Change {
        propagation: MountPropagationFlags::PRIVATE,
        ..Change::NONE
    };
    let under = mount_root_of(&place).during(Step::Root, what)?;
    set(under.as_fd(), false, &private).during(Step::Root, what)?;
    set(mount.as_fd(), false, &private).during(Step::Root, what)?;
    attach(mount, place.as_fd()).during(Step::Root, what)
}

/// The root of the mount that `place` lies in.
fn mount_root_of(place: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = rustix::fs::openat(place, ".", flags, Mode::empty())?;
    loop {
        let status = statx(&at, "", AtFlags::EMPTY_PATH, StatxFlags::empty())?;
        if status.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
            return Ok(at);
        }
        at = rustix::fs::openat(&at, "..", flags, Mode::empty())?;
    }
}

fn mount_overlay(overlay: &Overlay, as_user: bool) -> Result<OwnedFd, SetupError> {
    let lower: Vec<&Path> = overlay.lower.iter().map(PathBuf::as_path).collect();
    let writable = overlay::Writable {
        upper: &overlay.upper,
        work: &overlay.work,
        as_user,
    };
    overlay::mount(&lower, Some(writable), MountAttrFlags::empty())
        .map_err(|error| SetupError::new(Step::Root, error.what, Some(&error.source)))
}

pub(crate) fn clone_tree(
    at: BorrowedFd<'_>,
    path: &Path,
    recursive: bool,
) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    if path.as_os_str().is_empty() {
        flags |= OpenTreeFlags::AT_EMPTY_PATH;
    }
    open_tree(at, path, flags)
}

/// A detached copy of the mount that `what` lies in, with `what` as its root.
pub(crate) fn clone_of(what: BorrowedFd<'_>, recursive: bool) -> Result<OwnedFd, Errno> {
    clone_tree(what, Path::new(""), recursive)
}

/// Attaches a detached mount over `target`.
pub(crate) fn attach(mount: &OwnedFd, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", flags)
}

/// Changes the mount that `mount` is the root of.
pub(crate) fn set(mount: BorrowedFd<'_>, recursive: bool, change: &Change) -> io::Result<()> {
    sys::mount::set_attributes(mount, c"", recursive, change)
}

/// Programs look for this file to know that they are in a container.
const MARK: &str = "/.dockerenv";

/// What Docker puts into the root of each container, if its image has no such thing.
fn furnish(root: &Root) -> io::Result<()> {
    inside::make_file(root.as_fd(), Path::new(MARK))?;
    let directory = inside::make_directory(root.as_fd(), Path::new("/etc"), 0o755)?;
    match symlinkat("/proc/mounts", &directory, "mtab") {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The mounts of the plan, in its order.
pub(crate) fn mount_all(root: &mut Root, first: &First<'_>) -> Result<(), SetupError> {
    if let Rootfs::Overlay(_) = first.plan.root.source {
        furnish(root).during(Step::Mount, || format!("make `{MARK}` and `/etc/mtab`"))?;
    }
    let sources = std::mem::take(&mut root.sources);
    for (place, mount) in first.plan.mounts.iter().enumerate() {
        let at = mount.destination.display();
        let mut own = None;
        match &mount.kind {
            MountKind::Bind { source, recursive } => {
                let what = || format!("bind `{}` to `{at}`", source.display());
                let own;
                let tree = match first.plan.own_source(mount) {
                    Some(within) => {
                        own = clone_within(root, within, *recursive)
                            .during(Step::Mount, || format!("{}: open the source", what()))?;
                        &own
                    }
                    None => {
                        let taken = first.sources.binds.get(&place);
                        taken.unwrap_or_else(|| &sources[&place])
                    }
                };
                bind(root, mount, tree).during(Step::Mount, what)?;
            }
            MountKind::Remount { bind } => {
                remount(root, mount, *bind).map_err(|(what, error)| {
                    let what = format!("remount `{at}`{what}");
                    SetupError::new(Step::Mount, what, Some(&error))
                })?;
                continue;
            }
            MountKind::New { kind, source } => {
                let late = first.plan.fill_dev && mount.destination == Path::new("/dev");
                let tree = match new(root, mount, kind, source, late) {
                    Err((_, error)) if belongs_to_host(first, kind, &error) => {
                        bind_hosts(root, mount, kind)
                            .during(Step::Mount, || format!("bind the host's {kind} to `{at}`"))
                    }
                    other => other.map_err(|(what, error)| {
                        let hint = hint(first, kind, &error);
                        let what = format!("mount `{kind}` at `{at}`{what}{hint}");
                        SetupError::new(Step::Mount, what, Some(&error))
                    }),
                }?;
                own = is_kernels(kind).then_some(tree);
            }
            MountKind::Cgroup => {
                let own = first
                    .common
                    .cgroup
                    .map(Cgroup::directories)
                    .unwrap_or_default();
                cgroups(root, mount, &own)?;
            }
        }
        root.mounted.push((mount.destination.clone(), own));
    }
    Ok(())
}

/// A detached copy of what lies in the container's own root, with what was mounted there by now.
fn clone_within(root: &Root, path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let (within, rest) = root.within(path);
    let found = inside::find(within, rest)?;
    Ok(clone_of(found.as_fd(), recursive)?)
}

/// File systems that show the kernel itself: what relies on `/proc` and `/sys` must find them there.
fn is_kernels(kind: &str) -> bool {
    matches!(kind, "proc" | "sysfs")
}

/// Nothing is mounted over a procfs or in it, but for a few files and another procfs at `/proc`.
/// A link in the image may have led there, where the plan could not see it (CVE-2019-16884).
fn spare_proc(target: &OwnedFd, mount: &Mount, brings: Option<&OwnedFd>) -> io::Result<()> {
    let refused = |why: &str| Err(io::Error::other(why));
    let is_proc = |fd: &OwnedFd| Ok::<_, Errno>(rustix::fs::fstatfs(fd)?.f_type == PROC_MAGIC);
    if mount.destination == Path::new(plan::PROC) {
        return match brings {
            Some(tree) if !is_proc(tree)? || rustix::fs::fstat(tree)?.st_ino != PROC_ROOT => {
                refused("only a procfs can be mounted at `/proc`")
            }
            _ => Ok(()),
        };
    }
    if is_proc(target)? && !plan::may_cover_proc(&mount.destination) {
        return refused("the destination leads into /proc");
    }
    Ok(())
}

/// The namespace that a file system shows, and whose owner alone may mount it.
fn shown_by(kind: &str) -> Option<(UnshareFlags, &'static str)> {
    match kind {
        "proc" => Some((UnshareFlags::NEWPID, "pid")),
        "sysfs" => Some((UnshareFlags::NEWNET, "network")),
        "mqueue" => Some((UnshareFlags::NEWIPC, "ipc")),
        _ => None,
    }
}

/// Whether a procfs or sysfs was refused because it shows a namespace of the host's, which a
/// container in a user namespace shares: then the host's own shows the same.
fn belongs_to_host(first: &First<'_>, kind: &str, error: &io::Error) -> bool {
    let own = first.own_namespaces();
    let shared = shown_by(kind).is_some_and(|(shown, _)| !own.contains(shown));
    shared && kind != "mqueue" && error.raw_os_error() == Some(libc::EPERM)
}

fn bind_hosts(root: &Root, mount: &Mount, kind: &str) -> io::Result<OwnedFd> {
    let host = Path::new(if kind == "proc" { "/proc" } else { "/sys" });
    let tree = clone_tree(CWD, host, true)?;
    bind(root, mount, &tree)?;
    Ok(tree)
}

fn hint(first: &First<'_>, kind: &str, error: &io::Error) -> String {
    let refused = error.raw_os_error() == Some(libc::EPERM) && !first.user().is_callers();
    match shown_by(kind) {
        Some((shown, name)) if refused && !first.plan.namespaces.new.contains(shown) => format!(
            " (the {name} namespace that it shows must belong to the container's user namespace)"
        ),
        _ => String::new(),
    }
}

fn bind(root: &Root, mount: &Mount, tree: &OwnedFd) -> io::Result<()> {
    let status = rustix::fs::fstat(tree)?;
    let target = if FileType::from_raw_mode(status.st_mode) == FileType::Directory {
        inside::make_directory(root.as_fd(), &mount.destination, 0o755)?
    } else {
        inside::make_file(root.as_fd(), &mount.destination)?
    };
    spare_proc(&target, mount, Some(tree))?;
    apply(tree.as_fd(), &mount.options)?;
    attach(tree, target.as_fd())?;
    propagate(tree.as_fd(), &mount.options.propagation)
}

/// Changes a mount that is there, and its file system unless that is another's.
fn remount(root: &Root, mount: &Mount, bind: bool) -> Result<(), (String, io::Error)> {
    let plain = |error: io::Error| (String::new(), error);
    let (within, path) = root.within(&mount.destination);
    let target = inside::find(within, path).map_err(|error| plain(error.into()))?;
    if !bind {
        let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH;
        let fs = fspick(&target, "", flags).map_err(|error| plain(error.into()))?;
        configure(&fs, &mount.options)?;
        let readonly = MountAttrFlags::MOUNT_ATTR_RDONLY;
        for (flags, key) in [(mount.options.set, "ro"), (mount.options.clear, "rw")] {
            if flags.contains(readonly) {
                fsconfig_set_flag(&fs, key).map_err(|error| plain(error.into()))?;
            }
        }
        fsconfig_reconfigure(&fs)
            .map_err(|error| (explain(&fs, String::new()), io::Error::from(error)))?;
    }
    apply(target.as_fd(), &mount.options).map_err(plain)?;
    propagate(target.as_fd(), &mount.options.propagation).map_err(plain)
}

/// Tells a file system its options.
pub(crate) fn configure(fs: &OwnedFd, options: &MountOptions) -> Result<(), (String, io::Error)> {
    for (key, value) in &options.parameters {
        match value {
            Some(value) => fsconfig_set_string(fs, key.as_str(), value.as_str()),
            None => fsconfig_set_flag(fs, key.as_str()),
        }
        .map_err(|error| {
            let value = value
                .as_ref()
                .map(|value| format!("={value}"))
                .unwrap_or_default();
            (
                explain(fs, format!(": option `{key}{value}`")),
                io::Error::from(error),
            )
        })?;
    }
    Ok(())
}

/// Flags of a mount that already exists.
pub(crate) fn apply(mount: BorrowedFd<'_>, options: &MountOptions) -> io::Result<()> {
    let MountOptions {
        set: on,
        clear: off,
        set_recursive,
        clear_recursive,
        ..
    } = *options;
    if !(set_recursive | clear_recursive).is_empty() {
        set(
            mount,
            true,
            &Change {
                set: set_recursive,
                clear: clear_recursive,
                ..Change::NONE
            },
        )?;
    }
    if !(on | off).is_empty() {
        set(
            mount,
            false,
            &Change {
                set: on,
                clear: off,
                ..Change::NONE
            },
        )?;
    }
    Ok(())
}

pub(crate) fn propagate(mount: BorrowedFd<'_>, propagation: &[Propagation]) -> io::Result<()> {
    propagation
        .iter()
        .try_for_each(|Propagation { kind, recursive }| {
            set(
                mount,
                *recursive,
                &Change {
                    propagation: *kind,
                    ..Change::NONE
                },
            )
        })
}

/// A file system of its own. An error carries which detail it was about.
fn new(
    root: &Root,
    mount: &Mount,
    kind: &str,
    source: &str,
    late_readonly: bool,
) -> Result<OwnedFd, (String, io::Error)> {
    let plain = |error: Errno| (String::new(), io::Error::from(error));
    // Looks like the directory it covers, if there is one, as runc has it.
    let covered = (kind == "tmpfs")
        .then(|| {
            inside::open(
                root.as_fd(),
                &mount.destination,
                OFlags::PATH,
                ResolveFlags::empty(),
            )
        })
        .and_then(|found| rustix::fs::fstat(found.ok()?).ok());
    let target = match kind {
        // Not through a link: what relies on /proc and /sys must find the real ones there
        // (CVE-2019-19921, CVE-2023-27561).
        kind if is_kernels(kind) => inside::make_directory(root.as_fd(), &mount.destination, 0o755)
            .and_then(|_| {
                let flags = OFlags::PATH | OFlags::DIRECTORY;
                let no_links = ResolveFlags::NO_SYMLINKS;
                match inside::open(root.as_fd(), &mount.destination, flags, no_links) {
                    Err(Errno::LOOP) => Err(io::Error::other(
                        "must be mounted on ordinary directory, not through a symbolic link",
                    )),
                    other => Ok(other?),
                }
            }),
        _ => inside::make_directory(root.as_fd(), &mount.destination, 0o755),
    }
    .map_err(|error| (String::from(": prepare the mount point"), error))?;
    if kind != "proc" {
        spare_proc(&target, mount, None).map_err(|error| (String::new(), error))?;
    }

    let fs = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(plain)?;
    // Needs a source only where it has one; pseudo file systems take any.
    fsconfig_set_string(&fs, "source", source).map_err(plain)?;
    let options = &mount.options;
    let moded = options.parameters.iter().any(|(key, _)| key == "mode");
    if let Some(covered) = covered.filter(|_| !moded) {
        let mode = format!("{:o}", covered.st_mode & 0o7777);
        fsconfig_set_string(&fs, "mode", mode).map_err(plain)?;
    }
    configure(&fs, options)?;
    fsconfig_create(&fs).map_err(|error| (explain(&fs, String::new()), io::Error::from(error)))?;
    let mut flags = options.set | options.set_recursive;
    if late_readonly {
        flags.remove(MountAttrFlags::MOUNT_ATTR_RDONLY);
    }
    let fill = options.copy_up && kind == "tmpfs";
    let readonly = flags & MountAttrFlags::MOUNT_ATTR_RDONLY;
    if fill {
        flags.remove(readonly);
    }
    let tree = fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, flags).map_err(plain)?;
    if fill {
        copy_up::directory(target.as_fd(), tree.as_fd(), 0)
            .map_err(|error| (String::from(": copy what it covers"), error))?;
        if !readonly.is_empty() {
            set(
                tree.as_fd(),
                false,
                &Change {
                    set: readonly,
                    ..Change::NONE
                },
            )
            .map_err(|error| (String::new(), error))?;
        }
    }
    attach(&tree, target.as_fd()).map_err(plain)?;
    propagate(tree.as_fd(), &options.propagation)
        .map_err(|error| (String::from(": set its propagation"), error))?;
    Ok(tree)
}

/// The container's own cgroup: one bind each in a small tmpfs, or the one of version 2.
fn cgroups(
    root: &Root,
    mount: &Mount,
    own: &[(Option<String>, PathBuf)],
) -> Result<(), SetupError> {
    let at = || format!("mount the cgroups at `{}`", mount.destination.display());
    let target = inside::make_directory(root.as_fd(), &mount.destination, 0o755)
        .during(Step::Mount, || format!("{}: prepare the mount point", at()))?;
    spare_proc(&target, mount, None).during(Step::Mount, at)?;
    let bind = |source: &Path, target: BorrowedFd<'_>| {
        clone_tree(CWD, source, false)
            .map_err(io::Error::from)
            .and_then(|tree| {
                apply(tree.as_fd(), &mount.options)?;
                Ok(attach(&tree, target)?)
            })
            .during(Step::Mount, || {
                format!("{}: bind `{}`", at(), source.display())
            })
    };
    if let [(None, only)] = own {
        return bind(only, target.as_fd());
    }
    let readonly = mount.options.set & MountAttrFlags::MOUNT_ATTR_RDONLY;
    let tmpfs = small_tmpfs(mount.options.set - readonly).during(Step::Mount, at)?;
    attach(&tmpfs, target.as_fd()).during(Step::Mount, at)?;
    for (name, source) in own {
        let name = name.as_deref().unwrap_or("unified");
        let directory = inside::make_directory(tmpfs.as_fd(), &Path::new("/").join(name), 0o755)
            .during(Step::Mount, || format!("{}: create `{name}`", at()))?;
        bind(source, directory.as_fd())?;
        // Of controllers that are mounted together, each is found by its own name.
        for alias in name.split(',').filter(|alias| *alias != name) {
            symlinkat(name, &tmpfs, alias).during(Step::Mount, at)?;
        }
    }
    if !readonly.is_empty() {
        set(
            tmpfs.as_fd(),
            false,
            &Change {
                set: readonly,
                ..Change::NONE
            },
        )
        .during(Step::Mount, at)?;
    }
    Ok(())
}

/// A tmpfs of its own, attached nowhere.
pub(crate) fn small_tmpfs(flags: MountAttrFlags) -> Result<OwnedFd, Errno> {
    let fs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&fs, "source", "tmpfs")?;
    fsconfig_set_string(&fs, "mode", "755")?;
    fsconfig_create(&fs)?;
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, flags)
}

/// `/dev` itself is read-only only now, if asked for: it had to be filled before.
pub(crate) fn seal_dev(root: &Root, plan: &Plan) -> Result<(), SetupError> {
    let readonly = MountAttrFlags::MOUNT_ATTR_RDONLY;
    let sealed = plan.mounts.iter().any(|mount| {
        plan.fill_dev
            && mount.destination == Path::new("/dev")
            && (mount.options.set | mount.options.set_recursive).contains(readonly)
    });
    if !sealed {
        return Ok(());
    }
    let step = || "make `/dev` read-only";
    let dev = inside::find(root.as_fd(), Path::new("/dev")).during(Step::Device, step)?;
    set(
        dev.as_fd(),
        false,
        &Change {
            set: readonly,
            ..Change::NONE
        },
    )
    .during(Step::Device, step)
}

/// Steps into the root and lets go of the host's; without `pivot_root` only out of its reach.
pub(crate) fn pivot(root: &Root, plan: &Plan, no_pivot: bool) -> Result<(), SetupError> {
    if plan.root.readonly {
        let change = Change {
            set: MountAttrFlags::MOUNT_ATTR_RDONLY,
            ..Change::NONE
        };
        set(root.as_fd(), false, &change).during(Step::Root, || "make the root read-only")?;
    }
    rustix::process::fchdir(root).during(Step::Pivot, || "enter the root")?;
    if no_pivot {
        cover_old_root()?;
    } else {
        exchange_roots(plan.root.host_propagation)?;
    }
    rustix::process::chdir("/").during(Step::Pivot, || "enter `/`")?;
    if let Some(Propagation { kind, recursive }) = plan.root.propagation {
        let recursive = if recursive {
            MountPropagationFlags::REC
        } else {
            MountPropagationFlags::empty()
        };
        mount_change("/", kind | recursive).during(Step::Root, || "set the root's propagation")?;
    }
    Ok(())
}

/// From the new root: changes it with the old one, and lets go of that.
fn exchange_roots(host_propagation: MountPropagationFlags) -> Result<(), SetupError> {
    let old = (host_propagation == MountPropagationFlags::SHARED)
        .then(inside::open_root)
        .transpose()
        .during(Step::Pivot, || "open the old root")?;
    // The old root ends up stacked over the new one, and is let go from there.
    rustix::process::pivot_root(".", ".").during(Step::Pivot, || "change the root")?;
    if let Some(old) = old {
        // Else the host's mounts would be undone where they are shared, that is on the host.
        rustix::process::fchdir(old).during(Step::Pivot, || "enter the old root")?;
        let alone = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        mount_change(".", alone).during(Step::Pivot, || "separate the old root")?;
    }
    unmount(".", UnmountFlags::DETACH).during(Step::Pivot, || "let go of the old root")
}

/// From the new root, which covers the old one: makes it this process's root. The old one stays
/// below, as an initramfs demands. What the host mounted of `/proc` and `/sys` is unmounted or
/// hidden first, so that whoever gets there finds no way to the host by them.
fn cover_old_root() -> Result<(), SetupError> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")
        .during(Step::Pivot, || "read /proc/self/mountinfo")?;
    for place in mounts.lines().filter_map(full_file_system) {
        // Paths are still the host's, so the container's own of the same name are not met.
        match unmount(place, UnmountFlags::DETACH) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(_) => {
                let (none, empty) = (MountFlags::empty(), c"");
                rustix::mount::mount("tmpfs", place, "tmpfs", none, empty)
                    .during(Step::Pivot, || format!("hide the host's `{place}`"))?;
            }
        }
    }
    rustix::process::chroot(".").during(Step::Pivot, || "change the root")
}

/// The place of a `proc` or `sysfs` that shows all of it, in a line of mountinfo.
fn full_file_system(line: &str) -> Option<&str> {
    let (mount, kind) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(3);
    let (root, place) = (fields.next()?, fields.next()?);
    let full = root == "/" && matches!(kind.split(' ').next(), Some("proc" | "sysfs"));
    full.then_some(place)
}

/// Filling a tmpfs with what it covers (`tmpcopyup`).
mod copy_up {

    use rustix::fs::{
        AtFlags, Dir, Gid, Mode, Uid, chmodat, chownat, mkdirat, mknodat, openat, readlinkat,
        statat, symlinkat,
    };

    use super::*;

    /// No image nests deeper; a bound for the stack.
    const MAX_DEPTH: u32 = 64;

    pub(super) fn directory(
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        depth: u32,
    ) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(Errno::NAMETOOLONG.into());
        }
        let open = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let from = openat(from, c".", open, Mode::empty())?;
        for entry in Dir::read_from(&from)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let status = statat(&from, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let mode = Mode::from_raw_mode(status.st_mode);
            match FileType::from_raw_mode(status.st_mode) {
                FileType::Directory => {
                    mkdirat(to, name, Mode::from_bits_truncate(0o700))?;
                    let below = openat(&from, name, open, Mode::empty())?;
                    let made = openat(to, name, open, Mode::empty())?;
                    directory(below.as_fd(), made.as_fd(), depth + 1)?;
                }
                FileType::Symlink => symlinkat(readlinkat(&from, name, Vec::new())?, to, name)?,
                FileType::RegularFile => {
                    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    // It may have become a fifo since, which must not make us wait.
                    let read = flags | OFlags::RDONLY | OFlags::NONBLOCK;
                    let source = openat(&from, name, read, Mode::empty())?;
                    let found = rustix::fs::fstat(&source)?.st_mode;
                    if FileType::from_raw_mode(found) != FileType::RegularFile {
                        return Err(Errno::STALE.into());
                    }
                    let create = flags | OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
                    let copy = openat(to, name, create, Mode::from_bits_truncate(0o600))?;
                    io::copy(
                        &mut std::fs::File::from(source),
                        &mut std::fs::File::from(copy),
                    )?;
                }
                kind => mknodat(to, name, kind, mode, status.st_rdev)?,
            }
            let (uid, gid) = (Uid::from_raw(status.st_uid), Gid::from_raw(status.st_gid));
            chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(status.st_mode) != FileType::Symlink {
                chmodat(to, name, mode, AtFlags::empty())?;
            }
        }
        Ok(())
    }
}
