//! Keeps the CSINode object equal to the registered drivers.
//!
//! Each registration writes its driver. This module writes the other changes: a driver whose socket was
//! deleted, even while no agent ran, and a Node object that was deleted and created again.

use std::sync::Arc;
use std::time::Duration;

use process_telemetry::backoff::Backoff;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::csi_node;
use super::volumes::CsiVolumes;

/// Delay after a failed write, doubled after each further failure up to the interval of the periodic
/// checks.
const FIRST_DELAY: Duration = Duration::from_secs(1);
const INTERVAL: Duration = Duration::from_secs(300);

/// Keeps the registered drivers in the API until `shutdown`; `node` is the uid of the Node object.
pub async fn keep_csi_node(
    volumes: Arc<CsiVolumes>,
    mut node: watch::Receiver<Option<String>>,
    shutdown: CancellationToken,
) {
    let mut changes = volumes.drivers().changes();
    let mut next_check = Instant::now();
    let mut backoff = Backoff::new(FIRST_DELAY, INTERVAL);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = changes.next() => {}
            Ok(()) = node.changed() => {}
            () = tokio::time::sleep_until(next_check) => {}
        }
        next_check = Instant::now() + INTERVAL;
        let is_registered = node.borrow().is_some();
        let Some(drivers) = volumes.drivers().complete().filter(|_| is_registered) else {
            continue;
        };
        let result = csi_node::publish_all(volumes.client(), volumes.node(), &drivers).await;
        match result {
            Ok(()) => backoff.reset(),
            Err(error) => {
                tracing::warn!(%error, "the drivers of the node are not published");
                next_check = Instant::now() + backoff.fail();
            }
        }
    }
}
