//! What the node, its pods and their containers use: counters that are looked at again and again,
//! and the rates between two looks.

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::SignedDuration;
use pod_lifecycle::Moment;
use pod_lifecycle::record::Instance;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::machine_info::meminfo;
use crate::limits::USAGE_PERIOD;
use crate::paths::runtime_id;
use crate::worker::Shared;

/// Whose usage it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// The machine as a whole.
    Node,
    /// The pod of that uid.
    Pod(String),
    /// One instance of a container, by the id that statuses show.
    Container(String),
}

/// One look at the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When.
    pub at: Moment,
    /// CPU time used so far, in nanoseconds.
    pub cpu_ns: u64,
    /// Memory in bytes that cannot be given back at once.
    pub working_set_bytes: u64,
    /// All memory in bytes, with all page cache.
    pub usage_bytes: u64,
    /// Memory in bytes that is no file's.
    pub rss_bytes: u64,
}

/// The newest look, and the rate since the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// The newest look.
    pub sample: Sample,
    /// CPU time used per second of the window, in billionths of a processor, and the window;
    /// `None` until there were two looks.
    pub rate: Option<(u64, SignedDuration)>,
}

#[derive(Clone, Copy, Debug)]
struct Track {
    earlier: Option<Sample>,
    latest: Sample,
}

impl Track {
    fn figures(&self) -> Figures {
        Figures {
            sample: self.latest,
            rate: self
                .earlier
                .and_then(|earlier| rate(&earlier, &self.latest)),
        }
    }
}

fn rate(earlier: &Sample, latest: &Sample) -> Option<(u64, SignedDuration)> {
    let window = latest.at.instant.since(earlier.at.instant);
    let length = u128::try_from(window.as_nanos())
        .ok()
        .filter(|ns| *ns > 0)?;
    // A counter that went back is another counter.
    let used = u128::from(latest.cpu_ns.checked_sub(earlier.cpu_ns)?);
    let per_second = used * 1_000_000_000 / length;
    Some((u64::try_from(per_second).ok()?, window))
}

/// The last two looks at everything that runs.
#[derive(Debug, Default)]
pub struct History {
    tracks: Mutex<BTreeMap<Subject, Track>>,
}

impl History {
    /// Notes one round of looks; who is not among them is forgotten.
    pub fn note(&self, round: Vec<(Subject, Sample)>) {
        let mut tracks = self.tracks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut former = std::mem::take(&mut *tracks);
        for (subject, latest) in round {
            let earlier = former.remove(&subject).map(|track| track.latest);
            tracks.insert(subject, Track { earlier, latest });
        }
    }

    /// What the subject used at the last look.
    pub fn figures(&self, subject: &Subject) -> Option<Figures> {
        let tracks = self.tracks.lock().unwrap_or_else(PoisonError::into_inner);
        tracks.get(subject).map(Track::figures)
    }
}

/// Looks at everything at intervals until `shutdown`.
pub async fn watch(shared: Arc<Shared>, shutdown: CancellationToken) {
    let mut tick = interval(USAGE_PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = tick.tick() => {}
        }
        let looked = shared.clone();
        match tokio::task::spawn_blocking(move || look(&looked)).await {
            Ok(round) => shared.usage.note(round),
            Err(error) => tracing::error!(%error, "usage not read"),
        }
    }
}

fn look(shared: &Shared) -> Vec<(Subject, Sample)> {
    let mut round: Vec<_> = node(shared.clock.now())
        .map(|sample| (Subject::Node, sample))
        .into_iter()
        .collect();
    for view in shared.registry.list() {
        let Some(sandbox) = &view.sandbox else {
            continue;
        };
        let mut add = |subject: Subject, container: Option<&str>| match sandbox.usage(container) {
            Ok(usage) => round.push((
                subject,
                Sample {
                    at: shared.clock.now(),
                    cpu_ns: usage.cpu_ns,
                    working_set_bytes: usage.working_set_bytes,
                    usage_bytes: usage.memory_bytes,
                    rss_bytes: usage.rss_bytes,
                },
            )),
            // It may just have ended.
            Err(error) => tracing::debug!(sandbox = sandbox.id(), %error, "usage not read"),
        };
        add(Subject::Pod(sandbox.id().to_owned()), None);
        for (name, record) in &view.record.containers {
            if let Instance::Running(running) = &record.instance {
                let id = runtime_id(name, record.restart_count);
                add(Subject::Container(running.id.clone()), Some(&id));
            }
        }
    }
    round
}

/// The machine's own counters: all processors' time but idle time, and all memory in use but
/// files that nobody has touched for long.
fn node(at: Moment) -> Option<Sample> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)
        .ok()
        .flatten()?;
    let in_use = meminfo("MemTotal")?.saturating_sub(meminfo("MemFree")?);
    Some(Sample {
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

    fn sample(second: i64, cpu_ns: u64) -> Sample {
        Sample {
            at: Moment::aligned(jiff::Timestamp::from_second(second).unwrap()),
            cpu_ns,
            working_set_bytes: 7,
            usage_bytes: 0,
            rss_bytes: 0,
        }
    }

    #[test]
    fn two_looks_make_a_rate() {
        // kubectl.md 6.1
        let history = History::default();
        let pod = Subject::Pod("u".to_owned());
        assert_eq!(history.figures(&pod), None);
        history.note(vec![(pod.clone(), sample(100, 1_000))]);
        let first = history.figures(&pod).unwrap();
        assert_eq!((first.sample.working_set_bytes, first.rate), (7, None));
        history.note(vec![(pod.clone(), sample(110, 5_000_001_000))]);
        let rate = history.figures(&pod).unwrap().rate.unwrap();
        assert_eq!(rate, (500_000_000, SignedDuration::from_secs(10)));
        // A counter that began anew, and a clock that stands still, make none.
        history.note(vec![(pod.clone(), sample(120, 5))]);
        assert_eq!(history.figures(&pod).unwrap().rate, None);
        history.note(vec![(pod.clone(), sample(120, 6))]);
        assert_eq!(history.figures(&pod).unwrap().rate, None);
        // What is gone is forgotten.
        history.note(Vec::new());
        assert_eq!(history.figures(&pod), None);
    }

    #[test]
    fn the_processors_are_busy_when_they_are_not_idle() {
        let stat = "cpu  100 10 50 9999 77 1 2 300 40 0\ncpu0 1 1 1 1\n";
        assert_eq!(busy_ns(stat, 100), Some(1_630_000_000));
        assert_eq!(busy_ns("intr 5", 100), None);
    }

    #[test]
    fn the_machine_has_figures() {
        let seen = node(Moment::aligned(jiff::Timestamp::UNIX_EPOCH)).unwrap();
        assert!(seen.cpu_ns > 0 && seen.working_set_bytes > 0);
    }
}
