//! The kernel's accounting of a container or pod, in addition to its [usage](crate::spec::Usage).

use std::collections::BTreeMap;

/// The counters and limits of a container or pod; `None` if the kernel has no such file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounting {
    /// CPU time in user mode, in nanoseconds.
    pub user_ns: Option<u64>,
    /// CPU time in the kernel, in nanoseconds.
    pub system_ns: Option<u64>,
    /// Number of periods of the CPU quota so far.
    pub periods: Option<u64>,
    /// Number of periods in which the quota was used up.
    pub throttled_periods: Option<u64>,
    /// Time that processes waited because the quota was used up, in nanoseconds.
    pub throttled_ns: Option<u64>,
    /// CPU quota per period, in microseconds.
    pub cpu_quota_us: Option<u64>,
    /// Length of a period, in microseconds.
    pub cpu_period_us: Option<u64>,
    /// Weight of the CPU time, as version 1 counts it: 1024 per processor.
    pub cpu_shares: Option<u64>,
    /// Page cache (`file` of `memory.stat`), in bytes.
    pub cache_bytes: Option<u64>,
    /// Files mapped into memory (`file_mapped`), in bytes.
    pub mapped_file_bytes: Option<u64>,
    /// Swap space in use, in bytes.
    pub swap_bytes: Option<u64>,
    /// The largest memory usage so far, in bytes.
    pub memory_max_bytes: Option<u64>,
    /// The memory limit, in bytes.
    pub memory_limit_bytes: Option<u64>,
    /// The number of times that memory reached the limit.
    pub memory_limit_hits: Option<u64>,
    /// Page faults so far, minor and major.
    pub page_faults: Option<u64>,
    /// Page faults that read from a disk.
    pub major_page_faults: Option<u64>,
    /// Number of kills by the kernel because memory ran out.
    pub oom_kills: Option<u64>,
    /// The number of processes.
    pub processes: Option<u64>,
    /// The number of threads of all processes.
    pub threads: Option<u64>,
    /// The limit of the number of threads (`pids.max`).
    pub threads_max: Option<u64>,
    /// Number of forks that failed because the limit was reached.
    pub forks_refused: Option<u64>,
    /// The traffic of block devices, by major and minor number.
    pub block: BTreeMap<(u32, u32), BlockTraffic>,
}

/// The traffic of a block device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockTraffic {
    /// Bytes read from the device so far.
    pub read_bytes: u64,
    /// Bytes written to the device so far.
    pub written_bytes: u64,
    /// Completed read operations so far.
    pub reads: u64,
    /// Completed write operations so far.
    pub writes: u64,
}
