//! An unreadable object or body is refused; it is not taken for absent.

use serde_json::{Value, json};

use crate::harness::{Api, CONFIG_MAPS, Events, PODS, config_map, pod};

/// Spoils the object whose key ends like that.
async fn spoil(api: &Api, end: &str) {
    api.rewrite_stored(end, |_| "{".to_owned()).await;
}

#[tokio::test]
async fn a_decision_without_what_is_unreadable_does_not_count() {
    // findings A8
    let api = Api::new().await;
    api.with_account().await;
    api.create(PODS, pod("p")).await;
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": "p"}});
    let evict = format!("{PODS}/p/eviction");
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1,
        "selector": {"matchLabels": {"a": "b"}}}});
    api.create(budgets, budget).await;
    spoil(&api, "poddisruptionbudgets/default/b").await;
    let running = json!({"status": {"phase": "Running"}});
    let status = format!("{PODS}/p/status");
    assert_eq!(api.patch(&status, "merge", running).await.0, 200);
    let (code, refused) = api.send("POST", &evict, eviction.clone()).await;
    assert_eq!(code, 500, "{refused}");
    let text = refused["message"].as_str().unwrap();
    assert!(text.contains("poddisruptionbudgets/default/b"), "{text}");
    assert_eq!(api.get(&format!("{PODS}/p")).await.0, 200);
    // No namespace would be no Pod Security.
    spoil(&api, "/namespaces/default").await;
    assert_eq!(api.send("POST", PODS, pod("q")).await.0, 500);
}

#[tokio::test]
async fn with_registrations_that_are_unreadable_nothing_is_written() {
    // findings A8
    let api = Api::new().await;
    let group = "admissionregistration.k8s.io";
    let hooks = format!("/apis/{group}/v1/validatingwebhookconfigurations");
    api.create(&hooks, json!({"metadata": {"name": "w"}})).await;
    spoil(&api, "validatingwebhookconfigurations/w").await;
    // Some other change, by which they are read anew.
    api.create(&hooks, json!({"metadata": {"name": "v"}})).await;
    let (code, refused) = api.send("POST", CONFIG_MAPS, config_map("a")).await;
    assert_eq!(code, 500, "{refused}");
    assert_eq!(api.get(&format!("{CONFIG_MAPS}/a")).await.0, 404);
}

#[tokio::test]
async fn bodies_of_sub_resources_have_the_types_of_their_kind() {
    // findings A2, A7
    let api = Api::new().await;
    api.with_account().await;
    api.create(PODS, pod("p")).await;
    let token = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let binding = format!("{PODS}/p/binding");
    let eviction = format!("{PODS}/p/eviction");
    let review = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    for (path, body) in [
        (token, json!({"spec": "x"})),
        (token, json!({"spec": {"expirationSeconds": "x"}})),
        (token, json!({"spec": {"boundObjectRef": []}})),
        (token, json!({"metadata": "x"})),
        (
            &binding,
            json!({"target": {"name": "n"}, "metadata": {"annotations": {"a": 1}}}),
        ),
        (&binding, json!({"target": {"name": "n"}, "metadata": []})),
        (&binding, json!({"target": "n"})),
        (&binding, json!({"kind": "Pod", "target": {"name": "n"}})),
        (
            &eviction,
            json!({"deleteOptions": {"gracePeriodSeconds": "1"}}),
        ),
        (review, json!({"spec": []})),
        (review, json!({"spec": {"resourceAttributes": "x"}})),
    ] {
        let (code, status) = api.send("POST", path, body.clone()).await;
        assert_eq!(code, 400, "{path} {body}: {status}");
    }
    // Nothing is left of it that would end a watch.
    let mut events = Events::open(&api, &format!("{PODS}?watch=1")).await;
    assert_eq!(events.short().await, "ADDED p");
    let good = json!({"target": {"name": "n"}, "metadata": {"annotations": {"a": "b"}}});
    assert_eq!(api.send("POST", &binding, good).await.0, 201);
    let bound = events.next().await.unwrap();
    assert_eq!(
        bound["object"]["metadata"]["annotations"],
        json!({"a": "b"})
    );
    let (code, answer) = api
        .send("POST", token, Value::Object(Default::default()))
        .await;
    assert_eq!(code, 201, "{answer}");
}
