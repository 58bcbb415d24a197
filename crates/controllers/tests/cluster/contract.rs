//! The parts of the StatefulSet contract that need more than a planner: the events that start a plan, the actions of
//! the garbage collector, the grace periods.

use jiff::Timestamp;
use json_tree::{Value, json};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod, Service};
use kube_api_client::{Api, DeleteParams, Patch, PatchParams, ResourceExt};

use crate::stateful_sets::{claims, image, set, status};
use crate::support::{Cluster, names, pods, wait_for};

fn with_policy(deleted: &str, scaled: &str) -> Value {
    json!({ "volumeClaimTemplates": claims(), "persistentVolumeClaimRetentionPolicy":
        { "whenDeleted": deleted, "whenScaled": scaled } })
}

/// `www-web-0:StatefulSet www-web-1:` names and owners of claims.
fn owners(claims: &[PersistentVolumeClaim]) -> String {
    let mut printed: Vec<String> = claims
        .iter()
        .map(|claim| {
            let kinds: Vec<&str> = claim.owner_references().iter().map(|o| &*o.kind).collect();
            format!("{}:{}", claim.name_any(), kinds.join("+"))
        })
        .collect();
    printed.sort();
    printed.join(" ")
}

/// statefulset.md 1.8: the Service that a set names need not exist, and no controller creates it.
#[tokio::test]
async fn a_set_does_without_its_service() {
    let cluster = Cluster::new().await;
    cluster.create::<StatefulSet>(set(2, "a", json!({}))).await;
    wait_for(&cluster, "2 2 2 2 2", status).await;
    // The Service of the API server itself is independent of this rule.
    wait_for::<Service>(&cluster, "kubernetes", names).await;
}

/// statefulset.md 2.10, 2.11, 2.14, T27: for each policy, the fate of the data of a pod that a user deletes, of a pod
/// that is scaled down, and of a set that is deleted.
#[tokio::test]
async fn each_policy_keeps_and_gives_up_its_claims() {
    for (deleted, scaled) in [
        ("Retain", "Retain"),
        ("Retain", "Delete"),
        ("Delete", "Retain"),
        ("Delete", "Delete"),
    ] {
        let cluster = Cluster::new().await;
        cluster
            .create::<StatefulSet>(set(2, "a", with_policy(deleted, scaled)))
            .await;
        wait_for(&cluster, "2 2 2 2 2", status).await;
        let all: Api<PersistentVolumeClaim> = cluster.api();
        let uids = async || {
            let list = all.list(&Default::default()).await.unwrap();
            list.items
                .iter()
                .map(|claim| claim.uid().unwrap())
                .collect::<Vec<_>>()
        };
        let before = uids().await;
        // After a deletion by a user, and after an update, the data stays.
        let former = cluster.api::<Pod>().get("web-1").await.unwrap().uid();
        cluster
            .delete::<Pod>("web-1", DeleteParams::default())
            .await;
        wait_for::<Pod>(&cluster, "true", |pods| {
            let again = pods
                .iter()
                .any(|p| p.name_any() == "web-1" && p.uid() != former);
            again.to_string()
        })
        .await;
        wait_for(&cluster, "2 2 2 2 2", status).await;
        cluster.patch::<StatefulSet>("web", image("b")).await;
        wait_for(&cluster, "web-0:b web-1:b", pods).await;
        wait_for(&cluster, "2 2 2 2 2", status).await;
        assert_eq!(uids().await, before, "{deleted} {scaled}");

        cluster
            .patch::<StatefulSet>("web", json!({ "spec": { "replicas": 1 } }))
            .await;
        wait_for(&cluster, "1 1 1 1 1", status).await;
        let of_set = if deleted == "Delete" {
            "StatefulSet"
        } else {
            ""
        };
        let expected = format!("www-web-0:{of_set}");
        let left = match scaled {
            "Delete" => expected.clone(),
            _ => format!("{expected} www-web-1:{of_set}"),
        };
        wait_for(&cluster, &left, owners).await;

        cluster
            .delete::<StatefulSet>("web", DeleteParams::default())
            .await;
        wait_for::<Pod>(&cluster, "", names).await;
        let left = if deleted == "Delete" {
            String::new()
        } else {
            left
        };
        wait_for(&cluster, &left, owners).await;
    }
}

/// statefulset.md 2.17, 8.6, T26: after an orphaning deletion everything stays, and no claim references the set.
#[tokio::test]
async fn claims_of_an_orphaned_set_stay() {
    let cluster = Cluster::new().await;
    cluster
        .create::<StatefulSet>(set(2, "a", with_policy("Delete", "Delete")))
        .await;
    wait_for(&cluster, "2 2 2 2 2", status).await;
    wait_for(
        &cluster,
        "www-web-0:StatefulSet www-web-1:StatefulSet",
        owners,
    )
    .await;
    cluster
        .delete::<StatefulSet>("web", DeleteParams::orphan())
        .await;
    wait_for::<StatefulSet>(&cluster, "", names).await;
    wait_for(&cluster, "www-web-0: www-web-1:", owners).await;
    wait_for(&cluster, "web-0:a web-1:a", pods).await;
    // The next set of that name adopts the pods and uses the claims.
    cluster
        .create::<StatefulSet>(set(2, "a", with_policy("Delete", "Retain")))
        .await;
    wait_for(
        &cluster,
        "www-web-0:StatefulSet www-web-1:StatefulSet",
        owners,
    )
    .await;
}

/// statefulset.md 3.3, 8.1: a pod that starts to match the selector is detected: when it is created, and when it gets
/// the label.
#[tokio::test]
async fn an_orphan_wakes_the_set_that_selects_it() {
    let cluster = Cluster::new().await;
    cluster.create::<StatefulSet>(set(1, "a", json!({}))).await;
    wait_for(&cluster, "1 1 1 1 1", status).await;
    let bare = |name: &str, app: &str| {
        json!({ "metadata": { "name": name, "labels": { "app": app } },
            "spec": { "containers": [{ "name": "c", "image": "a" }] } })
    };
    // The pod is surplus as soon as it is adopted.
    cluster.create::<Pod>(bare("web-7", "web")).await;
    wait_for::<Pod>(&cluster, "web-0", names).await;
    let later: Pod = cluster.create(bare("web-8", "other")).await;
    wait_for::<Pod>(&cluster, "web-0 web-8", names).await;
    let label = json!({ "metadata": { "labels": { "app": "web" } } });
    cluster.patch::<Pod>(&later.name_any(), label).await;
    wait_for::<Pod>(&cluster, "web-0", names).await;
}

/// statefulset.md 3.3, 3.35: a pod becomes available by the passage of time alone.
#[tokio::test]
async fn time_alone_makes_a_pod_available() {
    let cluster = Cluster::new().await;
    let start = Timestamp::now();
    cluster
        .create::<StatefulSet>(set(2, "a", json!({ "minReadySeconds": 1 })))
        .await;
    wait_for(&cluster, "2 2 2 2 2", status).await;
    let pods = cluster
        .api::<Pod>()
        .list(&Default::default())
        .await
        .unwrap();
    let ready = |name: &str| {
        let pod = pods
            .items
            .iter()
            .find(|pod| pod.name_any() == name)
            .unwrap();
        let conditions = pod.status.as_ref().unwrap().conditions.clone().unwrap();
        let ready = conditions
            .into_iter()
            .find(|condition| condition.type_ == "Ready");
        ready.unwrap().last_transition_time.unwrap().0
    };
    assert!(ready("web-1").duration_since(ready("web-0")).as_secs() >= 1);
    assert!(Timestamp::now().duration_since(start).as_secs() >= 1);
}

/// statefulset.md 5.3: a pod is deleted with the grace period of its spec.
#[tokio::test]
async fn a_pod_is_deleted_with_its_own_grace() {
    let cluster = Cluster::without_node().await;
    let mut slow = set(1, "a", json!({}));
    slow["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(7);
    slow["spec"]["template"]["spec"]["nodeName"] = json!("n1");
    cluster.create::<StatefulSet>(slow).await;
    wait_for::<Pod>(&cluster, "web-0", names).await;
    let ready = json!({ "status": { "phase": "Running", "conditions": [
        { "type": "Ready", "status": "True", "lastTransitionTime": Timestamp::now() }] } });
    let all: Api<Pod> = cluster.api();
    let params = PatchParams::default();
    all.patch_status("web-0", &params, &Patch::Strategic(ready))
        .await
        .unwrap();
    cluster
        .patch::<StatefulSet>("web", json!({ "spec": { "replicas": 0 } }))
        .await;
    wait_for::<Pod>(&cluster, "Some(7)", |pods| {
        format!("{:?}", pods[0].metadata.deletion_grace_period_seconds)
    })
    .await;
}

/// statefulset.md 3.30, 7.1, T8, T9: an ended pod is replaced; its claim is not replaced.
#[tokio::test]
async fn a_pod_that_has_ended_is_replaced() {
    let cluster = Cluster::new().await;
    let more = json!({ "volumeClaimTemplates": claims() });
    cluster.create::<StatefulSet>(set(1, "a", more)).await;
    wait_for(&cluster, "1 1 1 1 1", status).await;
    let all: Api<Pod> = cluster.api();
    let claim = cluster
        .api::<PersistentVolumeClaim>()
        .get("www-web-0")
        .await
        .unwrap();
    for phase in ["Failed", "Succeeded"] {
        let former = all.get("web-0").await.unwrap().uid();
        let ended = Patch::Merge(json!({ "status": { "phase": phase, "reason": "Evicted" } }));
        all.patch_status("web-0", &PatchParams::default(), &ended)
            .await
            .unwrap();
        wait_for::<Pod>(&cluster, "true", |pods| {
            pods.first()
                .is_some_and(|pod| pod.uid() != former)
                .to_string()
        })
        .await;
        wait_for(&cluster, "1 1 1 1 1", status).await;
    }
    wait_for::<Event>(&cluster, "2", |events| {
        let message = "delete Pod web-0 in StatefulSet web successful";
        let reported = events
            .iter()
            .filter(|event| event.message.as_deref() == Some(message));
        reported
            .map(|event| event.count.unwrap_or(1))
            .sum::<i32>()
            .to_string()
    })
    .await;
    let after = cluster
        .api::<PersistentVolumeClaim>()
        .get("www-web-0")
        .await
        .unwrap();
    assert_eq!((after.uid(), after.spec), (claim.uid(), claim.spec));
}
