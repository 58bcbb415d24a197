//! The tunnels of this node: one to each server. Through it, a server that cannot connect to the node's
//! address uses the node's kubelet API.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, UPGRADE};
use http::{Request, StatusCode, Uri};
use kube_api_client::guarded_writes::chain;
use node_identity::{Credentials, client};
use node_tunnel::{PATH, PROTOCOL};
use process_telemetry::backoff::Backoff;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::certificates::NodeClient;

/// The first delay before a tunnel is opened again; it doubles with each consecutive failure.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// A tunnel that has lasted for this time resets the delay.
const LASTING: Duration = Duration::from_secs(60);

/// The reason why a tunnel is not opened, or why it has ended.
#[derive(Debug, thiserror::Error)]
enum TunnelError {
    #[error(transparent)]
    Connection(#[from] node_identity::Error),
    #[error(transparent)]
    Request(#[from] http::Error),
    #[error(transparent)]
    Response(#[from] kube_api_client::Error),
    #[error("the server answers {0}")]
    Refused(StatusCode),
    #[error("upgrade the connection to a tunnel")]
    Upgrade(#[source] hyper::Error),
    #[error(transparent)]
    Served(#[from] hyper::Error),
}

/// Maintains a tunnel to each server until `stop`. The tunnels lead only to this port of this machine.
pub async fn maintain(node: NodeClient, kubelet_port: u16, stop: CancellationToken) {
    let kubelet_api = SocketAddr::from((Ipv4Addr::LOCALHOST, kubelet_port));
    stop.run_until_cancelled(follow_servers(node, kubelet_api))
        .await;
}

async fn follow_servers(node: NodeClient, kubelet_api: SocketAddr) {
    let mut list = node.servers.follow();
    let mut tunnels: Vec<(Uri, AbortOnDropHandle<()>)> = Vec::new();
    loop {
        let servers = list.borrow_and_update().clone();
        tunnels.retain(|(server, _)| servers.contains(server));
        for server in servers {
            if tunnels.iter().all(|(existing, _)| *existing != server) {
                let maintaining = maintain_tunnel(node.clone(), server.clone(), kubelet_api);
                tunnels.push((server, AbortOnDropHandle::new(tokio::spawn(maintaining))));
            }
        }
        if list.changed().await.is_err() {
            return;
        }
    }
}

async fn maintain_tunnel(node: NodeClient, server: Uri, kubelet_api: SocketAddr) {
    let mut backoff = Backoff::new(PAUSE_MIN, PAUSE_MAX);
    loop {
        let begun = Instant::now();
        match tunnel(&node, &server, kubelet_api).await {
            Ok(()) => tracing::debug!(%server, "the tunnel has ended"),
            Err(error) => tracing::debug!(%server, "no tunnel: {}", chain(&error)),
        }
        if begun.elapsed() >= LASTING {
            backoff.reset();
        }
        sleep(backoff.fail()).await;
    }
}

/// Opens a tunnel with the newest client certificate, and serves it until its connection closes.
async fn tunnel(
    node: &NodeClient,
    server: &Uri,
    kubelet_api: SocketAddr,
) -> Result<(), TunnelError> {
    let identity = node.identity.borrow().clone();
    let client = client(server, &node.ca_pem, &Credentials::Identity(&identity)).await?;
    let request = Request::get(PATH)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, PROTOCOL)
        .body(Bytes::new())?;
    let mut response = client.send(request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(TunnelError::Refused(response.status()));
    }
    let upgraded = hyper::upgrade::on(&mut response).await;
    let upgraded = upgraded.map_err(TunnelError::Upgrade)?;
    tracing::debug!(%server, "the tunnel is open");
    Ok(node_tunnel::serve(upgraded, kubelet_api).await?)
}
