//! Reservations: decisions that the caches do not show yet. They are added to the view, so that the next decision
//! includes them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::resource::v1::ResourceClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use object_model::ObjectKey;
use pod_placement::{ClaimStep, ClusterView};
use resource_kinds::annotations::SELECTED_NODE;
use resource_kinds::pod_view::PodView;
use resource_kinds::volume_fit::claim_reference;

use crate::devices;

/// The progress of a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReservationStage {
    /// The writes of the steps are in progress.
    Preparing,
    /// The volumes of the pod are being bound, since this time.
    Waiting(Instant),
    /// The pod is being bound.
    Binding,
}

/// A step, and the revision of its write.
#[derive(Clone, Debug)]
pub(crate) struct ReservedClaim {
    pub step: ClaimStep,
    /// Revision of the object after the write; `None` while the write is in progress.
    pub revision: Option<u64>,
}

impl ReservedClaim {
    pub fn under_way(step: ClaimStep) -> Self {
        Self {
            step,
            revision: None,
        }
    }

    /// Whether the observed object is older than the write. A newer object is valid, even if another writer has undone
    /// the step.
    fn is_news_to(&self, observed: Option<&String>) -> bool {
        let observed = observed.and_then(|observed| observed.parse::<u64>().ok());
        match (self.revision, observed) {
            (Some(written), Some(observed)) => observed < written,
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
    pub steps: Vec<ReservedClaim>,
    pub stage: ReservationStage,
}

impl Reservation {
    /// The claim of these steps for which this node was already chosen and rejected, because the provisioner could not
    /// create the volume there.
    pub fn withdrawn<'a>(&self, steps: &'a [ClaimStep]) -> Option<&'a str> {
        let is_waiting = matches!(self.stage, ReservationStage::Waiting(_));
        let was_taken = |step: &ClaimStep| self.steps.iter().any(|reserved| reserved.step == *step);
        steps.iter().find_map(|step| match step {
            ClaimStep::SelectNode { claim } if is_waiting && was_taken(step) => Some(&**claim),
            _ => None,
        })
    }
}

/// The decided placements that the caches do not show yet, by pod.
#[derive(Debug, Default)]
pub(crate) struct Reservations {
    by_pod: BTreeMap<ObjectKey, Reservation>,
}

impl Reservations {
    pub fn get(&self, key: &ObjectKey) -> Option<&Reservation> {
        self.by_pod.get(key)
    }

    pub fn get_mut(&mut self, key: &ObjectKey) -> Option<&mut Reservation> {
        self.by_pod.get_mut(key)
    }

    pub fn keep(&mut self, key: ObjectKey, reservation: Reservation) {
        self.by_pod.insert(key, reservation);
    }

    pub fn drop(&mut self, key: &ObjectKey) {
        self.by_pod.remove(key);
    }

    /// The reservations of all pods but one.
    pub fn of_others(&self, than: &ObjectKey) -> impl Iterator<Item = &Reservation> {
        let others = self.by_pod.iter().filter(move |(key, _)| *key != than);
        others.map(|(_, reservation)| reservation)
    }

    /// Adds the expected changes, which the caches do not show yet, to the view.
    pub fn overlay(&self, view: &mut ClusterView) -> Overlay {
        let mut overlay = Overlay::default();
        for (key, reservation) in &self.by_pod {
            for reserved in &reservation.steps {
                overlay.step(key, reservation, reserved, view);
            }
        }
        overlay
    }
}

/// The original states of the objects that reservations have changed in a view.
#[derive(Debug, Default)]
#[must_use = "the view keeps the changes until they are undone"]
pub(crate) struct Overlay {
    claims: BTreeMap<(String, String), Arc<PersistentVolumeClaim>>,
    volumes: BTreeMap<String, Arc<PersistentVolume>>,
    device_claims: BTreeMap<(String, String), Arc<ResourceClaim>>,
}

impl Overlay {
    /// Restores the original objects of the view.
    pub fn undo(self, view: &mut ClusterView) {
        view.claims.extend(self.claims);
        view.volumes.extend(self.volumes);
        view.device_claims.extend(self.device_claims);
    }

    fn step(
        &mut self,
        pod: &ObjectKey,
        reservation: &Reservation,
        reserved: &ReservedClaim,
        view: &mut ClusterView,
    ) {
        let node = &reservation.node;
        let claim_key = |claim: &String| (pod.namespace.to_string(), claim.clone());
        let is_news = |meta: &ObjectMeta| reserved.is_news_to(meta.resource_version.as_ref());
        match &reserved.step {
            ClaimStep::SelectNode { claim } => {
                let key = claim_key(claim);
                let claim = view.claims.get_mut(&key);
                if let Some(claim) = claim.filter(|claim| is_news(&claim.metadata)) {
                    self.claims.entry(key).or_insert_with(|| claim.clone());
                    let annotations = &mut Arc::make_mut(claim).metadata.annotations;
                    let annotations = annotations.get_or_insert_default();
                    annotations.insert(SELECTED_NODE.to_owned(), node.clone());
                }
            }
            ClaimStep::Allocate { claim, .. } | ClaimStep::UseDevices { claim } => {
                let key = claim_key(claim);
                let claim = view.device_claims.get_mut(&key);
                if let Some(claim) = claim.filter(|claim| is_news(&claim.metadata)) {
                    let former = self.device_claims.entry(key);
                    former.or_insert_with(|| claim.clone());
                    let allocation = match &reserved.step {
                        ClaimStep::Allocate { allocation, .. } => Some(&**allocation),
                        _ => None,
                    };
                    devices::overlay(claim, &reservation.pod, allocation);
                }
            }
            ClaimStep::Reserve { claim, volume } => {
                let Some(claim) = view.claims.get(&claim_key(claim)) else {
                    return;
                };
                let name = volume;
                let volume = view.volumes.get_mut(name);
                if let Some(volume) = volume.filter(|volume| is_news(&volume.metadata)) {
                    let former = self.volumes.entry(name.clone());
                    former.or_insert_with(|| volume.clone());
                    let spec = Arc::make_mut(volume).spec.get_or_insert_default();
                    spec.claim_ref = Some(claim_reference(claim));
                }
            }
        }
    }
}
