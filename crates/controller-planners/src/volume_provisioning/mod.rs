//! The decisions that all provisioners of mainstay share: the claims that request a volume, and the removal of the
//! volumes that were created for them. [`local`] and [`nfs`] have the decisions of the provisioner on a node.

pub mod local;
pub mod nfs;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use object_model::IncompleteMetadata;
use resource_kinds::MetadataIdentity;
use resource_kinds::annotations::{BETA_STORAGE_PROVISIONER, SELECTED_NODE, STORAGE_PROVISIONER};
use resource_kinds::storage::driver::VOLUME_PREFIX;

fn annotation<'a>(claim: &'a PersistentVolumeClaim, key: &str) -> Option<&'a str> {
    let annotations = claim.metadata.annotations.as_ref()?;
    annotations.get(key).map(String::as_str)
}

/// The provisioner from which a claim requests a volume.
pub fn provisioner_of(claim: &PersistentVolumeClaim) -> Option<&str> {
    let requested = annotation(claim, STORAGE_PROVISIONER);
    requested.or_else(|| annotation(claim, BETA_STORAGE_PROVISIONER))
}

/// Whether a claim has no volume and is not being deleted.
pub fn needs_volume(claim: &PersistentVolumeClaim) -> bool {
    let name = claim
        .spec
        .as_ref()
        .and_then(|spec| spec.volume_name.as_ref());
    name.is_none_or(String::is_empty) && claim.metadata.deletion_timestamp.is_none()
}

/// The node on which the volume of a claim is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeOfClaim<'a> {
    /// The scheduler has not chosen the node yet, and the StorageClass waits for the choice.
    NotChosen,
    /// The node that the scheduler chose.
    Chosen(&'a str),
    /// The volume may be on any node.
    Any,
}

/// The node on which the volume of a claim is needed.
pub fn node_of_claim<'a>(
    claim: &'a PersistentVolumeClaim,
    class: &StorageClass,
) -> NodeOfClaim<'a> {
    let waits = class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer");
    match annotation(claim, SELECTED_NODE) {
        Some(node) => NodeOfClaim::Chosen(node),
        None if waits => NodeOfClaim::NotChosen,
        None => NodeOfClaim::Any,
    }
}

/// The name of the volume for a claim; equal at each attempt, because it is derived from the claim's UID.
pub fn volume_name(claim: &PersistentVolumeClaim) -> Result<String, IncompleteMetadata> {
    Ok(format!("{VOLUME_PREFIX}{}", claim.metadata.object_uid()?))
}

/// The namespace and the name of the claim that a volume names.
pub fn claim_of(volume: &PersistentVolume) -> Option<(&str, &str)> {
    let reference = volume.spec.as_ref()?.claim_ref.as_ref()?;
    Some((reference.namespace.as_deref()?, reference.name.as_deref()?))
}

/// Whether a claim is the claim that the volume names, by UID, and is bound to no other volume.
pub fn is_claimed_by(
    volume: &PersistentVolume,
    claim: &PersistentVolumeClaim,
) -> Result<bool, IncompleteMetadata> {
    let spec = volume.spec.as_ref();
    let reference = spec.and_then(|spec| spec.claim_ref.as_ref());
    let bound_to = claim
        .spec
        .as_ref()
        .and_then(|spec| spec.volume_name.as_ref());
    let uid = reference.and_then(|reference| reference.uid.as_deref());
    let claim = claim.metadata.object_uid()?;
    let is_bound_elsewhere = match bound_to {
        Some(bound_to) => bound_to != volume.metadata.object_name()?,
        None => false,
    };
    Ok(uid.is_some_and(|uid| claim == *uid) && !is_bound_elsewhere)
}

/// The action for a volume of a provisioner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReclaimAction {
    /// The volume stays.
    Keep,
    /// The data and the object are removed.
    Remove,
    /// The object may be deleted, but the data stays, because the policy demands it.
    RemoveFinalizer,
}

/// The action for a volume that the caller created, with the caller's finalizer. Data is removed only after the
/// deletion of the claim, and only if the policy demands it.
pub fn reclaim_action(volume: &PersistentVolume, finalizer: &str) -> ReclaimAction {
    let spec = volume.spec.as_ref();
    let policy = spec.and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    let status = volume.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref());
    let is_going = volume.metadata.deletion_timestamp.is_some();
    // An unbound volume is removed when its object is deleted.
    let is_over =
        matches!(phase, Some("Released" | "Failed")) || (is_going && phase != Some("Bound"));
    match policy {
        Some("Delete") if is_over => ReclaimAction::Remove,
        Some("Delete") => ReclaimAction::Keep,
        _ if is_going && finalizers_without(volume, finalizer).is_some() => {
            ReclaimAction::RemoveFinalizer
        }
        _ => ReclaimAction::Keep,
    }
}

/// The other finalizers of a volume that has `finalizer`.
pub fn finalizers_without<'a>(
    volume: &'a PersistentVolume,
    finalizer: &str,
) -> Option<Vec<&'a str>> {
    let all = volume.metadata.finalizers.as_ref()?;
    let rest = all.iter().map(String::as_str);
    let rest: Vec<&str> = rest.filter(|one| *one != finalizer).collect();
    (rest.len() < all.len()).then_some(rest)
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    #[test]
    fn data_go_after_their_claim_and_by_the_policy() {
        let action_for = |phase: &str, policy: &str, is_going: bool| {
            let mut volume = json!({"metadata": {"name": "pvc-c1", "finalizers": ["f"]},
                "status": {"phase": phase}, "spec": {"persistentVolumeReclaimPolicy": policy}});
            if is_going {
                volume["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            reclaim_action(&json_tree::from_value(volume).unwrap(), "f")
        };
        assert_eq!(action_for("Bound", "Delete", false), ReclaimAction::Keep);
        assert_eq!(action_for("Bound", "Delete", true), ReclaimAction::Keep);
        // findings R16
        assert_eq!(
            action_for("Available", "Delete", false),
            ReclaimAction::Keep
        );
        assert_eq!(
            action_for("Available", "Delete", true),
            ReclaimAction::Remove
        );
        assert_eq!(
            action_for("Available", "Retain", true),
            ReclaimAction::RemoveFinalizer
        );
        assert_eq!(
            action_for("Released", "Delete", false),
            ReclaimAction::Remove
        );
        assert_eq!(action_for("Released", "Retain", false), ReclaimAction::Keep);
        assert_eq!(
            action_for("Released", "Retain", true),
            ReclaimAction::RemoveFinalizer
        );
        assert_eq!(action_for("Failed", "Delete", true), ReclaimAction::Remove);
    }

    #[test]
    fn a_volume_knows_its_claim_by_identity() {
        let volume: PersistentVolume =
            json_tree::from_value(json!({"metadata": {"name": "pvc-c1"},
            "spec": {"claimRef": {"namespace": "shop", "name": "data", "uid": "c1"}}}))
            .unwrap();
        assert_eq!(claim_of(&volume), Some(("shop", "data")));
        let is_it = |uid: &str, volume_name: Option<&str>| {
            let claim = json!({"metadata": {"uid": uid}, "spec": {"volumeName": volume_name}});
            is_claimed_by(&volume, &json_tree::from_value(claim).unwrap()).unwrap()
        };
        assert!(is_it("c1", None) && is_it("c1", Some("pvc-c1")));
        assert!(!is_it("c2", None) && !is_it("c1", Some("other")));
    }
}
