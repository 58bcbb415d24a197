//! No user gets more rights than granted: roles, bindings, signers, impersonation.

use json_tree::{Value, json};

use crate::harness::{Api, PODS};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const GROUP: &str = "rbac.authorization.k8s.io";

fn rule(group: &str, resource: &str, verbs: &[&str]) -> Value {
    json!({"apiGroups": [group], "resources": [resource], "verbs": verbs})
}

fn role(name: &str, rules: Value) -> Value {
    json!({"metadata": {"name": name}, "rules": rules})
}

fn binding(name: &str, kind: &str, role: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "roleRef": {"apiGroup": GROUP, "kind": kind, "name": role},
        "subjects": [{"kind": "User", "name": name, "apiGroup": GROUP}],
    })
}

/// A user with these rules in the whole cluster; the rules are in force.
async fn with_rules(api: &Api, name: &str, mut rules: Value) -> Api {
    let user = api.as_user(name, &[]);
    let reads = rule("", "endpoints", &["list"]);
    rules.as_array_mut().unwrap().push(reads);
    api.create(&format!("{RBAC}/clusterroles"), role(name, rules))
        .await;
    let bound = binding(name, "ClusterRole", name);
    api.create(&format!("{RBAC}/clusterrolebindings"), bound)
        .await;
    while user.get("/api/v1/endpoints").await.0 != 200 {
        tokio::task::yield_now().await;
    }
    user
}

fn message(status: &Value) -> &str {
    status["message"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn a_role_that_gathers_others_needs_everything() {
    // findings S7
    let api = Api::new().await;
    let rights = rule(GROUP, "clusterroles", &["create", "get", "patch", "update"]);
    let eve = with_rules(&api, "eve", json!([rights])).await;
    let all = json!({"clusterRoleSelectors": [{"matchExpressions": [
        {"key": "kubernetes.io/bootstrapping", "operator": "Exists"}]}]});
    let path = format!("{RBAC}/clusterroles/eve");
    let words = "must have cluster-admin privileges to use the aggregationRule";
    for kind in ["merge", "strategic"] {
        let (code, status) = eve
            .patch(&path, kind, json!({"aggregationRule": all}))
            .await;
        assert_eq!(code, 403, "{kind} {status}");
        assert!(message(&status).contains(words), "{status}");
    }
    let applied = json!({"apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRole",
        "metadata": {"name": "eve"}, "aggregationRule": all});
    let apply = format!("{path}?fieldManager=eve&force=true");
    assert_eq!(eve.patch(&apply, "apply", applied.clone()).await.0, 403);
    let mut created = applied.clone();
    created["metadata"]["name"] = json!("eve2");
    assert_eq!(
        eve.send("POST", &format!("{RBAC}/clusterroles"), created.clone())
            .await
            .0,
        403
    );
    // A PUT also creates roles.
    let absent = format!("{RBAC}/clusterroles/eve2");
    assert_eq!(eve.send("PUT", &absent, created).await.0, 403);
    let (_, mut whole) = eve.get(&path).await;
    whole["aggregationRule"] = all.clone();
    assert_eq!(eve.send("PUT", &path, whole).await.0, 403);
    // The aggregation rule may be neither removed nor changed; only fields that grant nothing may be changed.
    let mut gathers = role("gathers", json!([]));
    gathers["aggregationRule"] = all;
    api.create(&format!("{RBAC}/clusterroles"), gathers).await;
    let gathers = format!("{RBAC}/clusterroles/gathers");
    let tighten = json!({"aggregationRule": null});
    assert_eq!(eve.patch(&gathers, "merge", tighten.clone()).await.0, 403);
    let harmless = json!({"metadata": {"finalizers": ["example.com/a"]}});
    assert_eq!(eve.patch(&gathers, "merge", harmless).await.0, 200);
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    assert_eq!(eve.patch(&gathers, "merge", label).await.0, 403);
    // A user who may do everything, or may escalate, may write the role.
    let everything = json!([
        {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
        {"nonResourceURLs": ["*"], "verbs": ["*"]},
    ]);
    let root = with_rules(&api, "root", everything).await;
    assert_eq!(root.patch(&gathers, "merge", tighten.clone()).await.0, 200);
    let escalate = rule(GROUP, "clusterroles", &["escalate", "patch"]);
    let aggregator = with_rules(&api, "aggregator", json!([escalate])).await;
    let rules = json!({"rules": [rule("", "secrets", &["get"])]});
    assert_eq!(aggregator.patch(&gathers, "merge", rules).await.0, 200);
}

#[tokio::test]
async fn a_role_that_there_is_not_is_not_bound() {
    // findings S8
    let api = Api::new().await;
    let rights = rule(GROUP, "rolebindings", &["create", "get", "update", "patch"]);
    let eve = with_rules(&api, "eve", json!([rights])).await;
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    for (kind, plural) in [("Role", "roles"), ("ClusterRole", "clusterroles")] {
        let (code, status) = eve
            .send("POST", &bindings, binding("early", kind, "later"))
            .await;
        assert_eq!(code, 404, "{status}");
        let words = format!("{plural}.{GROUP} \"later\" not found");
        assert_eq!(message(&status), words);
        let path = format!("{bindings}/early");
        let by_put = eve.send("PUT", &path, binding("early", kind, "later"));
        assert_eq!(by_put.await.0, 404);
    }
    // A role in another namespace is not the role in the binding.
    let roles = format!("{RBAC}/namespaces/kube-system/roles");
    api.create(&roles, role("later", json!([]))).await;
    let (code, _) = eve
        .send("POST", &bindings, binding("early", "Role", "later"))
        .await;
    assert_eq!(code, 404);
    // A role that was created a moment before is accepted.
    let roles = format!("{RBAC}/namespaces/default/roles");
    api.create(&roles, role("later", json!([]))).await;
    eve.create(&bindings, binding("now", "Role", "later")).await;
    // A user with the verb `bind` may create the binding before the role.
    let early = json!({"apiGroups": [GROUP], "resources": ["clusterroles"], "verbs": ["bind"],
        "resourceNames": ["future"]});
    let rights = rule(GROUP, "rolebindings", &["create"]);
    let ann = with_rules(&api, "ann", json!([rights, early])).await;
    ann.create(&bindings, binding("ann", "ClusterRole", "future"))
        .await;
    let other = binding("ann2", "ClusterRole", "other");
    assert_eq!(ann.send("POST", &bindings, other).await.0, 404);
}

#[tokio::test]
async fn special_verbs_are_for_what_they_name() {
    let api = Api::new().await;
    let named = |group: &str, resource: &str, verb: &str, name: &str| {
        json!({"apiGroups": [group], "resources": [resource], "verbs": [verb],
            "resourceNames": [name]})
    };
    let write = |plural: &str| rule(GROUP, plural, &["create", "patch"]);
    let rules = json!([
        write("roles"),
        write("rolebindings"),
        named(GROUP, "roles", "escalate", "mine"),
        named(GROUP, "clusterroles", "bind", "view"),
        named("", "users", "impersonate", "bob"),
        named("", "groups", "impersonate", "devs"),
        rule(
            "certificates.k8s.io",
            "certificatesigningrequests/approval",
            &["update"]
        ),
        rule(
            "certificates.k8s.io",
            "certificatesigningrequests/status",
            &["update"]
        ),
        named("certificates.k8s.io", "signers", "approve", "example.com/a"),
        named("certificates.k8s.io", "signers", "sign", "example.com/*"),
    ]);
    let eve = with_rules(&api, "eve", rules).await;
    let roles = format!("{RBAC}/namespaces/default/roles");
    let secrets = json!([rule("", "secrets", &["get"])]);
    for (name, code) in [("mine", 201), ("other", 403)] {
        let (actual, status) = eve.send("POST", &roles, role(name, secrets.clone())).await;
        assert_eq!(actual, code, "escalate {name}: {status}");
    }
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    for (name, code) in [("view", 201), ("edit", 403)] {
        let (actual, status) = eve
            .send("POST", &bindings, binding(name, "ClusterRole", name))
            .await;
        assert_eq!(actual, code, "bind {name}: {status}");
    }
    let who = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    for (user, group, code) in [
        ("bob", "devs", 201),
        ("ann", "devs", 403),
        ("bob", "system:masters", 403),
    ] {
        let headers = [("impersonate-user", user), ("impersonate-group", group)];
        let response = eve.raw("POST", who, &headers, "{}").await;
        assert_eq!(response.code, code, "{user} {group} {}", response.text());
    }
    let pem = include_str!("../../../resource-kinds/src/groups/certificates/testdata/jane.csr");
    let pem = k8s_openapi::ByteString(pem.as_bytes().to_vec());
    let requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    for (signer, approve, sign) in [
        ("example.com/a", 200, 200),
        ("example.com/b", 403, 200),
        ("example.org/a", 403, 403),
    ] {
        let name = signer.replace('/', "-");
        let csr = json!({"metadata": {"name": name}, "spec": {"request": pem,
            "signerName": signer, "usages": ["client auth"]}});
        let mut stored = api.create(requests, csr).await;
        stored["status"] = json!({"conditions": [{"type": "Approved", "status": "True",
            "reason": "Test"}]});
        let path = format!("{requests}/{name}/approval");
        assert_eq!(
            eve.send("PUT", &path, stored.clone()).await.0,
            approve,
            "{signer}"
        );
        stored["metadata"]["resourceVersion"] = Value::Null;
        stored["status"] = json!({"conditions": [{"type": "Failed", "status": "True",
            "reason": "Test"}]});
        let path = format!("{requests}/{name}");
        let (_, now) = api.get(&path).await;
        let mut failed = now.clone();
        let condition = json!({"type": "Failed", "status": "True", "reason": "Test"});
        match failed["status"]["conditions"].as_array_mut() {
            Some(list) => list.push(condition),
            None => failed["status"] = json!({"conditions": [condition]}),
        }
        let path = format!("{path}/status");
        assert_eq!(eve.send("PUT", &path, failed).await.0, sign, "{signer}");
    }
}

#[tokio::test]
async fn reading_a_nodes_api_runs_nothing() {
    // findings S21
    let api = Api::new().await;
    api.create("/api/v1/nodes", json!({"metadata": {"name": "n1"}}))
        .await;
    let reads = json!([rule("", "nodes/proxy", &["get"])]);
    let reader = with_rules(&api, "reader", reads).await;
    let runs = json!([rule("", "nodes/proxy", &["get", "create"])]);
    let runner = with_rules(&api, "runner", runs).await;
    let proxy = "/api/v1/nodes/n1/proxy";
    let upgrade = [("connection", "upgrade"), ("upgrade", "websocket")];
    for (path, headers, code) in [
        ("/pods", &[][..], 200),
        ("/stats/summary", &[], 200),
        ("/containerLogs/default/p/c", &[], 200),
        ("/containerLogs/default/p/c", &upgrade, 403),
        ("/exec/default/p/c?command=id", &upgrade, 403),
        ("/exec/default/p/c?command=id", &[], 403),
        ("/attach/default/p/c", &[], 403),
        ("/portForward/default/p", &[], 403),
        ("/run/default/p/c", &[], 403),
        ("//exec/default/p/c", &[], 403),
        ("/%65xec/default/p/c", &[], 403),
    ] {
        let path = format!("{proxy}{path}");
        let response = reader.respond("GET", &path, headers, "").await;
        assert_eq!(response.status(), code, "{path}");
        let response = runner.respond("GET", &path, headers, "").await;
        assert_ne!(response.status(), 403, "{path}");
    }
    let requests = api.node.requests.lock().unwrap().clone();
    assert!(
        requests.iter().any(|request| request.contains("/exec/")),
        "{requests:?}"
    );
    // The rule for pods already needs more than `get`, because a WebSocket is a GET.
    let reads = json!([rule("", "pods/exec", &["get"])]);
    let looker = with_rules(&api, "looker", reads).await;
    let exec = format!("{PODS}/p/exec?command=id");
    assert_eq!(
        looker.respond("GET", &exec, &upgrade, "").await.status(),
        403
    );
}
