//! The controller of the finalizers that protect claims, volumes and VolumeAttributesClasses in use
//! (statefulset.md §11.10).

use controller_framework::{Cache, Object, Queue, ReconcileResult, object_key};
use controller_planners::volume_protection::{
    Protection, protect_attributes_class, protect_claim, protect_volume,
};
use json_tree::json;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube_api_client::guarded_writes::unless_outrun;
use kube_api_client::{Api, ListParams, Patch, PatchParams};
use object_model::{IncompleteMetadata, ObjectKey};
use resource_kinds::MetadataIdentity;
use resource_kinds::annotations::{PV_PROTECTION, PVC_PROTECTION, VAC_PROTECTION};
use resource_kinds::pod_view::PodView;

use crate::Context;

/// A key in the queue.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Task {
    Claim(ObjectKey),
    Volume(ObjectKey),
    AttributesClass(ObjectKey),
}

/// The error of a finalizer's write.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// The server refused the request or did not respond.
    #[error("protect a claim, a volume or a VolumeAttributesClass")]
    Api(#[from] kube_api_client::Error),
    #[error("identity of a claim, a volume or a VolumeAttributesClass")]
    Identity(#[from] IncompleteMetadata),
}

struct VolumeProtection {
    context: Context,
    attributes_classes: Cache<VolumeAttributesClass>,
}

pub(crate) async fn run(context: Context) {
    let controller = VolumeProtection {
        attributes_classes: context.cache(),
        context: context.clone(),
    };
    context.run("pvcprotection", controller).await;
}

impl controller_framework::Controller for VolumeProtection {
    type Key = Task;
    type Error = Error;

    /// Objects processed at once.
    const WORKERS: usize = 2;

    async fn wait_synced(&self) -> bool {
        let caches = &self.context.caches;
        caches.claims.wait_synced().await
            && caches.volumes.wait_synced().await
            && caches.pods.wait_synced().await
            && self.attributes_classes.wait_synced().await
    }

    async fn feed(&self, queue: &Queue<Task>) {
        let mut claims = self.context.caches.claims.subscribe();
        let mut volumes = self.context.caches.volumes.subscribe();
        let mut pods = self.context.caches.pods.subscribe_to(PodView::has_claims);
        let mut attributes_classes = self.attributes_classes.subscribe();
        loop {
            tokio::select! {
                Some(change) = claims.next() => {
                    queue.add(Task::Claim(object_key(&**change.object())));
                    // The last change or the deletion of an object that names a class may release the class.
                    self.deleting_classes().for_each(|task| queue.add(task));
                }
                Some(change) = volumes.next() => {
                    queue.add(Task::Volume(object_key(&**change.object())));
                    self.deleting_classes().for_each(|task| queue.add(task));
                }
                Some(change) = attributes_classes.next() => {
                    queue.add(Task::AttributesClass(object_key(&**change.object())));
                }
                Some(change) = pods.next() => {
                    let pod = change.object();
                    for claim in &pod.claims {
                        queue.add(Task::Claim(ObjectKey::new(&*pod.namespace, &*claim.name)));
                    }
                }
                else => return,
            }
        }
    }

    async fn reconcile(&self, key: &Task) -> Result<ReconcileResult, Error> {
        match key {
            Task::Claim(key) => guard_claim(&self.context, key).await?,
            Task::Volume(key) => guard_volume(&self.context, &key.name).await?,
            Task::AttributesClass(key) => self.guard_attributes_class(&key.name).await?,
        }
        Ok(ReconcileResult::Done)
    }
}

impl VolumeProtection {
    /// The VolumeAttributesClasses that are being deleted.
    fn deleting_classes(&self) -> impl Iterator<Item = Task> {
        let classes = self.attributes_classes.list().into_iter();
        let deleting = classes.filter(|class| class.metadata.deletion_timestamp.is_some());
        deleting.map(|class| Task::AttributesClass(object_key(&*class)))
    }

    async fn guard_attributes_class(&self, name: &str) -> Result<(), Error> {
        let Some(class) = self.attributes_classes.get("", name) else {
            return Ok(());
        };
        let caches = &self.context.caches;
        let (claims, volumes) = (caches.claims.list(), caches.volumes.list());
        let protection = protect_attributes_class(
            &class,
            claims.iter().map(AsRef::as_ref),
            volumes.iter().map(AsRef::as_ref),
        )?;
        let api: Api<VolumeAttributesClass> = Api::all(self.context.client.clone());
        write(&api, &class.metadata, VAC_PROTECTION, &protection).await
    }
}

async fn guard_claim(context: &Context, key: &ObjectKey) -> Result<(), Error> {
    let Some(claim) = context.caches.claims.get_key(key) else {
        return Ok(());
    };
    let cached = context.caches.pods.list_in(&key.namespace);
    let mut protection = protect_claim(&claim, cached.iter().map(AsRef::as_ref))?;
    if protection == Protection::Remove {
        // A pod that is missing in the cache would lose its data, so the pods are read from the API server.
        let pods: Api<Pod> = Api::namespaced(context.client.clone(), &key.namespace);
        let listed = pods.list(&ListParams::default()).await?;
        let views = listed.items.iter().map(PodView::try_from);
        let views: Vec<PodView> = views
            .collect::<Result<_, _>>()
            .map_err(kube_api_client::Error::Json)?;
        protection = protect_claim(&claim, &views)?;
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
        Protection::InUse { user } => {
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
        "uid": metadata.object_uid()?,
        "resourceVersion": metadata.object_version()?,
        "finalizers": finalizers,
    }});
    let name = metadata.object_name()?;
    let written = api
        .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
        .await;
    // After a conflict the change of the object queues it again.
    unless_outrun(written)?;
    Ok(())
}
