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
use object_model::{IncompleteMetadata, Uid};
use resource_kinds::MetadataIdentity;

use super::drivers::RegisteredDriver;
use crate::api::object_error::RequestError;
use crate::api::objects::in_time;

/// The annotation of a Node with the node's id at each driver.
const NODE_IDS: &str = "csi.volume.kubernetes.io/nodeid";
/// Attempts of a write that conflicts with writes of other programs.
const ATTEMPTS_MAX: usize = 5;

/// The reason why the drivers of the node are not in the API.
#[derive(Debug, thiserror::Error)]
pub enum CsiNodeError {
    #[error(
        "detected topology value collision: driver reported {key:?}:{reported:?} but existing label is {key:?}:{existing:?}"
    )]
    Collision {
        key: String,
        reported: String,
        existing: String,
    },
    #[error("get node \"{node}\": {message}")]
    GetNode { node: String, message: RequestError },
    #[error("patch node \"{node}\": {message}")]
    PatchNode { node: String, message: String },
    #[error("get csinode \"{node}\": {message}")]
    GetCsiNode { node: String, message: RequestError },
    #[error("delete csinode \"{node}\": {message}")]
    DeleteCsiNode { node: String, message: String },
    #[error("write csinode \"{node}\": {message}")]
    WriteCsiNode { node: String, message: String },
    #[error(transparent)]
    Metadata(#[from] IncompleteMetadata),
}

/// The drivers of a CSINode with the present state of the driver; `None` if the CSINode has this state
/// already.
fn with_driver(drivers: &[CSINodeDriver], current: CSINodeDriver) -> Option<Vec<CSINodeDriver>> {
    if drivers.contains(&current) {
        return None;
    }
    let other_drivers = drivers.iter().filter(|driver| driver.name != current.name);
    let mut changed: Vec<CSINodeDriver> = other_drivers.cloned().collect();
    changed.push(current);
    Some(changed)
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
    let ids = ids.and_then(|annotations| annotations.get(NODE_IDS));
    let ids = ids.and_then(|text| serde_json::from_str(text).ok());
    ids.unwrap_or_default()
}

/// The change of the Node's metadata for a driver; `None` if nothing changes.
///
/// # Errors
/// The node has a label of the driver with another value: two drivers disagree, or the machine has moved. As
/// kubelet, which rejects the driver, too.
fn metadata(node: &Node, name: &str, info: &NodeInfo) -> Result<Option<Value>, CsiNodeError> {
    let labels = node.metadata.labels.clone().unwrap_or_default();
    for (key, value) in &info.topology {
        if let Some(existing) = labels.get(key).filter(|existing| *existing != value) {
            return Err(CsiNodeError::Collision {
                key: key.clone(),
                reported: value.clone(),
                existing: existing.clone(),
            });
        }
    }
    let mut ids = ids(node);
    let former = ids.insert(name.to_owned(), info.node_id.clone());
    let has_labels = info.topology.keys().all(|key| labels.contains_key(key));
    if has_labels && former.as_ref() == Some(&info.node_id) {
        return Ok(None);
    }
    Ok(Some(json!({"metadata": {
        "labels": info.topology,
        "annotations": {NODE_IDS: json!(ids).to_string()},
        "resourceVersion": node.metadata.object_version()?.to_string(),
    }})))
}

/// The change of the Node's metadata that removes unregistered drivers; `None` if there are no unregistered
/// drivers. As in kubelet, the labels of these drivers stay, because pods and volumes may depend on the
/// labels.
fn without_others(
    node: &Node,
    registered: &[RegisteredDriver],
) -> Result<Option<Value>, CsiNodeError> {
    let mut ids = ids(node);
    let former_count = ids.len();
    ids.retain(|name, _| {
        registered
            .iter()
            .any(|registration| registration.driver.name == *name)
    });
    if ids.len() == former_count {
        return Ok(None);
    }
    let text = (!ids.is_empty()).then(|| json!(ids).to_string());
    Ok(Some(json!({"metadata": {
        "annotations": {NODE_IDS: text},
        "resourceVersion": node.metadata.object_version()?.to_string(),
    }})))
}

/// Writes a registered driver into the API.
pub async fn publish(
    client: &Client,
    node_name: &str,
    name: &str,
    info: &NodeInfo,
) -> Result<(), CsiNodeError> {
    let node = patched(client, node_name, |node| metadata(node, name, info)).await?;
    write(client, &node, |drivers| {
        with_driver(drivers, driver(name, info))
    })
    .await
}

/// Writes the registered drivers into the API, and removes all other drivers.
pub async fn publish_all(
    client: &Client,
    node_name: &str,
    registered: &[RegisteredDriver],
) -> Result<(), CsiNodeError> {
    for RegisteredDriver { driver, info, .. } in registered {
        let patch = patched(client, node_name, |node| metadata(node, &driver.name, info));
        if let Err(error) = patch.await {
            let driver = &driver.name;
            tracing::warn!(
                driver,
                %error,
                "the labels of a driver's topology are not published"
            );
        }
    }
    let node = patched(client, node_name, |node| without_others(node, registered)).await?;
    let desired: Vec<CSINodeDriver> = registered
        .iter()
        .map(|registration| driver(&registration.driver.name, &registration.info))
        .collect();
    write(client, &node, |drivers| {
        let is_listed = |driver| drivers.contains(driver);
        let is_equal = desired.len() == drivers.len() && desired.iter().all(is_listed);
        (!is_equal).then(|| desired.clone())
    })
    .await
}

/// The Node after the patch.
async fn patched(
    client: &Client,
    node_name: &str,
    change: impl Fn(&Node) -> Result<Option<Value>, CsiNodeError>,
) -> Result<Node, CsiNodeError> {
    let nodes: Api<Node> = Api::all(client.clone());
    let mut attempts = 0;
    loop {
        attempts += 1;
        let node = in_time(nodes.get(node_name)).await;
        let node = node.map_err(|message| CsiNodeError::GetNode {
            node: node_name.to_owned(),
            message,
        })?;
        let Some(patch) = change(&node)? else {
            return Ok(node);
        };
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
        match nodes.patch(node_name, &params, &patch).await {
            Ok(node) => return Ok(node),
            Err(error) if attempts < ATTEMPTS_MAX && refusal(&error) == WriteRefusal::Conflict => {}
            Err(error) => {
                return Err(CsiNodeError::PatchNode {
                    node: node_name.to_owned(),
                    message: error.to_string(),
                });
            }
        }
    }
}

/// Whether the CSINode belongs to this Node, and not to a deleted Node with this name.
fn is_of(object: &CSINode, node: &Uid) -> bool {
    let mut owners = object.metadata.owner_references.iter().flatten();
    owners.any(|owner| *node == *owner.uid)
}

/// Changes the drivers of the CSINode. A CSINode of a deleted Node is replaced, because the garbage
/// collector will delete the old CSINode.
async fn write(
    client: &Client,
    node: &Node,
    change: impl Fn(&[CSINodeDriver]) -> Option<Vec<CSINodeDriver>>,
) -> Result<(), CsiNodeError> {
    let api: Api<CSINode> = Api::all(client.clone());
    let node_name = node.metadata.object_name()?;
    let node_uid = node.metadata.object_uid()?;
    let name = || node_name.to_owned();
    let params = PostParams::default();
    let mut attempts = 0;
    loop {
        attempts += 1;
        let existing = in_time(api.get_opt(node_name)).await;
        let mut existing = existing.map_err(|message| CsiNodeError::GetCsiNode {
            node: name(),
            message,
        })?;
        if let Some(former) = existing.take_if(|existing| !is_of(existing, &node_uid)) {
            let uid = former.metadata.object_uid()?;
            let deleted = delete(&api, node_name, Delete::of_uid(uid)).await;
            deleted.map_err(|error| CsiNodeError::DeleteCsiNode {
                node: name(),
                message: error.to_string(),
            })?;
        }
        let listed = existing
            .as_ref()
            .map_or(&[][..], |object| &object.spec.drivers);
        let Some(drivers) = change(listed) else {
            return Ok(());
        };
        let spec = CSINodeSpec { drivers };
        let result = match existing {
            Some(existing) => {
                let object = CSINode { spec, ..existing };
                api.replace(node_name, &params, &object).await
            }
            None => {
                let metadata = ObjectMeta {
                    name: Some(name()),
                    owner_references: Some(vec![OwnerReference {
                        api_version: "v1".to_owned(),
                        kind: "Node".to_owned(),
                        name: name(),
                        uid: node_uid.clone().into(),
                        ..OwnerReference::default()
                    }]),
                    ..ObjectMeta::default()
                };
                api.create(&params, &CSINode { metadata, spec }).await
            }
        };
        match result {
            Ok(_) => return Ok(()),
            Err(error)
                if attempts < ATTEMPTS_MAX
                    && matches!(
                        refusal(&error),
                        WriteRefusal::Conflict | WriteRefusal::AlreadyExists
                    ) => {}
            Err(error) => {
                return Err(CsiNodeError::WriteCsiNode {
                    node: name(),
                    message: error.to_string(),
                });
            }
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
        let one_driver = with_driver(&[], driver("a", &info("n1", "z"))).unwrap();
        assert_eq!(
            with_driver(&one_driver, driver("a", &info("n1", "z"))),
            None
        );
        let both_drivers = with_driver(&one_driver, driver("b", &info("n1", "z"))).unwrap();
        let renamed = with_driver(&both_drivers, driver("a", &info("n2", "z"))).unwrap();
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
        let unchanged = metadata(&node, "a", &info("old", "z")).unwrap();
        assert_eq!(unchanged, None);
        let collision = metadata(&node, "b", &info("n1", "y")).unwrap_err();
        assert!(matches!(collision, CsiNodeError::Collision { .. }));
    }

    #[test]
    fn removed_drivers_leave_labels_only() {
        let node: Node = json_tree::from_value(json!({"metadata": {"name": "n",
            "resourceVersion": "7", "labels": {"zone": "z"},
            "annotations": {NODE_IDS: "{\"a\":\"n1\",\"b\":\"n1\"}"}}}))
        .unwrap();
        let registered = |name: &str| RegisteredDriver {
            driver: csi_client::Driver {
                name: name.to_owned(),
                socket: "csi.sock".into(),
            },
            capabilities: csi_client::NodeCapabilities::default(),
            info: info("n1", "z"),
            registration_socket: "reg.sock".into(),
        };
        let both_drivers = [registered("a"), registered("b")];
        let without = |registered| without_others(&node, registered).unwrap();
        assert_eq!(without(&both_drivers), None);
        let patch = without(&both_drivers[1..]).unwrap();
        assert_eq!(patch["metadata"]["annotations"][NODE_IDS], "{\"b\":\"n1\"}");
        let patch = without(&[]).unwrap();
        assert_eq!(patch["metadata"]["annotations"][NODE_IDS], json!(null));
        assert_eq!(patch["metadata"]["labels"], json!(null));
    }

    #[test]
    fn a_csi_node_belongs_to_its_node() {
        let owner = json!({"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u1"});
        let object = json!({"metadata": {"name": "n", "ownerReferences": [owner]},
            "spec": {"drivers": []}});
        let object: CSINode = json_tree::from_value(object).unwrap();
        let is_of = |uid: &str| is_of(&object, &uid.parse().unwrap());
        assert!(is_of("u1") && !is_of("u2"));
    }
}
