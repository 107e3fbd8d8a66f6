//! `events`: what a container uses, again and again, and when it runs out of memory.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use runtime::Status;
use runtime::cgroup::{
    BlockIo, Cgroup, CgroupError, Counter, DeviceIo, HugePages, Pressure, Stall, Stats,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

use super::{Command, Outcome, container};
use crate::arguments::{Arguments, Flag};
use crate::{Context, print};

pub(crate) const COMMAND: Command = Command::new(
    "events",
    "displays what a container uses, and when it runs out of memory",
    "<container-id>",
    &[
        Flag::value(&["interval"], "how often (default: 5s)"),
        Flag::switch(&["stats"], "display what is used once, and exit"),
    ],
    run,
);

const INTERVAL: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
enum EventsError {
    #[error("duration interval must be greater than 0")]
    Interval,
    #[error("invalid value {0:?} for flag -interval: parse error")]
    NoInterval(String),
    #[error("container with id {0} is not running")]
    NotRunning(String),
    #[error("the container has no cgroup that counts what it uses")]
    NoCgroup,
    #[error("count what the container uses")]
    Stats(#[source] CgroupError),
    #[error("watch for the end of memory")]
    Watch(#[source] CgroupError),
    #[error("wait")]
    Wait(#[source] std::io::Error),
}

fn run(context: &Context, arguments: &Arguments) -> Outcome {
    let container = container(context, arguments)?;
    let interval = match arguments.text("interval")? {
        None => INTERVAL,
        Some(text) => period(text)?,
    };
    let id = &container.record.id;
    let stopped = || EventsError::NotRunning(id.clone());
    if container.status() == Status::Stopped {
        return Err(stopped().into());
    }
    let cgroup = container.cgroup().ok_or(EventsError::NoCgroup)?;
    if arguments.switch("stats")? {
        tell_stats(id, &cgroup)?;
        return Ok(ExitCode::SUCCESS);
    }
    let init = container.init().ok_or_else(stopped)?;
    let watch = cgroup.watch_oom().map_err(EventsError::Watch)?;
    let mut kills = cgroup.oom_kills().unwrap_or(0);
    let mut next = Instant::now() + interval;
    loop {
        let left = next.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap_or_default();
        let mut fds = [
            PollFd::new(&init, PollFlags::IN),
            PollFd::from_borrowed_fd(watch.as_fd(), PollFlags::IN),
        ];
        match poll(&mut fds, Some(&left)) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other.map_err(|error| EventsError::Wait(error.into()))?,
        };
        let [ended, short] = fds.map(|fd| !fd.revents().is_empty());
        if short {
            watch.drain();
        }
        // Also when nothing was signalled: version 1 signals first and counts later.
        kills = tell_oom(id, &cgroup, kills)?;
        if ended {
            return Ok(ExitCode::SUCCESS);
        }
        if Instant::now() >= next {
            match tell_stats(id, &cgroup) {
                Err(EventsError::Stats(error)) if error.is_gone() => return Ok(ExitCode::SUCCESS),
                other => other?,
            }
            next = Instant::now() + interval;
        }
    }
}

fn period(text: &str) -> Result<Duration, EventsError> {
    let (negative, size) = match text.strip_prefix('-') {
        Some(size) => (true, size),
        None => (false, text),
    };
    let period = vocab::time::parse_duration(size);
    let period = period.ok_or_else(|| EventsError::NoInterval(text.to_owned()))?;
    if negative || period.is_zero() {
        return Err(EventsError::Interval);
    }
    Ok(period)
}

#[derive(Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Shown>,
}

fn tell(event: &Event<'_>) {
    if let Ok(json) = serde_json::to_string(event) {
        print(&(json + "\n"));
    }
}

/// Once for each kill that was counted since.
fn tell_oom(id: &str, cgroup: &Cgroup, before: u64) -> Result<u64, EventsError> {
    let kills = match cgroup.oom_kills() {
        Err(error) if error.is_gone() => before,
        other => other.map_err(EventsError::Stats)?,
    };
    for _ in before..kills {
        tell(&Event {
            kind: "oom",
            id,
            data: None,
        });
    }
    Ok(kills)
}

fn tell_stats(id: &str, cgroup: &Cgroup) -> Result<(), EventsError> {
    let stats = cgroup.stats().map_err(EventsError::Stats)?;
    tell(&Event {
        kind: "stats",
        id,
        data: Some(Shown::new(stats)),
    });
    Ok(())
}

/// runc's shape: what is zero is mostly left out, sections are always there.
#[derive(Debug, Serialize)]
struct Shown {
    cpu: Cpu,
    cpuset: CpuSet,
    memory: Memory,
    pids: Pids,
    blkio: Blkio,
    hugetlb: BTreeMap<String, Hugetlb>,
    intel_rdt: Empty,
    network_interfaces: Option<Empty>,
}

#[derive(Debug, Default, Serialize)]
struct Empty {}

#[derive(Debug, Serialize)]
struct Cpu {
    usage: CpuUsage,
    throttling: Throttling,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Psi>,
}

/// Pressure, as the kernel calls its lines.
#[derive(Debug, Serialize)]
struct Psi {
    some: PsiLine,
    full: PsiLine,
}

#[derive(Debug, Serialize)]
struct PsiLine {
    avg10: f64,
    avg60: f64,
    avg300: f64,
    total: u64,
}

#[derive(Debug, Serialize)]
struct Hugetlb {
    #[serde(skip_serializing_if = "is_zero")]
    usage: u64,
    #[serde(skip_serializing_if = "is_zero")]
    max: u64,
    failcnt: u64,
}

#[derive(Debug, Serialize)]
struct CpuUsage {
    #[serde(skip_serializing_if = "is_zero")]
    total: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    percpu: Vec<u64>,
    #[serde(rename = "percpu_kernel", skip_serializing_if = "Vec::is_empty")]
    kernel_percpu: Vec<u64>,
    #[serde(rename = "percpu_user", skip_serializing_if = "Vec::is_empty")]
    user_percpu: Vec<u64>,
    kernel: u64,
    user: u64,
}

#[derive(Debug, Serialize)]
struct Throttling {
    #[serde(skip_serializing_if = "is_zero")]
    periods: u64,
    #[serde(rename = "throttledPeriods", skip_serializing_if = "is_zero")]
    throttled_periods: u64,
    #[serde(rename = "throttledTime", skip_serializing_if = "is_zero")]
    throttled_nanos: u64,
}

#[derive(Debug, Serialize)]
struct Memory {
    #[serde(skip_serializing_if = "is_zero")]
    cache: u64,
    usage: MemoryEntry,
    swap: MemoryEntry,
    kernel: MemoryEntry,
    #[serde(rename = "kernelTCP")]
    kernel_tcp: MemoryEntry,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    raw: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Psi>,
}

#[derive(Debug, Serialize)]
struct MemoryEntry {
    limit: u64,
    #[serde(skip_serializing_if = "is_zero")]
    usage: u64,
    #[serde(skip_serializing_if = "is_zero")]
    max: u64,
    failcnt: u64,
}

/// Version 1 tells more than is counted elsewhere; on version 2 runc tells nothing but zeros.
#[derive(Debug, Serialize)]
struct CpuSet {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cpus: Vec<u16>,
    cpu_exclusive: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mems: Vec<u16>,
    mem_hardwall: u64,
    mem_exclusive: u64,
    memory_migrate: u64,
    memory_spread_page: u64,
    memory_spread_slab: u64,
    memory_pressure: u64,
    sched_load_balance: u64,
    sched_relax_domain_level: i64,
}

#[derive(Debug, Serialize)]
struct Pids {
    #[serde(skip_serializing_if = "is_zero")]
    current: u64,
    #[serde(skip_serializing_if = "is_zero")]
    limit: u64,
}

#[derive(Debug, Serialize)]
struct Blkio {
    #[serde(
        rename = "ioServiceBytesRecursive",
        skip_serializing_if = "Vec::is_empty"
    )]
    bytes: Vec<BlkioEntry>,
    #[serde(rename = "ioServicedRecursive", skip_serializing_if = "Vec::is_empty")]
    requests: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<Psi>,
}

#[derive(Debug, Serialize)]
struct BlkioEntry {
    #[serde(skip_serializing_if = "is_zero")]
    major: u64,
    #[serde(skip_serializing_if = "is_zero")]
    minor: u64,
    op: String,
    #[serde(skip_serializing_if = "is_zero")]
    value: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Shown {
    fn new(stats: Stats) -> Self {
        let Stats {
            cpu,
            memory,
            pids,
            block: BlockIo { bytes, requests },
            huge_pages,
            pressure,
            cpuset,
            ..
        } = stats;
        let no_limit = memory.no_limit_bytes;
        let entry = |counter: Counter| MemoryEntry {
            // What is not counted has no limit that could be told.
            limit: counter
                .limit_bytes
                .unwrap_or(if counter.is_counted { no_limit } else { 0 }),
            usage: counter.usage_bytes,
            max: counter.max_usage_bytes,
            failcnt: counter.failures,
        };
        let entries = |all: Vec<DeviceIo>| {
            let entry = |one: DeviceIo| BlkioEntry {
                major: one.major,
                minor: one.minor,
                op: capitalised(&one.operation),
                value: one.value,
            };
            all.into_iter().map(entry).collect()
        };
        Self {
            cpu: Cpu {
                usage: CpuUsage {
                    total: cpu.usage_nanos,
                    percpu: cpu.per_cpu_nanos,
                    kernel_percpu: cpu.per_cpu_system_nanos,
                    user_percpu: cpu.per_cpu_user_nanos,
                    kernel: cpu.system_nanos,
                    user: cpu.user_nanos,
                },
                throttling: Throttling {
                    periods: cpu.periods,
                    throttled_periods: cpu.throttled_periods,
                    throttled_nanos: cpu.throttled_nanos,
                },
                psi: pressure.cpu.map(Psi::from),
            },
            cpuset: cpuset.into(),
            memory: Memory {
                cache: memory.stat.get("cache").copied().unwrap_or(0),
                usage: MemoryEntry {
                    limit: memory.limit_bytes.unwrap_or(memory.no_limit_bytes),
                    usage: memory.usage_bytes,
                    max: memory.max_usage_bytes,
                    failcnt: memory.failures,
                },
                swap: entry(memory.swap),
                kernel: entry(memory.kernel),
                kernel_tcp: entry(memory.kernel_tcp),
                raw: memory.stat,
                psi: pressure.memory.map(Psi::from),
            },
            pids: Pids {
                current: pids.current,
                limit: pids.limit.unwrap_or(0),
            },
            blkio: Blkio {
                bytes: entries(bytes),
                requests: entries(requests),
                psi: pressure.io.map(Psi::from),
            },
            hugetlb: huge_pages
                .into_iter()
                .map(|(size, pages)| (size, pages.into()))
                .collect(),
            intel_rdt: Empty {},
            network_interfaces: None,
        }
    }
}

impl From<runtime::cgroup::CpuSet> for CpuSet {
    fn from(set: runtime::cgroup::CpuSet) -> Self {
        let flags = set.flags.as_ref();
        let number = |name: &str| {
            let value = flags.and_then(|flags| flags.get(name));
            value.copied().unwrap_or(0)
        };
        let flag = |name: &str| u64::try_from(number(name)).unwrap_or(0);
        let list = |text: &str| {
            if flags.is_some() {
                numbers(text)
            } else {
                Vec::new()
            }
        };
        Self {
            cpus: list(&set.cpus),
            cpu_exclusive: flag("cpu_exclusive"),
            mems: list(&set.mems),
            mem_hardwall: flag("mem_hardwall"),
            mem_exclusive: flag("mem_exclusive"),
            memory_migrate: flag("memory_migrate"),
            memory_spread_page: flag("memory_spread_page"),
            memory_spread_slab: flag("memory_spread_slab"),
            memory_pressure: flag("memory_pressure"),
            sched_load_balance: flag("sched_load_balance"),
            sched_relax_domain_level: number("sched_relax_domain_level"),
        }
    }
}

/// `0-2,7` as its numbers.
fn numbers(list: &str) -> Vec<u16> {
    let part = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    };
    list.split(',').filter_map(part).flatten().collect()
}

impl From<HugePages> for Hugetlb {
    fn from(pages: HugePages) -> Self {
        Self {
            usage: pages.usage_bytes,
            max: pages.max_usage_bytes,
            failcnt: pages.failures,
        }
    }
}

impl From<Pressure> for Psi {
    fn from(pressure: Pressure) -> Self {
        Self {
            some: pressure.some.into(),
            full: pressure.full.into(),
        }
    }
}

impl From<Stall> for PsiLine {
    fn from(stall: Stall) -> Self {
        Self {
            avg10: stall.average_10,
            avg60: stall.average_60,
            avg300: stall.average_300,
            total: stall.total_micros,
        }
    }
}

/// `read` as the kernel and runc write it: `Read`.
fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    let first = letters.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(letters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_a_time_above_nothing() {
        assert_eq!(period("100ms").unwrap(), Duration::from_millis(100));
        let said = |text| period(text).unwrap_err().to_string();
        for nothing in ["0s", "-1s"] {
            assert_eq!(said(nothing), "duration interval must be greater than 0");
        }
        assert_eq!(
            said("soon"),
            "invalid value \"soon\" for flag -interval: parse error"
        );
    }

    #[test]
    fn stats_have_the_shape_of_runcs() {
        let mut stats = Stats::default();
        stats.cpu.usage_nanos = 7;
        stats.pids.current = 1;
        stats.memory.usage_bytes = 4096;
        stats.memory.stat.insert(String::from("rss"), 5);
        stats.memory.swap.usage_bytes = 2;
        stats.memory.swap.limit_bytes = Some(9);
        stats.memory.kernel.is_counted = true;
        stats.memory.no_limit_bytes = u64::MAX;
        stats.cpuset.cpus = String::from("0-1,3");
        stats.cpuset.flags = Some([(String::from("sched_relax_domain_level"), -1)].into());
        let pages = HugePages {
            usage_bytes: 8,
            ..HugePages::default()
        };
        stats.huge_pages.insert(String::from("2MB"), pages);
        stats.pressure.cpu = Some(Pressure::default());
        stats.block.bytes.push(DeviceIo {
            major: 8,
            minor: 0,
            operation: String::from("read"),
            value: 3,
        });
        let event = Event {
            kind: "stats",
            id: "x",
            data: Some(Shown::new(stats)),
        };
        assert_eq!(
            serde_json::to_string(&event).unwrap(),
            "{\"type\":\"stats\",\"id\":\"x\",\"data\":{\
             \"cpu\":{\"usage\":{\"total\":7,\"kernel\":0,\"user\":0},\"throttling\":{},\
             \"psi\":{\"some\":{\"avg10\":0.0,\"avg60\":0.0,\"avg300\":0.0,\"total\":0},\
             \"full\":{\"avg10\":0.0,\"avg60\":0.0,\"avg300\":0.0,\"total\":0}}},\
             \"cpuset\":{\"cpus\":[0,1,3],\"cpu_exclusive\":0,\"mem_hardwall\":0,\"mem_exclusive\":0,\
             \"memory_migrate\":0,\"memory_spread_page\":0,\"memory_spread_slab\":0,\
             \"memory_pressure\":0,\"sched_load_balance\":0,\"sched_relax_domain_level\":-1},\
             \"memory\":{\"usage\":{\"limit\":18446744073709551615,\"usage\":4096,\"failcnt\":0},\
             \"swap\":{\"limit\":9,\"usage\":2,\"failcnt\":0},\"kernel\":{\"limit\":18446744073709551615,\"failcnt\":0},\
             \"kernelTCP\":{\"limit\":0,\"failcnt\":0},\"raw\":{\"rss\":5}},\
             \"pids\":{\"current\":1},\
             \"blkio\":{\"ioServiceBytesRecursive\":[{\"major\":8,\"op\":\"Read\",\"value\":3}]},\
             \"hugetlb\":{\"2MB\":{\"usage\":8,\"failcnt\":0}},\"intel_rdt\":{},\"network_interfaces\":null}}"
        );
    }
}
