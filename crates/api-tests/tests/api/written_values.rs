//! Values in writes that upstream accepts, completes or refuses.

use json_tree::{Value, json};

use crate::harness::{Api, CONFIG_MAPS, config_map};

/// findings-2 K11: `data: {b: }` is accepted as in Kubernetes, for each method of writing.
#[tokio::test]
async fn an_empty_value_is_an_empty_text() {
    let api = Api::new().await;
    let secrets = "/api/v1/namespaces/default/secrets";
    for (path, kind) in [(CONFIG_MAPS, "ConfigMap"), (secrets, "Secret")] {
        let text = |name: &str| {
            format!(
                "apiVersion: v1\nkind: {kind}\nmetadata: {{name: {name}}}\ndata: {{a: eA==, b: }}\n"
            )
        };
        let expected = json!({"a": "eA==", "b": ""});
        let yaml = [("content-type", "application/yaml")];
        let created = api.raw("POST", path, &yaml, text("made")).await;
        assert_eq!(
            (created.code, &created.json()["data"]),
            (201, &expected),
            "{kind}"
        );
        let created_path = format!("{path}/made");
        let replaced = api.raw("PUT", &created_path, &yaml, text("made")).await;
        assert_eq!(replaced.code, 200, "{kind}");
        let apply = [("content-type", "application/apply-patch+yaml")];
        let applied_path = format!("{path}/applied?fieldManager=m");
        for code in [201, 200] {
            let applied = api
                .raw("PATCH", &applied_path, &apply, text("applied"))
                .await;
            assert_eq!(applied.code, code, "{}", applied.text());
            assert_eq!(applied.json()["data"], expected, "{kind}");
        }
        let applied = api.get(&format!("{path}/applied")).await.1;
        let owned = &applied["metadata"]["managedFields"][0]["fieldsV1"]["f:data"];
        assert_eq!(owned["f:b"], json!({}), "{applied}");
        let patch = json!({"data": {"c": ""}});
        let (code, patched) = api.patch(&format!("{path}/made"), "merge", patch).await;
        assert_eq!((code, &patched["data"]["c"]), (200, &json!("")));
    }
}

/// findings-2 E9: for each verb, in the query and in the body of a deletion.
#[tokio::test]
async fn an_empty_dry_run_is_refused() {
    let api = Api::new().await;
    api.create(CONFIG_MAPS, config_map("a")).await;
    let object = format!("{CONFIG_MAPS}/a?dryRun=");
    let merge = json!({"data": {"a": "2"}});
    let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "dryRun": [""]});
    for (what, (code, refused)) in [
        (
            "create",
            api.send("POST", &format!("{CONFIG_MAPS}?dryRun="), config_map("b"))
                .await,
        ),
        ("update", api.send("PUT", &object, config_map("a")).await),
        ("patch", api.patch(&object, "merge", merge).await),
        ("delete", api.send("DELETE", &object, Value::Null).await),
        (
            "options",
            api.send("DELETE", &format!("{CONFIG_MAPS}/a"), options)
                .await,
        ),
        (
            "collection",
            api.send("DELETE", &format!("{CONFIG_MAPS}?dryRun="), Value::Null)
                .await,
        ),
    ] {
        assert_eq!(
            (code, &refused["reason"]),
            (422, &json!("Invalid")),
            "{what}: {refused}"
        );
        let message = refused["message"].as_str().unwrap();
        let text = "dryRun: Unsupported value: \"\": supported values: \"All\"";
        assert!(message.contains(text), "{what}: {message}");
    }
    assert_eq!(
        api.get(&format!("{CONFIG_MAPS}/a")).await.1["data"]["a"],
        "1"
    );
    assert_eq!(api.get(&format!("{CONFIG_MAPS}/b")).await.0, 404);
}

/// findings-2 C30: as upstream; each such object stays readable.
#[tokio::test]
async fn a_condition_may_leave_out_its_time() {
    let api = Api::new().await;
    let condition = json!({"type": "T", "status": "True", "reason": "R", "message": ""});
    let services = "/api/v1/namespaces/default/services";
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let ranges = "/apis/networking.k8s.io/v1/servicecidrs";
    for (path, spec) in [
        (services, json!({"ports": [{"port": 80}]})),
        (budgets, json!({"minAvailable": 1})),
        (ranges, json!({"cidrs": ["10.200.0.0/24"]})),
    ] {
        let name = "a";
        api.create(path, json!({"metadata": {"name": name}, "spec": spec}))
            .await;
        let status = format!("{path}/{name}/status");
        let patch = json!({"status": {"conditions": [condition]}});
        let (code, patched) = api.patch(&status, "merge", patch).await;
        assert_eq!(code, 200, "{path}: {patched}");
        let condition = &patched["status"]["conditions"][0];
        assert_eq!(
            (&condition["reason"], &condition["lastTransitionTime"]),
            (&json!("R"), &json!("0001-01-01T00:00:00Z")),
            "{path}"
        );
    }
}

/// findings-2 C40
#[tokio::test]
async fn an_ingress_gets_the_default_class() {
    let api = Api::new().await;
    let classes = "/apis/networking.k8s.io/v1/ingressclasses";
    let ingresses = "/apis/networking.k8s.io/v1/namespaces/default/ingresses";
    let ingress = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {"defaultBackend": {
            "service": {"name": "s", "port": {"number": 80}}}}})
    };
    let created = api.create(ingresses, ingress("before")).await;
    assert_eq!(created["spec"]["ingressClassName"], Value::Null);
    let annotations = json!({"ingressclass.kubernetes.io/is-default-class": "true"});
    let class = json!({"metadata": {"name": "c", "annotations": annotations},
        "spec": {"controller": "example.com/c"}});
    api.create(classes, class).await;
    let created = api.create(ingresses, ingress("after")).await;
    assert_eq!(created["spec"]["ingressClassName"], "c");
}

/// findings-2 C27
#[tokio::test]
async fn the_class_of_a_load_balancer_stays() {
    let api = Api::new().await;
    let path = "/api/v1/namespaces/default/services";
    let service = |name: &str, class: Value| {
        json!({"metadata": {"name": name}, "spec": {"type": "LoadBalancer",
            "ports": [{"port": 80}], "loadBalancerClass": class}})
    };
    api.create(path, service("a", json!("x.y/z"))).await;
    api.create(path, service("b", Value::Null)).await;
    let message_of = |refused: &Value| refused["message"].as_str().unwrap_or_default().to_owned();
    for (name, class, value) in [
        ("a", json!("x.y/other"), "\"x.y/other\""),
        ("a", Value::Null, "null"),
        ("b", json!("x.y/z"), "\"x.y/z\""),
    ] {
        let patch = json!({"spec": {"loadBalancerClass": class}});
        let (code, refused) = api.patch(&format!("{path}/{name}"), "merge", patch).await;
        let text =
            format!("spec.loadBalancerClass: Invalid value: {value}: may not change once set");
        assert_eq!(code, 422);
        assert!(message_of(&refused).contains(&text), "{refused}");
    }
    // If the type changes, the class is removed with the old type.
    let patch = json!({"spec": {"type": "ClusterIP"}});
    let (code, changed) = api.patch(&format!("{path}/a"), "merge", patch).await;
    assert_eq!(
        (code, &changed["spec"]["loadBalancerClass"]),
        (200, &Value::Null)
    );
    let mut other = service("c", json!("x.y/z"));
    other["spec"]["type"] = json!("ClusterIP");
    let (code, refused) = api.send("POST", path, other).await;
    assert_eq!(code, 422);
    let text = "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'";
    assert!(message_of(&refused).contains(text), "{refused}");
}
