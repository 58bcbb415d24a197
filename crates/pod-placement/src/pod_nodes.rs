//! The node of each placed pod.

use indexmap::IndexMap;
use object_model::Uid;
use resource_kinds::pod_view::Text;

/// The number of tables, one for each result of [`table_of`]. A table that grows hashes all of its keys again, at once:
/// with the UIDs of 100,000 pods in one table this would take longer than a task may run without yielding.
const TABLES: usize = 256;

/// The nodes of pods, by the UID of the pod.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PodNodes(Vec<IndexMap<Uid, Text>>);

impl Default for PodNodes {
    fn default() -> Self {
        Self((0..TABLES).map(|_| IndexMap::new()).collect())
    }
}

impl PodNodes {
    pub fn get(&self, uid: &Uid) -> Option<&Text> {
        self.0[table_of(uid)].get(uid)
    }

    pub fn insert(&mut self, uid: Uid, node: Text) {
        self.0[table_of(&uid)].insert(uid, node);
    }

    pub fn remove(&mut self, uid: &Uid) -> Option<Text> {
        self.0[table_of(uid)].swap_remove(uid)
    }
}

fn table_of(uid: &Uid) -> usize {
    let end = uid.as_str().bytes().rev().take(4);
    let sum = end.fold(0_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte));
    sum.into()
}
