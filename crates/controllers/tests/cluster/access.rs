//! Tokens in Secrets, and roles that contain the rules of other roles.

use jiff::{SignedDuration, Timestamp};
use json_tree::json;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube_api_client::{Api, DeleteParams, PostParams, ResourceExt};

use crate::support::{Cluster, eventually, wait_for};

async fn user_of(cluster: &Cluster, token: &str) -> String {
    let review = TokenReview {
        spec: TokenReviewSpec {
            token: token.to_owned(),
            ..TokenReviewSpec::default()
        },
        ..TokenReview::default()
    };
    let api: Api<TokenReview> = Api::all(cluster.client.clone());
    let response = api.create(&PostParams::default(), &review).await.unwrap();
    let user = response.status.unwrap().user;
    user.and_then(|user| user.username).unwrap_or_default()
}

fn keys(secrets: &[Secret]) -> String {
    let all = secrets
        .iter()
        .flat_map(|secret| secret.data.iter().flatten());
    all.map(|(key, _)| key.as_str())
        .collect::<Vec<_>>()
        .join(" ")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_for_an_account_gets_its_token_and_goes_with_it() {
    let cluster = Cluster::without_node().await;
    cluster
        .create::<ServiceAccount>(json!({"metadata": {"name": "robot"}}))
        .await;
    let secret = |name: &str, account: &str| {
        json!({
            "metadata": {
                "name": name, "annotations": {"kubernetes.io/service-account.name": account},
            },
            "type": "kubernetes.io/service-account-token",
        })
    };
    cluster
        .create::<Secret>(secret("robot-token", "robot"))
        .await;
    wait_for(&cluster, "ca.crt namespace token", keys).await;
    let api: Api<Secret> = cluster.api();
    let filled = api.get("robot-token").await.unwrap();
    let uid = &filled.annotations()["kubernetes.io/service-account.uid"];
    let account: ServiceAccount = cluster.api().get("robot").await.unwrap();
    assert_eq!(Some(uid), account.uid().as_ref());
    let token = String::from_utf8(filled.data.unwrap()["token"].0.clone()).unwrap();
    assert_eq!(
        user_of(&cluster, &token).await,
        "system:serviceaccount:default:robot"
    );

    // A token becomes invalid with its Secret, and the Secret is deleted with its account.
    api.delete("robot-token", &DeleteParams::default())
        .await
        .unwrap();
    assert_eq!(user_of(&cluster, &token).await, "");
    cluster.create::<Secret>(secret("another", "robot")).await;
    wait_for(&cluster, "ca.crt namespace token", keys).await;
    cluster
        .delete::<ServiceAccount>("robot", DeleteParams::default())
        .await;
    wait_for(&cluster, "0", |all: &[Secret]| all.len().to_string()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_of_parts_are_written_into_the_role_that_gathers_them() {
    let cluster = Cluster::without_node().await;
    let api: Api<ClusterRole> = Api::all(cluster.client.clone());
    let make = async |role: json_tree::Value| {
        let role: ClusterRole = json_tree::from_value(role).unwrap();
        api.create(&PostParams::default(), &role).await.unwrap();
    };
    make(json!({
        "metadata": {"name": "whole"},
        "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"part-of": "whole"}}]},
        "rules": [],
    }))
    .await;
    let part = |name: &str, resource: &str| {
        json!({
            "metadata": {"name": name, "labels": {"part-of": "whole"}},
            "rules": [{"verbs": ["get"], "apiGroups": ["example.org"], "resources": [resource]}],
        })
    };
    make(part("b", "blue")).await;
    make(part("a", "red")).await;
    let verbs = async || {
        let rules = api.get("whole").await.unwrap().rules.unwrap_or_default();
        let resources = rules
            .into_iter()
            .flat_map(|rule| rule.resources.unwrap_or_default());
        resources.collect::<Vec<_>>().join(" ")
    };
    let wait = async |expected: &str| {
        for _ in 0..6000 {
            if verbs().await == expected {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("the rules never became {expected:?}: {:?}", verbs().await);
    };
    wait("red blue").await;
    api.delete("a", &DeleteParams::default()).await.unwrap();
    wait("blue").await;
    // The roles that every cluster has contain their standard rules.
    let view = api.get("view").await.unwrap();
    assert!(view.rules.unwrap().len() > 5);
}

#[tokio::test]
async fn an_expired_bootstrap_token_is_deleted() {
    let cluster = Cluster::without_node().await;
    let api: Api<Secret> = Api::namespaced(cluster.client.clone(), "kube-system");
    let soon = Timestamp::now() + SignedDuration::from_secs(1);
    for (name, expiration) in [
        ("bootstrap-token-aaaaaa", "2020-01-01T00:00:00Z".to_owned()),
        ("bootstrap-token-bbbbbb", soon.to_string()),
        ("bootstrap-token-cccccc", "2120-01-01T00:00:00Z".to_owned()),
        ("bootstrap-token-dddddd", String::new()),
    ] {
        let secret = json!({"metadata": {"name": name}, "type": "bootstrap.kubernetes.io/token",
            "stringData": {"expiration": expiration}});
        let secret = json_tree::from_value(secret).unwrap();
        api.create(&PostParams::default(), &secret).await.unwrap();
    }
    let remaining = ["bootstrap-token-cccccc", "bootstrap-token-dddddd"];
    eventually(async || {
        let all = api.list(&Default::default()).await.unwrap().items;
        let names: Vec<String> = all.iter().map(ResourceExt::name_any).collect();
        names == remaining
    })
    .await;
}
