//! The rights of users.

use std::time::Duration;

use json_tree::{Value, json};

use crate::harness::{Api, CONFIG_MAPS, PODS, config_map};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// Repeats the request until the index of roles is up to date.
async fn wait_for(api: &Api, path: &str, code: u16) {
    for _ in 0..6000 {
        if api.get(path).await.0 == code {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{path} never answered {code}: {:?}", api.get(path).await);
}

fn role(name: &str, verbs: &[&str], resources: &[&str]) -> Value {
    json!({
        "metadata": {"name": name},
        "rules": [{"verbs": verbs, "apiGroups": [""], "resources": resources}],
    })
}

fn binding(name: &str, kind: &str, role: &str, subject: Value) -> Value {
    json!({
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
        "subjects": [subject],
    })
}

#[tokio::test]
async fn nothing_is_allowed_that_no_role_allows() {
    // kubectl.md 0.1
    let api = Api::new().await;
    let bob = api.as_user("bob", &[]);
    let exec = "/api/v1/namespaces/default/pods/p/exec";
    let cases = [
        (
            "GET",
            PODS,
            "pods is forbidden: User \"bob\" cannot list resource \"pods\" in API \
         group \"\" in the namespace \"default\"",
        ),
        (
            "GET",
            "/api/v1/nodes/n",
            "nodes \"n\" is forbidden: User \"bob\" cannot get \
         resource \"nodes\" in API group \"\" at the cluster scope",
        ),
        (
            "POST",
            exec,
            "pods \"p\" is forbidden: User \"bob\" cannot create resource \
         \"pods/exec\" in API group \"\" in the namespace \"default\"",
        ),
        (
            "GET",
            "/apis/apps/v1/statefulsets?watch=1",
            "statefulsets.apps is forbidden: User \
         \"bob\" cannot watch resource \"statefulsets\" in API group \"apps\" at the cluster \
         scope",
        ),
        (
            "GET",
            "/metrics",
            "forbidden: User \"bob\" cannot get path \"/metrics\"",
        ),
    ];
    for (method, path, message) in cases {
        let (code, status) = bob.send(method, path, Value::Null).await;
        assert_eq!((code, &status["message"]), (403, &json!(message)), "{path}");
    }
    // Every authenticated user may read these documents.
    for path in ["/api", "/apis", "/api/v1", "/version", "/livez"] {
        assert_eq!(bob.raw("GET", path, &[], "").await.code, 200, "{path}");
    }
}

#[tokio::test]
async fn roles_take_effect_and_cease_to() {
    let api = Api::new().await;
    let bob = api.as_user("bob", &["devs"]);
    let roles = format!("{RBAC}/namespaces/default/roles");
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    api.create(&roles, role("reader", &["get", "list"], &["configmaps"]))
        .await;
    let subject = json!({"kind": "Group", "name": "devs", "apiGroup": "rbac.authorization.k8s.io"});
    api.create(&bindings, binding("b", "Role", "reader", subject))
        .await;
    wait_for(&bob, CONFIG_MAPS, 200).await;
    assert_eq!(bob.get("/api/v1/configmaps").await.0, 403);
    assert_eq!(bob.send("POST", CONFIG_MAPS, config_map("a")).await.0, 403);
    api.send("DELETE", &format!("{bindings}/b"), Value::Null)
        .await;
    wait_for(&bob, CONFIG_MAPS, 403).await;
}

#[tokio::test]
async fn nobody_gives_away_what_they_do_not_have() {
    let api = Api::new().await;
    let roles = format!("{RBAC}/namespaces/default/roles");
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    let mut manage = role("manage", &["*"], &["configmaps"]);
    manage["rules"].as_array_mut().unwrap().push(json!({
        "verbs": ["create", "get", "list"], "apiGroups": ["rbac.authorization.k8s.io"],
        "resources": ["roles", "rolebindings"],
    }));
    api.create(&roles, manage).await;
    let user = json!({"kind": "User", "name": "eve", "apiGroup": "rbac.authorization.k8s.io"});
    api.create(&bindings, binding("b", "Role", "manage", user.clone()))
        .await;
    let eve = api.as_user("eve", &[]);
    wait_for(&eve, &roles, 200).await;
    let (code, status) = eve
        .send("POST", &roles, role("more", &["get"], &["secrets"]))
        .await;
    assert_eq!(code, 403);
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .contains("not currently held"),
        "{status}"
    );
    eve.create(&roles, role("less", &["get"], &["configmaps"]))
        .await;
    let grab = binding("grab", "ClusterRole", "cluster-admin", user);
    assert_eq!(eve.send("POST", &bindings, grab).await.0, 403);
}

#[tokio::test]
async fn reviews_answer_what_somebody_may_do() {
    // kubectl.md 6.4
    let api = Api::new().await;
    let bob = api.as_user("bob", &[]);
    let self_reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let review = json!({"spec": {"resourceAttributes": {"verb": "list", "resource": "pods"}}});
    let (code, response) = bob.send("POST", self_reviews, review.clone()).await;
    assert_eq!((code, &response["status"]["allowed"]), (201, &json!(false)));
    assert_eq!(
        api.send("POST", self_reviews, review).await.1["status"]["allowed"],
        true
    );
    let of = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let review = json!({"spec": {"user": "x", "groups": ["system:masters"],
        "nonResourceAttributes": {"verb": "get", "path": "/x"}}});
    assert_eq!(
        api.send("POST", of, review).await.1["status"]["allowed"],
        true
    );
    assert_eq!(
        api.send("POST", of, json!({"spec": {"user": "x"}})).await.0,
        422
    );
    let (_, me) = bob
        .send(
            "POST",
            "/apis/authentication.k8s.io/v1/selfsubjectreviews",
            json!({}),
        )
        .await;
    assert_eq!(me["status"]["userInfo"]["username"], "bob");
    assert_eq!(
        me["status"]["userInfo"]["groups"],
        json!(["system:authenticated"])
    );
    let rules = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let (_, all) = api
        .send("POST", rules, json!({"spec": {"namespace": "default"}}))
        .await;
    assert_eq!(all["status"]["incomplete"], false);
    assert!(
        all["status"]["resourceRules"]
            .as_array()
            .unwrap()
            .iter()
            .any(|r| r["verbs"][0] == "*")
    );
}

#[tokio::test]
async fn somebody_allowed_may_act_as_another() {
    let api = Api::new().await;
    let headers = [("impersonate-user", "bob"), ("impersonate-group", "devs")];
    let who = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let response = api.raw("POST", who, &headers, "{}").await;
    assert_eq!(
        response.json()["status"]["userInfo"]["groups"],
        json!(["devs", "system:authenticated"])
    );
    assert_eq!(api.raw("GET", PODS, &headers, "").await.code, 403);
    let bob = api.as_user("bob", &[]);
    let masters = [
        ("impersonate-user", "x"),
        ("impersonate-group", "system:masters"),
    ];
    assert_eq!(bob.raw("GET", PODS, &masters, "").await.code, 403);
    let group_only = [("impersonate-group", "system:masters")];
    assert_eq!(bob.raw("GET", PODS, &group_only, "").await.code, 400);
    let whole = [
        ("impersonate-user", "bob"),
        ("impersonate-uid", "u-1"),
        ("impersonate-extra-example.com%2Fteam", "blue"),
        ("impersonate-extra-example.com%2Fteam", "green"),
    ];
    let response = api.raw("POST", who, &whole, "{}").await;
    let info = &response.json()["status"]["userInfo"];
    assert_eq!(
        (&info["uid"], &info["extra"]),
        (
            &json!("u-1"),
            &json!({"example.com/team": ["blue", "green"]})
        )
    );
    // Each of these requests must be allowed.
    let roles = "/apis/rbac.authorization.k8s.io/v1";
    let role = json!({"metadata": {"name": "act"}, "rules": [
        {"verbs": ["impersonate"], "apiGroups": [""], "resources": ["users"]}]});
    api.create(&format!("{roles}/clusterroles"), role).await;
    let binding = json!({"metadata": {"name": "act"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "act"},
        "subjects": [{"kind": "User", "name": "eve", "apiGroup": "rbac.authorization.k8s.io"}]});
    api.create(&format!("{roles}/clusterrolebindings"), binding)
        .await;
    let eve = api.as_user("eve", &[]);
    while eve.raw("POST", who, &whole[..1], "{}").await.code != 201 {
        tokio::task::yield_now().await;
    }
    assert_eq!(eve.raw("POST", who, &whole[..2], "{}").await.code, 403);
    let refused = eve.raw("POST", who, &[whole[0], whole[2]], "{}").await;
    assert_eq!(refused.code, 403);
    assert!(
        refused.text().contains("userextras/example.com/team"),
        "{}",
        refused.text()
    );
}

#[tokio::test]
async fn tokens_live_and_die_with_their_account() {
    let api = Api::new().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    api.create(accounts, json!({"metadata": {"name": "robot"}}))
        .await;
    let request_token = |spec: Value| {
        api.send(
            "POST",
            "/api/v1/namespaces/default/serviceaccounts/robot/token",
            json!({"spec": spec}),
        )
    };
    let (code, response) = request_token(json!({})).await;
    assert_eq!(code, 201, "{response}");
    let token = response["status"]["token"].as_str().unwrap().to_owned();
    assert_eq!(response["spec"]["expirationSeconds"], 3600);
    let (code, status) = request_token(json!({"expirationSeconds": 60})).await;
    assert_eq!(code, 422);
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .contains("less than 10 minutes")
    );
    let review = |token: &str, audiences: Value| {
        let body = json!({"spec": {"token": token, "audiences": audiences}});
        let api = &api;
        async move {
            let path = "/apis/authentication.k8s.io/v1/tokenreviews";
            api.send("POST", path, body).await.1["status"].clone()
        }
    };
    let good = review(&token, Value::Null).await;
    assert_eq!(good["authenticated"], true);
    assert_eq!(
        good["user"]["username"],
        "system:serviceaccount:default:robot"
    );
    assert_eq!(
        good["user"]["groups"],
        json!([
            "system:serviceaccounts",
            "system:serviceaccounts:default",
            "system:authenticated"
        ])
    );
    assert_ne!(
        review(&token, json!(["elsewhere"])).await["authenticated"],
        true
    );
    assert_ne!(review("nonsense", Value::Null).await["authenticated"], true);
    api.send("DELETE", &format!("{accounts}/robot"), Value::Null)
        .await;
    api.create(accounts, json!({"metadata": {"name": "robot"}}))
        .await;
    let deleted = review(&token, Value::Null).await;
    assert_eq!(
        deleted["error"],
        "the service account that the token is bound to was deleted"
    );
}

/// findings-2 C39: a selector in a review has either a text or requirements, for fields and for labels.
#[tokio::test]
async fn a_review_selects_in_one_way() {
    let api = Api::new().await;
    let reviews = |plural: &str| format!("/apis/authorization.k8s.io/v1/{plural}");
    let raw = json!("a=b");
    let requirements = json!([{"key": "a", "operator": "In", "values": ["b"]}]);
    for plural in ["selfsubjectaccessreviews", "subjectaccessreviews"] {
        for name in ["fieldSelector", "labelSelector"] {
            let review = async |selector: Value| {
                let spec = json!({"user": "ann", "resourceAttributes":
                    {"verb": "list", "resource": "pods", name: selector}});
                let (code, response) = api
                    .send("POST", &reviews(plural), json!({"spec": spec}))
                    .await;
                (
                    code,
                    response["message"].as_str().unwrap_or_default().to_owned(),
                )
            };
            assert_eq!(review(json!({"rawSelector": raw})).await.0, 201);
            assert_eq!(review(json!({"requirements": requirements})).await.0, 201);
            let (code, both) =
                review(json!({"rawSelector": raw, "requirements": requirements})).await;
            let path = format!("spec.resourceAttributes.{name}");
            let text = format!(
                "{path}.rawSelector: Invalid value: \"a=b\": may not specified at the same time as requirements"
            );
            assert!(code == 422 && both.contains(&text), "{both}");
            let (code, none) = review(json!({})).await;
            let text = format!("{path}.requirements: Required value: when ");
            assert!(code == 422 && none.contains(&text), "{none}");
        }
    }
}
