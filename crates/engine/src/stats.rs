//! Resource usage and process tables.

use std::collections::BTreeMap;
use std::time::SystemTime;

use vocab::{ContainerId, Failure, Kind};

use crate::containers::FindError;
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
}

impl Failure for StatsError {
    fn kind(&self) -> Kind {
        match self {
            Self::Find(error) => error.kind(),
        }
    }
}

/// Why there is no process table.
#[derive(Debug, thiserror::Error)]
pub enum TopError {
    /// The container was not found.
    #[error(transparent)]
    Find(#[from] FindError),
}

impl Failure for TopError {
    fn kind(&self) -> Kind {
        match self {
            Self::Find(error) => error.kind(),
        }
    }
}

impl Engine {
    /// One reading now.
    pub async fn stats(&self, _typed: &str) -> Result<Sample, StatsError> {
        todo!()
    }

    /// A reading each second until the container is removed; empty ones while it does not run.
    pub async fn stats_stream(&self, _typed: &str) -> Result<Stream<Sample>, StatsError> {
        todo!()
    }

    /// The processes of a running container, in the columns that `ps` shows for `ps_args`.
    pub async fn top(&self, _typed: &str, _ps_args: &str) -> Result<Top, TopError> {
        todo!()
    }
}
