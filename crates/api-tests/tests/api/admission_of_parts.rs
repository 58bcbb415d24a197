//! Webhooks and policies are called for connections, and for sub-resources with their own kind, with upstream's texts
//! (kubectl.md 10.5).

use json_tree::{Value, json};

use crate::harness::{Api, PODS, SETS, pod, stateful_set};
use crate::hook::{Hook, MUTATING, VALIDATING, make, patch};

const ACCOUNT: &str = "/api/v1/namespaces/default/serviceaccounts/default";

/// A server with a pod `p`. The pod has a node unless the test binds it.
async fn with_pod(bound: bool) -> Api {
    let api = Api::new().await;
    api.with_account().await;
    let mut desired = pod("p");
    if bound {
        desired["spec"]["nodeName"] = json!("n1");
    }
    api.create(PODS, desired).await;
    api
}

/// A webhook configuration for an operation on resources of the core group.
fn about(hook: &Hook, kind: &str, operation: &str, resources: Value) -> Value {
    let rules = json!({"rules": [{"operations": [operation], "apiGroups": [""],
        "apiVersions": ["v1"], "resources": resources}]});
    hook.configuration(kind, "parts", rules)
}

#[tokio::test]
async fn who_connects_to_a_pod_is_told_of_with_the_options() {
    let api = with_pod(true).await;
    let hook = Hook::start(|request| {
        let shell = request["object"]["command"] == json!(["sh", "-c", "id"]);
        json!({"allowed": !shell, "warnings": ["seen"]})
    })
    .await;
    let kind = "ValidatingWebhookConfiguration";
    let configuration = about(&hook, kind, "CONNECT", json!(["pods/*"]));
    make(&api, VALIDATING, configuration).await;

    let exec = |query: &str| format!("{PODS}/p/exec?{query}");
    let shell = exec("command=sh&command=-c&command=id&stdout=true&tty=1&container=c");
    let (code, refused) = api.send("POST", &shell, Value::Null).await;
    assert_eq!(code, 400, "{refused}");
    assert!(refused.to_string().contains("denied the request"));
    let admission_request = hook.requests().remove(0);
    for (pointer, expected) in [
        ("/operation", json!("CONNECT")),
        (
            "/kind",
            json!({"group": "", "version": "v1", "kind": "PodExecOptions"}),
        ),
        (
            "/resource",
            json!({"group": "", "version": "v1", "resource": "pods"}),
        ),
        ("/subResource", json!("exec")),
        ("/namespace", json!("default")),
        ("/name", json!("p")),
        ("/oldObject", Value::Null),
        ("/options", Value::Null),
        (
            "/object",
            json!({"apiVersion": "v1", "kind": "PodExecOptions", "stdout": true, "tty": true,
                "container": "c", "command": ["sh", "-c", "id"]}),
        ),
    ] {
        assert_eq!(
            admission_request.pointer(pointer),
            Some(&expected),
            "{pointer}"
        );
    }
    assert!(api.node.requests.lock().unwrap().is_empty());

    let response = api.raw("POST", &exec("command=ls"), &[], "").await;
    assert_eq!(response.text(), "POST /exec/default/p/c?command=ls");
    assert_eq!(response.headers["warning"], "299 - \"seen\"");
    for (path, kind, object) in [
        (
            format!("{PODS}/p/attach?stdin=true"),
            "PodAttachOptions",
            json!({"stdin": true}),
        ),
        (
            format!("{PODS}/p/portforward?ports=80,81&ports=90"),
            "PodPortForwardOptions",
            json!({"ports": [80, 81, 90]}),
        ),
        (
            format!("{PODS}/p:80/proxy/a%20b"),
            "PodProxyOptions",
            json!({"path": "/a b"}),
        ),
    ] {
        hook.requests();
        api.raw("POST", &path, &[], "").await;
        let admission_request = hook.requests().remove(0);
        let mut expected = object;
        expected["apiVersion"] = json!("v1");
        expected["kind"] = json!(kind);
        assert_eq!(
            (
                &admission_request["object"],
                &admission_request["operation"]
            ),
            (&expected, &json!("CONNECT"))
        );
    }
    // A log request is a read, not a connection.
    api.raw("GET", &format!("{PODS}/p/log"), &[], "").await;
    assert_eq!(hook.requests(), Vec::<Value>::new());
    let dry = exec("command=ls&dryRun=All");
    let (code, refused) = api.send("POST", &dry, Value::Null).await;
    assert_eq!(
        (code, &refused["message"]),
        (400, &json!("dryRun is not supported"))
    );
}

#[tokio::test]
async fn options_of_a_connection_may_be_changed() {
    let api = with_pod(true).await;
    let hook = Hook::start(|_| {
        patch(
            json!([{"op": "replace", "path": "/command/0", "value": "safe"},
            {"op": "remove", "path": "/stdin"}]),
        )
    })
    .await;
    let kind = "MutatingWebhookConfiguration";
    let configuration = about(&hook, kind, "CONNECT", json!(["pods/exec"]));
    make(&api, MUTATING, configuration).await;
    let exec = format!("{PODS}/p/exec?command=rm&command=x&stdin=true");
    let response = api.raw("POST", &exec, &[], "").await;
    assert_eq!(
        response.text(),
        "POST /exec/default/p/c?command=safe&command=x"
    );
}

#[tokio::test]
async fn services_and_nodes_are_proxied_to_if_all_agree() {
    let api = Api::new().await;
    let hook = Hook::start(|_| json!({"allowed": false})).await;
    let kind = "ValidatingWebhookConfiguration";
    let resources = json!(["services/proxy", "nodes/proxy"]);
    make(&api, VALIDATING, about(&hook, kind, "CONNECT", resources)).await;
    for (path, kind, option_path) in [
        ("/api/v1/nodes/n1/proxy/pods", "NodeProxyOptions", "/pods"),
        (
            "/api/v1/namespaces/default/services/s:80/proxy/",
            "ServiceProxyOptions",
            "/",
        ),
    ] {
        assert_eq!(api.get(path).await.0, 400, "{path}");
        let admission_request = hook.requests().remove(0);
        assert_eq!(admission_request["kind"]["kind"], kind);
        assert_eq!(admission_request["object"]["path"], option_path);
    }
}

#[tokio::test]
async fn a_binding_is_asked_about_as_the_object_that_it_is() {
    let api = with_pod(false).await;
    let hook =
        Hook::start(|request| json!({"allowed": request["object"]["target"]["name"] != "bad"}))
            .await;
    let kind = "ValidatingWebhookConfiguration";
    let configuration = about(&hook, kind, "CREATE", json!(["pods/binding"]));
    make(&api, VALIDATING, configuration).await;
    let bind = async |node: &str| {
        let binding = json!({"target": {"kind": "Node", "name": node}});
        api.send("POST", &format!("{PODS}/p/binding"), binding)
            .await
            .0
    };
    assert_eq!(bind("bad").await, 400);
    let admission_request = hook.requests().remove(0);
    assert_eq!(
        admission_request["kind"],
        json!({"group": "", "version": "v1", "kind": "Binding"})
    );
    assert_eq!(
        (
            &admission_request["subResource"],
            &admission_request["name"],
            &admission_request["object"]["kind"]
        ),
        (&json!("binding"), &json!("p"), &json!("Binding"))
    );
    assert_eq!(admission_request["options"]["kind"], "CreateOptions");
    let (_, unbound) = api.get(&format!("{PODS}/p")).await;
    assert_eq!(unbound["spec"]["nodeName"], Value::Null);
    assert_eq!(bind("good").await, 201);
}

#[tokio::test]
async fn an_eviction_is_asked_about_and_the_deletion_is_not() {
    let api = with_pod(true).await;
    let hook = Hook::start(
        |request| json!({"allowed": request["object"]["deleteOptions"]["gracePeriodSeconds"] != 0}),
    )
    .await;
    let kind = "ValidatingWebhookConfiguration";
    let rules = json!({"rules": [{"operations": ["*"], "apiGroups": [""],
        "apiVersions": ["v1"], "resources": ["pods", "pods/eviction"]}]});
    make(&api, VALIDATING, hook.configuration(kind, "parts", rules)).await;
    let evict = async |seconds: u32| {
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": {"name": "p"}, "deleteOptions": {"gracePeriodSeconds": seconds}});
        api.send("POST", &format!("{PODS}/p/eviction"), eviction)
            .await
            .0
    };
    assert_eq!(evict(0).await, 400);
    let admission_requests = hook.requests();
    assert_eq!(admission_requests.len(), 1);
    let eviction = json!({"group": "policy", "version": "v1", "kind": "Eviction"});
    assert_eq!(
        (
            &admission_requests[0]["operation"],
            &admission_requests[0]["kind"]
        ),
        (&json!("CREATE"), &eviction)
    );
    assert_eq!(evict(5).await, 201);
    let admission_requests = hook.requests();
    assert_eq!(admission_requests.len(), 1, "{admission_requests:?}");
    let (_, going) = api.get(&format!("{PODS}/p")).await;
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 5);
}

#[tokio::test]
async fn policies_judge_connections_and_tokens() {
    let api = with_pod(true).await;
    let policy = json!({"apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "parts"},
        "spec": {"matchConstraints": {"resourceRules": [
            {"operations": ["CONNECT"], "apiGroups": [""], "apiVersions": ["v1"],
                "resources": ["pods/exec"]},
            {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"],
                "resources": ["serviceaccounts/token"]}]},
        "validations": [{"expression": "object.kind != 'PodExecOptions' || !object.?tty.orValue(false)",
                "message": "no terminals"},
            {"expression": "object.kind != 'TokenRequest' || object.spec.expirationSeconds <= 3600",
                "message": "an hour at most"}]}});
    make(&api, "validatingadmissionpolicies", policy).await;
    let binding = json!({"apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": "parts"},
        "spec": {"policyName": "parts", "validationActions": ["Deny"]}});
    make(&api, "validatingadmissionpolicybindings", binding).await;
    let exec = |query: &str| format!("{PODS}/p/exec?command=sh{query}");
    let (code, refused) = api.send("POST", &exec("&tty=true"), Value::Null).await;
    assert_eq!(code, 422);
    assert!(refused.to_string().contains("no terminals"), "{refused}");
    assert_eq!(api.raw("POST", &exec(""), &[], "").await.code, 200);
    let token = async |seconds: Value| {
        let request = json!({"spec": {"expirationSeconds": seconds}});
        api.send("POST", &format!("{ACCOUNT}/token"), request)
            .await
            .0
    };
    assert_eq!(token(json!(7200)).await, 422);
    assert_eq!(token(Value::Null).await, 201);
}

#[tokio::test]
async fn a_scale_may_be_changed_as_a_scale() {
    let api = Api::new().await;
    let policy = json!({"apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingAdmissionPolicy", "metadata": {"name": "few"},
        "spec": {"matchConstraints": {"resourceRules": [{"operations": ["UPDATE"],
            "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["*/scale"]}]},
        "matchConditions": [{"name": "many", "expression": "object.spec.replicas > 5"}],
        "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
            "Object{spec: Object.spec{replicas: oldObject.spec.replicas + 1}}"}}]}});
    make(&api, "mutatingadmissionpolicies", policy).await;
    let binding = json!({"apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingAdmissionPolicyBinding", "metadata": {"name": "few"},
        "spec": {"policyName": "few"}});
    make(&api, "mutatingadmissionpolicybindings", binding).await;
    api.create(SETS, stateful_set("web")).await;
    let scale = format!("{SETS}/web/scale");
    let to = |replicas: u32| json!({"spec": {"replicas": replicas}});
    let (code, scaled) = api.patch(&scale, "merge", to(9)).await;
    assert_eq!(
        (code, &scaled["spec"]["replicas"]),
        (200, &json!(2)),
        "{scaled}"
    );
    let (_, scaled) = api.patch(&scale, "merge", to(4)).await;
    assert_eq!(scaled["spec"]["replicas"], 4);
}
