//! Tables of the fields of webhooks that decide about a call: failures, reinvocation, conditions, dry runs.

use json_tree::{Value, json};

use crate::harness::{Api, CONFIG_MAPS as MAPS, config_map};
use crate::hook::{GROUP, Hook, MUTATING, VALIDATING, make, patch};

const KIND: &str = "ValidatingWebhookConfiguration";

async fn remove(api: &Api, plural: &str, name: &str) {
    let path = format!("{GROUP}/{plural}/{name}");
    assert_eq!(api.send("DELETE", &path, Value::Null).await.0, 200);
}

/// The code and the message of the creation of a ConfigMap, as a dry run.
async fn written(api: &Api) -> (u16, String) {
    let path = format!("{MAPS}?dryRun=All");
    let (code, response) = api.send("POST", &path, config_map("a")).await;
    (
        code,
        response["message"].as_str().unwrap_or_default().to_owned(),
    )
}

#[tokio::test]
async fn each_failure_counts_as_the_failure_policy_says() {
    let api = Api::new().await;
    // This listener accepts connections, and its server never responds.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = silent.local_addr().unwrap();
    let hook = Hook::start(|_| json!({"allowed": true, "patch": "W10="})).await;
    let url = |url: String| json!({"clientConfig": {"url": url}, "timeoutSeconds": 1});
    let missing = json!({"matchConditions": [{"name": "c", "expression": "object.nope.x == 1"}]});
    for (more, expected) in [
        (
            url(format!("https://{silent}/")),
            "context deadline exceeded",
        ),
        (
            url("https://127.0.0.1:1/".to_owned()),
            "failed to call webhook: Post \"https://127.0.0.1:1/",
        ),
        (json!({}), "patchType"),
        (missing, "c: "),
    ] {
        for (policy, code) in [("Fail", 500), ("Ignore", 201)] {
            let mut more = more.clone();
            more["failurePolicy"] = json!(policy);
            make(
                &api,
                VALIDATING,
                hook.configuration(KIND, "a", more.clone()),
            )
            .await;
            let (actual, message) = written(&api).await;
            assert_eq!(actual, code, "{more}: {message}");
            if policy == "Fail" {
                let start = "Internal error occurred: failed calling webhook \"a.example.com\": ";
                assert!(
                    message.starts_with(start) && message.contains(expected),
                    "{message}"
                );
            }
            remove(&api, VALIDATING, "a").await;
        }
    }
}

#[tokio::test]
async fn a_webhook_is_called_again_only_if_it_asks_for_it_and_something_changed() {
    let label = |name: &'static str| {
        move |_: &Value| {
            patch(json!([{"op": "add", "path": "/metadata/labels", "value": {"by": name}}]))
        }
    };
    for (policy, changes, calls) in [
        ("IfNeeded", true, 2),
        ("IfNeeded", false, 1),
        ("Never", true, 1),
        ("Never", false, 1),
    ] {
        let api = Api::new().await;
        let first = Hook::start(|_| json!({"allowed": true})).await;
        let second = if changes {
            Hook::start(label("second")).await
        } else {
            Hook::start(|_| json!({"allowed": true})).await
        };
        let kind = "MutatingWebhookConfiguration";
        let again = json!({"reinvocationPolicy": policy});
        make(&api, MUTATING, first.configuration(kind, "a", again)).await;
        make(&api, MUTATING, second.configuration(kind, "b", json!({}))).await;
        api.create(MAPS, config_map("a")).await;
        assert_eq!(first.requests().len(), calls, "{policy} {changes}");
        assert_eq!(second.requests().len(), 1, "{policy} {changes}");
    }
}

#[tokio::test]
async fn all_conditions_must_be_true() {
    let api = Api::new().await;
    let hook = Hook::start(|_| json!({"allowed": true})).await;
    for (conditions, calls) in [
        (json!(["true"]), 1),
        (json!(["true", "false"]), 0),
        // A false condition decides, even if another condition fails.
        (json!(["object.nope.x", "false"]), 0),
        (
            json!(["request.name == 'a'", "request.dryRun", "oldObject == null"]),
            1,
        ),
        (json!(["request.userInfo.username == 'admin'"]), 1),
        (json!(["'system:nodes' in request.userInfo.groups"]), 0),
        (json!(["namespaceObject.metadata.name == 'default'"]), 1),
    ] {
        let conditions = conditions.as_array().unwrap().iter().enumerate();
        let conditions = conditions.map(|(index, expression)| {
            let text = expression.as_str().unwrap();
            json!({"name": format!("c{index}"), "expression": format!("{text} == true")})
        });
        let more = json!({"matchConditions": conditions.collect::<Value>()});
        make(
            &api,
            VALIDATING,
            hook.configuration(KIND, "a", more.clone()),
        )
        .await;
        assert_eq!(written(&api).await.0, 201, "{more}");
        assert_eq!(hook.requests().len(), calls, "{more}");
        remove(&api, VALIDATING, "a").await;
    }
}

#[tokio::test]
async fn webhooks_are_called_for_a_dry_run_without_side_effects_only() {
    let api = Api::new().await;
    let hook = Hook::start(|_| json!({"allowed": true})).await;
    for (effects, is_accepted) in [
        ("None", true),
        ("NoneOnDryRun", true),
        ("Some", false),
        ("Unknown", false),
    ] {
        let more = json!({"sideEffects": effects});
        let path = format!("{GROUP}/{VALIDATING}");
        let (code, response) = api
            .send("POST", &path, hook.configuration(KIND, "a", more))
            .await;
        if !is_accepted {
            assert_eq!(code, 422, "{effects}");
            assert_eq!(
                response["details"]["causes"][0]["field"],
                "webhooks[0].sideEffects"
            );
            continue;
        }
        assert_eq!(code, 201, "{response}");
        assert_eq!(written(&api).await.0, 201);
        assert_eq!(hook.requests()[0]["dryRun"], true, "{effects}");
        remove(&api, VALIDATING, "a").await;
    }
}

#[tokio::test]
async fn a_match_policy_decides_about_other_versions() {
    let api = Api::new().await;
    let hook = Hook::start(|_| json!({"allowed": true})).await;
    let path = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers?dryRun=All";
    let scaler = json!({"metadata": {"name": "a"}, "spec": {"maxReplicas": 9,
        "scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"}}});
    for (policy, calls) in [("Exact", 0), ("Equivalent", 1)] {
        let more = json!({"matchPolicy": policy, "rules": [{"operations": ["CREATE"],
            "apiGroups": ["autoscaling"], "apiVersions": ["v1"],
            "resources": ["horizontalpodautoscalers"]}]});
        make(&api, VALIDATING, hook.configuration(KIND, "a", more)).await;
        let (code, response) = api.send("POST", path, scaler.clone()).await;
        assert_eq!(code, 201, "{response}");
        let requests = hook.requests();
        assert_eq!(requests.len(), calls, "{policy}");
        for request in requests {
            assert_eq!(request["kind"]["version"], "v1");
            assert_eq!(request["requestKind"]["version"], "v2");
        }
        remove(&api, VALIDATING, "a").await;
    }
}
