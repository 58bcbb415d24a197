//! Snapshots that outlive their objects, and those that somebody brings: real subvolumes, as root.

use std::path::Path;

use kube_api_client::{ApiResource, DynamicObject, Patch};
use resource_kinds::snapshot::GROUP;

use super::*;

const DRIVER: &str = "mainstay.dev/local-cow";

impl Cluster {
    /// Waits until the kinds of snapshots are served.
    async fn with_copies() -> Self {
        let cluster = Self::new().await;
        let served = || async { cluster.contents().list(&Default::default()).await.is_ok() };
        eventually(true, served).await;
        cluster
    }

    fn of_kind(&self, kind: &str, in_namespace: bool) -> Api<DynamicObject> {
        let ending = if kind.ends_with('s') { "es" } else { "s" };
        let plural = format!("{}{ending}", kind.to_lowercase());
        let kind = ApiResource::new(GROUP, "v1", kind, &plural);
        if in_namespace {
            Api::namespaced_with(self.client.clone(), "default", &kind)
        } else {
            Api::all_with(self.client.clone(), &kind)
        }
    }

    fn snapshots(&self) -> Api<DynamicObject> {
        self.of_kind("VolumeSnapshot", true)
    }

    fn contents(&self) -> Api<DynamicObject> {
        self.of_kind("VolumeSnapshotContent", false)
    }

    async fn snapshot(&self, name: &str, spec: Value) {
        let snapshot = typed(
            json!({"apiVersion": format!("{GROUP}/v1"), "kind": "VolumeSnapshot",
            "metadata": {"name": name}, "spec": spec}),
        );
        let api = self.snapshots();
        api.create(&PostParams::default(), &snapshot).await.unwrap();
    }

    /// Brings a content that stands for what is kept under the handle, for that snapshot.
    async fn content(&self, name: &str, handle: &str, policy: &str, snapshot: &str) {
        let content = typed(json!({
            "apiVersion": format!("{GROUP}/v1"), "kind": "VolumeSnapshotContent",
            "metadata": {"name": name},
            "spec": {"driver": DRIVER, "deletionPolicy": policy,
                "source": {"snapshotHandle": handle},
                "volumeSnapshotRef": {"namespace": "default", "name": snapshot}}}));
        let api = self.contents();
        api.create(&PostParams::default(), &content).await.unwrap();
    }

    async fn wait_ready(&self, snapshot: &str) {
        let ready = || async {
            let snapshot = self.snapshots().get(snapshot).await.unwrap();
            snapshot.data["status"]["readyToUse"] == true
        };
        eventually(true, ready).await;
    }

    /// Deletes a snapshot and waits until it is gone.
    async fn delete_snapshot(&self, name: &str) {
        let now = DeleteParams::default();
        self.snapshots().delete(name, &now).await.unwrap();
        let is_deleted = || async { self.snapshots().get_opt(name).await.unwrap().is_none() };
        eventually(true, is_deleted).await;
    }

    async fn content_is_gone(&self, name: &str) -> bool {
        self.contents().get_opt(name).await.unwrap().is_none()
    }

    /// Makes a claim from a snapshot, and reads the file in it.
    async fn restored(&self, claim: &str, snapshot: &str) -> String {
        let source = json!({"dataSource": {"apiGroup": GROUP, "kind": "VolumeSnapshot",
            "name": snapshot}, "resources": {"requests": {"storage": "32Mi"}}});
        self.create_claim(claim, "copied", source).await;
        eventually("Bound".to_owned(), || self.phase(claim)).await;
        let (_, path) = self.volume_of(claim).await;
        std::fs::read_to_string(path.join("file")).unwrap()
    }

    fn snapshot_count(&self) -> usize {
        let snapshot_count = std::fs::read_dir(self.disk.path().join("pool/mount/snapshots"));
        snapshot_count.map(Iterator::count).unwrap_or_default()
    }
}

fn write(volume: &Path, text: &str) {
    std::fs::write(volume.join("file"), text).unwrap();
}

/// statefulset.md §11.15.
#[tokio::test]
async fn what_a_policy_retains_is_bound_again_by_hand() {
    let cluster = Cluster::with_copies().await;
    let _provisioner = cluster.start_provisioner();
    cluster.create_class_of("copied", DRIVER).await;
    let class = typed(
        json!({"apiVersion": format!("{GROUP}/v1"), "kind": "VolumeSnapshotClass",
        "metadata": {"name": "keep"}, "driver": DRIVER, "deletionPolicy": "Retain"}),
    );
    let classes = cluster.of_kind("VolumeSnapshotClass", false);
    classes
        .create(&PostParams::default(), &class)
        .await
        .unwrap();
    let small = json!({"resources": {"requests": {"storage": "32Mi"}}});
    cluster.create_claim("data", "copied", small).await;
    eventually("Bound".to_owned(), || cluster.phase("data")).await;
    let (_, volume) = cluster.volume_of("data").await;
    write(&volume, "before");
    let of_claim = json!({"volumeSnapshotClassName": "keep",
        "source": {"persistentVolumeClaimName": "data"}});
    cluster.snapshot("first", of_claim).await;
    cluster.wait_ready("first").await;
    write(&volume, "after");

    // The snapshot goes, its content stays; the content goes, what is kept stays.
    let first = cluster.snapshots().get("first").await.unwrap();
    let content = first.data["status"]["boundVolumeSnapshotContentName"].as_str();
    let content = content.unwrap().to_owned();
    cluster.delete_snapshot("first").await;
    let retained = cluster.contents().get(&content).await.unwrap();
    assert_eq!(retained.data["spec"]["deletionPolicy"], "Retain");
    let handle = retained.data["status"]["snapshotHandle"].as_str();
    let handle = handle.unwrap().to_owned();
    let now = DeleteParams::default();
    cluster.contents().delete(&content, &now).await.unwrap();
    eventually(true, || cluster.content_is_gone(&content)).await;
    assert_eq!(cluster.snapshot_count(), 1);

    // Brought back by hand, under another name.
    cluster.content("found", &handle, "Retain", "second").await;
    let of_content = json!({"source": {"volumeSnapshotContentName": "found"}});
    cluster.snapshot("second", of_content).await;
    cluster.wait_ready("second").await;
    let bound = cluster.contents().get("found").await.unwrap();
    let second = cluster.snapshots().get("second").await.unwrap();
    let uid = second.metadata.uid.clone().unwrap();
    assert_eq!(bound.data["spec"]["volumeSnapshotRef"]["uid"], uid);
    assert_eq!(cluster.restored("copy", "second").await, "before");
    assert_eq!(cluster.snapshot_count(), 1);

    // Another policy, and it goes with its snapshot; what was made from it does not.
    let delete = Patch::Merge(json!({"spec": {"deletionPolicy": "Delete"}}));
    cluster
        .contents()
        .patch("found", &PatchParams::default(), &delete)
        .await
        .unwrap();
    cluster.delete_snapshot("second").await;
    eventually(true, || cluster.content_is_gone("found")).await;
    assert_eq!(cluster.snapshot_count(), 0);
    let (_, copy) = cluster.volume_of("copy").await;
    assert_eq!(
        std::fs::read_to_string(copy.join("file")).unwrap(),
        "before"
    );
}

/// A content that stands for nothing says so, and nothing is made from it.
#[tokio::test]
async fn a_content_without_anything_behind_it_is_an_error() {
    let cluster = Cluster::with_copies().await;
    let _provisioner = cluster.start_provisioner();
    let handle = format!("{NODE}/snapshot-none");
    cluster.content("lost", &handle, "Delete", "third").await;
    let of_content = json!({"source": {"volumeSnapshotContentName": "lost"}});
    cluster.snapshot("third", of_content).await;
    let status_of_content = || async {
        let content = cluster.contents().get("lost").await.unwrap();
        let status = content.data["status"].clone();
        let text = status["error"]["message"].as_str().unwrap_or_default();
        (status["readyToUse"] == true, text.to_owned())
    };
    let expected = format!("there is no snapshot {handle}");
    eventually((false, expected.clone()), status_of_content).await;
    // Only once the two are bound does the content go with its snapshot.
    let passed_on = || async {
        let snapshot = cluster.snapshots().get("third").await.unwrap();
        let status = snapshot.data["status"].clone();
        let text = status["error"]["message"].as_str().unwrap_or_default();
        (status["readyToUse"] == true, text.to_owned())
    };
    eventually((false, expected), passed_on).await;
    cluster.delete_snapshot("third").await;
    eventually(true, || cluster.content_is_gone("lost")).await;
}
