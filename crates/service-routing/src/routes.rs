//! The parts of a table, and its Services one by one, so that the cost of a change does not depend on the size of
//! the table.

use std::collections::{BTreeMap, BTreeSet};

use object_model::listening::Listening;

use crate::change::{TableChange, changes};
use crate::compile::{Settings, add_port, hold, table};
use crate::host_ports::{PublishedPort, publish};
use crate::model::{Key, MapName, MapVerdict, Table};
use crate::services::ServicePort;

/// Names a Service; in this order the first keeps an address and port that several claim.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceName {
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub name: String,
}

/// The parts of a table, and the claimants of each of its elements.
///
/// *Invariant* (checked by a test): the steps that the changes return, done one after the other,
/// lead to [`Routes::table`].
#[derive(Clone, Debug)]
pub struct Routes {
    settings: Settings,
    services: BTreeMap<ServiceName, Vec<ServicePort>>,
    published: Vec<PublishedPort>,
    held: Listening,
    filters: Table,
    /// Sorted; hardly ever more than one.
    claims: BTreeMap<Key, Vec<ServiceName>>,
}

impl Routes {
    /// No Services and no ports of the node.
    pub fn new(settings: Settings) -> Routes {
        Routes {
            settings,
            services: BTreeMap::new(),
            published: Vec::new(),
            held: Listening::default(),
            filters: Table::default(),
            claims: BTreeMap::new(),
        }
    }

    /// The complete nftables table: Services, host ports and filters.
    pub fn table(&self) -> Table {
        let mut whole = table(self.ports(), &self.settings);
        publish(&mut whole, &self.published);
        hold(&mut whole, &self.held);
        whole.include(self.filters.clone());
        whole
    }

    /// The ports of all Services.
    pub fn ports(&self) -> impl Iterator<Item = &ServicePort> {
        self.services.values().flatten()
    }

    /// The ports of a Service; none when it is not there.
    pub fn ports_of(&self, service: &ServiceName) -> &[ServicePort] {
        self.services.get(service).map_or(&[], Vec::as_slice)
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
        // Chains and sets belong to one Service; an element may pass from one to another.
        let (mut old, mut new) = (Table::default(), Table::default());
        let (mut released, mut claimed) = (Vec::new(), Vec::new());
        for (service, ports) in &changed {
            let before = part(self.ports_of(service), &self.settings);
            released.extend(before.elements.into_keys().map(|(_, key)| (key, service)));
            old.chains.extend(before.chains);
            old.sets.extend(before.sets);
            let after = part(ports, &self.settings);
            claimed.extend(after.elements.into_keys().map(|(_, key)| (key, service)));
            new.chains.extend(after.chains);
            new.sets.extend(after.sets);
        }
        let keys = released.iter().chain(&claimed).map(|(key, _)| *key);
        let keys: BTreeSet<Key> = keys.collect();
        old.elements = self.elements(&keys);
        for (key, service) in released {
            if let Some(claims) = self.claims.get_mut(&key) {
                claims.retain(|other| other != service);
            }
        }
        for (key, service) in claimed {
            let claims = self.claims.entry(key).or_default();
            if let Err(place) = claims.binary_search(service) {
                claims.insert(place, service.clone());
            }
        }
        for key in &keys {
            if self.claims.get(key).is_some_and(Vec::is_empty) {
                self.claims.remove(key);
            }
        }
        for (service, ports) in changed {
            if ports.is_empty() {
                self.services.remove(&service);
            } else {
                self.services.insert(service, ports);
            }
        }
        new.elements = self.elements(&keys);
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
        hold(&mut old, &self.held);
        hold(&mut new, &listening);
        self.held = listening;
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

    /// The elements with these keys: those of the first Service that claims each.
    fn elements(&self, keys: &BTreeSet<Key>) -> BTreeMap<(MapName, Key), MapVerdict> {
        let mut parts: BTreeMap<&ServiceName, Table> = BTreeMap::new();
        let mut elements = BTreeMap::new();
        for key in keys {
            let Some(owner) = self.claims.get(key).and_then(|claims| claims.first()) else {
                continue;
            };
            let of_owner = || part(self.ports_of(owner), &self.settings);
            let part = parts.entry(owner).or_insert_with(of_owner);
            let found = MapName::ALL
                .iter()
                .find_map(|map| part.elements.remove_entry(&(*map, *key)));
            elements.extend(found);
        }
        elements
    }
}

/// The part of a table for one Service.
fn part(ports: &[ServicePort], settings: &Settings) -> Table {
    let mut part = Table::default();
    for port in ports {
        add_port(&mut part, port, settings);
    }
    part
}
