//! The part of a node that moves volumes: the storage provides the directories, and the data is a stream of
//! parts. Volumes of the class `local` are an archive of their files, those of `local-cow` are streams of
//! btrfs.
//!
//! The archive has a checksum of each file and a checksum of the list of all entries; a stream of btrfs has a
//! checksum of each command and an end command. So a copy is complete only if every byte arrived. A stream
//! belongs to one attempt: the next attempt starts from the beginning.

mod error;
mod receiving;
mod replicas;
mod sending;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use controller_planners::volume_move::{CopyExtent, CopyReceipt};
use futures::FutureExt;
use futures::future::BoxFuture;
use kube_api_client::guarded_writes::chain;
use node_agent::{MoveStep, VolumeMoves};
use object_model::{Status, StatusReason};
use resource_kinds::storage::Driver;
use serde::Serialize;
use tokio::sync::Mutex;
use volume_storage::{CopyLocation, MovedVolume, Storage, StorageError};

use receiving::{Destination, Receiving, StreamOutcome};
use sending::{Sending, Source};

/// The moves of volumes to and from one node.
#[derive(Clone, Debug)]
pub struct NodeMoves {
    storage: Storage,
    streams: Arc<Mutex<Streams>>,
}

/// The open streams by volume. Steps run one at a time.
#[derive(Debug, Default)]
struct Streams {
    sending: BTreeMap<String, Sending>,
    receiving: BTreeMap<String, Receiving>,
}

/// The position of a part in the stream of an attempt.
struct Position<'a> {
    attempt: &'a str,
    offset: u64,
}

type StepResult<T> = Result<T, Box<Status>>;

impl VolumeMoves for NodeMoves {
    fn carry_out(&self, step: MoveStep) -> BoxFuture<'static, StepResult<Bytes>> {
        let moves = self.clone();
        async move { moves.respond(&step).await }.boxed()
    }
}

impl NodeMoves {
    pub fn new(storage: Storage) -> Self {
        Self {
            storage,
            streams: Arc::default(),
        }
    }

    async fn respond(&self, step: &MoveStep) -> StepResult<Bytes> {
        let mut streams = self.streams.lock().await;
        if let Some(name) = step.step.strip_prefix(replicas::PREFIX) {
            return self.replica_step(&mut streams, name, step).await;
        }
        let of = moved(step)?;
        let storage = &self.storage;
        match step.step.as_str() {
            "inspect" => json(&stored_result(storage.inspect_move(of).await)?),
            "detach" => json(&stored_result(storage.detach_volume(of).await)?),
            "read" => self.read(&mut streams, step, of).await,
            "receive" => json(&self.receive(&mut streams, step, of).await?),
            "place" => {
                streams.close(of.volume).await;
                json(&stored_result(storage.place_arrival(of).await)?)
            }
            "discard" => {
                streams.close(of.volume).await;
                json(&stored_result(storage.discard_detached(of).await)?)
            }
            "abandon" => {
                streams.close(of.volume).await;
                json(&stored_result(storage.abandon_move(of).await)?)
            }
            name => {
                let text = format!("a move has no step {name:?}");
                Err(Box::new(Status::new(StatusReason::NotFound, text)))
            }
        }
    }

    async fn read(
        &self,
        streams: &mut Streams,
        step: &MoveStep,
        of: MovedVolume<'_>,
    ) -> StepResult<Bytes> {
        let position = position(step)?;
        let volume = of.volume;
        if streams.begins_sending(volume, &position).await? {
            let from = match of.driver {
                Driver::Local => {
                    Source::Files(stored_result(self.storage.detached_volume(of).await)?)
                }
                Driver::LocalCow => {
                    let snapshots = self.storage.snapshots_of_move(of, extent(step)?).await;
                    Source::Snapshots(stored_result(snapshots)?)
                }
            };
            let sending = Sending::start(position.attempt, from);
            streams.sending.insert(volume.to_owned(), sending);
        }
        streams.next_part(volume, position.offset).await
    }

    async fn receive(
        &self,
        streams: &mut Streams,
        step: &MoveStep,
        of: MovedVolume<'_>,
    ) -> StepResult<CopyReceipt> {
        let (position, extent) = (position(step)?, extent(step)?);
        let volume = of.volume;
        let bytes = number(step, "bytes")?;
        if streams.begins_receiving(volume, &position).await? {
            let to = match begun(self.storage.begin_arrival(of, bytes, extent).await)? {
                Ok(to) => to,
                Err(response) => return Ok(response),
            };
            let to = match (of.driver, extent) {
                (Driver::Local, _) => Destination::Files(to),
                (Driver::LocalCow, CopyExtent::First | CopyExtent::Whole) => {
                    Destination::Stream(to, None)
                }
                (Driver::LocalCow, CopyExtent::Increment) => {
                    let first = stored_result(self.storage.first_copy(of).await)?;
                    Destination::Stream(to, first)
                }
            };
            let receiving = Receiving::start(position.attempt, to);
            streams.receiving.insert(volume.to_owned(), receiving);
        }
        match streams.receive_part(volume, &position, step).await? {
            None => Ok(CopyReceipt::More),
            Some(outcome) => self.finish(of, outcome, bytes, extent).await,
        }
    }

    async fn finish(
        &self,
        of: MovedVolume<'_>,
        outcome: StreamOutcome,
        bytes: u64,
        extent: CopyExtent,
    ) -> StepResult<CopyReceipt> {
        let storage = &self.storage;
        let path = match (outcome, extent) {
            (StreamOutcome::Impossible(text), _) => return Ok(CopyReceipt::Impossible(text)),
            (StreamOutcome::OtherBase(text), _) => {
                // The next attempt then copies all data.
                stored_result(storage.forget_first_copy(of).await)?;
                return Err(conflict(&text));
            }
            (StreamOutcome::Snapshot(snapshot), CopyExtent::First) => {
                storage.finish_first_copy(of, snapshot).await
            }
            (StreamOutcome::Snapshot(_), CopyExtent::Increment | CopyExtent::Whole)
            | (StreamOutcome::Files, _) => storage.finish_arrival(of, bytes).await,
        };
        Ok(arrived(&stored_result(path)?))
    }
}

impl Streams {
    /// Whether a part is the first part of a new stream to send; closes the stream of another attempt.
    async fn begins_sending(&mut self, volume: &str, position: &Position<'_>) -> StepResult<bool> {
        let open = self.sending.get(volume);
        if open.is_some_and(|open| open.attempt() == position.attempt) {
            return Ok(false);
        }
        begins(position)?;
        if let Some(former) = self.sending.remove(volume) {
            former.close().await;
        }
        Ok(true)
    }

    /// Whether a part is the first part of a new stream to receive; closes the stream of another attempt.
    async fn begins_receiving(
        &mut self,
        volume: &str,
        position: &Position<'_>,
    ) -> StepResult<bool> {
        let open = self.receiving.get(volume);
        if open.is_some_and(|open| open.attempt() == position.attempt) {
            return Ok(false);
        }
        begins(position)?;
        if let Some(former) = self.receiving.remove(volume) {
            former.close().await;
        }
        Ok(true)
    }

    /// Receives a part of a stream. `None`: another part follows.
    async fn receive_part(
        &mut self,
        volume: &str,
        position: &Position<'_>,
        step: &MoveStep,
    ) -> StepResult<Option<StreamOutcome>> {
        let Some(mut open) = self.receiving.remove(volume) else {
            return Err(conflict("the stream is closed"));
        };
        let received = open.receive(position.offset, step.body.clone()).await;
        let is_last = step.parameter("last") == Some("true");
        match received {
            Ok(()) if !is_last => {
                self.receiving.insert(volume.to_owned(), open);
                Ok(None)
            }
            Ok(()) => open.finish().await.map(Some),
            // The task has ended early: its error is the reason.
            Err(status) => match open.finish().await? {
                StreamOutcome::Files | StreamOutcome::Snapshot(_) => Err(status),
                outcome => Ok(Some(outcome)),
            },
        }
    }

    /// The next part of the stream to send from a volume.
    async fn next_part(&mut self, volume: &str, offset: u64) -> StepResult<Bytes> {
        let Some(open) = self.sending.get_mut(volume) else {
            return Err(conflict("the stream is closed"));
        };
        match open.next(offset).await {
            Ok(part) => Ok(part),
            Err(status) => {
                self.sending.remove(volume);
                Err(status)
            }
        }
    }

    /// Closes the streams of a volume; afterwards no task reads or writes its files.
    async fn close(&mut self, volume: &str) {
        if let Some(sending) = self.sending.remove(volume) {
            sending.close().await;
        }
        if let Some(receiving) = self.receiving.remove(volume) {
            receiving.close().await;
        }
    }
}

/// The directory for a received stream, or the response if there is nothing to receive.
fn begun(begun: Result<CopyLocation, StorageError>) -> StepResult<Result<PathBuf, CopyReceipt>> {
    if let Err(error @ StorageError::DiskFull { .. }) = &begun {
        return Ok(Err(CopyReceipt::Impossible(chain(error))));
    }
    match stored_result(begun)? {
        CopyLocation::Begun(to) => Ok(Ok(to)),
        CopyLocation::Complete(path) => Ok(Err(arrived(&path))),
        CopyLocation::Refused(text) => Err(conflict(&text)),
    }
}

fn arrived(path: &std::path::Path) -> CopyReceipt {
    CopyReceipt::Arrived(path.to_string_lossy().into_owned())
}

/// The volume of a step. Servers of an earlier version name no driver: they move volumes of the class
/// `local` only.
fn moved(step: &MoveStep) -> StepResult<MovedVolume<'_>> {
    let driver = match step.parameter("driver") {
        None => Some(Driver::Local),
        Some(name) => Driver::of_provisioner(name),
    };
    Ok(MovedVolume {
        driver: driver.ok_or_else(|| bad("the driver is unknown"))?,
        id: &step.id,
        volume: &step.volume,
    })
}

fn extent(step: &MoveStep) -> StepResult<CopyExtent> {
    match step.parameter("extent") {
        None => Ok(CopyExtent::Whole),
        Some(name) => {
            CopyExtent::of_name(name).ok_or_else(|| bad("the extent of a copy is unknown"))
        }
    }
}

fn position(step: &MoveStep) -> StepResult<Position<'_>> {
    let attempt = step.parameter("attempt").unwrap_or_default();
    if attempt.is_empty() {
        return Err(bad("a part of a copy needs the name of its attempt"));
    }
    Ok(Position {
        attempt,
        offset: number(step, "offset")?,
    })
}

fn begins(position: &Position<'_>) -> StepResult<()> {
    match position.offset {
        0 => Ok(()),
        _ => Err(conflict("the stream of this attempt is not open any more")),
    }
}

fn number(step: &MoveStep, name: &str) -> StepResult<u64> {
    let parsed = step.parameter(name).and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| bad(&format!("{name} must be a number of bytes")))
}

fn json(value: &impl Serialize) -> StepResult<Bytes> {
    let bytes = serde_json::to_vec(value);
    let bytes = bytes.map_err(|error| internal(&format!("encode the response: {error}")))?;
    Ok(bytes.into())
}

fn stored_result<T>(result: Result<T, StorageError>) -> StepResult<T> {
    result.map_err(|error| {
        let text = chain(&error);
        match error {
            StorageError::OutOfBounds { .. } => bad(&text),
            StorageError::Source(_) => conflict(&text),
            StorageError::Unsupported(_) | StorageError::DiskFull { .. } => {
                Box::new(Status::new(StatusReason::Invalid, text))
            }
            _ => internal(&text),
        }
    })
}

fn bad(text: &str) -> Box<Status> {
    Box::new(Status::new(StatusReason::BadRequest, text))
}

fn conflict(text: &str) -> Box<Status> {
    Box::new(Status::new(StatusReason::Conflict, text))
}

fn internal(text: &str) -> Box<Status> {
    Box::new(Status::new(StatusReason::InternalError, text))
}
