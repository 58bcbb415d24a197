//! Create, update and the three patches.

use json_tree::{Value, json};

use crate::harness::{Api, CONFIG_MAPS, PODS, SETS, config_map, pod, stateful_set};

#[tokio::test]
async fn what_is_created_can_be_read_and_has_an_identity() {
    let api = Api::new().await;
    let created = api.create(CONFIG_MAPS, config_map("a")).await;
    assert_eq!(created["kind"], "ConfigMap");
    assert_eq!(created["apiVersion"], "v1");
    assert_eq!(created["metadata"]["namespace"], "default");
    for field in ["uid", "resourceVersion", "creationTimestamp"] {
        assert!(
            created["metadata"][field]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{field}"
        );
    }
    let (code, read) = api.get(&format!("{CONFIG_MAPS}/a")).await;
    assert_eq!((code, &read), (200, &created));
    // kubectl.md 2.1
    let (code, status) = api.send("POST", CONFIG_MAPS, config_map("a")).await;
    assert_eq!(code, 409);
    assert_eq!(status["message"], "configmaps \"a\" already exists");
    assert_eq!(status["reason"], "AlreadyExists");
    let set = api.send("POST", SETS, stateful_set("web")).await.1;
    assert_eq!(set["metadata"]["generation"], 1);
    let (_, status) = api.send("POST", SETS, stateful_set("web")).await;
    assert_eq!(
        status["message"],
        "statefulsets.apps \"web\" already exists"
    );
}

#[tokio::test]
async fn clients_cannot_set_what_the_server_keeps() {
    let api = Api::new().await;
    let mut sent = config_map("a");
    sent["metadata"]["uid"] = json!("mine");
    sent["metadata"]["creationTimestamp"] = json!("2001-01-01T00:00:00Z");
    sent["metadata"]["generation"] = json!(7);
    sent["metadata"]["managedFields"] = json!([{"manager": "x"}]);
    sent["metadata"]["deletionTimestamp"] = json!("2001-01-01T00:00:00Z");
    let created = api.create(CONFIG_MAPS, sent).await;
    assert_ne!(created["metadata"]["uid"], "mine");
    assert_ne!(
        created["metadata"]["creationTimestamp"],
        "2001-01-01T00:00:00Z"
    );
    for field in ["generation", "deletionTimestamp"] {
        assert!(created["metadata"].get(field).is_none(), "{field}");
    }
    assert_eq!(created["metadata"]["managedFields"][0]["manager"], "admin");
    let mut sent = config_map("b");
    sent["metadata"]["resourceVersion"] = json!("1");
    let (code, status) = api.send("POST", CONFIG_MAPS, sent).await;
    assert_eq!(code, 400);
    assert_eq!(
        status["message"],
        "resourceVersion should not be set on objects to be created"
    );
}

#[tokio::test]
async fn names_are_generated_on_request() {
    let api = Api::new().await;
    let sent = json!({"metadata": {"generateName": "x-"}});
    let one = api.create(CONFIG_MAPS, sent.clone()).await;
    let two = api.create(CONFIG_MAPS, sent).await;
    let name = |object: &Value| object["metadata"]["name"].as_str().unwrap().to_owned();
    assert!(name(&one).starts_with("x-") && name(&one).len() == 7);
    assert_ne!(name(&one), name(&two));
    let (code, status) = api.send("POST", CONFIG_MAPS, json!({"metadata": {}})).await;
    assert_eq!(code, 422);
    assert_eq!(
        status["details"]["causes"][0],
        json!({
            "reason": "FieldValueRequired",
            "message": "Required value: name or generateName is required",
            "field": "metadata.name",
        })
    );
}

#[tokio::test]
async fn an_update_needs_the_newest_version_or_none() {
    let api = Api::new().await;
    let created = api.create(CONFIG_MAPS, config_map("a")).await;
    let path = format!("{CONFIG_MAPS}/a");
    let mut changed = created.clone();
    changed["data"]["a"] = json!("2");
    let (code, second) = api.send("PUT", &path, changed.clone()).await;
    assert_eq!(code, 200);
    assert_ne!(
        second["metadata"]["resourceVersion"],
        created["metadata"]["resourceVersion"]
    );
    assert_eq!(second["metadata"]["uid"], created["metadata"]["uid"]);
    changed["data"]["a"] = json!("3");
    let (code, status) = api.send("PUT", &path, changed.clone()).await;
    assert_eq!(code, 409);
    assert_eq!(
        status["message"],
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please \
         apply your changes to the latest version and try again"
    );
    changed["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("resourceVersion");
    let (code, _) = api.send("PUT", &path, changed.clone()).await;
    assert_eq!(code, 200);
    // statefulset.md 6.2: an update does not create.
    let (code, _) = api
        .send("PUT", &format!("{CONFIG_MAPS}/nope"), config_map("nope"))
        .await;
    assert_eq!(code, 404);
    changed["metadata"]["uid"] = json!("other");
    let (code, status) = api.send("PUT", &path, changed).await;
    assert_eq!((code, &status["reason"]), (409, &json!("Conflict")));
    let (code, status) = api.send("PUT", &path, config_map("b")).await;
    assert_eq!(code, 400);
    assert_eq!(
        status["message"],
        "the name of the object (b) does not match the name on the URL (a)"
    );
}

#[tokio::test]
async fn an_update_that_changes_nothing_writes_nothing() {
    let api = Api::new().await;
    let created = api.create(SETS, stateful_set("web")).await;
    let path = format!("{SETS}/web");
    let (code, same) = api.send("PUT", &path, stateful_set("web")).await;
    assert_eq!((code, &same), (200, &created));
    let (_, same) = api
        .patch(&path, "merge", json!({"metadata": {"labels": {}}}))
        .await;
    assert_eq!(same, created);
    // statefulset.md 6.2: the generation counts changes of the spec, not of labels or status.
    let (_, labelled) = api
        .patch(&path, "merge", json!({"metadata": {"labels": {"a": "b"}}}))
        .await;
    assert_eq!(labelled["metadata"]["generation"], 1);
    let (_, scaled) = api
        .patch(&path, "merge", json!({"spec": {"replicas": 5}}))
        .await;
    assert_eq!(scaled["metadata"]["generation"], 2);
    let (_, ignored) = api
        .patch(&path, "merge", json!({"status": {"replicas": 9}}))
        .await;
    assert_eq!(ignored, scaled);
}

#[tokio::test]
async fn the_three_patches_do_what_they_say() {
    // kubectl.md 2.7
    let api = Api::new().await;
    let mut set = stateful_set("web");
    set["spec"]["template"]["spec"]["containers"] =
        json!([{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]);
    api.create(SETS, set).await;
    let path = format!("{SETS}/web");
    let change =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "b", "image": "j"}]}}}});
    let (code, patched) = api.patch(&path, "strategic", change.clone()).await;
    let images = |set: &Value| -> Vec<Value> {
        let list = set["spec"]["template"]["spec"]["containers"]
            .as_array()
            .unwrap()
            .clone();
        list.iter()
            .map(|c| json!([c["name"], c["image"]]))
            .collect()
    };
    assert_eq!(code, 200, "{patched}");
    assert_eq!(images(&patched), [json!(["a", "i"]), json!(["b", "j"])]);
    let (_, patched) = api.patch(&path, "merge", change).await;
    assert_eq!(images(&patched), [json!(["b", "j"])]);
    let (_, patched) = api
        .patch(
            &path,
            "json",
            json!([{"op": "replace", "path": "/spec/replicas", "value": 4}]),
        )
        .await;
    assert_eq!(patched["spec"]["replicas"], 4);
    let failing = json!([{"op": "test", "path": "/spec/replicas", "value": 9}]);
    let (code, status) = api.patch(&path, "json", failing).await;
    assert_eq!(code, 422);
    assert_eq!(
        status["message"],
        "the server rejected our request due to an error in our request"
    );
    let stale = json!({"metadata": {"resourceVersion": "1"}, "spec": {"replicas": 1}});
    let (code, _) = api.patch(&path, "merge", stale).await;
    assert_eq!(code, 409);
    let binary = [("content-type", "application/apply-patch+cbor")];
    let response = api.raw("PATCH", &path, &binary, "{}").await;
    assert_eq!(response.code, 415);
    assert!(
        response
            .text()
            .contains("application/strategic-merge-patch+json")
    );
    let (code, _) = api.patch(&format!("{SETS}/nope"), "merge", json!({})).await;
    assert_eq!(code, 404);
}

#[tokio::test]
async fn patches_at_the_same_time_all_take_effect() {
    let api = Api::new().await;
    api.create(CONFIG_MAPS, config_map("a")).await;
    let path = format!("{CONFIG_MAPS}/a");
    let patches = (0..8).map(|i| {
        let change = json!({"data": {format!("k{i}"): "v"}});
        api.patch(&path, "merge", change)
    });
    for (code, value) in futures::future::join_all(patches).await {
        assert_eq!(code, 200, "{value}");
    }
    let (_, read) = api.get(&path).await;
    assert_eq!(read["data"].as_object().unwrap().len(), 9);
}

#[tokio::test]
async fn immutable_fields_are_refused_with_upstreams_text() {
    // statefulset.md 6.5
    let api = Api::new().await;
    api.create(SETS, stateful_set("web")).await;
    let change = json!({"spec": {"serviceName": "other"}});
    let (code, status) = api.patch(&format!("{SETS}/web"), "merge", change).await;
    assert_eq!(code, 422);
    let message = status["message"].as_str().unwrap();
    assert!(
        message.starts_with("StatefulSet.apps \"web\" is invalid: spec: Forbidden: updates to")
    );
    assert_eq!(status["details"]["kind"], "StatefulSet");
}

#[tokio::test]
async fn dry_runs_check_everything_and_write_nothing() {
    let api = Api::new().await;
    let revision = || mvcc_store::Store::current_revision(api.store.as_ref());
    api.create(SETS, stateful_set("web")).await;
    let before = revision();
    let path = format!("{SETS}/web");
    let dry = |path: &str| format!("{path}?dryRun=All");
    let (code, created) = api.send("POST", &dry(SETS), stateful_set("other")).await;
    assert_eq!(code, 201);
    assert_eq!(created["spec"]["replicas"], 1);
    let (code, _) = api.send("POST", &dry(SETS), stateful_set("web")).await;
    assert_eq!(code, 409);
    let (code, patched) = api
        .patch(&dry(&path), "merge", json!({"spec": {"replicas": 3}}))
        .await;
    assert_eq!((code, &patched["spec"]["replicas"]), (200, &json!(3)));
    let (code, _) = api.send("DELETE", &dry(&path), Value::Null).await;
    assert_eq!(code, 200);
    let (code, status) = api
        .send("POST", &format!("{SETS}?dryRun=Some"), stateful_set("x"))
        .await;
    assert_eq!((code, &status["reason"]), (422, &json!("Invalid")));
    assert_eq!(revision(), before);
    assert_eq!(api.get(&path).await.0, 200);
}

#[tokio::test]
async fn unknown_and_repeated_fields_are_refused_warned_of_or_ignored() {
    // kubectl.md 0.6, 0.8
    let api = Api::new().await;
    let mut set = stateful_set("web");
    set["spec"]["foo"] = json!(1);
    let text = set
        .to_string()
        .replacen("\"foo\":1", "\"foo\":1,\"replicas\":1,\"replicas\":2", 1);
    let json = [("content-type", "application/json")];
    let post = |validation: &str| {
        let path = format!("{SETS}?dryRun=All&fieldValidation={validation}");
        let text = text.clone();
        let api = &api;
        async move { api.raw("POST", &path, &json, text).await }
    };
    let strict = post("Strict").await;
    assert_eq!(strict.code, 400);
    assert_eq!(
        strict.json()["message"],
        "StatefulSet in version \"v1\" cannot be handled as a StatefulSet: strict decoding error: \
         duplicate field \"spec.replicas\", unknown field \"spec.foo\""
    );
    let warned = post("Warn").await;
    assert_eq!(warned.code, 201);
    assert_eq!(
        warned.warnings(),
        [
            r#"299 - "duplicate field \"spec.replicas\"""#,
            r#"299 - "unknown field \"spec.foo\"""#,
        ]
    );
    let ignored = post("Ignore").await;
    assert_eq!(ignored.code, 201);
    assert!(ignored.headers.get("warning").is_none());
    assert!(ignored.json()["spec"].get("foo").is_none());
    assert_eq!(post("Sometimes").await.code, 422);

    api.create(SETS, stateful_set("web")).await;
    let path = format!("{SETS}/web?fieldValidation=Strict");
    let (code, status) = api.patch(&path, "merge", json!({"spec": {"foo": 1}})).await;
    assert_eq!(code, 422);
    assert_eq!(
        status["details"]["causes"][0]["message"],
        "Invalid value: \"{\\\"spec\\\":{\\\"foo\\\":1}}\": strict decoding error: \
         unknown field \"spec.foo\""
    );
}

#[tokio::test]
async fn the_wrong_type_in_a_field_is_named() {
    let api = Api::new().await;
    let mut set = stateful_set("web");
    set["spec"]["replicas"] = json!("many");
    let (code, status) = api.send("POST", SETS, set).await;
    assert_eq!(code, 400);
    let message = status["message"].as_str().unwrap();
    assert!(
        message.contains("json: cannot unmarshal string into Go struct field StatefulSetSpec"),
        "{message}"
    );
}

#[tokio::test]
async fn addresses_and_ports_are_held_by_one_service_at_a_time() {
    let api = Api::new().await;
    let path = "/api/v1/namespaces/default/services";
    let service = |name: &str, ip: Option<&str>| {
        json!({
            "metadata": {"name": name},
            "spec": {"clusterIP": ip, "ports": [{"port": 80}], "selector": {"a": "b"}},
        })
    };
    let created = api.create(path, service("a", None)).await;
    let ip = created["spec"]["clusterIP"].as_str().unwrap().to_owned();
    assert!(ip.starts_with("10.96."));
    let (code, status) = api.send("POST", path, service("b", Some(&ip))).await;
    assert_eq!(code, 422);
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .contains("provided IP is already allocated")
    );
    api.send("DELETE", &format!("{path}/a"), Value::Null).await;
    api.create(path, service("b", Some(&ip))).await;
    let many = (0..20).map(|i| {
        let sent = service(&format!("s{i}"), None);
        api.create(path, sent)
    });
    let ips: std::collections::BTreeSet<String> = futures::future::join_all(many)
        .await
        .iter()
        .map(|service| service["spec"]["clusterIP"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ips.len(), 20);
}

/// KEP-1880: Services get addresses from each ready ServiceCIDR.
#[tokio::test]
async fn addresses_of_service_cidrs_are_allocated_while_they_are_ready() {
    let api = Api::new().await;
    let path = "/api/v1/namespaces/default/services";
    let service = |name: &str, ip: &str| json!({"metadata": {"name": name}, "spec": {"clusterIP": ip, "ports": [{"port": 80}]}});
    let refused = async |name: &str, ip: &str, why: &str| {
        let (code, status) = api.send("POST", path, service(name, ip)).await;
        let message = format!("failed to allocate IP {ip}: {why}");
        assert_eq!(code, 422, "{status}");
        assert!(
            status["message"].as_str().unwrap().contains(&message),
            "{status}"
        );
    };
    let mismatch = "the provided network does not match the current range";
    refused("a", "10.201.0.7", mismatch).await;
    let ranges = "/apis/networking.k8s.io/v1/servicecidrs";
    let finalizers = ["networking.k8s.io/service-cidr-finalizer"];
    let more = json!({"metadata": {"name": "more", "finalizers": finalizers},
        "spec": {"cidrs": ["10.201.0.0/24"]}});
    api.create(ranges, more).await;
    api.create(path, service("a", "10.201.0.7")).await;
    refused("b", "10.201.0.7", "provided IP is already allocated").await;
    refused("b", "10.201.0.255", mismatch).await;
    let (code, address) = api
        .get("/apis/networking.k8s.io/v1/ipaddresses/10.201.0.7")
        .await;
    assert_eq!(code, 200, "{address}");
    let ready = |status: &str| {
        json!({"status": {"conditions": [{"type": "Ready", "status": status, "reason": "Mine",
            "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}})
    };
    let status = format!("{ranges}/more/status");
    assert_eq!(api.patch(&status, "merge", ready("False")).await.0, 200);
    refused("b", "10.201.0.8", mismatch).await;
    assert_eq!(api.patch(&status, "merge", ready("True")).await.0, 200);
    api.create(path, service("b", "10.201.0.8")).await;
    let path = format!("{ranges}/more");
    assert_eq!(api.send("DELETE", &path, Value::Null).await.0, 200);
    refused("c", "10.201.0.9", mismatch).await;
}

#[tokio::test]
async fn yaml_and_protobuf_are_taken_too() {
    let api = Api::new().await;
    let yaml = [("content-type", "application/yaml")];
    let response = api
        .raw(
            "POST",
            CONFIG_MAPS,
            &yaml,
            "metadata:\n  name: from-yaml\ndata: {a: b}\n",
        )
        .await;
    assert_eq!(response.code, 201, "{}", response.text());
    assert_eq!(response.json()["data"]["a"], "b");
    // runtime.Unknown{typeMeta{v1, ConfigMap}, raw{metadata{name: p}}}
    let bytes = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x05\x0a\x03\x0a\x01p";
    let proto = [("content-type", "application/vnd.kubernetes.protobuf")];
    let response = api.raw("POST", CONFIG_MAPS, &proto, &bytes[..]).await;
    assert_eq!(response.code, 201, "{}", response.text());
    assert_eq!(response.json()["metadata"]["name"], "p");
}

#[tokio::test]
async fn status_is_a_part_of_its_own() {
    // statefulset.md 6.3
    let api = Api::new().await;
    api.with_account().await;
    api.create(PODS, pod("p")).await;
    let path = format!("{PODS}/p/status");
    let change = json!({"status": {"phase": "Running"}, "spec": {"nodeName": "x"}});
    let (code, changed) = api.patch(&path, "strategic", change).await;
    assert_eq!(code, 200, "{changed}");
    assert_eq!(changed["status"]["phase"], "Running");
    assert!(changed["spec"].get("nodeName").is_none());
    let (_, same) = api
        .patch(
            &format!("{PODS}/p"),
            "merge",
            json!({"status": {"phase": "Failed"}}),
        )
        .await;
    assert_eq!(same["status"]["phase"], "Running");
    assert_eq!(api.get(&path).await.1, same);
}

// findings C15
#[tokio::test]
async fn a_patch_to_the_wrong_type_is_invalid() {
    let api = Api::new().await;
    api.create(SETS, stateful_set("web")).await;
    let path = format!("{SETS}/web");
    for (form, patch) in [
        (
            "application/merge-patch+json",
            r#"{"spec":{"replicas":"x"}}"#,
        ),
        (
            "application/json-patch+json",
            r#"[{"op":"replace","path":"/spec/replicas","value":"x"}]"#,
        ),
        (
            "application/strategic-merge-patch+json",
            r#"{"spec":{"replicas":"x"}}"#,
        ),
    ] {
        let sent = [("content-type", form)];
        let response = api.raw("PATCH", &path, &sent, patch.to_owned()).await;
        let status = response.json();
        assert_eq!(
            (response.code, &status["reason"]),
            (422, &json!("Invalid")),
            "{form}"
        );
        let message = status["message"].as_str().unwrap();
        let start = " \"\" is invalid: patch: Invalid value: ";
        assert!(message.starts_with(start), "{message}");
        assert!(
            message.contains("json: cannot unmarshal string into"),
            "{message}"
        );
    }
}
