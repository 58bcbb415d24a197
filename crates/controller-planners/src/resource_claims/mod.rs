//! ResourceClaims: created for pods from templates, and released when the pods have ended.
//!
//! Goal: each active pod has a claim for each template that the pod names, and the pod's status names the claims; no
//! claim is reserved for an ended pod; an unused claim has no devices. Relies on: the caller uses `ConsumerState::Gone`
//! only if the API server itself, not a cache, reported that the pod is absent. Guarantees: a claim of another owner is
//! neither used nor deleted; a claim keeps its devices as long as a consumer uses the claim.

mod of_claim;
mod of_pod;

pub use of_claim::{ClaimStep, ConsumerState, consumers, plan_claim};
pub use of_pod::{PodStep, claim_name, plan_pod, templates};
