//! All names of the cluster, and what is known of each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use object_model::cidr::Cidr;

use crate::answer::{Data, Kind, Lookup};
use crate::names;

const LABEL_SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Version of the specification, as `dns-version.<domain>` tells it.
const SPECIFICATION_VERSION: &str = "1.1.0";

/// What the zone needs to know of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The cluster's domain, such as `cluster.local`.
    pub domain: String,
    /// Addresses at which pods find this server.
    pub dns_addresses: Vec<IpAddr>,
    /// Ranges of pods and Services: names of other addresses are asked elsewhere.
    pub ranges: Vec<Cidr>,
}

/// Every name of the cluster with its records.
///
/// *Invariant*: keys are in lower case without a final dot; with a name all names above it up to
/// the domain are there, so that "nothing of that type" and "no such name" are told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    domain: String,
    ranges: Vec<Cidr>,
    namespaces: BTreeSet<String>,
    services: BTreeSet<String>,
    nodes: BTreeMap<String, BTreeSet<Data>>,
}

impl Zone {
    /// Builds the zone. Namespaces of Services count even when they are not listed.
    pub fn build<'a>(
        settings: &Settings,
        namespaces: impl IntoIterator<Item = &'a str>,
        services: impl IntoIterator<Item = &'a Service>,
        slices: impl IntoIterator<Item = &'a EndpointSlice>,
    ) -> Zone {
        let mut zone = Zone {
            domain: settings.domain.to_ascii_lowercase(),
            ranges: settings.ranges.clone(),
            namespaces: namespaces
                .into_iter()
                .map(str::to_ascii_lowercase)
                .collect(),
            services: BTreeSet::new(),
            nodes: BTreeMap::new(),
        };
        let mut by_service: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
        for slice in slices {
            let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
            let labels = slice.metadata.labels.as_ref();
            if let Some(service) = labels.and_then(|labels| labels.get(LABEL_SERVICE_NAME)) {
                by_service
                    .entry((namespace, service))
                    .or_default()
                    .push(slice);
            }
        }
        for service in services {
            let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
            let name = service.metadata.name.as_deref().unwrap_or_default();
            let slices = by_service
                .get(&(namespace, name))
                .map_or(&[][..], Vec::as_slice);
            zone.namespaces.insert(namespace.to_ascii_lowercase());
            zone.services.insert(name.to_ascii_lowercase());
            zone.add_service(
                service,
                &format!("{name}.{namespace}.svc.{}", zone.domain),
                slices,
            );
        }
        zone.add_fixed(settings);
        zone
    }

    fn add_fixed(&mut self, settings: &Settings) {
        let domain = self.domain.clone();
        let server = format!("ns.dns.{domain}");
        self.add(&domain, Data::Soa);
        self.add(&domain, Data::Ns(server.clone()));
        self.add(
            &format!("dns-version.{domain}"),
            Data::Txt(SPECIFICATION_VERSION.to_owned()),
        );
        for address in &settings.dns_addresses {
            self.add(&server, address_data(*address));
            // Tools print the name of the server they ask; without a Service it still has one.
            let reverse = names::reverse_name(*address);
            if !self.nodes.contains_key(&reverse) {
                let service = format!("kube-dns.kube-system.svc.{domain}");
                self.add(&service, address_data(*address));
                self.add(&reverse, Data::Ptr(service));
            }
        }
        for namespace in self.namespaces.clone() {
            self.make(&format!("{namespace}.svc.{domain}"));
            self.make(&format!("{namespace}.pod.{domain}"));
        }
    }

    fn add_service(&mut self, service: &Service, name: &str, slices: &[&EndpointSlice]) {
        let Some(spec) = &service.spec else { return };
        if spec.type_.as_deref() == Some("ExternalName") {
            let target = spec.external_name.as_deref().unwrap_or_default();
            let target = target.trim_end_matches('.').to_ascii_lowercase();
            if !target.is_empty() {
                self.add(name, Data::Cname(target));
            }
            return;
        }
        let all = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
        let addresses: BTreeSet<IpAddr> = all.filter_map(|text| text.parse().ok()).collect();
        for address in &addresses {
            self.add(name, address_data(*address));
            self.add(&names::reverse_name(*address), Data::Ptr(name.to_owned()));
        }
        let headless = spec.cluster_ip.as_deref() == Some("None");
        if !addresses.is_empty() {
            for port in spec.ports.iter().flatten() {
                self.add_port(name, port);
            }
        }
        for slice in slices {
            self.add_slice(name, slice, headless);
        }
    }

    /// A port of a Service with an address of its own: one server, the Service.
    fn add_port(&mut self, name: &str, port: &ServicePort) {
        let Ok(number) = u16::try_from(port.port) else {
            return;
        };
        let record = || Data::Srv {
            weight: 100,
            port: number,
            target: name.to_owned(),
        };
        self.add(name, record());
        let port_name = port
            .name
            .as_deref()
            .filter(|port_name| !port_name.is_empty());
        if let Some(port_name) = port_name {
            let full = server_name(port_name, port.protocol.as_deref(), name);
            self.add(&full, record());
        }
    }

    /// The endpoints that are ready (which includes those that are published although they are
    /// not: statefulset.md §10.7), each under its own name; of a headless Service under the
    /// Service's name and ports as well.
    fn add_slice(&mut self, name: &str, slice: &EndpointSlice, headless: bool) {
        for endpoint in slice
            .endpoints
            .iter()
            .flatten()
            .filter(|endpoint| is_ready(endpoint))
        {
            for address in endpoint
                .addresses
                .iter()
                .filter_map(|text| text.parse().ok())
            {
                let hostname = endpoint.hostname.as_deref().filter(|name| !name.is_empty());
                let label = hostname.map_or_else(|| names::address_label(address), str::to_owned);
                let full = format!("{label}.{name}");
                self.add(&full, address_data(address));
                if headless || hostname.is_some() {
                    self.add(&names::reverse_name(address), Data::Ptr(full.clone()));
                }
                if headless {
                    self.add(name, address_data(address));
                    for port in slice.ports.iter().flatten() {
                        self.add_endpoint_port(name, port, &full);
                    }
                }
            }
        }
    }

    fn add_endpoint_port(&mut self, service: &str, port: &EndpointPort, target: &str) {
        let number = port.port.and_then(|number| u16::try_from(number).ok());
        let Some(number) = number.filter(|number| *number != 0) else {
            return;
        };
        let record = || Data::Srv {
            weight: 100,
            port: number,
            target: target.to_owned(),
        };
        self.add(service, record());
        let port_name = port
            .name
            .as_deref()
            .filter(|port_name| !port_name.is_empty());
        if let Some(port_name) = port_name {
            let full = server_name(port_name, port.protocol.as_deref(), service);
            self.add(&full, record());
        }
    }

    fn add(&mut self, name: &str, data: Data) {
        self.make(name).insert(data);
    }

    /// Makes a name and all names above it.
    fn make(&mut self, name: &str) -> &mut BTreeSet<Data> {
        let name = name.to_ascii_lowercase();
        if let Some(above) = name.strip_suffix(&self.domain) {
            let mut at = 0;
            for (dot, _) in above.match_indices('.') {
                at = dot + 1;
                self.nodes.entry(name[at..].to_owned()).or_default();
            }
            debug_assert_eq!(at, above.len(), "{name} is in the domain");
        }
        self.nodes.entry(name).or_default()
    }

    /// Answers a question. Case does not matter, nor a final dot.
    pub fn lookup(&self, name: &str, kind: Kind) -> Lookup {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        if let Some(node) = self.nodes.get(&name) {
            return self.found(node, kind);
        }
        if let Some(above) = name
            .strip_suffix(&self.domain)
            .and_then(|n| n.strip_suffix('.'))
        {
            return self.pod(above, kind).unwrap_or(Lookup::NoSuchName);
        }
        let ours = |address: IpAddr| match address {
            IpAddr::V4(address) => self.ranges.iter().any(|range| range.contains(address)),
            IpAddr::V6(_) => false,
        };
        match names::reversed_address(&name) {
            Some(address) if ours(address) => Lookup::NoSuchName,
            _ => Lookup::NotOurs,
        }
    }

    fn found(&self, node: &BTreeSet<Data>, kind: Kind) -> Lookup {
        let alias = |data: &&Data| data.kind() == Kind::Cname;
        let wanted = |data: &&Data| kind == Kind::Any || data.kind() == kind;
        let mut answers: Vec<Data> = match node.iter().find(alias) {
            // An alias answers whatever is asked.
            Some(alias) => vec![alias.clone()],
            None => node.iter().filter(wanted).cloned().collect(),
        };
        if answers.is_empty() {
            return Lookup::NoData;
        }
        share_weight(&mut answers);
        let targets: BTreeSet<&String> = answers
            .iter()
            .filter_map(|data| match data {
                Data::Srv { target, .. } | Data::Ns(target) => Some(target),
                _ => None,
            })
            .collect();
        let addresses = |target: &String| {
            let records = self
                .nodes
                .get(&target.to_ascii_lowercase())
                .into_iter()
                .flatten();
            let records = records.filter(|data| matches!(data.kind(), Kind::A | Kind::Aaaa));
            let target = target.clone();
            records
                .map(move |data| (target.clone(), data.clone()))
                .collect::<Vec<_>>()
        };
        let additional = targets.into_iter().flat_map(addresses).collect();
        Lookup::Found {
            answers,
            additional,
        }
    }

    /// Names that say an address: `a-b-c-d.<namespace>.pod` (statefulset.md §10.6).
    fn pod(&self, above: &str, kind: Kind) -> Option<Lookup> {
        let (label, namespace) = above.strip_suffix(".pod")?.split_once('.')?;
        let address = names::label_address(label)?;
        if !self.namespaces.contains(namespace) {
            return None;
        }
        Some(match kind {
            Kind::A | Kind::Any => Lookup::Found {
                answers: vec![Data::A(address)],
                additional: Vec::new(),
            },
            _ => Lookup::NoData,
        })
    }

    /// Says whether a name looks like one of the cluster's without its end: `web-0`,
    /// `web-0.nginx`, `nginx.default`, `nginx.default.svc`. Clients ask for these as they are
    /// after their search list was of no use, which is when a peer is not there yet.
    pub fn resembles(&self, name: &str) -> bool {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        name.rsplit_once('.').is_none_or(|(_, last)| {
            last == "svc" || self.services.contains(last) || self.namespaces.contains(last)
        })
    }

    /// Returns the cluster's domain.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Returns how many names there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Says whether there is no name at all.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
}

fn server_name(port: &str, protocol: Option<&str>, service: &str) -> String {
    let protocol = protocol
        .filter(|protocol| !protocol.is_empty())
        .unwrap_or("TCP");
    format!("_{port}._{}.{service}", protocol.to_ascii_lowercase())
}

fn address_data(address: IpAddr) -> Data {
    match address {
        IpAddr::V4(address) => Data::A(address),
        IpAddr::V6(address) => Data::Aaaa(address),
    }
}

/// Unknown counts as ready.
fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint
        .conditions
        .as_ref()
        .and_then(|conditions| conditions.ready)
        .unwrap_or(true)
}

/// All servers of an answer have the same share.
fn share_weight(answers: &mut [Data]) {
    let count = answers
        .iter()
        .filter(|data| data.kind() == Kind::Srv)
        .count();
    let share = u16::try_from(100 / count.max(1)).unwrap_or(1).max(1);
    for data in answers {
        if let Data::Srv { weight, .. } = data {
            *weight = share;
        }
    }
}
