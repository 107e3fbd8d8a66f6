//! Version 1: limits by controller, each in a hierarchy of its own.

use std::path::Path;
use std::time::Duration;

use super::files;
use super::host::Hierarchy;
use super::plan::{IfMissing, Plan, Write, given, invalid, memory_and_swap};
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
        plan_memory(&mut plan, memory)?;
    }
    if let Some(cpu) = resources.cpu() {
        plan_cpu(&mut plan, cpu);
    }
    plan.pids(resources);
    if let Some(block) = resources.block_io() {
        plan_block(&mut plan, block);
    }
    plan.huge_pages(resources, "limit_in_bytes", "rsvd.limit_in_bytes")?;
    if let Some(network) = resources.network() {
        if let Some(class) = given(network.class_id()) {
            plan.add("net_cls.classid", class, "the network class");
        }
        for priority in network.priorities().iter().flatten() {
            let value = format!("{} {}", priority.name(), priority.priority());
            plan.add("net_prio.ifpriomap", value, "the network priorities");
        }
    }
    plan.rdma(resources);
    if let Some(name) = resources.unified().iter().flat_map(|u| u.keys()).min() {
        return Err(CgroupError::Unsupported {
            limit: format!("invalid configuration: the unified limit `{name}`"),
            why: "cgroup version 2 is not mounted alone here",
        });
    }
    Ok(plan.writes)
}

fn plan_memory(plan: &mut Plan, memory: &oci::LinuxMemory) -> Result<(), CgroupError> {
    let (limit, swap) = (given(memory.limit()), memory_and_swap(memory));
    if let (Some(limit), Some(swap)) = (limit, swap)
        && swap > 0
        && (limit < 0 || swap < limit)
    {
        let value = format!("{swap} is below the memory limit {limit}");
        return Err(invalid("memory and swap", value));
    }
    // The sum may never be below the memory limit, so which comes first depends on the old values.
    if let Some(swap) = swap {
        let write = plan.add("memory.memsw.limit_in_bytes", swap, "the swap limit");
        write.again = limit.is_some();
        if swap < 0 {
            // Unlimited swap is what there is where swap is not counted.
            write.if_missing = IfMissing::Ignore;
        }
    }
    if let Some(limit) = limit {
        plan.add("memory.limit_in_bytes", limit, "the memory limit");
    }
    if let Some(reservation) = given(memory.reservation()) {
        let file = "memory.soft_limit_in_bytes";
        plan.add(file, reservation, "the memory reservation");
    }
    if let Some(limit) = given(memory.kernel_tcp()) {
        let file = "memory.kmem.tcp.limit_in_bytes";
        plan.add(file, limit, "the kernel TCP memory limit");
    }
    if let Some(swappiness) = memory.swappiness() {
        if swappiness > 100 {
            return Err(invalid("swappiness", swappiness));
        }
        plan.add("memory.swappiness", swappiness, "swappiness");
    }
    if memory.disable_oom_killer() == Some(true) {
        plan.add("memory.oom_control", 1, "switching off the OOM killer");
    }
    Ok(())
}

fn plan_cpu(plan: &mut Plan, cpu: &oci::LinuxCpu) {
    // The period first, since the runtime is a part of it.
    if let Some(period) = given(cpu.realtime_period()) {
        let write = plan.add("cpu.rt_period_us", period, "the real-time period");
        write.again = given(cpu.realtime_runtime()).is_some();
    }
    if let Some(runtime) = given(cpu.realtime_runtime()) {
        plan.add("cpu.rt_runtime_us", runtime, "the real-time runtime");
    }
    if let Some(shares) = given(cpu.shares()) {
        plan.add("cpu.shares", shares, "the CPU shares");
    }
    // A smaller period with the old quota may be more than the cgroup above has; so may a larger
    // burst be more than the old quota.
    let quota = given(cpu.quota());
    if let Some(period) = given(cpu.period()) {
        plan.add("cpu.cfs_period_us", period, "the CPU period")
            .again = quota.is_some();
    }
    if let Some(burst) = cpu.burst() {
        plan.add("cpu.cfs_burst_us", burst, "the CPU burst").again = quota.is_some();
    }
    if let Some(quota) = quota {
        plan.add("cpu.cfs_quota_us", quota, "the CPU quota");
    }
    if let Some(idle) = cpu.idle() {
        plan.add("cpu.idle", idle, "idle scheduling");
    }
    plan.cpuset(cpu);
}

/// Weights are BFQ's, or CFQ's on kernels that still have it.
fn plan_block(plan: &mut Plan, block: &oci::LinuxBlockIo) {
    let mut weigh = |bfq: &str, cfq: &'static str, value: String| {
        let write = plan.add(bfq, &value, "the block I/O weight");
        write.if_missing = IfMissing::Instead(cfq, value);
    };
    if let Some(weight) = given(block.weight()) {
        weigh("blkio.bfq.weight", "blkio.weight", weight.to_string());
    }
    for device in block.weight_device().iter().flatten() {
        if let Some(weight) = given(device.weight()) {
            let value = format!("{}:{} {weight}", device.major(), device.minor());
            weigh("blkio.bfq.weight_device", "blkio.weight_device", value);
        }
    }
    let limit = "the block I/O leaf weight";
    if let Some(weight) = given(block.leaf_weight()) {
        plan.add("blkio.leaf_weight", weight, limit);
    }
    for device in block.weight_device().iter().flatten() {
        if let Some(weight) = given(device.leaf_weight()) {
            let value = format!("{}:{} {weight}", device.major(), device.minor());
            plan.add("blkio.leaf_weight_device", value, limit);
        }
    }
    for (devices, what) in [
        (block.throttle_read_bps_device(), "read_bps"),
        (block.throttle_write_bps_device(), "write_bps"),
        (block.throttle_read_iops_device(), "read_iops"),
        (block.throttle_write_iops_device(), "write_iops"),
    ] {
        for device in devices.iter().flatten() {
            let value = format!("{}:{} {}", device.major(), device.minor(), device.rate());
            let file = format!("blkio.throttle.{what}_device");
            plan.add(file, value, "the block I/O rate");
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
    fn the_sum_of_memory_and_swap_may_be_refused_until_the_limit_is_written() {
        check(
            r#"{"memory":{"limit":64,"swap":128,"reservation":32,"swappiness":10}}"#,
            &[
                ("memory.memsw.limit_in_bytes", "128"),
                ("memory.limit_in_bytes", "64"),
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
    fn unlimited_memory_means_unlimited_swap() {
        check(
            r#"{"memory":{"limit":-1}}"#,
            &[
                ("memory.memsw.limit_in_bytes", "-1"),
                ("memory.limit_in_bytes", "-1"),
            ],
        );
    }

    #[test]
    fn block_devices_are_weighed_and_throttled() {
        check(
            r#"{"blockIO":{"weight":500,"leafWeight":300,
                "weightDevice":[{"major":8,"minor":0,"weight":100,"leafWeight":200}],
                "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":600}],
                "throttleWriteIOPSDevice":[{"major":8,"minor":16,"rate":3}]}}"#,
            &[
                ("blkio.bfq.weight", "500"),
                ("blkio.bfq.weight_device", "8:0 100"),
                ("blkio.leaf_weight", "300"),
                ("blkio.leaf_weight_device", "8:0 200"),
                ("blkio.throttle.read_bps_device", "8:0 600"),
                ("blkio.throttle.write_iops_device", "8:16 3"),
            ],
        );
    }

    #[test]
    fn what_only_version_1_has_is_planned() {
        check(
            r#"{"network":{"classID":1048577,"priorities":[{"name":"lo","priority":3}]},
                "memory":{"disableOOMKiller":true,"kernel":1,"kernelTCP":4096},
                "cpu":{"realtimeRuntime":950,"realtimePeriod":1000}}"#,
            &[
                ("memory.kmem.tcp.limit_in_bytes", "4096"),
                ("memory.oom_control", "1"),
                ("cpu.rt_period_us", "1000"),
                ("cpu.rt_runtime_us", "950"),
                ("net_cls.classid", "1048577"),
                ("net_prio.ifpriomap", "lo 3"),
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
