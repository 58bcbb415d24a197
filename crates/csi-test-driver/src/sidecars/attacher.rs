//! Stand-in for external-attacher: attaches and detaches volumes for VolumeAttachments.

use json_tree::{Value, json};

use super::cluster::{Objects, Workers};
use super::kubernetes::allow_not_found;
use super::{
    ATTACHMENTS, CSI_NODES, Result, Sidecar, VOLUMES, annotation, attacher_finalizer, capabilities,
    finalizers, has_finalizer, is_deleted, missing, text,
};

const NODE_ID: &str = "csi.alpha.kubernetes.io/node-id";

pub(super) fn start_work(sidecar: &Sidecar, objects: &Objects, workers: &Workers) {
    let finalizer = attacher_finalizer(&sidecar.driver);
    let all = objects.all(ATTACHMENTS);
    for attachment in &all {
        if attachment["spec"]["attacher"] != sidecar.driver {
            continue;
        }
        let is_deleted = is_deleted(attachment);
        let is_complete = match is_deleted {
            true => !has_finalizer(attachment, &finalizer),
            false => attachment["status"]["attached"] == true,
        };
        if is_complete {
            continue;
        }
        let (sidecar, objects, attachment) = (sidecar.clone(), objects.clone(), attachment.clone());
        let key = format!("attach {}", text(&attachment["metadata"]["name"]));
        workers.work(key, || async move {
            let outcome = match is_deleted {
                true => detach(&sidecar, &objects, &attachment).await,
                false => attach(&sidecar, &objects, &attachment).await,
            };
            if let Err(trouble) = &outcome {
                let field = if is_deleted {
                    "detachError"
                } else {
                    "attachError"
                };
                let error = json!({"status": {field: {"message": trouble.to_string()}}});
                status(&sidecar, &attachment, &error).await?;
            }
            outcome
        });
    }
    for volume in objects.all(VOLUMES) {
        let name = text(&volume["metadata"]["name"]).to_owned();
        let is_used =
            |attachment: &Value| attachment["spec"]["source"]["persistentVolumeName"] == name;
        if !is_deleted(&volume) || !has_finalizer(&volume, &finalizer) || all.iter().any(is_used) {
            continue;
        }
        let (sidecar, finalizer) = (sidecar.clone(), finalizer.clone());
        workers.work(format!("free {name}"), || async move {
            let path = format!("{VOLUMES}/{name}");
            let freed = json!({"metadata": {"finalizers": finalizers(&volume, &finalizer, false),
                "resourceVersion": volume["metadata"]["resourceVersion"]}});
            Ok(allow_not_found(
                sidecar.kubernetes.merge(&path, &freed).await,
            )?)
        });
    }
}

async fn status(sidecar: &Sidecar, attachment: &Value, patch: &Value) -> Result<()> {
    let name = text(&attachment["metadata"]["name"]);
    let path = format!("{ATTACHMENTS}/{name}/status");
    Ok(allow_not_found(
        sidecar.kubernetes.merge(&path, patch).await,
    )?)
}

/// The driver's id of a node: from its CSINode, or the id at the time of the attachment.
fn node_id(sidecar: &Sidecar, objects: &Objects, attachment: &Value) -> Result<String> {
    let node = text(&attachment["spec"]["nodeName"]);
    let csi_node = objects.get(CSI_NODES, "", node);
    let drivers = csi_node["spec"]["drivers"].as_array().into_iter().flatten();
    let mut drivers = drivers.filter(|driver| driver["name"] == sidecar.driver);
    let id = drivers
        .next()
        .map(|driver| text(&driver["nodeID"]).to_owned());
    let id = id.unwrap_or_else(|| annotation(attachment, NODE_ID).to_owned());
    match id.is_empty() {
        true => missing(format!("node {node} has no NodeID of the driver")),
        false => Ok(id),
    }
}

/// The newest PersistentVolume of an attachment.
async fn volume(sidecar: &Sidecar, attachment: &Value) -> Result<Value> {
    let name = text(&attachment["spec"]["source"]["persistentVolumeName"]);
    Ok(sidecar.kubernetes.get(&format!("{VOLUMES}/{name}")).await?)
}

async fn attach(sidecar: &Sidecar, objects: &Objects, attachment: &Value) -> Result<()> {
    let finalizer = attacher_finalizer(&sidecar.driver);
    let name = text(&attachment["metadata"]["name"]);
    let node = node_id(sidecar, objects, attachment)?;
    let volume = volume(sidecar, attachment).await?;
    if is_deleted(&volume) {
        return missing("the volume is being deleted");
    }
    let metadata = &volume["metadata"];
    if !has_finalizer(&volume, &finalizer) {
        let path = format!("{VOLUMES}/{}", text(&metadata["name"]));
        let guarded = json!({"metadata": {"finalizers": finalizers(&volume, &finalizer, true),
            "resourceVersion": metadata["resourceVersion"]}});
        sidecar.kubernetes.merge(&path, &guarded).await?;
    }
    if !has_finalizer(attachment, &finalizer) || annotation(attachment, NODE_ID) != node {
        let guarded = json!({"metadata": {"finalizers": finalizers(attachment, &finalizer, true),
            "annotations": {NODE_ID: node},
            "resourceVersion": attachment["metadata"]["resourceVersion"]}});
        let path = format!("{ATTACHMENTS}/{name}");
        sidecar.kubernetes.merge(&path, &guarded).await?;
    }
    let spec = &volume["spec"];
    let csi = &spec["csi"];
    let uses = capabilities(spec, text(&csi["fsType"]), &spec["mountOptions"]);
    let secret = &csi["controllerPublishSecretRef"];
    let request = json!({"volume_id": csi["volumeHandle"], "node_id": node,
        "volume_capability": uses.first(), "readonly": csi["readOnly"] == true,
        "volume_context": csi["volumeAttributes"],
        "secrets": sidecar.secret(&secret["name"], &secret["namespace"]).await?});
    let response = sidecar
        .call("Controller/ControllerPublishVolume", &request)
        .await?;
    let outcome = json!({"status": {"attached": true, "attachError": null,
        "attachmentMetadata": response["publish_context"]}});
    status(sidecar, attachment, &outcome).await
}

async fn detach(sidecar: &Sidecar, objects: &Objects, attachment: &Value) -> Result<()> {
    let finalizer = attacher_finalizer(&sidecar.driver);
    let node = node_id(sidecar, objects, attachment)?;
    let volume = volume(sidecar, attachment).await?;
    let csi = &volume["spec"]["csi"];
    let secret = &csi["controllerPublishSecretRef"];
    let request = json!({"volume_id": csi["volumeHandle"], "node_id": node,
        "secrets": sidecar.secret(&secret["name"], &secret["namespace"]).await?});
    sidecar
        .call("Controller/ControllerUnpublishVolume", &request)
        .await?;
    let detached = json!({"status": {"attached": false, "detachError": null}});
    status(sidecar, attachment, &detached).await?;
    let name = text(&attachment["metadata"]["name"]);
    let freed = json!({"metadata": {"finalizers": finalizers(attachment, &finalizer, false)}});
    let path = format!("{ATTACHMENTS}/{name}");
    Ok(allow_not_found(
        sidecar.kubernetes.merge(&path, &freed).await,
    )?)
}
