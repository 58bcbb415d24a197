//! Affinity and anti-affinity between pods.
//!
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#inter-pod-affinity-and-anti-affinity>

use json_tree::{Value, json};

use crate::{check, decide, on_node, pod, view};

#[test]
fn anti_affinity_keeps_replicas_apart() {
    let spec = json!({"affinity": {"podAntiAffinity":
        {"requiredDuringSchedulingIgnoredDuringExecution": [{
            "labelSelector": {"matchLabels": {"app": "web"}},
            "topologyKey": "kubernetes.io/hostname"}]}}});
    let mut there = spec.clone();
    there["nodeName"] = "a".into();
    there["containers"] = json!([{"name": "a"}]);
    let other = json!({"metadata": {"labels": {"app": "web"}}, "spec": there});
    let objects = json!({"nodes": {"a": {}, "b": {}}, "pods": {"x": other.clone()}});
    check(objects, spec.clone(), "bind b");
    check(
        json!({"nodes": {"a": {}}, "pods": {"x": other.clone()}}),
        spec,
        "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules.",
    );
    check(
        json!({"nodes": {"a": {}}, "pods": {"x": other}}),
        json!({}),
        "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules.",
    );
}

#[test]
fn affinity_follows_and_the_first_of_a_group_may_start() {
    let near = |app: &str| {
        json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{
            "labelSelector": {"matchLabels": {"app": app}},
            "topologyKey": "kubernetes.io/hostname"}]}}})
    };
    let mut db = on_node("b", "1");
    db["metadata"]["labels"] = json!({"app": "db"});
    let objects = json!({"nodes": {"a": {}, "b": {}}, "pods": {"db": db}});
    check(objects, near("db"), "bind b");
    check(json!({"nodes": {"a": {}}}), near("web"), "bind a");
    check(
        json!({"nodes": {"a": {}}}),
        near("db"),
        "0/1 nodes are available: 1 node(s) didn't match pod affinity rules.",
    );
}

const FAR: &str = "0/1 nodes are available: 1 node(s) didn't match pod affinity rules.";

fn near(terms: &Value) -> Value {
    json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}})
}

/// A term over nodes, with these fields.
fn term(fields: &Value) -> Value {
    let mut term = fields.clone();
    term["topologyKey"] = "kubernetes.io/hostname".into();
    term
}

fn labelled(node: &str, namespace: &str, labels: Value) -> Value {
    let mut there = on_node(node, "0");
    there["metadata"] = json!({"namespace": namespace, "labels": labels});
    there
}

// "Namespace selector", "matchLabelKeys", "mismatchLabelKeys". The pod is `app=web` in `default`.
#[test]
fn each_field_of_a_term_counts() {
    let there = |namespace: &str, labels: Value| {
        json!({"nodes": {"a": {}}, "pods": {"x": labelled("a", namespace, labels)},
            "namespaces": {"default": {}, "team": {"metadata": {"labels": {"of": "team"}}}}})
    };
    let db = json!({"matchLabels": {"app": "db"}});
    let here = there("default", json!({"app": "db"}));
    let team = there("team", json!({"app": "db"}));
    let like = there("default", json!({"app": "web", "tier": "db"}));
    let of_team = json!({"matchLabels": {"of": "team"}});
    let tier = json!({"matchExpressions": [{"key": "tier", "operator": "Exists"}]});
    let expression = json!({"key": "app", "operator": "In", "values": ["db"]});
    let merged =
        json!({"labelSelector": {"matchExpressions": [expression]}, "matchLabelKeys": ["app"]});
    let listed = json!({"labelSelector": db, "namespaces": ["team"]});
    let any_namespace = json!({"labelSelector": db, "namespaceSelector": {}});
    let selected = json!({"labelSelector": db, "namespaceSelector": of_team});
    let rows: [(&Value, Value, bool); 16] = [
        (&here, json!({"labelSelector": db}), true),
        (&team, json!({"labelSelector": db}), false),
        (&team, listed.clone(), true),
        (&here, listed.clone(), false),
        // An empty selector selects all namespaces; without a selector only the pod's namespace counts.
        (&team, any_namespace.clone(), true),
        (&here, any_namespace.clone(), true),
        (&team, selected.clone(), true),
        (&here, selected.clone(), false),
        // The listed and the selected namespaces both count.
        (
            &here,
            json!({"labelSelector": db, "namespaceSelector": of_team, "namespaces": ["default"]}),
            true,
        ),
        // A term without a selector selects no pods.
        (&here, json!({}), false),
        (
            &like,
            json!({"labelSelector": tier, "matchLabelKeys": ["app"]}),
            true,
        ),
        (
            &like,
            json!({"labelSelector": tier, "mismatchLabelKeys": ["app"]}),
            false,
        ),
        (
            &here,
            json!({"labelSelector": db, "matchLabelKeys": ["app"]}),
            false,
        ),
        (
            &here,
            json!({"labelSelector": db, "mismatchLabelKeys": ["app"]}),
            true,
        ),
        // A key that the pod does not have is ignored.
        (
            &here,
            json!({"labelSelector": db, "matchLabelKeys": ["other"]}),
            true,
        ),
        // KEP-3633: the selector contains the pod's label of the time of creation, which has changed since.
        (&here, merged, true),
    ];
    for (objects, fields, holds) in rows {
        let spec = near(&json!([term(&fields)]));
        let expected = if holds { "bind a" } else { FAR };
        assert_eq!(
            decide(&pod(spec), &view(objects.clone())),
            expected,
            "{fields} in {objects}"
        );
    }
}

// As kube-scheduler: a pod counts if all terms select it.
#[test]
fn several_terms_are_about_the_same_pods() {
    let of = |labels: Value| term(&json!({"labelSelector": {"matchLabels": labels}}));
    let terms = json!([of(json!({"app": "db"})), of(json!({"tier": "gold"}))]);
    let one = |labels: Value| labelled("a", "default", labels);
    let split = json!({"x": one(json!({"app": "db"})), "y": one(json!({"tier": "gold"}))});
    let both = json!({"x": one(json!({"app": "db", "tier": "gold"}))});
    check(
        json!({"nodes": {"a": {}}, "pods": split}),
        near(&terms),
        FAR,
    );
    check(
        json!({"nodes": {"a": {}}, "pods": both}),
        near(&terms),
        "bind a",
    );
    // The first pod of a group must be selected by all its terms, and its node must have all topology labels.
    let term_of_web = of(json!({"app": "web"}));
    check(
        json!({"nodes": {"a": {}}}),
        near(&json!([term_of_web])),
        "bind a",
    );
    check(
        json!({"nodes": {"a": {}}}),
        near(&json!([term_of_web, of(json!({"app": "db"}))])),
        FAR,
    );
    let mut of_zone = term_of_web.clone();
    of_zone["topologyKey"] = "zone".into();
    check(
        json!({"nodes": {"a": {}}}),
        near(&json!([term_of_web, of_zone])),
        FAR,
    );
}

/// A preference for, or against, pods with that label, with this weight.
fn prefers(kind: &str, app: &str, weight: i32) -> Value {
    let term = term(&json!({"labelSelector": {"matchLabels": {"app": app}}}));
    json!({"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution":
        [{"weight": weight, "podAffinityTerm": term}]}}})
}

// InterPodAffinity of kube-scheduler: the preferences of existing pods count like those of the new pod.
#[test]
fn preferences_of_both_sides_count() {
    let with = |app: &str, affinity: &Value| {
        let mut there = labelled("b", "default", json!({"app": app}));
        there["spec"]["affinity"] = affinity["affinity"].clone();
        json!({"nodes": {"a": {}, "b": {}}, "pods": {"x": there, "y": on_node("a", "0")}})
    };
    let required = |app: &str| {
        near(&json!([term(
            &json!({"labelSelector": {"matchLabels": {"app": app}}})
        )]))
    };
    let (for_it, against) = ("podAffinity", "podAntiAffinity");
    let rows: [(Value, Value, &str); 9] = [
        (with("db", &json!({})), json!({}), "bind a"),
        (with("db", &json!({})), prefers(for_it, "db", 1), "bind b"),
        (
            with("db", &json!({})),
            prefers(for_it, "other", 1),
            "bind a",
        ),
        (with("db", &json!({})), prefers(against, "db", 1), "bind a"),
        (with("db", &prefers(for_it, "web", 1)), json!({}), "bind b"),
        (
            with("db", &prefers(for_it, "other", 1)),
            json!({}),
            "bind a",
        ),
        // The larger weight decides; required affinity has the weight 1.
        (
            with("db", &prefers(for_it, "web", 2)),
            prefers(against, "db", 1),
            "bind b",
        ),
        (with("db", &required("web")), json!({}), "bind b"),
        (
            with("db", &required("web")),
            prefers(against, "db", 2),
            "bind a",
        ),
    ];
    for (objects, spec, expected) in rows {
        assert_eq!(
            decide(&pod(spec.clone()), &view(objects.clone())),
            expected,
            "{spec} in {objects}"
        );
    }
    // A preference against the pod outweighs more free resources.
    let mut objects = with("db", &prefers(against, "web", 1));
    objects["pods"]["y"] = on_node("a", "1900m");
    check(objects, json!({}), "bind a");
}
