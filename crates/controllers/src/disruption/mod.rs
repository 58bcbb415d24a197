//! The controller of PodDisruptionBudgets: computes the number of allowed evictions.
//!
//! A status that allows fewer evictions is written at once; other changes soon after a write are collected for a window
//! ([`controller_planners::batching`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use controller_framework::decide;
use controller_framework::{Cache, ObjectChange, Queue, ReconcileResult, Recorder, object_key};
use controller_planners::batching::WINDOW;
use controller_planners::disruption::{
    Observed, PodScale, plan, records_eviction, selected, selector,
};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ReplicationController;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube_api_client::guarded_writes;
use kube_api_client::{Api, PostParams};
use object_model::{IncompleteMetadata, LabelSelector, ObjectKey, Uid};
use resource_kinds::MetadataIdentity;
use resource_kinds::pod_view::PodView;

use crate::Context;
use crate::owned::{Controller, OwnedObject, key_if_spec_changed};
use crate::pacing::Pacing;

#[derive(Debug, thiserror::Error)]
#[error("write the status of a budget")]
struct Error(#[source] kube_api_client::Error);

fn incomplete(error: IncompleteMetadata) -> Error {
    Error(error.into())
}

struct Worker {
    context: Context,
    budgets: Cache<PodDisruptionBudget>,
    deployments: Cache<Deployment>,
    controllers: Cache<ReplicationController>,
    recorder: Recorder,
    pacing: Pacing,
}

pub(crate) async fn run(context: Context) {
    let controller = Worker {
        budgets: context.cache(),
        deployments: context.caches.deployments.clone(),
        controllers: context.caches.replication_controllers.clone(),
        recorder: context.recorder("controllermanager"),
        pacing: Pacing::default(),
        context: context.clone(),
    };
    context.run("disruption", controller).await;
}

impl controller_framework::Controller for Worker {
    type Key = ObjectKey;
    type Error = Error;

    /// Budgets processed at once.
    const WORKERS: usize = 2;

    async fn wait_synced(&self) -> bool {
        let caches = &self.context.caches;
        self.budgets.wait_synced().await
            && self.deployments.wait_synced().await
            && self.controllers.wait_synced().await
            && caches.pods.wait_synced().await
            && caches.replica_sets.wait_synced().await
            && caches.stateful_sets.wait_synced().await
    }

    /// Queues the budgets affected by a change; evictions are recorded in a budget's status.
    async fn feed(&self, queue: &Queue<ObjectKey>) {
        let caches = &self.context.caches;
        let mut budgets = self.budgets.subscribe();
        let mut pods = caches.pods.subscribe_to_changes(|old, new| {
            let both = old.zip(new);
            both.is_none_or(|(old, new)| !counts_alike(old, new))
        });
        let mut deployments = self.deployments.subscribe();
        let mut stateful_sets = caches.stateful_sets.subscribe();
        let mut replica_sets = caches.replica_sets.subscribe();
        loop {
            let keys: Vec<ObjectKey> = tokio::select! {
                Some(change) = budgets.next() => {
                    let evicted = matches!(&change, ObjectChange::Applied(new, Some(old))
                        if new.status != old.status);
                    let key = evicted.then(|| object_key(change.object().as_ref()));
                    key.or_else(|| key_if_spec_changed(&change)).into_iter().collect()
                }
                Some(change) = pods.next() => self.budgets_of(&change),
                Some(change) = deployments.next() => key_if_spec_changed(&change)
                    .map(|key| self.in_namespace(&key.namespace))
                    .unwrap_or_default(),
                Some(change) = stateful_sets.next() => key_if_spec_changed(&change)
                    .map(|key| self.in_namespace(&key.namespace))
                    .unwrap_or_default(),
                Some(change) = replica_sets.next() => key_if_spec_changed(&change)
                    .map(|key| self.in_namespace(&key.namespace))
                    .unwrap_or_default(),
                else => return,
            };
            for key in keys {
                queue.add(key);
            }
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<ReconcileResult, Error> {
        let Some(budget) = self.budgets.get_key(key) else {
            self.pacing.forget(key);
            return Ok(ReconcileResult::Done);
        };
        let pods = self.pods(key, &budget);
        let observed = Observed {
            scales: self
                .scales(&selected(&key.namespace, &budget, &pods))
                .map_err(incomplete)?,
            pods,
            budget: budget.clone(),
        };
        let plan = decide(observed.pods.len(), || plan(&observed, Timestamp::now()))
            .map_err(incomplete)?;
        let later = |delay: Duration| {
            let delay = plan.requeue_after.map_or(delay, |other| other.min(delay));
            Ok(ReconcileResult::RequeueAfter(delay))
        };
        let urgency = plan.urgency(&budget);
        let (Some(status), Some(urgency)) = (plan.status, urgency) else {
            self.pacing.settled(key);
            return Ok(ReconcileResult::from(plan.requeue_after));
        };
        if let Some(wait) = self.pacing.wait(key, urgency) {
            return later(wait);
        }
        if let Some(problem) = plan.problem {
            let text = format!("Failed to calculate the number of expected pods: {problem}");
            self.recorder
                .warning(budget.as_ref(), "CalculateExpectedPodCountFailed", text);
        }
        self.write_status(&budget, status).await?;
        self.pacing.written(key, WINDOW);
        // The pacing data of a budget without changes is removed after the window.
        later(WINDOW)
    }
}

impl Worker {
    /// The pods that the budget selects, and the pods whose eviction the budget records.
    fn pods(&self, key: &ObjectKey, budget: &PodDisruptionBudget) -> Vec<Arc<PodView>> {
        let selector = selector(budget).unwrap_or_else(LabelSelector::nothing);
        let selected = &self.context.pods_by_label;
        let mut pods = selected.selected(&key.namespace, &selector);
        let status = budget.status.as_ref();
        let recorded = status.and_then(|status| status.disrupted_pods.as_ref());
        let recorded = recorded.into_iter().flatten();
        let all = &self.context.caches.pods;
        let recorded = recorded.filter_map(|(name, _)| all.get(&key.namespace, name));
        pods.extend(recorded.filter(|pod| !selector.matches_by(|key| pod.label(key))));
        pods
    }

    /// The budgets that a change of a pod affects.
    fn budgets_of(&self, change: &ObjectChange<PodView>) -> Vec<ObjectKey> {
        let new = change.object();
        let old = match change {
            ObjectChange::Applied(_, Some(old)) => Some(old),
            _ => None,
        };
        let budgets = self.budgets.list_in(&new.namespace).into_iter();
        let affected = budgets.filter(|budget| {
            let selector = selector(budget);
            let selects = |pod: &PodView| {
                let selector = selector.as_ref();
                selector.is_some_and(|selector| selector.matches_by(|key| pod.label(key)))
            };
            selects(new)
                || old.is_some_and(|old| selects(old))
                || records_eviction(budget, &new.name)
        });
        affected.map(|budget| object_key(budget.as_ref())).collect()
    }

    fn scales(&self, pods: &[&PodView]) -> Result<BTreeMap<Uid, PodScale>, IncompleteMetadata> {
        let mut scales = BTreeMap::new();
        for pod in pods {
            let Some(owner) = OwnedObject::of_pod(pod).controller else {
                continue;
            };
            let uid: Uid = owner.uid.parse()?;
            if !scales.contains_key(&uid)
                && let Some(scale) = self.scale(&pod.namespace, &owner)?
            {
                scales.insert(uid, scale);
            }
        }
        Ok(scales)
    }

    /// The scale of that owner's pods; `None` if no scalable controller with the owner's UID is cached.
    fn scale(
        &self,
        namespace: &str,
        owner: &Controller<'_>,
    ) -> Result<Option<PodScale>, IncompleteMetadata> {
        let caches = &self.context.caches;
        let name = owner.name;
        let scaler = match owner.kind {
            "ReplicaSet" => {
                let set = caches.replica_sets.get(namespace, name);
                if let Some(set) = &set
                    && let Some(above) = OwnedObject::of(&**set).controller
                    && above.kind == "Deployment"
                {
                    return self.scale(namespace, &above);
                }
                set.and_then(|set| scaler(&set.metadata, set.spec.as_ref()?.replicas))
            }
            "Deployment" => {
                let deployment = self.deployments.get(namespace, name);
                deployment.and_then(|owner| scaler(&owner.metadata, owner.spec.as_ref()?.replicas))
            }
            "StatefulSet" => {
                let set = caches.stateful_sets.get(namespace, name);
                set.and_then(|set| scaler(&set.metadata, set.spec.as_ref()?.replicas))
            }
            "ReplicationController" => {
                let set = self.controllers.get(namespace, name);
                set.and_then(|set| scaler(&set.metadata, set.spec.as_ref()?.replicas))
            }
            _ => None,
        };
        let scale = scaler.transpose()?;
        Ok(scale.filter(|scale| scale.scaler == *owner.uid))
    }

    async fn write_status(
        &self,
        budget: &PodDisruptionBudget,
        status: PodDisruptionBudgetStatus,
    ) -> Result<(), Error> {
        let key = budget.metadata.object_key().map_err(incomplete)?;
        let api: Api<PodDisruptionBudget> =
            Api::namespaced(self.context.client.clone(), &key.namespace);
        let object = PodDisruptionBudget {
            status: Some(status),
            ..budget.clone()
        };
        let params = PostParams::default();
        let written = api.replace_status(&key.name, &params, &object).await;
        guarded_writes::existing_object(written)
            .map(drop)
            .map_err(Error)
    }

    fn in_namespace(&self, namespace: &str) -> Vec<ObjectKey> {
        let budgets = self.budgets.list_in(namespace);
        let keys = budgets.iter().map(|budget| object_key(budget.as_ref()));
        keys.collect()
    }
}

/// The scale of the controller with this metadata and `spec.replicas`. The option serves callers that read an optional
/// specification.
fn scaler(
    metadata: &ObjectMeta,
    replicas: Option<i32>,
) -> Option<Result<PodScale, IncompleteMetadata>> {
    Some(metadata.object_uid().map(|scaler| PodScale {
        scaler,
        replicas: replicas.unwrap_or(1),
    }))
}

/// Whether both states of a pod have equal facts for budgets.
fn counts_alike(old: &PodView, new: &PodView) -> bool {
    new.uid == old.uid
        && new.labels == old.labels
        && new.controller == old.controller
        && new.deletion == old.deletion
        && new.phase == old.phase
        && new.conditions == old.conditions
}
