//! The collector of resource usage: reads all counters at intervals.

use std::fs;
use std::sync::Arc;

use host_kernel::blocking_value;
use pod_lifecycle::Moment;
use pod_lifecycle::record::Instance;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::limits::USAGE_PERIOD;
use crate::machine::machine_info::meminfo;
use crate::machine::stats::{UsageHistory, UsageSample, UsageSubject};
use crate::paths::runtime_id;
use crate::pods::pod_manager::PodManager;

/// Samples the counters at intervals until `shutdown`.
pub async fn watch(
    usage: Arc<UsageHistory>,
    pods: Arc<PodManager>,
    clock: Clock,
    shutdown: CancellationToken,
) {
    let mut tick = interval(USAGE_PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = tick.tick() => {}
        }
        let pods = pods.clone();
        match blocking_value(move || sample(&pods, clock)).await {
            Ok(round) => usage.note(round),
            Err(error) => tracing::error!(%error, "usage not read"),
        }
    }
}

fn sample(pods: &PodManager, clock: Clock) -> Vec<(UsageSubject, UsageSample)> {
    let mut round: Vec<_> = node(clock.now())
        .map(|sample| (UsageSubject::Node, sample))
        .into_iter()
        .collect();
    for view in pods.list() {
        let Some(sandbox) = &view.sandbox else {
            continue;
        };
        let mut add =
            |subject: UsageSubject, container: Option<&str>| match sandbox.usage(container) {
                Ok(usage) => round.push((
                    subject,
                    UsageSample {
                        at: clock.now(),
                        cpu_ns: usage.cpu_ns,
                        working_set_bytes: usage.working_set_bytes,
                        usage_bytes: usage.memory_bytes,
                        rss_bytes: usage.rss_bytes,
                    },
                )),
                // The sandbox may just have ended.
                Err(error) => tracing::debug!(sandbox = sandbox.id(), %error, "usage not read"),
            };
        add(UsageSubject::Pod(sandbox.id().to_owned()), None);
        for (name, record) in &view.record.containers {
            if let Instance::Running(running) = &record.instance {
                let id = runtime_id(name, record.restart_count);
                add(UsageSubject::Container(running.id.clone()), Some(&id));
            }
        }
    }
    round
}

/// The usage of the machine: CPU time without idle time, and used memory without the inactive file cache.
fn node(at: Moment) -> Option<UsageSample> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)
        .ok()
        .flatten()?;
    let in_use = meminfo("MemTotal")?.saturating_sub(meminfo("MemFree")?);
    Some(UsageSample {
        at,
        cpu_ns: busy_ns(&stat, u64::try_from(per_second).ok()?)?,
        working_set_bytes: in_use.saturating_sub(meminfo("Inactive(file)").unwrap_or(0)),
        usage_bytes: in_use,
        rss_bytes: meminfo("AnonPages").unwrap_or(0),
    })
}

/// The time that processors were not idle, from the first line of `/proc/stat`.
fn busy_ns(stat: &str, ticks_per_second: u64) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal; guests are in user and nice already.
    let busy = |index: usize| ticks.get(index).copied().unwrap_or(0);
    let sum: u64 = [0, 1, 2, 5, 6].into_iter().map(busy).sum();
    Some(sum * (1_000_000_000 / ticks_per_second.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processors_are_busy_when_they_are_not_idle() {
        let stat = "cpu  100 10 50 9999 77 1 2 300 40 0\ncpu0 1 1 1 1\n";
        assert_eq!(busy_ns(stat, 100), Some(1_630_000_000));
        assert_eq!(busy_ns("intr 5", 100), None);
    }

    #[test]
    fn the_machine_has_figures() {
        let sample = node(Moment::aligned(jiff::Timestamp::UNIX_EPOCH)).unwrap();
        assert!(sample.cpu_ns > 0 && sample.working_set_bytes > 0);
    }
}
