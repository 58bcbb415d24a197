//! The state of a probe: the time of the next run, and the verdict of the results so far.
//!
//! As kubelet's prober: a verdict changes after `successThreshold` consecutive successes or
//! `failureThreshold` consecutive failures. Differs: readiness and startup probes of a new container first
//! run more often than their period (after 50 ms, then doubled). Failures of these early runs do not count,
//! so that a container becomes Ready as soon as possible.

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Probe;
use serde::{Deserialize, Serialize};

use super::backoff::doubled;
use crate::limits::EAGER_PROBE_INITIAL;
use crate::monotonic::Instant;
use crate::spec::ProbeKind;

/// The verdict of a probe's results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProbeVerdict {
    /// There are not enough results.
    #[default]
    Unknown,
    /// The threshold of successes was reached.
    Success,
    /// The threshold of failures was reached.
    Failure,
}

/// The result of one probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeOutcome {
    Success,
    /// The probe passed with a warning for the user.
    Warning(String),
    /// The probe failed with this output.
    Failure(String),
    /// The probe could not run, which does not count as a result.
    Error(String),
}

/// The state of one probe of one instance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProbeRecord {
    #[serde(default)]
    pub in_flight: bool,
    /// The start of the last run.
    pub last_at: Option<Instant>,
    /// The number of runs so far.
    pub count: u32,
    /// The number of equal results since the last different result.
    pub run: u32,
    /// Whether the last results are successes.
    pub run_success: bool,
    /// The verdict after `successThreshold` and `failureThreshold`.
    pub verdict: ProbeVerdict,
}

/// A probe's `periodSeconds`; 10 s by default.
pub fn period(probe: &Probe) -> SignedDuration {
    seconds(probe.period_seconds, 10)
}

/// A probe's `timeoutSeconds`; 1 s by default.
pub fn timeout(probe: &Probe) -> SignedDuration {
    seconds(probe.timeout_seconds, 1)
}

fn seconds(value: Option<i32>, default: i32) -> SignedDuration {
    let value = value.filter(|v| *v > 0).unwrap_or(default);
    SignedDuration::from_secs(i64::from(value))
}

fn threshold(value: Option<i32>, default: u32) -> u32 {
    value
        .and_then(|v| u32::try_from(v).ok())
        .filter(|v| *v > 0)
        .unwrap_or(default)
}

/// The time of the first run of the probe, in a container that started at `started`.
fn first_at(probe: &Probe, started: Instant) -> Instant {
    let delay = i64::from(probe.initial_delay_seconds.unwrap_or(0).max(0));
    started + SignedDuration::from_secs(delay)
}

impl ProbeRecord {
    pub fn due(&self, kind: ProbeKind, probe: &Probe, started: Instant) -> Instant {
        let Some(last) = self.last_at else {
            return first_at(probe, started);
        };
        let regular = period(probe);
        let eager = kind != ProbeKind::Liveness && self.verdict == ProbeVerdict::Unknown;
        if !eager {
            return last + regular;
        }
        last + doubled(EAGER_PROBE_INITIAL, regular, self.count)
    }

    /// Records the start of a run.
    pub fn begin(&mut self, now: Instant) {
        self.in_flight = true;
        self.last_at = Some(now);
        self.count = self.count.saturating_add(1);
    }

    /// Records a result, for a container that started at `started`. Returns whether the result counts.
    pub fn record(
        &mut self,
        kind: ProbeKind,
        probe: &Probe,
        started: Instant,
        outcome: &ProbeOutcome,
    ) -> bool {
        self.in_flight = false;
        let success = match outcome {
            ProbeOutcome::Success | ProbeOutcome::Warning(_) => true,
            ProbeOutcome::Failure(_) => false,
            ProbeOutcome::Error(_) => return false,
        };
        let early = self
            .last_at
            .is_some_and(|at| at < first_at(probe, started) + period(probe));
        let untold = kind != ProbeKind::Liveness && self.verdict == ProbeVerdict::Unknown;
        if !success && early && untold {
            return false;
        }
        self.run = if self.run_success == success {
            self.run.saturating_add(1)
        } else {
            1
        };
        self.run_success = success;
        if success && self.run >= threshold(probe.success_threshold, 1) {
            self.verdict = ProbeVerdict::Success;
        }
        if !success && self.run >= threshold(probe.failure_threshold, 3) {
            self.verdict = ProbeVerdict::Failure;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Instant {
        Instant::reading(jiff::Timestamp::from_millisecond(1_700_000_000_000 + ms).unwrap())
    }

    fn fail() -> ProbeOutcome {
        ProbeOutcome::Failure("no".to_owned())
    }

    #[test]
    fn liveness_fails_after_its_threshold_only() {
        // statefulset.md 12.5
        let probe = Probe {
            failure_threshold: Some(3),
            ..Probe::default()
        };
        let mut record = ProbeRecord::default();
        for (index, expected) in [
            (0, ProbeVerdict::Unknown),
            (1, ProbeVerdict::Unknown),
            (2, ProbeVerdict::Failure),
        ] {
            record.begin(at(index * 10_000));
            assert!(record.record(ProbeKind::Liveness, &probe, at(0), &fail()));
            assert_eq!(record.verdict, expected);
        }
    }

    #[test]
    fn a_success_in_between_starts_the_count_again() {
        // statefulset.md 12.5
        let probe = Probe {
            failure_threshold: Some(2),
            ..Probe::default()
        };
        let mut record = ProbeRecord::default();
        for outcome in [fail(), ProbeOutcome::Success, fail()] {
            record.begin(at(20_000));
            record.record(ProbeKind::Liveness, &probe, at(0), &outcome);
        }
        assert_eq!(record.verdict, ProbeVerdict::Success);
    }

    #[test]
    fn early_readiness_is_asked_often_and_counts_only_when_it_succeeds() {
        let probe = Probe {
            period_seconds: Some(1),
            ..Probe::default()
        };
        let mut record = ProbeRecord::default();
        let mut due = Vec::new();
        let mut clock = at(0);
        for _ in 0..8 {
            clock = record.due(ProbeKind::Readiness, &probe, at(0)).max(clock);
            due.push(clock.since(at(0)).as_millis());
            record.begin(clock);
            let counted = record.record(ProbeKind::Readiness, &probe, at(0), &fail());
            assert_eq!(counted, clock >= at(1000), "{clock:?}");
        }
        assert_eq!(due, [0, 50, 150, 350, 750, 1550, 2550, 3550]);
        record.record(ProbeKind::Readiness, &probe, at(0), &ProbeOutcome::Success);
        assert_eq!(record.verdict, ProbeVerdict::Success);
    }

    #[test]
    fn initial_delay_holds_the_first_probe() {
        // statefulset.md 12.5
        let probe = Probe {
            initial_delay_seconds: Some(5),
            ..Probe::default()
        };
        let record = ProbeRecord::default();
        assert_eq!(record.due(ProbeKind::Liveness, &probe, at(0)), at(5000));
    }

    #[test]
    fn errors_of_the_prober_count_for_nothing() {
        let probe = Probe {
            failure_threshold: Some(1),
            ..Probe::default()
        };
        let mut record = ProbeRecord::default();
        record.begin(at(60_000));
        let outcome = ProbeOutcome::Error("no such file".to_owned());
        assert!(!record.record(ProbeKind::Liveness, &probe, at(0), &outcome));
        assert_eq!(record.verdict, ProbeVerdict::Unknown);
    }
}
