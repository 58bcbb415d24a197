//! The audit log: users, requests and results.

use std::path::{Path, PathBuf};

use json_tree::{Value, json};
use kube_api_server::{Audit, AuditLogOptions};

use crate::harness::{Api, CONFIG_MAPS, Events, config_map};
use crate::hook::{Hook, MUTATING, VALIDATING, make, patch};

const SECRETS: &str = "/api/v1/namespaces/default/secrets";

const POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  nonResourceURLs: [/healthz*]
- level: Metadata
  resources:
  - resources: [secrets]
- level: RequestResponse
  verbs: [create]
  omitManagedFields: true
- level: Request
  verbs: [patch]
- level: Metadata
";

fn options(folder: &Path) -> AuditLogOptions {
    AuditLogOptions {
        path: folder.join("audit.log"),
        bytes_max: 1 << 20,
        backups_max: 2,
    }
}

async fn audited(folder: &Path, policy: &str) -> (Api, PathBuf) {
    let api = Api::new().await;
    let options = options(folder);
    let path = options.path.clone();
    api.server.audit(Audit::open(policy, options).unwrap());
    (api, path)
}

fn events(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test]
async fn each_request_is_noted_as_its_rule_says() {
    let folder = tempfile::tempdir().unwrap();
    let (api, path) = audited(folder.path(), POLICY).await;
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"word": "hush"}});
    api.create(SECRETS, secret).await;
    api.get(&format!("{SECRETS}/s")).await;
    api.raw("GET", "/healthz", &[], "").await;
    let response = api
        .raw(
            "POST",
            CONFIG_MAPS,
            &[("user-agent", "me/1")],
            config_map("a").to_string(),
        )
        .await;
    let note = json!({"data": {"b": "2"}});
    api.patch(&format!("{CONFIG_MAPS}/a"), "merge", note.clone())
        .await;
    let bob = [("impersonate-user", "bob")];
    api.raw("GET", &format!("{CONFIG_MAPS}/a"), &bob, "").await;
    let events_read = events(&path);
    let short: Vec<String> = events_read
        .iter()
        .map(|event| {
            let of = &event["objectRef"];
            format!(
                "{} {} {} {} {}",
                event["level"].as_str().unwrap(),
                event["verb"].as_str().unwrap(),
                of["resource"].as_str().unwrap(),
                of["name"].as_str().unwrap(),
                event["responseStatus"]["code"],
            )
        })
        .collect();
    assert_eq!(
        short,
        [
            "Metadata create secrets s 201",
            "Metadata get secrets s 200",
            "RequestResponse create configmaps a 201",
            "Request patch configmaps a 200",
            "Metadata get configmaps a 403",
        ]
    );
    assert!(
        events_read
            .iter()
            .all(|event| event["stage"] == "ResponseComplete")
    );
    for event in &events_read[..2] {
        let text = event.to_string();
        assert!(!text.contains("hush") && !text.contains("aHVzaA"), "{text}");
        assert!(event["requestObject"].is_null() && event["responseObject"].is_null());
    }
    let record = &events_read[2];
    assert_eq!(record["requestObject"], config_map("a"));
    assert_eq!(record["responseObject"]["data"], json!({"a": "1"}));
    assert!(record["responseObject"]["metadata"]["uid"].is_string());
    assert!(record["responseObject"]["metadata"]["managedFields"].is_null());
    assert_eq!(record["userAgent"], "me/1");
    assert_eq!(record["user"]["username"], "admin");
    assert_eq!(
        record["auditID"],
        response.headers["audit-id"].to_str().unwrap()
    );
    assert_eq!(events_read[3]["requestObject"], note);
    let refused = &events_read[4];
    assert_eq!(refused["impersonatedUser"]["username"], "bob");
    assert_eq!(
        refused["annotations"]["authorization.k8s.io/decision"],
        "forbid"
    );
    assert!(
        refused["responseStatus"]["message"]
            .as_str()
            .unwrap()
            .contains("cannot get")
    );
    for event in &events_read {
        let times = ["requestReceivedTimestamp", "stageTimestamp"];
        let [start, end] = times.map(|key| event[key].as_str().unwrap().parse::<jiff::Timestamp>());
        assert!(start.unwrap() <= end.unwrap());
    }
}

/// A policy and a webhook, and the annotations that they add to the events of writes.
#[tokio::test]
async fn what_admission_notes_is_in_the_event() {
    let folder = tempfile::tempdir().unwrap();
    let (api, path) = audited(folder.path(), POLICY).await;
    let policy = json!({"apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "few"},
        "spec": {"matchConstraints": {"resourceRules": [{"operations": ["CREATE", "UPDATE"],
            "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps", "secrets"]}]},
            "validations": [{"expression": "true"},
                {"expression": "object.metadata.name != 'a'", "message": "not a"}],
            "auditAnnotations": [{"key": "named", "valueExpression": "'name ' + object.metadata.name"},
                {"key": "absent", "valueExpression": "null"}]}});
    make(&api, "validatingadmissionpolicies", policy).await;
    let binding = json!({"apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": "here"},
        "spec": {"policyName": "few", "validationActions": ["Audit"]}});
    make(&api, "validatingadmissionpolicybindings", binding).await;
    let hook = Hook::start(|_| {
        let mut response =
            patch(json!([{"op": "add", "path": "/metadata/labels", "value": {"x": "y"}}]));
        response["auditAnnotations"] = json!({"seen": "yes", "in/valid": "no"});
        response
    })
    .await;
    let more = json!({"rules": [{"operations": ["CREATE"], "apiGroups": [""],
        "apiVersions": ["v1"], "resources": ["configmaps", "secrets"]}]});
    let configuration = hook.configuration("MutatingWebhookConfiguration", "hook", more);
    make(&api, MUTATING, configuration).await;
    let nobody =
        json!({"clientConfig": {"url": "https://127.0.0.1:1/"}, "failurePolicy": "Ignore"});
    let configuration = hook.configuration("ValidatingWebhookConfiguration", "nobody", nobody);
    make(&api, VALIDATING, configuration).await;
    let before = events(&path).len();
    api.create(CONFIG_MAPS, config_map("a")).await;
    api.create(SECRETS, json!({"metadata": {"name": "s"}}))
        .await;
    let read = events(&path);
    let [of_map, of_secret] = &read[before..] else {
        panic!("{read:?}");
    };
    let failure = json!([{"message": "not a", "policy": "few", "binding": "here",
        "expressionIndex": 1, "validationActions": ["Audit"]}]);
    let mutation = json!({"configuration": "hook", "webhook": "hook.example.com", "mutated": true});
    let patch = json!({"configuration": "hook", "webhook": "hook.example.com",
        "patch": [{"op": "add", "path": "/metadata/labels", "value": {"x": "y"}}], "patchType": "JSONPatch"});
    let of_webhook = "webhook.admission.k8s.io/round_0_index_0";
    let expected = json!({
        "authorization.k8s.io/decision": "allow",
        "few/named": "name a",
        "hook.example.com/seen": "yes",
        "validation.policy.admission.k8s.io/validation_failure": failure.to_string(),
        (format!("mutation.{of_webhook}")): mutation.to_string(),
        (format!("patch.{of_webhook}")): patch.to_string(),
        (format!("failed-open.validating.{of_webhook}")): "nobody.example.com",
    });
    assert_eq!(of_map["annotations"], expected);
    // The patch has parts of the object, which is not in an event of the level `Metadata`.
    assert_eq!(
        of_secret["annotations"],
        json!({
            "authorization.k8s.io/decision": "allow",
            "few/named": "name s",
            "hook.example.com/seen": "yes",
            (format!("mutation.{of_webhook}")): mutation.to_string(),
        })
    );
}

#[tokio::test]
async fn a_watch_is_noted_when_it_begins_and_when_it_ends() {
    let folder = tempfile::tempdir().unwrap();
    let policy = "{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: Metadata}]}";
    let (api, path) = audited(folder.path(), policy).await;
    let watch = Events::open(&api, &format!("{CONFIG_MAPS}?watch=1")).await;
    let stages = || -> Vec<String> {
        let all = events(&path);
        all.iter()
            .map(|event| event["stage"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(stages(), ["RequestReceived", "ResponseStarted"]);
    drop(watch);
    assert_eq!(
        stages(),
        ["RequestReceived", "ResponseStarted", "ResponseComplete"]
    );
}

#[tokio::test]
async fn a_policy_with_unknown_fields_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let policy = "{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: None, verb: [get]}]}";
    let error = Audit::open(policy, options(folder.path())).unwrap_err();
    assert!(error.to_string().contains("verb"), "{error}");
    assert!(!options(folder.path()).path.exists());
}
