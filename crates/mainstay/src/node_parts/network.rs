//! The pods' network of a node.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use command_output::output::warn;
use futures::FutureExt;
use futures::future::BoxFuture;
use pod_network::{
    Cidr, EncryptionOptions, PodNetwork, PodNetworkOptions, Ranges, RequestedRanges,
};

use data_directory::left_pods;
use service_proxy::FurtherRanges;

/// Reserves the ranges on this machine.
pub async fn reserve(
    data_dir: &Path,
    instance_id: &str,
    requested: &RequestedRanges,
) -> Result<Ranges> {
    let instances = Path::new(pod_network::INSTANCES);
    let state_dir = data_dir.join("network");
    pod_network::reserve_ranges(instance_id, &state_dir, requested, instances)
        .await
        .context("choose addresses for pods and Services")
}

/// Opens the pods' network in reserved ranges.
pub fn open(
    data_dir: &Path,
    instance_id: &str,
    ranges: &Ranges,
    encryption: Option<EncryptionOptions>,
) -> BoxFuture<'static, Result<Arc<PodNetwork>>> {
    let opening = PodNetwork::open(PodNetworkOptions {
        instance_id: instance_id.to_owned(),
        state_dir: data_dir.join("network"),
        pod_cidr: ranges.pod,
        service_cidr: ranges.service,
        encryption,
    });
    async move {
        let network = opening.await.context("set up the pods' network")?;
        Ok(Arc::new(network))
    }
    .boxed()
}

/// Wait after a failed change of the routes to Services.
const ROUTE_RETRY: Duration = Duration::from_secs(10);

/// Keeps the node's routes to further ranges of Services up to date. Returns if the ranges are no longer watched.
pub async fn route_services(network: &PodNetwork, ranges: &mut FurtherRanges) {
    loop {
        let current = ranges.borrow_and_update().clone();
        if let Err(error) = network.route_services(&current).await {
            tracing::warn!(%error, "the routes to Services are not up to date");
            tokio::time::sleep(ROUTE_RETRY).await;
        } else if ranges.changed().await.is_err() {
            return;
        }
    }
}

/// Removes the network after a failed start, unless pods of a killed server still use it.
pub async fn tear_down(network: &PodNetwork, data_dir: &Path) {
    if !left_pods::pods(data_dir).is_empty() {
        return;
    }
    if let Err(error) = network.close(true).await {
        warn(&format!(
            "mainstay: the pods' network is not taken down: {error:#}"
        ));
    }
}

/// The address of the cluster's DNS, which every Service range must have.
pub fn dns_address(service_range: Cidr) -> Result<Ipv4Addr> {
    pod_network::dns_address(service_range)
        .with_context(|| format!("Service range {service_range} is too small"))
}
