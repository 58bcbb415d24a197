//! The changes of all caches in one stream.

use std::future::poll_fn;
use std::task::{Context, Poll};

use controller_framework::{Cache, ObjectChange};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::{
    Namespace, Node, PersistentVolume, PersistentVolumeClaim, Service,
};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use k8s_openapi::api::storage::v1::{
    CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment,
};
use resource_kinds::pod_view::PodView;
use tokio::task::coop::unconstrained;

use super::Caches;

/// A cache has stopped, so that its changes are no longer received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cache of {kind} has stopped")]
pub struct CacheStopped {
    /// The plural name of the kind.
    pub kind: &'static str,
}

/// A change of an object.
#[derive(Clone, Debug)]
pub(super) enum CacheChange {
    Pod(ObjectChange<PodView>),
    Node(ObjectChange<Node>),
    Namespace(ObjectChange<Namespace>),
    Service(ObjectChange<Service>),
    Claim(ObjectChange<PersistentVolumeClaim>),
    Volume(ObjectChange<PersistentVolume>),
    Class(ObjectChange<StorageClass>),
    Driver(ObjectChange<CSIDriver>),
    Capacity(ObjectChange<CSIStorageCapacity>),
    CsiNode(ObjectChange<CSINode>),
    Attachment(ObjectChange<VolumeAttachment>),
    Budget(ObjectChange<PodDisruptionBudget>),
    DeviceClaim(ObjectChange<ResourceClaim>),
    DeviceSlice(ObjectChange<ResourceSlice>),
    DeviceClass(ObjectChange<DeviceClass>),
}

/// A subscription to each cache.
pub(super) struct CacheSubscriptions(Vec<Feed>);

struct Feed {
    kind: &'static str,
    changes: BoxStream<'static, CacheChange>,
}

impl Feed {
    fn of<K>(
        kind: &'static str,
        cache: &Cache<K>,
        change: fn(ObjectChange<K>) -> CacheChange,
    ) -> Self
    where
        K: Send + Sync + 'static,
    {
        let changes = cache.subscribe().map(change).boxed();
        Self { kind, changes }
    }
}

impl CacheSubscriptions {
    pub fn of(caches: &Caches) -> Self {
        Self(vec![
            Feed::of("pods", &caches.pods, CacheChange::Pod),
            Feed::of("nodes", &caches.nodes, CacheChange::Node),
            Feed::of("namespaces", &caches.namespaces, CacheChange::Namespace),
            Feed::of("services", &caches.services, CacheChange::Service),
            Feed::of("persistentvolumeclaims", &caches.claims, CacheChange::Claim),
            Feed::of("persistentvolumes", &caches.volumes, CacheChange::Volume),
            Feed::of("storageclasses", &caches.classes, CacheChange::Class),
            Feed::of("csidrivers", &caches.drivers, CacheChange::Driver),
            Feed::of(
                "csistoragecapacities",
                &caches.capacities,
                CacheChange::Capacity,
            ),
            Feed::of("csinodes", &caches.csi_nodes, CacheChange::CsiNode),
            Feed::of(
                "volumeattachments",
                &caches.attachments,
                CacheChange::Attachment,
            ),
            Feed::of("poddisruptionbudgets", &caches.budgets, CacheChange::Budget),
            Feed::of(
                "resourceclaims",
                &caches.device_claims,
                CacheChange::DeviceClaim,
            ),
            Feed::of(
                "resourceslices",
                &caches.device_slices,
                CacheChange::DeviceSlice,
            ),
            Feed::of(
                "deviceclasses",
                &caches.device_classes,
                CacheChange::DeviceClass,
            ),
        ])
    }

    /// The next change.
    pub async fn next(&mut self) -> Result<CacheChange, CacheStopped> {
        poll_fn(|context| self.poll(context)).await
    }

    /// A waiting change, if there is one, even if the task has used up its units of work for this poll.
    pub fn ready(&mut self) -> Option<CacheChange> {
        unconstrained(self.next()).now_or_never()?.ok()
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<CacheChange, CacheStopped>> {
        for Feed { kind, changes } in &mut self.0 {
            if let Poll::Ready(change) = changes.poll_next_unpin(context) {
                return Poll::Ready(change.ok_or(CacheStopped { kind }));
            }
        }
        Poll::Pending
    }
}
