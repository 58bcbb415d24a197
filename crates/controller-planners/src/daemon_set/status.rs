//! The status: counted anew for each plan.

use k8s_openapi::api::apps::v1::DaemonSetStatus;

use super::history::ChosenRevision;
use super::plan::ParsedDaemonSet;

/// The status to write; `None` if the stored one is equal.
pub(super) fn next(
    parsed: &ParsedDaemonSet<'_>,
    chosen: &ChosenRevision,
) -> Option<DaemonSetStatus> {
    let stored = parsed.observed.set.status.clone().unwrap_or_default();
    let generation = parsed.observed.set.metadata.generation;
    let (mut updated, mut available) = (0, 0);
    let mut status = DaemonSetStatus {
        observed_generation: generation.max(stored.observed_generation),
        collision_count: chosen.collisions.max(stored.collision_count),
        conditions: stored.conditions.clone(),
        ..DaemonSetStatus::default()
    };
    for (name, fit) in &parsed.observed.nodes {
        let pods = parsed.by_node.get(name).map_or(&[][..], Vec::as_slice);
        if !fit.starts {
            status.number_misscheduled += i32::from(!pods.is_empty());
            continue;
        }
        status.desired_number_scheduled += 1;
        status.current_number_scheduled += i32::from(!pods.is_empty());
        let active = || pods.iter().filter(|pod| !pod.terminating);
        status.number_ready += i32::from(active().any(|pod| pod.ready()));
        available += i32::from(active().any(|pod| pod.available));
        let is_new = active().any(|pod| chosen.hash.is_of(pod));
        updated += i32::from(is_new);
    }
    let some = |count: i32| (count != 0).then_some(count);
    status.number_available = some(available);
    status.updated_number_scheduled = some(updated);
    status.number_unavailable = some(status.desired_number_scheduled - available);
    (status != stored).then_some(status)
}
