//! A list that a cache receives object by object.

use super::objects::ObjectSlot;
use object_model::{ObjectKey, ResourceVersion};

/// The progress of a list. The cache removes no object before the list is complete, so each object keeps its slot.
#[derive(Default)]
pub(super) struct Listing {
    /// For each slot, whether the list contains its object.
    listed: Vec<bool>,
    /// The highest resourceVersion of the listed objects.
    pub version: Option<ResourceVersion>,
    /// The key at which the search for deleted objects continues. A deleted object is in the cache but not in the
    /// complete list. `None` while the list is not complete, and after the search.
    pub rest: Option<ObjectKey>,
}

impl Listing {
    /// Adds an object of the list.
    pub fn add(&mut self, slot: ObjectSlot, version: ResourceVersion) {
        let number = slot.number();
        if self.listed.len() <= number {
            self.listed.resize(number + 1, false);
        }
        if let Some(listed) = self.listed.get_mut(number) {
            *listed = true;
        }
        self.version = self.version.max(Some(version));
    }

    /// Marks the list as complete.
    pub fn end(&mut self) {
        self.rest = Some(ObjectKey::cluster(""));
    }

    /// Whether the list contains the object in the given slot.
    pub fn has(&self, slot: ObjectSlot) -> bool {
        self.listed.get(slot.number()) == Some(&true)
    }
}
