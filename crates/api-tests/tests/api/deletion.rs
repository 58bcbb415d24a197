//! Deletion: preconditions, grace, finalizers, collections, namespaces.

use json_tree::{Value, json};

use crate::harness::{Api, CONFIG_MAPS, PODS, SETS, config_map, pod, stateful_set};

#[tokio::test]
async fn a_deletion_names_what_is_gone() {
    // kubectl.md 9.6
    let api = Api::new().await;
    let created = api.create(SETS, stateful_set("web")).await;
    let path = format!("{SETS}/web");
    let (code, status) = api.send("DELETE", &path, Value::Null).await;
    assert_eq!(code, 200);
    assert_eq!(status["kind"], "Status");
    assert_eq!(status["status"], "Success");
    let details = json!({
        "name": "web", "kind": "statefulsets", "uid": created["metadata"]["uid"], "group": "apps",
    });
    assert_eq!(status["details"], details);
    let (code, status) = api.send("DELETE", &path, Value::Null).await;
    assert_eq!(
        (code, &status["message"]),
        (404, &json!("statefulsets.apps \"web\" not found"))
    );
}

#[tokio::test]
async fn older_kinds_leave_their_pods_behind_unless_told_otherwise() {
    let api = Api::new().await;
    let template = |restart: &str| {
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"restartPolicy": restart,
            "containers": [{"name": "c", "image": "i"}]}})
    };
    let controllers = "/api/v1/namespaces/default/replicationcontrollers";
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    for (path, spec, is_warned) in [
        (controllers, json!({"template": template("Always")}), false),
        (jobs, json!({"template": template("Never")}), true),
    ] {
        for name in ["left", "taken"] {
            let object = json!({"metadata": {"name": name}, "spec": spec});
            api.create(path, object).await;
        }
        let left = format!("{path}/left");
        let response = api.raw("DELETE", &left, &[], "").await;
        assert_eq!(response.code, 200, "{}", response.text());
        assert_eq!(response.headers.contains_key("warning"), is_warned);
        let (_, object) = api.get(&left).await;
        assert_eq!(object["metadata"]["finalizers"], json!(["orphan"]));
        let background = format!("{path}/taken?propagationPolicy=Background");
        let response = api.raw("DELETE", &background, &[], "").await;
        assert!(!response.headers.contains_key("warning"));
        assert_eq!(api.get(&format!("{path}/taken")).await.0, 404);
    }
}

#[tokio::test]
async fn preconditions_must_hold() {
    // kubectl.md 2.11
    let api = Api::new().await;
    let created = api.create(CONFIG_MAPS, config_map("a")).await;
    let path = format!("{CONFIG_MAPS}/a");
    for wrong in [json!({"uid": "other"}), json!({"resourceVersion": "1"})] {
        let (code, status) = api
            .send("DELETE", &path, json!({"preconditions": wrong}))
            .await;
        assert_eq!((code, &status["reason"]), (409, &json!("Conflict")));
        assert!(
            status["message"]
                .as_str()
                .unwrap()
                .contains("Precondition failed")
        );
    }
    let right = json!({"preconditions": {
        "uid": created["metadata"]["uid"],
        "resourceVersion": created["metadata"]["resourceVersion"],
    }});
    assert_eq!(api.send("DELETE", &path, right).await.0, 200);
    assert_eq!(api.get(&path).await.0, 404);
}

#[tokio::test]
async fn finalizers_hold_an_object_until_they_are_gone() {
    let api = Api::new().await;
    let mut map = config_map("a");
    map["metadata"]["finalizers"] = json!(["example.com/hold"]);
    api.create(CONFIG_MAPS, map).await;
    let path = format!("{CONFIG_MAPS}/a");
    let (code, pending) = api.send("DELETE", &path, Value::Null).await;
    assert_eq!(code, 200);
    assert!(pending["metadata"]["deletionTimestamp"].is_string());
    // A repeated deletion changes nothing.
    let (_, again) = api.send("DELETE", &path, Value::Null).await;
    assert_eq!(again, pending);
    let more = json!({"metadata": {"finalizers": ["example.com/hold", "example.com/more"]}});
    let (code, status) = api.patch(&path, "merge", more).await;
    assert_eq!(code, 422);
    assert!(
        status["message"].as_str().unwrap().contains(
            "no new finalizers can be added if the object is being deleted, found new finalizers \
             []string{\"example.com/more\"}"
        ),
        "{status}"
    );
    let none = json!({"metadata": {"finalizers": null}});
    let (code, last) = api.patch(&path, "merge", none).await;
    assert_eq!((code, &last["metadata"]["name"]), (200, &json!("a")));
    assert_eq!(api.get(&path).await.0, 404);
}

#[tokio::test]
async fn propagation_becomes_a_finalizer() {
    // statefulset.md 13.1
    let cases = [
        (
            json!({"propagationPolicy": "Foreground"}),
            Some("foregroundDeletion"),
        ),
        (json!({"propagationPolicy": "Orphan"}), Some("orphan")),
        (json!({"orphanDependents": true}), Some("orphan")),
        (json!({"orphanDependents": false}), None),
        (json!({"propagationPolicy": "Background"}), None),
        (Value::Null, None),
    ];
    let api = Api::new().await;
    for (i, (options, finalizer)) in cases.into_iter().enumerate() {
        let path = format!("{SETS}/web{i}");
        api.create(SETS, stateful_set(&format!("web{i}"))).await;
        let (code, response) = api.send("DELETE", &path, options.clone()).await;
        assert_eq!(code, 200, "{options}");
        match finalizer {
            Some(name) => {
                assert_eq!(
                    response["metadata"]["finalizers"],
                    json!([name]),
                    "{options}"
                );
                assert_eq!(api.get(&path).await.0, 200);
            }
            None => assert_eq!(api.get(&path).await.0, 404, "{options}"),
        }
    }
    let both = json!({"propagationPolicy": "Orphan", "orphanDependents": true});
    api.create(SETS, stateful_set("both")).await;
    assert_eq!(
        api.send("DELETE", &format!("{SETS}/both"), both).await.0,
        422
    );
    let (_, pending) = api
        .send(
            "DELETE",
            &format!("{SETS}/both?propagationPolicy=Foreground"),
            Value::Null,
        )
        .await;
    assert_eq!(
        pending["metadata"]["finalizers"],
        json!(["foregroundDeletion"])
    );
}

async fn with_running_pod() -> (Api, String) {
    let api = Api::new().await;
    api.with_account().await;
    api.create(PODS, pod("p")).await;
    let binding = json!({"target": {"kind": "Node", "name": "n1"}});
    api.create(&format!("{PODS}/p/binding"), binding).await;
    let running = json!({"status": {"phase": "Running"}});
    api.patch(&format!("{PODS}/p/status"), "merge", running)
        .await;
    (api, format!("{PODS}/p"))
}

#[tokio::test]
async fn a_pod_on_a_node_gets_its_grace_and_a_repeat_may_only_shorten_it() {
    // kubectl.md 2.11
    let (api, path) = with_running_pod().await;
    let (code, ending) = api.send("DELETE", &path, Value::Null).await;
    assert_eq!(code, 200);
    assert_eq!(ending["metadata"]["deletionGracePeriodSeconds"], 30);
    let (_, longer) = api
        .send("DELETE", &path, json!({"gracePeriodSeconds": 60}))
        .await;
    assert_eq!(longer, ending);
    let (_, shorter) = api
        .send("DELETE", &path, json!({"gracePeriodSeconds": 10}))
        .await;
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 10);
    let time = |pod: &Value| -> jiff::Timestamp {
        pod["metadata"]["deletionTimestamp"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap()
    };
    assert_eq!(time(&ending).duration_since(time(&shorter)).as_secs(), 20);
    let (code, status) = api
        .send("DELETE", &path, json!({"gracePeriodSeconds": 0}))
        .await;
    assert_eq!((code, &status["kind"]), (200, &json!("Pod")));
    assert_eq!(api.get(&path).await.0, 404);
}

#[tokio::test]
async fn a_pod_without_a_node_goes_at_once() {
    let api = Api::new().await;
    api.with_account().await;
    api.create(PODS, pod("p")).await;
    let (_, deleted) = api.send("DELETE", &format!("{PODS}/p"), Value::Null).await;
    assert_eq!(deleted["metadata"]["name"], "p");
    assert_eq!(api.get(&format!("{PODS}/p")).await.0, 404);
}

#[tokio::test]
async fn a_collection_is_deleted_by_selection() {
    let api = Api::new().await;
    for i in 0..20 {
        let mut map = config_map(&format!("m{i}"));
        map["metadata"]["labels"] = json!({"odd": (i % 2).to_string()});
        api.create(CONFIG_MAPS, map).await;
    }
    let (code, list) = api
        .send(
            "DELETE",
            &format!("{CONFIG_MAPS}?labelSelector=odd%3D1"),
            Value::Null,
        )
        .await;
    assert_eq!(code, 200);
    assert_eq!(list["items"].as_array().unwrap().len(), 10);
    let (_, left) = api.get(CONFIG_MAPS).await;
    assert_eq!(left["items"].as_array().unwrap().len(), 10);
    api.send("DELETE", CONFIG_MAPS, Value::Null).await;
    assert!(
        api.get(CONFIG_MAPS).await.1["items"]
            .as_array()
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn a_namespace_goes_when_its_finalizer_goes() {
    // statefulset.md 13.4
    let api = Api::new().await;
    api.create("/api/v1/namespaces", json!({"metadata": {"name": "x"}}))
        .await;
    let path = "/api/v1/namespaces/x";
    let (_, ending) = api.send("DELETE", path, Value::Null).await;
    assert_eq!(ending["status"]["phase"], "Terminating");
    assert!(ending["metadata"]["deletionTimestamp"].is_string());
    // findings-2 E14
    assert!(ending["metadata"]["deletionGracePeriodSeconds"].is_null());
    let (code, status) = api
        .send(
            "POST",
            "/api/v1/namespaces/x/configmaps",
            config_map("late"),
        )
        .await;
    assert_eq!(code, 403, "{status}");
    let mut done = ending.clone();
    done["spec"]["finalizers"] = json!([]);
    let (code, _) = api.send("PUT", &format!("{path}/finalize"), done).await;
    assert_eq!(code, 200);
    assert_eq!(api.get(path).await.0, 404);
}

// findings C15
#[tokio::test]
async fn some_kinds_answer_a_deletion_with_the_object() {
    let api = Api::new().await;
    api.with_account().await;
    api.create(PODS, pod("gone")).await;
    let now = json!({"gracePeriodSeconds": 0});
    let (code, response) = api.send("DELETE", &format!("{PODS}/gone"), now).await;
    assert_eq!((code, &response["kind"]), (200, &json!("Pod")));
    assert_eq!(response["metadata"]["name"], "gone");
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "a"}});
    api.create(accounts, account).await;
    let (code, response) = api
        .send("DELETE", &format!("{accounts}/a"), Value::Null)
        .await;
    assert_eq!((code, &response["kind"]), (200, &json!("ServiceAccount")));
    api.create(CONFIG_MAPS, config_map("a")).await;
    let (_, response) = api
        .send("DELETE", &format!("{CONFIG_MAPS}/a"), Value::Null)
        .await;
    assert_eq!(response["kind"], "Status");
}

// findings-2 E14
#[tokio::test]
async fn a_definition_that_is_deleted_has_no_grace_period_and_no_new_generation() {
    let api = Api::new().await;
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let schema = json!({"openAPIV3Schema": {"type": "object"}});
    let definition = json!({
        "metadata": {"name": "farms.example.com", "finalizers": ["example.com/keep"]},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"kind": "Farm", "plural": "farms"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}]},
    });
    api.create(path, definition).await;
    let path = format!("{path}/farms.example.com");
    let (code, _) = api.send("DELETE", &path, Value::Null).await;
    assert_eq!(code, 200);
    let (_, deleted) = api.get(&path).await;
    let metadata = &deleted["metadata"];
    assert!(metadata["deletionTimestamp"].is_string(), "{metadata}");
    assert!(
        metadata["deletionGracePeriodSeconds"].is_null(),
        "{metadata}"
    );
    assert_eq!(metadata["generation"], 1);
    assert_eq!(api.send("DELETE", &path, Value::Null).await.0, 200);
}
