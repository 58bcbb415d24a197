//! StatefulSets from creation to deletion.

use std::time::Duration;

use controller_framework::{Cache, ObjectChange, WatchConfig};
use json_tree::{Value, json};
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod, ResourceQuota};
use kube_api_client::{Api, DeleteParams, ResourceExt};

use crate::support::{Cluster, names, play_node, pods, wait_for};

pub fn set(replicas: i32, image: &str, more: Value) -> Value {
    let mut spec = json!({
        "replicas": replicas,
        "serviceName": "svc",
        "selector": { "matchLabels": { "app": "web" } },
        "template": {
            "metadata": { "labels": { "app": "web" } },
            "spec": { "containers": [{ "name": "c", "image": image,
                "ports": [{ "name": "http", "containerPort": 80 }] }] },
        },
    });
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    json!({ "apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": { "name": "web" }, "spec": spec })
}

pub fn claims() -> Value {
    json!([{ "metadata": { "name": "www" }, "spec": { "accessModes": ["ReadWriteOnce"],
        "resources": { "requests": { "storage": "1Gi" } } } }])
}

pub fn image(image: &str) -> Value {
    json!({ "spec": { "template": { "spec": { "containers": [
        { "name": "c", "image": image }] } } } })
}

pub fn status(sets: &[StatefulSet]) -> String {
    let status = sets[0].status.clone().unwrap();
    let number = |number: Option<i32>| number.unwrap_or_default();
    format!(
        "{} {} {} {} {}",
        status.replicas,
        number(status.ready_replicas),
        number(status.available_replicas),
        number(status.current_replicas),
        number(status.updated_replicas)
    )
}

/// The whole life of a set: create, scale, update, delete.
#[tokio::test]
async fn a_set_lives() {
    let cluster = Cluster::new().await;
    let more = json!({ "volumeClaimTemplates": claims() });
    cluster.create::<StatefulSet>(set(3, "a", more)).await;
    wait_for(&cluster, "web-0:a web-1:a web-2:a", pods).await;
    wait_for::<PersistentVolumeClaim>(&cluster, "www-web-0 www-web-1 www-web-2", names).await;
    wait_for(&cluster, "3 3 3 3 3", status).await;

    let created: Vec<_> = cluster
        .api::<Pod>()
        .list(&Default::default())
        .await
        .unwrap()
        .items;
    let mut times: Vec<_> = created
        .iter()
        .map(|pod| (pod.resource_version(), pod.name_any()))
        .collect();
    times.sort();
    let pod = created
        .iter()
        .find(|pod| pod.name_any() == "web-1")
        .unwrap();
    let spec = pod.spec.as_ref().unwrap();
    assert_eq!(spec.hostname.as_deref(), Some("web-1"));
    assert_eq!(spec.subdomain.as_deref(), Some("svc"));
    assert_eq!(pod.labels()["apps.kubernetes.io/pod-index"], "1");

    cluster.patch::<StatefulSet>("web", image("b")).await;
    wait_for(&cluster, "web-0:b web-1:b web-2:b", pods).await;
    wait_for(&cluster, "3 3 3 3 3", status).await;
    wait_for::<ControllerRevision>(&cluster, "2", |all| all.len().to_string()).await;

    cluster
        .patch::<StatefulSet>("web", json!({ "spec": { "replicas": 1 } }))
        .await;
    wait_for(&cluster, "web-0:b", pods).await;
    wait_for(&cluster, "1 1 1 1 1", status).await;

    // statefulset.md 7.1, 7.2: the events of the set.
    wait_for::<Event>(&cluster, "true", |events| {
        let has = |text: &str| {
            events
                .iter()
                .any(|event| event.message.as_deref() == Some(text))
        };
        let source = events.iter().filter_map(|event| event.source.as_ref());
        let mut source = source.filter_map(|source| source.component.as_deref());
        let all = has("create Pod web-0 in StatefulSet web successful")
            && has("create Claim www-web-2 Pod web-2 in StatefulSet web success")
            && has("delete Pod web-2 in StatefulSet web successful")
            && source.any(|component| component == "statefulset-controller");
        all.to_string()
    })
    .await;

    cluster
        .delete::<StatefulSet>("web", DeleteParams::default())
        .await;
    wait_for::<Pod>(&cluster, "", names).await;
    wait_for::<ControllerRevision>(&cluster, "", names).await;
    // statefulset.md 8.8: claims stay.
    wait_for::<PersistentVolumeClaim>(&cluster, "www-web-0 www-web-1 www-web-2", names).await;
}

/// statefulset.md T3, T33, T34: lost, released and orphaned pods.
#[tokio::test]
async fn lost_released_and_orphaned_pods() {
    let cluster = Cluster::new().await;
    let bare = json!({ "metadata": { "name": "web-1", "labels": { "app": "web" } },
        "spec": { "containers": [{ "name": "c", "image": "a" }] } });
    let bare: Pod = cluster.create(bare).await;
    cluster.create::<StatefulSet>(set(2, "a", json!({}))).await;
    wait_for(&cluster, "2 2 2 2 2", status).await;
    // Adopted pods have no revision label, so they are updated.
    wait_for::<Pod>(&cluster, "true", |pods| {
        let web_1 = pods.iter().find(|pod| pod.name_any() == "web-1");
        web_1.is_some_and(|pod| pod.uid() != bare.uid()).to_string()
    })
    .await;

    let before = cluster.api::<Pod>().get("web-0").await.unwrap();
    cluster
        .delete::<Pod>("web-0", DeleteParams::default())
        .await;
    wait_for::<Pod>(&cluster, "true", |pods| {
        let web_0 = pods.iter().find(|pod| pod.name_any() == "web-0");
        web_0
            .is_some_and(|pod| pod.uid() != before.uid())
            .to_string()
    })
    .await;

    let relabel = json!({ "metadata": { "labels": { "app": "other" } } });
    cluster.patch::<Pod>("web-1", relabel).await;
    wait_for::<Pod>(&cluster, "0", |pods| {
        let web_1 = pods.iter().find(|pod| pod.name_any() == "web-1").unwrap();
        web_1.owner_references().len().to_string()
    })
    .await;
    cluster
        .delete::<Pod>("web-1", DeleteParams::default())
        .await;
    wait_for(&cluster, "web-0:a web-1:a", pods).await;
    wait_for(&cluster, "2 2 2 2 2", status).await;
}

/// statefulset.md T16: the rollout recovers without a deletion by a user.
#[tokio::test]
async fn a_broken_rollout_frees_itself() {
    let cluster = Cluster::new().await;
    cluster.create::<StatefulSet>(set(2, "a", json!({}))).await;
    wait_for(&cluster, "2 2 2 2 2", status).await;
    cluster.patch::<StatefulSet>("web", image("bad")).await;
    wait_for(&cluster, "web-0:a web-1:bad!", pods).await;
    cluster.patch::<StatefulSet>("web", image("c")).await;
    wait_for(&cluster, "web-0:c web-1:c", pods).await;
}

/// statefulset.md T25, T26: policies and the garbage collector together.
#[tokio::test]
async fn claims_go_as_the_policy_says() {
    let cluster = Cluster::new().await;
    let more = json!({
        "volumeClaimTemplates": claims(),
        "podManagementPolicy": "Parallel",
        "persistentVolumeClaimRetentionPolicy":
            { "whenDeleted": "Delete", "whenScaled": "Delete" },
    });
    cluster.create::<StatefulSet>(set(3, "a", more)).await;
    wait_for(&cluster, "3 3 3 3 3", status).await;
    cluster
        .patch::<StatefulSet>("web", json!({ "spec": { "replicas": 2 } }))
        .await;
    wait_for::<PersistentVolumeClaim>(&cluster, "www-web-0 www-web-1", names).await;
    cluster
        .patch::<StatefulSet>("web", json!({ "spec": { "replicas": 3 } }))
        .await;
    wait_for(&cluster, "3 3 3 3 3", status).await;
    cluster
        .delete::<StatefulSet>("web", DeleteParams::background())
        .await;
    wait_for::<Pod>(&cluster, "", names).await;
    wait_for::<PersistentVolumeClaim>(&cluster, "", names).await;
}

/// statefulset.md T43: controllers that are killed at any moment, and two controllers at once, never create two pods of
/// one name, and reach the state of a single controller.
#[tokio::test]
async fn controllers_come_and_go() {
    let cluster = Cluster::without_controllers().await;
    tokio::spawn(play_node(cluster.client.clone(), cluster.shutdown.clone()));
    let more = json!({ "volumeClaimTemplates": claims() });
    cluster.create::<StatefulSet>(set(3, "a", more)).await;
    let watched = cluster.shutdown.child_token();
    let watch = WatchConfig::default();
    let all: Api<Pod> = cluster.api();
    let mut changes = Cache::spawn(all, watch, watched.clone()).subscribe();
    let watcher = tokio::spawn(async move {
        let (mut deleted, mut created) = (Vec::new(), 0);
        while let Some(change) = changes.next().await {
            match change {
                ObjectChange::Applied(_, None) => created += 1,
                ObjectChange::Deleted(pod) => deleted.push(pod.name_any()),
                ObjectChange::Applied(..) => {}
            }
        }
        (created, deleted)
    });
    come_and_go(&cluster).await;
    wait_for(&cluster, "web-0:a web-1:a web-2:a", pods).await;
    cluster.patch::<StatefulSet>("web", image("b")).await;
    come_and_go(&cluster).await;
    wait_for(&cluster, "web-0:b web-1:b web-2:b", pods).await;
    wait_for(&cluster, "3 3 3 3 3", status).await;
    wait_for::<ControllerRevision>(&cluster, "2", |all| all.len().to_string()).await;
    watched.cancel();
    let (created, deleted) = watcher.await.unwrap();
    // In order, and each pod once: no pod was created or deleted twice.
    assert_eq!(deleted, ["web-2", "web-1", "web-0"]);
    assert_eq!(created, 6);
}

/// Runs two controllers at a time and kills them again and again; at last two that stay.
async fn come_and_go(cluster: &Cluster) {
    for round in 0..10 {
        let both = cluster.shutdown.child_token();
        cluster.start_controllers(&both);
        cluster.start_controllers(&both);
        tokio::time::sleep(Duration::from_millis(10 + 7 * round)).await;
        both.cancel();
    }
    cluster.start_controllers(&cluster.shutdown);
    cluster.start_controllers(&cluster.shutdown);
}

/// statefulset.md T30, 2.5: a claim that was deleted in use is removed with its pod; then both are created again.
#[tokio::test]
async fn a_deleted_claim_comes_back_with_its_pod() {
    let cluster = Cluster::new().await;
    let more = json!({ "volumeClaimTemplates": claims() });
    cluster.create::<StatefulSet>(set(1, "a", more)).await;
    wait_for(&cluster, "1 1 1 1 1", status).await;
    let protected = |claims: &[PersistentVolumeClaim]| claims[0].finalizers().join(" ");
    wait_for(&cluster, "kubernetes.io/pvc-protection", protected).await;
    let before = cluster
        .api::<PersistentVolumeClaim>()
        .get("www-web-0")
        .await
        .unwrap();
    cluster
        .delete::<PersistentVolumeClaim>("www-web-0", DeleteParams::default())
        .await;
    wait_for::<PersistentVolumeClaim>(&cluster, "true", |claims| {
        claims[0].metadata.deletion_timestamp.is_some().to_string()
    })
    .await;
    cluster
        .delete::<Pod>("web-0", DeleteParams::default())
        .await;
    wait_for::<PersistentVolumeClaim>(&cluster, "true", |claims| {
        claims
            .iter()
            .any(|claim| claim.uid() != before.uid())
            .to_string()
    })
    .await;
    wait_for(&cluster, "web-0:a", pods).await;
}

/// statefulset.md T22, 4.8: other data has the name of a new revision.
#[tokio::test]
async fn a_taken_revision_name_is_avoided() {
    let cluster = Cluster::new().await;
    cluster.create::<StatefulSet>(set(1, "a", json!({}))).await;
    wait_for(&cluster, "1 1 1 1 1", status).await;
    let revisions: Api<ControllerRevision> = cluster.api();
    let name = revisions.list(&Default::default()).await.unwrap().items[0].name_any();
    cluster
        .delete::<StatefulSet>("web", DeleteParams::default())
        .await;
    wait_for::<ControllerRevision>(&cluster, "", names).await;
    let other = json!({ "metadata": { "name": name }, "data": { "other": 1 }, "revision": 1 });
    cluster.create::<ControllerRevision>(other).await;
    wait_for::<Pod>(&cluster, "", names).await;
    cluster.create::<StatefulSet>(set(1, "a", json!({}))).await;
    wait_for(&cluster, "1 1 1 1 1", status).await;
    wait_for::<StatefulSet>(&cluster, "Some(1)", |sets| {
        format!("{:?}", sets[0].status.as_ref().unwrap().collision_count)
    })
    .await;
    wait_for::<ControllerRevision>(&cluster, "2", |all| all.len().to_string()).await;
}

// findings R21: a refusal by a quota is in the conditions, and is removed when the quota has capacity.
#[tokio::test]
async fn a_refusal_by_a_quota_is_a_condition_of_the_set() {
    let cluster = Cluster::new().await;
    let quota =
        |pods: &str| json!({ "metadata": { "name": "q" }, "spec": { "hard": { "pods": pods } } });
    cluster.create::<ResourceQuota>(quota("1")).await;
    cluster.create::<StatefulSet>(set(2, "a", json!({}))).await;
    let shows = |sets: &[StatefulSet]| {
        let status = sets[0].status.clone().unwrap_or_default();
        let mut conditions = status.conditions.into_iter().flatten();
        let progress = conditions.find(|condition| condition.type_ == "Progressing");
        let progress = progress.unwrap_or_default();
        let message = progress.message.unwrap_or_default();
        let named = message.starts_with("cannot create pod web-1:") && message.contains("quota: q");
        format!("{} {named}", progress.reason.unwrap_or_default())
    };
    wait_for(&cluster, "FailedCreate true", shows).await;
    cluster.patch::<ResourceQuota>("q", quota("2")).await;
    // A change of the quota causes no event for the set: the controller retries after a delay, or after a change of the
    // set.
    let annotate = json!({ "metadata": { "annotations": { "try": "again" } } });
    cluster.patch::<StatefulSet>("web", annotate).await;
    wait_for(&cluster, "RolloutComplete false", shows).await;
}
