//! The counters and limits of a control group, read from the kernel's files. If a kernel or a hierarchy
//! does not have a file, its values are absent.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::killing::processes_in;
use super::{Hierarchies, join};
use crate::accounting::{Accounting, BlockTraffic};

/// The time of one tick of `cpuacct.stat` (`USER_HZ` is 100 on all architectures of Linux that run containers).
const TICK_NS: u64 = 10_000_000;

pub(crate) fn accounting(group: &str) -> std::io::Result<Accounting> {
    let hierarchies = Hierarchies::mounted()?;
    let mut all = match hierarchies {
        Hierarchies::Unified(root) => unified(&join(root, group)),
        Hierarchies::Split { .. } => split(|controller| hierarchies.v1_dir(controller, group)),
    };
    all.processes = u64::try_from(processes_in(hierarchies, group)?.len()).ok();
    Ok(all)
}

/// Reads the files of version 2.
fn unified(dir: &Path) -> Accounting {
    let cpu = fields(&dir.join("cpu.stat"));
    let memory = fields(&dir.join("memory.stat"));
    let events = fields(&dir.join("memory.events"));
    let micro = |name: &str| Some(cpu.get(name)?.saturating_mul(1000));
    let quota = text(&dir.join("cpu.max"));
    let mut quota = quota.split_whitespace();
    let weight = number(&dir.join("cpu.weight"));
    Accounting {
        user_ns: micro("user_usec"),
        system_ns: micro("system_usec"),
        periods: cpu.get("nr_periods").copied(),
        throttled_periods: cpu.get("nr_throttled").copied(),
        throttled_ns: micro("throttled_usec"),
        cpu_quota_us: quota.next().and_then(|quota| quota.parse().ok()),
        cpu_period_us: quota.next().and_then(|period| period.parse().ok()),
        // The reverse of the function that computes weights from shares.
        cpu_shares: weight.map(|weight| 2 + weight.saturating_sub(1) * 262_142 / 9999),
        cache_bytes: memory.get("file").copied(),
        mapped_file_bytes: memory.get("file_mapped").copied(),
        swap_bytes: number(&dir.join("memory.swap.current")),
        memory_max_bytes: number(&dir.join("memory.peak")),
        memory_limit_bytes: number(&dir.join("memory.max")),
        memory_limit_hits: events.get("max").copied(),
        page_faults: memory.get("pgfault").copied(),
        major_page_faults: memory.get("pgmajfault").copied(),
        oom_kills: events.get("oom_kill").copied(),
        processes: None,
        threads: number(&dir.join("pids.current")),
        threads_max: number(&dir.join("pids.max")),
        forks_refused: fields(&dir.join("pids.events")).get("max").copied(),
        block: block_traffic(&text(&dir.join("io.stat"))),
    }
}

/// Reads the files of version 1.
fn split(dir: impl Fn(&str) -> Option<PathBuf>) -> Accounting {
    let file = |controller: &str, name: &str| {
        let dir = dir(controller);
        dir.unwrap_or_default().join(name)
    };
    let cpu = fields(&file("cpu", "cpu.stat"));
    let ticks = fields(&file("cpuacct", "cpuacct.stat"));
    let memory = fields(&file("memory", "memory.stat"));
    let ticks = |name: &str| Some(ticks.get(name)?.saturating_mul(TICK_NS));
    let of_memory = |name: &str| number(&file("memory", name));
    let mut block = BTreeMap::new();
    for (name, is_bytes) in [
        ("blkio.throttle.io_service_bytes_recursive", true),
        ("blkio.throttle.io_serviced_recursive", false),
    ] {
        add_operations(&mut block, &text(&file("blkio", name)), is_bytes);
    }
    Accounting {
        user_ns: ticks("user"),
        system_ns: ticks("system"),
        periods: cpu.get("nr_periods").copied(),
        throttled_periods: cpu.get("nr_throttled").copied(),
        throttled_ns: cpu.get("throttled_time").copied(),
        cpu_quota_us: number(&file("cpu", "cpu.cfs_quota_us")),
        cpu_period_us: number(&file("cpu", "cpu.cfs_period_us")),
        cpu_shares: number(&file("cpu", "cpu.shares")),
        cache_bytes: memory.get("total_cache").copied(),
        mapped_file_bytes: memory.get("total_mapped_file").copied(),
        swap_bytes: memory.get("total_swap").copied(),
        memory_max_bytes: of_memory("memory.max_usage_in_bytes"),
        // A group without a limit reports a number near the end of the range.
        memory_limit_bytes: of_memory("memory.limit_in_bytes").filter(|limit| *limit < 1 << 62),
        memory_limit_hits: of_memory("memory.failcnt"),
        page_faults: memory.get("total_pgfault").copied(),
        major_page_faults: memory.get("total_pgmajfault").copied(),
        oom_kills: fields(&file("memory", "memory.oom_control"))
            .get("oom_kill")
            .copied(),
        processes: None,
        threads: number(&file("pids", "pids.current")),
        threads_max: number(&file("pids", "pids.max")),
        forks_refused: fields(&file("pids", "pids.events")).get("max").copied(),
        block,
    }
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn number(path: &Path) -> Option<u64> {
    super::number(path).ok()
}

/// The values of a file with lines of the form `name number`.
fn fields(path: &Path) -> BTreeMap<String, u64> {
    let text = text(path);
    let lines = text.lines().filter_map(|line| {
        let (name, value) = line.split_once(' ')?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    });
    lines.collect()
}

/// Reads `io.stat`: `8:0 rbytes=1 wbytes=2 rios=3 wios=4 …`.
fn block_traffic(text: &str) -> BTreeMap<(u32, u32), BlockTraffic> {
    let lines = text.lines().filter_map(|line| {
        let (device, fields) = line.split_once(' ')?;
        let fields: BTreeMap<&str, u64> = fields
            .split_whitespace()
            .filter_map(|field| {
                let (name, value) = field.split_once('=')?;
                Some((name, value.parse().ok()?))
            })
            .collect();
        let field = |name: &str| fields.get(name).copied().unwrap_or(0);
        let traffic = BlockTraffic {
            read_bytes: field("rbytes"),
            written_bytes: field("wbytes"),
            reads: field("rios"),
            writes: field("wios"),
        };
        Some((device_number(device)?, traffic))
    });
    lines.collect()
}

/// Adds the lines of a `blkio` file: `8:0 Read 1`.
fn add_operations(all: &mut BTreeMap<(u32, u32), BlockTraffic>, text: &str, is_bytes: bool) {
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [device, operation, count] = words[..] else {
            continue;
        };
        let (Some(device), Ok(count)) = (device_number(device), count.parse()) else {
            continue;
        };
        let traffic = all.entry(device).or_default();
        match (operation, is_bytes) {
            ("Read", true) => traffic.read_bytes = count,
            ("Write", true) => traffic.written_bytes = count,
            ("Read", false) => traffic.reads = count,
            ("Write", false) => traffic.writes = count,
            _ => {}
        }
    }
}

fn device_number(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    fn disk() -> BTreeMap<(u32, u32), BlockTraffic> {
        let traffic = BlockTraffic {
            read_bytes: 4096,
            written_bytes: 512,
            reads: 3,
            writes: 1,
        };
        BTreeMap::from([((8, 16), traffic)])
    }

    /// Documentation/admin-guide/cgroup-v2.rst of Linux.
    #[test]
    fn files_of_version_2_are_read() {
        let dir = directory(&[
            (
                "cpu.stat",
                "usage_usec 9\nuser_usec 5\nsystem_usec 4\nnr_periods 7\nnr_throttled 2\nthrottled_usec 3\n",
            ),
            ("cpu.max", "50000 100000\n"),
            ("cpu.weight", "39\n"),
            (
                "memory.stat",
                "anon 1\nfile 20\nfile_mapped 6\npgfault 8\npgmajfault 1\n",
            ),
            ("memory.events", "low 0\nmax 4\noom 1\noom_kill 1\n"),
            ("memory.max", "max\n"),
            ("pids.current", "2\n"),
            ("pids.events", "max 11\n"),
            (
                "io.stat",
                "8:16 rbytes=4096 wbytes=512 rios=3 wios=1 dbytes=0 dios=0\n7:0\n",
            ),
        ]);
        let expected = Accounting {
            user_ns: Some(5000),
            system_ns: Some(4000),
            periods: Some(7),
            throttled_periods: Some(2),
            throttled_ns: Some(3000),
            cpu_quota_us: Some(50_000),
            cpu_period_us: Some(100_000),
            cpu_shares: Some(998),
            cache_bytes: Some(20),
            mapped_file_bytes: Some(6),
            memory_limit_hits: Some(4),
            page_faults: Some(8),
            major_page_faults: Some(1),
            oom_kills: Some(1),
            threads: Some(2),
            forks_refused: Some(11),
            block: disk(),
            ..Accounting::default()
        };
        assert_eq!(unified(dir.path()), expected);
    }

    /// Documentation/admin-guide/cgroup-v1 of Linux.
    #[test]
    fn files_of_version_1_are_read() {
        let dir = directory(&[
            (
                "cpu.stat",
                "nr_periods 7\nnr_throttled 2\nthrottled_time 3000\n",
            ),
            ("cpu.cfs_quota_us", "-1\n"),
            ("cpu.cfs_period_us", "100000\n"),
            ("cpu.shares", "1024\n"),
            ("cpuacct.stat", "user 2\nsystem 1\n"),
            ("memory.stat", "cache 1\ntotal_cache 20\ntotal_pgfault 8\n"),
            ("memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory.oom_control", "under_oom 0\noom_kill 1\n"),
            (
                "blkio.throttle.io_service_bytes_recursive",
                "8:16 Read 4096\n8:16 Write 512\n8:16 Total 4608\nTotal 4608\n",
            ),
            (
                "blkio.throttle.io_serviced_recursive",
                "8:16 Read 3\n8:16 Write 1\nTotal 4\n",
            ),
        ]);
        let expected = Accounting {
            user_ns: Some(20_000_000),
            system_ns: Some(10_000_000),
            periods: Some(7),
            throttled_periods: Some(2),
            throttled_ns: Some(3000),
            cpu_period_us: Some(100_000),
            cpu_shares: Some(1024),
            cache_bytes: Some(20),
            page_faults: Some(8),
            oom_kills: Some(1),
            block: disk(),
            ..Accounting::default()
        };
        assert_eq!(split(|_| Some(dir.path().to_owned())), expected);
        assert_eq!(split(|_| None), Accounting::default());
    }
}
