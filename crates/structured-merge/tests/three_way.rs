//! Patches of `kubectl apply`: the patch of a manifest, applied to the live object (kubectl.md 2.7).

use json_tree::{Value, json};
use openapi_documents::{Schema, TypeRef};
use proptest::prelude::*;
use structured_merge::{apply_patch, strategic_merge_patch};

fn set() -> TypeRef<'static> {
    let schema = Schema::published();
    schema
        .lookup("apps", "v1", "StatefulSet")
        .expect("a served kind")
}

#[track_caller]
fn applied(former: Option<Value>, manifest: Value, live: Value) -> Value {
    let patch = apply_patch(former.as_ref(), &manifest, Some(set()));
    strategic_merge_patch(live, patch, set()).expect("the patch applies")
}

fn pod(containers: Value) -> Value {
    json!({"spec": {"template": {"spec": {"containers": containers}}}})
}

#[test]
fn removed_fields_go_and_those_of_others_stay() {
    let former = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"replicas": 2}});
    let manifest = json!({"metadata": {"labels": {"a": "3"}}, "spec": {}});
    let live = json!({"metadata": {"labels": {"a": "1", "b": "2", "mine": "x"}},
        "spec": {"replicas": 5, "minReadySeconds": 4}});
    let after = json!({"metadata": {"labels": {"a": "3", "mine": "x"}},
        "spec": {"minReadySeconds": 4}});
    assert_eq!(applied(Some(former), manifest, live), after);
}

#[test]
fn without_a_former_manifest_nothing_goes() {
    let live = json!({"spec": {"replicas": 5, "minReadySeconds": 4}});
    let after = applied(None, json!({"spec": {"minReadySeconds": 1}}), live);
    assert_eq!(
        after,
        json!({"spec": {"replicas": 5, "minReadySeconds": 1}})
    );
}

#[test]
fn list_elements_are_removed_by_key_and_ordered() {
    let former = pod(
        json!([{"name": "web", "image": "a", "env": [{"name": "X", "value": "1"},
        {"name": "Y", "value": "2"}]}, {"name": "log", "image": "l"}]),
    );
    let manifest = pod(json!([{"name": "new", "image": "n"},
        {"name": "web", "image": "b", "env": [{"name": "Z", "value": "3"}, {"name": "X", "value": "1"}]}]));
    let live = pod(
        json!([{"name": "web", "image": "a", "terminationMessagePath": "/x",
        "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]},
        {"name": "log", "image": "l"}]),
    );
    let after = pod(json!([{"name": "new", "image": "n"},
        {"name": "web", "image": "b", "terminationMessagePath": "/x",
         "env": [{"name": "Z", "value": "3"}, {"name": "X", "value": "1"}]}]));
    assert_eq!(applied(Some(former), manifest, live), after);
}

/// A volume changes its source: the keys of the former source go (`retainKeys`).
#[test]
fn a_volume_has_one_source() {
    let volume = |source: Value| {
        let mut volume = json!({"name": "data"});
        volume
            .as_object_mut()
            .unwrap()
            .extend(source.as_object().unwrap().clone());
        json!({"spec": {"template": {"spec": {"volumes": [volume]}}}})
    };
    let empty = volume(json!({"emptyDir": {}}));
    let host = volume(json!({"hostPath": {"path": "/x"}}));
    assert_eq!(
        applied(Some(empty.clone()), host.clone(), empty.clone()),
        host
    );
    assert_eq!(applied(None, host.clone(), empty), host);
}

#[test]
fn finalizers_are_merged_as_a_set() {
    let meta = |all: Value| json!({"metadata": {"finalizers": all}});
    let after = applied(
        Some(meta(json!(["a", "b"]))),
        meta(json!(["b", "c"])),
        meta(json!(["x", "a", "b"])),
    );
    let mut all: Vec<&str> = after["metadata"]["finalizers"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    all.sort_unstable();
    assert_eq!(all, ["b", "c", "x"]);
}

/// Claim templates have no merge key: the list is replaced as a whole.
#[test]
fn claim_templates_are_replaced() {
    let templates = |all: Value| json!({"spec": {"volumeClaimTemplates": all}});
    let two = templates(json!([{"metadata": {"name": "a"}}, {"metadata": {"name": "b"}}]));
    let one = templates(json!([{"metadata": {"name": "b"}}]));
    assert_eq!(applied(Some(two.clone()), one.clone(), two), one);
}

fn manifest() -> impl Strategy<Value = Value> {
    let env = prop::collection::btree_map("[A-D]", "[0-9]", 0..4);
    let container = ("[a-c]", "[x-z]", env);
    let containers = prop::collection::vec(container, 0..3);
    let labels = prop::collection::btree_map("[a-d]", "[0-9]", 0..4);
    (containers, labels, prop::option::of(0_i32..5)).prop_map(|(containers, labels, replicas)| {
        let mut names = std::collections::BTreeSet::new();
        let containers = containers
            .into_iter()
            .filter(|one| names.insert(one.0.clone()));
        let containers = containers.map(|(name, image, env)| {
            let env = env
                .into_iter()
                .map(|(name, value)| json!({"name": name, "value": value}));
            json!({"name": name, "image": image, "env": env.collect::<Vec<Value>>()})
        });
        let mut spec = json!({"template": {"metadata": {"labels": labels},
            "spec": {"containers": containers.collect::<Vec<Value>>()}}});
        if let Some(replicas) = replicas {
            spec["replicas"] = Value::from(replicas);
        }
        json!({"spec": spec})
    })
}

proptest! {
    /// A manifest that nobody else has changed becomes exactly the next manifest.
    #[test]
    fn the_next_manifest_is_what_is_there(former in manifest(), next in manifest()) {
        let live = former.clone();
        prop_assert_eq!(applied(Some(former), next.clone(), live), next);
    }
}
