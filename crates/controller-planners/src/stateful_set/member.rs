//! The pods of a set.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use object_model::Uid;
use resource_kinds::labels;
use resource_kinds::pod_view::{self, Condition, PodView};
use resource_kinds::reasons::pod_condition;

use super::revisions::RevisionName;

/// The phase of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not all containers have started, or the pod's node has not reported the pod yet.
    Pending,
    /// At least one container runs.
    Running,
    /// All containers have ended and will not be restarted.
    Ended,
    /// The state is unknown, because the node is unreachable.
    Unknown,
}

/// A pod of the set.
#[derive(Clone, Debug)]
pub struct Member<'a> {
    /// The pod as the cache has it.
    pub pod: &'a PodView,
    pub uid: Uid,
    /// The ordinal in its name.
    pub ordinal: i64,
    /// `status.phase`.
    pub phase: Phase,
    /// Whether the pod has a phase, which the API server sets at creation.
    pub created: bool,
    /// Whether the pod is being deleted.
    pub terminating: bool,
    /// The last transition of the condition `Ready`, if it is true.
    pub ready_since: Option<Timestamp>,
    /// The time from which a Ready pod counts as available.
    pub available_at: Option<Timestamp>,
    /// Whether the pod has been Ready for `minReadySeconds`.
    pub available: bool,
    /// The label `controller-revision-hash`.
    pub revision: RevisionName,
    /// Whether the pod has the label with its name.
    pub labelled: bool,
    /// Whether the pod has the volumes of the claim templates, where they may be edited.
    pub has_its_claims: bool,
}

impl<'a> Member<'a> {
    /// The pod of an ordinal at that time; `min_ready` is `minReadySeconds` of its set.
    pub(super) fn of(
        pod: &'a PodView,
        ordinal: i64,
        revision: RevisionName,
        min_ready: SignedDuration,
        now: Timestamp,
    ) -> Self {
        let phase = match pod.phase {
            pod_view::Phase::Unset | pod_view::Phase::Pending => Phase::Pending,
            pod_view::Phase::Running => Phase::Running,
            pod_view::Phase::Succeeded | pod_view::Phase::Failed => Phase::Ended,
            pod_view::Phase::Unknown => Phase::Unknown,
        };
        let ready = pod.ready().filter(|_| phase == Phase::Running);
        // A Ready condition without a transition time counts as old.
        let ready_since = ready.map(|ready| ready.since.unwrap_or(Timestamp::MIN));
        let available_at =
            ready_since.map(|since| since.checked_add(min_ready).unwrap_or(Timestamp::MAX));
        // Without `minReadySeconds` a difference between clocks has no effect.
        let available =
            available_at.is_some_and(|at| min_ready == SignedDuration::ZERO || at <= now);
        Self {
            pod,
            uid: pod.uid.clone(),
            ordinal,
            phase,
            created: pod.phase != pod_view::Phase::Unset,
            terminating: pod.is_deleting(),
            ready_since,
            available_at,
            available,
            revision,
            labelled: pod.label(labels::POD_NAME) == Some(&pod.name),
            has_its_claims: true,
        }
    }

    /// The pod's name.
    pub fn name(&self) -> &str {
        &self.pod.name
    }

    /// Whether an owner reference names the pod of this UID.
    pub fn is_owner(&self, owner: &OwnerReference) -> bool {
        self.uid == *owner.uid.as_str()
    }

    /// Whether the pod is unavailable or about to be unavailable.
    pub fn unavailable(&self) -> bool {
        !self.available || self.terminating
    }

    /// The pod's condition `Ready`.
    pub fn ready_condition(&self) -> Option<&Condition> {
        self.pod.condition(pod_condition::READY)
    }

    /// Whether the pod's node reports ready containers, but the pod was marked as not ready later: the node is silent.
    pub fn is_forsaken(&self) -> bool {
        let containers = self.pod.condition(pod_condition::CONTAINERS_READY);
        let ready = self.ready_condition();
        containers.is_some_and(Condition::holds)
            && ready.is_some_and(|ready| !ready.holds() && ready.reason().is_none())
    }

    /// Whether the pod has not been Ready since its start.
    ///
    /// The Ready condition of such a pod still has the time of the pod's start. Timestamps have whole seconds, so one
    /// second of difference is allowed.
    pub fn never_ready(&self) -> bool {
        if self.ready_since.is_some() {
            return false;
        }
        let Some(changed) = self.ready_condition().and_then(|ready| ready.since) else {
            return true;
        };
        let started = self.pod.started.or(self.pod.created);
        started
            .is_none_or(|started| changed.duration_since(started) <= SignedDuration::from_secs(1))
    }
}

/// Pods of a set, sorted by ordinal; each ordinal once.
#[derive(Default)]
pub(super) struct Members<'a>(Vec<Member<'a>>);

impl<'a> Members<'a> {
    pub fn of(mut members: Vec<Member<'a>>) -> Self {
        members.sort_by_key(|member| member.ordinal);
        members.dedup_by_key(|member| member.ordinal);
        Self(members)
    }

    pub fn get(&self, ordinal: i64) -> Option<&Member<'a>> {
        // Ordinals usually have no gap.
        let first = self.0.first()?.ordinal;
        let index = usize::try_from(ordinal.checked_sub(first)?).ok()?;
        if let Some(member) = self.0.get(index).filter(|member| member.ordinal == ordinal) {
            return Some(member);
        }
        let index = self
            .0
            .binary_search_by_key(&ordinal, |member| member.ordinal);
        self.0.get(index.ok()?)
    }

    pub fn contains(&self, ordinal: i64) -> bool {
        self.get(ordinal).is_some()
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Member<'a>> {
        self.0.iter()
    }

    /// The pods of that ordinal and of higher ones.
    pub fn from(&self, ordinal: i64) -> &[Member<'a>] {
        &self.0[self.offset(ordinal)..]
    }

    /// The pods of lower ordinals.
    pub fn below(&self, ordinal: i64) -> &[Member<'a>] {
        &self.0[..self.offset(ordinal)]
    }

    /// The number of pods of lower ordinals.
    fn offset(&self, ordinal: i64) -> usize {
        self.0.partition_point(|member| member.ordinal < ordinal)
    }

    pub fn last(&self) -> Option<&Member<'a>> {
        self.0.last()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use object_model::{ObjectIdentity, ObjectKey};

    use super::*;

    #[test]
    fn members_are_found_by_ordinal_with_and_without_gaps() {
        let pod = PodView::new(ObjectIdentity {
            key: ObjectKey::new("default", "web-0"),
            uid: "u".parse().unwrap(),
            version: "1".parse().unwrap(),
        });
        let member = |ordinal| {
            let now = Timestamp::UNIX_EPOCH;
            let revision = RevisionName::new("web-a");
            Member::of(&pod, ordinal, revision, SignedDuration::ZERO, now)
        };
        let of = |ordinals: &[i64]| Members::of(ordinals.iter().copied().map(member).collect());
        for ordinals in [&[][..], &[5], &[7, 5, 6], &[10, 2, 1, 40], &[3, 3, 4]] {
            let members = of(ordinals);
            for ordinal in -1..50 {
                let member_ordinal = members.get(ordinal).map(|member| member.ordinal);
                assert_eq!(
                    member_ordinal,
                    ordinals.contains(&ordinal).then_some(ordinal)
                );
                assert!(
                    members
                        .from(ordinal)
                        .iter()
                        .all(|member| member.ordinal >= ordinal)
                );
                assert!(
                    members
                        .below(ordinal)
                        .iter()
                        .all(|member| member.ordinal < ordinal)
                );
                let both = members.from(ordinal).len() + members.below(ordinal).len();
                assert_eq!(both, members.len());
            }
            assert!(members.iter().is_sorted_by(|a, b| a.ordinal < b.ordinal));
        }
    }
}
