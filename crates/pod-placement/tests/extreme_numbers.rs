//! Extreme numbers in pods and nodes.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;

use json_tree::{Value, json};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::serde::de::DeserializeOwned;
use pod_placement::{ClusterView, PlacementDecision, place};
use resource_kinds::pod_view::PodView;

fn typed<K: DeserializeOwned>(object: Value) -> K {
    json_tree::from_value(object).unwrap()
}

fn pod(name: &str, spec: Value) -> PodView {
    let metadata =
        json!({"name": name, "namespace": "default", "uid": name, "resourceVersion": "1"});
    typed::<Pod>(json!({"metadata": metadata, "spec": spec}))
        .try_into()
        .unwrap()
}

fn asks(amount: &str) -> Value {
    json!({"containers": [
        {"name": "a", "resources": {"requests": {"cpu": amount, "memory": amount}}}]})
}

/// findings S32: no number causes a panic, and no number creates free resources.
#[test]
fn numbers_at_the_ends_of_their_range_never_overfill_a_node() {
    let amounts = [
        ("9223372036854775807", 9.2e18),
        ("8E", 8e18),
        ("1n", 1e-9),
        ("0", 0.0),
        ("-9223372036854775808", 0.0),
    ];
    for (request, amount) in amounts {
        for (capacity, has) in amounts {
            for (used, in_use) in amounts {
                for number in [i32::MAX, i32::MIN, 0] {
                    let node = json!({"metadata": {"name": "a", "labels": {"zone": "z"}},
                        "status": {"allocatable": {"cpu": capacity, "memory": capacity, "pods": capacity}}});
                    let mut view = ClusterView::default();
                    view.nodes
                        .insert("a".to_owned(), typed::<Node>(node).into());
                    let mut other = asks(used);
                    other["nodeName"] = "a".into();
                    view.pods.push(Arc::new(pod("other", other)));
                    let mut spec = asks(request);
                    let term = json!({"topologyKey": "zone", "labelSelector": {}});
                    let weighted = json!([{"weight": number, "podAffinityTerm": term}]);
                    spec["priority"] = number.into();
                    spec["overhead"] = json!({"cpu": request});
                    spec["affinity"] = json!({
                        "podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": weighted},
                        "nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                            {"weight": number, "preference": {}}]}});
                    spec["topologySpreadConstraints"] = json!([{"maxSkew": number,
                        "minDomains": number, "topologyKey": "zone", "labelSelector": {},
                        "whenUnsatisfiable": "ScheduleAnyway"}]);
                    let decision = place(&pod("new", spec), &view, None);
                    let fits = amount == 0.0 || amount + in_use <= has;
                    assert!(
                        fits || !matches!(decision, PlacementDecision::Bind { .. }),
                        "{request} beside {used} in {capacity}"
                    );
                }
            }
        }
    }
}
