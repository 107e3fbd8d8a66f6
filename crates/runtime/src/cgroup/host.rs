//! What this host mounts, read from `/proc/self/mountinfo`.

use std::fs;
use std::path::PathBuf;

use super::CgroupError;

/// Where cgroups are expected; a hierarchy that is mounted several times is taken from there.
const PLACE: &str = "/sys/fs/cgroup";

/// How this host mounts cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Only version 1 hierarchies.
    V1,
    /// Version 1 hierarchies hold the controllers, version 2 is mounted beside them.
    Hybrid,
    /// One version 2 hierarchy holds everything.
    V2,
}

impl Layout {
    /// What is mounted here.
    pub fn detect() -> Result<Self, CgroupError> {
        Host::find().map(|host| host.layout())
    }
}

/// Every hierarchy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) v1: Vec<Hierarchy>,
    pub(super) v2: Option<PathBuf>,
}

/// One version 1 hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    /// Such as `cpu` and `cpuacct`, or the name of one without a controller, such as `name=systemd`.
    pub(super) controllers: Vec<String>,
    pub(super) mount: PathBuf,
    /// The cgroup that is seen at the mount.
    pub(super) root: PathBuf,
}

impl Hierarchy {
    /// What its directory is called.
    pub(super) fn name(&self) -> String {
        let joined = self.controllers.join(",");
        joined
            .strip_prefix("name=")
            .map(str::to_owned)
            .unwrap_or(joined)
    }
}

impl Host {
    pub(super) fn find() -> Result<Self, CgroupError> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(CgroupError::Mounts)?;
        let host = Self::parse(&mounts);
        if host == Self::default() {
            Err(CgroupError::NotMounted)
        } else {
            Ok(host)
        }
    }

    fn layout(&self) -> Layout {
        match (self.v1.is_empty(), &self.v2) {
            (true, _) => Layout::V2,
            (false, None) => Layout::V1,
            (false, Some(_)) => Layout::Hybrid,
        }
    }

    pub(super) fn parse(mounts: &str) -> Self {
        let mut host = Self::default();
        for line in mounts.lines() {
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let mut right = right.split(' ');
            let (kind, options) = (right.next(), right.nth(1).unwrap_or_default());
            if !matches!(kind, Some("cgroup" | "cgroup2")) {
                continue;
            }
            let mut left = left.split(' ').skip(3).map(PathBuf::from);
            let (Some(root), Some(mount)) = (left.next(), left.next()) else {
                continue;
            };
            let better = mount.starts_with(PLACE);
            if kind == Some("cgroup2") {
                if host.v2.is_none() || better {
                    host.v2 = Some(mount);
                }
                continue;
            }
            let mut controllers: Vec<String> = options
                .split(',')
                .filter(|option| is_controller(option))
                .map(str::to_owned)
                .collect();
            controllers.dedup();
            match host
                .v1
                .iter_mut()
                .find(|known| known.controllers == controllers)
            {
                Some(known) if better => (known.mount, known.root) = (mount, root),
                Some(_) => {}
                None if controllers.is_empty() => {}
                None => host.v1.push(Hierarchy {
                    controllers,
                    mount,
                    root,
                }),
            }
        }
        host
    }
}

/// Super block options that are not controllers (kernel, cgroup-v1.c `cgroup1_show_options`).
fn is_controller(option: &str) -> bool {
    !matches!(
        option,
        "rw" | "ro" | "noprefix" | "xattr" | "clone_children" | "cpuset_v2_mode" | "favordynmods"
    ) && !option.starts_with("release_agent=")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
25 1 0:22 / /proc rw - proc proc rw
31 24 0:27 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:28 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
33 31 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd
34 31 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
35 31 0:31 / /mnt/memory rw - cgroup cgroup rw,memory
36 31 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
";

    #[test]
    fn a_hybrid_host_is_read() {
        let host = Host::parse(HYBRID);
        assert_eq!(host.layout(), Layout::Hybrid);
        let names: Vec<String> = host.v1.iter().map(Hierarchy::name).collect();
        assert_eq!(names, ["cpu,cpuacct", "systemd", "memory"]);
        assert_eq!(host.v1[2].mount, PathBuf::from("/sys/fs/cgroup/memory"));
        assert_eq!(host.v2, Some(PathBuf::from("/sys/fs/cgroup/unified")));
    }

    #[test]
    fn a_version_2_host_is_read() {
        let host = Host::parse("30 24 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n");
        assert_eq!(host.layout(), Layout::V2);
    }

    #[test]
    fn version_1_alone_is_told_apart() {
        let host = Host::parse("30 24 0:26 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n");
        assert_eq!(host.layout(), Layout::V1);
    }
}
