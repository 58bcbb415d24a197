//! Claims that grow (statefulset.md §11.12, 11.13).
//!
//! Goal: a claim has its requested size. Guarantees: the storage grows first, then the volume's capacity, then the
//! claim's capacity, so that an interrupted expansion continues; no claim or volume ever shrinks. Volumes that are
//! limited by a quota of the file system need no expansion on the node after these steps. A claim whose storage has a
//! separate file system waits with `FileSystemResizePending` until the node has grown the file system.

use jiff::Timestamp;
use json_tree::{Value, json};
use k8s_openapi::api::core::v1::{
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimCondition,
};
use object_model::Quantity;

/// The condition of a claim whose expansion has started.
const RESIZING: &str = "Resizing";
/// The condition of a claim whose expansion failed.
const RESIZE_ERROR: &str = "ControllerResizeError";
/// The condition of a claim whose file system is still smaller than its storage.
const FILE_SYSTEM_PENDING: &str = "FileSystemResizePending";

/// The states in which the node continues the expansion of a claim.
const ON_NODE: [&str; 2] = ["NodeResizePending", "NodeResizeInProgress"];

/// The next step for a claim.
#[derive(Clone, Debug, PartialEq)]
pub enum ExpansionStep {
    /// No step: the claim has its requested size, or is not bound.
    Nothing,
    /// Write the start of the expansion into the claim's status.
    Announce(Value),
    /// Expand the storage to this size, then write the patch into the volume.
    Grow {
        /// The new size in bytes.
        bytes: u64,
        /// The merge patch for the volume.
        volume: Value,
    },
    /// Write the end of the expansion into the claim's status.
    Finish(Value),
}

/// Plans the next step for a claim and its volume.
pub fn plan(
    claim: &PersistentVolumeClaim,
    volume: &PersistentVolume,
    now: Timestamp,
) -> ExpansionStep {
    let spec = claim.spec.as_ref();
    let status = claim.status.as_ref();
    let bound = status.and_then(|status| status.phase.as_deref()) == Some("Bound")
        && spec.and_then(|spec| spec.volume_name.as_ref()) == volume.metadata.name.as_ref();
    let going = claim.metadata.deletion_timestamp.is_some();
    let requested = spec
        .and_then(|spec| spec.resources.as_ref())
        .and_then(|resources| resources.requests.as_ref())
        .and_then(|requests| requests.get("storage"));
    let (Some(requested), true, false) = (requested, bound, going) else {
        return ExpansionStep::Nothing;
    };
    let has = status.and_then(|status| status.capacity.as_ref()?.get("storage"));
    let Some(desired) = quantity(Some(requested)).filter(|desired| Some(*desired) > quantity(has))
    else {
        return ExpansionStep::Nothing;
    };
    let offered = volume.spec.as_ref();
    let offered = offered.and_then(|spec| spec.capacity.as_ref()?.get("storage"));
    if quantity(offered) >= Some(desired) {
        return ExpansionStep::Finish(json!({"status": {
            "capacity": {"storage": offered},
            "allocatedResources": null,
            "allocatedResourceStatuses": null,
            "conditions": others(claim),
        }}));
    }
    let allocated = status.and_then(|status| status.allocated_resources.as_ref()?.get("storage"));
    let announced = condition(claim, RESIZING).is_some() && allocated == Some(requested);
    if !announced {
        let mut conditions = others(claim);
        conditions.push(new_condition(RESIZING, "", now));
        return ExpansionStep::Announce(json!({"status": {
            "allocatedResources": {"storage": requested},
            "allocatedResourceStatuses": {"storage": "ControllerResizeInProgress"},
            "conditions": conditions,
        }}));
    }
    ExpansionStep::Grow {
        bytes: bytes(desired),
        volume: json!({"spec": {"capacity": {"storage": requested}}}),
    }
}

/// The claim's status after a failed expansion; `None` if that status is stored already.
pub fn failure(claim: &PersistentVolumeClaim, message: &str, now: Timestamp) -> Option<Value> {
    let stored = condition(claim, RESIZE_ERROR);
    if stored.is_some_and(|stored| stored.message.as_deref() == Some(message)) {
        return None;
    }
    let mut conditions = others(claim);
    conditions.extend(condition(claim, RESIZING).map(|resizing| json!(resizing)));
    conditions.push(new_condition(RESIZE_ERROR, message, now));
    Some(json!({"status": {
        "allocatedResourceStatuses": {"storage": "ControllerResizeInfeasible"},
        "conditions": conditions,
    }}))
}

/// The claim's status after its storage has grown, when the node has to grow the file system; `None` if the node has
/// started already.
pub fn hand_to_node(claim: &PersistentVolumeClaim, now: Timestamp) -> Option<Value> {
    let states = claim.status.as_ref();
    let states = states.and_then(|status| status.allocated_resource_statuses.as_ref());
    let state = states.and_then(|states| states.get("storage"));
    if state.is_some_and(|state| ON_NODE.contains(&state.as_str())) {
        return None;
    }
    let mut conditions = others(claim);
    conditions.retain(|condition| condition["type"] != FILE_SYSTEM_PENDING);
    let text =
        "Waiting for user to (re-)start a pod to finish file system resize of volume on node.";
    conditions.push(new_condition(FILE_SYSTEM_PENDING, text, now));
    Some(json!({"status": {
        "allocatedResourceStatuses": {"storage": ON_NODE[0]},
        "conditions": conditions,
    }}))
}

/// A quantity in whole bytes, rounded up; 0 if it is negative.
pub fn bytes(quantity: Quantity) -> u64 {
    u64::try_from(quantity.value()).unwrap_or(0)
}

fn quantity(
    text: Option<&k8s_openapi::apimachinery::pkg::api::resource::Quantity>,
) -> Option<Quantity> {
    text?.0.parse().ok()
}

fn condition<'c>(
    claim: &'c PersistentVolumeClaim,
    type_: &str,
) -> Option<&'c PersistentVolumeClaimCondition> {
    let conditions = claim.status.as_ref()?.conditions.as_ref()?;
    conditions
        .iter()
        .find(|condition| condition.type_ == type_ && condition.status == "True")
}

/// The claim's conditions that are not about expansion.
fn others(claim: &PersistentVolumeClaim) -> Vec<Value> {
    let conditions = claim.status.as_ref();
    let conditions = conditions.and_then(|status| status.conditions.as_deref());
    conditions
        .unwrap_or_default()
        .iter()
        .filter(|condition| condition.type_ != RESIZING && condition.type_ != RESIZE_ERROR)
        .map(|condition| json!(condition))
        .collect()
}

fn new_condition(type_: &str, message: &str, now: Timestamp) -> Value {
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let mut condition = json!({"type": type_, "status": "True",
        "lastTransitionTime": now.to_string()});
    if !message.is_empty() {
        condition["message"] = message.into();
    }
    condition
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(requested: &str, has: &str) -> Value {
        json!({"metadata": {"name": "c"}, "spec": {"volumeName": "v",
            "resources": {"requests": {"storage": requested}}},
            "status": {"phase": "Bound", "capacity": {"storage": has}}})
    }

    fn step(claim: &Value, volume_has: &str) -> ExpansionStep {
        let claim = json_tree::from_value(claim.clone()).unwrap();
        let volume = json!({"metadata": {"name": "v"},
            "spec": {"capacity": {"storage": volume_has}}});
        plan(
            &claim,
            &json_tree::from_value(volume).unwrap(),
            Timestamp::UNIX_EPOCH,
        )
    }

    fn merged(mut claim: Value, patch: &Value) -> Value {
        for (key, value) in patch["status"].as_object().unwrap() {
            claim["status"][key] = value.clone();
        }
        claim
    }

    /// statefulset.md §11.13.
    #[test]
    fn a_claim_grows_step_by_step() {
        let growing = claim("2Gi", "1Gi");
        let ExpansionStep::Announce(patch) = step(&growing, "1Gi") else {
            panic!("not announced");
        };
        assert_eq!(patch["status"]["allocatedResources"]["storage"], "2Gi");
        assert_eq!(patch["status"]["conditions"][0]["type"], RESIZING);
        let announced = merged(growing, &patch);
        let grow = ExpansionStep::Grow {
            bytes: 2 << 30,
            volume: json!({"spec": {"capacity": {"storage": "2Gi"}}}),
        };
        assert_eq!(step(&announced, "1Gi"), grow);
        let ExpansionStep::Finish(patch) = step(&announced, "2Gi") else {
            panic!("not finished");
        };
        assert_eq!(patch["status"]["capacity"]["storage"], "2Gi");
        let grown = merged(announced, &patch);
        assert_eq!(grown["status"]["conditions"], json!([]));
        assert_eq!(step(&grown, "2Gi"), ExpansionStep::Nothing);
    }

    /// statefulset.md §11.12.
    #[test]
    fn nothing_shrinks_and_what_is_not_bound_waits() {
        assert_eq!(step(&claim("1Gi", "1Gi"), "1Gi"), ExpansionStep::Nothing);
        assert_eq!(step(&claim("1Gi", "2Gi"), "2Gi"), ExpansionStep::Nothing);
        let mut pending = claim("2Gi", "1Gi");
        pending["status"]["phase"] = "Pending".into();
        assert_eq!(step(&pending, "1Gi"), ExpansionStep::Nothing);
        let mut going = claim("2Gi", "1Gi");
        going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        assert_eq!(step(&going, "1Gi"), ExpansionStep::Nothing);
    }

    /// Enhancement 1790.
    #[test]
    fn a_file_system_that_grows_on_the_node_is_left_to_it_once() {
        let mut grown = claim("2Gi", "1Gi");
        grown["status"]["allocatedResourceStatuses"] =
            json!({"storage": "ControllerResizeInProgress"});
        grown["status"]["conditions"] = json!([{"type": RESIZING, "status": "True"}]);
        let typed = |value: &Value| json_tree::from_value(value.clone()).unwrap();
        let patch = hand_to_node(&typed(&grown), Timestamp::UNIX_EPOCH).unwrap();
        let conditions = patch["status"]["conditions"].as_array().unwrap();
        assert_eq!(conditions.len(), 1);
        assert_eq!(conditions[0]["type"], FILE_SYSTEM_PENDING);
        let left = merged(grown, &patch);
        for state in ON_NODE {
            let mut left = left.clone();
            left["status"]["allocatedResourceStatuses"]["storage"] = state.into();
            assert_eq!(hand_to_node(&typed(&left), Timestamp::UNIX_EPOCH), None);
        }
    }

    #[test]
    fn another_request_is_announced_anew() {
        let growing = claim("2Gi", "1Gi");
        let ExpansionStep::Announce(patch) = step(&growing, "1Gi") else {
            panic!("not announced");
        };
        let mut more = merged(growing, &patch);
        more["spec"]["resources"]["requests"]["storage"] = "3Gi".into();
        let ExpansionStep::Announce(patch) = step(&more, "1Gi") else {
            panic!("not announced");
        };
        assert_eq!(patch["status"]["allocatedResources"]["storage"], "3Gi");
        assert_eq!(patch["status"]["conditions"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn a_failure_is_said_once() {
        let mut claim = claim("2Gi", "1Gi");
        claim["status"]["conditions"] = json!([{"type": RESIZING, "status": "True"}]);
        let typed = |value: &Value| json_tree::from_value(value.clone()).unwrap();
        let patch = failure(&typed(&claim), "full", Timestamp::UNIX_EPOCH).unwrap();
        let failed = merged(claim, &patch);
        let types: Vec<&str> = failed["status"]["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|condition| condition["type"].as_str().unwrap())
            .collect();
        assert_eq!(types, [RESIZING, RESIZE_ERROR]);
        assert_eq!(
            failure(&typed(&failed), "full", Timestamp::UNIX_EPOCH),
            None
        );
    }
}
