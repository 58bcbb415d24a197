//! The conditions of a set: `Available`, `Progressing` and `Stalled`. `docs/conditions.md` describes the conditions for
//! users.
//!
//! A message does not change while its cause does not change, so that the status is written only for changes.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSetCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use resource_kinds::reasons::stateful_set as reasons;
use resource_kinds::reasons::stateful_set_condition as kinds;

use super::claim_edits::TemplateClaims;
use super::deadline;
use super::draft::Draft;
use super::identity;
use super::member::Member;
use super::observed::{ParsedSet, Strategy};
use super::plan::SetEvent;
use super::revisions::ChosenRevisions;
use super::rollout;
use super::waiting::{Cause, Weight};

/// The progress of a set.
struct Progress {
    status: &'static str,
    reason: &'static str,
    message: String,
    /// Whether an administrator must act.
    warning: bool,
    /// Whether the set cannot progress without a change by a user.
    stalled: bool,
}

impl Progress {
    fn fine(reason: &'static str, message: String) -> Self {
        Self {
            status: "True",
            reason,
            message,
            warning: false,
            stalled: false,
        }
    }

    fn stuck(reason: &'static str, message: String) -> Self {
        Self {
            status: "False",
            reason,
            message,
            warning: true,
            stalled: true,
        }
    }
}

/// The conditions to store; adds their events to the draft.
pub(super) fn next(
    parsed: &ParsedSet<'_>,
    chosen: &ChosenRevisions,
    draft: &mut Draft,
) -> Option<Vec<StatefulSetCondition>> {
    let stored = stored(parsed);
    if parsed.spec.deleting {
        return (!stored.is_empty()).then(|| stored.to_vec());
    }
    let progress = progress(parsed, chosen, draft);
    let notice = notice(parsed, &progress, draft);
    draft.notices.extend(notice);
    let stalled = match progress.stalled {
        true => ("True", progress.reason, progress.message.as_str()),
        false => ("False", reasons::NOT_STALLED, ""),
    };
    let (available, why, counted) = availability(parsed, &progress);
    let computed = [
        (kinds::AVAILABLE, available, why, counted.as_str()),
        (
            kinds::PROGRESSING,
            progress.status,
            progress.reason,
            progress.message.as_str(),
        ),
        (kinds::STALLED, stalled.0, stalled.1, stalled.2),
    ];
    let mut conditions: Vec<_> = computed
        .into_iter()
        .map(|(kind, status, reason, message)| {
            condition(stored, parsed.now, kind, status, reason, message)
        })
        .collect();
    let claims = draft.template_claims.as_deref().map(claim_condition);
    conditions.extend(claims.map(|(status, reason, message)| {
        let kind = kinds::CLAIMS_UP_TO_DATE;
        condition(stored, parsed.now, kind, status, reason, &message)
    }));
    let others = stored.iter().filter(|other| {
        other.type_ != kinds::CLAIMS_UP_TO_DATE
            && computed.iter().all(|computed| computed.0 != other.type_)
    });
    conditions.extend(others.cloned());
    Some(conditions)
}

/// Maximum number of claim templates in the message of a condition.
const TEMPLATES_MAX: usize = 10;

/// Whether claims are as their templates say, with the numbers of each template (rollouts.md C8).
fn claim_condition(templates: &[TemplateClaims]) -> (&'static str, &'static str, String) {
    let any = |count: fn(&TemplateClaims) -> usize| templates.iter().any(|one| count(one) > 0);
    let (status, reason) = match () {
        () if any(|one| one.failed) => ("False", reasons::CLAIM_EDIT_IMPOSSIBLE),
        () if any(|one| one.updating) => ("False", reasons::CLAIMS_UPDATING),
        () if templates.iter().all(TemplateClaims::all_fit) => ("True", reasons::CLAIMS_MATCH),
        () => ("False", reasons::CLAIMS_DIFFER),
    };
    let texts = templates.iter().take(TEMPLATES_MAX).map(|one| {
        let counts = [
            (one.updating, "updating"),
            (one.over_sized, "over-sized"),
            (one.incompatible, "incompatible"),
            (one.failed, "failed"),
        ];
        let counts = counts.iter().filter(|(count, _)| *count > 0);
        let counts: String = counts
            .map(|(count, what)| format!(", {count} {what}"))
            .collect();
        let (template, compatible, capacity) = (&one.template, one.compatible, one.capacity);
        format!("{template}: {compatible} compatible{counts}, {capacity} in total")
    });
    let mut texts: Vec<String> = texts.collect();
    if let Some(more) = templates
        .len()
        .checked_sub(TEMPLATES_MAX)
        .filter(|more| *more > 0)
    {
        texts.push(format!("{more} more templates"));
    }
    (status, reason, texts.join("; "))
}

pub(super) fn stored<'w>(parsed: &ParsedSet<'w>) -> &'w [StatefulSetCondition] {
    let status = parsed.spec.set.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref());
    conditions.unwrap_or_default()
}

pub(super) fn find<'c>(
    conditions: &'c [StatefulSetCondition],
    kind: &str,
) -> Option<&'c StatefulSetCondition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// The transition time of a condition changes only with its status.
fn condition(
    stored: &[StatefulSetCondition],
    now: Timestamp,
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
) -> StatefulSetCondition {
    let same = find(stored, kind).filter(|before| before.status == status);
    let since = same.and_then(|before| before.last_transition_time.clone());
    StatefulSetCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: (!message.is_empty()).then(|| message.to_owned()),
        last_transition_time: Some(since.unwrap_or(Time(now))),
    }
}

fn progress(parsed: &ParsedSet<'_>, chosen: &ChosenRevisions, draft: &mut Draft) -> Progress {
    let mut causes = draft.waiting.iter().map(|waiting| &waiting.cause);
    if let Some((cause, reason)) = causes.find_map(|cause| Some((cause, cause.hopeless()?))) {
        return Progress::stuck(reason, cause.message_text());
    }
    if let Some(complete) = completion(parsed, chosen) {
        return complete;
    }
    let (mut reason, plain) = stage(parsed, chosen, draft);
    if draft.waiting.iter().any(|w| w.cause.is_failed_create()) {
        reason = reasons::FAILED_CREATE;
    }
    let trouble = trouble(draft);
    let mut message = trouble
        .as_ref()
        .map_or(plain, |(_, problem)| problem.clone());
    let mut causes = draft.waiting.iter().map(|waiting| &waiting.cause);
    let held = causes.find_map(|cause| Some((cause.message_text(), cause.holds_progress()?)));
    if let Some((held, reason)) = held {
        // The deadline does not run while the policy holds pods (rollouts.md R11).
        let warning = trouble.is_some_and(|(weight, _)| weight == Weight::Trouble);
        if warning {
            message = format!("{held}; {message}");
        }
        return Progress {
            warning,
            ..Progress::fine(reason, message)
        };
    }
    if let Some(seconds) = deadline::exceeded(parsed, chosen, draft) {
        let message = format!("no progress for {seconds} seconds: {message}");
        return Progress::stuck(reasons::PROGRESS_DEADLINE_EXCEEDED, message);
    }
    Progress {
        warning: trouble.is_some_and(|(weight, _)| weight == Weight::Trouble),
        ..Progress::fine(reason, message)
    }
}

/// The most important problem, if there is a problem.
fn trouble(draft: &Draft) -> Option<(Weight, String)> {
    let causes = || draft.waiting.iter().map(|waiting| &waiting.cause);
    let first = |weight| causes().find(|cause| cause.weight() == weight);
    let most_severe = first(Weight::Trouble).or_else(|| first(Weight::Reported))?;
    Some((most_severe.weight(), most_severe.message_text()))
}

/// The progress of a set that has reached its goal.
fn completion(parsed: &ParsedSet<'_>, chosen: &ChosenRevisions) -> Option<Progress> {
    let (available, desired) = available(parsed);
    let outdated = |member: &&_| rollout::outdated(member, chosen);
    let awaits = |member| rollout::awaits_update(parsed, chosen, member);
    if available < desired || !parsed.condemned.is_empty() || parsed.members.iter().any(awaits) {
        return None;
    }
    let left = parsed.members.iter().filter(outdated).count();
    let update = &chosen.update;
    Some(match (left, parsed.spec.strategy) {
        (0, _) => Progress::fine(
            reasons::ROLLOUT_COMPLETE,
            format!("{desired} of {desired} pods are available at revision {update}"),
        ),
        (left, Strategy::OnDelete) => Progress::fine(
            reasons::WAITING_FOR_DELETION,
            format!("{left} of {desired} pods get revision {update} when they are deleted"),
        ),
        (left, Strategy::RollingUpdate(_)) => Progress::fine(
            reasons::PARTITION_COMPLETE,
            format!(
                "{desired} of {desired} pods are available; the partition keeps {left} from {update}"
            ),
        ),
    })
}

/// The current stage of the set, and the pod that it waits for.
fn stage(
    parsed: &ParsedSet<'_>,
    chosen: &ChosenRevisions,
    draft: &Draft,
) -> (&'static str, String) {
    let (available, desired) = available(parsed);
    let subject = || draft.blocker.clone().unwrap_or_else(|| first_amiss(parsed));
    let updatable =
        parsed.spec.first_updatable().max(parsed.spec.start)..parsed.spec.ordinals().end;
    let updated = |ordinal: i64| {
        let member = parsed.members.get(ordinal);
        member.is_some_and(|member| !rollout::outdated(member, chosen) && !member.unavailable())
    };
    let rolling = matches!(parsed.spec.strategy, Strategy::RollingUpdate(_));
    if available == desired && !parsed.condemned.is_empty() {
        let message = format!("waiting for pod {} to be gone", subject());
        (reasons::SCALING_DOWN, message)
    } else if rolling && is_rolled(parsed, chosen) && !updatable.clone().all(updated) {
        let (pod, update) = (subject(), &chosen.update);
        let message = format!("updating to revision {update}: waiting for pod {pod}");
        (reasons::UPDATING_PODS, message)
    } else {
        let message = format!("waiting for pod {} to be available", subject());
        (reasons::WAITING_FOR_PODS, message)
    }
}

/// Whether pods are to be replaced, for another template or for other claim templates.
fn is_rolled(parsed: &ParsedSet<'_>, chosen: &ChosenRevisions) -> bool {
    chosen.current != chosen.update || parsed.members.iter().any(|member| !member.has_its_claims)
}

/// The lowest desired pod that is not available, or the highest surplus pod.
fn first_amiss(parsed: &ParsedSet<'_>) -> String {
    let amiss = |ordinal: &i64| {
        let member = parsed.members.get(*ordinal);
        member.is_none_or(Member::unavailable)
    };
    let desired = parsed.spec.ordinals().find(amiss);
    let ordinal = desired.or_else(|| parsed.condemned.last().map(|member| member.ordinal));
    identity::pod_name(parsed.spec.name, ordinal.unwrap_or(parsed.spec.start))
}

/// The numbers of available and of desired pods.
fn available(parsed: &ParsedSet<'_>) -> (usize, usize) {
    let available = parsed.members.iter().filter(|member| !member.unavailable());
    let ordinals = parsed.spec.ordinals();
    (
        available.count(),
        usize::try_from(ordinals.end - ordinals.start).unwrap_or_default(),
    )
}

fn availability(
    parsed: &ParsedSet<'_>,
    progress: &Progress,
) -> (&'static str, &'static str, String) {
    let (available, desired) = available(parsed);
    if available == desired {
        let message = format!("{desired} of {desired} pods are available");
        return ("True", reasons::ALL_REPLICAS_AVAILABLE, message);
    }
    let mut message = format!("{available} of {desired} pods are available");
    if progress.warning {
        message.push_str("; ");
        message.push_str(&progress.message);
    }
    ("False", reasons::REPLICAS_UNAVAILABLE, message)
}

/// The event for a new problem, or for a new stage.
fn notice(parsed: &ParsedSet<'_>, progress: &Progress, draft: &Draft) -> Option<SetEvent> {
    let before = find(stored(parsed), kinds::PROGRESSING);
    let same_reason = before.is_some_and(|b| b.reason.as_deref() == Some(progress.reason));
    let same_text = before.is_some_and(|b| b.message.as_deref() == Some(&progress.message));
    if same_reason && (same_text || !progress.warning) || before.is_none() && !progress.warning {
        return None;
    }
    // The message was already reported as an event when the condition was written.
    if progress.reason == reasons::FAILED_CREATE {
        return None;
    }
    let dying = draft
        .waiting
        .iter()
        .find_map(|waiting| match &waiting.cause {
            Cause::ClaimTerminating { .. } if waiting.cause.message_text() == progress.message => {
                Some((waiting.ordinal?, &waiting.cause))
            }
            _ => None,
        });
    // The event is that of kube-controller-manager (statefulset.md 2.5).
    if let Some((ordinal, cause)) = dying {
        let (set, pod) = (
            parsed.spec.name,
            identity::pod_name(parsed.spec.name, ordinal),
        );
        return Some(SetEvent {
            warning: true,
            reason: reasons::FAILED_CREATE,
            message: format!("create Pod {pod} in StatefulSet {set} failed error: {cause}"),
        });
    }
    Some(SetEvent {
        warning: progress.warning,
        reason: progress.reason,
        message: progress.message.clone(),
    })
}
