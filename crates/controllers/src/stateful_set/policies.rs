//! The policies of sets. Their kind is a custom resource, so its definition may be missing: then no set has a policy.

use std::collections::BTreeMap;
use std::sync::Arc;

use controller_framework::{Cache, ObjectChange, object_key};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use object_model::ObjectKey;
use resource_kinds::stateful_set_policy::{DEFINITION, StatefulSetPolicy, in_force, sets_of_group};

use crate::Context;

/// The policies could not be read yet. Without them, a set with a policy would be treated as one without.
#[derive(Debug, thiserror::Error)]
#[error("the StatefulSetPolicies have not been read yet")]
pub(crate) struct PoliciesUnread;

#[derive(Clone)]
pub(crate) struct Policies {
    definitions: Cache<CustomResourceDefinition>,
    pub policies: Cache<StatefulSetPolicy>,
    sets: Cache<StatefulSet>,
}

impl Policies {
    pub fn new(context: &Context) -> Self {
        Self {
            definitions: context.caches.definitions.clone(),
            policies: context.cache(),
            sets: context.caches.stateful_sets.clone(),
        }
    }

    fn are_defined(&self) -> bool {
        self.definitions.get("", DEFINITION).is_some()
    }

    /// Waits until the policies have been read, if their kind is defined.
    pub async fn wait_synced(&self) -> bool {
        self.definitions.wait_synced().await
            && (!self.are_defined() || self.policies.wait_synced().await)
    }

    /// The policies of a namespace.
    pub fn in_namespace(
        &self,
        namespace: &str,
    ) -> Result<Vec<Arc<StatefulSetPolicy>>, PoliciesUnread> {
        match self.policies.is_synced() {
            true => Ok(self.policies.list_in(namespace)),
            false if self.are_defined() => Err(PoliciesUnread),
            false => Ok(Vec::new()),
        }
    }

    /// The policy that is in force for a set.
    pub fn of(
        &self,
        key: &ObjectKey,
        labels: Option<&BTreeMap<String, String>>,
    ) -> Result<Option<Arc<StatefulSetPolicy>>, PoliciesUnread> {
        Ok(in_force(
            &key.name,
            labels,
            self.in_namespace(&key.namespace)?,
        ))
    }

    /// The other sets that share the guard of a set: a healthy pod of the set may release their pods.
    pub fn sets_in_group_with(&self, key: &ObjectKey) -> Vec<ObjectKey> {
        let policies = self.policies.list_in(&key.namespace);
        if policies.iter().all(|policy| policy.group().is_none()) {
            return Vec::new();
        }
        let set = self.sets.get_key(key);
        let labels = set.as_ref().and_then(|set| set.metadata.labels.as_ref());
        let policy = in_force(&key.name, labels, &policies);
        let Some(group) = policy.and_then(|policy| policy.group()) else {
            return Vec::new();
        };
        let sets = self.sets.list_in(&key.namespace);
        let sets = sets_of_group(group, sets, |set| labelled(set), &policies).into_iter();
        let keys = sets.map(|(set, _)| object_key(&*set));
        keys.filter(|other| other != key).collect()
    }

    /// The sets of a namespace that share a guard with others: the groups may be others after a change of a set or of
    /// a policy.
    pub fn sets_in_groups(&self, namespace: &str) -> Vec<ObjectKey> {
        let policies = self.policies.list_in(namespace);
        if policies.iter().all(|policy| policy.group().is_none()) {
            return Vec::new();
        }
        let sets = self.sets.list_in(namespace).into_iter();
        let grouped = sets.filter(|set| {
            let (name, labels) = labelled(set);
            let policy = in_force(name, labels, &policies);
            policy.is_some_and(|policy| policy.group().is_some())
        });
        grouped.map(|set| object_key(&*set)).collect()
    }

    /// The sets that a changed policy concerns, or concerned, and those that share a guard.
    pub fn sets_of(&self, change: &ObjectChange<StatefulSetPolicy>) -> Vec<ObjectKey> {
        let new = change.object();
        let old = match change {
            ObjectChange::Applied(_, old) => old.as_ref(),
            _ => None,
        };
        if old.is_some_and(|old| old.spec == new.spec && old.metadata.uid == new.metadata.uid) {
            return Vec::new();
        }
        let namespace = new.metadata.namespace.as_deref().unwrap_or_default();
        let concerns = |set: &StatefulSet| {
            let (name, labels) = labelled(set);
            new.concerns(name, labels) || old.is_some_and(|old| old.concerns(name, labels))
        };
        let sets = self.sets.list_in(namespace).into_iter();
        let sets = sets.filter(|set| concerns(set));
        let mut keys: Vec<_> = sets.map(|set| object_key(&*set)).collect();
        keys.extend(self.sets_in_groups(namespace));
        keys
    }
}

/// The name and the labels of a set.
fn labelled(set: &StatefulSet) -> (&str, Option<&BTreeMap<String, String>>) {
    let name = set.metadata.name.as_deref().unwrap_or_default();
    (name, set.metadata.labels.as_ref())
}
