//! Counts of probe results, for `/metrics/probes`.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use object_model::Uid;
use pod_lifecycle::PodIdentity;
use pod_lifecycle::record::probes::ProbeOutcome;
use pod_lifecycle::spec::ProbeKind;

/// The names and values of a count's labels.
pub type Labels = Vec<(&'static str, String)>;

/// The number of probes of all pods, by result.
#[derive(Debug, Default)]
pub struct ProbeCounts {
    by_pod: Mutex<BTreeMap<Uid, BTreeMap<Labels, u64>>>,
}

impl ProbeCounts {
    /// Counts one result of a probe.
    pub fn count(
        &self,
        pod: &PodIdentity,
        container: &str,
        kind: ProbeKind,
        outcome: &ProbeOutcome,
    ) {
        let result = match outcome {
            ProbeOutcome::Success | ProbeOutcome::Warning(_) => "successful",
            ProbeOutcome::Failure(_) => "failed",
            ProbeOutcome::Error(_) => "unknown",
        };
        let labels = vec![
            ("container", container.to_owned()),
            ("namespace", pod.namespace().to_owned()),
            ("pod", pod.name().to_owned()),
            ("pod_uid", pod.uid.to_string()),
            ("probe_type", kind.word().to_owned()),
            ("result", result.to_owned()),
        ];
        let mut by_pod = self.by_pod.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = by_pod.entry(pod.uid.clone()).or_default();
        *counts.entry(labels).or_default() += 1;
    }

    /// Removes the counts of a deleted pod.
    pub fn forget(&self, uid: &Uid) {
        let mut by_pod = self.by_pod.lock().unwrap_or_else(PoisonError::into_inner);
        by_pod.remove(uid);
    }

    /// All counts with their labels.
    pub fn all(&self) -> Vec<(Labels, u64)> {
        let by_pod = self.by_pod.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = by_pod.values().flatten();
        counts
            .map(|(labels, count)| (labels.clone(), *count))
            .collect()
    }
}
