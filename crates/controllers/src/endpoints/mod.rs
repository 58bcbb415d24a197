//! The endpoints controller: maintains EndpointSlices and Endpoints of Services.

mod execute;
mod observe;

use planners::endpoints::plan;
use reconcile::{Key, ObjectChange, Queue, ReconcileResult, service_of};
use resource_kinds::pod_view::PodView;

use crate::{Caches, Context};
use execute::Executor;
use observe::Observer;
pub(crate) use observe::term;

struct Endpoints {
    observer: Observer,
    executor: Executor,
    caches: Caches,
}

pub(crate) async fn run(context: Context) {
    let controller = Endpoints {
        observer: Observer::new(&context),
        executor: Executor::new(&context),
        caches: context.caches.clone(),
    };
    context.run("endpoint_slice", controller).await;
}

impl reconcile::Controller for Endpoints {
    type Key = Key;
    type Error = execute::Error;

    /// Services processed at once; as kube-controller-manager.
    const WORKERS: usize = 5;

    async fn wait_synced(&self) -> bool {
        self.observer.wait_synced().await
    }

    /// Queues the Services affected by a change.
    async fn feed(&self, queue: &Queue<Key>) {
        let mut services = self.caches.services.subscribe();
        let mut pods = self.caches.pods.subscribe();
        let mut slices = self.caches.slices.subscribe();
        let mut endpoints = self.caches.endpoints.subscribe();
        let mut nodes = self.caches.nodes.subscribe();
        loop {
            let keys: Vec<Key> = tokio::select! {
                Some(change) = services.next() => vec![Key::of(change.object().as_ref())],
                Some(change) = pods.next() => services_of(&self.observer, &change),
                Some(change) = slices.next() => {
                    service_of(change.object()).into_iter().collect()
                }
                Some(change) = endpoints.next() => vec![Key::of(change.object().as_ref())],
                Some(change) = nodes.next() => match &change {
                    ObjectChange::Applied(new, Some(old))
                        if observe::zone(new) != observe::zone(old) =>
                    {
                        self.observer.all_services()
                    }
                    _ => Vec::new(),
                },
                else => return,
            };
            for key in keys {
                queue.add(key);
            }
        }
    }

    async fn reconcile(&self, key: &Key) -> Result<ReconcileResult, execute::Error> {
        // Slices have generated names: a created slice must be visible before the next plan, or it
        // would be created twice. Its arrival queues this Service again.
        if let Some(wait) = self.executor.not_seen_yet(key, &self.observer.slices) {
            return Ok(ReconcileResult::RequeueAfter(wait));
        }
        let plan = plan(&self.observer.observe(key));
        self.executor.execute(key, plan).await?;
        Ok(ReconcileResult::Done)
    }
}

/// The Services that select the pod, now or before; none if the change does not affect endpoints.
fn services_of(observer: &Observer, change: &ObjectChange<PodView>) -> Vec<Key> {
    let ObjectChange::Applied(new, Some(old)) = change else {
        return observer.services_of(change.object());
    };
    let mut keys = Vec::new();
    if new.labels != old.labels {
        keys.extend(observer.services_of(old));
    } else if new.uid == old.uid
        && new.deletion == old.deletion
        && new.phase == old.phase
        && new.conditions == old.conditions
        && new.addresses == old.addresses
    {
        return keys;
    }
    keys.extend(observer.services_of(new));
    keys
}
