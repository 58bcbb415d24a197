//! Executes a plan for a snapshot.

use controller_framework::{Cache, Recorder};
use controller_planners::volume_snapshot::{SnapshotAction, SnapshotPlan};
use json_tree::{Value, json};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube_api_client::guarded_writes::{Delete, WriteRefusal, delete, refusal, unless_outrun};
use kube_api_client::{Api, Client, Patch, PatchParams, PostParams};
use object_model::IncompleteMetadata;
use resource_kinds::MetadataIdentity;
use resource_kinds::snapshot::{
    BEING_DELETED, DEFAULT_CLASS, VolumeSnapshot, VolumeSnapshotClass, VolumeSnapshotContent,
};
use resource_kinds::storage::Driver;

/// The reason why a plan was not executed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The server refused the request or did not respond.
    #[error("write or look up a snapshot or its content")]
    Api(#[from] kube_api_client::Error),
    #[error("identity of a snapshot or its content")]
    Identity(#[from] IncompleteMetadata),
}

#[derive(Clone)]
pub(crate) struct Executor {
    pub client: Client,
    pub recorder: Recorder,
}

impl Executor {
    /// Creates missing VolumeSnapshotClasses of the built-in drivers.
    pub async fn default_classes(&self, present: &Cache<VolumeSnapshotClass>) -> Result<(), Error> {
        let api: Api<VolumeSnapshotClass> = Api::all(self.client.clone());
        for (name, driver) in [("local", Driver::Local), ("local-cow", Driver::LocalCow)] {
            if present.get("", name).is_some() {
                continue;
            }
            let class = VolumeSnapshotClass {
                metadata: ObjectMeta {
                    name: Some(name.to_owned()),
                    annotations: Some([(DEFAULT_CLASS.to_owned(), "true".to_owned())].into()),
                    ..ObjectMeta::default()
                },
                driver: driver.name().to_owned(),
                deletion_policy: "Delete".to_owned(),
                ..VolumeSnapshotClass::default()
            };
            unless_there(api.create(&PostParams::default(), &class).await)?;
        }
        Ok(())
    }

    pub async fn execute(
        &self,
        snapshot: &VolumeSnapshot,
        content: Option<&VolumeSnapshotContent>,
        plan: SnapshotPlan,
    ) -> Result<(), Error> {
        for action in plan.actions {
            tracing::info!(snapshot = snapshot.metadata.name, ?action, "write");
            self.write(snapshot, content, action).await?;
        }
        for note in plan.notes {
            if note.warning {
                self.recorder.warning(snapshot, note.reason, note.message);
            } else {
                self.recorder.normal(snapshot, note.reason, note.message);
            }
        }
        Ok(())
    }

    /// Executes a write. Each write names the version that it is based on; a conflict queues the snapshot again.
    async fn write(
        &self,
        snapshot: &VolumeSnapshot,
        content: Option<&VolumeSnapshotContent>,
        action: SnapshotAction,
    ) -> Result<(), Error> {
        let namespace = snapshot.metadata.object_namespace()?;
        let name = snapshot.metadata.object_name()?;
        let snapshots: Api<VolumeSnapshot> = Api::namespaced(self.client.clone(), namespace);
        let contents: Api<VolumeSnapshotContent> = Api::all(self.client.clone());
        let params = PatchParams::default();
        match action {
            SnapshotAction::SetFinalizers(finalizers) => {
                let patch = json!({"metadata": {"finalizers": finalizers}});
                let patch = guarded(patch, &snapshot.metadata)?;
                unless_outrun(snapshots.patch(name, &params, &Patch::Merge(patch)).await)?;
            }
            SnapshotAction::AssignClass(class) => {
                let patch = json!({"spec": {"volumeSnapshotClassName": class}});
                let patch = guarded(patch, &snapshot.metadata)?;
                unless_outrun(snapshots.patch(name, &params, &Patch::Merge(patch)).await)?;
            }
            SnapshotAction::SetStatus(status) => {
                let mut status = json!(status);
                // An error that is no longer true is removed.
                if status.get("error").is_none() {
                    status["error"] = Value::Null;
                }
                let patch = guarded(json!({"status": status}), &snapshot.metadata)?;
                let written = snapshots
                    .patch_status(name, &params, &Patch::Merge(patch))
                    .await;
                unless_outrun(written)?;
            }
            SnapshotAction::CreateContent(content) => {
                unless_there(contents.create(&PostParams::default(), &content).await)?;
            }
            SnapshotAction::BindContent { uid } => {
                let Some(content) = content else {
                    return Ok(());
                };
                let mut patch = json!({"spec": {"volumeSnapshotRef": {"uid": uid}}});
                if let Some(class) = &snapshot.spec.volume_snapshot_class_name {
                    patch["spec"]["volumeSnapshotClassName"] = class.clone().into();
                }
                patch_content(&contents, content, patch).await?;
            }
            SnapshotAction::DeleteContent => {
                let Some(content) = content else {
                    return Ok(());
                };
                let mark = json!({"metadata": {"annotations": {BEING_DELETED: "yes"}}});
                patch_content(&contents, content, mark).await?;
                let name = content.metadata.object_name()?;
                let uid = content.metadata.object_uid()?;
                delete(&contents, name, Delete::of_uid(uid.clone())).await?;
            }
        }
        Ok(())
    }
}

async fn patch_content(
    api: &Api<VolumeSnapshotContent>,
    content: &VolumeSnapshotContent,
    patch: Value,
) -> Result<(), Error> {
    let name = content.metadata.object_name()?;
    let patch = Patch::Merge(guarded(patch, &content.metadata)?);
    let written = api.patch(name, &PatchParams::default(), &patch).await;
    unless_outrun(written)?;
    Ok(())
}

fn guarded(mut patch: Value, metadata: &ObjectMeta) -> Result<Value, IncompleteMetadata> {
    patch["metadata"]["uid"] = json!(metadata.object_uid()?);
    patch["metadata"]["resourceVersion"] = json!(metadata.object_version()?);
    Ok(patch)
}

fn unless_there<T>(created: kube_api_client::Result<T>) -> Result<(), Error> {
    match created {
        Err(error) if refusal(&error) != WriteRefusal::AlreadyExists => Err(error.into()),
        _ => Ok(()),
    }
}
