//! Control groups: versions 1, 2 and the hybrid of both, behind one type.
//!
//! ```text
//! version 1   /sys/fs/cgroup/<controller>/<path>   one directory in every hierarchy
//! version 2   /sys/fs/cgroup/<path>                one directory
//! hybrid      both; version 2 is at /sys/fs/cgroup/unified and owns what version 1 does not
//! ```
//!
//! What belongs to no controller (birth, freezing, killing) is version 2's wherever it is mounted:
//! a process is cloned straight into that cgroup, a frozen one can be killed, and `cgroup.kill`
//! reaches forks. Where systemd is to make the cgroup, [`systemd`] asks it to. The limits are the business of [`v1`] and [`v2`], by controller.

mod annotated;
mod dbus;
mod devices;
mod files;
mod host;
mod place;
mod plan;
mod properties;
mod stats;
pub mod systemd;
mod v1;
mod v2;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::inotify;
use rustix::fs::{Mode, OFlags};

pub use host::Layout;
pub use place::{BelowError, relative};
pub use stats::{
    BlockIo, Counter, Cpu, CpuSet, DeviceIo, HugePages, Memory, Pids, Pressure, Pressures, Rdma,
    Stall, Stats,
};

use crate::oci;
use host::{Hierarchy, Host};
use place::Place;
use plan::{IfMissing, Write};

/// An operation on a cgroup that failed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No cgroup hierarchy is mounted.
    #[error("no cgroup file system is mounted")]
    NotMounted,
    /// What is mounted cannot be told.
    #[error("read /proc/self/mountinfo")]
    Mounts(#[source] io::Error),
    /// Where the caller is cannot be told.
    #[error("read /proc/self/cgroup")]
    Own(#[source] io::Error),
    /// A path that is not absolute and plain.
    #[error("invalid cgroup path `{0}`")]
    Path(String),
    /// A controller that a limit needs is not there.
    #[error("the kernel's `{controller}` cgroup controller is not available, needed for {limit}")]
    Missing {
        /// Such as `memory`.
        controller: &'static str,
        /// The limit that was asked for.
        limit: &'static str,
    },
    /// A controller is there, and what a limit needs of it is not.
    #[error("the kernel's `{controller}` cgroup controller has no `{file}`, needed for {limit}")]
    NoFile {
        /// Such as `hugetlb.1GB.max`.
        file: String,
        /// Such as `hugetlb`.
        controller: &'static str,
        /// The limit that was asked for.
        limit: &'static str,
    },
    /// A limit that the version of cgroups here does not know.
    #[error("{limit} cannot be set: {why}")]
    Unsupported {
        /// The limit.
        limit: String,
        /// Which version has it.
        why: &'static str,
    },
    /// More memory is in use than a new limit allows, and the caller asked to look.
    #[error("the memory limit {limit} is below what is in use: {used}")]
    InUse {
        /// In bytes.
        limit: i64,
        /// In bytes.
        used: u64,
    },
    /// A value that makes no sense.
    #[error("invalid value for {limit}: {value}")]
    Invalid {
        /// The limit.
        limit: &'static str,
        /// What was given.
        value: String,
    },
    /// A file or directory of the hierarchy.
    #[error("{action} `{path}`")]
    File {
        /// `create`, `write "…" to`, `read`, `remove`.
        action: String,
        /// Which.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Limits for an ordinary user who has no cgroup to set them in.
    #[error(
        "the limits of linux.resources need a cgroup that is delegated to this user (with systemd, \
         run in `systemd-run --user --scope --property=Delegate=yes`); without one, leave them out"
    )]
    NotDelegated(#[source] Box<Self>),
    /// The device filter of version 2.
    #[error("filter the devices of `{path}`")]
    Devices {
        /// The cgroup.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// It did not come to pass in the time that is given for it.
    #[error("{what} `{path}` did not happen within {waited:?}")]
    Slow {
        /// Such as `freezing`.
        what: &'static str,
        /// The cgroup.
        path: PathBuf,
        /// How long was waited.
        waited: std::time::Duration,
    },
}

impl CgroupError {
    fn file<'a>(action: &'a str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::File {
            action: action.to_owned(),
            path: path.to_owned(),
            source,
        }
    }

    /// Whether the kernel has no such file, as opposed to a device that is named in it.
    fn is_not_there(&self) -> bool {
        matches!(self, Self::File { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// Whether it is somebody else's to change: what an ordinary user is told.
    fn is_not_allowed(&self) -> bool {
        let (Self::File { source, .. } | Self::Devices { source, .. }) = self else {
            return false;
        };
        matches!(
            source.raw_os_error(),
            Some(libc::EACCES | libc::EPERM | libc::EROFS)
        )
    }

    /// Whether the cgroup, or the file that was asked for, is not there.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::File { source, .. }
            if matches!(source.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)))
    }
}

/// One cgroup: a path that exists in every hierarchy. Dropping the value leaves the cgroup.
#[derive(Debug)]
pub struct Cgroup {
    host: Host,
    place: Place,
}

impl Cgroup {
    /// Makes the cgroup and applies the limits. `path` is absolute below the mounts. On failure
    /// nothing is left of it.
    ///
    /// `None` is for an ordinary user to whom no cgroup was delegated, if no limits are asked for:
    /// then there is none, and the process stays in its caller's.
    pub fn create(
        path: &str,
        resources: Option<&oci::LinuxResources>,
    ) -> Result<Option<Self>, CgroupError> {
        let cgroup = Self::open(path)?;
        let made = cgroup.make().and_then(|()| {
            let rules = resources.and_then(|r| r.devices().as_deref());
            match cgroup.restrict_devices(rules) {
                // Devices are out of an ordinary user's reach whatever the rules.
                Err(error) if error.is_not_allowed() && is_ordinary_user() => {}
                other => other?,
            }
            resources.map_or(Ok(()), |resources| cgroup.limit(resources))
        });
        let Err(error) = made else {
            return Ok(Some(cgroup));
        };
        let planned = resources.map_or(Ok(false), |resources| {
            cgroup.plan(resources).map(|writes| !writes.is_empty())
        });
        // The reason for the failure is what the caller needs.
        let _ = cgroup.remove();
        match planned {
            Ok(limited) if error.is_not_allowed() && is_ordinary_user() => {
                if limited {
                    return Err(CgroupError::NotDelegated(Box::new(error)));
                }
                Ok(None)
            }
            _ => Err(error),
        }
    }

    /// One that exists (or did: operations on a removed cgroup say so). `path` is absolute below
    /// the mounts; what [`relative`] and [`below`](Self::below) answer may name several.
    pub fn open(path: &str) -> Result<Self, CgroupError> {
        let place = Place::parse(path)?;
        Ok(Self {
            host: Host::find()?,
            place,
        })
    }

    /// Another one, without looking again what the host mounts.
    pub fn another(&self, path: &str) -> Result<Self, CgroupError> {
        Ok(Self {
            host: self.host.clone(),
            place: Place::parse(path)?,
        })
    }

    /// The path of one below it, in the hierarchy of `controller` or in all, for [`Self::open`].
    pub fn below(&self, controller: Option<&str>, path: &str) -> Result<String, BelowError> {
        let below = self.place.below(&self.host, controller, path)?;
        Ok(below.to_string())
    }

    /// That of a container which runs; `None` where [`create`](Self::create) made none for want of
    /// rights.
    pub(crate) fn of_running(path: &str) -> Result<Option<Self>, CgroupError> {
        let cgroup = Self::open(path)?;
        let absent = !cgroup.members().exists() && is_ordinary_user();
        Ok((!absent).then_some(cgroup))
    }

    /// Where one more process of a container is put whose first process is `init`. In version 2 a
    /// cgroup that hands controllers down takes no processes; a container that made cgroups below
    /// its own has moved its processes there.
    pub(crate) fn for_another(self, init: i32) -> Result<Self, CgroupError> {
        let Some(directory) = self.v2().filter(|_| self.is_v2()) else {
            return Ok(self);
        };
        let given = files::read_if_there(&directory.join("cgroup.subtree_control"))?;
        if given.is_none_or(|given| given.trim().is_empty()) {
            return Ok(self);
        }
        let inner = Self::open(&v2::path_of(init)?)?;
        let is_below = inner.place.unified().starts_with(self.place.unified());
        Ok(if is_below { inner } else { self })
    }

    /// Its directories, by the name that each has below a container's `/sys/fs/cgroup`; a single
    /// version 2 hierarchy has none.
    pub(crate) fn directories(&self) -> Vec<(Option<String>, PathBuf)> {
        let v1 = self
            .host
            .v1
            .iter()
            .map(|h| (Some(h.name()), self.within(h)));
        let alone = self.host.v1.is_empty();
        let v2 = self
            .v2()
            .map(|path| ((!alone).then(|| String::from("unified")), path));
        v1.chain(v2).collect()
    }

    /// The version 2 directory, for a process to be born in.
    pub(crate) fn clone_directory(&self) -> Option<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(self.v2()?, flags, Mode::empty()).ok()
    }

    fn v2(&self) -> Option<PathBuf> {
        let mount = self.host.v2.as_ref();
        mount.map(|mount| mount.join(self.place.unified()))
    }

    fn within(&self, hierarchy: &Hierarchy) -> PathBuf {
        hierarchy.mount.join(self.place.within(hierarchy))
    }

    /// Its directory in the hierarchy of a version 1 controller.
    fn v1(&self, controller: &str) -> Option<PathBuf> {
        let hierarchy = self
            .host
            .v1
            .iter()
            .find(|h| h.controllers.iter().any(|c| c == controller));
        hierarchy.map(|hierarchy| self.within(hierarchy))
    }

    fn is_v2(&self) -> bool {
        self.host.v1.is_empty()
    }

    fn make(&self) -> Result<(), CgroupError> {
        for hierarchy in &self.host.v1 {
            v1::make(hierarchy, self.place.within(hierarchy))?;
        }
        match &self.host.v2 {
            Some(mount) => v2::make(mount, self.place.unified(), self.is_v2()),
            None => Ok(()),
        }
    }

    fn limit(&self, resources: &oci::LinuxResources) -> Result<(), CgroupError> {
        let writes = self.plan(resources)?;
        let mut again = Vec::new();
        for write in &writes {
            match self.apply(write) {
                Err(CgroupError::File { .. }) if write.again => again.push(write),
                other => other?,
            }
        }
        again.into_iter().try_for_each(|write| self.apply(write))
    }

    fn plan(&self, resources: &oci::LinuxResources) -> Result<Vec<Write>, CgroupError> {
        if self.is_v2() {
            v2::plan(resources)
        } else {
            v1::plan(resources)
        }
    }

    fn apply(&self, write: &Write) -> Result<(), CgroupError> {
        let missing = || CgroupError::Missing {
            controller: write.controller,
            limit: write.limit,
        };
        let directory = if self.is_v2() {
            self.v2()
        } else {
            self.v1(write.controller)
        };
        let directory = match (directory, &write.if_missing) {
            (Some(directory), _) => directory,
            (None, IfMissing::Ignore) => return Ok(()),
            (None, _) => return Err(missing()),
        };
        match files::write(&directory.join(&write.file), &write.value) {
            Err(error) if error.is_not_there() && directory.exists() => match &write.if_missing {
                IfMissing::Ignore => Ok(()),
                IfMissing::Instead(file, value) => files::write(&directory.join(file), value)
                    .map_err(|error| {
                        if error.is_not_there() {
                            missing()
                        } else {
                            error
                        }
                    }),
                // The controller may be there without this file, as before the kernel had it.
                IfMissing::Refuse if self.has_controller(&directory, write.controller) => {
                    Err(CgroupError::NoFile {
                        file: write.file.clone(),
                        controller: write.controller,
                        limit: write.limit,
                    })
                }
                IfMissing::Refuse => Err(missing()),
            },
            other => other,
        }
    }

    fn has_controller(&self, directory: &Path, controller: &str) -> bool {
        let listed = || files::read(&directory.join("cgroup.controllers"));
        !self.is_v2()
            || controller == "cgroup"
            || listed().is_ok_and(|all| all.split_whitespace().any(|one| one == controller))
    }

    fn restrict_devices(
        &self,
        rules: Option<&[oci::LinuxDeviceCgroup]>,
    ) -> Result<(), CgroupError> {
        if let Some(directory) = self.v1("devices") {
            return devices::write_v1(&directory, rules);
        }
        match self.v2() {
            Some(directory) if self.is_v2() => devices::attach_v2(&directory, rules),
            _ => Ok(()),
        }
    }

    /// Moves the calling thread into it; `born_inside` its version 2 cgroup already, or not.
    ///
    /// Moving a process takes a lock against all forks on the machine, which costs the kernel a
    /// grace period: milliseconds. A thread that moves itself, by `tasks`, needs no lock
    /// (kernel, cgroup.c, `cgroup_procs_write_start`; Linux 5.5).
    pub(crate) fn enter(&self, born_inside: bool) -> Result<(), CgroupError> {
        for hierarchy in &self.host.v1 {
            files::write(&self.within(hierarchy).join("tasks"), "0")?;
        }
        match self.v2() {
            Some(directory) if !born_inside => files::write(&directory.join("cgroup.procs"), "0"),
            _ => Ok(()),
        }
    }

    /// Moves a process into it.
    pub fn add(&self, pid: i32) -> Result<(), CgroupError> {
        let pid = pid.to_string();
        for hierarchy in &self.host.v1 {
            files::write(&self.within(hierarchy).join("cgroup.procs"), &pid)?;
        }
        match self.v2() {
            Some(directory) => files::write(&directory.join("cgroup.procs"), &pid),
            None => Ok(()),
        }
    }

    /// A directory in which all its processes are found.
    fn members(&self) -> PathBuf {
        self.v2().unwrap_or_else(|| {
            // One of the two is mounted, or there would be no `Cgroup`.
            self.host
                .v1
                .first()
                .map(|h| self.within(h))
                .unwrap_or_default()
        })
    }

    /// Every process in it and below.
    pub fn pids(&self) -> Result<Vec<i32>, CgroupError> {
        pids_in(&[self.members()])
    }

    /// The same of all its directories: others may be in some hierarchies only.
    pub fn occupants(&self) -> Result<Vec<i32>, CgroupError> {
        let directories = self.directories().into_iter().map(|(_, path)| path);
        pids_in(&directories.filter(|path| path.exists()).collect::<Vec<_>>())
    }

    /// Stops all its processes; returns when they stand still.
    pub fn freeze(&self) -> Result<(), CgroupError> {
        match self.v2() {
            Some(directory) => v2::freeze(&directory, true),
            None => v1::freeze(&self.freezer()?),
        }
    }

    /// Lets them go on.
    pub fn thaw(&self) -> Result<(), CgroupError> {
        match self.v2() {
            Some(directory) => v2::freeze(&directory, false),
            None => files::write(&self.freezer()?.join("freezer.state"), "THAWED"),
        }
    }

    /// Whether it is frozen.
    pub fn is_frozen(&self) -> Result<bool, CgroupError> {
        match self.v2() {
            Some(directory) => v2::event(&directory, "frozen"),
            None => {
                let state = files::read(&self.freezer()?.join("freezer.state"))?;
                Ok(state.trim() != "THAWED")
            }
        }
    }

    /// Whether it is frozen in any hierarchy: what enters it would stop there.
    pub fn is_frozen_anywhere(&self) -> bool {
        let frozen = |directory: PathBuf| v2::event(&directory, "frozen").unwrap_or(false);
        let stopped = |directory: PathBuf| {
            let state = files::read(&directory.join("freezer.state"));
            state.is_ok_and(|state| state.trim() != "THAWED")
        };
        self.v2().is_some_and(frozen) || self.v1("freezer").is_some_and(stopped)
    }

    /// The directory of the freezer that CRIU is to use: the one it is frozen by already, or else
    /// version 1's where there is that, under which tasks stop at once.
    pub(crate) fn freezer_directory(&self) -> Option<String> {
        let frozen = self.is_frozen().unwrap_or(false);
        let (first, second) = (self.v1("freezer"), self.v2());
        let directory = if frozen {
            second.or(first)
        } else {
            first.or(second)
        };
        Some(directory?.to_string_lossy().into_owned())
    }

    fn freezer(&self) -> Result<PathBuf, CgroupError> {
        let missing = CgroupError::Missing {
            controller: "freezer",
            limit: "pausing",
        };
        self.v1("freezer").ok_or(missing)
    }

    /// SIGKILL to every process in it and below, forks included.
    pub fn kill_all(&self) -> Result<(), CgroupError> {
        if let Some(directory) = self.v2() {
            match files::write(&directory.join("cgroup.kill"), "1") {
                // Before Linux 5.14.
                Err(error) if error.is_gone() && directory.exists() => {}
                other => return other,
            }
        }
        v1::kill_all(self)
    }

    /// Changes the limits that are given; leaves the others.
    pub fn update(&self, resources: &oci::LinuxResources) -> Result<(), CgroupError> {
        self.check_before_update(resources)?;
        if let Some(rules) = resources.devices() {
            self.restrict_devices(Some(rules))?;
        }
        self.limit(resources)
    }

    fn check_before_update(&self, resources: &oci::LinuxResources) -> Result<(), CgroupError> {
        let asked = resources.memory().as_ref();
        let asked = asked.filter(|memory| memory.check_before_update() == Some(true));
        let Some(limit) = asked.and_then(|m| m.limit()).filter(|limit| *limit > 0) else {
            return Ok(());
        };
        let file = if self.is_v2() {
            self.v2().map(|directory| directory.join("memory.current"))
        } else {
            self.v1("memory")
                .map(|directory| directory.join("memory.usage_in_bytes"))
        };
        let used = file.map(|file| stats::number(&file)).transpose()?.flatten();
        match used {
            Some(used) if used > limit.unsigned_abs() => Err(CgroupError::InUse { limit, used }),
            _ => Ok(()),
        }
    }

    /// What it has used.
    pub fn stats(&self) -> Result<Stats, CgroupError> {
        if self.is_v2() {
            stats::v2(&self.members())
        } else {
            stats::v1(|name| self.v1(name))
        }
    }

    /// The same without what users are not shown: a quarter of the files.
    pub fn usage(&self) -> Result<Stats, CgroupError> {
        if self.is_v2() {
            stats::v2_usage(&self.members())
        } else {
            stats::v1_usage(|name| self.v1(name))
        }
    }

    /// How many of its processes the kernel killed for want of memory.
    pub fn oom_kills(&self) -> Result<u64, CgroupError> {
        match self.v1("memory") {
            Some(directory) => {
                let text = files::read(&directory.join("memory.oom_control"))?;
                Ok(stats::keyed(&text, "oom_kill").unwrap_or(0))
            }
            None => match files::read(&self.members().join("memory.events")) {
                Ok(text) => Ok(stats::keyed(&text, "oom_kill").unwrap_or(0)),
                Err(error) if error.is_gone() && self.members().exists() => Ok(0),
                Err(error) => Err(error),
            },
        }
    }

    /// A descriptor that becomes readable when memory runs out.
    pub fn watch_oom(&self) -> Result<OomWatch, CgroupError> {
        match self.v1("memory") {
            Some(directory) => {
                let watched = directory.join("memory.oom_control");
                let failed =
                    |source: rustix::io::Errno| CgroupError::file("watch", &watched)(source.into());
                let event =
                    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(failed)?;
                let flags = OFlags::RDONLY | OFlags::CLOEXEC;
                let control = rustix::fs::open(&watched, flags, Mode::empty()).map_err(failed)?;
                let (event_fd, control_fd) = (files::number(&event), files::number(&control));
                let order = format!("{event_fd} {control_fd}");
                files::write(&directory.join("cgroup.event_control"), &order)?;
                Ok(OomWatch {
                    fd: event,
                    early: true,
                })
            }
            None => {
                let watched = self.members().join("memory.events");
                let failed =
                    |source: rustix::io::Errno| CgroupError::file("watch", &watched)(source.into());
                let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
                let fd = inotify::init(flags).map_err(failed)?;
                inotify::add_watch(&fd, &watched, inotify::WatchFlags::MODIFY).map_err(failed)?;
                Ok(OomWatch { fd, early: false })
            }
        }
    }

    /// Removes it and what the container made below. No process may be left in it; one that is
    /// just ending is waited for, briefly. A cgroup that is gone is no error.
    pub fn remove(self) -> Result<(), CgroupError> {
        let mut first = None;
        let deadline = Instant::now() + files::REMOVAL;
        for (_, directory) in self.directories() {
            if let Err(error) = files::remove(&directory, deadline) {
                first.get_or_insert(error);
            }
        }
        first.map_or(Ok(()), Err)
    }
}

/// Every process in these directories and below.
fn pids_in(directories: &[PathBuf]) -> Result<Vec<i32>, CgroupError> {
    let mut pids = Vec::new();
    for directory in directories {
        files::walk(directory, &mut |directory| {
            let listed = files::read(&directory.join("cgroup.procs"))?;
            pids.extend(listed.lines().filter_map(|line| line.parse::<i32>().ok()));
            Ok(())
        })?;
    }
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

/// Whether root here is not root of the machine, or is nobody.
fn is_ordinary_user() -> bool {
    !rustix::process::geteuid().is_root() || crate::is_in_user_namespace()
}

/// Has a program judge device accesses below the version 2 cgroup `directory`, in place of those
/// that judged before. What [`Cgroup::create`] does on a host with version 2 alone.
pub fn filter_devices(
    directory: &Path,
    rules: Option<&[oci::LinuxDeviceCgroup]>,
) -> Result<(), CgroupError> {
    devices::attach_v2(directory, rules)
}

/// Readable when the cgroup ran out of memory, or was removed. Drain with [`OomWatch::drain`],
/// then compare [`Cgroup::oom_kills`].
#[derive(Debug)]
pub struct OomWatch {
    fd: OwnedFd,
    /// Version 1 signals just before it kills, and counts after.
    early: bool,
}

/// From version 1's signal to the kill that it announces.
const KILLING: std::time::Duration = std::time::Duration::from_millis(5);

impl OomWatch {
    /// Forgets what was signalled; returns when [`Cgroup::oom_kills`] has most likely counted it
    /// (on version 1 it may still come later, so look again when the container ends).
    pub fn drain(&self) {
        let mut events = [0_u8; 4096];
        // Nonblocking: an error is the end of what there was.
        while rustix::io::read(&self.fd, &mut events).is_ok_and(|length| length > 0) {}
        if self.early {
            files::wait(KILLING);
        }
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
