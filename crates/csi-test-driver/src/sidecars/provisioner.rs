//! Stand-in for external-provisioner: creates volumes for claims, and deletes them.

use json_tree::{Value, json};

use super::cluster::{Objects, Workers};
use super::kubernetes::{allow_exists, allow_not_found};
use super::{
    ATTACHMENTS, CLAIMS, CLASSES, CSI_NODES, NODES, Result, Sidecar, Trouble, VOLUMES, annotation,
    bytes, capabilities, finalizers, in_namespace, is_deleted, missing, text,
};

const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const DELETION_SECRET: &str = "volume.kubernetes.io/provisioner-deletion-secret-name";
const DELETION_NAMESPACE: &str = "volume.kubernetes.io/provisioner-deletion-secret-namespace";
const FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";
/// The prefix of the parameters that are for the sidecar, not for the driver.
const PREFIX: &str = "csi.storage.k8s.io/";
const FS_TYPE: &str = "csi.storage.k8s.io/fstype";
const RESOURCE_EXHAUSTED: u32 = 8;

/// The references of a volume to Secrets, by the parameter of the class.
const SECRETS: [(&str, &str); 5] = [
    ("controller-publish", "controllerPublishSecretRef"),
    ("node-stage", "nodeStageSecretRef"),
    ("node-publish", "nodePublishSecretRef"),
    ("controller-expand", "controllerExpandSecretRef"),
    ("node-expand", "nodeExpandSecretRef"),
];

pub(super) fn start_work(sidecar: &Sidecar, objects: &Objects, workers: &Workers) {
    for claim in objects.all(CLAIMS) {
        let is_of_driver = annotation(&claim, PROVISIONER) == sidecar.driver;
        let is_bound = claim["spec"]["volumeName"].is_string();
        if !is_of_driver || is_bound || is_deleted(&claim) {
            continue;
        }
        let class = objects.get(CLASSES, "", text(&claim["spec"]["storageClassName"]));
        let is_late = class["volumeBindingMode"] == "WaitForFirstConsumer";
        let waits = is_late && annotation(&claim, SELECTED_NODE).is_empty();
        if class["provisioner"] != sidecar.driver || waits {
            continue;
        }
        let key = format!("provision {}", text(&claim["metadata"]["uid"]));
        let (sidecar, objects) = (sidecar.clone(), objects.clone());
        workers.work(key, || async move {
            let outcome = provision(&sidecar, &objects, &claim, &class).await;
            if let Err(trouble) = &outcome {
                let words = format!(
                    "failed to provision volume with StorageClass \"{}\": {trouble}",
                    text(&class["metadata"]["name"])
                );
                let kind = "PersistentVolumeClaim";
                sidecar
                    .event(&claim, kind, "ProvisioningFailed", &words)
                    .await;
                choose_again(&sidecar, &claim, trouble).await;
            }
            outcome
        });
    }
    for volume in objects.all(VOLUMES) {
        let is_of_driver = annotation(&volume, PROVISIONED_BY) == sidecar.driver;
        let is_free = text(&volume["status"]["phase"]) == "Released";
        let is_to_go = volume["spec"]["persistentVolumeReclaimPolicy"] == "Delete";
        if !is_of_driver || !is_free || !is_to_go {
            continue;
        }
        let key = format!("delete {}", text(&volume["metadata"]["name"]));
        let (sidecar, objects) = (sidecar.clone(), objects.clone());
        workers.work(key, || async move {
            let outcome = delete(&sidecar, &objects, &volume).await;
            if let Err(trouble) = &outcome {
                let (kind, words) = ("PersistentVolume", trouble.to_string());
                sidecar
                    .event(&volume, kind, "VolumeFailedDelete", &words)
                    .await;
            }
            outcome
        });
    }
}

/// If the selected node has too little free space, removes the selection, so that the scheduler selects
/// another node.
async fn choose_again(sidecar: &Sidecar, claim: &Value, trouble: &Trouble) {
    let is_full = matches!(trouble, Trouble::Driver((RESOURCE_EXHAUSTED, _)));
    if !is_full || annotation(claim, SELECTED_NODE).is_empty() {
        return;
    }
    let mut claim = claim.clone();
    if let Some(annotations) = claim["metadata"]["annotations"].as_object_mut() {
        annotations.remove(SELECTED_NODE);
    }
    let path = in_namespace("/api/v1", "persistentvolumeclaims", &claim);
    if let Err(error) = sidecar.kubernetes.replace(&path, &claim).await {
        eprintln!("{path}: {error}");
    }
}

fn secret_parameter(of: &str, part: &str) -> String {
    format!("{PREFIX}{of}-secret-{part}")
}

async fn provision(
    sidecar: &Sidecar,
    objects: &Objects,
    claim: &Value,
    class: &Value,
) -> Result<()> {
    let name = format!("pvc-{}", text(&claim["metadata"]["uid"]));
    let values = &class["parameters"];
    let fs_type = match text(&values[FS_TYPE]) {
        "" => "ext4",
        fs_type => fs_type,
    };
    let spec = &claim["spec"];
    let uses = capabilities(spec, fs_type, &class["mountOptions"]);
    let parameters = values.as_object().into_iter().flatten();
    let parameters = parameters.filter(|(key, _)| !key.starts_with(PREFIX));
    let parameters: json_tree::Map<_, _> = parameters
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let secret = |of: &str, part: &str| values[secret_parameter(of, part)].clone();
    let (secret_name, secret_namespace) = (
        secret("provisioner", "name"),
        secret("provisioner", "namespace"),
    );
    let mut request = json!({
        "name": name, "volume_capabilities": uses, "parameters": parameters,
        "capacity_range": {"required_bytes": bytes(&spec["resources"]["requests"]["storage"])},
        "secrets": sidecar.secret(&secret_name, &secret_namespace).await?});
    let limit = bytes(&spec["resources"]["limits"]["storage"]);
    if limit > 0 {
        request["capacity_range"]["limit_bytes"] = json!(limit);
    }
    if let Some(requirement) =
        topology_requirement(sidecar, objects, annotation(claim, SELECTED_NODE))?
    {
        request["accessibility_requirements"] = requirement;
    }
    if let Some(name) = spec["volumeAttributesClassName"].as_str() {
        let path = format!("{}/{name}", super::ATTRIBUTES);
        request["mutable_parameters"] = sidecar.kubernetes.get(&path).await?["parameters"].clone();
    }
    let source = source(sidecar, objects, claim).await?;
    if source.is_object() {
        request["volume_content_source"] = source;
    }
    let created = sidecar.call("Controller/CreateVolume", &request).await?;
    let created = &created["volume"];
    let mut csi = json!({"driver": sidecar.driver, "volumeHandle": created["volume_id"],
        "volumeAttributes": created["volume_context"]});
    if spec["volumeMode"] != "Block" {
        csi["fsType"] = json!(fs_type);
    }
    for (of, field) in SECRETS {
        let (name, namespace) = (secret(of, "name"), secret(of, "namespace"));
        if name.is_string() {
            csi[field] = json!({"name": name, "namespace": namespace});
        }
    }
    let mut volume = json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": name, "finalizers": [FINALIZER], "annotations": {
            PROVISIONED_BY: sidecar.driver, DELETION_SECRET: text(&secret_name),
            DELETION_NAMESPACE: text(&secret_namespace)}},
        "spec": {
            "accessModes": spec["accessModes"], "volumeMode": spec["volumeMode"], "csi": csi,
            "capacity": {"storage": created["capacity_bytes"].to_string()},
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "namespace": claim["metadata"]["namespace"], "name": claim["metadata"]["name"],
                "uid": claim["metadata"]["uid"],
                "resourceVersion": claim["metadata"]["resourceVersion"]},
            "mountOptions": class["mountOptions"], "storageClassName": class["metadata"]["name"],
            "volumeAttributesClassName": spec["volumeAttributesClassName"],
            "persistentVolumeReclaimPolicy": class["reclaimPolicy"]}});
    if let Some(topologies) = created["accessible_topology"].as_array() {
        let terms = topologies.iter().map(|topology| {
            let labels = topology["segments"].as_object().into_iter().flatten();
            let labels =
                labels.map(|(key, value)| json!({"key": key, "operator": "In", "values": [value]}));
            json!({"matchExpressions": labels.collect::<Vec<_>>()})
        });
        let terms: Vec<Value> = terms.collect();
        volume["spec"]["nodeAffinity"] = json!({"required": {"nodeSelectorTerms": terms}});
    }
    allow_exists(sidecar.kubernetes.create(VOLUMES, &volume).await)?;
    let words = format!("Successfully provisioned volume {name}");
    let kind = "PersistentVolumeClaim";
    sidecar
        .event(claim, kind, "ProvisioningSucceeded", &words)
        .await;
    Ok(())
}

/// The topology segments of a node; `None` before the driver is registered there.
pub(super) fn segments(sidecar: &Sidecar, objects: &Objects, node: &str) -> Option<Value> {
    let drivers = objects.get(CSI_NODES, "", node);
    let drivers = drivers["spec"]["drivers"].as_array().cloned()?;
    let entry = drivers
        .iter()
        .find(|driver| driver["name"] == sidecar.driver)?;
    let labels = objects.get(NODES, "", node)["metadata"]["labels"].clone();
    let keys = entry["topologyKeys"].as_array()?;
    let pairs = keys.iter().map(|key| {
        let key = text(key);
        Some((key.to_owned(), labels.get(key)?.clone()))
    });
    let pairs: Option<json_tree::Map<_, _>> = pairs.collect();
    Some(Value::Object(pairs?))
}

/// The distinct topology segments of all nodes with the driver.
pub(super) fn all_segments(sidecar: &Sidecar, objects: &Objects) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    for node in objects.all(CSI_NODES) {
        let name = text(&node["metadata"]["name"]).to_owned();
        if let Some(node_segments) = segments(sidecar, objects, &name)
            && !all.contains(&node_segments)
        {
            all.push(node_segments);
        }
    }
    all
}

/// The topology requirement for a claim: all segments, with those of the selected node as preferred.
fn topology_requirement(sidecar: &Sidecar, objects: &Objects, node: &str) -> Result<Option<Value>> {
    let all = all_segments(sidecar, objects);
    let mut preferred = all.clone();
    if !node.is_empty() {
        let Some(selected) = segments(sidecar, objects, node) else {
            return missing(format!("no topology of the driver on node {node}"));
        };
        preferred.retain(|segments| *segments != selected);
        preferred.insert(0, selected);
    }
    let topologies = |all: Vec<Value>| {
        let all = all
            .into_iter()
            .map(|segments| json!({"segments": segments}));
        json!(all.collect::<Vec<_>>())
    };
    let requirement =
        json!({"requisite": topologies(all), "preferred": topologies(preferred.clone())});
    Ok((!preferred.is_empty()).then_some(requirement))
}

/// The content source of a claim: a snapshot or another volume.
async fn source(sidecar: &Sidecar, objects: &Objects, claim: &Value) -> Result<Value> {
    let spec = &claim["spec"];
    let source = match spec["dataSource"].is_object() {
        true => &spec["dataSource"],
        false => &spec["dataSourceRef"],
    };
    let namespace = text(&claim["metadata"]["namespace"]);
    let name = text(&source["name"]);
    match text(&source["kind"]) {
        "VolumeSnapshot" => {
            let group = "/apis/snapshot.storage.k8s.io/v1";
            let path = format!("{group}/namespaces/{namespace}/volumesnapshots/{name}");
            let snapshot = sidecar.kubernetes.get(&path).await?;
            let content = text(&snapshot["status"]["boundVolumeSnapshotContentName"]);
            if snapshot["status"]["readyToUse"] != true || content.is_empty() {
                return missing(format!("snapshot {name} is not ready"));
            }
            let path = format!("{}/{content}", super::CONTENTS);
            let content = sidecar.kubernetes.get(&path).await?;
            Ok(json!({"snapshot": {"snapshot_id": content["status"]["snapshotHandle"]}}))
        }
        "PersistentVolumeClaim" => {
            let of = objects.get(CLAIMS, namespace, name);
            let volume = objects.get(VOLUMES, "", text(&of["spec"]["volumeName"]));
            let csi = &volume["spec"]["csi"];
            if csi["driver"] != sidecar.driver {
                return missing(format!("claim {name} has no volume of the driver"));
            }
            Ok(json!({"volume": {"volume_id": csi["volumeHandle"]}}))
        }
        _ => Ok(Value::Null),
    }
}

async fn delete(sidecar: &Sidecar, objects: &Objects, volume: &Value) -> Result<()> {
    let name = text(&volume["metadata"]["name"]);
    let attachments = objects.all(ATTACHMENTS).into_iter();
    let mut of_volume = attachments
        .filter(|attachment| attachment["spec"]["source"]["persistentVolumeName"] == name);
    if let Some(attachment) = of_volume.next() {
        let node = text(&attachment["spec"]["nodeName"]).to_owned();
        return missing(format!(
            "persistentvolume {name} is still attached to node {node}"
        ));
    }
    let annotations = &volume["metadata"]["annotations"];
    let (secret, namespace) = (
        &annotations[DELETION_SECRET],
        &annotations[DELETION_NAMESPACE],
    );
    let request = json!({"volume_id": volume["spec"]["csi"]["volumeHandle"],
        "secrets": sidecar.secret(secret, namespace).await?});
    sidecar.call("Controller/DeleteVolume", &request).await?;
    let path = format!("{VOLUMES}/{name}");
    sidecar.kubernetes.delete(&path).await?;
    // Reads the newest state, to retain finalizers of other programs.
    let newest = match sidecar.kubernetes.get(&path).await {
        Err(error) if error.code() == Some(404) => return Ok(()),
        newest => newest?,
    };
    let freed = json!({"metadata": {"finalizers": finalizers(&newest, FINALIZER, false),
        "resourceVersion": newest["metadata"]["resourceVersion"]}});
    Ok(allow_not_found(
        sidecar.kubernetes.merge(&path, &freed).await,
    )?)
}
