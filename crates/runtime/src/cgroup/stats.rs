//! What a cgroup has used, in one shape for both versions.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::CgroupError;
use super::files::{read, read_if_there};

/// Everything that is counted. What the host does not count is zero or empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// Processor time.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
    /// Tasks.
    pub pids: Pids,
    /// Block devices.
    pub block: BlockIo,
    /// Huge pages, by their size, such as `2MB`.
    pub huge_pages: BTreeMap<String, HugePages>,
    /// Remote memory access, by device.
    pub rdma: BTreeMap<String, Rdma>,
    /// Which processors and memory nodes may be used.
    pub cpuset: CpuSet,
    /// Time lost for want of something; version 2 only.
    pub pressure: Pressures,
}

/// Huge pages, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HugePages {
    /// Now.
    pub usage_bytes: u64,
    /// The most there was; version 1 only.
    pub max_usage_bytes: u64,
    /// Times that the limit was met.
    pub failures: u64,
}

/// Remote memory access of one device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rdma {
    /// Handles now.
    pub handles: u64,
    /// Objects now.
    pub objects: u64,
    /// `None` is no limit.
    pub handle_limit: Option<u64>,
    /// `None` is no limit.
    pub object_limit: Option<u64>,
}

/// Processors and memory nodes as the kernel lists them, such as `0-3,7`; empty where not told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuSet {
    /// Processors that are allowed.
    pub cpus: String,
    /// Memory nodes that are allowed.
    pub mems: String,
    /// Switches of version 1, by the names of their files; `None` on version 2.
    pub flags: Option<BTreeMap<String, i64>>,
}

/// Pressure by resource; `None` where the kernel does not measure it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pressures {
    /// Waiting for a processor.
    pub cpu: Option<Pressure>,
    /// Waiting for memory to be freed or read back.
    pub memory: Option<Pressure>,
    /// Waiting for block devices.
    pub io: Option<Pressure>,
}

/// How much time was lost (Documentation/accounting/psi.rst).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pressure {
    /// At least one task waited.
    pub some: Stall,
    /// All tasks waited at once.
    pub full: Stall,
}

/// Shares of the time in percent, over three windows, and the sum.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stall {
    /// Over 10 seconds.
    pub average_10: f64,
    /// Over a minute.
    pub average_60: f64,
    /// Over five minutes.
    pub average_300: f64,
    /// Since the cgroup was made.
    pub total_micros: u64,
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
    /// The same in user mode.
    pub per_cpu_user_nanos: Vec<u64>,
    /// The same in the kernel.
    pub per_cpu_system_nanos: Vec<u64>,
    /// Enforcement periods that have passed.
    pub periods: u64,
    /// Those in which the quota ran out.
    pub throttled_periods: u64,
    /// How long tasks were held back.
    pub throttled_nanos: u64,
    /// Periods in which more than the quota was used; where bursts are allowed.
    pub burst_periods: u64,
    /// How much more.
    pub burst_nanos: u64,
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
    /// What the kernel prints for no limit, where that is a number.
    pub no_limit_bytes: u64,
    /// Times that the limit was met.
    pub failures: u64,
    /// Processes killed for want of memory.
    pub oom_kills: u64,
    /// Swap: on version 1 together with memory, on version 2 alone.
    pub swap: Counter,
    /// The kernel's own; version 1 only.
    pub kernel: Counter,
    /// TCP buffers; version 1 only.
    pub kernel_tcp: Counter,
    /// The kernel's `memory.stat`, by its own names.
    pub stat: BTreeMap<String, u64>,
}

/// One kind of memory, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Whether it is counted at all.
    pub is_counted: bool,
    /// Now.
    pub usage_bytes: u64,
    /// The most there was.
    pub max_usage_bytes: u64,
    /// `None` is no limit.
    pub limit_bytes: Option<u64>,
    /// Times that the limit was met.
    pub failures: u64,
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
/// That number: `PAGE_COUNTER_MAX` pages.
const NO_LIMIT_V1_BYTES: u64 = 0x7fff_ffff_ffff_f000;
/// Version 1's switches of a cpuset.
const CPUSET_FLAGS: [&str; 9] = [
    "cpu_exclusive",
    "mem_hardwall",
    "mem_exclusive",
    "memory_migrate",
    "memory_spread_page",
    "memory_spread_slab",
    "memory_pressure",
    "sched_load_balance",
    "sched_relax_domain_level",
];
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
pub(super) fn number(file: &Path) -> Result<Option<u64>, CgroupError> {
    Ok(read_if_there(file)?.and_then(|text| text.trim().parse().ok()))
}

/// What a user is shown, from version 1 hierarchies; `directory` gives that of a controller.
pub(super) fn v1_usage(directory: impl Fn(&str) -> Option<PathBuf>) -> Result<Stats, CgroupError> {
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
        stats.cpu.burst_periods = keyed(&text, "nr_bursts").unwrap_or(0);
        stats.cpu.burst_nanos = keyed(&text, "burst_time").unwrap_or(0);
    }
    if let Some(at) = directory("memory") {
        let usage = v1_memory(&at, "memory")?;
        stats.memory.usage_bytes = usage.usage_bytes;
        stats.memory.max_usage_bytes = usage.max_usage_bytes;
        stats.memory.failures = usage.failures;
        stats.memory.limit_bytes = usage.limit_bytes;
        stats.memory.no_limit_bytes = NO_LIMIT_V1_BYTES;
        stats.memory.stat = map(&read(&at.join("memory.stat"))?);
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

/// Everything, from version 1 hierarchies.
pub(super) fn v1(directory: impl Fn(&str) -> Option<PathBuf>) -> Result<Stats, CgroupError> {
    let mut stats = v1_usage(&directory)?;
    if let Some(at) = directory("cpuacct") {
        for line in read(&at.join("cpuacct.usage_all"))?.lines().skip(1) {
            // cpu user system
            let mut fields = line.split_whitespace().skip(1).flat_map(str::parse::<u64>);
            stats.cpu.per_cpu_user_nanos.extend(fields.next());
            stats.cpu.per_cpu_system_nanos.extend(fields.next());
        }
    }
    if let Some(at) = directory("memory") {
        stats.memory.swap = v1_memory(&at, "memory.memsw")?;
        stats.memory.kernel = v1_memory(&at, "memory.kmem")?;
        stats.memory.kernel_tcp = v1_memory(&at, "memory.kmem.tcp")?;
        let control = read(&at.join("memory.oom_control"))?;
        stats.memory.oom_kills = keyed(&control, "oom_kill").unwrap_or(0);
    }
    if let Some(at) = directory("hugetlb") {
        for size in huge_page_sizes(&at)? {
            let of = |what: &str| count(&at.join(format!("hugetlb.{size}.{what}")));
            let pages = HugePages {
                usage_bytes: of("usage_in_bytes")?,
                max_usage_bytes: of("max_usage_in_bytes")?,
                failures: of("failcnt")?,
            };
            stats.huge_pages.insert(size, pages);
        }
    }
    if let Some(at) = directory("rdma") {
        stats.rdma = rdma(&at)?;
    }
    if let Some(at) = directory("cpuset") {
        stats.cpuset.cpus = line(&at.join("cpuset.cpus"))?;
        stats.cpuset.mems = line(&at.join("cpuset.mems"))?;
        let mut flags = BTreeMap::new();
        for name in CPUSET_FLAGS {
            let text = line(&at.join(format!("cpuset.{name}")))?;
            if let Ok(number) = text.parse() {
                flags.insert(name.to_owned(), number);
            }
        }
        stats.cpuset.flags = Some(flags);
    }
    Ok(stats)
}

/// One kind of memory of version 1; `prefix` begins the names of its files. Nothing where it is
/// not counted.
fn v1_memory(at: &Path, prefix: &str) -> Result<Counter, CgroupError> {
    let of = |what: &str| number(&at.join(format!("{prefix}.{what}")));
    let Some(usage_bytes) = of("usage_in_bytes")? else {
        return Ok(Counter::default());
    };
    Ok(Counter {
        is_counted: true,
        usage_bytes,
        max_usage_bytes: of("max_usage_in_bytes")?.unwrap_or(0),
        limit_bytes: of("limit_in_bytes")?.filter(|limit| *limit < NO_LIMIT_BYTES),
        failures: of("failcnt")?.unwrap_or(0),
    })
}

/// The sizes that the host has, from the names of the controller's files.
fn huge_page_sizes(at: &Path) -> Result<BTreeSet<String>, CgroupError> {
    let failed = || CgroupError::file("list", at);
    let mut sizes = BTreeSet::new();
    for entry in std::fs::read_dir(at).map_err(failed())? {
        let name = entry.map_err(failed())?.file_name();
        let name = name.to_string_lossy();
        let size = name
            .strip_prefix("hugetlb.")
            .and_then(|rest| rest.split('.').next());
        sizes.extend(size.map(str::to_owned));
    }
    Ok(sizes)
}

/// Both versions have the same two files, with lines of `mlx4_0 hca_handle=2 hca_object=max`.
fn rdma(at: &Path) -> Result<BTreeMap<String, Rdma>, CgroupError> {
    let mut devices: BTreeMap<String, Rdma> = BTreeMap::new();
    let lines = |file: &str| read_if_there(&at.join(file)).map(Option::unwrap_or_default);
    let value = |fields: &str, key: &str| {
        let mut fields = fields.split(' ');
        fields.find_map(|field| field.strip_prefix(key)?.strip_prefix('=')?.parse().ok())
    };
    for (name, fields) in lines("rdma.current")?
        .lines()
        .filter_map(|l| l.split_once(' '))
    {
        let device = devices.entry(name.to_owned()).or_default();
        device.handles = value(fields, "hca_handle").unwrap_or(0);
        device.objects = value(fields, "hca_object").unwrap_or(0);
    }
    for (name, fields) in lines("rdma.max")?.lines().filter_map(|l| l.split_once(' ')) {
        let device = devices.entry(name.to_owned()).or_default();
        device.handle_limit = value(fields, "hca_handle");
        device.object_limit = value(fields, "hca_object");
    }
    Ok(devices)
}

fn count(file: &Path) -> Result<u64, CgroupError> {
    number(file).map(Option::unwrap_or_default)
}

/// A file of one line, if it is there.
fn line(file: &Path) -> Result<String, CgroupError> {
    let text = read_if_there(file)?.unwrap_or_default();
    Ok(text.trim().to_owned())
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

/// What a user is shown, from a version 2 cgroup.
pub(super) fn v2_usage(at: &Path) -> Result<Stats, CgroupError> {
    let mut stats = Stats::default();
    let text = read(&at.join("cpu.stat"))?;
    let micros = |name: &str| keyed(&text, name).unwrap_or(0) * 1000;
    stats.cpu.usage_nanos = micros("usage_usec");
    stats.cpu.user_nanos = micros("user_usec");
    stats.cpu.system_nanos = micros("system_usec");
    stats.cpu.throttled_nanos = micros("throttled_usec");
    stats.cpu.periods = keyed(&text, "nr_periods").unwrap_or(0);
    stats.cpu.throttled_periods = keyed(&text, "nr_throttled").unwrap_or(0);
    stats.cpu.burst_periods = keyed(&text, "nr_bursts").unwrap_or(0);
    stats.cpu.burst_nanos = micros("burst_usec");

    stats.memory.usage_bytes = number(&at.join("memory.current"))?.unwrap_or(0);
    stats.memory.max_usage_bytes = number(&at.join("memory.peak"))?.unwrap_or(0);
    stats.memory.limit_bytes = number(&at.join("memory.max"))?;
    stats.memory.no_limit_bytes = u64::MAX;
    stats.memory.stat = map(&read_if_there(&at.join("memory.stat"))?.unwrap_or_default());

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

/// Everything, from a version 2 cgroup.
pub(super) fn v2(at: &Path) -> Result<Stats, CgroupError> {
    let mut stats = v2_usage(at)?;
    let events = read_if_there(&at.join("memory.events"))?.unwrap_or_default();
    stats.memory.failures = keyed(&events, "max").unwrap_or(0);
    stats.memory.oom_kills = keyed(&events, "oom_kill").unwrap_or(0);
    let events = read_if_there(&at.join("memory.swap.events"))?.unwrap_or_default();
    let swap = number(&at.join("memory.swap.current"))?;
    stats.memory.swap = Counter {
        is_counted: swap.is_some(),
        usage_bytes: swap.unwrap_or(0),
        max_usage_bytes: count(&at.join("memory.swap.peak"))?,
        limit_bytes: number(&at.join("memory.swap.max"))?,
        failures: keyed(&events, "max").unwrap_or(0),
    };

    for size in huge_page_sizes(at)? {
        let events = read_if_there(&at.join(format!("hugetlb.{size}.events")))?.unwrap_or_default();
        let pages = HugePages {
            usage_bytes: count(&at.join(format!("hugetlb.{size}.current")))?,
            max_usage_bytes: 0,
            failures: keyed(&events, "max").unwrap_or(0),
        };
        stats.huge_pages.insert(size, pages);
    }
    stats.rdma = rdma(at)?;
    stats.cpuset.cpus = line(&at.join("cpuset.cpus.effective"))?;
    stats.cpuset.mems = line(&at.join("cpuset.mems.effective"))?;
    let pressure = |name: &str| -> Result<Option<Pressure>, CgroupError> {
        Ok(read_if_there(&at.join(name))?.and_then(|text| parse_pressure(&text)))
    };
    stats.pressure = Pressures {
        cpu: pressure("cpu.pressure")?,
        memory: pressure("memory.pressure")?,
        io: pressure("io.pressure")?,
    };
    Ok(stats)
}

/// Two lines such as `some avg10=0.00 avg60=0.12 avg300=0.05 total=1234`.
fn parse_pressure(text: &str) -> Option<Pressure> {
    let stall = |name: &str| -> Option<Stall> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let mut fields = line
            .split_whitespace()
            .filter_map(|field| field.split_once('='));
        let mut next = |key: &str| {
            fields
                .find(|(name, _)| *name == key)
                .map(|(_, value)| value)
        };
        Some(Stall {
            average_10: next("avg10")?.parse().ok()?,
            average_60: next("avg60")?.parse().ok()?,
            average_300: next("avg300")?.parse().ok()?,
            total_micros: next("total")?.parse().ok()?,
        })
    };
    Some(Pressure {
        some: stall("some")?,
        // Processors got theirs with Linux 5.13.
        full: stall("full").unwrap_or_default(),
    })
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
    fn pressure_is_read() {
        let text = "some avg10=1.50 avg60=0.20 avg300=0.00 total=77\n\
                    full avg10=0.00 avg60=0.10 avg300=0.00 total=5\n";
        let pressure = parse_pressure(text).unwrap();
        let (some, full) = (pressure.some, pressure.full);
        assert_eq!((some.average_10, some.total_micros), (1.5, 77));
        assert_eq!((full.average_60, full.total_micros), (0.1, 5));
        assert_eq!(parse_pressure(""), None);
    }

    #[test]
    fn remote_memory_and_huge_pages_are_counted() {
        let at = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("cpu.stat", "usage_usec 7\n"),
            ("rdma.current", "mlx4_0 hca_handle=2 hca_object=2000\n"),
            ("rdma.max", "mlx4_0 hca_handle=3 hca_object=max\n"),
            ("hugetlb.2MB.current", "4194304\n"),
            ("hugetlb.2MB.max", "max\n"),
            ("hugetlb.2MB.events", "max 6\n"),
        ] {
            std::fs::write(at.path().join(file), text).unwrap();
        }
        let stats = v2(at.path()).unwrap();
        let device = &stats.rdma["mlx4_0"];
        assert_eq!((device.handles, device.handle_limit), (2, Some(3)));
        assert_eq!((device.objects, device.object_limit), (2000, None));
        let pages = &stats.huge_pages["2MB"];
        assert_eq!((pages.usage_bytes, pages.failures), (4_194_304, 6));
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
