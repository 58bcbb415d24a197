//! Properties that hold for every document and patch.

use json_tree::{Map, Value, json};
use openapi_documents::{Schema, TypeRef};
use proptest::prelude::*;
use structured_merge::{json_patch, merge_patch, strategic_merge_patch};

fn pod() -> TypeRef<'static> {
    Schema::published()
        .lookup("", "v1", "Pod")
        .expect("a served kind")
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0..5i64).prop_map(Value::from),
        "[a-c]{0,2}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-d]", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

fn any_object() -> impl Strategy<Value = Value> {
    prop::collection::btree_map("[a-d]", any_json(), 0..4)
        .prop_map(|map| Value::Object(map.into_iter().collect::<Map<_, _>>()))
}

/// A part of a pod: some containers with env, ports and finalizers, with short names.
fn pod_like() -> impl Strategy<Value = Value> {
    let env = prop::collection::btree_map("[A-C]", "[xy]", 0..3).prop_map(|env| {
        env.into_iter()
            .map(|(name, value)| json!({"name": name, "value": value}))
            .collect::<Vec<_>>()
    });
    let container = (
        env,
        prop::option::of("[xy]"),
        prop::collection::btree_set(1..4i32, 0..3),
    );
    let containers = prop::collection::btree_map("[a-d]", container, 0..4).prop_map(|all| {
        all.into_iter()
            .map(|(name, (env, image, ports))| {
                let ports: Vec<Value> = ports
                    .into_iter()
                    .map(|port| json!({"containerPort": port}))
                    .collect();
                json!({"name": name, "image": image, "env": env, "ports": ports})
            })
            .collect::<Vec<_>>()
    });
    let labels = prop::collection::btree_map("[a-c]", prop::option::of("[xy]"), 0..3);
    let finalizers = prop::collection::btree_set("[a-c]", 0..3);
    (containers, labels, finalizers).prop_map(|(containers, labels, finalizers)| {
        json!({
            "metadata": {"labels": labels, "finalizers": finalizers},
            "spec": {"containers": containers},
        })
    })
}

fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(all) => all.iter().any(has_null),
        Value::Object(map) => map.values().any(has_null),
        _ => false,
    }
}

proptest! {
    #[test]
    fn strategic_patch_twice_is_once(base in pod_like(), patch in pod_like()) {
        let base = strategic_merge_patch(json!({}), base, pod()).unwrap();
        let once = strategic_merge_patch(base, patch.clone(), pod()).unwrap();
        let twice = strategic_merge_patch(once.clone(), patch, pod()).unwrap();
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn strategic_patch_with_nothing_changes_nothing(base in pod_like()) {
        let after = strategic_merge_patch(base.clone(), json!({}), pod()).unwrap();
        prop_assert_eq!(after, base);
    }

    #[test]
    fn strategic_patch_with_itself_keeps_the_document(base in pod_like()) {
        let base = strategic_merge_patch(json!({}), base, pod()).unwrap();
        let after = strategic_merge_patch(base.clone(), base.clone(), pod()).unwrap();
        prop_assert_eq!(after, base);
    }

    #[test]
    fn strategic_patch_never_panics(base in any_object(), patch in any_object()) {
        let wrapped = json!({"metadata": patch.clone(), "spec": {"containers": [patch]}});
        let _ = strategic_merge_patch(json!({"metadata": base.clone()}), wrapped.clone(), pod());
        let _ = strategic_merge_patch(base, wrapped, pod());
    }

    #[test]
    fn merge_patch_twice_is_once(base in any_object(), patch in any_object()) {
        let once = merge_patch(base, patch.clone()).unwrap();
        prop_assert_eq!(merge_patch(once.clone(), patch).unwrap(), once);
    }

    /// RFC 7396 §1: without nulls, the result contains the members of the patch.
    #[test]
    fn merge_patch_onto_nothing_is_the_patch(patch in any_object()) {
        prop_assume!(!has_null(&patch));
        prop_assert_eq!(merge_patch(json!({}), patch.clone()).unwrap(), patch);
    }

    #[test]
    fn merge_patch_with_nothing_changes_nothing(base in any_object()) {
        prop_assert_eq!(merge_patch(base.clone(), json!({})).unwrap(), base);
    }

    #[test]
    fn json_patch_with_nothing_changes_nothing(base in any_json()) {
        prop_assert_eq!(json_patch(base.clone(), &json!([])).unwrap(), base);
    }
}
