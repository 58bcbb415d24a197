//! Addresses of Services of the type `LoadBalancer`: the addresses of the machines.
//!
//! **Goal**: the status of each such Service names the nodes that accept its connections, and no two Services share one
//! port of one address. **Relies on**: the service proxy of every node, which serves the addresses in a status.
//! **Guarantees**: Services of another class are not changed; a Service keeps its address; a port of the API server or
//! of another process of the machine is assigned to no Service, and a Service that requests such a port (also as a node
//! port or an external address) gets an event.

mod in_use;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, LoadBalancerStatus, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use object_model::ObjectKey;
use object_model::listening::Listening;
use resource_kinds::MetadataIdentity;
use resource_kinds::discovery::service_of;
use resource_kinds::labels;
use resource_kinds::reasons::{node_condition, service as reasons};

/// The class of Services that get the addresses of the machines; Services without a class get them too.
pub const CLASS: &str = "mainstay.dev/node";

/// The observed state of all Services of type `LoadBalancer`.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The Services that are [`concerned`]; other Services have no effect.
    pub services: Vec<Arc<Service>>,
    /// The EndpointSlices of those Services and of the API server; other slices have no effect.
    pub slices: Vec<Arc<EndpointSlice>>,
    /// The Node objects.
    pub nodes: Vec<Arc<Node>>,
    /// The listening sockets of the machine; assumed to be equal on all nodes.
    pub listening: Listening,
}

impl Observed {
    fn is_of_node(&self, address: IpAddr) -> bool {
        let statuses = self.nodes.iter().filter_map(|node| node.status.as_ref());
        let addresses = statuses.filter_map(|status| status.addresses.as_ref());
        addresses
            .flatten()
            .any(|status_address| status_address.address.parse() == Ok(address))
    }
}

/// The plan for one Service.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadBalancerDecision {
    /// The Service as it was observed.
    pub service: Arc<Service>,
    /// Its new `status.loadBalancer`, if it differs from the stored one.
    pub status: Option<LoadBalancerStatus>,
    /// An event for the Service, if its result has changed.
    pub notice: Option<LoadBalancerEvent>,
}

/// An event for a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadBalancerEvent {
    /// Reason of the event.
    pub reason: &'static str,
    /// Message of the event.
    pub message: String,
    /// Whether its type is `Warning` (otherwise `Normal`).
    pub warning: bool,
}

/// The API server's Service: namespace and name.
pub const API_SERVER: (&str, &str) = ("default", "kubernetes");

/// An address, a protocol and a port.
type AddressPort = (IpAddr, String, i32);

/// Plans the status of all Services of the type `LoadBalancer`, and of Services that had the type before.
pub fn plan(observed: &Observed) -> Vec<LoadBalancerDecision> {
    let mut services: Vec<&Arc<Service>> = observed
        .services
        .iter()
        .filter(|service| concerned(service))
        .collect();
    if services.is_empty() {
        return Vec::new();
    }
    let mut assigned = reserved(&observed.slices);
    // Services with an address come first, then the oldest Services.
    services.sort_unstable_by_key(|service| {
        let meta = &service.metadata;
        let created = meta.creation_timestamp.as_ref().map(|time| time.0);
        (
            addresses(service).is_empty(),
            created,
            meta.namespace.as_deref(),
            meta.name.as_deref(),
        )
    });
    services
        .into_iter()
        .filter_map(|service| {
            let key = service.metadata.object_key().ok()?;
            decide(service, &key, observed, &mut assigned)
        })
        .collect()
}

/// Whether the plan depends on the Service: the Service may need a write, or its ports are reserved.
pub fn concerned(service: &Service) -> bool {
    matches!(kind(service), Kind::Balanced)
        || !addresses(service).is_empty()
        || in_use::asks_for_the_machine(service)
}

fn decide(
    service: &Arc<Service>,
    key: &ObjectKey,
    observed: &Observed,
    assigned: &mut BTreeMap<AddressPort, String>,
) -> Option<LoadBalancerDecision> {
    let (chosen, mut problems) = match kind(service) {
        Kind::Balanced => choose(service, key, observed, assigned),
        Kind::Foreign => (addresses(service), Vec::new()),
        Kind::Other => Default::default(),
    };
    let in_use = in_use::problems(service, observed);
    let had = addresses(service);
    let status = (had != chosen).then(|| LoadBalancerStatus {
        ingress: (!chosen.is_empty()).then(|| chosen.iter().map(ingress).collect()),
    });
    problems.dedup();
    let notice = if !problems.is_empty() {
        Some(LoadBalancerEvent {
            reason: reasons::SYNC_LOAD_BALANCER_FAILED,
            message: problems.join("; "),
            warning: true,
        })
    } else if !in_use.is_empty() {
        Some(LoadBalancerEvent {
            reason: reasons::PORT_IN_USE,
            message: in_use.join("; "),
            warning: true,
        })
    } else {
        status
            .as_ref()
            .filter(|_| !chosen.is_empty())
            .map(|_| LoadBalancerEvent {
                reason: reasons::ENSURED_LOAD_BALANCER,
                message: "Ensured load balancer".to_owned(),
                warning: false,
            })
    };
    (status.is_some() || notice.is_some()).then_some(LoadBalancerDecision {
        service: service.clone(),
        status,
        notice,
    })
}

enum Kind {
    /// Of this controller's class.
    Balanced,
    /// Of another class.
    Foreign,
    /// Not (or no longer) of the type `LoadBalancer`.
    Other,
}

fn kind(service: &Service) -> Kind {
    let spec = service.spec.as_ref();
    let balanced = spec.and_then(|spec| spec.type_.as_deref()) == Some("LoadBalancer");
    let class = spec.and_then(|spec| spec.load_balancer_class.as_deref());
    match class {
        _ if !balanced => Kind::Other,
        Some(class) if class != CLASS => Kind::Foreign,
        _ => Kind::Balanced,
    }
}

/// The addresses for the Service, and the reason why the Service gets no further addresses.
fn choose(
    service: &Service,
    key: &ObjectKey,
    observed: &Observed,
    assigned: &mut BTreeMap<AddressPort, String>,
) -> (BTreeSet<IpAddr>, Vec<String>) {
    let mut problems = Vec::new();
    let Some(spec) = service.spec.as_ref() else {
        return (BTreeSet::new(), problems);
    };
    let local = spec.external_traffic_policy.as_deref() == Some("Local");
    let mut candidates = candidates(observed, local.then_some(key));
    let requested = spec.load_balancer_ip.as_deref().filter(|ip| !ip.is_empty());
    if let Some(requested) = requested {
        candidates.retain(|address| requested.parse() == Ok(*address));
        if candidates.is_empty() {
            problems.push(format!("{requested} is no address of a node that is ready"));
        }
    } else if candidates.is_empty() {
        problems.push("no node is ready to take connections".to_owned());
    }
    let owner = format!("Service {key}");
    let mut chosen = BTreeSet::new();
    for address in candidates {
        let keys = spec.ports.iter().flatten().map(|port| {
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            (address, protocol, port.port)
        });
        let keys: Vec<AddressPort> = keys.collect();
        match keys.iter().find_map(|key| Some((key, assigned.get(key)?))) {
            Some(((address, protocol, port), by)) => {
                problems.push(format!(
                    "port {port}/{protocol} of {address} is taken by {by}"
                ));
            }
            None if let Some((_, protocol, port)) = keys.iter().find(|(_, protocol, port)| {
                in_use::is_occupied(&observed.listening, address, protocol, *port)
            }) =>
            {
                cov_mark::hit!(findings_s11);
                problems.push(format!(
                    "port {port}/{protocol} of {address} is taken by a program of the node"
                ));
            }
            None => {
                assigned.extend(keys.into_iter().map(|key| (key, owner.clone())));
                chosen.insert(address);
            }
        }
    }
    (chosen, problems)
}

/// The addresses of nodes that accept connections: the external addresses of a node that has external addresses. With
/// `externalTrafficPolicy: Local`, the nodes with a ready endpoint, if there are such nodes.
fn candidates(observed: &Observed, local_to: Option<&ObjectKey>) -> BTreeSet<IpAddr> {
    let nodes = || observed.nodes.iter().filter(|node| takes_connections(node));
    let holders = local_to.map(|service| holders(service, &observed.slices));
    let holds = |node: &&Arc<Node>| {
        let nodes = holders.as_ref().zip(node.metadata.name.as_deref());
        nodes.is_some_and(|(holders, name)| holders.contains(name))
    };
    let near: BTreeSet<IpAddr> = nodes().filter(holds).flat_map(|node| outer(node)).collect();
    if near.is_empty() {
        nodes().flat_map(|node| outer(node)).collect()
    } else {
        near
    }
}

fn takes_connections(node: &Node) -> bool {
    let labels = node.metadata.labels.as_ref();
    let excluded = labels.is_some_and(|all| all.contains_key(labels::EXCLUDE_FROM_BALANCERS));
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    let ready = conditions
        .into_iter()
        .flatten()
        .any(|condition| condition.type_ == node_condition::READY && condition.status == "True");
    ready && !excluded && node.metadata.deletion_timestamp.is_none()
}

fn outer(node: &Node) -> Vec<IpAddr> {
    let addresses = node
        .status
        .as_ref()
        .and_then(|status| status.addresses.as_ref());
    let of_type = |kind: &str| -> Vec<IpAddr> {
        let all = addresses.into_iter().flatten();
        let those = all.filter(|address| address.type_ == kind);
        those
            .filter_map(|address| address.address.parse().ok())
            .collect()
    };
    let external = of_type("ExternalIP");
    if external.is_empty() {
        of_type("InternalIP")
    } else {
        external
    }
}

/// Names of the nodes with a ready endpoint of the Service.
fn holders<'a>(service: &ObjectKey, slices: &'a [Arc<EndpointSlice>]) -> BTreeSet<&'a str> {
    let of_service = |slice: &&Arc<EndpointSlice>| {
        service_of(slice) == Some((&*service.namespace, &*service.name))
    };
    let endpoints = slices
        .iter()
        .filter(of_service)
        .flat_map(|slice| &slice.endpoints);
    let ready = endpoints.flatten().filter(|endpoint| {
        let conditions = endpoint.conditions.as_ref();
        conditions
            .and_then(|conditions| conditions.ready)
            .unwrap_or(true)
    });
    ready
        .filter_map(|endpoint| endpoint.node_name.as_deref())
        .collect()
}

/// The addresses and ports of the API server; they are reserved.
fn reserved(slices: &[Arc<EndpointSlice>]) -> BTreeMap<AddressPort, String> {
    let mut reserved = BTreeMap::new();
    for slice in slices {
        let of_api = service_of(slice) == Some(API_SERVER);
        let endpoints = slice.endpoints.iter().flatten().filter(|_| of_api);
        for address in endpoints.flat_map(|endpoint| &endpoint.addresses) {
            for port in slice.ports.iter().flatten() {
                let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
                if let (Ok(address), Some(port)) = (address.parse(), port.port) {
                    reserved.insert((address, protocol, port), "the API server".to_owned());
                }
            }
        }
    }
    reserved
}

fn addresses(service: &Service) -> BTreeSet<IpAddr> {
    let status = service.status.as_ref();
    let balancer = status.and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.and_then(|balancer| balancer.ingress.as_ref());
    let ips = ingress
        .into_iter()
        .flatten()
        .filter_map(|ingress| ingress.ip.as_ref());
    ips.filter_map(|ip| ip.parse().ok()).collect()
}

fn ingress(address: &IpAddr) -> LoadBalancerIngress {
    LoadBalancerIngress {
        ip: Some(address.to_string()),
        ip_mode: Some("VIP".to_owned()),
        ..LoadBalancerIngress::default()
    }
}

#[cfg(test)]
mod tests {
    use json_tree::{Value, json};

    use super::*;

    fn service(name: &str, more: Value, has: &[&str]) -> Arc<Service> {
        let mut spec = json!({"type": "LoadBalancer", "ports": [{"port": 80}]});
        spec.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let ingress: Vec<Value> = has.iter().map(|ip| json!({"ip": ip})).collect();
        let service = json!({
            "metadata": {"namespace": "default", "name": name},
            "spec": spec,
            "status": {"loadBalancer": {"ingress": ingress}},
        });
        Arc::new(json_tree::from_value(service).unwrap())
    }

    /// A Node; `word` is `unready`, `excluded`, or an external address.
    fn node(name: &str, ip: &str, word: &str) -> Arc<Node> {
        let mut addresses = vec![json!({"type": "InternalIP", "address": ip})];
        if word.contains('.') {
            addresses.push(json!({"type": "ExternalIP", "address": word}));
        }
        let ready = if word == "unready" { "False" } else { "True" };
        let mut node = json!({
            "metadata": {"name": name},
            "status": {"addresses": addresses, "conditions": [{"type": "Ready", "status": ready}]},
        });
        if word == "excluded" {
            node["metadata"]["labels"] = json!({labels::EXCLUDE_FROM_BALANCERS: ""});
        }
        Arc::new(json_tree::from_value(node).unwrap())
    }

    fn slice(
        namespace: &str,
        service: &str,
        node: &str,
        ip: &str,
        port: i32,
    ) -> Arc<EndpointSlice> {
        let slice = json!({
            "metadata": {"namespace": namespace, "name": "s",
                "labels": {labels::SERVICE_NAME: service}},
            "addressType": "IPv4",
            "ports": [{"port": port, "protocol": "TCP"}],
            "endpoints": [{"addresses": [ip], "nodeName": node}],
        });
        Arc::new(json_tree::from_value(slice).unwrap())
    }

    /// `web=10.0.0.1,10.0.0.2` for each planned status, and the messages of the events.
    fn decided(observed: &Observed) -> Vec<String> {
        let mut lines = Vec::new();
        for decision in plan(observed) {
            let name = decision.service.metadata.name.as_deref().unwrap();
            if let Some(status) = decision.status {
                let ingress = status.ingress.unwrap_or_default().into_iter();
                let ips: Vec<String> = ingress.filter_map(|one| one.ip).collect();
                lines.push(format!("{name}={}", ips.join(",")));
            }
            if let Some(notice) = decision.notice.filter(|notice| notice.warning) {
                lines.push(format!("{name}: {}", notice.message));
            }
        }
        lines
    }

    fn two_nodes() -> Vec<Arc<Node>> {
        vec![node("n1", "10.0.0.1", ""), node("n2", "10.0.0.2", "")]
    }

    #[test]
    fn addresses_are_those_of_nodes_that_take_connections() {
        let nodes = vec![
            node("n1", "10.0.0.1", ""),
            node("n2", "10.0.0.2", "192.0.2.2"),
            node("n3", "10.0.0.3", "unready"),
            node("n4", "10.0.0.4", "excluded"),
        ];
        let services = vec![service("web", json!({}), &[])];
        let observed = Observed {
            services,
            nodes: nodes.clone(),
            ..Default::default()
        };
        assert_eq!(decided(&observed), ["web=10.0.0.1,192.0.2.2"]);
        let services = vec![service("web", json!({}), &["10.0.0.1", "192.0.2.2"])];
        let observed = Observed {
            services,
            nodes,
            ..Default::default()
        };
        assert_eq!(plan(&observed), []);
    }

    #[test]
    fn a_port_is_given_once_and_who_has_it_keeps_it() {
        let services = vec![
            service("late", json!({"ports": [{"port": 81}, {"port": 80}]}), &[]),
            service("web", json!({}), &["10.0.0.1"]),
            service(
                "udp",
                json!({"ports": [{"port": 80, "protocol": "UDP"}]}),
                &[],
            ),
        ];
        let nodes = vec![node("n1", "10.0.0.1", "")];
        let observed = Observed {
            services,
            nodes,
            ..Default::default()
        };
        let conflict = "late: port 80/TCP of 10.0.0.1 is taken by Service default/web";
        assert_eq!(decided(&observed), [conflict, "udp=10.0.0.1"]);
    }

    #[test]
    fn the_port_of_the_api_server_is_not_given_away() {
        let observed = Observed {
            services: vec![service("web", json!({"ports": [{"port": 6443}]}), &[])],
            slices: vec![slice("default", "kubernetes", "", "10.0.0.1", 6443)],
            nodes: two_nodes(),
            ..Default::default()
        };
        let conflict = "web: port 6443/TCP of 10.0.0.1 is taken by the API server";
        assert_eq!(decided(&observed), ["web=10.0.0.2", conflict]);
    }

    /// Sockets from texts: `TCP 22` for all addresses, `TCP 10.0.0.1 22` for one address.
    fn listening(sockets: &[&str]) -> Listening {
        let socket = |text: &&str| {
            let words: Vec<&str> = text.split(' ').collect();
            object_model::listening::ListeningAddress {
                transport: object_model::listening::Transport::of(words[0]).unwrap(),
                address: words[1].parse().ok(),
                port: words.last().unwrap().parse().unwrap(),
            }
        };
        sockets.iter().map(socket).collect()
    }

    // findings S11
    #[test]
    fn a_port_on_which_the_machine_listens_is_not_given_away() {
        cov_mark::check!(findings_s11);
        let ssh = |has: &[&str]| Observed {
            services: vec![service("web", json!({"ports": [{"port": 22}]}), has)],
            nodes: two_nodes(),
            listening: listening(&["TCP 22"]),
            ..Default::default()
        };
        let conflict = "web: port 22/TCP of 10.0.0.1 is taken by a program of the node; \
                     port 22/TCP of 10.0.0.2 is taken by a program of the node";
        assert_eq!(decided(&ssh(&[])), [conflict]);
        assert_eq!(
            decided(&ssh(&["10.0.0.1"])),
            ["web=", conflict],
            "taken back"
        );
        let one = Observed {
            listening: listening(&["TCP 10.0.0.1 22", "UDP 22"]),
            ..ssh(&[])
        };
        let conflict = "web: port 22/TCP of 10.0.0.1 is taken by a program of the node";
        assert_eq!(decided(&one), ["web=10.0.0.2", conflict]);
    }

    // findings S12
    #[test]
    fn who_asks_for_a_port_of_the_machine_otherwise_is_told() {
        let spec = json!({
            "type": "NodePort",
            "externalIPs": ["10.0.0.1", "192.0.2.9"],
            "ports": [{"port": 53, "protocol": "UDP", "nodePort": 30053}],
        });
        let observed = |sockets: &[&str]| Observed {
            services: vec![service("web", spec.clone(), &[])],
            nodes: two_nodes(),
            listening: listening(sockets),
            ..Default::default()
        };
        assert!(decided(&observed(&["TCP 53", "TCP 30053", "UDP 127.0.0.1 53"])).is_empty());
        let end = "is not served: a program of the node listens there";
        assert_eq!(
            decided(&observed(&["UDP 53", "UDP 30053"])),
            [format!(
                "web: node port 30053/UDP {end}; port 53/UDP of 10.0.0.1 {end}"
            )]
        );
        assert_eq!(
            decided(&observed(&["UDP 192.0.2.9 53"])),
            [format!("web: port 53/UDP of 192.0.2.9 {end}")]
        );
    }

    #[test]
    fn an_address_that_is_asked_for_is_given_if_it_is_a_nodes() {
        let with = |ip: &str| Observed {
            services: vec![service("web", json!({"loadBalancerIP": ip}), &[])],
            nodes: two_nodes(),
            ..Default::default()
        };
        assert_eq!(decided(&with("10.0.0.2")), ["web=10.0.0.2"]);
        assert_eq!(
            decided(&with("10.9.9.9")),
            ["web: 10.9.9.9 is no address of a node that is ready"]
        );
    }

    #[test]
    fn the_policy_local_prefers_nodes_that_have_an_endpoint() {
        let services = vec![service(
            "web",
            json!({"externalTrafficPolicy": "Local"}),
            &[],
        )];
        let slices = vec![slice("default", "web", "n2", "10.1.0.1", 8080)];
        let with = Observed {
            services: services.clone(),
            slices,
            nodes: two_nodes(),
            ..Default::default()
        };
        assert_eq!(decided(&with), ["web=10.0.0.2"]);
        let without = Observed {
            services,
            nodes: two_nodes(),
            ..Default::default()
        };
        assert_eq!(decided(&without), ["web=10.0.0.1,10.0.0.2"]);
    }

    #[test]
    fn other_classes_are_left_alone_and_other_types_have_no_address() {
        let services = vec![
            service(
                "theirs",
                json!({"loadBalancerClass": "example.com/metal"}),
                &["192.0.2.9"],
            ),
            service("former", json!({"type": "ClusterIP"}), &["10.0.0.1"]),
            service("ours", json!({"loadBalancerClass": CLASS}), &[]),
            service("plain", json!({"type": "ClusterIP"}), &[]),
        ];
        let observed = Observed {
            services,
            nodes: two_nodes(),
            ..Default::default()
        };
        assert_eq!(decided(&observed), ["former=", "ours=10.0.0.1,10.0.0.2"]);
    }
}
