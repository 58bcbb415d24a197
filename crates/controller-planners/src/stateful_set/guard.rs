//! The guard of a set's policy: voluntary deletions (updates, surplus pods) leave enough pods healthy (rollouts.md
//! R27–R31).
//!
//! This is a forecast from the observed state. The API server decides: it counts the pods in the transaction that
//! announces the deletion, so an old view deletes no pod too many, and evictions of users count as well.

use resource_kinds::pod_view::{Condition, PodView};
use resource_kinds::reasons::pod_condition;
use resource_kinds::stateful_set_policy::{
    CheckKind, Guard, GuardCheck, GuardCount, HealthFacts, HookPurpose, PodHealth, Purpose,
    SetHealth,
};

use super::draft::Draft;
use super::group::GroupMember;
use super::hooks::{self, Clearance};
use super::member::Member;
use super::observed::{Observed, ParsedSet};
use super::order;
use super::plan::StatefulSetAction;
use super::replica;
use super::waiting::Cause;

/// The guard of a set during a plan.
#[derive(Debug)]
pub(super) struct PlanGuard {
    /// The name of the policy.
    policy: String,
    guard: Guard,
    /// Without the pods that the plan evicts.
    count: GuardCount,
}

impl PlanGuard {
    /// `None` if no policy with a guard is in force for the set.
    pub fn of(parsed: &ParsedSet<'_>) -> Option<Self> {
        let policy = parsed.observed.policy.as_ref()?;
        let guard = policy.spec.guard.clone()?;
        let ParsedSet { spec, now, .. } = parsed;
        let desired = parsed.members.iter().map(|member| facts(member.pod));
        let set = SetHealth::of(spec.name, &guard, spec.replicas, desired, *now);
        let others = parsed.observed.group.iter();
        let others = others.filter_map(|other| other.health(*now)).collect();
        Some(Self {
            policy: policy.name().to_owned(),
            count: GuardCount::of(&guard, set, others),
            guard,
        })
    }

    /// Whether the health check of the guard fails in the pod.
    pub fn fails_check(&self, member: &Member<'_>) -> bool {
        self.guard.health.is_some() && !facts(member.pod).passes_health
    }
}

pub(super) fn facts(pod: &PodView) -> HealthFacts {
    let holds = |kind: &str| pod.condition(kind).filter(|found| found.holds());
    let disrupted = holds(pod_condition::DISRUPTION_TARGET);
    HealthFacts {
        is_ready: pod
            .condition(pod_condition::READY)
            .is_some_and(Condition::holds),
        is_deleting: pod.is_deleting(),
        disrupted_at: disrupted.and_then(|condition| condition.since),
        passes_health: holds(CheckKind::Health.condition()).is_some(),
        passes_recovery: holds(CheckKind::Recovery.condition()).is_some(),
    }
}

/// The checks that the node runs in the set's pods, by their annotation; `None` removes one.
pub(super) fn checks(observed: &Observed) -> [(&'static str, Option<String>); 2] {
    CheckKind::OF_GUARD.map(|kind| {
        let check = observed.guard().and_then(|guard| guard.check(kind));
        (kind.annotation(), check.map(GuardCheck::text))
    })
}

/// Whether the plan deletes a pod, or something holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Removal {
    Planned,
    /// The pod goes when its hooks are done, and has its place already.
    Hooked,
    /// The guard holds the pod.
    Held,
}

/// Deletes a pod for a purpose that can wait: if the guard permits it, after its hooks. A set with a guard evicts the pod.
pub(super) fn remove(
    parsed: &ParsedSet<'_>,
    member: &Member<'_>,
    purpose: HookPurpose,
    draft: &mut Draft,
) -> Removal {
    let permission = draft
        .guard
        .as_ref()
        .map(|guard| permission(parsed, guard, member));
    if let Some(Err(cause)) = permission {
        draft.wait(member.ordinal, *cause);
        wake_when_counted_again(parsed, draft);
        return Removal::Held;
    }
    let clearance = hooks::clear(parsed, member, purpose, draft);
    if let (Some(guard), Some(Ok(health))) = (&mut draft.guard, permission)
        && parsed.spec.in_range(member.ordinal)
    {
        guard.count.pods.add(health, -1);
    }
    let purpose = match purpose {
        HookPurpose::ScaleDown => Purpose::ScaleDown,
        HookPurpose::Update | HookPurpose::Rollback | HookPurpose::Evict => Purpose::Update,
    };
    // While the leader moves, an old view would delete the new one (rollouts.md R2). A hold may end meanwhile (R25).
    let is_exact = purpose == Purpose::Update && order::is_by_role(parsed);
    let Clearance::Cleared { version } = clearance else {
        return Removal::Hooked;
    };
    let version = version.or(is_exact.then_some(member.pod.resource_version));
    if draft.guard.is_none() {
        replica::delete_at(member, version, draft);
        return Removal::Planned;
    }
    draft.act(
        member.ordinal,
        StatefulSetAction::EvictPod {
            name: member.name().to_owned(),
            uid: member.uid.clone(),
            version,
            purpose,
        },
    );
    Removal::Planned
}

/// The health of a pod that the guard permits to go.
///
/// *Errors.* The guard holds the pod.
fn permission(
    parsed: &ParsedSet<'_>,
    guard: &PlanGuard,
    member: &Member<'_>,
) -> Result<PodHealth, Box<Cause>> {
    let health = guard.guard.judge(facts(member.pod), parsed.now);
    if guard
        .count
        .pods
        .permits(health, parsed.spec.in_range(member.ordinal))
    {
        return Ok(health);
    }
    Err(Box::new(Cause::GuardHolds {
        pod: member.name().to_owned(),
        policy: guard.policy.clone(),
        count: guard.count.clone(),
    }))
}

/// A pod whose announced deletion did not follow counts again without an event.
fn wake_when_counted_again(parsed: &ParsedSet<'_>, draft: &mut Draft) {
    let own = parsed.members.iter().map(|member| facts(member.pod));
    let of_group = parsed.observed.group.iter().flat_map(GroupMember::facts);
    let pods = own.chain(of_group).filter(|facts| !facts.is_deleting);
    let times = pods.filter_map(HealthFacts::counts_again_at);
    if let Some(at) = times.filter(|at| *at > parsed.now).min() {
        draft.wake(at);
    }
}
