//! Admission on the node: the checks that kubelet repeats for a pod that is bound to the node.
//!
//! A pod that the scheduler binds passes these checks; a pod that a user binds (`nodeName`) may fail them. The first
//! reason is reported, in this order: resources, the node's labels, ports, taints.

use k8s_openapi::api::core::v1::Node;
use object_model::Quantity;
use resource_kinds::pod_view::PodView;

use crate::node::{matches_affinity, taints, tolerates};
use crate::ports;
use crate::resources::{Allocatable, FreeResources, requests};

/// The reason why a node cannot run a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdmissionFailure {
    /// There is not enough of a resource. Amounts of `cpu` are in thousandths.
    Resource {
        name: String,
        /// The pod's request.
        requested: i64,
        /// The sum of the requests of the node's pods.
        used: i64,
        capacity: i64,
    },
    /// The node's labels do not match the pod's node selector or affinity.
    NodeAffinity,
    /// Another pod uses a host port that the pod requests.
    NodePorts,
    /// The node has a `NoExecute` taint that the pod does not tolerate.
    Taint,
}

impl AdmissionFailure {
    /// Reason in the pod's status; as kubelet.
    pub fn reason(&self) -> String {
        match self {
            AdmissionFailure::Resource { name, .. } => format!("OutOf{name}"),
            AdmissionFailure::NodeAffinity => "NodeAffinity".to_owned(),
            AdmissionFailure::NodePorts => "NodePorts".to_owned(),
            AdmissionFailure::Taint => "TaintToleration".to_owned(),
        }
    }

    /// The message, in kubelet's words.
    pub fn message(&self) -> String {
        let why = match self {
            AdmissionFailure::Resource {
                name,
                requested,
                used,
                capacity,
            } => {
                return format!(
                    "Node didn't have enough resource: {name}, requested: {requested}, used: \
                     {used}, capacity: {capacity}"
                );
            }
            AdmissionFailure::NodeAffinity => "node(s) didn't match Pod's node affinity/selector",
            AdmissionFailure::NodePorts => {
                "node(s) didn't have free ports for the requested pod ports"
            }
            AdmissionFailure::Taint => "node(s) had taints that the pod didn't tolerate",
        };
        format!("Predicate {} failed: {why}", self.reason())
    }
}

/// The reason why the node cannot run the pod in addition to `others`; `None` if the node can.
pub fn misfit(pod: &PodView, node: &Node, others: &[PodView]) -> Option<AdmissionFailure> {
    let against = [
        shortage(pod, node, others),
        (!matches_affinity(&pod.spec, node)).then_some(AdmissionFailure::NodeAffinity),
        ports::objection(&ports::host_ports(pod), || others).map(|_| AdmissionFailure::NodePorts),
        is_driven_out(pod, node).then_some(AdmissionFailure::Taint),
    ];
    against.into_iter().flatten().next()
}

fn is_driven_out(pod: &PodView, node: &Node) -> bool {
    taints(node)
        .iter()
        .any(|taint| taint.effect == "NoExecute" && !tolerates(&pod.spec, taint))
}

fn shortage(pod: &PodView, node: &Node, others: &[PodView]) -> Option<AdmissionFailure> {
    let allocatable = Allocatable::of(node);
    let free = FreeResources::of(&allocatable, others);
    let count = i64::try_from(others.len()).unwrap_or(i64::MAX);
    if let Some(capacity) = free.pods_max().filter(|capacity| count >= *capacity) {
        return Some(AdmissionFailure::Resource {
            name: "pods".to_owned(),
            requested: 1,
            used: count,
            capacity,
        });
    }
    let requested = requests(pod);
    // Extended resources that the node does not report are not checked here.
    let counts = |name: &str| free.allocatable(name).is_some() || !is_extended(name);
    let mut requested: Vec<_> = requested
        .iter()
        .filter(|(name, amount)| !amount.is_zero() && counts(name))
        .collect();
    requested.sort_by_key(|(name, _)| order(name));
    requested.into_iter().find_map(|(name, amount)| {
        let used = free.used(name).unwrap_or_default();
        let capacity = free.allocatable(name).unwrap_or_default();
        (*amount > capacity || *amount > capacity.minus(&used)).then(|| {
            let number = |amount: &Quantity| match name.as_str() {
                "cpu" => amount.milli_value(),
                _ => amount.value(),
            };
            AdmissionFailure::Resource {
                name: name.clone(),
                requested: number(amount),
                used: number(&used),
                capacity: number(&capacity),
            }
        })
    })
}

/// The position of a resource in the order of checks; further resources follow, by name.
fn order(name: &str) -> usize {
    let first = ["cpu", "memory", "ephemeral-storage"];
    let position = first.iter().position(|one| *one == name);
    position.unwrap_or(first.len())
}

fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/")
}

#[cfg(test)]
mod tests {
    use json_tree::{Value, json};
    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    fn pod(spec: Value) -> PodView {
        let mut whole = json!({"containers": [{"name": "c"}]});
        for (key, part) in spec.as_object().unwrap() {
            whole[key] = part.clone();
        }
        let pod =
            json!({"metadata": {"name": "p", "uid": "u", "resourceVersion": "1"}, "spec": whole});
        PodView::try_from(json_tree::from_value::<Pod>(pod).unwrap()).unwrap()
    }

    fn asks(resources: Value) -> PodView {
        pod(json!({"containers": [{"name": "c", "resources": {"requests": resources}}]}))
    }

    fn node() -> Node {
        json_tree::from_value(json!({
            "metadata": {"name": "n", "labels": {"disk": "ssd"}},
            "spec": {"taints": [{"key": "out", "effect": "NoExecute"},
                {"key": "new", "effect": "NoSchedule"}]},
            "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "ephemeral-storage": "1Gi",
                "pods": "3"}}}))
        .unwrap()
    }

    fn tolerant(mut pod: PodView) -> PodView {
        let mut spec = (*pod.spec).clone();
        let toleration = json!([{"key": "out", "operator": "Exists"}]);
        spec.tolerations = json_tree::from_value(toleration).unwrap();
        pod.spec = spec.into();
        pod
    }

    fn refusal(pod: PodView, others: &[PodView]) -> Option<(String, String)> {
        let failure = misfit(&tolerant(pod), &node(), others);
        failure.map(|misfit| (misfit.reason(), misfit.message()))
    }

    #[test]
    fn resources_are_held_against_what_others_leave() {
        let others = [asks(json!({"cpu": "1500m", "memory": "512Mi"}))];
        assert_eq!(refusal(asks(json!({"cpu": "500m"})), &others), None);
        let (reason, message) =
            refusal(asks(json!({"cpu": "501m", "memory": "2Gi"})), &others).unwrap();
        assert_eq!(reason, "OutOfcpu");
        assert_eq!(
            message,
            "Node didn't have enough resource: cpu, requested: 501, used: 1500, capacity: 2000"
        );
        let (reason, message) = refusal(asks(json!({"memory": "600Mi"})), &others).unwrap();
        assert_eq!(reason, "OutOfmemory");
        assert!(message.ends_with("requested: 629145600, used: 536870912, capacity: 1073741824"));
        let (reason, _) = refusal(asks(json!({"ephemeral-storage": "2Gi"})), &[]).unwrap();
        assert_eq!(reason, "OutOfephemeral-storage");
        let (reason, _) = refusal(asks(json!({"hugepages-2Mi": "2Mi"})), &[]).unwrap();
        assert_eq!(reason, "OutOfhugepages-2Mi");
        assert_eq!(refusal(asks(json!({"example.com/gpu": "1"})), &[]), None);
    }

    #[test]
    fn a_node_takes_so_many_pods() {
        let others: Vec<_> = (0..3).map(|_| pod(json!({}))).collect();
        assert_eq!(refusal(pod(json!({})), &others[1..]), None);
        let (reason, message) = refusal(pod(json!({})), &others).unwrap();
        assert_eq!(reason, "OutOfpods");
        assert!(message.ends_with("pods, requested: 1, used: 3, capacity: 3"));
    }

    #[test]
    fn labels_ports_and_taints_count() {
        let (reason, message) =
            refusal(pod(json!({"nodeSelector": {"disk": "hdd"}})), &[]).unwrap();
        assert_eq!(reason, "NodeAffinity");
        assert_eq!(
            message,
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"
        );
        assert_eq!(
            refusal(pod(json!({"nodeSelector": {"disk": "ssd"}})), &[]),
            None
        );
        let on = |port: i32| {
            let port = json!([{"containerPort": 80, "hostPort": port}]);
            pod(json!({"containers": [{"name": "c", "ports": port}]}))
        };
        assert_eq!(refusal(on(8080), &[on(8081)]), None);
        let (reason, message) = refusal(on(8080), &[on(8080)]).unwrap();
        assert_eq!(reason, "NodePorts");
        assert_eq!(
            message,
            "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
        );
        let failure = misfit(&pod(json!({})), &node(), &[]).unwrap();
        assert_eq!(failure.reason(), "TaintToleration");
    }
}
