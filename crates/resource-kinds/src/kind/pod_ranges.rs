//! The pod ranges of nodes.

use std::fmt;

use object_model::cidr::Cidr;

/// The longest prefix of a node's range: two addresses remain besides the first and the last.
const NODE_PREFIX_MAX: u8 = 30;
/// Kubernetes' limit of the difference between both prefix lengths: 65,536 nodes.
const PREFIX_DIFFERENCE_MAX: u8 = 16;

/// The pod ranges of the nodes do not fit into the range of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "nodes cannot have ranges of pods with {node_prefix} leading bits from {cluster}: the number \
     must be from {} to {}",
    cluster.prefix(),
    longest(*cluster)
)]
pub struct PodRangesError {
    /// The range of all pods.
    pub cluster: Cidr,
    /// Prefix length of a node's range.
    pub node_prefix: u8,
}

fn longest(cluster: Cidr) -> u8 {
    NODE_PREFIX_MAX.min(cluster.prefix() + PREFIX_DIFFERENCE_MAX)
}

/// The range of all pods, divided into ranges of equal size, one for each node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodRanges {
    cluster: Cidr,
    // Invariant: between the cluster's prefix length and `longest`.
    node_prefix: u8,
}

impl PodRanges {
    /// Divides `cluster` into ranges with `node_prefix` leading bits.
    ///
    /// *Errors.* A node's range would be larger than the cluster's, or have fewer than four addresses, or there would
    /// be more than 65,536 ranges.
    pub fn new(cluster: Cidr, node_prefix: u8) -> Result<Self, PodRangesError> {
        if (cluster.prefix()..=longest(cluster)).contains(&node_prefix) {
            Ok(Self {
                cluster,
                node_prefix,
            })
        } else {
            Err(PodRangesError {
                cluster,
                node_prefix,
            })
        }
    }

    /// The range of all pods.
    pub fn cluster(self) -> Cidr {
        self.cluster
    }

    /// Prefix length of a node's range.
    pub fn node_prefix(self) -> u8 {
        self.node_prefix
    }

    /// The ranges of nodes, lowest first.
    pub fn nodes(self) -> impl Iterator<Item = Cidr> {
        self.within(self.cluster)
    }

    /// Whether `range` is one of the ranges of nodes.
    pub fn has(self, range: Cidr) -> bool {
        range.prefix() == self.node_prefix && self.cluster.contains(range.network())
    }

    /// The ranges of nodes that overlap with `range`, lowest first.
    pub fn overlapping(self, range: Cidr) -> impl Iterator<Item = Cidr> {
        let shared = if range.prefix() < self.cluster.prefix() {
            self.cluster
        } else {
            range
        };
        let shared = Some(shared).filter(|range| range.overlaps(&self.cluster));
        shared.into_iter().flat_map(move |range| self.within(range))
    }

    fn within(self, range: Cidr) -> impl Iterator<Item = Cidr> {
        let first = Cidr::new(range.network(), self.node_prefix);
        let last = range.last();
        std::iter::successors(Some(first), Cidr::next)
            .take_while(move |node| node.network() <= last)
    }
}

impl fmt::Display for PodRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by /{}", self.cluster, self.node_prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    fn ranges(cluster: &str, prefix: u8) -> PodRanges {
        PodRanges::new(cidr(cluster), prefix).unwrap()
    }

    #[test]
    fn a_range_is_divided_without_gaps() {
        let all: Vec<String> = ranges("10.244.0.0/22", 24)
            .nodes()
            .map(|range| range.to_string())
            .collect();
        let expected = [0, 1, 2, 3].map(|third| format!("10.244.{third}.0/24"));
        assert_eq!(all, expected);
        assert_eq!(ranges("255.255.255.0/24", 26).nodes().count(), 4);
        assert_eq!(ranges("10.0.0.0/24", 24).nodes().count(), 1);
    }

    #[test]
    fn only_useful_divisions_exist() {
        for (cluster, prefix) in [("10.0.0.0/16", 15), ("10.0.0.0/16", 31), ("10.0.0.0/8", 25)] {
            assert!(PodRanges::new(cidr(cluster), prefix).is_err(), "{cluster}");
        }
        let error = PodRanges::new(cidr("10.0.0.0/8"), 25).unwrap_err();
        assert_eq!(
            error.to_string(),
            "nodes cannot have ranges of pods with 25 leading bits from 10.0.0.0/8: the number must \
             be from 8 to 24"
        );
    }

    #[test]
    fn ranges_of_other_sizes_overlap_some() {
        let ranges = ranges("10.244.0.0/22", 24);
        let overlapping = |text: &str| {
            let overlaps = ranges.overlapping(cidr(text));
            overlaps.map(|range| range.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(overlapping("10.244.1.128/25"), ["10.244.1.0/24"]);
        assert_eq!(
            overlapping("10.244.2.0/23"),
            ["10.244.2.0/24", "10.244.3.0/24"]
        );
        assert_eq!(overlapping("10.0.0.0/8").len(), 4);
        assert_eq!(overlapping("10.245.0.0/24").len(), 0);
        assert!(ranges.has(cidr("10.244.3.0/24")));
        assert!(!ranges.has(cidr("10.244.4.0/24")) && !ranges.has(cidr("10.244.0.0/25")));
    }
}
