//! Deployment: ReplicaSets, one for each template; the newest ReplicaSet gets all pods.
//!
//! **Goal**: the ReplicaSet of the current template has all replicas, the other ReplicaSets have no replicas. **Relies
//! on**: the API server, which refuses a second object of the same name and a write with an old resourceVersion. The
//! observed state may be old. **Guarantees**: a rolling update respects `maxSurge` and `maxUnavailable`; `Recreate`
//! starts no pod while an old pod runs; the status reports whether the rollout makes progress.
//!
//! Start with [`plan()`]. `observed` parses, `sets` finds or creates the ReplicaSet of the template, `scale`
//! distributes replicas, `rollout` moves replicas, `status` counts and sets conditions.

mod observed;
mod plan;
mod rollout;
mod scale;
mod sets;
mod status;

pub use observed::Observed;
pub use plan::{DeploymentAction, DeploymentEvent, DeploymentPlan, plan};
