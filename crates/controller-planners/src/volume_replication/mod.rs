//! The replica of a volume on another node: the next step, from the record and the observed state.
//!
//! **Goal**: every few seconds the replica gets the difference to a new snapshot of the primary; when the node of the
//! primary is proven dead, the newest complete copy becomes the volume on the replica's node. **Relies on**: nodes that
//! refuse steps of an epoch before the newest epoch that they know, and pods that are started only after a fresh read
//! of the record. **Guarantees**: the volume is promoted only while a proof is valid that was read after the record
//! blocked all pods; a former primary keeps its state under another name before it receives a copy; a promoted copy is
//! never older than the copy that the record named; only the replica of the record is promoted, and a node that
//! replaces the replica has a complete copy by then.
//!
//! The name of a copy is a time before its snapshot was taken, so the snapshot contains each write that had ended at
//! that time.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use resource_kinds::storage::volume_replication::{
    Divergence, Recovery, ReplicationStage, VolumeReplication, time_text,
};
use serde::{Deserialize, Serialize};

use crate::volume_move::NodePresence;

/// Milliseconds of a second.
const SECOND: i64 = 1000;

/// The role of a node in the replication of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    /// The node has the volume.
    Primary,
    /// The node has the copies.
    Replica,
}

/// A call to a node. Each call has the epoch of the record, and a node that knows a later epoch refuses the call.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// Read the snapshots and copies of the volume on the node.
    Inspect(Role),
    /// Refuse copies of earlier epochs from now on. Executed by the replica.
    Seal,
    /// Give the volume of a former primary the name of a retained snapshot. Executed by the node that receives copies.
    /// Its own snapshot with the contents of the recovery point becomes a copy, so that the next copy can be a
    /// difference.
    Demote(Option<CommonSnapshot>),
    /// Take a snapshot on the primary and send it.
    Copy {
        /// The name of the copy: the present time.
        time: i64,
        /// The snapshot and copy that the new copy is the difference to.
        base: Option<i64>,
    },
    /// Remove the snapshots and copies that are not in the set.
    Keep(Role, BTreeSet<i64>),
    /// Give a copy the name of the volume. Executed by the new primary.
    Promote {
        /// The copy.
        time: i64,
    },
    /// Remove everything that this node stores of the volume.
    Forget(String),
    /// Remove the copies of this node. The volume of a former primary is retained as a snapshot.
    Retire(String),
}

impl Call {
    /// The node that executes the call. A copy is requested from the primary.
    pub fn node<'a>(&'a self, record: &'a VolumeReplication) -> Option<&'a str> {
        match self {
            Self::Inspect(Role::Primary)
            | Self::Keep(Role::Primary, _)
            | Self::Copy { .. }
            | Self::Promote { .. } => Some(&record.primary),
            Self::Inspect(Role::Replica) | Self::Keep(Role::Replica, _) | Self::Demote(_) => {
                record.receiver()
            }
            Self::Seal => record.replica.as_deref(),
            Self::Forget(node) | Self::Retire(node) => Some(node),
        }
    }
}

/// A snapshot of the new primary with the contents of a snapshot that the former primary has sent: the recovery point
/// of the promotion. Identities are assigned by the file systems: snapshots with equal identities are one snapshot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CommonSnapshot {
    /// The time of the snapshot in milliseconds since 1970, which is the name of both snapshots.
    pub time: i64,
    /// The identity of the new primary's snapshot.
    pub here: String,
    /// The identity of the former primary's snapshot.
    pub there: String,
}

/// The snapshots and copies of a volume on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VolumeCopies {
    /// The newest epoch that the node knows; 0 if the node knows no epoch.
    pub epoch: u32,
    /// Whether there is a directory with the name of the volume.
    pub has_volume: bool,
    /// The path that the volume has, or would have.
    pub path: String,
    /// The snapshots that this node has sent.
    pub sent: BTreeSet<i64>,
    /// The completely received copies, by the times of their snapshots.
    pub copies: BTreeSet<i64>,
    /// The snapshot of the last promotion; `None` if it was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub common: Option<CommonSnapshot>,
    /// The names of retained snapshots of former primaries.
    pub diverged: BTreeSet<String>,
}

/// The result of a copy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CopyResult {
    /// The copy is complete and on disk.
    Complete(i64),
    /// The copy cannot be stored or sent, and a retry would fail as well; the reason.
    Impossible(String),
}

/// The responses since the last write of the record.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReplicationAnswers {
    /// The primary's response to [`Call::Inspect`].
    pub primary: Option<VolumeCopies>,
    /// The replica's response to [`Call::Inspect`].
    pub replica: Option<VolumeCopies>,
    /// The copies of the replica after [`Call::Seal`]; `None` until the call succeeded.
    pub sealed: Option<VolumeCopies>,
    /// The response to [`Call::Copy`].
    pub copied: Option<CopyResult>,
    /// The nodes on which [`Call::Keep`] succeeded.
    pub reduced: BTreeSet<Role>,
    /// [`Call::Promote`] succeeded.
    pub promoted: bool,
    /// The nodes on which [`Call::Forget`] succeeded.
    pub forgotten: BTreeSet<String>,
    /// The nodes that got [`Call::Retire`], with their remaining copies; `None` if the call failed.
    pub retired: BTreeMap<String, Option<VolumeCopies>>,
}

/// The pods of the claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Users {
    /// A pod that has not ended is on the node of the primary.
    pub on_primary: bool,
    /// A pod waits for a node.
    pub waiting: bool,
}

/// The observed state. The caller reads the record first, then the proof, then the pods.
#[derive(Clone, Debug)]
pub struct Observed<'a> {
    /// The record of the replica, as stored in its annotation.
    pub record: &'a VolumeReplication,
    /// The node of the primary.
    pub primary: NodePresence,
    /// Whether the pods on the primary's node are proven dead (docs/node-failure.md).
    pub is_proven_dead: bool,
    /// The pods that use the claim.
    pub users: Users,
    /// The node of the replica, if there is a replica.
    pub replica: NodePresence,
    /// Whether the node of the replica is away for longer than the record allows.
    pub is_replica_lost: bool,
    /// All nodes except the primary that may store data of the volume.
    pub others: &'a BTreeMap<String, NodePresence>,
    /// Another node that can receive the copies, and has not refused a copy lately.
    pub candidate: Option<&'a str>,
    /// Whether the claim was deleted, and the volume is deleted with it.
    pub is_released: bool,
    /// The time, in milliseconds since 1970.
    pub now: i64,
    /// The responses of the nodes.
    pub responses: &'a ReplicationAnswers,
}

/// The next step of the replication of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplicationStep {
    /// No further step is necessary.
    Done,
    /// The replication waits, for this reason.
    Wait(String),
    /// No step is necessary for this number of milliseconds.
    Rest(i64),
    /// Replace the record.
    Write(VolumeReplication),
    /// Replace the record, together with the affinity and path of the volume.
    Relocate(VolumeReplication, String),
    /// Call a node, and plan again with its response.
    Call(Call),
}

/// The next step of a replicated volume.
pub fn plan(observed: &Observed<'_>) -> ReplicationStep {
    let record = observed.record;
    match record.stage {
        ReplicationStage::Replicating if observed.is_released => forget(observed),
        ReplicationStage::Replicating if is_lost(observed) => {
            ReplicationStep::Write(VolumeReplication {
                stage: ReplicationStage::Promoting,
                // A copy that was started on a successor is given up.
                ..record.replaced(record.replica.as_deref())
            })
        }
        ReplicationStage::Replicating => choose(observed)
            .or_else(|| retire(observed))
            .unwrap_or_else(|| replicate(observed)),
        ReplicationStage::Promoting => promote(observed),
        ReplicationStage::Promoted => settle(observed),
        ReplicationStage::Ended => ReplicationStep::Done,
    }
}

/// Whether the replica has to be promoted: the primary is dead, and a pod waits for its volume.
fn is_lost(observed: &Observed<'_>) -> bool {
    let users = observed.users;
    let is_needed = users.waiting && !users.on_primary;
    observed.is_proven_dead
        && is_needed
        && observed.replica == NodePresence::Ready
        && observed.record.can_be_promoted()
}

/// Whether a replica's node that is not ready counts as lost; `silent_since` is the time of its last heartbeat.
pub fn is_replica_lost(record: &VolumeReplication, silent_since: Option<i64>, now: i64) -> bool {
    let bound = i64::from(record.replacement_seconds) * SECOND;
    silent_since.is_some_and(|since| now >= since.saturating_add(bound))
}

/// The state of a node that is not the primary.
fn presence(observed: &Observed<'_>, node: &str) -> NodePresence {
    observed
        .others
        .get(node)
        .copied()
        .unwrap_or(NodePresence::Absent)
}

/// A call; a wait if the node is not ready.
fn call(observed: &Observed<'_>, call: Call) -> ReplicationStep {
    let record = observed.record;
    let Some(node) = call.node(record).map(str::to_owned) else {
        return ReplicationStep::Wait("there is no node for the replica".to_owned());
    };
    let state = match node == record.primary {
        true => observed.primary,
        false => presence(observed, &node),
    };
    match state {
        NodePresence::Ready => ReplicationStep::Call(call),
        NodePresence::Silent | NodePresence::Absent => {
            ReplicationStep::Wait(format!("node {node:?} is not ready"))
        }
    }
}

/// Stage Replicating: the replica gets a new copy at each interval.
fn replicate(observed: &Observed<'_>) -> ReplicationStep {
    let (record, responses) = (observed.record, observed.responses);
    if let Some(CopyResult::Impossible(reason)) = &responses.copied {
        return choose_another(observed, reason);
    }
    if let Some(CopyResult::Complete(time)) = responses.copied {
        let next = match &record.successor {
            Some(node) => record.replaced(Some(node)),
            None => record.clone(),
        };
        return ReplicationStep::Write(VolumeReplication {
            last: Some(time),
            message: None,
            ..next
        });
    }
    let interval = i64::from(record.interval_seconds) * SECOND;
    if let Some(last) = record.last
        // With a successor, the last copy belongs to the successor, not to the former replica.
        && record.successor.is_none()
        && observed.now < last.saturating_add(interval)
        // A clock that was set back does not stop the copies.
        && last <= observed.now.saturating_add(interval)
    {
        return ReplicationStep::Rest(last + interval - observed.now);
    }
    let Some(replica) = &responses.replica else {
        return call(observed, Call::Inspect(Role::Replica));
    };
    let Some(primary) = &responses.primary else {
        return call(observed, Call::Inspect(Role::Primary));
    };
    // A former primary still has the volume, and steps of earlier epochs are refused only from now on.
    if replica.has_volume || replica.epoch < record.epoch {
        return call(observed, Call::Demote(primary.common.clone()));
    }
    let receiver = record.receiver().unwrap_or_default();
    if let Some(diverged) = newly_diverged(record, receiver, replica) {
        return ReplicationStep::Write(VolumeReplication {
            diverged,
            ..record.clone()
        });
    }
    if !primary.has_volume {
        let node = &record.primary;
        return ReplicationStep::Wait(format!("node {node:?} has no directory of the volume"));
    }
    let base = primary.sent.intersection(&replica.copies).max().copied();
    let promoted = record.recovery.as_ref().map(|recovery| recovery.time);
    // The copy that the record names stays until another copy is complete and named. A former primary that returns
    // before its successor has a copy continues from the recovery point.
    let point = promoted.filter(|_| record.successor.is_some());
    let required: BTreeSet<i64> = base.into_iter().chain(record.last).chain(point).collect();
    for (role, has) in [
        (Role::Replica, &replica.copies),
        (Role::Primary, &primary.sent),
    ] {
        if !has.is_subset(&required) && !responses.reduced.contains(&role) {
            return call(observed, Call::Keep(role, required));
        }
    }
    let promoted = record.recovery.as_ref().map(|recovery| recovery.time);
    let newest = record
        .last
        .max(replica.copies.last().copied())
        .max(promoted);
    let time = newest.map_or(observed.now, |newest| observed.now.max(newest + 1));
    match presence(observed, receiver) {
        NodePresence::Ready => call(observed, Call::Copy { time, base }),
        NodePresence::Silent | NodePresence::Absent => call(observed, Call::Inspect(Role::Replica)),
    }
}

/// The change of the node for the copies, if a change is necessary: a first replica; a successor of a lost replica; the
/// removal of a successor that is not needed any more, or is lost itself.
fn choose(observed: &Observed<'_>) -> Option<ReplicationStep> {
    let record = observed.record;
    let Some(replica) = &record.replica else {
        return Some(choose_first(observed));
    };
    if let Some(successor) = &record.successor {
        let is_back = observed.replica == NodePresence::Ready && !has_no_copy(record);
        let is_over = is_back || presence(observed, successor) != NodePresence::Ready;
        return is_over.then(|| ReplicationStep::Write(record.replaced(Some(replica))));
    }
    let is_lost = observed.replica == NodePresence::Absent
        || (observed.replica == NodePresence::Silent && observed.is_replica_lost);
    // The copies of the replica may be the only remaining data of the volume.
    if !is_lost || observed.primary != NodePresence::Ready {
        return None;
    }
    let node = match (observed.candidate, observed.replica) {
        (Some(node), _) => node,
        (None, NodePresence::Absent) => {
            return Some(ReplicationStep::Wait(
                "no other node can take the copies".to_owned(),
            ));
        }
        (None, _) => return None,
    };
    Some(ReplicationStep::Write(VolumeReplication {
        successor: Some(node.to_owned()),
        former: without(&record.former, node),
        message: None,
        ..record.clone()
    }))
}

/// Whether the replica has never had a complete copy: then another node can replace the replica.
fn has_no_copy(record: &VolumeReplication) -> bool {
    record.last.is_none() && record.recovery.is_none()
}

/// Handles a node that refuses a copy, for instance because it has too few free bytes. A replica with copies stays the
/// replica; otherwise another node is tried.
fn choose_another(observed: &Observed<'_>, reason: &str) -> ReplicationStep {
    let record = observed.record;
    let message = Some(reason.to_owned());
    match (&record.successor, observed.candidate) {
        (Some(_), Some(_)) => ReplicationStep::Write(VolumeReplication {
            message,
            ..record.replaced(record.replica.as_deref())
        }),
        (None, Some(node)) if has_no_copy(record) => ReplicationStep::Write(VolumeReplication {
            successor: Some(node.to_owned()),
            former: without(&record.former, node),
            message,
            ..record.clone()
        }),
        _ => ReplicationStep::Wait(reason.to_owned()),
    }
}

fn choose_first(observed: &Observed<'_>) -> ReplicationStep {
    let record = observed.record;
    match observed.candidate {
        Some(node) => ReplicationStep::Write(VolumeReplication {
            replica: Some(node.to_owned()),
            former: without(&record.former, node),
            last: None,
            message: None,
            ..record.clone()
        }),
        None => ReplicationStep::Wait("no other node can take the copies".to_owned()),
    }
}

fn without(nodes: &[String], node: &str) -> Vec<String> {
    let others = nodes.iter().filter(|other| *other != node);
    others.cloned().collect()
}

/// Removes the copies of a node that had copies and has returned. A failure of that node does not delay the copies.
fn retire(observed: &Observed<'_>) -> Option<ReplicationStep> {
    let (record, retired) = (observed.record, &observed.responses.retired);
    let is_done = |node: &&String| matches!(retired.get(*node), Some(Some(_)));
    if let Some(node) = record.former.iter().find(is_done) {
        let holdings = retired.get(node)?.as_ref()?;
        let diverged = newly_diverged(record, node, holdings);
        return Some(ReplicationStep::Write(VolumeReplication {
            former: without(&record.former, node),
            diverged: diverged.unwrap_or_else(|| record.diverged.clone()),
            ..record.clone()
        }));
    }
    let mut left = record.former.iter();
    let node = left.find(|node| {
        presence(observed, node) == NodePresence::Ready && !retired.contains_key(node.as_str())
    })?;
    Some(ReplicationStep::Call(Call::Retire(node.clone())))
}

/// The retained states of the record and of a node; `None` if the node has no new states.
fn newly_diverged(
    record: &VolumeReplication,
    node: &str,
    holdings: &VolumeCopies,
) -> Option<Vec<Divergence>> {
    let recorded: BTreeSet<Divergence> = record.diverged.iter().cloned().collect();
    let diverged = holdings.diverged.iter().map(|snapshot| Divergence {
        node: node.to_owned(),
        snapshot: snapshot.clone(),
    });
    let all: BTreeSet<Divergence> = recorded.iter().cloned().chain(diverged).collect();
    (all != recorded).then(|| all.into_iter().collect())
}

/// Stage Promoting: while the proof is valid, the newest copy is chosen.
fn promote(observed: &Observed<'_>) -> ReplicationStep {
    let record = observed.record;
    // The epoch does not change, so that nodes still refuse steps of the epoch before.
    let back = |message: &str| {
        ReplicationStep::Write(VolumeReplication {
            stage: ReplicationStage::Replicating,
            message: Some(message.to_owned()),
            ..record.clone()
        })
    };
    if !observed.is_proven_dead || observed.users.on_primary {
        return back("the node of the primary returned before its replica was promoted");
    }
    let Some(node) = &record.replica else {
        return back("there is no replica");
    };
    let Some(sealed) = &observed.responses.sealed else {
        return call(observed, Call::Seal);
    };
    match newest_copy(record, sealed) {
        None => ReplicationStep::Write(VolumeReplication {
            stage: ReplicationStage::Replicating,
            last: None,
            message: Some(format!("node {node:?} has no complete copy")),
            ..record.clone()
        }),
        Some(time) => {
            let placed = VolumeReplication {
                primary: node.clone(),
                replica: Some(record.primary.clone()),
                stage: ReplicationStage::Promoted,
                last: None,
                recovery: Some(Recovery {
                    from: record.primary.clone(),
                    time,
                }),
                message: None,
                ..record.clone()
            };
            ReplicationStep::Relocate(placed, sealed.path.clone())
        }
    }
}

/// The newest copy, if it is not older than the copy that the record names.
fn newest_copy(record: &VolumeReplication, sealed: &VolumeCopies) -> Option<i64> {
    let named = record.last?;
    sealed.copies.last().copied().filter(|time| *time >= named)
}

/// Stage Promoted: the copy gets the name of the volume.
fn settle(observed: &Observed<'_>) -> ReplicationStep {
    let record = observed.record;
    match (&record.recovery, observed.responses.promoted) {
        (Some(recovery), false) => call(
            observed,
            Call::Promote {
                time: recovery.time,
            },
        ),
        _ => ReplicationStep::Write(VolumeReplication {
            stage: ReplicationStage::Replicating,
            ..record.clone()
        }),
    }
}

/// The claim was deleted: the copies are removed before the volume.
fn forget(observed: &Observed<'_>) -> ReplicationStep {
    let record = observed.record;
    let mut left = record.others().into_iter().filter(|node| {
        presence(observed, node) != NodePresence::Absent
            && !observed.responses.forgotten.contains(*node)
    });
    match left.next() {
        Some(node) => call(observed, Call::Forget(node.to_owned())),
        None => ReplicationStep::Write(VolumeReplication {
            stage: ReplicationStage::Ended,
            message: None,
            ..record.clone()
        }),
    }
}

/// The seconds since the last complete copy.
pub fn lag_seconds(record: &VolumeReplication, now: i64) -> Option<i64> {
    let last = record.last?;
    Some((now - last).max(0) / SECOND)
}

/// The state of the replica, the last promotion and the retained states, for the claim's condition and the command
/// `why`.
pub fn condition_message(record: &VolumeReplication) -> String {
    let mut parts = Vec::new();
    match (&record.replica, record.last) {
        _ if record.stage == ReplicationStage::Promoting => parts.push(format!(
            "node {:?} is lost; the copy on node {:?} is being promoted",
            record.primary,
            record.replica.as_deref().unwrap_or_default()
        )),
        (Some(node), Some(last)) => parts.push(format!(
            "replica on node {node:?}; last complete copy of {}, one every {} s",
            time_text(last),
            record.interval_seconds
        )),
        (Some(node), None) => parts.push(format!("replica on node {node:?}: no complete copy yet")),
        (None, _) => parts.push("no replica yet".to_owned()),
    }
    if let Some(successor) = &record.successor {
        let why = match has_no_copy(record) {
            true => "it has none",
            false => "it is away",
        };
        parts.push(format!("{why}, and node {successor:?} gets a copy"));
    }
    if let Some(message) = &record.message {
        parts.push(message.clone());
    }
    for node in &record.former {
        parts.push(format!(
            "node {node:?} removes its former copies when it is back"
        ));
    }
    if let Some(recovery) = &record.recovery {
        parts.push(format!(
            "promoted on node {:?} after the loss of node {:?}; recovery point {}",
            record.primary,
            recovery.from,
            time_text(recovery.time)
        ));
    }
    for one in &record.diverged {
        parts.push(format!(
            "the former state of node {:?} is kept there as {}",
            one.node, one.snapshot
        ));
    }
    parts.join("; ")
}
