//! Finalizers that keep claims while pods use them and volumes while they are bound (statefulset.md §11.10).
//!
//! Goal: no claim or volume in use is deleted. Guarantees: every claim and volume that is not being deleted has its
//! finalizer; the finalizer is removed only from an object that is being deleted and unused.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use object_model::IncompleteMetadata;
use resource_kinds::MetadataIdentity;
use resource_kinds::annotations::{PV_PROTECTION, PVC_PROTECTION, VAC_PROTECTION};
use resource_kinds::pod_view::PodView;

/// The action for an object's finalizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protection {
    /// The finalizer stays as it is.
    Keep,
    Add,
    /// Remove the finalizer: the object may be deleted.
    Remove,
    /// The object stays, because the named object still uses it.
    InUse {
        user: String,
    },
}

/// Plans the finalizer of a claim. `pods` are those of its namespace.
pub fn protect_claim<'p>(
    claim: &PersistentVolumeClaim,
    pods: impl IntoIterator<Item = &'p PodView>,
) -> Result<Protection, IncompleteMetadata> {
    let name = claim.metadata.object_name()?;
    let user = pods.into_iter().find(|pod| uses(pod, name));
    Ok(decide(&claim.metadata, PVC_PROTECTION, || {
        user.map(|pod| format!("pod {}", pod.name))
    }))
}

/// Plans the finalizer of a VolumeAttributesClass, given the claims and volumes of the cluster.
pub fn protect_attributes_class<'o>(
    class: &VolumeAttributesClass,
    claims: impl IntoIterator<Item = &'o PersistentVolumeClaim>,
    volumes: impl IntoIterator<Item = &'o PersistentVolume>,
) -> Result<Protection, IncompleteMetadata> {
    let name = class.metadata.object_name()?;
    Ok(decide(&class.metadata, VAC_PROTECTION, || {
        let name_of = |metadata: &ObjectMeta| {
            metadata
                .name
                .clone()
                .unwrap_or_else(|| "without a name".to_owned())
        };
        let mut claims = claims.into_iter();
        let claim = claims.find(|claim| classes_of_claim(claim).any(|named| named == name));
        let claim = claim.map(|claim| format!("claim {}", name_of(&claim.metadata)));
        claim.or_else(|| {
            let mut volumes = volumes.into_iter();
            let volume = volumes.find(|volume| class_of_volume(volume) == Some(name))?;
            Some(format!("volume {}", name_of(&volume.metadata)))
        })
    }))
}

/// The VolumeAttributesClasses that a claim requests, changes to or has.
fn classes_of_claim(claim: &PersistentVolumeClaim) -> impl Iterator<Item = &str> {
    let spec = claim.spec.as_ref();
    let requested = spec.and_then(|spec| spec.volume_attributes_class_name.as_deref());
    let status = claim.status.as_ref();
    let has = status.and_then(|status| status.current_volume_attributes_class_name.as_deref());
    let target = status.and_then(|status| {
        let modify = status.modify_volume_status.as_ref()?;
        modify.target_volume_attributes_class_name.as_deref()
    });
    let named = [requested, target, has].into_iter().flatten();
    named.filter(|name| !name.is_empty())
}

/// The VolumeAttributesClass of a volume.
pub(crate) fn class_of_volume(volume: &PersistentVolume) -> Option<&str> {
    let name = volume
        .spec
        .as_ref()?
        .volume_attributes_class_name
        .as_deref();
    name.filter(|name| !name.is_empty())
}

/// Plans the finalizer of a volume.
pub fn protect_volume(volume: &PersistentVolume) -> Protection {
    decide(&volume.metadata, PV_PROTECTION, || {
        let bound = volume.status.as_ref()?.phase.as_deref() == Some("Bound");
        let claim = volume.spec.as_ref()?.claim_ref.as_ref();
        let name = claim
            .and_then(|claim| claim.name.clone())
            .unwrap_or_default();
        bound.then(|| format!("claim {name}"))
    })
}

fn decide(
    metadata: &ObjectMeta,
    finalizer: &str,
    user: impl FnOnce() -> Option<String>,
) -> Protection {
    let present = metadata
        .finalizers
        .iter()
        .flatten()
        .any(|present| present == finalizer);
    match (metadata.deletion_timestamp.is_some(), present) {
        (false, false) => Protection::Add,
        (false, true) | (true, false) => Protection::Keep,
        (true, true) => match user() {
            Some(user) => Protection::InUse { user },
            None => Protection::Remove,
        },
    }
}

/// Whether the pod uses the claim. A pod without a node does not use the claim, because the pod is not started with a
/// claim that is being deleted. An ended pod does not use the claim either.
pub fn uses(pod: &PodView, claim: &str) -> bool {
    pod.node.is_some() && !pod.has_ended() && names(pod, claim)
}

/// Whether one of the pod's volumes is the claim.
pub fn names(pod: &PodView, claim: &str) -> bool {
    pod.claims.iter().any(|used| *used.name == *claim)
}

#[cfg(test)]
mod tests {
    use json_tree::{Value, json};
    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    fn claim(deleting: bool, finalizers: &[&str]) -> PersistentVolumeClaim {
        let mut metadata = json!({"name": "data", "finalizers": finalizers});
        if deleting {
            metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        json_tree::from_value(json!({"metadata": metadata})).unwrap()
    }

    fn pod(node: Option<&str>, phase: &str) -> PodView {
        let volume = json!({"name": "v", "persistentVolumeClaim": {"claimName": "data"}});
        let spec: Value = json!({"nodeName": node, "containers": [], "volumes": [volume]});
        let metadata = json!({"name": "web-0", "uid": "u", "resourceVersion": "1"});
        let pod = json!({"metadata": metadata, "spec": spec, "status": {"phase": phase}});
        let pod: Pod = json_tree::from_value(pod).unwrap();
        PodView::try_from(&pod).unwrap()
    }

    #[test]
    fn a_claim_is_kept_while_a_living_pod_uses_it() {
        let going = claim(true, &[PVC_PROTECTION]);
        let protected = Protection::InUse {
            user: "pod web-0".to_owned(),
        };
        assert_eq!(
            protect_claim(&going, [&pod(Some("a"), "Running")]).unwrap(),
            protected
        );
        assert_eq!(
            protect_claim(&going, [&pod(Some("a"), "Pending")]).unwrap(),
            protected
        );
        assert_eq!(
            protect_claim(&going, [&pod(Some("a"), "Succeeded")]).unwrap(),
            Protection::Remove
        );
        assert_eq!(
            protect_claim(&going, [&pod(None, "Pending")]).unwrap(),
            Protection::Remove
        );
        assert_eq!(protect_claim(&going, []).unwrap(), Protection::Remove);
    }

    #[test]
    fn a_living_claim_gets_its_finalizer_and_keeps_it() {
        assert_eq!(
            protect_claim(&claim(false, &[]), []).unwrap(),
            Protection::Add
        );
        assert_eq!(
            protect_claim(&claim(false, &[PVC_PROTECTION]), []).unwrap(),
            Protection::Keep
        );
        assert_eq!(
            protect_claim(&claim(true, &["other"]), []).unwrap(),
            Protection::Keep
        );
    }

    #[test]
    fn a_class_of_attributes_is_kept_while_it_is_named() {
        let class: VolumeAttributesClass = json_tree::from_value(json!({
            "driverName": "d", "metadata": {"name": "gold",
                "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [VAC_PROTECTION]}}))
        .unwrap();
        let claim = |spec: Value, status: Value| -> PersistentVolumeClaim {
            let metadata = json!({"name": "data"});
            let claim = json!({"metadata": metadata, "spec": spec, "status": status});
            json_tree::from_value(claim).unwrap()
        };
        let plan =
            |claim: &PersistentVolumeClaim| protect_attributes_class(&class, [claim], []).unwrap();
        let protected = Protection::InUse {
            user: "claim data".to_owned(),
        };
        let named = json!({"volumeAttributesClassName": "gold"});
        assert_eq!(plan(&claim(named.clone(), json!({}))), protected);
        let has = json!({"currentVolumeAttributesClassName": "gold"});
        assert_eq!(plan(&claim(json!({}), has)), protected);
        let changes = json!({"modifyVolumeStatus": {"status": "InProgress",
            "targetVolumeAttributesClassName": "gold"}});
        assert_eq!(plan(&claim(json!({}), changes)), protected);
        assert_eq!(plan(&claim(json!({}), json!({}))), Protection::Remove);
        let volume: PersistentVolume =
            json_tree::from_value(json!({"metadata": {"name": "v"}, "spec": named})).unwrap();
        assert_eq!(
            protect_attributes_class(&class, [], [&volume]).unwrap(),
            Protection::InUse {
                user: "volume v".to_owned()
            }
        );
    }

    #[test]
    fn a_volume_is_kept_while_it_is_bound() {
        let volume = |phase: &str| -> PersistentVolume {
            json_tree::from_value(json!({
                "metadata": {"name": "v", "deletionTimestamp": "2026-01-01T00:00:00Z",
                    "finalizers": [PV_PROTECTION]},
                "spec": {"claimRef": {"name": "data"}},
                "status": {"phase": phase},
            }))
            .unwrap()
        };
        let protected = Protection::InUse {
            user: "claim data".to_owned(),
        };
        assert_eq!(protect_volume(&volume("Bound")), protected);
        assert_eq!(protect_volume(&volume("Released")), Protection::Remove);
    }
}
