//! StatefulSet: pods with a name, an ordinal and claims of their own.
//!
//! **Goal**: for each ordinal from `start` to `start + replicas - 1` one pod of the wanted
//! revision, with its claims, and no other pods.
//! **Relies on**: the API server refusing a second object of one name, and writes whose uid or
//! resourceVersion does not hold. Nothing else: what is observed may be old.
//! **Guarantees**: at most one pod per ordinal; in `OrderedReady` at most one creation or deletion
//! at a time and in order; no claim is made ready for deletion but by the retention policy; when
//! the goal is not reached there is an action or a reason.
//!
//! Read [`plan()`] first: it calls the other files in order. `observed` and `options` parse,
//! `revisions` finds
//! what to make pods from, `replica` walks the wanted ordinals, `scale` the surplus, `rollout`
//! the outdated, `recovery` frees a rollout that is stuck, `held_back` says who waits for whom,
//! `refused` what the server would not have,
//! `status` counts, `conditions` and `deadline` judge, `metrics` tells dashboards. `course` says in which
//! order a plan is written.

pub mod claims;
mod conditions;
pub mod course;
mod deadline;
mod draft;
mod held_back;
pub mod identity;
pub mod invariants;
mod metrics;
mod observed;
mod options;
mod plan;
mod recovery;
mod refused;
mod replica;
pub mod revisions;
mod rollout;
mod scale;
mod status;
mod waiting;

pub use metrics::{Metrics, metrics};
pub use observed::{Member, Observed, Phase, Refused};
pub use options::{MaxUnavailable, Options, ScaleDown, StuckRollout};
pub use plan::{Action, Notice, Pace, Plan, PodWork, plan};
pub use waiting::{Cause, Waiting};
