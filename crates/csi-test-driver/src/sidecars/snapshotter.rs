//! Stand-in for the sidecar csi-snapshotter of external-snapshotter: creates and deletes snapshots for
//! VolumeSnapshotContents.

use json_tree::{Value, json};

use super::cluster::{Objects, Workers};
use super::kubernetes::allow_not_found;
use super::{
    CONTENTS, Result, SNAPSHOT_CLASSES, Sidecar, annotation, finalizers, has_finalizer, is_deleted,
    missing, text,
};

const BEING_CREATED: &str = "snapshot.storage.kubernetes.io/volumesnapshot-being-created";
const BEING_DELETED: &str = "snapshot.storage.kubernetes.io/volumesnapshot-being-deleted";
const FINALIZER: &str = "snapshot.storage.kubernetes.io/volumesnapshotcontent-bound-protection";

pub(super) fn start_work(sidecar: &Sidecar, objects: &Objects, workers: &Workers) {
    for content in objects.all(CONTENTS) {
        if content["spec"]["driver"] != sidecar.driver {
            continue;
        }
        let is_deleted = is_deleted(&content);
        let needs_work = match is_deleted {
            true => {
                let is_notified = !annotation(&content, BEING_DELETED).is_empty();
                has_finalizer(&content, FINALIZER) && is_notified
            }
            false => content["status"]["readyToUse"] != true,
        };
        if !needs_work {
            continue;
        }
        let key = text(&content["metadata"]["name"]).to_owned();
        let class = text(&content["spec"]["volumeSnapshotClassName"]);
        let class = objects.get(SNAPSHOT_CLASSES, "", class);
        let sidecar = sidecar.clone();
        workers.work(key, || async move {
            match is_deleted {
                true => delete(&sidecar, &content).await,
                false => create(&sidecar, &content, &class).await,
            }
        });
    }
}

fn path(content: &Value) -> String {
    format!("{CONTENTS}/{}", text(&content["metadata"]["name"]))
}

async fn annotate(sidecar: &Sidecar, content: &Value, value: Value) -> Result<()> {
    let patch = json!({"metadata": {"annotations": {BEING_CREATED: value}}});
    sidecar.kubernetes.merge(&path(content), &patch).await?;
    Ok(())
}

async fn create(sidecar: &Sidecar, content: &Value, class: &Value) -> Result<()> {
    let source = &content["spec"]["source"];
    let existing_handle = text(&source["snapshotHandle"]);
    if !existing_handle.is_empty() {
        let request = json!({"snapshot_id": existing_handle});
        let listed = sidecar.call("Controller/ListSnapshots", &request).await?;
        let snapshot = &listed["entries"][0]["snapshot"];
        if snapshot.is_null() {
            return missing(format!("no snapshot {existing_handle}"));
        }
        return write(sidecar, content, snapshot).await;
    }
    annotate(sidecar, content, json!("yes")).await?;
    let uid = text(&content["spec"]["volumeSnapshotRef"]["uid"]);
    let request = json!({"name": format!("snapshot-{uid}"),
        "source_volume_id": source["volumeHandle"], "parameters": class["parameters"]});
    let response = sidecar.call("Controller/CreateSnapshot", &request).await;
    let response = match response {
        Ok(response) => response,
        Err(trouble) => {
            let words = format!("failed to take snapshot of the volume: {trouble}");
            let error = json!({"status": {"readyToUse": false, "error": {"message": words}}});
            let path = format!("{}/status", path(content));
            sidecar.kubernetes.merge(&path, &error).await?;
            return Err(trouble);
        }
    };
    write(sidecar, content, &response["snapshot"]).await?;
    annotate(sidecar, content, Value::Null).await?;
    match response["snapshot"]["ready_to_use"] == true {
        true => Ok(()),
        // The driver is called again later.
        false => missing("the snapshot is not ready yet"),
    }
}

async fn write(sidecar: &Sidecar, content: &Value, snapshot: &Value) -> Result<()> {
    let time = snapshot["creation_time"].as_str().unwrap_or_default();
    let seconds = time.parse().map_or(0, jiff::Timestamp::as_second);
    let status = json!({"status": {"snapshotHandle": snapshot["snapshot_id"],
        "readyToUse": snapshot["ready_to_use"] == true, "restoreSize": snapshot["size_bytes"],
        "creationTime": seconds * 1_000_000_000, "error": null}});
    let path = format!("{}/status", path(content));
    sidecar.kubernetes.merge(&path, &status).await?;
    Ok(())
}

async fn delete(sidecar: &Sidecar, content: &Value) -> Result<()> {
    let handle = text(&content["status"]["snapshotHandle"]);
    if content["spec"]["deletionPolicy"] == "Delete" && !handle.is_empty() {
        let request = json!({"snapshot_id": handle});
        sidecar.call("Controller/DeleteSnapshot", &request).await?;
    }
    let freed = json!({"metadata": {"finalizers": finalizers(content, FINALIZER, false),
        "resourceVersion": content["metadata"]["resourceVersion"]}});
    Ok(allow_not_found(
        sidecar.kubernetes.merge(&path(content), &freed).await,
    )?)
}
