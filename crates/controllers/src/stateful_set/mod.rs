//! The StatefulSet controller.
//!
//! It is woken by changes of sets, pods, revisions and claims, and by the planner's timers; it
//! never polls. The caches may be old, so each write names the observed state. Changes of a status
//! that nothing depends on are collected for a window ([`planners::batching`]).

mod execute;
mod observe;
mod own_writes;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use planners::stateful_set::plan;
use reconcile::polls::decide;
use reconcile::{Key, ObjectChange, Queue, ReconcileResult};
use resource_kinds::pod_view::{Condition, PodView};
use resource_kinds::reasons::pod_condition;

use crate::owned::OwnedObject;
use crate::{Caches, Context};
use execute::{Error, Executor};
use observe::Observer;

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

impl reconcile::Controller for StatefulSets {
    type Key = Key;
    type Error = Error;

    /// Sets processed at once.
    const WORKERS: usize = 5;

    async fn wait_synced(&self) -> bool {
        self.observer.wait_synced().await
    }

    /// Queues the sets affected by a change.
    async fn feed(&self, queue: &Queue<Key>) {
        let mut sets = self.caches.stateful_sets.subscribe();
        let mut pods = self.caches.pods.subscribe();
        let mut revisions = self.caches.revisions.subscribe();
        let mut claims = self.caches.claims.subscribe();
        loop {
            let keys: Vec<Key> = tokio::select! {
                Some(change) = sets.next() => key_if_relevant(&change).into_iter().collect(),
                Some(change) = pods.next() => {
                    let mut keys = self.observer.sets_of(&OwnedObject::of_pod(change.object()));
                    if let ObjectChange::Applied(now, Some(previous)) = &change {
                        if is_first_binding(now, previous) {
                            continue;
                        }
                        keys.extend(self.observer.sets_of(&OwnedObject::of_pod(previous)));
                    }
                    keys
                }
                Some(change) = revisions.next() => self.observer.sets_of(&OwnedObject::of(&**change.object())),
                Some(change) = claims.next() => self.observer.sets_of_claim(change.object()),
                else => return,
            };
            for key in keys {
                queue.add(key);
            }
        }
    }

    async fn reconcile(&self, key: &Key) -> Result<ReconcileResult, Error> {
        let (statuses, pacing) = (&self.executor.statuses, &self.executor.pacing);
        let Some(mut observed) = self.observer.observe(key) else {
            self.executor.refusals.replace(key, Vec::new());
            statuses.forget(key);
            pacing.forget(key);
            return Ok(ReconcileResult::Done);
        };
        observed.set = statuses.newer(key, observed.set);
        observed.refused = self.executor.refusals.of(key);
        let mut plan = decide(observed.pods.len(), || plan(&observed, Timestamp::now()));
        let late = match plan.status_urgency(&observed.set) {
            Some(urgency) => pacing.wait(key, urgency),
            None => {
                pacing.settled(key);
                None
            }
        };
        if late.is_some() {
            // The plan at that time has the status with all changes until then.
            plan.status = None;
        }
        let requeue_after = plan.requeue_after.into_iter().chain(late).min();
        self.executor.execute(&observed.set, plan).await?;
        Ok(ReconcileResult::from(requeue_after))
    }
}

/// Whether a new pod got its node, and nothing else has changed. No plan reads the node of a pod, so one of three
/// plans of a starting pod is not needed.
fn is_first_binding(new: &PodView, old: &PodView) -> bool {
    let scheduled = new.condition(pod_condition::SCHEDULED);
    let only_scheduled = new.conditions.len() <= 1
        && (new.conditions.is_empty() || scheduled.is_some_and(Condition::holds));
    old.node.is_none()
        && new.node.is_some()
        && old.conditions.is_empty()
        && only_scheduled
        && *old
            == PodView {
                node: None,
                conditions: Box::default(),
                resource_version: old.resource_version.clone(),
                ..new.clone()
            }
}

/// The controller's own conditions need no new plan: a message that changes each time would keep it
/// busy.
fn key_if_relevant(change: &ObjectChange<StatefulSet>) -> Option<Key> {
    if let ObjectChange::Applied(new, Some(old)) = change
        && new.spec == old.spec
        && new.metadata.deletion_timestamp == old.metadata.deletion_timestamp
        && new.metadata.uid == old.metadata.uid
        && new.metadata.generation == old.metadata.generation
        && new.metadata.annotations == old.metadata.annotations
        && without_conditions(new) == without_conditions(old)
    {
        return None;
    }
    Some(Key::of(change.object().as_ref()))
}

fn without_conditions(set: &StatefulSet) -> Option<StatefulSetStatus> {
    let status = set.status.clone();
    status.map(|status| StatefulSetStatus {
        conditions: None,
        ..status
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use resource_kinds::pod_view::Sharing;
    use serde_json::{Value, json};

    use super::*;

    fn view(change: impl FnOnce(&mut Value)) -> PodView {
        let mut pod = json!({
            "metadata": {"name": "web-0", "namespace": "default", "uid": "1", "labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c"}]},
            "status": {"phase": "Pending"},
        });
        change(&mut pod);
        let pod: Pod = serde_json::from_value(pod).unwrap();
        Sharing::default().pod(&pod)
    }

    /// statefulset.md: the order of a set depends on phase, readiness, revision and deletion of its pods, and not on
    /// their nodes.
    #[test]
    fn a_first_binding_alone_needs_no_plan() {
        let new = view(|_| ());
        let bind = |pod: &mut Value| {
            pod["spec"]["nodeName"] = "n".into();
            pod["status"]["conditions"] = json!([{"type": "PodScheduled", "status": "True"}]);
        };
        let bound = view(bind);
        assert!(is_first_binding(&bound, &new));
        assert!(!is_first_binding(&bound, &bound));
        assert!(!is_first_binding(&new, &bound));
        for path in ["/metadata/labels/a", "/status/phase", "/status/message"] {
            let changed = view(|pod| {
                bind(pod);
                let (object, name) = path.rsplit_once('/').unwrap();
                pod.pointer_mut(object).unwrap()[name] = "Running".into();
            });
            assert!(!is_first_binding(&changed, &new), "{path}");
        }
        let refused = view(|pod| {
            pod["status"]["conditions"] = json!([{"type": "PodScheduled", "status": "False"}]);
        });
        assert!(!is_first_binding(&bound, &refused));
    }
}
