//! Version 1: limits by controller, each in a hierarchy of its own.

use std::path::Path;
use std::time::Duration;

use super::files::{self, Write};
use super::host::Hierarchy;
use super::{Cgroup, CgroupError};
use crate::oci;

/// Freezing is asked for again this long: a process that forks meanwhile can hold it up.
const FREEZING: Duration = Duration::from_secs(10);

/// Makes the directory in one hierarchy, with those above it.
pub(super) fn make(hierarchy: &Hierarchy, path: &Path) -> Result<(), CgroupError> {
    let cpuset = hierarchy.controllers.iter().any(|name| name == "cpuset");
    if !cpuset {
        // Nearly always only the last part is missing.
        match files::make(&hierarchy.mount.join(path)) {
            Err(error) if error.is_gone() => {}
            other => return other.map(drop),
        }
    }
    let mut directory = hierarchy.mount.clone();
    for part in path {
        let above = directory.clone();
        directory.push(part);
        files::make(&directory)?;
        if cpuset {
            inherit_cpuset(&above, &directory)?;
        }
    }
    Ok(())
}

/// A new cpuset is empty, and takes no process until it is not.
fn inherit_cpuset(above: &Path, directory: &Path) -> Result<(), CgroupError> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = directory.join(file);
        if files::read(&own)?.trim().is_empty() {
            files::write(&own, files::read(&above.join(file))?.trim())?;
        }
    }
    Ok(())
}

pub(super) fn freeze(directory: &Path) -> Result<(), CgroupError> {
    let state = directory.join("freezer.state");
    files::write(&state, "FROZEN")?;
    let frozen = files::until("freezing", directory, FREEZING, || {
        if files::read(&state)?.trim() == "FROZEN" {
            return Ok(true);
        }
        files::write(&state, "FROZEN").map(|()| false)
    });
    if frozen.is_err() {
        // Half frozen is worse than running.
        files::write(&state, "THAWED")?;
    }
    frozen
}

/// Without `cgroup.kill`: signals until nobody is left to fork. What is frozen dies once it thaws.
pub(super) fn kill_all(cgroup: &Cgroup) -> Result<(), CgroupError> {
    files::until("killing", &cgroup.members(), FREEZING, || {
        let pids = cgroup.pids()?;
        for pid in &pids {
            if let Some(pid) = rustix::process::Pid::from_raw(*pid) {
                // Gone meanwhile is what is wanted.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        if !pids.is_empty() && cgroup.is_frozen()? {
            cgroup.thaw()?;
        }
        Ok(pids.is_empty())
    })
}

/// The files that carry the limits, in the order in which they are to be written.
pub(super) fn plan(resources: &oci::LinuxResources) -> Result<Vec<Write>, CgroupError> {
    let mut plan = Plan::default();
    if let Some(memory) = resources.memory() {
        plan.memory(memory)?;
    }
    if let Some(cpu) = resources.cpu() {
        plan.cpu(cpu);
    }
    if let Some(pids) = resources.pids()
        && pids.limit() != 0
    {
        plan.add(
            "pids",
            "pids.max",
            &or_max(pids.limit()),
            "the process limit",
        );
    }
    if let Some(block) = resources.block_io() {
        plan.block(block);
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        if limit.page_size().contains('/') {
            let value = limit.page_size().clone();
            return Err(CgroupError::Invalid {
                limit: "the huge page size",
                value,
            });
        }
        let file = format!("hugetlb.{}.limit_in_bytes", limit.page_size());
        plan.add(
            "hugetlb",
            &file,
            &limit.limit().to_string(),
            "the huge page limit",
        );
    }
    if let Some(network) = resources.network() {
        if let Some(class) = network.class_id() {
            plan.add(
                "net_cls",
                "net_cls.classid",
                &class.to_string(),
                "the network class",
            );
        }
        for priority in network.priorities().iter().flatten() {
            let value = format!("{} {}", priority.name(), priority.priority());
            plan.add(
                "net_prio",
                "net_prio.ifpriomap",
                &value,
                "the network priorities",
            );
        }
    }
    if resources
        .rdma()
        .as_ref()
        .is_some_and(|rdma| !rdma.is_empty())
    {
        return Err(CgroupError::Missing {
            controller: "rdma",
            limit: "the RDMA limits",
        });
    }
    if let Some(name) = resources
        .unified()
        .iter()
        .flatten()
        .map(|(name, _)| name)
        .next()
    {
        let value = format!("`{name}` (this host has no single version 2 hierarchy)");
        return Err(CgroupError::Invalid {
            limit: "the unified limits",
            value,
        });
    }
    Ok(plan.writes)
}

fn or_max(limit: i64) -> String {
    if limit < 0 {
        String::from("max")
    } else {
        limit.to_string()
    }
}

#[derive(Default)]
struct Plan {
    writes: Vec<Write>,
}

impl Plan {
    fn add(&mut self, controller: &'static str, file: &str, value: &str, limit: &'static str) {
        self.writes.push(Write {
            controller: Some(controller),
            file: file.to_owned(),
            value: value.to_owned(),
            limit,
            optional: false,
            tried: false,
        });
    }

    fn memory(&mut self, memory: &oci::LinuxMemory) -> Result<(), CgroupError> {
        let limit = memory.limit().filter(|limit| *limit != 0);
        let swap = memory.swap().filter(|swap| *swap != 0);
        let limit_file = "memory.limit_in_bytes";
        let swap_file = "memory.memsw.limit_in_bytes";
        if let (Some(limit), Some(swap)) = (limit, swap)
            && swap > 0
            && (limit < 0 || swap < limit)
        {
            let value = format!("{swap} is below the memory limit {limit}");
            return Err(CgroupError::Invalid {
                limit: "memory and swap",
                value,
            });
        }
        // The sum may never be below the memory limit, so which comes first depends on the old
        // values. Without a limit the sum is lifted first; else both orders are tried by writing
        // the sum twice, where the first may fail.
        if let (Some(_), Some(swap)) = (limit, swap) {
            self.add("memory", swap_file, &swap.to_string(), "the swap limit");
            if let Some(first) = self.writes.last_mut() {
                first.tried = true;
            }
        }
        if let Some(limit) = limit {
            self.add("memory", limit_file, &limit.to_string(), "the memory limit");
        }
        if let Some(swap) = swap {
            self.add("memory", swap_file, &swap.to_string(), "the swap limit");
            // Unlimited swap is what there is where swap is not counted.
            if let Some(last) = self.writes.last_mut() {
                last.optional = swap < 0;
            }
        }
        if let Some(reservation) = memory.reservation().filter(|value| *value != 0) {
            let file = "memory.soft_limit_in_bytes";
            self.add(
                "memory",
                file,
                &reservation.to_string(),
                "the memory reservation",
            );
        }
        if let Some(kernel_tcp) = memory.kernel_tcp().filter(|value| *value != 0) {
            let file = "memory.kmem.tcp.limit_in_bytes";
            self.add(
                "memory",
                file,
                &kernel_tcp.to_string(),
                "the kernel TCP memory limit",
            );
        }
        if let Some(swappiness) = memory.swappiness() {
            if swappiness > 100 {
                let value = swappiness.to_string();
                return Err(CgroupError::Invalid {
                    limit: "swappiness",
                    value,
                });
            }
            self.add(
                "memory",
                "memory.swappiness",
                &swappiness.to_string(),
                "swappiness",
            );
        }
        if memory.disable_oom_killer() == Some(true) {
            self.add(
                "memory",
                "memory.oom_control",
                "1",
                "switching off the OOM killer",
            );
        }
        Ok(())
    }

    fn cpu(&mut self, cpu: &oci::LinuxCpu) {
        if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
            self.add("cpu", "cpu.shares", &shares.to_string(), "the CPU shares");
        }
        if let Some(period) = cpu.period().filter(|period| *period != 0) {
            self.add(
                "cpu",
                "cpu.cfs_period_us",
                &period.to_string(),
                "the CPU period",
            );
        }
        if let Some(quota) = cpu.quota().filter(|quota| *quota != 0) {
            self.add(
                "cpu",
                "cpu.cfs_quota_us",
                &quota.to_string(),
                "the CPU quota",
            );
        }
        if let Some(burst) = cpu.burst() {
            self.add(
                "cpu",
                "cpu.cfs_burst_us",
                &burst.to_string(),
                "the CPU burst",
            );
        }
        if let Some(period) = cpu.realtime_period().filter(|period| *period != 0) {
            self.add(
                "cpu",
                "cpu.rt_period_us",
                &period.to_string(),
                "the real-time period",
            );
        }
        if let Some(runtime) = cpu.realtime_runtime().filter(|runtime| *runtime != 0) {
            self.add(
                "cpu",
                "cpu.rt_runtime_us",
                &runtime.to_string(),
                "the real-time runtime",
            );
        }
        if let Some(idle) = cpu.idle() {
            self.add("cpu", "cpu.idle", &idle.to_string(), "idle scheduling");
        }
        if let Some(cpus) = cpu.cpus().as_ref().filter(|cpus| !cpus.is_empty()) {
            self.add("cpuset", "cpuset.cpus", cpus, "the set of CPUs");
        }
        if let Some(mems) = cpu.mems().as_ref().filter(|mems| !mems.is_empty()) {
            self.add("cpuset", "cpuset.mems", mems, "the set of memory nodes");
        }
    }

    fn block(&mut self, block: &oci::LinuxBlockIo) {
        if let Some(weight) = block.weight().filter(|weight| *weight != 0) {
            self.add(
                "blkio",
                "blkio.bfq.weight",
                &weight.to_string(),
                "the block I/O weight",
            );
        }
        for device in block.weight_device().iter().flatten() {
            if let Some(weight) = device.weight() {
                let value = format!("{}:{} {weight}", device.major(), device.minor());
                self.add(
                    "blkio",
                    "blkio.bfq.weight_device",
                    &value,
                    "the block I/O weight",
                );
            }
        }
        for (devices, file) in [
            (
                block.throttle_read_bps_device(),
                "blkio.throttle.read_bps_device",
            ),
            (
                block.throttle_write_bps_device(),
                "blkio.throttle.write_bps_device",
            ),
            (
                block.throttle_read_iops_device(),
                "blkio.throttle.read_iops_device",
            ),
            (
                block.throttle_write_iops_device(),
                "blkio.throttle.write_iops_device",
            ),
        ] {
            for device in devices.iter().flatten() {
                let value = format!("{}:{} {}", device.major(), device.minor(), device.rate());
                self.add("blkio", file, &value, "the block I/O rate");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, expected: &[(&str, &str)]) {
        let resources: oci::LinuxResources = serde_json::from_str(json).unwrap();
        let plan = plan(&resources).unwrap();
        let found: Vec<_> = plan
            .iter()
            .map(|w| (w.file.as_str(), w.value.as_str()))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn the_sum_of_memory_and_swap_is_written_around_the_limit() {
        check(
            r#"{"memory":{"limit":64,"swap":128,"reservation":32,"swappiness":10}}"#,
            &[
                ("memory.memsw.limit_in_bytes", "128"),
                ("memory.limit_in_bytes", "64"),
                ("memory.memsw.limit_in_bytes", "128"),
                ("memory.soft_limit_in_bytes", "32"),
                ("memory.swappiness", "10"),
            ],
        );
    }

    #[test]
    fn zero_means_not_given() {
        check(
            r#"{"memory":{"limit":0,"swap":0},"cpu":{"shares":0,"quota":0,"period":0},"pids":{"limit":0}}"#,
            &[],
        );
    }

    #[test]
    fn processors_are_limited() {
        check(
            r#"{"cpu":{"shares":512,"quota":50000,"period":100000,"cpus":"0-1"},"pids":{"limit":-1}}"#,
            &[
                ("cpu.shares", "512"),
                ("cpu.cfs_period_us", "100000"),
                ("cpu.cfs_quota_us", "50000"),
                ("cpuset.cpus", "0-1"),
                ("pids.max", "max"),
            ],
        );
    }

    #[test]
    fn less_swap_than_memory_is_refused() {
        let resources: oci::LinuxResources =
            serde_json::from_str(r#"{"memory":{"limit":64,"swap":32}}"#).unwrap();
        assert!(matches!(plan(&resources), Err(CgroupError::Invalid { .. })));
    }
}
