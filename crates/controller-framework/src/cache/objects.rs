//! The objects of a cache by their keys. Each object has a slot, by which indexes refer to it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use crate::changes::Stored;
use object_model::ObjectKey;

/// The slot of an object. All states of the object have the same slot, so an index finds the newest state without a
/// search. After the removal of the object, another object may get the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ObjectSlot(usize);

impl ObjectSlot {
    /// The number of the slot. It is less than the number of slots, which is the highest number of objects so far.
    pub fn number(self) -> usize {
        self.0
    }
}

#[derive(Default)]
pub(super) struct Objects {
    slots: BTreeMap<ObjectKey, ObjectSlot>,
    stored: Vec<Option<Arc<Stored>>>,
    free: Vec<ObjectSlot>,
}

impl Objects {
    pub fn get(&self, key: &ObjectKey) -> Option<&Arc<Stored>> {
        self.at(*self.slots.get(key)?)
    }

    /// The object in a slot.
    pub fn at(&self, slot: ObjectSlot) -> Option<&Arc<Stored>> {
        self.stored.get(slot.0)?.as_ref()
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// All objects, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&ObjectKey, ObjectSlot, &Arc<Stored>)> {
        self.with_objects(self.slots.iter())
    }

    /// The objects from the given key on, sorted by key.
    pub fn from(
        &self,
        key: ObjectKey,
    ) -> impl Iterator<Item = (&ObjectKey, ObjectSlot, &Arc<Stored>)> {
        self.with_objects(self.slots.range(key..))
    }

    fn with_objects<'s>(
        &'s self,
        slots: impl Iterator<Item = (&'s ObjectKey, &'s ObjectSlot)>,
    ) -> impl Iterator<Item = (&'s ObjectKey, ObjectSlot, &'s Arc<Stored>)> {
        slots.filter_map(|(key, slot)| Some((key, *slot, self.at(*slot)?)))
    }

    /// Stores the state of an object. Returns the object's slot and the previous state.
    pub fn insert(
        &mut self,
        key: &ObjectKey,
        object: Arc<Stored>,
    ) -> (ObjectSlot, Option<Arc<Stored>>) {
        let entry = match self.slots.entry(key.clone()) {
            Entry::Occupied(occupied) => {
                let slot = *occupied.get();
                let stored_object = self.stored.get_mut(slot.0);
                return (
                    slot,
                    stored_object.and_then(|stored_object| stored_object.replace(object)),
                );
            }
            Entry::Vacant(entry) => entry,
        };
        let slot = self.free.pop().unwrap_or(ObjectSlot(self.stored.len()));
        match self.stored.get_mut(slot.0) {
            Some(stored_object) => *stored_object = Some(object),
            None => self.stored.push(Some(object)),
        }
        entry.insert(slot);
        (slot, None)
    }

    pub fn remove(&mut self, key: &ObjectKey) -> Option<Arc<Stored>> {
        let slot = self.slots.remove(key)?;
        let object = self.stored.get_mut(slot.0)?.take();
        self.free.push(slot);
        if self.slots.is_empty() {
            (self.stored, self.free) = (Vec::new(), Vec::new());
        }
        object
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(number: u32) -> Arc<Stored> {
        Arc::new(number)
    }

    fn number(object: Option<&Arc<Stored>>) -> Option<u32> {
        object?.downcast_ref().copied()
    }

    #[test]
    fn a_place_shows_the_newest_state_of_its_object() {
        let mut objects = Objects::default();
        let (a, b, c) = (
            ObjectKey::cluster("a"),
            ObjectKey::cluster("b"),
            ObjectKey::cluster("c"),
        );
        let (slot, before) = objects.insert(&b, stored(1));
        assert!(before.is_none());
        assert_eq!(number(objects.insert(&b, stored(2)).1.as_ref()), Some(1));
        assert_eq!(number(objects.at(slot)), Some(2));
        let other = objects.insert(&a, stored(3)).0;
        assert_ne!(slot, other);
        let sorted: Vec<&ObjectKey> = objects.iter().map(|(key, ..)| key).collect();
        assert_eq!(sorted, [&a, &b]);
        assert_eq!(objects.from(b.clone()).count(), 1);
        // The slot of a removed object is reused.
        assert_eq!(number(objects.remove(&b).as_ref()), Some(2));
        assert_eq!(number(objects.at(slot)), None);
        assert_eq!(objects.insert(&c, stored(4)).0, slot);
        assert_eq!(objects.len(), 2);
        assert!(objects.remove(&b).is_none());
        objects.remove(&a);
        objects.remove(&c);
        assert_eq!((objects.len(), objects.stored.len()), (0, 0));
    }
}
