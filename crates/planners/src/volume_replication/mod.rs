//! The replica of a volume on another node: the next step, from the record and what is known.
//!
//! **Goal**: every few seconds the replica gets the difference to a new snapshot of the primary; when the
//! node of the primary is proven dead, the newest complete copy becomes the volume on the replica's node.
//! **Relies on**: nodes that refuse steps of an epoch before the newest that they have heard of, and pods
//! that are started only after a fresh read of the record. **Guarantees**: the volume is promoted only while
//! a proof holds that was read after the record held all pods; a former primary keeps its state under
//! another name before it takes a copy; a promoted copy is never older than the one that the record named.
//!
//! The name of a copy is the time before its snapshot was taken, so each write that had ended then is in it.

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use resource_kinds::storage::volume_replication::{
    Divergence, Recovery, Stage, VolumeReplication, shown,
};
use serde::{Deserialize, Serialize};

use crate::volume_move::Presence;

/// Milliseconds of a second.
const SECOND: i64 = 1000;

/// The part of a node in the replication of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    /// It has the volume.
    Primary,
    /// It has the copies.
    Replica,
}

/// A call to a node. Each has the epoch of the record, and is refused by a node that knows a later one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// Look at the snapshots and copies.
    Inspect(Role),
    /// Take no more copies of earlier epochs. The replica carries it out.
    Seal,
    /// Give the volume of a former primary the name of a kept snapshot. The replica carries it out.
    Demote,
    /// Take a snapshot on the primary and send it.
    Copy {
        /// Its name: the present time.
        time: i64,
        /// The snapshot and copy that it is the difference to.
        base: Option<i64>,
    },
    /// Remove other snapshots and copies than these.
    Keep(Role, BTreeSet<i64>),
    /// Give a copy the name of the volume. The new primary carries it out.
    Promote {
        /// The copy.
        time: i64,
    },
    /// Remove all copies. The replica carries it out.
    Forget,
}

impl Call {
    /// The node that carries it out. A copy is read from the primary.
    pub fn role(&self) -> Role {
        match self {
            Self::Inspect(role) | Self::Keep(role, _) => *role,
            Self::Copy { .. } | Self::Promote { .. } => Role::Primary,
            Self::Seal | Self::Demote | Self::Forget => Role::Replica,
        }
    }
}

/// The snapshots and copies of a volume on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Holdings {
    /// The newest epoch that the node has heard of; 0 for none.
    pub epoch: u32,
    /// Whether there is a directory with the name of the volume.
    pub has_volume: bool,
    /// The path that the volume has, or would have.
    pub path: String,
    /// The snapshots that were sent from there.
    pub sent: BTreeSet<i64>,
    /// The complete copies.
    pub copies: BTreeSet<i64>,
    /// The names of kept snapshots of former primaries.
    pub diverged: BTreeSet<String>,
}

/// The end of a copy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Copied {
    /// It is complete and on disk.
    Complete(i64),
    /// It cannot be stored or sent, whenever it is tried; the reason.
    Impossible(String),
}

/// The answers since the last write of the record.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Answers {
    /// Of the primary.
    pub primary: Option<Holdings>,
    /// Of the replica.
    pub replica: Option<Holdings>,
    /// [`Call::Seal`] was carried out: the copies of the replica.
    pub sealed: Option<Holdings>,
    /// To [`Call::Copy`].
    pub copied: Option<Copied>,
    /// The nodes that have carried out [`Call::Keep`].
    pub kept: BTreeSet<Role>,
    /// [`Call::Promote`] was carried out.
    pub promoted: bool,
    /// [`Call::Forget`] was carried out.
    pub forgotten: bool,
}

/// The pods of the claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Users {
    /// A pod that has not ended is on the node of the primary.
    pub on_primary: bool,
    /// A pod waits for a node.
    pub waiting: bool,
}

/// The observed state. The record is read first, then the proof, then the pods.
#[derive(Clone, Debug)]
pub struct Observed<'a> {
    /// The record.
    pub record: &'a VolumeReplication,
    /// The node of the primary.
    pub primary: Presence,
    /// Whether the pods on the primary's node are proven dead (DESIGN §15).
    pub is_proven_dead: bool,
    /// The pods with the claim.
    pub users: Users,
    /// The node of the replica, if there is one.
    pub replica: Presence,
    /// Another node that can take the copies.
    pub candidate: Option<&'a str>,
    /// Whether the claim is gone, and the volume goes with it.
    pub is_released: bool,
    /// Milliseconds since 1970.
    pub now: i64,
    /// The answers of the nodes.
    pub answers: &'a Answers,
}

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is nothing to do any more.
    Done,
    /// Something else has to happen first.
    Wait(String),
    /// Nothing to do for so many milliseconds.
    Rest(i64),
    /// Replace the record.
    Write(VolumeReplication),
    /// Replace the record, and the affinity and path of the volume with it.
    Place(VolumeReplication, String),
    /// Call a node, and plan again with its answer.
    Call(Call),
}

/// The next step of a replicated volume.
pub fn plan(seen: &Observed<'_>) -> Step {
    match seen.record.stage {
        Stage::Replicating if seen.is_released => forget(seen),
        Stage::Replicating if is_lost(seen) => Step::Write(VolumeReplication {
            epoch: seen.record.epoch + 1,
            stage: Stage::Promoting,
            message: None,
            ..seen.record.clone()
        }),
        Stage::Replicating => replicate(seen),
        Stage::Promoting => promote(seen),
        Stage::Promoted => settle(seen),
        Stage::Ended => Step::Done,
    }
}

/// Whether the replica has to take over: the primary is dead, and a pod waits for its volume.
fn is_lost(seen: &Observed<'_>) -> bool {
    let users = seen.users;
    let is_wanted = users.waiting && !users.on_primary;
    seen.is_proven_dead
        && is_wanted
        && seen.replica == Presence::Ready
        && seen.record.can_be_promoted()
}

/// A call, if the node answers.
fn call(seen: &Observed<'_>, call: Call) -> Step {
    let record = seen.record;
    let (presence, node) = match call.role() {
        Role::Primary => (seen.primary, Some(&record.primary)),
        Role::Replica => (seen.replica, record.replica.as_ref()),
    };
    match (presence, node) {
        (Presence::Ready, Some(_)) => Step::Call(call),
        (_, Some(node)) => Step::Wait(format!("node {node:?} is not ready")),
        (_, None) => Step::Wait("there is no node for the replica".to_owned()),
    }
}

/// Replicating: the replica gets a new copy at each interval.
fn replicate(seen: &Observed<'_>) -> Step {
    let (record, answers) = (seen.record, seen.answers);
    if record.replica.is_none() || seen.replica == Presence::Gone {
        return choose(seen);
    }
    if let Some(Copied::Impossible(reason)) = &answers.copied {
        return Step::Wait(reason.clone());
    }
    if let Some(Copied::Complete(time)) = answers.copied {
        return Step::Write(VolumeReplication {
            last: Some(time),
            message: None,
            ..record.clone()
        });
    }
    let interval = i64::from(record.interval_seconds) * SECOND;
    if let Some(last) = record.last
        && seen.now < last.saturating_add(interval)
        // A clock that was set back does not stop the copies.
        && last <= seen.now.saturating_add(interval)
    {
        return Step::Rest(last + interval - seen.now);
    }
    let Some(replica) = &answers.replica else {
        return call(seen, Call::Inspect(Role::Replica));
    };
    // A former primary has the volume, and steps of the epochs before are refused only from now on.
    if replica.has_volume || replica.epoch < record.epoch {
        return call(seen, Call::Demote);
    }
    if let Some(diverged) = newly_diverged(record, replica) {
        return Step::Write(VolumeReplication {
            diverged,
            ..record.clone()
        });
    }
    let Some(primary) = &answers.primary else {
        return call(seen, Call::Inspect(Role::Primary));
    };
    if !primary.has_volume {
        let node = &record.primary;
        return Step::Wait(format!("node {node:?} has no directory of the volume"));
    }
    let base = primary.sent.intersection(&replica.copies).max().copied();
    // The copy that the record names stays until another one is complete and named.
    let kept: BTreeSet<i64> = base.into_iter().chain(record.last).collect();
    for (role, has) in [
        (Role::Replica, &replica.copies),
        (Role::Primary, &primary.sent),
    ] {
        if !has.is_subset(&kept) && !answers.kept.contains(&role) {
            return call(seen, Call::Keep(role, kept));
        }
    }
    let newest = record.last.max(replica.copies.last().copied());
    let time = newest.map_or(seen.now, |newest| seen.now.max(newest + 1));
    match seen.replica {
        Presence::Ready => call(seen, Call::Copy { time, base }),
        Presence::Silent | Presence::Gone => call(seen, Call::Inspect(Role::Replica)),
    }
}

/// A node for the copies.
fn choose(seen: &Observed<'_>) -> Step {
    let record = seen.record;
    match seen.candidate {
        Some(node) => Step::Write(VolumeReplication {
            replica: Some(node.to_owned()),
            last: None,
            message: None,
            ..record.clone()
        }),
        None => Step::Wait("no other node can take the copies".to_owned()),
    }
}

/// The kept states of the record with those of the replica; `None` if there are no new ones.
fn newly_diverged(record: &VolumeReplication, replica: &Holdings) -> Option<Vec<Divergence>> {
    let node = record.replica.as_ref()?;
    let known: BTreeSet<Divergence> = record.diverged.iter().cloned().collect();
    let found = replica.diverged.iter().map(|snapshot| Divergence {
        node: node.clone(),
        snapshot: snapshot.clone(),
    });
    let all: BTreeSet<Divergence> = known.iter().cloned().chain(found).collect();
    (all != known).then(|| all.into_iter().collect())
}

/// Promoting: while the proof holds, the newest copy is chosen.
fn promote(seen: &Observed<'_>) -> Step {
    let record = seen.record;
    // The epoch stays: steps of the one before are refused.
    let back = |message: &str| {
        Step::Write(VolumeReplication {
            stage: Stage::Replicating,
            message: Some(message.to_owned()),
            ..record.clone()
        })
    };
    if !seen.is_proven_dead || seen.users.on_primary {
        return back("the node of the primary returned before its replica was promoted");
    }
    let Some(node) = &record.replica else {
        return back("there is no replica");
    };
    let Some(sealed) = &seen.answers.sealed else {
        return call(seen, Call::Seal);
    };
    match newest_copy(record, sealed) {
        None => Step::Write(VolumeReplication {
            stage: Stage::Replicating,
            last: None,
            message: Some(format!("node {node:?} has no complete copy")),
            ..record.clone()
        }),
        Some(time) => {
            let placed = VolumeReplication {
                primary: node.clone(),
                replica: Some(record.primary.clone()),
                stage: Stage::Promoted,
                last: None,
                recovery: Some(Recovery {
                    from: record.primary.clone(),
                    time,
                }),
                message: None,
                ..record.clone()
            };
            Step::Place(placed, sealed.path.clone())
        }
    }
}

/// The newest copy, if it is not older than the one that the record names.
fn newest_copy(record: &VolumeReplication, sealed: &Holdings) -> Option<i64> {
    let named = record.last?;
    sealed.copies.last().copied().filter(|time| *time >= named)
}

/// Promoted: the copy gets the name of the volume.
fn settle(seen: &Observed<'_>) -> Step {
    let record = seen.record;
    match (&record.recovery, seen.answers.promoted) {
        (Some(recovery), false) => call(
            seen,
            Call::Promote {
                time: recovery.time,
            },
        ),
        _ => Step::Write(VolumeReplication {
            stage: Stage::Replicating,
            ..record.clone()
        }),
    }
}

/// The claim is gone: the copies go before the volume.
fn forget(seen: &Observed<'_>) -> Step {
    let record = seen.record;
    let is_there = record.replica.is_some() && seen.replica != Presence::Gone;
    match is_there && !seen.answers.forgotten {
        true => call(seen, Call::Forget),
        false => Step::Write(VolumeReplication {
            stage: Stage::Ended,
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

/// The state of the replica, the last promotion and the kept states, for the claim's condition and `why`.
pub fn condition_message(record: &VolumeReplication) -> String {
    let mut parts = Vec::new();
    match (&record.replica, record.last) {
        _ if record.stage == Stage::Promoting => parts.push(format!(
            "node {:?} is lost; the copy on node {:?} is being promoted",
            record.primary,
            record.replica.as_deref().unwrap_or_default()
        )),
        (Some(node), Some(last)) => parts.push(format!(
            "replica on node {node:?}; last complete copy of {}, one every {} s",
            shown(last),
            record.interval_seconds
        )),
        (Some(node), None) => parts.push(format!("replica on node {node:?}: no complete copy yet")),
        (None, _) => parts.push("no replica yet".to_owned()),
    }
    if let Some(message) = &record.message {
        parts.push(message.clone());
    }
    if let Some(recovery) = &record.recovery {
        parts.push(format!(
            "promoted on node {:?} after the loss of node {:?}; recovery point {}",
            record.primary,
            recovery.from,
            shown(recovery.time)
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
