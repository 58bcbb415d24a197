//! The StatefulSet of a pod, with the policy that decides about its evictions.

use std::collections::BTreeMap;
use std::sync::Arc;

use json_tree::Value;
use object_model::Status;
use resource_kinds::apps::ordinal;
use resource_kinds::stateful_set_policy::{
    GROUP, PLURAL, StatefulSetPolicy, in_force, sets_of_group,
};

use crate::objects::metadata;
use crate::objects::storage::SyncReads;

/// A set with the policy that is in force for it.
pub(super) struct GovernedSet {
    pub name: String,
    pub uid: String,
    start: i64,
    pub replicas: i64,
    pub policy: Arc<StatefulSetPolicy>,
}

impl GovernedSet {
    /// The set of a pod, if a policy is in force for it.
    ///
    /// *Errors.* 500 if the policies cannot be read.
    pub fn of(reads: &SyncReads<'_>, namespace: &str, pod: &Value) -> Result<Option<Self>, Status> {
        use resource_kinds::ObjectReader;

        let Some((name, uid)) = set_of(pod) else {
            return Ok(None);
        };
        let policies = policies(reads, namespace)?;
        if policies.is_empty() {
            return Ok(None);
        }
        let Some(set) = reads.get("apps", "statefulsets", namespace, name) else {
            return Ok(None);
        };
        if metadata::text(&set, "uid") != uid {
            return Ok(None);
        }
        let policy = in_force(name, labels(&set).as_ref(), policies);
        Ok(policy.map(|policy| Self::with(&set, Arc::new(policy))))
    }

    /// A set with the policy that is in force for it.
    fn with(set: &Value, policy: Arc<StatefulSetPolicy>) -> Self {
        let number = |value: &Value, default| value.as_i64().unwrap_or(default);
        Self {
            name: metadata::text(set, "name").to_owned(),
            uid: metadata::text(set, "uid").to_owned(),
            start: number(&set["spec"]["ordinals"]["start"], 0),
            replicas: number(&set["spec"]["replicas"], 1),
            policy,
        }
    }

    /// The other sets of the group of the guard.
    ///
    /// *Errors.* 500 if the policies cannot be read.
    pub fn others(&self, reads: &SyncReads<'_>, namespace: &str) -> Result<Vec<Self>, Status> {
        let guard = self.policy.spec.guard.as_ref();
        let Some(group) = guard.and_then(|guard| guard.group.as_ref()) else {
            return Ok(Vec::new());
        };
        let policies: Vec<_> = policies(reads, namespace)?
            .into_iter()
            .map(Arc::new)
            .collect();
        let sets = reads.all("apps", "statefulsets", namespace);
        let labelled = sets.into_iter().map(|set| (labels(&set), set));
        let grouped = sets_of_group(
            group,
            labelled,
            |(labels, set)| (metadata::text(set, "name"), labels.as_ref()),
            &policies,
        );
        let sets = grouped
            .into_iter()
            .map(|((_, set), policy)| Self::with(&set, policy));
        Ok(sets.filter(|set| set.uid != self.uid).collect())
    }

    /// Whether the set owns a pod whose ordinal is one of the desired ordinals.
    pub fn has_desired(&self, pod: &Value) -> bool {
        let owner = set_of(pod);
        owner.is_some_and(|(_, uid)| uid == self.uid) && self.desires(pod)
    }

    /// Whether the ordinal of a pod is one of the desired ordinals.
    pub fn desires(&self, pod: &Value) -> bool {
        let ordinal = ordinal(&self.name, metadata::text(pod, "name"));
        ordinal.is_some_and(|ordinal| (self.start..self.start + self.replicas).contains(&ordinal))
    }
}

fn labels(object: &Value) -> Option<BTreeMap<String, String>> {
    let labels = object["metadata"]["labels"].as_object()?;
    let texts = labels
        .iter()
        .filter_map(|(key, value)| Some((key.to_string(), value.as_str()?.to_owned())));
    Some(texts.collect())
}

/// The policies of a namespace.
///
/// *Errors.* 500 if one cannot be read: it might be of the group.
fn policies(reads: &SyncReads<'_>, namespace: &str) -> Result<Vec<StatefulSetPolicy>, Status> {
    let policies = reads.all(GROUP, PLURAL, namespace);
    policies.into_iter().map(decoded).collect()
}

fn decoded(policy: Value) -> Result<StatefulSetPolicy, Status> {
    let name = metadata::text(&policy, "name").to_owned();
    json_tree::from_value(policy).map_err(|error| {
        Status::internal(format!(
            "StatefulSetPolicy {name} is unreadable, so no pod is evicted: {error}"
        ))
    })
}

/// The name and the UID of the StatefulSet that controls a pod.
fn set_of(pod: &Value) -> Option<(&str, &str)> {
    let owners = pod["metadata"]["ownerReferences"].as_array()?;
    let owner = owners.iter().find(|owner| owner["controller"] == true)?;
    let group = owner["apiVersion"].as_str()?.split_once('/')?.0;
    let is_set = owner["kind"] == "StatefulSet" && group == "apps";
    is_set.then_some((owner["name"].as_str()?, owner["uid"].as_str()?))
}
