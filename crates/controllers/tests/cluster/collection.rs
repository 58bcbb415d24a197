//! Garbage collection and the deletion of namespaces.

use json_tree::json;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, ServiceAccount};
use kube_api_client::{Api, DeleteParams, Patch, PatchParams, PostParams, ResourceExt};

use crate::stateful_sets::set;
use crate::support::{Cluster, Warnings, eventually, names, pods, wait_for};

/// statefulset.md T42, 8.7: the owner stays until its pods are deleted, and creates no pods meanwhile.
#[tokio::test]
async fn foreground_deletion_waits_for_dependents() {
    let cluster = Cluster::new().await;
    cluster.create::<StatefulSet>(set(2, "a", json!({}))).await;
    wait_for(&cluster, "web-0:a web-1:a", pods).await;
    let hold = json!({ "metadata": { "finalizers": ["example.com/hold"] } });
    cluster.patch::<Pod>("web-1", hold).await;
    cluster
        .delete::<StatefulSet>("web", DeleteParams::foreground())
        .await;
    wait_for::<Pod>(&cluster, "web-1", names).await;
    wait_for::<StatefulSet>(&cluster, "foregroundDeletion", |sets| {
        sets[0].finalizers().join(" ")
    })
    .await;
    let release = json!([{ "op": "remove", "path": "/metadata/finalizers" }]);
    let release = Patch::Json(release);
    cluster
        .api::<Pod>()
        .patch("web-1", &PatchParams::default(), &release)
        .await
        .unwrap();
    wait_for::<Pod>(&cluster, "", names).await;
    wait_for::<StatefulSet>(&cluster, "", names).await;
}

/// statefulset.md T32, 8.6: orphaned pods stay, and the next set of that name adopts them.
#[tokio::test]
async fn orphaned_pods_stay() {
    let cluster = Cluster::new().await;
    cluster.create::<StatefulSet>(set(2, "a", json!({}))).await;
    wait_for(&cluster, "web-0:a web-1:a", pods).await;
    let before = cluster.api::<Pod>().get("web-0").await.unwrap();
    cluster
        .delete::<StatefulSet>("web", DeleteParams::orphan())
        .await;
    wait_for::<StatefulSet>(&cluster, "", names).await;
    wait_for::<Pod>(&cluster, "0 0", |pods| {
        let owners = |pod: &Pod| pod.owner_references().len().to_string();
        pods.iter().map(owners).collect::<Vec<_>>().join(" ")
    })
    .await;
    cluster.create::<StatefulSet>(set(1, "a", json!({}))).await;
    wait_for(&cluster, "web-0:a", pods).await;
    let after = cluster.api::<Pod>().get("web-0").await.unwrap();
    assert_eq!(before.uid(), after.uid());
    assert_eq!(after.owner_references().len(), 1);
}

/// statefulset.md 13.2: an owner that is absent, or has another UID than the reference, is detected.
#[tokio::test]
async fn an_object_without_a_living_owner_goes() {
    let cluster = Cluster::new().await;
    let map = |name: &str, owners: json_tree::Value| json!({ "metadata": { "name": name, "ownerReferences": owners } });
    let owner: ConfigMap = cluster.create(map("owner", json!([]))).await;
    let reference = |name: &str, uid: &str| json!({ "apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid });
    let real = reference("owner", &owner.uid().unwrap());
    let half = json!([real, reference("gone", "1")]);
    let none = json!([reference("gone", "2")]);
    let other = json!([reference("owner", "3")]);
    cluster.create::<ConfigMap>(map("kept", half)).await;
    cluster.create::<ConfigMap>(map("lost", none)).await;
    cluster.create::<ConfigMap>(map("mistaken", other)).await;
    wait_for::<ConfigMap>(&cluster, "kept kube-root-ca.crt owner", names).await;
    wait_for::<ConfigMap>(&cluster, "1", |maps| {
        let remaining = maps.iter().find(|map| map.name_any() == "kept").unwrap();
        remaining.owner_references().len().to_string()
    })
    .await;
    cluster
        .delete::<ConfigMap>("owner", DeleteParams::default())
        .await;
    wait_for::<ConfigMap>(&cluster, "kube-root-ca.crt", names).await;
}

/// statefulset.md 13.4, and the objects that every namespace has. findings C24: the deletion of a namespace causes no
/// warnings.
#[tokio::test]
async fn a_namespace_comes_with_its_defaults_and_goes_with_everything() {
    let warnings = Warnings::default();
    let _collected = tracing::subscriber::set_default(warnings.clone());
    let cluster = Cluster::new().await;
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let namespace = json_tree::from_value(json!({ "metadata": { "name": "ns" } })).unwrap();
    namespaces
        .create(&PostParams::default(), &namespace)
        .await
        .unwrap();
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client.clone(), "ns");
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "ns");
    eventually(async || accounts.get_opt("default").await.unwrap().is_some()).await;
    eventually(async || maps.get_opt("kube-root-ca.crt").await.unwrap().is_some()).await;
    accounts
        .delete("default", &DeleteParams::default())
        .await
        .unwrap();
    eventually(async || accounts.get_opt("default").await.unwrap().is_some()).await;

    let sets: Api<StatefulSet> = Api::namespaced(cluster.client.clone(), "ns");
    let set = json_tree::from_value(set(2, "a", json!({}))).unwrap();
    sets.create(&PostParams::default(), &set).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), "ns");
    let two = async || pods.list(&Default::default()).await.unwrap().items.len() == 2;
    eventually(two).await;
    namespaces
        .delete("ns", &DeleteParams::default())
        .await
        .unwrap();
    eventually(async || namespaces.get_opt("ns").await.unwrap().is_none()).await;
    assert!(
        pods.list(&Default::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
    assert!(
        sets.list(&Default::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
    assert!(warnings.found().is_empty(), "{:?}", warnings.found());
}
