//! Merges of lists, maps and nulls, by their published types.

use json_tree::{Value, json};

use crate::bench::*;

#[test]
fn ports_are_known_by_number_and_protocol_and_the_protocol_has_a_default() {
    let pods = Bench::pods();
    let pod = |ports: Value| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "c", "ports": ports}]}})
    };
    let object = pods.apply(None, "one", &pod(json!([{"containerPort": 53}])));
    let key = "k:{\"containerPort\":53,\"protocol\":\"TCP\"}";
    let fields = owner(&object, "one Apply");
    let containers = &fields["f:spec"]["f:containers"]["k:{\"name\":\"c\"}"];
    assert_eq!(
        containers["f:ports"],
        json!({key: {".": {}, "f:containerPort": {}}})
    );
    // The stored object contains the default; the element must still be identified as this port.
    let mut stored = object;
    stored["spec"]["containers"][0]["ports"][0]["protocol"] = json!("TCP");
    let both =
        json!([{"containerPort": 53, "name": "t"}, {"containerPort": 53, "protocol": "UDP"}]);
    let object = pods.apply(Some(&stored), "one", &pod(both));
    assert_eq!(
        object["spec"]["containers"][0]["ports"],
        json!([
            {"containerPort": 53, "protocol": "TCP", "name": "t"},
            {"containerPort": 53, "protocol": "UDP"},
        ])
    );
    let object = pods.apply(
        Some(&object),
        "one",
        &pod(json!([{"containerPort": 53, "protocol": "UDP"}])),
    );
    assert_eq!(
        object["spec"]["containers"][0]["ports"],
        json!([{"containerPort": 53, "protocol": "UDP"}])
    );
}

#[test]
fn an_elements_fields_go_one_by_one() {
    let pods = Bench::pods();
    let pod = |container: Value| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
            "spec": {"containers": [container]}})
    };
    let object = pods.apply(
        None,
        "one",
        &pod(json!({"name": "c", "image": "i",
        "env": [{"name": "A", "value": "1"}], "command": ["a", "b"]})),
    );
    let object = pods.edit(&object, "two", |pod| {
        pod["spec"]["containers"][0]["workingDir"] = json!("/x");
    });
    let object = pods.apply(
        Some(&object),
        "one",
        &pod(json!({"name": "c", "image": "i"})),
    );
    assert_eq!(
        object["spec"]["containers"][0],
        json!({"name": "c", "image": "i", "workingDir": "/x"})
    );
    // This manager no longer applies the element, but another manager does.
    let mut none = pod(json!({}));
    none["spec"] = json!({"dnsPolicy": "Default"});
    let other = pod(json!({"name": "c", "tty": true}));
    let shared = pods.apply(Some(&object), "three", &other);
    let shared = pods.apply(Some(&shared), "one", &none);
    assert_eq!(
        shared["spec"]["containers"],
        json!([{"name": "c", "workingDir": "/x", "tty": true}])
    );
    // A manager that only changed a field inside of the element does not own the element.
    let removed = pods.apply(Some(&object), "one", &none);
    assert_eq!(removed["spec"]["containers"], Value::Null);
}

#[test]
fn merged_lists_keep_their_places() {
    let pods = Bench::pods();
    let pod = |names: &[&str]| {
        let containers: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
            "spec": {"containers": containers}})
    };
    for (live, applied, merged) in [
        (&["a", "b"][..], &["b", "a"][..], &["b", "a"][..]),
        (&["x", "a", "b"], &["a", "b"], &["x", "a", "b"]),
        (&["a", "x", "b"], &["b", "a"], &["x", "b", "a"]),
        (&["a"], &["n", "a", "m"], &["n", "a", "m"]),
        (&["x", "y"], &["n"], &["x", "y", "n"]),
        (
            &["a", "x", "b", "y"],
            &["a", "n", "b"],
            &["a", "x", "n", "b", "y"],
        ),
    ] {
        let object = pods.update(None, "one", &pod(live));
        let object = pods.apply(Some(&object), "two", &pod(applied));
        let names: Vec<&str> = object["spec"]["containers"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|container| container["name"].as_str())
            .collect();
        assert_eq!(names, merged, "{applied:?} into {live:?}");
    }
}

#[test]
fn atomic_parts_have_one_owner() {
    let sets = Bench::sets();
    let config = |selector: Value| {
        json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "web"},
            "spec": {"selector": selector}})
    };
    let object = sets.apply(None, "one", &config(json!({"matchLabels": {"a": "1"}})));
    assert_eq!(
        owner(&object, "one Apply"),
        json!({"f:spec": {"f:selector": {}}})
    );
    let other = config(json!({"matchLabels": {"b": "1"}}));
    let refused = sets.try_apply(Some(&object), "two", &other, false);
    assert_eq!(conflicts(refused)[0].1, ".spec.selector");
}

#[test]
fn sets_are_shared_element_by_element() {
    let maps = Bench::config_maps();
    let config = |finalizers: Value| {
        json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "c", "finalizers": finalizers}})
    };
    let object = maps.apply(None, "one", &config(json!(["a/x", "a/y"])));
    assert_eq!(
        owner(&object, "one Apply"),
        json!({"f:metadata": {"f:finalizers": {"v:\"a/x\"": {}, "v:\"a/y\"": {}}}})
    );
    let object = maps.apply(Some(&object), "two", &config(json!(["a/z", "a/y"])));
    let object = maps.apply(Some(&object), "one", &config(json!(["a/x"])));
    assert_eq!(
        object["metadata"]["finalizers"],
        json!(["a/x", "a/z", "a/y"])
    );
}

#[test]
fn duplicates_are_borne_in_what_is_there_and_refused_in_what_is_applied() {
    let pods = Bench::pods();
    let pod = |env: Value| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n"},
            "spec": {"containers": [{"name": "c", "env": env}]}})
    };
    let twice = json!([{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]);
    let refused = pods.try_apply(None, "one", &pod(twice.clone()), false);
    assert_eq!(
        refused.expect_err("duplicates").to_string(),
        "failed to create typed patch object (n/p; /v1, Kind=Pod): \
         .spec.containers[name=\"c\"].env: duplicate entries for key [name=\"A\"]"
    );
    let live = pods.update(None, "creator", &pod(twice));
    let fields = owner(&live, "creator Update");
    let env = &fields["f:spec"]["f:containers"]["k:{\"name\":\"c\"}"]["f:env"];
    assert_eq!(env, &json!({".": {}, "k:{\"name\":\"A\"}": {}}));
    let other = pod(json!([{"name": "B", "value": "3"}]));
    let object = pods.apply(Some(&live), "one", &other);
    let env = &object["spec"]["containers"][0]["env"];
    assert_eq!(env.as_array().map(Vec::len), Some(3));
    let one = pod(json!([{"name": "A", "value": "3"}]));
    let object = pods
        .try_apply(Some(&live), "one", &one, true)
        .expect("by force");
    assert_eq!(
        object["spec"]["containers"][0]["env"],
        json!([{"name": "A", "value": "3"}])
    );
}

#[test]
fn what_is_not_of_the_type_is_refused() {
    let refused = |config: Value| {
        Bench::sets()
            .try_apply(None, "one", &config, false)
            .expect_err("refused")
            .to_string()
    };
    let set = |spec: Value| {
        json!({"apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": {"name": "w", "namespace": "d"}, "spec": spec})
    };
    let head = "failed to create typed patch object (d/w; apps/v1, Kind=StatefulSet): ";
    for (spec, text) in [
        (json!({"foo": 1}), ".spec.foo: field not declared in schema"),
        (json!([]), ".spec: expected map, got []"),
        (
            json!({"template": {"spec": {"containers": {}}}}),
            ".spec.template.spec.containers: expected list, got {}",
        ),
        (
            json!({"template": {"spec": {"containers": [{"image": "i"}]}}}),
            ".spec.template.spec.containers: element 0: associative list with keys has an \
             element that omits all key fields [\"name\"] (and doesn't have default values for \
             any key fields)",
        ),
        (
            json!({"template": {"spec": {"containers": [null]}}}),
            ".spec.template.spec.containers: element 0: associative list with keys may not have \
             a null element",
        ),
    ] {
        assert_eq!(refused(set(spec)), format!("{head}{text}"));
    }
    let mut managed = set(json!({}));
    managed["metadata"]["managedFields"] = json!([]);
    assert_eq!(refused(managed), "metadata.managedFields must be nil");
}

#[test]
fn null_takes_the_place_of_scalars_and_says_nothing_of_lists_and_maps() {
    let sets = Bench::sets();
    let config = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "w"},
        "spec": {"replicas": 2, "template": {"metadata": {"labels": {"a": "1"}}}}});
    let object = sets.update(None, "one", &config);
    let nulls = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "w"},
        "spec": {"replicas": null, "template": {"metadata": {"labels": null}}}});
    let refused = sets.try_apply(Some(&object), "two", &nulls, false);
    assert_eq!(conflicts(refused)[0].1, ".spec.replicas");
    let object = sets
        .try_apply(Some(&object), "two", &nulls, true)
        .expect("by force");
    assert_eq!(object["spec"]["replicas"], Value::Null);
    assert_eq!(
        object["spec"]["template"]["metadata"]["labels"],
        json!({"a": "1"})
    );
    assert_eq!(
        owner(&object, "two Apply"),
        json!({"f:spec": {"f:replicas": {}, "f:template": {"f:metadata": {"f:labels": {}}}}})
    );
}
