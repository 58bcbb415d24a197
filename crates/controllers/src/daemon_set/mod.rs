//! The DaemonSet controller: a pod on each node that takes one.

mod execute;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use planners::daemon_set::{DAEMON_SET, Fit, Observed, daemon_pod, plan};
use reconcile::{Cache, Change, Key, Outcome, Queue, run_workers};

use crate::Context;
use crate::owned::{key_of, orphan_in, owned_by, owners_of, owners_of_pod};
use execute::{Error, Executor};

/// Sets that are worked on at once.
const WORKERS: usize = 2;

struct Observer {
    context: Context,
    sets: Cache<DaemonSet>,
}

pub(crate) async fn run(context: Context) {
    let caches = &context.caches;
    let observer = Arc::new(Observer {
        sets: context.cache(),
        context: context.clone(),
    });
    if !observer.sets.wait_synced().await
        || !caches.pods.wait_synced().await
        || !caches.nodes.wait_synced().await
        || !caches.revisions.wait_synced().await
    {
        return;
    }
    let queue = context.queue("daemonset");
    let feed = tokio::spawn(feed(observer.clone(), queue.clone()));
    let executor = Arc::new(Executor {
        pods: caches.pods.clone(),
        client: context.client.clone(),
        recorder: context.recorder("daemonset-controller"),
    });
    run_workers(queue, WORKERS, context.shutdown.clone(), move |key: Key| {
        let (observer, executor) = (observer.clone(), executor.clone());
        async move {
            let Some(observed) = observer.observe(&key) else {
                return Ok::<_, Error>(Outcome::Done);
            };
            let plan = plan(&observed, Timestamp::now());
            let requeue_after = plan.requeue_after;
            executor.execute(&observed.set, plan).await?;
            Ok(Outcome::from(requeue_after))
        }
    })
    .await;
    feed.abort();
}

impl Observer {
    fn observe(&self, key: &Key) -> Option<Observed> {
        let set = self.sets.get_key(key)?;
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        let terms = [owned_by(uid), orphan_in(&key.namespace)];
        let by_owner = &self.context.pods_by_owner;
        let pod = daemon_pod(&set);
        let nodes = self.context.caches.nodes.list().into_iter().map(|node| {
            let (starts, stays) = placement::takes(&pod, &node);
            let name = node.metadata.name.clone().unwrap_or_default();
            (name, Fit { starts, stays })
        });
        Some(Observed {
            pods: terms.iter().flat_map(|term| by_owner.get(term)).collect(),
            revisions: terms
                .iter()
                .flat_map(|term| self.context.revisions_by_owner.get(term))
                .collect(),
            nodes: nodes.collect(),
            set,
        })
    }

    fn all(&self) -> Vec<Key> {
        let sets = self.sets.list().into_iter();
        sets.map(|set| Key::of(set.as_ref())).collect()
    }
}

/// Queues the sets that a change may concern.
async fn feed(observer: Arc<Observer>, queue: Queue<Key>) {
    let caches = &observer.context.caches;
    let mut sets = observer.sets.subscribe();
    let mut pods = caches.pods.subscribe();
    let mut revisions = caches.revisions.subscribe();
    let mut nodes = caches.nodes.subscribe();
    loop {
        let keys: Vec<Key> = tokio::select! {
            Some(change) = sets.next() => vec![key_of(&change)],
            Some(change) = pods.next() => owners_of_pod(&change, &observer.sets, DAEMON_SET.1),
            Some(change) = revisions.next() => owners_of(&change, &observer.sets, DAEMON_SET.1),
            Some(change) = nodes.next() => {
                // Nodes tell of themselves all the time; labels and taints are what counts.
                let same = matches!(&change, Change::Applied(new, Some(old))
                    if new.spec == old.spec && new.metadata.labels == old.metadata.labels);
                if same { Vec::new() } else { observer.all() }
            }
            else => return,
        };
        for key in keys {
            queue.add(key);
        }
    }
}
