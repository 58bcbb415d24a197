//! The owners of addresses: a Service gets no address of a pod, a Service or a machine of the cluster as an external
//! address, and a ServiceCIDR none of a pod or a machine.

use std::collections::BTreeSet;
use std::iter::once;
use std::net::{IpAddr, Ipv4Addr};

use object_model::cidr::Cidr;
use object_model::dialling::special;

use crate::compile::Settings;

/// The addresses of the machines of the cluster: nodes and servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineAddresses {
    /// The addresses of this node; a Service gets their ports on this node, except ports on which a program listens.
    pub local: BTreeSet<Ipv4Addr>,
    /// The addresses of other nodes and of servers; this node sends packets for these addresses to them.
    pub others: BTreeSet<Ipv4Addr>,
}

impl Settings {
    /// The ranges of Services. A further range with addresses of pods or machines is left out: connections to its
    /// addresses without a Service are refused.
    pub(crate) fn service_ranges(&self) -> impl Iterator<Item = Cidr> {
        let further = self.further_ranges.iter().copied();
        let further = further.filter(|range| !self.has_other_addresses(range));
        once(self.service_range).chain(further)
    }

    /// Whether a range has addresses of pods or machines.
    fn has_other_addresses(&self, range: &Cidr) -> bool {
        let ranges = [self.cluster_range, self.pod_range];
        let mut ranges = ranges.into_iter().chain(self.switch_range);
        let mut machines = self.machines.local.iter().chain(&self.machines.others);
        ranges.any(|other| other.overlaps(range)) || machines.any(|ip| range.contains(*ip))
    }

    /// Whether a Service may have the address as an external address.
    pub(crate) fn is_outside(&self, address: Ipv4Addr) -> bool {
        let ranges = [self.cluster_range, self.pod_range];
        let mut ranges = ranges.into_iter().chain(self.service_ranges());
        let is_switched = self
            .switch_range
            .is_some_and(|range| range.contains(address));
        let of_machine = is_switched || self.machines.others.contains(&address);
        special(IpAddr::V4(address)).is_none()
            && !ranges.any(|range| range.contains(address))
            && !self.for_pods().any(|node_address| node_address == address)
            && (!of_machine || self.machines.local.contains(&address))
    }
}
