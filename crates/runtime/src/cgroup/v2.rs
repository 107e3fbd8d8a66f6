//! Version 2: one hierarchy, in which a controller is handed down level by level.

use std::path::Path;
use std::time::Duration;

use super::CgroupError;
use super::files;
use super::plan::{IfMissing, Plan, Write, given, invalid, memory_and_swap, or_max};
use crate::oci;

/// How long freezing may take; a process in an uninterruptible sleep holds it up.
const FREEZING: Duration = Duration::from_secs(10);

/// What containers are limited by, of what the host offers.
const CONTROLLERS: [&str; 8] = [
    "cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma", "misc",
];

/// Makes the directory and those above it; with `controllers` each level hands down what it has.
pub(super) fn make(mount: &Path, path: &Path, controllers: bool) -> Result<(), CgroupError> {
    let directory = mount.join(path);
    // Nearly always only the last part is missing, and its parent hands down everything already.
    match files::make(&directory) {
        Ok(_) if !controllers || has_all(mount, &directory)? => return Ok(()),
        Err(error) if !error.is_gone() => return Err(error),
        Ok(_) | Err(_) => {}
    }
    let mut directory = mount.to_owned();
    for part in path {
        if controllers {
            hand_down(&directory);
        }
        directory.push(part);
        files::make(&directory)?;
    }
    Ok(())
}

fn has_all(mount: &Path, directory: &Path) -> Result<bool, CgroupError> {
    let controllers = |at: &Path| files::read(&at.join("cgroup.controllers"));
    Ok(missing_controllers(&controllers(mount)?, &controllers(directory)?).is_empty())
}

/// Levels that belong to others, or have processes of their own, hand down what they do; a limit
/// that has no controller then says so.
fn hand_down(directory: &Path) {
    let control = directory.join("cgroup.subtree_control");
    let offered = files::read(&directory.join("cgroup.controllers"));
    let (Ok(offered), Ok(given)) = (offered, files::read(&control)) else {
        return;
    };
    let missing = missing_controllers(&offered, &given);
    if !missing.is_empty() && files::write(&control, &missing).is_err() {
        // Not all at once; then what can be had of them.
        for one in missing.split(' ') {
            let _ = files::write(&control, one);
        }
    }
}

fn missing_controllers(offered: &str, given: &str) -> String {
    let wanted = offered
        .split_whitespace()
        .filter(|name| CONTROLLERS.contains(name));
    let missing = wanted.filter(|name| !given.split_whitespace().any(|given| given == *name));
    missing
        .map(|name| format!("+{name}"))
        .collect::<Vec<_>>()
        .join(" ")
}

/// Freezes or thaws; returns when it has happened.
pub(super) fn freeze(directory: &Path, frozen: bool) -> Result<(), CgroupError> {
    files::write(
        &directory.join("cgroup.freeze"),
        if frozen { "1" } else { "0" },
    )?;
    let what = if frozen { "freezing" } else { "thawing" };
    files::until(what, directory, FREEZING, || {
        Ok(event(directory, "frozen")? == frozen)
    })
}

/// The cgroup of a process, absolute below the mount.
pub(super) fn path_of(pid: i32) -> Result<String, CgroupError> {
    let file = format!("/proc/{pid}/cgroup");
    let lines = files::read(Path::new(&file))?;
    let path = lines.lines().find_map(|line| line.strip_prefix("0::"));
    Ok(path.unwrap_or_default().to_owned())
}

/// A line of `cgroup.events`.
pub(super) fn event(directory: &Path, name: &str) -> Result<bool, CgroupError> {
    let events = files::read(&directory.join("cgroup.events"))?;
    Ok(super::stats::keyed(&events, name) == Some(1))
}

/// The files that carry the limits, in the order in which they are to be written.
pub(super) fn plan(resources: &oci::LinuxResources) -> Result<Vec<Write>, CgroupError> {
    let mut plan = Plan::default();
    if let Some(memory) = resources.memory() {
        plan_memory(&mut plan, memory)?;
    }
    if let Some(cpu) = resources.cpu() {
        plan_cpu(&mut plan, cpu)?;
    }
    plan.pids(resources);
    if let Some(block) = resources.block_io() {
        plan_block(&mut plan, block)?;
    }
    plan.huge_pages(resources, "max", "rsvd.max")?;
    if let Some(network) = resources.network() {
        let class = given(network.class_id()).is_some();
        let priorities = network.priorities().iter().flatten().next().is_some();
        refuse(class, "the network class")?;
        refuse(priorities, "the network priorities")?;
    }
    plan.rdma(resources);
    plan_unified(&mut plan, resources)?;
    Ok(plan.writes)
}

/// What only version 1 has.
fn refuse(asked: bool, limit: &str) -> Result<(), CgroupError> {
    if !asked {
        return Ok(());
    }
    Err(CgroupError::Unsupported {
        limit: limit.to_owned(),
        why: "only cgroup version 1 has it, and this host has version 2",
    })
}

fn plan_memory(plan: &mut Plan, memory: &oci::LinuxMemory) -> Result<(), CgroupError> {
    let limit = given(memory.limit());
    if let Some(sum) = memory_and_swap(memory) {
        let swap = swap_alone(limit, sum)?;
        let all_or_nothing = swap == "max" || swap == "0";
        let write = plan.add("memory.swap.max", swap, "the swap limit");
        if all_or_nothing {
            // There is none, or it is not counted.
            write.if_missing = IfMissing::Ignore;
        }
    }
    if let Some(limit) = limit {
        plan.add("memory.max", or_max(limit), "the memory limit");
    }
    if let Some(reservation) = given(memory.reservation()) {
        plan.add("memory.low", or_max(reservation), "the memory reservation");
    }
    refuse(
        given(memory.kernel_tcp()).is_some(),
        "the kernel TCP memory limit",
    )?;
    refuse(memory.swappiness().is_some(), "swappiness")?;
    refuse(
        memory.disable_oom_killer() == Some(true),
        "switching off the OOM killer",
    )
}

fn plan_cpu(plan: &mut Plan, cpu: &oci::LinuxCpu) -> Result<(), CgroupError> {
    if let Some(shares) = given(cpu.shares()) {
        plan.add("cpu.weight", weight_of_shares(shares), "the CPU shares");
    }
    let (quota, period) = (given(cpu.quota()), given(cpu.period()));
    // More than the old quota allows, until the new one is written.
    if let Some(burst) = cpu.burst() {
        plan.add("cpu.max.burst", burst, "the CPU burst").again = quota.is_some();
    }
    if quota.is_some() || period.is_some() {
        let quota = or_max(quota.unwrap_or(-1));
        let value = match period {
            Some(period) => format!("{quota} {period}"),
            None => quota,
        };
        plan.add("cpu.max", value, "the CPU quota");
    }
    if let Some(idle) = cpu.idle() {
        plan.add("cpu.idle", idle, "idle scheduling");
    }
    refuse(
        given(cpu.realtime_runtime()).is_some(),
        "the real-time runtime",
    )?;
    refuse(
        given(cpu.realtime_period()).is_some(),
        "the real-time period",
    )?;
    plan.cpuset(cpu);
    Ok(())
}

/// Weights are BFQ's where it is loaded, else those of the I/O cost model, which has a wider range.
fn plan_block(plan: &mut Plan, block: &oci::LinuxBlockIo) -> Result<(), CgroupError> {
    let mut weigh = |device: String, weight: u16| {
        let cost = format!("{device}{}", io_weight(weight));
        plan.add(
            "io.bfq.weight",
            format!("{device}{weight}"),
            "the block I/O weight",
        )
        .if_missing = IfMissing::Instead("io.weight", cost);
    };
    if let Some(weight) = given(block.weight()) {
        weigh(String::new(), weight);
    }
    let mut leaf = given(block.leaf_weight()).is_some();
    for device in block.weight_device().iter().flatten() {
        if let Some(weight) = given(device.weight()) {
            weigh(format!("{}:{} ", device.major(), device.minor()), weight);
        }
        leaf |= given(device.leaf_weight()).is_some();
    }
    refuse(leaf, "the block I/O leaf weight")?;
    for (devices, key) in [
        (block.throttle_read_bps_device(), "rbps"),
        (block.throttle_write_bps_device(), "wbps"),
        (block.throttle_read_iops_device(), "riops"),
        (block.throttle_write_iops_device(), "wiops"),
    ] {
        for device in devices.iter().flatten() {
            let (major, minor, rate) = (device.major(), device.minor(), device.rate());
            let value = format!("{major}:{minor} {key}={rate}");
            plan.add("io.max", value, "the block I/O rate");
        }
    }
    Ok(())
}

/// Files by their own names; several lines are several writes, as the kernel takes them.
fn plan_unified(plan: &mut Plan, resources: &oci::LinuxResources) -> Result<(), CgroupError> {
    let mut unified: Vec<_> = resources.unified().iter().flatten().collect();
    unified.sort();
    for (file, value) in unified {
        // `memory.high`: a controller and a name, no path.
        if file.contains('/') || !file.contains('.') {
            return Err(invalid("the unified limits", file));
        }
        for line in value.lines() {
            plan.add(file, line, "the unified limits");
        }
    }
    Ok(())
}

/// The specification counts memory and swap together, version 2 swap alone.
pub(super) fn swap_alone(limit: Option<i64>, sum: i64) -> Result<String, CgroupError> {
    match limit {
        _ if sum < 0 => Ok(String::from("max")),
        None => Err(invalid(
            "memory and swap",
            "a swap limit needs a memory limit",
        )),
        Some(limit) if limit < 0 || sum < limit => Err(invalid(
            "memory and swap",
            format!("{sum} is below the memory limit {limit}"),
        )),
        Some(limit) => Ok((sum - limit).to_string()),
    }
}

/// 2…262144 shares as weight 1…10000, where the usual 1024 become the usual 100: the parabola
/// through these three, both on logarithmic scales (runc 1.3.2 and crun 1.23 have the same).
pub(super) fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        ..=2 => 1,
        262_144.. => 10_000,
        _ => {
            #[expect(clippy::cast_precision_loss, reason = "18 bits at most")]
            let doublings = (shares as f64).log2();
            let exponent = (doublings * doublings + 125.0 * doublings) / 612.0 - 7.0 / 34.0;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "between 1 and 10000"
            )]
            let weight = 10_f64.powf(exponent).ceil() as u64;
            weight
        }
    }
}

/// 10…1000 as 1…10000.
fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight).saturating_sub(10)) * 9999 / 990
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
    fn swap_is_counted_alone() {
        check(
            r#"{"memory":{"limit":64,"swap":192}}"#,
            &[("memory.swap.max", "128"), ("memory.max", "64")],
        );
        check(
            r#"{"memory":{"limit":-1,"swap":-1}}"#,
            &[("memory.swap.max", "max"), ("memory.max", "max")],
        );
    }

    #[test]
    fn quota_and_period_share_a_file() {
        check(
            r#"{"cpu":{"quota":50000,"period":100000}}"#,
            &[("cpu.max", "50000 100000")],
        );
        check(r#"{"cpu":{"quota":-1}}"#, &[("cpu.max", "max")]);
        check(r#"{"cpu":{"period":20000}}"#, &[("cpu.max", "max 20000")]);
    }

    #[test]
    fn shares_become_weights() {
        let weights = [2, 512, 1024, 2048, 262_144].map(weight_of_shares);
        assert_eq!(weights, [1, 59, 100, 174, 10_000]);
        assert_eq!([10, 500, 1000].map(io_weight), [1, 4950, 10_000]);
    }

    #[test]
    fn block_devices_are_weighed_and_throttled() {
        check(
            r#"{"blockIO":{"weight":500,"weightDevice":[{"major":8,"minor":0,"weight":100}],
                "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":600}],
                "throttleWriteIOPSDevice":[{"major":8,"minor":16,"rate":3}]}}"#,
            &[
                ("io.bfq.weight", "500"),
                ("io.bfq.weight", "8:0 100"),
                ("io.max", "8:0 rbps=600"),
                ("io.max", "8:16 wiops=3"),
            ],
        );
    }

    #[test]
    fn what_only_version_1_has_is_refused() {
        for json in [
            r#"{"memory":{"swappiness":1}}"#,
            r#"{"memory":{"disableOOMKiller":true}}"#,
            r#"{"memory":{"kernelTCP":1}}"#,
            r#"{"cpu":{"realtimeRuntime":1}}"#,
            r#"{"cpu":{"realtimePeriod":1}}"#,
            r#"{"blockIO":{"leafWeight":10}}"#,
            r#"{"network":{"classID":1}}"#,
            r#"{"network":{"priorities":[{"name":"lo","priority":1}]}}"#,
        ] {
            let resources: oci::LinuxResources = serde_json::from_str(json).unwrap();
            let planned = plan(&resources);
            assert!(
                matches!(planned, Err(CgroupError::Unsupported { .. })),
                "{json}"
            );
        }
        check(
            r#"{"memory":{"kernel":1,"disableOOMKiller":false},"cpu":{"realtimePeriod":0}}"#,
            &[],
        );
    }

    #[test]
    fn lines_of_a_unified_limit_are_written_one_by_one() {
        check(
            r#"{"unified":{"io.max":"8:0 rbps=1\n8:16 rbps=2\n"}}"#,
            &[("io.max", "8:0 rbps=1"), ("io.max", "8:16 rbps=2")],
        );
    }

    #[test]
    fn only_what_is_missing_is_handed_down() {
        assert_eq!(
            missing_controllers("cpuset cpu io memory pids dmem", "cpu pids"),
            "+cpuset +io +memory"
        );
    }

    #[test]
    fn a_unified_limit_is_no_path() {
        let resources: oci::LinuxResources =
            serde_json::from_str(r#"{"unified":{"../x.y":"1"}}"#).unwrap();
        assert!(plan(&resources).is_err());
        check(
            r#"{"unified":{"memory.high":"5"}}"#,
            &[("memory.high", "5")],
        );
    }
}
