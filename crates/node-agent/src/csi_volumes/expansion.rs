//! The expansion of a driver's volumes on this node (`pod_lifecycle::node::volume_expansion`).

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::Pod;
use pod_lifecycle::node::volume_expansion::{KnownVolume, plan, shown};

use super::drivers::Registered;
use super::request::{CsiVolume, Identity};
use super::volumes::{CsiVolumes, secrets};
use crate::api::claim_growth::ClaimGrowth;
use crate::api::events::PodEvents;
use crate::api::objects::{ApiObjects, BoundClaim};

/// The recorded capacities of volumes in use. The capacities are not stored on disk: after a restart, an
/// expansion that the claim does not report yet is repeated.
#[derive(Debug, Default)]
pub struct KnownCapacities(Mutex<BTreeMap<Identity, KnownVolume>>);

impl KnownCapacities {
    fn all(&self) -> MutexGuard<'_, BTreeMap<Identity, KnownVolume>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn of(&self, id: &Identity) -> KnownVolume {
        self.all().get(id).copied().unwrap_or_default()
    }

    fn set(&self, id: &Identity, known: KnownVolume) {
        self.all().insert(id.clone(), known);
    }

    /// Records that a new pod uses the volume: the driver may expand the volume now.
    pub fn is_newly_used(&self, id: &Identity) {
        if let Some(known) = self.all().get_mut(id) {
            known.is_refused = false;
        }
    }

    /// Removes a volume that is not used any more.
    pub fn forget(&self, id: &Identity) {
        self.all().remove(id);
    }
}

impl CsiVolumes {
    /// Expands a published volume if its claim requests more. May be repeated.
    ///
    /// # Errors
    /// A message for users; the caller tries again later.
    pub async fn expand(
        &self,
        objects: &ApiObjects,
        pod: &Pod,
        bound: &BoundClaim,
        wanted: &CsiVolume,
        events: &PodEvents,
    ) -> Result<(), String> {
        let Registered { driver, can, .. } = self.drivers().get(&wanted.id.driver)?;
        if !can.expand || wanted.read_only {
            return Ok(());
        }
        let mut known = self.sizes().of(&wanted.id);
        if known.capacity.is_none() {
            known.capacity = shown(&bound.claim);
            self.sizes().set(&wanted.id, known);
        }
        let Some(growth) = plan(&bound.claim, &bound.volume, known) else {
            return Ok(());
        };
        let secrets = secrets(objects, wanted.expand_secret.as_ref()).await?;
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let lock = self.lock(&wanted.id);
        let _turn = lock.lock().await;
        if !self.is_published(&wanted.id, uid).await? {
            return Ok(());
        }
        let capacity = growth.capacity;
        let growing = ClaimGrowth {
            objects,
            events,
            node: self.node(),
            volume: &wanted.name,
            growth,
        };
        let claim = growing.begin(&bound.claim).await?;
        let request = wanted.expansion(can, uid, capacity.value(), secrets);
        if let Err(error) = driver.expand(&request).await {
            let text = growing.warn(&error.to_string());
            if error.finality() == csi_client::Finality::Uncertain {
                return Err(text);
            }
            let is_refused = error.is_of_state();
            let noted = KnownVolume {
                has_failed: true,
                is_refused,
                ..known
            };
            self.sizes().set(&wanted.id, noted);
            let (words, is_infeasible) = (error.to_string(), error.is_infeasible());
            let failed = growing.failed(&claim, known, &words, is_infeasible);
            failed.await?;
            return match is_refused {
                true => Ok(()),
                false => Err(text),
            };
        }
        let grown = KnownVolume {
            capacity: Some(capacity),
            ..KnownVolume::default()
        };
        self.sizes().set(&wanted.id, grown);
        growing.succeeded(&claim).await
    }
}
