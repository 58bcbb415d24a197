//! Names of addresses, for forward and reverse lookups.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Returns the label for the address of an endpoint without a host name: its text with dashes
/// (`10-244-0-5`), as CoreDNS.
pub(crate) fn address_label(address: IpAddr) -> String {
    let text = address.to_string().replace(['.', ':'], "-");
    // A label must not begin or end with a dash, as the label of `::1` would.
    match (text.starts_with('-'), text.ends_with('-')) {
        (true, _) => format!("0{text}"),
        (_, true) => format!("{text}0"),
        _ => text,
    }
}

/// Parses an IPv4 address from its label.
pub(crate) fn label_address(label: &str) -> Option<Ipv4Addr> {
    let text = label.replace('-', ".");
    text.parse().ok().filter(|_| !label.contains('.'))
}

/// Returns the name of an address for a reverse lookup.
pub(crate) fn reverse_name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(address) => {
            let nibbles = address
                .octets()
                .into_iter()
                .rev()
                .flat_map(|b| [b & 0xf, b >> 4]);
            let labels: Vec<String> = nibbles.map(|nibble| format!("{nibble:x}")).collect();
            format!("{}.ip6.arpa", labels.join("."))
        }
    }
}

/// Parses the address in a complete reverse name.
pub(crate) fn reversed_address(name: &str) -> Option<IpAddr> {
    if let Some(labels) = name.strip_suffix(".in-addr.arpa") {
        let parts: Vec<&str> = labels.split('.').rev().collect();
        return parts.join(".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    }
    let labels: Vec<&str> = name.strip_suffix(".ip6.arpa")?.split('.').rev().collect();
    let is_nibble = |label: &&str| label.len() == 1 && u8::from_str_radix(label, 16).is_ok();
    if labels.len() != 32 || !labels.iter().all(is_nibble) {
        return None;
    }
    let bits = u128::from_str_radix(&labels.concat(), 16).ok()?;
    Some(IpAddr::V6(Ipv6Addr::from_bits(bits)))
}

#[cfg(test)]
mod tests {
    use super::{address_label, label_address, reverse_name, reversed_address};

    #[test]
    fn addresses_become_labels_and_reverse_names_and_back() {
        for (text, label, reverse) in [
            ("10.244.0.5", "10-244-0-5", "5.0.244.10.in-addr.arpa"),
            (
                "fd00::5",
                "fd00--5",
                "5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa",
            ),
            (
                "::1",
                "0--1",
                "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa",
            ),
        ] {
            let address = text.parse().unwrap();
            assert_eq!(address_label(address), label);
            assert_eq!(reverse_name(address), reverse);
            assert_eq!(reversed_address(reverse), Some(address));
        }
        assert_eq!(label_address("10-244-0-5"), "10.244.0.5".parse().ok());
        for bad in ["10-244-0", "web-0", "10.244.0.5", ""] {
            assert_eq!(label_address(bad), None, "{bad}");
        }
        for bad in [
            "10.in-addr.arpa",
            "1.2.3.4.5.in-addr.arpa",
            "x.ip6.arpa",
            "in-addr.arpa",
            "",
        ] {
            assert_eq!(reversed_address(bad), None, "{bad}");
        }
    }
}
