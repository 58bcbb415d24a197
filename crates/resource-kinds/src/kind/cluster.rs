//! The settings of the cluster that kinds need.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use object_model::cidr::{Cidr, CidrError};

use super::PodRanges;

/// The error of a range of Service addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// The text is not an address range.
    #[error(transparent)]
    Form(#[from] CidrError),
    /// The range is too small for the addresses of the API and the DNS server, or larger than supported.
    #[error("the Service range {0} must have between 12 and 28 leading bits")]
    Size(Cidr),
}

/// A range of Service addresses: that of the cluster, which is parsed and has between 12 and 28 leading bits, or one of a
/// ServiceCIDR, which has any size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceRange {
    range: Cidr,
}

impl ServiceRange {
    /// A range of a ServiceCIDR.
    pub fn of_service_cidr(range: Cidr) -> Self {
        Self { range }
    }

    /// The addresses, including network and broadcast address.
    pub fn range(self) -> Cidr {
        self.range
    }

    /// Whether the two ranges have a common address.
    pub fn overlaps(self, other: &Cidr) -> bool {
        self.range.overlaps(other)
    }

    /// The number of addresses, including network and broadcast address.
    pub fn size(self) -> u32 {
        u32::try_from(self.range.size()).unwrap_or(u32::MAX)
    }

    /// The address at `offset` from the network address; the last address for an offset beyond the end.
    pub fn at(self, offset: u32) -> Ipv4Addr {
        self.range.nth(offset).unwrap_or_else(|| self.range.last())
    }

    /// The offset of an address that a Service can have; `None` outside of the range, and for the network and the
    /// broadcast address.
    pub fn offset(self, address: Ipv4Addr) -> Option<u32> {
        let offset = u32::from(address).checked_sub(u32::from(self.range.network()))?;
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

    /// The end of the lower part of the range. Dynamic allocation uses the lower part last, because users choose
    /// static addresses there (`statefulset.md` 10.15).
    pub fn static_band(self) -> u32 {
        (self.size() / 16).clamp(16, 256).min(self.size() - 1)
    }
}

impl Default for ServiceRange {
    /// `10.96.0.0/16`, as kubeadm.
    fn default() -> Self {
        let range = Cidr::new(Ipv4Addr::new(10, 96, 0, 0), 16);
        Self { range }
    }
}

impl TryFrom<Cidr> for ServiceRange {
    type Error = RangeError;

    fn try_from(range: Cidr) -> Result<Self, RangeError> {
        if (12..=28).contains(&range.prefix()) {
            Ok(Self { range })
        } else {
            Err(RangeError::Size(range))
        }
    }
}

impl FromStr for ServiceRange {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        text.parse::<Cidr>()?.try_into()
    }
}

impl fmt::Display for ServiceRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.range.fmt(f)
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct ClusterConfig {
    /// Addresses of Services (`clusterIP`).
    pub service_range: ServiceRange,
    /// Pod ranges of nodes. `None`: the creator of a Node sets its range.
    pub pod_ranges: Option<PodRanges>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_read_and_print() {
        let range: ServiceRange = "10.97.0.0/16".parse().unwrap();
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
