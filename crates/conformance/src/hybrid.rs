//! What crun needs of a host that has both versions of control groups: that the unified hierarchy
//! beside version 1 owns no controller. Kernels put there what nobody mounted, `hugetlb` mostly.
//!
//! Such a controller becomes one of version 1 while a mount of it exists; here one without a place
//! in any mount namespace, so that nobody else sees it, held by a descriptor.

use std::fs;
use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsmount, fsopen,
};

/// Takes the controllers of the unified hierarchy away from it, for as long as the result lives.
pub fn take_controllers() -> Result<Vec<OwnedFd>> {
    let unified = "/sys/fs/cgroup/unified/cgroup.controllers";
    let unified = fs::read_to_string(unified).unwrap_or_default();
    let known = fs::read_to_string("/proc/cgroups").context("read the controllers")?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
    let all = unified.split_whitespace().chain(unmounted(&known, &mounts));
    all.map(|name| hold(name).with_context(|| format!("mount the controller `{name}`")))
        .collect()
}

/// Controllers of version 1 that are nowhere to be seen: somebody else holds them, perhaps not for
/// as long as we need them.
fn unmounted<'a>(known: &'a str, mounts: &str) -> impl Iterator<Item = &'a str> {
    let mounted: Vec<&str> = mounts
        .lines()
        .filter_map(|line| line.split_once(" - cgroup ")?.1.rsplit(' ').next())
        .flat_map(|options| options.split(','))
        .collect();
    known.lines().filter_map(move |line| {
        let mut fields = line.split_whitespace();
        let (name, hierarchy) = (fields.next()?, fields.next()?);
        let attached = !name.starts_with('#') && hierarchy != "0";
        (attached && !mounted.contains(&name)).then_some(name)
    })
}

fn hold(controller: &str) -> Result<OwnedFd> {
    let context = fsopen("cgroup", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_flag(&context, controller)?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::empty();
    Ok(fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_that_are_held_out_of_sight_are_found() {
        let known = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t1\t4\t1\n\
                     hugetlb\t10\t4\t1\nnet_cls\t0\t3\t1\n";
        let mounts = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n";
        assert_eq!(unmounted(known, mounts).collect::<Vec<_>>(), ["hugetlb"]);
    }
}
