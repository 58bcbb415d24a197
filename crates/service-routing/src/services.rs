//! Services and their EndpointSlices, parsed into one plain value per Service port.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{Service, ServiceSpec, ServiceStatus};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use object_model::cidr::Cidr;
use object_model::{ObjectKey, Uid};
use resource_kinds::MetadataIdentity;
use resource_kinds::discovery::service_of;
use resource_kinds::labels;

use crate::endpoints::{self, Endpoint, Endpoints, ProxyNode};
use crate::model::Protocol;

/// Labels of a Service that is served by another proxy or by no proxy. EndpointSlices with such a label are left out,
/// too; as kube-proxy.
const LABELS_NOT_SERVED: [&str; 2] = ["service.kubernetes.io/service-proxy-name", labels::HEADLESS];

/// Default session affinity time: three hours.
const AFFINITY_TIMEOUT_SECONDS: u32 = 10_800;

/// Session affinity by client address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// Seconds after its last connection until the endpoint of a client is forgotten.
    pub timeout_seconds: u32,
}

/// The age of a Service: the older of two Services that claim one address and port keeps it. An older age is less.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceAge {
    /// The second of its creation.
    pub created: Option<i64>,
    /// Its UID, which decides between two Services of one second.
    pub uid: Option<Uid>,
}

impl ServiceAge {
    /// The age in the metadata of a Service.
    pub fn from_metadata(metadata: &ObjectMeta) -> ServiceAge {
        let created = metadata.creation_timestamp.as_ref();
        ServiceAge {
            created: created.map(|time| time.0.as_second()),
            uid: metadata.object_uid().ok(),
        }
    }
}

/// One port of a Service, with everything that decides its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// `<namespace>/<service>/<protocol>/<port>`; unique.
    pub id: String,
    /// The age of the Service.
    pub age: ServiceAge,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The port on the Service's addresses.
    pub port: u16,
    /// The `clusterIP`.
    pub cluster_ip: Ipv4Addr,
    /// External addresses of the Service: `externalIPs`.
    pub external_ips: Vec<Ipv4Addr>,
    /// Addresses of the load balancer.
    pub load_balancer_ips: Vec<Ipv4Addr>,
    /// Allowed clients of the load balancer's addresses; all if empty.
    pub source_ranges: Vec<Cidr>,
    /// Port on the node's own addresses.
    pub node_port: Option<u16>,
    /// Whether clients stay with their endpoint.
    pub affinity: Option<Affinity>,
    /// Connections to the cluster address must stay on this node.
    pub internal_local: bool,
    /// Connections to external addresses must stay on this node.
    pub external_local: bool,
    /// The pods that connections are forwarded to.
    pub endpoints: Endpoints,
}

impl ServicePort {
    /// The endpoints on this node (`local`), or on all nodes.
    pub(crate) fn endpoints_at(&self, local: bool) -> &[Endpoint] {
        match local {
            true => &self.endpoints.local,
            false => &self.endpoints.cluster,
        }
    }
}

/// Parses all Services that this proxy serves; sorted by namespace, name and the order of the ports.
///
/// Left out, as in kube-proxy: headless Services, `ExternalName`, Services with the label
/// `service.kubernetes.io/service-proxy-name` or `service.kubernetes.io/headless` (whatever its value is), and Services
/// without an IPv4 address.
pub fn ports<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    here: impl Into<ProxyNode<'a>>,
) -> Vec<ServicePort> {
    let here = here.into();
    let mut by_service: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in slices {
        if let Some(key) = service_of(slice).filter(|_| is_served(&slice.metadata)) {
            by_service.entry(key).or_default().push(slice);
        }
    }
    let mut all = Vec::new();
    for service in services {
        let Ok(key) = service.metadata.object_key() else {
            continue;
        };
        let slices = by_service
            .get(&(&*key.namespace, &*key.name))
            .map_or(&[][..], Vec::as_slice);
        all.extend(ports_of(service, &key, slices, here));
    }
    all
}

fn ports_of(
    service: &Service,
    key: &ObjectKey,
    slices: &[&EndpointSlice],
    here: ProxyNode<'_>,
) -> Vec<ServicePort> {
    let spec = spec_of(service);
    let Some((spec, cluster_ip)) = spec.and_then(|spec| Some((spec, cluster_ip(spec)?))) else {
        return Vec::new();
    };
    let ObjectKey { namespace, name } = key;
    let is_local = |policy: &Option<String>| policy.as_deref() == Some("Local");
    let mut ports = Vec::new();
    for port in spec.ports.iter().flatten() {
        let protocol = Protocol::of(port.protocol.as_deref());
        let number = u16::try_from(port.port).ok().filter(|number| *number != 0);
        let (Some(protocol), Some(number)) = (protocol, number) else {
            continue;
        };
        let port_name = port.name.as_deref().unwrap_or_default();
        ports.push(ServicePort {
            id: format!("{namespace}/{name}/{protocol}/{number}"),
            age: ServiceAge::from_metadata(&service.metadata),
            protocol,
            port: number,
            cluster_ip,
            external_ips: spec
                .external_ips
                .iter()
                .flatten()
                .filter_map(|text| endpoints::host_address(text))
                .collect(),
            load_balancer_ips: load_balancer_ips(service.status.as_ref()),
            source_ranges: source_ranges(spec),
            node_port: port
                .node_port
                .and_then(|p| u16::try_from(p).ok())
                .filter(|p| *p != 0),
            affinity: affinity(spec),
            internal_local: is_local(&spec.internal_traffic_policy),
            external_local: is_local(&spec.external_traffic_policy),
            endpoints: endpoints::choose(slices.iter().copied(), port_name, protocol, here),
        });
    }
    ports
}

/// The health check of a Service on a node for external load balancers, which send connections only
/// to nodes with endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// Port of the node at which the health check is served.
    pub port: u16,
    /// Ready endpoints on this node.
    pub local_endpoints: usize,
}

/// Parses the health check of a Service; `None` if it has none: only the type LoadBalancer with `externalTrafficPolicy:
/// Local` has a health check.
pub fn health_check<'a>(
    service: &Service,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    node_name: &str,
) -> Option<HealthCheck> {
    let spec = spec_of(service)?;
    let is_local = spec.external_traffic_policy.as_deref() == Some("Local");
    let is_balanced = spec.type_.as_deref() == Some("LoadBalancer");
    let port = spec.health_check_node_port;
    let port = port.and_then(|port| u16::try_from(port).ok());
    let port = port.filter(|port| *port != 0 && is_local && is_balanced)?;
    Some(HealthCheck {
        port,
        local_endpoints: endpoints::ready_here(slices, node_name),
    })
}

/// The specification of a Service; `None` if this proxy does not serve the Service.
fn spec_of(service: &Service) -> Option<&ServiceSpec> {
    service
        .spec
        .as_ref()
        .filter(|_| is_served(&service.metadata))
}

fn is_served(metadata: &ObjectMeta) -> bool {
    let labels = metadata.labels.as_ref();
    let has = |label: &str| labels.is_some_and(|labels| labels.contains_key(label));
    let is_of_others = LABELS_NOT_SERVED.iter().any(|label| has(label));
    if is_of_others {
        cov_mark::hit!(findings_c9);
    }
    !is_of_others
}

fn cluster_ip(spec: &ServiceSpec) -> Option<Ipv4Addr> {
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let all = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    all.filter_map(|text| text.parse().ok()).next()
}

fn affinity(spec: &ServiceSpec) -> Option<Affinity> {
    (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let config = spec
            .session_affinity_config
            .as_ref()
            .and_then(|c| c.client_ip.as_ref());
        let seconds = config.and_then(|client| client.timeout_seconds);
        let seconds = seconds.and_then(|seconds| u32::try_from(seconds).ok());
        Affinity {
            timeout_seconds: seconds.unwrap_or(AFFINITY_TIMEOUT_SECONDS),
        }
    })
}

fn load_balancer_ips(status: Option<&ServiceStatus>) -> Vec<Ipv4Addr> {
    let ingress = status.and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
    let ours = ingress.into_iter().flatten().filter(|ingress| {
        // A load balancer with the mode `Proxy` forwards connections to the pods or nodes itself.
        ingress.ip_mode.as_deref().is_none_or(|mode| mode == "VIP")
    });
    ours.filter_map(|ingress| endpoints::host_address(ingress.ip.as_ref()?))
        .collect()
}

fn source_ranges(spec: &ServiceSpec) -> Vec<Cidr> {
    let texts = spec.load_balancer_source_ranges.iter().flatten();
    texts.filter_map(|text| text.trim().parse().ok()).collect()
}
