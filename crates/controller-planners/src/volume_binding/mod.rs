//! Binding claims and volumes to each other (statefulset.md §11).
//!
//! Goal: a claim is bound to the volume that was created or chosen for it, or to the best match, and stays bound; a
//! volume whose claim was deleted follows its reclaim policy. Relies on: each write names the version that it is based
//! on, so a write from an outdated snapshot fails. Guarantees: the four writes of a binding have a fixed order, and a
//! lost write is repeated; no volume is reserved for two claims; a volume of a deleted claim is not given to another
//! claim; `waiting_on` gives the reason for each wait.

mod action;
mod attributes;
mod bind;
mod claim;
mod volume;

pub use action::{
    BindingEvent, BindingObject, NoteType, VolumeBindingAction, VolumeBindingPlan, Write,
};
pub use claim::{ClaimView, default_class, plan_claim};
pub use volume::plan_volume;
