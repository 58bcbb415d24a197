//! The metrics of the scheduler for `/metrics`, with the names and bounds of kube-scheduler.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use process_telemetry::prometheus::{Histogram, Metric, Page};

/// Bounds of the time of an attempt, in seconds.
const ATTEMPT_BOUNDS: [f64; 15] = [
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096,
    8.192, 16.384,
];
/// Bounds of the time from a pod's arrival to its node, in seconds.
const POD_BOUNDS: [f64; 20] = [
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84,
    327.68, 655.36, 1310.72, 2621.44, 5242.88,
];
/// Bounds of the number of attempts.
const ATTEMPTS_BOUNDS: [f64; 5] = [1.0, 2.0, 4.0, 8.0, 16.0];
/// Bounds of the number of victims.
const VICTIMS_BOUNDS: [f64; 7] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];

/// Metrics that the scheduler writes and `/metrics` reads; clones share their data.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    counts: Arc<Mutex<Counts>>,
}

/// The result of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Attempt {
    Scheduled,
    Unschedulable,
    Error,
}

impl Attempt {
    fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Unschedulable => "unschedulable",
            Self::Error => "error",
        }
    }
}

/// The number of pods without a node, by queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pending {
    /// In the active queue: to be scheduled now.
    pub active: usize,
    /// In the back-off queue: to be scheduled after a delay.
    pub backoff: usize,
    /// Unschedulable: tried again after a change that may help.
    pub unschedulable: usize,
    /// Gated: `spec.schedulingGates` is not empty.
    pub gated: usize,
}

#[derive(Debug)]
struct Counts {
    profile: String,
    pending: Pending,
    attempts: BTreeMap<Attempt, (u64, Histogram)>,
    /// The histograms by the number of attempts, as text.
    pods: BTreeMap<String, Histogram>,
    pod_attempts: Histogram,
    preemptions: u64,
    victims: Histogram,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            profile: String::new(),
            pending: Pending::default(),
            attempts: BTreeMap::new(),
            pods: BTreeMap::new(),
            pod_attempts: Histogram::new(&ATTEMPTS_BOUNDS),
            preemptions: 0,
            victims: Histogram::new(&VICTIMS_BOUNDS),
        }
    }
}

impl Metrics {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The metrics of the scheduler with that name.
    pub(crate) fn of(&self, scheduler: &str) {
        scheduler.clone_into(&mut self.counts().profile);
    }

    /// Records the number of pods without a node.
    pub(crate) fn pending(&self, pending: Pending) {
        self.counts().pending = pending;
    }

    /// Records the end of an attempt.
    pub(crate) fn attempt(&self, result: Attempt, duration: Duration) {
        let mut counts = self.counts();
        let first = || (0, Histogram::new(&ATTEMPT_BOUNDS));
        let (count, times) = counts.attempts.entry(result).or_insert_with(first);
        *count += 1;
        times.observe(duration.as_secs_f64());
    }

    /// Records that a pod got a node after this number of attempts, and the time since the arrival of the pod.
    pub(crate) fn placed(&self, attempts: u32, after: Duration) {
        let mut counts = self.counts();
        counts.pod_attempts.observe(attempts.into());
        let label = match attempts {
            0..=15 => attempts.to_string(),
            _ => "16+".to_owned(),
        };
        let times = counts.pods.entry(label);
        let times = times.or_insert_with(|| Histogram::new(&POD_BOUNDS));
        times.observe(after.as_secs_f64());
    }

    /// Records a preemption attempt with its number of victims; `None` if there was no solution.
    pub(crate) fn preemption(&self, victims: Option<usize>) {
        let mut counts = self.counts();
        counts.preemptions += 1;
        if let Some(victims) = victims {
            let victims = u32::try_from(victims).unwrap_or(u32::MAX);
            counts.victims.observe(victims.into());
        }
    }

    /// Writes the metrics.
    pub fn write(&self, page: &mut Page) {
        let counts = self.counts();
        let Pending {
            active,
            backoff,
            unschedulable,
            gated,
        } = counts.pending;
        for (queue, count) in [
            ("active", active),
            ("backoff", backoff),
            ("gated", gated),
            ("unschedulable", unschedulable),
        ] {
            page.add(PENDING, &[("queue", queue)], count);
        }
        for metric in [RESULTS, TIMES, POD_TIMES] {
            page.describe(metric);
        }
        for (result, (count, times)) in &counts.attempts {
            let labels = [("profile", &*counts.profile), ("result", result.as_str())];
            page.add(RESULTS, &labels, count);
            page.add_histogram(TIMES, &labels, times);
        }
        for (attempts, times) in &counts.pods {
            page.add_histogram(POD_TIMES, &[("attempts", attempts)], times);
        }
        page.add_histogram(POD_ATTEMPTS, &[], &counts.pod_attempts);
        page.add(PREEMPTIONS, &[], counts.preemptions);
        page.add_histogram(VICTIMS, &[], &counts.victims);
    }
}

const PENDING: Metric = Metric::gauge("scheduler_pending_pods", "Pods without a node.");
const RESULTS: Metric = Metric::counter(
    "scheduler_schedule_attempts_total",
    "Attempts to find a node for a pod.",
);
const TIMES: Metric = Metric::histogram(
    "scheduler_scheduling_attempt_duration_seconds",
    "Time of an attempt, its writes included.",
);
const POD_TIMES: Metric = Metric::histogram(
    "scheduler_pod_scheduling_sli_duration_seconds",
    "Time from a pod's arrival to its node.",
);
const POD_ATTEMPTS: Metric = Metric::histogram(
    "scheduler_pod_scheduling_attempts",
    "Attempts until a pod got its node.",
);
const PREEMPTIONS: Metric = Metric::counter(
    "scheduler_preemption_attempts_total",
    "Preemption attempts: evictions of pods of lower priority for a pod.",
);
const VICTIMS: Metric = Metric::histogram(
    "scheduler_preemption_victims",
    "Pods that were evicted for one pod.",
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_told_by_their_names() {
        let metrics = Metrics::default();
        metrics.of("default-scheduler");
        metrics.pending(Pending {
            active: 1,
            backoff: 2,
            unschedulable: 3,
            gated: 4,
        });
        metrics.attempt(Attempt::Scheduled, Duration::from_millis(3));
        metrics.attempt(Attempt::Unschedulable, Duration::ZERO);
        metrics.placed(2, Duration::from_secs(1));
        metrics.placed(20, Duration::from_secs(1));
        metrics.preemption(Some(3));
        metrics.preemption(None);
        let mut page = Page::default();
        metrics.write(&mut page);
        let text = page.text();
        for expected in [
            "scheduler_pending_pods{queue=\"active\"} 1",
            "scheduler_pending_pods{queue=\"backoff\"} 2",
            "scheduler_pending_pods{queue=\"unschedulable\"} 3",
            "scheduler_pending_pods{queue=\"gated\"} 4",
            "scheduler_schedule_attempts_total{profile=\"default-scheduler\",\
             result=\"unschedulable\"} 1",
            "scheduler_scheduling_attempt_duration_seconds_bucket{profile=\"default-scheduler\",\
             result=\"scheduled\",le=\"0.004\"} 1",
            "scheduler_pod_scheduling_sli_duration_seconds_count{attempts=\"2\"} 1",
            "scheduler_pod_scheduling_sli_duration_seconds_count{attempts=\"16+\"} 1",
            "scheduler_pod_scheduling_attempts_bucket{le=\"16\"} 1",
            "scheduler_pod_scheduling_attempts_count 2",
            "scheduler_preemption_attempts_total 2",
            "scheduler_preemption_victims_bucket{le=\"4\"} 1",
        ] {
            assert!(
                text.lines().any(|line| line == expected),
                "{expected}: {text}"
            );
        }
    }
}
