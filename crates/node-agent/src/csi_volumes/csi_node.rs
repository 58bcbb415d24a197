//! The node's drivers in the API: the CSINode object, the topology labels of the Node, and the ids of the
//! node at the drivers.

use std::collections::BTreeMap;

use csi_client::NodeInfo;
use json_tree::{Value, json};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::{CSINode, CSINodeDriver, CSINodeSpec, VolumeNodeResources};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube_api_client::guarded_writes::{Delete, WriteRefusal, delete, refusal};
use kube_api_client::{Api, Client, Patch, PatchParams, PostParams};
use resource_kinds::MetadataIdentity;

use super::drivers::Registered;
use crate::api::objects::in_time;

/// The annotation of a Node with the node's id at each driver.
const NODE_IDS: &str = "csi.volume.kubernetes.io/nodeid";
/// Attempts of a write that conflicts with writes of other programs.
const ATTEMPTS: usize = 5;

/// The drivers of a CSINode with the present state of the driver; `None` if the CSINode has this state
/// already.
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

/// The node's id at each driver, from the annotation.
fn ids(node: &Node) -> BTreeMap<String, String> {
    let ids = node.metadata.annotations.as_ref();
    let ids = ids.and_then(|all| all.get(NODE_IDS));
    let ids = ids.and_then(|text| serde_json::from_str(text).ok());
    ids.unwrap_or_default()
}

/// The change of the Node's metadata for a driver; `None` if nothing changes.
///
/// *Errors.* The node has a label of the driver with another value: two drivers disagree, or the machine
/// has moved. As kubelet, which rejects the driver, too.
fn metadata(node: &Node, name: &str, info: &NodeInfo) -> Result<Option<Value>, String> {
    let labels = node.metadata.labels.clone().unwrap_or_default();
    for (key, value) in &info.topology {
        if let Some(other) = labels.get(key).filter(|other| *other != value) {
            return Err(format!(
                "detected topology value collision: driver reported {key:?}:{value:?} but existing label is {key:?}:{other:?}"
            ));
        }
    }
    let mut ids = ids(node);
    let known = ids.insert(name.to_owned(), info.node_id.clone());
    let has_labels = info.topology.keys().all(|key| labels.contains_key(key));
    if has_labels && known.as_ref() == Some(&info.node_id) {
        return Ok(None);
    }
    Ok(Some(json!({"metadata": {
        "labels": info.topology,
        "annotations": {NODE_IDS: json!(ids).to_string()},
        "resourceVersion": node.metadata.resource_version,
    }})))
}

/// The change of the Node's metadata that removes unregistered drivers; `None` if there are no unregistered
/// drivers. As in kubelet, the labels of these drivers stay, because pods and volumes may depend on the
/// labels.
fn without_others(node: &Node, registered: &[Registered]) -> Option<Value> {
    let mut ids = ids(node);
    let before = ids.len();
    ids.retain(|name, _| registered.iter().any(|one| one.driver.name == *name));
    let text = (!ids.is_empty()).then(|| json!(ids).to_string());
    (ids.len() < before).then(|| {
        json!({"metadata": {
            "annotations": {NODE_IDS: text},
            "resourceVersion": node.metadata.resource_version,
        }})
    })
}

/// Writes a registered driver into the API.
///
/// # Errors
/// A message for users.
pub async fn publish(
    client: &Client,
    node_name: &str,
    name: &str,
    info: &NodeInfo,
) -> Result<(), String> {
    let node = patched(client, node_name, |node| metadata(node, name, info)).await?;
    write(client, &node, |drivers| {
        with_driver(drivers, driver(name, info))
    })
    .await
}

/// Writes the registered drivers into the API, and removes all other drivers.
///
/// # Errors
/// A message for users.
pub async fn show(
    client: &Client,
    node_name: &str,
    registered: &[Registered],
) -> Result<(), String> {
    for Registered { driver, info, .. } in registered {
        let done = patched(client, node_name, |node| metadata(node, &driver.name, info));
        if let Err(error) = done.await {
            let driver = &driver.name;
            tracing::warn!(
                driver,
                error,
                "the labels of a driver's topology are not shown"
            );
        }
    }
    let node = patched(client, node_name, |node| {
        Ok(without_others(node, registered))
    })
    .await?;
    let wanted = registered.iter();
    let wanted: Vec<CSINodeDriver> = wanted
        .map(|one| driver(&one.driver.name, &one.info))
        .collect();
    write(client, &node, |drivers| {
        let is_shown = |one| drivers.contains(one);
        let is_as_wanted = wanted.len() == drivers.len() && wanted.iter().all(is_shown);
        (!is_as_wanted).then(|| wanted.clone())
    })
    .await
}

/// The Node after the patch; `None` if the Node does not exist.
async fn patched(
    client: &Client,
    node_name: &str,
    change: impl Fn(&Node) -> Result<Option<Value>, String>,
) -> Result<Node, String> {
    let nodes: Api<Node> = Api::all(client.clone());
    let mut tried = 0;
    loop {
        tried += 1;
        let node = in_time(nodes.get(node_name)).await;
        let node = node.map_err(|error| format!("get node \"{node_name}\": {error}"))?;
        let Some(patch) = change(&node)? else {
            return Ok(node);
        };
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
        match nodes.patch(node_name, &params, &patch).await {
            Ok(node) => return Ok(node),
            Err(error) if tried < ATTEMPTS && refusal(&error) == WriteRefusal::Conflict => {}
            Err(error) => return Err(format!("patch node \"{node_name}\": {error}")),
        }
    }
}

/// Whether the CSINode belongs to this Node, and not to a deleted Node with this name.
fn is_of(found: &CSINode, node: &Node) -> bool {
    let mut owners = found.metadata.owner_references.iter().flatten();
    owners.any(|owner| Some(&owner.uid) == node.metadata.uid.as_ref())
}

/// Changes the drivers of the CSINode. A CSINode of a deleted Node is replaced, because the garbage
/// collector will delete the old CSINode.
async fn write(
    client: &Client,
    node: &Node,
    change: impl Fn(&[CSINodeDriver]) -> Option<Vec<CSINodeDriver>>,
) -> Result<(), String> {
    let api: Api<CSINode> = Api::all(client.clone());
    let node_name = node.metadata.name.as_deref().unwrap_or_default();
    let params = PostParams::default();
    let mut tried = 0;
    loop {
        tried += 1;
        let found = in_time(api.get_opt(node_name)).await;
        let mut found = found.map_err(|error| format!("get csinode \"{node_name}\": {error}"))?;
        if let Some(former) = found.take_if(|found| !is_of(found, node)) {
            let uid = former.metadata.object_uid();
            let uid = uid.map_err(|error| format!("delete csinode \"{node_name}\": {error}"))?;
            let deleted = delete(&api, node_name, Delete::of_uid(uid)).await;
            deleted.map_err(|error| format!("delete csinode \"{node_name}\": {error}"))?;
        }
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
                    && matches!(
                        refusal(&error),
                        WriteRefusal::Conflict | WriteRefusal::AlreadyExists
                    ) => {}
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
        let node: Node = json_tree::from_value(json!({"metadata": {"name": "n",
            "resourceVersion": "7", "labels": {"zone": "z"},
            "annotations": {NODE_IDS: "{\"a\":\"old\"}"}}}))
        .unwrap();
        let patch = metadata(&node, "b", &info("n1", "z")).unwrap().unwrap();
        let ids = &patch["metadata"]["annotations"][NODE_IDS];
        assert_eq!(*ids, json!("{\"a\":\"old\",\"b\":\"n1\"}"));
        assert_eq!(patch["metadata"]["resourceVersion"], json!("7"));
        let same = metadata(&node, "a", &info("old", "z")).unwrap();
        assert_eq!(same, None);
        let collision = metadata(&node, "b", &info("n1", "y")).unwrap_err();
        assert!(collision.contains("collision"), "{collision}");
    }
    #[test]
    fn drivers_that_are_gone_leave_labels_only() {
        let node: Node = json_tree::from_value(json!({"metadata": {"name": "n",
            "labels": {"zone": "z"}, "annotations": {NODE_IDS: "{\"a\":\"n1\",\"b\":\"n1\"}"}}}))
        .unwrap();
        let registered = |name: &str| Registered {
            driver: csi_client::Driver {
                name: name.to_owned(),
                socket: "csi.sock".into(),
            },
            can: csi_client::NodeCapabilities::default(),
            info: info("n1", "z"),
            by: "reg.sock".into(),
        };
        let both = [registered("a"), registered("b")];
        assert_eq!(without_others(&node, &both), None);
        let one = without_others(&node, &both[1..]).unwrap();
        assert_eq!(one["metadata"]["annotations"][NODE_IDS], "{\"b\":\"n1\"}");
        let none = without_others(&node, &[]).unwrap();
        assert_eq!(none["metadata"]["annotations"][NODE_IDS], json!(null));
        assert_eq!(none["metadata"]["labels"], json!(null));
    }

    #[test]
    fn a_csi_node_goes_with_its_node() {
        let node = |uid: &str| -> Node {
            json_tree::from_value(json!({"metadata": {"name": "n", "uid": uid}})).unwrap()
        };
        let owner = json!({"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u1"});
        let found = json!({"metadata": {"name": "n", "ownerReferences": [owner]},
            "spec": {"drivers": []}});
        let found: CSINode = json_tree::from_value(found).unwrap();
        assert!(is_of(&found, &node("u1")) && !is_of(&found, &node("u2")));
    }
}
