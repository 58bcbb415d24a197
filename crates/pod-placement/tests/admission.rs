//! A node admits the pods that the scheduler binds to it, and no other pods.

use std::sync::Arc;

use json_tree::json;
use k8s_openapi::api::core::v1::{Node, Pod};
use pod_placement::{ClusterView, PlacementDecision, misfit, place};
use proptest::prelude::*;
use resource_kinds::pod_view::PodView;

/// A pod's requests.
#[derive(Clone, Debug)]
struct Wish {
    milli: i64,
    gibibytes: i64,
    port: Option<i32>,
    address: Option<&'static str>,
    disk: Option<&'static str>,
    on_host: bool,
}

fn wish() -> impl Strategy<Value = Wish> {
    (
        0..900i64,
        0..3i64,
        prop::option::of(8080..8082),
        prop::option::of(prop::sample::select(vec![
            "0.0.0.0",
            "127.0.0.1",
            "192.0.2.1",
        ])),
        prop::option::of(prop::sample::select(vec!["ssd", "hdd"])),
        any::<bool>(),
    )
        .prop_map(|(milli, gibibytes, port, address, disk, on_host)| Wish {
            milli,
            gibibytes,
            port,
            address,
            disk,
            on_host,
        })
}

fn pod(index: usize, wish: &Wish) -> PodView {
    let ports = wish.port.map(|number| {
        let inner = if wish.on_host { number } else { 80 };
        let mut port = json!({"containerPort": inner, "hostPort": number});
        if let Some(address) = wish.address {
            port["hostIP"] = json!(address);
        }
        json!([port])
    });
    let amounts =
        json!({"cpu": format!("{}m", wish.milli), "memory": format!("{}Gi", wish.gibibytes)});
    let pod: Pod = json_tree::from_value(json!({
        "metadata": {"name": format!("p{index}"), "namespace": "default", "uid": index.to_string(),
            "resourceVersion": "1"},
        "spec": {
            "hostNetwork": wish.on_host,
            "nodeSelector": wish.disk.map(|disk| json!({"disk": disk})),
            "containers": [{"name": "c", "ports": ports, "resources": {"requests": amounts}}],
        },
    }))
    .expect("a pod");
    pod.try_into().expect("a pod")
}

fn node(name: &str, disk: &str) -> Node {
    let node = json_tree::from_value(json!({
        "metadata": {"name": name, "labels": {"disk": disk}},
        "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "4"}},
    }));
    node.expect("a node")
}

proptest! {
    #[test]
    fn scheduler_and_node_agree(wishes in prop::collection::vec(wish(), 1..20)) {
        let mut view = ClusterView::default();
        for (name, disk) in [("a", "ssd"), ("b", "hdd")] {
            view.nodes.insert(name.to_owned(), node(name, disk).into());
        }
        for (index, wish) in wishes.iter().enumerate() {
            let mut pod = pod(index, wish);
            let refusal = |name: &str| {
                let on_node = view.pods.iter().filter(|other| other.node.as_deref() == Some(name));
                let others: Vec<PodView> = on_node.map(|other| PodView::clone(other)).collect();
                misfit(&pod, &view.nodes[name], &others)
            };
            match place(&pod, &view, None) {
                PlacementDecision::Bind { node } => {
                    prop_assert_eq!(refusal(&node), None);
                    pod.node = Some(node.into());
                    view.pods.push(Arc::new(pod));
                }
                _ => {
                    for name in ["a", "b"] {
                        prop_assert!(refusal(name).is_some(), "{} would take {:?}", name, wish);
                    }
                }
            }
        }
    }
}
