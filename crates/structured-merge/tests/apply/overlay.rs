//! Merges of mutating policies into objects (kubectl.md 10.5).

use json_tree::{Value, json};
use structured_merge::apply::{OverlayError, overlay};

use crate::bench::kind;

fn pod(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec})
}

#[test]
fn what_a_policy_names_is_added_beside_what_is_there() {
    let object = pod(json!({"containers": [{"name": "a", "image": "i"}], "hostname": "h"}));
    let config = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"labels": {"x": "y"}},
        "spec": {"initContainers": [{"name": "mesh", "image": "m", "restartPolicy": "Always"}],
            "containers": [{"name": "a", "image": "j"}]}});
    let merged = overlay(&object, &config, kind("", "Pod")).expect("it fits");
    assert_eq!(
        merged,
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "labels": {"x": "y"}},
            "spec": {"containers": [{"name": "a", "image": "j"}], "hostname": "h",
                "initContainers": [{"name": "mesh", "image": "m", "restartPolicy": "Always"}]}})
    );
}

#[test]
fn what_is_one_value_and_what_the_type_does_not_have_is_refused() {
    let object = pod(json!({"containers": [{"name": "a", "args": ["x", "y"]}]}));
    let merged = |spec: Value| overlay(&object, &pod(spec), kind("", "Pod"));
    assert_eq!(
        merged(json!({"containers": [{"name": "a", "args": ["z"]}], "nodeSelector": {"a": "b"}})),
        Err(OverlayError::Atomic(
            ".spec.containers[0].args, .spec.nodeSelector".to_owned()
        ))
    );
    let unknown = merged(json!({"wheels": 4})).expect_err("no such field");
    assert_eq!(
        unknown.to_string(),
        "failed to convert patch object to typed object: .spec.wheels: field not declared in schema"
    );
}
