//! Properties of every placement.

use std::sync::Arc;

use json_tree::json;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use pod_placement::{ClusterView, PlacementDecision, Preemption, place};
use proptest::prelude::*;
use resource_kinds::pod_view::PodView;

const CAPACITY_MILLI: i64 = 1000;

/// Two budgets, each for half of the pods.
fn budgets(allowed: [i32; 2]) -> Vec<Arc<PodDisruptionBudget>> {
    let budget = |(index, allowed): (usize, i32)| {
        let object = json!({
            "metadata": {"namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": index.to_string()}}},
            "status": {"disruptionsAllowed": allowed},
        });
        Arc::new(json_tree::from_value(object).expect("a budget"))
    };
    allowed.into_iter().enumerate().map(budget).collect()
}

/// The view without the pods `removed`.
fn without(view: &ClusterView, removed: &[Arc<PodView>]) -> ClusterView {
    let mut view = view.clone();
    view.pods
        .retain(|pod| removed.iter().all(|removed| removed.uid != pod.uid));
    view
}

fn fits(pod: &PodView, view: &ClusterView, on: &str) -> bool {
    let mut view = view.clone();
    view.nodes.retain(|name, _| name == on);
    matches!(place(pod, &view, None), PlacementDecision::Bind { .. })
}

fn cluster(nodes: usize) -> ClusterView {
    let mut view = ClusterView::default();
    for index in 0..nodes {
        let name = format!("n{index}");
        let node: Node = json_tree::from_value(json!({
            "metadata": {"name": name},
            "status": {"allocatable": {"cpu": format!("{CAPACITY_MILLI}m"), "pods": "110"}},
        }))
        .expect("a node");
        view.nodes.insert(name, node.into());
    }
    view
}

fn pod(index: usize, milli: i64) -> PodView {
    important(index, milli, 0)
}

fn important(index: usize, milli: i64, priority: i32) -> PodView {
    let pod: Pod = json_tree::from_value(json!({
        "metadata": {"name": format!("p{index}"), "namespace": "default", "uid": index.to_string(), "resourceVersion": "1",
            "labels": {"app": (index % 2).to_string()}},
        "spec": {"priority": priority, "containers": [
            {"name": "a", "resources": {"requests": {"cpu": format!("{milli}m")}}},
        ]},
    }))
    .expect("a pod");
    pod.try_into().expect("a pod")
}

proptest! {
    /// No node's resources are exceeded; a feasible pod is placed; equal input gives equal decisions.
    #[test]
    fn nodes_are_never_overfull(sizes in prop::collection::vec(0..600i64, 1..20), nodes in 1..4usize) {
        let mut view = cluster(nodes);
        let mut used = vec![0i64; nodes];
        for (index, milli) in sizes.into_iter().enumerate() {
            let mut pod = pod(index, milli);
            let decision = place(&pod, &view, None);
            prop_assert_eq!(&decision, &place(&pod, &view, None));
            match decision {
                PlacementDecision::Bind { node } => {
                    let number: usize = node[1..].parse().expect("a node's number");
                    used[number] += milli;
                    prop_assert!(used[number] <= CAPACITY_MILLI);
                    pod.node = Some(node.into());
                    view.pods.push(Arc::new(pod));
                }
                PlacementDecision::Unschedulable(_) => {
                    prop_assert!(used.iter().all(|used| used + milli > CAPACITY_MILLI));
                }
                PlacementDecision::Prepare { .. } => prop_assert!(false, "no claims, nothing to prepare"),
                PlacementDecision::Preempt(_) => prop_assert!(false, "all are equally important"),
            }
        }
    }

    /// Victims have lower priority, the pod is infeasible before and feasible after the preemption, and no victim could
    /// stay; without victims, no deletion would help.
    #[test]
    fn nobody_goes_for_nothing(
        there in prop::collection::vec((1..600i64, -2..3i32, 0..3usize), 1..20),
        coming in (1..1200i64, -2..4i32),
        waiting in prop::collection::vec((1..600i64, -2..4i32, 0..3usize), 0..3),
        allowed in [0..3i32, 0..3i32],
    ) {
        let mut view = cluster(3);
        view.budgets = budgets(allowed);
        let mut used = [0i64; 3];
        for (index, (milli, priority, node)) in there.into_iter().enumerate() {
            let mut pod = important(index, milli, priority);
            if used[node] + milli <= CAPACITY_MILLI {
                used[node] += milli;
                pod.node = Some(format!("n{node}").into());
                view.pods.push(Arc::new(pod));
            }
        }
        for (index, (milli, priority, node)) in waiting.into_iter().enumerate() {
            let mut pod = important(100 + index, milli, priority);
            pod.node = Some(format!("n{node}").into());
            view.nominated.push(Arc::new(pod));
        }
        let (milli, priority) = coming;
        let pod = important(1000, milli, priority);
        let decision = place(&pod, &view, None);
        prop_assert_eq!(&decision, &place(&pod, &view, None));
        let below = |other: &&Arc<PodView>| other.spec.priority < Some(priority);
        match decision {
            PlacementDecision::Preempt(Preemption { node, victims, displaced, .. }) => {
                for name in view.nodes.keys() {
                    prop_assert!(!fits(&pod, &view, name), "it fits on {name} as it is");
                }
                prop_assert!(!victims.is_empty());
                for victim in &victims {
                    prop_assert!(below(&victim));
                    prop_assert_eq!(victim.node.as_deref(), Some(node.as_str()));
                }
                prop_assert!(displaced.iter().all(|other| below(&other)));
                prop_assert!(fits(&pod, &without(&view, &victims), &node));
                for stays in 0..victims.len() {
                    let mut fewer = victims.clone();
                    fewer.remove(stays);
                    prop_assert!(!fits(&pod, &without(&view, &fewer), &node));
                }
            }
            PlacementDecision::Unschedulable(_) => {
                let all: Vec<_> = view.pods.iter().filter(below).cloned().collect();
                let empty = without(&view, &all);
                for name in view.nodes.keys() {
                    prop_assert!(!fits(&pod, &empty, name), "without others it fits on {name}");
                }
            }
            PlacementDecision::Bind { node } => prop_assert!(fits(&pod, &view, &node)),
            PlacementDecision::Prepare { .. } => prop_assert!(false, "no claims, nothing to prepare"),
        }
    }
}
