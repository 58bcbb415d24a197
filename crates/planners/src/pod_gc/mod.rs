//! Deletion of pods that no node will finish: their node is gone, they never had one, or too many
//! pods have ended.
//!
//! **Guarantees**: a pod of a missing node is deleted only when that node has been missing for
//! [`MISSING_FOR`] and the API server itself confirms it (the executor asks), or when a person has
//! tainted the node as out of service.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Node;
use resource_kinds::node_conditions;
use resource_kinds::pod_view::PodView;

/// The time for which a node must have been missing.
pub const MISSING_FOR: SignedDuration = SignedDuration::from_secs(40);
/// Maximum number of ended pods; as kube-controller-manager.
pub const ENDED_MAX: usize = 12_500;

/// The observed state.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// All pods.
    pub pods: Vec<Arc<PodView>>,
    /// All nodes.
    pub nodes: Vec<Arc<Node>>,
    /// The time since when each named node has been missing.
    pub missing_since: BTreeMap<String, Timestamp>,
}

/// A pod to remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// The cause.
    pub cause: Cause,
}

/// The cause of a removal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Its node is missing; to be confirmed by the API server.
    NodeGone {
        /// Name of the node.
        node: String,
    },
    /// Its node has the out-of-service taint.
    OutOfService,
    /// It is being deleted and was never scheduled.
    NeverScheduled,
    /// It has ended, and too many pods have.
    TooManyEnded,
}

/// The planned writes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Removals, in order.
    pub remove: Vec<Removal>,
    /// The times since when nodes have been missing, for the next plan.
    pub missing_since: BTreeMap<String, Timestamp>,
    /// The time at which a node has been missing for long enough.
    pub wake_at: Option<Timestamp>,
}

/// Plans the pods to remove. Total.
pub fn plan(observed: &Observed, now: Timestamp) -> Plan {
    let nodes: BTreeMap<&str, &Node> = observed
        .nodes
        .iter()
        .filter_map(|node| Some((node.metadata.name.as_deref()?, node.as_ref())))
        .collect();
    let mut plan = Plan::default();
    let mut ended = Vec::new();
    for pod in &observed.pods {
        let deleting = pod.is_deleting();
        let cause = match pod.node.as_deref() {
            None if deleting => Some(Cause::NeverScheduled),
            None => None,
            Some(name) => match nodes.get(name) {
                None => missing(observed, name, now, &mut plan),
                Some(node) => (deleting && out_of_service(node)).then_some(Cause::OutOfService),
            },
        };
        match cause {
            Some(cause) => plan.remove.push(removal(pod, cause)),
            None if !deleting && pod.has_ended() => ended.push(pod),
            None => {}
        }
    }
    // Evicted pods first, then the oldest.
    ended.sort_by_key(|pod| (pod.reason.as_deref() != Some("Evicted"), pod.created));
    let surplus = ended.len().saturating_sub(ENDED_MAX);
    let surplus = ended.into_iter().take(surplus);
    plan.remove
        .extend(surplus.map(|pod| removal(pod, Cause::TooManyEnded)));
    plan
}

fn missing(observed: &Observed, node: &str, now: Timestamp, plan: &mut Plan) -> Option<Cause> {
    let since = observed.missing_since.get(node).copied().unwrap_or(now);
    plan.missing_since.insert(node.to_owned(), since);
    let until = since.checked_add(MISSING_FOR).unwrap_or(Timestamp::MAX);
    if now >= until {
        return Some(Cause::NodeGone {
            node: node.to_owned(),
        });
    }
    plan.wake_at = Some(plan.wake_at.map_or(until, |other| other.min(until)));
    None
}

/// A node counts as out of service only if it is also not Ready: on a Ready one a pod may still
/// run.
fn out_of_service(node: &Node) -> bool {
    node_conditions::is_out_of_service(node) && !node_conditions::is_ready(node)
}

fn removal(pod: &PodView, cause: Cause) -> Removal {
    Removal {
        namespace: pod.namespace.to_string(),
        name: pod.name.to_string(),
        uid: pod.uid.to_string(),
        cause,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use resource_kinds::reasons::taint;
    use serde_json::json;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn pod(name: &str, node: Option<&str>, deleting: bool, phase: &str) -> Arc<PodView> {
        let mut pod = json!({
            "metadata": { "name": name, "namespace": "default", "uid": name },
            "spec": { "nodeName": node, "containers": [] },
            "status": { "phase": phase },
        });
        if deleting {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        let pod: Pod = serde_json::from_value(pod).unwrap();
        Arc::new(PodView::from(&pod))
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
        Arc::new(serde_json::from_value(node).unwrap())
    }

    fn causes(plan: &Plan) -> Vec<(&str, Cause)> {
        plan.remove
            .iter()
            .map(|removal| (removal.name.as_str(), removal.cause.clone()))
            .collect()
    }

    /// statefulset.md 3.31
    #[test]
    fn pods_of_a_missing_node_are_removed_after_a_while() {
        let pods = vec![pod("a", Some("gone"), false, "Running")];
        let mut observed = Observed {
            pods,
            ..Observed::default()
        };
        let first = plan(&observed, at(100));
        assert_eq!((causes(&first), first.wake_at), (vec![], Some(at(140))));
        observed.missing_since = first.missing_since;
        assert!(causes(&plan(&observed, at(139))).is_empty());
        let cause = Cause::NodeGone {
            node: "gone".to_owned(),
        };
        assert_eq!(causes(&plan(&observed, at(140))), [("a", cause)]);
    }

    /// statefulset.md 3.31, T41
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
            let plan = plan(&observed, at(0));
            plan.remove
                .iter()
                .map(|removal| removal.name.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(with("Unknown", true), ["going", "unscheduled"]);
        assert_eq!(with("True", true), ["unscheduled"]);
        assert_eq!(with("Unknown", false), ["unscheduled"]);
    }

    /// statefulset.md 13.5
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
            causes(&plan(&observed, at(0))),
            [("77", Cause::TooManyEnded)]
        );
    }
}
