//! Stand-in for external-provisioner with `--enable-capacity`: a CSIStorageCapacity for each class and zone.

use json_tree::{Value, json};

use super::cluster::{Objects, Workers};
use super::provisioner::all_segments;
use super::{CAPACITIES, CLASSES, Result, Sidecar, bytes, in_namespace, text};

const DRIVER: &str = "csi.storage.k8s.io/drivername";
const MANAGER: &str = "csi.storage.k8s.io/managed-by";

pub(super) fn start_work(sidecar: &Sidecar, objects: &Objects, workers: &Workers) {
    let (sidecar, objects) = (sidecar.clone(), objects.clone());
    workers.work("capacity".to_owned(), || async move {
        report(&sidecar, &objects).await
    });
}

async fn report(sidecar: &Sidecar, objects: &Objects) -> Result<()> {
    let segments_list = all_segments(sidecar, objects);
    let all = objects.all(CAPACITIES).into_iter();
    let mut outdated: Vec<Value> = all
        .filter(|capacity| capacity["metadata"]["labels"][DRIVER] == sidecar.driver)
        .collect();
    for class in objects.all(CLASSES) {
        let is_late = class["volumeBindingMode"] == "WaitForFirstConsumer";
        if class["provisioner"] != sidecar.driver || !is_late {
            continue;
        }
        let parameters = class["parameters"].as_object().into_iter().flatten();
        let parameters = parameters.filter(|(key, _)| !key.starts_with("csi.storage.k8s.io/"));
        let parameters: json_tree::Map<_, _> = parameters
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        let name = &class["metadata"]["name"];
        for segments in &segments_list {
            let request =
                json!({"parameters": parameters, "accessible_topology": {"segments": segments}});
            let response = sidecar.call("Controller/GetCapacity", &request).await?;
            let free = response["available_capacity"].as_i64().unwrap_or(0);
            let existing = outdated.iter().position(|capacity| {
                capacity["storageClassName"] == *name
                    && capacity["nodeTopology"]["matchLabels"] == *segments
            });
            let existing = existing.map(|at| outdated.remove(at));
            write(sidecar, existing, (name, segments, free)).await?;
        }
    }
    for capacity in outdated {
        let path = in_namespace("/apis/storage.k8s.io/v1", "csistoragecapacities", &capacity);
        sidecar.kubernetes.delete(&path).await?;
    }
    Ok(())
}

async fn write(
    sidecar: &Sidecar,
    existing: Option<Value>,
    (class, segments, free): (&Value, &Value, i64),
) -> Result<()> {
    let namespace = sidecar.kubernetes.namespace();
    let Some(mut existing) = existing else {
        let object = json!({"metadata": {"generateName": "csisc-", "namespace": namespace,
                "labels": {DRIVER: sidecar.driver, MANAGER: "external-provisioner"}},
            "storageClassName": class, "nodeTopology": {"matchLabels": segments},
            "capacity": free.to_string()});
        let path = format!("/apis/storage.k8s.io/v1/namespaces/{namespace}/csistoragecapacities");
        sidecar.kubernetes.create(&path, &object).await?;
        // The cache must have the new object before the next pass, which would otherwise create a second one.
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        return Ok(());
    };
    if bytes(&existing["capacity"]) != free {
        existing["capacity"] = json!(free.to_string());
        let path = in_namespace("/apis/storage.k8s.io/v1", "csistoragecapacities", &existing);
        match text(&existing["metadata"]["name"]) {
            "" => {}
            _ => drop(sidecar.kubernetes.replace(&path, &existing).await?),
        }
    }
    Ok(())
}
