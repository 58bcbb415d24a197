//! The order in which surplus pods are deleted.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use jiff::Timestamp;
use resource_kinds::annotations::POD_DELETION_COST;

use crate::pod_set::PodState;

/// Sorts the pods; the first pod is deleted first. First are pods without a node, then pods that have not started, pods
/// that are not ready, pods with a low deletion cost, pods on a node with many pods of the set, pods that became ready
/// recently, pods with many restarts, and young pods.
pub(super) fn least_missed<'s, 'p>(
    pods: &[&'s PodState<'p>],
    now: Timestamp,
) -> Vec<&'s PodState<'p>> {
    let mut crowd: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| pod.assigned) {
        *crowd.entry(pod.node()).or_default() += 1;
    }
    let mut ranked = pods.to_vec();
    ranked.sort_by_cached_key(|pod| {
        (
            pod.assigned,
            pod.phase,
            pod.ready(),
            cost(pod),
            Reverse(crowd.get(pod.node()).copied().unwrap_or_default()),
            age(pod.ready_since, now),
            Reverse(pod.restarts()),
            age(pod.created(), now),
            pod.name().to_owned(),
        )
    });
    ranked
}

fn cost(pod: &PodState<'_>) -> i32 {
    let cost = pod.pod.annotations.get(POD_DELETION_COST);
    cost.and_then(|cost| cost.parse().ok()).unwrap_or_default()
}

/// Ages within a factor of two are equal.
fn age(since: Option<Timestamp>, now: Timestamp) -> u32 {
    let Some(since) = since else {
        return 0;
    };
    let seconds = now.as_second().saturating_sub(since.as_second()).max(0);
    64 - seconds.leading_zeros()
}
