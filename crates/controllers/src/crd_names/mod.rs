//! The controller of CustomResourceDefinitions: accepts the names of a definition, and deletes the objects of a deleted
//! definition before the definition itself is removed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use controller_framework::{Cache, Changes, Queue, ReconcileResult, object_key};
use controller_planners::crd_names::{may_have_objects, plan, storage_version};
use jiff::Timestamp;
use json_tree::json;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube_api_client::guarded_writes::unless_outrun;
use kube_api_client::{
    Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams,
};
use resource_kinds::annotations::CUSTOM_RESOURCE_CLEANUP;

use crate::Context;

/// Wait between checks for objects with finalizers.
const RECHECK: Duration = Duration::from_secs(1);

/// Time without a change of definitions before dependent controllers restart.
const QUIET: Duration = Duration::from_millis(200);

/// Objects per list request.
const PAGE: u32 = 500;

/// The error of processing a definition.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// The server refused the request or did not respond.
    #[error("check the names of a CustomResourceDefinition")]
    Api(#[from] kube_api_client::Error),
}

struct CrdNames {
    definitions: Cache<CustomResourceDefinition>,
    client: kube_api_client::Client,
}

pub(crate) async fn run(context: Context) {
    let controller = CrdNames {
        definitions: context.caches.definitions.clone(),
        client: context.client.clone(),
    };
    context.run("definitions", controller).await;
}

impl controller_framework::Controller for CrdNames {
    type Key = String;
    type Error = Error;

    /// One definition at a time, because names are accepted one after the other.
    const WORKERS: usize = 1;

    async fn wait_synced(&self) -> bool {
        self.definitions.wait_synced().await
    }

    /// A change of one definition may free a name for another.
    async fn feed(&self, queue: &Queue<String>) {
        let mut changes = self.definitions.subscribe();
        while changes.next().await.is_some() {
            for definition in self.definitions.list() {
                queue.add(object_key(&*definition).name.to_string());
            }
        }
    }

    async fn reconcile(&self, key: &String) -> Result<ReconcileResult, Error> {
        reconcile_definition(&self.definitions, self.client.clone(), key).await
    }
}

/// The served custom kinds: name of the definition and version.
pub(crate) type Served = BTreeSet<(String, String)>;

/// The served custom kinds, by definition and version.
pub(crate) fn served(cache: &Cache<CustomResourceDefinition>) -> Served {
    let mut served = Served::new();
    for definition in cache.list() {
        let conditions = definition
            .status
            .as_ref()
            .and_then(|s| s.conditions.as_deref());
        let mut conditions = conditions.unwrap_or_default().iter();
        if !conditions.any(|c| c.type_ == "Established" && c.status == "True") {
            continue;
        }
        let name = object_key(&*definition).name.to_string();
        let versions = definition
            .spec
            .versions
            .iter()
            .filter(|version| version.served);
        served.extend(versions.map(|version| (name.clone(), version.name.clone())));
    }
    served
}

/// Waits until the served kinds differ from `before`, and then until no further change comes for [`QUIET`].
pub(crate) async fn changed(
    cache: &Cache<CustomResourceDefinition>,
    before: &Served,
    changes: &mut Changes<CustomResourceDefinition>,
) {
    while served(cache) == *before {
        if changes.next().await.is_none() {
            return std::future::pending().await;
        }
    }
    // Charts create many definitions at once.
    while let Ok(Some(_)) = tokio::time::timeout(QUIET, changes.next()).await {}
}

async fn reconcile_definition(
    cache: &Cache<CustomResourceDefinition>,
    client: kube_api_client::Client,
    name: &str,
) -> Result<ReconcileResult, Error> {
    let Some(definition) = cache.get("", name) else {
        return Ok(ReconcileResult::Done);
    };
    let all = cache.list();
    let plan = plan(&definition, all.iter().map(Arc::as_ref), Timestamp::now());
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let meta = json!({
        "uid": definition.metadata.uid,
        "resourceVersion": definition.metadata.resource_version,
    });
    if let Some(status) = &plan.status {
        let patch = Patch::Merge(json!({ "metadata": meta, "status": status }));
        let written = api
            .patch_status(name, &PatchParams::default(), &patch)
            .await;
        unless_outrun(written)?;
        return Ok(ReconcileResult::Done);
    }
    if !plan.clean_up {
        return Ok(ReconcileResult::Done);
    }
    if !empty(&client, &definition).await? {
        return Ok(ReconcileResult::from(Some(RECHECK)));
    }
    let mut remaining = definition.metadata.finalizers.clone().unwrap_or_default();
    remaining.retain(|finalizer| finalizer != CUSTOM_RESOURCE_CLEANUP);
    let mut meta = meta;
    meta["finalizers"] = json!(remaining);
    let patch = Patch::Merge(json!({ "metadata": meta }));
    unless_outrun(api.patch(name, &PatchParams::default(), &patch).await)?;
    Ok(ReconcileResult::Done)
}

/// Deletes the objects; true if no objects are left.
///
/// The objects are read through the storage version, which is served while the definition is being deleted. A kind that
/// cannot be listed may have objects: the list is retried.
async fn empty(
    client: &kube_api_client::Client,
    definition: &CustomResourceDefinition,
) -> Result<bool, Error> {
    let version = match storage_version(definition) {
        Some(version) if may_have_objects(definition) => version,
        _ => return Ok(true),
    };
    let spec = &definition.spec;
    let names = &spec.names;
    let resource = ApiResource::new(&spec.group, version, &names.kind, &names.plural);
    let all: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let mut is_empty = true;
    let mut page = Some(ListParams::default().limit(PAGE));
    while let Some(params) = page {
        let listed = all.list_metadata(&params).await?;
        for object in &listed.items {
            is_empty = false;
            let meta = &object.metadata;
            let Some(name) = meta
                .name
                .as_deref()
                .filter(|_| meta.deletion_timestamp.is_none())
            else {
                continue;
            };
            let api: Api<DynamicObject> = match meta.namespace.as_deref() {
                Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
                None => all.clone(),
            };
            unless_outrun(api.delete(name, &DeleteParams::default()).await)?;
        }
        page = params.next(listed.metadata.continue_);
    }
    Ok(is_empty)
}
