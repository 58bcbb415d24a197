//! The tunnels that nodes have opened to this server.
//!
//! A node can open a tunnel for itself only: the certificate of the request contains the node name. The tunnel grants
//! no rights; both peers verify their certificates inside of the tunnel as over the network.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{Request, Response, StatusCode, Version};
use node_tunnel::{PROTOCOL, Tunnel};
use object_model::{Status, StatusReason};
use process_telemetry::refusals::{self, Budget};
use resource_kinds::ObjectReader;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::access::authorize::node_of;
use crate::handlers::nodes::empty_body;
use crate::http::call::{ApiResponse, Call};
use crate::http::connection::Connection;
use crate::http::limits::TUNNELS_PER_NODE_MAX;
use crate::objects::storage::{Objects, reading};

/// An open tunnel, and the token that closes it.
struct Open {
    number: u64,
    tunnel: Tunnel,
    end: CancellationToken,
}

/// The open tunnels of each node, the oldest tunnel first.
type Table = BTreeMap<String, Vec<Open>>;

#[derive(Default)]
pub(crate) struct Tunnels {
    table: Mutex<Table>,
    /// The number of tunnels that were opened so far.
    opened: watch::Sender<u64>,
}

/// An entry of the table, which is removed on drop.
struct Entry<'t> {
    tunnels: &'t Tunnels,
    node: String,
    number: u64,
    /// Cancelled when a newer tunnel of the node replaces this tunnel.
    end: CancellationToken,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        let mut table = self.tunnels.table();
        if let Some(open) = table.get_mut(&self.node) {
            open.retain(|one| one.number != self.number);
            if open.is_empty() {
                table.remove(&self.node);
            }
        }
    }
}

impl Tunnels {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest open tunnel of a node.
    pub(super) fn of(&self, node: &str) -> Option<Tunnel> {
        let table = self.table();
        let mut open = table.get(node)?.iter().rev();
        let newest = open.find(|one| one.tunnel.is_open())?;
        Some(newest.tunnel.clone())
    }

    /// Waits until a node has an open tunnel.
    pub(super) async fn opened(&self, node: &str) -> Tunnel {
        let mut opened = self.opened.subscribe();
        loop {
            if let Some(tunnel) = self.of(node) {
                return tunnel;
            }
            if opened.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The number of nodes with an open tunnel.
    pub(super) fn nodes(&self) -> usize {
        self.table().len()
    }

    /// Adds a tunnel. A node that knows a server by several addresses opens several tunnels to it.
    fn enter(&self, node: &str, tunnel: Tunnel) -> Entry<'_> {
        let end = CancellationToken::new();
        let mut table = self.table();
        let number = *self.opened.borrow() + 1;
        let open = table.entry(node.to_owned()).or_default();
        if open.len() >= TUNNELS_PER_NODE_MAX {
            open.remove(0).end.cancel();
            refusals::count(Budget::Tunnels);
        }
        open.push(Open {
            number,
            tunnel,
            end: end.clone(),
        });
        self.opened.send_replace(number);
        Entry {
            tunnels: self,
            node: node.to_owned(),
            number,
            end,
        }
    }
}

/// Uses the connection of a node as its tunnel.
///
/// *Errors.* 403 for a user that is not a node, 404 for a node without a Node object, 400 for a request without the
/// upgrade.
pub(crate) fn accept(
    tunnels: &Arc<Tunnels>,
    objects: &Objects,
    call: Call,
) -> Result<ApiResponse, Status> {
    let Some(node) = node_of(&call.user).map(str::to_owned) else {
        let text = "only a node opens a tunnel, with its client certificate";
        return Err(Status::new(StatusReason::Forbidden, text));
    };
    let requested_upgrade = call.parts.headers.get(UPGRADE);
    if requested_upgrade.is_none_or(|value| value != PROTOCOL)
        || call.parts.version != Version::HTTP_11
    {
        let text = format!("the path needs HTTP/1.1 with an upgrade to {PROTOCOL:?}");
        return Err(Status::bad_request(text));
    }
    let existing = reading(objects, |reads| Ok(reads.get("", "nodes", "", &node)))?;
    if existing.is_none() {
        let text = format!("nodes {node:?} not found");
        return Err(Status::new(StatusReason::NotFound, text));
    }
    let stop = call.parts.extensions.get::<Connection>();
    let stop = stop.map(|connection| connection.stopping.clone());
    let mut request = Request::from_parts(call.parts, ());
    let upgrade = hyper::upgrade::on(&mut request);
    let tunnels = tunnels.clone();
    tokio::spawn(async move {
        let opened = async { node_tunnel::open(upgrade.await?).await };
        let (tunnel, running) = match opened.await {
            Ok(opened) => opened,
            Err(error) => return tracing::debug!(%error, node, "a tunnel was not opened"),
        };
        let entry = tunnels.enter(&node, tunnel);
        tracing::debug!(node, "the tunnel is open");
        tokio::select! {
            ended = running => tracing::debug!(node, ?ended, "the tunnel has ended"),
            () = entry.end.cancelled() => tracing::debug!(node, "newer tunnels have replaced it"),
            () = stop.unwrap_or_default().cancelled_owned() => {}
        }
    });
    let mut response = Response::new(empty_body());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
    Ok(ApiResponse::Raw(response))
}

#[cfg(test)]
mod tests {
    use hyper_util::rt::TokioIo;

    use super::*;

    async fn tunnel() -> (Tunnel, tokio::io::DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(1024);
        let (tunnel, running) = node_tunnel::open(TokioIo::new(ours)).await.unwrap();
        tokio::spawn(running);
        (tunnel, theirs)
    }

    #[tokio::test]
    async fn a_node_has_some_tunnels_and_the_oldest_goes_first() {
        let tunnels = Tunnels::default();
        let mut ends = Vec::new();
        let mut entries = Vec::new();
        for _ in 0..TUNNELS_PER_NODE_MAX {
            let (tunnel, end) = tunnel().await;
            entries.push(tunnels.enter("n", tunnel));
            ends.push(end);
        }
        assert!(entries.iter().all(|entry| !entry.end.is_cancelled()));
        let (one_more, _end) = tunnel().await;
        let before = refusals::counted(Budget::Tunnels);
        let newest = tunnels.enter("n", one_more);
        assert_eq!(refusals::counted(Budget::Tunnels), before + 1);
        assert!(entries[0].end.is_cancelled() && !entries[1].end.is_cancelled());
        assert!(tunnels.of("n").is_some() && tunnels.of("m").is_none());
        drop(entries);
        assert_eq!(tunnels.nodes(), 1);
        drop(newest);
        assert_eq!(tunnels.nodes(), 0);
    }

    #[tokio::test]
    async fn a_tunnel_is_waited_for() {
        let tunnels = Tunnels::default();
        let mut awaited = std::pin::pin!(tunnels.opened("n"));
        let (of_another, _end) = tunnel().await;
        let _entry = tunnels.enter("m", of_another);
        assert!(futures::poll!(awaited.as_mut()).is_pending());
        let (first_tunnel, _other_end) = tunnel().await;
        let _entry = tunnels.enter("n", first_tunnel);
        assert!(futures::poll!(awaited).is_ready());
    }
}
