//! Into cgroup and namespaces, in the order that rights force.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Gid, Uid};
use rustix::thread::{
    CapabilitySet, LinkNameSpaceType, UnshareFlags, capabilities, move_into_link_name_space,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::First;
use crate::error::{During as _, SetupError, Step};
use crate::namespaces::{Clocks, UserNamespace};
use crate::plan::Process;

/// Severs the child from the caller and moves it into its cgroup and into what is joined by path.
///
/// With a new user namespace and namespaces by path this is done by an intermediate process,
/// which has the caller's rights: those of the new user namespace would not do.
pub(super) fn enter(first: &First<'_>) -> Result<(), SetupError> {
    let First { common, plan, .. } = first;
    let clocks = Timer::open(plan.namespaces.new_time.as_ref())?;
    let extra: Vec<_> = first.inherited().chain(clocks.raw()).collect();
    super::standalone(common, &extra, first.seen_by_caller)?;
    super::confine(common)?;
    // With a new user namespace this is the caller's to do: its rights may be gone already.
    if !matches!(first.user(), UserNamespace::New(_)) {
        super::oom_score(&plan.process)?;
    }
    join(first)?;
    clocks.set()
}

/// First what the caller's rights open, then the user namespace, then what only its rights open.
fn join(first: &First<'_>) -> Result<(), SetupError> {
    let user = first
        .join
        .iter()
        .find(|(kind, _)| *kind == UnshareFlags::NEWUSER);
    let mut later = Vec::new();
    for (kind, namespace) in &first.join {
        if *kind == UnshareFlags::NEWUSER {
            continue;
        }
        match move_into_link_name_space(*namespace, link_type(*kind)) {
            Err(Errno::PERM) if user.is_some() => later.push((*kind, *namespace)),
            other => other.during(Step::Namespace, || joining(*kind))?,
        }
    }
    let Some((kind, namespace)) = user else {
        return Ok(());
    };
    move_into_link_name_space(*namespace, link_type(*kind))
        .during(Step::Namespace, || joining(*kind))?;
    for (kind, namespace) in later {
        move_into_link_name_space(namespace, link_type(kind))
            .during(Step::Namespace, || joining(kind))?;
    }
    Ok(())
}

/// Waits until the user namespace has its users, and becomes its root. Gives the container's
/// root, if the caller had to mount it.
pub(super) fn await_admission(first: &First<'_>) -> Result<Option<OwnedFd>, SetupError> {
    let root = first
        .common
        .channel
        .expect_admitted()
        .during(Step::Namespace, || "wait for the user namespace")?;
    if first.seen_by_caller {
        untraceable()?;
    }
    become_root(&first.plan.process)?;
    if let UserNamespace::Joined(Some(expected)) = &first.plan.namespaces.user {
        for (file, expected) in [("uid_map", &expected.users), ("gid_map", &expected.groups)] {
            let path = format!("/proc/self/{file}");
            let found =
                fs::read_to_string(&path).during(Step::Namespace, || format!("read `{path}`"))?;
            if crate::mapping::parse(&found).as_ref() != Some(expected) {
                let what = "linux.namespaces: the user namespace that is joined has another \
                            mapping than linux.uidMappings and linux.gidMappings say";
                return Err(SetupError::new(Step::Namespace, what, None));
            }
        }
    }
    Ok(root)
}

/// No longer the caller's user, who owns files of the host, but the user namespace's root; where
/// it has none, the user that the program runs as.
pub(super) fn become_root(process: &Process) -> Result<(), SetupError> {
    let what = || "become root of the user namespace";
    drop_groups().during(Step::User, what)?;
    match take_ids(0, 0) {
        Err(Errno::INVAL) => take_ids(process.uid, process.gid),
        other => other,
    }
    .during(Step::User, what)
}

fn take_ids(uid: u32, gid: u32) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)
}

/// Leaves the supplementary groups. Where the user namespace forbids that (`setgroups` is `deny`,
/// because an ordinary user made it alone) there is no way to lose them.
pub(super) fn drop_groups() -> Result<(), Errno> {
    match set_thread_groups(&[]) {
        Err(Errno::PERM)
            if capabilities(None)?
                .effective
                .contains(CapabilitySet::SETGID) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// Nothing in a container may trace this process or read its memory (CVE-2016-9962).
pub(super) fn untraceable() -> Result<(), SetupError> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .during(Step::Channel, || "become untraceable")
}

/// The offsets of a new time namespace. Their file is opened at once: later this process is
/// untraceable, and the file not its own.
struct Timer<'a> {
    clocks: Option<&'a Clocks>,
    offsets: Option<OwnedFd>,
}

impl<'a> Timer<'a> {
    fn open(clocks: Option<&'a Clocks>) -> Result<Self, SetupError> {
        let set = clocks.filter(|clocks| !clocks.offsets.is_empty());
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let offsets = set.map(|_| {
            rustix::fs::openat(CWD, "/proc/self/timens_offsets", flags, Mode::empty())
                .during(Step::Namespace, || "open `/proc/self/timens_offsets`")
        });
        Ok(Self {
            clocks,
            offsets: offsets.transpose()?,
        })
    }

    fn raw(&self) -> impl Iterator<Item = std::os::fd::RawFd> + use<> {
        use std::os::fd::AsRawFd as _;
        self.offsets.as_ref().map(|fd| fd.as_raw_fd()).into_iter()
    }

    /// Makes the namespace, which has no member yet, sets its clocks and enters it.
    fn set(self) -> Result<(), SetupError> {
        let Some(clocks) = self.clocks else {
            return Ok(());
        };
        sys::namespace::unshare(UnshareFlags::NEWTIME)
            .during(Step::Namespace, || "make a time namespace")?;
        if let Some(file) = &self.offsets {
            rustix::io::write(file, clocks.offsets.as_bytes()).during(Step::Namespace, || {
                let offsets = clocks.offsets.trim_end().replace('\n', ", ");
                format!("set the clocks of linux.timeOffsets to {offsets}")
            })?;
        }
        let made = "/proc/self/ns/time_for_children";
        enter_time(made).during(Step::Namespace, || "enter the time namespace")
    }
}

fn enter_time(path: &str) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let namespace = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    let namespace: BorrowedFd<'_> = namespace.as_fd();
    Ok(move_into_link_name_space(
        namespace,
        Some(LinkNameSpaceType::Time),
    )?)
}

fn joining(kind: UnshareFlags) -> String {
    format!("join the {} namespace", name(kind))
}

fn link_type(kind: UnshareFlags) -> Option<LinkNameSpaceType> {
    KINDS
        .into_iter()
        .find_map(|(flag, link, _)| (flag == kind).then_some(link))
}

fn name(kind: UnshareFlags) -> &'static str {
    KINDS
        .into_iter()
        .find_map(|(flag, _, name)| (flag == kind).then_some(name))
        .unwrap_or("unknown")
}

const KINDS: [(UnshareFlags, LinkNameSpaceType, &str); 8] = [
    (UnshareFlags::NEWUSER, LinkNameSpaceType::User, "user"),
    (UnshareFlags::NEWNET, LinkNameSpaceType::Network, "network"),
    (
        UnshareFlags::NEWIPC,
        LinkNameSpaceType::InterProcessCommunication,
        "ipc",
    ),
    (
        UnshareFlags::NEWUTS,
        LinkNameSpaceType::HostNameAndNISDomainName,
        "uts",
    ),
    (
        UnshareFlags::NEWCGROUP,
        LinkNameSpaceType::ControlGroup,
        "cgroup",
    ),
    (UnshareFlags::NEWTIME, LinkNameSpaceType::Time, "time"),
    (UnshareFlags::NEWPID, LinkNameSpaceType::ProcessID, "pid"),
    (UnshareFlags::NEWNS, LinkNameSpaceType::Mount, "mount"),
];
