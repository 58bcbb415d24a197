//! The growth of images, as decided in `controller_planners::volume_expansion`.
//!
//! The image grows before its volume object. Afterwards the node grows the file system; the claim of a block device is
//! complete at once.

use std::time::Duration;

use controller_framework::ReconcileResult;
use controller_planners::rbd_provisioner::{image_to_grow, is_block, is_image_of, mebibytes};
use controller_planners::volume_expansion::{ExpansionStep, failure, hand_to_node, plan};
use jiff::Timestamp;
use json_tree::{Value, json};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube_api_client::Api;
use kube_api_client::guarded_writes::{chain, existing_object, merge, merge_status};
use object_model::ObjectKey;
use resource_kinds::MetadataIdentity;
use resource_kinds::reasons::volume as reasons;
use resource_kinds::storage::rbd::PROVISIONER;

use super::{Error, RbdProvisioner};

/// Time until an object that was changed meanwhile is checked again.
const AGAIN: Duration = Duration::from_secs(1);

impl RbdProvisioner {
    /// Grows the image of a claim, if the claim requests more bytes.
    pub(super) async fn expand(&self, key: &ObjectKey) -> Result<ReconcileResult, Error> {
        let caches = &self.context.caches;
        let Some(claim) = caches.claims.get_key(key) else {
            return Ok(ReconcileResult::Done);
        };
        let name = claim.spec.as_ref();
        let name = name.and_then(|spec| spec.volume_name.as_deref());
        let volume = name.and_then(|name| caches.volumes.get("", name));
        let Some(volume) = volume.filter(|volume| self.is_image(volume)) else {
            return Ok(ReconcileResult::Done);
        };
        if plan(&claim, &volume, Timestamp::now()) == ExpansionStep::Nothing {
            return Ok(ReconcileResult::Done);
        }
        // The cache of volumes may have an older state than the cache of claims.
        let api: Api<PersistentVolume> = Api::all(self.context.client.clone());
        let Some(volume) = existing_object(api.get(name.unwrap_or_default()).await)? else {
            return Ok(ReconcileResult::Done);
        };
        match self
            .steps(PersistentVolumeClaim::clone(&claim), volume)
            .await?
        {
            Some(()) => Ok(ReconcileResult::Done),
            None => Ok(ReconcileResult::RequeueAfter(AGAIN)),
        }
    }

    fn is_image(&self, volume: &PersistentVolume) -> bool {
        let class = self.class_of(volume);
        class.is_some_and(|class| is_image_of(volume, &class))
    }

    /// The steps of an expansion; `None` if an object was changed meanwhile.
    async fn steps(
        &self,
        mut claim: PersistentVolumeClaim,
        mut volume: PersistentVolume,
    ) -> Result<Option<()>, Error> {
        let name = volume.metadata.object_name()?.to_owned();
        loop {
            match plan(&claim, &volume, Timestamp::now()) {
                ExpansionStep::Nothing => return Ok(Some(())),
                ExpansionStep::Announce(status) => {
                    let Some(announced) = self.write_status(&claim, status).await? else {
                        return Ok(None);
                    };
                    claim = announced;
                    let text = format!("External resizer is resizing volume {name}");
                    self.recorder.normal(&claim, reasons::RESIZING, text);
                }
                ExpansionStep::Grow { .. } => {
                    let size = mebibytes(&claim);
                    if let Err(error) = self.grow(&volume, size).await {
                        return self.failed(&claim, &name, error).await;
                    }
                    let capacity = json!({"storage": format!("{size}Mi")});
                    let patch = json!({"spec": {"capacity": capacity}});
                    let api = Api::all(self.context.client.clone());
                    let Some(grown) = merge(&api, &volume, patch).await? else {
                        return Ok(None);
                    };
                    volume = grown;
                    tracing::info!(volume = name, size, "image grown");
                }
                ExpansionStep::Finish(status) if is_block(&volume) => {
                    if self.write_status(&claim, status).await?.is_none() {
                        return Ok(None);
                    }
                    let text = "Resize volume succeeded";
                    self.recorder
                        .normal(&claim, reasons::RESIZE_SUCCESSFUL, text);
                    return Ok(Some(()));
                }
                ExpansionStep::Finish(_) => {
                    let Some(status) = hand_to_node(&claim, Timestamp::now()) else {
                        return Ok(Some(()));
                    };
                    return Ok(self.write_status(&claim, status).await?.map(|_| ()));
                }
            }
        }
    }

    async fn grow(&self, volume: &PersistentVolume, mebibytes: u64) -> Result<(), Error> {
        let class = self.class_of(volume);
        let existing = image_to_grow(volume, class.as_deref())?;
        let login = self.login(&existing.class).await?;
        let grown = self.program.grow(&login, &existing.image, mebibytes);
        Ok(grown.await?)
    }

    async fn failed(
        &self,
        claim: &PersistentVolumeClaim,
        volume: &str,
        error: Error,
    ) -> Result<Option<()>, Error> {
        let why = chain(&error);
        let text = format!("resize volume {volume:?} by resizer {PROVISIONER:?} failed: {why}");
        self.recorder
            .warning(claim, reasons::RESIZE_FAILED, text.clone());
        if let Some(status) = failure(claim, &text, Timestamp::now()) {
            self.write_status(claim, status).await?;
        }
        Err(error)
    }

    /// Writes the status of the claim, if the claim was not changed since it was read.
    async fn write_status(
        &self,
        claim: &PersistentVolumeClaim,
        mut patch: Value,
    ) -> Result<Option<PersistentVolumeClaim>, Error> {
        patch["metadata"]["resourceVersion"] = json!(claim.metadata.object_version()?);
        let namespace = claim.metadata.object_namespace()?;
        let api = Api::namespaced(self.context.client.clone(), namespace);
        Ok(merge_status(&api, claim, patch).await?)
    }
}
