//! Tokens that a node requests: for its pods, and for the components that run on every node.

use json_tree::Value;
use object_model::Uid;

use super::pods::{is_on, sources};
use super::{RestrictionResult, Write, refuse, require, stored_object};
use crate::admission::{Operation, ResourceAttributes};
use crate::groups::core::pod_references::claims;
use crate::well_known::node_accounts::NodeAccount;

/// The right to request tokens for audiences that the pod does not contain.
const AUDIENCE_VERB: &str = "request-serviceaccounts-token-audience";

pub(super) fn check(write: &Write<'_>) -> RestrictionResult {
    if write.request.operation != Operation::Create {
        return Ok(());
    }
    let of_nodes = NodeAccount::find(write.request.namespace, write.request.name).is_some();
    match write.object["spec"]["boundObjectRef"]["kind"].as_str() {
        Some("Node") if of_nodes => of_own_node(write),
        _ => of_pod(write),
    }
}

/// A token of a component that runs on every node: bound to the node, and for the audience of the API only.
fn of_own_node(write: &Write<'_>) -> RestrictionResult {
    let Write { node, object, .. } = *write;
    let bound = &object["spec"]["boundObjectRef"];
    require(bound["apiVersion"] == "v1" && bound["name"] == node, || {
        format!("node {node:?} can only request tokens bound to its own Node object")
    })?;
    let uid = uid_of(bound).ok_or("node requested token with a node binding without a uid")?;
    let stored = stored_object(write, "nodes", "", node)?;
    require(stored["metadata"]["uid"] == *uid.as_str(), || {
        other_uid(&uid)
    })?;
    let audiences = object["spec"]["audiences"].as_array();
    require(audiences.is_none_or(Vec::is_empty), || {
        "node may not request audiences of a token bound to a node".to_owned()
    })
}

/// The UID in the reference to the object that a token is bound to.
fn uid_of(bound: &Value) -> Option<Uid> {
    bound["uid"].as_str()?.parse().ok()
}

fn other_uid(uid: &Uid) -> String {
    format!(
        "the UID in the bound object reference ({uid}) does not match the UID in record. The object \
         might have been deleted and then recreated"
    )
}

/// A token for a pod of the node: bound to the pod, and for an account and an audience that the pod uses.
fn of_pod(write: &Write<'_>) -> RestrictionResult {
    let bound = &write.object["spec"]["boundObjectRef"];
    let text = |field: &str| bound[field].as_str().unwrap_or_default();
    let is_pod = text("kind") == "Pod" && text("apiVersion") == "v1" && !text("name").is_empty();
    require(is_pod, || {
        "node requested token not bound to a pod".to_owned()
    })?;
    let uid = uid_of(bound).ok_or("node requested token with a pod binding without a uid")?;
    let pod = stored_object(write, "pods", write.request.namespace, text("name"))?;
    require(pod["metadata"]["uid"] == *uid.as_str(), || other_uid(&uid))?;
    require(is_on(&pod, write.node), || {
        "node requested token bound to a pod scheduled on a different node".to_owned()
    })?;
    audience(write, &pod)
}

fn audience(write: &Write<'_>, pod: &Value) -> RestrictionResult {
    let requested = write.object["spec"]["audiences"].as_array();
    let audience = match requested.map_or(&[][..], Vec::as_slice) {
        [] => "",
        [one] => one.as_str().unwrap_or_default(),
        _ => return refuse("node may only request 0 or 1 audiences"),
    };
    let tokens = sources(&pod["spec"]).map(|source| &source["serviceAccountToken"]);
    let mut named = tokens
        .filter(|token| !token.is_null())
        .map(|token| token["audience"].as_str().unwrap_or_default());
    let right = ResourceAttributes {
        verb: AUDIENCE_VERB,
        group: "",
        resource: audience,
        namespace: write.request.namespace,
        name: write.request.name,
    };
    require(
        named.any(|named| named == audience)
            || is_of_driver(write, pod, audience)
            || write.cluster.allows(&right),
        || {
            format!(
                "audience {audience:?} not found in pod spec volume, {} is not authorized to \
                 request tokens for this audience",
                write.request.user
            )
        },
    )
}

/// Whether a CSI driver of one of the pod's volumes requires tokens for this audience.
fn is_of_driver(write: &Write<'_>, pod: &Value, audience: &str) -> bool {
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let inline = volumes.filter_map(|volume| Some(volume["csi"]["driver"].as_str()?.to_owned()));
    let claimed = claims(pod).filter_map(|claim| {
        let (namespace, claims) = (write.request.namespace, "persistentvolumeclaims");
        let claim = write.cluster.get("", claims, namespace, &claim)?;
        let name = claim["spec"]["volumeName"].as_str()?;
        let volume = write.cluster.get("", "persistentvolumes", "", name)?;
        Some(volume["spec"]["csi"]["driver"].as_str()?.to_owned())
    });
    inline.chain(claimed).any(|driver| {
        let group = "storage.k8s.io";
        let driver = write.cluster.get(group, "csidrivers", "", &driver);
        driver.is_some_and(|driver| {
            let requested = driver["spec"]["tokenRequests"].as_array();
            let mut requested = requested.into_iter().flatten();
            requested.any(|request| request["audience"].as_str().unwrap_or_default() == audience)
        })
    })
}
