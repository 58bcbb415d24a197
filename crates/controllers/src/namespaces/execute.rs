//! Counts and deletes the objects of a namespace, and writes its status.

use std::pin::pin;
use std::sync::Arc;

use controller_planners::namespaces::{FINALIZER, RemainingObjects, conditions};
use futures::TryStreamExt;
use jiff::Timestamp;
use json_tree::json;
use k8s_openapi::api::core::v1::Namespace;
use kube_api_client::guarded_writes::{self, Delete};
use kube_api_client::{
    Api, Client, DeleteParams, ListParams, Patch, PatchParams, PostParams, ResourceExt,
};
use resource_kinds::MetadataIdentity;

use crate::api_error::{ApiError, failed};
use crate::inventory::{Inventory, Resource};

/// Objects in a page of a list, or of a deletion: work on thousands of objects at once would block a thread that also
/// serves requests.
const PAGE: u32 = 50;

/// The reason why a namespace is not empty yet; the deletion is retried.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("{failures} kinds of objects could not be deleted")]
    Left { failures: usize },
}

pub(super) struct Executor {
    pub client: Client,
    pub inventory: Arc<Inventory>,
}

fn name_of(resource: &Resource) -> String {
    format!("{}.{}", resource.api.plural, resource.api.group)
}

impl Executor {
    fn namespaced(&self) -> impl Iterator<Item = (usize, &Resource)> {
        let resources = self.inventory.resources.iter().enumerate();
        resources.filter(|(_, resource)| resource.namespaced)
    }

    /// The objects, from the API server itself: a cache could miss the newest object.
    pub async fn contents(&self, namespace: &str) -> Result<Vec<RemainingObjects>, Error> {
        let mut contents = Vec::new();
        for (number, resource) in self.namespaced() {
            let counted = self.count(number, resource, namespace).await;
            let counted =
                guarded_writes::existing_object(counted).map_err(failed("list contents"))?;
            contents.extend(counted);
        }
        Ok(contents)
    }

    async fn count(
        &self,
        number: usize,
        resource: &Resource,
        namespace: &str,
    ) -> kube_api_client::Result<RemainingObjects> {
        let mut content = RemainingObjects {
            resource: name_of(resource),
            ..RemainingObjects::default()
        };
        let api = self.inventory.api(number, namespace);
        let mut pages = pin!(api.pages(PAGE));
        while let Some(objects) = pages.try_next().await? {
            content.count += objects.len();
            for finalizer in objects.iter().flat_map(|object| object.finalizers()) {
                *content.finalizers.entry(finalizer.clone()).or_default() += 1;
            }
        }
        Ok(content)
    }

    /// Deletes all objects, or pods only; reports failures.
    pub async fn delete_contents(&self, namespace: &str, pods_only: bool) -> Vec<String> {
        let mut failures = Vec::new();
        for (number, resource) in self.namespaced() {
            if pods_only && name_of(resource) != "pods." {
                continue;
            }
            if let Err(error) = self.delete_kind(number, resource, namespace).await {
                let error = guarded_writes::message(&error);
                failures.push(format!("{}: {error}", name_of(resource)));
            }
        }
        failures
    }

    async fn delete_kind(
        &self,
        number: usize,
        resource: &Resource,
        namespace: &str,
    ) -> kube_api_client::Result<()> {
        let api = self.inventory.api(number, namespace);
        if resource.deletes_collections {
            let how = DeleteParams::background();
            let mut page = Some(ListParams::default().limit(PAGE));
            while let Some(next) = page {
                let deleted = guarded_writes::existing_object(api.delete_page(&how, next).await)?;
                page = deleted.flatten();
            }
            return Ok(());
        }
        let mut pages = pin!(api.pages(PAGE));
        while let Some(objects) = pages.try_next().await? {
            for object in objects {
                let how = Delete::of_uid(object.metadata.object_uid()?);
                guarded_writes::delete(&api, &object.name_any(), how).await?;
            }
        }
        Ok(())
    }

    pub async fn write_conditions(
        &self,
        namespace: &Namespace,
        contents: &[RemainingObjects],
        failures: &[String],
        now: Timestamp,
    ) -> Result<(), Error> {
        let status = namespace.status.as_ref();
        let present = status
            .and_then(|s| s.conditions.as_deref())
            .unwrap_or_default();
        let conditions = conditions(present, contents, failures, now);
        let terminating = status.and_then(|s| s.phase.as_deref()) == Some("Terminating");
        if terminating && conditions == present {
            return Ok(());
        }
        let status = json!({ "phase": "Terminating", "conditions": conditions });
        let meta = json!({ "uid": namespace.metadata.uid });
        let patch = Patch::Merge(json!({ "metadata": meta, "status": status }));
        let api: Api<Namespace> = Api::all(self.client.clone());
        let params = PatchParams::default();
        let written = api
            .patch_status(&namespace.name_any(), &params, &patch)
            .await;
        Ok(guarded_writes::unless_outrun(written)
            .map(drop)
            .map_err(failed("write conditions"))?)
    }

    /// Removes the finalizer; the API server then removes the namespace.
    pub async fn finish(&self, namespace: &Namespace) -> Result<(), Error> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let name = namespace.name_any();
        let live = guarded_writes::existing_object(api.get(&name).await)
            .map_err(failed("read namespace"))?;
        let Some(mut live) = live.filter(|live| live.metadata.uid == namespace.metadata.uid) else {
            return Ok(());
        };
        if let Some(finalizers) = live.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) {
            finalizers.retain(|finalizer| finalizer != FINALIZER);
        }
        let params = PostParams::default();
        let written = api
            .replace_subresource("finalize", &name, &params, &live)
            .await;
        Ok(guarded_writes::existing_object(written)
            .map(drop)
            .map_err(failed("finalize namespace"))?)
    }
}
