//! The guard of a StatefulSetPolicy in the transaction of the eviction (rollouts.md R27–R31).

use bytes::Bytes;
use futures::future::join_all;
use json_tree::{Value, json};
use mvcc_store::{Operation, Range, Store, Txn};
use resource_kinds::annotations::PURPOSE;

use crate::harness::{Api, PODS, SETS, stateful_set};

pub const POLICIES: &str =
    "/apis/apps.mainstay.dev/v1alpha1/namespaces/default/statefulsetpolicies";

/// A set `db` of three pods, and a policy for it.
pub async fn with_set(min_healthy: Value) -> Api {
    let api = Api::with_policies().await;
    api.with_account().await;
    let mut set = stateful_set("db");
    set["spec"]["replicas"] = json!(3);
    let set = api.create(SETS, set).await;
    for ordinal in 0..3 {
        add_pod(&api, &set, ordinal).await;
    }
    api.create(POLICIES, policy("p", "db", min_healthy)).await;
    api
}

fn policy(name: &str, set: &str, min_healthy: Value) -> Value {
    json!({
        "apiVersion": "apps.mainstay.dev/v1alpha1", "kind": "StatefulSetPolicy",
        "metadata": {"name": name},
        "spec": {"setRef": {"name": set}, "guard": {"minHealthy": min_healthy}},
    })
}

async fn add_pod(api: &Api, set: &Value, ordinal: usize) {
    let set_name = set["metadata"]["name"].as_str().unwrap();
    let owner = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": set_name,
        "uid": set["metadata"]["uid"], "controller": true});
    let name = format!("{set_name}-{ordinal}");
    let pod = json!({
        "metadata": {"name": name, "labels": {"app": "db"}, "ownerReferences": [owner]},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]},
    });
    api.create(PODS, pod).await;
    set_pod_ready(api, &name, "True").await;
}

pub async fn set_ready(api: &Api, ordinal: usize, ready: &str) {
    set_pod_ready(api, &format!("db-{ordinal}"), ready).await;
}

async fn set_pod_ready(api: &Api, name: &str, ready: &str) {
    let status = json!({"status": {"phase": "Running",
        "conditions": [{"type": "Ready", "status": ready}]}});
    let path = format!("{PODS}/{name}/status");
    assert_eq!(api.patch(&path, "strategic", status).await.0, 200);
}

pub async fn evict(api: &Api, ordinal: usize, annotations: Value) -> (u16, Value) {
    evict_pod(api, &format!("db-{ordinal}"), annotations).await
}

async fn evict_pod(api: &Api, name: &str, annotations: Value) -> (u16, Value) {
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": name, "annotations": annotations}});
    let path = format!("{PODS}/{name}/eviction");
    api.send("POST", &path, eviction).await
}

/// The sets `db` of three pods and `cache` of one, each with a policy; both are of one group.
async fn with_group() -> Api {
    let api = with_set(json!("Quorum")).await;
    let mut cache = stateful_set("cache");
    cache["spec"]["replicas"] = json!(1);
    let cache = api.create(SETS, cache).await;
    add_pod(&api, &cache, 0).await;
    let mut other = policy("q", "cache", json!(1));
    other["spec"]["guard"]["group"] = json!("bank");
    api.create(POLICIES, other).await;
    let grouped = json!({"spec": {"guard": {"group": "bank"}}});
    let path = format!("{POLICIES}/p");
    assert_eq!(api.patch(&path, "merge", grouped).await.0, 200);
    api
}

/// rollouts.md R28: evictions in two sets of a group never use the same healthy pod.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_evictions_in_a_group_leave_a_quorum() {
    let api = with_group().await;
    let all = (0..8).map(async |n| match n % 2 {
        0 => evict_pod(&api, "cache-0", Value::Null).await,
        _ => evict(&api, n / 2 % 3, json!({ PURPOSE: "Update" })).await,
    });
    let answers = join_all(all).await;
    let (_, pods) = api.get(PODS).await;
    let pods = pods["items"].as_array().unwrap();
    let is_going = |pod: &&Value| !pod["metadata"]["deletionTimestamp"].is_null();
    let going = pods.iter().filter(is_going);
    assert_eq!(going.count(), 1, "{answers:?}");
    assert!(answers.iter().all(|(code, _)| [201, 429].contains(code)));
}

/// rollouts.md R28: the pods of all sets of a group count, and the strictest of their policies decides.
#[tokio::test]
async fn a_group_shares_its_guard() {
    let api = with_group().await;
    set_pod_ready(&api, "cache-0", "False").await;
    let (code, held) = evict(&api, 2, Value::Null).await;
    assert_eq!(code, 429, "{held}");
    let text = "Cannot evict pod as it would violate the guard of StatefulSetPolicy p: 3 of 4 pods of group \
                bank must stay healthy, and 3 are; StatefulSet cache has 0 of 1.";
    assert_eq!(held["message"], text);
    assert_eq!(evict_pod(&api, "cache-0", Value::Null).await.0, 201);
    // The other set leaves the group.
    let path = format!("{POLICIES}/q");
    let alone = json!({"spec": {"guard": {"group": null}}});
    assert_eq!(api.patch(&path, "merge", alone).await.0, 200);
    assert_eq!(evict(&api, 2, Value::Null).await.0, 201);
    assert_eq!(evict(&api, 1, Value::Null).await.0, 429);
}

/// rollouts.md R28: a group with a policy that cannot be read holds.
#[tokio::test]
async fn a_group_that_cannot_be_read_holds() {
    let api = with_group().await;
    api.rewrite_stored("statefulsetpolicies/default/q", |text| {
        text.replace("\"minHealthy\":1", "\"minHealthy\":\"all\"")
    })
    .await;
    let (code, unreadable) = evict(&api, 2, Value::Null).await;
    assert_eq!(code, 500, "{unreadable}");
    for group in ["Bank", "", "-"] {
        let path = format!("{POLICIES}/p");
        let refused = json!({"spec": {"guard": {"group": group}}});
        assert_eq!(api.patch(&path, "merge", refused).await.0, 422, "{group}");
    }
}

/// rollouts.md R27, R28: concurrent evictions never use the same healthy pod.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_evictions_leave_a_quorum() {
    let api = with_set(json!("Quorum")).await;
    let update = || json!({ PURPOSE: "Update" });
    let all = (0..12).map(|n| {
        let annotations = if n % 2 == 0 { Value::Null } else { update() };
        evict(&api, n % 3, annotations)
    });
    let answers = join_all(all).await;
    let mut refused = 0;
    for (code, answer) in &answers {
        assert!([201, 429].contains(code), "{code} {answer}");
        refused += usize::from(*code == 429);
    }
    // The pod that goes may be evicted again.
    assert_eq!(refused, 8, "{answers:?}");
    let (_, pods) = api.get(PODS).await;
    let pods = pods["items"].as_array().unwrap();
    let going = pods
        .iter()
        .filter(|pod| !pod["metadata"]["deletionTimestamp"].is_null());
    assert_eq!(going.count(), 1);
    let (_, text) = answers.iter().find(|(code, _)| *code == 429).unwrap();
    assert_eq!(
        text["message"],
        "Cannot evict pod as it would violate the guard of StatefulSetPolicy p: 2 of 3 pods must \
         stay healthy, and 2 are."
    );
    assert_eq!(text["details"]["causes"][0]["reason"], "StatefulSetPolicy");
}

/// rollouts.md R27, R31
#[tokio::test]
async fn an_unhealthy_pod_may_go_and_no_other() {
    let api = with_set(json!("60%")).await;
    set_ready(&api, 1, "False").await;
    assert_eq!(evict(&api, 2, Value::Null).await.0, 429);
    assert_eq!(evict(&api, 1, Value::Null).await.0, 201);
    // A pod outside of the desired ordinals is no part of the quorum, and does not count for it.
    let (_, set) = api.get(&format!("{SETS}/db")).await;
    add_pod(&api, &set, 3).await;
    assert_eq!(evict(&api, 2, Value::Null).await.0, 429);
    assert_eq!(evict(&api, 3, Value::Null).await.0, 201);
    // A plain deletion is not held.
    let (code, _) = api
        .send("DELETE", &format!("{PODS}/db-2"), Value::Null)
        .await;
    assert_eq!(code, 200);
}

/// rollouts.md R29, R30: the results of the checks count in the transaction of the eviction.
#[tokio::test]
async fn checks_hold_evictions() {
    let api = with_set(json!("Quorum")).await;
    let check = json!({"exec": {"command": ["check"]}});
    let path = format!("{POLICIES}/p");
    let checks = json!({"spec": {"guard": {"health": check, "recovered": check}}});
    let (code, answer) = api.patch(&path, "merge", checks).await;
    assert_eq!(code, 200, "{answer}");
    let checked = async |ordinal: usize, healthy: &str, recovered: &str| {
        let status = json!({"status": {"conditions": [
            {"type": "mainstay.dev/Healthy", "status": healthy},
            {"type": "mainstay.dev/Recovered", "status": recovered}]}});
        let path = format!("{PODS}/db-{ordinal}/status");
        assert_eq!(api.patch(&path, "strategic", status).await.0, 200);
    };
    for ordinal in 0..3 {
        checked(ordinal, "True", "True").await;
    }
    checked(0, "True", "False").await;
    let (code, held) = evict(&api, 1, Value::Null).await;
    assert_eq!(code, 429);
    let text = held["message"].as_str().unwrap();
    assert!(
        text.contains("3 are; 1 of these has not recovered"),
        "{text}"
    );
    checked(0, "False", "True").await;
    assert_eq!(evict(&api, 1, Value::Null).await.0, 429);
    assert_eq!(evict(&api, 0, Value::Null).await.0, 201);
    let (code, refused) = api
        .patch(
            &path,
            "merge",
            json!({"spec": {"guard": {"health":
        {"exec": null}}}}),
        )
        .await;
    assert_eq!(code, 422, "{refused}");
    let text = refused["message"].as_str().unwrap();
    assert!(
        text.contains("exactly one of exec, httpGet and tcpSocket"),
        "{text}"
    );
}

/// rollouts.md R28: budgets do not hold an eviction with a purpose; its user must be allowed to delete the pod.
#[tokio::test]
async fn a_purpose_takes_no_budget() {
    let api = with_set(json!(2)).await;
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({"metadata": {"name": "b"},
        "spec": {"minAvailable": 3, "selector": {"matchLabels": {"app": "db"}}}});
    api.create(budgets, budget).await;
    let (code, held) = evict(&api, 2, Value::Null).await;
    assert_eq!(code, 429);
    assert_eq!(held["details"]["causes"][0]["reason"], "DisruptionBudget");
    let (code, unknown) = evict(&api, 2, json!({ PURPOSE: "Fun" })).await;
    assert_eq!(code, 422, "{unknown}");
    let evictor = json!({"metadata": {"name": "evictor"}, "rules": [
        {"apiGroups": [""], "resources": ["pods/eviction"], "verbs": ["create"]}]});
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    api.create(&format!("{roles}/roles"), evictor).await;
    let binding = json!({"metadata": {"name": "evictor"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "evictor"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "eve"}]});
    api.create(&format!("{roles}/rolebindings"), binding).await;
    let eve = api.as_user("eve", &[]);
    // The role takes effect a moment later.
    let mut answer = evict(&eve, 2, Value::Null).await;
    for _ in 0..500 {
        if answer.0 != 403 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        answer = evict(&eve, 2, Value::Null).await;
    }
    assert_eq!(answer.0, 429, "{}", answer.1);
    let (code, refused) = evict(&eve, 2, json!({ PURPOSE: "Update" })).await;
    assert_eq!(code, 403, "{refused}");
    assert_eq!(evict(&api, 2, json!({ PURPOSE: "Update" })).await.0, 201);
}

/// rollouts.md R28: with `budgets`, a budget holds evictions of the controller as well.
#[tokio::test]
async fn budgets_hold_updates_where_the_guard_says_so() {
    let api = with_set(json!(1)).await;
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({"metadata": {"name": "b"},
        "spec": {"minAvailable": 3, "selector": {"matchLabels": {"app": "db"}}}});
    api.create(budgets, budget).await;
    let set = |on: bool| json!({"spec": {"guard": {"budgets": on}}});
    let path = format!("{POLICIES}/p");
    assert_eq!(api.patch(&path, "merge", set(true)).await.0, 200);
    let update = json!({ PURPOSE: "Update" });
    let (code, held) = evict(&api, 2, update.clone()).await;
    assert_eq!(code, 429);
    assert_eq!(held["details"]["causes"][0]["reason"], "DisruptionBudget");
    // An unhealthy pod takes no budget if the budget says so.
    let always = json!({"spec": {"unhealthyPodEvictionPolicy": "AlwaysAllow"}});
    assert_eq!(
        api.patch(&format!("{budgets}/b"), "merge", always).await.0,
        200
    );
    set_ready(&api, 1, "False").await;
    assert_eq!(evict(&api, 1, update.clone()).await.0, 201);
    assert_eq!(api.patch(&path, "merge", set(false)).await.0, 200);
    assert_eq!(evict(&api, 2, update).await.0, 201);
}

/// rollouts.md S1, S2, S4: without a guard in force nothing is held; an unreadable policy is not an absent one.
#[tokio::test]
async fn only_a_guard_that_is_in_force_holds() {
    let api = with_set(json!("0%")).await;
    // The older of two policies that name the set is in force.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    api.create(POLICIES, policy("a", "db", json!("100%"))).await;
    assert_eq!(evict(&api, 2, Value::Null).await.0, 201);
    api.send("DELETE", &format!("{POLICIES}/p"), Value::Null)
        .await;
    let (code, held) = evict(&api, 1, Value::Null).await;
    assert_eq!(code, 429, "{held}");
    api.rewrite_stored("statefulsetpolicies/default/a", |text| {
        text.replace("100%", "all")
    })
    .await;
    let (code, unreadable) = evict(&api, 1, Value::Null).await;
    assert_eq!(code, 500, "{unreadable}");
    assert!(
        unreadable["message"]
            .as_str()
            .unwrap()
            .contains("StatefulSetPolicy a")
    );
    api.send("DELETE", &format!("{POLICIES}/a"), Value::Null)
        .await;
    assert_eq!(evict(&api, 1, Value::Null).await.0, 201);
}

/// rollouts.md S4: the definition refuses a policy that cannot be meant.
#[tokio::test]
async fn a_policy_is_validated() {
    let api = Api::with_policies().await;
    let refused = async |spec: Value| {
        let mut object = policy("x", "db", json!(1));
        object["spec"] = spec;
        let (code, status) = api.send("POST", POLICIES, object).await;
        assert_eq!(code, 422, "{status}");
        status["message"].as_str().unwrap().to_owned()
    };
    let name = json!({"name": "db"});
    let both = refused(json!({"setRef": name, "selector": {}})).await;
    assert!(
        both.contains("exactly one of setRef and selector must be set"),
        "{both}"
    );
    refused(json!({})).await;
    for min_healthy in [
        json!("quorum"),
        json!("101%"),
        json!(-1),
        json!("1"),
        json!({}),
    ] {
        let guard = json!({"setRef": name, "guard": {"minHealthy": min_healthy}});
        let text = refused(guard).await;
        assert!(text.contains("spec.guard.minHealthy"), "{text}");
    }
    refused(json!({"setRef": name, "guard": {}})).await;
    let expression = |operator: &str, values: Value| {
        json!({"selector": {"matchExpressions": [
            {"key": "a", "operator": operator, "values": values}]}})
    };
    refused(expression("In", json!([]))).await;
    refused(expression("Exists", json!(["a"]))).await;
    refused(expression("Like", json!(["a"]))).await;
    for (index, min_healthy) in [
        json!("Quorum"),
        json!("0%"),
        json!("100%"),
        json!(0),
        json!(7),
    ]
    .into_iter()
    .enumerate()
    {
        let object = policy(&format!("p{index}"), "db", min_healthy);
        api.create(POLICIES, object).await;
    }
}

/// The key of the turns is removed with its namespace.
#[tokio::test]
async fn a_turn_ends_with_its_namespace() {
    let api = with_set(json!(1)).await;
    assert_eq!(evict(&api, 0, Value::Null).await.0, 201);
    let has_turn = async |namespace: &str| {
        let range = Range {
            start: format!("/eviction-turns/{namespace}").into_bytes(),
            ..Range::default()
        };
        !api.store.range(range).await.unwrap().items.is_empty()
    };
    assert!(has_turn("default").await);
    let namespaces = "/api/v1/namespaces";
    api.create(namespaces, json!({"metadata": {"name": "bank"}}))
        .await;
    let txn = Txn {
        operations: vec![Operation::Put {
            key: b"/eviction-turns/bank".to_vec(),
            value: mvcc_store::Value::Plain(Bytes::new()),
            lease: None,
        }],
        ..Txn::default()
    };
    api.store.txn(txn).await.unwrap();
    let bank = format!("{namespaces}/bank");
    let (_, mut namespace) = api.send("DELETE", &bank, Value::Null).await;
    assert!(has_turn("bank").await);
    namespace["spec"]["finalizers"] = json!([]);
    let (code, answer) = api
        .send("PUT", &format!("{bank}/finalize"), namespace)
        .await;
    assert_eq!(code, 200, "{answer}");
    assert_eq!(api.get(&bank).await.0, 404);
    assert!(!has_turn("bank").await);
}
