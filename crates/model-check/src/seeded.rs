//! Mistakes on purpose: what a checker is worth is what it finds.
//!
//! Without any of them this is the planner and the executor as they are.

use planners::stateful_set::{Observed, Plan};

/// What is changed between the caches, the planner, the executor and the API server.
#[derive(Clone, Copy)]
pub struct Seeded {
    /// What the planner is shown instead of what was seen.
    pub view: Option<fn(&mut Observed)>,
    /// What is carried out instead of what was planned.
    pub plan: Option<fn(&Observed, &mut Plan)>,
    /// What writes say about the object that they mean.
    pub guards: Guards,
    /// Whether plans are not judged, so that a mistake is found by what comes of it.
    pub unjudged: bool,
}

/// Which conditions go with the writes. All do, in truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guards {
    /// A create is refused where something has the name; else it replaces it.
    pub create_by_name: bool,
    /// A pod is deleted by uid; else by name alone.
    pub delete_by_uid: bool,
    /// A pod is deleted with its grace; else at once.
    pub delete_gracefully: bool,
    /// The status is written to the version of the set that was seen.
    pub status_by_version: bool,
    /// Owners are written to the version of the claim that was seen.
    pub owners_by_version: bool,
}

impl Default for Seeded {
    fn default() -> Self {
        Self {
            view: None,
            plan: None,
            unjudged: false,
            guards: Guards {
                create_by_name: true,
                delete_by_uid: true,
                delete_gracefully: true,
                status_by_version: true,
                owners_by_version: true,
            },
        }
    }
}

impl Seeded {
    /// What the planner is shown.
    pub fn shown(&self, observed: &Observed) -> Observed {
        let mut shown = observed.clone();
        if let Some(change) = self.view {
            change(&mut shown);
        }
        shown
    }

    /// Changes what was planned.
    pub fn alter(&self, observed: &Observed, plan: &mut Plan) {
        if let Some(change) = self.plan {
            change(observed, plan);
        }
    }
}
