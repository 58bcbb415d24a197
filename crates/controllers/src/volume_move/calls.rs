//! Calls to the nodes of a move, through the API server.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use controller_planners::volume_expansion::bytes as whole_bytes;
use controller_planners::volume_move::{
    Call, CopyExtent, CopyReceipt, CopyResult, MoveAnswers, MoveEnd,
};
use http::Request;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::PersistentVolume;
use kube_api_client::Client;
use resource_kinds::MetadataIdentity;
use resource_kinds::storage::Driver;
use resource_kinds::storage::volume_move::VolumeMove;
use resource_kinds::volume_fit::capacity;
use serde::de::DeserializeOwned;

use super::Error;

/// Time limit for one part of a copy, because a disconnected node may never respond.
const PART_LIMIT: Duration = Duration::from_secs(120);
/// The same for other steps, which may remove or sync many files.
const STEP_LIMIT: Duration = Duration::from_secs(1800);
/// The status code of a node that can never execute a step: files cannot be copied, or the node has too few free bytes.
const INVALID: u16 = 422;

/// Calls the nodes of a move, through the API server.
pub(crate) struct Nodes {
    client: Client,
    /// Number of copies, for their names.
    copies: AtomicU64,
}

impl Nodes {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            copies: AtomicU64::new(0),
        }
    }

    /// Carries out a call, and adds its response.
    pub(super) async fn carry_out(
        &self,
        volume: &PersistentVolume,
        record: &VolumeMove,
        call: Call,
        responses: &mut MoveAnswers,
        is_current: &(dyn Fn() -> bool + Sync),
    ) -> Result<(), Error> {
        let name = volume.metadata.object_name()?;
        let node = match call.side() {
            MoveEnd::Source => &record.from,
            MoveEnd::Destination => &record.to,
        };
        let driver = Driver::of_volume(volume).unwrap_or(Driver::Local);
        let to = Address {
            node,
            volume: name,
            id: &record.id,
            driver,
        };
        match call {
            Call::Inspect(MoveEnd::Source) => {
                responses.source = Some(self.ask(&to, "inspect").await?)
            }
            Call::Inspect(MoveEnd::Destination) => {
                responses.destination = Some(self.ask(&to, "inspect").await?);
            }
            Call::Detach => responses.detached = Some(self.ask(&to, "detach").await?),
            Call::Copy(extent) => {
                responses.copied = Some(self.copy(volume, record, extent, is_current).await?);
            }
            Call::Place => {
                let () = self.ask(&to, "place").await?;
                responses.placed = true;
            }
            Call::Discard => {
                let () = self.ask(&to, "discard").await?;
                responses.discarded = true;
            }
            Call::Abandon(side) => {
                let () = self.ask(&to, "abandon").await?;
                match side {
                    MoveEnd::Source => responses.restored = true,
                    MoveEnd::Destination => responses.cleared = true,
                }
            }
        }
        Ok(())
    }

    /// Reads the files from one node and gives them to the other, part by part.
    async fn copy(
        &self,
        volume: &PersistentVolume,
        record: &VolumeMove,
        extent: CopyExtent,
        is_current: &(dyn Fn() -> bool + Sync),
    ) -> Result<CopyResult, Error> {
        let name = volume.metadata.object_name()?;
        let driver = Driver::of_volume(volume).unwrap_or(Driver::Local);
        let address = |node| Address {
            node,
            volume: name,
            id: &record.id,
            driver,
        };
        let (from, to) = (address(&record.from), address(&record.to));
        let bytes = whole_bytes(capacity(volume));
        let copy = format!("extent={}", extent.name());
        self.stream(&from, &to, ["read", "receive"], &copy, bytes, is_current)
            .await
    }

    /// Reads a stream from one node and gives it to the other, part by part. The steps have the
    /// parameters of the copy.
    pub(crate) async fn stream(
        &self,
        from: &Address<'_>,
        to: &Address<'_>,
        [read, receive]: [&str; 2],
        copy: &str,
        bytes: u64,
        is_current: &(dyn Fn() -> bool + Sync),
    ) -> Result<CopyResult, Error> {
        let number = self.copies.fetch_add(1, Ordering::Relaxed);
        let attempt = format!("{:x}-{number}", Timestamp::now().as_nanosecond());
        let receive = |offset: u64, is_last: bool| {
            format!(
                "{receive}?attempt={attempt}&{copy}&offset={offset}&bytes={bytes}&last={is_last}"
            )
        };
        // An existing copy is not created again.
        let mut receipt = self.receipt(to, &receive(0, false), Bytes::new()).await?;
        let mut offset: u64 = 0;
        loop {
            match receipt {
                CopyReceipt::More => {}
                CopyReceipt::Arrived(path) => return Ok(CopyResult::Complete(path)),
                CopyReceipt::Impossible(reason) => return Ok(CopyResult::Impossible(reason)),
            }
            if !is_current() {
                return Err(Error::Cut("the copy is not wanted any more".to_owned()));
            }
            let read = format!("{read}?attempt={attempt}&{copy}&offset={offset}");
            let part = match or_refusal(self.bytes(from, &read, Bytes::new()).await)? {
                Ok(part) => part,
                Err(refusal) => return Ok(CopyResult::Impossible(refusal.to_string())),
            };
            let (is_last, length) = (part.is_empty(), part.len() as u64);
            receipt = self.receipt(to, &receive(offset, is_last), part).await?;
            offset += length;
            if is_last && receipt == CopyReceipt::More {
                return Err(Error::Cut(
                    "the end of the copy was not recognised".to_owned(),
                ));
            }
        }
    }

    /// Executes a step on a node.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        to: &Address<'_>,
        step: &str,
    ) -> Result<T, Error> {
        self.send(to, step, Bytes::new()).await
    }

    /// Executes a step on a node. The inner error is the reason of a node that can never execute the step, for example
    /// because it has too few free bytes.
    pub(crate) async fn ask_or_refusal<T: DeserializeOwned>(
        &self,
        to: &Address<'_>,
        step: &str,
    ) -> Result<Result<T, NodeRefusal>, Error> {
        or_refusal(self.ask(to, step).await)
    }

    /// The response of the receiver to a part of a stream.
    async fn receipt(
        &self,
        to: &Address<'_>,
        step: &str,
        part: Bytes,
    ) -> Result<CopyReceipt, Error> {
        let response = or_refusal(self.send(to, step, part).await)?;
        Ok(response.unwrap_or_else(|refusal| {
            cov_mark::hit!(findings_2_r29);
            CopyReceipt::Impossible(refusal.to_string())
        }))
    }

    async fn send<T: DeserializeOwned>(
        &self,
        to: &Address<'_>,
        step: &str,
        body: Bytes,
    ) -> Result<T, Error> {
        Ok(serde_json::from_slice(&self.bytes(to, step, body).await?)?)
    }

    async fn bytes(&self, to: &Address<'_>, step: &str, body: Bytes) -> Result<Bytes, Error> {
        let Address {
            node,
            volume,
            id,
            driver,
        } = to;
        let separator = if step.contains('?') { '&' } else { '?' };
        let driver = driver.name();
        let path = format!(
            "/api/v1/nodes/{node}/proxy/volumeMoves/{volume}/{id}/{step}{separator}driver={driver}"
        );
        let request = Request::post(path)
            .header(http::header::CONTENT_TYPE, "application/octet-stream")
            .body(body)?;
        let limit = match to.driver {
            Driver::Local if step.starts_with("read?") => PART_LIMIT,
            // The comparison may read many files before it finds a difference.
            Driver::Local | Driver::LocalCow => STEP_LIMIT,
        };
        match tokio::time::timeout(limit, self.client.bytes(request)).await {
            Ok(response) => Ok(response?),
            Err(_) => Err(Error::Cut(format!("node {node:?} does not answer"))),
        }
    }
}

/// The reason why a node never executes a step, for example because its disk is full.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NodeRefusal(String);

/// The response of a node, or the reason why the node never executes the step.
fn or_refusal<T>(response: Result<T, Error>) -> Result<Result<T, NodeRefusal>, Error> {
    match response {
        Err(Error::Api(kube_api_client::Error::Api(status))) if status.code == INVALID => {
            Ok(Err(NodeRefusal(status.message)))
        }
        other => other.map(Ok),
    }
}

/// A volume on a node, and the id of its move or the epoch of its replication.
pub(crate) struct Address<'a> {
    pub(crate) node: &'a str,
    pub(crate) volume: &'a str,
    pub(crate) id: &'a str,
    pub(crate) driver: Driver,
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::Response;

    use super::*;

    /// Nodes that respond to every step with this status.
    fn nodes(code: u16, body: &'static str) -> Nodes {
        let service = tower::service_fn(move |_: Request<kube_api_client::Body>| async move {
            let response = Response::builder().status(code).body(body.to_owned());
            Ok::<_, Infallible>(response.unwrap())
        });
        Nodes::new(kube_api_client::Client::new(service, "default"))
    }

    const FULL: &str = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Invalid",
        "message":"the disk is full","code":422}"#;

    fn address() -> Address<'static> {
        Address {
            node: "n1",
            volume: "pvc-1",
            id: "1",
            driver: Driver::LocalCow,
        }
    }

    /// A node without free bytes for its first pool refuses in the step before a copy, and in each part of the copy.
    // findings-2 R29
    #[tokio::test]
    async fn a_node_that_has_no_room_makes_a_copy_impossible_in_every_step() {
        cov_mark::check!(findings_2_r29);
        let full = nodes(422, FULL);
        let response = full
            .ask_or_refusal::<()>(&address(), "replica-demote")
            .await;
        assert_eq!(
            response.unwrap().unwrap_err().to_string(),
            "the disk is full"
        );
        let steps = ["replica-read", "replica-receive"];
        let (from, to) = (address(), address());
        let copied = full.stream(&from, &to, steps, "copy=1", 1, &|| true);
        let copied = copied.await;
        let reason = "the disk is full".to_owned();
        assert_eq!(copied.unwrap(), CopyResult::Impossible(reason));
        // Other errors are no refusal: the step is tried again.
        let away = nodes(503, "{}");
        let response = away
            .ask_or_refusal::<()>(&address(), "replica-demote")
            .await;
        assert!(response.is_err());
    }
}
