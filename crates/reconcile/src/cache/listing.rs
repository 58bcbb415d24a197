//! A list that a cache takes object by object.

use super::objects::ObjectPlace;
use crate::Key;

/// The progress of a list. Until its end the cache loses no object, so each object keeps its place.
#[derive(Default)]
pub(super) struct Listing {
    /// Whether the list has the object at each place.
    listed: Vec<bool>,
    /// The highest resourceVersion of its objects.
    pub version: u64,
    /// The key from which on the cache is searched for objects that the complete list does not have; `None` while the list
    /// is not complete, and after the search.
    pub rest: Option<Key>,
}

impl Listing {
    /// Takes an object of the list.
    pub fn add(&mut self, place: ObjectPlace, version: Option<u64>) {
        let number = place.number();
        if self.listed.len() <= number {
            self.listed.resize(number + 1, false);
        }
        if let Some(listed) = self.listed.get_mut(number) {
            *listed = true;
        }
        self.version = self.version.max(version.unwrap_or_default());
    }

    /// The list is complete.
    pub fn end(&mut self) {
        self.rest = Some(Key::cluster(""));
    }

    /// Whether the list has the object at that place.
    pub fn has(&self, place: ObjectPlace) -> bool {
        self.listed.get(place.number()) == Some(&true)
    }
}
