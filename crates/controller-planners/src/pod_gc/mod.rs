//! Deletion of pods that no node will finish: their node was deleted, they never had a node, or too many pods have
//! ended.
//!
//! **Guarantees**: a pod of a node without a Node object is deleted only after the node's Lease was fenced
//! ([`missing`]) and the API server has confirmed to the executor that there is no Node. A terminating pod of an
//! existing node is deleted only if an administrator has set the out-of-service taint on the node.

pub mod missing;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Node;
use object_model::Uid;
use resource_kinds::node_conditions;
use resource_kinds::pod_view::PodView;

use missing::{LeaseTakeover, OrphanLease, Release};

/// Maximum number of ended pods; as kube-controller-manager.
pub const ENDED_MAX: usize = 12_500;

/// The observed state of all pods and nodes.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The pods of all namespaces.
    pub pods: Vec<Arc<PodView>>,
    /// The Node objects.
    pub nodes: Vec<Arc<Node>>,
    /// The nodes without a Node object, each with its Lease. The Leases were read after the pods. A node whose Lease
    /// could not be read is not in the map.
    pub missing: BTreeMap<String, OrphanLease>,
}

/// A pod to remove without a grace period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// UID of the pod: a new pod of that name is not removed.
    pub uid: Uid,
    /// The reason why the pod is removed.
    pub cause: RemovalCause,
}

/// The reason why a pod is removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemovalCause {
    /// The pod's node has no Node object; the executor confirms the absence with the API server before the deletion.
    NodeMissing {
        /// Name of the node.
        node: String,
    },
    /// The pod's node has the out-of-service taint.
    OutOfService,
    /// The pod is being deleted and was never scheduled.
    NeverScheduled,
    /// The pod has ended, and the number of ended pods is above [`ENDED_MAX`].
    TooManyEnded,
}

/// The writes of one round of pod garbage collection.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodGcPlan {
    /// Pods to remove, in order.
    pub remove: Vec<Removal>,
    /// The Leases to take over; their nodes have no Node object.
    pub takeovers: Vec<LeaseTakeover>,
    /// The Leases to delete; their nodes have no Node object.
    pub release: Vec<Release>,
    /// The time until the next step for a node without a Node object.
    pub wake_after: Option<SignedDuration>,
}

/// Plans the pods to remove.
pub fn plan(observed: &Observed) -> PodGcPlan {
    let nodes: BTreeMap<&str, &Node> = observed
        .nodes
        .iter()
        .filter_map(|node| Some((node.metadata.name.as_deref()?, node.as_ref())))
        .collect();
    let mut plan = PodGcPlan::default();
    let mut ended = Vec::new();
    for pod in &observed.pods {
        let deleting = pod.is_deleting();
        let cause = match pod.node.as_deref() {
            None if deleting => Some(RemovalCause::NeverScheduled),
            None => None,
            Some(name) => match nodes.get(name) {
                // The pods of such a node are planned together, below.
                None if observed.missing.contains_key(name) => continue,
                None => None,
                Some(node) => {
                    (deleting && out_of_service(node)).then_some(RemovalCause::OutOfService)
                }
            },
        };
        match cause {
            Some(cause) => plan.remove.push(removal(pod, cause)),
            None if !deleting && pod.has_ended() => ended.push(pod),
            None => {}
        }
    }
    for (node, pods) in missing::by_node(&observed.pods, &observed.missing) {
        if let Some(missing) = observed.missing.get(&node) {
            missing::plan(&node, missing, &pods, &mut plan);
        }
    }
    // Evicted pods first, then the oldest.
    ended.sort_by_key(|pod| (pod.reason.as_deref() != Some("Evicted"), pod.created));
    let surplus = ended.len().saturating_sub(ENDED_MAX);
    for pod in ended.into_iter().take(surplus) {
        plan.remove.push(removal(pod, RemovalCause::TooManyEnded));
    }
    plan
}

/// Whether a node has the out-of-service taint and is not Ready. A Ready node does not count, because a pod may still
/// run on it.
fn out_of_service(node: &Node) -> bool {
    node_conditions::is_out_of_service(node) && !node_conditions::is_ready(node)
}

fn removal(pod: &PodView, cause: RemovalCause) -> Removal {
    Removal {
        namespace: pod.namespace.to_string(),
        name: pod.name.to_string(),
        uid: pod.uid.clone(),
        cause,
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;
    use k8s_openapi::api::coordination::v1::Lease;
    use k8s_openapi::api::core::v1::Pod;
    use resource_kinds::annotations;
    use resource_kinds::reasons::taint;

    use super::*;
    use crate::node_lifecycle::fence::NodeLease;

    fn pod(name: &str, node: Option<&str>, deleting: bool, phase: &str) -> Arc<PodView> {
        let mut pod = json!({
            "metadata": { "name": name, "namespace": "default", "uid": name,
                "resourceVersion": "1" },
            "spec": { "nodeName": node, "containers": [] },
            "status": { "phase": phase },
        });
        if deleting {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        let pod: Pod = json_tree::from_value(pod).unwrap();
        Arc::new(PodView::try_from(&pod).unwrap())
    }

    fn node(ready: &str, taints: bool) -> Arc<Node> {
        let taints = if taints {
            json!([{ "key": taint::OUT_OF_SERVICE, "effect": "NoExecute" }])
        } else {
            json!([])
        };
        let node = json!({
            "metadata": { "name": "n" },
            "spec": { "taints": taints },
            "status": { "conditions": [{ "type": "Ready", "status": ready }] },
        });
        Arc::new(json_tree::from_value(node).unwrap())
    }

    fn causes(plan: &PodGcPlan) -> Vec<(&str, RemovalCause)> {
        plan.remove
            .iter()
            .map(|removal| (removal.name.as_str(), removal.cause.clone()))
            .collect()
    }

    fn missing(lease: Option<&str>, unchanged_seconds: i64) -> OrphanLease {
        let lease = lease.map(|mark| {
            let lease = json!({ "metadata": { "resourceVersion": "7", "annotations": { mark: "" } },
                "spec": { "leaseDurationSeconds": 40, "leaseTransitions": 2 } });
            let lease: Lease = json_tree::from_value(lease).unwrap();
            NodeLease::from(&lease)
        });
        OrphanLease {
            version: lease.is_some().then(|| "7".parse().unwrap()),
            lease,
            is_owned: true,
            unchanged_for: SignedDuration::from_secs(unchanged_seconds),
        }
    }

    /// statefulset.md 3.31: the pods of a node without a Node object are removed after the takeover of its lease.
    #[test]
    fn pods_of_a_missing_node_are_removed_after_its_lease_was_taken() {
        let pods = vec![
            pod("a", Some("gone"), false, "Running"),
            pod("b", Some("gone"), true, "Succeeded"),
            pod("c", Some("unread"), false, "Running"),
            pod("d", Some("n"), false, "Running"),
        ];
        let plan_with = |missing: OrphanLease| {
            let observed = Observed {
                pods: pods.clone(),
                nodes: vec![node("True", false)],
                missing: [("gone".to_owned(), missing)].into(),
            };
            plan(&observed)
        };
        let cause = || RemovalCause::NodeMissing {
            node: "gone".to_owned(),
        };
        let both = [("a", cause()), ("b", cause())];
        let renewed = plan_with(missing(Some("renewed"), 10));
        let left = SignedDuration::from_secs(40);
        assert_eq!((causes(&renewed), renewed.wake_after), (vec![], Some(left)));
        let lapsed = plan_with(missing(Some("lapsed"), 50));
        assert!(lapsed.remove.is_empty());
        let [takeover] = &lapsed.takeovers[..] else {
            panic!("{lapsed:?}");
        };
        assert_eq!((takeover.epoch, takeover.remove.len()), (3, 2));
        let fenced = plan_with(missing(Some(annotations::FENCED), 50));
        assert_eq!(
            (causes(&fenced), fenced.takeovers.len()),
            (both.to_vec(), 0)
        );
        assert_eq!(causes(&plan_with(missing(None, 50))), both);
    }

    #[test]
    fn the_lease_of_a_missing_node_without_pods_is_released_if_a_node_owned_it() {
        let plan_with = |missing: OrphanLease| {
            let observed = Observed {
                missing: [("gone".to_owned(), missing)].into(),
                ..Observed::default()
            };
            plan(&observed)
        };
        let owned = missing(Some("lapsed"), 50);
        let release = Release {
            node: "gone".to_owned(),
            version: "7".parse().unwrap(),
        };
        assert_eq!(plan_with(owned.clone()).release, [release]);
        let foreign = OrphanLease {
            is_owned: false,
            ..owned
        };
        assert_eq!(plan_with(foreign), PodGcPlan::default());
        assert_eq!(plan_with(missing(None, 50)), PodGcPlan::default());
    }

    /// statefulset.md 3.31, T41: terminating pods of an out-of-service node are removed.
    #[test]
    fn an_out_of_service_node_gives_up_its_terminating_pods() {
        let pods = vec![
            pod("going", Some("n"), true, "Running"),
            pod("staying", Some("n"), false, "Running"),
            pod("unscheduled", None, true, "Pending"),
        ];
        let with = |ready, taints| {
            let nodes = vec![node(ready, taints)];
            let observed = Observed {
                pods: pods.clone(),
                nodes,
                ..Observed::default()
            };
            let plan = plan(&observed);
            plan.remove
                .iter()
                .map(|removal| removal.name.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(with("Unknown", true), ["going", "unscheduled"]);
        assert_eq!(with("True", true), ["unscheduled"]);
        assert_eq!(with("Unknown", false), ["unscheduled"]);
    }

    /// statefulset.md 13.5: ended pods beyond the maximum are removed.
    #[test]
    fn of_too_many_ended_pods_the_surplus_goes() {
        let mut pods: Vec<Arc<PodView>> = (0..=ENDED_MAX)
            .map(|n| pod(&n.to_string(), Some("n"), false, "Failed"))
            .collect();
        let mut evicted = (*pods[77]).clone();
        evicted.reason = Some("Evicted".into());
        pods[77] = Arc::new(evicted);
        let observed = Observed {
            pods,
            nodes: vec![node("True", false)],
            ..Observed::default()
        };
        assert_eq!(
            causes(&plan(&observed)),
            [("77", RemovalCause::TooManyEnded)]
        );
    }
}
