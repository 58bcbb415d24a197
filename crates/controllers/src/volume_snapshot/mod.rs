//! The controller that binds snapshots and contents (statefulset.md §11.15). The nodes handle the
//! data on disk.

mod execute;

use std::collections::BTreeSet;
use std::sync::Arc;

use controller_framework::{Cache, Queue, ReconcileResult, object_key};
use controller_planners::volume_snapshot::{ObservedSnapshot, plan_snapshot};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube_api_client::guarded_writes::existing_object;
use kube_api_client::{Api, Client};
use object_model::ObjectKey;
use resource_kinds::snapshot::{GROUP, VolumeSnapshot, VolumeSnapshotClass, VolumeSnapshotContent};

use crate::Context;
use crate::volume_binding::{is_unbound, volume_of};
use execute::{Error, Executor};

/// The caches of the controller.
struct Observer {
    client: Client,
    snapshots: Cache<VolumeSnapshot>,
    contents: Cache<VolumeSnapshotContent>,
    classes: Cache<VolumeSnapshotClass>,
    claims: Cache<PersistentVolumeClaim>,
    volumes: Cache<PersistentVolume>,
}

struct VolumeSnapshots {
    observer: Observer,
    executor: Executor,
}

pub(crate) async fn run(context: Context) {
    let controller = VolumeSnapshots {
        observer: Observer {
            client: context.client.clone(),
            snapshots: context.cache(),
            contents: context.cache(),
            classes: context.cache(),
            claims: context.caches.claims.clone(),
            volumes: context.caches.volumes.clone(),
        },
        executor: Executor {
            client: context.client.clone(),
            recorder: context.recorder("snapshot-controller"),
        },
    };
    context
        .run("snapshot-controller-snapshot", controller)
        .await;
}

impl controller_framework::Controller for VolumeSnapshots {
    type Key = ObjectKey;
    type Error = Error;

    /// Snapshots processed at once.
    const WORKERS: usize = 2;

    async fn wait_synced(&self) -> bool {
        let observer = &self.observer;
        // Waits until the kinds are defined.
        let synced = observer.snapshots.wait_synced().await
            && observer.contents.wait_synced().await
            && observer.classes.wait_synced().await
            && observer.claims.wait_synced().await
            && observer.volumes.wait_synced().await;
        if synced && let Err(error) = self.executor.default_classes(&observer.classes).await {
            let error = kube_api_client::guarded_writes::chain(&error);
            tracing::warn!(error, "default snapshot classes are not made");
        }
        synced
    }

    async fn feed(&self, queue: &Queue<ObjectKey>) {
        let mut snapshots = self.observer.snapshots.subscribe();
        let mut contents = self.observer.contents.subscribe();
        let mut classes = self.observer.classes.subscribe();
        let mut claims = self.observer.claims.subscribe();
        loop {
            let keys: BTreeSet<ObjectKey> = tokio::select! {
                Some(change) = snapshots.next() => [object_key(&**change.object())].into(),
                Some(change) = contents.next() => {
                    let reference = &change.object().spec.volume_snapshot_ref;
                    let (namespace, name) = (reference.namespace.clone(), reference.name.clone());
                    namespace.zip(name).map(|(namespace, name)| ObjectKey::new(namespace, name))
                        .into_iter().collect()
                }
                Some(_) = classes.next() => {
                    self.observer.snapshots.list().iter().map(|snapshot| object_key(&**snapshot)).collect()
                }
                Some(change) = claims.next() => self.observer.concerned(change.object()),
                else => return,
            };
            for key in keys {
                queue.add(key);
            }
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<ReconcileResult, Error> {
        self.observer.work(&self.executor, key).await?;
        Ok(ReconcileResult::Done)
    }
}

impl Observer {
    async fn work(&self, executor: &Executor, key: &ObjectKey) -> Result<(), Error> {
        let Some(snapshot) = self.snapshots.get_key(key) else {
            return Ok(());
        };
        let content_name = ObservedSnapshot::content_name(&snapshot)?;
        let content = match self.contents.get("", &content_name) {
            Some(content) => Some(content),
            // The absence decides about data, so the object is read from the API server.
            None => {
                let api: Api<VolumeSnapshotContent> = Api::all(self.client.clone());
                existing_object(api.get(&content_name).await)?.map(Arc::new)
            }
        };
        let claim = snapshot.spec.source.persistent_volume_claim_name.as_ref();
        let claim = claim.and_then(|name| self.claims.get(&key.namespace, name));
        let volume = claim
            .as_ref()
            .and_then(|claim| self.volumes.get("", &volume_of(claim)?));
        let classes: Vec<VolumeSnapshotClass> = self
            .classes
            .list()
            .iter()
            .map(|class| (**class).clone())
            .collect();
        let restoring = self.restoring(key);
        let view = ObservedSnapshot {
            snapshot: &snapshot,
            content: content.as_deref(),
            claim: claim.as_deref(),
            volume: volume.as_deref(),
            classes: &classes,
            restoring: restoring.as_deref(),
        };
        let plan = plan_snapshot(&view, Timestamp::now())?;
        executor.execute(&snapshot, content.as_deref(), plan).await
    }

    /// A claim that is being restored from the snapshot.
    fn restoring(&self, snapshot: &ObjectKey) -> Option<String> {
        let claims = self.claims.list_in(&snapshot.namespace);
        let claim = claims.iter().find(|claim| {
            restored_from(claim).as_deref() == Some(&snapshot.name)
                && claim.metadata.deletion_timestamp.is_none()
                && is_unbound(claim)
        })?;
        claim.metadata.name.clone()
    }

    /// Snapshots affected by a change of the claim.
    fn concerned(&self, claim: &PersistentVolumeClaim) -> BTreeSet<ObjectKey> {
        let namespace = object_key(claim).namespace;
        let mut keys: BTreeSet<ObjectKey> = self
            .snapshots
            .list_in(&namespace)
            .iter()
            .filter(|snapshot| {
                snapshot.spec.source.persistent_volume_claim_name == claim.metadata.name
            })
            .map(|snapshot| object_key(&**snapshot))
            .collect();
        keys.extend(restored_from(claim).map(|name| ObjectKey::new(namespace.clone(), name)));
        keys
    }
}

/// The snapshot that is the data source of a claim.
fn restored_from(claim: &PersistentVolumeClaim) -> Option<String> {
    let source = claim.spec.as_ref()?.data_source.as_ref()?;
    let snapshot = source.api_group.as_deref() == Some(GROUP) && source.kind == "VolumeSnapshot";
    snapshot.then(|| source.name.clone())
}
