//! The StatefulSet of a pod, with the policy that decides about its evictions.

use json_tree::Value;
use object_model::Status;
use resource_kinds::apps::ordinal;
use resource_kinds::stateful_set_policy::{GROUP, PLURAL, StatefulSetPolicy, in_force};

use crate::objects::metadata;
use crate::objects::storage::SyncReads;

/// A set with the policy that is in force for it.
pub(super) struct GovernedSet {
    name: String,
    pub uid: String,
    start: i64,
    pub replicas: i64,
    pub policy: StatefulSetPolicy,
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
        let policies = reads.all(GROUP, PLURAL, namespace);
        if policies.is_empty() {
            return Ok(None);
        }
        let Some(set) = reads.get("apps", "statefulsets", namespace, name) else {
            return Ok(None);
        };
        if metadata::text(&set, "uid") != uid {
            return Ok(None);
        }
        let labels = set["metadata"]["labels"].as_object().map(|labels| {
            let texts = labels
                .iter()
                .filter_map(|(key, value)| Some((key.to_string(), value.as_str()?.to_owned())));
            texts.collect()
        });
        let decoded: Result<Vec<StatefulSetPolicy>, Status> =
            policies.into_iter().map(decoded).collect();
        let number = |value: &Value, default| value.as_i64().unwrap_or(default);
        let policy = in_force(name, labels.as_ref(), decoded?);
        Ok(policy.map(|policy| Self {
            name: name.to_owned(),
            uid: uid.to_owned(),
            start: number(&set["spec"]["ordinals"]["start"], 0),
            replicas: number(&set["spec"]["replicas"], 1),
            policy,
        }))
    }

    /// Whether the ordinal of a pod is one of the desired ordinals.
    pub fn desires(&self, pod: &Value) -> bool {
        let ordinal = ordinal(&self.name, metadata::text(pod, "name"));
        ordinal.is_some_and(|ordinal| (self.start..self.start + self.replicas).contains(&ordinal))
    }
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
pub(super) fn set_of(pod: &Value) -> Option<(&str, &str)> {
    let owners = pod["metadata"]["ownerReferences"].as_array()?;
    let owner = owners.iter().find(|owner| owner["controller"] == true)?;
    let group = owner["apiVersion"].as_str()?.split_once('/')?.0;
    let is_set = owner["kind"] == "StatefulSet" && group == "apps";
    is_set.then_some((owner["name"].as_str()?, owner["uid"].as_str()?))
}
