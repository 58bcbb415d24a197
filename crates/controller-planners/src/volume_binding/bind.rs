//! The four writes of a binding (statefulset.md §11.5), without those that are stored already.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use object_model::IncompleteMetadata;
use resource_kinds::MetadataIdentity;
use resource_kinds::annotations::BIND_COMPLETED;
use resource_kinds::volume_fit::{Reservation, claim_reference, reservation};

use crate::volume_protection::class_of_volume;

use super::action::{VolumeBindingAction, VolumeBindingPlan};
use super::volume::set_phase;

/// Adds the missing writes of a binding. The caller has checked that the binding is allowed.
pub(crate) fn bind(
    volume: &PersistentVolume,
    claim: &PersistentVolumeClaim,
    now: Timestamp,
    plan: &mut VolumeBindingPlan,
) -> Result<(), IncompleteMetadata> {
    let name = volume.metadata.object_name()?.to_owned();
    let reference = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.claim_ref.as_ref());
    let claim_uid = claim.metadata.object_uid()?;
    let reserved_for = reference.and_then(|reference| reference.uid.as_deref());
    let is_reserved = reserved_for.is_some_and(|uid| claim_uid == *uid);
    if !is_reserved {
        plan.actions.push(VolumeBindingAction::ReserveVolume {
            volume: name.clone(),
            claim: Box::new(claim_reference(claim)),
            by_controller: reservation(volume, claim) == Reservation::Free,
        });
    }
    set_phase(volume, "Bound", None, now, plan)?;
    let annotations = claim.metadata.annotations.as_ref();
    let complete = annotations.is_some_and(|all| all.contains_key(BIND_COMPLETED));
    let named = names(claim, &name);
    if !named || !complete {
        plan.actions.push(VolumeBindingAction::BindClaim {
            volume: name,
            by_controller: !named,
        });
    }
    set_bound(volume, claim, plan);
    Ok(())
}

fn names(claim: &PersistentVolumeClaim, volume: &str) -> bool {
    let named = claim
        .spec
        .as_ref()
        .and_then(|spec| spec.volume_name.as_deref());
    named == Some(volume)
}

/// The claim's status after binding. The capacity is copied only when the claim becomes Bound: a
/// later difference is a pending resize.
fn set_bound(
    volume: &PersistentVolume,
    claim: &PersistentVolumeClaim,
    plan: &mut VolumeBindingPlan,
) {
    let status = claim.status.as_ref();
    let becomes_bound = status.and_then(|status| status.phase.as_deref()) != Some("Bound");
    let offered = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.access_modes.clone());
    let offered = offered.unwrap_or_default();
    let reported = status
        .and_then(|status| status.access_modes.clone())
        .unwrap_or_default();
    if becomes_bound || reported != offered {
        let capacity = volume.spec.as_ref().and_then(|spec| spec.capacity.clone());
        let attributes = class_of_volume(volume).map(str::to_owned);
        plan.actions.push(VolumeBindingAction::SetClaimStatus {
            phase: "Bound",
            access_modes: offered,
            capacity: capacity.filter(|_| becomes_bound),
            attributes: attributes.filter(|_| becomes_bound),
        });
    }
}
