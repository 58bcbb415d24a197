//! The API of StatefulSets: every error with its code, field and text, the warnings, and the mutable fields.

use std::collections::BTreeMap;

use json_tree::{Value, json};
use mvcc_store::{Omittable, Operation, Store, Txn};

use crate::harness::{Api, SETS, stateful_set};

const REVISIONS: &str = "/apis/apps/v1/namespaces/default/controllerrevisions";

const IMMUTABLE: &str = "updates to statefulset spec for fields other than 'replicas', \
    'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', \
    'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";

/// Merges one JSON value into another; null removes.
fn overlay(base: &mut Value, patch: &Value) {
    match (base, patch) {
        (Value::Object(map), Value::Object(changes)) => {
            for (key, change) in changes {
                if change.is_null() {
                    map.shift_remove(key);
                } else {
                    overlay(map.entry(key.clone()).or_insert(Value::Null), change);
                }
            }
        }
        (base, patch) => *base = patch.clone(),
    }
}

fn changed(spec: &Value) -> Value {
    let mut set = stateful_set("web");
    overlay(&mut set["spec"], spec);
    set
}

/// `Reason|field|message` of each cause.
fn causes(status: &Value) -> Vec<String> {
    let mut all = Vec::new();
    for cause in status["details"]["causes"].as_array().into_iter().flatten() {
        let text = |field: &str| cause[field].as_str().unwrap_or_default();
        let reason = text("reason").trim_start_matches("FieldValue");
        all.push(format!("{reason}|{}|{}", text("field"), text("message")));
    }
    all
}

fn assert_refused(code: u16, status: &Value, expected: &[&str], what: &str) {
    assert_eq!(code, 422, "{what}: {status}");
    assert_eq!(causes(status), expected, "{what}");
    let mut list: Vec<String> = Vec::new();
    for cause in expected {
        let mut parts = cause.splitn(3, '|').skip(1);
        let (field, message) = (parts.next().unwrap(), parts.next().unwrap());
        list.push(format!("{field}: {message}"));
    }
    let joined = match list.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    };
    let name = status["details"]["name"].as_str().unwrap();
    let head = format!("StatefulSet.apps \"{name}\" is invalid: {joined}");
    assert_eq!(status["message"], head, "{what}");
    assert_eq!(status["reason"], "Invalid", "{what}");
    assert_eq!(status["details"]["group"], "apps", "{what}");
}

/// A change of a valid set, with the errors of the changed set.
type InvalidSet = (&'static str, Value, Vec<String>);

fn invalid_selectors_and_strategies() -> Vec<InvalidSet> {
    vec![
        // statefulset.md 6.7
        ("no selector", json!({"selector": null}), vec![
            "Required|spec.selector|Required value".to_owned(),
                "Invalid|spec.template.metadata.labels|Invalid value: {\"app\":\"web\"}: `selector` \
                 does not match template `labels`".to_owned(),
        ]),
        // statefulset.md 6.7
        ("empty selector", json!({"selector": {"matchLabels": null}}), vec![
            "Invalid|spec.selector|Invalid value: {}: empty selector is invalid for statefulset"
                .to_owned(),
        ]),
        // statefulset.md 6.7, T24
        ("other labels", json!({"template": {"metadata": {"labels": {"app": "x"}}}}), vec![
            "Invalid|spec.template.metadata.labels|Invalid value: {\"app\":\"x\"}: `selector` does \
             not match template `labels`".to_owned(),
        ]),
        // statefulset.md 6.8, T24
        ("restart policy", json!({"template": {"spec": {"restartPolicy": "Never"}}}), vec![
            "NotSupported|spec.template.spec.restartPolicy|Unsupported value: \"Never\": supported \
             values: \"Always\"".to_owned(),
        ]),
        // statefulset.md 6.8
        ("deadline", json!({"template": {"spec": {"activeDeadlineSeconds": 5}}}), vec![
            "Forbidden|spec.template.spec.activeDeadlineSeconds|Forbidden: activeDeadlineSeconds in \
             StatefulSet is not Supported".to_owned(),
        ]),
        // statefulset.md 6.9
        ("management", json!({"podManagementPolicy": "Random"}), vec![
            "Invalid|spec.podManagementPolicy|Invalid value: \"Random\": must be 'OrderedReady' or \
             'Parallel'".to_owned(),
        ]),
        // statefulset.md 6.9, 5.23: only two strategies exist
        ("strategy", json!({"updateStrategy": {"type": "Recreate"}}), vec![
            "Invalid|spec.updateStrategy|Invalid value: {\"type\":\"Recreate\"}: must be \
             'RollingUpdate' or 'OnDelete'".to_owned(),
        ]),
        // statefulset.md 6.9, T24
        ("block", json!({"updateStrategy": {"type": "OnDelete", "rollingUpdate": {"partition": 1}}}),
            vec!["Invalid|spec.updateStrategy.rollingUpdate|Invalid value: {\"partition\":1}: only \
             allowed for updateStrategy 'RollingUpdate'".to_owned()]),
    ]
}

fn invalid_numbers() -> Vec<InvalidSet> {
    let negative = "must be greater than or equal to 0";
    vec![
        // statefulset.md 6.10
        ("replicas", json!({"replicas": -1}), vec![
            format!("Invalid|spec.replicas|Invalid value: -1: {negative}"),
        ]),
        // statefulset.md 6.10
        ("min ready", json!({"minReadySeconds": -1}), vec![
            format!("Invalid|spec.minReadySeconds|Invalid value: -1: {negative}"),
        ]),
        // statefulset.md 6.10
        ("start", json!({"ordinals": {"start": -1}}), vec![
            format!("Invalid|spec.ordinals.start|Invalid value: -1: {negative}"),
        ]),
        // statefulset.md 6.10
        ("partition", json!({"updateStrategy": {"rollingUpdate": {"partition": -1}}}), vec![
            format!("Invalid|spec.updateStrategy.rollingUpdate.partition|Invalid value: -1: \
                {negative}"),
        ]),
        // statefulset.md 6.10, 3.42
        ("max", json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 0}}}), vec![
            "Invalid|spec.updateStrategy.rollingUpdate.maxUnavailable|Invalid value: 0: cannot be 0"
                .to_owned(),
        ]),
        // statefulset.md 6.10
        ("percent", json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": "101%"}}}), vec![
            "Invalid|spec.updateStrategy.rollingUpdate.maxUnavailable|Invalid value: \"101%\": must \
             not be greater than 100%".to_owned(),
        ]),
        // statefulset.md 6.10
        ("text", json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": "many"}}}), vec![
            "Invalid|spec.updateStrategy.rollingUpdate.maxUnavailable|Invalid value: \"many\": a \
             valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  \
             or '93%', regex used for validation is '[0-9]+%')".to_owned(),
        ]),
    ]
}

fn invalid_templates() -> Vec<InvalidSet> {
    let claim = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}})
    };
    let label = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or \
        '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', \
        regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
    vec![
        // statefulset.md 6.11
        ("retention", json!({"persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Keep",
            "whenScaled": "Drop"}}), vec![
            "NotSupported|spec.persistentVolumeClaimRetentionPolicy.whenDeleted|Unsupported value: \
             \"Keep\": supported values: \"Delete\", \"Retain\"".to_owned(),
            "NotSupported|spec.persistentVolumeClaimRetentionPolicy.whenScaled|Unsupported value: \
             \"Drop\": supported values: \"Delete\", \"Retain\"".to_owned(),
        ]),
        // statefulset.md 6.12
        ("service", json!({"serviceName": "No"}), vec![
            format!("Invalid|spec.serviceName|Invalid value: \"No\": {label}"),
        ]),
        // statefulset.md 6.12
        ("template", json!({"template": {"spec": {"containers": [{"name": "c"}]}}}), vec![
            "Required|spec.template.spec.containers[0].image|Required value".to_owned(),
        ]),
        // statefulset.md 6.12
        ("claims", json!({"volumeClaimTemplates": [claim("a"), claim("a"), {"metadata":
            {"name": "b"}, "spec": {"resources": {"requests": {"storage": "1Gi"}}}}]}), vec![
            "Required|spec.volumeClaimTemplates[2].spec.accessModes|Required value: at least 1 \
             access mode is required".to_owned(),
            "Duplicate|spec.volumeClaimTemplates[1].metadata.name|Duplicate value: \"a\"".to_owned(),
        ]),
    ]
}

/// Every error of a new set, each in a separate request.
#[tokio::test]
async fn a_new_set_that_is_wrong_is_refused_with_the_field_and_the_reason() {
    let api = Api::new().await;
    let mut cases = invalid_selectors_and_strategies();
    cases.extend(invalid_numbers());
    cases.extend(invalid_templates());
    for (what, change, expected) in cases {
        let (code, status) = api.send("POST", SETS, changed(&change)).await;
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        assert_refused(code, &status, &expected, what);
    }
    let (_, list) = api.get(SETS).await;
    assert_eq!(list["items"], json!([]), "nothing of it is stored");
}

/// statefulset.md 6.7 to 6.9, T24: one response contains all causes.
#[tokio::test]
async fn everything_that_is_wrong_is_said_in_one_reply() {
    let api = Api::new().await;
    let wrong = json!({
        "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"restartPolicy": "Never"}},
        "updateStrategy": {"type": "OnDelete", "rollingUpdate": {"partition": 0}},
    });
    let (code, status) = api.send("POST", SETS, changed(&wrong)).await;
    let expected = [
        "Invalid|spec.updateStrategy.rollingUpdate|Invalid value: {\"partition\":0}: only allowed \
         for updateStrategy 'RollingUpdate'",
        "Invalid|spec.template.metadata.labels|Invalid value: {\"app\":\"x\"}: `selector` does not \
         match template `labels`",
        "NotSupported|spec.template.spec.restartPolicy|Unsupported value: \"Never\": supported \
         values: \"Always\"",
    ];
    assert_refused(code, &status, &expected, "all at once");
}

/// statefulset.md 6.6: no dots and at most 63 letters; 53 to 63 are accepted.
#[tokio::test]
async fn names_are_labels() {
    let api = Api::new().await;
    let (code, status) = api.send("POST", SETS, stateful_set("a.b")).await;
    let dots = ["Invalid|metadata.name|Invalid value: \"a.b\": must not contain dots"];
    let expected: Vec<String> = causes(&status);
    assert_eq!((code, expected[0].as_str()), (422, dots[0]));
    let long = "a".repeat(64);
    let (code, status) = api.send("POST", SETS, stateful_set(&long)).await;
    assert_eq!(code, 422);
    let first =
        format!("Invalid|metadata.name|Invalid value: \"{long}\": must be no more than 63 bytes");
    assert_eq!(causes(&status)[0], first);
    api.create(SETS, stateful_set(&"a".repeat(63))).await;
}

/// statefulset.md 6.5, 2.8, 3.24, T23: the mutable fields, and the errors for other fields.
#[tokio::test]
async fn identity_cannot_be_changed_and_the_rest_can() {
    let api = Api::new().await;
    let claims = json!([{"metadata": {"name": "www"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}}}]);
    let set = changed(&json!({"volumeClaimTemplates": claims}));
    api.create(SETS, set).await;
    let path = format!("{SETS}/web");
    let mut more = claims.clone();
    more[0]["spec"]["resources"]["requests"]["storage"] = json!("2Gi");
    let cause = format!("Forbidden|spec|Forbidden: {IMMUTABLE}");
    for refused in [
        json!({"serviceName": "other"}),
        json!({"podManagementPolicy": "Parallel"}),
        json!({"volumeClaimTemplates": more}),
        json!({"volumeClaimTemplates": null}),
        json!({"selector": {"matchLabels": {"x": "y"}},
            "template": {"metadata": {"labels": {"x": "y"}}}}),
    ] {
        let (code, status) = api.patch(&path, "merge", json!({"spec": refused})).await;
        assert_refused(code, &status, &[&cause], &refused.to_string());
    }
    // statefulset.md 5.7
    let labels = json!({"spec": {"template": {"metadata": {"labels": {"app": "x"}}}}});
    let (code, status) = api.patch(&path, "merge", labels).await;
    let expected = "Invalid|spec.template.metadata.labels|Invalid value: {\"app\":\"x\"}: `selector` \
        does not match template `labels`";
    assert_refused(code, &status, &[expected], "labels of the template");
    let mut generation = 1;
    for accepted in [
        json!({"replicas": 5}),
        json!({"minReadySeconds": 5}),
        json!({"ordinals": {"start": 3}}),
        json!({"revisionHistoryLimit": 2}),
        json!({"persistentVolumeClaimRetentionPolicy": {"whenScaled": "Delete"}}),
        json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": "50%"}}}),
        json!({"updateStrategy": {"type": "OnDelete", "rollingUpdate": null}}),
        json!({"template": {"metadata": {"labels": {"more": "x"}}}}),
    ] {
        // statefulset.md T19: each change of the spec increments the generation.
        let (code, changed) = api.patch(&path, "merge", json!({"spec": accepted})).await;
        generation += 1;
        assert_eq!(code, 200, "{accepted}: {changed}");
        assert_eq!(changed["metadata"]["generation"], generation, "{accepted}");
    }
    // statefulset.md T20: a change of an annotation does not.
    let note = json!({"metadata": {"annotations": {"a": "b"}}});
    let (_, noted) = api.patch(&path, "merge", note).await;
    assert_eq!(noted["metadata"]["generation"], generation);
}

/// statefulset.md 3.40 to 3.42: differs from 1.36, which drops the field; no default is set.
#[tokio::test]
async fn max_unavailable_is_kept_and_not_filled_in() {
    let api = Api::new().await;
    let rolling = |set: &Value| set["spec"]["updateStrategy"]["rollingUpdate"].clone();
    let created = api.create(SETS, stateful_set("web")).await;
    assert_eq!(rolling(&created), json!({"partition": 0}));
    let path = format!("{SETS}/web");
    for value in [json!(2), json!("50%")] {
        let change = json!({"spec": {"updateStrategy": {"rollingUpdate":
            {"maxUnavailable": value}}}});
        let (_, changed) = api.patch(&path, "merge", change).await;
        assert_eq!(
            rolling(&changed),
            json!({"partition": 0, "maxUnavailable": value})
        );
        assert_eq!(rolling(&api.get(&path).await.1)["maxUnavailable"], value);
    }
}

/// statefulset.md 5.10, 6.1, 6.13, 6.15, T15: the defaults, and the fields that stay absent.
#[tokio::test]
async fn defaults_are_filled_in_and_nothing_else() {
    let api = Api::new().await;
    let set = changed(
        &json!({"serviceName": null, "volumeClaimTemplates": [{"metadata":
        {"name": "unused"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}}}]}),
    );
    let created = api.create(SETS, set).await;
    let spec = &created["spec"];
    assert_eq!(spec["serviceName"], "");
    assert_eq!(spec["replicas"], 1);
    assert_eq!(spec["podManagementPolicy"], "OrderedReady");
    assert_eq!(spec["revisionHistoryLimit"], 10);
    let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}});
    assert_eq!(spec["updateStrategy"], strategy);
    let retain = json!({"whenDeleted": "Retain", "whenScaled": "Retain"});
    assert_eq!(spec["persistentVolumeClaimRetentionPolicy"], retain);
    let claim = &spec["volumeClaimTemplates"][0];
    assert_eq!(
        (&claim["apiVersion"], &claim["kind"]),
        (&json!("v1"), &json!("PersistentVolumeClaim"))
    );
    assert_eq!(claim["spec"]["volumeMode"], "Filesystem");
    assert_eq!(claim["status"]["phase"], "Pending");
    let mut bare = stateful_set("bare");
    bare["spec"]["updateStrategy"] = json!({"type": "RollingUpdate"});
    api.create(SETS, bare).await;
    let (_, read) = api.get(&format!("{SETS}/bare")).await;
    assert_eq!(
        read["spec"]["updateStrategy"],
        json!({"type": "RollingUpdate"})
    );
}

/// statefulset.md 6.14, 4.11: warnings about accepted fields.
#[tokio::test]
async fn advice_comes_as_warnings() {
    let api = Api::new().await;
    let wish = json!({"revisionHistoryLimit": -1,
        "template": {"spec": {"nodeSelector": {"beta.kubernetes.io/os": "linux"}}},
        "volumeClaimTemplates": [{"metadata": {"name": "www"}, "spec": {
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1500m"}}}}]});
    let json = [("content-type", "application/json")];
    let created = api
        .raw("POST", SETS, &json, changed(&wish).to_string())
        .await;
    assert_eq!(created.code, 201, "{}", created.text());
    assert_eq!(
        created.warnings(),
        [
            "299 - \"spec.template.spec.nodeSelector[beta.kubernetes.io/os]: deprecated since \
             v1.14; use \\\"kubernetes.io/os\\\" instead\"",
            "299 - \"spec.revisionHistoryLimit: a negative value retains all historical revisions; \
             a value >= 0 is recommended\"",
            "299 - \"spec.volumeClaimTemplates[0].resources.requests[storage]: fractional byte \
             value \\\"1500m\\\" is invalid, must be an integer\"",
        ]
    );
}

/// statefulset.md 6.12, 6.6: an object that earlier rules allowed can still be changed in other fields.
#[tokio::test]
async fn what_is_stored_is_left_alone() {
    let api = Api::new().await;
    let mut set = api.create(SETS, stateful_set("web")).await;
    set["metadata"]["name"] = json!("old.name");
    set["spec"]["serviceName"] = json!("Not A Label");
    set["spec"]["template"]["spec"]["containers"][0]["name"] = json!("Not A Label");
    set["metadata"]["annotations"] = json!({"mainstay.dev/of-former-times": "x"});
    set["metadata"]["resourceVersion"] = json!("VERSION");
    let text = set.to_string();
    let (before, after) = text.split_once("VERSION").unwrap();
    let put = Operation::Put {
        key: b"/registry/statefulsets/default/old.name".to_vec(),
        value: mvcc_store::Value::Stamped {
            before: before.to_owned().into(),
            after: after.to_owned().into(),
            omittable: Omittable::UNKNOWN,
        },
        lease: None,
    };
    let txn = Txn {
        compare: Vec::new(),
        operations: vec![put],
    };
    api.store.txn(txn).await.unwrap();
    let path = format!("{SETS}/old.name");
    let (code, scaled) = api
        .patch(&path, "merge", json!({"spec": {"replicas": 3}}))
        .await;
    assert_eq!(
        (code, &scaled["spec"]["replicas"]),
        (200, &json!(3)),
        "{scaled}"
    );
    let (code, _) = api
        .patch(
            &format!("{path}/status"),
            "merge",
            json!({"status": {"replicas": 1}}),
        )
        .await;
    assert_eq!(code, 200);
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "Not A Label",
        "image": "other"}]}}}});
    let (code, status) = api.patch(&path, "merge", image).await;
    assert_eq!(code, 422, "a new template is looked at: {status}");
    assert!(causes(&status)[0].starts_with("Invalid|spec.template.spec.containers[0].name|"));
}

/// statefulset.md 5.17, 4.8: the counts of a status must be consistent.
#[tokio::test]
async fn a_status_that_does_not_add_up_is_refused() {
    let api = Api::new().await;
    api.create(SETS, stateful_set("web")).await;
    let path = format!("{SETS}/web/status");
    let more = "cannot be greater than status.replicas";
    let negative = "must be greater than or equal to 0";
    let good = json!({"status": {"replicas": 3, "readyReplicas": 1, "collisionCount": 2}});
    assert_eq!(api.patch(&path, "merge", good).await.0, 200);
    let cases = BTreeMap::from([
        ("readyReplicas", (4, more)),
        ("currentReplicas", (4, more)),
        ("updatedReplicas", (4, more)),
        (
            "availableReplicas",
            (2, "cannot be greater than status.readyReplicas"),
        ),
        ("replicas", (-1, negative)),
        ("observedGeneration", (-1, negative)),
        ("collisionCount", (1, "cannot be decremented")),
    ]);
    for (field, (value, text)) in cases {
        let (code, status) = api
            .patch(&path, "merge", json!({"status": {field: value}}))
            .await;
        let expected = format!("Invalid|status.{field}|Invalid value: {value}: {text}");
        assert_eq!(code, 422, "{field}");
        assert!(causes(&status).contains(&expected), "{field}: {status}");
    }
}

/// statefulset.md 4.13: the data of a revision is immutable; its number may change.
#[tokio::test]
async fn the_data_of_a_revision_stay() {
    let api = Api::new().await;
    let revision = json!({"metadata": {"name": "r"}, "data": {"a": 1}, "revision": 1});
    api.create(REVISIONS, revision).await;
    let path = format!("{REVISIONS}/r");
    let (code, status) = api.patch(&path, "merge", json!({"data": {"a": 2}})).await;
    assert_eq!(code, 422);
    assert_eq!(status["details"]["causes"][0]["field"], "data");
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .ends_with("field is immutable"),
        "{status}"
    );
    let (code, changed) = api.patch(&path, "merge", json!({"revision": 7})).await;
    assert_eq!((code, &changed["revision"]), (200, &json!(7)));
}

/// statefulset.md 6.2, 6.4: a set is deleted at once, unless the request asks for another policy.
#[tokio::test]
async fn a_deleted_set_is_gone_at_once() {
    let api = Api::new().await;
    let path = format!("{SETS}/web");
    for (options, there) in [
        (Value::Null, false),
        (json!({"propagationPolicy": "Background"}), false),
        (json!({"propagationPolicy": "Foreground"}), true),
    ] {
        api.create(SETS, stateful_set("web")).await;
        let (code, _) = api.send("DELETE", &path, options.clone()).await;
        assert_eq!(code, 200);
        assert_eq!(api.get(&path).await.0 == 200, there, "{options}");
    }
    let (_, waiting) = api.get(&path).await;
    assert_eq!(
        waiting["metadata"]["finalizers"],
        json!(["foregroundDeletion"])
    );
}
