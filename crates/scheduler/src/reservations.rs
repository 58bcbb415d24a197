//! Reservations: decisions that the caches do not show yet. They are added to the view, so that the
//! next decision counts them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use placement::{ClaimStep, ClusterView};
use reconcile::Key;
use resource_kinds::annotations::SELECTED_NODE;
use resource_kinds::pod_view::PodView;
use resource_kinds::volume_fit::claim_reference;

use crate::devices;

/// The progress of a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Its steps are being written.
    Preparing,
    /// Its volumes are being bound since then.
    Waiting(Instant),
    /// The pod is being bound.
    Binding,
}

/// A step, and where in history it was written.
#[derive(Clone, Debug)]
pub(crate) struct TakenStep {
    pub step: ClaimStep,
    /// Revision of the object after the write; `None` while it is under way.
    pub revision: Option<u64>,
}

impl TakenStep {
    pub fn under_way(step: ClaimStep) -> Self {
        Self {
            step,
            revision: None,
        }
    }

    /// Whether an object of that revision is older than the write. A newer object is right, even if
    /// another writer has undone the step.
    fn is_news_to(&self, seen: Option<&String>) -> bool {
        let seen = seen.and_then(|seen| seen.parse::<u64>().ok());
        match (self.revision, seen) {
            (Some(written), Some(seen)) => seen < written,
            (None, _) => true,
            (Some(_), None) => false,
        }
    }
}

/// A pod's reservation of a node.
#[derive(Clone, Debug)]
pub(crate) struct Reservation {
    pub pod: Arc<PodView>,
    pub node: String,
    pub steps: Vec<TakenStep>,
    pub stage: Stage,
}

/// All of them, by pod.
#[derive(Debug, Default)]
pub(crate) struct Reservations {
    by_pod: BTreeMap<Key, Reservation>,
}

impl Reservations {
    pub fn get(&self, key: &Key) -> Option<&Reservation> {
        self.by_pod.get(key)
    }

    pub fn get_mut(&mut self, key: &Key) -> Option<&mut Reservation> {
        self.by_pod.get_mut(key)
    }

    pub fn keep(&mut self, key: Key, reservation: Reservation) {
        self.by_pod.insert(key, reservation);
    }

    pub fn drop(&mut self, key: &Key) {
        self.by_pod.remove(key);
    }

    /// Adds the changes that the caches do not show yet to the view; for `asking` only its steps,
    /// not the pod itself.
    pub fn overlay(&self, asking: &Key, view: &mut ClusterView) {
        for (key, reservation) in &self.by_pod {
            let uid = &reservation.pod.uid;
            if key != asking && !view.pods.iter().any(|pod| pod.uid == *uid) {
                let mut pod = (*reservation.pod).clone();
                pod.node = Some(reservation.node.as_str().into());
                view.pods.push(Arc::new(pod));
            }
            for taken in &reservation.steps {
                overlay_step(key, reservation, taken, view);
            }
        }
    }
}

fn overlay_step(pod: &Key, kept: &Reservation, taken: &TakenStep, view: &mut ClusterView) {
    let node = &kept.node;
    let claim_key = |claim: &String| (pod.namespace.to_string(), claim.clone());
    match &taken.step {
        ClaimStep::SelectNode { claim } => {
            if let Some(claim) = view.claims.get_mut(&claim_key(claim))
                && taken.is_news_to(claim.metadata.resource_version.as_ref())
            {
                let annotations = &mut Arc::make_mut(claim).metadata.annotations;
                let annotations = annotations.get_or_insert_default();
                annotations.insert(SELECTED_NODE.to_owned(), node.clone());
            }
        }
        ClaimStep::Allocate { claim, allocation } => {
            if let Some(claim) = view.device_claims.get_mut(&claim_key(claim))
                && taken.is_news_to(claim.metadata.resource_version.as_ref())
            {
                devices::overlay(claim, &kept.pod, Some(allocation));
            }
        }
        ClaimStep::UseDevices { claim } => {
            if let Some(claim) = view.device_claims.get_mut(&claim_key(claim))
                && taken.is_news_to(claim.metadata.resource_version.as_ref())
            {
                devices::overlay(claim, &kept.pod, None);
            }
        }
        ClaimStep::Reserve { claim, volume } => {
            let Some(claim) = view.claims.get(&claim_key(claim)).cloned() else {
                return;
            };
            if let Some(volume) = view.volumes.get_mut(volume)
                && taken.is_news_to(volume.metadata.resource_version.as_ref())
            {
                let spec = Arc::make_mut(volume).spec.get_or_insert_default();
                spec.claim_ref = Some(claim_reference(&claim));
            }
        }
    }
}
