//! The actions, and the write for each.

use std::collections::BTreeMap;

use jiff::Timestamp;
use json_tree::{Value, json};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use resource_kinds::annotations::{
    BETA_STORAGE_PROVISIONER, BIND_COMPLETED, BOUND_BY_CONTROLLER, STORAGE_PROVISIONER,
};

/// The planned writes and events, and the reason for waiting.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VolumeBindingPlan {
    /// Writes, in this order; the first failure ends the plan.
    pub actions: Vec<VolumeBindingAction>,
    /// Events to report, in order.
    pub notes: Vec<BindingEvent>,
    /// The reason for waiting; `None` if the plan does not wait.
    pub waiting_on: Option<String>,
}

/// The object of a write or an event.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BindingObject {
    /// The claim that the plan is for.
    Claim,
    /// The volume of that name.
    Volume(String),
}

/// The type of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoteType {
    Normal,
    Warning,
}

/// An event for a claim or a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindingEvent {
    /// The claim or volume that the event is about.
    pub on: BindingObject,
    /// `Normal` or `Warning`.
    pub note_type: NoteType,
    /// Reason of the event, for instance `ProvisioningSucceeded`.
    pub reason: &'static str,
    /// Message of the event.
    pub message: String,
}

/// A write of the plan.
#[derive(Clone, Debug, PartialEq)]
pub enum VolumeBindingAction {
    /// Reserve the volume for the claim: the first write of a binding.
    ReserveVolume {
        volume: String,
        /// The claim with its UID.
        claim: Box<ObjectReference>,
        /// Whether the controller chose the volume, not the user.
        by_controller: bool,
    },
    /// Set the volume's phase.
    SetVolumePhase {
        volume: String,
        phase: &'static str,
        /// Reason and message of the phase `Failed`.
        failure: Option<(&'static str, String)>,
        /// The transition time.
        at: Timestamp,
    },
    /// Name the volume in the claim and mark the binding as complete.
    BindClaim {
        volume: String,
        /// Whether the controller chose the volume, not the user.
        by_controller: bool,
    },
    /// Set the claim's phase, access modes and capacity.
    SetClaimStatus {
        phase: &'static str,
        /// Access modes of the bound volume.
        access_modes: Vec<String>,
        /// Capacity of the bound volume; `None` leaves it unchanged.
        capacity: Option<BTreeMap<String, Quantity>>,
        /// VolumeAttributesClass of the bound volume; `None` leaves it unchanged.
        attributes: Option<String>,
    },
    /// Set the claim's progress of a change of attributes.
    SetModifyStatus {
        /// The class that the volume cannot get; `None` if there is none.
        target: Option<String>,
        /// All conditions of the claim.
        conditions: Vec<Value>,
    },
    /// Write the default class into the claim.
    AssignClass { class: String },
    /// Request a volume from a provisioner.
    RequestVolume { provisioner: String },
    /// Remove the reservation of a volume for a claim that is bound to another volume.
    FreeVolume {
        volume: String,
        /// Whether the user named the claim in the volume: then only the claim's UID is removed.
        by_user: bool,
    },
}

/// The write of an action: a merge patch of an object or of its status.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    /// The claim or volume that is patched.
    pub on: BindingObject,
    /// Whether the patch is sent to the `status` sub-resource.
    pub status: bool,
    /// The merge patch, without preconditions.
    pub patch: Value,
}

impl VolumeBindingAction {
    /// The write of this action.
    pub fn write(&self) -> Write {
        match self {
            Self::ReserveVolume {
                volume,
                claim,
                by_controller,
            } => Write::to_volume(volume, reserve_patch(claim, *by_controller)),
            Self::SetVolumePhase {
                volume,
                phase,
                failure,
                at,
            } => Write {
                status: true,
                ..Write::to_volume(volume, phase_patch(phase, failure.as_ref(), *at))
            },
            Self::BindClaim {
                volume,
                by_controller,
            } => Write::to_claim(bind_patch(volume, *by_controller)),
            Self::SetClaimStatus {
                phase,
                access_modes,
                capacity,
                attributes,
            } => {
                let mut status = json!({"phase": phase, "accessModes": access_modes});
                if let Some(attributes) = attributes {
                    status["currentVolumeAttributesClassName"] = json!(attributes);
                }
                if let Some(capacity) = capacity {
                    status["capacity"] = json!(capacity);
                }
                Write::to_claim_status(json!({"status": status}))
            }
            Self::SetModifyStatus { target, conditions } => {
                let status = target.as_ref().map(|target| {
                    json!({"status": "Infeasible", "targetVolumeAttributesClassName": target})
                });
                Write::to_claim_status(json!({"status":
                    {"modifyVolumeStatus": status, "conditions": conditions}}))
            }
            Self::AssignClass { class } => {
                Write::to_claim(json!({"spec": {"storageClassName": class}}))
            }
            Self::RequestVolume { provisioner } => {
                let annotations = json!({
                    STORAGE_PROVISIONER: provisioner,
                    BETA_STORAGE_PROVISIONER: provisioner,
                });
                Write::to_claim(json!({"metadata": {"annotations": annotations}}))
            }
            Self::FreeVolume { volume, by_user } => Write::to_volume(volume, free_patch(*by_user)),
        }
    }
}

impl Write {
    fn to_volume(volume: &str, patch: Value) -> Self {
        Self {
            on: BindingObject::Volume(volume.to_owned()),
            status: false,
            patch,
        }
    }

    fn to_claim(patch: Value) -> Self {
        Self {
            on: BindingObject::Claim,
            status: false,
            patch,
        }
    }

    fn to_claim_status(patch: Value) -> Self {
        Self {
            status: true,
            ..Self::to_claim(patch)
        }
    }
}

fn reserve_patch(claim: &ObjectReference, by_controller: bool) -> Value {
    let mut patch = json!({"spec": {"claimRef": claim}});
    if by_controller {
        patch["metadata"] = annotated(BOUND_BY_CONTROLLER, json!("yes"));
    }
    patch
}

/// `failure`: reason and message of the phase `Failed`.
fn phase_patch(phase: &str, failure: Option<&(&'static str, String)>, at: Timestamp) -> Value {
    json!({"status": {
        "phase": phase,
        "lastPhaseTransitionTime": transition_time(at),
        "reason": failure.map(|(reason, _)| reason),
        "message": failure.map(|(_, message)| message),
    }})
}

fn bind_patch(volume: &str, by_controller: bool) -> Value {
    let mut annotations = json!({BIND_COMPLETED: "yes"});
    if by_controller {
        annotations[BOUND_BY_CONTROLLER] = "yes".into();
    }
    json!({
        "metadata": {"annotations": annotations},
        "spec": {"volumeName": volume},
    })
}

fn free_patch(by_user: bool) -> Value {
    if by_user {
        return json!({"spec": {"claimRef": {"uid": null, "resourceVersion": null}}});
    }
    let metadata = annotated(BOUND_BY_CONTROLLER, Value::Null);
    json!({"metadata": metadata, "spec": {"claimRef": null}})
}

fn annotated(key: &str, value: Value) -> Value {
    json!({"annotations": {key: value}})
}

/// Times in the API have whole seconds.
fn transition_time(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second())
        .unwrap_or(at)
        .to_string()
}

impl VolumeBindingPlan {
    pub(crate) fn note(
        &mut self,
        on: BindingObject,
        note_type: NoteType,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        self.notes.push(BindingEvent {
            on,
            note_type,
            reason,
            message: message.into(),
        });
    }
}
