//! The path of a connection from a pod, and the decision of the policies about it. Pure.
//!
//! The policies of the two ends decide, with the labels of both pods and of their namespaces; other objects
//! of the cluster have no influence.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use object_model::cidr::Cidr;
use resource_kinds::pod_view::PodView;
use service_routing::{
    Connection, Direction, Endpoint, Policy, PolicyJudgement, PolicyObjects, PolicyPod, Protocol,
    ServicePort, Table, filters, judge, ports,
};

use super::question::{Destination, PortWord, ServerKind};

/// The objects that decide whether a connection passes.
#[derive(Clone, Debug, Default)]
pub struct ConnectionObjects {
    /// The pods of both namespaces.
    pub pods: Vec<PodView>,
    /// The policies of both namespaces.
    pub policies: Vec<NetworkPolicy>,
    /// The namespaces of the client and of the destination.
    pub namespaces: Vec<Namespace>,
    /// The Service of the question.
    pub service: Option<Service>,
    /// The EndpointSlices of the Service.
    pub slices: Vec<EndpointSlice>,
    /// The addresses of the client's node.
    pub node_addresses: BTreeSet<Ipv4Addr>,
}

/// The addresses of a node: those of its status, and the first one of the range of its pods, which every node
/// has on `lo`.
pub fn addresses_of(node: &Node) -> BTreeSet<Ipv4Addr> {
    let reported = node
        .status
        .iter()
        .flat_map(|status| status.addresses.iter().flatten());
    let reported = reported.filter_map(|address| address.address.parse().ok());
    let range = node.spec.as_ref().and_then(|spec| spec.pod_cidr.as_deref());
    let range: Option<Cidr> = range.and_then(|range| range.parse().ok());
    reported
        .chain(range.and_then(|range| range.nth(1)))
        .collect()
}

/// A connection from a pod to a destination, whose rules are to be explained.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionQuestion<'q> {
    /// Namespace and name of the client.
    pub client: (&'q str, &'q str),
    pub to: &'q Destination,
    /// The namespace of the destination.
    pub namespace: &'q str,
}

/// The reason why the connection cannot be decided.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoAnswer(pub String);

/// The explanation of one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionAnswer {
    pub client: ObjectName,
    /// The requested destination, with its namespace.
    pub destination: ObjectName,
    pub port: u16,
    pub protocol: Protocol,
    /// The cluster IP of the Service, if it has a cluster IP.
    pub cluster_ip: Option<Ipv4Addr>,
    /// The targets: one for a pod, one for each endpoint of a Service.
    pub paths: Vec<ServerPath>,
    pub notes: Vec<String>,
}

/// Kind, namespace and name for users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectName {
    pub kind: &'static str,
    pub namespace: String,
    pub name: String,
}

/// The way to one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerPath {
    pub server: Endpoint,
    /// The pod with the server's address.
    pub pod: Option<ObjectName>,
    pub decision: ConnectionDecision,
}

/// The decision about one way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectionDecision {
    /// Policies do not apply between a pod and its own node.
    OwnNode,
    Policies {
        egress: PolicyDecision,
        ingress: PolicyDecision,
    },
}

/// The decision at one end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyDecision {
    /// No policy selects it.
    Open,
    /// The pod connects to itself.
    Itself,
    /// These policies allow the connection.
    Allowed(Vec<String>),
    /// These policies select the source or the destination, and no policy allows the connection.
    Dropped(Vec<String>),
}

/// The result in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionVerdict {
    Passes,
    /// To some of the endpoints only.
    Partly,
    Dropped,
    /// The Service has no endpoint for the connection.
    Refused,
}

impl PolicyDecision {
    fn of(judgement: PolicyJudgement<'_>) -> Self {
        let names = |policies: Vec<&Policy>| {
            let mut names: Vec<String> = policies.iter().map(|one| one.name.clone()).collect();
            names.sort_unstable();
            names
        };
        match judgement {
            PolicyJudgement::Open => Self::Open,
            PolicyJudgement::Itself => Self::Itself,
            PolicyJudgement::Allowed(by) => Self::Allowed(names(by)),
            PolicyJudgement::Dropped(by) => Self::Dropped(names(by)),
        }
    }

    fn passes(&self) -> bool {
        !matches!(self, Self::Dropped(_))
    }
}

impl ServerPath {
    pub fn passes(&self) -> bool {
        match &self.decision {
            ConnectionDecision::OwnNode => true,
            ConnectionDecision::Policies { egress, ingress } => egress.passes() && ingress.passes(),
        }
    }
}

impl ConnectionAnswer {
    pub fn verdict(&self) -> ConnectionVerdict {
        let passing = self.paths.iter().filter(|path| path.passes()).count();
        match (self.paths.len(), passing) {
            (0, _) => ConnectionVerdict::Refused,
            (all, some) if all == some => ConnectionVerdict::Passes,
            (_, 0) => ConnectionVerdict::Dropped,
            _ => ConnectionVerdict::Partly,
        }
    }
}

impl ObjectName {
    fn of(pod: &PodView) -> Self {
        Self {
            kind: "pod",
            namespace: pod.namespace.to_string(),
            name: pod.name.to_string(),
        }
    }
}

/// Decides about a connection.
///
/// *Errors.* An object of the question does not exist, has no address, or has no such port.
pub fn decide(
    observed: &ConnectionObjects,
    question: ConnectionQuestion<'_>,
) -> Result<ConnectionAnswer, NoAnswer> {
    let client = find_pod(observed, question.client.0, question.client.1)?;
    let source = address_of(client)?;
    let to = question.to;
    let target = match to.kind {
        ServerKind::Pod => {
            let pod = find_pod(observed, question.namespace, &to.name)?;
            DestinationServers::to_pod(pod, to)?
        }
        ServerKind::Service => DestinationServers::to_service(observed, client, question)?,
    };
    let decided = Decided::new(observed);
    let paths = target.servers.iter();
    let paths = paths.map(|server| decided.path(client, source, *server, to.protocol));
    Ok(ConnectionAnswer {
        client: ObjectName::of(client),
        destination: ObjectName {
            kind: match to.kind {
                ServerKind::Pod => "pod",
                ServerKind::Service => "svc",
            },
            namespace: question.namespace.to_owned(),
            name: to.name.clone(),
        },
        port: target.port,
        protocol: to.protocol,
        cluster_ip: target.cluster_ip,
        paths: paths.collect(),
        notes: target.notes,
    })
}

fn find_pod<'o>(
    observed: &'o ConnectionObjects,
    namespace: &str,
    name: &str,
) -> Result<&'o PodView, NoAnswer> {
    let mut pods = observed.pods.iter();
    let pod = pods.find(|pod| *pod.namespace == *namespace && *pod.name == *name);
    pod.ok_or_else(|| NoAnswer(format!("pod {name:?} not found in namespace {namespace:?}")))
}

fn uses_host_network(pod: &PodView) -> bool {
    pod.spec.host_network == Some(true)
}

fn address_of(pod: &PodView) -> Result<Ipv4Addr, NoAnswer> {
    let (name, namespace) = (&pod.name, &pod.namespace);
    if pod.has_ended() {
        return Err(NoAnswer(format!(
            "pod {name} has ended: it has no connections"
        )));
    }
    let address = pod.addresses.iter().find_map(|text| text.parse().ok());
    address.ok_or_else(|| {
        NoAnswer(format!(
            "pod {name} has no address yet: `mainstay why pod/{name} -n {namespace}` says what it waits for"
        ))
    })
}

/// The servers of a destination.
struct DestinationServers {
    port: u16,
    cluster_ip: Option<Ipv4Addr>,
    servers: Vec<Endpoint>,
    notes: Vec<String>,
}

impl DestinationServers {
    fn to_pod(pod: &PodView, to: &Destination) -> Result<Self, NoAnswer> {
        let declared = declared_ports(pod, to.protocol);
        let port = match &to.port {
            PortWord::Number(number) => *number,
            PortWord::Name(name) => {
                let named = declared.iter().find(|(of, _)| of.as_ref() == Some(name));
                let named = named.map(|(_, port)| *port);
                named.ok_or_else(|| {
                    NoAnswer(format!("pod {} has no port of the name {name:?}", pod.name))
                })?
            }
        };
        let mut notes = Vec::new();
        if !declared.is_empty() && declared.iter().all(|(_, one)| *one != port) {
            let all: Vec<String> = declared.iter().map(|(_, port)| port.to_string()).collect();
            notes.push(format!(
                "pod/{} declares the ports {}, not {port}; a program may listen there nevertheless",
                pod.name,
                all.join(", ")
            ));
        }
        if pod.ready().is_none() {
            notes.push(format!(
                "pod/{0} is not ready: `mainstay why pod/{0} -n {1}`",
                pod.name, pod.namespace
            ));
        }
        Ok(Self {
            port,
            cluster_ip: None,
            servers: vec![Endpoint {
                ip: address_of(pod)?,
                port,
            }],
            notes,
        })
    }

    fn to_service(
        observed: &ConnectionObjects,
        client: &PodView,
        question: ConnectionQuestion<'_>,
    ) -> Result<Self, NoAnswer> {
        let to = question.to;
        let service_text = format!("svc {:?} in namespace {:?}", to.name, question.namespace);
        let service = observed.service.as_ref();
        let service = service.ok_or_else(|| NoAnswer(format!("{service_text} not found")))?;
        let spec = service.spec.clone().unwrap_or_default();
        if spec.type_.as_deref() == Some("ExternalName") {
            let name = spec.external_name.unwrap_or_default();
            return Err(NoAnswer(format!(
                "{service_text} is another name of {name}: policies decide by the addresses of that name, and \
                 the API does not know them"
            )));
        }
        let named = spec.ports.iter().flatten().find(|port| {
            Protocol::of(port.protocol.as_deref()) == Some(to.protocol)
                && match &to.port {
                    PortWord::Number(number) => port.port == i32::from(*number),
                    PortWord::Name(name) => port.name.as_ref() == Some(name),
                }
        });
        let number = named.and_then(|port| u16::try_from(port.port).ok());
        if spec.cluster_ip.as_deref() == Some("None") {
            return Self::headless(observed, to, number, &service_text);
        }
        let Some(number) = number else {
            let all = spec.ports.iter().flatten();
            let all = all.map(|port| {
                let protocol = port.protocol.as_deref().unwrap_or("TCP");
                format!("{}/{protocol}", port.port)
            });
            return Err(NoAnswer(format!(
                "{service_text} has no such port; it has {}",
                all.collect::<Vec<_>>().join(", ")
            )));
        };
        let node = client.node.as_deref().unwrap_or_default();
        let all = ports([service], &observed.slices, node);
        let mut all = all.into_iter();
        let port = all.find(|port| port.protocol == to.protocol && port.port == number);
        let port =
            port.ok_or_else(|| NoAnswer(format!("{service_text} has no IPv4 address of its own")))?;
        Ok(Self::of_port(port, to, question.namespace, node))
    }

    fn of_port(port: ServicePort, to: &Destination, namespace: &str, node: &str) -> Self {
        let name = &to.name;
        let (servers, reason) = match port.internal_local {
            true if !port.endpoints.cluster.is_empty() => (
                port.endpoints.local,
                format!(
                    "internalTrafficPolicy: Local, and svc/{name} has no endpoint on the node {node}"
                ),
            ),
            _ => (
                port.endpoints.cluster,
                format!(
                    "svc/{name} has no ready endpoint: `mainstay why svc/{name} -n {namespace}` says why"
                ),
            ),
        };
        let notes = match servers.is_empty() {
            true => vec![reason],
            false => Vec::new(),
        };
        Self {
            port: port.port,
            cluster_ip: Some(port.cluster_ip),
            servers,
            notes,
        }
    }

    /// DNS gives the addresses of the pods, and nothing translates the port.
    fn headless(
        observed: &ConnectionObjects,
        to: &Destination,
        number: Option<u16>,
        service_text: &str,
    ) -> Result<Self, NoAnswer> {
        let port = match (&to.port, number) {
            (PortWord::Number(number), _) => *number,
            (PortWord::Name(_), Some(number)) => number,
            (PortWord::Name(name), None) => {
                return Err(NoAnswer(format!(
                    "{service_text} has no port of the name {name:?}"
                )));
            }
        };
        let slices = observed.slices.iter();
        let endpoints = slices.flat_map(|slice| slice.endpoints.iter().flatten());
        let ready = endpoints.filter(|endpoint| {
            let conditions = endpoint.conditions.as_ref();
            conditions.and_then(|conditions| conditions.ready) != Some(false)
        });
        let addresses = ready.filter_map(|endpoint| endpoint.addresses.first()?.parse().ok());
        let mut servers: Vec<Endpoint> = addresses.map(|ip| Endpoint { ip, port }).collect();
        servers.sort_unstable();
        servers.dedup();
        let mut notes = vec![format!(
            "svc/{} is headless: its name leads to the addresses of its pods, at the port of the pod",
            to.name
        )];
        if servers.is_empty() {
            notes.push(format!("svc/{} has no ready endpoint", to.name));
        }
        Ok(Self {
            port,
            cluster_ip: None,
            servers,
            notes,
        })
    }
}

/// The names and numbers of the ports that the containers declare.
fn declared_ports(pod: &PodView, protocol: Protocol) -> Vec<(Option<String>, u16)> {
    let containers = pod.spec.containers.iter();
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    let of_protocol = ports.filter(|port| Protocol::of(port.protocol.as_deref()) == Some(protocol));
    let ports = of_protocol.filter_map(|port| {
        let number = u16::try_from(port.container_port).ok()?;
        Some((port.name.clone(), number))
    });
    ports.collect()
}

/// The policies of both ends, as each node enforces them.
struct Decided<'o> {
    observed: &'o ConnectionObjects,
    state: PolicyObjects,
    table: Table,
}

impl<'o> Decided<'o> {
    fn new(observed: &'o ConnectionObjects) -> Self {
        let mut state = PolicyObjects::default();
        for policy in &observed.policies {
            let policy = Policy::of(policy);
            state.policies.insert(policy.uid.clone(), policy);
        }
        for namespace in &observed.namespaces {
            let name = namespace.metadata.name.clone().unwrap_or_default();
            let labels: BTreeMap<String, String> =
                namespace.metadata.labels.clone().unwrap_or_default();
            state.namespaces.insert(name, labels);
        }
        for pod in &observed.pods {
            // Each pod counts as local to its node.
            let pod_of_node = address_of(pod)
                .ok()
                .and_then(|address| PolicyPod::of(pod, Some(address)));
            if let Some(pod_of_node) = pod_of_node {
                state.pods.insert(pod.uid.to_string(), pod_of_node);
            }
        }
        let table = filters(&state);
        Self {
            observed,
            state,
            table,
        }
    }

    fn path(
        &self,
        client: &PodView,
        source: Ipv4Addr,
        server: Endpoint,
        protocol: Protocol,
    ) -> ServerPath {
        let mut pods = self.observed.pods.iter();
        let of_server =
            pods.find(|pod| !uses_host_network(pod) && address_of(pod) == Ok(server.ip));
        let connection = Connection {
            source,
            destination: server.ip,
            port: Some((protocol, server.port)),
        };
        let end =
            |direction| PolicyDecision::of(judge(&self.state, &self.table, &connection, direction));
        let decision = match self.is_within_node(client, of_server, server.ip) {
            true => ConnectionDecision::OwnNode,
            false => ConnectionDecision::Policies {
                egress: match uses_host_network(client) {
                    true => PolicyDecision::Open,
                    false => end(Direction::Egress),
                },
                ingress: end(Direction::Ingress),
            },
        };
        ServerPath {
            server,
            pod: of_server.map(ObjectName::of),
            decision,
        }
    }

    /// Whether one end is a node, and the other one is a pod of it, or both are that node.
    fn is_within_node(
        &self,
        client: &PodView,
        server: Option<&PodView>,
        address: Ipv4Addr,
    ) -> bool {
        match server {
            Some(server) => {
                let is_same = client.node.is_some() && client.node == server.node;
                uses_host_network(client) && is_same
            }
            None => self.observed.node_addresses.contains(&address),
        }
    }
}
