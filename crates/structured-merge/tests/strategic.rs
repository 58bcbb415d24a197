//! Strategic merge patches as kubectl and controllers send them (kubectl.md 2.7, 9.4).

use json_tree::{Value, json};
use openapi_documents::{Schema, TypeRef};
use structured_merge::{PatchError, strategic_merge_patch};

fn type_of(group: &str, kind: &str) -> TypeRef<'static> {
    Schema::published()
        .lookup(group, "v1", kind)
        .expect("a served kind")
}

#[track_caller]
fn check(kind: TypeRef<'static>, before: Value, patch: Value, after: Value) {
    let patched = strategic_merge_patch(before, patch, kind).expect("the patch applies");
    assert_eq!(patched, after);
}

fn pod() -> TypeRef<'static> {
    type_of("", "Pod")
}

fn refusal(before: Value, patch: Value) -> PatchError {
    strategic_merge_patch(before, patch, pod()).expect_err("the patch is refused")
}

#[test]
fn containers_merge_by_name_and_env_by_name() {
    check(
        pod(),
        json!({"spec": {"containers": [
            {"name": "web", "image": "nginx:1", "env": [{"name": "A", "value": "1"}]},
            {"name": "log", "image": "fluent"},
        ]}}),
        json!({"spec": {"containers": [
            {"name": "web", "image": "nginx:2", "env": [{"name": "B", "value": "2"}]},
        ]}}),
        json!({"spec": {"containers": [
            {"name": "web", "image": "nginx:2",
             "env": [{"name": "B", "value": "2"}, {"name": "A", "value": "1"}]},
            {"name": "log", "image": "fluent"},
        ]}}),
    );
}

#[test]
fn ports_merge_by_container_port_and_mounts_by_path() {
    check(
        pod(),
        json!({"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 80}],
            "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]}}),
        json!({"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 80, "name": "w"}],
            "volumeMounts": [{"name": "data", "mountPath": "/data", "readOnly": true}]}]}}),
        json!({"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 80, "name": "w"}],
            "volumeMounts": [{"name": "data", "mountPath": "/data", "readOnly": true}]}]}}),
    );
}

#[test]
fn tolerations_and_args_are_replaced() {
    check(
        pod(),
        json!({"spec": {"tolerations": [{"key": "a"}],
            "containers": [{"name": "a", "args": ["x", "y"]}]}}),
        json!({"spec": {"tolerations": [{"key": "b"}],
            "containers": [{"name": "a", "args": ["z"]}]}}),
        json!({"spec": {"tolerations": [{"key": "b"}],
            "containers": [{"name": "a", "args": ["z"]}]}}),
    );
}

#[test]
fn volume_changes_its_source_by_retain_keys() {
    check(
        pod(),
        json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "emptyDir": {}}]}}),
        json!({"spec": {"volumes": [
            {"$retainKeys": ["name", "hostPath"], "name": "v", "hostPath": {"path": "/x"}},
        ]}}),
        json!({"spec": {"volumes": [
            {"name": "v", "hostPath": {"path": "/x"}}, {"name": "w", "emptyDir": {}},
        ]}}),
    );
}

#[test]
fn retain_keys_must_name_what_the_patch_sets() {
    let error = refusal(
        json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}),
        json!({"spec": {"volumes": [{"$retainKeys": ["name"], "name": "v", "hostPath": {}}]}}),
    );
    assert_eq!(error.to_string(), "invalid patch format of retainKeys");
    assert_eq!(error.status().code, 400);
}

/// kubectl.md 9.4: `kubectl rollout undo` sends the whole template with `$patch: replace`.
#[test]
fn rollout_undo_replaces_the_template() {
    check(
        type_of("apps", "StatefulSet"),
        json!({"spec": {"replicas": 3, "template": {"metadata": {"labels": {"app": "a"}}, "spec": {
            "containers": [{"name": "a", "image": "2"}], "volumes": [{"name": "new"}]}}}}),
        json!({"spec": {"template": {"$patch": "replace", "metadata": {"labels": {"app": "a"}},
            "spec": {"containers": [{"name": "a", "image": "1", "resources": {}}]}}}}),
        json!({"spec": {"replicas": 3, "template": {"metadata": {"labels": {"app": "a"}},
            "spec": {"containers": [{"name": "a", "image": "1", "resources": {}}]}}}}),
    );
}

#[test]
fn list_elements_are_deleted_by_merge_key() {
    check(
        pod(),
        json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}),
        json!({"spec": {"containers": [{"name": "a", "$patch": "delete"}]}}),
        json!({"spec": {"containers": [{"name": "b"}]}}),
    );
    let nameless = json!({"spec": {"containers": [{"image": "x", "$patch": "delete"}]}});
    let error = refusal(json!({"spec": {"containers": [{"name": "a"}]}}), nameless);
    assert_eq!(
        error.to_string(),
        "map: map[$patch:delete image:x] does not contain declared merge key: name"
    );
}

#[test]
fn a_list_is_replaced_by_a_marker_element() {
    check(
        pod(),
        json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}),
        json!({"spec": {"containers": [{"$patch": "replace"}, {"name": "c"}]}}),
        json!({"spec": {"containers": [{"name": "c"}]}}),
    );
}

#[test]
fn a_map_is_emptied_by_delete() {
    check(
        pod(),
        json!({"metadata": {"labels": {"a": "1"}}, "spec": {}}),
        json!({"metadata": {"labels": {"$patch": "delete"}}}),
        json!({"metadata": {"labels": {}}, "spec": {}}),
    );
}

#[test]
fn directives_in_new_values_leave_no_trace() {
    check(
        pod(),
        json!({"spec": {}}),
        json!({"spec": {"$setElementOrder/containers": [{"name": "a"}], "containers": [
            {"name": "a", "env": null, "$setElementOrder/ports": [{"containerPort": 1}],
             "ports": [{"containerPort": 1}, {"containerPort": 2, "$patch": "delete"}]},
        ]}}),
        json!({"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 1}]}]}}),
    );
}

#[test]
fn finalizers_are_a_union_and_deleted_one_by_one() {
    check(
        pod(),
        json!({"metadata": {"finalizers": ["a/a", "b/b"]}}),
        json!({"metadata": {"finalizers": ["c/c", "a/a"]}}),
        json!({"metadata": {"finalizers": ["c/c", "a/a", "b/b"]}}),
    );
    check(
        pod(),
        json!({"metadata": {"finalizers": ["a/a", "b/b"]}}),
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a/a"]}}),
        json!({"metadata": {"finalizers": ["b/b"]}}),
    );
}

#[test]
fn element_order_is_that_of_the_patch_and_server_only_elements_keep_their_places() {
    check(
        pod(),
        json!({"spec": {"containers": [{"name": "1"}, {"name": "2"}, {"name": "3"}]}}),
        json!({"spec": {
            "$setElementOrder/containers": [{"name": "3"}, {"name": "new"}, {"name": "1"}],
            "containers": [{"name": "new"}],
        }}),
        json!({"spec": {"containers": [
            {"name": "2"}, {"name": "3"}, {"name": "new"}, {"name": "1"},
        ]}}),
    );
}

#[test]
fn element_order_that_contradicts_the_list_is_refused() {
    let error = refusal(
        json!({"spec": {"containers": [{"name": "1"}]}}),
        json!({"spec": {
            "$setElementOrder/containers": [{"name": "1"}],
            "containers": [{"name": "2"}],
        }}),
    );
    let text = error.to_string();
    assert!(
        text.contains("doesn't match $setElementOrder list"),
        "{text}"
    );
}

#[test]
fn null_deletes_and_unknown_directive_is_refused() {
    check(
        pod(),
        json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
        json!({"metadata": {"labels": {"a": null}}}),
        json!({"metadata": {"labels": {"b": "2"}}}),
    );
    let error = refusal(json!({"spec": {}}), json!({"spec": {"$patch": "melt"}}));
    assert_eq!(
        error.to_string(),
        "unknown patch type: melt in map: map[$patch:melt]"
    );
}

#[test]
fn missing_merge_key_is_refused() {
    let error = refusal(
        json!({"spec": {"containers": [{"name": "a"}]}}),
        json!({"spec": {"containers": [{"image": "x"}]}}),
    );
    assert_eq!(
        error.to_string(),
        "map: map[image:x] does not contain declared merge key: name"
    );
}

#[test]
fn owner_references_merge_by_uid_and_conditions_by_type() {
    check(
        pod(),
        json!({"metadata": {"ownerReferences": [{"uid": "1", "name": "a"}]},
            "status": {"conditions": [{"type": "Ready", "status": "False"}]}}),
        json!({"metadata": {"ownerReferences": [{"uid": "1", "controller": true}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
        json!({"metadata": {"ownerReferences": [{"uid": "1", "name": "a", "controller": true}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
    );
}

/// The data of a ControllerRevision is itself a patch: its directives are data.
#[test]
fn what_is_opaque_is_kept_as_it_is() {
    let data = json!({"spec": {"template": {"$patch": "replace", "spec": {"x": null}}}});
    check(
        type_of("apps", "ControllerRevision"),
        json!({"revision": 1}),
        json!({"data": data}),
        json!({"revision": 1, "data": data}),
    );
    check(
        type_of("apps", "ControllerRevision"),
        json!({"data": {"a": 1}, "revision": 1}),
        json!({"data": {"b": {"$patch": "delete"}}}),
        json!({"data": {"a": 1, "b": {"$patch": "delete"}}, "revision": 1}),
    );
}
