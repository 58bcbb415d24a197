//! The Deployment controller: keeps the ReplicaSets of each Deployment.

mod execute;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use planners::deployment::{Observed, plan};
use planners::ownership::controller;
use reconcile::{Cache, Change, Index, Key, Outcome, Queue, run_workers};
use resource_kinds::pod_view::PodView;

use crate::Context;
use crate::owned::{key_of, named, orphan_in, owned_by, owners_of, terms};
use execute::{Error, Executor};

/// Deployments that are worked on at once.
const WORKERS: usize = 5;
const KIND: &str = "Deployment";

struct Observer {
    deployments: Cache<Deployment>,
    sets: Cache<ReplicaSet>,
    sets_by: Index<ReplicaSet>,
    pods_by_owner: Index<PodView>,
}

pub(crate) async fn run(context: Context) {
    let sets = context.caches.replica_sets.clone();
    let observer = Arc::new(Observer {
        deployments: context.caches.deployments.clone(),
        sets_by: sets.index(terms),
        sets: sets.clone(),
        pods_by_owner: context.pods_by_owner.clone(),
    });
    let pods = &context.caches.pods;
    if !observer.deployments.wait_synced().await
        || !sets.wait_synced().await
        || !pods.wait_synced().await
    {
        return;
    }
    let queue = context.queue("deployment");
    let feed = tokio::spawn(feed(context.clone(), observer.clone(), queue.clone()));
    let executor = Arc::new(Executor {
        client: context.client.clone(),
        recorder: context.recorder("deployment-controller"),
    });
    run_workers(queue, WORKERS, context.shutdown.clone(), move |key: Key| {
        let (observer, executor) = (observer.clone(), executor.clone());
        async move {
            let Some(observed) = observer.observe(&key) else {
                return Ok::<_, Error>(Outcome::Done);
            };
            let plan = plan(&observed, Timestamp::now());
            let requeue_after = plan.requeue_after;
            executor.execute(&observed.deployment, plan).await?;
            Ok(Outcome::from(requeue_after))
        }
    })
    .await;
    feed.abort();
}

impl Observer {
    fn observe(&self, key: &Key) -> Option<Observed> {
        let deployment = self.deployments.get_key(key)?;
        let uid = deployment.metadata.uid.as_deref().unwrap_or_default();
        let terms = [
            owned_by(uid),
            orphan_in(&key.namespace),
            named(&key.namespace, &key.name),
        ];
        let sets: BTreeMap<_, Arc<ReplicaSet>> = terms
            .iter()
            .flat_map(|term| self.sets_by.get(term))
            .map(|set| (set.metadata.name.clone(), set))
            .collect();
        let pods = sets
            .values()
            .filter_map(|set| set.metadata.uid.as_deref())
            .flat_map(|uid| self.pods_by_owner.get(&owned_by(uid)))
            .collect();
        Some(Observed {
            pods,
            sets: sets.into_values().collect(),
            deployment,
        })
    }

    /// The Deployment that waits for a pod to go before it starts others.
    fn waiting_for(&self, change: &Change<PodView>) -> Option<Key> {
        let pod = change.object();
        let namespace = &pod.namespace;
        let set = self.sets.get(namespace, &pod.controller.as_ref()?.name)?;
        let owner = controller(set.metadata.owner_references.as_deref())?;
        let deployment = self.deployments.get(namespace, &owner.name)?;
        let strategy = deployment.spec.as_ref()?.strategy.as_ref()?;
        (strategy.type_.as_deref() == Some("Recreate")).then(|| Key::of(deployment.as_ref()))
    }
}

/// Queues the Deployments that a change may concern.
async fn feed(context: Context, observer: Arc<Observer>, queue: Queue<Key>) {
    let mut deployments = observer.deployments.subscribe();
    let mut sets = observer.sets.subscribe();
    let mut pods = context.caches.pods.subscribe();
    loop {
        let keys: Vec<Key> = tokio::select! {
            Some(change) = deployments.next() => vec![key_of(&change)],
            Some(change) = sets.next() => owners_of(&change, &observer.deployments, KIND),
            Some(change) = pods.next() => observer.waiting_for(&change).into_iter().collect(),
            else => return,
        };
        for key in keys {
            queue.add(key);
        }
    }
}
