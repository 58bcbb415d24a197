//! Custom resources with metadata, nulls or rules that could harm other users.

use json_tree::{Value, json};

use crate::harness::{Api, CONFIG_MAPS, DEFINITIONS, Events, config_map};

pub const POIS: &str = "/apis/example.org/v1/namespaces/default/pois";
const APPLY: [(&str, &str); 1] = [("content-type", "application/apply-patch+yaml")];

/// A server with the kind `Poi`. The test accepts its names instead of the controller.
async fn with_pois() -> Api {
    let api = Api::new().await;
    define_pois(&api).await;
    api
}

pub async fn define_pois(api: &Api) {
    // The estimated cost is below the limit of a rule, and the cost of a long list is above the limit at run time.
    let rule = "!has(self.list) || self.list.all(x, self.list.all(y, x == x))";
    let embedded = json!({"type": "object", "x-kubernetes-embedded-resource": true,
        "x-kubernetes-preserve-unknown-fields": true});
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {
            "list": {"type": "array", "maxItems": 1000, "items": {"type": "integer"}},
            "template": embedded,
            "pipelines": {"type": "array", "x-kubernetes-preserve-unknown-fields": true,
                "items": {"type": "object"}}},
            "x-kubernetes-validations": [{"rule": rule}]},
        "status": {"type": "object", "properties": {
            "phase": {"type": "string"},
            "conditions": {"type": "array", "items": {"type": "object", "properties": {
                "type": {"type": "string"}}}}}}}});
    let version = json!({"name": "v1", "served": true, "storage": true,
        "subresources": {"status": {}}, "schema": {"openAPIV3Schema": schema}});
    let definition = json!({"metadata": {"name": "pois.example.org"},
        "spec": {"group": "example.org", "scope": "Namespaced",
            "names": {"plural": "pois", "kind": "Poi"}, "versions": [version]}});
    api.create(DEFINITIONS, definition).await;
    api.accept_definition("pois.example.org").await;
}

fn poi(name: &str, metadata: Value, spec: Value) -> Value {
    let mut object = json!({"apiVersion": "example.org/v1", "kind": "Poi",
        "metadata": {"name": name}, "spec": spec});
    if let (Some(target), Some(more)) = (object["metadata"].as_object_mut(), metadata.as_object()) {
        target.extend(more.clone());
    }
    object
}

// findings-2 E2
#[tokio::test]
async fn metadata_of_other_types_are_refused_on_every_way() {
    let api = with_pois().await;
    api.create(POIS, poi("a", json!({}), json!({}))).await;
    let path = format!("{POIS}/a");
    for wrong in [
        json!({"labels": {"a": 1}}),
        json!({"labels": ["a"]}),
        json!({"annotations": "x"}),
        json!({"finalizers": "a/b"}),
        json!({"ownerReferences": {"name": "x"}}),
        json!({"ownerReferences": [{"name": 1}]}),
    ] {
        let object = poi("b", wrong.clone(), json!({}));
        let (code, status) = api.send("POST", POIS, object.clone()).await;
        assert_eq!(code, 400, "{status}");
        let applied = api
            .raw(
                "PATCH",
                &format!("{POIS}/b?fieldManager=m"),
                &APPLY,
                object.to_string(),
            )
            .await;
        assert!((400..500).contains(&applied.code), "{}", applied.text());
        let mut put = api.get(&path).await.1;
        for (name, value) in wrong.as_object().unwrap() {
            put["metadata"][name] = value.clone();
        }
        assert_eq!(api.send("PUT", &path, put.clone()).await.0, 400, "{wrong}");
        let status = format!("{path}/status");
        assert_eq!(api.send("PUT", &status, put).await.0, 400, "{wrong}");
        let patch = json!({"metadata": wrong});
        for target in [&path, &status] {
            let (code, response) = api.patch(target, "merge", patch.clone()).await;
            assert!((400..500).contains(&code), "{response}");
        }
        let operations: Vec<Value> = wrong
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, value)| {
                json!({"op": "add", "path": format!("/metadata/{name}"), "value": value})
            })
            .collect();
        let (code, response) = api.patch(&path, "json", json!(operations)).await;
        assert!((400..500).contains(&code), "{response}");
    }
    let template = json!({"template": {"apiVersion": "v1", "kind": "Pod",
        "metadata": {"labels": {"a": 1}}}});
    let (code, status) = api.send("POST", POIS, poi("b", json!({}), template)).await;
    assert_eq!(code, 400, "{status}");
    let text = status["message"].as_str().unwrap();
    assert!(text.contains("spec.template.metadata"), "{text}");
    assert_eq!(api.get(&format!("{POIS}/b")).await.0, 404);
}

// findings-2 C34
#[tokio::test]
async fn the_metadata_of_an_embedded_object_have_no_unknown_fields() {
    let api = with_pois().await;
    let template = json!({"template": {"apiVersion": "v1", "kind": "Pod", "free": {"x": 1},
        "metadata": {"name": "a", "nme": "b", "labels": null}}});
    let created = api.create(POIS, poi("a", json!({}), template)).await;
    let expected = json!({"apiVersion": "v1", "kind": "Pod", "free": {"x": 1},
        "metadata": {"name": "a"}});
    assert_eq!(created["spec"]["template"], expected);
}

// findings-2 C34
#[tokio::test]
async fn unknown_metadata_of_an_embedded_object_are_named_on_every_way() {
    let api = with_pois().await;
    let template = json!({"template": {"apiVersion": "v1", "kind": "Pod", "free": {"x": 1},
        "metadata": {"name": "a", "nme": "b"}}});
    let object = |name: &str| poi(name, json!({"Name": "c"}), template.clone());
    let text = "strict decoding error: unknown field \"metadata.Name\", \
                unknown field \"spec.template.metadata.nme\"";
    let warned = [
        r#"299 - "unknown field \"metadata.Name\"""#,
        r#"299 - "unknown field \"spec.template.metadata.nme\"""#,
    ];
    api.create(POIS, poi("a", json!({}), json!({}))).await;
    let path = format!("{POIS}/a");
    let stored = api.get(&path).await.1;
    let mut put = object("a");
    put["metadata"]["resourceVersion"] = stored["metadata"]["resourceVersion"].clone();
    let merge = json!({"metadata": {"Name": "c"}, "spec": template});
    let operations = json!([{"op": "add", "path": "/metadata/Name", "value": "c"},
        {"op": "add", "path": "/spec/template", "value": template["template"]}]);
    let writes = [
        ("POST", POIS, "application/json", object("b")),
        ("PUT", &path, "application/json", put),
        ("PATCH", &path, "application/merge-patch+json", merge),
        ("PATCH", &path, "application/json-patch+json", operations),
    ];
    for (verb, path, form, body) in writes {
        for (value, code, warnings) in [
            ("Strict", if verb == "PATCH" { 422 } else { 400 }, &[][..]),
            ("Warn", 200, &warned[..]),
            ("Ignore", 200, &[]),
        ] {
            let path = format!("{path}?dryRun=All&fieldValidation={value}");
            let headers = [("content-type", form)];
            let response = api.raw(verb, &path, &headers, body.to_string()).await;
            let ok = if response.code == 201 {
                200
            } else {
                response.code
            };
            assert_eq!(ok, code, "{verb} {path}: {}", response.text());
            assert_eq!(response.warnings(), warnings, "{verb} {path}");
            let message = response.json()["message"].clone();
            let has_text = message
                .as_str()
                .is_some_and(|message| message.contains(text));
            assert_eq!(has_text, value == "Strict", "{verb} {path}: {message}");
        }
    }
    // Server-side apply refuses fields without a type, as for other kinds.
    let config = poi("b", json!({}), template.clone());
    let to = format!("{POIS}/b?fieldManager=m&fieldValidation=Ignore");
    let applied = api.raw("PATCH", &to, &APPLY, config.to_string()).await;
    let message = applied.json()["message"].clone();
    assert_eq!(applied.code, 400, "{message}");
    let expected = ".spec.template.metadata.nme: field not declared in schema";
    assert!(message.as_str().unwrap().contains(expected), "{message}");
}

// findings-2 E2
#[tokio::test]
async fn stored_metadata_of_other_types_harm_nobody() {
    let api = with_pois().await;
    let labels = |value: &str| {
        json!({"labels": {"a": value}, "annotations": {"b": "c"},
        "finalizers": ["a/b"]})
    };
    api.create(POIS, poi("good", labels("x"), json!({}))).await;
    api.create(POIS, poi("wrong", labels("x"), json!({}))).await;
    let mut events = Events::open(&api, &format!("{POIS}?watch=1&labelSelector=a")).await;
    assert_eq!(events.short().await, "ADDED good");
    assert_eq!(events.short().await, "ADDED wrong");
    api.rewrite_stored("/wrong", |text| {
        let text = text.replace(r#""labels":{"a":"x"}"#, r#""labels":{"a":1,"z":"y"}"#);
        text.replace(r#""annotations":{"b":"c"}"#, r#""annotations":"b""#)
    })
    .await;
    // The object no longer has the label.
    assert_eq!(events.short().await, "DELETED wrong");
    let by_label = api.get(&format!("{POIS}?labelSelector=a")).await;
    assert_eq!(by_label.0, 200);
    assert_eq!(by_label.1["items"].as_array().unwrap().len(), 1);
    for accept in [
        "application/json",
        "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
        "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
        "application/json;as=Table;g=meta.k8s.io;v=v1",
    ] {
        let list = api.raw("GET", POIS, &[("accept", accept)], "").await;
        assert_eq!(list.code, 200, "{accept}: {}", list.text());
    }
    let mut object = api.get(&format!("{POIS}/wrong")).await.1;
    let metadata = &object["metadata"];
    assert_eq!(metadata["labels"], json!({"z": "y"}));
    assert_eq!(metadata["finalizers"], json!(["a/b"]));
    let wrong = metadata["annotations"]["mainstay.dev/malformed-metadata"].clone();
    assert_eq!(wrong, "labels, annotations");
    object["metadata"]["finalizers"] = json!([]);
    let (code, written) = api.send("PUT", &format!("{POIS}/wrong"), object).await;
    assert_eq!(code, 200, "{written}");
    assert!(
        written["metadata"].get("annotations").is_none(),
        "{written}"
    );
    let deleted = api
        .send("DELETE", &format!("{POIS}/wrong"), Value::Null)
        .await;
    assert_eq!(deleted.0, 200);
}

// findings-2 E1
#[tokio::test]
async fn the_status_sub_resource_writes_the_status_alone() {
    let api = with_pois().await;
    let metadata = json!({"labels": {"a": "b"}, "finalizers": ["a/b"]});
    let created = api.create(POIS, poi("a", metadata, json!({}))).await;
    let path = format!("{POIS}/a/status");
    let owner = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "none", "uid": "u"}]);
    let patch = json!({"status": {"phase": "Ready"}, "metadata": {"labels": {"a": "c"},
        "annotations": {"x": "y"}, "finalizers": null, "ownerReferences": owner}});
    let check = |object: &Value, phase: &str| {
        assert_eq!(object["status"]["phase"], phase);
        for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
            assert_eq!(
                object["metadata"][field], created["metadata"][field],
                "{field}"
            );
        }
    };
    let (code, object) = api.patch(&path, "merge", patch.clone()).await;
    assert_eq!(code, 200, "{object}");
    check(&object, "Ready");
    let managers = object["metadata"]["managedFields"].as_array().unwrap();
    assert!(
        managers
            .iter()
            .any(|entry| entry["subresource"] == "status"),
        "{managers:?}"
    );
    let operations = json!([{"op": "remove", "path": "/metadata/finalizers"},
        {"op": "add", "path": "/metadata/ownerReferences", "value": owner},
        {"op": "replace", "path": "/status/phase", "value": "Done"}]);
    let (code, object) = api.patch(&path, "json", operations).await;
    assert_eq!(code, 200, "{object}");
    check(&object, "Done");
    let mut put = object;
    put["metadata"]["labels"] = json!({"z": "z"});
    put["status"]["phase"] = json!("Put");
    let (code, object) = api.send("PUT", &path, put).await;
    assert_eq!(code, 200, "{object}");
    check(&object, "Put");
    let mut config = poi("a", patch["metadata"].clone(), Value::Null);
    config["status"] = json!({"phase": "Applied"});
    config["metadata"]
        .as_object_mut()
        .unwrap()
        .shift_remove("finalizers");
    let to = format!("{path}?fieldManager=m&force=true");
    let applied = api.raw("PATCH", &to, &APPLY, config.to_string()).await;
    assert_eq!(applied.code, 200, "{}", applied.text());
    check(&applied.json(), "Applied");
}

// findings-2 E4
#[tokio::test]
async fn a_null_of_a_client_is_a_missing_field() {
    let api = with_pois().await;
    let spec = json!({"list": null});
    let created = api.create(POIS, poi("a", json!({}), spec)).await;
    assert_eq!(created["spec"], json!({}));
    let mut object = api.get(&format!("{POIS}/a")).await.1;
    object["status"] = json!({"conditions": null, "phase": "Ready"});
    let (code, written) = api.send("PUT", &format!("{POIS}/a/status"), object).await;
    assert_eq!(code, 200, "{written}");
    assert_eq!(written["status"], json!({"phase": "Ready"}));
}

// findings-2 K10
#[tokio::test]
async fn the_elements_of_a_list_that_keeps_unknown_fields_are_stored_whole() {
    let api = with_pois().await;
    let spec = json!({"pipelines": [{"id": "main"}]});
    let strict = format!("{POIS}?fieldValidation=Strict");
    let created = api.create(&strict, poi("a", json!({}), spec.clone())).await;
    assert_eq!(created["spec"], spec);
    assert_eq!(api.get(&format!("{POIS}/a")).await.1["spec"], spec);
}

/// findings-2 C25: dropping the server checks that no evaluation ran on the threads of the runtime.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_that_computes_for_long_is_stopped_beside_the_threads_that_answer() {
    let api = with_pois().await;
    let spec = json!({"list": vec![1; 1000]});
    let path = format!("{POIS}?dryRun=All");
    let attacks = (0..6).map(|number| {
        let object = poi(&format!("p{number}"), json!({}), spec.clone());
        api.send("POST", &path, object)
    });
    let attacks = futures::future::join_all(attacks);
    let others = async {
        for number in 0..20 {
            let name = format!("c{number}");
            api.create(CONFIG_MAPS, config_map(&name)).await;
        }
    };
    let (responses, ()) = futures::future::join(attacks, others).await;
    for (code, status) in responses {
        assert_eq!(code, 422, "{status}");
        let text = status["message"].as_str().unwrap();
        assert!(text.contains("cost"), "{text}");
    }
}
