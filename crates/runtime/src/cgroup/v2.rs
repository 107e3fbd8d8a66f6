//! Version 2: one hierarchy, in which a controller is handed down level by level.

use std::path::Path;
use std::time::Duration;

use super::CgroupError;
use super::files::{self, Write};
use crate::oci;

/// How long freezing may take; a process in an uninterruptible sleep holds it up.
const FREEZING: Duration = Duration::from_secs(10);

/// What containers are limited by, of what the host offers.
const CONTROLLERS: [&str; 8] = [
    "cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma", "misc",
];

/// Makes the directory and those above it; with `controllers` each level hands down what it has.
pub(super) fn make(mount: &Path, path: &Path, controllers: bool) -> Result<(), CgroupError> {
    let mut directory = mount.to_owned();
    for part in path {
        if controllers {
            hand_down(&directory)?;
        }
        directory.push(part);
        files::make(&directory)?;
    }
    Ok(())
}

fn hand_down(directory: &Path) -> Result<(), CgroupError> {
    let offered = files::read(&directory.join("cgroup.controllers"))?;
    let control = directory.join("cgroup.subtree_control");
    let given = files::read(&control)?;
    let missing = missing_controllers(&offered, &given);
    if missing.is_empty() {
        Ok(())
    } else {
        files::write(&control, &missing)
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

/// A line of `cgroup.events`.
pub(super) fn event(directory: &Path, name: &str) -> Result<bool, CgroupError> {
    let events = files::read(&directory.join("cgroup.events"))?;
    Ok(super::stats::keyed(&events, name) == Some(1))
}

/// The files that carry the limits, in the order in which they are to be written.
pub(super) fn plan(resources: &oci::LinuxResources) -> Result<Vec<Write>, CgroupError> {
    let mut writes = Vec::new();
    let mut add = |controller, file: &str, value: String, limit| {
        let file = file.to_owned();
        writes.push(Write {
            controller: Some(controller),
            file,
            value,
            limit,
            optional: false,
            tried: false,
        });
    };
    if let Some(memory) = resources.memory() {
        let limit = memory.limit().filter(|limit| *limit != 0);
        if let Some(swap) = memory.swap().filter(|swap| *swap != 0) {
            add(
                "memory",
                "memory.swap.max",
                swap_alone(limit, swap)?,
                "the swap limit",
            );
        }
        if let Some(limit) = limit {
            add("memory", "memory.max", or_max(limit), "the memory limit");
        }
        if let Some(reservation) = memory.reservation().filter(|value| *value != 0) {
            add(
                "memory",
                "memory.low",
                or_max(reservation),
                "the memory reservation",
            );
        }
        if memory.disable_oom_killer() == Some(true) {
            let value = String::from("version 2 cannot switch off the OOM killer");
            return Err(CgroupError::Invalid {
                limit: "disableOOMKiller",
                value,
            });
        }
    }
    if let Some(cpu) = resources.cpu() {
        if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
            add(
                "cpu",
                "cpu.weight",
                weight_of_shares(shares).to_string(),
                "the CPU shares",
            );
        }
        let (quota, period) = (cpu.quota().unwrap_or(0), cpu.period().unwrap_or(0));
        if (quota, period) != (0, 0) {
            let quota = if quota > 0 {
                quota.to_string()
            } else {
                String::from("max")
            };
            let value = if period == 0 {
                quota
            } else {
                format!("{quota} {period}")
            };
            add("cpu", "cpu.max", value, "the CPU quota");
        }
        if let Some(burst) = cpu.burst() {
            add("cpu", "cpu.max.burst", burst.to_string(), "the CPU burst");
        }
        if let Some(idle) = cpu.idle() {
            add("cpu", "cpu.idle", idle.to_string(), "idle scheduling");
        }
        if cpu.realtime_runtime().is_some_and(|runtime| runtime != 0) {
            return Err(CgroupError::Missing {
                controller: "cpu",
                limit: "the real-time runtime",
            });
        }
        if let Some(cpus) = cpu.cpus().as_ref().filter(|cpus| !cpus.is_empty()) {
            add("cpuset", "cpuset.cpus", cpus.clone(), "the set of CPUs");
        }
        if let Some(mems) = cpu.mems().as_ref().filter(|mems| !mems.is_empty()) {
            add(
                "cpuset",
                "cpuset.mems",
                mems.clone(),
                "the set of memory nodes",
            );
        }
    }
    if let Some(pids) = resources.pids()
        && pids.limit() != 0
    {
        add(
            "pids",
            "pids.max",
            or_max(pids.limit()),
            "the process limit",
        );
    }
    if let Some(block) = resources.block_io() {
        if let Some(weight) = block.weight().filter(|weight| *weight != 0) {
            add(
                "io",
                "io.bfq.weight",
                weight.to_string(),
                "the block I/O weight",
            );
        }
        for device in block.weight_device().iter().flatten() {
            if let Some(weight) = device.weight() {
                let value = format!("{}:{} {weight}", device.major(), device.minor());
                add("io", "io.bfq.weight", value, "the block I/O weight");
            }
        }
        for (devices, key) in [
            (block.throttle_read_bps_device(), "rbps"),
            (block.throttle_write_bps_device(), "wbps"),
            (block.throttle_read_iops_device(), "riops"),
            (block.throttle_write_iops_device(), "wiops"),
        ] {
            for device in devices.iter().flatten() {
                let (major, minor, rate) = (device.major(), device.minor(), device.rate());
                add(
                    "io",
                    "io.max",
                    format!("{major}:{minor} {key}={rate}"),
                    "the block I/O rate",
                );
            }
        }
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        if limit.page_size().contains('/') {
            let value = limit.page_size().clone();
            return Err(CgroupError::Invalid {
                limit: "the huge page size",
                value,
            });
        }
        let file = format!("hugetlb.{}.max", limit.page_size());
        add(
            "hugetlb",
            &file,
            limit.limit().to_string(),
            "the huge page limit",
        );
    }
    if resources
        .network()
        .as_ref()
        .is_some_and(|n| n.class_id().is_some())
    {
        return Err(CgroupError::Missing {
            controller: "net_cls",
            limit: "the network class",
        });
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
    let mut unified: Vec<_> = resources.unified().iter().flatten().collect();
    unified.sort();
    for (file, value) in unified {
        // `memory.high`: a controller and a name, no path.
        if file.contains('/') || !file.contains('.') {
            let value = file.clone();
            return Err(CgroupError::Invalid {
                limit: "the unified limits",
                value,
            });
        }
        writes.push(Write {
            controller: None,
            file: file.clone(),
            value: value.clone(),
            limit: "the unified limits",
            optional: false,
            tried: false,
        });
    }
    Ok(writes)
}

fn or_max(limit: i64) -> String {
    if limit < 0 {
        String::from("max")
    } else {
        limit.to_string()
    }
}

/// The specification counts memory and swap together, version 2 swap alone.
fn swap_alone(limit: Option<i64>, sum: i64) -> Result<String, CgroupError> {
    let invalid = |value: String| CgroupError::Invalid {
        limit: "memory and swap",
        value,
    };
    match limit {
        _ if sum < 0 => Ok(String::from("max")),
        None => Err(invalid(String::from("a swap limit needs a memory limit"))),
        Some(limit) if limit < 0 || sum < limit => {
            Err(invalid(format!("{sum} is below the memory limit {limit}")))
        }
        Some(limit) => Ok((sum - limit).to_string()),
    }
}

/// 2…262144 shares as weight 1…10000 (the conversion of the OCI runtimes before 2025).
fn weight_of_shares(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
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
        assert_eq!([2, 1024, 262_144].map(weight_of_shares), [1, 39, 10_000]);
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
