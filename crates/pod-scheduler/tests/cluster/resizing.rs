//! Allocated resources of running pods count during a resize (kubectl.md 6.7).

use super::*;

/// Sets the container's allocated resources in the status.
async fn report(cluster: &Cluster, pod: &str, cpu: &str) {
    let status = json!({"status": {"phase": "Running", "containerStatuses": [{
        "name": "a", "image": "a", "imageID": "a", "ready": true, "restartCount": 0,
        "allocatedResources": {"cpu": cpu}, "resources": {"requests": {"cpu": cpu}}}]}});
    cluster
        .pods()
        .patch_status(pod, &PatchParams::default(), &Patch::Merge(status))
        .await
        .unwrap();
}

async fn ask(cluster: &Cluster, pod: &str, cpu: &str) {
    let container = json!({"name": "a", "resources": {"requests": {"cpu": cpu}}});
    let patch = json!({"spec": {"containers": [container]}});
    let params = PatchParams::default();
    cluster
        .pods()
        .patch_subresource("resize", pod, &params, &Patch::Strategic(patch))
        .await
        .unwrap();
}

#[tokio::test]
async fn what_a_pod_gives_back_others_get_when_it_is_given_back() {
    let cluster = Cluster::new(&["n1"]).await;
    cluster.create_pod("large", asking("2")).await;
    eventually("n1".to_owned(), || cluster.node_or_reason("large")).await;
    report(&cluster, "large", "2").await;
    cluster.create_pod("second", asking("1")).await;
    let full = "0/1 nodes are available: 1 Insufficient cpu.";
    let waits = || async { cluster.node_or_reason("second").await.starts_with(full) };
    eventually(true, waits).await;

    // It asks for less, but has it all still.
    ask(&cluster, "large", "500m").await;
    cluster.create_pod("third", asking("100m")).await;
    let waits = || async { cluster.node_or_reason("third").await.starts_with(full) };
    eventually(true, waits).await;
    assert!(cluster.node_or_reason("second").await.starts_with(full));

    report(&cluster, "large", "500m").await;
    eventually("n1".to_owned(), || cluster.node_or_reason("second")).await;
    eventually("n1".to_owned(), || cluster.node_or_reason("third")).await;
}

#[tokio::test]
async fn what_a_pod_asks_for_is_kept_for_it_before_it_has_it() {
    let cluster = Cluster::new(&["n1"]).await;
    cluster.create_pod("small", asking("500m")).await;
    eventually("n1".to_owned(), || cluster.node_or_reason("small")).await;
    report(&cluster, "small", "500m").await;
    ask(&cluster, "small", "1500m").await;
    cluster.create_pod("second", asking("1")).await;
    let full = "0/1 nodes are available: 1 Insufficient cpu.";
    let waits = || async { cluster.node_or_reason("second").await.starts_with(full) };
    eventually(true, waits).await;
    // An infeasible request does not count.
    let infeasible = json!({"status": {"conditions": [{"type": "PodResizePending",
        "status": "True", "reason": "Infeasible"}]}});
    cluster
        .pods()
        .patch_status(
            "small",
            &PatchParams::default(),
            &Patch::Strategic(infeasible),
        )
        .await
        .unwrap();
    eventually("n1".to_owned(), || cluster.node_or_reason("second")).await;
}
