//! Server-side apply and managed fields, through the whole pipeline (kubectl.md 0.7, 0.11, 2.4).

use json_tree::{Value, json};

use crate::harness::{Api, CONFIG_MAPS, PODS, SETS, config_map, pod, stateful_set};

const MAP: &str = "/api/v1/namespaces/default/configmaps/c";
const SET: &str = "/apis/apps/v1/namespaces/default/statefulsets/web";

fn map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data})
}

async fn apply(api: &Api, path: &str, query: &str, body: Value) -> (u16, Value) {
    let path = format!("{path}?fieldManager=me{query}");
    api.patch(&path, "apply", body).await
}

/// `manager operation subresource`, and the fields.
fn owners(object: &Value) -> Vec<(String, Value)> {
    let list = object["metadata"]["managedFields"].as_array();
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    list.into_iter()
        .flatten()
        .map(|entry| {
            let (name, operation) = (text(entry, "manager"), text(entry, "operation"));
            let who = format!("{name} {operation} {}", text(entry, "subresource"));
            (who.trim_end().to_owned(), entry["fieldsV1"].clone())
        })
        .collect()
}

fn owner(object: &Value, who: &str) -> Value {
    let entry = owners(object).into_iter().find(|(name, _)| name == who);
    entry.map(|(_, fields)| fields).unwrap_or_default()
}

#[tokio::test]
async fn applying_creates_then_changes_then_does_nothing() {
    // kubectl.md 2.4
    let api = Api::new().await;
    let (code, created) = apply(&api, MAP, "", map(json!({"a": "1", "b": "1"}))).await;
    assert_eq!(code, 201, "{created}");
    assert!(created["metadata"]["uid"].is_string());
    assert_eq!(
        owners(&created),
        [(
            "me Apply".to_owned(),
            json!({"f:data": {"f:a": {}, "f:b": {}}})
        )]
    );
    let (code, changed) = apply(&api, MAP, "", map(json!({"a": "2"}))).await;
    assert_eq!((code, &changed["data"]), (200, &json!({"a": "2"})));
    let (code, same) = apply(&api, MAP, "", map(json!({"a": "2"}))).await;
    assert_eq!((code, &same), (200, &changed));
    let (_, read) = api.get(MAP).await;
    assert_eq!(read, changed);
    // The content type is YAML.
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: c\ndata:\n  a: \"3\"\n";
    let headers = [(
        "content-type",
        "application/apply-patch+yaml; charset=utf-8",
    )];
    let path = format!("{MAP}?fieldManager=me");
    let response = api.raw("PATCH", &path, &headers, yaml).await;
    assert_eq!(response.json()["data"], json!({"a": "3"}));
}

#[tokio::test]
async fn dry_runs_of_an_apply_write_nothing() {
    let api = Api::new().await;
    let (code, result) = apply(&api, MAP, "&dryRun=All", map(json!({"a": "1"}))).await;
    assert_eq!((code, &result["data"]), (201, &json!({"a": "1"})));
    assert_eq!(api.get(MAP).await.0, 404);
    apply(&api, MAP, "", map(json!({"a": "1"}))).await;
    let (code, result) = apply(&api, MAP, "&dryRun=All", map(json!({"a": "2"}))).await;
    assert_eq!((code, &result["data"]), (200, &json!({"a": "2"})));
    assert_eq!(api.get(MAP).await.1["data"], json!({"a": "1"}));
}

/// Query, body, code and message of the requests that are refused.
fn refused_configurations() -> Vec<(&'static str, Value, u16, &'static str)> {
    let other_name = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "d"}});
    let elsewhere = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "c", "namespace": "kube-system"}});
    let nameless = json!({"apiVersion": "v1", "kind": "ConfigMap"});
    let with = |field: &str, value: Value| {
        let mut config = map(json!({}));
        config["metadata"][field] = value;
        config
    };
    vec![
        (
            "",
            map(json!({})),
            422,
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required \
             for apply patch",
        ),
        (
            "?fieldManager=me",
            json!({"apiVersion": "apps/v1", "kind": "Deployment"}),
            400,
            "invalid object type: apps/v1, Kind=Deployment",
        ),
        (
            "?fieldManager=me",
            json!({}),
            400,
            "invalid object type: /, Kind=",
        ),
        (
            "?fieldManager=me",
            json!([]),
            400,
            "error decoding patch: the patch is not an object",
        ),
        (
            "?fieldManager=me",
            other_name,
            400,
            "the name of the object (d) does not match the name on the URL (c)",
        ),
        (
            "?fieldManager=me",
            elsewhere,
            400,
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            "?fieldManager=me",
            nameless,
            400,
            "the name of the object (c based on URL) was undeterminable: name must be provided",
        ),
        (
            "?fieldManager=me",
            with("managedFields", json!([])),
            400,
            "metadata.managedFields must be nil",
        ),
        (
            "?fieldManager=me",
            with("uid", json!("u")),
            409,
            "Operation cannot be fulfilled on configmaps \"c\": uid mismatch: the provided object \
             specified uid u, and no existing object was found",
        ),
        (
            "?fieldManager=me",
            with("resourceVersion", json!("7")),
            409,
            "Operation cannot be fulfilled on configmaps \"c\": the provided object specified \
             resourceVersion 7, and no existing object was found",
        ),
        (
            "?fieldManager=me",
            with("foo", json!("7")),
            400,
            "failed to create typed patch object (/c; /v1, Kind=ConfigMap): .metadata.foo: field \
             not declared in schema",
        ),
    ]
}

#[tokio::test]
async fn what_cannot_be_applied_is_refused_in_upstreams_words() {
    let api = Api::new().await;
    let path = |query: &str| format!("{MAP}{query}");
    for (query, body, code, message) in refused_configurations() {
        let (actual, status) = api.patch(&path(query), "apply", body).await;
        assert_eq!(
            (actual, status["message"].as_str()),
            (code, Some(message)),
            "{query}"
        );
    }
    let twice = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {a: x}\ndata: {}\n";
    let headers = [("content-type", "application/apply-patch+yaml")];
    let strict = path("?fieldManager=me&fieldValidation=Strict");
    let response = api.raw("PATCH", &strict, &headers, twice).await;
    assert_eq!(response.code, 400);
    assert_eq!(
        response.json()["message"],
        "error strict decoding patch: duplicate field \"data\""
    );
    let lax = path("?fieldManager=me");
    let response = api.raw("PATCH", &lax, &headers, twice).await;
    assert_eq!(response.code, 201);
    assert_eq!(
        response.headers["warning"],
        "299 - \"duplicate field \\\"data\\\"\""
    );
    assert_eq!(api.raw("PATCH", &lax, &headers, "a: [").await.code, 400);
}

#[tokio::test]
async fn managers_have_names_of_a_bounded_length() {
    // kubectl.md 0.7
    let api = Api::new().await;
    let long = "x".repeat(129);
    let (code, status) = api
        .send(
            "POST",
            &format!("{CONFIG_MAPS}?fieldManager={long}"),
            config_map("c"),
        )
        .await;
    assert_eq!(code, 422);
    assert_eq!(
        status["message"],
        "CreateOptions.meta.k8s.io \"\" is invalid: fieldManager: Too long: may not be more than \
         128 bytes"
    );
    let path = format!("{CONFIG_MAPS}?fieldManager=a%07");
    let (code, status) = api.send("POST", &path, config_map("c")).await;
    let message = status["message"].as_str().unwrap();
    assert_eq!(code, 422);
    assert!(
        message.ends_with("invalid character U+0007 (at position 1)"),
        "{message}"
    );
    api.create(CONFIG_MAPS, config_map("c")).await;
    let (code, status) = api
        .patch(&format!("{MAP}?force=true"), "merge", json!({}))
        .await;
    assert_eq!(code, 422);
    assert_eq!(
        status["message"],
        "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for \
         non-apply patch"
    );
}

#[tokio::test]
async fn conflicts_have_causes_and_force_overrules_them() {
    // kubectl.md 2.4
    let api = Api::new().await;
    let path = format!("{SETS}?fieldManager=kubectl-client-side-apply");
    api.create(&path, stateful_set("web")).await;
    let mut config = stateful_set("web");
    config["spec"] = json!({"replicas": 3});
    let (code, status) = apply(&api, SET, "", config.clone()).await;
    assert_eq!(code, 409);
    assert_eq!(
        status["message"],
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using apps/v1: \
         .spec.replicas"
    );
    assert_eq!(
        status["details"]["causes"],
        json!([{"reason": "FieldManagerConflict", "field": ".spec.replicas",
            "message": "conflict with \"kubectl-client-side-apply\" using apps/v1"}])
    );
    let (code, forced) = apply(&api, SET, "&force=true", config).await;
    assert_eq!((code, &forced["spec"]["replicas"]), (200, &json!(3)));
    assert_eq!(forced["metadata"]["generation"], 2);
    assert_eq!(
        owner(&forced, "me Apply"),
        json!({"f:spec": {"f:replicas": {}}})
    );
    let theirs = owner(&forced, "kubectl-client-side-apply Update");
    assert_eq!(theirs["f:spec"].get("f:replicas"), None);
    assert_eq!(theirs["f:spec"]["f:serviceName"], json!({}));
}

#[tokio::test]
async fn every_write_notes_who_changed_what() {
    // kubectl.md 0.7
    let api = Api::new().await;
    api.with_account().await;
    let agent = [
        ("content-type", "application/json"),
        ("user-agent", "curl/8.0 (x)"),
    ];
    let response = api.raw("POST", PODS, &agent, pod("p").to_string()).await;
    let created = response.json();
    let fields = owner(&created, "curl Update");
    let container = &fields["f:spec"]["f:containers"]["k:{\"name\":\"c\"}"];
    assert_eq!(container["f:image"], json!({}));
    assert_eq!(container["f:resources"], json!({}));
    // Fields that admission and the server add have no manager.
    assert_eq!(fields["f:spec"].get("f:tolerations"), None);
    assert_eq!(fields.get("f:status"), None);
    assert_eq!(fields.get("f:metadata"), None);
    let path = format!("{PODS}/p");
    let status = json!({"status": {"phase": "Running", "conditions": [
        {"type": "Ready", "status": "True"}]}, "metadata": {"labels": {"x": "y"}}});
    let kubelet = format!("{path}/status?fieldManager=kubelet");
    let (_, running) = api.patch(&kubelet, "strategic", status).await;
    let key = "k:{\"type\":\"Ready\"}";
    let theirs = owner(&running, "kubelet Update status");
    assert_eq!(theirs["f:status"]["f:phase"], json!({}));
    assert_eq!(
        theirs["f:status"]["f:conditions"][key]["f:status"],
        json!({})
    );
    let label = json!({"metadata": {"labels": {"a": "1"}}});
    let labeler = format!("{path}?fieldManager=kubectl-label");
    let (_, labelled) = api.patch(&labeler, "merge", label).await;
    assert_eq!(
        owner(&labelled, "kubectl-label Update")["f:metadata"]["f:labels"]["f:a"],
        json!({})
    );
    // A client that sends back an unchanged object becomes the owner of nothing.
    let (_, read) = api.get(&path).await;
    let (_, put) = api.send("PUT", &path, read.clone()).await;
    assert_eq!(put, read);
    // A binding changes no managers.
    let target = json!({"metadata": {"name": "p"}, "target": {"name": "n1"}});
    api.create(&format!("{path}/binding"), target).await;
    let (_, bound) = api.get(&path).await;
    assert_eq!(owners(&bound), owners(&read));
    // A response with metadata only contains the managers, too.
    let partial = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    let response = api.raw("GET", &path, &[("accept", partial)], "").await;
    assert_eq!(owners(&response.json()), owners(&bound));
}

#[tokio::test]
async fn a_status_is_applied_through_its_own_path() {
    let api = Api::new().await;
    api.create(SETS, stateful_set("web")).await;
    let mut config = stateful_set("web");
    config["spec"] = json!({"replicas": 5});
    config["status"] = json!({"replicas": 2, "conditions": [
        {"type": "Fine", "status": "True"}]});
    let (code, applied) = apply(&api, &format!("{SET}/status"), "", config.clone()).await;
    assert_eq!(code, 200, "{applied}");
    assert_eq!(applied["spec"]["replicas"], 1);
    assert_eq!(applied["status"]["replicas"], 2);
    let mine = owner(&applied, "me Apply status");
    assert_eq!(mine.get("f:spec"), None);
    assert_eq!(mine["f:status"]["f:replicas"], json!({}));
    // A Scale cannot be applied through the path of its object.
    config["spec"] = json!({"replicas": 1});
    config["status"] = json!({"replicas": 7});
    let (code, applied) = apply(&api, SET, "", config).await;
    assert_eq!(code, 200, "{applied}");
    assert_eq!(applied["status"]["replicas"], 2);
    assert_eq!(
        owner(&applied, "me Apply"),
        json!({"f:spec": {"f:replicas": {}}})
    );
    let nobody = format!("{SETS}/nobody/status");
    let (code, _) = apply(&api, &nobody, "", stateful_set("nobody")).await;
    assert_eq!(code, 404);
}

#[tokio::test]
async fn a_scale_has_managers_of_its_own() {
    // kubectl.md 3.1
    let api = Api::new().await;
    api.create(&format!("{SETS}?fieldManager=creator"), stateful_set("web"))
        .await;
    let scale = |replicas: i32| {
        json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web"},
            "spec": {"replicas": replicas}})
    };
    let path = format!("{SET}/scale");
    let put = format!("{path}?fieldManager=kubectl-scale");
    let (code, _) = api.send("PUT", &put, scale(2)).await;
    assert_eq!(code, 200);
    let (_, set) = api.get(SET).await;
    let replicas = json!({"f:spec": {"f:replicas": {}}});
    assert_eq!(owner(&set, "kubectl-scale Update scale"), replicas);
    assert_eq!(
        owner(&set, "creator Update")["f:spec"].get("f:replicas"),
        None
    );
    let (code, status) = apply(&api, &path, "", scale(3)).await;
    assert_eq!(code, 409);
    assert_eq!(
        status["details"]["causes"][0]["field"],
        json!(".spec.replicas")
    );
    let mut sneaky = scale(3);
    sneaky["spec"]["serviceName"] = json!("other");
    let (code, applied) = apply(&api, &path, "&force=true", sneaky).await;
    assert_eq!((code, &applied["spec"]), (200, &json!({"replicas": 3})));
    let (_, set) = api.get(SET).await;
    assert_eq!(set["spec"]["serviceName"], "web");
    assert_eq!(owner(&set, "me Apply scale"), replicas);
    let (code, _) = apply(&api, &path, "", scale(-1)).await;
    assert_eq!(code, 422);
}

#[tokio::test]
async fn clients_may_edit_and_reset_the_managers() {
    // kubectl.md 2.4: kubectl migrates them with a JSON patch that tests the version.
    let api = Api::new().await;
    let path = format!("{CONFIG_MAPS}?fieldManager=kubectl-client-side-apply");
    let created = api.create(&path, config_map("c")).await;
    let mut managers = created["metadata"]["managedFields"].clone();
    managers[0]["manager"] = json!("kubectl");
    managers[0]["operation"] = json!("Apply");
    let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
    let patch = json!([
        {"op": "replace", "path": "/metadata/managedFields", "value": managers},
        {"op": "replace", "path": "/metadata/resourceVersion", "value": version(&created)},
    ]);
    let (code, migrated) = api.patch(MAP, "json", patch.clone()).await;
    assert_eq!(code, 200, "{migrated}");
    assert_eq!(owners(&migrated)[0].0, "kubectl Apply");
    assert_ne!(version(&migrated), version(&created));
    let (code, _) = api.patch(MAP, "json", patch).await;
    assert_eq!(code, 409);
    // findings-2 E11: an empty list has no effect.
    let patch = json!({"metadata": {"managedFields": []}});
    let (_, object) = api.patch(MAP, "merge", patch).await;
    assert_eq!(owners(&object)[0].0, "kubectl Apply");
    let patch = json!({"metadata": {"managedFields": [{}]}});
    let (_, object) = api.patch(MAP, "merge", patch).await;
    assert_eq!(owners(&object), []);
    // No manager is recorded until the next apply.
    let change = json!({"data": {"b": "1"}});
    let (_, object) = api.patch(MAP, "merge", change).await;
    assert_eq!(owners(&object), []);
    let (_, object) = apply(&api, MAP, "", map(json!({"c": "1"}))).await;
    let names: Vec<String> = owners(&object).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["me Apply", "before-first-apply Update"]);
    let lost = json!({"metadata": {"managedFields": null}});
    let (_, object) = api.patch(MAP, "merge", lost).await;
    assert_eq!(owners(&object).len(), 2);
    // A value that is not a list of managers is refused.
    let wrong = json!({"metadata": {"managedFields": [1]}});
    assert_eq!(api.patch(MAP, "merge", wrong).await.0, 422);
}

#[tokio::test]
async fn a_version_in_the_configuration_is_a_condition() {
    let api = Api::new().await;
    let (_, created) = apply(&api, MAP, "", map(json!({"a": "1"}))).await;
    let mut config = map(json!({"a": "2"}));
    config["metadata"]["resourceVersion"] = json!("1");
    let (code, status) = apply(&api, MAP, "", config.clone()).await;
    assert_eq!(code, 409);
    assert_eq!(
        status["message"],
        "Operation cannot be fulfilled on configmaps \"c\": the object has been modified; please \
         apply your changes to the latest version and try again"
    );
    config["metadata"]["resourceVersion"] = created["metadata"]["resourceVersion"].clone();
    let (code, _) = apply(&api, MAP, "", config).await;
    assert_eq!(code, 200);
    let mut other = map(json!({"a": "3"}));
    other["metadata"]["uid"] = json!("u");
    assert_eq!(apply(&api, MAP, "", other).await.0, 409);
}

#[tokio::test]
async fn creating_by_applying_needs_the_right_to_create() {
    let api = Api::new().await;
    let rules = json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["patch"]}]);
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";
    api.create(
        roles,
        json!({"metadata": {"name": "patcher"}, "rules": rules}),
    )
    .await;
    let binding = json!({"metadata": {"name": "b"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "patcher"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "u"}]});
    let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    api.create(bindings, binding).await;
    let user = api.as_user("u", &[]);
    let config = map(json!({"a": "1"}));
    let mut latest = (0, Value::Null);
    for _ in 0..3000 {
        latest = apply(&user, MAP, "", config.clone()).await;
        // The binding becomes effective after a moment.
        if latest.1["message"]
            .as_str()
            .is_some_and(|text| text.contains("cannot create"))
        {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(latest.0, 403);
    assert_eq!(
        latest.1["message"],
        "configmaps \"c\" is forbidden: User \"u\" cannot create resource \"configmaps\" in API \
         group \"\" in the namespace \"default\""
    );
    apply(&api, MAP, "", config.clone()).await;
    assert_eq!(apply(&user, MAP, "", config).await.0, 200);
}

#[tokio::test]
async fn many_appliers_at_once_all_get_their_way() {
    let api = Api::new().await;
    let all = (0..12).map(|n| {
        let api = &api;
        async move {
            let path = format!("{MAP}?fieldManager=m{n}");
            let config = map(json!({format!("k{n}"): "1"}));
            api.patch(&path, "apply", config).await.0
        }
    });
    let codes = futures::future::join_all(all).await;
    assert_eq!(codes.iter().filter(|code| **code == 201).count(), 1);
    assert!(
        codes.iter().all(|code| matches!(code, 200 | 201)),
        "{codes:?}"
    );
    let (_, object) = api.get(MAP).await;
    assert_eq!(object["data"].as_object().unwrap().len(), 12);
    assert_eq!(owners(&object).len(), 12);
}

#[tokio::test]
async fn versions_that_name_things_differently_conflict_in_the_owners_words() {
    // kubectl.md 0.7
    let api = Api::new().await;
    let path = |version: &str, manager: &str| {
        format!(
            "/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers/a\
             ?fieldManager={manager}"
        )
    };
    let scaler = |version: &str, spec: Value| {
        json!({"apiVersion": format!("autoscaling/{version}"), "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "a"}, "spec": spec})
    };
    let target = json!({"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"});
    let spec = json!({"scaleTargetRef": target, "maxReplicas": 3,
        "targetCPUUtilizationPercentage": 50});
    let (code, created) = api
        .patch(&path("v1", "one"), "apply", scaler("v1", spec))
        .await;
    assert_eq!(code, 201, "{created}");
    let metrics = |percent: u32| {
        json!({"metrics": [{"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": percent}}}]})
    };
    let (code, same) = api
        .patch(&path("v2", "two"), "apply", scaler("v2", metrics(50)))
        .await;
    assert_eq!(code, 200, "{same}");
    let (code, refused) = api
        .patch(&path("v2", "two"), "apply", scaler("v2", metrics(60)))
        .await;
    assert_eq!(
        (code, &refused["message"]),
        (
            409,
            &json!(
                "Apply failed with 1 conflict: conflict with \"one\": \
                 .spec.targetCPUUtilizationPercentage"
            )
        )
    );
}
