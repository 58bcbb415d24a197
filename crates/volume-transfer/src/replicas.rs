//! The steps for a volume with a copy on another node: snapshots are sent and received as for a move. The id
//! of a step is the epoch of its record.

use std::collections::BTreeSet;

use bytes::Bytes;
use controller_planners::volume_move::CopyReceipt;
use controller_planners::volume_replication::{CommonSnapshot, Role};
use node_agent::MoveStep;
use volume_storage::{CopyOf, ReplicatedVolume};

use super::receiving::{Destination, Receiving, StreamOutcome};
use super::sending::{Sending, Source};
use super::{
    NodeMoves, StepResult, Streams, bad, begun, conflict, json, number, position, stored_result,
};

/// The prefix of the names of these steps.
pub(super) const PREFIX: &str = "replica-";

impl NodeMoves {
    pub(super) async fn replica_step(
        &self,
        streams: &mut Streams,
        name: &str,
        step: &MoveStep,
    ) -> StepResult<Bytes> {
        let of = &replicated(step)?;
        let storage = &self.storage;
        match name {
            "inspect" => json(&stored_result(storage.holdings(of).await)?),
            "read" => self.read_copy(streams, step, of).await,
            "receive" => json(&self.receive_copy(streams, step, of).await?),
            "keep" => {
                let (role, retained_snapshots) = (role(step)?, retained_snapshots(step)?);
                json(&stored_result(
                    storage.keep_copies(of, role, retained_snapshots).await,
                )?)
            }
            "seal" => {
                streams.close(&of.volume).await;
                json(&stored_result(storage.seal_copies(of).await)?)
            }
            "demote" => {
                streams.close(&of.volume).await;
                let common = common(step)?;
                json(&stored_result(storage.demote_volume(of, common).await)?)
            }
            "retire" => {
                streams.close(&of.volume).await;
                json(&stored_result(storage.retire_copies(of).await)?)
            }
            "promote" => {
                streams.close(&of.volume).await;
                let (copy, bytes) = (copy(step)?, number(step, "bytes")?);
                json(&stored_result(
                    storage.promote_copy(of, copy.time, bytes).await,
                )?)
            }
            "forget" => {
                streams.close(&of.volume).await;
                json(&stored_result(storage.forget_copies(of).await)?)
            }
            name => Err(bad(&format!("a replica has no step {name:?}"))),
        }
    }

    async fn read_copy(
        &self,
        streams: &mut Streams,
        step: &MoveStep,
        of: &ReplicatedVolume,
    ) -> StepResult<Bytes> {
        let position = position(step)?;
        if streams.begins_sending(&of.volume, &position).await? {
            let snapshots = stored_result(self.storage.snapshot_to_send(of, copy(step)?).await)?;
            let sending = Sending::start(position.attempt, Source::Snapshots(snapshots));
            streams.sending.insert(of.volume.clone(), sending);
        }
        streams.next_part(&of.volume, position.offset).await
    }

    async fn receive_copy(
        &self,
        streams: &mut Streams,
        step: &MoveStep,
        of: &ReplicatedVolume,
    ) -> StepResult<CopyReceipt> {
        let (position, copy) = (position(step)?, copy(step)?);
        let bytes = number(step, "bytes")?;
        if streams.begins_receiving(&of.volume, &position).await? {
            let to = match begun(self.storage.begin_copy(of, copy, bytes).await)? {
                Ok(to) => to,
                Err(response) => return Ok(response),
            };
            let base = match copy.base {
                None => None,
                Some(base) => stored_result(self.storage.copy_of(of, base).await)?,
            };
            let receiving = Receiving::start(position.attempt, Destination::Stream(to, base));
            streams.receiving.insert(of.volume.clone(), receiving);
        }
        match streams.receive_part(&of.volume, &position, step).await? {
            None => Ok(CopyReceipt::More),
            Some(outcome) => self.finish_copy(of, copy, outcome).await,
        }
    }

    async fn finish_copy(
        &self,
        of: &ReplicatedVolume,
        copy: CopyOf,
        outcome: StreamOutcome,
    ) -> StepResult<CopyReceipt> {
        match outcome {
            StreamOutcome::Snapshot(snapshot) => {
                stored_result(self.storage.finish_copy(of, copy.time, snapshot).await)?;
                let path = stored_result(self.storage.holdings(of).await)?.path;
                Ok(CopyReceipt::Arrived(path))
            }
            StreamOutcome::Impossible(text) => Ok(CopyReceipt::Impossible(text)),
            StreamOutcome::OtherBase(text) => {
                // The next copy has another base snapshot, or none.
                if let Some(base) = copy.base {
                    stored_result(self.storage.forget_copy(of, base).await)?;
                }
                Err(conflict(&text))
            }
            StreamOutcome::Files => Err(conflict("a copy is a stream")),
        }
    }
}

fn replicated(step: &MoveStep) -> StepResult<ReplicatedVolume> {
    let epoch = step.id.parse().ok().filter(|epoch| *epoch > 0);
    Ok(ReplicatedVolume {
        volume: step.volume.clone(),
        epoch: epoch.ok_or_else(|| bad("the epoch must be a number from 1"))?,
    })
}

fn time(step: &MoveStep, name: &str) -> StepResult<Option<i64>> {
    let Some(text) = step.parameter(name) else {
        return Ok(None);
    };
    let time = text.parse().ok().filter(|time| *time >= 0);
    let time = time.ok_or_else(|| bad(&format!("{name} must be a time in milliseconds")))?;
    Ok(Some(time))
}

fn copy(step: &MoveStep) -> StepResult<CopyOf> {
    Ok(CopyOf {
        time: time(step, "copy")?.ok_or_else(|| bad("a copy has a time"))?,
        base: time(step, "base")?,
    })
}

/// The snapshot that both nodes have. Servers of an earlier version name no snapshot.
fn common(step: &MoveStep) -> StepResult<Option<CommonSnapshot>> {
    let text = |name: &str| step.parameter(name).map(str::to_owned);
    let (time, here, there) = (time(step, "common")?, text("here"), text("there"));
    Ok(match (time, here, there) {
        (Some(time), Some(here), Some(there)) => Some(CommonSnapshot { time, here, there }),
        _ => None,
    })
}

fn role(step: &MoveStep) -> StepResult<Role> {
    match step.parameter("role") {
        Some("primary") => Ok(Role::Primary),
        Some("replica") => Ok(Role::Replica),
        _ => Err(bad("the role is primary or replica")),
    }
}

fn retained_snapshots(step: &MoveStep) -> StepResult<BTreeSet<i64>> {
    let list = step.parameter("keep").unwrap_or_default();
    let times = list.split('.').filter(|text| !text.is_empty());
    let parsed: Result<_, _> = times.map(str::parse).collect();
    parsed.map_err(|_| bad("keep is a list of times with dots between them"))
}
