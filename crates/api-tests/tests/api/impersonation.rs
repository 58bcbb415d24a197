//! Impersonation (`kubectl --as`), and SelfSubjectReview (kubectl.md 6.4).

use json_tree::{Value, json};

use crate::harness::{Api, PODS, config_map};

const WHO: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

async fn message(api: &Api, headers: &[(&str, &str)]) -> String {
    let response = api.raw("GET", PODS, headers, "").await;
    assert_eq!(response.code, 403, "{headers:?}");
    response.json()["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn each_part_of_another_identity_needs_its_own_permission() {
    let api = Api::new().await;
    let bob = api.as_user("bob", &[]);
    let cases: [(&[(&str, &str)], &str); 2] = [
        (
            &[("impersonate-user", "ann")],
            "users \"ann\" is forbidden: User \"bob\" cannot impersonate resource \"users\" in \
             API group \"\" at the cluster scope",
        ),
        (
            &[("impersonate-user", "system:serviceaccount:default:robot")],
            "serviceaccounts \"robot\" is forbidden: User \"bob\" cannot impersonate resource \
             \"serviceaccounts\" in API group \"\" in the namespace \"default\"",
        ),
    ];
    for (headers, expected) in cases {
        assert_eq!(message(&bob, headers).await, expected);
    }
    let role = json!({
        "metadata": {"name": "as-ann"},
        "rules": [{
            "verbs": ["impersonate"], "apiGroups": [""], "resources": ["users"],
            "resourceNames": ["ann"],
        }],
    });
    api.create(&format!("{RBAC}/clusterroles"), role).await;
    let binding = json!({
        "metadata": {"name": "as-ann"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "as-ann"},
        "subjects": [{"kind": "User", "name": "bob", "apiGroup": "rbac.authorization.k8s.io"}],
    });
    api.create(&format!("{RBAC}/clusterrolebindings"), binding)
        .await;
    let as_ann = [("impersonate-user", "ann")];
    for _ in 0..6000 {
        if bob.raw("POST", WHO, &as_ann, "{}").await.code == 201 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let user = bob.raw("POST", WHO, &as_ann, "{}").await.json();
    assert_eq!(user["status"]["userInfo"]["username"], "ann");
    // The request has ann's identity now, so the error contains ann's name.
    assert!(
        message(&bob, &as_ann)
            .await
            .contains("User \"ann\" cannot list resource \"pods\"")
    );
    for (more, expected) in [
        (
            ("impersonate-group", "system:masters"),
            "groups \"system:masters\" is forbidden: User \"bob\" cannot impersonate resource \
             \"groups\" in API group \"\" at the cluster scope",
        ),
        (
            ("impersonate-uid", "7"),
            "uids.authentication.k8s.io \"7\" is forbidden: User \"bob\" cannot impersonate \
             resource \"uids\" in API group \"authentication.k8s.io\" at the cluster scope",
        ),
        (
            ("impersonate-extra-scopes", "all"),
            "userextras.authentication.k8s.io \"all\" is forbidden: User \"bob\" cannot \
             impersonate resource \"userextras/scopes\" in API group \"authentication.k8s.io\" at \
             the cluster scope",
        ),
    ] {
        assert_eq!(message(&bob, &[as_ann[0], more]).await, expected);
    }
}

#[tokio::test]
async fn whoami_shows_the_identity_taken() {
    // kubectl.md 6.4
    let api = Api::new().await;
    let headers = [
        ("impersonate-user", "ann"),
        ("impersonate-uid", "7"),
        ("impersonate-group", "devs"),
        ("impersonate-extra-acme.com%2fproject", "x"),
    ];
    let user = api.raw("POST", WHO, &headers, "{}").await.json();
    assert_eq!(
        user["status"]["userInfo"],
        json!({
            "username": "ann", "uid": "7", "groups": ["devs", "system:authenticated"],
            "extra": {"acme.com/project": ["x"]},
        })
    );
    let can = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let review = json!({"spec": {"resourceAttributes": {"verb": "list", "resource": "pods"}}});
    let json = ("content-type", "application/json");
    let headers = [headers[0], json];
    let response = api
        .raw("POST", can, &headers, review.to_string())
        .await
        .json();
    assert_eq!(response["status"]["allowed"], false);
    let list = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let review = json!({"spec": {"namespace": "default"}}).to_string();
    let response = api.raw("POST", list, &headers, review).await.json();
    let rules = response["status"]["resourceRules"].as_array().unwrap();
    assert!(
        rules
            .iter()
            .any(|rule| rule["resources"].to_string().contains("selfsubjectreviews")),
        "{response}"
    );
    assert!(!rules.iter().any(|rule| rule["verbs"] == json!(["*"])));
    let alone = [("impersonate-uid", "7")];
    assert_eq!(api.raw("POST", WHO, &alone, "{}").await.code, 400);
    let maps = "/api/v1/namespaces/default/configmaps";
    let body = config_map("a").to_string();
    assert_eq!(api.raw("POST", maps, &headers, body).await.code, 403);
    assert_eq!(api.send("POST", maps, Value::Null).await.0, 400);
}
