//! Ownership of fields, and its transfer.

use json_tree::{Value, json};
use structured_merge::apply::same_but_for_times;

use crate::bench::*;

#[test]
fn the_first_apply_creates_and_owns_what_it_names() {
    let maps = Bench::config_maps();
    let created = maps.apply(None, "kubectl", &config_map(json!({"a": "1"})));
    assert_eq!(
        created["metadata"]["managedFields"],
        json!([{"manager": "kubectl", "operation": "Apply", "apiVersion": "v1", "time": T0,
            "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {"f:a": {}}}}])
    );
    assert_eq!(created["data"], json!({"a": "1"}));
}

#[test]
fn what_is_no_longer_applied_goes_unless_somebody_else_has_it() {
    let maps = Bench::config_maps();
    let object = maps.apply(
        None,
        "one",
        &config_map(json!({"a": "1", "b": "1", "c": "1"})),
    );
    let object = maps.apply(Some(&object), "two", &config_map(json!({"b": "1"})));
    let object = maps.edit(&object, "editor", |map| map["data"]["d"] = json!("1"));
    let object = maps.apply(Some(&object), "one", &config_map(json!({"a": "1"})));
    assert_eq!(object["data"], json!({"a": "1", "b": "1", "d": "1"}));
    let object = maps.apply(Some(&object), "two", &config_map(json!({"z": "1"})));
    assert_eq!(object["data"], json!({"a": "1", "d": "1", "z": "1"}));
    // No manager owns a field any more, so the map itself is removed, too.
    let bare = config_map(json!({"a": "1"}));
    let object = maps.apply(None, "one", &bare);
    let mut none = bare;
    none.as_object_mut()
        .expect("an object")
        .shift_remove("data");
    let object = maps.apply(Some(&object), "one", &none);
    assert_eq!(object.get("data"), None);
    assert_eq!(owners(&object), []);
}

#[test]
fn taking_what_others_own_is_a_conflict_and_force_takes_it() {
    let sets = Bench::sets();
    let object = json!({"apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": {"name": "web"}, "spec": {"replicas": 1, "serviceName": "web"}});
    let object = sets.update(None, "kubectl-client-side-apply", &object);
    let mut config = json!({"apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": {"name": "web"}, "spec": {"replicas": 3}});
    let refused = sets.try_apply(Some(&object), "me", &config, false);
    let error = refused.expect_err("a conflict");
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using \
         apps/v1: .spec.replicas"
    );
    let status = error.status().to_json();
    assert_eq!(status["code"], 409);
    assert_eq!(status["reason"], "Conflict");
    assert_eq!(
        status["details"]["causes"],
        json!([{"reason": "FieldManagerConflict", "field": ".spec.replicas",
            "message": "conflict with \"kubectl-client-side-apply\" using apps/v1"}])
    );
    config["spec"]["serviceName"] = json!("other");
    let refused = sets.try_apply(Some(&object), "me", &config, false);
    assert_eq!(
        refused.expect_err("conflicts").to_string(),
        "Apply failed with 2 conflicts: conflicts with \"kubectl-client-side-apply\" using \
         apps/v1:\n- .spec.replicas\n- .spec.serviceName"
    );
    let forced = sets
        .try_apply(Some(&object), "me", &config, true)
        .expect("by force");
    assert_eq!(forced["spec"]["replicas"], 3);
    let all = json!({"f:spec": {"f:replicas": {}, "f:serviceName": {}}});
    assert_eq!(owners(&forced), [("me Apply".to_owned(), all)]);
}

#[test]
fn equal_values_are_shared() {
    let maps = Bench::config_maps();
    let object = maps.apply(None, "one", &config_map(json!({"a": "1"})));
    let object = maps.apply(Some(&object), "two", &config_map(json!({"a": "1"})));
    assert_eq!(owners(&object).len(), 2);
    let refused = maps.try_apply(Some(&object), "two", &config_map(json!({"a": "2"})), false);
    assert_eq!(conflicts(refused)[0].0, "\"one\"");
    // After a manager stops applying a field, the other manager may change it.
    let object = maps.apply(Some(&object), "one", &config_map(json!({"b": "1"})));
    let object = maps.apply(Some(&object), "two", &config_map(json!({"a": "2"})));
    assert_eq!(object["data"], json!({"a": "2", "b": "1"}));
}

#[test]
fn what_changes_nothing_keeps_its_time() {
    let mut maps = Bench::config_maps();
    let config = config_map(json!({"a": "1"}));
    let object = maps.apply(None, "one", &config);
    maps.now = T1;
    assert_eq!(maps.apply(Some(&object), "one", &config), object);
    assert_eq!(maps.update(Some(&object), "two", &object), object);
    let changed = maps.apply(Some(&object), "one", &config_map(json!({"a": "2"})));
    assert_eq!(changed["metadata"]["managedFields"][0]["time"], T1);
    assert!(same_but_for_times(
        &object["metadata"]["managedFields"],
        &changed["metadata"]["managedFields"],
    ));
}

#[test]
fn an_update_owns_what_it_changes_and_takes_it_from_appliers() {
    let maps = Bench::config_maps();
    let object = maps.apply(None, "one", &config_map(json!({"a": "1", "b": "1"})));
    let object = maps.edit(&object, "editor", |map| {
        map["data"]["a"] = json!("2");
        map["data"]["c"] = json!("1");
        map["metadata"]["labels"] = json!({"x": "y"});
    });
    assert_eq!(owner(&object, "one Apply"), json!({"f:data": {"f:b": {}}}));
    assert_eq!(
        owner(&object, "editor Update"),
        json!({"f:data": {"f:a": {}, "f:c": {}},
            "f:metadata": {"f:labels": {".": {}, "f:x": {}}}})
    );
    // A removed field has no owner.
    let object = maps.edit(&object, "other", |map| {
        map["data"].as_object_mut().expect("data").shift_remove("b");
    });
    assert_eq!(owner(&object, "one Apply"), Value::Null);
    assert_eq!(owner(&object, "other Update"), Value::Null);
}

/// The fields in the output of `kubectl create` of a pod.
#[test]
fn a_created_pod_has_the_fields_that_kubernetes_shows() {
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "uid": "u", "creationTimestamp": T0, "labels": {"run": "p"}},
        "spec": {
            "containers": [{"name": "c", "image": "i", "imagePullPolicy": "Always",
                "resources": {}, "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "env": [{"name": "A", "value": "1"}]}],
            "dnsPolicy": "ClusterFirst", "securityContext": {},
            "volumes": [{"name": "v", "emptyDir": {}}],
        },
        "status": {"phase": "Pending"}});
    let created = Bench::pods().update(None, "kubectl-run", &pod);
    assert_eq!(
        owner(&created, "kubectl-run Update"),
        json!({
            "f:metadata": {"f:labels": {".": {}, "f:run": {}}},
            "f:spec": {
                "f:containers": {"k:{\"name\":\"c\"}": {
                    ".": {},
                    "f:env": {".": {}, "k:{\"name\":\"A\"}": {".": {}, "f:name": {}, "f:value": {}}},
                    "f:image": {}, "f:imagePullPolicy": {}, "f:name": {},
                    "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {
                        ".": {}, "f:containerPort": {}, "f:protocol": {}}},
                    "f:resources": {},
                }},
                "f:dnsPolicy": {}, "f:securityContext": {},
                "f:volumes": {".": {}, "k:{\"name\":\"v\"}": {
                    ".": {}, "f:emptyDir": {}, "f:name": {}}},
            },
        })
    );
}
