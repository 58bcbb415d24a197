//! Deployments, ReplicaSets and ReplicationControllers.

use json_tree::{Value, json};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Event, Pod, ReplicationController};
use kube_api_client::{DeleteParams, Patch, PatchParams, ResourceExt};

use crate::support::{Cluster, names, wait_for};

fn template(image: &str) -> Value {
    json!({ "metadata": { "labels": { "app": "web" } },
        "spec": { "containers": [{ "name": "c", "image": image }] } })
}

fn deployment(replicas: i32, image: &str, strategy: Value) -> Value {
    json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" },
        "spec": { "replicas": replicas, "strategy": strategy,
            "selector": { "matchLabels": { "app": "web" } }, "template": template(image) } })
}

fn image(image: &str) -> Value {
    json!({ "spec": { "template": { "spec": { "containers": [
        { "name": "c", "image": image }] } } } })
}

/// `a a b!`: the pods' images; `!` means not Ready.
fn images(pods: &[Pod]) -> String {
    let printed = crate::support::pods(pods);
    let mut images: Vec<&str> = printed
        .split(' ')
        .filter_map(|p| p.split_once(':'))
        .map(|p| p.1)
        .collect();
    images.sort();
    images.join(" ")
}

/// `web 3/3 up-to-date 3 Progressing=NewReplicaSetAvailable`
fn shows(deployments: &[Deployment]) -> String {
    let all = deployments.iter().map(|deployment| {
        let status = deployment.status.clone().unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        let progress = conditions.iter().find(|c| c.type_ == "Progressing");
        format!(
            "{}/{} of {} {}",
            status.updated_replicas.unwrap_or_default(),
            status.available_replicas.unwrap_or_default(),
            status.replicas.unwrap_or_default(),
            progress.and_then(|c| c.reason.clone()).unwrap_or_default(),
        )
    });
    all.collect::<Vec<_>>().join(" ")
}

/// `1:0 2:3`: revisions and replicas.
fn sets(sets: &[ReplicaSet]) -> String {
    let mut printed: Vec<String> = sets
        .iter()
        .map(|set| {
            let revision = &set.annotations()["deployment.kubernetes.io/revision"];
            format!(
                "{revision}:{}",
                set.spec.as_ref().unwrap().replicas.unwrap()
            )
        })
        .collect();
    printed.sort();
    printed.join(" ")
}

/// The whole life of a Deployment: create, update, roll back, scale, delete.
#[tokio::test]
async fn a_deployment_lives() {
    let cluster = Cluster::new().await;
    cluster
        .create::<Deployment>(deployment(3, "a", json!({})))
        .await;
    wait_for(&cluster, "a a a", images).await;
    wait_for(&cluster, "3/3 of 3 NewReplicaSetAvailable", shows).await;

    cluster.patch::<Deployment>("web", image("b")).await;
    wait_for(&cluster, "b b b", images).await;
    wait_for(&cluster, "3/3 of 3 NewReplicaSetAvailable", shows).await;
    wait_for(&cluster, "1:0 2:3", sets).await;

    // With the old template, the old ReplicaSet gets a new revision number.
    cluster.patch::<Deployment>("web", image("a")).await;
    wait_for(&cluster, "a a a", images).await;
    wait_for(&cluster, "2:0 3:3", sets).await;

    cluster
        .patch::<Deployment>("web", json!({ "spec": { "replicas": 1 } }))
        .await;
    wait_for(&cluster, "a", images).await;
    wait_for(&cluster, "1/1 of 1 NewReplicaSetAvailable", shows).await;
    wait_for::<Event>(&cluster, "true", |events| {
        let has = |reason: &str, kind: &str| {
            events.iter().any(|event| {
                event.reason.as_deref() == Some(reason)
                    && event.involved_object.kind.as_deref() == Some(kind)
            })
        };
        let all = has("ScalingReplicaSet", "Deployment")
            && has("SuccessfulCreate", "ReplicaSet")
            && has("SuccessfulDelete", "ReplicaSet");
        all.to_string()
    })
    .await;

    cluster
        .delete::<Deployment>("web", DeleteParams::default())
        .await;
    wait_for::<Pod>(&cluster, "", names).await;
    wait_for::<ReplicaSet>(&cluster, "", names).await;
}

/// A rollout that cannot succeed keeps the old pods, as far as its strategy demands.
#[tokio::test]
async fn a_bad_template_leaves_the_old_pods() {
    let cluster = Cluster::new().await;
    let strategy = json!({ "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } });
    cluster
        .create::<Deployment>(deployment(2, "a", strategy))
        .await;
    wait_for(&cluster, "a a", images).await;
    cluster.patch::<Deployment>("web", image("bad")).await;
    wait_for(&cluster, "a a bad!", images).await;
    wait_for(&cluster, "1/2 of 3 ReplicaSetUpdated", shows).await;
    cluster.patch::<Deployment>("web", image("b")).await;
    wait_for(&cluster, "b b", images).await;
}

#[tokio::test]
async fn nothing_new_starts_beside_the_old_when_a_deployment_is_recreated() {
    let cluster = Cluster::new().await;
    let strategy = json!({ "type": "Recreate" });
    cluster
        .create::<Deployment>(deployment(2, "a", strategy))
        .await;
    wait_for(&cluster, "a a", images).await;
    cluster.patch::<Deployment>("web", image("b")).await;
    wait_for(&cluster, "b b", images).await;
    wait_for(&cluster, "2/2 of 2 NewReplicaSetAvailable", shows).await;
}

#[tokio::test]
async fn a_paused_deployment_rolls_nothing_out_and_scales() {
    let cluster = Cluster::new().await;
    cluster
        .create::<Deployment>(deployment(1, "a", json!({})))
        .await;
    wait_for(&cluster, "a", images).await;
    let mut change = image("b");
    change["spec"]["paused"] = json!(true);
    change["spec"]["replicas"] = json!(3);
    cluster.patch::<Deployment>("web", change).await;
    wait_for(&cluster, "a a a", images).await;
    wait_for(&cluster, "0/3 of 3 DeploymentPaused", shows).await;
    cluster
        .patch::<Deployment>("web", json!({ "spec": { "paused": false } }))
        .await;
    wait_for(&cluster, "b b b", images).await;
}

/// A deleted pod is replaced, a pod that loses its label too, and a pod that gets the label is adopted.
#[tokio::test]
async fn a_replica_set_keeps_its_number() {
    let cluster = Cluster::new().await;
    let set = json!({ "metadata": { "name": "web" }, "spec": { "replicas": 2,
        "selector": { "matchLabels": { "app": "web" } }, "template": template("a") } });
    cluster.create::<ReplicaSet>(set).await;
    wait_for(&cluster, "a a", images).await;
    let pods = cluster
        .api::<Pod>()
        .list(&Default::default())
        .await
        .unwrap();
    let (first, second) = (pods.items[0].name_any(), pods.items[1].name_any());
    cluster.delete::<Pod>(&first, DeleteParams::default()).await;
    cluster
        .patch::<Pod>(&second, json!({ "metadata": { "labels": { "app": "x" } } }))
        .await;
    wait_for(&cluster, "a a a", images).await;
    let stray = cluster.api::<Pod>().get(&second).await.unwrap();
    assert_eq!(stray.owner_references(), []);
    cluster
        .patch::<Pod>(
            &second,
            json!({ "metadata": { "labels": { "app": "web" } } }),
        )
        .await;
    wait_for(&cluster, "a a", images).await;
    let orphan = DeleteParams {
        propagation_policy: Some(kube_api_client::PropagationPolicy::Orphan),
        ..DeleteParams::default()
    };
    cluster.delete::<ReplicaSet>("web", orphan).await;
    wait_for::<ReplicaSet>(&cluster, "", names).await;
    wait_for(&cluster, "a a", images).await;
}

#[tokio::test]
async fn a_replication_controller_is_served_likewise() {
    let cluster = Cluster::new().await;
    let controller = json!({ "metadata": { "name": "rc" }, "spec": { "replicas": 2,
        "template": template("a") } });
    cluster.create::<ReplicationController>(controller).await;
    wait_for(&cluster, "a a", images).await;
    let ready = |all: &[ReplicationController]| {
        let status = all[0].status.clone().unwrap_or_default();
        status.ready_replicas.unwrap_or_default().to_string()
    };
    wait_for(&cluster, "2", ready).await;
    // A wrong status by another writer is corrected.
    let wrong = Patch::Merge(json!({ "status": { "readyReplicas": 0, "availableReplicas": 0 } }));
    let api = cluster.api::<ReplicationController>();
    let params = PatchParams::default();
    let patched = api.patch_status("rc", &params, &wrong).await.unwrap();
    assert_eq!(ready(&[patched]), "0");
    wait_for(&cluster, "2", ready).await;
}
