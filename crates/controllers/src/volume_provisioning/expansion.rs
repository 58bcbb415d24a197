//! Expansion of volumes, as decided in `controller_planners::volume_expansion`.

use controller_framework::ReconcileResult;
use controller_planners::volume_expansion::{ExpansionStep, failure, plan};
use controller_planners::volume_provisioning::local::{VolumeMode, is_ours, volume_mode};
use jiff::Timestamp;
use json_tree::{Value, json};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube_api_client::Api;
use kube_api_client::guarded_writes::{chain, merge, merge_status};
use resource_kinds::MetadataIdentity;
use resource_kinds::reasons::volume as reasons;
use resource_kinds::storage::Driver;

use super::Provisioner;
use super::error::ProvisionerError as Error;
use super::setbacks::Cause;

impl Provisioner {
    /// Executes the next step. The resulting change queues the claim again for the following step.
    pub(crate) async fn expand(
        &self,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
    ) -> Result<ReconcileResult, Error> {
        let Some(driver) = Driver::of_volume(volume) else {
            return Ok(ReconcileResult::Done);
        };
        if !is_ours(volume, &self.config.node_name) {
            return Ok(ReconcileResult::Done);
        }
        let name = volume.metadata.object_name()?;
        match plan(claim, volume, Timestamp::now()) {
            ExpansionStep::Nothing => {}
            ExpansionStep::Announce(status) => {
                self.write_claim_status(claim, status).await?;
                let text = format!("External resizer is resizing volume {name}");
                self.recorder.normal(claim, reasons::RESIZING, text);
            }
            ExpansionStep::Grow {
                bytes,
                volume: patch,
            } => return self.grow(claim, volume, driver, bytes, patch).await,
            ExpansionStep::Finish(status) => {
                self.write_claim_status(claim, status).await?;
                let text = "Resize volume succeeded";
                self.recorder
                    .normal(claim, reasons::RESIZE_SUCCESSFUL, text);
            }
        }
        Ok(ReconcileResult::Done)
    }

    async fn grow(
        &self,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
        driver: Driver,
        bytes: u64,
        patch: Value,
    ) -> Result<ReconcileResult, Error> {
        let uid = claim.metadata.object_uid()?;
        if let Some(delay) = self.waits(&uid) {
            return Ok(ReconcileResult::RequeueAfter(delay));
        }
        let name = volume.metadata.object_name()?;
        let storage = &self.config.storage;
        let grown = match volume_mode(volume) {
            VolumeMode::Filesystem => storage.limit(driver, name, bytes).await,
            VolumeMode::Block => storage.grow_image(driver, name, bytes).await,
        };
        if let Err(error) = grown {
            let delay = self.note_setback(&uid, Cause::Other);
            let error = chain(&error);
            let text = format!(
                "resize volume {name:?} by resizer {:?} failed: {error}",
                driver.name()
            );
            tracing::warn!(volume = name, error, "volume not grown");
            self.recorder
                .warning(claim, reasons::RESIZE_FAILED, text.clone());
            if let Some(status) = failure(claim, &text, Timestamp::now()) {
                self.write_claim_status(claim, status).await?;
            }
            return Ok(ReconcileResult::RequeueAfter(delay));
        }
        self.forget_setbacks(&uid);
        let api = Api::all(self.client.clone());
        merge(&api, volume, patch).await?;
        tracing::info!(volume = name, bytes, "volume grown");
        Ok(ReconcileResult::Done)
    }

    async fn write_claim_status(
        &self,
        claim: &PersistentVolumeClaim,
        mut patch: Value,
    ) -> Result<(), Error> {
        patch["metadata"]["resourceVersion"] = json!(claim.metadata.object_version()?);
        let namespace = claim.metadata.object_namespace()?;
        let api = Api::namespaced(self.client.clone(), namespace);
        merge_status(&api, claim, patch).await?;
        Ok(())
    }
}
