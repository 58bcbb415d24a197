//! Reads and writes by nodes: the objects that their pods need, and their own objects.

use json_tree::{Value, json};

use crate::harness::{Api, CONFIG_MAPS, PODS, config_map};

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

/// A pod on a node that uses the ConfigMap `used` and the Secret `used`.
async fn pod_on(api: &Api, name: &str, node: &str) -> Value {
    let pod = json!({
        "metadata": {"name": name},
        "spec": {
            "nodeName": node,
            "containers": [{
                "name": "c", "image": "i",
                "envFrom": [{"configMapRef": {"name": "used"}}],
                "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "used", "key": "a"}}}],
            }],
        },
    });
    api.create(PODS, pod).await
}

async fn ready() -> Api {
    let api = Api::new().await;
    api.with_account().await;
    for name in ["used", "other"] {
        api.create(
            SECRETS,
            json!({"metadata": {"name": name}, "stringData": {"a": "1"}}),
        )
        .await;
        api.create(CONFIG_MAPS, config_map(name)).await;
    }
    api
}

async fn code(api: &Api, method: &str, path: &str, body: Value) -> u16 {
    api.send(method, path, body).await.0
}

#[tokio::test]
async fn a_node_reads_what_its_pods_use_and_nothing_else() {
    let api = ready().await;
    let n1 = api.as_user("system:node:n1", &["system:nodes"]);
    let n2 = api.as_user("system:node:n2", &["system:nodes"]);
    let used = format!("{SECRETS}/used");
    assert_eq!(n1.get(&used).await.0, 403);
    pod_on(&api, "p", "n1").await;
    assert_eq!(n1.get(&used).await.0, 200);
    assert_eq!(n1.get(&format!("{CONFIG_MAPS}/used")).await.0, 200);
    let one = format!("{SECRETS}?fieldSelector=metadata.name%3Dused");
    assert_eq!(n1.get(&one).await.0, 200);
    let (code, status) = n2.get(&used).await;
    assert_eq!(code, 403);
    assert_eq!(
        status["message"],
        "secrets \"used\" is forbidden: User \"system:node:n2\" cannot get resource \"secrets\" in \
         API group \"\" in the namespace \"default\": no relationship found between node 'n2' and \
         this object"
    );
    for path in [
        format!("{SECRETS}/other"),
        format!("{CONFIG_MAPS}/other"),
        SECRETS.to_owned(),
        "/api/v1/secrets".to_owned(),
        "/api/v1/pods".to_owned(),
        "/api/v1/pods?fieldSelector=spec.nodeName%3Dn2".to_owned(),
        "/api/v1/namespaces/kube-system/secrets/used".to_owned(),
    ] {
        assert_eq!(n1.get(&path).await.0, 403, "{path}");
    }
    let pods_of_n1 = "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1";
    assert_eq!(
        n1.get(pods_of_n1).await.1["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(n1.get(&format!("{PODS}/p")).await.0, 200);
    assert_eq!(n2.get(&format!("{PODS}/p")).await.0, 403);
    // Without the group of nodes, the user name alone gives no rights.
    assert_eq!(api.as_user("system:node:n1", &[]).get(&used).await.0, 403);
    let review = json!({"spec": {"user": "system:node:n2", "groups": ["system:nodes"],
        "resourceAttributes": {"verb": "get", "resource": "secrets", "namespace": "default",
            "name": "used"}}});
    let reviews = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let response = api.create(reviews, review).await;
    assert_eq!(response["status"]["allowed"], false);
    assert!(
        response["status"]["reason"]
            .as_str()
            .unwrap()
            .contains("no relationship")
    );
    // After the pod is deleted, the node has no right any more.
    assert_eq!(code_of_deletion(&api).await, 200);
    assert_eq!(n1.get(&used).await.0, 403);
}

async fn code_of_deletion(api: &Api) -> u16 {
    code(
        api,
        "DELETE",
        &format!("{PODS}/p?gracePeriodSeconds=0"),
        Value::Null,
    )
    .await
}

#[tokio::test]
async fn a_node_writes_its_own_objects_only() {
    let api = ready().await;
    let pod = pod_on(&api, "p", "n1").await;
    let n1 = api.as_user("system:node:n1", &["system:nodes"]);
    let n2 = api.as_user("system:node:n2", &["system:nodes"]);
    let nodes = "/api/v1/nodes";
    assert_eq!(
        code(&n1, "POST", nodes, json!({"metadata": {"name": "n1"}})).await,
        201
    );
    assert_eq!(
        code(&n1, "POST", nodes, json!({"metadata": {"name": "n3"}})).await,
        403
    );
    assert_eq!(
        code(&n1, "POST", LEASES, json!({"metadata": {"name": "n1"}})).await,
        201
    );
    assert_eq!(
        code(&n1, "POST", LEASES, json!({"metadata": {"name": "n2"}})).await,
        403
    );
    assert_eq!(n2.get(&format!("{LEASES}/n1")).await.0, 403);
    let status = format!("{PODS}/p/status");
    let patch = json!({"status": {"phase": "Running"}});
    assert_eq!(n2.patch(&status, "merge", patch.clone()).await.0, 403);
    assert_eq!(n1.patch(&status, "merge", patch).await.0, 200);
    let (code, refused) = n2.send("DELETE", &format!("{PODS}/p"), Value::Null).await;
    assert_eq!(code, 403);
    assert_eq!(
        refused["message"],
        "pods \"p\" is forbidden: node \"n2\" can only delete pods with spec.nodeName set to itself"
    );
    let tokens = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let bound = json!({"spec": {"boundObjectRef": {
        "kind": "Pod", "apiVersion": "v1", "name": "p", "uid": pod["metadata"]["uid"]}}});
    assert_eq!(n1.send("POST", tokens, bound.clone()).await.0, 201);
    assert_eq!(n2.send("POST", tokens, bound).await.0, 403);
    let (code, refused) = n1.send("POST", tokens, json!({"spec": {}})).await;
    assert_eq!(code, 403);
    assert!(
        refused["message"]
            .as_str()
            .unwrap()
            .contains("token not bound to a pod"),
        "{refused}"
    );
}
