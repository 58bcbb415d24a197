//! Objects with which the server publishes the DNS address and the ranges of the cluster.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Service;
use kube_api_client::{Api, Patch, PatchParams};
use resource_kinds::namespaces::KUBE_SYSTEM;

use super::Server;
use crate::cluster_ranges::{ClusterRanges, DNS_SERVICE};

/// The field manager of the objects that the program creates.
const MANAGER: &str = "mainstay-up";

/// Creates the Service of the cluster's DNS, which reserves its address. The Service has no endpoints: each
/// node answers on that address itself. Nodes on other machines read the ranges of the cluster from its
/// annotations.
pub async fn announce_dns(
    server: &Server,
    address: Ipv4Addr,
    ranges: Option<ClusterRanges>,
) -> Result<()> {
    let annotations = ranges.map(|ranges| ranges.annotations());
    let object = json_tree::json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": DNS_SERVICE,
            "namespace": KUBE_SYSTEM,
            "annotations": annotations.unwrap_or_default(),
            "labels": {
                "k8s-app": "kube-dns",
                "kubernetes.io/cluster-service": "true",
                "kubernetes.io/name": "mainstay-dns",
            },
        },
        "spec": {
            "clusterIP": address.to_string(),
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP"},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
            ],
        },
    });
    let client = server.client("mainstay-admin", &["system:masters"]);
    let services: Api<Service> = Api::namespaced(client, KUBE_SYSTEM);
    let params = PatchParams::apply(MANAGER).force();
    let patch = Patch::Apply(object);
    let applied = services.patch(DNS_SERVICE, &params, &patch).await;
    applied.context("create the Service of the cluster's DNS")?;
    Ok(())
}
