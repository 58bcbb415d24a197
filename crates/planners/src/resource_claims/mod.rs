//! ResourceClaims: made for pods from templates, and given back when the pods are over.
//!
//! Goal: each active pod has a claim for each template that it names, and its status names them; no
//! claim is reserved for an ended pod; an unused claim has no devices. Relies on: a pod is
//! `ConsumerState::Gone` only if the API server, not a cache, said so. Guarantees: a claim of another owner
//! is neither used nor deleted; a claim keeps its devices as long as a consumer uses it.

mod of_claim;
mod of_pod;

pub use of_claim::{ClaimStep, ConsumerState, consumers, plan_claim};
pub use of_pod::{PodStep, claim_name, plan_pod, templates};
