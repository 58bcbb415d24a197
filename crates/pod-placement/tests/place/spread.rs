//! Topology spread constraints, of the pod and by default.
//!
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/topology-spread-constraints/>

use json_tree::{Value, json};

use crate::{asks, check, decide, on_node, pod, view};

#[test]
fn spread_bounds_the_skew() {
    let spec = json!({"topologySpreadConstraints": [{
        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}}}]});
    let mut like = on_node("a", "0");
    like["metadata"]["labels"] = json!({"app": "web"});
    let mut full = on_node("b", "2");
    full["metadata"]["labels"] = json!({"app": "other"});
    let pods = json!({"x": like, "y": full});
    check(
        json!({"nodes": {"a": {}, "b": {}}, "pods": pods}),
        spec.clone(),
        "bind b",
    );
    let mut asking = asks("1", "0");
    asking["topologySpreadConstraints"] = spec["topologySpreadConstraints"].clone();
    check(
        json!({"nodes": {"a": {}, "b": {}}, "pods": pods}),
        asking,
        "0/2 nodes are available: 1 Insufficient cpu, \
         1 node(s) didn't match pod topology spread constraints.",
    );
}

// findings C21: the score of kube-scheduler's PodTopologySpread.
#[test]
fn spread_is_wished_for() {
    cov_mark::check!(findings_c21);
    let wish = |keys: &[(&str, i64)]| {
        let constraints: Vec<Value> = keys
            .iter()
            .map(|(key, skew)| {
                json!({"maxSkew": skew, "topologyKey": key, "whenUnsatisfiable": "ScheduleAnyway",
                    "labelSelector": {"matchLabels": {"app": "web"}}})
            })
            .collect();
        json!({ "topologySpreadConstraints": constraints })
    };
    let like = |node: &str| {
        let mut like = on_node(node, "0");
        like["metadata"]["labels"] = json!({"app": "web"});
        like
    };
    let zone = |zone: &str| json!({"metadata": {"labels": {"zone": zone}}});
    let nodes = json!({"a": zone("z1"), "b": zone("z1"), "c": zone("z2"), "d": {}});
    // `c` has the fewest free resources.
    let other = on_node("c", "1");
    let pods = json!({"x": like("a"), "y": other});
    let objects = json!({"nodes": nodes, "pods": pods});
    check(objects.clone(), json!({}), "bind b");
    check(objects.clone(), wish(&[("zone", 1)]), "bind c");
    check(
        objects.clone(),
        wish(&[("kubernetes.io/hostname", 1)]),
        "bind b",
    );
    // A node without the label can still be chosen last.
    let only = json!({"nodes": {"d": {}}, "pods": {}});
    check(only, wish(&[("zone", 1)]), "bind d");
}

fn zone(zone: &str) -> Value {
    json!({"metadata": {"labels": {"zone": zone}}})
}

fn web(node: &str) -> Value {
    let mut web = on_node(node, "0");
    web["metadata"]["labels"] = json!({"app": "web"});
    web
}

/// A constraint over zones, with these additional fields.
fn over_zones(more: &Value) -> Value {
    let mut constraint = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}}});
    for (key, value) in more.as_object().into_iter().flatten() {
        constraint[key] = value.clone();
    }
    json!({"topologySpreadConstraints": [constraint]})
}

// "Spread constraint definition", field by field.
#[test]
fn each_field_of_a_constraint_counts() {
    let skewed = "0/1 nodes are available: 1 node(s) didn't match pod topology spread constraints.";
    let tainted = json!({"metadata": {"labels": {"zone": "z2"}},
        "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}});
    let one = json!({"nodes": {"a": zone("z1")}, "pods": {"x": web("a")}});
    let two = json!({"nodes": {"a": zone("z1"), "b": tainted}, "pods": {"x": web("a")}});
    let deleting = {
        let mut pods = one.clone();
        pods["pods"]["x"]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        pods["pods"]["x"]["metadata"]["deletionGracePeriodSeconds"] = 30.into();
        pods["pods"]["y"] = web("a");
        pods
    };
    let both = "0/2 nodes are available: 1 node(s) didn't match pod topology spread constraints, \
        1 node(s) had untolerated taint(s).";
    let away = "0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, \
        1 node(s) didn't match pod topology spread constraints.";
    let rows: [(&Value, Value, &str); 11] = [
        (&one, json!({}), "bind a"),
        // With fewer domains than `minDomains`, the global minimum is 0.
        (&one, json!({"minDomains": 1}), "bind a"),
        (&one, json!({"minDomains": 2}), skewed),
        (&one, json!({"minDomains": 2, "maxSkew": 2}), "bind a"),
        // A pod that is being deleted does not count.
        (&deleting, json!({"minDomains": 2}), skewed),
        (&deleting, json!({"minDomains": 2, "maxSkew": 2}), "bind a"),
        // Tainted nodes count unless the policy is `Honor`.
        (&two, json!({}), both),
        (&two, json!({"nodeTaintsPolicy": "Ignore"}), both),
        (&two, json!({"nodeTaintsPolicy": "Honor"}), "bind a"),
        // The pod's label values are compared for keys that the selector does not name.
        (
            &one,
            json!({"minDomains": 2, "labelSelector": {}, "matchLabelKeys": ["app"]}),
            skewed,
        ),
        (
            &one,
            json!({"minDomains": 2, "labelSelector": {}, "matchLabelKeys": ["other"]}),
            skewed,
        ),
    ];
    for (objects, more, expected) in rows {
        let decision = decide(&pod(over_zones(&more)), &view(objects.clone()));
        assert_eq!(decision, expected, "{more} in {objects}");
    }
    // Nodes that the pod's node selector excludes do not count unless the policy is `Ignore`.
    let free = json!({"nodes": {"a": zone("z1"), "b": zone("z2")}, "pods": {"x": web("a")}});
    let on_a = |more: Value| {
        let mut spec = over_zones(&more);
        spec["nodeSelector"] = json!({"kubernetes.io/hostname": "a"});
        spec
    };
    check(free.clone(), on_a(json!({})), "bind a");
    check(
        free.clone(),
        on_a(json!({"nodeAffinityPolicy": "Honor"})),
        "bind a",
    );
    check(free, on_a(json!({"nodeAffinityPolicy": "Ignore"})), away);
}

/// The nodes of `count` pods that are placed one after the other, all with these labels and this controller.
fn places(mut objects: Value, count: usize, controller: Option<&str>) -> Vec<String> {
    let mut chosen = Vec::new();
    for index in 0..count {
        let owners = controller.map(|kind| {
            json!([{"apiVersion": "apps/v1", "kind": kind, "name": "c", "uid": "c", "controller": true}])
        });
        let metadata = json!({"name": format!("p{index}"), "namespace": "default",
            "uid": format!("p{index}"), "resourceVersion": "1", "labels": {"app": "web"},
            "ownerReferences": owners});
        // The nodes have many free resources, so that these do not decide.
        let new = json!({"metadata": metadata, "spec": {"containers": [{"name": "a", "resources":
            {"requests": {"cpu": "1m", "memory": "1Mi"}}}]}});
        let typed: k8s_openapi::api::core::v1::Pod =
            json_tree::from_value(new.clone()).expect("a pod");
        let decision = decide(&typed.try_into().expect("a pod"), &view(objects.clone()));
        let node = decision.strip_prefix("bind ").expect("a place").to_owned();
        let mut placed = new;
        placed["spec"]["nodeName"] = node.clone().into();
        objects["pods"][format!("p{index}")] = placed;
        chosen.push(node);
    }
    chosen
}

fn counted(chosen: &[String]) -> Vec<(String, usize)> {
    let mut counts = std::collections::BTreeMap::new();
    for node in chosen {
        *counts.entry(node.clone()).or_default() += 1;
    }
    counts.into_iter().collect()
}

// "Built-in default constraints": maxSkew 3 for hosts and 5 for zones, for pods of Services, ReplicaSets,
// StatefulSets and ReplicationControllers.
#[test]
fn pods_of_a_service_or_a_controller_are_spread_without_constraints() {
    let big = |labels: Value| {
        json!({"metadata": {"labels": labels},
            "status": {"allocatable": {"cpu": "64", "memory": "256Gi", "pods": "110"}}})
    };
    // `a` is preferred by free resources: the other nodes are in use.
    let busy = |node: &str| {
        json!({"spec": {"nodeName": node, "containers": [{"name": "a", "resources":
            {"requests": {"cpu": "8", "memory": "32Gi"}}}]}})
    };
    let nodes = json!({"a": big(json!({})), "b": big(json!({})), "c": big(json!({}))});
    let plain = json!({"nodes": nodes, "pods": {"x": busy("b"), "y": busy("c")}});
    let mut served = plain.clone();
    served["services"] = json!({"web": {"spec": {"selector": {"app": "web"}}}});
    let mut other = plain.clone();
    other["services"] = json!({"db": {"spec": {"selector": {"app": "db"}}}, "none": {"spec": {}}});
    let all = |name: &str| vec![(name.to_owned(), 6)];
    let even = ["a", "b", "c"].map(|name| (name.to_owned(), 2)).to_vec();
    for (objects, controller, expected) in [
        (&plain, None, all("a")),
        (&other, None, all("a")),
        (&served, None, even.clone()),
        (&plain, Some("ReplicaSet"), even.clone()),
        (&plain, Some("StatefulSet"), even.clone()),
        // The controller has no replicas, but a Service selects its pods.
        (&plain, Some("Job"), all("a")),
        (&served, Some("Job"), even),
    ] {
        let counts_by_node = counted(&places(objects.clone(), 6, controller));
        assert_eq!(
            counts_by_node, expected,
            "controller {controller:?} in {objects}"
        );
    }
    // Zones are filled evenly, even if a zone has more nodes.
    let of_zone = |zone: &str| big(json!({"topology.kubernetes.io/zone": zone}));
    let zoned = json!({"nodes": {"a": of_zone("z1"), "b": of_zone("z1"), "c": of_zone("z1"),
        "d": of_zone("z2")}, "pods": {}});
    let counts_by_node = counted(&places(zoned, 8, Some("ReplicaSet")));
    let of_d = counts_by_node.iter().find(|(node, _)| node == "d");
    assert!(
        of_d.is_some_and(|(_, count)| *count >= 3),
        "{counts_by_node:?}"
    );
}

// A pod with constraints gets no default constraints.
#[test]
fn own_constraints_replace_those_by_default() {
    let mut objects = json!({"nodes": {"a": {}, "b": {}, "c": zone("z")}, "pods": {"x": web("b"), "y": on_node("c", "1900m")}});
    objects["services"] = json!({"web": {"spec": {"selector": {"app": "web"}}}});
    check(objects.clone(), json!({}), "bind a");
    // Only `c` has the label.
    check(
        objects,
        over_zones(&json!({"whenUnsatisfiable": "ScheduleAnyway"})),
        "bind c",
    );
}
