//! The plan for a volume.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use object_model::IncompleteMetadata;
use resource_kinds::MetadataIdentity;
use resource_kinds::annotations::{BOUND_BY_CONTROLLER, PROVISIONED_BY};
use resource_kinds::reasons::volume as reasons;
use resource_kinds::volume_fit::{VolumeMismatch, misfit};

use super::action::{BindingObject, NoteType, VolumeBindingAction, VolumeBindingPlan};

/// Plans the writes for a volume. `claim` is the claim in the volume's `claimRef`, by name *and* UID: another claim of
/// that name counts as absent. The API server, not only a cache, must have confirmed the absence.
pub fn plan_volume(
    volume: &PersistentVolume,
    claim: Option<&PersistentVolumeClaim>,
    now: Timestamp,
) -> Result<VolumeBindingPlan, IncompleteMetadata> {
    let mut plan = VolumeBindingPlan::default();
    let reference = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.claim_ref.as_ref());
    let uid = reference.and_then(|reference| reference.uid.as_deref());
    let Some(uid) = uid.filter(|uid| !uid.is_empty()) else {
        set_phase(volume, "Available", None, now, &mut plan)?;
        return Ok(plan);
    };
    let claim = match claim {
        Some(claim) if claim.metadata.object_uid()? == *uid => claim,
        _ => {
            release(volume, now, &mut plan)?;
            return Ok(plan);
        }
    };
    let bound_to = claim
        .spec
        .as_ref()
        .and_then(|spec| spec.volume_name.as_deref());
    match bound_to.filter(|name| !name.is_empty()) {
        None => await_claim(volume, claim, &mut plan)?,
        Some(name) if name == volume.metadata.object_name()? => {
            set_phase(volume, "Bound", None, now, &mut plan)?;
        }
        // The volume was provisioned for a claim that got another volume: nobody needs the volume.
        Some(_) if is_provisioned(volume) && policy(volume) == "Delete" => {
            release(volume, now, &mut plan)?;
        }
        Some(_) => {
            let by_user = !has_annotation(volume, BOUND_BY_CONTROLLER);
            let name = volume.metadata.object_name()?.to_owned();
            plan.actions.push(VolumeBindingAction::FreeVolume {
                volume: name,
                by_user,
            });
            set_phase(volume, "Available", None, now, &mut plan)?;
        }
    }
    Ok(plan)
}

/// Waits for the claim: the volume is reserved for a claim that does not name the volume yet, and the plan of the claim
/// continues the binding.
fn await_claim(
    volume: &PersistentVolume,
    claim: &PersistentVolumeClaim,
    plan: &mut VolumeBindingPlan,
) -> Result<(), IncompleteMetadata> {
    plan.waiting_on = Some("its claim to be bound".to_owned());
    if misfit(volume, claim) == Some(VolumeMismatch::VolumeMode) {
        let text = format!(
            "Cannot bind PersistentVolume to requested PersistentVolumeClaim {:?} due to \
             incompatible volumeMode.",
            claim.metadata.object_name()?
        );
        let on = BindingObject::Volume(volume.metadata.object_name()?.to_owned());
        plan.note(on, NoteType::Warning, reasons::VOLUME_MISMATCH, text);
    }
    Ok(())
}

/// Releases the volume of a deleted claim (statefulset.md §11.8).
fn release(
    volume: &PersistentVolume,
    now: Timestamp,
    plan: &mut VolumeBindingPlan,
) -> Result<(), IncompleteMetadata> {
    let phase = volume
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    if phase != Some("Failed") {
        set_phase(volume, "Released", None, now, plan)?;
    }
    match policy(volume) {
        "Retain" => {
            plan.waiting_on =
                Some("an administrator to remove it or its claimRef (policy Retain)".to_owned());
        }
        "Delete" if is_provisioned(volume) || is_csi(volume) => {
            plan.waiting_on = Some("its provisioner to delete it".to_owned());
        }
        "Delete" => fail(
            volume,
            reasons_of_failure::DELETE,
            "no deletable volume plugin matched: it was not made by a provisioner".to_owned(),
            now,
            plan,
        )?,
        "Recycle" => fail(
            volume,
            reasons_of_failure::RECYCLE,
            "No recycler plugin found for the volume!".to_owned(),
            now,
            plan,
        )?,
        _ => fail(
            volume,
            reasons_of_failure::UNKNOWN_POLICY,
            "Volume has an unrecognized PersistentVolumeReclaimPolicy".to_owned(),
            now,
            plan,
        )?,
    }
    Ok(())
}

mod reasons_of_failure {
    pub const DELETE: &str = "VolumeFailedDelete";
    pub const RECYCLE: &str = "VolumeFailedRecycle";
    pub const UNKNOWN_POLICY: &str = "VolumeUnknownReclaimPolicy";
}

fn fail(
    volume: &PersistentVolume,
    reason: &'static str,
    text: String,
    now: Timestamp,
    plan: &mut VolumeBindingPlan,
) -> Result<(), IncompleteMetadata> {
    plan.waiting_on = Some(text.clone());
    let status = volume.status.as_ref();
    let is_stored = status.is_some_and(|status| {
        status.phase.as_deref() == Some("Failed")
            && status.message.as_deref() == Some(text.as_str())
    });
    if is_stored {
        return Ok(());
    }
    let on = BindingObject::Volume(volume.metadata.object_name()?.to_owned());
    plan.note(on, NoteType::Warning, reason, text.clone());
    set_phase(volume, "Failed", Some((reason, text)), now, plan)
}

/// Adds the write of a phase, unless the volume has that phase.
pub(crate) fn set_phase(
    volume: &PersistentVolume,
    phase: &'static str,
    failure: Option<(&'static str, String)>,
    now: Timestamp,
    plan: &mut VolumeBindingPlan,
) -> Result<(), IncompleteMetadata> {
    let status = volume.status.as_ref();
    let same = status.is_some_and(|status| {
        let message = failure.as_ref().map(|(_, message)| message.as_str());
        status.phase.as_deref() == Some(phase)
            && status.message.as_deref().filter(|text| !text.is_empty()) == message
    });
    if same {
        return Ok(());
    }
    let volume = volume.metadata.object_name()?.to_owned();
    plan.actions.push(VolumeBindingAction::SetVolumePhase {
        volume,
        phase,
        failure,
        at: now,
    });
    Ok(())
}

fn policy(volume: &PersistentVolume) -> &str {
    let policy = volume.spec.as_ref();
    let policy = policy.and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    policy.unwrap_or("Retain")
}

fn is_provisioned(volume: &PersistentVolume) -> bool {
    has_annotation(volume, PROVISIONED_BY)
}

fn is_csi(volume: &PersistentVolume) -> bool {
    volume.spec.as_ref().is_some_and(|spec| spec.csi.is_some())
}

fn has_annotation(volume: &PersistentVolume, key: &str) -> bool {
    volume
        .metadata
        .annotations
        .as_ref()
        .is_some_and(|all| all.contains_key(key))
}
