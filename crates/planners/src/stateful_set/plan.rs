//! The plan of a set: what to write, in which order, and why no more than that.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use resource_kinds::pod_view::PodView;

use super::draft::{Draft, Flow};
use super::observed::{Observed, Strategy, World};
use super::options::StuckRollout;
use super::waiting::{Cause, Waiting};
use super::{claims, held_back, recovery, refused, replica, revisions, rollout, scale, status};

/// One write. Each names the object by uid, or creates it under a name of its own: a plan that
/// was made from an old view is refused by the server.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Read the set from the server itself; go on only if it is this one and is not being
    /// deleted.
    ConfirmSet,
    /// Become the owner of a revision that has none.
    AdoptRevision {
        /// Name.
        name: String,
        /// Identity.
        uid: String,
    },
    /// Become the owner of a pod that has none.
    AdoptPod {
        /// Name.
        name: String,
        /// Identity.
        uid: String,
    },
    /// Stop owning a pod.
    ReleasePod {
        /// Name.
        name: String,
        /// Identity.
        uid: String,
    },
    /// Keep the template under a new name.
    CreateRevision(Box<ControllerRevision>),
    /// Give a revision a new number: its template is the wanted one again.
    RenumberRevision {
        /// Name.
        name: String,
        /// Identity.
        uid: String,
        /// Number.
        revision: i64,
    },
    /// Forget a template.
    DeleteRevision {
        /// Name.
        name: String,
        /// Identity.
        uid: String,
    },
    /// Create a claim.
    CreateClaim(Box<PersistentVolumeClaim>),
    /// Replace the owners of a claim.
    SetClaimOwners {
        /// Name.
        name: String,
        /// Identity.
        uid: String,
        /// The state that was seen.
        resource_version: String,
        /// The owners it is to have.
        owners: Vec<OwnerReference>,
    },
    /// Create a pod.
    CreatePod(Box<Pod>),
    /// Give a pod its labels back.
    LabelPod {
        /// Name.
        name: String,
        /// Identity.
        uid: String,
        /// The labels to set.
        labels: BTreeMap<String, String>,
    },
    /// Delete a pod, with its own grace.
    DeletePod {
        /// Name.
        name: String,
        /// Identity.
        uid: String,
    },
}

impl fmt::Display for Action {
    /// In a few words: `create pod web-0`.
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
    /// The pod's ordinal.
    pub ordinal: i64,
    /// What to do, each only if the one before it went well.
    pub actions: Vec<Action>,
}

/// Something to tell the user as an event of the set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Whether it is a warning.
    pub warning: bool,
    /// Reason.
    pub reason: &'static str,
    /// Text.
    pub message: String,
}

/// How the work on several pods is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// One pod after the other; the first failure ends it.
    OneByOne,
    /// In batches of 1, 2, 4, … at once; a failure ends it after its batch.
    Batches,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Writes that come first, in order.
    pub prepare: Vec<Action>,
    /// Then the work on pods.
    pub pods: Vec<PodWork>,
    /// How to go about it.
    pub pace: Pace,
    /// Then the status, if it differs from what is stored. To be written even if a write before
    /// it failed.
    pub status: Option<StatefulSetStatus>,
    /// Last, if all went well.
    pub cleanup: Vec<Action>,
    /// What the user is to be told.
    pub notices: Vec<Notice>,
    /// Why not more.
    pub waiting_on: Vec<Waiting>,
    /// When to plan again even if nothing happens.
    pub requeue_after: Option<Duration>,
}

impl Plan {
    /// All writes but the status, in order.
    pub fn actions(&self) -> impl Iterator<Item = &Action> {
        let pods = self.pods.iter().flat_map(|work| &work.actions);
        self.prepare.iter().chain(pods).chain(&self.cleanup)
    }

    /// Whether there is nothing to write.
    pub fn is_idle(&self) -> bool {
        self.status.is_none() && self.actions().next().is_none()
    }
}

/// Decides what to do about a set. Total: any input gives a plan.
pub fn plan(observed: &Observed, now: Timestamp) -> Plan {
    let world = World::of(observed, now);
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
    Plan {
        prepare: draft.prepare,
        pods: draft.pods,
        pace: if world.spec.ordered {
            Pace::OneByOne
        } else {
            Pace::Batches
        },
        status,
        cleanup,
        notices: draft.notices,
        waiting_on: draft.waiting,
        requeue_after: wait.map(|wait| Duration::try_from(wait).unwrap_or_default()),
    }
}

/// The owners of claims before all pods. Wanted pods first, then surplus ones, then outdated ones, then what is stuck.
fn decide(world: &World<'_>, chosen: &revisions::Chosen, draft: &mut Draft) {
    claims::settle_owners(world, draft);
    let mut flow = replica::walk(world, chosen, draft);
    if flow == Flow::Go || !world.spec.ordered {
        flow = scale::remove_condemned(world, draft);
    }
    match world.spec.strategy {
        Strategy::OnDelete => rollout::mention_outdated(world, chosen, draft),
        Strategy::RollingUpdate(_) => {
            if flow == Flow::Go {
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

/// Adoption needs a fresh look at the set: one that is being deleted must not take pods back
/// from the collector.
fn adopt_and_release(world: &World<'_>, draft: &mut Draft) {
    let id = |pod: &PodView| (pod.name.to_string(), pod.uid.to_string());
    for pod in &world.strays {
        let (name, uid) = id(pod);
        draft.prepare.push(Action::ReleasePod { name, uid });
    }
    for pod in &world.orphans {
        let (name, uid) = id(pod);
        draft.prepare.push(Action::AdoptPod { name, uid });
    }
    let adopts = |action: &Action| {
        matches!(
            action,
            Action::AdoptPod { .. } | Action::AdoptRevision { .. }
        )
    };
    if draft.prepare.iter().any(adopts) {
        draft.prepare.insert(0, Action::ConfirmSet);
    }
}

/// A pod becomes available without anything happening to it.
fn wake_when_available(world: &World<'_>, draft: &mut Draft) {
    for member in world.all().filter(|member| !member.available) {
        if let Some(at) = member.available_at {
            draft.wake(at);
        }
    }
}
