//! The plan of a Deployment.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DeploymentStatus, ReplicaSet};
use object_model::{IncompleteMetadata, ResourceVersion, Uid};

use super::observed::{Observed, ParsedDeployment, Set, Strategy};
use super::sets::Sets;
use super::status::Progress;
use super::{rollout, scale, sets, status};

/// A write of the plan. Each write names its object by resourceVersion or UID, or creates a new object. The server
/// therefore refuses a plan that was computed from an outdated snapshot.
#[derive(Clone, Debug, PartialEq)]
pub enum DeploymentAction {
    /// Read the Deployment from the API server; continue only if its UID is the same and it is not
    /// being deleted.
    ConfirmDeployment,
    /// Adopt a ReplicaSet without an owner.
    AdoptSet { name: String, uid: Uid },
    /// Release a ReplicaSet.
    ReleaseSet { name: String, uid: Uid },
    /// Create the ReplicaSet of the current template.
    CreateSet(Box<ReplicaSet>),
    /// Scale a ReplicaSet, or change its annotations.
    UpdateSet {
        name: String,
        /// The version that was read.
        version: ResourceVersion,
        old_replicas: i32,
        new_replicas: i32,
        /// Annotations to set.
        annotations: BTreeMap<String, String>,
        /// The new `minReadySeconds`, if it changes.
        min_ready_seconds: Option<i32>,
    },
    /// Delete an old ReplicaSet.
    DeleteSet {
        name: String,
        uid: Uid,
        /// The version that was read.
        version: ResourceVersion,
    },
}

/// An event for the Deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeploymentEvent {
    /// Reason of the event, for instance `ScalingReplicaSet`.
    pub reason: &'static str,
    /// Message of the event.
    pub message: String,
}

/// The writes that bring a Deployment closer to its specification.
#[derive(Clone, Debug, PartialEq)]
pub struct DeploymentPlan {
    /// Writes to ReplicaSets, in order.
    pub actions: Vec<DeploymentAction>,
    /// The new status, if it differs from the stored one.
    pub status: Option<DeploymentStatus>,
    /// The new revision annotation of the Deployment, if it differs from the stored one; written together with the
    /// status.
    pub revision: Option<String>,
    /// The time after which to plan again even without an event.
    pub requeue_after: Option<Duration>,
}

impl DeploymentPlan {
    /// Whether there is nothing to write.
    pub fn is_idle(&self) -> bool {
        self.actions.is_empty() && self.status.is_none() && self.revision.is_none()
    }
}

/// Plans the writes for a Deployment. Any specification gives a plan.
pub fn plan(observed: &Observed, now: Timestamp) -> Result<DeploymentPlan, IncompleteMetadata> {
    let parsed = ParsedDeployment::of(observed, now)?;
    let (mut sets, mut actions) = sets::sort(&parsed)?;
    let mut collisions = stored(&parsed).and_then(|status| status.collision_count);
    let mut progress = Progress::Judge;
    if parsed.owner.deleting || parsed.owner.selector.is_none() {
        progress = Progress::Leave;
    } else if parsed.paused || scale::is_due(&parsed, &sets) {
        sets.number(&parsed);
        scale::share_out(&parsed, &mut sets);
        progress = Progress::Leave;
    } else {
        let make = match parsed.strategy {
            Strategy::Rolling => true,
            Strategy::Recreate => rollout::empty_old(&parsed, &mut sets),
        };
        sets.number(&parsed);
        if sets.new.is_some() {
            match parsed.strategy {
                Strategy::Rolling => rollout::roll(&parsed, &mut sets),
                Strategy::Recreate if make => rollout::fill_new(&parsed, &mut sets),
                Strategy::Recreate => {}
            }
        } else if make {
            let set = sets::create(&parsed, &sets, &mut collisions);
            progress = Progress::Created(set.metadata.name.clone().unwrap_or_default());
            actions.push(DeploymentAction::CreateSet(Box::new(set)));
        }
    }
    actions.extend(updates(&sets));
    let (status, requeue_after) = status::next(&parsed, &sets, collisions, &progress);
    let done = parsed.paused || status::is_complete(&parsed, &status);
    if done && !parsed.owner.deleting && parsed.owner.selector.is_some() {
        actions.extend(sets.surplus(&parsed));
    }
    Ok(DeploymentPlan {
        actions,
        revision: sets.revision_to_note(&parsed),
        status: (stored(&parsed) != Some(&status)).then_some(status),
        requeue_after,
    })
}

pub(super) fn stored<'a>(parsed: &ParsedDeployment<'a>) -> Option<&'a DeploymentStatus> {
    parsed.deployment.status.as_ref()
}

fn updates(sets: &Sets<'_>) -> impl Iterator<Item = DeploymentAction> {
    let changed = sets.all().filter_map(|set| {
        let same = set.stored() == set.target && set.annotations.is_empty();
        (!same || set.min_ready.is_some()).then(|| update(set))
    });
    changed.collect::<Vec<_>>().into_iter()
}

fn update(set: &Set<'_>) -> DeploymentAction {
    DeploymentAction::UpdateSet {
        name: set.name.to_owned(),
        version: set.version,
        old_replicas: set.stored(),
        new_replicas: set.target,
        annotations: set.annotations.clone(),
        min_ready_seconds: set.min_ready,
    }
}

impl DeploymentAction {
    /// The event to report after this write.
    pub fn notice(&self) -> Option<DeploymentEvent> {
        let scaled = |name: &str, from: i32, to: i32| {
            let direction = if to > from { "up" } else { "down" };
            DeploymentEvent {
                reason: "ScalingReplicaSet",
                message: format!("Scaled {direction} replica set {name} from {from} to {to}"),
            }
        };
        match self {
            Self::CreateSet(set) => {
                let replicas = set.spec.as_ref().and_then(|spec| spec.replicas);
                let name = set.metadata.name.as_deref().unwrap_or_default();
                let to = replicas.unwrap_or_default();
                (to > 0).then(|| scaled(name, 0, to))
            }
            Self::UpdateSet {
                name,
                old_replicas,
                new_replicas,
                ..
            } => (old_replicas != new_replicas).then(|| scaled(name, *old_replicas, *new_replicas)),
            _ => None,
        }
    }
}
