//! The provisioner of a node may write only volumes and snapshots of this node, and only those fields of claims that
//! a provisioner sets.
//!
//! The rules apply to the ServiceAccount `mainstay-provisioner` with a token that is bound to a node, which the nodes
//! of other machines use (KEP-4193). A volume of another node, or a volume for a claim that the scheduler has not
//! assigned to this node, could cause pods with their Secrets to be scheduled to this node.

#[cfg(test)]
mod tests;

use json_tree::Value;
use k8s_openapi::api::core::v1::PersistentVolume;
use object_model::{Status, Uid};

use super::plugin::{Admission, AdmissionRequest, Operation, forbidden, without};
use crate::admission::ObjectReader;
use crate::groups::snapshot::{self, CONTENT_PROTECTION};
use crate::groups::storage::Driver;
use crate::groups::storage::driver::{REMOVAL_FINALIZER, VOLUME_PREFIX};
use crate::groups::storage::nfs_class::{NfsClass, is_nfs_directory, is_nfs_provisioner};
use crate::well_known::annotations::{
    BETA_STORAGE_PROVISIONER, PROVISIONED_BY, SELECTED_NODE, STORAGE_PROVISIONER,
};
use crate::well_known::labels::HOSTNAME;
use crate::well_known::node_accounts::{NODE_NAME_EXTRA, NodeAccount};

/// The error is the reason of a refusal.
type Decision = Result<(), String>;

fn require(holds: bool, why: impl FnOnce() -> String) -> Decision {
    if holds { Ok(()) } else { Err(why()) }
}

pub(super) struct ProvisionerRestriction;

impl Admission for ProvisionerRestriction {
    fn name(&self) -> &'static str {
        "ProvisionerRestriction"
    }

    fn admit(
        &self,
        request: &AdmissionRequest<'_>,
        object: &mut Value,
        cluster: &dyn ObjectReader,
    ) -> Result<(), Status> {
        if request.user != NodeAccount::Provisioner.user() {
            return Ok(());
        }
        let requester = cluster.requester();
        // A token without a node belongs to the provisioner in the process of the server.
        let Some(node) = requester["extra"][NODE_NAME_EXTRA][0].as_str() else {
            return Ok(());
        };
        let write = Write {
            node,
            request,
            old: request.old.unwrap_or(&Value::Null),
            object,
            cluster,
        };
        check(&write).map_err(|why| forbidden(request, object, &why))
    }
}

struct Write<'a> {
    node: &'a str,
    request: &'a AdmissionRequest<'a>,
    old: &'a Value,
    object: &'a Value,
    cluster: &'a dyn ObjectReader,
}

fn check(write: &Write<'_>) -> Decision {
    use Operation::{Create, Delete, Update};
    let AdmissionRequest {
        group,
        plural,
        subresource,
        operation,
        ..
    } = *write.request;
    match (group, plural, subresource, operation) {
        ("", "persistentvolumes", "", Create) => new_volume(write),
        ("", "persistentvolumes", "", Update) => changed_volume(write),
        ("", "persistentvolumes", "status", Update) => volume_status(write),
        ("", "persistentvolumes", "", Delete) => own_volume(write, write.old),
        ("", "persistentvolumeclaims", "", Update) => claim(write),
        ("", "persistentvolumeclaims", "status", Update) => claim_status(write),
        (snapshot::GROUP, "volumesnapshotcontents", part, Update) => content(write, part),
        ("" | "events.k8s.io", "events", ..) => Ok(()),
        // Reviews are never stored.
        ("authentication.k8s.io" | "authorization.k8s.io", ..) => Ok(()),
        _ => Err(format!(
            "the provisioner of node {:?} does not write resources of this type",
            write.node
        )),
    }
}

/// Requires that the old and the new state differ in these fields only.
fn only(write: &Write<'_>, fields: &[&[&str]]) -> Decision {
    const NOTED: [&[&str]; 3] = [
        &["metadata", "managedFields"],
        &["metadata", "resourceVersion"],
        &["metadata", "generation"],
    ];
    let fields: Vec<&[&str]> = fields.iter().chain(&NOTED).copied().collect();
    let same = without(write.object, &fields) == without(write.old, &fields);
    require(same, || {
        format!(
            "the provisioner of node {:?} may not change other fields than {}",
            write.node,
            fields[..fields.len() - NOTED.len()]
                .iter()
                .map(|field| field.join("."))
                .collect::<Vec<_>>()
                .join(", ")
        )
    })
}

/// Requires that no finalizer except `finalizer` is added or removed.
fn only_finalizer(write: &Write<'_>, finalizer: &str) -> Decision {
    let others = |object: &Value| {
        let all = object["metadata"]["finalizers"].as_array();
        let others = all.into_iter().flatten().filter(|name| **name != finalizer);
        others.cloned().collect::<Vec<_>>()
    };
    require(others(write.object) == others(write.old), || {
        format!("the provisioner may add and remove no other finalizer than {finalizer}")
    })
}

/// Whether a volume has the form of the volumes that the provisioner of this node creates.
fn is_volume_of(volume: &Value, node: &str) -> bool {
    let maker = volume["metadata"]["annotations"][PROVISIONED_BY].as_str();
    let here = [json_tree::json!({"key": HOSTNAME, "operator": "In", "values": [node]})];
    let terms = volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"].as_array();
    let [term] = terms.map_or(&[][..], Vec::as_slice) else {
        return false;
    };
    let fields = term["matchFields"].as_array();
    maker.and_then(Driver::of_provisioner).is_some()
        && volume["spec"]["local"].is_object()
        && term["matchExpressions"].as_array().map(Vec::as_slice) == Some(&here)
        && fields.is_none_or(Vec::is_empty)
}

/// Whether a volume is an unused directory on an NFS server. Any node may remove such a volume.
fn is_left_directory(volume: &Value) -> bool {
    let phase = volume["status"]["phase"].as_str();
    let deleted = volume["metadata"]["deletionTimestamp"].is_string();
    let is_left =
        matches!(phase, Some("Released" | "Failed")) || (deleted && phase != Some("Bound"));
    is_left && json_tree::from_value(volume.clone()).is_ok_and(|volume| is_nfs_directory(&volume))
}

fn own_volume(write: &Write<'_>, volume: &Value) -> Decision {
    let may = is_volume_of(volume, write.node) || is_left_directory(volume);
    require(may, || {
        format!(
            "the provisioner of node {node:?} may write local volumes only, with a node affinity to \
             {node:?}",
            node = write.node
        )
    })
}

/// A new volume must be reserved for one claim that was assigned to this node. A volume without a claim could be
/// bound to any claim.
fn new_volume(write: &Write<'_>) -> Decision {
    let is_directory = is_directory_of_class(write);
    if !is_directory {
        own_volume(write, write.object)?;
    }
    let reference = &write.object["spec"]["claimRef"];
    let text = |field: &str| reference[field].as_str().unwrap_or_default();
    let (namespace, name) = (text("namespace"), text("name"));
    let claim = write
        .cluster
        .get("", "persistentvolumeclaims", namespace, name);
    let uid: Option<Uid> = text("uid").parse().ok();
    let existing = claim.zip(uid);
    let existing = existing.filter(|(claim, uid)| claim["metadata"]["uid"] == *uid.as_str());
    let (claim, uid) =
        existing.ok_or_else(|| format!("there is no claim {namespace}/{name} of this uid"))?;
    let volume = format!("{VOLUME_PREFIX}{uid}");
    require(write.object["metadata"]["name"] == volume, || {
        format!("the volume of the claim {namespace}/{name} has the name {volume}")
    })?;
    let bound_to = &claim["spec"]["volumeName"];
    let is_free = bound_to.as_str().is_none_or(str::is_empty) || *bound_to == volume;
    let class = |of: &Value| of["spec"]["storageClassName"].clone();
    let is_of_class = !is_directory || class(&claim) == class(write.object);
    require(
        is_free && is_of_class && is_assigned_here(write, &claim),
        || {
            format!(
                "the claim {namespace}/{name} is not for a volume on node {:?}",
                write.node
            )
        },
    )
}

/// Whether a volume is a directory of the NFS export in the parameters of its class.
fn is_directory_of_class(write: &Write<'_>) -> bool {
    let volume: PersistentVolume = match json_tree::from_value(write.object.clone()) {
        Ok(volume) => volume,
        Err(_) => return false,
    };
    let name = write.object["spec"]["storageClassName"].as_str();
    let class = name.and_then(|name| {
        let class = write
            .cluster
            .get("storage.k8s.io", "storageclasses", "", name)?;
        json_tree::from_value(Value::clone(&class)).ok()
    });
    let class = class.and_then(|class| NfsClass::of(&class)?.ok());
    is_nfs_directory(&volume) && class.is_some_and(|class| class.directory_of(&volume).is_some())
}

/// Whether the class of a claim has volumes that are directories of an NFS export.
fn is_for_directory(write: &Write<'_>) -> bool {
    let class = write.old["spec"]["storageClassName"].as_str();
    let class = class.and_then(|name| {
        let cluster = write.cluster;
        cluster.get("storage.k8s.io", "storageclasses", "", name)
    });
    class.is_some_and(|class| {
        class["provisioner"]
            .as_str()
            .is_some_and(is_nfs_provisioner)
    })
}

/// Whether the volume of a claim is requested on this node, or on any node.
fn is_assigned_here(write: &Write<'_>, claim: &Value) -> bool {
    let annotation = |key: &str| claim["metadata"]["annotations"][key].as_str();
    if let Some(selected) = annotation(SELECTED_NODE) {
        return selected == write.node;
    }
    let maker = annotation(STORAGE_PROVISIONER).or_else(|| annotation(BETA_STORAGE_PROVISIONER));
    let class = claim["spec"]["storageClassName"].as_str();
    let class = class
        .and_then(|name| {
            write
                .cluster
                .get("storage.k8s.io", "storageclasses", "", name)
        })
        .filter(|class| class["provisioner"].as_str() == maker);
    let is_ours = |name: &str| Driver::of_provisioner(name).is_some() || is_nfs_provisioner(name);
    maker.is_some_and(is_ours)
        && class.is_some_and(|class| class["volumeBindingMode"] != "WaitForFirstConsumer")
}

fn changed_volume(write: &Write<'_>) -> Decision {
    own_volume(write, write.old)?;
    own_volume(write, write.object)?;
    only(
        write,
        &[
            &["metadata", "finalizers"],
            &["spec", "capacity", "storage"],
        ],
    )?;
    only_finalizer(write, REMOVAL_FINALIZER)
}

fn volume_status(write: &Write<'_>) -> Decision {
    own_volume(write, write.old)?;
    only(write, &[&["status"]])?;
    let phase = &write.object["status"]["phase"];
    let is_unchanged = *phase == write.old["status"]["phase"];
    require(is_unchanged || phase == "Failed", || {
        "the provisioner may set no other phase than Failed".to_owned()
    })
}

/// The provisioner may reassign a claim that it cannot serve to another node, or remove the assignment, so that the
/// scheduler chooses again.
fn claim(write: &Write<'_>) -> Decision {
    let bound_to = write.old["spec"]["volumeName"].as_str();
    let is_free = bound_to.is_none_or(str::is_empty);
    require(is_free && is_assigned_here(write, write.old), || {
        format!("the claim is not for a volume on node {:?}", write.node)
    })?;
    only(write, &[&["metadata", "annotations", SELECTED_NODE]])
}

/// The progress of an expansion, and the conditions of a claim.
fn claim_status(write: &Write<'_>) -> Decision {
    if is_for_directory(write) && is_assigned_here(write, write.old) {
        return only(write, &[&["status", "conditions"]]);
    }
    let name = write.old["spec"]["volumeName"].as_str().unwrap_or_default();
    let volume = write.cluster.get("", "persistentvolumes", "", name);
    let is_here = volume.is_some_and(|volume| {
        is_volume_of(&volume, write.node)
            && volume["spec"]["claimRef"]["uid"] == write.old["metadata"]["uid"]
    });
    require(is_here, || {
        format!(
            "the claim is not bound to a volume of node {:?}",
            write.node
        )
    })?;
    let of_status = |field| ["status", field];
    let fields = [
        "allocatedResourceStatuses",
        "allocatedResources",
        "capacity",
        "conditions",
    ]
    .map(of_status);
    only(write, &fields.each_ref().map(<[&str; 2]>::as_slice))
}

fn content(write: &Write<'_>, part: &str) -> Decision {
    let driver = write.old["spec"]["driver"].as_str();
    let is_ours = driver.and_then(Driver::of_provisioner).is_some();
    let is_here = match location(write, write.old) {
        Location::On(node) => node == write.node,
        // Any node may remove the finalizer of a content that never had data.
        Location::Nowhere => {
            part.is_empty() && !write.old["metadata"]["deletionTimestamp"].is_null()
        }
    };
    require(is_ours && is_here, || {
        format!("the snapshot is not on node {:?}", write.node)
    })?;
    if part.is_empty() {
        only(write, &[&["metadata", "finalizers"]])?;
        return only_finalizer(write, CONTENT_PROTECTION);
    }
    only(write, &[&["status"]])?;
    let handle = write.object["status"]["snapshotHandle"].as_str();
    let stays = handle.is_none_or(|handle| node_of_handle(handle) == write.node);
    require(stays, || {
        format!(
            "the handle of a snapshot on node {0:?} begins with {0:?}",
            write.node
        )
    })
}

/// The location of a snapshot.
enum Location {
    On(String),
    Nowhere,
}

/// The location of a snapshot, from its handle or from the volume that is its source.
fn location(write: &Write<'_>, content: &Value) -> Location {
    let source = &content["spec"]["source"];
    let handles = [
        &content["status"]["snapshotHandle"],
        &source["snapshotHandle"],
    ];
    if let Some(handle) = handles.into_iter().find_map(Value::as_str) {
        return Location::On(node_of_handle(handle).to_owned());
    }
    let name = source["volumeHandle"].as_str().unwrap_or_default();
    match write.cluster.get("", "persistentvolumes", "", name) {
        Some(volume) if is_volume_of(&volume, write.node) => Location::On(write.node.to_owned()),
        Some(_) => Location::On(String::new()),
        None => Location::Nowhere,
    }
}

/// The node in a handle `<node>/<name>`.
fn node_of_handle(handle: &str) -> &str {
    handle.split_once('/').map_or("", |(node, _)| node)
}
