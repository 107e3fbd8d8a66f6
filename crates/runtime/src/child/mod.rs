//! What runs between clone and exec: the container's own pid 1 from its first instruction.
//!
//! The order is the design; each line is a module's function.
//!
//! ```text
//! create                                  exec
//!   standalone: not dumpable, descriptors   standalone
//!   its cgroup                              its cgroup
//!   namespaces given by path                all namespaces of the container's process
//!   view::isolate, open bind sources
//!   view::mount_root, mounts, /dev
//!   Mounted ──▶ caller ──▶ Start, createContainer hooks (where there are any)
//!   kernel parameters, read-only and masked paths, host name
//!   view::pivot
//!   terminal, session, keyring              terminal, session, keyring
//!   identity: limits, user, capabilities    identity
//!   Ready ──▶ caller ──▶ Start, or Wait ──▶ the gate ──▶ Start
//!   startContainer hooks
//!   program: find, seccomp, execve          program
//! ```
//!
//! After `pivot` no descriptor of the host is open here but the channel and the standard streams,
//! and the working directory is inside the root (CVE-2024-21626).

mod attributes;
mod dev;
mod hide;
mod identity;
mod inside;
mod program;
mod terminal;
mod view;

use std::convert::Infallible;
use std::fs;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};

use rustix::process::DumpableBehavior;
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType, UnshareFlags};

use crate::cgroup::Cgroup;
use crate::channel::{Channel, Order};
use crate::create::Options;
use crate::error::{During as _, SetupError, Step};
use crate::gate;
use crate::hooks::Kind;
use crate::listener::Listener;
use crate::plan::{Hooks, Plan, Process};
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
    Terminal {
        rows: u16,
        columns: u16,
    },
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
}

/// One more process in a container.
#[derive(Debug)]
pub(crate) struct Another<'a> {
    pub(crate) common: Common<'a>,
    pub(crate) process: &'a Process,
    pub(crate) init: BorrowedFd<'a>,
    pub(crate) namespaces: ThreadNameSpaceType,
}

/// Runs in the child of `create`. Returns an exit code if it fails.
pub(crate) fn first(first: &First<'_>) -> i32 {
    let channel = first.common.channel;
    match become_first(first).and_then(|ready| Ok((ready, ordered(first)?))) {
        Ok((ready, None)) => finish(channel, run_first(first, &ready, channel)),
        Ok((ready, Some(starter))) => finish(&starter, run_first(first, &ready, &starter)),
        Err(failure) => finish(channel, Err(failure)),
    }
}

/// Runs in the child of `exec`. Returns an exit code if it fails.
pub(crate) fn another(another: &Another<'_>) -> i32 {
    finish(another.common.channel, become_another(another))
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
    let joined: Vec<RawFd> = first.join.iter().map(|(_, fd)| fd.as_raw_fd()).collect();
    let gate = options.gate.map(|gate| gate.as_raw_fd());
    standalone(common, &[joined.as_slice(), gate.as_slice()].concat())?;
    confine(common)?;
    if plan.new_cgroup_namespace {
        sys::namespace::unshare(UnshareFlags::NEWCGROUP)
            .during(Step::Namespace, || "make a cgroup namespace")?;
    }
    oom_score(&plan.process)?;
    for (kind, namespace) in &first.join {
        rustix::thread::move_into_link_name_space(*namespace, link_type(*kind))
            .during(Step::Namespace, || {
                format!("join the {} namespace", namespace_name(*kind))
            })?;
    }
    sys::descriptors::close_other_than(&keep(common, gate.as_slice()))
        .during(Step::Channel, || "close descriptors")?;

    let master = {
        let mut root = view::mount_root(plan)?;
        view::mount_all(&mut root, first)?;
        if plan.fill_dev {
            dev::fill(&root, &plan.devices)?;
        }
        let terminal = match common.stdio {
            ChildStdio::Terminal { rows, columns } => Some(terminal::open_in(
                root.as_fd(),
                *rows,
                *columns,
                plan.fill_dev,
            )?),
            _ => None,
        };
        if let Some(hooks) = &plan.hooks {
            run_create_hooks(hooks, common.channel, root.as_fd())?;
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
    let ready = identity::assume(&plan.process, common.seccomp.is_some())?.with_proc(proc);
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
    common
        .channel
        .send_ready()
        .during(Step::Channel, || "report readiness")?;
    let order = common.channel.order();
    match order.during(Step::Channel, || "wait for the start")? {
        Order::Start => Ok(None),
        Order::Wait => {
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
        run_hooks(hooks, Kind::StartContainer, Status::Created)?;
    }
    program::run(&first.plan.process, ready, &first.common, channel)
}

fn become_another(another: &Another<'_>) -> Result<Infallible, SetupError> {
    let Another {
        common, process, ..
    } = another;
    standalone(common, &[another.init.as_raw_fd()])?;
    attributes::stay_on(process.affinity.initial.as_ref(), "initial")?;
    confine(common)?;
    attributes::stay_on(process.affinity.last.as_ref(), "final")?;
    oom_score(process)?;
    rustix::thread::move_into_thread_name_spaces(another.init, another.namespaces)
        .during(Step::Namespace, || "join the container's namespaces")?;
    sys::descriptors::close_other_than(&keep(common, &[]))
        .during(Step::Channel, || "close descriptors")?;
    let master = match common.stdio {
        ChildStdio::Terminal { rows, columns } => {
            let root = inside::open_root().during(Step::Console, || "open the root")?;
            Some(terminal::open_in(root.as_fd(), *rows, *columns, false)?)
        }
        _ => None,
    };
    terminal::adopt(common, master, process.uid)?;
    join_keyring()?;
    let proc = attributes::set(&process.attributes)?;
    let ready = identity::assume(process, common.seccomp.is_some())?.with_proc(proc);
    program::run(process, &ready, common, common.channel)
}

/// The host's hooks are the caller's to run. Then those that see the container from within, but
/// find their programs on the host, whose files are still there (config.md "CreateContainer Hooks").
fn run_create_hooks(
    hooks: &Hooks,
    channel: &Channel,
    root: BorrowedFd<'_>,
) -> Result<(), SetupError> {
    if hooks.has(Kind::Prestart) || hooks.has(Kind::CreateRuntime) {
        channel
            .send_mounted()
            .and_then(|()| channel.order())
            .during(Step::Channel, || "wait for the hooks")?;
    }
    if hooks.has(Kind::CreateContainer) {
        rustix::process::fchdir(root).during(Step::Hook, || "enter the root")?;
        run_hooks(hooks, Kind::CreateContainer, Status::Creating)?;
    }
    Ok(())
}

fn run_hooks(hooks: &Hooks, kind: Kind, status: Status) -> Result<(), SetupError> {
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    let run = hooks.run(kind, status, pid);
    run.map_err(|error| SetupError::new(Step::Hook, vocab::failure::chain(&error), None))
}

/// Severs what the fork inherited: nothing in the container may trace this process or read its
/// memory (CVE-2016-9962), signals are as in a fresh process, and of the caller's descriptors
/// only those stay that are used here.
fn standalone(common: &Common<'_>, extra: &[RawFd]) -> Result<(), SetupError> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .during(Step::Channel, || "become untraceable")?;
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

fn link_type(kind: UnshareFlags) -> Option<LinkNameSpaceType> {
    [
        (UnshareFlags::NEWNET, LinkNameSpaceType::Network),
        (
            UnshareFlags::NEWIPC,
            LinkNameSpaceType::InterProcessCommunication,
        ),
        (
            UnshareFlags::NEWUTS,
            LinkNameSpaceType::HostNameAndNISDomainName,
        ),
        (UnshareFlags::NEWCGROUP, LinkNameSpaceType::ControlGroup),
        (UnshareFlags::NEWNS, LinkNameSpaceType::Mount),
    ]
    .into_iter()
    .find_map(|(flag, link)| (flag == kind).then_some(link))
}

fn namespace_name(kind: UnshareFlags) -> &'static str {
    [
        (UnshareFlags::NEWNET, "network"),
        (UnshareFlags::NEWIPC, "ipc"),
        (UnshareFlags::NEWUTS, "uts"),
        (UnshareFlags::NEWCGROUP, "cgroup"),
        (UnshareFlags::NEWNS, "mount"),
        (UnshareFlags::NEWPID, "pid"),
    ]
    .into_iter()
    .find_map(|(flag, name)| (flag == kind).then_some(name))
    .unwrap_or("unknown")
}
