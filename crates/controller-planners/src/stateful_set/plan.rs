//! The plan of a set: the writes, their order, and the reasons why there are no further writes.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use object_model::{IncompleteMetadata, ResourceVersion, Uid};
use resource_kinds::stateful_set_policy::{Evidence, Purpose, StepRecord};

use super::claim_edits::{self, ClaimEdit};
use super::draft::{Draft, PlanFlow};
use super::guard::PlanGuard;
use super::hooks;
use super::observed::{Observed, ParsedSet, Strategy};
use super::options::StuckRollout;
use super::waiting::{Cause, Waiting};
use super::{
    claims, delayed_pods, recovery, recreate, refused, replica, revisions, rollout, scale, status,
    steps, verdict,
};

/// A write of the plan. Each write names its object by UID, or creates a new object. The server therefore refuses a
/// plan that was computed from an outdated snapshot.
#[derive(Clone, Debug, PartialEq)]
pub enum StatefulSetAction {
    /// Read the set from the API server; continue only if its UID is the same and it is not being
    /// deleted.
    ConfirmSet,
    /// Adopt a revision without an owner.
    AdoptRevision {
        name: String,
        uid: Uid,
    },
    /// Adopt a pod without an owner.
    AdoptPod {
        name: String,
        uid: Uid,
    },
    ReleasePod {
        name: String,
        uid: Uid,
    },
    /// Create a revision for a template.
    CreateRevision(Box<ControllerRevision>),
    /// Give a revision the newest number, because its template is current again.
    RenumberRevision {
        name: String,
        uid: Uid,
        /// The new revision number.
        revision: i64,
    },
    DeleteRevision {
        name: String,
        uid: Uid,
    },
    /// Store the evidence against a revision whose rollout fails.
    RejectRevision {
        name: String,
        uid: Uid,
        evidence: Box<Evidence>,
    },
    /// Store the progress of the steps of a rollout.
    RecordStep {
        name: String,
        uid: Uid,
        record: Box<StepRecord>,
    },
    CreateClaim(Box<PersistentVolumeClaim>),
    /// Replace the owners of a claim.
    SetClaimOwners {
        name: String,
        uid: Uid,
        /// The version that was read.
        version: ResourceVersion,
        /// The new owners.
        owners: Vec<OwnerReference>,
    },
    /// Change a claim that exists, because its template has changed.
    EditClaim {
        name: String,
        uid: Uid,
        /// The version that was read.
        version: ResourceVersion,
        edit: Box<ClaimEdit>,
    },
    CreatePod(Box<Pod>),
    /// Restore the labels of a pod.
    LabelPod {
        name: String,
        uid: Uid,
        /// The labels to set.
        labels: BTreeMap<String, String>,
    },
    /// Set or remove annotations of a pod.
    AnnotatePod {
        name: String,
        uid: Uid,
        /// The version that was read, if the annotation depends on the state of the pod.
        version: Option<ResourceVersion>,
        /// `None` removes the annotation.
        annotations: BTreeMap<&'static str, Option<String>>,
    },
    /// Delete a pod, with the grace period of the pod's spec.
    DeletePod {
        name: String,
        uid: Uid,
        /// The version that was read, if the deletion depends on the state of the pod.
        version: Option<ResourceVersion>,
    },
    /// Delete a pod by an eviction, which the API server refuses if the guard of the set's policy holds the pod.
    EvictPod {
        name: String,
        uid: Uid,
        /// As for `DeletePod`.
        version: Option<ResourceVersion>,
        purpose: Purpose,
    },
}

/// The kind of an action and the name of its object. A repeated action has an equal target, even if the action writes
/// another content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActionTarget {
    pub kind: ActionKind,
    /// Empty if the object is the set.
    pub name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActionKind {
    ConfirmSet,
    AdoptRevision,
    AdoptPod,
    ReleasePod,
    CreateRevision,
    /// With the new revision number.
    RenumberRevision(i64),
    DeleteRevision,
    RejectRevision,
    RecordStep,
    CreateClaim,
    SetClaimOwners,
    EditClaim,
    CreatePod,
    LabelPod,
    AnnotatePod,
    DeletePod,
    EvictPod,
}

impl ActionKind {
    pub fn is_creation(self) -> bool {
        matches!(
            self,
            Self::CreateRevision | Self::CreateClaim | Self::CreatePod
        )
    }
}

impl StatefulSetAction {
    /// The name and the UID of the pod that the action deletes, also by an eviction.
    pub fn deleted_pod(&self) -> Option<(&str, &Uid)> {
        match self {
            Self::DeletePod { name, uid, .. } | Self::EvictPod { name, uid, .. } => {
                Some((name, uid))
            }
            _ => None,
        }
    }

    /// Whether the action creates or deletes a pod.
    pub fn changes_pods(&self) -> bool {
        matches!(self, Self::CreatePod(_)) || self.deleted_pod().is_some()
    }

    pub fn target(&self) -> ActionTarget {
        // The planner names all objects that it creates.
        let created = |meta: &ObjectMeta| meta.name.clone().unwrap_or_default();
        let (kind, name) = match self {
            Self::ConfirmSet => (ActionKind::ConfirmSet, String::new()),
            Self::AdoptRevision { name, .. } => (ActionKind::AdoptRevision, name.clone()),
            Self::AdoptPod { name, .. } => (ActionKind::AdoptPod, name.clone()),
            Self::ReleasePod { name, .. } => (ActionKind::ReleasePod, name.clone()),
            Self::CreateRevision(revision) => {
                (ActionKind::CreateRevision, created(&revision.metadata))
            }
            Self::RenumberRevision { name, revision, .. } => {
                (ActionKind::RenumberRevision(*revision), name.clone())
            }
            Self::DeleteRevision { name, .. } => (ActionKind::DeleteRevision, name.clone()),
            Self::RejectRevision { name, .. } => (ActionKind::RejectRevision, name.clone()),
            Self::RecordStep { name, .. } => (ActionKind::RecordStep, name.clone()),
            Self::CreateClaim(claim) => (ActionKind::CreateClaim, created(&claim.metadata)),
            Self::SetClaimOwners { name, .. } => (ActionKind::SetClaimOwners, name.clone()),
            Self::EditClaim { name, .. } => (ActionKind::EditClaim, name.clone()),
            Self::CreatePod(pod) => (ActionKind::CreatePod, created(&pod.metadata)),
            Self::LabelPod { name, .. } => (ActionKind::LabelPod, name.clone()),
            Self::AnnotatePod { name, .. } => (ActionKind::AnnotatePod, name.clone()),
            Self::DeletePod { name, .. } => (ActionKind::DeletePod, name.clone()),
            Self::EvictPod { name, .. } => (ActionKind::EvictPod, name.clone()),
        };
        ActionTarget { kind, name }
    }
}

impl fmt::Display for ActionTarget {
    /// A short text: `create pod web-0`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match self.kind {
            ActionKind::ConfirmSet => write!(f, "confirm set"),
            ActionKind::AdoptRevision => write!(f, "adopt revision {name}"),
            ActionKind::AdoptPod => write!(f, "adopt pod {name}"),
            ActionKind::ReleasePod => write!(f, "release pod {name}"),
            ActionKind::CreateRevision => write!(f, "create revision {name}"),
            ActionKind::RenumberRevision(number) => {
                write!(f, "renumber revision {name} to {number}")
            }
            ActionKind::DeleteRevision => write!(f, "delete revision {name}"),
            ActionKind::RejectRevision => write!(f, "reject revision {name}"),
            ActionKind::RecordStep => write!(f, "record the step of revision {name}"),
            ActionKind::CreateClaim => write!(f, "create claim {name}"),
            ActionKind::SetClaimOwners => write!(f, "set owners of claim {name}"),
            ActionKind::EditClaim => write!(f, "edit claim {name}"),
            ActionKind::CreatePod => write!(f, "create pod {name}"),
            ActionKind::LabelPod => write!(f, "label pod {name}"),
            ActionKind::AnnotatePod => write!(f, "annotate pod {name}"),
            ActionKind::DeletePod => write!(f, "delete pod {name}"),
            ActionKind::EvictPod => write!(f, "evict pod {name}"),
        }
    }
}

impl fmt::Display for StatefulSetAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.target().fmt(f)
    }
}

/// The writes about one pod and its claims, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct PodWork {
    /// The ordinal of the pod.
    pub ordinal: i64,
    /// Actions in order; each only if the previous one succeeded.
    pub actions: Vec<StatefulSetAction>,
}

/// An event for the StatefulSet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetEvent {
    /// Whether its type is `Warning` (otherwise `Normal`).
    pub warning: bool,
    /// Reason of the event, for instance `SuccessfulCreate`.
    pub reason: &'static str,
    /// Message of the event.
    pub message: String,
}

/// The order of the work on several pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodManagement {
    /// One pod after the other; the first failure stops the work.
    OneByOne,
    /// In batches of 1, 2, 4, … pods at once; after a failure no further batch starts.
    Batches,
}

/// The writes that bring a StatefulSet closer to its specification.
#[derive(Clone, Debug, PartialEq)]
pub struct StatefulSetPlan {
    /// Writes before all other writes, in order.
    pub prepare: Vec<StatefulSetAction>,
    /// The work on pods, after `prepare`.
    pub pods: Vec<PodWork>,
    /// The order of the work on pods.
    pub pod_management: PodManagement,
    /// Edits of claims, after the work on pods, even if an earlier write failed. No write waits for one of them.
    pub claim_edits: Vec<StatefulSetAction>,
    /// The status, after the work on pods, if it differs from the stored status. The status is written even if an
    /// earlier write failed.
    pub status: Option<StatefulSetStatus>,
    /// The last writes, only if all earlier writes succeeded.
    pub cleanup: Vec<StatefulSetAction>,
    /// Events to report, in order.
    pub notices: Vec<SetEvent>,
    /// The reasons why there are no more actions.
    pub waiting_on: Vec<Waiting>,
    /// The time after which to plan again even without an event.
    pub requeue_after: Option<Duration>,
}

impl StatefulSetPlan {
    /// All writes except the status, in order.
    pub fn actions(&self) -> impl Iterator<Item = &StatefulSetAction> {
        let pods = self.pods.iter().flat_map(|work| &work.actions);
        let edits = &self.claim_edits;
        self.prepare
            .iter()
            .chain(pods)
            .chain(edits)
            .chain(&self.cleanup)
    }

    /// Whether there is nothing to write.
    pub fn is_idle(&self) -> bool {
        self.status.is_none() && self.actions().next().is_none()
    }
}

/// Plans the writes for a set. Any specification and any status give a plan; an object without a complete identity is an
/// error.
pub fn plan(observed: &Observed, now: Timestamp) -> Result<StatefulSetPlan, IncompleteMetadata> {
    let parsed = ParsedSet::of(observed, now)?;
    let mut draft = Draft::of(PlanGuard::of(&parsed));
    let mut chosen = revisions::choose(&parsed, &mut draft);
    adopt_and_release(&parsed, &mut draft);
    if parsed.spec.deleting {
        draft.wait(None, Cause::SetDeleting);
    } else if parsed.spec.selector.is_none() {
        draft.wait(None, Cause::Selector);
    } else {
        verdict::judge(&parsed, &mut chosen, &mut draft);
        chosen.limit = steps::limit(&parsed, &chosen, &mut draft);
        decide(&parsed, &chosen, &mut draft);
    }
    let mut cleanup = Vec::new();
    if !parsed.spec.deleting && parsed.spec.selector.is_some() {
        revisions::truncate(&parsed, &chosen, &mut cleanup);
    }
    wake_when_available(&parsed, &mut draft);
    let status = status::next(&parsed, &chosen, &mut draft);
    let wait = draft.wake_at.map(|at| at.duration_since(now));
    Ok(StatefulSetPlan {
        prepare: draft.prepare,
        pods: draft.pods,
        pod_management: if parsed.spec.ordered {
            PodManagement::OneByOne
        } else {
            PodManagement::Batches
        },
        claim_edits: draft.claim_edits,
        status,
        cleanup,
        notices: draft.notices,
        waiting_on: draft.waiting,
        requeue_after: wait.map(|wait| Duration::try_from(wait).unwrap_or_default()),
    })
}

/// The order of decisions: owners of claims, desired pods, surplus pods, outdated pods, and stuck pods.
fn decide(parsed: &ParsedSet<'_>, chosen: &revisions::ChosenRevisions, draft: &mut Draft) {
    claims::settle_owners(parsed, draft);
    if !recreate::stop_all(parsed, chosen, draft) {
        decide_pods(parsed, chosen, draft);
    }
    hooks::settle(parsed, chosen, draft);
    refused::explain(parsed, draft);
    delayed_pods::explain(parsed, chosen, draft);
    // Last: a pod's own reason for waiting comes before the trouble of its claim.
    claim_edits::plan(parsed, draft);
}

fn decide_pods(parsed: &ParsedSet<'_>, chosen: &revisions::ChosenRevisions, draft: &mut Draft) {
    let mut flow = replica::walk(parsed, chosen, draft);
    if flow == PlanFlow::Go || !parsed.spec.ordered {
        flow = scale::remove_condemned(parsed, draft);
    }
    match parsed.spec.strategy {
        Strategy::OnDelete => rollout::mention_outdated(parsed, chosen, draft),
        Strategy::RollingUpdate(_) => {
            if flow == PlanFlow::Go && !chosen.is_held() {
                rollout::replace_outdated(parsed, chosen, draft);
            }
            let replaces_stuck = parsed.spec.options.stuck_rollout == StuckRollout::Replace;
            let may_replace = (replaces_stuck && !chosen.is_held()) || chosen.rolls_back();
            if may_replace && !draft.changes_pods() {
                recovery::replace_stuck(parsed, chosen, draft);
            }
        }
    }
}

/// Adoption needs a fresh read of the set: a set that is being deleted must not adopt pods that the garbage collector
/// released.
fn adopt_and_release(parsed: &ParsedSet<'_>, draft: &mut Draft) {
    for pod in &parsed.strays {
        draft.prepare.push(StatefulSetAction::ReleasePod {
            name: pod.name.to_owned(),
            uid: pod.uid.clone(),
        });
    }
    for pod in &parsed.orphans {
        draft.prepare.push(StatefulSetAction::AdoptPod {
            name: pod.name.to_owned(),
            uid: pod.uid.clone(),
        });
    }
    let adopts = |action: &StatefulSetAction| {
        matches!(
            action,
            StatefulSetAction::AdoptPod { .. } | StatefulSetAction::AdoptRevision { .. }
        )
    };
    if draft.prepare.iter().any(adopts) {
        draft.prepare.insert(0, StatefulSetAction::ConfirmSet);
    }
}

/// A pod becomes available without an event, so the plan needs a wake-up time.
fn wake_when_available(parsed: &ParsedSet<'_>, draft: &mut Draft) {
    for member in parsed.all().filter(|member| !member.available) {
        if let Some(at) = member.available_at {
            draft.wake(at);
        }
    }
}
