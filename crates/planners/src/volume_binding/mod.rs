//! Binding claims and volumes to each other (statefulset.md §11).
//!
//! Goal: a claim gets the volume that was made or chosen for it, or the best that fits, and keeps
//! it; a volume whose claim is gone goes the way that its reclaim policy says. Relies on: what is
//! observed was true once; each write names the state it is based on, so that one based on an old
//! view fails. Guarantees: the four writes of a binding come in one order, and whichever of them
//! is lost is written again; no volume is kept for two claims; a volume that was kept for a claim
//! that is gone is not given to another; whatever is not done has a reason in `waiting_on`.

mod action;
mod bind;
mod claim;
mod volume;

pub use action::{Action, Note, NoteType, Plan, Subject, Write};
pub use claim::{ClaimView, default_class, plan_claim};
pub use volume::plan_volume;
