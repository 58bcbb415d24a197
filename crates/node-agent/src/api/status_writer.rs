//! The writer of pod statuses: it patches the fields that differ from the stored status, guarded by
//! the pod's uid.

use jiff::Timestamp;
use json_tree::{Map, Value, json};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube_api_client::guarded_writes::{Delete, WriteRefusal, delete, message, refusal};
use kube_api_client::{Api, Client, Patch, PatchParams};
use pod_lifecycle::PodIdentity;
use pod_lifecycle::status::{BY_NODE, OWN_CONDITIONS};
use thiserror::Error;

use crate::limits::REQUEST_TIMEOUT;

#[derive(Debug)]
pub enum StatusWriteResult {
    /// The write succeeded; the pod is in its stored form.
    Done(Box<Pod>),
    /// The pod is deleted in the API.
    NotFound,
    /// The write failed and may be tried again.
    Failed(StatusWriteError),
}

/// A write or a deletion that failed and may be tried again.
#[derive(Debug, Error)]
pub enum StatusWriteError {
    #[error("{}", message(.0))]
    Request(Box<kube_api_client::Error>),
    #[error("the API server did not answer in time")]
    TimedOut,
}

impl From<kube_api_client::Error> for StatusWriteError {
    fn from(error: kube_api_client::Error) -> Self {
        Self::Request(Box::new(error))
    }
}

/// The difference between the stored and the desired status, as a strategic merge patch; `None` if
/// there is none.
pub fn difference(before: &PodStatus, after: &PodStatus) -> Option<Value> {
    let (before, after) = (object(before), object(after));
    let mut patch = Map::new();
    for (key, value) in &after {
        let stored = before.get(key);
        if stored == Some(value) {
            continue;
        }
        let changed = match key.as_str() {
            "conditions" => match changed_conditions(stored, value) {
                Some(changed) => changed,
                None => continue,
            },
            "podIPs" | "hostIPs" if stored.is_some() => replaced(value),
            _ => value.clone(),
        };
        patch.insert(key.clone(), changed);
    }
    for key in before
        .keys()
        .filter(|key| owned(key) && !after.contains_key(*key))
    {
        patch.insert(key.clone(), Value::Null);
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

/// Whether only the node writes the field. If the node has no value for another field, the stored value
/// stays.
fn owned(key: &str) -> bool {
    matches!(
        key,
        "reason"
            | "message"
            | "podIP"
            | "podIPs"
            | "initContainerStatuses"
            | "containerStatuses"
            | "ephemeralContainerStatuses"
    )
}

fn object(status: &PodStatus) -> Map<String, Value> {
    match json_tree::to_value(status) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

/// The node's changed conditions. Conditions of other programs are not written, because the store may have
/// newer versions than the agent.
fn changed_conditions(before: Option<&Value>, after: &Value) -> Option<Value> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let stored = before.map(list).unwrap_or_default();
    let desired = list(after);
    let mut changed: Vec<Value> = desired
        .iter()
        .filter(|condition| is_own(condition) && !stored.contains(condition))
        .cloned()
        .collect();
    for condition in &mut changed {
        let former = stored
            .iter()
            .find(|former| former["type"] == condition["type"]);
        // A field that is absent now is written as null, because the patch keeps fields that it does not
        // name.
        for field in ["reason", "message"] {
            let had = former.is_some_and(|former| former.get(field).is_some());
            if had && condition.get(field).is_none() {
                condition[field] = Value::Null;
            }
        }
    }
    // The node deletes a condition that it does not set any more.
    let removed = stored.iter().filter(|former| {
        let is_desired = |condition: &Value| condition["type"] == former["type"];
        is_own(former) && !desired.iter().any(is_desired)
    });
    let removed = removed.map(|former| json!({"$patch": "delete", "type": former["type"]}));
    changed.extend(removed);
    (!changed.is_empty()).then_some(Value::Array(changed))
}

/// Whether the node sets the condition.
fn is_own(condition: &Value) -> bool {
    let type_ = condition["type"].as_str().unwrap_or_default();
    OWN_CONDITIONS.contains(&type_) || condition["reason"] == BY_NODE
}

/// Sets the transition time to `now` for conditions of the node that another program has stored with
/// another status.
pub fn begin_transitions(status: &mut PodStatus, stored: &PodStatus, now: Timestamp) {
    for condition in status.conditions.iter_mut().flatten() {
        let stored = stored.conditions.iter().flatten();
        let mut stored = stored.filter(|stored| stored.type_ == condition.type_);
        let is_own = OWN_CONDITIONS.contains(&condition.type_.as_str());
        if is_own && stored.any(|stored| stored.status != condition.status) {
            condition.last_transition_time = Some(Time(now));
        }
    }
}

/// A patch of a list with merge keys that replaces the whole list.
fn replaced(value: &Value) -> Value {
    let mut list = value.as_array().cloned().unwrap_or_default();
    list.push(json!({"$patch": "replace"}));
    Value::Array(list)
}

/// Writes the changed part of a pod's status, if the pod still has its UID.
pub async fn write(client: &Client, pod: &PodIdentity, difference: Value) -> StatusWriteResult {
    let api: Api<Pod> = Api::namespaced(client.clone(), pod.namespace());
    let patch =
        Patch::Strategic(json!({"metadata": {"uid": pod.uid.as_str()}, "status": difference}));
    let params = PatchParams::default();
    let request = api.patch_status(pod.name(), &params, &patch);
    match tokio::time::timeout(REQUEST_TIMEOUT, request).await {
        Ok(Ok(pod)) => StatusWriteResult::Done(Box::new(pod)),
        Ok(Err(error)) => match refusal(&error) {
            WriteRefusal::NotFound => StatusWriteResult::NotFound,
            _ => StatusWriteResult::Failed(error.into()),
        },
        Err(_) => StatusWriteResult::Failed(StatusWriteError::TimedOut),
    }
}

/// Deletes the object of a pod after the node has cleaned up the pod.
pub async fn remove(client: &Client, pod: &PodIdentity) -> Result<(), StatusWriteError> {
    let api: Api<Pod> = Api::namespaced(client.clone(), pod.namespace());
    let how = Delete::of_uid(pod.uid.clone()).at_once();
    match tokio::time::timeout(REQUEST_TIMEOUT, delete(&api, pod.name(), how)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(StatusWriteError::TimedOut),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(value: Value) -> PodStatus {
        json_tree::from_value(value).unwrap()
    }

    #[test]
    fn only_what_changed_is_written() {
        let before = status(json!({
            "phase": "Pending", "hostIP": "1.1.1.1", "reason": "x", "nominatedNodeName": "n",
            "conditions": [
                {"type": "Ready", "status": "False", "reason": "r"},
                {"type": "PodScheduled", "status": "True"}]}));
        let after = status(json!({
            "phase": "Running", "hostIP": "1.1.1.1",
            "conditions": [
                {"type": "Ready", "status": "True"}, {"type": "PodScheduled", "status": "True"}]}));
        let expected = json!({
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True", "reason": null}],
            "reason": null});
        assert_eq!(difference(&before, &after), Some(expected));
        assert_eq!(difference(&after, &after), None);
        let with = |types: &[&str]| {
            let conditions: Vec<Value> = types
                .iter()
                .map(|type_| json!({"type": type_, "status": "True"}))
                .collect();
            status(json!({"conditions": conditions}))
        };
        assert_eq!(
            difference(&with(&["Ready", "PodResizePending"]), &with(&["Ready"])),
            Some(json!({"conditions": [{"$patch": "delete", "type": "PodResizePending"}]}))
        );
    }

    // findings R18
    #[test]
    fn conditions_of_others_are_left_to_them() {
        let condition = |type_: &str, holds: &str| json!({"type": type_, "status": holds});
        let with = |list: &[Value]| status(json!({"conditions": list}));
        let observed = with(&[
            condition("Ready", "True"),
            condition("example.com/gate", "False"),
        ]);
        let stored = [
            condition("Ready", "True"),
            condition("example.com/gate", "True"),
        ];
        assert_eq!(difference(&with(&stored), &observed), None);
        assert_eq!(difference(&with(&stored), &with(&stored[..1])), None);
        let evicted = json!({"type": "DisruptionTarget", "status": "True", "reason": BY_NODE});
        assert_eq!(
            difference(&with(&[]), &with(std::slice::from_ref(&evicted))),
            Some(json!({"conditions": [evicted]}))
        );
    }

    // findings R18
    #[test]
    fn what_is_taken_back_of_others_counts_from_now() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let with = |ready: &str, since: i64| {
            status(json!({"conditions": [
                {"type": "Ready", "status": ready, "lastTransitionTime": at(since)},
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": at(1)}]}))
        };
        let mut desired = with("True", 5);
        begin_transitions(&mut desired, &with("True", 5), at(30));
        assert_eq!(desired, with("True", 5));
        begin_transitions(&mut desired, &with("False", 20), at(30));
        assert_eq!(desired, with("True", 30));
    }
}
