//! The ranking of pods for eviction, and the message of an evicted pod.
//!
//! Pods that exceed their requests are first. They are sorted by priority, the lowest first, and then by
//! the amount above the request, the largest first. So best-effort pods are evicted before burstable pods,
//! and guaranteed pods last. Critical pods are never evicted.

use std::cmp::Reverse;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use object_model::quantity::Quantity;

use super::pressure::Shortage;
use super::thresholds::Resource;
use crate::record::PodFailure;
use crate::spec::{Kind, containers, is_critical};

/// Grace period of an evicted pod, in seconds.
const GRACE_SECONDS: i64 = 1;

/// A pod's usage of the scarce resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodUsage {
    /// The usage of the whole pod, in bytes or inodes.
    pub total: i64,
    /// The parts of the containers, by name. Some usage, such as volumes, belongs to no container.
    pub containers: Vec<(String, i64)>,
}

/// A pod that can be evicted.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    pub pod: &'a Pod,
    /// The pod's usage; `None` if it is unknown.
    pub usage: Option<&'a PodUsage>,
}

/// The index of the pod to evict.
pub fn first_to_go(resource: Resource, candidates: &[Candidate<'_>]) -> Option<usize> {
    let ranked = candidates
        .iter()
        .enumerate()
        .filter_map(|(index, candidate)| {
            if is_critical(candidate.pod) {
                return None;
            }
            let spec = candidate.pod.spec.as_ref()?;
            let priority = spec.priority.unwrap_or(0);
            let over = candidate
                .usage
                .map(|usage| usage.total.saturating_sub(request(spec, resource)));
            // A pod with unknown usage comes first.
            let exceeds = over.is_none_or(|over| over > 0);
            let rank = (
                over.is_some(),
                Reverse(exceeds),
                priority,
                over.map(Reverse),
            );
            Some((rank, index))
        });
    ranked.min().map(|(_, index)| index)
}

/// The pod's request: the maximum that its containers need at one time, and its overhead.
fn request(spec: &PodSpec, resource: Resource) -> i64 {
    let overhead = spec.overhead.as_ref();
    let overhead = overhead.and_then(|overhead| amount(overhead, resource));
    let overhead = overhead.map_or(0, |amount| amount.value());
    overhead.saturating_add(request_of_containers(spec, resource))
}

fn request_of_containers(spec: &PodSpec, resource: Resource) -> i64 {
    let of_pod = spec.resources.as_ref();
    let of_pod = of_pod.and_then(|resources| amount(resources.requests.as_ref()?, resource));
    if let Some(quantity) = of_pod {
        return quantity.value();
    }
    let (mut sum, mut peak) = (0_i64, 0_i64);
    for (kind, container) in containers(spec) {
        let request = container_request(container, resource).value();
        match kind {
            // An init container runs before the main containers, and concurrently with the sidecars before
            // it.
            Kind::Init => peak = peak.max(sum.saturating_add(request)),
            _ => sum = sum.saturating_add(request),
        }
    }
    sum.max(peak)
}

fn container_request(container: &Container, resource: Resource) -> Quantity {
    let resources = container.resources.as_ref();
    let requests = resources.and_then(|resources| resources.requests.as_ref());
    requests
        .and_then(|requests| amount(requests, resource))
        .unwrap_or_default()
}

type List =
    std::collections::BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>;

fn amount(list: &List, resource: Resource) -> Option<Quantity> {
    list.get(resource.name())?.0.parse().ok()
}

/// The failure of an evicted pod.
pub fn failure(pod: &Pod, usage: Option<&PodUsage>, shortage: &Shortage) -> PodFailure {
    let resource = shortage.signal.resource();
    let mut message = format!(
        "The node was low on resource: {}. Threshold quantity: {}, available: {}. ",
        resource.name(),
        resource.quantity(shortage.threshold),
        resource.quantity(shortage.available)
    );
    if let (Some(spec), Some(usage)) = (&pod.spec, usage) {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        message.push_str(&offenders(name, spec, usage, resource));
    }
    PodFailure {
        reason: "Evicted".to_owned(),
        message,
        grace_seconds: Some(GRACE_SECONDS),
        disrupts: true,
    }
}

/// The containers that exceed their requests. Inodes have no requests.
fn offenders(name: &str, spec: &PodSpec, usage: &PodUsage, resource: Resource) -> String {
    if resource == Resource::Inodes {
        return String::new();
    }
    let sentence = |subject: &str, name: &str, used: i64, request: &Quantity| {
        format!(
            "{subject} {name} was using {}, request is {request}, has larger consumption of {}. ",
            resource.quantity(used),
            resource.name()
        )
    };
    let of_pod = spec.resources.as_ref();
    let of_pod = of_pod.and_then(|resources| amount(resources.requests.as_ref()?, resource));
    let whole = of_pod
        .filter(|_| resource == Resource::Memory)
        .map(|request| sentence("Pod", name, usage.total, &request));
    let each = usage.containers.iter().filter_map(|(name, used)| {
        let (_, container) = containers(spec).find(|(_, container)| container.name == *name)?;
        let request = container_request(container, resource);
        (*used > request.value()).then(|| sentence("Container", name, *used, &request))
    });
    whole.into_iter().chain(each).collect()
}

#[cfg(test)]
mod tests {
    use json_tree::json;
    use proptest::prelude::*;

    use super::*;
    use crate::resources::eviction::thresholds::Signal;
    use crate::resources::qos::qos_class;

    const MI: i64 = 1 << 20;

    fn pod(request: Option<&str>, priority: i32) -> Pod {
        let requests = request.map_or(
            json!({}),
            |amount| json!({"memory": amount, "ephemeral-storage": amount}),
        );
        json_tree::from_value(
            json!({"metadata": {"name": "p"}, "spec": {"priority": priority,
            "containers": [{"name": "c", "resources": {"requests": requests}}]}}),
        )
        .unwrap()
    }

    fn used(total: i64) -> PodUsage {
        PodUsage {
            total,
            containers: vec![("c".to_owned(), total)],
        }
    }

    fn first(resource: Resource, pods: &[(Pod, Option<PodUsage>)]) -> Option<usize> {
        let candidates: Vec<Candidate<'_>> = pods
            .iter()
            .map(|(pod, usage)| Candidate {
                pod,
                usage: usage.as_ref(),
            })
            .collect();
        first_to_go(resource, &candidates)
    }

    #[test]
    fn who_uses_more_than_was_asked_for_goes_first() {
        // statefulset.md 12.16
        let mut all = vec![
            ("within", pod(Some("1Gi"), 0), Some(used(900 * MI))),
            ("nearly within", pod(Some("1Gi"), 0), Some(used(1000 * MI))),
            ("modest", pod(Some("10Mi"), -1), Some(used(5 * MI))),
            ("over", pod(Some("10Mi"), 0), Some(used(20 * MI))),
            ("best-effort", pod(None, 0), Some(used(30 * MI))),
            ("important", pod(None, 7), Some(used(500 * MI))),
            ("unknown", pod(None, 9), None),
            ("critical", pod(None, 2_000_000_000), Some(used(900 * MI))),
        ];
        for resource in [Resource::Memory, Resource::EphemeralStorage] {
            let mut remaining = all.clone();
            let mut order = Vec::new();
            loop {
                let pods: Vec<_> = remaining
                    .iter()
                    .map(|(_, pod, usage)| (pod.clone(), usage.clone()))
                    .collect();
                let Some(index) = first(resource, &pods) else {
                    break;
                };
                order.push(remaining.remove(index).0);
            }
            assert_eq!(
                order,
                [
                    "unknown",
                    "best-effort",
                    "over",
                    "important",
                    "modest",
                    "nearly within",
                    "within"
                ]
            );
            all.reverse();
        }
    }

    #[test]
    fn nobody_asks_for_files() {
        let few = (pod(Some("1Gi"), 0), Some(used(5)));
        let many = (pod(Some("1Gi"), 0), Some(used(500)));
        assert_eq!(first(Resource::Inodes, &[few, many]), Some(1));
    }

    #[test]
    fn what_runs_before_the_others_asks_for_its_own() {
        let spec = json!({
            "initContainers": [
                {"name": "side", "restartPolicy": "Always",
                    "resources": {"requests": {"memory": "10"}}},
                {"name": "init", "resources": {"requests": {"memory": "100"}}}],
            "containers": [{"name": "a", "resources": {"requests": {"memory": "30"}}},
                {"name": "b", "resources": {"requests": {"memory": "40"}}}]});
        let mut spec: PodSpec = json_tree::from_value(spec).unwrap();
        assert_eq!(request(&spec, Resource::Memory), 110);
        assert_eq!(request(&spec, Resource::EphemeralStorage), 0);
        spec.overhead = json_tree::from_value(json!({"memory": "7"})).unwrap();
        assert_eq!(request(&spec, Resource::Memory), 117);
    }

    fn shortage(signal: Signal) -> Shortage {
        Shortage {
            signal,
            threshold: 100 * MI,
            available: 80 * MI,
        }
    }

    #[test]
    fn the_message_says_what_was_lacking_and_who_had_it() {
        // statefulset.md 12.16
        let (pod, usage) = (pod(Some("10Mi"), 0), used(20 * MI));
        let of = |signal| failure(&pod, Some(&usage), &shortage(signal));
        let memory = of(Signal::MemoryAvailable);
        assert_eq!((memory.reason.as_str(), memory.disrupts), ("Evicted", true));
        assert_eq!(
            memory.message,
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 80Mi. \
             Container c was using 20Mi, request is 10Mi, has larger consumption of memory. "
        );
        assert_eq!(
            of(Signal::ImagefsAvailable).message,
            "The node was low on resource: ephemeral-storage. Threshold quantity: 100Mi, \
             available: 80Mi. Container c was using 20Mi, request is 10Mi, has larger consumption \
             of ephemeral-storage. "
        );
        assert_eq!(
            of(Signal::NodefsInodesFree).message,
            "The node was low on resource: inodes. Threshold quantity: 104857600, available: \
             83886080. "
        );
        let within = failure(&pod, Some(&used(MI)), &shortage(Signal::MemoryAvailable));
        assert!(within.message.ends_with("available: 80Mi. "));
    }

    #[test]
    fn what_the_pod_as_a_whole_asks_for_is_told() {
        let pod: Pod = json_tree::from_value(json!({"metadata": {"name": "p"}, "spec": {
            "resources": {"requests": {"memory": "10Mi"}}, "containers": [{"name": "c"}]}}))
        .unwrap();
        let usage = PodUsage {
            total: 20 * MI,
            containers: Vec::new(),
        };
        let message = failure(&pod, Some(&usage), &shortage(Signal::MemoryAvailable)).message;
        assert!(
            message.ends_with(
                "Pod p was using 20Mi, request is 10Mi, has larger consumption of memory. "
            ),
            "{message}"
        );
        assert_eq!(
            request(pod.spec.as_ref().unwrap(), Resource::Memory),
            10 * MI
        );
    }

    fn any_pod() -> impl Strategy<Value = (Pod, i64)> {
        let resources = prop_oneof![
            Just(json!({})),
            (1..200_i64).prop_map(|amount| json!({"requests": {"memory": amount.to_string()}})),
            (1..200_i64).prop_map(|amount| json!({"limits":
                {"memory": amount.to_string(), "cpu": "1"},
                "requests": {"memory": amount.to_string(), "cpu": "1"}})),
        ];
        let priority = prop_oneof![Just(0), -5..5_i32, Just(2_000_000_000)];
        (resources, priority, 0..300_i64).prop_map(|(resources, priority, total)| {
            let spec = json!({"priority": priority,
                "containers": [{"name": "c", "resources": resources}]});
            (json_tree::from_value(json!({"spec": spec})).unwrap(), total)
        })
    }

    proptest! {
        /// statefulset.md 12.16: an evicted pod is never critical, and no remaining pod precedes it in the
        /// order. With equal priorities, a best-effort pod is evicted before a pod within its guaranteed
        /// resources.
        #[test]
        fn the_first_is_the_one_that_kubelet_would_take(
            pods in proptest::collection::vec(any_pod(), 0..8)
        ) {
            let all: Vec<(Pod, Option<PodUsage>)> = pods
                .iter()
                .map(|(pod, total)| (pod.clone(), Some(used(*total))))
                .collect();
            let spec = |index: usize| all[index].0.spec.as_ref().unwrap();
            let facts = |index: usize| {
                let spec = spec(index);
                let over = pods[index].1 - request(spec, Resource::Memory);
                (over > 0, spec.priority.unwrap(), over)
            };
            let Some(chosen) = first(Resource::Memory, &all) else {
                prop_assert!(all.iter().all(|(pod, _)| is_critical(pod)));
                return Ok(());
            };
            prop_assert!(!is_critical(&all[chosen].0));
            let (exceeds, priority, over) = facts(chosen);
            for other in (0..all.len()).filter(|index| !is_critical(&all[*index].0)) {
                let (others_exceeds, others_priority, others_over) = facts(other);
                prop_assert!(exceeds || !others_exceeds);
                if exceeds == others_exceeds {
                    prop_assert!(priority <= others_priority);
                    prop_assert!(priority < others_priority || over >= others_over);
                }
                if qos_class(spec(chosen)) == "Guaranteed" && !exceeds {
                    let best_effort = qos_class(spec(other)) == "BestEffort";
                    prop_assert!(!best_effort || pods[other].1 == 0);
                }
            }
        }
    }
}
