//! Deployment: ReplicaSets, one for each template, of which the last is to have all pods.
//!
//! **Goal**: the ReplicaSet of the wanted template has the wanted replicas, the others none.
//! **Relies on**: the API server refusing a second object of one name, and writes whose
//! resourceVersion does not hold. Nothing else: what is observed may be old.
//! **Guarantees**: a rolling update keeps within `maxSurge` and `maxUnavailable`; `Recreate` starts
//! nothing while anything old runs; the status says whether the rollout gets on.
//!
//! Read [`plan()`] first. `observed` parses, `sets` finds or makes the ReplicaSet of the template,
//! `scale` shares replicas out, `rollout` moves them, `status` counts and judges.

mod observed;
mod plan;
mod rollout;
mod scale;
mod sets;
mod status;

pub use observed::Observed;
pub use plan::{Action, Notice, Plan, plan};
