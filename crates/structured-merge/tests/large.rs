//! Patches and configurations with many elements. A merge that searches the list for every element would take minutes
//! here, and the test would time out.

use json_tree::{Value, json};
use openapi_documents::{Schema, TypeRef};
use structured_merge::apply::{OwnableFields, Writer, apply};
use structured_merge::{json_patch, merge_patch, strategic_merge_patch};

const COUNT: usize = 30_000;
/// Number of entries in an apply, which costs more per entry.
const APPLIED: usize = 10_000;

fn type_of(group: &str, kind: &str) -> TypeRef<'static> {
    Schema::published()
        .lookup(group, "v1", kind)
        .expect("a published kind")
}

fn patched(old: Value, patch: &Value) -> Value {
    strategic_merge_patch(old, patch.clone(), type_of("", "Pod")).expect("a patch that applies")
}

fn pod(env: Vec<Value>) -> Value {
    json!({"spec": {"containers": [{"name": "c", "env": env}]}})
}

fn env_of(pod: &Value) -> &[Value] {
    let env = pod["spec"]["containers"][0]["env"].as_array();
    env.map_or(&[], Vec::as_slice)
}

fn variables(count: usize, value: &str) -> Vec<Value> {
    let one = |number| json!({"name": format!("V{number}"), "value": value});
    (0..count).map(one).collect()
}

/// findings S13: keyed lists are merged by an index of the keys.
#[test]
fn lists_of_many_keys_merge_in_one_pass() {
    let mut backwards = variables(COUNT, "new");
    backwards.reverse();
    let merged = patched(pod(variables(COUNT, "old")), &pod(backwards.clone()));
    assert_eq!(env_of(&merged), backwards);
    let deletions: Vec<Value> = variables(COUNT, "old")
        .into_iter()
        .map(|variable| json!({"name": variable["name"], "$patch": "delete"}))
        .collect();
    let left = patched(merged, &pod(deletions));
    assert!(env_of(&left).is_empty());
}

/// findings S13: lists of scalars, requested orders, and objects that lose many fields are merged in one pass, too.
#[test]
fn many_scalars_and_many_nulls_merge_in_one_pass() {
    let names: Vec<String> = (0..COUNT).map(|number| format!("f{number}")).collect();
    let fields: json_tree::Map<String, Value> = names
        .iter()
        .map(|name| (name.clone(), json!("x")))
        .collect();
    let mut order = names.clone();
    order.reverse();
    order.insert(0, "new".to_owned());
    let old = json!({"metadata": {"finalizers": names, "annotations": fields}});
    let nulls: json_tree::Map<String, Value> = names
        .iter()
        .map(|name| (name.clone(), Value::Null))
        .collect();
    let merged = patched(
        old,
        &json!({"metadata": {"finalizers": ["new"], "annotations": nulls,
            "$setElementOrder/finalizers": order,
            "$deleteFromPrimitiveList/finalizers": names[1..]}}),
    );
    assert_eq!(merged["metadata"]["annotations"], json!({}));
    assert_eq!(merged["metadata"]["finalizers"], json!(["new", "f0"]));
}

/// findings S13: a JSON patch moves values instead of copying them, and may not shift the elements of a large list
/// too often.
#[test]
fn a_json_patch_does_not_cost_more_than_it_says() {
    let large = vec!["x"; 200_000];
    let to = json!({"op": "move", "from": "/a", "path": "/b"});
    let back = json!({"op": "move", "from": "/b", "path": "/a"});
    let moves: Vec<Value> = [to, back].into_iter().cycle().take(10_000).collect();
    let moved = json_patch(json!({"a": large}), &Value::Array(moves)).expect("moves");
    assert_eq!(moved["a"].as_array().map(Vec::len), Some(large.len()));
    let first = vec![json!({"op": "add", "path": "/a/0", "value": 1}); 10_000];
    let refused = json_patch(moved, &Value::Array(first)).expect_err("too much to move aside");
    assert_eq!(refused.status().code, 422);
    let short = vec![json!({"op": "add", "path": "/a/0", "value": 1}); 4_000];
    assert!(json_patch(json!({"a": []}), &Value::Array(short)).is_ok());
    let nulls: json_tree::Map<String, Value> = (0..COUNT)
        .map(|number| (number.to_string(), Value::Null))
        .collect();
    assert!(merge_patch(Value::Object(nulls.clone()), Value::Object(nulls)).is_ok());
}

/// findings S13: repeated server-side apply of many entries.
#[test]
fn applying_many_entries_takes_a_time_proportional_to_them() {
    let kind = type_of("", "Pod");
    let config = |value: &str| {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "namespace": "default"},
            "spec": pod(variables(APPLIED, value))["spec"]})
    };
    let mut live = None;
    for (manager, value) in [("one", "a"), ("two", "b")] {
        let writer = Writer {
            manager,
            api_version: "v1",
            subresource: "",
            now: "2026-01-01T00:00:00Z",
        };
        let force = value == "b";
        let applied = apply(
            live.as_ref(),
            &config(value),
            kind,
            &writer,
            OwnableFields::AllBut(&["status"]),
            force,
        );
        live = Some(applied.expect("no conflict"));
    }
    let live = live.expect("applied");
    assert_eq!(env_of(&live).len(), APPLIED);
    // All entries are removed again.
    let writer = Writer {
        manager: "two",
        api_version: "v1",
        subresource: "",
        now: "2026-01-01T00:00:00Z",
    };
    let reach = OwnableFields::AllBut(&["status"]);
    let mut config = config("b");
    config["spec"] = pod(Vec::new())["spec"].clone();
    apply(Some(&live), &config, kind, &writer, reach, false).expect("no conflict");
}
