//! The DaemonSet controller: one pod on each eligible node.

mod execute;

use controller_framework::decide;
use controller_framework::{Cache, ObjectChange, Queue, ReconcileResult, object_key};
use controller_planners::daemon_set::{DAEMON_SET, NodeFit, Observed, daemon_pod, plan};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use object_model::{IncompleteMetadata, ObjectKey};
use resource_kinds::MetadataIdentity;

use crate::Context;
use crate::owned::{key_of, orphan_in, owned_by, owners_of, owners_of_pod, pods_for_owners};
use execute::{Error, Executor};

struct Observer {
    context: Context,
    sets: Cache<DaemonSet>,
}

struct DaemonSets {
    observer: Observer,
    executor: Executor,
}

pub(crate) async fn run(context: Context) {
    let controller = DaemonSets {
        observer: Observer {
            sets: context.cache(),
            context: context.clone(),
        },
        executor: Executor {
            pods: context.caches.pods.clone(),
            client: context.client.clone(),
            recorder: context.recorder("daemonset-controller"),
        },
    };
    context.run("daemonset", controller).await;
}

impl controller_framework::Controller for DaemonSets {
    type Key = ObjectKey;
    type Error = Error;

    /// Sets processed at once.
    const WORKERS: usize = 2;

    async fn wait_synced(&self) -> bool {
        let caches = &self.observer.context.caches;
        self.observer.sets.wait_synced().await
            && caches.pods.wait_synced().await
            && caches.nodes.wait_synced().await
            && caches.revisions.wait_synced().await
    }

    /// Queues the sets affected by a change.
    async fn feed(&self, queue: &Queue<ObjectKey>) {
        let caches = &self.observer.context.caches;
        let mut sets = self.observer.sets.subscribe();
        let mut pods = pods_for_owners(DAEMON_SET.kind, &caches.pods);
        let mut revisions = caches.revisions.subscribe();
        let mut nodes = caches.nodes.subscribe();
        loop {
            let keys: Vec<ObjectKey> = tokio::select! {
                Some(change) = sets.next() => vec![key_of(&change)],
                Some(change) = pods.next() => owners_of_pod(&change, &self.observer.sets, DAEMON_SET.kind),
                Some(change) = revisions.next() => owners_of(&change, &self.observer.sets, DAEMON_SET.kind),
                Some(change) = nodes.next() => {
                    // Nodes update their status frequently; only changes of labels and taints matter.
                    let same = matches!(&change, ObjectChange::Applied(new, Some(old))
                        if new.spec == old.spec && new.metadata.labels == old.metadata.labels);
                    if same { Vec::new() } else { self.observer.all() }
                }
                else => return,
            };
            for key in keys {
                queue.add(key);
            }
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<ReconcileResult, Error> {
        let Some(observed) = self.observer.observe(key)? else {
            return Ok(ReconcileResult::Done);
        };
        let plan = decide(observed.nodes.len(), || plan(&observed, Timestamp::now()))?;
        let requeue_after = plan.requeue_after;
        self.executor.execute(&observed.set, plan).await?;
        Ok(ReconcileResult::from(requeue_after))
    }
}

impl Observer {
    /// `None` if the set does not exist.
    fn observe(&self, key: &ObjectKey) -> Result<Option<Observed>, IncompleteMetadata> {
        let Some(set) = self.sets.get_key(key) else {
            return Ok(None);
        };
        let uid = set.metadata.object_uid()?;
        let terms = [owned_by(uid.as_str()), orphan_in(&key.namespace)];
        let by_owner = &self.context.pods_by_owner;
        let pod = daemon_pod(&set)?;
        let nodes = self.context.caches.nodes.list().into_iter().map(|node| {
            let (starts, stays) = pod_placement::takes(&pod, &node);
            let name = node.metadata.object_name()?.to_owned();
            Ok((name, NodeFit { starts, stays }))
        });
        Ok(Some(Observed {
            pods: terms.iter().flat_map(|term| by_owner.get(term)).collect(),
            revisions: terms
                .iter()
                .flat_map(|term| self.context.revisions_by_owner.get(term))
                .collect(),
            nodes: nodes.collect::<Result<_, _>>()?,
            set,
        }))
    }

    fn all(&self) -> Vec<ObjectKey> {
        let sets = self.sets.list().into_iter();
        sets.map(|set| object_key(set.as_ref())).collect()
    }
}
