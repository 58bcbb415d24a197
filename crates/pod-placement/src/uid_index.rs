//! UIDs of pods by a key that several pods may have.

use std::collections::{BTreeMap, BTreeSet};

use object_model::Uid;

/// UIDs of pods by a key. Keys without pods are removed.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct UidIndex(BTreeMap<String, BTreeSet<Uid>>);

impl UidIndex {
    pub fn add(&mut self, key: String, uid: &Uid) {
        self.0.entry(key).or_default().insert(uid.clone());
    }

    pub fn remove(&mut self, key: &str, uid: &Uid) {
        let Some(uids) = self.0.get_mut(key) else {
            return;
        };
        uids.remove(uid);
        if uids.is_empty() {
            self.0.remove(key);
        }
    }

    /// The UIDs with that key.
    pub fn get<'s>(&'s self, key: &str) -> impl Iterator<Item = &'s Uid> + use<'s> {
        self.0.get(key).into_iter().flatten()
    }
}
