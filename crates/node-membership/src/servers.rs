//! The servers of a running node: their health, and the list that the cluster publishes.

use std::net::IpAddr;
use std::sync::Arc;

use controller_framework::Cache;
use host_kernel::blocking;
use http::Uri;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube_api_client::guarded_writes::chain;
use kube_api_client::{Api, Client, WatchConfig};
use node_identity::{Error, Servers};
use process_telemetry::Component;
use tokio_util::sync::CancellationToken;

use crate::error::Result;
use crate::membership::{Membership, MembershipStore};

/// The Service of the API servers, and the name of its EndpointSlice.
const SERVICE: &str = "kubernetes";
const NAMESPACE: &str = "default";

/// Changes to another server when the current server does not respond, until `stop`.
pub async fn follow_health(
    servers: Servers,
    ca_pem: String,
    stop: CancellationToken,
) -> Result<(), Error> {
    let following = stop.run_until_cancelled(servers.follow_health(&ca_pem));
    following.await.unwrap_or(Ok(()))
}

/// Watches the endpoints of the Service `kubernetes`, and stores them with the membership.
pub async fn follow_list(
    client: Client,
    servers: Servers,
    store: Arc<MembershipStore>,
    mut membership: Membership,
    component: Component,
) {
    let slices: Api<EndpointSlice> = Api::namespaced(client, NAMESPACE);
    let of_service = format!("metadata.name={SERVICE}");
    let slices = Cache::spawn(
        slices,
        WatchConfig::default().fields(&of_service),
        component.clone(),
    );
    let following = async {
        let mut changes = slices.subscribe();
        loop {
            let slices = slices.list();
            let learned = urls(slices.iter().map(Arc::as_ref));
            // An empty list is ignored: with the former list the node can still connect.
            if !learned.is_empty() && learned != membership.learned {
                membership.learned = learned;
                if let Err(error) = apply(&servers, &store, &membership).await {
                    let error = chain(&error);
                    tracing::error!("the list of servers is not stored: {error}");
                }
            }
            if changes.next().await.is_none() {
                return;
            }
        }
    };
    component.shutdown.run_until_cancelled(following).await;
}

/// Replaces the servers of the client by those of a membership, and stores the membership.
async fn apply(
    servers: &Servers,
    store: &Arc<MembershipStore>,
    membership: &Membership,
) -> Result<()> {
    servers.replace(membership.urls()?);
    let (store, membership) = (Arc::clone(store), membership.clone());
    blocking(move || store.write(&membership)).await
}

/// The URLs of the servers behind the Service, sorted.
fn urls<'a>(slices: impl Iterator<Item = &'a EndpointSlice>) -> Vec<String> {
    let mut urls: Vec<String> = slices.flat_map(of_slice).collect();
    urls.sort_unstable();
    urls.dedup();
    urls
}

fn of_slice(slice: &EndpointSlice) -> Vec<String> {
    let mut ports = slice.ports.iter().flatten();
    let Some(port) = ports.find_map(|port| port.port) else {
        return Vec::new();
    };
    let addresses = slice
        .endpoints
        .iter()
        .flatten()
        .flat_map(|endpoint| &endpoint.addresses);
    let urls = addresses.filter_map(|address| match address.parse().ok()? {
        IpAddr::V4(v4) => Some(format!("https://{v4}:{port}")),
        IpAddr::V6(v6) => Some(format!("https://[{v6}]:{port}")),
    });
    urls.filter(|url| url.parse::<Uri>().is_ok()).collect()
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    #[test]
    fn the_servers_are_the_endpoints_of_the_service() {
        let slice = |port, addresses: &[&str]| -> EndpointSlice {
            let object = json!({"addressType": "IPv4", "metadata": {},
                "endpoints": [{"addresses": addresses}],
                "ports": [{"name": "https", "port": port}]});
            json_tree::from_value(object).unwrap()
        };
        let slices = [
            slice(json!(6443), &["192.0.2.2", "192.0.2.1", "name"]),
            slice(json!(6443), &["192.0.2.1", "2001:db8::1"]),
            slice(json!(null), &["192.0.2.9"]),
        ];
        let expected = [
            "https://192.0.2.1:6443",
            "https://192.0.2.2:6443",
            "https://[2001:db8::1]:6443",
        ];
        assert_eq!(urls(slices.iter()), expected);
        assert!(urls([].iter()).is_empty());
    }
}
