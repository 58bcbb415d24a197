//! IPv4 address ranges in CIDR notation: pod ranges, Service ranges, routes of the host.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// An IPv4 network such as `10.244.0.0/24`; host bits are always zero.
///
/// ```
/// use object_model::cidr::Cidr;
/// let range: Cidr = "10.96.0.0/16".parse().unwrap();
/// assert_eq!(range.nth(10).unwrap().to_string(), "10.96.0.10");
/// assert!(range.contains("10.96.255.255".parse().unwrap()));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr(Ipv4Net);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an IPv4 range such as 10.244.0.0/24")]
pub struct CidrError {
    pub text: String,
}

impl Cidr {
    /// The network of `address` with `prefix` leading bits. Host bits are cleared, and a prefix above 32 counts as
    /// 32.
    pub fn new(address: Ipv4Addr, prefix: u8) -> Cidr {
        Cidr(Ipv4Net::new_assert(address, prefix.min(32)).trunc())
    }

    /// The first address of the range.
    pub fn network(&self) -> Ipv4Addr {
        self.0.network()
    }

    /// The number of leading bits.
    pub fn prefix(&self) -> u8 {
        self.0.prefix_len()
    }

    /// The number of addresses, including network and broadcast addresses.
    pub fn size(&self) -> u64 {
        1 << (self.0.max_prefix_len() - self.0.prefix_len())
    }

    /// The last address of the range.
    pub fn last(&self) -> Ipv4Addr {
        self.0.broadcast()
    }

    /// The address at `index`; `None` beyond the end.
    pub fn nth(&self, index: u32) -> Option<Ipv4Addr> {
        let address = u32::checked_add(self.network().to_bits(), index)?;
        let address = Ipv4Addr::from_bits(address);
        self.contains(address).then_some(address)
    }

    pub fn contains(&self, address: Ipv4Addr) -> bool {
        self.0.contains(&address)
    }

    /// Whether the two ranges have a common address.
    pub fn overlaps(&self, other: &Cidr) -> bool {
        self.0.contains(&other.0) || other.0.contains(&self.0)
    }

    /// The next range of equal size; `None` at the end of the address space.
    pub fn next(&self) -> Option<Cidr> {
        let network = u32::checked_add(self.last().to_bits(), 1)?;
        Some(Cidr::new(Ipv4Addr::from_bits(network), self.prefix()))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Cidr, CidrError> {
        let error = || CidrError {
            text: text.to_owned(),
        };
        let net: Ipv4Net = text.parse().map_err(|_| error())?;
        if net.trunc() != net {
            return Err(error());
        }
        Ok(Cidr(net))
    }
}

impl TryFrom<String> for Cidr {
    type Error = CidrError;

    fn try_from(text: String) -> Result<Cidr, CidrError> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> String {
        cidr.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::Cidr;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn text_is_read_and_written_alike() {
        for text in ["0.0.0.0/0", "10.244.0.0/24", "192.0.2.7/32"] {
            assert_eq!(cidr(text).to_string(), text);
        }
        for bad in ["10.0.0.1/24", "10.0.0.0", "10.0.0.0/33", "::/0", "", "a/8"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ranges_overlap_when_one_holds_the_other() {
        assert!(cidr("10.0.0.0/8").overlaps(&cidr("10.96.0.0/16")));
        assert!(cidr("10.96.0.0/16").overlaps(&cidr("10.0.0.0/8")));
        assert!(!cidr("10.244.0.0/24").overlaps(&cidr("10.244.1.0/24")));
        assert!(cidr("0.0.0.0/0").overlaps(&cidr("10.244.1.0/24")));
    }

    #[test]
    fn places_past_the_end_do_not_exist() {
        let range = cidr("10.244.0.0/24");
        assert_eq!(range.nth(255), Some(range.last()));
        assert_eq!(range.nth(256), None);
        assert_eq!(cidr("255.255.255.0/24").next(), None);
        assert_eq!(range.next(), Some(cidr("10.244.1.0/24")));
        assert_eq!(cidr("0.0.0.0/0").size(), 1 << 32);
    }
}
