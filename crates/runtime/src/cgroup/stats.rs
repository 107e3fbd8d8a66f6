//! What a cgroup has used, in one shape for both versions.

use std::collections::BTreeMap;

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
