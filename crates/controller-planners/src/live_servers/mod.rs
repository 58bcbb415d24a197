//! The live servers of a cluster, and the endpoints of its Service `kubernetes`.
//!
//! **Goal**: Endpoints and EndpointSlices of `default/kubernetes` name every live server. **Relies on**: each server
//! renews a Lease in `kube-system`, named and labelled as kube-apiserver's identity (KEP-1965), with its address in an
//! annotation. **Guarantees**: a server counts as dead only after this observer has read its Lease unchanged for the
//! Lease's length, by its local monotonic clock; the observer's own address always counts as live.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use jiff::SignedDuration;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointPort as SlicePort, EndpointSlice,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use object_model::{IncompleteMetadata, ResourceVersion, Uid};
use resource_kinds::MetadataIdentity;

/// The length of a server's Lease.
pub const LENGTH: SignedDuration = SignedDuration::from_secs(15);
/// The time between two renewals, and between two checks of the other servers.
pub const RENEW: SignedDuration = SignedDuration::from_secs(5);
/// The label of the Leases.
pub const IDENTITY_LABEL: (&str, &str) = ("apiserver.kubernetes.io/identity", "kube-apiserver");
/// The annotation with the address and port at which nodes and pods reach the server.
pub const ADDRESS: &str = "network.mainstay.dev/advertise-address";
/// The Service, its Endpoints and the first of its slices.
pub const SERVICE: &str = "kubernetes";
/// The namespace of the Service.
pub const NAMESPACE: &str = "default";

/// The Lease of a server, whose renewals show that the server is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerLease {
    /// Name of the Lease.
    pub name: String,
    pub uid: Uid,
    /// The version that was read.
    pub version: ResourceVersion,
    /// The address; `None` for a Lease that another program created.
    pub address: Option<SocketAddr>,
    /// `leaseDurationSeconds`.
    pub length: SignedDuration,
}

impl TryFrom<&Lease> for ServerLease {
    type Error = IncompleteMetadata;

    fn try_from(lease: &Lease) -> Result<Self, Self::Error> {
        let meta = &lease.metadata;
        let annotations = meta.annotations.as_ref();
        let address = annotations.and_then(|all| all.get(ADDRESS)?.parse().ok());
        let spec = lease.spec.as_ref();
        let seconds = spec.and_then(|spec| spec.lease_duration_seconds);
        Ok(Self {
            name: meta.object_name()?.to_owned(),
            uid: meta.object_uid()?,
            version: meta.object_version()?,
            address,
            length: seconds.map_or(LENGTH, |seconds| SignedDuration::from_secs(seconds.into())),
        })
    }
}

/// The servers, as observed by one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveServersPlan {
    /// The addresses of the live servers, in order.
    pub live: Vec<SocketAddr>,
    /// The Leases of the dead servers, which are deleted in the observed version.
    pub dead: Vec<ServerLease>,
}

/// Divides the servers into live and dead by the time for which this observer has read each Lease unchanged. Total.
pub fn plan(
    local_name: &str,
    local_address: SocketAddr,
    leases: impl IntoIterator<Item = (ServerLease, SignedDuration)>,
) -> LiveServersPlan {
    let mut live = vec![local_address];
    let mut dead = Vec::new();
    for (lease, unchanged_for) in leases {
        // The Lease was created by another program and does not belong to a server of mainstay.
        let Some(address) = lease.address else {
            continue;
        };
        if lease.name == local_name {
            continue;
        }
        if unchanged_for < lease.length {
            live.push(address);
        } else {
            dead.push(lease);
        }
    }
    live.sort_unstable();
    live.dedup();
    LiveServersPlan { live, dead }
}

/// The addresses that a pod can reach, by port. Loopback addresses are left out, because inside a pod a loopback
/// address is the pod itself.
fn by_port(live: &[SocketAddr]) -> BTreeMap<u16, Vec<String>> {
    let mut ports: BTreeMap<u16, Vec<String>> = BTreeMap::new();
    let reachable = live
        .iter()
        .filter(|address| address.is_ipv4() && !address.ip().is_loopback());
    for address in reachable {
        let of_port = ports.entry(address.port()).or_default();
        of_port.push(address.ip().to_string());
    }
    ports
}

/// The subsets of the Endpoints: one for each port.
pub fn subsets(live: &[SocketAddr]) -> Vec<EndpointSubset> {
    let subset = |(port, addresses): (u16, Vec<String>)| EndpointSubset {
        addresses: Some(
            addresses
                .into_iter()
                .map(|ip| EndpointAddress {
                    ip,
                    ..EndpointAddress::default()
                })
                .collect(),
        ),
        ports: Some(vec![EndpointPort {
            name: Some("https".to_owned()),
            port: port.into(),
            protocol: Some("TCP".to_owned()),
            ..EndpointPort::default()
        }]),
        ..EndpointSubset::default()
    };
    by_port(live).into_iter().map(subset).collect()
}

/// The slices: a slice has one set of ports, so servers with several ports (on one machine) have several slices. The
/// slice of the lowest port has the name of the Service.
pub fn slices(live: &[SocketAddr]) -> Vec<EndpointSlice> {
    let slice = |(at, (port, addresses)): (usize, (u16, Vec<String>))| EndpointSlice {
        metadata: ObjectMeta {
            name: Some(match at {
                0 => SERVICE.to_owned(),
                _ => format!("{SERVICE}-{port}"),
            }),
            namespace: Some(NAMESPACE.to_owned()),
            labels: Some(BTreeMap::from([(
                "kubernetes.io/service-name".to_owned(),
                SERVICE.to_owned(),
            )])),
            ..ObjectMeta::default()
        },
        address_type: "IPv4".to_owned(),
        endpoints: Some(
            addresses
                .into_iter()
                .map(|ip| Endpoint {
                    addresses: vec![ip],
                    conditions: Some(EndpointConditions {
                        ready: Some(true),
                        ..EndpointConditions::default()
                    }),
                    ..Endpoint::default()
                })
                .collect(),
        ),
        ports: Some(vec![SlicePort {
            name: Some("https".to_owned()),
            port: Some(port.into()),
            protocol: Some("TCP".to_owned()),
            ..SlicePort::default()
        }]),
    };
    by_port(live).into_iter().enumerate().map(slice).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(name: &str, address: &str, silent: i64) -> (ServerLease, SignedDuration) {
        let lease = ServerLease {
            name: name.to_owned(),
            uid: "u".parse().unwrap(),
            version: "1".parse().unwrap(),
            address: address.parse().ok(),
            length: LENGTH,
        };
        (lease, SignedDuration::from_secs(silent))
    }

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_server_is_dead_after_the_length_of_its_lease() {
        let local = "192.0.2.2:6443".parse().unwrap();
        let leases = [
            lease("b", "192.0.2.9:6443", 99),
            lease("c", "192.0.2.1:6443", 14),
            lease("d", "192.0.2.3:6443", 15),
            lease("kube", "", 99),
        ];
        let plan = plan("b", local, leases);
        assert_eq!(plan.live, addresses(&["192.0.2.1:6443", "192.0.2.2:6443"]));
        let dead: Vec<&str> = plan.dead.iter().map(|lease| lease.name.as_str()).collect();
        assert_eq!(dead, ["d"], "the own one and a foreign one are left alone");
    }

    #[test]
    fn endpoints_name_each_address_with_its_port() {
        let live = addresses(&[
            "127.0.0.1:6443",
            "192.0.2.1:6443",
            "192.0.2.1:7443",
            "192.0.2.2:6443",
        ]);
        let subsets = subsets(&live);
        let of = |at: usize| -> Vec<&str> {
            let addresses = subsets[at].addresses.iter().flatten();
            addresses.map(|address| address.ip.as_str()).collect()
        };
        assert_eq!(of(0), ["192.0.2.1", "192.0.2.2"]);
        assert_eq!(of(1), ["192.0.2.1"]);
        let slices = slices(&live);
        let names: Vec<_> = slices
            .iter()
            .filter_map(|slice| slice.metadata.name.as_deref())
            .collect();
        assert_eq!(names, ["kubernetes", "kubernetes-7443"]);
        assert_eq!(slices[0].endpoints.as_ref().map(Vec::len), Some(2));
        assert!(super::subsets(&addresses(&["127.0.0.1:6443"])).is_empty());
    }

    #[test]
    fn an_identity_lease_is_read() {
        let object = json_tree::json!({
            "metadata": {"name": "apiserver-a", "uid": "1", "resourceVersion": "7",
                "annotations": {ADDRESS: "192.0.2.1:6443"}},
            "spec": {"leaseDurationSeconds": 20},
        });
        let object: Lease = json_tree::from_value(object).unwrap();
        let read = ServerLease::try_from(&object).unwrap();
        assert_eq!(read.address, "192.0.2.1:6443".parse().ok());
        assert_eq!(read.length, SignedDuration::from_secs(20));
        assert!(ServerLease::try_from(&Lease::default()).is_err());
    }
}
