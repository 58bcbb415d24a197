//! From every state, without further input, the world becomes idle as specified, within a bounded number of fair
//! rounds.
//!
//! A round: pending writes are sent, the caches receive all changes, the controller plans and writes, nodes and
//! collectors execute all their steps, time passes. Rounds are deterministic, so a state from which the rounds have
//! reached the goal is not checked again.

use std::collections::HashMap;
use std::sync::RwLock;

use controller_planners::stateful_set::write_schedule::WritePosition;

use crate::claim_edits;
use crate::environment::{self, Progress};
use crate::hashing::Quick;
use crate::model::{ControllerRole, StatefulSetModel};
use crate::state::{Budget, ClaimFate, ModelState, ORDINALS};
use crate::verdicts::{self, IdleRevisions};
use crate::world::Strategy;

/// A world that is not idle after this number of rounds violates the rule. The slowest world needs a third of the
/// number.
const ROUNDS_MAX: usize = 100;

/// States at the start of a round from which the world becomes idle, with the number of rounds.
#[derive(Default)]
pub struct IdleStates {
    rounds_to_idle: RwLock<HashMap<ModelState, usize, Quick>>,
}

impl StatefulSetModel {
    /// Whether the world becomes idle as specified.
    ///
    /// # Errors
    ///
    /// The reason why the world does not become idle as specified.
    pub fn reaches_idle_state(&self, state: &ModelState) -> Result<(), String> {
        if state.broken.is_some() {
            return Ok(());
        }
        let mut visited = Vec::new();
        let mut state = self.without_inputs(state).canonical();
        let remaining_rounds = loop {
            if let Some(rule) = &state.broken {
                return Err(format!("on the way to rest: {rule}"));
            }
            if let Some(remaining_rounds) = self
                .idle_states
                .rounds_to_idle
                .read()
                .expect("no panic")
                .get(&state)
            {
                break *remaining_rounds;
            }
            if visited.len() == ROUNDS_MAX {
                return Err(format!("no rest after {ROUNDS_MAX} rounds"));
            }
            visited.push(state.clone());
            if !self.round(&mut state) {
                self.check_idle_state(&state)?;
                break 0;
            }
            state = state.canonical();
        };
        self.counters
            .record_rounds(remaining_rounds + visited.len());
        if !visited.is_empty() {
            let counted = visited.into_iter().rev().zip(remaining_rounds + 1..);
            self.idle_states
                .rounds_to_idle
                .write()
                .expect("no panic")
                .extend(counted);
        }
        Ok(())
    }

    /// The idle state of the world.
    pub fn idle_state(&self, state: &ModelState) -> ModelState {
        let mut state = self.without_inputs(state);
        for _ in 0..ROUNDS_MAX {
            state = state.canonical();
            if !self.round(&mut state) {
                break;
            }
        }
        state
    }

    /// The state without further input, after the pending writes were sent.
    fn without_inputs(&self, state: &ModelState) -> ModelState {
        let mut state = state.clone();
        state.budget = Budget::default();
        state.lagging = [false; 4];
        state.former_cached = None;
        self.finish(&mut state, ControllerRole::Former);
        self.finish(&mut state, ControllerRole::Active);
        state
    }

    /// A fair round. `false` if nothing changes.
    fn round(&self, state: &mut ModelState) -> bool {
        let mut has_changed = self.plan(state);
        self.finish(state, ControllerRole::Active);
        loop {
            let steps = environment::possible(&self.world, state);
            // The last of several nodes is never lost.
            let Some(step) = steps.into_iter().rev().find(|step| is_inevitable(*step)) else {
                return has_changed;
            };
            environment::progress(&self.world, state, step, self.seeded.guards);
            *state = std::mem::take(state).canonical();
            has_changed = true;
        }
    }

    fn finish(&self, state: &mut ModelState, role: ControllerRole) {
        loop {
            let work = match role {
                ControllerRole::Active => &state.work,
                ControllerRole::Former => &state.former,
            };
            let next: Option<WritePosition> =
                work.as_ref().and_then(|work| work.schedule.ready().next());
            let Some(position) = next else { return };
            self.write(state, role, position, true);
        }
    }

    /// Whether an idle state is as specified, or has a reason.
    fn check_idle_state(&self, state: &ModelState) -> Result<(), String> {
        let Some(set) = &state.api.set else {
            // The dependents of the set were deleted or released.
            let has_owned_pods = state
                .api
                .pods
                .iter()
                .flatten()
                .any(|pod| pod.owner.is_some());
            return match has_owned_pods {
                true => Err("rest without the set, with pods that it owns".to_owned()),
                false => Ok(()),
            };
        };
        if set.deleting.is_some() {
            return Err("rest, but the set that is being deleted is there".to_owned());
        }
        let (planned, _) = self.plans.of(&state.cached);
        let Some(status) = &set.status else {
            return Err("rest without a status".to_owned());
        };
        if status.observed != set.generation {
            return Err("rest with a status of a former generation".to_owned());
        }
        let (current, update) = self.plans.templates(status.text);
        if update != Some(set.spec.template) {
            return Err("rest with a status that does not name the wanted template".to_owned());
        }
        let revisions = IdleRevisions {
            current,
            names_rejection: self.plans.names_rejection(status.text),
        };
        if let Some(result) = verdicts::idle_rollout(&self.world, state, set, revisions, &planned) {
            return result;
        }
        let is_bad = |template: Option<u8>| {
            template.is_some_and(|template| self.world.bad_templates.contains(&template))
        };
        if self.world.ends_by_guard(state, set) && !planned.goal_reached {
            let mut reasons = planned.reasons.iter();
            return match reasons.any(|reason| reason.starts_with("the guard of")) {
                true => Ok(()),
                false => Err("rest without the goal, and the guard holds no pod".to_owned()),
            };
        }
        if is_bad(update) || is_bad(current) {
            return match planned.reasons.is_empty() && !planned.goal_reached {
                true => Err("rest without the goal and without a reason".to_owned()),
                false => Ok(()),
            };
        }
        if !planned.goal_reached {
            let reasons = planned.reasons.join("; ");
            return Err(format!("rest without the goal, because: {reasons}"));
        }
        let rolls_out = self.world.strategy != Strategy::OnDelete && set.spec.partition == 0;
        if rolls_out && current != update {
            return Err("rest with a rollout that is not called complete".to_owned());
        }
        if self.world.edits_claims() {
            let condition = self.plans.claims_condition(status.text);
            claim_edits::idle_claims(state, set, condition.as_deref(), &planned)?;
        }
        self.all_run(state)
    }

    /// Each desired pod runs and has its claim; no other pod runs.
    fn all_run(&self, state: &ModelState) -> Result<(), String> {
        let Some(set) = &state.api.set else {
            return Ok(());
        };
        for at in 0..ORDINALS {
            let instances = state
                .instances
                .iter()
                .filter(|instance| usize::from(instance.ordinal) == at);
            let is_desired = set.spec.desires(at);
            if instances.count() != usize::from(is_desired) {
                return Err(format!("rest, but web-{at} does not run as it should"));
            }
            // A claim in use is retained until the pod is removed, even if the claim is being deleted.
            let claim = state.api.claims[at];
            let may_be_deleted = state.fates[at] != ClaimFate::Retained;
            if state.fates[at] == ClaimFate::Deleted
                && claim.is_some_and(|claim| !claim.terminating)
            {
                return Err(format!("rest, but data-web-{at} has not gone with its pod"));
            }
            let claim = claim.is_some_and(|claim| !claim.terminating || may_be_deleted);
            if is_desired && self.world.claims && !claim {
                return Err(format!("rest, but web-{at} has no claim"));
            }
        }
        Ok(())
    }
}

/// Whether the step is executed eventually. A lost node returns when the world becomes idle, so its pods need not be
/// evicted; a growth that failed may fail for ever.
fn is_inevitable(step: Progress) -> bool {
    !matches!(step, Progress::Evict(_) | Progress::GrowAfterFailure(_))
}
