//! eviction, ephemeralcontainers, resize.

use std::time::Duration;

use json_tree::{Value, json};

use crate::harness::{Api, PODS, pod};

async fn with_pod() -> Api {
    let api = Api::new().await;
    api.with_account().await;
    api.create(PODS, pod("p")).await;
    let binding = json!({"target": {"kind": "Node", "name": "n1"}});
    api.create(&format!("{PODS}/p/binding"), binding).await;
    api
}

#[tokio::test]
async fn an_eviction_is_a_deletion_with_a_reason() {
    // kubectl.md 0.3, 6.3: `kubectl drain` checks discovery, and sends this request
    let api = with_pod().await;
    let (_, list) = api.get("/api/v1").await;
    let listed = list["resources"].as_array().unwrap().iter();
    let resources: Vec<&Value> = listed.filter(|r| r["name"] == "pods/eviction").collect();
    assert_eq!(
        *resources[0],
        json!({"name": "pods/eviction", "singularName": "", "namespaced": true,
            "group": "policy", "version": "v1", "kind": "Eviction", "verbs": ["create"]})
    );
    let path = format!("{PODS}/p/eviction");
    let eviction = |name: &str| json!({"kind": "Eviction", "apiVersion": "policy/v1", "metadata": {"name": name}});
    let (code, status) = api.send("POST", &path, eviction("other")).await;
    assert_eq!(
        (code, &status["message"]),
        (
            400,
            &json!("name in URL does not match name in Eviction object")
        )
    );
    let mut dry = eviction("p");
    dry["deleteOptions"] = json!({"dryRun": ["All"]});
    assert_eq!(api.send("POST", &path, dry).await.0, 201);
    let mut other = eviction("p");
    other["deleteOptions"] = json!({"preconditions": {"uid": "x"}});
    assert_eq!(api.send("POST", &path, other).await.0, 409);
    let (_, before) = api.get(&format!("{PODS}/p")).await;
    assert_eq!(before["metadata"]["deletionTimestamp"], Value::Null);

    let mut real = eviction("p");
    real["deleteOptions"] = json!({"gracePeriodSeconds": 7});
    let (code, status) = api.send("POST", &path, real).await;
    assert_eq!((code, &status["status"]), (201, &json!("Success")));
    let (_, after) = api.get(&format!("{PODS}/p")).await;
    assert_eq!(after["metadata"]["deletionGracePeriodSeconds"], 7);
    let conditions = after["status"]["conditions"].as_array().unwrap();
    let why = conditions.iter().find(|c| c["type"] == "DisruptionTarget");
    assert_eq!(why.unwrap()["reason"], "EvictionByEvictionAPI");
    assert_eq!(api.send("POST", &path, eviction("")).await.0, 201);
    let absent = format!("{PODS}/absent/eviction");
    assert_eq!(api.send("POST", &absent, eviction("absent")).await.0, 404);
    assert_eq!(api.get(&path).await.0, 405);
}

#[tokio::test]
async fn a_budget_has_a_say_in_evictions() {
    // kubectl.md 6.3
    let api = with_pod().await;
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let (_, mut sent) = api.get(&format!("{PODS}/p")).await;
    sent["metadata"]["labels"] = json!({"app": "a"});
    assert_eq!(
        api.send("PUT", &format!("{PODS}/p"), sent.clone()).await.0,
        200
    );
    sent["metadata"]["resourceVersion"] = Value::Null;
    sent["status"]["phase"] = json!("Running");
    sent["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    assert_eq!(
        api.send("PUT", &format!("{PODS}/p/status"), sent).await.0,
        200
    );
    let budget = json!({"metadata": {"name": "b"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "a"}}}});
    let mut budget = api.create(budgets, budget).await;
    let eviction = json!({"metadata": {"name": "p"}});
    let path = format!("{PODS}/p/eviction");
    let refused = api.raw("POST", &path, &[], eviction.to_string()).await;
    assert_eq!(refused.code, 429);
    assert_eq!(refused.headers["retry-after"], "10");
    assert_eq!(
        refused.json()["details"]["causes"][0]["reason"],
        "DisruptionBudget"
    );
    budget["status"] = json!({"observedGeneration": 1, "disruptionsAllowed": 0,
        "desiredHealthy": 1, "currentHealthy": 1, "expectedPods": 1});
    let status = format!("{budgets}/b/status");
    let (_, mut budget) = api.send("PUT", &status, budget).await;
    let (code, refused) = api.send("POST", &path, eviction.clone()).await;
    assert_eq!(code, 429);
    assert_eq!(
        refused["details"]["causes"][0]["message"],
        "The disruption budget b needs 1 healthy pods and has 1 currently"
    );
    budget["status"]["disruptionsAllowed"] = json!(1);
    assert_eq!(api.send("PUT", &status, budget).await.0, 200);
    assert_eq!(api.send("POST", &path, eviction).await.0, 201);
    let (_, budget) = api.get(&format!("{budgets}/b")).await;
    assert_eq!(budget["status"]["disruptionsAllowed"], 0);
    assert!(budget["status"]["disruptedPods"]["p"].is_string());
}

#[tokio::test]
async fn ephemeral_containers_are_added_by_a_patch() {
    // kubectl.md 5.8: what `kubectl debug` sends
    let api = with_pod().await;
    let path = format!("{PODS}/p/ephemeralcontainers");
    let patch = json!({"spec": {"ephemeralContainers": [
        {"name": "d", "image": "i", "targetContainerName": "c", "stdin": true}]}});
    let (code, pod) = api.patch(&path, "strategic", patch).await;
    assert_eq!(code, 200, "{pod}");
    assert_eq!(pod["kind"], "Pod");
    assert_eq!(
        pod["spec"]["ephemeralContainers"][0]["terminationMessagePath"],
        "/dev/termination-log"
    );
    assert_eq!(pod["metadata"]["generation"], 2);
    let removal = json!({"spec": {"ephemeralContainers": null}});
    let (code, status) = api.patch(&path, "merge", removal).await;
    assert_eq!(code, 422);
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .contains("may not be removed")
    );
    let bad = json!({"spec": {"ephemeralContainers": [{"name": "e"}]}});
    assert_eq!(api.patch(&path, "strategic", bad).await.0, 422);
    assert_eq!(api.get(&path).await.1["kind"], "Pod");
    // An update of the pod itself cannot add ephemeral containers.
    let more = json!({"spec": {"ephemeralContainers": [{"name": "f", "image": "i"}]}});
    let (code, _) = api.patch(&format!("{PODS}/p"), "strategic", more).await;
    assert_eq!(code, 422);
}

#[tokio::test]
async fn resources_change_by_resize_only() {
    // kubectl.md 6.7
    let api = Api::new().await;
    api.with_account().await;
    let mut sized = pod("p");
    sized["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "100m"}});
    api.create(PODS, sized).await;
    let larger = json!({"spec": {"containers": [
        {"name": "c", "resources": {"requests": {"cpu": "200m"}}}]}});
    let (code, _) = api
        .patch(&format!("{PODS}/p"), "strategic", larger.clone())
        .await;
    assert_eq!(code, 422);
    let path = format!("{PODS}/p/resize");
    let (code, pod) = api.patch(&path, "strategic", larger).await;
    assert_eq!(code, 200, "{pod}");
    assert_eq!(
        pod["spec"]["containers"][0]["resources"]["requests"]["cpu"],
        "200m"
    );
    let other = json!({"spec": {"containers": [{"name": "c", "image": "other"}]}});
    let (code, pod) = api.patch(&path, "strategic", other).await;
    assert_eq!(
        (code, &pod["spec"]["containers"][0]["image"]),
        (200, &json!("i"))
    );
    let class = json!({"spec": {"containers": [{"name": "c", "resources": {
        "requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}}}]}});
    let (code, status) = api.patch(&path, "strategic", class).await;
    assert_eq!(code, 422);
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .contains("QOS Class may not change")
    );
}

#[tokio::test]
async fn a_pod_that_comes_before_its_namespaces_account_waits_for_it() {
    // statefulset.md 12.15
    let api = Api::new().await;
    let account = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        api.with_account().await;
    };
    tokio::join!(api.create(PODS, pod("early")), account);
    let (_, early) = api.get(&format!("{PODS}/early")).await;
    assert_eq!(early["spec"]["serviceAccountName"], "default");
    // If a pod has an explicit account, the account exists or the pod is refused at once.
    let mut other = pod("other");
    other["spec"]["serviceAccountName"] = "robot".into();
    let (code, status) = api.send("POST", PODS, other).await;
    let text = status["message"].as_str().unwrap();
    assert_eq!(code, 403, "{text}");
    assert!(
        text.ends_with("serviceaccount \"robot\" not found"),
        "{text}"
    );
}

#[tokio::test]
async fn a_pod_whose_account_does_not_come_is_refused() {
    let api = Api::new().await;
    let (code, status) = api.send("POST", PODS, pod("p")).await;
    let text = status["message"].as_str().unwrap();
    assert_eq!(code, 403, "{text}");
    assert!(
        text.ends_with("serviceaccount \"default\" not found"),
        "{text}"
    );
}
