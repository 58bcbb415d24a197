//! Why something waits, in words.
//!
//! **Goal**: from what is stored, name the cause of a pod's not being Ready, and what would
//! change it.
//! **Relies on**: nothing; statuses may be missing, old or contradictory.
//! **Guarantees**: total; [`pod()`] gives the same words as long as the cause is the same: no
//! ages, counters or back-off times, so that a condition may hold them.
//!
//! [`explain()`] goes further: from a set, a pod or a claim along who waits for whom to the root
//! causes, with all that is known of a namespace (`evidence`). `sets`, `pods` and `claims` follow
//! the `trail`, `render` puts the answer into lines and JSON.
//!
//! `pod` asks in the order in which things can go wrong; `ending` knows of pods that end or have
//! ended, `scheduling` of those without a node, `container` of those with one, `exit` puts the
//! end of a process into words.

mod chain;
mod claims;
mod container;
mod ending;
mod evidence;
mod exit;
mod explain;
mod notes;
mod pod;
mod pods;
mod reason;
mod remedy;
mod render;
mod scheduling;
mod sets;
mod trail;
mod words;

pub use chain::{Chain, Explanation, Link, Log, Object, Seen, State};
pub use evidence::Evidence;
pub use explain::{TargetKind, explain};
pub use pod::{Diagnosis, Surroundings, pod, pod_in};
pub use reason::Reason;
pub use remedy::Remedy;
