//! Counts and deletes the objects of a namespace, and writes its status.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use controller_planners::namespaces::{FINALIZER, ObservedDeletion, RemainingObjects, conditions};
use futures::TryStreamExt;
use jiff::Timestamp;
use json_tree::json;
use k8s_openapi::api::core::v1::Namespace;
use kube_api_client::guarded_writes::{self, Delete};
use kube_api_client::{
    Api, ApiResource, Client, DeleteParams, ListParams, Patch, PatchParams, PostParams,
    ResourceExt, ServedResource,
};
use resource_kinds::MetadataIdentity;

use crate::api_error::{ApiError, failed};
use crate::inventory::{Inventory, Metadata, Resource};
use crate::remote_groups::RemoteGroups;

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
    pub remote: RemoteGroups,
}

/// The longest time for a request to an extension API server.
const REMOTE_LIMIT: Duration = Duration::from_secs(10);

/// The kinds of extension API servers.
#[derive(Default)]
pub(super) struct RemoteKinds {
    /// The kinds with objects in namespaces, each in one version.
    pub kinds: Vec<ServedResource>,
    /// The group versions whose kinds or objects cannot be read, each with the reason.
    pub undiscovered: Vec<String>,
}

fn name_of(api: &ApiResource) -> String {
    format!("{}.{}", api.plural, api.group)
}

impl Executor {
    /// The kinds of this server with objects in namespaces.
    fn namespaced(&self) -> impl Iterator<Item = (usize, &Resource)> {
        let resources = self.inventory.resources.iter().enumerate();
        resources.filter(|(_, resource)| resource.namespaced && !resource.is_remote)
    }

    /// Reads the kinds of all extension API servers.
    pub async fn discover(&self) -> RemoteKinds {
        let mut remote = RemoteKinds::default();
        for ((group, version), is_available) in self.remote.all() {
            let mut unread = |reason: String| {
                remote
                    .undiscovered
                    .push(format!("{group}/{version}: {reason}"));
            };
            if !is_available {
                unread(format!("stale GroupVersion discovery: {group}/{version}"));
                continue;
            }
            let resources = self.client.served_resources(&group, &version);
            match tokio::time::timeout(REMOTE_LIMIT, resources).await {
                Ok(Ok(resources)) => {
                    let objects = resources.into_iter();
                    let objects = objects
                        .filter(|one| one.namespaced && one.can("list") && one.can("delete"));
                    for one in objects {
                        let is_listed = |other: &ServedResource| {
                            name_of(&other.resource) == name_of(&one.resource)
                        };
                        if !remote.kinds.iter().any(is_listed) {
                            remote.kinds.push(one);
                        }
                    }
                }
                Ok(Err(error)) => unread(guarded_writes::message(&error)),
                Err(_) => unread("no response".to_owned()),
            }
        }
        remote
    }

    /// The objects, from the API server itself: a cache could miss the newest object. Kinds of extension API servers
    /// that cannot be listed are added to the undiscovered kinds.
    pub async fn contents(
        &self,
        namespace: &str,
        remote: &mut RemoteKinds,
    ) -> Result<Vec<RemainingObjects>, Error> {
        let mut contents = Vec::new();
        for (number, resource) in self.namespaced() {
            let api = self.inventory.api(number, namespace);
            let counted = count(api, &resource.api).await;
            let counted =
                guarded_writes::existing_object(counted).map_err(failed("list contents"))?;
            contents.extend(counted);
        }
        for kind in &remote.kinds {
            let api = self.remote_api(kind, namespace);
            let counting = count(api, &kind.resource);
            let reason = match tokio::time::timeout(REMOTE_LIMIT, counting).await {
                Ok(Ok(counted)) => {
                    contents.push(counted);
                    continue;
                }
                Ok(Err(error)) => guarded_writes::message(&error),
                Err(_) => "no response".to_owned(),
            };
            let failure = format!("{}: {reason}", name_of(&kind.resource));
            if !remote.undiscovered.contains(&failure) {
                remote.undiscovered.push(failure);
            }
        }
        Ok(contents)
    }

    fn remote_api(&self, kind: &ServedResource, namespace: &str) -> Api<Metadata> {
        Api::namespaced_with(self.client.clone(), namespace, &kind.resource)
    }
}

async fn count(
    api: Api<Metadata>,
    kind: &ApiResource,
) -> kube_api_client::Result<RemainingObjects> {
    let mut content = RemainingObjects {
        resource: name_of(kind),
        ..RemainingObjects::default()
    };
    let mut pages = pin!(api.pages(PAGE));
    while let Some(objects) = pages.try_next().await? {
        content.count += objects.len();
        for finalizer in objects.iter().flat_map(|object| object.finalizers()) {
            *content.finalizers.entry(finalizer.clone()).or_default() += 1;
        }
    }
    Ok(content)
}

/// Deletes the objects of a kind in a namespace.
async fn delete_kind(api: Api<Metadata>, as_collection: bool) -> kube_api_client::Result<()> {
    if as_collection {
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

impl Executor {
    /// Deletes all objects, or pods only; reports failures.
    pub async fn delete_contents(
        &self,
        namespace: &str,
        remote: &[ServedResource],
        pods_only: bool,
    ) -> Vec<String> {
        let mut failures = Vec::new();
        for (number, resource) in self.namespaced() {
            let name = name_of(&resource.api);
            if pods_only && name != "pods." {
                continue;
            }
            let api = self.inventory.api(number, namespace);
            if let Err(error) = delete_kind(api, resource.deletes_collections).await {
                failures.push(format!("{name}: {}", guarded_writes::message(&error)));
            }
        }
        for kind in remote {
            let api = self.remote_api(kind, namespace);
            let deleting = delete_kind(api, kind.can("deletecollection"));
            let reason = match tokio::time::timeout(REMOTE_LIMIT, deleting).await {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => guarded_writes::message(&error),
                Err(_) => "no response".to_owned(),
            };
            failures.push(format!("{}: {reason}", name_of(&kind.resource)));
        }
        failures
    }

    pub async fn write_conditions(
        &self,
        namespace: &Namespace,
        observed: &ObservedDeletion<'_>,
        now: Timestamp,
    ) -> Result<(), Error> {
        let status = namespace.status.as_ref();
        let present = status
            .and_then(|s| s.conditions.as_deref())
            .unwrap_or_default();
        let conditions = conditions(present, observed, now);
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
