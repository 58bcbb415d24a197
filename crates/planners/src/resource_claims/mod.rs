//! ResourceClaims: made for pods from templates, and given back when the pods are over.
//!
//! Goal: each living pod has a claim for each template that it names, and its status says which; no
//! claim is reserved for a pod that is over; a claim that nobody uses has no devices.
//! Relies on: `Seen` is the truth, not a cache's view, where a pod is `Gone`.
//! Guarantees: a claim of somebody else is neither used nor deleted; a claim has its devices as
//! long as somebody uses it.

mod of_claim;
mod of_pod;

pub use of_claim::{ClaimStep, Seen, consumers, plan_claim};
pub use of_pod::{PodStep, claim_name, plan_pod, templates};
