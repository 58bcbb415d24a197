//! Watches whether nodes are heard from, marks those that are not, and moves their pods away.

mod execute;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::api::Api;
use planners::node_health::{Heard, Observed, evictions, plan};
use reconcile::{Cache, Change, Index, Key, Outcome, Queue, WatchConfig, run_workers};
use resource_kinds::pod_view::PodView;

use crate::Context;
use execute::{Error, Executor};

const WORKERS: usize = 4;
/// Where nodes renew their leases.
const LEASES: &str = "kube-node-lease";

struct Observer {
    nodes: Cache<Node>,
    leases: Cache<Lease>,
    pods_by_node: Index<PodView>,
    heard: Mutex<Heard>,
}

pub(crate) async fn run(context: Context) {
    let leases: Api<Lease> = Api::namespaced(context.client.clone(), LEASES);
    let observer = Arc::new(Observer {
        nodes: context.caches.nodes.clone(),
        leases: Cache::spawn(leases, WatchConfig::default(), context.shutdown.clone()),
        pods_by_node: context
            .caches
            .pods
            .index(|pod| node_of(pod).into_iter().collect()),
        heard: Mutex::default(),
    });
    let synced = observer.nodes.wait_synced().await
        && observer.leases.wait_synced().await
        && context.caches.pods.wait_synced().await;
    if !synced {
        return;
    }
    let queue = context.queue("node_lifecycle_controller");
    let feed = tokio::spawn(feed(context.clone(), observer.clone(), queue.clone()));
    let executor = Executor {
        client: context.client.clone(),
        recorder: context.recorder("node-controller"),
    };
    run_workers(queue, WORKERS, context.shutdown.clone(), move |key: Key| {
        let (observer, executor) = (observer.clone(), executor.clone());
        async move { check(&observer, &executor, &key.name).await }
    })
    .await;
    feed.abort();
}

async fn check(observer: &Observer, executor: &Executor, name: &str) -> Result<Outcome, Error> {
    let Some(node) = observer.nodes.get("", name) else {
        let mut heard = observer
            .heard
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        heard.retain(|name| observer.nodes.get("", name).is_some());
        return Ok(Outcome::Done);
    };
    let now = Timestamp::now();
    let pods = observer.pods_by_node.get(name);
    let last_heard = observer.last_heard(&node, now);
    let observed = Observed {
        node: node.clone(),
        last_heard,
        pods,
    };
    let plan = plan(&observed, now);
    let evictions = evictions(&node, &observed.pods, now);
    let wake = [plan.wake_at, evictions.wake_at]
        .into_iter()
        .flatten()
        .min();
    executor.execute(&node, plan).await?;
    executor.evict(&evictions.now).await?;
    let wait = wake.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default());
    Ok(Outcome::from(wait))
}

impl Observer {
    fn last_heard(&self, node: &Node, now: Timestamp) -> Timestamp {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let lease = self.leases.get(LEASES, name);
        let renewed = lease.and_then(|lease| {
            lease
                .spec
                .as_ref()
                .and_then(|spec| spec.renew_time.as_ref().map(|time| time.0))
        });
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.last(node, renewed, now)
    }
}

/// Queues nodes that say something, or change, and those of new pods.
async fn feed(context: Context, observer: Arc<Observer>, queue: Queue<Key>) {
    let mut nodes = observer.nodes.subscribe();
    let mut leases = observer.leases.subscribe();
    let mut pods = context.caches.pods.subscribe();
    loop {
        let node = tokio::select! {
            Some(change) = nodes.next() => change.object().metadata.name.clone(),
            // A renewal needs no work, only to be noted.
            Some(change) = leases.next() => match &change {
                Change::Applied(lease, _) => {
                    let name = lease.metadata.name.as_deref().unwrap_or_default();
                    if let Some(node) = observer.nodes.get("", name) {
                        observer.last_heard(&node, Timestamp::now());
                        lease.metadata.name.clone().filter(|_| was_lost(&node))
                    } else {
                        None
                    }
                }
                Change::Deleted(_) => None,
            },
            Some(change) = pods.next() => match &change {
                Change::Applied(new, Some(old)) if node_of(new) == node_of(old) => None,
                Change::Applied(new, _) => node_of(new),
                Change::Deleted(_) => None,
            },
            else => return,
        };
        if let Some(node) = node {
            queue.add(Key::cluster(node));
        }
    }
}

fn was_lost(node: &Node) -> bool {
    let status = node.status.as_ref();
    let mut conditions = status
        .into_iter()
        .flat_map(|status| status.conditions.iter().flatten());
    !conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn node_of(pod: &PodView) -> Option<String> {
    pod.node.as_ref().map(ToString::to_string)
}
