//! The actions, and the write of each.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use resource_kinds::annotations::{
    BETA_STORAGE_PROVISIONER, BIND_COMPLETED, BOUND_BY_CONTROLLER, STORAGE_PROVISIONER,
};
use serde_json::{Value, json};

/// What is to be done, said and waited for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Writes, in this order; after one that fails the rest is left.
    pub actions: Vec<Action>,
    /// Events.
    pub notes: Vec<Note>,
    /// What it waits for, if anything.
    pub waiting_on: Option<String>,
}

/// The object that is written or spoken of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// The claim that the plan is about.
    Claim,
    /// The volume of that name.
    Volume(String),
}

/// Kind of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the API's own words")]
pub enum NoteType {
    Normal,
    Warning,
}

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// About what.
    pub on: Subject,
    /// Normal or Warning.
    pub note_type: NoteType,
    /// Machine-readable reason.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Keeps the volume for the claim: the first write of a binding.
    ReserveVolume {
        /// The volume.
        volume: String,
        /// The claim, with its identity.
        claim: Box<ObjectReference>,
        /// Whether the choice was ours, not the user's.
        by_controller: bool,
    },
    /// Sets the volume's phase.
    SetVolumePhase {
        /// The volume.
        volume: String,
        /// The phase.
        phase: &'static str,
        /// What went wrong, for phase Failed.
        failure: Option<(&'static str, String)>,
        /// When.
        at: Timestamp,
    },
    /// Names the volume in the claim and marks the binding as complete.
    BindClaim {
        /// The volume.
        volume: String,
        /// Whether the choice was ours, not the user's.
        by_controller: bool,
    },
    /// Sets the claim's phase, and what it has.
    SetClaimStatus {
        /// The phase.
        phase: &'static str,
        /// Access modes of the bound volume.
        access_modes: Vec<String>,
        /// Capacity of the bound volume; `None` leaves it as it is.
        capacity: Option<BTreeMap<String, Quantity>>,
    },
    /// Gives the claim the default class.
    AssignClass {
        /// The class.
        class: String,
    },
    /// Asks a provisioner to make a volume.
    RequestVolume {
        /// The provisioner.
        provisioner: String,
    },
    /// Ends the keeping of a volume for a claim that has another.
    FreeVolume {
        /// The volume.
        volume: String,
        /// Whether the user had named the claim: then only its identity is forgotten.
        by_user: bool,
    },
}

/// How an action is written: a merge patch of an object or of its status.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    /// Which object.
    pub on: Subject,
    /// Whether it goes to the `status` sub-resource.
    pub status: bool,
    /// The merge patch, without preconditions.
    pub patch: Value,
}

impl Action {
    /// The write that does it.
    pub fn write(&self) -> Write {
        match self {
            Self::ReserveVolume {
                volume,
                claim,
                by_controller,
            } => {
                let mut patch = json!({"spec": {"claimRef": claim}});
                if *by_controller {
                    patch["metadata"] = annotated(BOUND_BY_CONTROLLER, json!("yes"));
                }
                Write {
                    on: Subject::Volume(volume.clone()),
                    status: false,
                    patch,
                }
            }
            Self::SetVolumePhase {
                volume,
                phase,
                failure,
                at,
            } => {
                let failure = failure.as_ref();
                let patch = json!({"status": {
                    "phase": phase,
                    "lastPhaseTransitionTime": transition_time(*at),
                    "reason": failure.map(|(reason, _)| reason),
                    "message": failure.map(|(_, message)| message),
                }});
                Write {
                    on: Subject::Volume(volume.clone()),
                    status: true,
                    patch,
                }
            }
            Self::BindClaim {
                volume,
                by_controller,
            } => {
                let mut annotations = json!({BIND_COMPLETED: "yes"});
                if *by_controller {
                    annotations[BOUND_BY_CONTROLLER] = "yes".into();
                }
                let patch = json!({
                    "metadata": {"annotations": annotations},
                    "spec": {"volumeName": volume},
                });
                Write {
                    on: Subject::Claim,
                    status: false,
                    patch,
                }
            }
            Self::SetClaimStatus {
                phase,
                access_modes,
                capacity,
            } => {
                let mut status = json!({"phase": phase, "accessModes": access_modes});
                if let Some(capacity) = capacity {
                    status["capacity"] = json!(capacity);
                }
                Write {
                    on: Subject::Claim,
                    status: true,
                    patch: json!({"status": status}),
                }
            }
            Self::AssignClass { class } => {
                let patch = json!({"spec": {"storageClassName": class}});
                Write {
                    on: Subject::Claim,
                    status: false,
                    patch,
                }
            }
            Self::RequestVolume { provisioner } => {
                let annotations = json!({
                    STORAGE_PROVISIONER: provisioner,
                    BETA_STORAGE_PROVISIONER: provisioner,
                });
                let patch = json!({"metadata": {"annotations": annotations}});
                Write {
                    on: Subject::Claim,
                    status: false,
                    patch,
                }
            }
            Self::FreeVolume { volume, by_user } => {
                let patch = if *by_user {
                    json!({"spec": {"claimRef": {"uid": null, "resourceVersion": null}}})
                } else {
                    let metadata = annotated(BOUND_BY_CONTROLLER, Value::Null);
                    json!({"metadata": metadata, "spec": {"claimRef": null}})
                };
                Write {
                    on: Subject::Volume(volume.clone()),
                    status: false,
                    patch,
                }
            }
        }
    }
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

impl Plan {
    pub(crate) fn note(
        &mut self,
        on: Subject,
        note_type: NoteType,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        self.notes.push(Note {
            on,
            note_type,
            reason,
            message: message.into(),
        });
    }
}
