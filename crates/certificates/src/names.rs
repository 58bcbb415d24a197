//! The names and addresses that the server's certificate is valid for.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// The API server's names for pods, on any host.
const SERVICE_NAMES: [&str; 4] = [
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

/// DNS names and IP addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubjectAltNames {
    /// DNS names in lower case.
    pub dns: BTreeSet<String>,
    /// Addresses.
    pub addresses: BTreeSet<IpAddr>,
}

impl SubjectAltNames {
    /// The names of every API server, besides the host's own name and the given addresses: those of
    /// the host, the first Service address, the node's address in the pod network.
    pub fn api_server(host_name: &str, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let mut names = Self::default();
        names.dns.extend(SERVICE_NAMES.map(str::to_owned));
        names.dns.insert("localhost".to_owned());
        let host_name = host_name.trim_end_matches('.').to_ascii_lowercase();
        match host_name.parse() {
            Ok(address) => {
                names.addresses.insert(address);
            }
            // A name with letters outside of DNS cannot be requested anyway.
            Err(_) if is_dns_name(&host_name) => {
                names.dns.insert(host_name);
            }
            Err(_) => {}
        }
        names.addresses.insert(Ipv4Addr::LOCALHOST.into());
        names.addresses.insert(Ipv6Addr::LOCALHOST.into());
        let given = addresses
            .into_iter()
            .filter(|address| !address.is_unspecified());
        names.addresses.extend(given);
        names
    }

    /// Whether these include all of the others.
    pub(crate) fn covers(&self, others: &Self) -> bool {
        self.dns.is_superset(&others.dns) && self.addresses.is_superset(&others.addresses)
    }
}

fn is_dns_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_that_are_no_dns_names_are_left_out() {
        let plain = SubjectAltNames::api_server("", []);
        assert_eq!(plain.dns.len(), SERVICE_NAMES.len() + 1);
        assert_eq!(SubjectAltNames::api_server("böse", []), plain);
        assert_eq!(SubjectAltNames::api_server("a..b", []), plain);
        assert!(
            SubjectAltNames::api_server("Node-1.", [])
                .dns
                .contains("node-1")
        );
        let by_address = SubjectAltNames::api_server("10.1.2.3", []);
        assert!(by_address.addresses.contains(&IpAddr::from([10, 1, 2, 3])));
    }
}
