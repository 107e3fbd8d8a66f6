//! `create`: from a bundle to a process that waits at the gate.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::retry_on_intr;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use sys::clone::Child;

use crate::bundle::Bundle;
use crate::cgroup::Cgroup;
use crate::channel::{self, Channel, Order, Word};
use crate::child::{self, ChildStdio, Common, Filter, First, terminal};
use crate::error::{CreateError, SetupError, StartError, Step};
use crate::hooks::Kind;
use crate::listener::Listener;
use crate::namespaces::{self, UserNamespace};
use crate::netdevices::{self, Moved};
use crate::plan::Plan;
use crate::seccomp::{self, CompileError};
use crate::sources::{self, Sources};
use crate::starting::Starting;
use crate::state::{State, Status};
use crate::stdio::{Stdio, Streams};
use crate::user_namespace;

/// A container whose process exists, is fully set up, and waits to be started.
///
/// Dropping it unstarted ends the process; the caller reaps it and removes the cgroup. Keep it
/// until the exit was seen and told: it holds the container's mount namespace, which would
/// otherwise be taken apart, for a millisecond or more, before the kernel reports the exit.
#[derive(Debug)]
pub struct Created {
    /// The process, in the caller's pid namespace. A child of the caller, who must wait for it.
    pub pid: i32,
    /// The same, free of reuse.
    pub pidfd: OwnedFd,
    /// Our ends of its standard streams.
    pub streams: Streams,
    gate: Option<Channel>,
    _view: Option<OwnedFd>,
}

impl Created {
    /// Lets the process run its program; returns when that happened, or failed.
    pub fn start(&mut self) -> Result<(), StartError> {
        self.begin()?.finish()
    }

    /// The same without waiting for it.
    pub fn begin(&mut self) -> Result<Starting, StartError> {
        let gate = self.gate.take().ok_or(StartError::Twice)?;
        gate.send_order(Order::Start)
            .map_err(CreateError::Channel)?;
        Ok(Starting::new(gate))
    }

    /// Leaves the process at the gate of [`Options::gate`], where it waits for [`crate::start`]
    /// when the caller is long gone.
    pub fn detach(mut self) -> Result<(), StartError> {
        let gate = self.gate.take().ok_or(StartError::Twice)?;
        gate.send_order(Order::Wait).map_err(CreateError::Channel)?;
        Ok(())
    }
}

/// What else a caller may ask for; nothing of it is the specification's business.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// The network namespace to join, if the specification does not name one by path.
    pub netns: Option<BorrowedFd<'a>>,
    /// Where the process waits once [`Created::detach`] was called. The program is looked for
    /// before that, so that a missing one is an error of `create`.
    pub gate: Option<BorrowedFd<'a>>,
    /// Moves the root into place instead of `pivot_root`, which an initramfs does not allow.
    pub no_pivot: bool,
    /// Stays in the caller's session keyring.
    pub no_new_keyring: bool,
    /// So many descriptors from 3 up are handed to the program.
    pub preserve_fds: i32,
}

pub(crate) fn start_error(failure: SetupError) -> StartError {
    let text = vocab::failure::chain(&failure);
    match (failure.step, failure.errno) {
        (Step::NotFound, _) | (Step::Exec, libc::ENOENT) => StartError::NotFound(text),
        (Step::NotExecutable, _) | (Step::Exec, libc::EACCES | libc::ENOEXEC | libc::EISDIR) => {
            StartError::NotExecutable(text)
        }
        _ => CreateError::Setup(failure).into(),
    }
}

/// Whether [`create`] would refuse the specification. Makes nothing.
pub fn check(bundle: &Bundle) -> Result<(), CreateError> {
    Plan::new(bundle, false)?;
    filter_of(bundle)?;
    Ok(())
}

/// Makes the container's process. `netns` is the network namespace to join, if the specification
/// does not say otherwise by path. The cgroup is created too; on failure nothing is left.
///
/// Forks the calling thread: call it from a program with one thread.
pub fn create(
    bundle: &Bundle,
    netns: Option<BorrowedFd<'_>>,
    stdio: Stdio,
) -> Result<Created, CreateError> {
    let options = Options {
        netns,
        ..Options::default()
    };
    create_with(bundle, stdio, &options, &mut |_| Ok(()))
}

/// [`create`] with more choices. `born` hears the process id before anything else happens to the
/// process, so that a caller who is killed has recorded what is to be cleaned up; if it fails, so
/// does the creation.
pub fn create_with(
    bundle: &Bundle,
    stdio: Stdio,
    options: &Options<'_>,
    born: &mut dyn FnMut(i32) -> io::Result<()>,
) -> Result<Created, CreateError> {
    let netns = options.netns;
    let mut plan = Plan::new(bundle, netns.is_some())?;
    let linux = bundle.spec.linux().as_ref();
    let filter = filter_of(bundle)?;
    let joined = open_namespaces(bundle, &mut plan)?;
    let sources = Sources::take(&plan)?;
    let (child_stdio, streams) = prepare_stdio(stdio).map_err(CreateError::Stdio)?;
    let (ours, theirs) = channel::pair().map_err(CreateError::Stdio)?;

    let cgroup = match linux.and_then(|linux| linux.cgroups_path().as_ref()) {
        Some(path) => {
            let resources = linux.and_then(|linux| linux.resources().as_ref());
            let path = path.to_string_lossy();
            Cgroup::create(&path, resources).map_err(CreateError::Cgroup)?
        }
        None => None,
    };
    let directory = cgroup.as_ref().and_then(Cgroup::clone_directory);
    let first = First {
        common: Common {
            channel: &theirs,
            stdio: &child_stdio,
            seccomp: filter.as_ref(),
            cgroup: cgroup.as_ref(),
            born_inside: directory.is_some(),
            preserve_fds: options.preserve_fds,
        },
        plan: &plan,
        options,
        join: joined
            .iter()
            .map(|(kind, fd)| (*kind, fd.as_fd()))
            .chain(network(&joined, netns))
            .collect(),
        sources: &sources,
        seen_by_caller: matches!(plan.namespaces.user, UserNamespace::New(_))
            && !sources::is_root(),
    };
    let intermediate = first.needs_intermediate();
    let cgroup_directory = directory.as_ref().map(|fd| fd.as_fd());
    let made = if first.seen_by_caller {
        user_namespace::seen(|| spawn(first, cgroup_directory))
    } else {
        spawn(first, cgroup_directory)
    };
    // From here on only the child holds its ends, so their end of file is its end.
    drop(theirs);
    drop(child_stdio);
    let made = match made {
        Ok(child) if intermediate => sibling_of(&child, &ours),
        other => other,
    };
    let child = match made {
        Ok(child) => child,
        Err(error) => {
            // Who waits there is to end, and to leave the cgroup.
            drop(ours);
            discard(cgroup);
            return Err(error);
        }
    };
    let mut created = Created {
        pid: child.pid,
        pidfd: child.pidfd,
        streams,
        gate: None,
        _view: None,
    };
    let mut devices = None;
    let ready = born(created.pid)
        .map_err(CreateError::Record)
        .and_then(|()| admit(created.pid, &plan, &sources, &ours))
        .and_then(|()| attend(&mut created, &ours, &plan, &mut devices));
    match ready {
        Ok(()) => {
            created.gate = Some(ours);
            // Only for the speed of the exit: without it everything is as right.
            created._view = open_cloexec(Path::new(&format!("/proc/{}/ns/mnt", created.pid))).ok();
            Ok(created)
        }
        Err(error) => {
            if let Some(mut devices) = devices {
                devices.give_back();
            }
            end(created.pidfd.as_fd());
            discard(cgroup);
            Err(error)
        }
    }
}

/// Waits until the child is ready.
fn attend(
    created: &mut Created,
    gate: &Channel,
    plan: &Plan,
    devices: &mut Option<Moved>,
) -> Result<(), CreateError> {
    loop {
        match gate.next().map_err(CreateError::Channel)? {
            Some(Word::Terminal(master)) => created.streams.console = Some(master),
            Some(Word::Mounted) => {
                if !plan.net_devices.is_empty() {
                    *devices = Some(netdevices::hand_over(&plan.net_devices, created.pid)?);
                }
                if let Some(hooks) = &plan.hooks {
                    for kind in [Kind::Prestart, Kind::CreateRuntime] {
                        hooks
                            .run(kind, Status::Creating, created.pid, &[])
                            .map_err(CreateError::Hook)?;
                    }
                }
                gate.send_order(Order::Start)
                    .map_err(CreateError::Channel)?;
            }
            Some(Word::Ready) => break,
            Some(Word::Failed(failure)) => return Err(failure.into()),
            Some(Word::Born { .. } | Word::Listener(_) | Word::Program) => {
                return Err(CreateError::Channel(io::ErrorKind::InvalidData.into()));
            }
            None => return Err(CreateError::Died),
        }
    }
    if !plan.namespaces.user.is_callers() {
        user_namespace::hand_over(created.pid, &plan.process, &created.streams)?;
    }
    Ok(())
}

/// Forks the first process, or the intermediate one that will.
fn spawn(mut first: First<'_>, cgroup: Option<BorrowedFd<'_>>) -> Result<Child, CreateError> {
    if first.needs_intermediate() {
        let made = sys::clone::spawn(UnshareFlags::empty(), cgroup, || {
            child::intermediate(&first)
        });
        return made.map_err(CreateError::Clone);
    }
    let place = first
        .join
        .iter()
        .position(|(kind, _)| *kind == UnshareFlags::NEWPID);
    let pid_namespace = place.map(|place| first.join.remove(place).1);
    let new = first.plan.namespaces.new;
    let made = with_pid_namespace(pid_namespace, || {
        sys::clone::spawn(new, cgroup, || child::first(&first))
    });
    let foreign = !first.plan.namespaces.user.is_callers();
    made.map_err(|source| {
        if !foreign && !sources::is_root() && source.raw_os_error() == Some(libc::EPERM) {
            let reason = "has no user namespace, without which an ordinary user makes no other";
            CreateError::invalid("linux.namespaces", reason)
        } else if new.contains(UnshareFlags::NEWUSER) {
            CreateError::UserNamespace(source)
        } else {
            CreateError::Clone(source)
        }
    })
}

/// Waits for the intermediate process to make the first one and to end.
pub(crate) fn sibling_of(intermediate: &Child, gate: &Channel) -> Result<Child, CreateError> {
    let word = last_word(intermediate, gate).map_err(CreateError::Channel);
    end(intermediate.pidfd.as_fd());
    match word? {
        Some(Word::Born { pid, pidfd }) => Ok(Child { pid, pidfd }),
        Some(Word::Failed(failure)) => Err(failure.into()),
        Some(_) => Err(CreateError::Channel(io::ErrorKind::InvalidData.into())),
        None => Err(CreateError::Died),
    }
}

/// What the intermediate process says before it ends. Killed before that, it may have made the one
/// that keeps the other end of the gate open, and waits there until the caller's is closed.
fn last_word(intermediate: &Child, gate: &Channel) -> io::Result<Option<Word>> {
    let mut readable = [
        PollFd::new(gate, PollFlags::IN),
        PollFd::new(&intermediate.pidfd, PollFlags::IN),
    ];
    retry_on_intr(|| poll(&mut readable, None))?;
    // Said first, even if it ended meanwhile.
    let now = Timespec::default();
    retry_on_intr(|| poll(&mut readable[..1], Some(&now)))?;
    if readable[0].revents().is_empty() {
        return Ok(None);
    }
    gate.next()
}

/// Does for a process in another user namespace what it cannot do itself, and lets it go on.
fn admit(pid: i32, plan: &Plan, sources: &Sources, gate: &Channel) -> Result<(), CreateError> {
    match &plan.namespaces.user {
        UserNamespace::Callers => return Ok(()),
        UserNamespace::New(mappings) => {
            user_namespace::map(pid, mappings)?;
            user_namespace::set_oom_score(pid, &plan.process)?;
        }
        UserNamespace::Joined(_) => {}
    }
    sources.map_as_container(plan, pid)?;
    let root = sources.mount_root(plan, pid)?;
    gate.send_admitted(root.as_ref().map(|fd| fd.as_fd()))
        .map_err(CreateError::Channel)
}

/// Kills and reaps a child that is of no use.
pub(crate) fn end(pidfd: BorrowedFd<'_>) {
    // It may be gone already; then there is only the reaping.
    let _ = sys::pidfd::send_signal(pidfd, libc::SIGKILL);
    let _ = waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED);
}

/// After a failure, which is what the caller hears about, not what the cleaning met.
fn discard(cgroup: Option<Cgroup>) {
    if let Some(cgroup) = cgroup {
        let _ = cgroup.remove();
    }
}

fn network<'a>(
    joined: &[(UnshareFlags, OwnedFd)],
    netns: Option<BorrowedFd<'a>>,
) -> Option<(UnshareFlags, BorrowedFd<'a>)> {
    let given = joined.iter().any(|(kind, _)| *kind == UnshareFlags::NEWNET);
    netns
        .filter(|_| !given)
        .map(|fd| (UnshareFlags::NEWNET, fd))
}

/// Opens the namespaces that are joined, and sees that each is what it is listed as.
fn open_namespaces(
    bundle: &Bundle,
    plan: &mut Plan,
) -> Result<Vec<(UnshareFlags, OwnedFd)>, CreateError> {
    let open = |(kind, path): &(UnshareFlags, PathBuf)| {
        let refuse = |reason: String| {
            let linux = bundle.spec.linux().as_ref();
            let at = linux.map(|linux| namespaces::path_of(linux, *kind));
            let reason = format!("`{}`: {reason}", path.display());
            CreateError::invalid(at.unwrap_or_default(), reason)
        };
        let told = |error: io::Error| refuse(vocab::failure::chain(&error));
        let opened = open_cloexec(path).map_err(told)?;
        match sys::namespace::kind(opened.as_fd()) {
            Ok(found) if found == *kind => Ok((*kind, opened)),
            Ok(_) => Err(refuse(String::from("is a namespace of another type"))),
            Err(_) => Err(refuse(String::from("is no namespace"))),
        }
    };
    let namespaces = &mut plan.namespaces;
    let mut opened: Vec<(UnshareFlags, OwnedFd)> = namespaces
        .joined
        .iter()
        .map(open)
        .collect::<Result<_, CreateError>>()?;
    // Whoever is in a user namespace cannot join it.
    if let UserNamespace::Joined(_) = namespaces.user {
        let is_own = |(kind, fd): &(UnshareFlags, OwnedFd)| {
            *kind == UnshareFlags::NEWUSER && is_callers(fd).unwrap_or(false)
        };
        if let Some(place) = opened.iter().position(is_own) {
            opened.remove(place);
            namespaces.user = UserNamespace::Callers;
        }
    }
    Ok(opened)
}

fn is_callers(namespace: &OwnedFd) -> io::Result<bool> {
    let own = rustix::fs::stat("/proc/self/ns/user")?;
    let given = rustix::fs::fstat(namespace)?;
    Ok((own.st_dev, own.st_ino) == (given.st_dev, given.st_ino))
}

pub(crate) fn open_cloexec(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(
        CWD,
        path,
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// Runs `make` so that the children it makes are in `namespace`. Being in a pid namespace is a
/// matter of a process's birth; what is set here is what the calling thread's children get.
pub(crate) fn with_pid_namespace<T>(
    namespace: Option<BorrowedFd<'_>>,
    make: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    let Some(namespace) = namespace else {
        return make();
    };
    let own = open_cloexec(Path::new("/proc/self/ns/pid_for_children"))?;
    move_into_link_name_space(namespace, Some(LinkNameSpaceType::ProcessID))?;
    let made = make();
    // Refused to root of a user namespace that the own pid namespace is older than, as where Podman
    // runs without root. Then what is forked from here on is in the container's too: hooks, which are
    // told of processes by the numbers of the host.
    let _ = move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::ProcessID));
    made
}

fn filter_of(bundle: &Bundle) -> Result<Option<Filter>, CreateError> {
    let linux = bundle.spec.linux().as_ref();
    let profile = linux.and_then(|linux| linux.seccomp().as_ref());
    filter(bundle.seccomp.as_deref(), profile, || {
        State::new(bundle, Status::Created, 0)
    })
}

/// The filter to load: compiled before, or now. `state` is what an agent is told.
pub(crate) fn filter(
    compiled: Option<&Path>,
    profile: Option<&crate::oci::LinuxSeccomp>,
    state: impl FnOnce() -> State,
) -> Result<Option<Filter>, CreateError> {
    let flags = profile.map_or(seccomp::DEFAULT_FLAGS, seccomp::flags);
    let program = match (compiled, profile) {
        (Some(path), _) => fs::read(path).map_err(|source| CreateError::SeccompProgram {
            path: path.to_owned(),
            source,
        })?,
        (None, Some(profile)) => seccomp::compile(profile).map_err(|error| match error {
            CompileError::Invalid { path, reason } => {
                CreateError::invalid(format!("linux.seccomp.{path}"), reason)
            }
            CompileError::TooLong(length) => CreateError::invalid(
                "linux.seccomp.syscalls",
                format!("come to {length} instructions, the kernel loads 4096"),
            ),
        })?,
        (None, None) => return Ok(None),
    };
    let listener = match profile.filter(|profile| seccomp::notifies(profile)) {
        Some(profile) => Listener::new(profile, state())?,
        None => None,
    };
    Ok(Some(Filter {
        program,
        flags,
        listener,
    }))
}

/// Both sides of the standard streams.
pub(crate) fn prepare_stdio(stdio: Stdio) -> io::Result<(ChildStdio, Streams)> {
    let null = || -> io::Result<OwnedFd> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        Ok(rustix::fs::open("/dev/null", flags, Mode::empty())?)
    };
    let mut streams = Streams::default();
    let child = match stdio {
        Stdio::Inherit => ChildStdio::Inherit,
        Stdio::Terminal {
            rows,
            columns,
            carriage_returns,
        } => ChildStdio::Terminal(terminal::Wanted {
            rows,
            columns,
            carriage_returns,
        }),
        Stdio::Null => ChildStdio::Files {
            stdin: null()?,
            stdout: null()?,
            stderr: null()?,
        },
        Stdio::Pipes { stdin } => {
            let input = if stdin {
                let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
                streams.stdin = Some(write);
                read
            } else {
                null()?
            };
            let (out_read, out_write) = pipe_with(PipeFlags::CLOEXEC)?;
            let (err_read, err_write) = pipe_with(PipeFlags::CLOEXEC)?;
            streams.stdout = Some(out_read);
            streams.stderr = Some(err_read);
            ChildStdio::Files {
                stdin: input,
                stdout: out_write,
                stderr: err_write,
            }
        }
    };
    Ok((child, streams))
}
