//! The ids of the node for a pod with a user namespace; pure.

use serde::{Deserialize, Serialize};

/// Number of ids per pod: images and pods usually name smaller ids (KEP-127).
pub(crate) const IDS_PER_POD: u32 = 1 << 16;

/// All ranges. The first is reserved for the users of the node; the last is left out, because it contains
/// the invalid id.
const RANGES: std::ops::Range<u32> = 1..u32::MAX / IDS_PER_POD;

/// User and group ids of the node that belong to one pod: `first` is id 0 of the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IdRange {
    first: u32,
}

impl IdRange {
    /// The lowest range of ids that is not in `used`; `None` if there is no such range.
    pub fn lowest_free(used: &[IdRange]) -> Option<IdRange> {
        RANGES
            .map(|number| IdRange {
                first: number * IDS_PER_POD,
            })
            .find(|range| !used.contains(range))
    }

    /// The node's id for an id of the pod; `None` if the id is out of range.
    pub fn on_node(self, id: u32) -> Option<u32> {
        (id < IDS_PER_POD).then(|| self.first + id)
    }

    /// The content of `uid_map` and `gid_map`.
    pub fn map(self) -> String {
        format!("0 {} {IDS_PER_POD}\n", self.first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pod_has_a_range_of_its_own_above_the_nodes_users() {
        let first = IdRange::lowest_free(&[]).unwrap();
        assert_eq!(first.map(), "0 65536 65536\n");
        let second = IdRange::lowest_free(&[first]).unwrap();
        assert_eq!(second.map(), "0 131072 65536\n");
        // A released range is assigned again.
        assert_eq!(IdRange::lowest_free(&[second]), Some(first));
        assert_eq!(first.on_node(1000), Some(66_536));
        assert_eq!(first.on_node(IDS_PER_POD), None);
    }

    #[test]
    fn the_last_range_ends_before_the_id_that_is_none() {
        let last = IdRange {
            first: (RANGES.end - 1) * IDS_PER_POD,
        };
        assert_eq!(last.on_node(IDS_PER_POD - 1), Some(u32::MAX - IDS_PER_POD));
    }
}
