//! Reports about the expansion of a volume: the claim's status, and events.

use controller_framework::reference;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use pod_lifecycle::node::volume_expansion::{RecordedVolume, VolumeExpansion, conclusion, failure};
use resource_kinds::reasons::volume::{FILE_SYSTEM_RESIZED, RESIZE_FAILED};

use crate::api::events::PodEvents;
use crate::api::object_error::ApiObjectError;
use crate::api::objects::ApiObjects;

/// The expansion of a claim's volume.
pub struct ClaimGrowth<'a> {
    pub objects: &'a ApiObjects,
    /// Sends events about the pod that uses the volume.
    pub events: &'a PodEvents,
    pub node: &'a str,
    pub volume: &'a str,
    /// The old and the new size of the volume.
    pub growth: VolumeExpansion,
}

impl ClaimGrowth<'_> {
    /// Reports that the expansion on the node is in progress.
    ///
    /// # Errors
    /// The claim may have been changed.
    pub async fn begin(
        &self,
        claim: &PersistentVolumeClaim,
    ) -> Result<PersistentVolumeClaim, ApiObjectError> {
        match &self.growth.announcement {
            Some(patch) => self.objects.write_claim_status(claim, patch).await,
            None => Ok(claim.clone()),
        }
    }

    /// Reports that the volume has its new capacity.
    ///
    /// # Errors
    /// The claim may have been changed.
    pub async fn succeeded(&self, claim: &PersistentVolumeClaim) -> Result<(), ApiObjectError> {
        let (volume, node) = (self.volume, self.node);
        let text = format!("MountVolume.NodeExpandVolume succeeded for volume \"{volume}\" {node}");
        self.events.normal(FILE_SYSTEM_RESIZED, text.clone());
        let of_claim = self.events.about(reference(claim));
        of_claim.normal(FILE_SYSTEM_RESIZED, text);
        if let Some(patch) = conclusion(claim, &self.growth) {
            self.objects.write_claim_status(claim, &patch).await?;
        }
        Ok(())
    }

    /// Reports an error as an event of the pod. Returns the text of the event.
    pub fn warn(&self, error: &str) -> String {
        let volume = self.volume;
        let text =
            format!("NodeExpandVolume.NodeExpandVolume failed for volume \"{volume}\" : {error}");
        self.events.warning(RESIZE_FAILED, text.clone());
        text
    }

    /// Reports a final failure in the claim's status.
    ///
    /// # Errors
    /// The claim may have been changed.
    pub async fn failed(
        &self,
        claim: &PersistentVolumeClaim,
        recorded: RecordedVolume,
        error: &str,
        is_infeasible: bool,
    ) -> Result<(), ApiObjectError> {
        if self.growth.conclusion.is_some() {
            let now = Timestamp::now();
            let patch = failure(claim, &self.growth, recorded, error, is_infeasible, now);
            self.objects.write_claim_status(claim, &patch).await?;
        }
        Ok(())
    }
}
