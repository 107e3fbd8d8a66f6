//! Resource usage and process tables.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use runtime::cgroup::{Cgroup, CgroupError, Layout};
use vocab::{ContainerId, Failure, Kind};

use crate::containers::FindError;
use crate::containers::index::View;
use crate::shared::Shared;
use crate::top;
use crate::{Engine, Stream};

/// One reading of a container. All zero when it does not run.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Its id.
    pub id: ContainerId,
    /// Its name, without the slash.
    pub name: String,
    /// When it was taken; `None` when the container does not run.
    pub read: Option<SystemTime>,
    /// Of the processors.
    pub cpu: Cpu,
    /// Of the memory.
    pub memory: Memory,
    /// Processes now.
    pub pids: u64,
    /// Processes at most.
    pub pids_limit: Option<u64>,
    /// Bytes and operations of block devices.
    pub block: Vec<Block>,
    /// Counters by interface name inside.
    pub networks: BTreeMap<String, Interface>,
    /// Whether the counters come from cgroup v2: its memory statistics have other names.
    pub unified: bool,
}

/// Processor usage.
#[derive(Clone, Debug, Default)]
pub struct Cpu {
    /// Nanoseconds used.
    pub total_nanos: u64,
    /// In user mode.
    pub user_nanos: u64,
    /// In the kernel.
    pub system_nanos: u64,
    /// By processor; empty where the kernel does not tell.
    pub per_cpu_nanos: Vec<u64>,
    /// Of the whole host, all processors and idle time together.
    pub host_nanos: u64,
    /// Processors.
    pub online: u32,
    /// Periods of the quota.
    pub periods: u64,
    /// In which it ran out.
    pub throttled_periods: u64,
    /// For how long.
    pub throttled_nanos: u64,
}

/// Memory usage.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Bytes.
    pub usage_bytes: u64,
    /// The highest so far, where the kernel tells (v1).
    pub max_usage_bytes: Option<u64>,
    /// Bytes; the host's memory when unlimited.
    pub limit_bytes: u64,
    /// Times the limit was met, where the kernel tells (v1).
    pub failures: Option<u64>,
    /// `memory.stat` as it is.
    pub stats: BTreeMap<String, u64>,
}

/// One counter of one block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Device.
    pub major: u64,
    /// Device.
    pub minor: u64,
    /// `read`, `write`, …
    pub operation: String,
    /// Bytes.
    pub bytes: u64,
    /// Operations.
    pub count: u64,
}

/// Counters of one interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Received.
    pub rx_bytes: u64,
    /// Received.
    pub rx_packets: u64,
    /// Received.
    pub rx_errors: u64,
    /// Received.
    pub rx_dropped: u64,
    /// Sent.
    pub tx_bytes: u64,
    /// Sent.
    pub tx_packets: u64,
    /// Sent.
    pub tx_errors: u64,
    /// Sent.
    pub tx_dropped: u64,
}

/// A process table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Top {
    /// Column heads.
    pub titles: Vec<String>,
    /// Rows.
    pub processes: Vec<Vec<String>>,
}

/// Why there are no readings.
#[derive(Debug, thiserror::Error)]
pub enum StatsError {
    /// The container was not found.
    #[error(transparent)]
    Find(#[from] FindError),
    /// Its cgroup.
    #[error("read the usage of the container")]
    Cgroup(#[source] CgroupError),
}

impl Failure for StatsError {
    fn kind(&self) -> Kind {
        match self {
            Self::Find(error) => error.kind(),
            Self::Cgroup(_) => Kind::Internal,
        }
    }
}

/// Why there is no process table.
#[derive(Debug, thiserror::Error)]
pub enum TopError {
    /// The container was not found.
    #[error(transparent)]
    Find(#[from] FindError),
    /// It does not run.
    #[error("container {0} is not running")]
    NotRunning(ContainerId),
    /// Columns that berth does not know.
    #[error(transparent)]
    Arguments(#[from] top::ArgumentsError),
    /// Its cgroup.
    #[error("list the processes of the container")]
    Cgroup(#[source] CgroupError),
}

impl Failure for TopError {
    fn kind(&self) -> Kind {
        match self {
            Self::Find(error) => error.kind(),
            Self::NotRunning(_) => Kind::Conflict,
            Self::Arguments(_) => Kind::InvalidArgument,
            Self::Cgroup(_) => Kind::Internal,
        }
    }
}

/// Time between two readings of a stream.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);

/// A reading, and the one before it, which rates are made of.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The latest.
    pub now: Arc<Sample>,
    /// Of processor time alone; absent where the container does not run.
    pub before: Option<Arc<Sample>>,
}

impl Engine {
    /// A reading now, and the one that the sampler kept before.
    pub async fn stats(&self, typed: &str) -> Result<Reading, StatsError> {
        let view = self.shared.index().find(typed)?.view();
        let shared = Arc::clone(&self.shared);
        tasks::blocking(move || {
            let now = Host::look(&shared).sample(&view)?;
            Ok(shared.sampler.keep(&view, now))
        })
        .await
    }

    /// The readings of all running containers, as the sampler kept them; it reads each second while
    /// somebody asks, and seldom while nobody does.
    pub async fn all_stats(&self) -> Vec<Reading> {
        let shared = Arc::clone(&self.shared);
        tasks::blocking(move || shared.sampler.all(&shared)).await
    }

    /// A reading each second until the container is removed; empty ones while it does not run.
    pub async fn stats_stream(&self, typed: &str) -> Result<Stream<Arc<Sample>>, StatsError> {
        let handle = self.shared.index().find(typed)?;
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let state = (Arc::clone(&self.shared), handle.view, ticks);
        let samples = futures_util::stream::unfold(state, |(shared, seen, mut ticks)| async {
            ticks.tick().await;
            let view = Arc::clone(&seen.borrow());
            if view.gone {
                return None;
            }
            let read = {
                let (shared, view) = (Arc::clone(&shared), Arc::clone(&view));
                // Many may look at the same container.
                tasks::blocking(move || shared.sampler.recent(&shared, &view)).await
            };
            // One that ends while it is read is shown as ended.
            let sample = read.unwrap_or_else(|_| Arc::new(empty(&view, shared.layout)));
            Some((sample, (shared, seen, ticks)))
        });
        Ok(samples.boxed())
    }

    /// The processes of a running container, in the columns that `ps` shows for `ps_args`.
    pub async fn top(&self, typed: &str, ps_args: &str) -> Result<Top, TopError> {
        let view = self.shared.index().find(typed)?.view();
        let id = view.record.id;
        if !view.course.phase.has_process() {
            return Err(TopError::NotRunning(id));
        }
        let columns = top::columns(ps_args)?;
        let group = self
            .shared
            .cgroup(&id, &view.record.host.resources.cgroup_parent);
        tasks::blocking(move || {
            let pids = Cgroup::open(&group)
                .and_then(|group| group.pids())
                .map_err(TopError::Cgroup)?;
            Ok(top::table(&columns, &pids))
        })
        .await
    }
}

pub(crate) fn empty(view: &View, layout: Layout) -> Sample {
    Sample {
        id: view.record.id,
        name: view.name.clone(),
        read: None,
        cpu: Cpu::default(),
        memory: Memory::default(),
        pids: 0,
        pids_limit: None,
        block: Vec::new(),
        networks: BTreeMap::new(),
        unified: layout == Layout::V2,
    }
}

/// What readings of all containers have in common.
pub(crate) struct Host<'a> {
    shared: &'a Shared,
    /// Of all processors, until now.
    nanos: u64,
    /// Of one that was read already; the others are beside it.
    cgroup: OnceCell<Cgroup>,
}

impl<'a> Host<'a> {
    pub(crate) fn look(shared: &'a Shared) -> Self {
        Self {
            shared,
            nanos: host_nanos(&fs::read_to_string("/proc/stat").unwrap_or_default()),
            cgroup: OnceCell::new(),
        }
    }

    fn cgroup(&self, path: &str) -> Result<Cgroup, CgroupError> {
        match self.cgroup.get() {
            Some(other) => other.another(path),
            None => {
                let first = Cgroup::open(path)?;
                let own = first.another(path);
                drop(self.cgroup.set(first));
                own
            }
        }
    }

    /// Reads a container. Blocks.
    pub(crate) fn sample(&self, view: &View) -> Result<Sample, StatsError> {
        let shared = self.shared;
        let mut sample = empty(view, shared.layout);
        if !view.course.phase.has_process() {
            return Ok(sample);
        }
        let parent = &view.record.host.resources.cgroup_parent;
        let group = shared.cgroup(&view.record.id, parent);
        let stats = self
            .cgroup(&group)
            .and_then(|group| group.usage())
            .map_err(StatsError::Cgroup)?;
        sample.read = Some(SystemTime::now());
        sample.cpu = Cpu {
            total_nanos: stats.cpu.usage_nanos,
            user_nanos: stats.cpu.user_nanos,
            system_nanos: stats.cpu.system_nanos,
            per_cpu_nanos: stats.cpu.per_cpu_nanos,
            host_nanos: self.nanos,
            online: online(),
            periods: stats.cpu.periods,
            throttled_periods: stats.cpu.throttled_periods,
            throttled_nanos: stats.cpu.throttled_nanos,
        };
        let v1 = shared.layout != Layout::V2;
        sample.memory = Memory {
            usage_bytes: stats.memory.usage_bytes,
            max_usage_bytes: v1.then_some(stats.memory.max_usage_bytes),
            limit_bytes: stats
                .memory
                .limit_bytes
                .unwrap_or_else(crate::system::memory_bytes),
            failures: v1.then_some(stats.memory.failures),
            stats: stats.memory.stat,
        };
        sample.pids = stats.pids.current;
        sample.pids_limit = stats.pids.limit;
        let requests = &stats.block.requests;
        sample.block = stats
            .block
            .bytes
            .iter()
            .map(|io| Block {
                major: io.major,
                minor: io.minor,
                operation: io.operation.clone(),
                bytes: io.value,
                count: requests
                    .iter()
                    .find(|other| {
                        (other.major, other.minor, &other.operation)
                            == (io.major, io.minor, &io.operation)
                    })
                    .map_or(0, |other| other.value),
            })
            .collect();
        if view.record.host.network_mode != "host" {
            let path = format!("/proc/{}/net/dev", view.course.pid);
            sample.networks = interfaces(&fs::read_to_string(Path::new(&path)).unwrap_or_default());
        }
        Ok(sample)
    }
}

pub(crate) fn online() -> u32 {
    let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// All time of all processors: the first line of `/proc/stat`, in hundredths of a second.
fn host_nanos(text: &str) -> u64 {
    const TICK_NANOS: u64 = 10_000_000;
    // user, nice, system, idle, iowait, irq, softirq, steal; guest time is in user already.
    let ticks: u64 = text
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .take(8)
        .filter_map(|word| word.parse::<u64>().ok())
        .sum();
    ticks.saturating_mul(TICK_NANOS)
}

/// Reads `/proc/<pid>/net/dev`, without the loopback.
fn interfaces(text: &str) -> BTreeMap<String, Interface> {
    let lines = text.lines().skip(2);
    let read = lines.filter_map(|line| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> = numbers
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        let at = |place: usize| numbers.get(place).copied().unwrap_or(0);
        let interface = Interface {
            rx_bytes: at(0),
            rx_packets: at(1),
            rx_errors: at(2),
            rx_dropped: at(3),
            tx_bytes: at(8),
            tx_packets: at(9),
            tx_errors: at(10),
            tx_dropped: at(11),
        };
        Some((name.trim().to_owned(), interface))
    });
    read.filter(|(name, _)| name != "lo").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_the_host_are_read() {
        assert_eq!(
            host_nanos("cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1"),
            36 * 10_000_000
        );
        let text = "Inter-|\n face |\n  lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n\
                    eth0: 10 2 3 4 0 0 0 0 50 6 7 8 0 0 0 0\n";
        let read = interfaces(text);
        assert_eq!(read.len(), 1);
        assert_eq!((read["eth0"].rx_bytes, read["eth0"].tx_dropped), (10, 8));
    }
}
