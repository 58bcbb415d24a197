//! The observed state of a set, from caches only.

use std::collections::BTreeMap;

use controller_framework::{Cache, Index, object_key};
use controller_planners::stateful_set::{self, GroupMember, Observed, identity};
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use object_model::ObjectKey;
use resource_kinds::MetadataIdentity;
use resource_kinds::pod_view::PodView;
use resource_kinds::stateful_set_policy::{in_force, removed_claim_templates};

use super::execute::Error;
use super::policies::Policies;
use crate::Context;
use crate::owned::{OwnedObject, named, orphan_in, owned_by, stem, terms};

pub(super) struct Observer {
    sets: Cache<StatefulSet>,
    pods: Cache<PodView>,
    revisions: Cache<ControllerRevision>,
    claims: Cache<PersistentVolumeClaim>,
    pods_by: Index<PodView>,
    revisions_by: Index<ControllerRevision>,
    claims_by: Index<PersistentVolumeClaim>,
    pub policies: Policies,
}

impl Observer {
    pub fn new(context: &Context) -> Self {
        let caches = context.caches.clone();
        Self {
            pods_by: context.pods_by_owner.clone(),
            revisions_by: context.revisions_by_owner.clone(),
            claims_by: caches.claims.index(terms),
            policies: Policies::new(context),
            sets: caches.stateful_sets,
            pods: caches.pods,
            revisions: caches.revisions,
            claims: caches.claims,
        }
    }

    pub async fn wait_synced(&self) -> bool {
        self.sets.wait_synced().await
            && self.pods.wait_synced().await
            && self.revisions.wait_synced().await
            && self.claims.wait_synced().await
            && self.policies.wait_synced().await
    }

    /// `None` if the set does not exist.
    pub fn observe(&self, key: &ObjectKey) -> Result<Option<Observed>, Error> {
        let Some(set) = self.sets.get_key(key) else {
            return Ok(None);
        };
        let uid = set.metadata.object_uid()?;
        let terms = [owned_by(uid.as_str()), named(&key.namespace, &key.name)];
        let [mut pods, with_its_name] = terms.each_ref().map(|term| self.pods_by.get(term));
        let is_owned = |pod: &PodView| {
            let owner = pod.controller.as_ref();
            owner.is_some_and(|owner| uid == owner.uid)
        };
        // Most pods have both terms.
        let owned = pods.len();
        pods.extend(with_its_name.into_iter().filter(|pod| !is_owned(pod)));
        if pods.len() > owned {
            pods.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        }
        let mut revisions = BTreeMap::new();
        let orphans = [orphan_in(&key.namespace)];
        for term in terms.iter().chain(&orphans) {
            for revision in self.revisions_by.get(term) {
                revisions.insert(revision.metadata.name.clone(), revision);
            }
        }
        let templates = set
            .spec
            .as_ref()
            .and_then(|spec| spec.volume_claim_templates.as_ref());
        let templates = templates.map(Vec::as_slice).unwrap_or_default();
        let mut claims = BTreeMap::new();
        let removed = removed_claim_templates(set.metadata.annotations.as_ref());
        let all = templates.iter().chain(&removed);
        for template in all.filter_map(|template| template.metadata.name.as_deref()) {
            let term = named(&key.namespace, &format!("{template}-{}", key.name));
            for claim in self.claims_by.get(&term) {
                claims.insert(claim.metadata.object_name()?.to_owned(), claim);
            }
        }
        let policies = self.policies.in_namespace(&key.namespace)?;
        let policy = in_force(&key.name, set.metadata.labels.as_ref(), &policies).cloned();
        let group = GroupMember::others(
            &key.name,
            policy.as_deref(),
            || self.sets.list_in(&key.namespace),
            &policies,
            |set| {
                let uid = set.metadata.uid.as_deref().unwrap_or_default();
                self.pods_by.get(&owned_by(uid))
            },
        );
        Ok(Some(Observed {
            set,
            group,
            pods,
            revisions: revisions.into_values().collect(),
            claims,
            policy,
            refused: Vec::new(),
        }))
    }

    /// Whether the numbers in a set's status decide the revisions of its new pods (statefulset.md 5.9).
    pub fn counts_decide(&self, key: &ObjectKey) -> bool {
        let set = self.sets.get_key(key);
        set.is_some_and(|set| stateful_set::counts_decide(&set))
    }

    /// Whether the readiness of a set's pod decides about its other pods.
    pub fn readiness_decides(&self, key: &ObjectKey) -> bool {
        let Some(set) = self.sets.get_key(key) else {
            return true;
        };
        let policy = self.policies.of(key, set.metadata.labels.as_ref());
        stateful_set::readiness_decides(&set) || policy.map_or(true, |policy| policy.is_some())
    }

    /// The sets that an object may affect: its owner, and the set whose name is the stem of the object's name.
    pub fn sets_of(&self, object: &OwnedObject<'_>) -> Vec<ObjectKey> {
        let owner = object.controller.as_ref();
        let owner = owner.filter(|owner| owner.kind == identity::KIND);
        let owner = owner.map(|owner| owner.name);
        let mut names: Vec<&str> = owner.into_iter().chain([stem(&object.key.name)]).collect();
        names.dedup();
        names
            .into_iter()
            .map(|name| ObjectKey::new(object.key.namespace.clone(), name))
            .filter(|key| self.sets.get_key(key).is_some())
            .collect()
    }

    /// The sets whose claim templates may have created a claim of that name.
    pub fn sets_of_claim(&self, claim: &PersistentVolumeClaim) -> Vec<ObjectKey> {
        let ObjectKey { namespace, name } = object_key(claim);
        let stem = stem(&name);
        stem.match_indices('-')
            .map(|(at, _)| ObjectKey::new(namespace.clone(), &stem[at + 1..]))
            .filter(|key| self.sets.get_key(key).is_some())
            .collect()
    }
}
