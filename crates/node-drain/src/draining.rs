//! The moves of all volumes of a node to other nodes, one after another.

use std::collections::BTreeMap;

use cluster_inspection::Server;
use command_output::output::{print_line, warn};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use kube_api_client::{Api, ListParams};
use resource_kinds::storage::Driver;
use resource_kinds::storage::volume_move::VolumeMove;
use resource_kinds::volume_fit::only_node;

use crate::error::DrainError;
use crate::moving::{self, check_destination};
use crate::pods::cordon;

/// A claim whose volume is on the node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Local {
    namespace: String,
    claim: String,
    /// The node to which the volume is already moving.
    moving_to: Option<String>,
}

/// The moves of a node's volumes to other nodes.
#[derive(Clone, Debug)]
pub struct VolumeDrain {
    /// The node whose volumes are moved.
    pub node: String,
    /// The node that gets the volumes; `None` for the node with the fewest volumes, for each volume.
    pub to: Option<String>,
    /// Volumes that cannot be moved are left, and the others are moved.
    pub force: bool,
}

impl VolumeDrain {
    /// Moves the volumes, and prints the progress.
    ///
    /// # Errors
    /// No node accepts the volumes, a volume cannot be moved, or the server does not respond.
    pub async fn run(self, server: &Server) -> Result<(), DrainError> {
        let nodes: Api<Node> = Api::all(server.client.clone());
        let volumes: Api<PersistentVolume> = Api::all(server.client.clone());
        let all = ListParams::default();
        let listed = nodes.list(&all).await;
        let listed = listed.map_err(|error| server.explain(error))?.items;
        let volumes = volumes.list(&all).await;
        let volumes = volumes.map_err(|error| server.explain(error))?.items;
        let Self { node, to, force } = self;
        let has_name = |listed: &Node| listed.metadata.name.as_ref() == Some(&node);
        if !listed.iter().any(has_name) {
            return Err(DrainError::Refused(format!("node {node:?} does not exist")));
        }
        let locals = locals(&volumes, &node);
        if locals.is_empty() {
            print_line(&format!("No claim has its volume on {node}."));
            return Ok(());
        }
        let counts = destinations(&listed, &volumes, &node, to.as_deref());
        let planned = spread(&locals, counts).ok_or(DrainError::NoDestination)?;
        let mut refusals = 0;
        let mut moves = Vec::new();
        for (local, to) in planned {
            match moving::refusal(server, &local.namespace, &local.claim, &to).await? {
                None => moves.push((local, to)),
                Some(why) => {
                    warn(&format!("{}/{}: {why}", local.namespace, local.claim));
                    refusals += 1;
                }
            }
        }
        if refusals > 0 && !force {
            return Err(DrainError::NothingMoved);
        }
        cordon(server, &node).await?;
        move_all(server, moves).await?;
        if refusals > 0 {
            return Err(DrainError::VolumesLeft(refusals, node));
        }
        print_line(&format!("The volumes of {node} are on other nodes."));
        Ok(())
    }
}

/// Moves volumes, each to its node, one after another.
async fn move_all(server: &Server, moves: Vec<(Local, String)>) -> Result<(), DrainError> {
    for (local, to) in moves {
        let Local {
            namespace, claim, ..
        } = local;
        print_line(&format!("{namespace}/{claim}: to {to}"));
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(server.client.clone(), &namespace);
        // The claim may have been deleted meanwhile, and its volume with it.
        let object = claims.get_opt(&claim).await;
        match object.map_err(|error| server.explain(error))? {
            Some(object) => moving::move_claim(server, object, &namespace, &claim, &to).await?,
            None => print_line(&format!("{namespace}/{claim} is gone.")),
        }
    }
    Ok(())
}

/// The claims with a volume on the node.
fn locals(volumes: &[PersistentVolume], node: &str) -> Vec<Local> {
    let on_node = volumes
        .iter()
        .filter(|volume| is_local(volume) && only_node(volume) == Some(node));
    let mut locals: Vec<Local> = on_node
        .filter_map(|volume| {
            let status = volume.status.as_ref();
            let phase = status.and_then(|status| status.phase.as_deref());
            let claim = volume.spec.as_ref()?.claim_ref.as_ref()?;
            (phase == Some("Bound")).then_some(())?;
            Some(Local {
                namespace: claim.namespace.clone()?,
                claim: claim.name.clone()?,
                moving_to: VolumeMove::of(volume)
                    .filter(|record| !record.stage.is_final())
                    .map(|record| record.to),
            })
        })
        .collect();
    locals.sort_unstable();
    locals
}

fn is_local(volume: &PersistentVolume) -> bool {
    matches!(
        Driver::of_volume(volume),
        Some(Driver::Local | Driver::LocalCow)
    )
}

/// The nodes that may get volumes, with the number that they have.
fn destinations(
    nodes: &[Node],
    volumes: &[PersistentVolume],
    from: &str,
    to: Option<&str>,
) -> BTreeMap<String, usize> {
    let names = nodes.iter().filter_map(|node| {
        let name = node.metadata.name.as_deref()?;
        let is_chosen = to.is_none_or(|to| to == name) && name != from;
        (is_chosen && check_destination(node, name).is_ok()).then(|| name.to_owned())
    });
    let mut counts: BTreeMap<String, usize> = names.map(|name| (name, 0)).collect();
    for volume in volumes.iter().filter(|volume| is_local(volume)) {
        if let Some(count) = only_node(volume).and_then(|node| counts.get_mut(node)) {
            *count += 1;
        }
    }
    counts
}

/// The target node of each volume: the node with the fewest volumes, including the volumes that move to it. A move that
/// was started before continues. `None` if there is no such node.
fn spread(locals: &[Local], mut counts: BTreeMap<String, usize>) -> Option<Vec<(Local, String)>> {
    let mut planned = Vec::new();
    for local in locals {
        if let Some(to) = &local.moving_to {
            planned.push((local.clone(), to.clone()));
            continue;
        }
        let (name, count) = counts.iter_mut().min_by_key(|(_, count)| **count)?;
        *count += 1;
        planned.push((local.clone(), name.clone()));
    }
    Some(planned)
}

#[cfg(test)]
mod tests {
    use json_tree::json;
    use resource_kinds::annotations::VOLUME_MOVE;
    use resource_kinds::storage::volume_move::affinity_to;

    use super::*;

    fn volume(claim: &str, node: &str, phase: &str) -> PersistentVolume {
        let annotations = json!({"pv.kubernetes.io/provisioned-by": "mainstay.dev/local"});
        let volume = json!({"metadata": {"name": format!("pvc-{claim}"), "annotations": annotations},
            "spec": {"claimRef": {"namespace": "shop", "name": claim}, "local": {"path": "/a"},
                "nodeAffinity": affinity_to(node)}, "status": {"phase": phase}});
        json_tree::from_value(volume).expect("a volume")
    }

    fn node(name: &str, cordoned: bool) -> Node {
        let node = json!({"metadata": {"name": name}, "spec": {"unschedulable": cordoned},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        json_tree::from_value(node).expect("a node")
    }

    // docs/storage.md
    #[test]
    fn volumes_go_to_the_nodes_with_the_fewest() {
        let mut other = volume("nfs", "one", "Bound");
        other.metadata.annotations = None;
        let volumes = [
            volume("b", "one", "Bound"),
            volume("a", "one", "Bound"),
            volume("c", "one", "Bound"),
            volume("kept", "one", "Released"),
            volume("d", "two", "Bound"),
            other,
        ];
        let locals = locals(&volumes, "one");
        let names: Vec<&str> = locals.iter().map(|local| &*local.claim).collect();
        assert_eq!(names, ["a", "b", "c"]);
        let nodes = [
            node("one", false),
            node("two", false),
            node("three", false),
            node("four", true),
        ];
        let counts = destinations(&nodes, &volumes, "one", None);
        let planned = spread(&locals, counts).expect("nodes");
        let chosen: Vec<&str> = planned.iter().map(|(_, to)| &**to).collect();
        assert_eq!(chosen, ["three", "three", "two"]);
        let chosen = destinations(&nodes, &volumes, "one", Some("two"));
        assert_eq!(chosen, BTreeMap::from([("two".to_owned(), 1)]));
        let mut begun = volume("e", "one", "Bound");
        let record = VolumeMove::request("a1", "one", "two").to_text();
        let annotations = begun.metadata.annotations.get_or_insert_default();
        annotations.insert(VOLUME_MOVE.to_owned(), record);
        let begun = super::locals(&[begun], "one");
        let planned = spread(&begun, BTreeMap::new()).expect("a node");
        assert_eq!(planned[0].1, "two");
        for unfit in ["one", "four", "none"] {
            let counts = destinations(&nodes, &volumes, "one", Some(unfit));
            assert_eq!(spread(&locals, counts), None, "{unfit}");
        }
    }
}
