//! Bootstrap tokens, as of
//! <https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/>.

use jiff::{SignedDuration, Timestamp};
use json_tree::{Value, json};

use crate::harness::Api;

const SECRETS: &str = "/api/v1/namespaces/kube-system/secrets";
const TOKEN: &str = "abcdef.0123456789abcdef";
const NODES: &str = "system:bootstrappers:kubeadm:default-node-token";

fn secret() -> Value {
    json!({
        "metadata": {"name": "bootstrap-token-abcdef"},
        "type": "bootstrap.kubernetes.io/token",
        "stringData": {
            "token-id": "abcdef", "token-secret": "0123456789abcdef",
            "usage-bootstrap-authentication": "true", "auth-extra-groups": NODES,
        },
    })
}

async fn review(api: &Api, token: &str, audiences: Value) -> Value {
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    let body = json!({"spec": {"token": token, "audiences": audiences}});
    api.send("POST", path, body).await.1["status"].clone()
}

#[tokio::test]
async fn a_token_is_good_as_long_as_its_secret_says_so() {
    let api = Api::new().await;
    let unknown = review(&api, TOKEN, Value::Null).await;
    assert_eq!(unknown["error"], "no bootstrap token has this identifier");
    api.create(SECRETS, secret()).await;
    let good = review(&api, TOKEN, Value::Null).await;
    assert_eq!(good["user"]["username"], "system:bootstrap:abcdef");
    assert_eq!(
        good["user"]["groups"],
        json!(["system:bootstrappers", NODES, "system:authenticated"])
    );
    let elsewhere = review(&api, TOKEN, json!(["elsewhere"])).await;
    assert_ne!(elsewhere["authenticated"], true);
    let wrong = review(&api, "abcdef.0123456789abcdeg", Value::Null).await;
    assert_eq!(wrong["error"], "the bootstrap token is wrong");
    assert!(wrong["user"].as_object().unwrap().is_empty());
    let at = format!("{SECRETS}/bootstrap-token-abcdef");
    let hour = SignedDuration::from_hours(1);
    for (changes, error) in [
        (
            json!({"expiration": (Timestamp::now() - hour).to_string()}),
            "the bootstrap token has expired",
        ),
        (
            json!({"expiration": (Timestamp::now() + hour).to_string(),
                "usage-bootstrap-authentication": "false"}),
            "the bootstrap token is not for authentication",
        ),
        (
            json!({"usage-bootstrap-authentication": "true",
                "auth-extra-groups": "system:masters"}),
            "a bootstrap token cannot give the group \"system:masters\"",
        ),
    ] {
        let (code, _) = api
            .patch(&at, "merge", json!({"stringData": changes}))
            .await;
        assert_eq!(code, 200);
        let refused = review(&api, TOKEN, Value::Null).await;
        assert_ne!(refused["authenticated"], true);
        assert_eq!(refused["error"], error);
    }
    api.send("DELETE", &at, Value::Null).await;
    api.create(SECRETS, secret()).await;
    assert_eq!(
        review(&api, TOKEN, Value::Null).await["authenticated"],
        true
    );
    // A Secret counts only with this type and in this namespace.
    api.send("DELETE", &at, Value::Null).await;
    let mut opaque = secret();
    opaque["type"] = json!("Opaque");
    api.create(SECRETS, opaque).await;
    api.create("/api/v1/namespaces/default/secrets", secret())
        .await;
    assert_ne!(
        review(&api, TOKEN, Value::Null).await["authenticated"],
        true
    );
}

#[tokio::test]
async fn a_new_node_may_ask_for_its_certificate_and_nothing_else() {
    let api = Api::new().await;
    let groups = ["system:bootstrappers", NODES, "system:authenticated"];
    let node = api.as_user("system:bootstrap:abcdef", &groups);
    let self_reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let csrs = "certificatesigningrequests";
    for (verb, group, resource, part, allowed) in [
        ("create", "certificates.k8s.io", csrs, "", true),
        ("watch", "certificates.k8s.io", csrs, "", true),
        ("create", "certificates.k8s.io", csrs, "nodeclient", true),
        (
            "create",
            "certificates.k8s.io",
            csrs,
            "selfnodeclient",
            false,
        ),
        (
            "create",
            "certificates.k8s.io",
            csrs,
            "selfnodeserver",
            false,
        ),
        ("update", "certificates.k8s.io", csrs, "approval", false),
        ("delete", "certificates.k8s.io", csrs, "", false),
        ("get", "", "nodes", "", true),
        ("list", "", "nodes", "", false),
        ("create", "", "nodes", "", false),
        ("list", "", "pods", "", false),
        ("get", "", "secrets", "", false),
    ] {
        let review = json!({"spec": {"resourceAttributes": {
            "verb": verb, "group": group, "resource": resource, "subresource": part}}});
        let (_, response) = node.send("POST", self_reviews, review).await;
        let is_allowed = &response["status"]["allowed"];
        assert_eq!(*is_allowed, allowed, "{verb} {resource}/{part}");
    }
}
