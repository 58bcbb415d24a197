//! The controller of the finalizers that protect claims and volumes in use (statefulset.md §11.10).

use api_client::{Api, ListParams, Patch, PatchParams};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use planners::volume_protection::{Protection, protect_claim, protect_volume};
use reconcile::execute::unless_outrun;
use reconcile::{Key, Object, Queue, ReconcileResult};
use resource_kinds::annotations::{PV_PROTECTION, PVC_PROTECTION};
use resource_kinds::pod_view::PodView;
use serde_json::json;

use crate::Context;

/// The object in question.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Task {
    Claim(Key),
    Volume(String),
}

/// The error of a finalizer's write.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// The server refused the request or did not answer.
    #[error("protect a claim or volume")]
    Api(#[from] api_client::Error),
}

struct VolumeProtection(Context);

pub(crate) async fn run(context: Context) {
    let controller = VolumeProtection(context.clone());
    context.run("pvcprotection", controller).await;
}

impl reconcile::Controller for VolumeProtection {
    type Key = Task;
    type Error = Error;

    /// Objects processed at once.
    const WORKERS: usize = 2;

    async fn wait_synced(&self) -> bool {
        let caches = &self.0.caches;
        caches.claims.wait_synced().await
            && caches.volumes.wait_synced().await
            && caches.pods.wait_synced().await
    }

    async fn feed(&self, queue: &Queue<Task>) {
        let mut claims = self.0.caches.claims.subscribe();
        let mut volumes = self.0.caches.volumes.subscribe();
        let mut pods = self.0.caches.pods.subscribe();
        loop {
            tokio::select! {
                Some(change) = claims.next() => {
                    queue.add(Task::Claim(Key::of(&**change.object())));
                }
                Some(change) = volumes.next() => {
                    queue.add(Task::Volume(change.object().metadata.name.clone().unwrap_or_default()));
                }
                Some(change) = pods.next() => {
                    let pod = change.object();
                    for claim in &pod.claims {
                        queue.add(Task::Claim(Key::new(&*pod.namespace, &*claim.name)));
                    }
                }
                else => return,
            }
        }
    }

    async fn reconcile(&self, key: &Task) -> Result<ReconcileResult, Error> {
        match key {
            Task::Claim(key) => guard_claim(&self.0, key).await?,
            Task::Volume(name) => guard_volume(&self.0, name).await?,
        }
        Ok(ReconcileResult::Done)
    }
}

async fn guard_claim(context: &Context, key: &Key) -> Result<(), Error> {
    let Some(claim) = context.caches.claims.get_key(key) else {
        return Ok(());
    };
    let cached = context.caches.pods.list_in(&key.namespace);
    let mut protection = protect_claim(&claim, cached.iter().map(AsRef::as_ref));
    if protection == Protection::Remove {
        // A pod missing in the cache would lose its data: the API server is asked.
        let pods: Api<Pod> = Api::namespaced(context.client.clone(), &key.namespace);
        let listed = pods.list(&ListParams::default()).await?;
        let listed: Vec<PodView> = listed.items.iter().map(PodView::from).collect();
        protection = protect_claim(&claim, &listed);
    }
    let api: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), &key.namespace);
    write(&api, &claim.metadata, PVC_PROTECTION, &protection).await
}

async fn guard_volume(context: &Context, name: &str) -> Result<(), Error> {
    let Some(volume) = context.caches.volumes.get("", name) else {
        return Ok(());
    };
    let api: Api<PersistentVolume> = Api::all(context.client.clone());
    write(
        &api,
        &volume.metadata,
        PV_PROTECTION,
        &protect_volume(&volume),
    )
    .await
}

async fn write<K: Object>(
    api: &Api<K>,
    metadata: &ObjectMeta,
    finalizer: &str,
    protection: &Protection,
) -> Result<(), Error> {
    let present = metadata.finalizers.iter().flatten();
    let finalizers: Vec<&str> = match protection {
        Protection::Keep => return Ok(()),
        Protection::HeldBy(user) => {
            tracing::debug!(name = metadata.name, user, "deletion waits for a user");
            return Ok(());
        }
        Protection::Add => present.map(String::as_str).chain([finalizer]).collect(),
        Protection::Remove => present
            .map(String::as_str)
            .filter(|present| *present != finalizer)
            .collect(),
    };
    let patch = json!({"metadata": {
        "uid": metadata.uid,
        "resourceVersion": metadata.resource_version,
        "finalizers": finalizers,
    }});
    let name = metadata.name.as_deref().unwrap_or_default();
    let written = api
        .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
        .await;
    // After a conflict the object's change queues it again.
    unless_outrun(written)?;
    Ok(())
}
