//! What a cgroup has used, in one shape for both versions.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::CgroupError;
use super::files::{read, read_if_there};

/// Everything that is counted. What the host does not count is zero or empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Processor time.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
    /// Tasks.
    pub pids: Pids,
    /// Block devices.
    pub block: BlockIo,
}

/// Processor time, in nanoseconds since the cgroup was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// All.
    pub usage_nanos: u64,
    /// In user mode.
    pub user_nanos: u64,
    /// In the kernel.
    pub system_nanos: u64,
    /// For each processor; version 1 only.
    pub per_cpu_nanos: Vec<u64>,
    /// Enforcement periods that have passed.
    pub periods: u64,
    /// Those in which the quota ran out.
    pub throttled_periods: u64,
    /// How long tasks were held back.
    pub throttled_nanos: u64,
}

/// Memory, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Now, page cache included.
    pub usage_bytes: u64,
    /// The most there was; version 1 and newer version 2 kernels.
    pub max_usage_bytes: u64,
    /// `None` is no limit.
    pub limit_bytes: Option<u64>,
    /// Times that the limit was met.
    pub failures: u64,
    /// Processes killed for want of memory.
    pub oom_kills: u64,
    /// The kernel's `memory.stat`, by its own names.
    pub stat: BTreeMap<String, u64>,
}

/// Tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pids {
    /// Now.
    pub current: u64,
    /// `None` is no limit.
    pub limit: Option<u64>,
}

/// Block devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockIo {
    /// Bytes, by device and operation.
    pub bytes: Vec<DeviceIo>,
    /// Requests, by device and operation.
    pub requests: Vec<DeviceIo>,
}

/// One count of one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceIo {
    /// Of the device.
    pub major: u64,
    /// Of the device.
    pub minor: u64,
    /// `read`, `write`, and on version 1 also `sync`, `async`, `discard`, `total`.
    pub operation: String,
    /// How many.
    pub value: u64,
}

/// Version 1 prints "no limit" as the largest page-aligned number; nothing real is above this.
const NO_LIMIT_BYTES: u64 = 1 << 62;
/// `cpuacct.stat` counts in ticks of a hundredth of a second (`USER_HZ`).
const TICK_NANOS: u64 = 10_000_000;

/// The value of `name` in lines of `name value`.
pub(super) fn keyed(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        line.strip_prefix(name)?
            .strip_prefix(' ')?
            .trim()
            .parse()
            .ok()
    })
}

fn map(text: &str) -> BTreeMap<String, u64> {
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs
        .filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?)))
        .collect()
}

/// A file of one number, or `max`.
fn number(file: &Path) -> Result<Option<u64>, CgroupError> {
    Ok(read_if_there(file)?.and_then(|text| text.trim().parse().ok()))
}

/// From version 1 hierarchies; `directory` gives that of a controller.
pub(super) fn v1(directory: impl Fn(&str) -> Option<PathBuf>) -> Result<Stats, CgroupError> {
    let mut stats = Stats::default();
    if let Some(at) = directory("cpuacct") {
        stats.cpu.usage_nanos = number(&at.join("cpuacct.usage"))?.unwrap_or(0);
        let text = read(&at.join("cpuacct.usage_percpu"))?;
        stats.cpu.per_cpu_nanos = text.split_whitespace().flat_map(str::parse).collect();
        let text = read(&at.join("cpuacct.stat"))?;
        stats.cpu.user_nanos = keyed(&text, "user").unwrap_or(0) * TICK_NANOS;
        stats.cpu.system_nanos = keyed(&text, "system").unwrap_or(0) * TICK_NANOS;
    }
    if let Some(at) = directory("cpu") {
        let text = read(&at.join("cpu.stat"))?;
        stats.cpu.periods = keyed(&text, "nr_periods").unwrap_or(0);
        stats.cpu.throttled_periods = keyed(&text, "nr_throttled").unwrap_or(0);
        stats.cpu.throttled_nanos = keyed(&text, "throttled_time").unwrap_or(0);
    }
    if let Some(at) = directory("memory") {
        let of = |file: &str| number(&at.join(file)).map(Option::unwrap_or_default);
        stats.memory.usage_bytes = of("memory.usage_in_bytes")?;
        stats.memory.max_usage_bytes = of("memory.max_usage_in_bytes")?;
        stats.memory.failures = of("memory.failcnt")?;
        let limit = of("memory.limit_in_bytes")?;
        stats.memory.limit_bytes = (limit < NO_LIMIT_BYTES).then_some(limit);
        stats.memory.stat = map(&read(&at.join("memory.stat"))?);
        let control = read(&at.join("memory.oom_control"))?;
        stats.memory.oom_kills = keyed(&control, "oom_kill").unwrap_or(0);
    }
    if let Some(at) = directory("pids") {
        stats.pids.current = number(&at.join("pids.current"))?.unwrap_or(0);
        stats.pids.limit = number(&at.join("pids.max"))?;
    }
    if let Some(at) = directory("blkio") {
        let of = |file: &str| {
            read_if_there(&at.join(file)).map(|text| v1_block(&text.unwrap_or_default()))
        };
        stats.block.bytes = of("blkio.throttle.io_service_bytes_recursive")?;
        stats.block.requests = of("blkio.throttle.io_serviced_recursive")?;
    }
    Ok(stats)
}

/// Lines of `8:0 Read 4096`; the last line is a total without a device.
fn v1_block(text: &str) -> Vec<DeviceIo> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let (major, minor) = fields.next()?.split_once(':')?;
            Some(DeviceIo {
                major: major.parse().ok()?,
                minor: minor.parse().ok()?,
                operation: fields.next()?.to_ascii_lowercase(),
                value: fields.next()?.parse().ok()?,
            })
        })
        .collect()
}

/// From a version 2 cgroup.
pub(super) fn v2(at: &Path) -> Result<Stats, CgroupError> {
    let mut stats = Stats::default();
    let text = read(&at.join("cpu.stat"))?;
    let micros = |name: &str| keyed(&text, name).unwrap_or(0) * 1000;
    stats.cpu.usage_nanos = micros("usage_usec");
    stats.cpu.user_nanos = micros("user_usec");
    stats.cpu.system_nanos = micros("system_usec");
    stats.cpu.throttled_nanos = micros("throttled_usec");
    stats.cpu.periods = keyed(&text, "nr_periods").unwrap_or(0);
    stats.cpu.throttled_periods = keyed(&text, "nr_throttled").unwrap_or(0);

    stats.memory.usage_bytes = number(&at.join("memory.current"))?.unwrap_or(0);
    stats.memory.max_usage_bytes = number(&at.join("memory.peak"))?.unwrap_or(0);
    stats.memory.limit_bytes = number(&at.join("memory.max"))?;
    stats.memory.stat = map(&read_if_there(&at.join("memory.stat"))?.unwrap_or_default());
    let events = read_if_there(&at.join("memory.events"))?.unwrap_or_default();
    stats.memory.failures = keyed(&events, "max").unwrap_or(0);
    stats.memory.oom_kills = keyed(&events, "oom_kill").unwrap_or(0);

    stats.pids.current = number(&at.join("pids.current"))?.unwrap_or(0);
    stats.pids.limit = number(&at.join("pids.max"))?;

    let text = read_if_there(&at.join("io.stat"))?.unwrap_or_default();
    for (key, operation) in [
        ("rbytes", "read"),
        ("wbytes", "write"),
        ("dbytes", "discard"),
    ] {
        stats.block.bytes.extend(v2_block(&text, key, operation));
    }
    for (key, operation) in [("rios", "read"), ("wios", "write"), ("dios", "discard")] {
        stats.block.requests.extend(v2_block(&text, key, operation));
    }
    Ok(stats)
}

/// Lines of `8:0 rbytes=4096 wbytes=0 rios=1 …`.
fn v2_block(text: &str, key: &str, operation: &str) -> Vec<DeviceIo> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let (major, minor) = fields.next()?.split_once(':')?;
            let value = fields.find_map(|field| field.strip_prefix(key)?.strip_prefix('='))?;
            Some(DeviceIo {
                major: major.parse().ok()?,
                minor: minor.parse().ok()?,
                operation: operation.to_owned(),
                value: value.parse().ok()?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_counts_of_both_versions_are_read() {
        let one = v1_block("8:0 Read 4096\n8:0 Write 0\nTotal 4096\n");
        assert_eq!(
            (one.len(), one[0].operation.as_str(), one[0].value),
            (2, "read", 4096)
        );
        let two = v2_block("8:16 rbytes=7 wbytes=9 rios=1\n253:0\n", "wbytes", "write");
        assert_eq!((two.len(), two[0].minor, two[0].value), (1, 16, 9));
    }

    #[test]
    fn a_name_is_not_taken_for_a_longer_one() {
        let text = "oom_kill_disable 1\nunder_oom 0\noom_kill 3\n";
        assert_eq!(keyed(text, "oom_kill"), Some(3));
    }

    #[test]
    fn a_version_2_cgroup_is_counted() {
        let at = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("cpu.stat", "usage_usec 7\nuser_usec 3\nnr_periods 2\n"),
            ("memory.current", "4096\n"),
            ("memory.max", "max\n"),
            ("memory.events", "low 0\nmax 5\noom_kill 1\n"),
            ("pids.max", "12\n"),
        ] {
            std::fs::write(at.path().join(file), text).unwrap();
        }
        let stats = v2(at.path()).unwrap();
        assert_eq!((stats.cpu.usage_nanos, stats.cpu.periods), (7000, 2));
        assert_eq!(
            (stats.memory.usage_bytes, stats.memory.limit_bytes),
            (4096, None)
        );
        assert_eq!((stats.memory.failures, stats.memory.oom_kills), (5, 1));
        assert_eq!(stats.pids.limit, Some(12));
    }
}
