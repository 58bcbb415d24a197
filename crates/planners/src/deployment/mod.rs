//! Deployment: ReplicaSets, one for each template, of which the last is to have all pods.
//!
//! **Goal**: the ReplicaSet of the current template has all replicas, the others none. **Relies
//! on**: the API server, which refuses a second object of the same name and a write with an old
//! resourceVersion. The observed state may be old. **Guarantees**: a rolling update keeps to
//! `maxSurge` and `maxUnavailable`; `Recreate` starts no pod while an old one runs; the status says
//! whether the rollout makes progress.
//!
//! Start with [`plan()`]. `observed` parses, `sets` finds or creates the ReplicaSet of the
//! template, `scale` distributes replicas, `rollout` moves them, `status` counts and sets
//! conditions.

mod observed;
mod plan;
mod rollout;
mod scale;
mod sets;
mod status;

pub use observed::Observed;
pub use plan::{DeploymentAction, DeploymentEvent, DeploymentPlan, plan};
