//! The drivers of a node in the API: its CSINode, the labels of their topology on the Node, and
//! their names of the node.

use std::collections::BTreeMap;

use api_client::{Api, Client, Patch, PatchParams, PostParams};
use csi::NodeInfo;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::{CSINode, CSINodeDriver, CSINodeSpec, VolumeNodeResources};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use reconcile::execute::{Refusal, refusal};
use serde_json::{Value, json};

/// The annotation of a Node with the drivers' names of it.
const NODE_IDS: &str = "csi.volume.kubernetes.io/nodeid";
/// Attempts of a write that others outrun.
const ATTEMPTS: usize = 5;

/// The drivers of a CSINode with the driver in its present form; `None` if it is as it should be.
fn with_driver(drivers: &[CSINodeDriver], wanted: CSINodeDriver) -> Option<Vec<CSINodeDriver>> {
    if drivers.contains(&wanted) {
        return None;
    }
    let others = drivers.iter().filter(|driver| driver.name != wanted.name);
    let mut listed: Vec<CSINodeDriver> = others.cloned().collect();
    listed.push(wanted);
    Some(listed)
}

fn driver(name: &str, info: &NodeInfo) -> CSINodeDriver {
    let keys: Vec<String> = info.topology.keys().cloned().collect();
    CSINodeDriver {
        name: name.to_owned(),
        node_id: info.node_id.clone(),
        topology_keys: Some(keys).filter(|keys| !keys.is_empty()),
        allocatable: info
            .volumes_max
            .map(|count| VolumeNodeResources { count: Some(count) }),
    }
}

/// The change of the Node's metadata for a driver.
///
/// *Errors.* A label that the node has already with another value: two drivers disagree, or the
/// machine has moved; kubelet refuses the driver, too.
fn metadata(node: &Node, name: &str, info: &NodeInfo) -> Result<Value, String> {
    let labels = node.metadata.labels.clone().unwrap_or_default();
    for (key, value) in &info.topology {
        if let Some(other) = labels.get(key).filter(|other| *other != value) {
            return Err(format!(
                "detected topology value collision: driver reported {key:?}:{value:?} but existing label is {key:?}:{other:?}"
            ));
        }
    }
    let ids = node.metadata.annotations.as_ref();
    let ids = ids.and_then(|all| all.get(NODE_IDS));
    let ids = ids.and_then(|text| serde_json::from_str(text).ok());
    let mut ids: BTreeMap<String, String> = ids.unwrap_or_default();
    ids.insert(name.to_owned(), info.node_id.clone());
    Ok(json!({"metadata": {
        "labels": info.topology,
        "annotations": {NODE_IDS: json!(ids).to_string()},
        "resourceVersion": node.metadata.resource_version,
    }}))
}

/// Writes a registered driver into the API.
///
/// # Errors
/// As users read them.
pub async fn publish(
    client: &Client,
    node_name: &str,
    name: &str,
    info: &NodeInfo,
) -> Result<(), String> {
    let nodes: Api<Node> = Api::all(client.clone());
    let mut tried = 0;
    let node = loop {
        tried += 1;
        let node = nodes.get(node_name).await;
        let node = node.map_err(|error| format!("get node \"{node_name}\": {error}"))?;
        let patch = Patch::Merge(metadata(&node, name, info)?);
        match nodes
            .patch(node_name, &PatchParams::default(), &patch)
            .await
        {
            Ok(node) => break node,
            Err(error) if tried < ATTEMPTS && refusal(&error) == Refusal::Conflict => {}
            Err(error) => return Err(format!("patch node \"{node_name}\": {error}")),
        }
    };
    write(client, node_name, &node, |drivers| {
        with_driver(drivers, driver(name, info))
    })
    .await
}

/// Removes a driver from the CSINode. Labels stay: pods and volumes may rely on them, as kubelet's.
///
/// # Errors
/// As of [`publish`].
pub async fn withdraw(client: &Client, node_name: &str, name: &str) -> Result<(), String> {
    let nodes: Api<Node> = Api::all(client.clone());
    let node = nodes.get(node_name).await;
    let node = node.map_err(|error| format!("get node \"{node_name}\": {error}"))?;
    write(client, node_name, &node, |drivers| {
        let left: Vec<CSINodeDriver> = drivers
            .iter()
            .filter(|driver| driver.name != name)
            .cloned()
            .collect();
        (left.len() < drivers.len()).then_some(left)
    })
    .await
}

async fn write(
    client: &Client,
    node_name: &str,
    node: &Node,
    change: impl Fn(&[CSINodeDriver]) -> Option<Vec<CSINodeDriver>>,
) -> Result<(), String> {
    let api: Api<CSINode> = Api::all(client.clone());
    let params = PostParams::default();
    let mut tried = 0;
    loop {
        tried += 1;
        let found = api.get_opt(node_name).await;
        let found = found.map_err(|error| format!("get csinode \"{node_name}\": {error}"))?;
        let before = found.as_ref().map_or(&[][..], |found| &found.spec.drivers);
        let Some(drivers) = change(before) else {
            return Ok(());
        };
        let spec = CSINodeSpec { drivers };
        let written = match found {
            Some(found) => {
                let object = CSINode { spec, ..found };
                api.replace(node_name, &params, &object).await
            }
            None => {
                let metadata = ObjectMeta {
                    name: Some(node_name.to_owned()),
                    owner_references: Some(vec![OwnerReference {
                        api_version: "v1".to_owned(),
                        kind: "Node".to_owned(),
                        name: node_name.to_owned(),
                        uid: node.metadata.uid.clone().unwrap_or_default(),
                        ..OwnerReference::default()
                    }]),
                    ..ObjectMeta::default()
                };
                api.create(&params, &CSINode { metadata, spec }).await
            }
        };
        match written {
            Ok(_) => return Ok(()),
            Err(error)
                if tried < ATTEMPTS
                    && matches!(refusal(&error), Refusal::Conflict | Refusal::AlreadyExists) => {}
            Err(error) => return Err(format!("write csinode \"{node_name}\": {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(id: &str, zone: &str) -> NodeInfo {
        NodeInfo {
            node_id: id.to_owned(),
            volumes_max: Some(5),
            topology: [("zone".to_owned(), zone.to_owned())].into(),
        }
    }

    #[test]
    fn a_driver_is_listed_once_in_its_present_form() {
        let first = with_driver(&[], driver("a", &info("n1", "z"))).unwrap();
        assert_eq!(with_driver(&first, driver("a", &info("n1", "z"))), None);
        let both = with_driver(&first, driver("b", &info("n1", "z"))).unwrap();
        let renamed = with_driver(&both, driver("a", &info("n2", "z"))).unwrap();
        let ids: Vec<(&str, &str)> = renamed
            .iter()
            .map(|driver| (driver.name.as_str(), driver.node_id.as_str()))
            .collect();
        assert_eq!(ids, [("b", "n1"), ("a", "n2")]);
    }

    #[test]
    fn labels_of_a_topology_are_added_and_never_changed() {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "n",
            "resourceVersion": "7", "labels": {"zone": "z"},
            "annotations": {NODE_IDS: "{\"a\":\"old\"}"}}}))
        .unwrap();
        let patch = metadata(&node, "b", &info("n1", "z")).unwrap();
        let ids = &patch["metadata"]["annotations"][NODE_IDS];
        assert_eq!(*ids, json!("{\"a\":\"old\",\"b\":\"n1\"}"));
        assert_eq!(patch["metadata"]["resourceVersion"], json!("7"));
        let collision = metadata(&node, "b", &info("n1", "y")).unwrap_err();
        assert!(collision.contains("collision"), "{collision}");
    }
}
