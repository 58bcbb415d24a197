//! The condition of a claim that reports whether its volume can hold more data than its size.

use controller_planners::volume_provisioning::local::{VolumeMode, is_ours, volume_mode};
use jiff::Timestamp;
use json_tree::json;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube_api_client::guarded_writes::{chain, unless_outrun};
use kube_api_client::{Api, Patch, PatchParams};
use resource_kinds::MetadataIdentity;
use resource_kinds::storage::Driver;
use resource_kinds::storage::volume_size::{CONDITION, SizeLimit, start_of_message};

use super::Provisioner;
use super::error::ProvisionerError as Error;

impl Provisioner {
    /// Writes the condition of a claim whose volume is on this node, unless the condition already names this node;
    /// returns whether the condition was written.
    pub(crate) async fn show_size(
        &self,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
    ) -> Result<bool, Error> {
        let node = &self.config.node_name;
        let Some(driver) = Driver::of_volume(volume).filter(|_| is_ours(volume, node)) else {
            return Ok(false);
        };
        if has_condition(claim, node) {
            return Ok(false);
        }
        let name = volume.metadata.object_name()?;
        let limit = match volume_mode(volume) {
            VolumeMode::Block => SizeLimit::Device,
            VolumeMode::Filesystem => match self.config.storage.count(driver, name).await {
                Ok(Some(count)) if count.limit.is_some() => SizeLimit::Quota,
                Ok(_) => SizeLimit::NoQuota,
                Err(error) => {
                    tracing::debug!(volume = name, error = chain(&error), "limit not known");
                    return Ok(false);
                }
            },
        };
        self.show_limit(claim, limit).await?;
        Ok(true)
    }

    /// Writes the condition that reports whether the size of the volume is enforced.
    pub(crate) async fn show_limit(
        &self,
        claim: &PersistentVolumeClaim,
        limit: SizeLimit,
    ) -> Result<(), Error> {
        let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
        let patch = json!({
            "metadata": {"uid": claim.metadata.object_uid()?},
            "status": {"conditions": [{
                "type": CONDITION,
                "status": limit.status(),
                "reason": limit.reason(),
                "message": limit.message(&self.config.node_name),
                "lastTransitionTime": now.to_string(),
            }]},
        });
        let namespace = claim.metadata.object_namespace()?;
        let name = claim.metadata.object_name()?;
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
        let (params, patch) = (PatchParams::default(), Patch::Strategic(patch));
        let written = claims.patch_status(name, &params, &patch).await;
        unless_outrun(written)?;
        Ok(())
    }
}

/// Whether the condition is about a volume on this node.
fn has_condition(claim: &PersistentVolumeClaim, node: &str) -> bool {
    let status = claim.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    let condition = conditions.find(|condition| condition.type_ == CONDITION);
    let message = condition.and_then(|condition| condition.message.as_deref());
    message.is_some_and(|message| message.starts_with(&start_of_message(node)))
}
