//! Readable reasons why a pod waits.
//!
//! **Goal**: name the cause why a stored pod is not Ready, and the steps that would resolve it.
//! **Relies on**: nothing; statuses may be missing, old or contradictory. **Guarantees**: total; [`pod()`]
//! returns an equal text as long as the cause does not change. The text has no ages, counters or back-off
//! times, so that a condition may contain it.
//!
//! `pod` checks the possible causes in the order of a pod's life; `ending` covers terminating and ended
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
