//! The model: its steps, their effects, and the invariants of every state.

use std::sync::atomic::{AtomicBool, Ordering};

use controller_planners::stateful_set::write_schedule::{
    WriteOutcome, WritePosition, WriteSchedule,
};
use stateright::{Model, Property};

use crate::claim_edits;
use crate::counters::Counters;
use crate::environment::{self, Progress};
use crate::plans::Plans;
use crate::seeded::Seeded;
use crate::server::{self, Reply};
use crate::settling::IdleStates;
use crate::state::{ClaimFate, Kind, ModelState, ORDINALS, Op, Set, UNLIMITED, Work};
use crate::verdicts;
use crate::world::{Begin, Edit, Fault, World};

/// A kind of object with a separate watch, which may be behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    Set,
    Pods,
    Claims,
    Revisions,
}

const WATCHES: [Watch; 4] = [Watch::Set, Watch::Pods, Watch::Claims, Watch::Revisions];

/// One of two controllers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControllerRole {
    /// The active controller, which plans.
    Active,
    /// The replaced controller, with unsent writes; in a world of two leaders the replaced controller plans, too.
    Former,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelStep {
    /// The watch of a kind stops delivering changes.
    Lag(Watch),
    /// The watch of a kind delivers all changes to the controller.
    CatchUp(Watch),
    /// The controller plans.
    Plan,
    /// A write reaches the API server, and its response reaches the controller.
    Write(ControllerRole, WritePosition),
    /// A write reaches the API server; its response is lost.
    WriteWithoutResponse(ControllerRole, WritePosition),
    /// Another controller takes over; the former controller has not observed the change, or has crashed.
    TakeOver {
        /// Whether the former controller continues its writes.
        former_continues: bool,
    },
    /// Another leader starts, with new caches; the former leader continues, with its old caches.
    SecondLeader,
    /// The caches of the former leader receive all changes.
    FormerCatchesUp,
    /// The former leader plans.
    FormerPlans,
    /// The former leader observes the end of its lead: it plans nothing, but its sent writes may still arrive.
    FormerStops,
    /// A user changes the specification.
    Edit(Edit),
    /// A fault happens.
    Fault(Fault, usize),
    /// The environment takes a step.
    Progress(Progress),
}

/// The model of a StatefulSet, with the planner of the product.
pub struct StatefulSetModel {
    pub world: World,
    /// All plans so far.
    pub plans: Plans,
    /// The injected mistakes.
    pub seeded: Seeded,
    /// The counts of replies.
    pub counters: Counters,
    /// States from which the world becomes idle as specified.
    pub idle_states: IdleStates,
    has_violation: AtomicBool,
}

impl StatefulSetModel {
    /// A world with the real planner.
    pub fn new(world: World) -> Self {
        Self::seeded(world, Seeded::default())
    }

    /// A world with injected mistakes.
    pub fn seeded(world: World, seeded: Seeded) -> Self {
        Self {
            plans: Plans::new(&world, seeded),
            seeded,
            counters: Counters::default(),
            idle_states: IdleStates::default(),
            has_violation: AtomicBool::new(false),
            world,
        }
    }

    /// Only the first violating state is reported to the checker, because the checker would otherwise report the last
    /// violating state before its stop.
    fn unless_first(&self, holds: bool) -> bool {
        holds || self.has_violation.swap(true, Ordering::Relaxed)
    }

    fn first_state(&self) -> ModelState {
        let mut state = ModelState::default();
        let set = Set {
            uid: state.fresh(Kind::Set),
            version: state.fresh(Kind::SetVersion),
            generation: state.fresh(Kind::Generation),
            spec: self.world.spec,
            status: None,
            deleting: None,
        };
        state.api.set = Some(set);
        for at in 0..ORDINALS {
            let is_desired = self.world.spec.desires(at);
            state.fates[at] = if is_desired {
                ClaimFate::Retained
            } else {
                ClaimFate::Open
            };
        }
        if self.world.begin == Begin::Settled {
            state = self.idle_state(&state);
        }
        state.budget = self.world.budget;
        state.canonical()
    }

    /// The watches of kinds that occur in this world.
    fn watches(&self) -> impl Iterator<Item = Watch> {
        let claims = self.world.claims;
        let watches = WATCHES.into_iter();
        watches.filter(move |watch| claims || *watch != Watch::Claims)
    }

    /// Plans for the observed state. `false` if there is nothing to write.
    pub fn plan(&self, state: &mut ModelState) -> bool {
        if state.cached.set.is_none() {
            return false;
        }
        let (planned, ops) = self.plans.of(&state.cached);
        if let Some(rule) = planned.broken.first() {
            state.breaks(rule.as_str());
        }
        let fates = self.decided_fates(state);
        if ops.is_empty() {
            return decide_fates(state, fates) || state.broken.is_some();
        }
        state.work = Some(Work {
            ops,
            schedule: WriteSchedule::of(&planned.shape),
            shape: planned.shape.clone(),
            fates,
        });
        true
    }

    /// The former leader plans for its caches. `false` if there is nothing to write.
    fn former_plans(&self, state: &mut ModelState) -> bool {
        let Some(cached) = state
            .former_cached
            .as_ref()
            .filter(|cached| cached.set.is_some())
        else {
            return false;
        };
        let (planned, ops) = self.plans.of(cached);
        if let Some(rule) = planned.broken.first() {
            state.breaks(rule.as_str());
        }
        if ops.is_empty() {
            return state.broken.is_some();
        }
        state.former = Some(Work {
            ops,
            schedule: WriteSchedule::of(&planned.shape),
            shape: planned.shape.clone(),
            fates: [ClaimFate::Open; ORDINALS],
        });
        true
    }

    /// The steps of two leaders.
    fn steps_of_leaders(&self, state: &ModelState, steps: &mut Vec<ModelStep>) {
        let has_no_former_leader = state.former.is_none() && state.former_cached.is_none();
        if state.budget.takeovers > 0 && has_no_former_leader {
            steps.push(ModelStep::SecondLeader);
        }
        if state.former_cached.is_some() {
            steps.extend([ModelStep::FormerCatchesUp, ModelStep::FormerStops]);
            if state.former.is_none() {
                steps.push(ModelStep::FormerPlans);
            }
        }
    }

    /// The fates that the present plan decides: those of the claims that are cached in their current version together
    /// with their pods, so that the plan can do what the specification demands. A claim of a former pod or set has no
    /// decided fate, because its deletion is pending.
    fn decided_fates(&self, state: &ModelState) -> [ClaimFate; ORDINALS] {
        let mut fates = [ClaimFate::Open; ORDINALS];
        let (Some(set), Some(cached_set)) = (&state.api.set, &state.cached.set) else {
            return fates;
        };
        if (set.uid, set.generation) != (cached_set.uid, cached_set.generation)
            || cached_set.deleting.is_some()
        {
            return fates;
        }
        for (at, fate) in fates.iter_mut().enumerate() {
            let (Some(pod), Some(claim)) = (&state.api.pods[at], &state.api.claims[at]) else {
                continue;
            };
            let is_cached = state.cached.claims[at].is_some_and(|c| c.version == claim.version)
                && state.cached.pods[at].is_some_and(|p| p.uid == pod.uid && p.owner == pod.owner);
            let is_owned_by_set = pod.owner == Some(set.uid)
                && claim.owners.set.is_none_or(|owner| owner == set.uid)
                && claim.owners.pod.is_none_or(|owner| owner == pod.uid);
            if self.world.claims && is_cached && is_owned_by_set && !claim.terminating {
                *fate = set.spec.fate(at);
            }
        }
        fates
    }

    /// Executes a write of a pending plan.
    pub fn write(
        &self,
        state: &mut ModelState,
        role: ControllerRole,
        position: WritePosition,
        has_response: bool,
    ) -> Option<Op> {
        let pending = match role {
            ControllerRole::Active => state.work.take(),
            ControllerRole::Former => state.former.take(),
        };
        let mut work = pending?;
        let at = work
            .ops
            .iter()
            .position(|(op_position, _)| *op_position == position)?;
        let (_, op) = work.ops.remove(at);
        claim_edits::check(&self.world, state, &op, self.seeded.guards);
        let reply = server::write(state, &op, self.seeded.guards);
        self.counters.count_reply(reply);
        if reply == Reply::Done {
            verdicts::check(&self.world, state, &op);
        }
        let outcome = if has_response {
            reply.outcome(&op)
        } else {
            WriteOutcome::Refused
        };
        work.schedule.sent(position);
        work.schedule.ended(&work.shape, position, outcome);
        if work.schedule.is_over() {
            if !work.schedule.refused() {
                decide_fates(state, work.fates);
            }
            return Some(op);
        }
        // Writes that cannot be sent any more must not distinguish states.
        if outcome == WriteOutcome::Refused {
            remove_unsendable_writes(&mut work, position);
        }
        match role {
            ControllerRole::Active => state.work = Some(work),
            ControllerRole::Former => state.former = Some(work),
        }
        Some(op)
    }

    fn perform(&self, state: &mut ModelState, step: ModelStep) -> bool {
        match step {
            ModelStep::Lag(watch) => {
                if state.budget.lags != UNLIMITED {
                    state.budget.lags -= 1;
                }
                state.lagging[watch as usize] = true;
                true
            }
            ModelStep::CatchUp(watch) => {
                state.lagging[watch as usize] = false;
                true
            }
            ModelStep::Plan => self.plan(state),
            ModelStep::Write(role, position) => self.write(state, role, position, true).is_some(),
            ModelStep::WriteWithoutResponse(role, position) => {
                state.budget.lost_responses -= 1;
                self.write(state, role, position, false).is_some()
            }
            ModelStep::TakeOver { former_continues } => {
                state.budget.takeovers -= 1;
                let work = state.work.take();
                state.former = work.filter(|_| former_continues).map(|work| Work {
                    fates: [ClaimFate::Open; ORDINALS],
                    ..work
                });
                state.lagging = [false; 4];
                true
            }
            ModelStep::SecondLeader => {
                state.budget.takeovers -= 1;
                state.former_cached = Some(state.cached.clone());
                state.former = state.work.take().map(|work| Work {
                    fates: [ClaimFate::Open; ORDINALS],
                    ..work
                });
                state.lagging = [false; 4];
                true
            }
            ModelStep::FormerCatchesUp => {
                state.deliver_to_former();
                true
            }
            ModelStep::FormerPlans => self.former_plans(state),
            ModelStep::FormerStops => {
                state.former_cached = None;
                true
            }
            ModelStep::Edit(edit) => {
                state.budget.edits -= 1;
                environment::edit(state, edit)
            }
            ModelStep::Fault(fault, at) => {
                state.budget.faults -= 1;
                environment::fail(&self.world, state, fault, at, self.seeded.guards);
                true
            }
            ModelStep::Progress(step) => {
                environment::progress(&self.world, state, step, self.seeded.guards);
                true
            }
        }
    }
}

/// Records the decided fates. `false` if no fate changes.
fn decide_fates(state: &mut ModelState, fates_of_plan: [ClaimFate; ORDINALS]) -> bool {
    let mut has_changed = false;
    for (fate, planned_fate) in state.fates.iter_mut().zip(fates_of_plan) {
        if planned_fate != ClaimFate::Open && *fate != planned_fate {
            *fate = planned_fate;
            has_changed = true;
        }
    }
    has_changed
}

/// Removes the writes of a part of the plan that a refusal has ended.
fn remove_unsendable_writes(work: &mut Work, refused: WritePosition) {
    let ready: Vec<WritePosition> = work.schedule.ready().collect();
    work.ops.retain(|(position, _)| {
        let follows_refused = match (refused, *position) {
            (
                WritePosition::Prepare(_),
                WritePosition::Prepare(_) | WritePosition::Pod { .. } | WritePosition::ClaimEdit(_),
            ) => true,
            (WritePosition::Pod { work: of, .. }, WritePosition::Pod { work, .. }) => of == work,
            (_, WritePosition::Cleanup(_)) => true,
            _ => false,
        };
        !follows_refused || ready.contains(position)
    });
}

impl Model for StatefulSetModel {
    type State = ModelState;
    type Action = ModelStep;

    fn init_states(&self) -> Vec<ModelState> {
        vec![self.first_state()]
    }

    fn actions(&self, state: &ModelState, steps: &mut Vec<ModelStep>) {
        if state.broken.is_some() {
            return;
        }
        for watch in self.watches() {
            if state.lagging[watch as usize] {
                steps.push(ModelStep::CatchUp(watch));
            } else if state.budget.lags > 0 {
                steps.push(ModelStep::Lag(watch));
            }
        }
        // The executor waits for the verdicts that it has stored.
        let waits = self.seeded.guards.waits_for_verdicts
            && state.lagging[Watch::Revisions as usize]
            && verdicts::is_any_unseen(state);
        if state.work.is_none() && !waits {
            steps.push(ModelStep::Plan);
        }
        let controllers = [
            (ControllerRole::Active, &state.work),
            (ControllerRole::Former, &state.former),
        ];
        for (role, work) in controllers {
            let Some(work) = work else { continue };
            for position in work.schedule.ready() {
                steps.push(ModelStep::Write(role, position));
                if state.budget.lost_responses > 0 {
                    steps.push(ModelStep::WriteWithoutResponse(role, position));
                }
            }
        }
        let progress = environment::possible(&self.world, state);
        steps.extend(progress.into_iter().map(ModelStep::Progress));
        if self.world.two_leaders {
            self.steps_of_leaders(state, steps);
        } else if state.budget.takeovers > 0 && state.former.is_none() {
            for former_continues in [false, true] {
                if state.work.is_some() || !former_continues {
                    steps.push(ModelStep::TakeOver { former_continues });
                }
            }
        }
        if state.budget.edits > 0 {
            steps.extend(self.world.edits.iter().copied().map(ModelStep::Edit));
        }
        if state.budget.faults > 0 {
            let faults = environment::faults(&self.world, state);
            steps.extend(
                faults
                    .into_iter()
                    .map(|(fault, at)| ModelStep::Fault(fault, at)),
            );
        }
    }

    fn next_state(&self, last: &ModelState, step: ModelStep) -> Option<ModelState> {
        let mut state = last.clone();
        self.perform(&mut state, step).then(|| state.canonical())
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "at most one running instance has an identity",
                |model: &Self, state| model.unless_first(has_unique_instances(state)),
            ),
            Property::always("no rule is broken", |model: &Self, state: &ModelState| {
                model.unless_first(state.broken.is_none())
            }),
            Property::always(
                "the world comes to rest as wanted",
                |model: &Self, state| model.unless_first(model.reaches_idle_state(state).is_ok()),
            ),
        ]
    }
}

fn has_unique_instances(state: &ModelState) -> bool {
    let mut occupied = [false; ORDINALS];
    let mut is_first = |ordinal: u8| !std::mem::replace(&mut occupied[usize::from(ordinal)], true);
    state
        .instances
        .iter()
        .all(|instance| is_first(instance.ordinal))
}
