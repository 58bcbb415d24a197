//! The reason why a pod waits, in words.
//!
//! **Goal**: from the stored pod, name the cause why it is not Ready, and the steps that would change it.
//! **Relies on**: nothing; statuses may be missing, old or contradictory. **Guarantees**: total; [`pod()`] returns the
//! same text as long as the cause is the same: no ages, counters or back-off times, so that a condition may hold it.
//!
//! `pod` checks in the order in which things can go wrong; `ending` covers terminating and ended
//! pods, `scheduling` pods without a node, `container` pods with one; `exit` describes the end of a
//! process.

pub mod container;
mod ending;
mod exit;
mod pod;
mod reason;
pub mod remedy;
pub mod scheduling;
pub mod text;

pub use pod::{Diagnosis, PodContext, pod, pod_in};
pub use reason::Reason;
pub use remedy::Remedy;
