//! IPv4 address ranges in CIDR notation: pod ranges, Service ranges, routes of the host.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

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
pub struct Cidr {
    network: Ipv4Addr,
    prefix: u8,
}

/// The text is not an IPv4 network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an IPv4 range such as 10.244.0.0/24")]
pub struct CidrError {
    /// The input.
    pub text: String,
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl Cidr {
    /// Returns the network of `address` with `prefix` leading bits; host bits are cleared and a
    /// prefix past 32 counts as 32.
    pub fn new(address: Ipv4Addr, prefix: u8) -> Cidr {
        let prefix = prefix.min(32);
        Cidr {
            network: Ipv4Addr::from_bits(address.to_bits() & mask(prefix)),
            prefix,
        }
    }

    /// Returns the first address of the range.
    pub fn network(&self) -> Ipv4Addr {
        self.network
    }

    /// Returns the number of leading bits.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Returns how many addresses the range has, network and broadcast addresses included.
    pub fn size(&self) -> u64 {
        1 << (32 - self.prefix)
    }

    /// Returns the last address of the range.
    pub fn last(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits() | !mask(self.prefix))
    }

    /// Returns the address at `index`, or `None` past the end.
    pub fn nth(&self, index: u32) -> Option<Ipv4Addr> {
        let address = u32::checked_add(self.network.to_bits(), index)?;
        (u64::from(index) < self.size()).then(|| Ipv4Addr::from_bits(address))
    }

    /// Says whether the address lies in the range.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.prefix) == self.network.to_bits()
    }

    /// Says whether the two ranges share an address.
    pub fn overlaps(&self, other: &Cidr) -> bool {
        self.contains(other.network) || other.contains(self.network)
    }

    /// Returns the next range of equal size, or `None` at the end of the address space.
    pub fn next(&self) -> Option<Cidr> {
        let network = u64::from(self.network.to_bits()) + self.size();
        let network = u32::try_from(network).ok()?;
        Some(Cidr {
            network: Ipv4Addr::from_bits(network),
            prefix: self.prefix,
        })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Cidr, CidrError> {
        let error = || CidrError {
            text: text.to_owned(),
        };
        let (address, prefix) = text.split_once('/').ok_or_else(error)?;
        let address: Ipv4Addr = address.parse().map_err(|_| error())?;
        let prefix: u8 = prefix.parse().map_err(|_| error())?;
        let cidr = Cidr::new(address, prefix);
        if prefix > 32 || cidr.network != address {
            return Err(error());
        }
        Ok(cidr)
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
