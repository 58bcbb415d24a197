//! The Deployment controller.

mod execute;

use std::collections::BTreeMap;
use std::sync::Arc;

use controller_framework::{Cache, Index, ObjectChange, Queue, ReconcileResult, object_key};
use controller_planners::deployment::{Observed, plan};
use controller_planners::ownership::controller;
use controller_planners::replica_set::REPLICA_SET;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use object_model::{IncompleteMetadata, ObjectKey};
use resource_kinds::MetadataIdentity;
use resource_kinds::pod_view::PodView;

use crate::Context;
use crate::owned::{key_of, named, orphan_in, owned_by, owners_of, pods_for_owners, terms};
use execute::{Error, Executor};

const KIND: &str = "Deployment";

struct Observer {
    deployments: Cache<Deployment>,
    sets: Cache<ReplicaSet>,
    sets_by: Index<ReplicaSet>,
    pods_by_owner: Index<PodView>,
}

struct Deployments {
    observer: Observer,
    executor: Executor,
    pods: Cache<PodView>,
}

pub(crate) async fn run(context: Context) {
    let sets = context.caches.replica_sets.clone();
    let controller = Deployments {
        observer: Observer {
            deployments: context.caches.deployments.clone(),
            sets_by: sets.index(terms),
            sets,
            pods_by_owner: context.pods_by_owner.clone(),
        },
        executor: Executor {
            client: context.client.clone(),
            recorder: context.recorder("deployment-controller"),
        },
        pods: context.caches.pods.clone(),
    };
    context.run("deployment", controller).await;
}

impl controller_framework::Controller for Deployments {
    type Key = ObjectKey;
    type Error = Error;

    /// Deployments processed at once.
    const WORKERS: usize = 5;

    async fn wait_synced(&self) -> bool {
        self.observer.deployments.wait_synced().await
            && self.observer.sets.wait_synced().await
            && self.pods.wait_synced().await
    }

    /// Queues the Deployments affected by a change.
    async fn feed(&self, queue: &Queue<ObjectKey>) {
        let mut deployments = self.observer.deployments.subscribe();
        let mut sets = self.observer.sets.subscribe();
        let mut pods = pods_for_owners(REPLICA_SET.kind, &self.pods);
        loop {
            let keys: Vec<ObjectKey> = tokio::select! {
                Some(change) = deployments.next() => vec![key_of(&change)],
                Some(change) = sets.next() => owners_of(&change, &self.observer.deployments, KIND),
                Some(change) = pods.next() => self.observer.waiting_for(&change).into_iter().collect(),
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
        let plan = plan(&observed, Timestamp::now())?;
        let requeue_after = plan.requeue_after;
        self.executor.execute(&observed.deployment, plan).await?;
        Ok(ReconcileResult::from(requeue_after))
    }
}

impl Observer {
    /// `None` if the Deployment does not exist.
    fn observe(&self, key: &ObjectKey) -> Result<Option<Observed>, IncompleteMetadata> {
        let Some(deployment) = self.deployments.get_key(key) else {
            return Ok(None);
        };
        let uid = deployment.metadata.object_uid()?;
        let terms = [
            owned_by(uid.as_str()),
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
        Ok(Some(Observed {
            pods,
            sets: sets.into_values().collect(),
            deployment,
        }))
    }

    /// The Deployment that waits for the end of this pod before it starts new pods.
    fn waiting_for(&self, change: &ObjectChange<PodView>) -> Option<ObjectKey> {
        let pod = change.object();
        let namespace = &pod.namespace;
        let set = self.sets.get(namespace, &pod.controller.as_ref()?.name)?;
        let owner = controller(set.metadata.owner_references.as_deref())?;
        let deployment = self.deployments.get(namespace, &owner.name)?;
        let strategy = deployment.spec.as_ref()?.strategy.as_ref()?;
        (strategy.type_.as_deref() == Some("Recreate")).then(|| object_key(deployment.as_ref()))
    }
}
