//! Expressions of policies and webhooks: types at the write, the type check in the status, and `authorizer`.

use json_tree::{Value, json};

use crate::harness::{Api, CONFIG_MAPS as MAPS, config_map};
use crate::hook::{GROUP, Hook, VALIDATING, make};

const POLICIES: &str = "validatingadmissionpolicies";
const BINDINGS: &str = "validatingadmissionpolicybindings";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";

/// A policy for all writes of resources of a group.
fn policy(group: &str, resources: Value, more: Value) -> Value {
    let mut object = json!({"apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "p"},
        "spec": {"matchConstraints": {"resourceRules": [{"operations": ["CREATE", "UPDATE"],
            "apiGroups": [group], "apiVersions": ["v1"], "resources": resources}]}}});
    for (field, value) in more.as_object().into_iter().flatten() {
        object["spec"][field] = value.clone();
    }
    object
}

async fn bind(api: &Api) {
    let binding = json!({"apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": "p"},
        "spec": {"policyName": "p", "validationActions": ["Deny"]}});
    make(api, BINDINGS, binding).await;
}

/// Gives a user a right in the default namespace.
async fn grant(api: &Api, user: &str, resource: &str, verb: &str) {
    let name = format!("{user}-{resource}-{verb}");
    let rules = json!([{"apiGroups": [""], "resources": [resource], "verbs": [verb]}]);
    let role = json!({"metadata": {"name": name}, "rules": rules});
    api.create(&format!("{RBAC}/roles"), role).await;
    let binding = json!({"metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]});
    api.create(&format!("{RBAC}/rolebindings"), binding).await;
}

/// Waits until a write has the code, because rights are in force some moments after their write.
async fn reaches(api: &Api, name: &str, expected: u16) -> Value {
    for _ in 0..200 {
        let (code, response) = api.send("POST", MAPS, config_map(name)).await;
        if code == expected {
            return response;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{name} did not get {expected}");
}

#[tokio::test]
async fn a_policy_asks_for_the_rights_of_the_user() {
    let api = Api::new().await;
    let expression = "authorizer.group('').resource('secrets').namespace(request.namespace)\
         .check('get').allowed()";
    let spec = json!({"validations": [{"expression": expression, "message": "not a keeper"}],
        "matchConditions": [{"name": "no-breakglass",
            "expression": "!authorizer.requestResource.check('breakglass').allowed()"}]});
    make(&api, POLICIES, policy("", json!(["configmaps"]), spec)).await;
    bind(&api).await;
    let bob = api.as_user("bob", &[]);
    grant(&api, "bob", "configmaps", "create").await;
    let refused = reaches(&bob, "a", 422).await;
    assert!(
        refused["message"]
            .as_str()
            .unwrap()
            .ends_with("not a keeper"),
        "{refused}"
    );
    grant(&api, "bob", "secrets", "get").await;
    reaches(&bob, "a", 201).await;
    // The policy does not apply to eve, because its condition checks another right.
    let eve = api.as_user("eve", &[]);
    grant(&api, "eve", "configmaps", "create").await;
    reaches(&eve, "b", 422).await;
    grant(&api, "eve", "configmaps", "breakglass").await;
    reaches(&eve, "b", 201).await;
}

#[tokio::test]
async fn rights_of_accounts_and_of_paths_are_checked_too() {
    let api = Api::new().await;
    for (expression, expected) in [
        ("authorizer.path('/metrics').check('get').allowed()", 201),
        (
            "authorizer.serviceAccount('default', 'a').path('/metrics').check('get').allowed()",
            422,
        ),
        (
            "!authorizer.serviceAccount('default', 'a').group('').resource('pods')\
             .subresource('exec').namespace('default').name('p').check('create').allowed()",
            201,
        ),
        (
            "authorizer.serviceAccount('default', 'a').group('').resource('pods')\
             .labelSelector('a=b').fieldSelector('spec.nodeName=n').check('list').error() == ''",
            201,
        ),
        (
            "authorizer.requestResource.check('create').reason() == ''",
            201,
        ),
    ] {
        let spec = json!({"validations": [{"expression": expression}]});
        make(&api, POLICIES, policy("", json!(["configmaps"]), spec)).await;
        bind(&api).await;
        let path = format!("{MAPS}?dryRun=All");
        let (code, response) = api.send("POST", &path, config_map("a")).await;
        assert_eq!(code, expected, "{expression}: {response}");
        for plural in [BINDINGS, POLICIES] {
            let path = format!("{GROUP}/{plural}/p");
            assert_eq!(api.send("DELETE", &path, Value::Null).await.0, 200);
        }
    }
}

#[tokio::test]
async fn a_webhook_is_called_for_those_without_a_right() {
    let api = Api::new().await;
    let hook = Hook::start(|_| json!({"allowed": false})).await;
    let more = json!({"matchConditions": [{"name": "others",
        "expression": "!authorizer.group('').resource('configmaps').check('skip').allowed()"}]});
    let configuration = hook.configuration("ValidatingWebhookConfiguration", "a", more);
    make(&api, VALIDATING, configuration).await;
    // The administrator has each right.
    api.create(MAPS, config_map("a")).await;
    assert_eq!(hook.requests().len(), 0);
    let bob = api.as_user("bob", &[]);
    grant(&api, "bob", "configmaps", "create").await;
    reaches(&bob, "b", 400).await;
    assert!(!hook.requests().is_empty());
}

#[tokio::test]
async fn expressions_of_wrong_types_are_refused_with_the_policy() {
    let api = Api::new().await;
    let spec = json!({"variables": [{"name": "many", "expression": "object.spec.replicas > 3"}],
        "validations": [{"expression": "variables.many + 1"},
            {"expression": "object.metadata.name", "messageExpression": "request.nope"}],
        "auditAnnotations": [{"key": "k", "valueExpression": "size(request.name)"}]});
    let path = format!("{GROUP}/{POLICIES}");
    let object = policy("apps", json!(["deployments"]), spec);
    let (code, refused) = api.send("POST", &path, object).await;
    assert_eq!(code, 422, "{refused}");
    let causes = refused["details"]["causes"].as_array().unwrap();
    let named = causes.iter().map(|cause| {
        let text = cause["message"].as_str().unwrap();
        let text = text.split('\n').next().unwrap();
        (cause["field"].as_str().unwrap(), text)
    });
    let expected = [
        (
            "spec.validations[0].expression",
            "Invalid value: \"variables.many + 1\": compilation failed: ERROR: <input>:1:16: found no matching \
             overload for '_+_' applied to '(bool, int)'",
        ),
        (
            "spec.validations[1].expression",
            "Invalid value: \"object.metadata.name\": must evaluate to bool but got dyn",
        ),
        (
            "spec.validations[1].messageExpression",
            "Invalid value: \"request.nope\": compilation failed: ERROR: <input>:1:8: undefined field 'nope'",
        ),
        (
            "spec.auditAnnotations[0].valueExpression",
            "Invalid value: \"size(request.name)\": must evaluate to one of [string null_type] but got int",
        ),
    ];
    assert_eq!(named.collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn the_status_of_a_policy_has_the_warnings_of_its_type_check() {
    let api = Api::new().await;
    let wrong =
        "object.spec.replica < 5 && object.spec.template.spec.containers.all(c, c.image != '')";
    let spec = json!({"validations": [{"expression": wrong}]});
    make(
        &api,
        POLICIES,
        policy("apps", json!(["deployments", "statefulsets"]), spec),
    )
    .await;
    let path = format!("{GROUP}/{POLICIES}/p");
    let (_, stored) = api.get(&path).await;
    let status = &stored["status"];
    assert_eq!(status["observedGeneration"], 1);
    let warnings = status["typeChecking"]["expressionWarnings"]
        .as_array()
        .unwrap();
    assert_eq!(warnings.len(), 1, "{status}");
    assert_eq!(warnings[0]["fieldRef"], "spec.validations[0].expression");
    let text = warnings[0]["warning"].as_str().unwrap();
    for kind in ["Deployment", "StatefulSet"] {
        let part =
            format!("apps/v1, Kind={kind}: ERROR: <input>:1:12: undefined field 'replica'\n");
        assert!(text.contains(&part), "{text}");
    }
    // A correct expression has no warning, also one about times, quantities and ports.
    let right = "object.spec.replicas < 5 && object.spec.template.spec.containers.all(c, \
         !has(c.resources.limits) || quantity(string(c.resources.limits['memory'])).isGreaterThan(quantity('0')))";
    let merge = json!({"spec": {"validations": [{"expression": right}]}});
    assert_eq!(api.patch(&path, "merge", merge).await.0, 200);
    let (_, stored) = api.get(&path).await;
    assert_eq!(
        stored["status"],
        json!({"typeChecking": {}, "observedGeneration": 2})
    );
    // A change of labels checks nothing again.
    let merge = json!({"metadata": {"labels": {"a": "b"}}});
    assert_eq!(api.patch(&path, "merge", merge).await.0, 200);
    assert_eq!(api.get(&path).await.1["status"]["observedGeneration"], 2);
}
