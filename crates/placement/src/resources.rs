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

/// The pod's requests: the sum of its containers and sidecars, or the maximum of its init
/// containers if that is more, with its overhead. Pod-level requests override the sum. During a
/// resize (kubectl.md 6.7) the larger of the old and the new values counts.
pub(crate) fn requests(pod: &PodView) -> Resources {
    sum(pod, |container| container_requests(pod, container))
}

/// The sum over a pod whose containers ask for that.
fn sum(pod: &PodView, asked: impl Fn(&Container) -> Resources) -> Resources {
    let spec = &pod.spec;
    let mut total = Resources::new();
    for container in &spec.containers {
        add(&mut total, &asked(container));
    }
    let mut sidecars = Resources::new();
    let mut peak = Resources::new();
    for container in spec.init_containers.iter().flatten() {
        let own = asked(container);
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut total, &own);
            add(&mut sidecars, &own);
            raise(&mut peak, &sidecars);
        } else {
            // An init container runs beside the sidecars that were started before it.
            let mut moment = sidecars.clone();
            add(&mut moment, &own);
            raise(&mut peak, &moment);
        }
    }
    raise(&mut total, &peak);
    if let Some(own) = &spec.resources {
        total.extend(with_held(pod, effective(own), pod.held.as_deref()));
    }
    add(&mut total, &read(spec.overhead.as_ref()));
    total
}

/// A use of CPU, in thousandths, and of memory, in bytes, as the score of free room counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CountedUse {
    pub cpu: i128,
    pub memory: i128,
}

/// The use that counts for a container without a request (milli-CPU, bytes of memory), so that pods without
/// requests are spread too.
const UNKNOWN: (i64, i64) = (100, 200 << 20);

impl CountedUse {
    /// The load by a pod.
    pub fn of(pod: &PodView) -> Self {
        let unknown = [
            ("cpu", Quantity::from_milli(UNKNOWN.0)),
            ("memory", Quantity::from_bytes(UNKNOWN.1)),
        ];
        let asked = sum(pod, |container| {
            let mut own = container_requests(pod, container);
            for (name, amount) in unknown {
                own.entry(name.to_owned()).or_insert(amount);
            }
            own
        });
        Self::by(|name| asked.get(name).copied())
    }

    /// The use by amounts of resources.
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

/// Whether two states of a pod surely have the same requests.
pub(crate) fn asks_for_the_same(old: &PodView, new: &PodView) -> bool {
    Arc::ptr_eq(&old.spec, &new.spec)
        && held(old).eq(held(new))
        && is_infeasible(old) == is_infeasible(new)
}

/// Whether a pod asks for less of something than before, so that others may have it.
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
fn held(pod: &PodView) -> impl Iterator<Item = Option<&Resources>> {
    let all = pod.containers.iter().chain(&pod.init_containers);
    let of_containers = all.map(|status| status.held.as_deref());
    of_containers.chain([pod.held.as_deref()])
}

fn container_requests(pod: &PodView, container: &Container) -> Resources {
    let own = container.resources.as_ref().map(effective);
    let mut all = pod.containers.iter().chain(&pod.init_containers);
    let status = all.find(|status| *status.name == *container.name);
    let held = status.and_then(|status| status.held.as_deref());
    with_held(pod, own.unwrap_or_default(), held)
}

/// The larger of the requested and the held resources; an infeasible request does not count.
fn with_held(pod: &PodView, mut asked: Resources, held: Option<&Resources>) -> Resources {
    if let Some(held) = held {
        if is_infeasible(pod) {
            asked.extend(held.clone());
        } else {
            raise(&mut asked, held);
        }
    }
    asked
}

/// Whether the pod's resize is infeasible on its node.
fn is_infeasible(pod: &PodView) -> bool {
    let pending = pod.condition(pod_condition::RESIZE_PENDING);
    pending.is_some_and(|pending| pending.reason() == Some("Infeasible"))
}

/// Requests; where there is only a limit, that.
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
        let sum = total.get(name).map_or(*amount, |known| known.plus(amount));
        total.insert(name.clone(), sum);
    }
}

fn raise(total: &mut Resources, least: &Resources) {
    for (name, amount) in least {
        if total.get(name).is_none_or(|known| known < amount) {
            total.insert(name.clone(), *amount);
        }
    }
}

/// The resources that a node has for pods.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Allocatable {
    amounts: Resources,
    /// CPU and memory of these.
    counted: CountedUse,
    /// The most pods.
    pods: Option<i64>,
}

impl Allocatable {
    /// The resources in the node's status. An amount that is no quantity is left out.
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

/// The free resources of a node, and the number of pods that it can still run. Nothing is copied: a decision makes
/// one for each node.
#[derive(Clone, Debug)]
pub(crate) struct FreeResources<'v> {
    allocatable: &'v Allocatable,
    used: Cow<'v, Resources>,
    pods: i64,
}

impl<'v> FreeResources<'v> {
    /// The room on a node with these pods on it.
    pub fn of<'p>(
        allocatable: &'v Allocatable,
        pods: impl IntoIterator<Item = &'p PodView>,
    ) -> Self {
        let mut room = Self::with(allocatable, Cow::default(), 0);
        for pod in pods {
            room.add(&requests(pod));
        }
        room
    }

    /// The room on a node with that many pods, which use that.
    pub fn with(allocatable: &'v Allocatable, used: Cow<'v, Resources>, pods: usize) -> Self {
        Self {
            allocatable,
            used,
            pods: i64::try_from(pods).unwrap_or(i64::MAX),
        }
    }

    /// The number of pods that are there.
    pub fn pods(&self) -> i64 {
        self.pods
    }

    /// The most pods that the node takes, if it says so.
    pub fn pods_max(&self) -> Option<i64> {
        self.allocatable.pods
    }

    /// The CPU and the memory that the node has for pods.
    pub fn counted(&self) -> CountedUse {
        self.allocatable.counted
    }

    /// The amount of a resource that the node has for pods.
    pub fn allocatable(&self, name: &str) -> Option<Quantity> {
        self.allocatable.amounts.get(name).copied()
    }

    /// The amount of a resource that its pods request.
    pub fn used(&self, name: &str) -> Option<Quantity> {
        self.used.get(name).copied()
    }

    /// The room with one more pod, which asks for that.
    pub fn add(&mut self, requests: &Resources) {
        add(self.used.to_mut(), requests);
        self.pods += 1;
    }

    /// The reason why the requests exceed the free resources; `None` if they do not.
    pub fn shortage(&self, wanted: &Resources) -> Option<FilterFailure> {
        let mut shortages = Vec::new();
        let mut ever = true;
        if self.pods_max().is_some_and(|limit| self.pods >= limit) {
            shortages.push("Too many pods".to_owned());
        }
        for (name, amount) in wanted.iter().filter(|(_, amount)| !amount.is_zero()) {
            let has = self.allocatable(name).unwrap_or_default();
            let used = self.used(name).unwrap_or_default();
            // Not their sum: amounts at the end of the range add up to no more than it.
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
            "spec": {"containers": [{"name": "c", "resources": amounts("3")}]},
            "status": {"conditions": conditions, "containerStatuses": [{
                "name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "allocatedResources": {"cpu": "1"}, "resources": amounts("2")}]}}))
        .unwrap();
        requests(&PodView::from(pod))["cpu"].value()
    }

    #[test]
    fn a_container_that_gets_other_resources_has_the_more_of_both() {
        // kubectl.md 6.7
        assert_eq!(cpu(json!([])), 3);
        let pending = |reason: &str| json!([{"type": "PodResizePending", "status": "True", "reason": reason}]);
        assert_eq!(cpu(pending("Deferred")), 3);
        // An infeasible request does not count.
        assert_eq!(cpu(pending("Infeasible")), 2);
    }

    #[test]
    fn so_has_a_pod_as_a_whole() {
        // KEP-5419
        let cpu = |asked: &str, reason: &str| {
            let pod: Pod = json_tree::from_value(json!({
                "spec": {"containers": [{"name": "c"}], "resources": {"requests": {"cpu": asked}}},
                "status": {"allocatedResources": {"cpu": "2"},
                    "resources": {"requests": {"cpu": "4"}},
                    "conditions": [
                        {"type": "PodResizePending", "status": "True", "reason": reason}]}}))
            .unwrap();
            requests(&PodView::from(pod))["cpu"].value()
        };
        assert_eq!(cpu("1", ""), 4);
        assert_eq!(cpu("5", "Deferred"), 5);
        assert_eq!(cpu("9", "Infeasible"), 4);
    }
}
