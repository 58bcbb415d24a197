//! The address ranges of a cluster with nodes on other machines. They are stored at the first start, because
//! pods and Services have addresses in them.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, Result, bail};
use data_directory::store_record;
use host_kernel::durable_file::{self, Durability};
use mvcc_store::Store;
use pod_network::{Cidr, RequestedRanges};
use resource_kinds::PodRanges;
use serde::{Deserialize, Serialize};

/// The file with the ranges in the data directory.
const FILE: &str = "cluster.json";
/// The key of the record in a shared store.
pub const KEY: &[u8] = b"/mainstay/cluster-network";
/// The default prefix length of the range of all pods.
const POD_PREFIX: u8 = 16;
/// The default prefix length of a node's range, as in kube-controller-manager.
const NODE_PREFIX: u8 = 24;

/// The ranges of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterNetwork {
    /// Addresses of the pods of all nodes.
    pub pod_cidr: Cidr,
    /// Prefix length of the range of each node.
    pub node_cidr_mask_size: u8,
    /// Addresses of Services (`clusterIP`).
    pub service_cidr: Cidr,
}

/// The ranges that the user named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestedNetwork {
    /// Addresses of the pods of all nodes.
    pub pod_cidr: Option<Cidr>,
    /// Prefix length of the range of each node.
    pub node_cidr_mask_size: Option<u8>,
    /// Addresses of Services (`clusterIP`).
    pub service_cidr: Option<Cidr>,
}

/// The ranges for the cluster of a data directory: those of its first start, or the user's ranges and the
/// defaults. Writes nothing.
///
/// # Errors
/// The user's ranges differ from those of the first start, the ranges contradict each other, or a file cannot
/// be read.
pub fn choose(data: &Path, requested: &RequestedNetwork) -> Result<ClusterNetwork> {
    let stored = stored(data)?;
    // The ranges of `mainstay up`, if it has run on this directory before.
    let of_up = pod_network::ranges::read(&data.join("network/ranges.json"))?;
    plan(requested, stored, of_up.map(|ranges| ranges.service))
}

/// The ranges that an earlier start or a restore has written.
///
/// # Errors
/// The file cannot be read.
pub fn stored(data: &Path) -> Result<Option<ClusterNetwork>> {
    read(&data.join(FILE))
}

/// The ranges of the cluster of a shared store: those of its first server, or `chosen` if this is the first
/// server.
///
/// # Errors
/// The user's ranges differ, or the store cannot be read or written.
pub async fn agree(
    store: &dyn Store,
    requested: &RequestedNetwork,
    chosen: ClusterNetwork,
) -> Result<ClusterNetwork> {
    let proposed = serde_json::to_vec(&chosen).context("encode the ranges")?;
    let recorded = store_record::read_or_write(store, KEY, &proposed.into()).await;
    let recorded = recorded.context("read the ranges of the cluster")?;
    let recorded = serde_json::from_slice(&recorded).context("read the ranges of the cluster")?;
    plan(requested, Some(recorded), None)
}

/// The range of the pods of all nodes that contains the range of one node.
pub fn all_pods(of_node: Cidr) -> Cidr {
    Cidr::new(of_node.network(), POD_PREFIX)
}

fn plan(
    requested: &RequestedNetwork,
    stored: Option<ClusterNetwork>,
    services_of_up: Option<Cidr>,
) -> Result<ClusterNetwork> {
    let default = RequestedRanges::default();
    let chosen = stored.unwrap_or(ClusterNetwork {
        pod_cidr: requested.pod_cidr.unwrap_or(all_pods(default.pod)),
        node_cidr_mask_size: requested.node_cidr_mask_size.unwrap_or(NODE_PREFIX),
        service_cidr: services_of_up
            .or(requested.service_cidr)
            .unwrap_or(default.service),
    });
    let ClusterNetwork {
        pod_cidr,
        node_cidr_mask_size: prefix,
        service_cidr,
    } = chosen;
    let others = [
        differs("--pod-cidr", requested.pod_cidr, pod_cidr),
        differs("--service-cidr", requested.service_cidr, service_cidr),
        differs(
            "--node-cidr-mask-size",
            requested.node_cidr_mask_size,
            prefix,
        ),
    ];
    if let Some(other) = others.into_iter().flatten().next() {
        bail!("{other}");
    }
    chosen.pod_ranges()?;
    if pod_cidr.overlaps(&service_cidr) {
        bail!("the pod range {pod_cidr} and the Service range {service_cidr} overlap");
    }
    Ok(chosen)
}

fn differs<T: PartialEq + std::fmt::Display>(
    flag: &str,
    requested: Option<T>,
    used: T,
) -> Option<String> {
    let requested = requested.filter(|requested| *requested != used)?;
    Some(format!(
        "{flag} {requested}: this cluster uses {used} since its first start"
    ))
}

impl ClusterNetwork {
    /// The ranges for the nodes.
    ///
    /// # Errors
    /// The prefix length of nodes does not fit the range of all pods.
    pub fn pod_ranges(&self) -> Result<PodRanges> {
        let prefix = self.node_cidr_mask_size;
        let ranges = PodRanges::new(self.pod_cidr, prefix);
        ranges.with_context(|| format!("--node-cidr-mask-size {prefix}"))
    }

    /// Stores the ranges.
    ///
    /// # Errors
    /// Errors of the disk.
    pub fn store(&self, data: &Path) -> Result<()> {
        let path = data.join(FILE);
        let text = serde_json::to_vec(self).context("encode the ranges")?;
        durable_file::replace(&path, &text, 0o600, Durability::Name)
            .with_context(|| format!("write {}", path.display()))
    }
}

fn read(path: &Path) -> Result<Option<ClusterNetwork>> {
    match fs::read(path) {
        Ok(bytes) => {
            let read = serde_json::from_slice(&bytes);
            read.map(Some)
                .with_context(|| format!("read {}", path.display()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn the_ranges_of_the_first_start_stay() {
        let data = tempfile::tempdir().unwrap();
        let first = choose(data.path(), &RequestedNetwork::default()).unwrap();
        let expected = ClusterNetwork {
            pod_cidr: cidr("10.244.0.0/16"),
            node_cidr_mask_size: 24,
            service_cidr: cidr("10.96.0.0/16"),
        };
        assert_eq!(first, expected);
        first.store(data.path()).unwrap();
        let same = RequestedNetwork {
            pod_cidr: Some(cidr("10.244.0.0/16")),
            ..RequestedNetwork::default()
        };
        assert_eq!(choose(data.path(), &same).unwrap(), first);
        let other = RequestedNetwork {
            node_cidr_mask_size: Some(25),
            ..RequestedNetwork::default()
        };
        let error = choose(data.path(), &other).unwrap_err().to_string();
        assert_eq!(
            error,
            "--node-cidr-mask-size 25: this cluster uses 24 since its first start"
        );
    }

    #[test]
    fn services_of_a_cluster_of_one_machine_keep_their_addresses() {
        let services = Some(cidr("10.98.0.0/16"));
        let chosen = plan(&RequestedNetwork::default(), None, services).unwrap();
        assert_eq!(chosen.service_cidr, cidr("10.98.0.0/16"));
        let requested = RequestedNetwork {
            service_cidr: Some(cidr("10.99.0.0/16")),
            ..RequestedNetwork::default()
        };
        plan(&requested, None, services).unwrap_err();
    }

    #[test]
    fn ranges_that_make_no_sense_are_refused() {
        let requested = |pod: &str, prefix: u8, service: &str| RequestedNetwork {
            pod_cidr: Some(cidr(pod)),
            node_cidr_mask_size: Some(prefix),
            service_cidr: Some(cidr(service)),
        };
        for (requested, error) in [
            (
                requested("10.0.0.0/16", 15, "10.96.0.0/16"),
                "from 16 to 30",
            ),
            (
                requested("10.0.0.0/16", 31, "10.96.0.0/16"),
                "from 16 to 30",
            ),
            (requested("10.0.0.0/8", 24, "10.96.0.0/16"), "overlap"),
        ] {
            let refused = format!("{:#}", plan(&requested, None, None).unwrap_err());
            assert!(refused.contains(error), "{refused}");
        }
    }
}
