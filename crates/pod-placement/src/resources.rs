//! The comparison of pods' requests with nodes' allocatable resources.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Node, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Amount;
use object_model::Quantity;
use resource_kinds::pod_view::PodView;
use resource_kinds::reasons::pod_condition;

use crate::objection::FilterFailure;

/// Amounts of resources by their name, for instance `cpu`.
pub(crate) type Resources = BTreeMap<String, Quantity>;

/// The pod's requests: the sum of its containers and sidecars, or the maximum of its init containers if that is more,
/// plus the overhead. Pod-level requests override the sum. During a resize (kubectl.md 6.7) the larger of the old and
/// the new values counts.
pub(crate) fn requests(pod: &PodView) -> Resources {
    sum(pod, |container| container_requests(pod, container))
}

/// The sum over the containers of a pod, where `request_of` returns the requests of a container.
fn sum(pod: &PodView, request_of: impl Fn(&Container) -> Resources) -> Resources {
    let spec = &pod.spec;
    let mut total = Resources::new();
    for container in &spec.containers {
        add(&mut total, &request_of(container));
    }
    let mut sidecars = Resources::new();
    let mut peak = Resources::new();
    for container in spec.init_containers.iter().flatten() {
        let request = request_of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut total, &request);
            add(&mut sidecars, &request);
            raise(&mut peak, &sidecars);
        } else {
            // An init container runs concurrently with the sidecars that were started before.
            let mut moment = sidecars.clone();
            add(&mut moment, &request);
            raise(&mut peak, &moment);
        }
    }
    raise(&mut total, &peak);
    if let Some(request) = &spec.resources {
        total.extend(with_allocated(
            pod,
            effective(request),
            pod.allocated.as_deref(),
        ));
    }
    add(&mut total, &read(spec.overhead.as_ref()));
    total
}

/// A use of CPU, in thousandths, and of memory, in bytes, for the score of free resources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CountedUse {
    pub cpu: i128,
    pub memory: i128,
}

/// The use of a container without a request (milli-CPU, bytes of memory), so that pods without requests are spread too.
const UNKNOWN: (i64, i64) = (100, 200 << 20);

impl CountedUse {
    /// The use by a pod.
    pub fn of(pod: &PodView) -> Self {
        let unknown = [
            ("cpu", Quantity::from_milli(UNKNOWN.0)),
            ("memory", Quantity::from_bytes(UNKNOWN.1)),
        ];
        let total_request = sum(pod, |container| {
            let mut request = container_requests(pod, container);
            for (name, amount) in unknown {
                request.entry(name.to_owned()).or_insert(amount);
            }
            request
        });
        Self::by(|name| total_request.get(name).copied())
    }

    /// The use as a function of resource names.
    pub fn by(amount: impl Fn(&str) -> Option<Quantity>) -> Self {
        Self {
            cpu: amount("cpu").unwrap_or_default().milli_value().into(),
            memory: amount("memory").unwrap_or_default().value().into(),
        }
    }

    pub fn plus(self, other: Self) -> Self {
        Self {
            cpu: self.cpu + other.cpu,
            memory: self.memory + other.memory,
        }
    }

    pub fn minus(self, other: Self) -> Self {
        Self {
            cpu: self.cpu - other.cpu,
            memory: self.memory - other.memory,
        }
    }
}

/// Whether both states of a pod certainly have equal requests.
pub(crate) fn asks_for_the_same(old: &PodView, new: &PodView) -> bool {
    Arc::ptr_eq(&old.spec, &new.spec)
        && allocated(old).eq(allocated(new))
        && is_infeasible(old) == is_infeasible(new)
}

/// Whether a pod requests less of a resource than before, so that other pods can use the difference.
pub fn asks_for_less(old: &PodView, new: &PodView) -> bool {
    if asks_for_the_same(old, new) {
        return false;
    }
    let after = requests(new);
    let less =
        |(name, before): (&String, &Quantity)| after.get(name).is_none_or(|now| now < before);
    requests(old).iter().any(less)
}

/// The allocated resources of the pod and its containers, where they differ from the requests.
fn allocated(pod: &PodView) -> impl Iterator<Item = Option<&Resources>> {
    let all = pod.containers.iter().chain(&pod.init_containers);
    let of_containers = all.map(|status| status.allocated.as_deref());
    of_containers.chain([pod.allocated.as_deref()])
}

fn container_requests(pod: &PodView, container: &Container) -> Resources {
    let request = container.resources.as_ref().map(effective);
    let mut all = pod.containers.iter().chain(&pod.init_containers);
    let status = all.find(|status| *status.name == *container.name);
    let allocated = status.and_then(|status| status.allocated.as_deref());
    with_allocated(pod, request.unwrap_or_default(), allocated)
}

/// The larger of the requested and the allocated resources; an infeasible request does not count.
fn with_allocated(
    pod: &PodView,
    mut requested: Resources,
    allocated: Option<&Resources>,
) -> Resources {
    if let Some(allocated) = allocated {
        if is_infeasible(pod) {
            requested.extend(allocated.clone());
        } else {
            raise(&mut requested, allocated);
        }
    }
    requested
}

/// Whether the pod's resize is infeasible on its node.
fn is_infeasible(pod: &PodView) -> bool {
    let pending = pod.condition(pod_condition::RESIZE_PENDING);
    pending.is_some_and(|pending| pending.reason() == Some("Infeasible"))
}

/// The requests; for a resource with a limit only, the limit.
fn effective(resources: &ResourceRequirements) -> Resources {
    let mut effective = read(resources.limits.as_ref());
    effective.extend(read(resources.requests.as_ref()));
    effective
}

fn read(amounts: Option<&BTreeMap<String, Amount>>) -> Resources {
    amounts
        .into_iter()
        .flatten()
        .filter_map(|(name, amount)| Some((name.clone(), amount.0.parse().ok()?)))
        .collect()
}

fn add(total: &mut Resources, more: &Resources) {
    for (name, amount) in more {
        let sum = total
            .get(name)
            .map_or(*amount, |present| present.plus(amount));
        total.insert(name.clone(), sum);
    }
}

fn raise(total: &mut Resources, least: &Resources) {
    for (name, amount) in least {
        if total.get(name).is_none_or(|present| present < amount) {
            total.insert(name.clone(), *amount);
        }
    }
}

/// The resources of a node that pods can use.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Allocatable {
    amounts: Resources,
    /// CPU and memory of these resources.
    counted: CountedUse,
    /// The maximum number of pods.
    pods: Option<i64>,
}

impl Allocatable {
    /// The resources in the node's status. An invalid quantity is ignored.
    pub fn of(node: &Node) -> Self {
        let status = node.status.as_ref();
        let amounts =
            status.and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()));
        let amounts = read(amounts);
        Self {
            counted: CountedUse::by(|name| amounts.get(name).copied()),
            pods: amounts.get("pods").map(Quantity::value),
            amounts,
        }
    }
}

/// The free resources of a node, and the number of further pods. The data is borrowed, because a decision creates a
/// value for each node.
#[derive(Clone, Debug)]
pub(crate) struct FreeResources<'v> {
    allocatable: &'v Allocatable,
    used: Cow<'v, Resources>,
    pods: i64,
}

impl<'v> FreeResources<'v> {
    /// The free resources of a node with these pods.
    pub fn of<'p>(
        allocatable: &'v Allocatable,
        pods: impl IntoIterator<Item = &'p PodView>,
    ) -> Self {
        let mut free = Self::with(allocatable, Cow::default(), 0);
        for pod in pods {
            free.add(&requests(pod));
        }
        free
    }

    /// The free resources of a node with that number of pods, which use `used`.
    pub fn with(allocatable: &'v Allocatable, used: Cow<'v, Resources>, pods: usize) -> Self {
        Self {
            allocatable,
            used,
            pods: i64::try_from(pods).unwrap_or(i64::MAX),
        }
    }

    /// The number of pods on the node.
    pub fn pods(&self) -> i64 {
        self.pods
    }

    /// The maximum number of pods on the node, if the node reports it.
    pub fn pods_max(&self) -> Option<i64> {
        self.allocatable.pods
    }

    /// The CPU and the memory of the node that pods can use.
    pub fn counted(&self) -> CountedUse {
        self.allocatable.counted
    }

    /// The amount of a resource of the node that pods can use.
    pub fn allocatable(&self, name: &str) -> Option<Quantity> {
        self.allocatable.amounts.get(name).copied()
    }

    /// The amount of a resource that the node's pods request.
    pub fn used(&self, name: &str) -> Option<Quantity> {
        self.used.get(name).copied()
    }

    /// Subtracts the requests of one more pod.
    pub fn add(&mut self, requests: &Resources) {
        add(self.used.to_mut(), requests);
        self.pods += 1;
    }

    /// The reason why the requests exceed the free resources; `None` if they do not exceed them.
    pub fn shortage(&self, requested: &Resources) -> Option<FilterFailure> {
        let mut shortages = Vec::new();
        let mut ever = true;
        if self.pods_max().is_some_and(|limit| self.pods >= limit) {
            shortages.push("Too many pods".to_owned());
        }
        for (name, amount) in requested.iter().filter(|(_, amount)| !amount.is_zero()) {
            let has = self.allocatable(name).unwrap_or_default();
            let used = self.used(name).unwrap_or_default();
            // The difference is compared, not the sum: the sum of amounts at the end of the range is saturated.
            if *amount > has || *amount > has.minus(&used) {
                shortages.push(format!("Insufficient {name}"));
                ever &= *amount <= has;
            }
        }
        match (shortages.is_empty(), ever) {
            (true, _) => None,
            (false, true) => FilterFailure::all_of_pods(shortages),
            (false, false) => FilterFailure::all_lasting(shortages),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use json_tree::{Value, json};
    use k8s_openapi::api::core::v1::Pod;

    fn cpu(conditions: Value) -> i64 {
        let amounts = |requested: &str| json!({"requests": {"cpu": requested}});
        let pod: Pod = json_tree::from_value(json!({
            "metadata": {"name": "p", "uid": "u", "resourceVersion": "1"},
            "spec": {"containers": [{"name": "c", "resources": amounts("3")}]},
            "status": {"conditions": conditions, "containerStatuses": [{
                "name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "allocatedResources": {"cpu": "1"}, "resources": amounts("2")}]}}))
        .unwrap();
        requests(&PodView::try_from(pod).unwrap())["cpu"].value()
    }

    #[test]
    fn a_container_that_gets_other_resources_has_the_more_of_both() {
        // kubectl.md 6.7: the larger of the old and the new values counts.
        assert_eq!(cpu(json!([])), 3);
        let pending = |reason: &str| json!([{"type": "PodResizePending", "status": "True", "reason": reason}]);
        assert_eq!(cpu(pending("Deferred")), 3);
        // An infeasible request does not count.
        assert_eq!(cpu(pending("Infeasible")), 2);
    }

    #[test]
    fn so_has_a_pod_as_a_whole() {
        // KEP-5419: resizes of pod-level resources.
        let cpu = |requested: &str, reason: &str| {
            let pod: Pod = json_tree::from_value(json!({
                "metadata": {"name": "p", "uid": "u", "resourceVersion": "1"},
                "spec": {"containers": [{"name": "c"}], "resources": {"requests": {"cpu": requested}}},
                "status": {"allocatedResources": {"cpu": "2"},
                    "resources": {"requests": {"cpu": "4"}},
                    "conditions": [
                        {"type": "PodResizePending", "status": "True", "reason": reason}]}}))
            .unwrap();
            requests(&PodView::try_from(pod).unwrap())["cpu"].value()
        };
        assert_eq!(cpu("1", ""), 4);
        assert_eq!(cpu("5", "Deferred"), 5);
        assert_eq!(cpu("9", "Infeasible"), 4);
    }
}
