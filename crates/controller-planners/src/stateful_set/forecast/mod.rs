//! The forecast of a rollout (rollouts.md R18): the plans of a set, one after the other, as if each new pod becomes
//! available and each volume follows its claim.
//!
//! A forecast writes nothing. Pods that are not available at present stay so until nothing else can happen: the forecast
//! then has the wait for them as a step of its own.

mod environment;
mod objects;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use object_model::IncompleteMetadata;
use resource_kinds::annotations::{APPROVED_STEP, HOOK};
use resource_kinds::labels;
use resource_kinds::pod_view::PodView;
use resource_kinds::stateful_set_policy::{PodHold, Purpose};

use super::claim_edits::ClaimEdit;
use super::observed::Spec;
use super::plan::{StatefulSetAction, StatefulSetPlan, plan};
use super::waiting::{Cause, Waiting};
pub use objects::Objects;

/// The error of a forecast.
#[derive(Debug, thiserror::Error)]
pub enum ForecastError {
    #[error(transparent)]
    Incomplete(#[from] IncompleteMetadata),
    #[error("an object cannot be read")]
    Unreadable(#[from] serde_json::Error),
    #[error("{0} does not exist")]
    Absent(String),
    #[error("{0} exists already")]
    Present(String),
}

/// A rollout that has not begun.
#[derive(Clone, Debug, PartialEq)]
pub struct Forecast {
    /// The changes in order. Changes of one round are made at once; the next round begins when all pods of the round are
    /// available.
    pub steps: Vec<RolloutStep>,
    /// The causes that the first plan has.
    pub waiting_now: Vec<Waiting>,
    pub end: ForecastEnd,
    /// The pods at the end and their revisions, by name.
    pub pods: BTreeMap<String, String>,
    /// The revision of the template; empty if no pod needs one.
    pub update_revision: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RolloutStep {
    pub round: usize,
    pub change: RolloutChange,
}

#[derive(Clone, Debug, PartialEq)]
pub enum RolloutChange {
    CreatePod {
        pod: String,
        revision: String,
    },
    DeletePod {
        pod: String,
        /// The revision of the deleted pod.
        revision: String,
        purpose: Purpose,
        /// Whether the guard of the policy decides again when it happens.
        is_guarded: bool,
    },
    /// A hook of the policy runs in a pod before it goes, or is taken back.
    RunHook {
        pod: String,
        hook: String,
        is_cancelled: bool,
    },
    AdoptPod {
        pod: String,
    },
    ReleasePod {
        pod: String,
    },
    CreateClaim {
        claim: String,
    },
    EditClaim {
        claim: String,
        edit: ClaimEdit,
    },
    /// The garbage collector deletes a claim and its data, because the retention policy of the set demands it.
    DeleteClaim {
        claim: String,
    },
    RejectRevision {
        revision: String,
        pod: String,
        message: String,
    },
    /// Nothing happens until these causes have ended by themselves.
    Wait {
        causes: Vec<Cause>,
    },
}

/// The state in which a rollout ends.
#[derive(Clone, Debug, PartialEq)]
pub enum ForecastEnd {
    /// Nothing is left to do.
    Complete,
    /// Something is left to do, and it waits for these causes.
    Held(Vec<Waiting>),
    /// The forecast has its maximum number of steps.
    Unfinished,
}

/// The maximum number of steps, so that the forecast for a very large set ends soon.
const STEPS_MAX: usize = 5_000;

/// The maximum number of plans: a set whose status changes without end has a forecast as well.
const PLANS_MAX: usize = 8 * STEPS_MAX;

/// The maximum number of plans in a row that wait only for time.
const IDLE_PLANS_MAX: usize = 5;

/// Forecasts the rollout of a set.
///
/// # Errors
/// An object of the set cannot be read, or has no complete identity.
pub fn forecast(objects: Objects, now: Timestamp) -> Result<Forecast, ForecastError> {
    Run::of(objects, now)?.finish()
}

struct Run {
    objects: Objects,
    now: Timestamp,
    /// The pods as a plan takes them, renewed with each change of a pod.
    views: BTreeMap<String, Arc<PodView>>,
    /// The claims as a plan takes them, renewed with each change of a claim.
    claims: BTreeMap<String, Arc<PersistentVolumeClaim>>,
    /// Pods and claims that are not available at the start, and have not changed.
    troubled: BTreeSet<String>,
    round: usize,
    steps: Vec<RolloutStep>,
}

impl Run {
    fn of(objects: Objects, now: Timestamp) -> Result<Self, ForecastError> {
        let troubled = environment::troubled(&objects);
        let mut run = Self {
            objects,
            now,
            views: BTreeMap::new(),
            claims: BTreeMap::new(),
            troubled,
            round: 0,
            steps: Vec::new(),
        };
        let names = run.objects.pods.keys().chain(run.objects.claims.keys());
        for name in names.cloned().collect::<Vec<_>>() {
            run.renew(&name)?;
        }
        Ok(run)
    }

    /// Renews the pod or the claim of that name: most plans change one, and a large set has thousands.
    fn renew(&mut self, name: &str) -> Result<(), ForecastError> {
        self.views.remove(name);
        self.claims.remove(name);
        if let Some(pod) = self.objects.pods.get(name) {
            let view = Arc::new(pod.try_into()?);
            self.views.insert(name.to_owned(), view);
        }
        if let Some(claim) = self.objects.claims.get(name) {
            let claim = Arc::new(claim.clone());
            self.claims.insert(name.to_owned(), claim);
        }
        Ok(())
    }

    fn plan(&self) -> Result<StatefulSetPlan, ForecastError> {
        let pods = self.views.values().cloned().collect();
        let observed = self.objects.observed_with(pods, self.claims.clone());
        Ok(plan(&observed, self.now)?)
    }

    fn finish(mut self) -> Result<Forecast, ForecastError> {
        let mut waiting_now = None;
        let (mut plans, mut idle_plans) = (0, 0);
        let end = loop {
            plans += 1;
            if self.steps.len() > STEPS_MAX || plans > PLANS_MAX {
                break ForecastEnd::Unfinished;
            }
            let next = self.plan()?;
            waiting_now.get_or_insert_with(|| next.waiting_on.clone());
            let is_idle = next.is_idle();
            self.write(&next)?;
            if !is_idle {
                idle_plans = 0;
                continue;
            }
            if self.pass_round()? {
                continue;
            }
            let causes = next.waiting_on;
            if let Some(at) = environment::next_available(&self.objects, self.now) {
                self.now = at;
            } else if self.approve(&causes) {
                continue;
            } else if !self.troubled.is_empty() && !causes.is_empty() {
                self.await_recovery(&causes)?;
            } else if let Some(wait) = next.requeue_after.filter(|_| idle_plans < IDLE_PLANS_MAX) {
                idle_plans += 1;
                let later = jiff::SignedDuration::try_from(wait).unwrap_or_default();
                self.now = self.now.checked_add(later).unwrap_or(Timestamp::MAX);
            } else if causes.is_empty() {
                break ForecastEnd::Complete;
            } else {
                break ForecastEnd::Held(causes);
            }
        };
        // A wait that nothing follows holds nothing.
        while let Some(RolloutStep {
            change: RolloutChange::Wait { .. },
            ..
        }) = self.steps.last()
        {
            self.steps.pop();
        }
        Ok(self.result(waiting_now.unwrap_or_default(), end))
    }

    fn result(self, waiting_now: Vec<Waiting>, end: ForecastEnd) -> Forecast {
        let status = self.objects.set.status.as_ref();
        let update = status.and_then(|status| status.update_revision.clone());
        let pods = self.objects.pods.iter();
        let pods = pods.map(|(name, pod)| (name.clone(), revision(pod)));
        Forecast {
            steps: self.steps,
            waiting_now,
            end,
            update_revision: update.unwrap_or_default(),
            pods: pods.collect(),
        }
    }

    fn step(&mut self, change: RolloutChange) {
        self.steps.push(RolloutStep {
            round: self.round,
            change,
        });
    }

    fn write(&mut self, plan: &StatefulSetPlan) -> Result<(), ForecastError> {
        for action in plan.actions() {
            if let Some(change) = self.change(action)? {
                self.step(change);
            }
            self.objects.write(action, self.now)?;
            self.renew(&action.target().name)?;
        }
        if let Some(status) = &plan.status {
            self.objects.set.status = Some(status.clone());
        }
        Ok(())
    }

    /// The change by an action; `None` if it concerns neither pods nor volumes.
    fn change(&self, action: &StatefulSetAction) -> Result<Option<RolloutChange>, ForecastError> {
        let name = action.target().name;
        Ok(Some(match action {
            StatefulSetAction::CreatePod(pod) => RolloutChange::CreatePod {
                pod: name,
                revision: revision(pod),
            },
            StatefulSetAction::DeletePod { .. } | StatefulSetAction::EvictPod { .. } => {
                let pod = self.objects.pods.get(&name);
                let (purpose, is_guarded) = match action {
                    StatefulSetAction::EvictPod { purpose, .. } => (*purpose, true),
                    _ => (self.purpose(&name)?, false),
                };
                RolloutChange::DeletePod {
                    revision: pod.map(revision).unwrap_or_default(),
                    pod: name,
                    purpose,
                    is_guarded,
                }
            }
            StatefulSetAction::AdoptPod { .. } => RolloutChange::AdoptPod { pod: name },
            StatefulSetAction::ReleasePod { .. } => RolloutChange::ReleasePod { pod: name },
            StatefulSetAction::CreateClaim(_) => RolloutChange::CreateClaim { claim: name },
            StatefulSetAction::EditClaim { edit, .. } => RolloutChange::EditClaim {
                claim: name,
                edit: (**edit).clone(),
            },
            StatefulSetAction::RejectRevision { evidence, .. } => RolloutChange::RejectRevision {
                revision: name,
                pod: evidence.pod.clone(),
                message: evidence.message.clone(),
            },
            StatefulSetAction::AnnotatePod { annotations, .. } => {
                let text = annotations.get(HOOK).and_then(Option::as_deref);
                let hold = text.and_then(PodHold::parse);
                let Some((hook, hold)) = hold.and_then(|hold| Some((hold.hook.clone()?, hold)))
                else {
                    return Ok(None);
                };
                RolloutChange::RunHook {
                    pod: name,
                    hook,
                    is_cancelled: hold.cancels,
                }
            }
            StatefulSetAction::ConfirmSet
            | StatefulSetAction::AdoptRevision { .. }
            | StatefulSetAction::CreateRevision(_)
            | StatefulSetAction::RenumberRevision { .. }
            | StatefulSetAction::DeleteRevision { .. }
            | StatefulSetAction::RecordStep { .. }
            | StatefulSetAction::SetClaimOwners { .. }
            | StatefulSetAction::LabelPod { .. } => return Ok(None),
        }))
    }

    /// The purpose of a deletion without a guard.
    fn purpose(&self, pod: &str) -> Result<Purpose, ForecastError> {
        let spec = Spec::of(&self.objects.set)?;
        let ordinal = super::identity::ordinal(spec.name, pod);
        Ok(
            match ordinal.is_some_and(|ordinal| spec.in_range(ordinal)) {
                true => Purpose::Update,
                false => Purpose::ScaleDown,
            },
        )
    }

    /// Ends the pods that are being deleted, makes new pods available, and lets volumes follow their claims. Returns whether anything
    /// has changed.
    fn pass_round(&mut self) -> Result<bool, ForecastError> {
        let passed = environment::pass(&mut self.objects, &self.troubled, self.now);
        for name in &passed.changed {
            self.renew(name)?;
        }
        let objects = &self.objects;
        self.troubled
            .retain(|name| objects.pods.contains_key(name) || objects.claims.contains_key(name));
        for claim in passed.collected_claims {
            self.step(RolloutChange::DeleteClaim { claim });
        }
        let is_changed = !passed.changed.is_empty();
        self.round += usize::from(is_changed);
        Ok(is_changed)
    }

    /// Approves the step for which the rollout pauses, or lets the time of the pause pass. Returns whether it pauses.
    fn approve(&mut self, causes: &[Waiting]) -> bool {
        let paused = causes.iter().find_map(|waiting| match &waiting.cause {
            Cause::RolloutPaused {
                revision, approval, ..
            } => Some((revision, approval, waiting)),
            _ => None,
        });
        let Some((name, approval, waiting)) = paused else {
            return false;
        };
        let Some(revision) = self.objects.revisions.get_mut(name) else {
            return false;
        };
        let annotations = revision.metadata.annotations.get_or_insert_default();
        annotations.insert(APPROVED_STEP.to_owned(), approval.clone());
        let causes = vec![waiting.cause.clone()];
        self.step(RolloutChange::Wait { causes });
        self.round += 1;
        true
    }

    /// Makes the pods and volumes available that are not so at the start.
    fn await_recovery(&mut self, causes: &[Waiting]) -> Result<(), ForecastError> {
        let causes = causes.iter().map(|waiting| waiting.cause.clone());
        let causes: Vec<Cause> = causes
            .filter(|cause| !matches!(cause, Cause::After { .. }))
            .collect();
        if !causes.is_empty() {
            self.step(RolloutChange::Wait { causes });
        }
        for name in std::mem::take(&mut self.troubled) {
            environment::recover(&mut self.objects, &name, self.now);
            self.renew(&name)?;
        }
        self.round += 1;
        Ok(())
    }
}

/// The revision of a pod.
fn revision(pod: &Pod) -> String {
    let labels = pod.metadata.labels.as_ref();
    let revision = labels.and_then(|all| all.get(labels::CONTROLLER_REVISION_HASH));
    revision.cloned().unwrap_or_default()
}
