//! Executes a plan: revisions, pods, status.

use controller_framework::{Cache, Recorder};
use controller_planners::daemon_set::{DaemonSetPlan, RevisionAction};
use json_tree::json;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube_api_client::guarded_writes::{self, Delete};
use kube_api_client::{Api, Client, Patch, PatchParams, PostParams, Resource};
use object_model::IncompleteMetadata;
use resource_kinds::MetadataIdentity;
use resource_kinds::pod_view::PodView;

use crate::api_error::{ApiError, failed};
use crate::pod_writer::{PodError, PodWriter};

/// The reason why a plan was not executed; the set is planned again.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("write the pods of a DaemonSet")]
    Pods(#[from] PodError),
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("identity of an object")]
    Identity(#[from] IncompleteMetadata),
}

pub(super) struct Executor {
    pub client: Client,
    pub pods: Cache<PodView>,
    pub recorder: Recorder,
}

impl Executor {
    /// Executes a plan. The status is written even if writes to pods fail.
    pub async fn execute(&self, set: &DaemonSet, plan: DaemonSetPlan) -> Result<(), Error> {
        for action in &plan.revisions {
            self.act(set, action).await?;
        }
        let writer = PodWriter {
            owner: set,
            client: &self.client,
            cache: &self.pods,
            recorder: &self.recorder,
            finalizer: None,
        };
        let done = match writer.perform(&plan.pods).await {
            Err(error) if error.is_end_of_namespace() => return Ok(()),
            other => other,
        };
        if let Some(status) = plan.status {
            self.write_status(set, status).await?;
        }
        done?;
        for action in &plan.cleanup {
            self.act(set, action).await?;
        }
        Ok(())
    }

    async fn act(&self, set: &DaemonSet, action: &RevisionAction) -> Result<(), Error> {
        let namespace = set.metadata.object_namespace()?;
        let revisions: Api<ControllerRevision> = Api::namespaced(self.client.clone(), namespace);
        let params = PatchParams::default();
        match action {
            RevisionAction::Create(revision) => {
                let created = revisions.create(&PostParams::default(), revision).await;
                Ok(created.map(drop).map_err(failed("create revision"))?)
            }
            RevisionAction::Renumber {
                name,
                uid,
                revision,
            } => {
                let patch = json!({ "metadata": { "uid": uid }, "revision": revision });
                let written = revisions.patch(name, &params, &Patch::Merge(patch)).await;
                Ok(written.map(drop).map_err(failed("renumber revision"))?)
            }
            RevisionAction::Adopt { name, uid } => {
                let owner = set.owner_ref(&()).map(|owner| OwnerReference {
                    controller: Some(true),
                    block_owner_deletion: Some(true),
                    ..owner
                });
                let meta = json!({ "uid": uid, "ownerReferences": [owner] });
                let patch = Patch::Strategic(json!({ "metadata": meta }));
                let written = revisions.patch(name, &params, &patch).await;
                Ok(written.map(drop).map_err(failed("adopt revision"))?)
            }
            RevisionAction::Delete { name, uid } => {
                let how = Delete::of_uid(uid.clone());
                let deleted = guarded_writes::delete(&revisions, name, how).await;
                Ok(deleted.map(drop).map_err(failed("delete revision"))?)
            }
        }
    }

    async fn write_status(&self, set: &DaemonSet, status: DaemonSetStatus) -> Result<(), Error> {
        let namespace = set.metadata.object_namespace()?;
        let sets: Api<DaemonSet> = Api::namespaced(self.client.clone(), namespace);
        let object = DaemonSet {
            status: Some(status),
            ..set.clone()
        };
        let name = set.metadata.object_name()?;
        let params = PostParams::default();
        let written = sets.replace_status(name, &params, &object).await;
        Ok(guarded_writes::existing_object(written)
            .map(drop)
            .map_err(failed("write status"))?)
    }
}
