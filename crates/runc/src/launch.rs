//! What `create`, `run` and `exec` have in common: from a bundle to a process.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use runtime::cgroup::systemd::{self, Properties, Scope, SystemdError};
use runtime::cgroup::{self, CgroupError};
use runtime::hooks::{self, HookError, Kind};
use runtime::{
    Bundle, CreateError, Created, Gate, Options, Rootfs, StartError, State, Status, Stdio, oci,
};
use rustix::cmsg_space;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use vocab::failure::chain;

use crate::Context;
use crate::arguments::{ArgumentError, Arguments};
use crate::attend;
use crate::state::{Container, Directory, Life, Phase, Record, StateError};

/// A configuration is in this file of the bundle.
const CONFIG: &str = "config.json";

/// Why there is no process. Texts that tools look for are runc's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    #[error(transparent)]
    Argument(#[from] ArgumentError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("JSON specification file config.json not found")]
    NoConfig,
    #[error("read `{path}`")]
    ReadConfig { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Config(CreateError),
    #[error("invalid specification: root: is missing")]
    NoRoot,
    #[error("invalid specification: root.path: `{path}`: {reason}")]
    Root { path: PathBuf, reason: String },
    #[error("cannot allocate tty if runc will detach without setting console socket")]
    NoConsoleSocket,
    #[error("cannot use console socket if runc will not detach or allocate tty")]
    NeedlessConsoleSocket,
    #[error("descriptor {fd} of --preserve-fds is not open")]
    NotInherited { fd: i32 },
    #[error("find the cgroup")]
    Cgroup(#[source] CgroupError),
    #[error("container's cgroup is not empty: {0} process(es) found")]
    CgroupInUse(usize),
    #[error("container's cgroup unexpectedly frozen: thaw or remove it first")]
    CgroupFrozen,
    #[error("have systemd make the cgroup")]
    Systemd(#[source] SystemdError),
    #[error("run from where no container can write")]
    Seal(#[source] io::Error),
    #[error("listen for the start")]
    Gate(#[source] io::Error),
    #[error("unable to start container process")]
    Create(#[source] CreateError),
    #[error("unable to start container process")]
    Start(#[from] StartError),
    #[error("send the terminal to `{path}`")]
    Console { path: PathBuf, source: io::Error },
    #[error("send the process to `{path}`")]
    Pidfd { path: PathBuf, source: io::Error },
    #[error("write `{path}`")]
    PidFile { path: PathBuf, source: io::Error },
    #[error("run the hooks")]
    Hook(#[source] HookError),
}

/// Who stays with the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attendance {
    /// Nobody: whoever called takes it over.
    Detached,
    /// This program.
    Foreground,
}

/// What is told to others about a process, by flags that `create`, `run` and `exec` share.
#[derive(Debug, Default)]
pub(crate) struct Handover {
    console_socket: Option<PathBuf>,
    pidfd_socket: Option<PathBuf>,
    pid_file: Option<PathBuf>,
    pub(crate) preserve_fds: i32,
    /// How many of those came by `LISTEN_FDS`.
    listen_fds: i32,
}

impl Handover {
    /// Reads the flags, and checks that what is to be preserved is there.
    pub(crate) fn new(arguments: &Arguments) -> Result<Self, LaunchError> {
        let path = |name| {
            let given = arguments.value(name).filter(|path| !path.is_empty());
            given.map(PathBuf::from)
        };
        let listen_fds = listen_fds();
        let preserve_fds = arguments.parsed("preserve-fds")?.unwrap_or(0) + listen_fds;
        for fd in 3..3 + preserve_fds {
            if fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_err() {
                return Err(LaunchError::NotInherited { fd });
            }
        }
        Ok(Self {
            console_socket: path("console-socket"),
            pidfd_socket: path("pidfd-socket"),
            pid_file: path("pid-file"),
            preserve_fds,
            listen_fds,
        })
    }

    /// A terminal needs somebody who takes its other side.
    pub(crate) fn check_terminal(
        &self,
        terminal: bool,
        attendance: Attendance,
    ) -> Result<(), LaunchError> {
        match (attendance, terminal, self.console_socket.is_some()) {
            (Attendance::Detached, true, false) => Err(LaunchError::NoConsoleSocket),
            (Attendance::Foreground, _, true) => Err(LaunchError::NeedlessConsoleSocket),
            (_, false, true) => Err(LaunchError::NeedlessConsoleSocket),
            _ => Ok(()),
        }
    }

    /// Adds what says which descriptors are sockets to accept on (`sd_listen_fds(3)`).
    pub(crate) fn add_listen_fds(&self, environment: &mut Vec<String>) {
        if self.listen_fds > 0 {
            environment.push(format!("LISTEN_FDS={}", self.listen_fds));
            environment.push(String::from("LISTEN_PID=1"));
        }
    }

    /// Hands over the terminal and the process's handle, and writes the number.
    pub(crate) fn tell(
        &self,
        pid: i32,
        pidfd: BorrowedFd<'_>,
        console: Option<BorrowedFd<'_>>,
    ) -> Result<(), LaunchError> {
        if let (Some(path), Some(console)) = (&self.console_socket, console) {
            send(path, b"/dev/ptmx", console).map_err(|source| LaunchError::Console {
                path: path.clone(),
                source,
            })?;
        }
        if let Some(path) = &self.pidfd_socket {
            send(path, b"pidfd", pidfd).map_err(|source| LaunchError::Pidfd {
                path: path.clone(),
                source,
            })?;
        }
        match &self.pid_file {
            Some(path) => write_pid(path, pid).map_err(|source| LaunchError::PidFile {
                path: path.clone(),
                source,
            }),
            None => Ok(()),
        }
    }
}

/// How many sockets the service manager passed to this very process.
fn listen_fds() -> i32 {
    let number = |name| env::var(name).ok()?.parse::<i32>().ok();
    let ours = number("LISTEN_PID") == i32::try_from(std::process::id()).ok();
    let count = number("LISTEN_FDS").filter(|count| ours && *count > 0);
    count.unwrap_or(0)
}

fn send(path: &Path, name: &[u8], fd: BorrowedFd<'_>) -> io::Result<()> {
    let socket = UnixStream::connect(path)?;
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    let flags = SendFlags::NOSIGNAL;
    sendmsg(&socket, &[IoSlice::new(name)], &mut ancillary, flags)?;
    Ok(())
}

/// Whole or not at all: others wait for the file to appear.
fn write_pid(path: &Path, pid: i32) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default();
    let mut hidden = OsStr::new(".").to_owned();
    hidden.push(name);
    let new = path.with_file_name(hidden);
    let mut file = fs::File::create(&new)?;
    file.write_all(pid.to_string().as_bytes())?;
    fs::rename(&new, path)
}

/// A bundle that was read.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) bundle: Bundle,
    pub(crate) json: Vec<u8>,
    pub(crate) terminal: bool,
    /// What systemd is to make, if it is asked to.
    pub(crate) scope: Option<Scope>,
}

/// Reads the bundle in `directory`, for a container called `id`.
pub(crate) fn read(
    context: &Context,
    id: &str,
    directory: Option<&OsStr>,
) -> Result<Read, LaunchError> {
    let directory = directory.filter(|directory| !directory.is_empty());
    let path = Path::new(directory.unwrap_or_else(|| OsStr::new(".")));
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| LaunchError::ReadConfig { path, source }
    };
    let directory = absolute(path).map_err(failed(path))?;
    let path = directory.join(CONFIG);
    let json = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(LaunchError::NoConfig),
        other => other.map_err(failed(&path))?,
    };
    let read = runtime::config::spec(&json).map_err(LaunchError::Config)?;
    for warning in &read.warnings {
        context.log.warn(warning);
    }
    let mut spec = read.value;
    let mut scope = None;
    let rootfs = spec.root().as_ref().ok_or(LaunchError::NoRoot)?.path();
    let rootfs = directory.join(rootfs);
    check_root(&rootfs)?;
    if context.systemd_cgroup {
        // Refused before anything is made.
        Properties::new(spec.annotations().as_ref()).map_err(LaunchError::Systemd)?;
    }
    if let Some(linux) = spec.linux_mut() {
        if context.systemd_cgroup {
            let given = linux
                .cgroups_path()
                .as_deref()
                .unwrap_or_else(|| Path::new(""));
            let parsed = Scope::parse(&given.to_string_lossy(), id);
            scope = Some(parsed.map_err(LaunchError::Systemd)?);
            // Known once systemd has made it.
            linux.set_cgroups_path(None);
        } else {
            let path = cgroup_path(linux.cgroups_path().as_deref(), id);
            linux.set_cgroups_path(Some(path.map_err(LaunchError::Cgroup)?));
        }
    }
    let terminal = spec.process().as_ref().and_then(oci::Process::terminal);
    let bundle = Bundle {
        id: id.to_owned(),
        directory,
        spec,
        rootfs: Rootfs::Directory(rootfs),
        seccomp: None,
        extras: runtime::Extras::default(),
    };
    Ok(Read {
        bundle,
        json,
        terminal: terminal.unwrap_or(false),
        scope,
    })
}

fn check_root(path: &Path) -> Result<(), LaunchError> {
    let refuse = |reason: String| LaunchError::Root {
        path: path.to_owned(),
        reason,
    };
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(refuse(String::from("is not a directory"))),
        Err(error) => Err(refuse(chain(&error))),
    }
}

/// Without `.` and `..`, as Go's `filepath.Abs` does it.
fn absolute(path: &Path) -> io::Result<PathBuf> {
    Ok(clean(&std::path::absolute(path)?))
}

fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    clean
}

/// Below the root of the hierarchies, if it is absolute, or else by the caller's own cgroup; named
/// after the container where nothing is said.
fn cgroup_path(given: Option<&Path>, id: &str) -> Result<PathBuf, CgroupError> {
    let root = Path::new("/");
    let cleaned = given.map(clean).filter(|path| path != root);
    match cleaned {
        Some(path) if given.is_some_and(Path::is_absolute) => Ok(path),
        relative => {
            let relative = relative
                .as_deref()
                .and_then(|path| path.strip_prefix(root).ok());
            cgroup::relative(relative.unwrap_or_else(|| Path::new(id))).map(PathBuf::from)
        }
    }
}

/// A container whose process waits, with its directory locked.
#[derive(Debug)]
pub(crate) struct Launched {
    pub(crate) container: Container,
    pub(crate) created: Created,
    pub(crate) bundle: Bundle,
}

/// Makes the container up to where its program could start. On failure nothing of it is left.
pub(crate) fn launch(
    context: &Context,
    read: Read,
    arguments: &Arguments,
    handover: &Handover,
    attendance: Attendance,
    gate: bool,
) -> Result<Launched, LaunchError> {
    let Read {
        mut bundle,
        json,
        terminal,
        scope,
    } = read;
    let no_pivot = arguments.switch("no-pivot")?;
    let no_new_keyring = arguments.switch("no-new-keyring")?;
    if let Some(process) = bundle.spec.process_mut() {
        let mut environment = process.env().clone().unwrap_or_default();
        handover.add_listen_fds(&mut environment);
        process.set_env(Some(environment));
    }
    let stdio = stdio(bundle.spec.process().as_ref(), terminal, attendance);
    let mut container = claim(context, &bundle, scope, terminal)?;
    let made = (|| {
        keep(&container, &json)?;
        drop(json);
        // Holds the scope until the container's process is in it.
        let _started = start_scope(&mut bundle, &mut container)?;
        let gate = gate.then(|| Gate::listen(container.directory.as_fd()));
        let gate = gate.transpose().map_err(LaunchError::Gate)?;
        let options = Options {
            gate: gate.as_ref().map(Gate::as_fd),
            no_pivot,
            no_new_keyring,
            preserve_fds: handover.preserve_fds,
            ..Options::default()
        };
        let Container { directory, record } = &mut container;
        let mut born = |pid| {
            record.set_life(Life::of(pid));
            directory
                .write(record)
                .map_err(|error| io::Error::other(chain(&error)))
        };
        runtime::create_with(&bundle, stdio, &options, &mut born).map_err(LaunchError::Create)
    })();
    let created = match made {
        Ok(created) => created,
        Err(error) => {
            forget(&container);
            return Err(error);
        }
    };
    let console = created.streams.console.as_ref().map(|fd| fd.as_fd());
    let console = console.filter(|_| attendance == Attendance::Detached);
    match handover.tell(created.pid, created.pidfd.as_fd(), console) {
        Ok(()) => Ok(Launched {
            container,
            created,
            bundle,
        }),
        Err(error) => {
            abandon(context, &container, created.pidfd.as_fd());
            Err(error)
        }
    }
}

/// Takes the id, and locks what is remembered by it.
pub(crate) fn claim(
    context: &Context,
    bundle: &Bundle,
    scope: Option<Scope>,
    terminal: bool,
) -> Result<Container, LaunchError> {
    let directory = context.containers.claim(&bundle.id)?;
    let mut record = record(bundle);
    record.scope = scope;
    if !terminal {
        record.streams = runtime::criu::own_streams();
    }
    let container = Container { directory, record };
    if let Err(error) = check_cgroup(&container) {
        forget(&container);
        return Err(error);
    }
    Ok(container)
}

/// Nobody else may be in the container's cgroup, who would be ended with it; and one that somebody
/// has frozen would stop the container's process on its way in.
fn check_cgroup(container: &Container) -> Result<(), LaunchError> {
    let Some(cgroup) = container.cgroup() else {
        return Ok(());
    };
    // What cannot be read is yet to be made.
    match cgroup.occupants() {
        Ok(pids) if !pids.is_empty() => Err(LaunchError::CgroupInUse(pids.len())),
        _ if cgroup.is_frozen_anywhere() => Err(LaunchError::CgroupFrozen),
        _ => Ok(()),
    }
}

/// Writes down what is to be remembered.
pub(crate) fn keep(container: &Container, config: &[u8]) -> Result<(), StateError> {
    container.directory.write(&container.record)?;
    container.directory.write_config(config)
}

/// Takes back what was remembered of a container that did not come to be. The reason for that is
/// what the caller hears about.
pub(crate) fn forget(container: &Container) {
    let _ = container.record.scope.as_ref().map(Scope::stop);
    let _ = container.directory.remove();
}

/// Has systemd make the cgroup, where it is to; the record knows before, so that a scope whose
/// caller is killed can be stopped.
pub(crate) fn start_scope(
    bundle: &mut Bundle,
    container: &mut Container,
) -> Result<Option<systemd::Started>, LaunchError> {
    let more = Properties::new(bundle.spec.annotations().as_ref());
    let (Some(scope), Some(linux)) = (&container.record.scope, bundle.spec.linux_mut()) else {
        return Ok(None);
    };
    let more = more.map_err(LaunchError::Systemd)?;
    let resources = linux.resources().as_ref();
    let started = scope
        .start(resources, &more)
        .map_err(LaunchError::Systemd)?;
    linux.set_cgroups_path(Some(PathBuf::from(&started.path)));
    container.record.cgroup = Some(started.path.clone());
    container.directory.write(&container.record)?;
    Ok(Some(started))
}

/// Ends a container that is of no use; the reason has been told.
pub(crate) fn abandon(context: &Context, container: &Container, pidfd: BorrowedFd<'_>) {
    let _ = sys::pidfd::send_signal(pidfd, libc::SIGKILL);
    let end = rustix::process::WaitIdOptions::EXITED;
    let _ = rustix::process::waitid(rustix::process::WaitId::PidFd(pidfd), end);
    if let Err(error) = destroy(context, container) {
        context.log.warn(&chain(&error));
    }
}

fn record(bundle: &Bundle) -> Record {
    let spec = &bundle.spec;
    let linux = spec.linux().as_ref();
    let cgroup = linux.and_then(|linux| linux.cgroups_path().as_ref());
    let mut namespaces = linux
        .and_then(|linux| linux.namespaces().as_ref())
        .into_iter()
        .flatten();
    let own_pids =
        namespaces.any(|one| one.typ() == oci::LinuxNamespaceType::Pid && one.path().is_none());
    let rootfs = match &bundle.rootfs {
        Rootfs::Directory(rootfs) => rootfs.clone(),
        Rootfs::Overlay(overlay) => overlay.upper.clone(),
    };
    let given = spec.hooks().as_ref();
    let late = |hooks: &oci::Hooks| {
        let kinds = [Kind::Poststart, Kind::Poststop];
        kinds.iter().any(|kind| !kind.of(hooks).is_empty())
    };
    let annotations = spec.annotations().iter().flatten();
    Record {
        id: bundle.id.clone(),
        oci_version: spec.version().clone(),
        phase: Phase::Creating,
        pid: 0,
        start_time: 0,
        bundle: bundle.directory.clone(),
        rootfs,
        created: vocab::time::rfc3339_nano(SystemTime::now()),
        cgroup: cgroup.map(|path| path.to_string_lossy().into_owned()),
        own_pids,
        hooks: given.is_some_and(late),
        scope: None,
        streams: Vec::new(),
        annotations: annotations
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
    }
}

/// The streams that are inherited, or a terminal: of the size of the caller's, if this program stays
/// with it, or else of the size that is asked for.
pub(crate) fn stdio(
    process: Option<&oci::Process>,
    terminal: bool,
    attendance: Attendance,
) -> Stdio {
    if !terminal {
        return Stdio::Inherit;
    }
    let own = match attendance {
        Attendance::Foreground => attend::own_size(),
        Attendance::Detached => None,
    };
    let asked = process.and_then(|process| process.console_size());
    let side = |side: u64| u16::try_from(side).unwrap_or(u16::MAX);
    let (rows, columns) = match (own, asked) {
        (Some(own), _) => (own.ws_row, own.ws_col),
        (None, Some(asked)) => (side(asked.height()), side(asked.width())),
        (None, None) => (0, 0),
    };
    // In the foreground lines end as the process ends them: the caller's own terminal makes of that
    // what it likes, and a pipe or file gets no carriage returns. Another who takes the terminal
    // decides for himself.
    Stdio::Terminal {
        rows,
        columns,
        carriage_returns: matches!(attendance, Attendance::Detached),
    }
}

/// What hooks are told.
pub(crate) fn told(record: &Record, status: Status) -> State {
    State {
        oci_version: record.oci_version.clone(),
        id: record.id.clone(),
        status,
        pid: if status == Status::Stopped {
            0
        } else {
            record.pid
        },
        bundle: record.bundle.clone(),
        annotations: record.annotations.clone(),
    }
}

fn late_hooks(directory: &Directory) -> Result<Option<oci::Hooks>, LaunchError> {
    let spec = runtime::config::spec(&directory.config()?).map_err(LaunchError::Config)?;
    Ok(spec.value.hooks().clone())
}

/// Runs the `poststart` hooks, if there are any. A failure ends the container.
pub(crate) fn poststart(container: &Container) -> Result<(), LaunchError> {
    if !container.record.hooks {
        return Ok(());
    }
    let Some(hooks) = late_hooks(&container.directory)? else {
        return Ok(());
    };
    let state = told(&container.record, Status::Running);
    hooks::run(&hooks, Kind::Poststart, &state, &[]).map_err(|error| {
        if let Some(init) = container.init() {
            // It may have ended by itself.
            let _ = sys::pidfd::send_signal(init.as_fd(), libc::SIGKILL);
        }
        LaunchError::Hook(error)
    })
}

/// Why something of a container is left.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DestroyError {
    #[error("end the container's processes")]
    Kill(#[source] CgroupError),
    #[error("remove the container's cgroup")]
    Cgroup(#[source] CgroupError),
    #[error("have systemd stop the container's scope")]
    Systemd(#[source] SystemdError),
    #[error(transparent)]
    State(#[from] StateError),
}

/// Takes away everything of a container whose first process has ended: other processes, cgroup,
/// and at last its state; runs the `poststop` hooks, whose failures are only told.
pub(crate) fn destroy(context: &Context, container: &Container) -> Result<(), DestroyError> {
    if let Some(cgroup) = container.cgroup() {
        if !container.record.own_pids {
            match cgroup.kill_all() {
                Err(error) if error.is_gone() => {}
                other => other.map_err(DestroyError::Kill)?,
            }
        }
        cgroup.remove().map_err(DestroyError::Cgroup)?;
    }
    if let Some(scope) = &container.record.scope {
        scope.stop().map_err(DestroyError::Systemd)?;
    }
    // While the state is there, so that one who is killed here can do it again.
    if container.record.hooks {
        poststop(context, container);
    }
    container.directory.remove()?;
    Ok(())
}

fn poststop(context: &Context, container: &Container) {
    let hooks = match late_hooks(&container.directory) {
        Ok(hooks) => hooks.unwrap_or_default(),
        Err(error) => return context.log.warn(&chain(&error)),
    };
    let state = told(&container.record, Status::Stopped);
    for error in hooks::run_all(&hooks, Kind::Poststop, &state) {
        context.log.warn(&chain(&error));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_are_found_below_the_root_of_the_hierarchies_or_by_the_callers() {
        let found = |given: Option<&str>| cgroup_path(given.map(Path::new), "id").unwrap();
        assert_eq!(found(Some("/a/./b")), Path::new("/a/b"));
        assert_eq!(found(Some("/a/../../b")), Path::new("/b"));
        let own = |path: &str| PathBuf::from(cgroup::relative(Path::new(path)).unwrap());
        assert_eq!(found(Some("a/./b")), own("a/b"));
        assert_eq!(found(Some("../a")), own("a"));
        for nothing in [None, Some(""), Some("/")] {
            assert_eq!(found(nothing), own("id"));
        }
    }

    #[test]
    fn a_pid_file_appears_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        write_pid(&path, 4711).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "4711");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
