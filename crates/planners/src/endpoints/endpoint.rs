//! One pod behind a Service.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{
    Container, ObjectReference, Service, ServicePort as PortOfService,
};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use resource_kinds::pod_view::PodView;

use super::plan::Observed;

/// A pod with its ports and conditions.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Backend {
    pub endpoint: Endpoint,
    pub ports: Vec<EndpointPort>,
    pub ready: bool,
    pub terminating: bool,
}

/// `IPv4` or `IPv6`, as in `addressType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    fn has(self, address: &str) -> bool {
        match address.parse() {
            Ok(IpAddr::V4(_)) => self == Self::V4,
            Ok(IpAddr::V6(_)) => self == Self::V6,
            Err(_) => false,
        }
    }
}

/// The IP families of a Service; IPv4 by default.
pub(super) fn families(service: &Service) -> Vec<Family> {
    let named = service
        .spec
        .as_ref()
        .and_then(|spec| spec.ip_families.as_ref());
    let mut families: Vec<Family> = named
        .into_iter()
        .flatten()
        .map(|name| {
            if name == "IPv6" {
                Family::V6
            } else {
                Family::V4
            }
        })
        .collect();
    families.dedup();
    if families.is_empty() {
        families.push(Family::V4);
    }
    families
}

pub(super) fn is_headless(service: &Service) -> bool {
    service
        .spec
        .as_ref()
        .and_then(|spec| spec.cluster_ip.as_deref())
        == Some("None")
}

pub(super) fn publishes_not_ready(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.and_then(|spec| spec.publish_not_ready_addresses)
        .unwrap_or_default()
}

/// The pods of a Service in one IP family, by name.
pub(super) fn backends(observed: &Observed, service: &Service, family: Family) -> Vec<Backend> {
    let pods = observed.pods.iter();
    let mut backends: Vec<Backend> = pods
        .filter_map(|pod| backend(observed, service, pod, family))
        .collect();
    backends.sort_by(|a, b| name_of(&a.endpoint).cmp(name_of(&b.endpoint)));
    backends
}

pub(super) fn name_of(endpoint: &Endpoint) -> &str {
    endpoint
        .target_ref
        .as_ref()
        .and_then(|target| target.name.as_deref())
        .unwrap_or_default()
}

fn backend(
    observed: &Observed,
    service: &Service,
    pod: &PodView,
    family: Family,
) -> Option<Backend> {
    // An ended pod serves no more, and its address may belong to another pod.
    if pod.has_ended() {
        return None;
    }
    let mut addresses = pod.addresses.iter();
    let address = addresses.find(|address| family.has(address))?;
    let serving = pod.ready().is_some();
    let terminating = pod.is_deleting();
    let ready = publishes_not_ready(service) || (serving && !terminating);
    let node_name = pod.node.as_ref().map(ToString::to_string);
    let reference = pod.reference();
    let zone = node_name
        .as_ref()
        .and_then(|node| observed.zones.get(node))
        .cloned();
    let hints = hints(service, ready, node_name.as_ref(), zone.as_ref());
    Some(Backend {
        endpoint: Endpoint {
            addresses: vec![address.to_string()],
            conditions: Some(EndpointConditions {
                ready: Some(ready),
                serving: Some(serving),
                terminating: Some(terminating),
            }),
            hostname: hostname(service, pod),
            node_name,
            zone,
            hints,
            target_ref: Some(ObjectReference {
                api_version: None,
                resource_version: None,
                ..reference
            }),
            ..Endpoint::default()
        },
        ports: ports(service, pod),
        ready: serving,
        terminating,
    })
}

/// The nodes and zones that a ready endpoint is meant for, by the Service's `trafficDistribution` (KEP-4444,
/// KEP-3015).
fn hints(
    service: &Service,
    ready: bool,
    node: Option<&String>,
    zone: Option<&String>,
) -> Option<EndpointHints> {
    let spec = service.spec.as_ref()?;
    let by_node = match spec.traffic_distribution.as_deref()? {
        "PreferSameNode" => true,
        "PreferSameZone" | "PreferClose" => false,
        _ => return None,
    };
    let node = node.filter(|_| by_node).cloned();
    let hints = EndpointHints {
        for_nodes: node.map(|name| vec![ForNode { name }]),
        for_zones: zone.map(|name| vec![ForZone { name: name.clone() }]),
    };
    Some(hints).filter(|hints| ready && *hints != EndpointHints::default())
}

/// The host name of a pod: only if its `subdomain` is the Service.
fn hostname(service: &Service, pod: &PodView) -> Option<String> {
    let subdomain = &pod.spec.subdomain;
    let asked = subdomain.is_some() && *subdomain == service.metadata.name;
    let same = *pod.namespace == *service.metadata.namespace.as_deref().unwrap_or_default();
    let hostname = pod.hostname.as_ref().filter(|_| asked && same)?;
    Some(hostname.to_string())
}

/// The Service's ports on the pod; a named port that the pod lacks is left out.
fn ports(service: &Service, pod: &PodView) -> Vec<EndpointPort> {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
    let found = ports.into_iter().flatten().filter_map(|port| {
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
        let number = port_number(pod, port, &protocol)?;
        Some(EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            protocol: Some(protocol),
            port: Some(number),
            app_protocol: port.app_protocol.clone(),
        })
    });
    found.collect()
}

fn port_number(pod: &PodView, port: &PortOfService, protocol: &str) -> Option<i32> {
    match &port.target_port {
        None | Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let spec = &pod.spec;
            let sidecars = spec.init_containers.iter().flatten();
            let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
            let ports = |container: &Container| {
                let ports = container.ports.iter().flatten();
                let named = ports.into_iter().find(|port| {
                    port.name.as_deref() == Some(name)
                        && port.protocol.as_deref().unwrap_or("TCP") == protocol
                });
                named.map(|port| port.container_port)
            };
            spec.containers.iter().chain(sidecars).find_map(ports)
        }
    }
}
