//! The requests that webhooks and policies get: also reviews, `finalize` and deletions; and the removal of a policy
//! that denies everything.

use json_tree::{Value, json};

use crate::harness::{Api, CONFIG_MAPS as MAPS, config_map};
use crate::hook::{GROUP, Hook, MUTATING, VALIDATING, make, patch};

/// The configuration of a webhook for a resource.
fn about(hook: &Hook, kind: &str, operation: &str, group: &str, resource: &str) -> Value {
    let more = json!({"rules": [{"operations": [operation], "apiGroups": [group],
        "apiVersions": ["v1"], "resources": [resource]}]});
    hook.configuration(kind, "a", more)
}

#[tokio::test]
async fn reviews_are_shown_to_webhooks() {
    let api = Api::new().await;
    let hook = Hook::start(|request| {
        let user = &request["object"]["spec"]["user"];
        json!({"allowed": user != "eve"})
    })
    .await;
    let kind = "ValidatingWebhookConfiguration";
    let group = "authorization.k8s.io";
    make(&api, VALIDATING, about(&hook, kind, "CREATE", group, "*")).await;
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let review = |user: &str| {
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {"user": user, "resourceAttributes": {"verb": "get", "resource": "pods"}}})
    };
    let (code, response) = api.send("POST", path, review("bob")).await;
    assert_eq!((code, &response["status"]["allowed"]), (201, &json!(false)));
    let requests = hook.requests();
    for (pointer, expected) in [
        ("/operation", json!("CREATE")),
        ("/kind/kind", json!("SubjectAccessReview")),
        ("/resource/resource", json!("subjectaccessreviews")),
        ("/object/spec/user", json!("bob")),
        ("/object/kind", json!("SubjectAccessReview")),
        ("/options/kind", json!("CreateOptions")),
    ] {
        assert_eq!(requests[0].pointer(pointer), Some(&expected), "{pointer}");
    }
    let (code, refused) = api.send("POST", path, review("eve")).await;
    assert_eq!(code, 400, "{refused}");
    // A webhook that changes a review changes its result.
    let all = Hook::start(|_| {
        patch(json!([{"op": "replace", "path": "/spec/groups",
        "value": ["system:masters"]}]))
    })
    .await;
    let kind = "MutatingWebhookConfiguration";
    make(
        &api,
        MUTATING,
        about(&all, kind, "CREATE", group, "subjectaccessreviews"),
    )
    .await;
    let mut dan = review("dan");
    dan["spec"]["groups"] = json!(["devs"]);
    let (code, response) = api.send("POST", path, dan).await;
    assert_eq!(
        (code, &response["status"]["allowed"]),
        (201, &json!(true)),
        "{response}"
    );
}

#[tokio::test]
async fn the_finalisation_of_a_namespace_is_shown() {
    let api = Api::new().await;
    api.create("/api/v1/namespaces", json!({"metadata": {"name": "n"}}))
        .await;
    let hook = Hook::start(|request| {
        let finalizers = request["object"]["spec"]["finalizers"].as_array();
        json!({"allowed": finalizers.is_some_and(|finalizers| !finalizers.is_empty())})
    })
    .await;
    let kind = "ValidatingWebhookConfiguration";
    let configuration = about(&hook, kind, "UPDATE", "", "namespaces/finalize");
    make(&api, VALIDATING, configuration).await;
    let path = "/api/v1/namespaces/n/finalize";
    let with = |finalizers: Value| {
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"},
            "spec": {"finalizers": finalizers}})
    };
    let (code, response) = api
        .send("PUT", path, with(json!(["kubernetes", "a/b"])))
        .await;
    assert_eq!(code, 200, "{response}");
    let request = hook.requests().remove(0);
    assert_eq!(request["subResource"], "finalize");
    assert_eq!(
        request["oldObject"]["spec"]["finalizers"],
        json!(["kubernetes"])
    );
    assert_eq!(api.send("PUT", path, with(json!([]))).await.0, 400);
}

#[tokio::test]
async fn a_deletion_is_shown_to_mutating_webhooks_which_change_nothing() {
    let api = Api::new().await;
    let hook = Hook::start(|request| {
        if request["oldObject"]["metadata"]["name"] == "a" {
            return json!({"allowed": true});
        }
        patch(json!([{"op": "add", "path": "/metadata/labels", "value": {}}]))
    })
    .await;
    let kind = "MutatingWebhookConfiguration";
    make(
        &api,
        MUTATING,
        about(&hook, kind, "DELETE", "", "configmaps"),
    )
    .await;
    for name in ["a", "b"] {
        api.create(MAPS, config_map(name)).await;
    }
    assert_eq!(
        api.send("DELETE", &format!("{MAPS}/a"), Value::Null)
            .await
            .0,
        200
    );
    let request = hook.requests().remove(0);
    assert_eq!(
        (&request["operation"], &request["object"]),
        (&json!("DELETE"), &Value::Null)
    );
    let (code, refused) = api.send("DELETE", &format!("{MAPS}/b"), Value::Null).await;
    assert_eq!(code, 500);
    let text = "admission webhook \"a.example.com\" attempted to modify the object, which is not supported for this \
                operation";
    assert!(
        refused["message"].as_str().unwrap().contains(text),
        "{refused}"
    );
    assert_eq!(api.get(&format!("{MAPS}/b")).await.0, 200);
}

#[tokio::test]
async fn a_policy_that_denies_everything_can_be_removed() {
    let api = Api::new().await;
    let everything = json!([{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"],
        "resources": ["*/*"]}]);
    let policy = json!({"apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "never"},
        "spec": {"matchConstraints": {"resourceRules": everything},
            "validations": [{"expression": "false"}]}});
    make(&api, "validatingadmissionpolicies", policy).await;
    let binding = json!({"apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": "never"},
        "spec": {"policyName": "never", "validationActions": ["Deny"]}});
    make(&api, "validatingadmissionpolicybindings", binding).await;
    let hook = Hook::start(|_| json!({"allowed": false})).await;
    let more = json!({"rules": everything});
    let configuration = hook.configuration("ValidatingWebhookConfiguration", "never", more);
    make(&api, VALIDATING, configuration).await;
    assert_eq!(api.send("POST", MAPS, config_map("a")).await.0, 422);
    let paths = [
        "validatingwebhookconfigurations/never",
        "validatingadmissionpolicybindings/never",
        "validatingadmissionpolicies/never",
    ];
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"nonResourceAttributes": {"verb": "get", "path": "/metrics"}}});
    let reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    assert_eq!(
        api.send("POST", reviews, review.clone()).await.0,
        400,
        "the webhook"
    );
    for (index, path) in paths.iter().enumerate() {
        let path = format!("{GROUP}/{path}");
        let merge = json!({"metadata": {"labels": {"a": "b"}}});
        assert_eq!(api.patch(&path, "merge", merge).await.0, 200, "{path}");
        assert_eq!(
            api.send("DELETE", &path, Value::Null).await.0,
            200,
            "{path}"
        );
        if index == 0 {
            // The policy is not called for reviews.
            assert_eq!(api.send("POST", reviews, review.clone()).await.0, 201);
            assert_eq!(api.send("POST", MAPS, config_map("a")).await.0, 422);
        }
    }
    api.create(MAPS, config_map("a")).await;
}
