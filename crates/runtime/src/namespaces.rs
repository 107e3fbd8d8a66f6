//! Which namespaces a container gets: new ones, the caller's, or others by path (pure).

use std::path::{Path, PathBuf};

use rustix::thread::UnshareFlags;

use crate::error::CreateError;
use crate::mapping::Mappings;
use crate::oci;
use crate::plan::invalid;

/// The namespaces of a container, as its specification has them.
#[derive(Debug)]
pub(crate) struct Namespaces {
    /// Made by clone3.
    pub(crate) new: UnshareFlags,
    /// Made by the child once it is in its cgroup, so that the namespace's root is that cgroup.
    pub(crate) new_cgroup: bool,
    /// Made by the child, because its clocks are set between its making and its first member.
    pub(crate) new_time: Option<Clocks>,
    /// Joined by path; which one and where.
    pub(crate) joined: Vec<(UnshareFlags, PathBuf)>,
    pub(crate) user: UserNamespace,
}

/// Whose users a container has.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum UserNamespace {
    /// The caller's.
    Callers,
    New(Mappings),
    /// By path, where it must have this mapping if the specification names one too.
    Joined(Option<Mappings>),
}

impl UserNamespace {
    pub(crate) fn is_callers(&self) -> bool {
        *self == Self::Callers
    }
}

/// How far the clocks of a new time namespace go ahead of the caller's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Clocks {
    /// The text of `/proc/self/timens_offsets`, a line for each clock; empty leaves them.
    pub(crate) offsets: String,
}

impl Namespaces {
    /// Checks `linux`. `joins_network`: the caller brings a network namespace, which counts unless
    /// the specification names one by path.
    pub(crate) fn new(linux: &oci::Linux, joins_network: bool) -> Result<Self, CreateError> {
        let (mut new, joined) = listed(linux)?;
        let is_joined = |kind| joined.iter().any(|(joined, _)| *joined == kind);
        if joins_network && !is_joined(UnshareFlags::NEWNET) {
            new.remove(UnshareFlags::NEWNET);
        }
        if !new.contains(UnshareFlags::NEWNS) && !is_joined(UnshareFlags::NEWNS) {
            let reason = "a new mount namespace is required";
            return Err(invalid("linux.namespaces", reason));
        }
        let user = user(
            linux,
            new.contains(UnshareFlags::NEWUSER),
            is_joined(UnshareFlags::NEWUSER),
        )?;
        let new_time = clocks(linux, &new, is_joined(UnshareFlags::NEWTIME))?;
        let new_cgroup = new.contains(UnshareFlags::NEWCGROUP);
        new.remove(UnshareFlags::NEWCGROUP | UnshareFlags::NEWTIME);
        Ok(Self {
            new,
            new_cgroup,
            new_time,
            joined,
            user,
        })
    }

    /// All that are not the caller's own, `given` ones included.
    pub(crate) fn own(&self, given: UnshareFlags) -> UnshareFlags {
        let joined = self.joined.iter().map(|(kind, _)| *kind);
        joined.fold(self.new | given, |own, kind| own | kind)
    }
}

fn listed(linux: &oci::Linux) -> Result<(UnshareFlags, Vec<(UnshareFlags, PathBuf)>), CreateError> {
    let (mut new, mut joined) = (UnshareFlags::empty(), Vec::new());
    let mut seen = UnshareFlags::empty();
    for (i, namespace) in linux.namespaces().iter().flatten().enumerate() {
        let at = format!("linux.namespaces[{i}]");
        let kind = flag(namespace.typ());
        if seen.contains(kind) {
            return Err(invalid(at, "this type of namespace is listed twice"));
        }
        seen |= kind;
        match namespace.path() {
            // An empty path is none, as runc reads it.
            None => new |= kind,
            Some(path) if path == Path::new("") => new |= kind,
            Some(path) if path.is_absolute() => joined.push((kind, path.clone())),
            Some(path) => {
                let reason = format!("the path `{}` is not absolute", path.display());
                return Err(invalid(format!("{at}.path"), reason));
            }
        }
    }
    Ok((new, joined))
}

/// The place of the path of a joined namespace in the document.
pub(crate) fn path_of(linux: &oci::Linux, kind: UnshareFlags) -> String {
    let mut listed = linux.namespaces().iter().flatten();
    let place = listed.position(|namespace| flag(namespace.typ()) == kind);
    format!("linux.namespaces[{}].path", place.unwrap_or_default())
}

fn flag(kind: oci::LinuxNamespaceType) -> UnshareFlags {
    use oci::LinuxNamespaceType as Type;
    match kind {
        Type::Mount => UnshareFlags::NEWNS,
        Type::Cgroup => UnshareFlags::NEWCGROUP,
        Type::Uts => UnshareFlags::NEWUTS,
        Type::Ipc => UnshareFlags::NEWIPC,
        Type::Pid => UnshareFlags::NEWPID,
        Type::Network => UnshareFlags::NEWNET,
        Type::User => UnshareFlags::NEWUSER,
        Type::Time => UnshareFlags::NEWTIME,
    }
}

fn user(linux: &oci::Linux, new: bool, joined: bool) -> Result<UserNamespace, CreateError> {
    let mappings = Mappings::new(
        "linux",
        linux.uid_mappings().as_deref(),
        linux.gid_mappings().as_deref(),
    )?;
    match (new, joined, mappings) {
        (_, true, mappings) => Ok(UserNamespace::Joined(mappings)),
        (true, _, Some(mappings)) => Ok(UserNamespace::New(mappings)),
        (true, _, None) => Err(invalid(
            "linux.uidMappings",
            "is missing: a new user namespace has no users without it",
        )),
        (false, false, None) => Ok(UserNamespace::Callers),
        (false, false, Some(_)) => Err(invalid(
            "linux.uidMappings",
            "needs a user namespace in linux.namespaces",
        )),
    }
}

fn clocks(
    linux: &oci::Linux,
    new: &UnshareFlags,
    joined: bool,
) -> Result<Option<Clocks>, CreateError> {
    let mut given: Vec<_> = linux.time_offsets().iter().flatten().collect();
    given.sort_by_key(|(clock, _)| *clock);
    let mut clocks = Clocks::default();
    for (clock, offset) in given {
        let at = format!("linux.timeOffsets.{clock}");
        if joined {
            let reason = "the clocks of a time namespace that is joined are set already";
            return Err(invalid(at, reason));
        }
        if !new.contains(UnshareFlags::NEWTIME) {
            return Err(invalid(at, "needs a time namespace in linux.namespaces"));
        }
        if !["monotonic", "boottime"].contains(&clock.as_str()) {
            return Err(invalid(at, "is no clock that has an offset"));
        }
        let nanoseconds = offset.nanosecs().unwrap_or(0);
        if nanoseconds > 999_999_999 {
            return Err(invalid(
                format!("{at}.nanosecs"),
                format!("{nanoseconds} is a second or more"),
            ));
        }
        let seconds = offset.secs().unwrap_or(0);
        clocks
            .offsets
            .push_str(&format!("{clock} {seconds} {nanoseconds}\n"));
    }
    Ok(new.contains(UnshareFlags::NEWTIME).then_some(clocks))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn plan(linux: Value) -> Result<Namespaces, String> {
        let linux: oci::Linux = serde_json::from_value(linux).unwrap();
        Namespaces::new(&linux, false).map_err(|error| error.to_string())
    }

    #[test]
    fn each_is_new_or_joined() {
        let mapping = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
        let namespaces = plan(json!({
            "namespaces": [{"type": "mount"}, {"type": "user"}, {"type": "time"}, {"type": "cgroup"},
                           {"type": "network", "path": "/run/netns/a"}, {"type": "pid", "path": ""}],
            "uidMappings": mapping, "gidMappings": mapping,
            "timeOffsets": {"monotonic": {"secs": -3}, "boottime": {"secs": 4, "nanosecs": 5}}
        }))
        .unwrap();
        let (mount, user, pid) = (
            UnshareFlags::NEWNS,
            UnshareFlags::NEWUSER,
            UnshareFlags::NEWPID,
        );
        assert_eq!(namespaces.new, mount | user | pid);
        assert!(namespaces.new_cgroup);
        let offsets = namespaces.new_time.unwrap().offsets;
        assert_eq!(offsets, "boottime 4 5\nmonotonic -3 0\n");
        assert_eq!(
            namespaces.joined,
            [(UnshareFlags::NEWNET, PathBuf::from("/run/netns/a"))]
        );
        assert!(matches!(namespaces.user, UserNamespace::New(_)));
    }

    #[test]
    fn what_does_not_go_together_is_refused_by_its_path() {
        let mapping = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
        for (linux, expected) in [
            (
                json!({"namespaces": []}),
                "linux.namespaces: a new mount namespace is required",
            ),
            (
                json!({"namespaces": [{"type": "mount"}, {"type": "mount", "path": "/x"}]}),
                "linux.namespaces[1]: this type of namespace is listed twice",
            ),
            (
                json!({"namespaces": [{"type": "mount"}, {"type": "user", "path": "x"}]}),
                "linux.namespaces[1].path: the path `x` is not absolute",
            ),
            (
                json!({"namespaces": [{"type": "mount"}, {"type": "user"}]}),
                "linux.uidMappings: is missing: a new user namespace has no users without it",
            ),
            (
                json!({"namespaces": [{"type": "mount"}], "uidMappings": mapping, "gidMappings": mapping}),
                "linux.uidMappings: needs a user namespace in linux.namespaces",
            ),
            (
                json!({"namespaces": [{"type": "mount"}], "timeOffsets": {"monotonic": {"secs": 1}}}),
                "linux.timeOffsets.monotonic: needs a time namespace in linux.namespaces",
            ),
            (
                json!({"namespaces": [{"type": "mount"}, {"type": "time", "path": "/x"}],
                       "timeOffsets": {"boottime": {"secs": 1}}}),
                "linux.timeOffsets.boottime: the clocks of a time namespace that is joined are set already",
            ),
            (
                json!({"namespaces": [{"type": "mount"}, {"type": "time"}],
                       "timeOffsets": {"realtime": {"secs": 1}}}),
                "linux.timeOffsets.realtime: is no clock that has an offset",
            ),
            (
                json!({"namespaces": [{"type": "mount"}, {"type": "time"}],
                       "timeOffsets": {"boottime": {"nanosecs": 1_000_000_000}}}),
                "linux.timeOffsets.boottime.nanosecs: 1000000000 is a second or more",
            ),
        ] {
            let said = plan(linux).unwrap_err();
            assert_eq!(said, format!("invalid specification: {expected}"));
        }
    }
}
