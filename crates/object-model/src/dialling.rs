//! Addresses to which the program does not connect on behalf of a user. They lead to this machine itself, or to a
//! service of the local network (metadata of clouds), and not to another host.

use std::fmt;
use std::net::IpAddr;

/// The reason why an address does not belong to a remote host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialAddress {
    /// `0.0.0.0` or `::`, which mean this machine.
    Unspecified,
    /// This machine.
    Loopback,
    /// A link-local address, for example of a cloud's metadata server.
    LinkLocal,
    /// The address of a multicast group.
    Multicast,
    /// The address of all hosts of a link (broadcast).
    Broadcast,
}

impl fmt::Display for SpecialAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "unspecified",
            Self::Loopback => "loopback",
            Self::LinkLocal => "link-local",
            Self::Multicast => "multicast",
            Self::Broadcast => "broadcast",
        })
    }
}

/// The reason why an address is special; `None` for the address of a host. An IPv4 address in IPv6 form
/// (`::ffff:127.0.0.1`) is treated as IPv4.
pub fn special(address: IpAddr) -> Option<SpecialAddress> {
    let given = address;
    let address = given.to_canonical();
    if address != given {
        cov_mark::hit!(findings_s15);
    }
    let (link_local, broadcast) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.is_broadcast()),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), false),
    };
    // For the kernel, all of 0.0.0.0/8 is the machine's own network.
    let this_network = matches!(address, IpAddr::V4(v4) if v4.octets()[0] == 0);
    [
        (
            address.is_unspecified() || this_network,
            SpecialAddress::Unspecified,
        ),
        (address.is_loopback(), SpecialAddress::Loopback),
        (link_local, SpecialAddress::LinkLocal),
        (address.is_multicast(), SpecialAddress::Multicast),
        (broadcast, SpecialAddress::Broadcast),
    ]
    .into_iter()
    .find_map(|(holds, special)| holds.then_some(special))
}

/// The address in its canonical form, if a connection to it on behalf of a user is allowed.
///
/// # Errors
/// The reason why the address is special.
pub fn dialled(address: IpAddr) -> Result<IpAddr, SpecialAddress> {
    match special(address) {
        None => Ok(address.to_canonical()),
        Some(special) => Err(special),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // findings S15
    #[test]
    fn only_addresses_of_hosts_are_dialled() {
        cov_mark::check!(findings_s15);
        for (text, expected) in [
            ("10.244.0.2", None),
            ("::ffff:10.244.0.2", None),
            ("2001:db8::1", None),
            ("0.0.0.0", Some(SpecialAddress::Unspecified)),
            ("0.1.2.3", Some(SpecialAddress::Unspecified)),
            ("::", Some(SpecialAddress::Unspecified)),
            ("::ffff:0.0.0.0", Some(SpecialAddress::Unspecified)),
            ("127.0.0.1", Some(SpecialAddress::Loopback)),
            ("127.9.9.9", Some(SpecialAddress::Loopback)),
            ("::1", Some(SpecialAddress::Loopback)),
            ("::ffff:127.0.0.1", Some(SpecialAddress::Loopback)),
            ("169.254.169.254", Some(SpecialAddress::LinkLocal)),
            ("::ffff:169.254.169.254", Some(SpecialAddress::LinkLocal)),
            ("fe80::1", Some(SpecialAddress::LinkLocal)),
            ("224.0.0.1", Some(SpecialAddress::Multicast)),
            ("ff02::1", Some(SpecialAddress::Multicast)),
            ("255.255.255.255", Some(SpecialAddress::Broadcast)),
        ] {
            assert_eq!(special(text.parse().unwrap()), expected, "{text}");
        }
        let mapped = "::ffff:10.244.0.2".parse().unwrap();
        assert_eq!(dialled(mapped), Ok("10.244.0.2".parse().unwrap()));
    }
}
