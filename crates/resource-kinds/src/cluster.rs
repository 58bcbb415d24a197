//! What the kinds need to know of the cluster that they are served in.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// Why a text is not a range of Service addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// Not of the form `a.b.c.d/n`.
    #[error("{0:?} is not an IPv4 range such as 10.96.0.0/16")]
    Form(String),
    /// Too small to hold the API's own address and DNS, or larger than any use.
    #[error("{0:?} must have between 12 and 28 leading bits")]
    Size(String),
}

/// The range that Services get their addresses from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceRange {
    first: u32,
    bits: u32,
}

impl ServiceRange {
    /// How many addresses there are, network and broadcast address included.
    pub fn size(self) -> u32 {
        1 << (32 - self.bits)
    }

    /// The address at `offset` from the network address.
    pub fn at(self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.first + offset)
    }

    /// The offset of an address that a Service can have; `None` outside of the range, and for
    /// the network and the broadcast address.
    pub fn offset(self, address: Ipv4Addr) -> Option<u32> {
        let offset = u32::from(address).checked_sub(self.first)?;
        (offset > 0 && offset < self.size() - 1).then_some(offset)
    }

    /// The address of the Service `kubernetes` in `default`.
    pub fn api(self) -> Ipv4Addr {
        self.at(1)
    }

    /// The address of the cluster's DNS.
    pub fn dns(self) -> Ipv4Addr {
        self.at(10)
    }

    /// The end of the lower part of the range, which dynamic choice leaves to people who pick
    /// their own address as long as there are others (`statefulset.md` 10.15).
    pub fn static_band(self) -> u32 {
        (self.size() / 16).clamp(16, 256).min(self.size() - 1)
    }
}

impl Default for ServiceRange {
    /// `10.96.0.0/16`
    fn default() -> Self {
        Self {
            first: u32::from(Ipv4Addr::new(10, 96, 0, 0)),
            bits: 16,
        }
    }
}

impl FromStr for ServiceRange {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let form = || RangeError::Form(text.to_owned());
        let (address, bits) = text.split_once('/').ok_or_else(form)?;
        let address: Ipv4Addr = address.parse().map_err(|_| form())?;
        let bits: u32 = bits.parse().map_err(|_| form())?;
        if !(12..=28).contains(&bits) {
            return Err(RangeError::Size(text.to_owned()));
        }
        let first = u32::from(address) & (u32::MAX << (32 - bits));
        Ok(Self { first, bits })
    }
}

impl fmt::Display for ServiceRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.at(0), self.bits)
    }
}

/// What the kinds need to know of their cluster.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClusterConfig {
    /// Addresses of Services.
    pub service_range: ServiceRange,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_read_and_print() {
        let range: ServiceRange = "10.97.3.4/16".parse().unwrap();
        assert_eq!(range.to_string(), "10.97.0.0/16");
        assert_eq!(
            (range.api().to_string(), range.dns().to_string()),
            ("10.97.0.1".to_owned(), "10.97.0.10".to_owned())
        );
        for text in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0.0/8", "x/16", "::/64"] {
            assert!(text.parse::<ServiceRange>().is_err(), "{text}");
        }
    }

    /// `statefulset.md` 10.15
    #[test]
    fn the_lower_band_is_for_people() {
        let band = |text: &str| text.parse::<ServiceRange>().unwrap().static_band();
        assert_eq!(
            (
                band("10.0.0.0/16"),
                band("10.0.0.0/24"),
                band("10.0.0.0/28")
            ),
            (256, 16, 15)
        );
        assert_eq!(band("10.0.0.0/22"), 64);
    }
}
