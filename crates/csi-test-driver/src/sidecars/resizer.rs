//! Stand-in for external-resizer: expands volumes, and modifies their attributes.

use json_tree::{Value, json};

use super::cluster::{Objects, Workers};
use super::{
    ATTRIBUTES, CLAIMS, Result, Sidecar, Trouble, VOLUMES, bytes, capabilities, in_namespace,
    is_deleted, missing, text,
};

/// Codes after which a retry is useless.
const INFEASIBLE: [u32; 3] = [3, 5, 11];

pub(super) fn start_work(sidecar: &Sidecar, objects: &Objects, workers: &Workers) {
    for claim in objects.all(CLAIMS) {
        let volume = objects.get(VOLUMES, "", text(&claim["spec"]["volumeName"]));
        let is_of_driver = volume["spec"]["csi"]["driver"] == sidecar.driver;
        if !is_of_driver || is_deleted(&claim) || claim["status"]["phase"] != "Bound" {
            continue;
        }
        let uid = text(&claim["metadata"]["uid"]);
        let requested = bytes(&claim["spec"]["resources"]["requests"]["storage"]);
        let capacity = bytes(&claim["status"]["capacity"]["storage"]);
        let state = text(&claim["status"]["allocatedResourceStatuses"]["storage"]);
        let allocated = bytes(&claim["status"]["allocatedResources"]["storage"]);
        let is_of_node = state.starts_with("Node") && allocated == requested;
        let is_refused = state == "ControllerResizeInfeasible" && allocated == requested;
        if requested > capacity && !is_of_node && !is_refused {
            let (sidecar, claim, volume) = (sidecar.clone(), claim.clone(), volume.clone());
            workers.work(format!("grow {uid}"), || async move {
                let outcome = grow(&sidecar, &claim, &volume).await;
                if let Err(trouble @ Trouble::Driver(_)) = &outcome {
                    let words = format!("resize volume failed: {trouble}");
                    let kind = "PersistentVolumeClaim";
                    sidecar
                        .event(&claim, kind, "VolumeResizeFailed", &words)
                        .await;
                }
                outcome
            });
        }
        let class = text(&claim["spec"]["volumeAttributesClassName"]);
        let current = text(&claim["status"]["currentVolumeAttributesClassName"]);
        if !class.is_empty() && class != current {
            let (sidecar, objects) = (sidecar.clone(), objects.clone());
            let (claim, volume) = (claim.clone(), volume.clone());
            workers.work(format!("modify {uid}"), || async move {
                modify(&sidecar, &objects, &claim, &volume).await
            });
        }
    }
}

async fn patch_status(sidecar: &Sidecar, claim: &Value, status: Value) -> Result<()> {
    let path = in_namespace("/api/v1", "persistentvolumeclaims", claim);
    let patch = json!({ "status": status });
    let path = format!("{path}/status");
    sidecar.kubernetes.strategic(&path, &patch).await?;
    Ok(())
}

/// The status of an expansion; `condition` replaces the condition `former`.
fn state(size: &Value, state: &str, condition: &str, former: &str) -> Value {
    json!({
        "conditions": [{"type": condition, "status": "True"}, {"$patch": "delete", "type": former}],
        "allocatedResources": {"storage": size}, "allocatedResourceStatuses": {"storage": state}})
}

async fn grow(sidecar: &Sidecar, claim: &Value, volume: &Value) -> Result<()> {
    let (of_node, of_controller) = ("FileSystemResizePending", "Resizing");
    let size = &claim["spec"]["resources"]["requests"]["storage"];
    let spec = &volume["spec"];
    if bytes(&spec["capacity"]["storage"]) < bytes(size) {
        let begun = state(size, "ControllerResizeInProgress", of_controller, of_node);
        patch_status(sidecar, claim, begun).await?;
        let csi = &spec["csi"];
        let uses = capabilities(spec, text(&csi["fsType"]), &spec["mountOptions"]);
        let secret = &csi["controllerExpandSecretRef"];
        let request = json!({"volume_id": csi["volumeHandle"],
            "capacity_range": {"required_bytes": bytes(size)}, "volume_capability": uses.first(),
            "secrets": sidecar.secret(&secret["name"], &secret["namespace"]).await?});
        let response = sidecar
            .call("Controller/ControllerExpandVolume", &request)
            .await;
        if let Err(Trouble::Driver((code, _))) = &response
            && INFEASIBLE.contains(code)
        {
            let refused = state(size, "ControllerResizeInfeasible", of_controller, of_node);
            patch_status(sidecar, claim, refused).await?;
        }
        let response = response?;
        let grown = json!({
            "metadata": {"annotations":
                {"volume.alpha.kubernetes.io/pre-resize-capacity": spec["capacity"]["storage"]}},
            "spec": {"capacity": {"storage": response["capacity_bytes"].to_string()}}});
        let path = format!("{VOLUMES}/{}", text(&volume["metadata"]["name"]));
        sidecar.kubernetes.strategic(&path, &grown).await?;
        if response["node_expansion_required"] != true {
            let outcome = json!({"capacity": {"storage": response["capacity_bytes"].to_string()},
                "allocatedResourceStatuses": null,
                "conditions": [{"$patch": "delete", "type": of_controller}]});
            return patch_status(sidecar, claim, outcome).await;
        }
    }
    let pending = state(size, "NodeResizePending", of_node, of_controller);
    patch_status(sidecar, claim, pending).await?;
    let words = "Require file system resize of volume on node";
    let kind = "PersistentVolumeClaim";
    sidecar
        .event(claim, kind, "FileSystemResizeRequired", words)
        .await;
    Ok(())
}

async fn modify(sidecar: &Sidecar, objects: &Objects, claim: &Value, volume: &Value) -> Result<()> {
    let name = text(&claim["spec"]["volumeAttributesClassName"]);
    let class = objects.get(ATTRIBUTES, "", name);
    if class["driverName"] != sidecar.driver {
        return missing(format!("no VolumeAttributesClass {name} of the driver"));
    }
    let begun = |status: &str| {
        json!({"conditions": [{"type": "ModifyingVolume", "status": "True"}], "modifyVolumeStatus":
            {"status": status, "targetVolumeAttributesClassName": name}})
    };
    patch_status(sidecar, claim, begun("InProgress")).await?;
    let request = json!({"volume_id": volume["spec"]["csi"]["volumeHandle"],
        "mutable_parameters": class["parameters"]});
    let outcome = sidecar
        .call("Controller/ControllerModifyVolume", &request)
        .await;
    if let Err(trouble @ Trouble::Driver((code, _))) = &outcome {
        if INFEASIBLE.contains(code) {
            patch_status(sidecar, claim, begun("Infeasible")).await?;
        }
        let kind = "PersistentVolumeClaim";
        let words = trouble.to_string();
        sidecar
            .event(claim, kind, "VolumeModifyFailed", &words)
            .await;
    }
    outcome?;
    let path = format!("{VOLUMES}/{}", text(&volume["metadata"]["name"]));
    let changed = json!({"spec": {"volumeAttributesClassName": name}});
    sidecar.kubernetes.strategic(&path, &changed).await?;
    let outcome = json!({"conditions": [{"$patch": "delete", "type": "ModifyingVolume"}],
        "currentVolumeAttributesClassName": name, "modifyVolumeStatus": null});
    patch_status(sidecar, claim, outcome).await?;
    let kind = "PersistentVolumeClaim";
    let words = "the volume has the attributes of its class";
    sidecar
        .event(claim, kind, "VolumeModifySuccessful", words)
        .await;
    Ok(())
}
