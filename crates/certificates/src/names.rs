//! The names and addresses for which the server's certificate is valid.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::Deserialize;
use thiserror::Error;

/// The API server's names for pods, on any host.
const SERVICE_NAMES: [&str; 4] = [
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

/// A DNS name in lower case, or an IP address.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum SubjectAltName {
    Dns(String),
    Address(IpAddr),
}

/// The reason why a text is not a [`SubjectAltName`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SubjectAltNameError {
    #[error("{0} is not the address of a machine")]
    Unspecified(IpAddr),
    #[error("{0:?} is neither a DNS name nor an IP address")]
    Malformed(String),
}

impl FromStr for SubjectAltName {
    type Err = SubjectAltNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return match address.is_unspecified() {
                true => Err(SubjectAltNameError::Unspecified(address)),
                false => Ok(Self::Address(address)),
            };
        }
        let name = text.trim_end_matches('.').to_ascii_lowercase();
        match is_dns_name(&name) {
            true => Ok(Self::Dns(name)),
            false => Err(SubjectAltNameError::Malformed(text.to_owned())),
        }
    }
}

impl TryFrom<String> for SubjectAltName {
    type Error = SubjectAltNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// DNS names and IP addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubjectAltNames {
    /// DNS names in lower case.
    pub dns: BTreeSet<String>,
    /// IPv4 and IPv6 addresses.
    pub addresses: BTreeSet<IpAddr>,
}

impl SubjectAltNames {
    /// The names of every API server, the host's own name, and the given addresses: those of the host, the first
    /// Service address, the node's address in the pod network.
    pub fn api_server(host_name: &str, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let mut names = Self::default();
        names.dns.extend(SERVICE_NAMES.map(str::to_owned));
        names.dns.insert("localhost".to_owned());
        let host_name = host_name.trim_end_matches('.').to_ascii_lowercase();
        match host_name.parse() {
            Ok(address) => {
                names.addresses.insert(address);
            }
            // Clients cannot request a name with characters that DNS does not allow, so it is skipped.
            Err(_) if is_dns_name(&host_name) => {
                names.dns.insert(host_name);
            }
            Err(_) => {}
        }
        names.addresses.insert(Ipv4Addr::LOCALHOST.into());
        names.addresses.insert(Ipv6Addr::LOCALHOST.into());
        let usable = addresses
            .into_iter()
            .filter(|address| !address.is_unspecified());
        names.addresses.extend(usable);
        names
    }

    /// Adds a name or an address.
    pub fn add(&mut self, name: &SubjectAltName) {
        match name {
            SubjectAltName::Dns(name) => self.dns.insert(name.clone()),
            SubjectAltName::Address(address) => self.addresses.insert(*address),
        };
    }

    /// Whether these names equal the names of `others`, and include all their addresses.
    pub(crate) fn covers(&self, others: &Self) -> bool {
        self.dns == others.dns && self.addresses.is_superset(&others.addresses)
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

    #[test]
    fn a_further_name_is_a_dns_name_or_an_address() {
        let name: SubjectAltName = "API.example.org.".parse().unwrap();
        assert_eq!(name, SubjectAltName::Dns("api.example.org".to_owned()));
        for (text, address) in [
            ("192.0.2.9", IpAddr::from([192, 0, 2, 9])),
            ("2001:db8::9", "2001:db8::9".parse().unwrap()),
        ] {
            assert_eq!(text.parse(), Ok(SubjectAltName::Address(address)));
        }
        for strange in [
            "",
            "a b",
            "https://api",
            "api:6443",
            "192.0.2.9:6443",
            "böse",
            "a..b",
            "0.0.0.0",
            "::",
        ] {
            assert!(strange.parse::<SubjectAltName>().is_err(), "{strange}");
        }
        let mut names = SubjectAltNames::api_server("host", []);
        names.add(&name);
        assert!(names.dns.contains("api.example.org"));
    }
}
