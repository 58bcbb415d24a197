//! The plan of a set: the writes, their order, and the reasons why there are no further writes.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use resource_kinds::pod_view::PodView;

use super::draft::{Draft, PlanFlow};
use super::observed::{Observed, ParsedSet, Strategy};
use super::options::StuckRollout;
use super::waiting::{Cause, Waiting};
use super::{claims, held_back, recovery, refused, replica, revisions, rollout, scale, status};

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
        uid: String,
    },
    /// Adopt a pod without an owner.
    AdoptPod {
        name: String,
        uid: String,
    },
    ReleasePod {
        name: String,
        uid: String,
    },
    /// Create a revision for a template.
    CreateRevision(Box<ControllerRevision>),
    /// Give a revision the newest number, because its template is current again.
    RenumberRevision {
        name: String,
        uid: String,
        /// The new revision number.
        revision: i64,
    },
    DeleteRevision {
        name: String,
        uid: String,
    },
    CreateClaim(Box<PersistentVolumeClaim>),
    /// Replace the owners of a claim.
    SetClaimOwners {
        name: String,
        uid: String,
        /// The observed resourceVersion.
        resource_version: String,
        /// The new owners.
        owners: Vec<OwnerReference>,
    },
    CreatePod(Box<Pod>),
    /// Restore the labels of a pod.
    LabelPod {
        name: String,
        uid: String,
        /// The labels to set.
        labels: BTreeMap<String, String>,
    },
    /// Delete a pod, with the grace period of the pod's spec.
    DeletePod {
        name: String,
        uid: String,
    },
}

impl fmt::Display for StatefulSetAction {
    /// A short text: `create pod web-0`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |meta: &ObjectMeta| meta.name.clone().unwrap_or_default();
        match self {
            Self::ConfirmSet => write!(f, "confirm set"),
            Self::AdoptRevision { name, .. } => write!(f, "adopt revision {name}"),
            Self::AdoptPod { name, .. } => write!(f, "adopt pod {name}"),
            Self::ReleasePod { name, .. } => write!(f, "release pod {name}"),
            Self::CreateRevision(revision) => {
                write!(f, "create revision {}", name(&revision.metadata))
            }
            Self::RenumberRevision { name, revision, .. } => {
                write!(f, "renumber revision {name} to {revision}")
            }
            Self::DeleteRevision { name, .. } => write!(f, "delete revision {name}"),
            Self::CreateClaim(claim) => write!(f, "create claim {}", name(&claim.metadata)),
            Self::SetClaimOwners { name, .. } => write!(f, "set owners of claim {name}"),
            Self::CreatePod(pod) => write!(f, "create pod {}", name(&pod.metadata)),
            Self::LabelPod { name, .. } => write!(f, "label pod {name}"),
            Self::DeletePod { name, .. } => write!(f, "delete pod {name}"),
        }
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
        self.prepare.iter().chain(pods).chain(&self.cleanup)
    }

    /// Whether there is nothing to write.
    pub fn is_idle(&self) -> bool {
        self.status.is_none() && self.actions().next().is_none()
    }
}

/// Plans the writes for a set. Total: any input gives a plan.
pub fn plan(observed: &Observed, now: Timestamp) -> StatefulSetPlan {
    let world = ParsedSet::of(observed, now);
    let mut draft = Draft::default();
    let chosen = revisions::choose(&world, &mut draft);
    adopt_and_release(&world, &mut draft);
    if world.spec.deleting {
        draft.wait(None, Cause::SetDeleting);
    } else if world.spec.selector.is_none() {
        draft.wait(None, Cause::Selector);
    } else {
        decide(&world, &chosen, &mut draft);
    }
    let mut cleanup = Vec::new();
    if !world.spec.deleting && world.spec.selector.is_some() {
        revisions::truncate(&world, &chosen, &mut cleanup);
    }
    wake_when_available(&world, &mut draft);
    let status = status::next(&world, &chosen, &mut draft);
    let wait = draft.wake_at.map(|at| at.duration_since(now));
    StatefulSetPlan {
        prepare: draft.prepare,
        pods: draft.pods,
        pod_management: if world.spec.ordered {
            PodManagement::OneByOne
        } else {
            PodManagement::Batches
        },
        status,
        cleanup,
        notices: draft.notices,
        waiting_on: draft.waiting,
        requeue_after: wait.map(|wait| Duration::try_from(wait).unwrap_or_default()),
    }
}

/// The order of decisions: owners of claims, desired pods, surplus pods, outdated pods, and stuck pods.
fn decide(world: &ParsedSet<'_>, chosen: &revisions::ChosenRevisions, draft: &mut Draft) {
    claims::settle_owners(world, draft);
    let mut flow = replica::walk(world, chosen, draft);
    if flow == PlanFlow::Go || !world.spec.ordered {
        flow = scale::remove_condemned(world, draft);
    }
    match world.spec.strategy {
        Strategy::OnDelete => rollout::mention_outdated(world, chosen, draft),
        Strategy::RollingUpdate(_) => {
            if flow == PlanFlow::Go {
                rollout::replace_outdated(world, chosen, draft);
            }
            if world.spec.options.stuck_rollout == StuckRollout::Replace && !draft.changes_pods() {
                recovery::replace_stuck(world, chosen, draft);
            }
        }
    }
    refused::explain(world, draft);
    held_back::explain(world, chosen, draft);
}

/// Adoption needs a fresh read of the set: a set that is being deleted must not adopt pods that the garbage collector
/// released.
fn adopt_and_release(world: &ParsedSet<'_>, draft: &mut Draft) {
    let id = |pod: &PodView| (pod.name.to_string(), pod.uid.to_string());
    for pod in &world.strays {
        let (name, uid) = id(pod);
        draft
            .prepare
            .push(StatefulSetAction::ReleasePod { name, uid });
    }
    for pod in &world.orphans {
        let (name, uid) = id(pod);
        draft
            .prepare
            .push(StatefulSetAction::AdoptPod { name, uid });
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
fn wake_when_available(world: &ParsedSet<'_>, draft: &mut Draft) {
    for member in world.all().filter(|member| !member.available) {
        if let Some(at) = member.available_at {
            draft.wake(at);
        }
    }
}
