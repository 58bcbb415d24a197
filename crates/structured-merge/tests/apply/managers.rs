//! The list of managers: its creation, edits by clients, and its maximum length.

use json_tree::{Value, json};
use structured_merge::apply::{OwnableFields, Writer, apply, track};

use crate::bench::*;

#[test]
fn appliers_are_named_without_a_version_and_with_their_subresource() {
    let sets = Bench::sets();
    let config = |replicas: i32| {
        json!({"apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": {"name": "web"}, "spec": {"replicas": replicas}})
    };
    let scaler = Writer {
        subresource: "scale",
        ..writer("hpa", "apps/v1", T0)
    };
    let reach = OwnableFields::Everything;
    let object = apply(None, &config(2), sets.object_type, &scaler, reach, false);
    let object = object.expect("created");
    let refused = sets.try_apply(Some(&object), "me", &config(3), false);
    let expected = ("\"hpa\" with subresource \"scale\"", ".spec.replicas");
    assert_eq!(
        conflicts(refused),
        [(expected.0.to_owned(), expected.1.to_owned())]
    );
}

#[test]
fn an_object_without_managers_belongs_to_those_before_the_first_apply() {
    let maps = Bench::config_maps();
    let mut live = config_map(json!({"a": "1"}));
    live["metadata"]["uid"] = json!("u");
    // The fields are not tracked until the first apply.
    let live = maps.edit(&live, "editor", |map| map["data"]["b"] = json!("1"));
    assert_eq!(owners(&live), []);
    let refused = maps.try_apply(Some(&live), "one", &config_map(json!({"a": "2"})), false);
    assert_eq!(conflicts(refused)[0].0, "\"before-first-apply\" using v1");
    let object = maps.apply(Some(&live), "one", &config_map(json!({"c": "1"})));
    assert_eq!(
        owner(&object, "before-first-apply Update"),
        json!({"f:data": {".": {}, "f:a": {}, "f:b": {}}})
    );
}

// findings-2 E11
#[test]
fn an_empty_entry_of_managers_makes_the_server_forget() {
    cov_mark::check!(findings_2_e11);
    let maps = Bench::config_maps();
    let live = maps.apply(None, "one", &config_map(json!({"a": "1"})));
    let object = maps.edit(&live, "editor", |map| {
        map["metadata"]["managedFields"] = json!([{}]);
    });
    assert_eq!(object["metadata"].get("managedFields"), None);
    // A client may omit managed fields or send an invalid value.
    let lost = [
        json!(null),
        json!([]),
        json!("x"),
        json!([{"manager": "x"}]),
    ];
    for lost in lost {
        let object = maps.edit(&live, "editor", |map| {
            map["metadata"]["managedFields"] = lost;
        });
        assert_eq!(object, live);
    }
    // A client may remove fields from a manager.
    let object = maps.edit(&live, "editor", |map| {
        map["metadata"]["managedFields"][0]["manager"] = json!("two");
    });
    assert_eq!(owners(&object)[0].0, "two Apply");
    // A write of a sub-resource cannot edit the managed fields.
    let mut sent = object.clone();
    sent["metadata"]["managedFields"] = json!([]);
    let status = Writer {
        subresource: "status",
        ..writer("kubelet", "v1", T1)
    };
    track(
        Some(&object),
        &mut sent,
        maps.object_type,
        &status,
        OwnableFields::Everything,
    );
    assert_eq!(sent, object);
}

#[test]
fn old_updaters_are_put_together() {
    let mut maps = Bench::config_maps();
    let mut object = maps.update(None, "m0", &config_map(json!({"k0": "1"})));
    let times: Vec<String> = (1..=13)
        .map(|n| format!("2026-01-01T00:00:{n:02}Z"))
        .collect();
    for (n, time) in (1..=13).zip(times) {
        maps.now = Box::leak(time.into_boxed_str());
        object = maps.edit(&object, &format!("m{n}"), |map| {
            map["data"][format!("k{n}")] = json!("1");
        });
    }
    let owners = owners(&object);
    assert_eq!(owners.len(), 10);
    let (oldest, fields) = &owners[0];
    assert_eq!(oldest, "ancient-changes Update");
    assert_eq!(
        fields,
        &json!({"f:data": {".": {}, "f:k0": {}, "f:k1": {}, "f:k2": {}, "f:k3": {}, "f:k4": {}}})
    );
}

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// An object after `kubectl apply` without `--server-side`.
fn client_applied(maps: &Bench, data: &Value) -> Value {
    let config = config_map(data.clone());
    let mut object = config.clone();
    object["metadata"]["annotations"] = json!({LAST_APPLIED: format!("{config}\n")});
    maps.update(None, "kubectl-client-side-apply", &object)
}

#[test]
fn kubectl_takes_over_what_it_applied_as_a_client() {
    let maps = Bench::config_maps();
    let live = client_applied(&maps, &json!({"a": "1", "b": "1"}));
    let change = config_map(json!({"a": "2", "b": "1"}));
    let object = maps.apply(Some(&live), "kubectl", &change);
    assert_eq!(object["data"], json!({"a": "2", "b": "1"}));
    // The annotation contains the applied configuration, so that a client can return to client-side apply.
    assert_eq!(
        object["metadata"]["annotations"][LAST_APPLIED],
        "{\"apiVersion\":\"v1\",\"data\":{\"a\":\"2\",\"b\":\"1\"},\"kind\":\"ConfigMap\",\
         \"metadata\":{\"name\":\"c\",\"namespace\":\"default\"}}\n"
    );
    // Other managers do not take the fields over.
    let refused = maps.try_apply(Some(&live), "flux", &change, false);
    assert_eq!(
        conflicts(refused)[0].0,
        "\"kubectl-client-side-apply\" using v1"
    );
    // A field that has changed since is not taken over.
    let live = maps.edit(&live, "editor", |map| map["data"]["b"] = json!("9"));
    let refused = maps.try_apply(Some(&live), "kubectl", &change, false);
    assert_eq!(
        conflicts(refused),
        [("\"editor\" using v1".to_owned(), ".data.b".to_owned())]
    );
}

#[test]
fn only_what_a_write_reaches_is_owned() {
    let sets = Bench::sets();
    let config = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "w"},
        "spec": {"replicas": 1}, "status": {"replicas": 5}});
    let object = sets.apply(None, "one", &config);
    assert_eq!(
        owner(&object, "one Apply"),
        json!({"f:spec": {"f:replicas": {}}})
    );
    let mut next = object.clone();
    next["status"]["replicas"] = json!(6);
    next["spec"]["replicas"] = json!(6);
    let status = Writer {
        subresource: "status",
        ..writer("controller", "apps/v1", T1)
    };
    let reach = OwnableFields::Only(&["status", "metadata"]);
    track(Some(&object), &mut next, sets.object_type, &status, reach);
    assert_eq!(
        next["metadata"]["managedFields"][1],
        json!({"manager": "controller", "operation": "Update", "apiVersion": "apps/v1",
            "time": T1, "fieldsType": "FieldsV1", "subresource": "status",
            "fieldsV1": {"f:status": {"f:replicas": {}}}})
    );
}
