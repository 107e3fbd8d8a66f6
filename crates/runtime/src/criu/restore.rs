//! Images become a container.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::thread::UnshareFlags;

use super::external::{self, Mounted};
use super::mapped::{MappedBinds, admit};
use super::rpc::{self, CgroupRoot, Inherited, JoinedNamespace, Kind, Notice, Request};
use super::streams::is_file;
use super::swrk::{self, Criu, CriuError, Seat};
use super::{CgroupMode, DESCRIPTORS, EXTERNAL_NAMESPACES, Options, PrepareError};
use crate::bundle::{Bundle, Rootfs};
use crate::cgroup::{Cgroup, CgroupError};
use crate::child::view;
use crate::create::open_cloexec;
use crate::error::{CreateError, During as _, SetupError, Step};
use crate::hooks::{HookError, Kind as HookKind};
use crate::plan::Plan;
use crate::state::Status;

/// The name of CRIU's log.
const LOG: &str = "restore.log";

/// What is restored, and how; [`Options`] has what concerned its saving too.
#[derive(Debug)]
pub struct Restore<'a> {
    /// What the container is now: its root, sources of its binds, limits, hooks.
    pub bundle: &'a Bundle,
    /// An empty directory that CRIU, and nobody else, sees the root mounted on.
    pub stage: &'a Path,
    /// Its standard streams are the caller's; else it has a terminal.
    pub own_streams: bool,
    /// `TYPE:PROFILE` of a security module, in place of the saved one.
    pub lsm_profile: Option<&'a str>,
    /// Mount context of a security module, in place of the saved ones.
    pub lsm_mount_context: Option<&'a str>,
}

/// A container whose processes go on where they were saved.
#[derive(Debug)]
pub struct Restored {
    /// The first process, in the caller's pid namespace. A child of the caller, who must wait for it.
    pub pid: i32,
    /// The same, free of reuse.
    pub pidfd: OwnedFd,
    /// Its terminal's master side.
    pub console: Option<OwnedFd>,
}

/// Why a container was not restored. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// What comes before CRIU.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// CRIU would refuse the cgroup that it is to be in.
    #[error(
        "a container cannot be restored with --manage-cgroups-mode strict: its cgroup is made \
         before it, with the limits of config.json (\"full\" restores those that were saved)"
    )]
    Strict,
    /// Sources of binds.
    #[error("prepare what is bound")]
    Sources(#[source] SetupError),
    /// CRIU binds by source, which cannot be mapped and not mapped.
    #[error(
        "the mounts at `{}` and `{}` show the same files with different ids, which CRIU cannot \
         restore", first.display(), second.display()
    )]
    MappedTwice {
        /// Where it maps ids.
        first: PathBuf,
        /// Where it does not, or others.
        second: PathBuf,
    },
    /// The cgroup.
    #[error("prepare the cgroup")]
    Cgroup(#[source] CgroupError),
    /// CRIU.
    #[error(transparent)]
    Criu(#[from] CriuError),
    /// A hook.
    #[error("run the hooks")]
    Hook(#[source] HookError),
    /// The caller could not note down what was made.
    #[error("record the container's process")]
    Record(#[source] io::Error),
    /// CRIU named no process, or one that is gone.
    #[error("find the restored process")]
    Process(#[source] io::Error),
}

impl From<CreateError> for RestoreError {
    fn from(error: CreateError) -> Self {
        Self::Prepare(error.into())
    }
}

/// Restores a container, in a cgroup with the limits of its specification. `born` hears the id of
/// its first process as soon as there is one.
///
/// Forks the calling thread: call it from a program with one thread.
pub fn restore(
    restore: &Restore<'_>,
    options: &Options,
    born: &mut dyn FnMut(i32) -> io::Result<()>,
) -> Result<Restored, RestoreError> {
    let plan = Plan::new(restore.bundle, false)?;
    // Before anything is made.
    swrk::check_installed()?;
    if options.cgroups == Some(CgroupMode::Strict) && has_cgroup(restore.bundle) {
        return Err(RestoreError::Strict);
    }
    let mapped = MappedBinds::take(&plan)?;
    admit(&plan, &options.images)?;
    let cgroup = make_cgroup(restore.bundle)?;
    let restored = in_cgroup(restore, options, &plan, &mapped, cgroup.as_ref(), born);
    if restored.is_err()
        && let Some(cgroup) = cgroup
    {
        // The reason for the failure is what the caller hears about. CRIU has ended what it made.
        let _ = cgroup.remove();
    }
    restored
}

fn has_cgroup(bundle: &Bundle) -> bool {
    let linux = bundle.spec.linux().as_ref();
    linux.is_some_and(|linux| linux.cgroups_path().is_some())
}

fn make_cgroup(bundle: &Bundle) -> Result<Option<Cgroup>, RestoreError> {
    let Some(linux) = bundle.spec.linux() else {
        return Ok(None);
    };
    let Some(path) = linux.cgroups_path() else {
        return Ok(None);
    };
    let resources = linux.resources().as_ref();
    Cgroup::create(&path.to_string_lossy(), resources).map_err(RestoreError::Cgroup)
}

fn in_cgroup(
    restore: &Restore<'_>,
    options: &Options,
    plan: &Plan,
    mapped: &MappedBinds,
    cgroup: Option<&Cgroup>,
    born: &mut dyn FnMut(i32) -> io::Result<()>,
) -> Result<Restored, RestoreError> {
    let Rootfs::Directory(root) = &restore.bundle.rootfs else {
        let reason = "only a root that is a directory can be restored";
        return Err(CreateError::invalid("root.path", reason).into());
    };
    let namespaces = external_namespaces(plan)?;
    let prepare = || {
        stage(root, restore.stage, plan)?;
        mapped.cover()?;
        enter(cgroup)
    };
    let mut criu = Criu::start(&Seat {
        namespaces: UnshareFlags::NEWNS,
        prepare: &prepare,
        inherited: namespaces.iter().map(|(_, fd)| fd.as_fd()).collect(),
        own_streams: restore.own_streams,
    })?;
    let directories = options.open(LOG, criu.pid())?;
    let inherited = namespaces.iter().map(|(name, fd)| Inherited {
        key: (*name).to_owned(),
        fd: fd.as_raw_fd(),
    });
    let wanted = rpc::Options {
        root: Some(restore.stage.to_string_lossy().into_owned()),
        evasive_devices: Some(true),
        restore_as_sibling: Some(true),
        lsm_profile: restore.lsm_profile.map(str::to_owned),
        lsm_mount_context: restore.lsm_mount_context.map(str::to_owned),
        external_mounts: external_mounts(root, plan, cgroup)?,
        cgroup_roots: cgroup.map_or(Ok(Vec::new()), |_| cgroup_roots(criu.pid()))?,
        joined_namespaces: joined_namespaces(plan),
        inherited: inherited.chain(streams(&options.images)?).collect(),
        ..options.request(&directories, restore.bundle)
    };
    let request = Request {
        options: Some(wanted),
        ..Request::of(Kind::Restore)
    };
    let mut console = None;
    let mut heard = |notice: &Notice, fd| hear(plan, notice, fd, &mut console, born);
    let answer = criu.ask(&request, &directories.log, &mut heard)?;
    criu.end();
    let pid = answer.restored.map_or(0, |restored| restored.pid);
    let pidfd = handle(pid).map_err(RestoreError::Process)?;
    Ok(Restored {
        pid,
        pidfd,
        console,
    })
}

fn handle(pid: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::NotFound)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// At each point that CRIU reaches.
fn hear(
    plan: &Plan,
    notice: &Notice,
    fd: Option<OwnedFd>,
    console: &mut Option<OwnedFd>,
    born: &mut dyn FnMut(i32) -> io::Result<()>,
) -> Result<(), RestoreError> {
    let pid = notice.pid.unwrap_or(0);
    match notice.script.as_deref() {
        // Its namespaces are there, and nothing in them but the first process.
        Some("setup-namespaces") => {
            born(pid).map_err(RestoreError::Record)?;
            let Some(hooks) = &plan.hooks else {
                return Ok(());
            };
            [HookKind::Prestart, HookKind::CreateRuntime]
                .into_iter()
                .try_for_each(|kind| hooks.run(kind, Status::Creating, pid, &[]))
                .map_err(RestoreError::Hook)
        }
        Some("post-restore") => born(pid).map_err(RestoreError::Record),
        Some("orphan-pts-master") => {
            *console = fd;
            Ok(())
        }
        _ => Ok(()),
    }
}

/// In the fork: CRIU wants the root to be a mount that nothing covers, and takes those of its caller
/// for the host's. So it gets mounts of its own, which stay slaves of the host's: it makes those that
/// were slaves such again by theirs.
fn stage(root: &Path, stage: &Path, plan: &Plan) -> Result<(), SetupError> {
    let alone = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", alone).during(Step::Root, || "separate the mounts from the host's")?;
    let what = || format!("mount the root `{}` for CRIU", root.display());
    let attach = || {
        let tree = view::clone_tree(CWD, root, true)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let place = rustix::fs::open(stage, flags, Mode::empty())?;
        view::attach(&tree, place.as_fd())?;
        Ok::<_, rustix::io::Errno>(tree)
    };
    let tree = attach().during(Step::Root, what)?;
    external::make_points(&tree, plan)?;
    drop(tree);
    // Once more, whatever that left of it.
    unmount(stage, UnmountFlags::DETACH).during(Step::Root, what)?;
    attach().during(Step::Root, what)?;
    Ok(())
}

/// Also in the fork: what it makes is where it is.
fn enter(cgroup: Option<&Cgroup>) -> Result<(), SetupError> {
    match cgroup.map(|cgroup| cgroup.enter(false)) {
        Some(Err(error)) => {
            let error = io::Error::other(vocab::failure::chain(&error));
            Err(error).during(Step::Cgroup, || "enter the cgroup")
        }
        _ => Ok(()),
    }
}

/// Namespaces that were joined, and are handed over open.
fn external_namespaces(plan: &Plan) -> Result<Vec<(&'static str, OwnedFd)>, PrepareError> {
    let joined = plan.namespaces.joined.iter();
    let named = joined.filter_map(|(kind, path)| {
        let (_, _, name) = EXTERNAL_NAMESPACES.iter().find(|(is, ..)| is == kind)?;
        Some((*name, path))
    });
    named
        .map(|(name, path)| {
            // Above the standard streams.
            let opened = open_cloexec(path).and_then(|fd| Ok(fcntl_dupfd_cloexec(&fd, 3)?));
            Ok((name, opened.map_err(PrepareError::read(path))?))
        })
        .collect()
}

/// Those that CRIU joins itself.
fn joined_namespaces(plan: &Plan) -> Vec<JoinedNamespace> {
    let name = |kind: UnshareFlags| match kind {
        UnshareFlags::NEWIPC => Some("ipc"),
        UnshareFlags::NEWUTS => Some("uts"),
        UnshareFlags::NEWUSER => Some("user"),
        UnshareFlags::NEWTIME => Some("time"),
        UnshareFlags::NEWCGROUP => Some("cgroup"),
        _ => None,
    };
    let joined = plan.namespaces.joined.iter();
    joined
        .filter_map(|(kind, path)| {
            Some(JoinedNamespace {
                kind: name(*kind)?.to_owned(),
                path: path.to_string_lossy().into_owned(),
            })
        })
        .collect()
}

fn external_mounts(
    root: &Path,
    plan: &Plan,
    cgroup: Option<&Cgroup>,
) -> Result<Vec<rpc::ExternalMount>, PrepareError> {
    let host = Mounted::of(Path::new(external::HOST))?;
    let root_fd = open_cloexec(root).map_err(PrepareError::read(root))?;
    let points = external::points(&root_fd, plan);
    Ok(external::of_plan(plan, &points, cgroup, &host))
}

/// The paths that take the place of the saved ones: CRIU is in the container's cgroup already.
fn cgroup_roots(pid: i32) -> Result<Vec<CgroupRoot>, PrepareError> {
    let path = PathBuf::from(format!("/proc/{pid}/cgroup"));
    let text = fs::read_to_string(&path).map_err(PrepareError::read(&path))?;
    let fields = text
        .lines()
        .filter_map(|line| line.split_once(':')?.1.split_once(':'));
    let roots = fields.flat_map(|(controllers, path)| {
        controllers.split(',').map(move |controller| CgroupRoot {
            controller: Some(controller.to_owned()),
            path: path.to_owned(),
        })
    });
    Ok(roots.collect())
}

/// Our standard streams in place of the saved ones that led out of the container.
fn streams(images: &Path) -> Result<Vec<Inherited>, PrepareError> {
    let path = images.join(DESCRIPTORS);
    let json = match fs::read(&path) {
        // Others than berth and runc do without.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(PrepareError::read(&path))?,
    };
    let saved: Vec<String> = serde_json::from_slice(&json)
        .map_err(io::Error::from)
        .map_err(PrepareError::read(&path))?;
    let numbered = saved.into_iter().zip(0..3);
    let led_out = numbered.filter(|(name, _)| name.starts_with("pipe:") || is_file(name));
    Ok(led_out.map(|(key, fd)| Inherited { key, fd }).collect())
}
