//! The policies of sets. Their kind is a custom resource, so its definition may be missing: then no set has a policy.

use std::collections::BTreeMap;
use std::sync::Arc;

use controller_framework::{Cache, ObjectChange, object_key};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use object_model::ObjectKey;
use resource_kinds::stateful_set_policy::{DEFINITION, StatefulSetPolicy, in_force};

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

    /// The sets that a changed policy concerns, or concerned.
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
            let name = set.metadata.name.as_deref().unwrap_or_default();
            let labels = set.metadata.labels.as_ref();
            new.concerns(name, labels) || old.is_some_and(|old| old.concerns(name, labels))
        };
        let sets = self.sets.list_in(namespace).into_iter();
        let sets = sets.filter(|set| concerns(set));
        sets.map(|set| object_key(&*set)).collect()
    }
}
