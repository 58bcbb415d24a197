//! StatefulSet: pods that each have a name, an ordinal and claims.
//!
//! **Goal**: for each ordinal from `start` to `start + replicas - 1` one pod of the desired revision, with its claims,
//! and no other pods. **Relies on**: the API server, which refuses a second object of the same name and a write with an
//! old UID or resourceVersion. The observed state may be old. **Guarantees**: at most one pod per ordinal; in
//! `OrderedReady` at most one creation or deletion at a time and in order; claims are deleted only by the retention
//! policy; if the goal is not reached there is an action or a reason.
//!
//! Start with [`plan()`], which calls the other files in order. `observed`, `member` and `options` parse, `revisions`
//! selects the templates for pods, `replica` plans the desired ordinals, `scale` the surplus pods, `rollout` the
//! outdated pods one after the other, in the order of `order`, `recreate` all at once, `recovery` unblocks a stuck rollout, `delayed_pods` gives the reasons for waiting, `guard` holds
//! voluntary deletions, by the pods of the sets of its `group`, `hooks` runs the actions before a pod goes, `steps` pauses a rollout, `verdict` rejects a revision whose rollout fails, `claim_edits` lets claims follow their template, `refused` gives the API server's refusals,
//! `forecast` runs the plans of a rollout ahead, `status` counts, `conditions` and `deadline` set conditions, `metrics` gives metrics. `write_schedule` decides the
//! order of writes, and `status_urgency` whether the status may be late.

mod claim_edits;
pub mod claims;
mod conditions;
mod deadline;
mod delayed_pods;
mod draft;
pub mod forecast;
mod group;
mod guard;
mod hooks;
pub mod identity;
pub mod invariants;
mod member;
mod metrics;
mod observed;
mod options;
mod order;
mod plan;
mod recovery;
mod recreate;
mod refused;
mod replica;
pub mod revisions;
mod rollout;
mod scale;
mod status;
mod status_urgency;
mod steps;
mod verdict;
mod waiting;
pub mod write_schedule;

pub use claim_edits::{ClaimEdit, MetadataEdit, VolumeEdit};
pub use group::GroupMember;
pub use member::{Member, Phase};
pub use metrics::{Metrics, metrics};
pub use observed::{Observed, Refused};
pub use options::{MaxUnavailable, NodeFailure, Options, ScaleDown, StuckRollout};
pub use plan::{
    ActionKind, ActionTarget, PodManagement, PodWork, SetEvent, StatefulSetAction, StatefulSetPlan,
    plan,
};
pub use status_urgency::{counts_decide, readiness_decides};
pub use waiting::{Cause, Waiting};
