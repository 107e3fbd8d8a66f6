//! What runs between clone and exec: the container's own pid 1 from its first instruction.
//!
//! The order is the design; each line is a module's function.
//!
//! ```text
//! create                                  exec
//!   standalone: not dumpable, descriptors   standalone
//!   its cgroup                              its cgroup
//!   namespaces given by path                all namespaces of the container's process
//!   root of its user namespace              root of its user namespace
//!   view::isolate, open bind sources
//!   view::mount_root, mounts, /dev
//!   Mounted ──▶ caller ──▶ Start, createContainer hooks (where there are hooks or network devices)
//!   kernel parameters, read-only and masked paths, host name
//!   view::pivot
//!   terminal, session, keyring              terminal, session, keyring
//!   identity: limits, user, capabilities    identity
//!   Ready ──▶ caller ──▶ Start, or Wait ──▶ the gate ──▶ Start
//!   startContainer hooks
//!   program: find, seccomp, init, execve    program
//! ```
//!
//! With a user namespace the caller does what needs rights on the host ([`crate::user_namespace`]).
//! Where a new one meets namespaces given by path, or one is given itself, the first three steps
//! are an intermediate process's, whose sibling is the container's: who is in a user namespace
//! cannot join what belongs to the one around it, and a pid namespace belongs to the user
//! namespace of whoever makes it.
//!
//! After `pivot` no descriptor of the host is open here but the channel and the standard streams,
//! and the working directory is inside the root (CVE-2024-21626).

mod attributes;
mod dev;
mod enter;
mod hide;
mod identity;
mod init;
pub(crate) mod inside;
mod program;
pub(crate) mod terminal;
pub(crate) mod view;

use std::convert::Infallible;
use std::ffi::CString;
use std::fs;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};

use rustix::thread::{ThreadNameSpaceType, UnshareFlags};
use sys::clone::Child;

use crate::attributes::Affinity;
use crate::cgroup::Cgroup;
use crate::channel::{Channel, Order};
use crate::create::Options;
use crate::error::{During as _, SetupError, Step};
use crate::gate;
use crate::hooks::Kind;
use crate::listener::Listener;
use crate::namespaces::UserNamespace;
use crate::plan::{Hooks, Plan, Process};
use crate::sources::Sources;
use crate::state::Status;
use identity::Ready;

/// The exit code of a child that could not become the container's process; nobody sees it but in
/// a core of bad luck, since the failure itself is reported.
const FAILED: i32 = 128;

/// The child's ends of the standard streams.
#[derive(Debug)]
pub(crate) enum ChildStdio {
    Inherit,
    Files {
        stdin: OwnedFd,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    Terminal(terminal::Wanted),
}

/// What both kinds of child need.
#[derive(Debug)]
pub(crate) struct Common<'a> {
    pub(crate) channel: &'a Channel,
    pub(crate) stdio: &'a ChildStdio,
    pub(crate) seccomp: Option<&'a Filter>,
    pub(crate) cgroup: Option<&'a Cgroup>,
    /// Whether clone made the child in its version 2 cgroup.
    pub(crate) born_inside: bool,
    /// Descriptors from 3 up that are the program's.
    pub(crate) preserve_fds: RawFd,
}

/// A compiled filter and the flags to load it with.
#[derive(Debug)]
pub(crate) struct Filter {
    pub(crate) program: Vec<u8>,
    pub(crate) flags: libc::c_ulong,
    /// Who answers calls that the filter leaves to somebody else.
    pub(crate) listener: Option<Listener>,
}

/// The first process of a container.
#[derive(Debug)]
pub(crate) struct First<'a> {
    pub(crate) common: Common<'a>,
    pub(crate) plan: &'a Plan,
    pub(crate) options: &'a Options<'a>,
    /// Namespaces to join: those that the plan names, opened, and the caller's network.
    pub(crate) join: Vec<(UnshareFlags, BorrowedFd<'a>)>,
    /// What the caller took of the host's files.
    pub(crate) sources: &'a Sources,
    /// Whether the caller, an ordinary user, must reach the child's files in `/proc` until its
    /// user namespace is ready. It then holds nothing that is not the user's.
    pub(crate) seen_by_caller: bool,
}

impl First<'_> {
    fn inherited(&self) -> impl Iterator<Item = RawFd> + '_ {
        let joined = self.join.iter().map(|(_, fd)| fd.as_raw_fd());
        let gate = self.options.gate.map(|gate| gate.as_raw_fd());
        joined.chain(self.sources.raw()).chain(gate)
    }

    /// Whether the rights of the first process, had at birth, would not do to join what is joined.
    pub(crate) fn needs_intermediate(&self) -> bool {
        match self.user() {
            UserNamespace::Callers => false,
            UserNamespace::New(_) => !self.join.is_empty(),
            UserNamespace::Joined(_) => true,
        }
    }

    /// Those that are not the caller's.
    fn own_namespaces(&self) -> UnshareFlags {
        let joined = self.join.iter().map(|(kind, _)| *kind);
        joined.fold(self.plan.namespaces.new, |own, kind| own | kind)
    }

    fn user(&self) -> &UserNamespace {
        &self.plan.namespaces.user
    }
}

/// One more process in a container.
#[derive(Debug)]
pub(crate) struct Another<'a> {
    pub(crate) common: Common<'a>,
    pub(crate) process: &'a Process,
    pub(crate) init: BorrowedFd<'a>,
    pub(crate) namespaces: ThreadNameSpaceType,
}

impl Another<'_> {
    /// Whether the container's user namespace is not the caller's.
    pub(crate) fn in_user_namespace(&self) -> bool {
        self.namespaces.contains(ThreadNameSpaceType::USER)
    }
}

/// Runs in the child of `create`. Returns an exit code if it fails.
pub(crate) fn first(first: &First<'_>) -> i32 {
    let result = enter::enter(first);
    live(first, result)
}

/// Runs in a child of `create` that only prepares the way of the first process, its sibling.
pub(crate) fn intermediate(first: &First<'_>) -> i32 {
    let channel = first.common.channel;
    let born = enter::enter(first).and_then(|()| {
        let namespaces = first.plan.namespaces.new;
        sys::clone::spawn_sibling(namespaces, || live(first, Ok(())))
            .during(Step::Namespace, || "create the process")
    });
    tell(channel, born)
}

fn live(first: &First<'_>, entered: Result<(), SetupError>) -> i32 {
    let channel = first.common.channel;
    let ready = entered.and_then(|()| become_first(first));
    match ready.and_then(|ready| Ok((ready, ordered(first)?))) {
        Ok((ready, None)) => finish(channel, run_first(first, &ready, channel)),
        Ok((ready, Some(starter))) => finish(&starter, run_first(first, &ready, &starter)),
        Err(failure) => finish(channel, Err(failure)),
    }
}

/// Runs in the child of `exec`. Returns an exit code if it fails.
pub(crate) fn another(another: &Another<'_>) -> i32 {
    let entered = enter_container(another, ThreadNameSpaceType::empty());
    let result = entered.and_then(|()| become_another(another));
    finish(another.common.channel, result)
}

/// Runs in a child of `exec` that only joins the namespaces of a container, whose pid namespace is
/// its sibling's to be born in: the caller may have no right to the one without the other.
pub(crate) fn intermediate_to(another: &Another<'_>) -> i32 {
    let channel = another.common.channel;
    let entered = enter_container(another, ThreadNameSpaceType::PROCESS_ID);
    let born = entered.and_then(|()| {
        sys::clone::spawn_sibling(UnshareFlags::empty(), || {
            finish(channel, become_another(another))
        })
        .during(Step::Namespace, || "create the process")
    });
    tell(channel, born)
}

/// The last words of an intermediate process.
fn tell(channel: &Channel, born: Result<Child, SetupError>) -> i32 {
    let told = born.and_then(|child| {
        channel
            .send_born(child.pid, child.pidfd.as_fd())
            .during(Step::Channel, || "report the process")
    });
    match told {
        Ok(()) => 0,
        Err(failure) => finish(channel, Err(failure)),
    }
}

fn finish(channel: &Channel, result: Result<Infallible, SetupError>) -> i32 {
    let Err(failure) = result;
    // A caller that is gone does not hear it; there is nobody else to tell.
    let _ = channel.send_failure(&failure);
    FAILED
}

/// Everything up to the gate.
fn become_first(first: &First<'_>) -> Result<Ready, SetupError> {
    let First {
        common,
        plan,
        options,
        ..
    } = first;
    attributes::stay_nowhere()?;
    let gate = options.gate.map(|gate| gate.as_raw_fd());
    let given_root = match first.user() {
        UserNamespace::Callers => None,
        UserNamespace::New(_) | UserNamespace::Joined(_) => enter::await_admission(first)?,
    };
    if plan.namespaces.new_cgroup {
        sys::namespace::unshare(UnshareFlags::NEWCGROUP)
            .during(Step::Namespace, || "make a cgroup namespace")?;
    }
    let taken = first.sources.raw().chain(raw(&given_root)).chain(gate);
    sys::descriptors::close_other_than(&keep(common, &taken.collect::<Vec<_>>()))
        .during(Step::Channel, || "close descriptors")?;

    let master = {
        let mut root = view::mount_root(first, given_root)?;
        view::mount_all(&mut root, first)?;
        if !first.sources.is_empty() {
            let still: Vec<RawFd> = root.raw().chain(gate).collect();
            sys::descriptors::close_other_than(&keep(common, &still))
                .during(Step::Channel, || "close descriptors")?;
        }
        if plan.fill_dev {
            dev::fill(&root, &plan.devices)?;
        }
        let terminal = match common.stdio {
            ChildStdio::Terminal(wanted) => {
                Some(terminal::open_in(root.as_fd(), wanted, plan.fill_dev)?)
            }
            _ => None,
        };
        if plan.needs_caller() {
            await_caller(common.channel)?;
        }
        if let Some(hooks) = &plan.hooks {
            run_create_hooks(hooks, root.as_fd())?;
        }
        view::seal_dev(&root, plan)?;
        hide::write_parameters(&plan.sysctl)?;
        hide::make_readonly(&root, &plan.readonly)?;
        hide::mask(&root, &plan.masked)?;
        if let Some(name) = &plan.hostname {
            rustix::system::sethostname(name.as_bytes())
                .during(Step::Hostname, || format!("set the host name `{name}`"))?;
        }
        if let Some(name) = &plan.domainname {
            rustix::system::setdomainname(name.as_bytes())
                .during(Step::Hostname, || format!("set the domain name `{name}`"))?;
        }
        inside::make_directory(root.as_fd(), &plan.process.cwd, 0o755).during(
            Step::WorkingDirectory,
            || {
                format!(
                    "create the working directory `{}`",
                    plan.process.cwd.display()
                )
            },
        )?;
        view::pivot(&root, plan, options.no_pivot)?;
        terminal
    };
    terminal::adopt(common, master, plan.process.uid)?;
    if !options.no_new_keyring {
        join_keyring()?;
    }
    let proc = attributes::set(&plan.process.attributes)?;
    let own_limits = first.user().is_callers();
    let ready = identity::assume(&plan.process, own_limits, common.seccomp.is_some())?;
    let ready = ready.with_proc(proc);
    if gate.is_some() {
        program::look_up(&plan.process)?;
    }
    Ok(ready)
}

/// Waits for the order to start: the caller's, or that of somebody who comes to the gate later,
/// with whom it is then talked.
fn ordered(first: &First<'_>) -> Result<Option<Channel>, SetupError> {
    let First {
        common, options, ..
    } = first;
    match await_order(common)? {
        Order::Start => Ok(None),
        Order::Wait => {
            // It may have to wait for long, and is to be ended like any other process meanwhile.
            let ends = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM];
            ends.into_iter().for_each(sys::signals::end_on);
            let gate = options
                .gate
                .ok_or_else(|| std::io::ErrorKind::InvalidInput.into());
            let starter = gate.and_then(gate::wait);
            Ok(Some(starter.during(Step::Channel, || "wait at the gate")?))
        }
    }
}

fn run_first(
    first: &First<'_>,
    ready: &Ready,
    channel: &Channel,
) -> Result<Infallible, SetupError> {
    if let Some(hooks) = &first.plan.hooks {
        // They have the program's environment where they name none, as runc's have.
        let environment = program::environment(&first.plan.process, ready);
        run_hooks(hooks, Kind::StartContainer, Status::Created, &environment)?;
    }
    program::run(&first.plan.process, ready, &first.common, channel)
}

/// Joins the namespaces of the container's process, `more` beside those of [`Another`].
fn enter_container(another: &Another<'_>, more: ThreadNameSpaceType) -> Result<(), SetupError> {
    let Another {
        common, process, ..
    } = another;
    standalone(common, &[another.init.as_raw_fd()], false)?;
    attributes::stay_on(process.affinity.initial.as_ref(), "initial")?;
    confine(common)?;
    match &process.affinity {
        Affinity {
            initial: None,
            last: None,
        } => attributes::stay_nowhere()?,
        Affinity { last, .. } => attributes::stay_on(last.as_ref(), "final")?,
    }
    oom_score(process)?;
    rustix::thread::move_into_thread_name_spaces(another.init, another.namespaces | more)
        .during(Step::Namespace, || "join the container's namespaces")
}

fn become_another(another: &Another<'_>) -> Result<Infallible, SetupError> {
    let Another {
        common, process, ..
    } = another;
    let foreign = another.in_user_namespace();
    if foreign {
        // Until the intermediate process has said who this is, nothing else is to be heard.
        common
            .channel
            .expect_admitted()
            .during(Step::Channel, || "wait for the caller")?;
        enter::become_root(process)?;
    }
    sys::descriptors::close_other_than(&keep(common, &[]))
        .during(Step::Channel, || "close descriptors")?;
    let master = match common.stdio {
        ChildStdio::Terminal(wanted) => {
            let root = inside::open_root().during(Step::Console, || "open the root")?;
            Some(terminal::open_in(root.as_fd(), wanted, false)?)
        }
        _ => None,
    };
    terminal::adopt(common, master, process.uid)?;
    join_keyring()?;
    let proc = attributes::set(&process.attributes)?;
    let ready = identity::assume(process, !foreign, common.seccomp.is_some())?.with_proc(proc);
    if foreign {
        await_order(common)?;
    }
    program::run(process, &ready, common, common.channel)
}

/// The host's hooks, and its network devices, are the caller's to run and to hand over.
fn await_caller(channel: &Channel) -> Result<(), SetupError> {
    channel
        .send_mounted()
        .and_then(|()| channel.order())
        .during(Step::Channel, || "wait for the caller")?;
    Ok(())
}

/// Hooks that see the container from within, but find their programs on the host, whose files are
/// still there (config.md "CreateContainer Hooks").
fn run_create_hooks(hooks: &Hooks, root: BorrowedFd<'_>) -> Result<(), SetupError> {
    if hooks.has(Kind::CreateContainer) {
        rustix::process::fchdir(root).during(Step::Hook, || "enter the root")?;
        run_hooks(hooks, Kind::CreateContainer, Status::Creating, &[])?;
    }
    Ok(())
}

fn run_hooks(
    hooks: &Hooks,
    kind: Kind,
    status: Status,
    environment: &[CString],
) -> Result<(), SetupError> {
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    let run = hooks.run(kind, status, pid, environment);
    run.map_err(|error| SetupError::new(Step::Hook, vocab::failure::chain(&error), None))
}

fn await_order(common: &Common<'_>) -> Result<Order, SetupError> {
    common
        .channel
        .send_ready()
        .during(Step::Channel, || "report readiness")?;
    let order = common.channel.order();
    order.during(Step::Channel, || "wait for the start")
}

fn raw(fd: &Option<OwnedFd>) -> Option<RawFd> {
    fd.as_ref().map(|fd| fd.as_raw_fd())
}

/// Severs what the fork inherited: nothing in the container may trace this process (but for what
/// [`First::seen_by_caller`] says), signals are as in a fresh process, and of the caller's
/// descriptors only those stay that are used here.
fn standalone(common: &Common<'_>, extra: &[RawFd], seen: bool) -> Result<(), SetupError> {
    if !seen {
        enter::untraceable()?;
    }
    sys::signals::restore_all();
    sys::signals::unblock_all().during(Step::Channel, || "unblock signals")?;
    rustix::process::umask(rustix::fs::Mode::empty());
    sys::descriptors::close_other_than(&keep(common, extra))
        .during(Step::Channel, || "close descriptors")
}

fn keep(common: &Common<'_>, extra: &[RawFd]) -> Vec<RawFd> {
    let mut keep = vec![0, 1, 2, common.channel.raw()];
    if let ChildStdio::Files {
        stdin,
        stdout,
        stderr,
    } = common.stdio
    {
        keep.extend([stdin, stdout, stderr].map(|fd| fd.as_raw_fd()));
    }
    keep.extend(extra);
    keep.extend(3..3 + common.preserve_fds);
    keep
}

/// Enters the cgroup while the host's hierarchies can be seen.
fn confine(common: &Common<'_>) -> Result<(), SetupError> {
    let Some(cgroup) = common.cgroup else {
        return Ok(());
    };
    cgroup.enter(common.born_inside).map_err(|error| {
        let source = std::error::Error::source(&error);
        let reason = source.and_then(|source| source.downcast_ref::<std::io::Error>());
        SetupError::new(Step::Cgroup, format!("enter the cgroup: {error}"), reason)
    })
}

/// Through the host's `/proc`, while it is still ours to see.
fn oom_score(process: &Process) -> Result<(), SetupError> {
    let Some(score) = process.oom_score else {
        return Ok(());
    };
    fs::write("/proc/self/oom_score_adj", score.to_string())
        .during(Step::Limit, || format!("set oom_score_adj to {score}"))
}

/// A new one: by a name it could be one that another container has laid out.
fn join_keyring() -> Result<(), SetupError> {
    match sys::keyring::join_session(None) {
        // A kernel without keyrings, or a host that forbids them (another container).
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => Ok(()),
        other => other.during(Step::Privilege, || "join a session keyring"),
    }
}
