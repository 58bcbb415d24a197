//! The move of a local volume to another node: the next step, from the record and the observed state.
//!
//! The name of the directory is the lock. Before the copy the directory gets a name that no pod mounts; the copy gets
//! the volume's name only after the record states that the volume belongs to the other node. Every call may be
//! repeated, and a late call does no harm: a node refuses the calls of a move that has ended on that node.
//!
//! A volume that supports snapshots is copied twice: a first snapshot while its pods run, and the difference to a
//! second snapshot after the pods have ended. Without the first copy, which a restarted node may have removed, the
//! second snapshot is copied as a whole.

#[cfg(test)]
mod tests;

use object_model::Uid;
use resource_kinds::pod_view::PodView;
use resource_kinds::storage::volume_move::{MoveStage, VolumeMove};
use serde::{Deserialize, Serialize};

/// Bytes that stay free on the other node.
const RESERVE: u64 = 64 << 20;

/// One of the two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MoveEnd {
    /// The node that has the data.
    Source,
    /// The node that gets the data.
    Destination,
}

/// The state of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodePresence {
    Ready,
    /// The node has a Node object, and is not ready.
    Silent,
    /// The node has no Node object.
    Absent,
}

/// The method of the transfer to the other node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DataTransfer {
    /// The files, after the pods have ended.
    Files,
    /// Streams of snapshots, the first one while the pods run.
    Streams,
}

/// The contents of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CopyExtent {
    /// A snapshot that is taken while pods may write: a part of the data.
    First,
    /// The difference to the first copy.
    Increment,
    /// All of the data.
    Whole,
}

impl CopyExtent {
    /// The name of the extent in calls to nodes.
    pub fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Increment => "increment",
            Self::Whole => "whole",
        }
    }

    /// The extent with a name.
    pub fn of_name(name: &str) -> Option<Self> {
        let all = [Self::First, Self::Increment, Self::Whole];
        all.into_iter().find(|extent| extent.name() == name)
    }
}

/// A call to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// Measure the volume and the free space.
    Inspect(MoveEnd),
    /// Give the directory the name of the move, if no process uses the directory.
    Detach,
    /// Copy the data to the other node.
    Copy(CopyExtent),
    /// Give the copy the name of the volume.
    Place,
    /// Remove the old directory.
    Discard,
    /// End the move on a node: the directory gets its former name back, or the copy is removed.
    Abandon(MoveEnd),
}

impl Call {
    /// The node that executes the call. A copy is requested from the source.
    pub fn side(self) -> MoveEnd {
        match self {
            Self::Inspect(side) | Self::Abandon(side) => side,
            Self::Detach | Self::Copy(_) | Self::Discard => MoveEnd::Source,
            Self::Place => MoveEnd::Destination,
        }
    }
}

/// The response to [`Call::Inspect`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Inspection {
    /// The bytes of the volume's files; `None` if there is no directory.
    pub used: Option<u64>,
    /// The free bytes for new files.
    pub free: u64,
    /// The bytes that are reserved for the volume, if it has a reservation.
    #[serde(default)]
    pub limit: Option<u64>,
    /// Whether the node has the first copy: the source has its snapshot, the destination has the complete copy.
    #[serde(default)]
    pub has_first_copy: bool,
}

/// The response to [`Call::Detach`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Detachment {
    /// No pod can use the directory any more.
    Detached,
    /// A process uses the directory, which has its former name still, or again.
    InUse(String),
    /// The move has ended on that node.
    Ended,
    /// There is no such directory.
    Missing,
}

/// The response of the destination to a part of the copy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum CopyReceipt {
    /// The part is stored, and more parts are expected.
    More,
    /// The copy is complete and on disk; the path that the volume will have.
    Arrived(String),
    /// The files cannot be stored on the destination.
    Impossible(String),
}

/// The response to [`Call::Copy`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CopyResult {
    /// The copy is complete and on disk; the path of the volume there.
    Complete(String),
    /// The files cannot be copied; a retry would fail as well.
    Impossible(String),
}

/// The responses since the last write of the record.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct MoveAnswers {
    /// The source's response to [`Call::Inspect`].
    pub source: Option<Inspection>,
    /// The destination's response to [`Call::Inspect`].
    pub destination: Option<Inspection>,
    /// The response to [`Call::Detach`].
    pub detached: Option<Detachment>,
    /// The response to [`Call::Copy`].
    pub copied: Option<CopyResult>,
    /// [`Call::Place`] succeeded.
    pub placed: bool,
    /// [`Call::Discard`] succeeded.
    pub discarded: bool,
    /// [`Call::Abandon`] succeeded on the source.
    pub restored: bool,
    /// [`Call::Abandon`] succeeded on the destination.
    pub cleared: bool,
}

/// A pod on a node that uses the claim and has not ended.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct User {
    /// Name of the pod.
    pub name: String,
    /// UID of the pod.
    pub uid: Uid,
    /// Name of the pod's node.
    pub node: String,
    /// Whether a controller would create the pod again.
    pub is_controlled: bool,
    /// Whether the pod is being deleted.
    pub is_deleted: bool,
}

/// Whether a pod of the claim's namespace is on a node, uses the claim, and has not ended.
pub fn uses(pod: &PodView, claim: &str) -> bool {
    let names_claim = pod.claims.iter().any(|used| *used.name == *claim);
    names_claim && pod.node.is_some() && !pod.has_ended()
}

/// The observed state of one move.
#[derive(Clone, Debug)]
pub struct Observed<'a> {
    /// The record of the move, as stored in its annotation.
    pub record: &'a VolumeMove,
    /// Whether files or snapshot streams are sent.
    pub transfer: DataTransfer,
    /// Whether volume and claim are bound, and neither is being deleted.
    pub is_bound: bool,
    /// The pods that use the claim.
    pub users: &'a [User],
    /// The node with the data.
    pub source: NodePresence,
    /// The node that the data moves to.
    pub destination: NodePresence,
    /// The responses of the nodes.
    pub responses: &'a MoveAnswers,
}

/// The next step of a move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeMoveStep {
    /// The move has ended.
    Done,
    /// The move waits, for this reason.
    Wait(String),
    /// Replace the record; with the stage `Placed`, also the affinity and the path of the volume.
    Write(VolumeMove),
    /// Call a node, and plan again with its response.
    Call(Call),
    /// Delete a pod that waits on a node without the data.
    DeletePod(User),
}

/// The next step of a move.
pub fn plan(observed: &Observed<'_>) -> VolumeMoveStep {
    let record = observed.record;
    if record.stage.is_before_placed()
        && let Some(reason) = obstacle(observed)
    {
        return VolumeMoveStep::Write(record.abandoned(reason));
    }
    match record.stage {
        MoveStage::Requested => measure(observed),
        MoveStage::Preparing => prepare(observed),
        MoveStage::Stopping => stop(observed),
        MoveStage::Copying => copy(observed),
        MoveStage::Arrived => VolumeMoveStep::Write(record.in_stage(MoveStage::Placed)),
        MoveStage::Placed => settle(observed),
        MoveStage::Abandoned => restore(observed),
        MoveStage::Moved | MoveStage::Failed => VolumeMoveStep::Done,
    }
}

/// The reason why a move before `Placed` does not continue.
fn obstacle(observed: &Observed<'_>) -> Option<String> {
    let record = observed.record;
    if record.cancelled {
        return Some("cancelled by a user".to_owned());
    }
    if !observed.is_bound {
        return Some("the claim or its volume is being deleted, or they are not bound".to_owned());
    }
    for (presence, node) in [
        (observed.source, &record.from),
        (observed.destination, &record.to),
    ] {
        if presence == NodePresence::Absent {
            return Some(format!("node {node:?} does not exist"));
        }
    }
    None
}

/// A call; a wait if the node is not ready.
fn call(observed: &Observed<'_>, call: Call) -> VolumeMoveStep {
    let (presence, node) = match call.side() {
        MoveEnd::Source => (observed.source, &observed.record.from),
        MoveEnd::Destination => (observed.destination, &observed.record.to),
    };
    match presence {
        NodePresence::Ready => VolumeMoveStep::Call(call),
        NodePresence::Silent | NodePresence::Absent => {
            VolumeMoveStep::Wait(format!("node {node:?} is not ready"))
        }
    }
}

/// Stage Requested: the other node must have enough free bytes.
fn measure(observed: &Observed<'_>) -> VolumeMoveStep {
    let record = observed.record;
    if observed.destination == NodePresence::Silent {
        let reason = format!("node {:?} is not ready", record.to);
        return VolumeMoveStep::Write(record.abandoned(reason));
    }
    let (source, destination) = match (observed.responses.source, observed.responses.destination) {
        (None, _) => return call(observed, Call::Inspect(MoveEnd::Source)),
        (_, None) => return call(observed, Call::Inspect(MoveEnd::Destination)),
        (Some(source), Some(destination)) => (source, destination),
    };
    let Some(used) = source.used else {
        let reason = format!("node {:?} has no directory of the volume", record.from);
        return VolumeMoveStep::Write(record.abandoned(reason));
    };
    // For a while the first copy and the volume exist at the same time.
    let set_aside = source.limit.unwrap_or(0);
    let needed = used.saturating_add(set_aside);
    if needed.saturating_add(RESERVE) > destination.free {
        let limit = source.limit.map(|limit| format!(" of {limit}"));
        return VolumeMoveStep::Write(record.abandoned(format!(
            "node {:?} has too little space: the volume holds {used} bytes{}, {} are free, {RESERVE} \
             are left to the node",
            record.to,
            limit.unwrap_or_default(),
            destination.free
        )));
    }
    let next = match observed.transfer {
        DataTransfer::Files => MoveStage::Stopping,
        DataTransfer::Streams => MoveStage::Preparing,
    };
    VolumeMoveStep::Write(VolumeMove {
        bytes: Some(used),
        ..record.in_stage(next)
    })
}

/// Stage Preparing: a first copy, while pods run.
fn prepare(observed: &Observed<'_>) -> VolumeMoveStep {
    let record = observed.record;
    match &observed.responses.copied {
        None => copy_to(observed, CopyExtent::First),
        Some(CopyResult::Impossible(reason)) => VolumeMoveStep::Write(record.abandoned(reason)),
        Some(CopyResult::Complete(_)) => {
            VolumeMoveStep::Write(record.in_stage(MoveStage::Stopping))
        }
    }
}

/// A copy, if both nodes are ready.
fn copy_to(observed: &Observed<'_>, extent: CopyExtent) -> VolumeMoveStep {
    match observed.destination {
        NodePresence::Ready => call(observed, Call::Copy(extent)),
        NodePresence::Silent | NodePresence::Absent => {
            VolumeMoveStep::Wait(format!("node {:?} is not ready", observed.record.to))
        }
    }
}

/// Stage Stopping: the pods on a node have to end.
fn stop(observed: &Observed<'_>) -> VolumeMoveStep {
    match observed.users.first() {
        Some(user) => {
            VolumeMoveStep::Wait(format!("pod {:?} on node {:?} ends", user.name, user.node))
        }
        None => VolumeMoveStep::Write(observed.record.in_stage(MoveStage::Copying)),
    }
}

/// Stage Copying: the directory is detached first, in each plan that has no response to the call yet.
fn copy(observed: &Observed<'_>) -> VolumeMoveStep {
    let record = observed.record;
    match &observed.responses.detached {
        None => return call(observed, Call::Detach),
        Some(Detachment::InUse(by)) => {
            return VolumeMoveStep::Wait(format!("the directory is in use by {by}"));
        }
        Some(Detachment::Ended) => {
            return VolumeMoveStep::Write(record.abandoned("the move has ended on its node"));
        }
        Some(Detachment::Missing) => {
            let reason = format!("node {:?} has no directory of the volume", record.from);
            return VolumeMoveStep::Write(record.abandoned(reason));
        }
        Some(Detachment::Detached) => {}
    }
    // A pod that was bound before the directory was detached may have the directory open without a mount. A pod that is
    // bound later finds no directory.
    let mut early = observed
        .users
        .iter()
        .filter(|user| user.node == record.from);
    if let Some(user) = early.next() {
        return match user.is_controlled && !user.is_deleted {
            true => VolumeMoveStep::DeletePod(user.clone()),
            false => {
                VolumeMoveStep::Wait(format!("pod {:?} on node {:?} ends", user.name, user.node))
            }
        };
    }
    match &observed.responses.copied {
        None => match (
            observed.transfer,
            observed.responses.source,
            observed.responses.destination,
        ) {
            (DataTransfer::Files, _, _) => copy_to(observed, CopyExtent::Whole),
            (DataTransfer::Streams, None, _) => call(observed, Call::Inspect(MoveEnd::Source)),
            (DataTransfer::Streams, _, None) => call(observed, Call::Inspect(MoveEnd::Destination)),
            (DataTransfer::Streams, Some(source), Some(destination)) => {
                let has_base = source.has_first_copy && destination.has_first_copy;
                let extent = match has_base {
                    true => CopyExtent::Increment,
                    false => CopyExtent::Whole,
                };
                copy_to(observed, extent)
            }
        },
        Some(CopyResult::Impossible(reason)) => VolumeMoveStep::Write(record.abandoned(reason)),
        Some(CopyResult::Complete(path)) => VolumeMoveStep::Write(VolumeMove {
            path: Some(path.clone()),
            ..record.in_stage(MoveStage::Arrived)
        }),
    }
}

/// Stage Placed: the copy gets its name, then the old directory is removed, then pods on the wrong node are deleted.
fn settle(observed: &Observed<'_>) -> VolumeMoveStep {
    let record = observed.record;
    if !observed.responses.placed {
        return call(observed, Call::Place);
    }
    if !observed.responses.discarded && observed.source != NodePresence::Absent {
        return call(observed, Call::Discard);
    }
    let mut astray = observed
        .users
        .iter()
        .filter(|user| user.is_controlled && !user.is_deleted && user.node != record.to);
    match astray.next() {
        Some(user) => VolumeMoveStep::DeletePod(user.clone()),
        None => VolumeMoveStep::Write(record.in_stage(MoveStage::Moved)),
    }
}

/// Stage Abandoned: the directory gets its former name back.
fn restore(observed: &Observed<'_>) -> VolumeMoveStep {
    if !observed.responses.restored && observed.source != NodePresence::Absent {
        return call(observed, Call::Abandon(MoveEnd::Source));
    }
    if !observed.responses.cleared && observed.destination != NodePresence::Absent {
        return call(observed, Call::Abandon(MoveEnd::Destination));
    }
    VolumeMoveStep::Write(VolumeMove {
        stage: MoveStage::Failed,
        ..observed.record.clone()
    })
}
