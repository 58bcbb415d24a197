//! Why something waits, in words.
//!
//! **Goal**: from what is stored, name the cause of a pod's not being Ready, and what would
//! change it.
//! **Relies on**: nothing; statuses may be missing, old or contradictory.
//! **Guarantees**: total; [`pod()`] gives the same words as long as the cause is the same: no
//! ages, counters or back-off times, so that a condition may hold them.
//!
//! `pod` asks in the order in which things can go wrong; `ending` knows of pods that end or have
//! ended, `scheduling` of those without a node, `container` of those with one, `exit` puts the
//! end of a process into words.

mod container;
mod ending;
mod exit;
mod pod;
mod reason;
mod scheduling;
mod words;

pub use pod::{Diagnosis, Surroundings, pod, pod_in};
pub use reason::Reason;
