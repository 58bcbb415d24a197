//! The status: counted from the pods each time, even if writes fail.

use k8s_openapi::api::apps::v1::StatefulSetStatus;

use super::conditions;
use super::draft::Draft;
use super::observed::{ParsedSet, Strategy};
use super::revisions::ChosenRevisions;

/// The status to write; `None` if the stored one is equal.
pub(super) fn next(
    parsed: &ParsedSet<'_>,
    chosen: &ChosenRevisions,
    draft: &mut Draft,
) -> Option<StatefulSetStatus> {
    let stored = parsed.spec.set.status.clone().unwrap_or_default();
    let generation = parsed.spec.set.metadata.generation.unwrap_or_default();
    let mut status = if parsed.spec.selector.is_some() {
        count(parsed, chosen, draft.current_less)
    } else {
        // Without a selector the pods to count are unknown.
        stored.clone()
    };
    status.observed_generation =
        Some(generation.max(stored.observed_generation.unwrap_or_default()));
    status.conditions = conditions::next(parsed, chosen, draft);
    status.collision_count = chosen.collisions.max(stored.collision_count);
    // A rejected revision does not become the current one, also not without pods (rollouts.md R13).
    if chosen.rejected.is_none() {
        complete(parsed, &mut status);
    }
    // A change of the collision count alone is written with the next status.
    let differs = stored.replicas != status.replicas
        || number(stored.ready_replicas) != number(status.ready_replicas)
        || number(stored.available_replicas) != number(status.available_replicas)
        || number(stored.current_replicas) != number(status.current_replicas)
        || number(stored.updated_replicas) != number(status.updated_replicas)
        || stored.current_revision != status.current_revision
        || stored.update_revision != status.update_revision
        || stored.observed_generation != status.observed_generation
        || stored.conditions != status.conditions;
    (differs || parsed.spec.set.status.is_none()).then_some(status)
}

fn number(value: Option<i32>) -> i32 {
    value.unwrap_or_default()
}

fn count(parsed: &ParsedSet<'_>, chosen: &ChosenRevisions, current_less: i32) -> StatefulSetStatus {
    let (mut replicas, mut ready, mut available, mut current, mut updated) = (0, 0, 0, 0, 0);
    for member in parsed.all() {
        ready += i32::from(member.ready_since.is_some());
        available += i32::from(member.available);
        if member.created {
            replicas += 1;
            current += i32::from(!member.terminating && member.revision == chosen.current);
            let is_updated = member.revision == chosen.update && member.has_its_claims;
            updated += i32::from(!member.terminating && is_updated);
        }
    }
    StatefulSetStatus {
        replicas,
        ready_replicas: Some(ready),
        available_replicas: Some(available),
        current_replicas: Some(current - current_less),
        updated_replicas: Some(updated),
        current_revision: Some(chosen.current.to_string()),
        update_revision: Some(chosen.update.to_string()),
        ..StatefulSetStatus::default()
    }
}

/// Makes the update revision the current revision when all pods are Ready at the update revision.
fn complete(parsed: &ParsedSet<'_>, status: &mut StatefulSetStatus) {
    let all = status.replicas;
    let done = parsed.spec.selector.is_some()
        && matches!(parsed.spec.strategy, Strategy::RollingUpdate(_))
        && i64::from(all) == parsed.spec.replicas
        && status.updated_replicas == Some(all)
        && status.ready_replicas == Some(all);
    if done && !parsed.spec.deleting {
        status.current_revision.clone_from(&status.update_revision);
        status.current_replicas = status.updated_replicas;
    }
}
