//! The address ranges of a cluster, as the server publishes them for nodes: in annotations of the Service of
//! the cluster's DNS, which nodes may read.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Service;
use pod_network::Cidr;

/// The Service of the cluster's DNS.
pub const DNS_SERVICE: &str = "kube-dns";
/// The annotation with the range of the pods of all nodes.
const PODS: &str = "network.mainstay.dev/pod-cidr";
/// The annotation with the range of Services.
const SERVICES: &str = "network.mainstay.dev/service-cidr";

/// The address ranges of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterRanges {
    /// Addresses of the pods of all nodes.
    pub pods: Cidr,
    /// Addresses of Services (`clusterIP`).
    pub services: Cidr,
}

impl ClusterRanges {
    pub fn annotations(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            (PODS, self.pods.to_string()),
            (SERVICES, self.services.to_string()),
        ])
    }

    /// The ranges in the annotations of the Service; `None` in a cluster of one machine.
    pub fn of(service: &Service) -> Option<Self> {
        let annotations = service.metadata.annotations.as_ref()?;
        let range = |key: &str| annotations.get(key)?.parse().ok();
        Some(Self {
            pods: range(PODS)?,
            services: range(SERVICES)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_read_the_ranges_that_the_server_told() {
        let ranges = ClusterRanges {
            pods: "10.244.0.0/16".parse().unwrap(),
            services: "10.96.0.0/16".parse().unwrap(),
        };
        let annotations = ranges.annotations().into_iter();
        let mut service = Service::default();
        assert_eq!(ClusterRanges::of(&service), None);
        service.metadata.annotations = Some(
            annotations
                .map(|(key, text)| (key.to_owned(), text))
                .collect(),
        );
        assert_eq!(ClusterRanges::of(&service), Some(ranges));
    }
}
