//! Snapshots of volumes, and volumes from snapshots, as decided in `controller_planners::volume_snapshot`.

use std::sync::Arc;

use controller_framework::ReconcileResult;
use controller_planners::volume_provisioning::local::{other_mode, size_of};
use controller_planners::volume_snapshot::{ContentStep, Handle, plan_on_node};
use jiff::Timestamp;
use json_tree::{Value, json};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube_api_client::Api;
use kube_api_client::guarded_writes::{chain, existing_object, merge, merge_status};
use resource_kinds::MetadataIdentity;
use resource_kinds::snapshot::{CONTENT_PROTECTION, VolumeSnapshot, VolumeSnapshotContent};
use resource_kinds::storage::Driver;
use resource_kinds::volume_fit::only_node;
use volume_storage::InitialContents;

use super::Provisioner;
use super::claims::Source;
use super::error::ProvisionerError as Error;
use super::setbacks::Cause;

impl Provisioner {
    /// Executes the next step for a content, if this node is responsible.
    pub(crate) async fn serve_content(&self, name: &str) -> Result<ReconcileResult, Error> {
        let Some(content) = self.contents.get("", name) else {
            return Ok(ReconcileResult::Done);
        };
        let step = self.content_step(&content);
        if step == ContentStep::Nothing {
            return Ok(ReconcileResult::Done);
        }
        let uid = content.metadata.object_uid()?;
        if let Some(delay) = self.waits(&uid) {
            return Ok(ReconcileResult::RequeueAfter(delay));
        }
        match self.perform_step(&content, step).await {
            Ok(()) => {
                self.forget_setbacks(&uid);
                Ok(ReconcileResult::Done)
            }
            Err(error @ (Error::Api(_) | Error::Identity(_))) => Err(error),
            Err(error) => {
                let delay = self.note_setback(&uid, Cause::Other);
                self.content_failed(&content, &error).await?;
                Ok(ReconcileResult::RequeueAfter(delay))
            }
        }
    }

    fn content_step(&self, content: &Arc<VolumeSnapshotContent>) -> ContentStep {
        let source = content.spec.source.volume_handle.as_ref();
        let volume = source.and_then(|name| self.volumes.get("", name));
        let on = volume.as_ref().and_then(|volume| only_node(volume));
        let source = volume.as_deref().zip(on);
        plan_on_node(content, source, &self.config.node_name)
    }

    async fn perform_step(
        &self,
        content: &VolumeSnapshotContent,
        step: ContentStep,
    ) -> Result<(), Error> {
        let storage = &self.config.storage;
        match step {
            ContentStep::Nothing => Ok(()),
            ContentStep::Protect => {
                let finalizers = content.metadata.finalizers.iter().flatten();
                let protection = CONTENT_PROTECTION.to_owned();
                let all: Vec<String> = finalizers.cloned().chain([protection]).collect();
                let api = Api::all(self.client.clone());
                merge(&api, content, json!({"metadata": {"finalizers": all}})).await?;
                Ok(())
            }
            ContentStep::Create {
                driver,
                volume,
                handle,
                bytes,
            } => {
                storage.snapshot(driver, &volume, &handle.name).await?;
                tracing::info!(volume, snapshot = handle.name, "snapshot made");
                let now = i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX);
                let status = json!({
                    "snapshotHandle": handle.to_string(), "creationTime": now,
                    "restoreSize": bytes, "readyToUse": true, "error": null,
                });
                self.write_content_status(content, status).await
            }
            ContentStep::Find { driver, handle } => {
                if !storage.has_snapshot(driver, &handle.name).await? {
                    let text = format!("there is no snapshot {handle}");
                    return Err(Error::Source(text));
                }
                let status = json!({
                    "snapshotHandle": handle.to_string(), "readyToUse": true, "error": null,
                });
                self.write_content_status(content, status).await
            }
            ContentStep::Remove { driver, handle } => {
                storage.remove_snapshot(driver, &handle.name).await?;
                tracing::info!(snapshot = handle.name, "snapshot removed");
                self.let_content_go(content).await
            }
            ContentStep::LetGo => self.let_content_go(content).await,
        }
    }

    async fn write_content_status(
        &self,
        content: &VolumeSnapshotContent,
        status: Value,
    ) -> Result<(), Error> {
        let api = Api::all(self.client.clone());
        merge_status(&api, content, json!({"status": status})).await?;
        Ok(())
    }

    async fn let_content_go(&self, content: &VolumeSnapshotContent) -> Result<(), Error> {
        let finalizers = content.metadata.finalizers.iter().flatten();
        let rest: Vec<&String> = finalizers
            .filter(|present| *present != CONTENT_PROTECTION)
            .collect();
        let api = Api::all(self.client.clone());
        merge(&api, content, json!({"metadata": {"finalizers": rest}})).await?;
        Ok(())
    }

    async fn content_failed(
        &self,
        content: &VolumeSnapshotContent,
        error: &Error,
    ) -> Result<(), Error> {
        let text = chain(error);
        tracing::warn!(content = content.metadata.name, error = text, "snapshot");
        let going = content.metadata.deletion_timestamp.is_some();
        let reason = if going {
            "SnapshotDeleteError"
        } else {
            "SnapshotCreationFailed"
        };
        self.recorder.warning(content, reason, text.clone());
        let stored = content.status.as_ref().and_then(|s| s.error.as_ref());
        if stored.is_some_and(|stored| stored.message.as_ref() == Some(&text)) {
            return Ok(());
        }
        let now = Timestamp::now();
        let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
        let status = json!({"readyToUse": false,
            "error": {"message": text, "time": now.to_string()}});
        self.write_content_status(content, status).await
    }

    /// The snapshot to restore for a claim.
    pub(crate) async fn restored_snapshot(
        &self,
        claim: &PersistentVolumeClaim,
        name: &str,
        driver: Driver,
    ) -> Result<Source, Error> {
        let cannot =
            |why: String| Error::Source(format!("cannot restore snapshot {name:?}: {why}"));
        let namespace = claim.metadata.object_namespace()?;
        let snapshots: Api<VolumeSnapshot> = Api::namespaced(self.client.clone(), namespace);
        let snapshot = existing_object(snapshots.get(name).await)?;
        let snapshot = snapshot.ok_or_else(|| cannot("it does not exist".to_owned()))?;
        if snapshot.metadata.deletion_timestamp.is_some() {
            return Err(cannot("it is being deleted".to_owned()));
        }
        let status = snapshot.status.unwrap_or_default();
        let bound = status.bound_volume_snapshot_content_name;
        let (Some(bound), Some(true)) = (bound, status.ready_to_use) else {
            return Err(cannot("it is not ready to use".to_owned()));
        };
        let contents: Api<VolumeSnapshotContent> = Api::all(self.client.clone());
        let content = existing_object(contents.get(&bound).await)?;
        let content = content.ok_or_else(|| cannot("its content is gone".to_owned()))?;
        let uid = snapshot.metadata.object_uid()?;
        let of_content = content.spec.volume_snapshot_ref.uid.as_deref();
        if of_content.is_none_or(|text| uid != *text) {
            return Err(cannot("its content is another snapshot's".to_owned()));
        }
        if content.spec.driver != driver.name() {
            return Err(cannot(format!(
                "it was made by {}, and the claim's class is of {}",
                content.spec.driver,
                driver.name()
            )));
        }
        if let Some(mode) = &content.spec.source_volume_mode
            && let Some(why) = other_mode(claim, Some(mode))
        {
            return Err(cannot(why));
        }
        let status = content.status.unwrap_or_default();
        let holds = status
            .restore_size
            .and_then(|size| u64::try_from(size).ok());
        let requested = size_of(claim);
        if let Some(holds) = holds.filter(|holds| requested < *holds) {
            return Err(cannot(format!(
                "requested volume size {requested} is less than the size {holds} for the source \
                 snapshot"
            )));
        }
        let handle = status.snapshot_handle.as_deref().and_then(Handle::parse);
        let handle = handle.ok_or_else(|| cannot("its content has no handle".to_owned()))?;
        Ok(if handle.node == self.config.node_name {
            Source::Here(InitialContents::OfSnapshot(handle.name))
        } else {
            Source::On(handle.node)
        })
    }
}
