//! One pod behind a Service.

use std::net::IpAddr;
use std::rc::Rc;

use k8s_openapi::api::core::v1::{
    Container, ObjectReference, Service, ServicePort as PortOfService,
};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use resource_kinds::pod_view::{PodView, Text};

use super::plan::Observed;

/// A pod with its ports and conditions. The fields are borrowed, because most pods are in a slice already, and their
/// endpoint does not change.
#[derive(Clone, Debug)]
pub(super) struct Backend<'o> {
    pub pod: &'o PodView,
    pub address: &'o str,
    /// Set only if the pod's `subdomain` is the name of the Service.
    pub hostname: Option<&'o str>,
    zone: Option<&'o str>,
    hints: Option<Hints>,
    /// Shared by pods whose ports cannot differ.
    pub ports: Rc<[EndpointPort]>,
    /// Whether clients may use the endpoint: the pod serves and is not being deleted, or the Service publishes all
    /// pods.
    is_published: bool,
    pub ready: bool,
    pub terminating: bool,
}

/// The clients that an endpoint is meant for: those of its node, or of its zone.
#[derive(Clone, Copy, Debug)]
enum Hints {
    Node,
    Zone,
}

impl Backend<'_> {
    /// The endpoint in a slice.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint {
            addresses: vec![self.address.to_owned()],
            conditions: Some(EndpointConditions {
                ready: Some(self.is_published),
                serving: Some(self.ready),
                terminating: Some(self.terminating),
            }),
            hostname: self.hostname.map(str::to_owned),
            node_name: self.pod.node.as_ref().map(ToString::to_string),
            zone: self.zone.map(str::to_owned),
            hints: self.hints(),
            target_ref: Some(self.reference()),
            ..Endpoint::default()
        }
    }

    /// The reference to the pod.
    pub fn reference(&self) -> ObjectReference {
        ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: Some(self.pod.namespace.to_string()),
            name: Some(self.pod.name.to_string()),
            uid: Some(self.pod.uid.to_string()),
            ..ObjectReference::default()
        }
    }

    /// Whether `reference` is the reference to the pod.
    pub fn is_referred_to_by(&self, reference: Option<&ObjectReference>) -> bool {
        let Some(ObjectReference {
            api_version: None,
            field_path: None,
            kind,
            name,
            namespace,
            resource_version: None,
            uid,
        }) = reference
        else {
            return false;
        };
        uid.as_deref().is_some_and(|uid| self.pod.uid == *uid)
            && name.as_deref() == Some(&*self.pod.name)
            && namespace.as_deref() == Some(&*self.pod.namespace)
            && kind.as_deref() == Some("Pod")
    }

    /// Whether `present` is equal to the pod's [`endpoint`](Self::endpoint).
    pub fn is(&self, present: &Endpoint) -> bool {
        let Endpoint {
            addresses,
            conditions: Some(conditions),
            deprecated_topology: None,
            hints,
            hostname,
            node_name,
            target_ref,
            zone,
        } = present
        else {
            return false;
        };
        let [address] = addresses.as_slice() else {
            return false;
        };
        address == self.address
            && conditions.ready == Some(self.is_published)
            && conditions.serving == Some(self.ready)
            && conditions.terminating == Some(self.terminating)
            && hostname.as_deref() == self.hostname
            && node_name.as_deref() == self.pod.node.as_deref()
            && zone.as_deref() == self.zone
            && self.is_referred_to_by(target_ref.as_ref())
            && *hints == self.hints()
    }

    /// The node and zone that a published endpoint is meant for, by the Service's `trafficDistribution` (KEP-4444,
    /// KEP-3015).
    fn hints(&self) -> Option<EndpointHints> {
        let hints = self.hints.filter(|_| self.is_published)?;
        let node = self.pod.node.as_ref();
        let node = node.filter(|_| matches!(hints, Hints::Node));
        let for_node = |node: &Text| ForNode {
            name: node.to_string(),
        };
        let for_zone = |zone: &str| ForZone {
            name: zone.to_owned(),
        };
        let hints = EndpointHints {
            for_nodes: node.map(|node| vec![for_node(node)]),
            for_zones: self.zone.map(|zone| vec![for_zone(zone)]),
        };
        Some(hints).filter(|hints| *hints != EndpointHints::default())
    }
}

impl Hints {
    fn of(service: &Service) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        match spec.traffic_distribution.as_deref()? {
            "PreferSameNode" => Some(Self::Node),
            "PreferSameZone" | "PreferClose" => Some(Self::Zone),
            _ => None,
        }
    }
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
pub(super) fn backends<'o>(
    observed: &'o Observed,
    service: &Service,
    family: Family,
) -> Vec<Backend<'o>> {
    // Ports with a number do not depend on the pod.
    let by_number = ports(service, |_, _| None);
    let named = has_named_port(service);
    let ports_of = |pod: &PodView| match named {
        true => ports(service, |name, protocol| named_port(pod, name, protocol)),
        false => by_number.clone(),
    };
    let pods = observed.pods.iter();
    let mut backends: Vec<Backend<'_>> = pods
        .filter_map(|pod| backend(observed, service, pod, family, ports_of))
        .collect();
    backends.sort_by(|a, b| a.pod.name.cmp(&b.pod.name));
    backends
}

fn backend<'o>(
    observed: &'o Observed,
    service: &Service,
    pod: &'o PodView,
    family: Family,
    ports_of: impl Fn(&PodView) -> Rc<[EndpointPort]>,
) -> Option<Backend<'o>> {
    // An ended pod does not serve, and its address may belong to another pod.
    if pod.has_ended() {
        return None;
    }
    let mut addresses = pod.addresses.iter();
    let address = addresses.find(|address| family.has(address))?;
    let serving = pod.ready().is_some();
    let terminating = pod.is_deleting();
    let zone = pod
        .node
        .as_deref()
        .and_then(|node| observed.zones.get(node));
    Some(Backend {
        pod,
        address,
        hostname: hostname(service, pod),
        zone: zone.map(String::as_str),
        hints: Hints::of(service),
        ports: ports_of(pod),
        is_published: publishes_not_ready(service) || (serving && !terminating),
        ready: serving,
        terminating,
    })
}

/// The host name of a pod: only if its `subdomain` is the Service.
fn hostname<'p>(service: &Service, pod: &'p PodView) -> Option<&'p str> {
    let subdomain = &pod.spec.subdomain;
    let is_requested = subdomain.is_some() && *subdomain == service.metadata.name;
    let has_same_namespace = service.metadata.namespace.as_deref() == Some(&*pod.namespace);
    pod.hostname
        .as_deref()
        .filter(|_| is_requested && has_same_namespace)
}

fn ports_of_service(service: &Service) -> impl Iterator<Item = &PortOfService> {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
    ports.into_iter().flatten()
}

/// Whether the Service names a port of the pods by its name.
fn has_named_port(service: &Service) -> bool {
    ports_of_service(service).any(|port| matches!(port.target_port, Some(IntOrString::String(_))))
}

/// The Service's ports on a pod with the `named` ports; a named port that the pod does not have is left out.
fn ports(service: &Service, named: impl Fn(&str, &str) -> Option<i32>) -> Rc<[EndpointPort]> {
    let resolved = ports_of_service(service).filter_map(|port| {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let number = match &port.target_port {
            None | Some(IntOrString::Int(0)) => port.port,
            Some(IntOrString::Int(number)) => *number,
            Some(IntOrString::String(name)) => named(name, protocol)?,
        };
        Some(EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            protocol: Some(protocol.to_owned()),
            port: Some(number),
            app_protocol: port.app_protocol.clone(),
        })
    });
    resolved.collect()
}

/// The number of a port of a pod's containers and sidecars.
fn named_port(pod: &PodView, name: &str, protocol: &str) -> Option<i32> {
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
