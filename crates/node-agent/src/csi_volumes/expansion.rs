//! The expansion of a driver's volumes on this node (`pod_lifecycle::node::volume_expansion`).

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::Pod;
use pod_lifecycle::node::volume_expansion::{RecordedVolume, plan, status_capacity};
use resource_kinds::MetadataIdentity;

use super::drivers::RegisteredDriver;
use super::error::CsiVolumeError;
use super::request::{CsiVolume, VolumeId};
use super::volumes::{CsiVolumes, secrets};
use crate::api::claim_growth::ClaimGrowth;
use crate::api::events::PodEvents;
use crate::api::objects::{ApiObjects, BoundClaim};

/// The recorded capacities of volumes in use. The capacities are not stored on disk: after a restart, an
/// expansion that the claim does not report yet is repeated.
#[derive(Debug, Default)]
pub struct RecordedCapacities(Mutex<BTreeMap<VolumeId, RecordedVolume>>);

impl RecordedCapacities {
    fn all(&self) -> MutexGuard<'_, BTreeMap<VolumeId, RecordedVolume>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, id: &VolumeId) -> RecordedVolume {
        self.all().get(id).copied().unwrap_or_default()
    }

    fn set(&self, id: &VolumeId, recorded: RecordedVolume) {
        self.all().insert(id.clone(), recorded);
    }

    /// Records that a new pod uses the volume: the driver may expand the volume now.
    pub fn is_newly_used(&self, id: &VolumeId) {
        if let Some(recorded) = self.all().get_mut(id) {
            recorded.is_refused = false;
        }
    }

    /// Removes a volume that is not used any more.
    pub fn forget(&self, id: &VolumeId) {
        self.all().remove(id);
    }
}

impl CsiVolumes {
    /// Expands a published volume if its claim requests more. May be repeated.
    ///
    /// # Errors
    /// The volume may be unchanged; the caller tries again later.
    pub async fn expand(
        &self,
        objects: &ApiObjects,
        pod: &Pod,
        bound: &BoundClaim,
        volume: &CsiVolume,
        events: &PodEvents,
    ) -> Result<(), CsiVolumeError> {
        let RegisteredDriver {
            driver,
            capabilities,
            ..
        } = self.drivers().get(&volume.id.driver)?;
        if !capabilities.expand || volume.read_only {
            return Ok(());
        }
        let mut recorded = self.sizes().get(&volume.id);
        if recorded.capacity.is_none() {
            recorded.capacity = status_capacity(&bound.claim);
            self.sizes().set(&volume.id, recorded);
        }
        let Some(growth) = plan(&bound.claim, &bound.volume, recorded) else {
            return Ok(());
        };
        let secrets = secrets(objects, volume.expand_secret.as_ref()).await?;
        let uid = pod.metadata.object_uid()?;
        let lock = self.lock(&volume.id);
        let _guard = lock.lock().await;
        if !self.is_published(&volume.id, &uid).await? {
            return Ok(());
        }
        let capacity = growth.capacity;
        let growing = ClaimGrowth {
            objects,
            events,
            node: self.node(),
            volume: &volume.name,
            growth,
        };
        let claim = growing.begin(&bound.claim).await?;
        let request = volume.expansion(capabilities, &uid, capacity.value(), secrets);
        if let Err(error) = driver.expand(&request).await {
            let event = growing.warn(&error.to_string());
            if error.finality() == csi_client::Finality::Uncertain {
                return Err(CsiVolumeError::Expand(event));
            }
            let is_refused = error.is_of_state();
            let failed_state = RecordedVolume {
                has_failed: true,
                is_refused,
                ..recorded
            };
            self.sizes().set(&volume.id, failed_state);
            let (message, is_infeasible) = (error.to_string(), error.is_infeasible());
            growing
                .failed(&claim, recorded, &message, is_infeasible)
                .await?;
            return match is_refused {
                true => Ok(()),
                false => Err(CsiVolumeError::Expand(event)),
            };
        }
        let expanded = RecordedVolume {
            capacity: Some(capacity),
            ..RecordedVolume::default()
        };
        self.sizes().set(&volume.id, expanded);
        Ok(growing.succeeded(&claim).await?)
    }
}
