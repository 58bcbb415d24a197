//! The node's part of the expansion of a CSI volume: the storage has grown, and the driver must be called
//! on the node that uses it.
//!
//! **Goal**: a claim's status has the new capacity after the driver has expanded the volume on the node.
//! **Guarantees**: before the call, the claim's status reports that the node expands the volume. Only after
//! the call, the status has the new capacity. An agent that was killed in between repeats the call. States
//! of the claim that belong to the resizer are not changed. The states are those of KEP-1790, as in
//! kubelet.

use jiff::Timestamp;
use json_tree::{Value, json};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use object_model::Quantity;

/// The states of a claim in which the node works, and the state in which the resizer takes over.
const PENDING: &str = "NodeResizePending";
const IN_PROGRESS: &str = "NodeResizeInProgress";
const INFEASIBLE: &str = "NodeResizeInfeasible";
/// The condition of a claim whose expansion failed on the node.
const NODE_ERROR: &str = "NodeResizeError";
/// All conditions that an expansion sets on a claim.
const CONDITIONS: [&str; 4] = [
    "FileSystemResizePending",
    "Resizing",
    "ControllerResizeError",
    NODE_ERROR,
];

/// A call of the driver that must be made.
#[derive(Clone, Debug, PartialEq)]
pub struct VolumeExpansion {
    /// The capacity in the volume's object.
    pub capacity: Quantity,
    /// The patch of the claim's status before the call; `None` if the status reports the expansion already.
    pub announcement: Option<Value>,
    /// The patch of the claim's status after the call; `None` if another node has written it.
    pub conclusion: Option<Value>,
}

/// The recorded state of a volume on this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordedVolume {
    /// The volume's capacity on this node; `None` before the first check.
    pub capacity: Option<Quantity>,
    /// Whether an expansion has failed with a final error.
    pub has_failed: bool,
    /// Whether the driver rejects the expansion while the volume is in use.
    pub is_refused: bool,
}

pub fn status_capacity(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    let capacity = claim.status.as_ref()?.capacity.as_ref()?.get("storage")?;
    capacity.0.parse().ok()
}

/// Whether the volume of a claim may need an expansion on the node. The check uses only the claim, which
/// avoids a read of the volume.
pub fn may_grow(claim: &PersistentVolumeClaim, recorded: RecordedVolume) -> bool {
    let (observed, desired) = (status_capacity(claim), requested(claim));
    state(claim).is_some()
        || desired > observed
        || (recorded.capacity.is_some() && observed > recorded.capacity)
}

/// The call for a claim and its volume; `None` if no call is needed.
pub fn plan(
    claim: &PersistentVolumeClaim,
    volume: &PersistentVolume,
    recorded: RecordedVolume,
) -> Option<VolumeExpansion> {
    let spec = volume.spec.as_ref()?;
    let bound = claim.spec.as_ref()?.volume_name.as_deref();
    let offered = &spec.capacity.as_ref()?.get("storage")?.0;
    let capacity: Quantity = offered.parse().ok()?;
    let observed = status_capacity(claim)?;
    if bound.is_none() || bound != volume.metadata.name.as_deref() || recorded.is_refused {
        return None;
    }
    if observed >= capacity && state(claim).is_none() {
        // Several nodes use the volume: another node has reported the expansion.
        let is_behind = recorded.capacity.is_some_and(|size| size < capacity);
        return is_behind.then_some(VolumeExpansion {
            capacity,
            announcement: None,
            conclusion: None,
        });
    }
    let announcement = match state(claim) {
        Some(PENDING) => Some(patch(
            claim,
            json!({"allocatedResourceStatuses": {"storage": IN_PROGRESS}}),
        )),
        Some(IN_PROGRESS) => None,
        // Resizers before KEP-1790 set no state.
        None if observed < capacity => None,
        _ => return None,
    };
    Some(VolumeExpansion {
        capacity,
        announcement,
        conclusion: Some(json!({
            "capacity": {"storage": offered},
            "allocatedResourceStatuses": no_state(claim),
            "conditions": others(claim, &CONDITIONS),
        })),
    })
}

/// The change that removes the resize state from the claim's status.
fn no_state(claim: &PersistentVolumeClaim) -> Value {
    let states = claim.status.as_ref();
    let states = states.and_then(|status| status.allocated_resource_statuses.as_ref());
    match states.is_some_and(|states| states.keys().any(|name| name != "storage")) {
        true => json!({ "storage": null }),
        false => Value::Null,
    }
}

/// The patch of the claim's status after a call with a final error. An infeasible expansion is returned to
/// the resizer. So is an expansion that was replaced by another request after a failure.
pub fn failure(
    claim: &PersistentVolumeClaim,
    growth: &VolumeExpansion,
    recorded: RecordedVolume,
    message: &str,
    is_infeasible: bool,
    now: Timestamp,
) -> Value {
    let is_replaced = recorded.has_failed && requested(claim) != Some(growth.capacity);
    let mut conditions = others(claim, &[NODE_ERROR]);
    conditions.push(json!({
        "type": NODE_ERROR,
        "status": "True",
        "lastTransitionTime": now.to_string(),
        "message": format!("failed to expand pvc with {message}"),
    }));
    let mut status = json!({ "conditions": conditions });
    if is_infeasible || is_replaced {
        status["allocatedResourceStatuses"] = json!({"storage": INFEASIBLE});
    }
    patch(claim, status)
}

/// The patch that completes an expansion, based on the last written version of the claim.
pub fn conclusion(claim: &PersistentVolumeClaim, growth: &VolumeExpansion) -> Option<Value> {
    let status = growth.conclusion.clone()?;
    Some(patch(claim, status))
}

/// A patch that is valid only for this version of the claim.
fn patch(claim: &PersistentVolumeClaim, status: Value) -> Value {
    let version = &claim.metadata.resource_version;
    json!({"metadata": {"resourceVersion": version}, "status": status})
}

fn requested(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    let resources = claim.spec.as_ref()?.resources.as_ref()?;
    resources.requests.as_ref()?.get("storage")?.0.parse().ok()
}

fn state(claim: &PersistentVolumeClaim) -> Option<&str> {
    let states = claim.status.as_ref()?.allocated_resource_statuses.as_ref();
    states?.get("storage").map(String::as_str)
}

/// The conditions of a claim except `without`.
fn others(claim: &PersistentVolumeClaim, without: &[&str]) -> Vec<Value> {
    let conditions = claim.status.as_ref();
    let conditions = conditions.and_then(|status| status.conditions.as_deref());
    let conditions = conditions.unwrap_or_default().iter();
    conditions
        .filter(|condition| !without.contains(&condition.type_.as_str()))
        .map(|condition| json!(condition))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(size: &str, state: Option<&str>) -> PersistentVolumeClaim {
        let mut status = json!({"phase": "Bound", "capacity": {"storage": size}, "conditions": [
            {"type": "FileSystemResizePending", "status": "True"},
            {"type": "Other", "status": "True"}]});
        if let Some(state) = state {
            status["allocatedResourceStatuses"] = json!({"storage": state});
        }
        json_tree::from_value(json!({"metadata": {"name": "c", "resourceVersion": "7"},
            "spec": {"volumeName": "v", "resources": {"requests": {"storage": "2Gi"}}},
            "status": status}))
        .unwrap()
    }

    fn volume(name: &str, capacity: &str) -> PersistentVolume {
        let spec = json!({"capacity": {"storage": capacity}});
        json_tree::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
    }

    fn at(capacity: &str) -> RecordedVolume {
        RecordedVolume {
            capacity: capacity.parse().ok(),
            ..RecordedVolume::default()
        }
    }

    fn planned(
        size: &str,
        state: Option<&str>,
        capacity: &str,
        recorded: RecordedVolume,
    ) -> Option<VolumeExpansion> {
        plan(&claim(size, state), &volume("v", capacity), recorded)
    }

    #[test]
    fn a_claim_says_that_the_node_works_before_the_driver_is_called() {
        let first = planned("1Gi", Some(PENDING), "2Gi", RecordedVolume::default()).unwrap();
        let announced = first.announcement.clone().unwrap();
        assert_eq!(announced["metadata"]["resourceVersion"], "7");
        assert_eq!(
            announced["status"]["allocatedResourceStatuses"]["storage"],
            IN_PROGRESS
        );
        let again = planned("1Gi", Some(IN_PROGRESS), "2Gi", RecordedVolume::default()).unwrap();
        assert_eq!(again.announcement, None);
        let end = conclusion(&claim("1Gi", Some(IN_PROGRESS)), &again).unwrap();
        let status = &end["status"];
        assert_eq!(status["capacity"]["storage"], "2Gi");
        assert_eq!(status.get("allocatedResourceStatuses"), Some(&Value::Null));
        let conditions = json!([{"type": "Other", "status": "True"}]);
        assert_eq!(status["conditions"], conditions);
    }

    #[test]
    fn states_of_the_resizer_are_left_to_it() {
        for state in [
            "ControllerResizeInProgress",
            "ControllerResizeInfeasible",
            INFEASIBLE,
        ] {
            assert_eq!(
                planned("1Gi", Some(state), "2Gi", RecordedVolume::default()),
                None
            );
            assert_eq!(planned("2Gi", Some(state), "2Gi", at("1Gi")), None);
        }
        let old = planned("1Gi", None, "2Gi", RecordedVolume::default()).unwrap();
        assert!(old.announcement.is_none() && old.conclusion.is_some());
        assert_eq!(planned("2Gi", None, "2Gi", RecordedVolume::default()), None);
        let other = volume("other", "2Gi");
        assert_eq!(
            plan(
                &claim("1Gi", Some(PENDING)),
                &other,
                RecordedVolume::default()
            ),
            None
        );
    }

    #[test]
    fn a_volume_that_another_node_has_told_of_grows_here_too() {
        let here = planned("2Gi", None, "2Gi", at("1Gi")).unwrap();
        assert!(here.announcement.is_none() && here.conclusion.is_none());
        assert_eq!(planned("2Gi", None, "2Gi", at("2Gi")), None);
        let refused = RecordedVolume {
            is_refused: true,
            ..at("1Gi")
        };
        assert_eq!(planned("1Gi", Some(PENDING), "2Gi", refused), None);
    }

    #[test]
    fn the_volume_is_looked_at_only_if_it_may_have_grown() {
        assert!(may_grow(&claim("1Gi", None), RecordedVolume::default()));
        assert!(may_grow(
            &claim("2Gi", Some(PENDING)),
            RecordedVolume::default()
        ));
        assert!(may_grow(&claim("2Gi", None), at("1Gi")));
        assert!(!may_grow(&claim("2Gi", None), at("2Gi")));
        assert!(!may_grow(&claim("2Gi", None), RecordedVolume::default()));
    }

    #[test]
    fn an_infeasible_expansion_goes_back_to_the_resizer() {
        let claim = claim("1Gi", Some(IN_PROGRESS));
        let failure_status = |capacity: &str, has_failed, is_infeasible| {
            let growth = plan(&claim, &volume("v", capacity), RecordedVolume::default()).unwrap();
            let recorded = RecordedVolume {
                has_failed,
                ..RecordedVolume::default()
            };
            let now = Timestamp::UNIX_EPOCH;
            failure(&claim, &growth, recorded, "no room", is_infeasible, now)["status"].clone()
        };
        let plain = failure_status("2Gi", true, false);
        assert_eq!(plain["allocatedResourceStatuses"], Value::Null);
        let types: Vec<&str> = plain["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|condition| condition["type"].as_str())
            .collect();
        assert_eq!(types, ["FileSystemResizePending", "Other", NODE_ERROR]);
        assert_eq!(
            plain["conditions"][2]["message"],
            "failed to expand pvc with no room"
        );
        for status in [
            failure_status("2Gi", false, true),
            failure_status("3Gi", true, false),
        ] {
            assert_eq!(status["allocatedResourceStatuses"]["storage"], INFEASIBLE);
        }
        assert_eq!(
            failure_status("3Gi", false, false)["allocatedResourceStatuses"],
            Value::Null
        );
    }
}
