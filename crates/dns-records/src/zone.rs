//! All names of the cluster with their records.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use object_model::cidr::Cidr;

use crate::answer::{Data, Kind, LookupResult};
use crate::names;
use crate::records::{self, DnsRecord, address_data};
use crate::tree::{Node, Tree};

/// Version of the specification, for `dns-version.<domain>`.
const SPECIFICATION_VERSION: &str = "1.1.0";

/// The settings of the zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The cluster's domain, such as `cluster.local`.
    pub domain: String,
    /// The addresses of this server as pods use them.
    pub dns_addresses: Vec<IpAddr>,
    /// Ranges of pods and Services: reverse lookups of other addresses are forwarded.
    pub ranges: Vec<Cidr>,
}

/// Every name of the cluster with its records.
///
/// *Invariant* (checked by a test): the zone does not depend on the order of updates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    settings: Settings,
    tree: Tree,
    /// The records of each Service, sorted, by its name in the zone.
    services: BTreeMap<String, Vec<DnsRecord>>,
    /// Names of Services without their namespace, each with the number of Services of that name.
    names: BTreeMap<String, u32>,
    /// Namespaces, each with its number of uses: the list and each Service in the namespace count.
    namespaces: BTreeMap<String, u32>,
    listed: BTreeSet<String>,
    /// Records that do not depend on Services; a record of the server's addresses is omitted if a Service names the
    /// address.
    fixed: Vec<DnsRecord>,
}

impl Zone {
    /// A zone without namespaces and Services.
    pub fn new(settings: Settings) -> Zone {
        let domain = settings.domain.to_ascii_lowercase();
        let mut zone = Zone {
            tree: Tree::new(domain.clone()),
            settings: Settings { domain, ..settings },
            services: BTreeMap::new(),
            names: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            listed: BTreeSet::new(),
            fixed: Vec::new(),
        };
        zone.add_fixed();
        zone
    }

    /// Sets the list of namespaces. Namespaces of Services exist even if they are not listed.
    pub fn list_namespaces<'a>(&mut self, namespaces: impl IntoIterator<Item = &'a str>) {
        let listed = namespaces.into_iter().map(str::to_ascii_lowercase);
        let listed: BTreeSet<String> = listed.collect();
        for namespace in listed.difference(&self.listed.clone()) {
            self.add_namespace(namespace);
        }
        for namespace in std::mem::take(&mut self.listed).difference(&listed) {
            self.remove_namespace(namespace);
        }
        self.listed = listed;
    }

    /// Sets the records of a Service from its slices, or removes them.
    pub fn replace(
        &mut self,
        namespace: &str,
        name: &str,
        service: Option<&Service>,
        slices: &[&EndpointSlice],
    ) {
        let [namespace, name] = [namespace, name].map(str::to_ascii_lowercase);
        let full = format!("{name}.{namespace}.svc.{}", self.tree.domain());
        let mut records = service.map(|service| records::of_service(&full, service, slices));
        if let Some(records) = &mut records {
            records.sort_unstable();
        }
        self.remove_fixed();
        let before = self.services.remove(&full);
        self.change(
            before.as_deref().unwrap_or_default(),
            records.as_deref().unwrap_or_default(),
        );
        match (before.is_some(), records.is_some()) {
            (true, false) => {
                uncount(&mut self.names, &name);
                self.remove_namespace(&namespace);
            }
            (false, true) => {
                count(&mut self.names, &name);
                self.add_namespace(&namespace);
            }
            _ => {}
        }
        if let Some(records) = records {
            self.services.insert(full, records);
        }
        self.add_fixed();
    }

    /// Replaces sorted records by others. In a Service with many endpoints, most records are equal before and after.
    fn change(&mut self, before: &[DnsRecord], after: &[DnsRecord]) {
        let (mut before, mut after) = (before, after);
        loop {
            let order = match (before.first(), after.first()) {
                (Some(old), Some(new)) => old.cmp(new),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return,
            };
            let (old, new) = match order {
                Ordering::Less => (1, 0),
                Ordering::Equal => (1, 1),
                Ordering::Greater => (0, 1),
            };
            if order.is_lt() {
                self.remove_records(&before[..old]);
            } else if order.is_gt() {
                self.add_records(&after[..new]);
            }
            (before, after) = (&before[old..], &after[new..]);
        }
    }

    fn add_records(&mut self, records: &[DnsRecord]) {
        for (name, data) in records {
            self.tree.add(name, data.clone());
        }
    }

    fn remove_records(&mut self, records: &[DnsRecord]) {
        for (name, data) in records {
            self.tree.remove(name, data);
        }
    }

    fn add_namespace(&mut self, namespace: &str) {
        if count(&mut self.namespaces, namespace) {
            for name in names_of_namespace(namespace, self.tree.domain()) {
                self.tree.add_name(&name);
            }
        }
    }

    fn remove_namespace(&mut self, namespace: &str) {
        if uncount(&mut self.namespaces, namespace) {
            for name in names_of_namespace(namespace, self.tree.domain()) {
                self.tree.remove_name(&name);
            }
        }
    }

    fn add_fixed(&mut self) {
        let domain = self.tree.domain();
        let server = format!("ns.dns.{domain}");
        let version = Data::Txt(SPECIFICATION_VERSION.to_owned());
        let mut fixed = vec![
            (domain.to_owned(), Data::Soa),
            (domain.to_owned(), Data::Ns(server.clone())),
            (format!("dns-version.{domain}"), version),
        ];
        for address in &self.settings.dns_addresses {
            fixed.push((server.clone(), address_data(*address)));
            // Tools print the name of the server that they query, so its address has a name even without a Service.
            let reverse = names::reverse_name(*address);
            if self.tree.get(&reverse).is_none() {
                let service = format!("kube-dns.kube-system.svc.{domain}");
                fixed.push((service.clone(), address_data(*address)));
                fixed.push((reverse, Data::Ptr(service)));
            }
        }
        self.add_records(&fixed);
        self.fixed = fixed;
    }

    fn remove_fixed(&mut self) {
        let fixed = std::mem::take(&mut self.fixed);
        self.remove_records(&fixed);
    }

    /// Looks up a name. Case and a final dot are ignored.
    pub fn lookup(&self, name: &str, kind: Kind) -> LookupResult {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        if let Some(node) = self.tree.get(&name) {
            return self.records_of(node, kind);
        }
        if let Some(above) = name
            .strip_suffix(self.tree.domain())
            .and_then(|n| n.strip_suffix('.'))
        {
            return self.pod(above, kind).unwrap_or(LookupResult::NoSuchName);
        }
        let ours = |address: IpAddr| match address {
            IpAddr::V4(address) => self
                .settings
                .ranges
                .iter()
                .any(|range| range.contains(address)),
            IpAddr::V6(_) => false,
        };
        match names::reversed_address(&name) {
            Some(address) if ours(address) => LookupResult::NoSuchName,
            _ => LookupResult::NotOurs,
        }
    }

    fn records_of(&self, node: &Node, kind: Kind) -> LookupResult {
        let alias = |data: &&Data| data.kind() == Kind::Cname;
        let is_requested = |data: &&Data| kind == Kind::Any || data.kind() == kind;
        let mut records: Vec<Data> = match node.data().find(alias) {
            // An alias matches every type.
            Some(alias) => vec![alias.clone()],
            None => node.data().filter(is_requested).cloned().collect(),
        };
        if records.is_empty() {
            return LookupResult::NoData;
        }
        share_weight(&mut records);
        let targets: BTreeSet<&String> = records
            .iter()
            .filter_map(|data| match data {
                Data::Srv { target, .. } | Data::Ns(target) => Some(target),
                _ => None,
            })
            .collect();
        let addresses = |target: &String| {
            let node = self.tree.get(&target.to_ascii_lowercase());
            let records = node.into_iter().flat_map(Node::data);
            let records = records.filter(|data| matches!(data.kind(), Kind::A | Kind::Aaaa));
            let target = target.clone();
            records
                .map(move |data| (target.clone(), data.clone()))
                .collect::<Vec<_>>()
        };
        let additional = targets.into_iter().flat_map(addresses).collect();
        LookupResult::Records {
            records,
            additional,
        }
    }

    /// The result for names that contain an address: `a-b-c-d.<namespace>.pod` (statefulset.md §10.6).
    fn pod(&self, above: &str, kind: Kind) -> Option<LookupResult> {
        let (label, namespace) = above.strip_suffix(".pod")?.split_once('.')?;
        let address = names::label_address(label)?;
        if !self.namespaces.contains_key(namespace) {
            return None;
        }
        Some(match kind {
            Kind::A | Kind::Any => LookupResult::Records {
                records: vec![Data::A(address)],
                additional: Vec::new(),
            },
            _ => LookupResult::NoData,
        })
    }

    /// Whether a name looks like a cluster name without its domain: `web-0`, `web-0.nginx`, `nginx.default`,
    /// `nginx.default.svc`. Clients query such a name after their search list failed, which happens while a peer does
    /// not exist yet.
    pub fn resembles(&self, name: &str) -> bool {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        name.rsplit_once('.').is_none_or(|(_, last)| {
            last == "svc" || self.names.contains_key(last) || self.namespaces.contains_key(last)
        })
    }

    /// Returns the cluster's domain.
    pub fn domain(&self) -> &str {
        self.tree.domain()
    }

    /// Returns the number of names.
    pub fn name_count(&self) -> usize {
        self.tree.len()
    }
}

fn names_of_namespace(namespace: &str, domain: &str) -> [String; 2] {
    ["svc", "pod"].map(|kind| format!("{namespace}.{kind}.{domain}"))
}

/// Increments a count, and returns whether the name is new.
fn count(counts: &mut BTreeMap<String, u32>, name: &str) -> bool {
    let count = counts.entry(name.to_owned()).or_default();
    *count += 1;
    *count == 1
}

/// Decrements a count, and returns whether the name was removed.
fn uncount(counts: &mut BTreeMap<String, u32>, name: &str) -> bool {
    let Some(count) = counts.get_mut(name) else {
        return false;
    };
    *count -= 1;
    let last = *count == 0;
    if last {
        counts.remove(name);
    }
    last
}

/// Sets equal weights for all servers of a result.
fn share_weight(records: &mut [Data]) {
    let count = records
        .iter()
        .filter(|data| data.kind() == Kind::Srv)
        .count();
    let share = u16::try_from(100 / count.max(1)).unwrap_or(1).max(1);
    for data in records {
        if let Data::Srv { weight, .. } = data {
            *weight = share;
        }
    }
}
