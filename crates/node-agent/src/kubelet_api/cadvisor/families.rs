//! The metrics, each with a function that reads its value from a subject.

use container_runtime::accounting::{Accounting, BlockTraffic};
use process_telemetry::prometheus::Metric;

use crate::kubelet_api::network::Interface;
use crate::machine::machine_info::{Disk, MachineInfo, meminfo};
use crate::machine::stats::UsageFigures;

/// A metric, and the function that reads its value from a subject.
pub(super) type MetricOf<T> = (Metric, fn(&T) -> Option<u64>);

pub(super) const CPU: Metric = Metric::counter(
    "container_cpu_usage_seconds_total",
    "Cumulative cpu time consumed in seconds",
);

pub(super) const MEMORY: [MetricOf<UsageFigures>; 3] = [
    (
        Metric::gauge(
            "container_memory_usage_bytes",
            "Current memory usage in bytes, including all memory regardless of when it was accessed",
        ),
        |figures| Some(figures.sample.usage_bytes),
    ),
    (
        Metric::gauge(
            "container_memory_working_set_bytes",
            "Current working set in bytes",
        ),
        |figures| Some(figures.sample.working_set_bytes),
    ),
    (
        Metric::gauge("container_memory_rss", "Size of RSS in bytes"),
        |figures| Some(figures.sample.rss_bytes),
    ),
];

/// Times in nanoseconds, which the page prints in seconds.
pub(super) const TIMES: [MetricOf<Accounting>; 3] = [
    (
        Metric::counter(
            "container_cpu_user_seconds_total",
            "Cumulative user cpu time consumed in seconds",
        ),
        |accounting| accounting.user_ns,
    ),
    (
        Metric::counter(
            "container_cpu_system_seconds_total",
            "Cumulative system cpu time consumed in seconds",
        ),
        |accounting| accounting.system_ns,
    ),
    (
        Metric::counter(
            "container_cpu_cfs_throttled_seconds_total",
            "Total time duration the container has been throttled",
        ),
        |accounting| {
            accounting
                .throttled_ns
                .filter(|_| accounting.cpu_quota_us.is_some())
        },
    ),
];

pub(super) const COUNTS: [MetricOf<Accounting>; 16] = [
    (
        Metric::counter(
            "container_cpu_cfs_periods_total",
            "Number of elapsed enforcement period intervals",
        ),
        |accounting| {
            accounting
                .periods
                .filter(|_| accounting.cpu_quota_us.is_some())
        },
    ),
    (
        Metric::counter(
            "container_cpu_cfs_throttled_periods_total",
            "Number of throttled period intervals",
        ),
        |accounting| {
            accounting
                .throttled_periods
                .filter(|_| accounting.cpu_quota_us.is_some())
        },
    ),
    (
        Metric::gauge(
            "container_memory_cache",
            "Number of bytes of page cache memory",
        ),
        |accounting| accounting.cache_bytes,
    ),
    (
        Metric::gauge(
            "container_memory_mapped_file",
            "Size of memory mapped files in bytes",
        ),
        |accounting| accounting.mapped_file_bytes,
    ),
    (
        Metric::gauge("container_memory_swap", "Container swap usage in bytes"),
        |accounting| accounting.swap_bytes,
    ),
    (
        Metric::gauge(
            "container_memory_max_usage_bytes",
            "Maximum memory usage recorded in bytes",
        ),
        |accounting| accounting.memory_max_bytes,
    ),
    (
        Metric::counter(
            "container_memory_failcnt",
            "Number of memory usage hits limits",
        ),
        |accounting| accounting.memory_limit_hits,
    ),
    (
        Metric::counter(
            "container_oom_events_total",
            "Count of out of memory events observed for the container",
        ),
        |accounting| accounting.oom_kills,
    ),
    (
        Metric::gauge(
            "container_processes",
            "Number of processes running inside the container",
        ),
        |accounting| accounting.processes,
    ),
    (
        Metric::gauge(
            "container_threads",
            "Number of threads running inside the container",
        ),
        |accounting| accounting.threads,
    ),
    (
        Metric::gauge(
            "container_threads_max",
            "Maximum number of threads allowed inside the container, infinity if value is zero",
        ),
        |accounting| Some(accounting.threads_max.unwrap_or(0)),
    ),
    (
        Metric::counter(
            "mainstay_refused_processes_total",
            "Cumulative count of processes and threads that were refused at the limit of their pod",
        ),
        |accounting| accounting.forks_refused,
    ),
    (
        Metric::gauge("container_spec_cpu_period", "CPU period of the container"),
        |accounting| accounting.cpu_period_us,
    ),
    (
        Metric::gauge("container_spec_cpu_quota", "CPU quota of the container"),
        |accounting| accounting.cpu_quota_us,
    ),
    (
        Metric::gauge("container_spec_cpu_shares", "CPU share of the container"),
        |accounting| accounting.cpu_shares,
    ),
    (
        Metric::gauge(
            "container_spec_memory_limit_bytes",
            "Memory limit for the container",
        ),
        |accounting| Some(accounting.memory_limit_bytes.unwrap_or(0)),
    ),
];

pub(super) const FAULTS: Metric = Metric::counter(
    "container_memory_failures_total",
    "Cumulative count of memory allocation failures",
);

pub(super) const STARTED: Metric = Metric::gauge(
    "container_start_time_seconds",
    "Start time of the container since unix epoch in seconds",
);
pub(super) const SEEN: Metric = Metric::gauge(
    "container_last_seen",
    "Last time a container was seen by the exporter",
);

pub(super) const BLOCK: [MetricOf<BlockTraffic>; 4] = [
    (
        Metric::counter(
            "container_fs_reads_bytes_total",
            "Cumulative count of bytes read",
        ),
        |traffic| Some(traffic.read_bytes),
    ),
    (
        Metric::counter(
            "container_fs_writes_bytes_total",
            "Cumulative count of bytes written",
        ),
        |traffic| Some(traffic.written_bytes),
    ),
    (
        Metric::counter(
            "container_fs_reads_total",
            "Cumulative count of reads completed",
        ),
        |traffic| Some(traffic.reads),
    ),
    (
        Metric::counter(
            "container_fs_writes_total",
            "Cumulative count of writes completed",
        ),
        |traffic| Some(traffic.writes),
    ),
];

pub(super) const NETWORK: [MetricOf<Interface>; 8] = [
    (
        Metric::counter(
            "container_network_receive_bytes_total",
            "Cumulative count of bytes received",
        ),
        |link| Some(link.received_bytes),
    ),
    (
        Metric::counter(
            "container_network_receive_packets_total",
            "Cumulative count of packets received",
        ),
        |link| Some(link.received_packets),
    ),
    (
        Metric::counter(
            "container_network_receive_errors_total",
            "Cumulative count of errors encountered while receiving",
        ),
        |link| Some(link.receive_errors),
    ),
    (
        Metric::counter(
            "container_network_receive_packets_dropped_total",
            "Cumulative count of packets dropped while receiving",
        ),
        |link| Some(link.receive_drops),
    ),
    (
        Metric::counter(
            "container_network_transmit_bytes_total",
            "Cumulative count of bytes transmitted",
        ),
        |link| Some(link.sent_bytes),
    ),
    (
        Metric::counter(
            "container_network_transmit_packets_total",
            "Cumulative count of packets transmitted",
        ),
        |link| Some(link.sent_packets),
    ),
    (
        Metric::counter(
            "container_network_transmit_errors_total",
            "Cumulative count of errors encountered while transmitting",
        ),
        |link| Some(link.send_errors),
    ),
    (
        Metric::counter(
            "container_network_transmit_packets_dropped_total",
            "Cumulative count of packets dropped while transmitting",
        ),
        |link| Some(link.send_drops),
    ),
];

/// The usage of the file system of the data directory.
pub(super) struct FileSystemUse {
    pub disk: Disk,
    pub used_bytes: u64,
}

pub(super) const FILE_SYSTEM: [MetricOf<FileSystemUse>; 4] = [
    (
        Metric::gauge(
            "container_fs_limit_bytes",
            "Number of bytes that can be consumed by the container on this filesystem",
        ),
        |usage| Some(usage.disk.total),
    ),
    (
        Metric::gauge(
            "container_fs_usage_bytes",
            "Number of bytes that are consumed by the container on this filesystem",
        ),
        |usage| Some(usage.used_bytes),
    ),
    (
        Metric::gauge("container_fs_inodes_total", "Number of Inodes"),
        |usage| Some(usage.disk.files),
    ),
    (
        Metric::gauge("container_fs_inodes_free", "Number of available Inodes"),
        |usage| Some(usage.disk.files_free),
    ),
];

pub(super) const MACHINE: [MetricOf<MachineInfo>; 3] = [
    (
        Metric::gauge("machine_cpu_cores", "Number of logical CPU cores"),
        |machine| u64::try_from(machine.cpus).ok(),
    ),
    (
        Metric::gauge(
            "machine_memory_bytes",
            "Amount of memory installed on the machine",
        ),
        |machine| Some(machine.memory_bytes),
    ),
    (
        Metric::gauge(
            "machine_swap_bytes",
            "Amount of swap memory available on the machine",
        ),
        |_| meminfo("SwapTotal"),
    ),
];

pub(super) const VERSION: Metric = Metric::gauge(
    "cadvisor_version_info",
    "A metric with a constant '1' value labeled by kernel version, OS version, docker version, cadvisor \
     version & cadvisor revision",
);
