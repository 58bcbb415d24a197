//! The verdict about a revision whose rollout fails (rollouts.md R11 to R16).
//!
//! The evidence is stored in an annotation of the ControllerRevision before anything is done, so a verdict survives a
//! restart and belongs to one template. The revision before the rollout is `status.currentRevision`: it changes only
//! when a rollout is complete.

use jiff::{SignedDuration, Timestamp};
use pod_lifecycle::diagnosis::{self, Reason};
use resource_kinds::annotations::REJECTED;
use resource_kinds::reasons::pod_condition;
use resource_kinds::stateful_set_policy::{Evidence, OnFailure, RolloutRules};

use super::draft::Draft;
use super::hooks;
use super::member::{Member, Phase};
use super::observed::{ParsedSet, Strategy};
use super::plan::StatefulSetAction;
use super::revisions::ChosenRevisions;
use super::rollout;
use super::waiting::Cause;

/// Judges the update revision: rejects it if one of its pods fails. A stored verdict stays, whatever its pods do.
pub(super) fn judge(parsed: &ParsedSet<'_>, chosen: &mut ChosenRevisions, draft: &mut Draft) {
    let Some(rules) = parsed.observed.rollout() else {
        return;
    };
    // Without an earlier revision there is nothing to hold, and nothing to return to.
    let is_rollout = chosen.current != chosen.update;
    if !is_rollout || !matches!(parsed.spec.strategy, Strategy::RollingUpdate(_)) {
        return;
    }
    let mut revisions = parsed.stored_revisions.iter();
    let Some(update) = revisions.find(|revision| chosen.update == *revision.name) else {
        return;
    };
    let annotations = update.object.metadata.annotations.as_ref();
    let stored = annotations.and_then(|all| all.get(REJECTED));
    let (evidence, answer) = match stored {
        // A verdict that cannot be read is a verdict.
        Some(text) => (serde_json::from_str(text).ok(), rules.on_failure),
        None => {
            let found = is_in_progress(parsed, chosen)
                .then(|| find(parsed, chosen, rules, draft))
                .flatten();
            let Some(evidence) = found else {
                return;
            };
            draft.prepare.push(StatefulSetAction::RejectRevision {
                name: update.name.to_owned(),
                uid: update.uid.clone(),
                evidence: Box::new(evidence.clone()),
            });
            // Nothing is done before the evidence is stored (R12).
            (Some(evidence), OnFailure::Hold)
        }
    };
    let answer = match answer {
        // Without the template of the revision before, a pod that is deleted cannot be made again.
        OnFailure::Rollback if chosen.current_template(parsed).is_none() => {
            let revision = chosen.current.to_string();
            draft.wait(None, Cause::RevisionUnreadable { revision });
            OnFailure::Hold
        }
        answer => answer,
    };
    let revision = chosen.update.to_string();
    draft.wait(
        None,
        Cause::RevisionRejected {
            revision,
            evidence: evidence.map(Box::new),
            answer: rules.on_failure,
        },
    );
    chosen.rejected = Some(answer);
}

/// Whether a pod is still to get the update revision, or has not been Ready with it. A partition may keep the set between
/// two revisions for months, and a pod that fails then is no failure of the update.
fn is_in_progress(parsed: &ParsedSet<'_>, chosen: &ChosenRevisions) -> bool {
    let updatable = parsed.spec.updatable();
    let members = parsed.members.from(updatable.start);
    let desired = updatable.end - updatable.start;
    let is_new = |member: &Member<'_>| rollout::outdated(member, chosen) || member.never_ready();
    i64::try_from(members.len()).is_ok_and(|count| count < desired) || members.iter().any(is_new)
}

/// The evidence of the highest pod that fails. Schedules a plan at the next deadline.
fn find(
    parsed: &ParsedSet<'_>,
    chosen: &ChosenRevisions,
    rules: &RolloutRules,
    draft: &mut Draft,
) -> Option<Evidence> {
    let updated = parsed.members.iter().rev();
    let updated = updated.filter(|member| member.revision == chosen.update && !member.terminating);
    for member in updated {
        match failure(parsed, rules, member) {
            Failure::None => {}
            Failure::At(deadline) => draft.wake(deadline),
            Failure::Now { reason, message } => {
                return Some(Evidence {
                    at: parsed.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
                    pod: member.name().to_owned(),
                    uid: member.uid.to_string(),
                    reason,
                    message,
                });
            }
        }
    }
    None
}

enum Failure {
    None,
    /// The pod fails at this time, if it is not Ready then.
    At(Timestamp),
    Now {
        reason: String,
        message: String,
    },
}

fn failure(parsed: &ParsedSet<'_>, rules: &RolloutRules, member: &Member<'_>) -> Failure {
    // The reason is not the template: no node has the pod, its node is silent, or the pod has ended as a whole, by an
    // eviction.
    let is_elsewhere =
        member.pod.node.is_none() || member.is_forsaken() || member.phase == Phase::Ended;
    // A hook may have made the pod not ready.
    if is_elsewhere || member.available || hooks::is_held(member) {
        return Failure::None;
    }
    let found = diagnosis::pod(member.pod);
    let deadline = SignedDuration::from_secs(i64::from(rules.progress_deadline_seconds));
    let containers = member
        .pod
        .init_containers
        .iter()
        .chain(&*member.pod.containers);
    let restarted = containers.max_by_key(|container| container.restarts);
    if let Some(container) = restarted.filter(|one| one.restarts > rules.max_restarts) {
        let (name, restarts) = (&container.name, container.restarts);
        let more = found.as_ref().map(|found| format!(": {}", found.message));
        let more = more.unwrap_or_default();
        return Failure::Now {
            reason: Reason::ContainerCrashed.as_str().to_owned(),
            message: format!("container {name} has restarted {restarts} times{more}"),
        };
    }
    if member.ready_since.is_some() {
        return Failure::None;
    }
    let patience = match found.as_ref().map(|found| found.reason) {
        Some(Reason::NodeLost | Reason::Terminating | Reason::HeldByFinalizer) => {
            return Failure::None;
        }
        Some(Reason::InvalidImageName | Reason::ImageNeverPulled) => SignedDuration::ZERO,
        _ => deadline,
    };
    // A node that has not started the pod is not judged by it. A new sandbox is a new start, as after a reboot.
    let Some(started) = member.pod.started else {
        return Failure::None;
    };
    let changes = [pod_condition::READY, pod_condition::READY_TO_START];
    let changes = changes
        .iter()
        .filter_map(|kind| member.pod.condition(kind)?.since);
    let since = changes
        .max()
        .map_or(started, |changed| changed.max(started));
    match since.checked_add(patience) {
        Ok(end) if end <= parsed.now => match found {
            Some(found) => Failure::Now {
                reason: found.reason.as_str().to_owned(),
                message: found.message,
            },
            None => Failure::Now {
                reason: Reason::Unknown.as_str().to_owned(),
                message: "it is not ready".to_owned(),
            },
        },
        Ok(end) => Failure::At(end),
        Err(_) => Failure::None,
    }
}
