//! The hooks of a StatefulSetPolicy before an eviction (rollouts.md R26).

use json_tree::{Value, json};
use resource_kinds::annotations::{HOOK, HOOK_DONE};
use resource_kinds::stateful_set_policy::{HookPurpose, PodHold, PolicyHook};

use crate::guard::{POLICIES, evict, set_ready, with_set};
use crate::harness::{Api, PODS};

fn hook() -> Value {
    json!({"name": "drain", "before": ["Evict", "Update"], "exec": {"command": ["drain"]}})
}

/// A set of three pods with a hook.
async fn with_hook() -> Api {
    let api = with_set(json!(1)).await;
    let spec = json!({"spec": {"hooks": [hook()]}});
    let (code, answer) = api.patch(&format!("{POLICIES}/p"), "merge", spec).await;
    assert_eq!(code, 200, "{answer}");
    api
}

async fn pod(api: &Api, ordinal: usize) -> Value {
    api.get(&format!("{PODS}/db-{ordinal}")).await.1
}

async fn hold(api: &Api, ordinal: usize) -> Option<PodHold> {
    let pod = pod(api, ordinal).await;
    PodHold::parse(pod["metadata"]["annotations"][HOOK].as_str()?)
}

/// Writes the hold with the hook, as the controller of the set does.
async fn begin(api: &Api, ordinal: usize, hold: &PodHold) -> PodHold {
    let hook: PolicyHook = json_tree::from_value(hook()).unwrap();
    let hold = hold.begin(&hook, hold.since);
    annotate(api, ordinal, HOOK, &hold.text()).await;
    hold
}

async fn annotate(api: &Api, ordinal: usize, key: &str, text: &str) {
    let annotation = json!({"metadata": {"annotations": {key: text}}});
    let path = format!("{PODS}/db-{ordinal}");
    assert_eq!(api.patch(&path, "merge", annotation).await.0, 200);
}

async fn succeed(api: &Api, ordinal: usize, id: &str) {
    let status = json!({"status": {"conditions": [
        {"type": "mainstay.dev/HookDone", "status": "True", "message": id}]}});
    let path = format!("{PODS}/db-{ordinal}/status");
    assert_eq!(api.patch(&path, "strategic", status).await.0, 200);
}

/// rollouts.md R26: an eviction begins the hooks, and is refused until they are done.
#[tokio::test]
async fn an_eviction_waits_for_its_hooks() {
    let api = with_hook().await;
    let (code, refused) = evict(&api, 1, Value::Null).await;
    assert_eq!(code, 429, "{refused}");
    assert_eq!(
        refused["message"],
        "Cannot evict pod before its hooks of StatefulSetPolicy p are done."
    );
    let begun = hold(&api, 1).await.expect("a hold");
    assert_eq!((begun.purpose, &begun.hook), (HookPurpose::Evict, &None));
    // A repeated eviction changes nothing for a minute.
    let version = pod(&api, 1).await["metadata"]["resourceVersion"].clone();
    assert_eq!(evict(&api, 1, Value::Null).await.0, 429);
    assert_eq!(pod(&api, 1).await["metadata"]["resourceVersion"], version);
    let running = begin(&api, 1, &begun).await;
    succeed(&api, 1, "Evict/drain/another").await;
    assert_eq!(evict(&api, 1, Value::Null).await.0, 429);
    succeed(&api, 1, &running.id).await;
    assert_eq!(evict(&api, 1, Value::Null).await.0, 201);
    assert!(!pod(&api, 1).await["metadata"]["deletionTimestamp"].is_null());
    // An answer by a person counts as well.
    assert_eq!(evict(&api, 2, Value::Null).await.0, 429);
    let begun = hold(&api, 2).await.expect("a hold");
    let running = begin(&api, 2, &begun).await;
    annotate(&api, 2, HOOK_DONE, &running.id).await;
    assert_eq!(evict(&api, 2, Value::Null).await.0, 201);
}

/// rollouts.md R26, R31: a pod that is down has no hooks; a dry run, and a budget that holds the pod, begin none.
#[tokio::test]
async fn hooks_do_not_begin_in_vain() {
    let api = with_hook().await;
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": "db-1"}, "deleteOptions": {"dryRun": ["All"]}});
    let path = format!("{PODS}/db-1/eviction");
    let (code, refused) = api.send("POST", &path, eviction).await;
    assert_eq!(code, 429, "{refused}");
    assert_eq!(hold(&api, 1).await, None);
    set_ready(&api, 0, "False").await;
    assert_eq!(evict(&api, 0, Value::Null).await.0, 201);
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({"metadata": {"name": "b"},
        "spec": {"minAvailable": 3, "selector": {"matchLabels": {"app": "db"}}}});
    api.create(budgets, budget).await;
    let (code, refused) = evict(&api, 1, Value::Null).await;
    assert_eq!(code, 429);
    let reason = &refused["details"]["causes"][0]["reason"];
    assert_eq!(reason, "DisruptionBudget");
    assert_eq!(hold(&api, 1).await, None);
}

/// rollouts.md R24: a hold for an update becomes one for the eviction; a pod that is emptied stays so.
#[tokio::test]
async fn the_stronger_purpose_counts() {
    let api = with_hook().await;
    let now = jiff::Timestamp::now();
    let update = begin(&api, 1, &PodHold::new(HookPurpose::Update, now)).await;
    succeed(&api, 1, &update.id).await;
    assert_eq!(evict(&api, 1, Value::Null).await.0, 429);
    let purpose = hold(&api, 1).await.map(|hold| hold.purpose);
    assert_eq!(purpose, Some(HookPurpose::Evict));
    let emptied = PodHold::new(HookPurpose::ScaleDown, now);
    let cancelled = PodHold {
        cancels: true,
        ..emptied.clone()
    };
    annotate(&api, 2, HOOK, &cancelled.text()).await;
    assert_eq!(evict(&api, 2, Value::Null).await.0, 429);
    assert!(hold(&api, 2).await.unwrap().cancels);
    // The policy has no hook before a scale-down, so there is none to wait for.
    annotate(&api, 2, HOOK, &emptied.text()).await;
    assert_eq!(evict(&api, 2, Value::Null).await.0, 201);
}

/// rollouts.md S4: the definition refuses steps and hooks that cannot be meant.
#[tokio::test]
async fn steps_and_hooks_are_validated() {
    let api = Api::with_policies().await;
    let create = async |name: &str, rules: Value| {
        let mut spec = rules;
        spec["setRef"] = json!({"name": "db"});
        let object = json!({"apiVersion": "apps.mainstay.dev/v1alpha1", "kind": "StatefulSetPolicy",
            "metadata": {"name": name}, "spec": spec});
        api.send("POST", POLICIES, object).await
    };
    let refused = [
        json!({"rollout": {"steps": [{"pods": 0}]}}),
        json!({"rollout": {"steps": [{"pods": "0%"}]}}),
        json!({"rollout": {"steps": [{"pods": "half"}]}}),
        json!({"rollout": {"steps": [{"pods": 1, "pause": {}}]}}),
        json!({"rollout": {"steps": [{"pods": 1, "pause": {"seconds": 1, "untilApproved": true}}]}}),
        json!({"hooks": [{"name": "h", "before": []}]}),
        json!({"hooks": [{"name": "h", "before": ["Fun"]}]}),
        json!({"hooks": [{"name": "h", "before": ["Update"], "roles": ["leader"]}]}),
        json!({"hooks": [{"name": "h", "before": ["Update"], "cancel": {}}]}),
        json!({"hooks": [{"name": "h", "before": ["Update"], "exec": {"command": ["a"]},
            "tcpSocket": {"port": 1}}]}),
    ];
    for rules in refused {
        let (code, answer) = create("x", rules.clone()).await;
        assert_eq!(code, 422, "{rules}: {answer}");
    }
    let accepted = json!({
        "rollout": {"steps": [{"pods": 1, "pause": {"seconds": 5}}, {"pods": "50%"}]},
        "hooks": [{"name": "h", "before": ["Update"]}, hook()]});
    let (code, answer) = create("y", accepted).await;
    assert_eq!(code, 201, "{answer}");
}
