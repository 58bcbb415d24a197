//! DaemonSet: one pod on each eligible node.
//!
//! **Goal**: one pod of the current template on each eligible node, and no pod elsewhere. **Relies on**: a snapshot
//! that contains the set's own last writes (`pod_set`), and the caller's decision which nodes are eligible.
//! **Guarantees**: a rolling update makes at most `maxUnavailable` pods unavailable, or adds at most `maxSurge` pods.
//!
//! Start with `plan`. `history` stores the templates, `nodes` decides for each node, `status` counts.

mod history;
mod nodes;
mod plan;
mod status;

pub use history::RevisionAction;
pub use plan::{DAEMON_SET, DaemonSetPlan, NodeFit, Observed, daemon_pod, plan};
