//! What holds of every placement.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use placement::{ClusterView, Decision, place};
use proptest::prelude::*;
use resource_kinds::pod_view::PodView;
use serde_json::json;

const ROOM_MILLI: i64 = 1000;

fn cluster(nodes: usize) -> ClusterView {
    let mut view = ClusterView::default();
    for index in 0..nodes {
        let name = format!("n{index}");
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": name},
            "status": {"allocatable": {"cpu": format!("{ROOM_MILLI}m"), "pods": "110"}},
        }))
        .expect("a node");
        view.nodes.insert(name, Arc::new(node));
    }
    view
}

fn pod(index: usize, milli: i64) -> PodView {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": format!("p{index}"), "namespace": "default", "uid": index.to_string()},
        "spec": {"containers": [
            {"name": "a", "resources": {"requests": {"cpu": format!("{milli}m")}}},
        ]},
    }))
    .expect("a pod");
    pod.into()
}

proptest! {
    /// No node is ever asked for more than it has; a pod that fits somewhere is placed; the same
    /// question has the same answer.
    #[test]
    fn nodes_are_never_overfull(sizes in prop::collection::vec(0..600i64, 1..20), nodes in 1..4usize) {
        let mut view = cluster(nodes);
        let mut used = vec![0i64; nodes];
        for (index, milli) in sizes.into_iter().enumerate() {
            let mut pod = pod(index, milli);
            let decision = place(&pod, &view, None);
            prop_assert_eq!(&decision, &place(&pod, &view, None));
            match decision {
                Decision::Bind { node } => {
                    let place: usize = node[1..].parse().expect("a node's number");
                    used[place] += milli;
                    prop_assert!(used[place] <= ROOM_MILLI);
                    pod.node = Some(node.into());
                    view.pods.push(Arc::new(pod));
                }
                Decision::Unschedulable(_) => {
                    prop_assert!(used.iter().all(|used| used + milli > ROOM_MILLI));
                }
                Decision::Prepare { .. } => prop_assert!(false, "no claims, nothing to prepare"),
            }
        }
    }
}
