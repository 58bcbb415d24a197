//! The addresses to which a pull may connect.
//!
//! A pod's owner chooses the name of an image, and a registry chooses the addresses for tokens and layers.
//! Neither of them may direct the node to services on its loopback, or on its link, where clouds provide
//! the machine's credentials. Endpoints in `registries.yaml` are the administrator's choice and may have
//! any address.

use std::net::{IpAddr, Ipv6Addr};

use object_model::dialling::{SpecialAddress, special};
use outbound_http::Url;

/// Maximum number of consecutive redirects: registries redirect to a store of layers, which redirects at
/// most once more.
const REDIRECTS_MAX: usize = 5;

/// Metadata services with addresses that are not link-local (Amazon over IPv6, Alibaba, Oracle).
const METADATA: [IpAddr; 3] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(std::net::Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 0, 192)),
];

/// The class of an address, relative to the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AddressClass {
    /// An address that other machines can reach, too.
    Open,
    /// An address of the node itself.
    Loopback,
    /// Link-local addresses, and addresses that no host has.
    Closed,
}

/// The class of an address.
pub(super) fn class_of(address: IpAddr) -> AddressClass {
    match special(address) {
        Some(SpecialAddress::Loopback) => AddressClass::Loopback,
        Some(_) => AddressClass::Closed,
        None if METADATA.contains(&address.to_canonical()) => AddressClass::Closed,
        None => AddressClass::Open,
    }
}

/// The class of the address in a URL; `None` if the host is a name that needs a DNS lookup.
fn literal_class(url: &Url) -> Option<AddressClass> {
    let host = url.host_str()?;
    if is_localhost(host) {
        return Some(AddressClass::Loopback);
    }
    let bare = host.trim_matches(['[', ']']);
    bare.parse().ok().map(class_of)
}

fn is_localhost(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

/// The reason why a redirect is not followed.
#[derive(Debug, thiserror::Error)]
pub(super) enum RefusedRedirect {
    #[error("too many redirects")]
    TooMany,
    #[error("it sends to an address that pulls may not reach")]
    Address,
}

/// The address classes that requests to one endpoint may reach.
#[derive(Clone, Debug)]
pub(super) struct AllowedAddresses {
    endpoint: Url,
    /// Whether `registries.yaml` names the endpoint.
    configured: bool,
}

impl AllowedAddresses {
    pub fn new(endpoint: Url, configured: bool) -> Self {
        Self {
            endpoint,
            configured,
        }
    }

    /// Whether the endpoint itself is allowed.
    pub fn allows_endpoint(&self) -> bool {
        self.configured || literal_class(&self.endpoint) != Some(AddressClass::Closed)
    }

    /// Whether the endpoint must prove that it is a registry before any other request.
    pub fn must_be_verified(&self) -> bool {
        !self.configured && literal_class(&self.endpoint) == Some(AddressClass::Loopback)
    }

    /// Whether the endpoint may redirect the node to a URL.
    pub fn allows(&self, url: &Url) -> bool {
        if !matches!(url.scheme(), "http" | "https") {
            return false;
        }
        let same = url.host() == self.endpoint.host()
            && url.port_or_known_default() == self.endpoint.port_or_known_default();
        let is_special = matches!(
            literal_class(url),
            Some(AddressClass::Loopback | AddressClass::Closed)
        );
        if is_special && !same {
            cov_mark::hit!(findings_s19);
        }
        same || !is_special
    }

    /// Checks that a redirect may be followed, after `followed` other redirects.
    ///
    /// # Errors
    /// The redirect is not followed.
    pub fn check_redirect(&self, url: &Url, followed: usize) -> Result<(), RefusedRedirect> {
        if followed >= REDIRECTS_MAX {
            return Err(RefusedRedirect::TooMany);
        }
        match self.allows(url) {
            true => Ok(()),
            false => Err(RefusedRedirect::Address),
        }
    }

    /// Whether the node may connect to an address of a name.
    pub fn allows_address(&self, name: &str, address: IpAddr) -> bool {
        let is_endpoint = self.endpoint.host_str() == Some(name);
        match class_of(address) {
            AddressClass::Open => true,
            AddressClass::Loopback => is_endpoint && (self.configured || is_localhost(name)),
            AddressClass::Closed => is_endpoint && self.configured,
        }
    }
}

/// Whether an endpoint outside of the configuration may redirect to a URL, for fuzzing.
pub(crate) fn may_send(endpoint: &str, location: &str) -> bool {
    let parse = |text: &str| Url::parse(text).ok();
    let (Some(endpoint), Some(location)) = (parse(endpoint), parse(location)) else {
        return false;
    };
    AllowedAddresses::new(endpoint, false).allows(&location)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(endpoint: &str, configured: bool) -> AllowedAddresses {
        AllowedAddresses::new(Url::parse(endpoint).unwrap(), configured)
    }

    /// findings S19
    #[test]
    fn addresses_of_the_node_and_its_links_are_told_apart() {
        let of = |text: &str| class_of(text.parse().unwrap());
        for open in ["192.0.2.1", "10.0.0.1", "2001:db8::1", "100.64.0.1"] {
            assert_eq!(of(open), AddressClass::Open, "{open}");
        }
        for loopback in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(of(loopback), AddressClass::Loopback, "{loopback}");
        }
        let closed = [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "fe80::1",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "fd00:ec2::254",
            "100.100.100.200",
        ];
        for address in closed {
            assert_eq!(of(address), AddressClass::Closed, "{address}");
        }
    }

    /// findings S19
    #[test]
    fn only_what_is_configured_may_be_on_a_link_and_loopback_has_to_show_itself() {
        let of = |endpoint: &str, configured| {
            let reach = reach(endpoint, configured);
            (reach.allows_endpoint(), reach.must_be_verified())
        };
        assert_eq!(of("https://registry.example", false), (true, false));
        assert_eq!(of("http://127.0.0.1:5000", false), (true, true));
        assert_eq!(of("http://[::1]:5000", false), (true, true));
        assert_eq!(of("http://localhost:5000", false), (true, true));
        assert_eq!(of("http://127.0.0.1:5000", true), (true, false));
        assert_eq!(of("https://169.254.169.254", false), (false, false));
        assert_eq!(of("https://169.254.169.254", true), (true, false));
    }

    /// findings S19
    #[test]
    fn nobody_is_sent_to_the_nodes_own_services() {
        cov_mark::check!(findings_s19);
        let allows = |endpoint: &str, url: &str| {
            let url = Url::parse(url).unwrap();
            [false, true].map(|configured| reach(endpoint, configured).allows(&url))
        };
        let far = "https://registry.example";
        assert_eq!(allows(far, "https://layers.example/x"), [true; 2]);
        for url in [
            "http://127.0.0.1/",
            "http://localhost:2379/",
            "http://a.localhost/",
            "http://[::ffff:127.0.0.1]/",
            "http://169.254.169.254/latest/meta-data",
            "http://0.0.0.0:6443/",
            "http://2130706433/",
            "file:///etc/passwd",
        ] {
            assert_eq!(allows(far, url), [false; 2], "{url}");
        }
        let near = "http://127.0.0.1:5000";
        assert_eq!(allows(near, "http://127.0.0.1:5000/blob"), [true; 2]);
        assert_eq!(allows(near, "http://127.0.0.1:5001/blob"), [false; 2]);
    }

    /// findings S19
    #[test]
    fn a_name_that_leads_to_the_node_is_not_the_nodes() {
        let loopback: IpAddr = "127.0.0.1".parse().unwrap();
        let allows = |endpoint: &str, configured, name: &str| {
            reach(endpoint, configured).allows_address(name, loopback)
        };
        assert!(!allows("https://evil.example", false, "evil.example"));
        assert!(allows("https://here.example", true, "here.example"));
        assert!(!allows("https://here.example", true, "evil.example"));
        assert!(allows("http://localhost:5000", false, "localhost"));
    }
}
