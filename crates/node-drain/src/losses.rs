//! The treatment of the pods of a node that leaves the cluster, as in `kubectl drain`.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{PersistentVolume, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use resource_kinds::annotations::MIRROR_POD;
use resource_kinds::volume_fit::only_node;

/// The pods that are evicted: all pods except the pods of DaemonSets and mirror pods, which end with the agent.
pub fn evicted<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> Vec<&'a Pod> {
    let is_evicted = |pod: &&Pod| !is_mirror(pod) && controller(pod) != Some("DaemonSet");
    pods.into_iter().filter(is_evicted).collect()
}

/// The losses when the node leaves, one sentence for each: pods that no controller replaces, and data on the machine.
pub fn losses(node: &str, evicted: &[&Pod], volumes: &[PersistentVolume]) -> Vec<String> {
    let running = evicted.iter().filter(|pod| !is_finished(pod));
    let mut losses = BTreeSet::new();
    for pod in running {
        let name = qualified_name(&pod.metadata);
        if controller(pod).is_none() {
            losses.insert(format!("no controller replaces the pod {name}"));
        }
        let spec = pod.spec.as_ref();
        let mut volumes = spec
            .and_then(|spec| spec.volumes.as_ref())
            .into_iter()
            .flatten();
        if volumes.any(|volume| volume.empty_dir.is_some()) {
            losses.insert(format!("the pod {name} has an emptyDir volume"));
        }
    }
    for volume in volumes
        .iter()
        .filter(|volume| only_node(volume) == Some(node))
    {
        let claim = volume
            .spec
            .as_ref()
            .and_then(|spec| spec.claim_ref.as_ref());
        if let Some((namespace, name)) = claim.and_then(|claim| {
            let namespace = claim.namespace.as_deref()?;
            Some((namespace, claim.name.as_deref()?))
        }) {
            losses.insert(format!(
                "the volume of the claim {namespace}/{name} is on this machine"
            ));
        }
    }
    losses.into_iter().collect()
}

/// `NAMESPACE/NAME`, for messages.
pub fn qualified_name(meta: &ObjectMeta) -> String {
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    format!("{namespace}/{}", meta.name.as_deref().unwrap_or_default())
}

fn is_mirror(pod: &Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    annotations.is_some_and(|annotations| annotations.contains_key(MIRROR_POD))
}

/// The kind of the pod's controller.
fn controller(pod: &Pod) -> Option<&str> {
    let mut owners = pod.metadata.owner_references.iter().flatten();
    let controller = owners.find(|owner| owner.controller == Some(true))?;
    Some(&controller.kind)
}

fn is_finished(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

#[cfg(test)]
mod tests {
    use json_tree::{Value, json};
    use resource_kinds::labels::HOSTNAME;

    use super::*;

    fn pod(name: &str, owner: Option<&str>, more: &Value) -> Pod {
        let owners = owner.map(|kind| {
            json!([{"apiVersion": "apps/v1", "kind": kind, "name": "o", "uid": "u", "controller": true}])
        });
        let pod = json!({
            "metadata": {"namespace": "d", "name": name, "ownerReferences": owners,
                "annotations": more["annotations"]},
            "spec": {"containers": [], "volumes": more["volumes"]},
            "status": {"phase": more["phase"]},
        });
        json_tree::from_value(pod).unwrap()
    }

    fn volume(claim: &str, terms: &Value) -> PersistentVolume {
        let volume = json!({"metadata": {"name": "v"}, "spec": {
            "claimRef": {"namespace": "d", "name": claim},
            "nodeAffinity": {"required": {"nodeSelectorTerms": terms}}}});
        json_tree::from_value(volume).unwrap()
    }

    #[test]
    fn pods_of_daemon_sets_and_mirror_pods_are_not_evicted() {
        let none = json!({});
        let pods = [
            pod("set-0", Some("StatefulSet"), &none),
            pod("daemon", Some("DaemonSet"), &none),
            pod("mirror", None, &json!({"annotations": {MIRROR_POD: "x"}})),
            pod("alone", None, &none),
        ];
        let evicted = evicted(&pods);
        let names = evicted.iter().map(|pod| qualified_name(&pod.metadata));
        assert_eq!(names.collect::<Vec<_>>(), ["d/set-0", "d/alone"]);
    }

    #[test]
    fn losses_are_named() {
        let scratch = json!({"volumes": [{"name": "s", "emptyDir": {}}]});
        let pods = [
            pod("set-0", Some("StatefulSet"), &json!({})),
            pod("set-1", Some("StatefulSet"), &scratch),
            pod("alone", None, &json!({})),
            pod("done", None, &json!({"phase": "Succeeded"})),
        ];
        let on = |nodes: &[&str]| json!([{"matchExpressions": [{"key": HOSTNAME, "operator": "In", "values": nodes}]}]);
        let volumes = [
            volume("here", &on(&["n1"])),
            volume("there", &on(&["n2"])),
            volume("both", &on(&["n1", "n2"])),
            volume("anywhere", &json!([])),
        ];
        let pods: Vec<&Pod> = pods.iter().collect();
        assert_eq!(
            losses("n1", &pods, &volumes),
            [
                "no controller replaces the pod d/alone",
                "the pod d/set-1 has an emptyDir volume",
                "the volume of the claim d/here is on this machine",
            ]
        );
        assert!(losses("n3", &pods[..1], &volumes).is_empty());
    }
}
