//! The StatefulSet controller.
//!
//! Changes of sets, pods, revisions and claims, and the planner's timers, start a plan; the controller never polls. The
//! caches may be old, so each write names the observed version. Changes of a status that no decision depends on are
//! collected for a window ([`controller_planners::batching`]).

mod execute;
mod observe;
mod pod_change;
pub(crate) mod policies;
mod recent_writes;

use std::sync::Arc;

use controller_framework::decide;
use controller_framework::{ObjectChange, Queue, ReconcileResult, object_key};
use controller_planners::batching::WriteUrgency;
use controller_planners::stateful_set::plan;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use object_model::ObjectKey;
use resource_kinds::pod_view::PodView;

use crate::owned::OwnedObject;
use crate::plan_size::plan_size;
use crate::{Caches, Context};
use execute::{Error, Executor};
use observe::Observer;
use pod_change::PlanUrgency;

struct StatefulSets {
    observer: Observer,
    executor: Executor,
    caches: Caches,
}

pub(crate) async fn run(context: Context) {
    let controller = StatefulSets {
        observer: Observer::new(&context),
        executor: Executor {
            client: context.client.clone(),
            cache: context.caches.pods.clone(),
            revisions: context.caches.revisions.clone(),
            recorder: context.recorder("statefulset-controller"),
            refusals: Arc::default(),
            statuses: Arc::default(),
            pacing: Arc::default(),
        },
        caches: context.caches.clone(),
    };
    context.run("statefulset", controller).await;
}

impl controller_framework::Controller for StatefulSets {
    type Key = ObjectKey;
    type Error = Error;

    /// Sets processed at once.
    const WORKERS: usize = 5;

    async fn wait_synced(&self) -> bool {
        self.observer.wait_synced().await
    }

    /// Queues the sets affected by a change.
    async fn feed(&self, queue: &Queue<ObjectKey>) {
        let mut sets = self.caches.stateful_sets.subscribe();
        let mut pods = self.caches.pods.subscribe();
        let mut revisions = self.caches.revisions.subscribe();
        let mut claims = self.caches.claims.subscribe();
        let mut policies = self.observer.policies.policies.subscribe();
        loop {
            let keys: Vec<ObjectKey> = tokio::select! {
                Some(change) = sets.next() => self.keys_of_set(&change),
                Some(change) = pods.next() => {
                    self.feed_pod(queue, &change);
                    continue;
                }
                Some(change) = revisions.next() => self.observer.sets_of(&OwnedObject::of(&**change.object())),
                Some(change) = claims.next() => self.observer.sets_of_claim(change.object()),
                Some(change) = policies.next() => self.observer.policies.sets_of(&change),
                else => return,
            };
            for key in keys {
                queue.add(key);
            }
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<ReconcileResult, Error> {
        let (statuses, pacing) = (&self.executor.statuses, &self.executor.pacing);
        let Some(mut observed) = self.observer.observe(key)? else {
            self.executor.refusals.replace(key, Vec::new());
            statuses.forget(key);
            pacing.forget(key);
            return Ok(ReconcileResult::Done);
        };
        observed.set = statuses.newer(key, observed.set)?;
        observed.refused = self.executor.refusals.of(key);
        let replicas = observed.set.spec.as_ref().and_then(|spec| spec.replicas);
        let size = plan_size(observed.pods.len(), replicas);
        let mut plan = decide(size, || plan(&observed, Timestamp::now()))?;
        let late = match plan.status_urgency(&observed.set) {
            Some(urgency) => pacing.wait(key, urgency),
            None => {
                pacing.settled(key);
                None
            }
        };
        if late.is_some() {
            // The plan at that time contains the status with all changes until then.
            plan.status = None;
        }
        let requeue_after = plan.requeue_after.into_iter().chain(late).min();
        let executed = self.executor.execute(&observed.set, &plan).await;
        // The drop may free thousands of objects, if these are their last references.
        decide(size, || drop((observed, plan)));
        executed?;
        let retry = self.executor.refusals.retry_of(key);
        Ok(ReconcileResult::from(
            requeue_after.into_iter().chain(retry).min(),
        ))
    }
}

impl StatefulSets {
    /// The sets affected by a change of a set: those that share a guard with it count its replicas.
    fn keys_of_set(&self, change: &ObjectChange<StatefulSet>) -> Vec<ObjectKey> {
        let mut keys: Vec<_> = key_if_relevant(change).into_iter().collect();
        let is_same_for_guards = matches!(change, ObjectChange::Applied(new, Some(old))
            if new.spec == old.spec && new.metadata.labels == old.metadata.labels);
        if !is_same_for_guards {
            let namespace = change.object().metadata.namespace.as_deref();
            let policies = &self.observer.policies;
            keys.extend(policies.sets_in_groups(namespace.unwrap_or_default()));
        }
        keys
    }

    /// Queues the sets affected by a change of a pod, at the time at which their plan may act on the change.
    fn feed_pod(&self, queue: &Queue<ObjectKey>, change: &ObjectChange<PodView>) {
        let urgency = PlanUrgency::of(change);
        if urgency == PlanUrgency::None {
            return;
        }
        let mut keys = self.observer.sets_of(&OwnedObject::of_pod(change.object()));
        if let ObjectChange::Applied(_, Some(previous)) = change {
            keys.extend(self.observer.sets_of(&OwnedObject::of_pod(previous)));
        }
        keys.dedup();
        if matches!(urgency, PlanUrgency::Readiness | PlanUrgency::Now) {
            let others = keys.iter();
            let others = others.flat_map(|key| self.observer.policies.sets_in_group_with(key));
            for key in others {
                queue.add(key);
            }
        }
        for key in keys {
            let of_status = match urgency {
                PlanUrgency::WithStatus if !self.observer.counts_decide(&key) => {
                    Some(WriteUrgency::Minor)
                }
                PlanUrgency::Readiness if !self.observer.readiness_decides(&key) => {
                    Some(WriteUrgency::Prompt)
                }
                _ => None,
            };
            let pacing = &self.executor.pacing;
            match of_status.and_then(|urgency| pacing.rest_of(&key, urgency)) {
                Some(rest) => queue.add_after(key, rest),
                None => queue.add(key),
            }
        }
    }
}

/// The key of a changed set. Changes of the controller's own conditions are ignored: a message that changes each time
/// would cause endless plans.
fn key_if_relevant(change: &ObjectChange<StatefulSet>) -> Option<ObjectKey> {
    if let ObjectChange::Applied(new, Some(old)) = change
        && new.spec == old.spec
        && new.metadata.deletion_timestamp == old.metadata.deletion_timestamp
        && new.metadata.uid == old.metadata.uid
        && new.metadata.generation == old.metadata.generation
        && new.metadata.annotations == old.metadata.annotations
        // Policies select sets by their labels.
        && new.metadata.labels == old.metadata.labels
        && without_conditions(new) == without_conditions(old)
    {
        return None;
    }
    Some(object_key(change.object().as_ref()))
}

fn without_conditions(set: &StatefulSet) -> Option<StatefulSetStatus> {
    let status = set.status.clone();
    status.map(|status| StatefulSetStatus {
        conditions: None,
        ..status
    })
}
