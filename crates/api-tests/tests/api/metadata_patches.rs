//! Patches of the metadata only, which keep the other parts of a pod as text.

use json_tree::{Value, json};

use crate::harness::{Api, PODS, pod};
use crate::hook::make;

/// A server with a running pod `p`.
async fn with_running_pod() -> (Api, String, Value) {
    let api = Api::new().await;
    api.with_account().await;
    let mut desired = pod("p");
    desired["spec"]["nodeName"] = json!("n1");
    api.create(PODS, desired).await;
    let path = format!("{PODS}/p");
    let status = json!({"status": {"phase": "Running", "podIP": "10.0.0.1",
        "conditions": [{"type": "Ready", "status": "True"}]}});
    let (code, running) = api.patch(&format!("{path}/status"), "merge", status).await;
    assert_eq!(code, 200, "{running}");
    (api, path, running)
}

fn uid(pod: &Value) -> &Value {
    &pod["metadata"]["uid"]
}

#[tokio::test]
async fn all_but_the_metadata_stays() {
    // kubectl.md 2.7, 2.8
    let (api, path, before) = with_running_pod().await;
    let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": "u"});
    let mut last = before["metadata"]["resourceVersion"].clone();
    for (kind, patch, pointer, expected) in [
        (
            "merge",
            json!({"metadata": {"labels": {"a": "1"}}}),
            "/labels/a",
            json!("1"),
        ),
        (
            "strategic",
            json!({"kind": "Pod", "metadata": {"finalizers": ["example.com/a"]}}),
            "/finalizers",
            json!(["example.com/a"]),
        ),
        (
            "strategic",
            json!({"metadata": {"finalizers": ["example.com/b"],
                "$setElementOrder/finalizers": ["example.com/a", "example.com/b"]}}),
            "/finalizers",
            json!(["example.com/a", "example.com/b"]),
        ),
        (
            "json",
            json!([{"op": "test", "path": "/metadata/uid", "value": uid(&before)},
                {"op": "add", "path": "/metadata/ownerReferences", "value": [owner]}]),
            "/ownerReferences/0/name",
            json!("o"),
        ),
        (
            "json",
            json!([{"op": "move", "from": "/metadata/labels/a", "path": "/metadata/labels/b"}]),
            "/labels/b",
            json!("1"),
        ),
        (
            "merge",
            json!({"apiVersion": "v1", "metadata": {"annotations": {"x": "y"}, "labels": null}}),
            "/annotations/x",
            json!("y"),
        ),
    ] {
        let (code, patched) = api.patch(&path, kind, patch.clone()).await;
        assert_eq!(code, 200, "{patch} {patched}");
        let metadata = &patched["metadata"];
        assert_eq!(metadata.pointer(pointer), Some(&expected), "{patch}");
        assert_eq!(metadata["generation"], before["metadata"]["generation"]);
        for part in ["spec", "status"] {
            assert_eq!(patched[part].to_string(), before[part].to_string());
        }
        assert_ne!(metadata["resourceVersion"], last, "{patch}");
        last = metadata["resourceVersion"].clone();
        assert_eq!(api.get(&path).await.1, patched);
        // Without a change there is no write.
        if kind != "json" {
            assert_eq!(api.patch(&path, kind, patch).await.1, patched);
        }
    }
    let (_, now) = api.get(&path).await;
    assert_eq!(now["metadata"]["labels"], Value::Null);
    let managers = now["metadata"]["managedFields"].as_array().unwrap();
    let owned: Vec<&Value> = managers
        .iter()
        .filter_map(|manager| manager["fieldsV1"].pointer("/f:metadata/f:annotations/f:x"))
        .collect();
    assert_eq!(owned.len(), 1, "{managers:?}");
}

#[tokio::test]
async fn the_rules_of_a_pod_hold_for_its_metadata() {
    let (api, path, before) = with_running_pod().await;
    let cost = "controller.kubernetes.io/pod-deletion-cost";
    for (kind, patch, code) in [
        ("merge", json!({"metadata": {"labels": {"a": "-"}}}), 422),
        (
            "merge",
            json!({"metadata": {"annotations": {cost: "x"}}}),
            422,
        ),
        (
            "strategic",
            json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}}),
            422,
        ),
        ("merge", json!({"metadata": {"labels": 1}}), 422),
        ("merge", json!({"metadata": {"name": "q"}}), 400),
        ("merge", json!({"metadata": {"uid": "other"}}), 409),
        ("merge", json!({"metadata": {"resourceVersion": "1"}}), 409),
        ("merge", json!({"kind": "Node", "metadata": {}}), 422),
        (
            "json",
            json!([{"op": "test", "path": "/metadata/name", "value": "q"}]),
            422,
        ),
    ] {
        let (actual, status) = api.patch(&path, kind, patch.clone()).await;
        assert_eq!(actual, code, "{patch} {status}");
    }
    let strict = format!("{path}?fieldValidation=Strict");
    let unknown = json!({"metadata": {"other": 1}});
    let (code, status) = api.patch(&strict, "merge", unknown.clone()).await;
    let text = status["message"].as_str().unwrap_or_default();
    assert_eq!(code, 422, "{status}");
    assert!(text.contains("unknown field \"metadata.other\""), "{text}");
    assert_eq!(api.patch(&path, "merge", unknown).await.1, before);
    let dry = format!("{path}?dryRun=All");
    let label = json!({"metadata": {"labels": {"a": "1"}}});
    let (code, dry) = api.patch(&dry, "merge", label).await;
    assert_eq!((code, &dry["spec"]), (200, &before["spec"]));
    assert_eq!(api.get(&path).await.1, before);
    // The managed fields can be edited as in other patches.
    let reset = json!([{"op": "replace", "path": "/metadata/managedFields", "value": [{}]}]);
    let (code, reset) = api.patch(&path, "json", reset).await;
    assert_eq!((code, &reset["spec"]), (200, &before["spec"]), "{reset}");
    assert_eq!(reset["metadata"]["managedFields"], Value::Null);
}

#[tokio::test]
async fn a_pod_that_was_deleted_goes_with_its_last_finalizer() {
    let (api, path, before) = with_running_pod().await;
    let hold = json!({"metadata": {"finalizers": ["example.com/a"]}});
    assert_eq!(api.patch(&path, "merge", hold).await.0, 200);
    let now = json!({"gracePeriodSeconds": 0});
    assert_eq!(api.send("DELETE", &path, now).await.0, 200);
    let free = json!([{"op": "remove", "path": "/metadata/finalizers"}]);
    let (code, last) = api.patch(&path, "json", free).await;
    assert_eq!(code, 200, "{last}");
    assert_eq!(last["spec"], before["spec"]);
    assert_eq!(last["status"]["podIP"], "10.0.0.1");
    assert_eq!(api.get(&path).await.0, 404);
}

#[tokio::test]
async fn policies_and_quotas_have_the_whole_pod() {
    let (api, path, _) = with_running_pod().await;
    let quotas = "/api/v1/namespaces/default/resourcequotas";
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "1"}}});
    api.create(quotas, quota).await;
    let label = |value: &str| json!({"metadata": {"labels": {"a": value}}});
    assert_eq!(api.patch(&path, "merge", label("1")).await.0, 200);
    let (_, quota) = api.get(&format!("{quotas}/q")).await;
    assert_eq!(quota["status"]["used"]["pods"], "1");

    let policy = json!({"apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "images"},
        "spec": {"matchConstraints": {"resourceRules": [
            {"operations": ["UPDATE"], "apiGroups": [""], "apiVersions": ["v1"],
                "resources": ["pods"]}]},
        "validations": [{"expression":
            "object.spec.containers[0].image != 'i' || oldObject.status.phase != 'Running'",
            "message": "no labels for this image"}]}});
    make(&api, "validatingadmissionpolicies", policy).await;
    let binding = json!({"apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": "images"},
        "spec": {"policyName": "images", "validationActions": ["Deny"]}});
    make(&api, "validatingadmissionpolicybindings", binding).await;
    let (code, refused) = api.patch(&path, "merge", label("2")).await;
    assert_eq!(code, 422, "{refused}");
    assert!(refused.to_string().contains("no labels for this image"));
}
