//! The changes of a pod that a plan of its set acts on.
//!
//! A started pod changes three times and a deleted pod twice, and a plan reads all pods of the set: fewer plans reduce
//! the cost of a large set considerably.

use controller_framework::ObjectChange;
use controller_planners::stateful_set::identity;
use resource_kinds::pod_view::{Condition, Phase, PodView};
use resource_kinds::reasons::pod_condition;

/// The time at which a set is planned after a change of one of its pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PlanUrgency {
    /// No plan reads the change.
    None,
    /// Only counters of the status change. If the counters may not be written yet, an earlier plan would have no
    /// effect.
    WithStatus,
    /// A pod became ready: in a set without an order and without an update, only the status changes.
    Readiness,
    /// The set may have a write to plan.
    Now,
}

impl PlanUrgency {
    pub fn of(change: &ObjectChange<PodView>) -> Self {
        match change {
            ObjectChange::Applied(new, None) if is_just_created(new) => Self::WithStatus,
            ObjectChange::Applied(new, Some(old)) if is_first_binding(new, old) => Self::None,
            ObjectChange::Applied(new, Some(old)) if is_start_of_deletion(new, old) => {
                Self::WithStatus
            }
            ObjectChange::Applied(new, Some(old)) if is_readiness(new, old) => Self::Readiness,
            _ => Self::Now,
        }
    }
}

/// Whether a set's pod is unchanged since its creation. The next step of the set waits for its readiness.
fn is_just_created(new: &PodView) -> bool {
    let owner = new.controller.as_ref();
    owner.is_some_and(|owner| *owner.kind == *identity::KIND)
        && matches!(new.phase, Phase::Unset | Phase::Pending)
        && new.deletion.is_none()
        && new.node.is_none()
        && new.conditions.is_empty()
}

/// Whether only the node of a new pod was set: no plan reads the node of a pod.
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
                resource_version: old.resource_version,
                ..new.clone()
            }
}

/// Whether only the deletion of a pod began. The next step of the set waits for the end of the pod.
fn is_start_of_deletion(new: &PodView, old: &PodView) -> bool {
    old.deletion.is_none()
        && new.deletion.is_some()
        && *old
            == PodView {
                deletion: None,
                generation: old.generation,
                resource_version: old.resource_version,
                ..new.clone()
            }
}

/// Whether a pod became ready, and its other relevant fields are as its set created them.
fn is_readiness(new: &PodView, old: &PodView) -> bool {
    new.ready().is_some()
        && old.ready().is_none()
        && !new.has_ended()
        && !old.has_ended()
        && (&new.uid, &new.labels, &new.controller) == (&old.uid, &old.labels, &old.controller)
        && (&new.deletion, &new.claims) == (&old.deletion, &old.claims)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use json_tree::{Value, json};
    use k8s_openapi::api::core::v1::Pod;
    use resource_kinds::pod_view::Sharing;

    use super::*;

    fn view(change: impl FnOnce(&mut Value)) -> Arc<PodView> {
        let owner = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "2",
            "controller": true});
        let mut pod = json!({
            "metadata": {"name": "web-0", "namespace": "default", "uid": "1", "resourceVersion": "1",
                "labels": {"a": "b"},
                "ownerReferences": [owner]},
            "spec": {"containers": [{"name": "c"}]},
            "status": {"phase": "Pending"},
        });
        change(&mut pod);
        let pod: Pod = json_tree::from_value(pod).unwrap();
        Arc::new(Sharing::default().pod(&pod).unwrap())
    }

    fn set(pod: &mut Value, path: &str, value: &Value) {
        let (object, name) = path.rsplit_once('/').unwrap();
        pod.pointer_mut(object).unwrap()[name] = value.clone();
    }

    fn of(new: &Arc<PodView>, old: Option<&Arc<PodView>>) -> PlanUrgency {
        PlanUrgency::of(&ObjectChange::Applied(new.clone(), old.cloned()))
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
        assert_eq!(of(&bound, Some(&new)), PlanUrgency::None);
        assert_eq!(of(&bound, Some(&bound)), PlanUrgency::Now);
        assert_eq!(of(&new, Some(&bound)), PlanUrgency::Now);
        for path in ["/metadata/labels/a", "/status/phase", "/status/message"] {
            let changed = view(|pod| {
                bind(pod);
                set(pod, path, &"Running".into());
            });
            assert_eq!(of(&changed, Some(&new)), PlanUrgency::Now, "{path}");
        }
        let refused = view(|pod| {
            pod["status"]["conditions"] = json!([{"type": "PodScheduled", "status": "False"}]);
        });
        assert_eq!(of(&bound, Some(&refused)), PlanUrgency::Now);
    }

    #[test]
    fn a_pod_as_it_is_created_changes_only_the_status() {
        assert_eq!(of(&view(|_| ()), None), PlanUrgency::WithStatus);
        // An orphan is adopted, a ready pod allows the next step, and an ended pod is replaced.
        for (path, value) in [
            ("/metadata/ownerReferences", json!([])),
            ("/metadata/ownerReferences/0/kind", "ReplicaSet".into()),
            ("/metadata/deletionTimestamp", "2026-01-01T00:00:00Z".into()),
            ("/spec/nodeName", "n".into()),
            ("/status/phase", "Failed".into()),
            (
                "/status/conditions",
                json!([{"type": "Ready", "status": "True"}]),
            ),
        ] {
            let pod = view(|pod| set(pod, path, &value));
            assert_eq!(of(&pod, None), PlanUrgency::Now, "{path}");
        }
    }

    /// statefulset.md: an ended pod is replaced, another revision is an update, and a pod that is not ready any more
    /// may stop an update.
    #[test]
    fn readiness_alone_is_told_apart() {
        let ready = json!([{"type": "Ready", "status": "True"}]);
        let ready = |pod: &mut Value| set(pod, "/status/conditions", &ready);
        let (before, after) = (view(|_| ()), view(ready));
        assert_eq!(of(&after, Some(&before)), PlanUrgency::Readiness);
        assert_eq!(of(&after, Some(&after)), PlanUrgency::Now);
        assert_eq!(of(&before, Some(&after)), PlanUrgency::Now);
        for (path, value) in [
            ("/metadata/labels/a", "c"),
            ("/metadata/uid", "9"),
            ("/metadata/deletionTimestamp", "2026-01-01T00:00:00Z"),
            ("/metadata/ownerReferences/0/uid", "9"),
            ("/status/phase", "Failed"),
        ] {
            let changed = view(|pod| {
                ready(pod);
                set(pod, path, &value.into());
            });
            assert_eq!(of(&changed, Some(&before)), PlanUrgency::Now, "{path}");
        }
    }

    #[test]
    fn the_start_of_a_deletion_changes_only_the_status() {
        let delete = |pod: &mut Value| {
            let at = "2026-01-01T00:00:00Z".into();
            set(pod, "/metadata/deletionTimestamp", &at);
            set(pod, "/metadata/deletionGracePeriodSeconds", &30.into());
            set(pod, "/metadata/generation", &2.into());
            set(pod, "/metadata/resourceVersion", &"9".into());
        };
        let (live, deleted) = (view(|_| ()), view(delete));
        assert_eq!(of(&deleted, Some(&live)), PlanUrgency::WithStatus);
        assert_eq!(of(&live, Some(&deleted)), PlanUrgency::Now);
        assert_eq!(of(&deleted, Some(&deleted)), PlanUrgency::Now);
        let failed = view(|pod| {
            delete(pod);
            set(pod, "/status/phase", &"Failed".into());
        });
        assert_eq!(of(&failed, Some(&live)), PlanUrgency::Now);
        assert_eq!(
            PlanUrgency::of(&ObjectChange::Deleted(deleted)),
            PlanUrgency::Now
        );
    }
}
