//! The warnings of a response are sent with an error, too (kubectl.md 0.6).

use json_tree::{Value, json};

use crate::harness::{Api, ApiResponse, CONFIG_MAPS, PODS, SETS, config_map, pod, stateful_set};
use crate::hook::{Hook, VALIDATING, make};

const NAMESPACE: &str = "/api/v1/namespaces/default";

async fn send(api: &Api, method: &str, path: &str, body: Value) -> ApiResponse {
    let media = match method {
        "PATCH" => "application/merge-patch+json",
        _ => "application/json",
    };
    let body = match body {
        Value::Null => String::new(),
        body => body.to_string(),
    };
    api.raw(method, path, &[("content-type", media)], body)
        .await
}

/// kubectl.md 0.8
#[tokio::test]
async fn unknown_fields_are_told_of_with_a_refusal() {
    let api = Api::new().await;
    let unknown = [r#"299 - "unknown field \"spec.foo\"""#];
    let mut set = stateful_set("web");
    set["spec"]["foo"] = json!(1);
    set["spec"]["replicas"] = json!(-1);
    let refused = send(&api, "POST", SETS, set.clone()).await;
    assert_eq!(refused.code, 422, "{}", refused.text());
    assert_eq!(refused.warnings(), unknown);

    let one = format!("{SETS}/web");
    let missing = send(&api, "PUT", &one, set).await;
    assert_eq!((missing.code, missing.warnings()), (404, unknown.into()));

    api.create(SETS, stateful_set("web")).await;
    let patch = json!({"spec": {"foo": 1, "replicas": -1}});
    let refused = send(&api, "PATCH", &one, patch).await;
    assert_eq!(refused.code, 422, "{}", refused.text());
    assert_eq!(refused.warnings(), unknown);

    // Without field validation there are no warnings; an object of another kind has no fields of a StatefulSet.
    let ignored = format!("{one}?fieldValidation=Ignore");
    let patch = json!({"spec": {"foo": 1, "replicas": -1}});
    let refused = send(&api, "PATCH", &ignored, patch).await;
    assert_eq!((refused.code, refused.warnings()), (422, Vec::new()));
    let mut other = stateful_set("other");
    other["spec"]["foo"] = json!(1);
    other["spec"]["replicas"] = json!("many");
    let refused = send(&api, "POST", SETS, other).await;
    assert_eq!((refused.code, refused.warnings()), (400, Vec::new()));
}

#[tokio::test]
async fn repeated_fields_are_told_of_when_an_apply_is_refused() {
    let api = Api::new().await;
    let text = r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"},
        "data": {"k": "1"}, "data": {"No Key!": "1"}}"#;
    let path = format!("{CONFIG_MAPS}/x?fieldManager=m");
    let headers = [("content-type", "application/apply-patch+yaml")];
    let refused = api.raw("PATCH", &path, &headers, text).await;
    assert_eq!(refused.code, 422, "{}", refused.text());
    assert_eq!(refused.warnings(), [r#"299 - "duplicate field \"data\"""#]);
}

/// A kind warns about a valid object, whether or not the object is then stored.
#[tokio::test]
async fn advice_comes_with_what_passed_validation() {
    let api = Api::new().await;
    let mut set = stateful_set("web");
    set["spec"]["revisionHistoryLimit"] = json!(-1);
    let advice = "spec.revisionHistoryLimit: a negative value";
    let created = send(&api, "POST", SETS, set.clone()).await;
    assert_eq!(created.code, 201);
    assert_eq!(created.warnings().len(), 1);
    assert!(created.warnings()[0].contains(advice));
    let again = send(&api, "POST", SETS, set.clone()).await;
    assert_eq!((again.code, again.warnings()), (409, created.warnings()));

    set["spec"]["replicas"] = json!(-1);
    let refused = send(&api, "POST", SETS, set.clone()).await;
    assert_eq!((refused.code, refused.warnings()), (422, Vec::new()));
    let refused = send(
        &api,
        "PATCH",
        &format!("{SETS}/web"),
        json!({"spec": set["spec"]}),
    )
    .await;
    assert_eq!((refused.code, refused.warnings()), (422, Vec::new()));
}

/// If another plug-in refuses, the warning of the Pod Security level is present; if the level itself refuses, the
/// warning is absent.
#[tokio::test]
async fn levels_warn_of_what_others_refuse() {
    let api = Api::new().await;
    api.with_account().await;
    let hook = Hook::start(|request| {
        let why = json!({"message": "not like this"});
        json!({"allowed": request["name"] != "no", "status": why, "warnings": ["looked at"]})
    })
    .await;
    let rules = json!({"rules": [{"operations": ["CREATE", "UPDATE"], "apiGroups": ["", "apps"],
        "apiVersions": ["v1"], "resources": ["pods", "configmaps", "statefulsets/scale"]}]});
    let kind = "ValidatingWebhookConfiguration";
    make(&api, VALIDATING, hook.configuration(kind, "look", rules)).await;
    let level = |mode: &str| json!({"metadata": {"labels": {format!("pod-security.kubernetes.io/{mode}"): "restricted"}}});
    let (code, _) = api.patch(NAMESPACE, "merge", level("warn")).await;
    assert_eq!(code, 200);
    for (name, expected) in [("yes", 201), ("no", 400)] {
        let response = send(&api, "POST", PODS, pod(name)).await;
        assert_eq!(response.code, expected, "{}", response.text());
        let warnings = response.warnings();
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(
            warnings[0].contains("would violate PodSecurity"),
            "{warnings:?}"
        );
        assert_eq!(warnings[1], r#"299 - "looked at""#);
    }
    // The refusal of a webhook contains the webhook's own warnings, and the earlier warnings.
    let mut map = config_map("no");
    map["foo"] = json!(1);
    let refused = send(&api, "POST", CONFIG_MAPS, map).await;
    assert_eq!(refused.code, 400);
    let both = [r#"299 - "unknown field \"foo\"""#, r#"299 - "looked at""#];
    assert_eq!(refused.warnings(), both);
    // The warnings about a sub-resource are sent, too.
    api.create(SETS, stateful_set("web")).await;
    let scale = format!("{SETS}/web/scale");
    let scaled = send(&api, "PATCH", &scale, json!({"spec": {"replicas": 2}})).await;
    assert_eq!(
        (scaled.code, scaled.warnings()),
        (200, vec![r#"299 - "looked at""#])
    );

    let (code, _) = api.patch(NAMESPACE, "merge", level("enforce")).await;
    assert_eq!(code, 200);
    let refused = send(&api, "POST", PODS, pod("third")).await;
    assert_eq!((refused.code, refused.warnings()), (403, Vec::new()));
}

/// The warning is sent for any request and any response.
#[tokio::test]
async fn clients_of_a_deprecated_kind_are_told_so() {
    let api = Api::new().await;
    let deprecated = "299 - \"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 \
                      EndpointSlice\"";
    let endpoints = "/api/v1/namespaces/default/endpoints";
    let absent = format!("{endpoints}/absent");
    for (method, path, expected) in [
        ("GET", endpoints, 200),
        ("GET", absent.as_str(), 404),
        ("DELETE", absent.as_str(), 404),
    ] {
        let response = send(&api, method, path, Value::Null).await;
        assert_eq!(
            (response.code, response.warnings()),
            (expected, vec![deprecated])
        );
    }
}

/// As Kubernetes for Jobs: the warning is sent before the object is read.
#[tokio::test]
async fn deletions_of_jobs_that_are_not_there_are_advised_on() {
    let api = Api::new().await;
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    for (path, expected) in [(format!("{jobs}/x"), 404), (jobs.to_owned(), 200)] {
        let response = send(&api, "DELETE", &path, Value::Null).await;
        assert_eq!(response.code, expected, "{}", response.text());
        let warnings = response.warnings();
        assert_eq!(warnings.len(), 1);
        assert!(
            warnings[0].contains("child pods are preserved by default"),
            "{warnings:?}"
        );
        let path = format!("{path}?propagationPolicy=Background");
        let response = send(&api, "DELETE", &path, Value::Null).await;
        assert!(response.headers.get("warning").is_none());
    }
}
