//! MutatingAdmissionPolicies and their changes of writes (kubectl.md 10.5).

use json_tree::{Value, json};

use crate::harness::{Api, CONFIG_MAPS as MAPS, PODS, config_map, pod};
use crate::hook::{GROUP, Hook, MUTATING, make, patch};

const POLICIES: &str = "mutatingadmissionpolicies";
const BINDINGS: &str = "mutatingadmissionpolicybindings";

/// A policy for the creation and update of a resource of the core group.
fn policy(name: &str, resource: &str, mutations: Value) -> Value {
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {"matchConstraints": {"resourceRules": [{"operations": ["CREATE", "UPDATE"],
            "apiGroups": [""], "apiVersions": ["v1"], "resources": [resource]}]},
            "mutations": mutations}})
}

fn applying(expression: &str) -> Value {
    json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}})
}

fn patching(expression: &str) -> Value {
    json!({"patchType": "JSONPatch", "jsonPatch": {"expression": expression}})
}

/// Creates a policy and its binding, and waits until they are in force.
async fn enforce(api: &Api, policy: Value) {
    let name = policy["metadata"]["name"].clone();
    make(api, POLICIES, policy).await;
    let binding = json!({"apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingAdmissionPolicyBinding", "metadata": {"name": name},
        "spec": {"policyName": name}});
    make(api, BINDINGS, binding).await;
}

#[tokio::test]
async fn a_policy_adds_what_it_wants_to_what_is_written() {
    let api = Api::new().await;
    api.with_account().await;
    let sidecar = "Object{metadata: Object.metadata{labels: {'mesh': 'on'}}, \
         spec: Object.spec{initContainers: [Object.spec.initContainers{name: 'mesh', \
         image: 'mesh:1', restartPolicy: 'Always'}]}}";
    let mut mesh = policy("mesh", "pods", json!([applying(sidecar)]));
    mesh["spec"]["matchConditions"] = json!([{"name": "not-yet", "expression":
        "!object.spec.?initContainers.orValue([]).exists(c, c.name == 'mesh')"}]);
    // Without a binding the policy has no effect.
    make(&api, POLICIES, mesh.clone()).await;
    let plain = api.create(PODS, pod("plain")).await;
    assert_eq!(plain["spec"]["initContainers"], Value::Null);
    let path = format!("{GROUP}/{POLICIES}/mesh");
    assert_eq!(api.send("DELETE", &path, Value::Null).await.0, 200);
    enforce(&api, mesh).await;
    let created = api.create(PODS, pod("p")).await;
    assert_eq!(created["metadata"]["labels"], json!({"mesh": "on"}));
    let added = &created["spec"]["initContainers"][0];
    // The object gets all defaults, as if the client had sent the change.
    assert_eq!(
        (&added["name"], &added["terminationMessagePolicy"]),
        (&json!("mesh"), &json!("File"))
    );
    assert_eq!(created["spec"]["containers"][0]["name"], "c");
    // The fields that the policy added have no manager.
    let fields = created["metadata"]["managedFields"].to_string();
    assert!(!fields.contains("mesh"), "{fields}");
}

#[tokio::test]
async fn patches_know_variables_settings_and_tests() {
    let api = Api::new().await;
    let mut stamp = policy(
        "stamp",
        "configmaps",
        json!([
            patching(
                "[JSONPatch{op: 'test', path: '/data/a', value: '1'}, \
                 JSONPatch{op: 'replace', path: '/data/a', value: '2'}]"
            ),
            patching(
                "[JSONPatch{op: 'add', path: '/metadata/annotations', value: {}}, \
                 JSONPatch{op: 'add', \
                 path: '/metadata/annotations/' + jsonpatch.escapeKey('by/whom'), \
                 value: variables.who + params.data.suffix}]"
            ),
        ]),
    );
    stamp["spec"]["variables"] =
        json!([{"name": "who", "expression": "request.userInfo.username"}]);
    stamp["spec"]["paramKind"] = json!({"apiVersion": "v1", "kind": "ConfigMap"});
    let settings = json!({"metadata": {"name": "s"}, "data": {"suffix": "!"}});
    api.create(MAPS, settings).await;
    make(&api, POLICIES, stamp).await;
    let binding = json!({"apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingAdmissionPolicyBinding", "metadata": {"name": "stamp"},
        "spec": {"policyName": "stamp", "paramRef": {"name": "s",
            "parameterNotFoundAction": "Deny"}}});
    make(&api, BINDINGS, binding).await;
    let one = api.create(MAPS, config_map("one")).await;
    assert_eq!(one["data"]["a"], "2");
    assert_eq!(one["metadata"]["annotations"], json!({"by/whom": "admin!"}));
    // The test operation of the first patch fails for this object, so the patch is skipped.
    let mut other = config_map("two");
    other["data"]["a"] = json!("7");
    let two = api.create(MAPS, other).await;
    assert_eq!(two["data"]["a"], "7");
    assert_eq!(two["metadata"]["annotations"], json!({"by/whom": "admin!"}));
}

#[tokio::test]
async fn what_goes_wrong_refuses_unless_the_policy_says_otherwise() {
    let api = Api::new().await;
    let broken = |failure: &str| {
        let expression = "Object{data: {'x': object.data.missing}}";
        let mut policy = policy("broken", "configmaps", json!([applying(expression)]));
        policy["spec"]["failurePolicy"] = json!(failure);
        policy
    };
    enforce(&api, broken("Fail")).await;
    let (code, refused) = api.send("POST", MAPS, config_map("a")).await;
    assert_eq!(
        (code, &refused["reason"]),
        (403, &json!("Invalid")),
        "{refused}"
    );
    let message = refused["message"].as_str().unwrap();
    assert!(
        message.starts_with("policy 'broken' with binding 'broken' denied request: "),
        "{message}"
    );
    let ignore = json!({"spec": {"failurePolicy": "Ignore"}});
    let path = format!("{GROUP}/{POLICIES}/broken");
    assert_eq!(api.patch(&path, "merge", ignore).await.0, 200);
    api.create(MAPS, config_map("a")).await;
}

#[tokio::test]
async fn parts_that_do_not_belong_there_are_refused() {
    let api = Api::new().await;
    api.with_account().await;
    for (expression, expected) in [
        (
            "Object{spec: Object.status{}}",
            "unexpected type name \"Object.status\"",
        ),
        (
            "Object{spec: Object.spec{wheels: 4}}",
            ".spec.wheels: field not declared in schema",
        ),
        (
            "Object{spec: Object.spec{nodeSelector: {'a': 'b'}}}",
            "may not mutate atomic arrays, maps or structs: .spec.nodeSelector",
        ),
        (
            "Object{metadata: Object.metadata{name: 'other'}}",
            "it may not change metadata.name",
        ),
    ] {
        enforce(&api, policy("wrong", "pods", json!([applying(expression)]))).await;
        let (code, refused) = api.send("POST", PODS, pod("p")).await;
        assert_eq!(code, 403, "{refused}");
        let message = refused["message"].as_str().unwrap();
        assert!(message.contains(expected), "{expression}: {message}");
        for plural in [POLICIES, BINDINGS] {
            let path = format!("{GROUP}/{plural}/wrong");
            assert_eq!(api.send("DELETE", &path, Value::Null).await.0, 200);
        }
    }
    // An expression that does not compile is refused at its creation.
    let unread = policy("unread", "pods", json!([applying("Thing{a: 1}")]));
    let path = format!("{GROUP}/{POLICIES}");
    let (code, refused) = api.send("POST", &path, unread).await;
    assert_eq!(code, 422);
    let cause = &refused["details"]["causes"][0];
    assert_eq!(
        cause["field"],
        "spec.mutations[0].applyConfiguration.expression"
    );
}

#[tokio::test]
async fn who_asks_for_it_sees_what_came_later() {
    let api = Api::new().await;
    // The first policy counts the keys; the second policy and a webhook add keys.
    let count = "Object{metadata: Object.metadata{labels: {'keys': string(size(object.data))}}}";
    let mut first = policy("first", "configmaps", json!([applying(count)]));
    first["spec"]["reinvocationPolicy"] = json!("IfNeeded");
    enforce(&api, first).await;
    enforce(
        &api,
        policy(
            "second",
            "configmaps",
            json!([applying("Object{data: {'second': 'x'}}")]),
        ),
    )
    .await;
    let created = api.create(MAPS, config_map("a")).await;
    assert_eq!(created["metadata"]["labels"]["keys"], "2", "{created}");
    let hook =
        Hook::start(|_| patch(json!([{"op": "add", "path": "/data/third", "value": "y"}]))).await;
    let kind = "MutatingWebhookConfiguration";
    make(&api, MUTATING, hook.configuration(kind, "third", json!({}))).await;
    let created = api.create(MAPS, config_map("b")).await;
    assert_eq!(created["metadata"]["labels"]["keys"], "3", "{created}");
    // The webhook got the object with the changes of the policies.
    assert_eq!(hook.requests()[0]["object"]["data"]["second"], "x");
}

#[tokio::test]
async fn objects_of_other_versions_are_changed_too() {
    let api = Api::new().await;
    let mut floor = policy(
        "floor",
        "x",
        json!([applying("Object{spec: Object.spec{minReplicas: 2}}")]),
    );
    floor["spec"]["matchConstraints"]["resourceRules"] = json!([{"operations": ["*"],
        "apiGroups": ["autoscaling"], "apiVersions": ["v2"],
        "resources": ["horizontalpodautoscalers"]}]);
    enforce(&api, floor).await;
    let scaler = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "a"}, "spec": {"maxReplicas": 5, "targetCPUUtilizationPercentage": 50,
            "scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"}}});
    let path = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
    let created = api.create(path, scaler).await;
    assert_eq!(
        (&created["apiVersion"], &created["spec"]["minReplicas"]),
        (&json!("autoscaling/v1"), &json!(2))
    );
    assert_eq!(
        created["spec"]["targetCPUUtilizationPercentage"], 50,
        "{created}"
    );
}

#[tokio::test]
async fn all_failures_of_policies_are_in_one_refusal() {
    let api = Api::new().await;
    for name in ["first", "second"] {
        let expression = format!("Object{{data: {{'x': object.data.{name}}}}}");
        let policy = policy(name, "configmaps", json!([applying(&expression)]));
        enforce(&api, policy).await;
    }
    let (code, refused) = api.send("POST", MAPS, config_map("a")).await;
    assert_eq!((code, &refused["reason"]), (403, &json!("Invalid")));
    let causes = refused["details"]["causes"].as_array().unwrap();
    assert_eq!(causes.len(), 2, "{refused}");
    for (cause, name) in causes.iter().zip(["first", "second"]) {
        let start = format!("policy '{name}' with binding '{name}' denied request: ");
        assert!(
            cause["message"].as_str().unwrap().starts_with(&start),
            "{cause}"
        );
    }
    assert_eq!(refused["message"], causes[0]["message"]);
}
