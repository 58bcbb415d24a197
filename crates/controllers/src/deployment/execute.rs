//! Executes a plan: every write names its object and the observed resourceVersion.

use controller_framework::Recorder;
use controller_planners::deployment::{DeploymentAction, DeploymentPlan};
use json_tree::json;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube_api_client::guarded_writes::{self, Delete, WriteRefusal, refusal};
use kube_api_client::{Api, Client, Patch, PatchParams, PostParams, Resource};
use object_model::IncompleteMetadata;
use resource_kinds::MetadataIdentity;
use resource_kinds::annotations::REVISION;

use crate::api_error::{ApiError, failed};

/// The reason why a plan was not executed; the Deployment is planned again.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The API refused a write, or could not be reached.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The planned object no longer exists.
    #[error("the deployment has been replaced or is being deleted")]
    Changed,
    #[error("identity of an object")]
    Identity(#[from] IncompleteMetadata),
}

pub(super) struct Executor {
    pub client: Client,
    pub recorder: Recorder,
}

impl Executor {
    /// Executes a plan. The status is written even if writes to ReplicaSets fail.
    pub async fn execute(
        &self,
        deployment: &Deployment,
        plan: DeploymentPlan,
    ) -> Result<(), Error> {
        let mut result = Ok(());
        for action in &plan.actions {
            result = self.act(deployment, action).await;
            if result.is_err() {
                break;
            }
            if let Some(notice) = action.notice() {
                self.recorder
                    .normal(deployment, notice.reason, notice.message);
            }
        }
        if plan.status.is_some() || plan.revision.is_some() {
            let written = self.write_status(deployment, plan.status, plan.revision);
            result = result.and(written.await);
        }
        match result {
            // The namespace is terminating: no object can be created, and the garbage collector deletes the existing
            // objects.
            Err(Error::Api(error))
                if refusal(&error.source) == WriteRefusal::NamespaceTerminating =>
            {
                Ok(())
            }
            other => other,
        }
    }

    fn deployments(&self, deployment: &Deployment) -> Result<Api<Deployment>, IncompleteMetadata> {
        let namespace = deployment.metadata.object_namespace()?;
        Ok(Api::namespaced(self.client.clone(), namespace))
    }

    async fn act(&self, deployment: &Deployment, action: &DeploymentAction) -> Result<(), Error> {
        let namespace = deployment.metadata.object_namespace()?;
        let sets: Api<ReplicaSet> = Api::namespaced(self.client.clone(), namespace);
        let params = PatchParams::default();
        match action {
            DeploymentAction::ConfirmDeployment => self.confirm(deployment).await,
            DeploymentAction::AdoptSet { name, uid } => {
                let owner = deployment.owner_ref(&()).map(|owner| OwnerReference {
                    controller: Some(true),
                    block_owner_deletion: Some(true),
                    ..owner
                });
                let meta = json!({ "uid": uid, "ownerReferences": [owner] });
                let patch = Patch::Strategic(json!({ "metadata": meta }));
                let written = sets.patch(name, &params, &patch).await;
                Ok(written.map(drop).map_err(failed("adopt replica set"))?)
            }
            DeploymentAction::ReleaseSet { name, uid } => {
                let owner = json!({ "$patch": "delete", "uid": deployment.metadata.object_uid()? });
                let meta = json!({ "uid": uid, "ownerReferences": [owner] });
                let patch = Patch::Strategic(json!({ "metadata": meta }));
                let written = sets.patch(name, &params, &patch).await;
                Ok(written.map(drop).map_err(failed("release replica set"))?)
            }
            DeploymentAction::CreateSet(set) => self.create(deployment, &sets, set).await,
            DeploymentAction::UpdateSet {
                name,
                version,
                old_replicas,
                new_replicas,
                annotations,
                min_ready_seconds,
            } => {
                let mut spec = json!({});
                if old_replicas != new_replicas {
                    spec["replicas"] = json!(new_replicas);
                }
                if let Some(seconds) = min_ready_seconds {
                    spec["minReadySeconds"] = json!(seconds);
                }
                let meta = json!({ "resourceVersion": version,
                    "annotations": annotations });
                let patch = Patch::Merge(json!({ "metadata": meta, "spec": spec }));
                let written = sets.patch(name, &params, &patch).await;
                Ok(written.map(drop).map_err(failed("update replica set"))?)
            }
            DeploymentAction::DeleteSet { name, uid, version } => {
                let how = Delete {
                    resource_version: Some(*version),
                    ..Delete::of_uid(uid.clone())
                };
                let deleted = guarded_writes::delete(&sets, name, how).await;
                Ok(deleted.map(drop).map_err(failed("delete replica set"))?)
            }
        }
    }

    async fn confirm(&self, deployment: &Deployment) -> Result<(), Error> {
        let name = deployment.metadata.object_name()?;
        let uid = deployment.metadata.object_uid()?;
        let live = self.deployments(deployment)?.get(name).await;
        let live = guarded_writes::existing_object(live).map_err(failed("read deployment"))?;
        let same = live.is_some_and(|live| {
            live.metadata.object_uid().as_ref() == Ok(&uid)
                && live.metadata.deletion_timestamp.is_none()
        });
        same.then_some(()).ok_or(Error::Changed)
    }

    async fn create(
        &self,
        deployment: &Deployment,
        sets: &Api<ReplicaSet>,
        set: &ReplicaSet,
    ) -> Result<(), Error> {
        let created = sets.create(&PostParams::default(), set).await;
        if let Err(error) = &created
            && !matches!(
                refusal(error),
                WriteRefusal::AlreadyExists | WriteRefusal::NamespaceTerminating
            )
        {
            let name = set.metadata.object_name()?;
            let error = guarded_writes::message(error);
            let text = format!("Failed to create new replica set \"{name}\": {error}");
            self.recorder
                .warning(deployment, "ReplicaSetCreateError", text);
        }
        Ok(created.map(drop).map_err(failed("create replica set"))?)
    }

    async fn write_status(
        &self,
        deployment: &Deployment,
        status: Option<DeploymentStatus>,
        revision: Option<String>,
    ) -> Result<(), Error> {
        let mut object = deployment.clone();
        if status.is_some() {
            object.status = status;
        }
        if let Some(revision) = revision {
            let annotations = object.metadata.annotations.get_or_insert_default();
            annotations.insert(REVISION.to_owned(), revision);
        }
        let name = deployment.metadata.object_name()?;
        let deployments = self.deployments(deployment)?;
        let params = PostParams::default();
        let written = deployments.replace_status(name, &params, &object).await;
        Ok(guarded_writes::existing_object(written)
            .map(drop)
            .map_err(failed("write status"))?)
    }
}
