//! Injected mistakes, which the checker must detect.
//!
//! Without a mistake the planner and the executor are unchanged.

use controller_planners::stateful_set::{Observed, StatefulSetPlan};

/// The changes between the caches, the planner, the executor and the API server.
#[derive(Clone, Copy)]
pub struct Seeded {
    /// Changes the planner's input.
    pub input: Option<fn(&mut Observed)>,
    /// Changes the plan.
    pub plan: Option<fn(&Observed, &mut StatefulSetPlan)>,
    /// The preconditions of writes.
    pub guards: Guards,
    /// Whether plans are not checked, so that a mistake is detected only by its effect.
    pub skips_plan_checks: bool,
}

/// The preconditions of writes. In production all are set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guards {
    /// The creation of an existing name is refused; otherwise it replaces the object.
    pub create_by_name: bool,
    /// A pod is deleted by UID; otherwise by name only.
    pub delete_by_uid: bool,
    /// A pod is deleted with its grace period; otherwise at once.
    pub delete_gracefully: bool,
    /// The status is written only to the observed version of the set.
    pub status_by_version: bool,
    /// Owners are written only to the observed version of the claim.
    pub owners_by_version: bool,
    /// An eviction waits for the recovery of all healthy pods; otherwise it only counts them.
    pub eviction_awaits_recovery: bool,
    /// The result of a check counts for the UID of its pod; otherwise for its name.
    pub results_by_uid: bool,
    /// The controller waits until its caches have the verdicts that it has stored.
    pub waits_for_verdicts: bool,
    /// A claim is edited only in its observed version.
    pub edits_by_version: bool,
    /// An eviction counts the healthy pods in its transaction; otherwise the view of the evictor decides.
    pub eviction_counts: bool,
}

impl Default for Seeded {
    fn default() -> Self {
        Self {
            input: None,
            plan: None,
            skips_plan_checks: false,
            guards: Guards {
                create_by_name: true,
                delete_by_uid: true,
                delete_gracefully: true,
                status_by_version: true,
                owners_by_version: true,
                edits_by_version: true,
                eviction_counts: true,
                eviction_awaits_recovery: true,
                results_by_uid: true,
                waits_for_verdicts: true,
            },
        }
    }
}

impl Seeded {
    /// The planner's input.
    pub fn planner_input(&self, observed: &Observed) -> Observed {
        let mut input = observed.clone();
        if let Some(change) = self.input {
            change(&mut input);
        }
        input
    }

    /// Changes the plan.
    pub fn alter(&self, observed: &Observed, plan: &mut StatefulSetPlan) {
        if let Some(change) = self.plan {
            change(observed, plan);
        }
    }
}
