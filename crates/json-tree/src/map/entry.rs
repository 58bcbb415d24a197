//! The entry of a key, which may be vacant.

use std::hash::Hash;

use super::core::Core;

pub enum MapEntry<'a, K, V> {
    /// The key is in the map.
    Occupied(OccupiedEntry<'a, K, V>),
    /// The key is not in the map.
    Vacant(VacantEntry<'a, K, V>),
}

/// An entry that is in the map.
pub struct OccupiedEntry<'a, K, V> {
    core: &'a mut Core<K, V>,
    position: usize,
}

/// A key that is not in the map.
pub struct VacantEntry<'a, K, V> {
    core: &'a mut Core<K, V>,
    key: K,
}

impl<'a, K: Hash + Eq, V> MapEntry<'a, K, V> {
    #[inline]
    pub(super) fn find(core: &'a mut Core<K, V>, key: K) -> Self {
        match core.find(&key) {
            Some(position) => Self::Occupied(OccupiedEntry { core, position }),
            None => Self::Vacant(VacantEntry { core, key }),
        }
    }

    /// The value of the key; if the key is not in the map, `value` is inserted.
    pub fn or_insert(self, value: V) -> &'a mut V {
        match self {
            Self::Occupied(entry) => entry.into_mut(),
            Self::Vacant(entry) => entry.insert(value),
        }
    }

    /// The value of the key; if the key is not in the map, the result of the function is inserted.
    pub fn or_insert_with(self, value: impl FnOnce() -> V) -> &'a mut V {
        match self {
            Self::Occupied(entry) => entry.into_mut(),
            Self::Vacant(entry) => entry.insert(value()),
        }
    }

    /// The value of the key; if the key is not in the map, the default value is inserted.
    pub fn or_default(self) -> &'a mut V
    where
        V: Default,
    {
        match self {
            Self::Occupied(entry) => entry.into_mut(),
            Self::Vacant(entry) => entry.insert(V::default()),
        }
    }
}

impl<'a, K, V> OccupiedEntry<'a, K, V> {
    pub fn key(&self) -> &K {
        &self.core.entries[self.position].0
    }

    pub fn get(&self) -> &V {
        &self.core.entries[self.position].1
    }

    pub fn get_mut(&mut self) -> &mut V {
        &mut self.core.entries[self.position].1
    }

    /// The value, for as long as the map is borrowed.
    pub fn into_mut(self) -> &'a mut V {
        &mut self.core.entries[self.position].1
    }

    /// Sets the value, and returns the former value.
    pub fn insert(&mut self, value: V) -> V {
        std::mem::replace(self.get_mut(), value)
    }
}

impl<K: Hash + Eq, V> OccupiedEntry<'_, K, V> {
    /// Removes the entry; the last entry moves to its position.
    pub fn remove(self) -> V {
        self.swap_remove()
    }

    /// Removes the entry; the last entry moves to its position.
    pub fn swap_remove(self) -> V {
        self.swap_remove_entry().1
    }

    /// Removes the entry and returns its key, too; the last entry moves to its position.
    pub fn swap_remove_entry(self) -> (K, V) {
        self.core.swap_remove(self.position)
    }

    /// Removes the entry; later entries move forward by one.
    pub fn shift_remove(self) -> V {
        self.shift_remove_entry().1
    }

    /// Removes the entry and returns its key, too; later entries move forward by one.
    pub fn shift_remove_entry(self) -> (K, V) {
        self.core.shift_remove(self.position)
    }
}

impl<'a, K: Hash + Eq, V> VacantEntry<'a, K, V> {
    pub fn key(&self) -> &K {
        &self.key
    }

    /// Adds the entry as the last one.
    pub fn insert(self, value: V) -> &'a mut V {
        let position = self.core.push(self.key, value);
        &mut self.core.entries[position].1
    }
}
