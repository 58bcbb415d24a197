//! The planner's decisions for observed states, cached.
//!
//! The construction of objects and the planning dominate the run time, so each observed state is planned once.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, RwLock};

use controller_planners::stateful_set::write_schedule::WritePosition;
use controller_planners::stateful_set::{
    PodWork, StatefulSetAction, StatefulSetPlan, invariants, plan,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::StatefulSetStatus;
use resource_kinds::reasons::stateful_set as reasons;
use resource_kinds::reasons::stateful_set_condition as kinds;

use crate::hashing::Quick;
use crate::identities::{Ids, Renumbering};
use crate::objects::{Builder, NOW};
use crate::seeded::Seeded;
use crate::state::{Objects, Op, Shape};
use crate::world::World;

/// The decision for an observed state.
#[derive(Debug)]
pub struct Planned {
    /// The writes, with identities as in the canonical form of the observed state.
    pub ops: Vec<(WritePosition, Op)>,
    /// The order of the writes.
    pub shape: Shape,
    /// The rules that the plan violates.
    pub broken: Vec<String>,
    /// The reasons for waiting.
    pub reasons: Vec<String>,
    /// Whether the goal is reached.
    pub goal_reached: bool,
}

/// All plans so far.
pub struct Plans {
    builder: Builder,
    seeded: Seeded,
    planned_states: RwLock<HashMap<Objects, Arc<Planned>, Quick>>,
    shapes: RwLock<BTreeMap<String, Shape>>,
}

impl Plans {
    /// An empty cache.
    pub fn new(world: &World, seeded: Seeded) -> Self {
        Self {
            builder: Builder::new(world),
            seeded,
            planned_states: RwLock::default(),
            shapes: RwLock::default(),
        }
    }

    /// The number of planned states.
    pub fn count(&self) -> usize {
        self.planned_states.read().map_or(0, |plans| plans.len())
    }

    /// The templates of the current and of the update revision that a status names.
    pub fn templates(&self, text: u16) -> (Option<u8>, Option<u8>) {
        let status = self.builder.statuses.get(text);
        let current = self.builder.template_of(status.current_revision.as_deref());
        let update = self.builder.template_of(status.update_revision.as_deref());
        (current, update)
    }

    /// Whether a status gives a rejected revision as the reason why the set is stalled.
    pub fn names_rejection(&self, text: u16) -> bool {
        let status = self.builder.statuses.get(text);
        let mut conditions = status.conditions.iter().flatten();
        conditions.any(|condition| {
            let (kind, is_true) = (condition.type_.as_str(), condition.status == "True");
            kind == kinds::STALLED
                && is_true
                && condition.reason.as_deref() == Some(reasons::REVISION_REJECTED)
        })
    }

    /// The reason of the condition in a status that tells how claims fit their template.
    pub fn claims_condition(&self, text: u16) -> Option<String> {
        let status = self.builder.statuses.get(text);
        let mut conditions = status.conditions.into_iter().flatten();
        let condition = conditions.find(|condition| condition.type_ == kinds::CLAIMS_UP_TO_DATE);
        condition?.reason
    }

    /// A short text for a status.
    pub fn status_in_words(&self, text: u16) -> String {
        let status = self.builder.statuses.get(text);
        let letter = |name: Option<&str>| self.builder.template_of(name).map_or('?', letter);
        let number = Option::unwrap_or_default;
        format!(
            "replicas {} ready {} current {} (at {}) updated {} (at {})",
            status.replicas,
            number(status.ready_replicas),
            number(status.current_replicas),
            letter(status.current_revision.as_deref()),
            number(status.updated_replicas),
            letter(status.update_revision.as_deref()),
        )
    }

    /// The plan for an observed state, with its writes.
    pub fn of(&self, cached: &Objects) -> (Arc<Planned>, Vec<(WritePosition, Op)>) {
        let mut situation = cached.clone();
        let mut renumbering = Renumbering::default();
        situation.ids(&mut |kind, id| renumbering.apply(kind, id));
        let planned = self.lookup(&situation);
        let mut ops = planned.ops.clone();
        for (_, op) in &mut ops {
            op.ids(&mut |kind, id| renumbering.undo(kind, id));
        }
        (planned, ops)
    }

    fn lookup(&self, situation: &Objects) -> Arc<Planned> {
        if let Some(planned) = self.planned_states.read().expect("no panic").get(situation) {
            return planned.clone();
        }
        let planned = Arc::new(self.compute(situation));
        let mut plans = self.planned_states.write().expect("no panic");
        plans
            .entry(situation.clone())
            .or_insert_with(|| planned.clone())
            .clone()
    }

    fn compute(&self, situation: &Objects) -> Planned {
        let observed = self.builder.observed(situation);
        let now = now();
        let input = self.seeded.planner_input(&observed);
        let mut plan = plan(&input, now).expect("objects of the model have identities");
        self.seeded.alter(&observed, &mut plan);
        let mut broken = if self.seeded.skips_plan_checks {
            Vec::new()
        } else {
            invariants::violations(&observed, &plan, now)
        };
        let mut ops = Vec::new();
        for position in write_positions(&plan) {
            let write = plan.write(position).expect("a position of this plan");
            match self.builder.op(situation, write) {
                Ok(op) => ops.push((position, op)),
                Err(error) => broken.push(error),
            }
        }
        let reasons = plan.waiting_on.iter();
        Planned {
            ops,
            shape: self.shape(&plan),
            broken,
            reasons: reasons.map(|reason| reason.cause.to_string()).collect(),
            goal_reached: invariants::goal_reached(&observed, now),
        }
    }

    /// Plans with an equal shape share one value.
    fn shape(&self, plan: &StatefulSetPlan) -> Shape {
        let blank =
            |actions: &[StatefulSetAction]| vec![StatefulSetAction::ConfirmSet; actions.len()];
        let shape = StatefulSetPlan {
            prepare: blank(&plan.prepare),
            pods: plan
                .pods
                .iter()
                .map(|work| PodWork {
                    ordinal: 0,
                    actions: blank(&work.actions),
                })
                .collect(),
            pod_management: plan.pod_management,
            status: plan.status.as_ref().map(|_| StatefulSetStatus::default()),
            claim_edits: blank(&plan.claim_edits),
            cleanup: blank(&plan.cleanup),
            notices: Vec::new(),
            waiting_on: Vec::new(),
            requeue_after: None,
        };
        let key = format!("{shape:?}");
        let mut shapes = self.shapes.write().expect("no panic");
        shapes.entry(key).or_insert_with(|| Arc::new(shape)).clone()
    }
}

/// The letter of a template in texts.
pub fn letter(template: u8) -> char {
    char::from(b'A' + template)
}

/// The time of all decisions; ages are relative to it.
fn now() -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(NOW)
}

fn write_positions(plan: &StatefulSetPlan) -> Vec<WritePosition> {
    let prepare = (0..plan.prepare.len()).map(WritePosition::Prepare);
    let pods = plan.pods.iter().enumerate().flat_map(|(work, of_work)| {
        let steps = 0..of_work.actions.len();
        steps.map(move |step| WritePosition::Pod { work, step })
    });
    let edits = (0..plan.claim_edits.len()).map(WritePosition::ClaimEdit);
    let status = plan.status.iter().map(|_| WritePosition::Status);
    let cleanup = (0..plan.cleanup.len()).map(WritePosition::Cleanup);
    let writes = prepare.chain(pods).chain(edits);
    writes.chain(status).chain(cleanup).collect()
}
