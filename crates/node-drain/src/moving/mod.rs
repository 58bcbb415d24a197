//! The request to move a volume, and the progress of the move. The controllers of the server execute the move, so it
//! continues when this process exits.

mod refusal;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cluster_inspection::Server;
use command_output::output::print_line;
use controller_planners::volume_move::uses;
use json_tree::json;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use kube_api_client::guarded_writes::{self, Delete, message};
use kube_api_client::{Api, ListParams, Patch, PatchParams};
use object_model::ObjectKey;
use resource_kinds::MetadataIdentity;
use resource_kinds::annotations::VOLUME_MOVE;
use resource_kinds::node_conditions;
use resource_kinds::pod_view::PodView;
use resource_kinds::snapshot::VolumeSnapshotContent;
use resource_kinds::storage::Driver;
use resource_kinds::storage::volume_move::{MoveStage, VolumeMove};
use resource_kinds::storage::volume_replication::VolumeReplication;
use resource_kinds::volume_fit::only_node;

use crate::error::DrainError;
use refusal::{MoveRefusal, NodeRefusal};

/// Interval between two checks of the record.
const PAUSE: Duration = Duration::from_millis(500);
/// Requests to a server that does not respond are repeated for this time, because the server may be starting.
const PATIENCE: Duration = Duration::from_secs(60);
/// The code of an eviction that a PodDisruptionBudget does not allow now.
const TOO_MANY_REQUESTS: u16 = 429;

/// The objects that decide whether a volume may move.
#[derive(Debug, Default)]
struct MoveObjects {
    claim: PersistentVolumeClaim,
    volume: Option<PersistentVolume>,
    pods: Vec<PodView>,
    destination: Option<Node>,
    contents: Vec<VolumeSnapshotContent>,
}

/// A move of a claim's volume, or the abandonment of a move.
#[derive(Clone, Debug)]
pub struct VolumeMoveRequest {
    /// The namespace of the claim.
    pub namespace: String,
    /// The PersistentVolumeClaim.
    pub claim: String,
    /// The node that gets the volume; `None` abandons the move in progress.
    pub to: Option<String>,
}

impl VolumeMoveRequest {
    /// Requests the move, and prints its progress until the move ends.
    ///
    /// # Errors
    /// The volume cannot be moved, the move has failed, or the server does not respond.
    pub async fn run(self, server: &Server) -> Result<(), DrainError> {
        let Self {
            namespace,
            claim: name,
            to,
        } = self;
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(server.client.clone(), &namespace);
        let claim = claims.get(&name).await;
        let claim = claim.map_err(|error| server.explain(error))?;
        match to {
            Some(to) => move_claim(server, claim, &namespace, &name, &to).await,
            None => cancel(server, &volume_of(&claim, &name)?).await,
        }
    }
}

/// The name of a claim's volume.
fn volume_of(claim: &PersistentVolumeClaim, name: &str) -> Result<String, DrainError> {
    let spec = claim.spec.as_ref();
    let volume = spec.and_then(|spec| spec.volume_name.clone());
    let volume = volume.filter(|volume| !volume.is_empty());
    volume.ok_or_else(|| DrainError::Refused(format!("claim {name:?} is not bound")))
}

/// The reason why the volume of a claim cannot be moved now; `None` if it can be moved, or is already moving.
///
/// # Errors
/// The server does not respond.
pub async fn refusal(
    server: &Server,
    namespace: &str,
    claim: &str,
    to: &str,
) -> Result<Option<String>, DrainError> {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(server.client.clone(), namespace);
    let object = claims.get(claim).await;
    let object = object.map_err(|error| server.explain(error))?;
    let name = volume_of(&object, claim)?;
    let objects = read(server, object, namespace, &name, to).await;
    let objects = objects.map_err(|error| server.explain(error))?;
    Ok(match decide(&objects, to) {
        Decision::Refused(why) => Some(why.to_string()),
        Decision::UnderWay | Decision::Request { .. } => None,
    })
}

/// Requests the move of the volume of a claim, and prints its progress until the move ends.
///
/// # Errors
/// The volume cannot be moved, or the move has failed.
pub async fn move_claim(
    server: &Server,
    claim: PersistentVolumeClaim,
    namespace: &str,
    claim_name: &str,
    to: &str,
) -> Result<(), DrainError> {
    let name = volume_of(&claim, claim_name)?;
    let volumes: Api<PersistentVolume> = Api::all(server.client.clone());
    let objects = read(server, claim, namespace, &name, to).await;
    let objects = objects.map_err(|error| server.explain(error))?;
    match decide(&objects, to) {
        Decision::Refused(why) => return Err(DrainError::Refused(why.to_string())),
        Decision::UnderWay => print_line(&format!("The move to {to} is in progress.")),
        Decision::Request { from } => {
            let id = uuid::Uuid::new_v4().simple().to_string();
            let request = VolumeMove::request(&id[..12], &from, to);
            write(&volumes, objects.volume.as_ref(), &name, &request)
                .await
                .map_err(|error| server.explain(error))?;
        }
    }
    let claim = ObjectKey::new(namespace, claim_name);
    follow(server, &volumes, &name, &claim).await
}

async fn read(
    server: &Server,
    claim: PersistentVolumeClaim,
    namespace: &str,
    volume: &str,
    to: &str,
) -> kube_api_client::Result<MoveObjects> {
    let client = || server.client.clone();
    let volumes: Api<PersistentVolume> = Api::all(client());
    let nodes: Api<Node> = Api::all(client());
    let contents: Api<VolumeSnapshotContent> = Api::all(client());
    let contents = match contents.list(&ListParams::default()).await {
        // The definitions of snapshots may be missing.
        Err(kube_api_client::Error::Api(status)) if status.code == 404 => Vec::new(),
        result => result?.items,
    };
    Ok(MoveObjects {
        volume: volumes.get_opt(volume).await?,
        pods: pods(server, namespace).await?,
        destination: nodes.get_opt(to).await?,
        claim,
        contents,
    })
}

async fn pods(server: &Server, namespace: &str) -> kube_api_client::Result<Vec<PodView>> {
    let pods: Api<Pod> = Api::namespaced(server.client.clone(), namespace);
    let listed = pods.list(&ListParams::default()).await?;
    let views = listed.items.iter().map(PodView::try_from);
    views
        .collect::<Result<_, _>>()
        .map_err(kube_api_client::Error::Json)
}

/// The response to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Decision {
    /// This move has already started.
    UnderWay,
    /// The move may begin.
    Request { from: String },
    /// The move is refused, with the reason.
    Refused(MoveRefusal),
}

fn decide(objects: &MoveObjects, to: &str) -> Decision {
    match source_node(objects, to) {
        Ok(None) => Decision::UnderWay,
        Ok(Some(from)) => Decision::Request { from },
        Err(why) => Decision::Refused(why),
    }
}

/// The node with the data; `None` for a move that is in progress.
fn source_node(objects: &MoveObjects, to: &str) -> Result<Option<String>, MoveRefusal> {
    let claim = objects.claim.metadata.object_name()?;
    let status = objects.claim.status.as_ref();
    if status.and_then(|status| status.phase.as_deref()) != Some("Bound") {
        return Err(MoveRefusal::UnboundClaim(claim.to_owned()));
    }
    let volume = objects.volume.as_ref();
    let volume = volume.ok_or_else(|| MoveRefusal::NoVolume(claim.to_owned()))?;
    let name = volume.metadata.object_name()?;
    let being_deleted = |meta: &Option<_>| meta.is_some();
    if being_deleted(&objects.claim.metadata.deletion_timestamp)
        || being_deleted(&volume.metadata.deletion_timestamp)
    {
        return Err(MoveRefusal::Deleting(claim.to_owned()));
    }
    let record = VolumeMove::of(volume).filter(|record| !record.stage.is_final());
    match record {
        Some(record) if record.to == to => return Ok(None),
        Some(record) => {
            return Err(MoveRefusal::MovingElsewhere {
                volume: name.to_owned(),
                to: record.to,
            });
        }
        None => {}
    }
    let from = node_of(volume, claim)?;
    if from == to {
        return Err(MoveRefusal::SameNode {
            claim: claim.to_owned(),
            node: to.to_owned(),
        });
    }
    let node = objects.destination.as_ref();
    let node = node.ok_or_else(|| MoveRefusal::NoNode(to.to_owned()))?;
    check_destination(node, to)?;
    if VolumeReplication::of(volume).is_some() {
        return Err(MoveRefusal::Replicated {
            claim: claim.to_owned(),
            from,
        });
    }
    let snapshots = snapshots(&objects.contents, name);
    if !snapshots.is_empty() {
        return Err(MoveRefusal::Snapshots {
            claim: claim.to_owned(),
            snapshots,
            from,
        });
    }
    let mut users = users(&objects.pods, claim);
    match users.find(|pod| pod.controller.is_none()) {
        Some(pod) => Err(MoveRefusal::PodWithoutController {
            pod: pod.name.to_string(),
            claim: claim.to_owned(),
        }),
        None => Ok(Some(from)),
    }
}

/// The VolumeSnapshots of a volume, as `NAMESPACE/NAME`; for a content without a VolumeSnapshot, the name of the
/// content.
fn snapshots(contents: &[VolumeSnapshotContent], volume: &str) -> Vec<String> {
    let of = |content: &&VolumeSnapshotContent| {
        content.spec.source.volume_handle.as_deref() == Some(volume)
    };
    let name = |content: &VolumeSnapshotContent| {
        let snapshot = &content.spec.volume_snapshot_ref;
        match (&snapshot.namespace, &snapshot.name) {
            (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
            _ => content.metadata.name.clone().unwrap_or_default(),
        }
    };
    contents.iter().filter(of).map(name).collect()
}

/// The node of a volume that can be moved.
fn node_of(volume: &PersistentVolume, claim: &str) -> Result<String, MoveRefusal> {
    let spec = volume.spec.clone().unwrap_or_default();
    let class = spec.storage_class_name.unwrap_or_default();
    match Driver::of_volume(volume).filter(|_| spec.local.is_some()) {
        Some(Driver::Local | Driver::LocalCow) => {}
        None => {
            return Err(MoveRefusal::OtherClass {
                claim: claim.to_owned(),
                class,
            });
        }
    }
    if spec.volume_mode.as_deref() == Some("Block") {
        return Err(MoveRefusal::BlockDevice(claim.to_owned()));
    }
    let node = only_node(volume).map(str::to_owned);
    node.ok_or_else(|| MoveRefusal::NotOnOneNode(claim.to_owned()))
}

/// Checks that a node can get volumes and their pods.
pub fn check_destination(node: &Node, name: &str) -> Result<(), NodeRefusal> {
    let is_ready = node_conditions::is_ready(node);
    let is_cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
    match (is_ready, is_cordoned) {
        (true, false) => Ok(()),
        (false, _) => Err(NodeRefusal::NotReady(name.to_owned())),
        (true, true) => Err(NodeRefusal::Cordoned(name.to_owned())),
    }
}

/// The pods on nodes that use a claim.
fn users<'a>(pods: &'a [PodView], claim: &str) -> impl Iterator<Item = &'a PodView> {
    pods.iter().filter(move |pod| uses(pod, claim))
}

async fn write(
    volumes: &Api<PersistentVolume>,
    volume: Option<&PersistentVolume>,
    name: &str,
    record: &VolumeMove,
) -> kube_api_client::Result<()> {
    let meta = volume.map(|volume| &volume.metadata);
    let patch = json!({"metadata": {
        "uid": meta.and_then(|meta| meta.uid.as_ref()),
        "resourceVersion": meta.and_then(|meta| meta.resource_version.as_ref()),
        "annotations": {VOLUME_MOVE: record.to_text()},
    }});
    let params = PatchParams::default();
    volumes.patch(name, &params, &Patch::Merge(&patch)).await?;
    Ok(())
}

async fn cancel(server: &Server, name: &str) -> Result<(), DrainError> {
    let volumes: Api<PersistentVolume> = Api::all(server.client.clone());
    loop {
        let volume = volumes.get(name).await;
        let volume = volume.map_err(|error| server.explain(error))?;
        let record = VolumeMove::of(&volume).filter(|record| record.stage.is_before_placed());
        let Some(record) = record else {
            let text = "is not being moved, or is on the other node already";
            return Err(DrainError::Refused(format!("volume {name} {text}")));
        };
        let cancelled = VolumeMove {
            cancelled: true,
            ..record
        };
        match write(&volumes, Some(&volume), name, &cancelled).await {
            Err(kube_api_client::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(server.explain(error).into()),
            Ok(()) => break,
        }
    }
    print_line(&format!("The move of volume {name} is being abandoned."));
    Ok(())
}

/// Prints the progress until the move ends, and evicts the pods at the step that needs it.
async fn follow(
    server: &Server,
    volumes: &Api<PersistentVolume>,
    name: &str,
    claim: &ObjectKey,
) -> Result<(), DrainError> {
    let mut printed = String::new();
    let mut print_if_new = |line: String| {
        if line != printed {
            print_line(&line);
            printed = line;
        }
    };
    let mut last_response = Instant::now();
    loop {
        match read_progress(server, volumes, name, claim).await {
            Ok(Progress::Waiting(line)) => {
                last_response = Instant::now();
                print_if_new(line);
            }
            Ok(Progress::Moved(line)) => {
                print_if_new(line);
                return Ok(());
            }
            Ok(Progress::Failed(reason)) => return Err(DrainError::NotMoved(reason)),
            Err(error @ kube_api_client::Error::Api(_)) => {
                return Err(server.explain(error).into());
            }
            Err(error) if last_response.elapsed() > PATIENCE => {
                return Err(server.explain(error).into());
            }
            Err(_) => print_if_new("The server does not answer.".to_owned()),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The progress of a move.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    Waiting(String),
    Moved(String),
    Failed(String),
}

async fn read_progress(
    server: &Server,
    volumes: &Api<PersistentVolume>,
    name: &str,
    claim: &ObjectKey,
) -> kube_api_client::Result<Progress> {
    let volume = volumes.get(name).await?;
    let Some(record) = VolumeMove::of(&volume) else {
        return Ok(Progress::Failed("its record is gone".to_owned()));
    };
    if record.stage == MoveStage::Stopping {
        for pod in users(&pods(server, &claim.namespace).await?, &claim.name) {
            if !pod.is_deleting()
                && let Some(refused) = stop(server, pod).await?
            {
                return Ok(Progress::Waiting(format!("Stopping: {refused}")));
            }
        }
    }
    Ok(progress(&record, &claim.name))
}

/// Evicts a pod; returns the message of a budget that does not allow the eviction now.
async fn stop(server: &Server, pod: &PodView) -> kube_api_client::Result<Option<String>> {
    let pods: Api<Pod> = Api::namespaced(server.client.clone(), &pod.namespace);
    match guarded_writes::evict(
        &pods,
        &pod.name,
        Delete::of_uid(pod.uid.clone()),
        BTreeMap::new(),
    )
    .await
    {
        // Or the pod was deleted, or another pod has its name.
        Ok(_) => Ok(None),
        Err(error) if error.code() == Some(TOO_MANY_REQUESTS) => Ok(Some(message(&error))),
        Err(error) => Err(error),
    }
}

fn progress(record: &VolumeMove, claim: &str) -> Progress {
    let (from, to) = (&record.from, &record.to);
    let text = match record.stage {
        MoveStage::Requested => format!("Requested: node {to} is asked for room."),
        MoveStage::Preparing => match record.bytes {
            Some(bytes) => format!(
                "Preparing: a first copy of {bytes} bytes goes from {from} to {to}, while the pods run."
            ),
            None => {
                format!("Preparing: a first copy goes from {from} to {to}, while the pods run.")
            }
        },
        MoveStage::Stopping => "Stopping: the pods of the claim end.".to_owned(),
        MoveStage::Copying => match record.bytes {
            Some(bytes) => format!("Copying: {bytes} bytes go from {from} to {to}."),
            None => format!("Copying: the files go from {from} to {to}."),
        },
        MoveStage::Arrived => format!("Arrived: the files are on {to}."),
        MoveStage::Placed => format!("Placed: the volume belongs to {to}."),
        MoveStage::Abandoned => format!("Abandoned: the volume stays on {from}."),
        MoveStage::Moved => {
            let line = format!("Moved: claim {claim} is on {to}; its pods start there.");
            return Progress::Moved(line);
        }
        MoveStage::Failed => {
            let why = record.message.clone();
            return Progress::Failed(why.unwrap_or_else(|| "no reason is known".to_owned()));
        }
    };
    Progress::Waiting(match &record.message {
        Some(message) => format!("{text} Waiting: {message}."),
        None => text,
    })
}
