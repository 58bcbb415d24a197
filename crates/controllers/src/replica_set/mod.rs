//! The controllers of ReplicaSets and ReplicationControllers: two kinds, one planner.

use std::sync::Arc;

use controller_framework::decide;
use controller_framework::{Cache, Object, Queue, ReconcileResult, Recorder};
use controller_planners::pod_set::OwnerKind;
use controller_planners::replica_set::{self as planner, Observed, ReplicaSetPlan, plan};
use jiff::Timestamp;
use json_tree::json;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::ReplicationController;
use kube_api_client::guarded_writes;
use kube_api_client::{Api, PostParams, Resource};
use object_model::{IncompleteMetadata, ObjectKey};
use resource_kinds::MetadataIdentity;
use serde::Serialize;

use crate::Context;
use crate::owned::{key_of, orphan_in, owned_by, owners_of_pod, pods_for_owners};
use crate::plan_size::plan_size;
use crate::pod_writer::{PodError, PodWriter};

/// A kind that this planner supports.
pub(crate) trait Replicated:
    Object + Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Serialize
{
    const KIND: OwnerKind;
    /// The component name of its events.
    const COMPONENT: &'static str;
    /// The name of the queue in metrics.
    const QUEUE: &'static str;

    /// The object as a ReplicaSet.
    fn converted(self: Arc<Self>) -> Arc<ReplicaSet>;
    /// The object with a new status.
    fn with_status(&self, status: ReplicaSetStatus) -> Self;
}

impl Replicated for ReplicaSet {
    const KIND: OwnerKind = planner::REPLICA_SET;
    const COMPONENT: &'static str = "replicaset-controller";
    const QUEUE: &'static str = "replicaset";

    fn converted(self: Arc<Self>) -> Arc<ReplicaSet> {
        self
    }

    fn with_status(&self, status: ReplicaSetStatus) -> Self {
        Self {
            status: Some(status),
            ..self.clone()
        }
    }
}

impl Replicated for ReplicationController {
    const KIND: OwnerKind = planner::REPLICATION_CONTROLLER;
    const COMPONENT: &'static str = "replication-controller";
    const QUEUE: &'static str = "replicationmanager";

    fn converted(self: Arc<Self>) -> Arc<ReplicaSet> {
        Arc::new(planner::converted(&self))
    }

    fn with_status(&self, status: ReplicaSetStatus) -> Self {
        Self {
            // Both types have equal field names.
            status: json_tree::from_value(json!(status)).ok(),
            ..self.clone()
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("write the pods of a ReplicaSet or a ReplicationController")]
    Pods(#[from] PodError),
    #[error("identity of an object")]
    Identity(#[from] IncompleteMetadata),
    #[error("write the status of a ReplicaSet or a ReplicationController")]
    Status(#[source] kube_api_client::Error),
}

/// Runs the controller of one kind.
pub(crate) async fn run<K: Replicated>(context: Context)
where
    Cache<K>: FromContext,
{
    let controller = Worker {
        sets: Cache::<K>::from_context(&context),
        recorder: context.recorder(K::COMPONENT),
        context: context.clone(),
    };
    context.run(K::QUEUE, controller).await;
}

impl<K: Replicated> controller_framework::Controller for Worker<K> {
    type Key = ObjectKey;
    type Error = Error;

    /// Sets processed at once.
    const WORKERS: usize = 5;

    async fn wait_synced(&self) -> bool {
        self.sets.wait_synced().await && self.context.caches.pods.wait_synced().await
    }

    /// Queues the sets affected by a change.
    async fn feed(&self, queue: &Queue<ObjectKey>) {
        let mut sets = self.sets.subscribe();
        let mut pods = pods_for_owners(K::KIND.kind, &self.context.caches.pods);
        loop {
            let keys: Vec<ObjectKey> = tokio::select! {
                Some(change) = sets.next() => vec![key_of(&change)],
                Some(change) = pods.next() => owners_of_pod(&change, &self.sets, K::KIND.kind),
                else => return,
            };
            for key in keys {
                queue.add(key);
            }
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<ReconcileResult, Error> {
        let Some(set) = self.sets.get_key(key) else {
            return Ok(ReconcileResult::Done);
        };
        let observed = self.observe(&set)?;
        let replicas = observed.set.spec.as_ref().and_then(|spec| spec.replicas);
        let size = plan_size(observed.pods.len(), replicas);
        let plan = decide(size, || plan(&observed, Timestamp::now()))?;
        let requeue_after = plan.requeue_after;
        match self.execute(&set, &observed, plan).await {
            Err(Error::Pods(error)) if error.is_end_of_namespace() => Ok(ReconcileResult::Done),
            Err(error) => Err(error),
            Ok(()) => Ok(ReconcileResult::from(requeue_after)),
        }
    }
}

/// The source of a controller's objects.
pub(crate) trait FromContext {
    /// The shared cache.
    fn from_context(context: &Context) -> Self;
}

impl FromContext for Cache<ReplicaSet> {
    fn from_context(context: &Context) -> Self {
        context.caches.replica_sets.clone()
    }
}

impl FromContext for Cache<ReplicationController> {
    fn from_context(context: &Context) -> Self {
        context.caches.replication_controllers.clone()
    }
}

struct Worker<K: Object> {
    context: Context,
    sets: Cache<K>,
    recorder: Recorder,
}

impl<K: Replicated> Worker<K> {
    fn observe(&self, set: &Arc<K>) -> Result<Observed, IncompleteMetadata> {
        let uid = set.meta().object_uid()?;
        let namespace = set.meta().object_namespace()?;
        let mut pods = self.context.pods_by_owner.get(&owned_by(uid.as_str()));
        pods.extend(self.context.pods_by_owner.get(&orphan_in(namespace)));
        Ok(Observed {
            kind: K::KIND,
            set: set.clone().converted(),
            pods,
        })
    }

    /// Executes a plan. The status is written even if writes to pods fail.
    async fn execute(
        &self,
        set: &K,
        observed: &Observed,
        plan: ReplicaSetPlan,
    ) -> Result<(), Error> {
        let writer = PodWriter {
            owner: set,
            client: &self.context.client,
            cache: &self.context.caches.pods,
            recorder: &self.recorder,
            finalizer: None,
        };
        let done = writer.perform(&plan.actions).await;
        let stored = observed.set.status.as_ref();
        let mut status = plan.status;
        if let Some((action, message)) = done.as_ref().err().and_then(PodError::failure) {
            let now = Timestamp::now();
            status = planner::with_failure(status, stored, action, message, now);
        }
        let written = if planner::differs(stored, &status) {
            self.write_status(set, status).await
        } else {
            Ok(())
        };
        done?;
        written
    }

    async fn write_status(&self, set: &K, status: ReplicaSetStatus) -> Result<(), Error> {
        let namespace = set.meta().object_namespace()?;
        let api: Api<K> = Api::namespaced(self.context.client.clone(), namespace);
        let name = set.meta().object_name()?;
        let object = set.with_status(status);
        let params = PostParams::default();
        let written = api.replace_status(name, &params, &object).await;
        guarded_writes::existing_object(written)
            .map(drop)
            .map_err(Error::Status)
    }
}
