//! Annotations of sets, claims and revisions that the server and the controller of sets write, and that a client may have changed.

use std::sync::{Arc, LazyLock};

use controller_planners::stateful_set::{
    Cause, Observed, StatefulSetPlan, invariants, plan, revisions,
};
use jiff::Timestamp;
use json_tree::{Value, json};
use resource_kinds::Kind;
use resource_kinds::annotations::{
    APPROVED_STEP, REJECTED, REMOVED_CLAIM_TEMPLATES, ROLLOUT_STEP, TEMPLATE_METADATA,
};
use resource_kinds::apps::StatefulSet;

use super::Target;
use super::texts::text;

/// A stored set whose claims follow their template; its pod template mounts a volume that no template has.
static SET: LazyLock<Value> = LazyLock::new(|| {
    json!({"apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": {"name": "db", "namespace": "d", "uid": "u", "resourceVersion": "1",
            "annotations": {"mainstay.dev/claim-updates": "InPlace"}},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "db"}},
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [
                {"name": "c", "image": "i", "volumeMounts": [{"name": "log", "mountPath": "/log"}]}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data", "labels": {"chart": "2"}},
                "spec": {"resources": {"requests": {"storage": "1Gi"}}}}]}})
});

pub const CLAIM_TEMPLATES: Target = Target {
    name: "claim-templates",
    seeds: &[
        br#"[{"metadata":{"name":"log"},"spec":{"accessModes":["ReadWriteOnce"]}}]"#,
        br#"{"labels":{"chart":"1"},"annotations":{"note":"n"}}"#,
        br#"{"revision":2,"passed":1,"reached":"1970-01-01T00:00:00Z"}"#,
        br#"{"at":"2026-12-01T00:00:00Z","pod":"db-0","uid":"u","reason":"r","message":"m"}"#,
    ],
    words: &[
        "\"name\":",
        "\"metadata\":",
        "\"labels\":",
        "{",
        "}",
        "[",
        "]",
        "null",
        "data",
        "log",
    ],
    run: |bytes| {
        if let Some(text) = text(bytes) {
            removed(text);
            recorded(text);
            rejected(text);
            stepped(text);
        }
    },
};

/// An update of a set whose record of removed templates is the text.
fn removed(text: &str) {
    let mut old = SET.clone();
    old["metadata"]["annotations"][REMOVED_CLAIM_TEMPLATES] = json!(text);
    old["spec"]["template"]["spec"]["containers"] = json!([]);
    let mut new = SET.clone();
    StatefulSet.prepare_update(&mut new, &old);
    // The record is a list of at most 16 templates.
    let record = new["metadata"]["annotations"][REMOVED_CLAIM_TEMPLATES].clone();
    let record: Vec<Value> = record
        .as_str()
        .map(|text| serde_json::from_str(text).expect("JSON"))
        .unwrap_or_default();
    assert!(record.len() <= 16);
}

/// The plan for a set whose revision has the text as evidence against it.
fn rejected(text: &str) {
    let plan = rollout(json!({"onFailure": "Rollback"}), json!({ REJECTED: text }));
    let waits = plan.waiting_on.iter();
    let is_rejected = waits.map(|waiting| &waiting.cause);
    let mut is_rejected =
        is_rejected.filter(|cause| matches!(cause, Cause::RevisionRejected { .. }));
    // Evidence that cannot be read is evidence.
    assert!(is_rejected.next().is_some());
}

/// The plan for a set whose revision has the text as the progress of its steps, and as an approval.
fn stepped(text: &str) {
    let steps = json!([{"pods": 1, "pause": {"untilApproved": true}}]);
    let annotations = json!({ ROLLOUT_STEP: text, APPROVED_STEP: text });
    rollout(json!({ "steps": steps }), annotations);
}

/// The plan for a set in a rollout with these rules, whose revision has these annotations.
fn rollout(rules: Value, annotations: Value) -> StatefulSetPlan {
    let mut set = SET.clone();
    set["status"] = json!({"replicas": 0, "currentRevision": "db-old"});
    let policy = json!({"spec": {"setRef": {"name": "db"}, "rollout": rules}});
    let mut observed = Observed {
        set: Arc::new(json_tree::from_value(set).expect("a set")),
        policy: Some(Arc::new(json_tree::from_value(policy).expect("a policy"))),
        ..Observed::default()
    };
    let template = observed.set.spec.as_ref().map(|spec| &spec.template);
    let data = revisions::encode(template.expect("a template"));
    let revision = |name: &str, number: i64, data: &serde_json::Value, annotations: Value| {
        let owner = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db",
            "uid": "u", "controller": true});
        let revision = json!({"metadata": {"name": name, "namespace": "d", "uid": name,
                "labels": {"app": "db"}, "annotations": annotations, "ownerReferences": [owner]},
            "revision": number, "data": data});
        Arc::new(json_tree::from_value(revision).expect("a revision"))
    };
    let old = serde_json::json!({"spec": {"template": {}}});
    observed.revisions = vec![
        revision("db-old", 1, &old, Value::Null),
        revision("db-new", 2, &data, annotations),
    ];
    let now = Timestamp::UNIX_EPOCH;
    let plan = plan(&observed, now).expect("complete identities");
    let broken = invariants::violations(&observed, &plan, now);
    assert_eq!(broken, Vec::<String>::new());
    plan
}

/// The plan for a set and a claim with the text as their records.
fn recorded(text: &str) {
    let mut set = SET.clone();
    set["metadata"]["annotations"][REMOVED_CLAIM_TEMPLATES] = json!(text);
    let claim = json!({"metadata": {"name": "data-db-0", "namespace": "d", "uid": "c",
            "resourceVersion": "1", "labels": {"chart": "1"}, "annotations": {TEMPLATE_METADATA: text}},
        "spec": {"resources": {"requests": {"storage": "1Gi"}}}});
    let claim = json_tree::from_value(claim).expect("a claim");
    let observed = Observed {
        set: Arc::new(json_tree::from_value(set).expect("a set")),
        claims: [("data-db-0".to_owned(), Arc::new(claim))].into(),
        ..Observed::default()
    };
    let now = Timestamp::UNIX_EPOCH;
    let plan = plan(&observed, now).expect("complete identities");
    assert_eq!(
        invariants::violations(&observed, &plan, now),
        Vec::<String>::new()
    );
}
