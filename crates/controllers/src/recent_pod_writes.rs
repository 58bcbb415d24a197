//! Writes of this controller to pods that are not visible in the cache of pods yet.

use std::time::Duration;

use controller_framework::Cache;
use k8s_openapi::api::core::v1::Pod;
use kube_api_client::Api;
use kube_api_client::guarded_writes;
use object_model::{ResourceVersion, Uid};
use resource_kinds::MetadataIdentity;
use resource_kinds::pod_view::PodView;

/// Time until the controller logs that a write is missing in the cache, and reads the pod from the API server.
pub(crate) const VISIBLE_WITHIN: Duration = Duration::from_secs(5);

/// A write of this controller to a pod, which is not visible in the cache yet.
pub(crate) enum PodWrite {
    Created {
        name: String,
        uid: Uid,
        version: ResourceVersion,
    },
    Deleted {
        name: String,
        uid: Uid,
    },
    /// A write whose repetition does no harm.
    Other,
}

/// The pods of a namespace: from the API server, and from the cache.
pub(crate) struct RecentPodWrites<'a> {
    pub pods: Api<Pod>,
    pub cache: &'a Cache<PodView>,
    pub namespace: &'a str,
}

impl RecentPodWrites<'_> {
    /// Waits until the cache contains the writes `done`.
    ///
    /// The planner's snapshot must not be older than its own writes: otherwise the planner would repeat them. So the
    /// next plan of this owner waits, without a time limit, until the writes are visible. Only a pod that is deleted
    /// meanwhile may never be visible.
    pub async fn wait_until_visible(&self, mut done: Vec<PodWrite>) {
        loop {
            let wait = async {
                for one in &done {
                    self.cache.wait_until(|| self.is_visible_write(one)).await;
                }
            };
            let is_visible = tokio::time::timeout(VISIBLE_WITHIN, wait).await.is_ok();
            if is_visible || self.cache.is_stopped() {
                return;
            }
            tracing::warn!(namespace = self.namespace, "own writes are not seen yet");
            let mut left = Vec::new();
            for one in done {
                if !self.is_visible_write(&one) && self.becomes_visible(&one).await {
                    left.push(one);
                }
            }
            done = left;
        }
    }

    /// Whether an up-to-date cache will contain the write, by the API server's response.
    async fn becomes_visible(&self, done: &PodWrite) -> bool {
        let PodWrite::Created { name, uid, .. } = done else {
            return true;
        };
        match guarded_writes::existing_object(self.pods.get(name).await) {
            Ok(live) => live.is_some_and(|live| live.metadata.object_uid().as_ref() == Ok(uid)),
            // The result is unknown; the only cost is a longer wait.
            Err(_) => true,
        }
    }

    fn is_visible_write(&self, done: &PodWrite) -> bool {
        let get = |name: &str| self.cache.get(self.namespace, name);
        match done {
            PodWrite::Other => true,
            // The pod may be deleted already.
            PodWrite::Created { version, .. } => self.cache.has_reached(*version),
            PodWrite::Deleted { name, uid } => {
                get(name).is_none_or(|pod| *uid != pod.uid || pod.is_deleting())
            }
        }
    }
}
