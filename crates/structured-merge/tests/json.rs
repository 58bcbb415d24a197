//! JSON patch and merge patch: errors and limits (kubectl.md 2.7).

use json_tree::{Value, json};
use structured_merge::{PatchError, json_patch, merge_patch};

#[test]
fn operations_apply_in_order() {
    let patch = json!([
        {"op": "test", "path": "/spec/replicas", "value": 1},
        {"op": "replace", "path": "/spec/replicas", "value": 2},
        {"op": "add", "path": "/metadata/annotations", "value": {"a~/b": "c"}},
        {"op": "copy", "from": "/metadata/annotations/a~0~1b", "path": "/copied"},
    ]);
    let after = json_patch(json!({"metadata": {}, "spec": {"replicas": 1}}), &patch).unwrap();
    let annotations = json!({"annotations": {"a~/b": "c"}});
    assert_eq!(
        after,
        json!({"metadata": annotations, "spec": {"replicas": 2}, "copied": "c"})
    );
}

#[test]
fn failed_test_is_422_with_the_generic_text_and_the_cause() {
    // kubectl.md 2.7
    let patch = json!([{"op": "test", "path": "/a", "value": 2}]);
    let status = json_patch(json!({"a": 1}), &patch).unwrap_err().status();
    assert_eq!(status.code, 422);
    assert_eq!(
        status.message,
        "the server rejected our request due to an error in our request"
    );
    let cause = &status.details.unwrap().causes[0];
    assert_eq!(cause.field, "patch");
    let start = "operation 0, at \"/a\": ";
    assert!(cause.message.starts_with(start), "{}", cause.message);
}

#[test]
fn a_field_that_is_not_there_is_null_to_a_test() {
    // kubectl.md 2.7: a client adds the first finalizer in this way.
    let patch = json!([
        {"op": "test", "path": "/metadata/finalizers", "value": null},
        {"op": "add", "path": "/metadata/finalizers", "value": ["a/b"]},
    ]);
    let after = json_patch(json!({"metadata": {}}), &patch).unwrap();
    assert_eq!(after, json!({"metadata": {"finalizers": ["a/b"]}}));
    assert_eq!(json_patch(after, &patch).unwrap_err().status().code, 422);
    for path in ["/metadata/finalizers/0", "/list/0"] {
        let patch = json!([{"op": "test", "path": path, "value": null}]);
        let error = json_patch(json!({"metadata": {}, "list": []}), &patch);
        assert_eq!(error.unwrap_err().status().code, 422, "{path}");
    }
}

#[test]
fn a_field_that_is_not_there_may_be_replaced() {
    // As in the library that Kubernetes uses; external-snapshotter writes annotations and status in this way.
    let replace = |path: &str| json!([{"op": "replace", "path": path, "value": {"a/b": "c"}}]);
    let after = json_patch(json!({"metadata": {}}), &replace("/metadata/annotations")).unwrap();
    assert_eq!(after, json!({"metadata": {"annotations": {"a/b": "c"}}}));
    let after = json_patch(after, &replace("/metadata/annotations/d~1e")).unwrap();
    assert_eq!(after["metadata"]["annotations"]["d/e"], json!({"a/b": "c"}));
    for path in ["/status/error", "/metadata/annotations/d~1e/x/y", "/list/0"] {
        let error = json_patch(json!({"list": []}), &replace(path));
        assert_eq!(error.unwrap_err().status().code, 422, "{path}");
    }
}

/// findings-2 C29, E10: as in the source of the library that Kubernetes uses.
#[test]
fn a_value_that_is_left_out_is_null() {
    cov_mark::check!(findings_2_c29);
    cov_mark::check!(findings_2_e10);
    let document = || json!({"a": 1, "b": null, "l": [1, 2]});
    let after = |op: &str, path: &str| {
        json_patch(document(), &json!([{"op": op, "path": path}])).map_err(|e| e.status().code)
    };
    for (op, path, resolved) in [
        ("add", "/a", "/a"),
        ("add", "/new", "/new"),
        ("add", "/l/-", "/l/2"),
        ("replace", "/a", "/a"),
        ("replace", "/new", "/new"),
        ("replace", "/l/1", "/l/1"),
    ] {
        let after = after(op, path).unwrap();
        assert_eq!(after.pointer(resolved), Some(&json!(null)), "{op} {path}");
    }
    for path in ["/b", "/new"] {
        assert_eq!(after("test", path), Ok(document()), "{path}");
    }
    for (op, path) in [
        ("test", "/a"),
        ("replace", "/l/2"),
        ("replace", "/new/below"),
        ("add", "/new/below"),
    ] {
        assert_eq!(after(op, path), Err(422), "{op} {path}");
    }
    let copy = json!([{"op": "copy", "path": "/c"}]);
    assert_eq!(
        json_patch(document(), &copy).unwrap_err().status().code,
        422
    );
}

#[test]
fn places_in_lists_may_be_counted_from_the_end() {
    // kubectl.md 2.7: negative indices as in the library that Kubernetes uses, and `-` as in RFC 6902.
    let after = |operation: Value| {
        let list = json!({"l": ["a", "b", "c"]});
        json_patch(list, &json!([operation])).map(|after| after["l"].clone())
    };
    let op = |op: &str, path: &str| json!({"op": op, "path": path, "value": "x"});
    let moved = |from: &str, path: &str| json!({"op": "move", "from": from, "path": path});
    for (operation, expected) in [
        (op("add", "/l/-"), json!(["a", "b", "c", "x"])),
        (op("add", "/l/-1"), json!(["a", "b", "c", "x"])),
        (op("add", "/l/-2"), json!(["a", "b", "x", "c"])),
        (op("add", "/l/-4"), json!(["x", "a", "b", "c"])),
        (op("replace", "/l/-1"), json!(["a", "b", "x"])),
        (op("replace", "/l/-3"), json!(["x", "b", "c"])),
        (op("remove", "/l/-2"), json!(["a", "c"])),
        (moved("/l/-1", "/l/0"), json!(["c", "a", "b"])),
        (moved("/l/0", "/l/-1"), json!(["b", "c", "a"])),
        (moved("/l/0", "/l/-"), json!(["b", "c", "a"])),
        (moved("/l/1", "/l/1"), json!(["a", "b", "c"])),
    ] {
        assert_eq!(after(operation.clone()).unwrap(), expected, "{operation}");
    }
    for operation in [
        op("add", "/l/-5"),
        op("add", "/l/4"),
        op("replace", "/l/-"),
        op("replace", "/l/-4"),
        op("remove", "/l/-"),
        op("remove", "/l/-4"),
        op("remove", "/l/-0"),
        moved("/l/-4", "/l/0"),
        moved("/l/0", "/l/3"),
    ] {
        let error = after(operation.clone()).unwrap_err();
        assert_eq!(error.status().code, 422, "{operation}");
    }
}

#[test]
fn operations_that_make_no_sense_are_422() {
    for operation in [
        json!({"op": "melt", "path": "/a"}),
        json!({"op": "add", "value": 1}),
        json!({"op": "move", "path": "/b"}),
        json!({"op": "move", "from": "/a"}),
        json!({"op": "move", "from": "", "path": "/b"}),
        json!({"op": 1, "path": "/a"}),
        json!({}),
    ] {
        let error = json_patch(json!({"a": 1}), &json!([operation])).unwrap_err();
        assert_eq!(error.status().code, 422, "{operation}");
    }
}

#[test]
fn bad_patches_are_400() {
    for patch in [json!({}), json!([1]), json!(null)] {
        let error = json_patch(json!({}), &patch).unwrap_err();
        assert_eq!(error.status().code, 400, "{patch}");
    }
    assert_eq!(
        merge_patch(json!({}), json!([])).unwrap_err().status().code,
        400
    );
}

#[test]
fn a_test_that_fails_is_told_from_what_does_not_fit() {
    let tested = |path: &str| {
        let patch = json!([{"op": "test", "path": path, "value": 1}]);
        json_patch(json!({"a": 2}), &patch).unwrap_err()
    };
    assert!(matches!(tested("/a"), PatchError::TestFailed(_)));
    assert!(matches!(tested("/b"), PatchError::DoesNotApply(_)));
    assert_eq!(tested("/a").status().code, 422);
}

#[test]
fn too_many_operations_are_413() {
    let operation = json!({"op": "add", "path": "/a", "value": 1});
    let patch = Value::Array(vec![operation; 10_001]);
    let error = json_patch(json!({}), &patch).unwrap_err();
    assert_eq!(
        error,
        PatchError::TooManyOperations {
            count: 10_001,
            max: 10_000
        }
    );
    assert_eq!(error.status().code, 413);
}

#[test]
fn doubling_by_copies_is_stopped() {
    let mut operations = vec![json!({"op": "add", "path": "/a", "value": "x".repeat(1024)})];
    for index in 0..64 {
        operations.push(json!({"op": "copy", "from": "", "path": format!("/c{index}")}));
    }
    let error = json_patch(json!({}), &Value::Array(operations)).unwrap_err();
    assert!(matches!(error, PatchError::DoesNotApply(_)), "{error}");
    // The target may be the end of a list.
    let copy = json!({"op": "copy", "from": "/l/-1", "path": "/l/-1/-"});
    let list = json!({"l": [["x".repeat(1024)]]});
    let error = json_patch(list, &Value::Array(vec![copy; 14])).unwrap_err();
    assert!(error.to_string().contains("copies add more"), "{error}");
}
