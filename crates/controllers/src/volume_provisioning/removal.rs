//! Deletion of a volume whose claim is deleted.

use std::time::Duration;

use controller_framework::ReconcileResult;
use controller_planners::volume_provisioning::local::{
    is_of_other_provisioner, path_of, reclaim_action,
};
use controller_planners::volume_provisioning::{
    ReclaimAction, claim_of, finalizers_without, is_claimed_by,
};
use json_tree::json;
use k8s_openapi::api::core::v1::PersistentVolume;
use kube_api_client::Api;
use kube_api_client::guarded_writes::{
    Delete, chain, delete, existing_object, merge, merge_status,
};
use resource_kinds::MetadataIdentity;
use resource_kinds::storage::Driver;
use resource_kinds::storage::driver::REMOVAL_FINALIZER;
use resource_kinds::storage::nfs_class::is_nfs_directory;
use resource_kinds::storage::volume_replication::has_replica;

use super::Provisioner;
use super::error::ProvisionerError as Error;

/// Reason of the event, and of the phase Failed (statefulset.md §11.8).
const FAILED_DELETE: &str = "VolumeFailedDelete";

/// Delay before this node checks again whether it is the node that removes directories on NFS servers.
const OTHER_NODE: Duration = Duration::from_secs(30);

impl Provisioner {
    /// Removes the volume, if planned. The API server must confirm the cached state before any data
    /// is deleted.
    pub(crate) async fn remove(&self, name: &str) -> Result<ReconcileResult, Error> {
        let node = &self.config.node_name;
        let Some(cached) = self.volumes.get("", name) else {
            return Ok(ReconcileResult::Done);
        };
        if reclaim_action(&cached, node) == ReclaimAction::Keep {
            return Ok(ReconcileResult::Done);
        }
        if is_nfs_directory(&cached) {
            let class = cached.spec.as_ref();
            let class = class.and_then(|spec| spec.storage_class_name.as_deref());
            let class = class.and_then(|class| self.classes.get("", class));
            if is_of_other_provisioner(&cached, class.as_deref()) {
                return Ok(ReconcileResult::Done);
            }
            // One node removes the directory; another node may become this node later.
            if !self.is_first_node().await? {
                return Ok(ReconcileResult::RequeueAfter(OTHER_NODE));
            }
        }
        self.remove_here(name).await.map(|()| ReconcileResult::Done)
    }

    async fn remove_here(&self, name: &str) -> Result<(), Error> {
        let node = &self.config.node_name;
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        let Some(volume) = existing_object(api.get(name).await)? else {
            return Ok(());
        };
        match reclaim_action(&volume, node) {
            ReclaimAction::Keep => Ok(()),
            ReclaimAction::RemoveFinalizer => self.remove_finalizer(&api, &volume).await,
            // The copies on the other node go first.
            ReclaimAction::Remove if has_replica(&volume) => Ok(()),
            ReclaimAction::Remove if self.is_claimed(&volume).await? => Ok(()),
            ReclaimAction::Remove => match self.remove_directory(name, &volume).await {
                Ok(()) => {
                    self.remove_finalizer(&api, &volume).await?;
                    let uid = volume.metadata.object_uid()?;
                    delete(&api, name, Delete::of_uid(uid.clone())).await?;
                    tracing::info!(volume = name, "volume removed");
                    Ok(())
                }
                Err(error) => {
                    self.report_failure(&api, &volume, &error).await?;
                    Err(error)
                }
            },
        }
    }

    /// Whether the claim in the reference of the volume exists, with the UID of the reference.
    async fn is_claimed(&self, volume: &PersistentVolume) -> Result<bool, Error> {
        let Some((namespace, name)) = claim_of(volume) else {
            return Ok(false);
        };
        let api = Api::namespaced(self.client.clone(), namespace);
        let claim = existing_object(api.get(name).await)?;
        match claim {
            Some(claim) => Ok(is_claimed_by(volume, &claim)?),
            None => Ok(false),
        }
    }

    async fn remove_directory(&self, name: &str, volume: &PersistentVolume) -> Result<(), Error> {
        if is_nfs_directory(volume) {
            return self.leave_directory(volume).await;
        }
        let driver = Driver::of_volume(volume)
            .ok_or_else(|| Error::Unsupported("the volume is not ours".to_owned()))?;
        let path = path_of(volume);
        Ok(self.config.storage.remove(driver, name, path).await?)
    }

    async fn remove_finalizer(
        &self,
        api: &Api<PersistentVolume>,
        volume: &PersistentVolume,
    ) -> Result<(), Error> {
        if let Some(rest) = finalizers_without(volume, REMOVAL_FINALIZER) {
            merge(api, volume, json!({"metadata": {"finalizers": rest}})).await?;
        }
        Ok(())
    }

    async fn report_failure(
        &self,
        api: &Api<PersistentVolume>,
        volume: &PersistentVolume,
        error: &Error,
    ) -> Result<(), Error> {
        let text = chain(error);
        tracing::warn!(
            volume = volume.metadata.name,
            error = text,
            "volume not removed"
        );
        self.recorder.warning(volume, FAILED_DELETE, text.clone());
        let status = json!({"phase": "Failed", "reason": FAILED_DELETE, "message": text});
        merge_status(api, volume, json!({"status": status})).await?;
        Ok(())
    }
}
