//! Sums of CPU and memory requests, which are compared with the node's allocatable resources.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use object_model::quantity::Quantity;

use super::resize::allocated_spec;
use crate::record::PodRecord;
use crate::record::resize::PendingReason;
use crate::spec::{Kind, containers};

/// Amounts of CPU and memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// CPU in thousandths of a processor.
    pub cpu_milli: i64,
    pub memory_bytes: i64,
}

impl Amounts {
    /// The sum of both amounts; each at most `i64::MAX`.
    #[must_use]
    pub fn plus(self, more: Self) -> Self {
        Self {
            cpu_milli: self.cpu_milli.saturating_add(more.cpu_milli),
            memory_bytes: self.memory_bytes.saturating_add(more.memory_bytes),
        }
    }

    fn max(self, other: Self) -> Self {
        Self {
            cpu_milli: self.cpu_milli.max(other.cpu_milli),
            memory_bytes: self.memory_bytes.max(other.memory_bytes),
        }
    }
}

/// The resources of the node and of its other pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeResources {
    /// The allocatable resources of the node.
    pub capacity: Amounts,
    /// The sum of the node's other pods.
    pub others: Amounts,
}

pub fn allocated_requests(spec: &PodSpec, record: &PodRecord) -> Amounts {
    requests(&allocated_spec(spec, record))
}

/// The requests of a pod with this specification, plus its overhead. Pod-level requests override the sum of
/// the containers' requests.
pub(crate) fn requests(spec: &PodSpec) -> Amounts {
    let mut all = of_containers(spec);
    if let Some(resources) = &spec.resources {
        if let Some(cpu) = requested(resources, "cpu") {
            all.cpu_milli = cpu.milli_value();
        }
        if let Some(memory) = requested(resources, "memory") {
            all.memory_bytes = memory.value();
        }
    }
    let overhead = |name: &str| amount(spec.overhead.as_ref(), name).unwrap_or_default();
    all.plus(Amounts {
        cpu_milli: overhead("cpu").milli_value(),
        memory_bytes: overhead("memory").value(),
    })
}

fn of_containers(spec: &PodSpec) -> Amounts {
    let mut sum = Amounts::default();
    let mut peak = Amounts::default();
    for (kind, container) in containers(spec) {
        let request = |name: &str| {
            let resources = container.resources.as_ref();
            resources
                .and_then(|resources| requested(resources, name))
                .unwrap_or_default()
        };
        let amounts = Amounts {
            cpu_milli: request("cpu").milli_value(),
            memory_bytes: request("memory").value(),
        };
        match kind {
            // An init container runs before the main containers, and concurrently with the sidecars before
            // it.
            Kind::Init => peak = peak.max(sum.plus(amounts)),
            _ => sum = sum.plus(amounts),
        }
    }
    sum.max(peak)
}

/// The request or, without a request, the limit.
fn requested(resources: &ResourceRequirements, name: &str) -> Option<Quantity> {
    let request = amount(resources.requests.as_ref(), name);
    request.or_else(|| amount(resources.limits.as_ref(), name))
}

fn amount(list: Option<&BTreeMap<String, ApiQuantity>>, name: &str) -> Option<Quantity> {
    list?.get(name)?.0.parse().ok()
}

/// Whether the node can allocate the pod's requests.
pub fn fits(spec: &PodSpec, node: &NodeResources) -> bool {
    lack(requests(spec), node).is_none()
}

/// The reason why the node cannot allocate `requested`; `None` if it can.
pub(crate) fn lack(requested: Amounts, node: &NodeResources) -> Option<(PendingReason, String)> {
    let triple =
        |part: fn(&Amounts) -> i64| (part(&requested), part(&node.others), part(&node.capacity));
    let each = [
        ("cpu", triple(|amounts| amounts.cpu_milli)),
        ("memory", triple(|amounts| amounts.memory_bytes)),
    ];
    let never = each
        .iter()
        .find(|(_, (requested, _, capacity))| requested > capacity);
    if let Some((name, (requested, _, capacity))) = never {
        let message = format!(
            "Node didn't have enough capacity: {name}, requested: {requested}, capacity: {capacity}"
        );
        return Some((PendingReason::Infeasible, message));
    }
    let now = each
        .iter()
        .find(|(_, (requested, used, capacity))| requested.saturating_add(*used) > *capacity);
    now.map(|(name, (requested, used, capacity))| {
        let message = format!(
            "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, \
             capacity: {capacity}"
        );
        (PendingReason::Deferred, message)
    })
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    fn spec(containers: json_tree::Value) -> PodSpec {
        json_tree::from_value(json!({"containers": containers})).unwrap()
    }

    #[test]
    fn a_pod_has_what_its_containers_have_together() {
        let mut pod = spec(json!([
            {"name": "a", "resources": {"requests": {"cpu": "100m", "memory": "1Mi"}}},
            {"name": "b", "resources": {"limits": {"cpu": "1"}}}]));
        let both = Amounts {
            cpu_milli: 1100,
            memory_bytes: 1 << 20,
        };
        assert_eq!(requests(&pod), both);
        pod.init_containers = json_tree::from_value(json!([
            {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}},
            {"name": "i", "resources": {"requests": {"cpu": "2", "memory": "4Mi"}}}]))
        .unwrap();
        let peak = Amounts {
            cpu_milli: 3000,
            memory_bytes: 4 << 20,
        };
        assert_eq!(requests(&pod), peak);
        pod.overhead = json_tree::from_value(json!({"cpu": "250m"})).unwrap();
        assert_eq!(requests(&pod).cpu_milli, 3250);
        pod.resources = json_tree::from_value(json!({"requests": {"cpu": "4"}})).unwrap();
        assert_eq!(requests(&pod).cpu_milli, 4250);
        assert_eq!(requests(&pod).memory_bytes, 4 << 20);
    }

    #[test]
    fn too_much_is_never_or_not_now() {
        // statefulset.md 12.1
        let amounts = |cpu_milli, memory_bytes| Amounts {
            cpu_milli,
            memory_bytes,
        };
        let node = NodeResources {
            capacity: amounts(4000, 100),
            others: amounts(3000, 50),
        };
        assert_eq!(lack(amounts(1000, 50), &node), None);
        assert_eq!(
            lack(amounts(1500, 50), &node),
            Some((
                PendingReason::Deferred,
                "Node didn't have enough resource: cpu, requested: 1500, used: 3000, capacity: 4000"
                    .to_owned()
            ))
        );
        assert_eq!(
            lack(amounts(1500, 101), &node),
            Some((
                PendingReason::Infeasible,
                "Node didn't have enough capacity: memory, requested: 101, capacity: 100"
                    .to_owned()
            ))
        );
    }
}
