//! The parts of a table, with each Service as a separate part, so that the cost of a change does not depend on the size
//! of the table.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use object_model::cidr::Cidr;
use object_model::listening::Listening;

use crate::addresses::MachineAddresses;
use crate::change::{TableChange, changes};
use crate::compile::{Settings, base, hold, part, table};
use crate::host_ports::{PublishedPort, publish};
use crate::model::{Key, MapName, MapVerdict, Table};
use crate::services::{ServiceAge, ServicePort};
use crate::tunnel::{TunnelGuard, guard};

/// Names a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceName {
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub name: String,
}

/// The claim of a Service to an element; the smallest of several claims gets the element.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    /// Whether the address is not the `clusterIP` of the Service.
    outside: bool,
    age: ServiceAge,
    service: ServiceName,
}

/// The parts of a table, and the claimants of each of its elements.
///
/// *Invariant* (checked by a test): the steps that the changes return, applied one after the other, lead to
/// [`Routes::table`].
#[derive(Clone, Debug)]
pub struct Routes {
    settings: Settings,
    services: BTreeMap<ServiceName, Vec<ServicePort>>,
    published: Vec<PublishedPort>,
    listening: Listening,
    tunnel: Option<TunnelGuard>,
    filters: Table,
    /// The Services that the kernel refuses; they are not served.
    left_out: BTreeSet<ServiceName>,
    /// Sorted; nearly always one claim.
    claims: BTreeMap<Key, Vec<Claim>>,
}

impl Routes {
    /// No Services and no ports of the node.
    pub fn new(settings: Settings) -> Routes {
        Routes {
            settings,
            services: BTreeMap::new(),
            published: Vec::new(),
            listening: Listening::default(),
            tunnel: None,
            filters: Table::default(),
            left_out: BTreeSet::new(),
            claims: BTreeMap::new(),
        }
    }

    /// The complete nftables table: Services, host ports and filters.
    pub fn table(&self) -> Table {
        let services = self
            .services
            .keys()
            .flat_map(|service| self.served(service));
        let mut whole = table(services, &self.settings);
        publish(&mut whole, &self.published);
        hold(&mut whole, &self.listening);
        guard(&mut whole, self.tunnel.as_ref());
        whole.include(self.filters.clone());
        whole
    }

    /// The ports of all Services.
    pub fn ports(&self) -> impl Iterator<Item = &ServicePort> {
        self.services.values().flatten()
    }

    /// The names of all Services.
    pub fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.services.keys()
    }

    /// The ports of a Service; empty if the Service does not exist.
    pub fn ports_of(&self, service: &ServiceName) -> &[ServicePort] {
        self.services.get(service).map_or(&[], Vec::as_slice)
    }

    /// The `externalIPs` that a Service does not get: addresses of pods, Services or machines, and addresses of an
    /// older Service with an equal port.
    pub fn withheld(&self, service: &ServiceName) -> BTreeSet<Ipv4Addr> {
        let of_port = |port: &'_ ServicePort| {
            let is_withheld = |address: &Ipv4Addr| {
                let key = Key::on(*address, port.protocol, port.port);
                let owner = self.claims.get(&key).and_then(|claims| claims.first());
                let is_of_another = owner.is_some_and(|owner| owner.service != *service);
                !self.settings.is_outside(*address) || is_of_another
            };
            let addresses = port.external_ips.iter().copied();
            addresses.filter(is_withheld).collect::<Vec<_>>()
        };
        self.served(service).iter().flat_map(of_port).collect()
    }

    /// The ports of the node that belong to pods.
    pub fn published(&self) -> &[PublishedPort] {
        &self.published
    }

    /// Replaces the ports of Services, removes deleted ones, and returns the changes of the table.
    pub fn replace(
        &mut self,
        changed: BTreeMap<ServiceName, Vec<ServicePort>>,
    ) -> Vec<TableChange> {
        let names = changed.keys().cloned().collect();
        self.alter(names, |routes| {
            for (service, ports) in changed {
                if ports.is_empty() {
                    routes.services.remove(&service);
                } else {
                    routes.services.insert(service, ports);
                }
            }
        })
    }

    /// Replaces the addresses of the machines of the cluster, and returns the changes of the table.
    pub fn set_machines(&mut self, machines: MachineAddresses) -> Vec<TableChange> {
        let (old, new) = (&self.settings.machines, &machines);
        let changed_addresses = old.local.symmetric_difference(&new.local);
        let others = old.others.symmetric_difference(&new.others);
        let changed: BTreeSet<&Ipv4Addr> = changed_addresses.chain(others).collect();
        let further = &self.settings.further_ranges;
        let is_concerned = |address| {
            changed.contains(&address) || further.iter().any(|range| range.contains(address))
        };
        let affected = self.services_outside(is_concerned);
        self.set(affected, |settings| settings.machines = machines)
    }

    /// The further ranges of Services.
    pub fn further_ranges(&self) -> &[Cidr] {
        &self.settings.further_ranges
    }

    /// Replaces the further ranges of Services, and returns the changes of the table.
    pub fn set_further_ranges(&mut self, ranges: Vec<Cidr>) -> Vec<TableChange> {
        let old = &self.settings.further_ranges;
        let is_concerned = |address| {
            old.iter()
                .chain(&ranges)
                .any(|range| range.contains(address))
        };
        let affected = self.services_outside(is_concerned);
        self.set(affected, |settings| settings.further_ranges = ranges)
    }

    /// The Services with an external or load balancer address of that kind.
    fn services_outside(&self, is_concerned: impl Fn(Ipv4Addr) -> bool) -> BTreeSet<ServiceName> {
        let claims = |port: &ServicePort| {
            let mut outside = port.external_ips.iter().chain(&port.load_balancer_ips);
            outside.any(|address| is_concerned(*address))
        };
        let services = self.services.iter();
        let affected = services.filter(|(_, ports)| ports.iter().any(claims));
        affected.map(|(service, _)| service.clone()).collect()
    }

    /// Changes the settings, on which these Services depend, and returns the changes of the table.
    fn set(
        &mut self,
        services: BTreeSet<ServiceName>,
        change: impl FnOnce(&mut Settings),
    ) -> Vec<TableChange> {
        let before = base(&self.settings);
        let mut steps = self.alter(services, |routes| change(&mut routes.settings));
        steps.extend(changes(&before, &base(&self.settings)));
        steps
    }

    /// Leaves out exactly these Services, and returns the changes of the table.
    pub fn leave_out(&mut self, services: BTreeSet<ServiceName>) -> Vec<TableChange> {
        let affected = self.left_out.symmetric_difference(&services);
        let affected = affected.cloned().collect();
        self.alter(affected, |routes| routes.left_out = services)
    }

    /// Applies a change to these Services, and returns the changes of the table.
    fn alter(
        &mut self,
        services: BTreeSet<ServiceName>,
        change: impl FnOnce(&mut Routes),
    ) -> Vec<TableChange> {
        let before = self.parts(&services);
        change(self);
        let after = self.parts(&services);
        let of_parts = before.values().chain(after.values());
        let keys = of_parts.flat_map(|(part, _)| part.elements.keys());
        let keys: BTreeSet<Key> = keys.map(|(_, key)| *key).collect();
        // Chains and sets belong to one Service; an element may change its Service.
        let mut old = joined(&before);
        old.elements = self.elements(&keys, before);
        for key in &keys {
            if let Some(claims) = self.claims.get_mut(key) {
                claims.retain(|claim| !services.contains(&claim.service));
            }
        }
        for (service, (part, age)) in &after {
            for (_, key) in part.elements.keys() {
                let claim = Claim {
                    outside: !self.is_inside(service, *key),
                    age: age.clone(),
                    service: service.clone(),
                };
                let claims = self.claims.entry(*key).or_default();
                if let Err(index) = claims.binary_search(&claim) {
                    claims.insert(index, claim);
                }
            }
        }
        for key in &keys {
            if self.claims.get(key).is_some_and(Vec::is_empty) {
                self.claims.remove(key);
            }
        }
        let mut new = joined(&after);
        new.elements = self.elements(&keys, after);
        changes(&old, &new)
    }

    /// Replaces the pods' host ports, and returns the changes of the table.
    pub fn publish(&mut self, ports: Vec<PublishedPort>) -> Vec<TableChange> {
        let (mut old, mut new) = (Table::default(), Table::default());
        publish(&mut old, &self.published);
        publish(&mut new, &ports);
        self.published = ports;
        changes(&old, &new)
    }

    /// Replaces the node's listening sockets, and returns the changes of the table.
    pub fn hold(&mut self, listening: Listening) -> Vec<TableChange> {
        let (mut old, mut new) = (Table::default(), Table::default());
        hold(&mut old, &self.listening);
        hold(&mut new, &listening);
        self.listening = listening;
        changes(&old, &new)
    }

    /// Replaces the tunnel to other nodes, and returns the changes of the table.
    pub fn guard(&mut self, tunnel: Option<TunnelGuard>) -> Vec<TableChange> {
        let (mut old, mut new) = (Table::default(), Table::default());
        guard(&mut old, self.tunnel.as_ref());
        guard(&mut new, tunnel.as_ref());
        self.tunnel = tunnel;
        changes(&old, &new)
    }

    /// Replaces the part that filters pods' connections, and returns the changes of the table.
    pub fn filter(&mut self, filters: Table) -> Vec<TableChange> {
        let steps = changes(&self.filters, &filters);
        self.filters = filters;
        steps
    }

    /// The part that filters pods' connections.
    pub fn filters(&self) -> &Table {
        &self.filters
    }

    /// The elements with these keys: each is the element of the first Service that claims it. `parts` contains some of
    /// the Services; the parts of other Services are computed.
    fn elements(
        &self,
        keys: &BTreeSet<Key>,
        mut parts: BTreeMap<ServiceName, Part>,
    ) -> BTreeMap<(MapName, Key), MapVerdict> {
        let mut elements = BTreeMap::new();
        for key in keys {
            let Some(owner) = self.claims.get(key).and_then(|claims| claims.first()) else {
                continue;
            };
            let computed = || self.part(&owner.service);
            let (part, _) = parts.entry(owner.service.clone()).or_insert_with(computed);
            let of_maps = MapName::ALL
                .iter()
                .find_map(|map| part.elements.remove_entry(&(*map, *key)));
            elements.extend(of_maps);
        }
        elements
    }

    fn parts(&self, services: &BTreeSet<ServiceName>) -> BTreeMap<ServiceName, Part> {
        let part = |service: &ServiceName| (service.clone(), self.part(service));
        services.iter().map(part).collect()
    }

    /// The part of the table for one Service, with the age of the Service.
    fn part(&self, service: &ServiceName) -> Part {
        let ports = self.served(service);
        let age = ports.first().map(|port| port.age.clone());
        (part(ports, &self.settings), age.unwrap_or_default())
    }

    /// The ports of a Service that the table has.
    fn served(&self, service: &ServiceName) -> &[ServicePort] {
        match self.left_out.contains(service) {
            true => &[],
            false => self.ports_of(service),
        }
    }

    /// Whether the key belongs to the `clusterIP` of a Service.
    fn is_inside(&self, service: &ServiceName, key: Key) -> bool {
        let mut ports = self.served(service).iter();
        ports.any(|port| Key::on(port.cluster_ip, port.protocol, port.port) == key)
    }
}

/// The part of a table for one Service, and the age of the Service.
type Part = (Table, ServiceAge);

/// The chains and sets of the parts.
fn joined(parts: &BTreeMap<ServiceName, Part>) -> Table {
    let mut joined = Table::default();
    for (part, _) in parts.values() {
        joined.chains.extend(part.chains.clone());
        joined.sets.extend(part.sets.clone());
    }
    joined
}
