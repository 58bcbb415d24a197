//! VolumeAttributesClasses of claims whose volumes have no attributes because they have no CSI driver.
//!
//! The resizer of a CSI driver writes the progress of a change. For volumes without a driver this controller writes
//! that the change is infeasible.

use jiff::Timestamp;
use json_tree::{Value, json};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use resource_kinds::reasons::volume as reasons;

use crate::volume_protection::class_of_volume;

use super::action::{BindingObject, NoteType, VolumeBindingAction, VolumeBindingPlan};

/// The condition of a claim whose volume could not be changed, as external-resizer writes it.
const MODIFY_ERROR: &str = "ModifyVolumeError";

/// Adds the refusal of a new VolumeAttributesClass for a volume without a CSI driver, or removes the refusal when the
/// request ends.
pub(super) fn refuse_attributes(
    volume: &PersistentVolume,
    claim: &PersistentVolumeClaim,
    now: Timestamp,
    plan: &mut VolumeBindingPlan,
) {
    if volume.spec.as_ref().is_none_or(|spec| spec.csi.is_some()) {
        return;
    }
    let spec = claim.spec.as_ref();
    let desired = spec.and_then(|spec| spec.volume_attributes_class_name.clone());
    let has = class_of_volume(volume);
    let refused = desired.filter(|name| !name.is_empty() && Some(name.as_str()) != has);
    let status = claim.status.as_ref();
    let reported = status.and_then(|status| status.modify_volume_status.as_ref());
    let reported = reported.map(|reported| reported.target_volume_attributes_class_name.clone());
    if reported.clone().map(Option::unwrap_or_default) == refused {
        return;
    }
    let conditions = status.and_then(|status| status.conditions.as_deref());
    let others = conditions.unwrap_or_default().iter();
    let others = others.filter(|condition| condition.type_ != MODIFY_ERROR);
    let mut conditions: Vec<Value> = others.map(|condition| json!(condition)).collect();
    if let Some(name) = &refused {
        let message = format!(
            "the VolumeAttributesClass {name:?} cannot be applied: the volume has no CSI driver, and \
             so no attributes"
        );
        let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
        conditions.push(
            json!({"type": MODIFY_ERROR, "status": "True", "message": message,
            "lastTransitionTime": now.to_string()}),
        );
        let (warning, reason) = (NoteType::Warning, reasons::MODIFY_FAILED);
        plan.note(BindingObject::Claim, warning, reason, message);
    }
    plan.actions.push(VolumeBindingAction::SetModifyStatus {
        target: refused,
        conditions,
    });
}
