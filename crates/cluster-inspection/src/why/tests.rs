//! Against the real API server over a store in memory, without controllers and nodes.

use std::sync::Arc;

use controller_planners::stateful_set::revisions;
use diagnosis::WaitState;
use json_tree::{Value, json};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube_api_client::{Api, Client, Patch, PatchParams, PostParams, Resource};
use kube_api_server::{ApiServer, UserInfo};
use mvcc_store::embedded::EmbeddedStore;
use serde::de::DeserializeOwned;

use super::*;
use crate::other_kinds::explain_other_kind;

async fn server() -> Arc<ApiServer> {
    ApiServer::new(kube_api_server::Config {
        admission: Vec::new(),
        ..kube_api_server::Config::in_process(EmbeddedStore::in_memory())
    })
    .await
    .unwrap()
}

fn client(server: &Arc<ApiServer>, name: &str, group: &str) -> Client {
    Client::new(server.local(UserInfo::new(name, [group])), "default")
}

async fn create<K>(client: &Client, object: Value) -> K
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    K: Clone + std::fmt::Debug + serde::Serialize + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), "default");
    let object = json_tree::from_value(object).unwrap();
    api.create(&PostParams::default(), &object).await.unwrap()
}

async fn ask_for(client: &Client, object: &str) -> Result<Explanation, InspectionError> {
    let server = Server::of(client.clone());
    let (kind, name) = object.split_once('/').unwrap();
    let kind = TargetKind::called(kind).unwrap();
    explain_object(&server, kind, name, "default", Timestamp::now()).await
}

/// The explanation for a user whose role becomes effective a moment later.
async fn once_allowed(client: &Client, object: &str) -> Explanation {
    for _ in 0..3000 {
        match ask_for(client, object).await {
            Err(error) if error.to_string().contains("is forbidden") => {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            explanation => return explanation.unwrap(),
        }
    }
    panic!("still forbidden");
}

fn set(replicas: u32) -> Value {
    json!({
        "metadata": { "name": "web", "namespace": "default" },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": "web" } },
            "serviceName": "web",
            "template": {
                "metadata": { "labels": { "app": "web" } },
                "spec": { "containers": [{ "name": "main", "image": "shop:1" }] },
            },
        },
    })
}

/// A pod of the set whose image cannot be pulled.
async fn stuck_pod(client: &Client, set: &StatefulSet) {
    let uid = set.metadata.uid.as_deref().unwrap();
    let data = revisions::encode(&set.spec.as_ref().unwrap().template);
    let hash = revisions::hash(&revisions::bytes(&data), Some(0));
    let pod = json!({
        "metadata": { "name": "web-0", "namespace": "default",
            "labels": { "app": "web", "controller-revision-hash": revisions::name("web", &hash) },
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web",
                "uid": uid, "controller": true }] },
        "spec": { "nodeName": "n1", "containers": [{ "name": "main", "image": "shop:1" }] },
    });
    let _: Pod = create(client, pod).await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let status = json!({ "status": {
        "phase": "Pending",
        "conditions": [{ "type": "Ready", "status": "False",
            "lastTransitionTime": "2026-01-01T00:00:00Z" }],
        "containerStatuses": [{ "name": "main", "image": "shop:1", "imageID": "", "ready": false,
            "restartCount": 0, "state": { "waiting": { "reason": "ErrImagePull",
                "message": "no such image" } } }],
    } });
    let patch = Patch::Merge(status);
    let params = PatchParams::default();
    pods.patch_status("web-0", &params, &patch).await.unwrap();
}

#[tokio::test]
async fn the_chain_goes_from_the_set_to_the_image() {
    let server = server().await;
    let client = client(&server, "admin", "system:masters");
    let set: StatefulSet = create(&client, set(2)).await;
    stuck_pod(&client, &set).await;
    let explanation = ask_for(&client, "sts/web").await.unwrap();
    assert_eq!(explanation.state(), WaitState::Waiting);
    let links: Vec<_> = explanation.chains[0]
        .links
        .iter()
        .map(|link| &link.message)
        .collect();
    assert_eq!(
        links,
        [
            "web-1 waits for web-0 to be Ready",
            "image \"shop:1\" of container main cannot be pulled: no such image",
        ]
    );
    assert_eq!(
        explanation.json()["chains"][0]["links"][1]["reason"],
        "ImagePullFailed"
    );
    let missing = ask_for(&client, "pod/web-1").await.unwrap();
    assert!(
        missing.summary.contains("does not exist yet"),
        "{missing:?}"
    );
    assert_eq!(missing.chains, explanation.chains);
}

#[tokio::test]
async fn what_is_not_there_is_not_found_and_the_others_are_named() {
    let server = server().await;
    let client = client(&server, "admin", "system:masters");
    let error = ask_for(&client, "sts/db").await.unwrap_err().to_string();
    assert_eq!(
        error,
        "StatefulSet \"db\" not found in namespace \"default\": there is none of its kind; -n \
         names another namespace"
    );
    let _: StatefulSet = create(&client, set(0)).await;
    let error = ask_for(&client, "sts/db").await.unwrap_err().to_string();
    assert!(
        error.ends_with("there are web; -n names another namespace"),
        "{error}"
    );
}

/// A user with access to one namespace gets an explanation without nodes, volumes and classes.
#[tokio::test]
async fn who_may_not_see_nodes_is_told_so_and_gets_the_rest() {
    let server = server().await;
    let admin = client(&server, "admin", "system:masters");
    let _: StatefulSet = create(&admin, set(0)).await;
    let stranger = client(&server, "ann", "people");
    let error = ask_for(&stranger, "sts/web").await.unwrap_err().to_string();
    assert!(
        error.contains("is forbidden: User \"ann\" cannot list"),
        "{error}"
    );
    let binding = json!({
        "metadata": { "name": "ann", "namespace": "default" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
            "name": "view" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "ann" }],
    });
    let _: RoleBinding = create(&admin, binding).await;
    let explanation = once_allowed(&stranger, "sts/web").await;
    assert_eq!(explanation.state(), WaitState::Fine);
    let notes = explanation.notes.join("\n");
    for kind in ["volumes", "storage classes", "nodes"] {
        assert!(
            notes.contains(&format!("nothing was concluded from {kind}: ")),
            "{notes}"
        );
    }
}

/// findings U3: the explanation is valid without the log.
#[tokio::test]
async fn who_may_not_read_logs_is_told_so() {
    let server = server().await;
    let admin = client(&server, "admin", "system:masters");
    let set: StatefulSet = create(&admin, set(1)).await;
    stuck_pod(&admin, &set).await;
    let ended = json!({ "status": { "containerStatuses": [{ "name": "main", "image": "shop:1",
        "imageID": "", "ready": false, "restartCount": 0,
        "state": { "terminated": { "exitCode": 3, "reason": "Error" } } }] } });
    let pods: Api<Pod> = Api::namespaced(admin.clone(), "default");
    let params = PatchParams::default();
    pods.patch_status("web-0", &params, &Patch::Merge(ended))
        .await
        .unwrap();
    let role = json!({
        "metadata": { "name": "looks", "namespace": "default" },
        "rules": [{ "apiGroups": ["", "apps"], "resources": ["pods", "statefulsets"],
            "verbs": ["list"] }],
    });
    let _: Role = create(&admin, role).await;
    let binding = json!({
        "metadata": { "name": "ann", "namespace": "default" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "looks" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "ann" }],
    });
    let _: RoleBinding = create(&admin, binding).await;
    let stranger = client(&server, "ann", "people");
    let explanation = once_allowed(&stranger, "pod/web-0").await;
    let last = explanation.chains[0].links.last().unwrap();
    assert_eq!(
        last.message,
        "container main does not keep running: exit code 3 (Error)"
    );
    let notes = explanation.notes.join("\n");
    assert!(
        notes.contains("the last lines of the log were not read: pods \"web-0\" is forbidden"),
        "{notes}"
    );
}

// findings-2 E2
#[tokio::test]
async fn an_object_of_any_kind_is_explained_by_its_metadata() {
    let server = server().await;
    let admin = client(&server, "admin", "system:masters");
    let _: ConfigMap = create(&admin, json!({ "metadata": { "name": "even" } })).await;
    let of = Server::of(admin.clone());
    let ask = async |object: &str| {
        let (kind, name) = object.split_once('/').unwrap();
        explain_other_kind(&of, kind, name, "default", Timestamp::now()).await
    };
    for object in [
        "cm/even",
        "configmaps/even",
        "ConfigMap/even",
        "configmaps.v1./even",
    ] {
        let explanation = ask(object).await.unwrap().unwrap();
        assert_eq!(explanation.state(), WaitState::Fine);
    }
    let error = ask("cm/none").await.unwrap_err().to_string();
    assert_eq!(
        error,
        "ConfigMap \"none\" not found in namespace \"default\""
    );
    assert_eq!(ask("sekret/x").await.unwrap(), None);
}
