//! One cache per kind for several components of a process, so that each object is watched, decoded and stored once.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt::{self, Debug};
use std::sync::{Arc, Mutex, PoisonError};

use kube_api_client::Client;
use process_telemetry::Component;
use resource_kinds::pod_view::PodView;

use crate::{Cache, Object};

/// The caches of several components of a process; clones share them.
#[derive(Clone)]
pub struct SharedCaches {
    client: Client,
    component: Component,
    /// The started caches, by the type of their objects.
    started: Arc<Mutex<HashMap<TypeId, Box<dyn Any + Send>>>>,
}

impl Debug for SharedCaches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedCaches").finish_non_exhaustive()
    }
}

impl SharedCaches {
    /// Caches that list and watch with the client's user, and end with the component. A cache starts at its first use.
    pub fn new(client: Client, component: Component) -> Self {
        Self {
            client,
            component,
            started: Arc::default(),
        }
    }

    /// All objects of a kind.
    pub fn all<K: Object>(&self) -> Cache<K>
    where
        K::DynamicType: Default,
    {
        self.started_by(|| Cache::spawn_all(&self.client, &self.component))
    }

    /// The cache of reduced views of all pods.
    pub fn pods(&self) -> Cache<PodView> {
        self.started_by(|| Cache::of_pods(&self.client, &self.component))
    }

    fn started_by<K: Send + Sync + 'static>(&self, start: impl FnOnce() -> Cache<K>) -> Cache<K> {
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        let cached = started.get(&TypeId::of::<K>());
        if let Some(cache) = cached.and_then(|cache| cache.downcast_ref::<Cache<K>>()) {
            return cache.clone();
        }
        let cache = start();
        started.insert(TypeId::of::<K>(), Box::new(cache.clone()));
        cache
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http::{Request, Response};
    use k8s_openapi::api::core::v1::{ConfigMap, Secret};
    use tokio_util::sync::CancellationToken;

    use super::*;

    #[tokio::test]
    async fn each_kind_is_listed_once() {
        let lists = Arc::new(AtomicUsize::new(0));
        let lists_of_server = lists.clone();
        let respond = move |request: Request<kube_api_client::Body>| {
            let query = request.uri().query().unwrap_or_default();
            let listed = !query.contains("watch=true");
            lists_of_server.fetch_add(usize::from(listed), Ordering::Relaxed);
            let body = r#"{"metadata": {"resourceVersion": "1"}, "items": []}"#.to_owned();
            async move {
                if !listed {
                    std::future::pending::<()>().await;
                }
                Ok::<_, Infallible>(Response::new(body))
            }
        };
        let client = Client::new(tower::service_fn(respond), "default");
        let stop = CancellationToken::new();
        let _end = stop.clone().drop_guard();
        let caches = SharedCaches::new(client, stop.into());
        let (first, second) = (caches.all::<ConfigMap>(), caches.clone().all::<ConfigMap>());
        let other = caches.all::<Secret>();
        assert!(first.wait_synced().await && second.wait_synced().await);
        assert!(other.wait_synced().await && caches.pods().wait_synced().await);
        assert_eq!(lists.load(Ordering::Relaxed), 3);
    }
}
