//! The endpoints controller: keeps EndpointSlices and Endpoints of Services with a selector.

mod execute;
mod observe;

use std::sync::Arc;

use planners::endpoints::plan;
use reconcile::{Change, Key, Outcome, Queue, run_workers, service_of};
use resource_kinds::pod_view::PodView;

use crate::Context;
use execute::Executor;
use observe::Observer;
pub(crate) use observe::term;

/// Services that are worked on at once; as kube-controller-manager.
const WORKERS: usize = 5;

pub(crate) async fn run(context: Context) {
    let observer = Arc::new(Observer::new(&context));
    if !observer.wait_synced().await {
        return;
    }
    let queue = context.queue("endpoint_slice");
    let feed = tokio::spawn(feed(context.clone(), observer.clone(), queue.clone()));
    let executor = Arc::new(Executor::new(&context));
    run_workers(queue, WORKERS, context.shutdown.clone(), move |key: Key| {
        let (observer, executor) = (observer.clone(), executor.clone());
        async move {
            // A slice has no name of its own: what was created must be seen before going on, or
            // it would be created twice. Its arrival wakes this Service again.
            if let Some(wait) = executor.not_seen_yet(&key, &observer.slices) {
                return Ok(Outcome::RequeueAfter(wait));
            }
            let plan = plan(&observer.observe(&key));
            executor.execute(&key, plan).await?;
            Ok::<_, execute::Error>(Outcome::Done)
        }
    })
    .await;
    feed.abort();
}

/// Queues the Services that a change may concern.
async fn feed(context: Context, observer: Arc<Observer>, queue: Queue<Key>) {
    let mut services = context.caches.services.subscribe();
    let mut pods = context.caches.pods.subscribe();
    let mut slices = context.caches.slices.subscribe();
    let mut endpoints = context.caches.endpoints.subscribe();
    let mut nodes = context.caches.nodes.subscribe();
    loop {
        let keys: Vec<Key> = tokio::select! {
            Some(change) = services.next() => vec![Key::of(change.object().as_ref())],
            Some(change) = pods.next() => services_of(&observer, &change),
            Some(change) = slices.next() => {
                service_of(change.object()).into_iter().collect()
            }
            Some(change) = endpoints.next() => vec![Key::of(change.object().as_ref())],
            Some(change) = nodes.next() => match &change {
                Change::Applied(new, Some(old))
                    if observe::zone(new) != observe::zone(old) =>
                {
                    observer.all_services()
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

/// The Services that select the pod, now or before; none if nothing about it matters to them.
fn services_of(observer: &Observer, change: &Change<PodView>) -> Vec<Key> {
    let Change::Applied(new, Some(old)) = change else {
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
