//! The part of a node that moves volumes: the directories by the provisioner's storage, the files as an
//! archive, in parts.
//!
//! The archive has a checksum of each file and one of the list of all entries, so that a copy is
//! complete only if every byte arrived. A stream belongs to one attempt: another attempt begins anew.

mod receiving;
mod sending;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use node_agent::{MoveStep, VolumeMoves};
use object_model::{Status, StatusReason};
use planners::volume_move::Receipt;
use serde::Serialize;
use tokio::sync::Mutex;
use volume_provisioner::{Arrival, ProvisionerError, Storage};

use receiving::Receiving;
use sending::Sending;

/// The moves of one node.
#[derive(Clone, Debug)]
pub struct NodeMoves {
    storage: Storage,
    streams: Arc<Mutex<Streams>>,
}

/// The open streams by volume. One step is carried out at a time.
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

type Answer<T> = Result<T, Box<Status>>;

impl VolumeMoves for NodeMoves {
    fn carry_out(&self, step: MoveStep) -> BoxFuture<'static, Answer<Bytes>> {
        let moves = self.clone();
        async move { moves.answer(&step).await }.boxed()
    }
}

impl NodeMoves {
    /// The moves to and from this storage.
    pub fn new(storage: Storage) -> Self {
        Self {
            storage,
            streams: Arc::default(),
        }
    }

    async fn answer(&self, step: &MoveStep) -> Answer<Bytes> {
        let mut streams = self.streams.lock().await;
        let (id, volume) = (step.id.as_str(), step.volume.as_str());
        let storage = &self.storage;
        match step.step.as_str() {
            "inspect" => json(&done(storage.inspect_move(id, volume).await)?),
            "detach" => json(&done(storage.detach_volume(id, volume).await)?),
            "read" => self.read(&mut streams, step).await,
            "receive" => json(&self.receive(&mut streams, step).await?),
            "place" => json(&done(storage.place_arrival(id, volume).await)?),
            "discard" => {
                streams.close(volume).await;
                json(&done(storage.discard_detached(id, volume).await)?)
            }
            "abandon" => {
                streams.close(volume).await;
                json(&done(storage.abandon_move(id, volume).await)?)
            }
            other => {
                let text = format!("a move has no step {other:?}");
                Err(Box::new(Status::new(StatusReason::NotFound, text)))
            }
        }
    }

    async fn read(&self, streams: &mut Streams, step: &MoveStep) -> Answer<Bytes> {
        let position = position(step)?;
        let volume = step.volume.as_str();
        let open = streams.sending.get(volume);
        if open.is_none_or(|open| open.attempt() != position.attempt) {
            begins(&position)?;
            if let Some(former) = streams.sending.remove(volume) {
                former.close().await;
            }
            let from = done(self.storage.detached_volume(&step.id, volume).await)?;
            let sending = Sending::start(position.attempt, from);
            streams.sending.insert(volume.to_owned(), sending);
        }
        let Some(open) = streams.sending.get_mut(volume) else {
            return Err(conflict("the stream is closed"));
        };
        match open.next(position.offset).await {
            Ok(part) => Ok(part),
            Err(status) => {
                streams.sending.remove(volume);
                Err(status)
            }
        }
    }

    async fn receive(&self, streams: &mut Streams, step: &MoveStep) -> Answer<Receipt> {
        let position = position(step)?;
        let volume = step.volume.as_str();
        let open = streams.receiving.get(volume);
        if open.is_none_or(|open| open.attempt() != position.attempt) {
            begins(&position)?;
            if let Some(former) = streams.receiving.remove(volume) {
                former.close().await;
            }
            let bytes = number(step, "bytes")?;
            let begun = self.storage.begin_arrival(&step.id, volume, bytes).await;
            let to = match done(begun)? {
                Arrival::Begun(to) => to,
                Arrival::Complete(path) => return Ok(arrived(&path)),
                Arrival::Refused(text) => return Err(conflict(&text)),
            };
            let receiving = Receiving::start(position.attempt, to);
            streams.receiving.insert(volume.to_owned(), receiving);
        }
        let Some(mut open) = streams.receiving.remove(volume) else {
            return Err(conflict("the stream is closed"));
        };
        let taken = open.take(position.offset, step.body.clone()).await;
        let is_last = step.parameter("last") == Some("true");
        match taken {
            Ok(()) if !is_last => {
                streams.receiving.insert(volume.to_owned(), open);
                Ok(Receipt::More)
            }
            Ok(()) => match open.finish().await? {
                Some(impossible) => Ok(Receipt::Impossible(impossible)),
                None => {
                    let finished = self.storage.finish_arrival(&step.id, volume).await;
                    Ok(arrived(&done(finished)?))
                }
            },
            // The task has ended early: its own error says why.
            Err(status) => match open.finish().await? {
                Some(impossible) => Ok(Receipt::Impossible(impossible)),
                None => Err(status),
            },
        }
    }
}

impl Streams {
    /// Ends the streams of a volume; when this returns, nothing reads or writes its files.
    async fn close(&mut self, volume: &str) {
        if let Some(sending) = self.sending.remove(volume) {
            sending.close().await;
        }
        if let Some(receiving) = self.receiving.remove(volume) {
            receiving.close().await;
        }
    }
}

fn arrived(path: &std::path::Path) -> Receipt {
    Receipt::Arrived(path.to_string_lossy().into_owned())
}

fn position(step: &MoveStep) -> Answer<Position<'_>> {
    let attempt = step.parameter("attempt").unwrap_or_default();
    if attempt.is_empty() {
        return Err(bad("a part of a copy needs the name of its attempt"));
    }
    Ok(Position {
        attempt,
        offset: number(step, "offset")?,
    })
}

fn begins(position: &Position<'_>) -> Answer<()> {
    match position.offset {
        0 => Ok(()),
        _ => Err(conflict("the stream of this attempt is not open any more")),
    }
}

fn number(step: &MoveStep, name: &str) -> Answer<u64> {
    let parsed = step.parameter(name).and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| bad(&format!("{name} must be a number of bytes")))
}

fn json(value: &impl Serialize) -> Answer<Bytes> {
    let bytes = serde_json::to_vec(value);
    let bytes = bytes.map_err(|error| internal(&format!("encode the answer: {error}")))?;
    Ok(bytes.into())
}

fn done<T>(result: Result<T, ProvisionerError>) -> Answer<T> {
    result.map_err(|error| {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        match error {
            ProvisionerError::OutOfBounds { .. } => bad(&text),
            ProvisionerError::Source(_) => conflict(&text),
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
