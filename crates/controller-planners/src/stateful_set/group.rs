//! The other sets of a group, whose pods count for the guard that they share (rollouts.md R28).

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use resource_kinds::pod_view::PodView;
use resource_kinds::stateful_set_policy::{
    HealthFacts, SetHealth, StatefulSetPolicy, sets_of_group,
};

use super::guard::facts;
use super::identity;

/// Another set of the group of a set.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupMember {
    pub set: Arc<StatefulSet>,
    /// The policy that is in force for the set.
    pub policy: Arc<StatefulSetPolicy>,
    /// At least the pods that the set owns.
    pub pods: Vec<Arc<PodView>>,
}

impl GroupMember {
    /// The other sets of the group of a policy, which is in force for the set with that name. `sets` and `policies` are those
    /// of the namespace.
    pub fn others(
        name: &str,
        policy: Option<&StatefulSetPolicy>,
        sets: impl FnOnce() -> Vec<Arc<StatefulSet>>,
        policies: &[Arc<StatefulSetPolicy>],
        pods_of: impl Fn(&StatefulSet) -> Vec<Arc<PodView>>,
    ) -> Vec<Self> {
        let Some(group) = policy.and_then(StatefulSetPolicy::group) else {
            return Vec::new();
        };
        let sets = sets().into_iter().filter(|set| name_of(set) != name);
        let grouped = sets_of_group(
            group,
            sets,
            |set| (name_of(set), set.metadata.labels.as_ref()),
            policies,
        );
        let members = grouped.into_iter().map(|(set, policy)| Self {
            pods: pods_of(&set),
            set,
            policy,
        });
        members.collect()
    }

    pub fn name(&self) -> &str {
        name_of(&self.set)
    }

    /// The desired number of pods.
    pub(super) fn replicas(&self) -> i64 {
        let replicas = self.set.spec.as_ref().and_then(|spec| spec.replicas);
        i64::from(replicas.unwrap_or(1).max(0))
    }

    /// The pods of the desired ordinals that the set owns.
    pub fn desired(&self) -> impl Iterator<Item = &Arc<PodView>> {
        let ordinals = self.set.spec.as_ref().and_then(|s| s.ordinals.as_ref());
        let start = ordinals.and_then(|ordinals| ordinals.start);
        let start = i64::from(start.unwrap_or_default());
        let (range, uid) = (
            start..start + self.replicas(),
            self.set.metadata.uid.as_deref(),
        );
        self.pods.iter().filter(move |pod| {
            let owner = pod.controller.as_ref().map(|owner| owner.uid.as_str());
            let ordinal = identity::ordinal(self.name(), &pod.name);
            owner == uid && ordinal.is_some_and(|ordinal| range.contains(&ordinal))
        })
    }

    pub(super) fn facts(&self) -> impl Iterator<Item = HealthFacts> {
        self.desired().map(|pod| facts(pod))
    }

    /// The numbers of the set; `None` if its policy has no guard.
    pub(super) fn health(&self, now: Timestamp) -> Option<SetHealth> {
        let guard = self.policy.spec.guard.as_ref()?;
        let (name, replicas) = (self.name(), self.replicas());
        Some(SetHealth::of(name, guard, replicas, self.facts(), now))
    }
}

fn name_of(set: &StatefulSet) -> &str {
    set.metadata.name.as_deref().unwrap_or_default()
}
