//! DaemonSet: one pod on each node that takes one.
//!
//! **Goal**: on each fitting node one pod of the wanted template, and none elsewhere.
//! **Relies on**: a view in which the set's own last writes are seen (`pod_set`), and on the
//! caller for which nodes fit.
//! **Guarantees**: a rolling update takes away no more available pods than `maxUnavailable`, or
//! adds no more than `maxSurge`.
//!
//! `plan` reads first; `history` keeps the templates, `nodes` decides for each node, `status`
//! counts.

mod history;
mod nodes;
mod plan;
mod status;

pub use history::RevisionAction;
pub use plan::{DAEMON_SET, Fit, Observed, Plan, daemon_pod, plan};
