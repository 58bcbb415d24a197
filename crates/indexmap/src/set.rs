//! A set, for `petgraph`, which generates code with `prost-build`.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};

use crate::map::{IndexMap, Keys};

/// A set in the order of insertion.
pub struct IndexSet<T, S = RandomState>(IndexMap<T, (), S>);

impl<T, S> IndexSet<T, S> {
    /// The number of values.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> Keys<'_, T, ()> {
        self.0.keys()
    }
}

impl<T: Hash + Eq, S> IndexSet<T, S> {
    /// Whether the value is in the set.
    pub fn contains<Q>(&self, value: &Q) -> bool
    where
        T: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.0.contains_key(value)
    }

    /// Adds a value as the last; `false` if it is in the set already.
    pub fn insert(&mut self, value: T) -> bool {
        self.0.insert(value, ()).is_none()
    }

    /// Removes the last value.
    pub fn pop(&mut self) -> Option<T> {
        self.0.pop().map(|(value, ())| value)
    }
}

impl<T: Hash + Eq, S: BuildHasher + Default> FromIterator<T> for IndexSet<T, S> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        let mut set = Self(IndexMap::with_capacity_and_hasher(0, S::default()));
        for value in values {
            set.insert(value);
        }
        set
    }
}

impl<T: fmt::Debug, S> fmt::Debug for IndexSet<T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_each_value_once_in_the_order_of_insertion() {
        let mut set: IndexSet<u32> = IndexSet::from_iter((0..100).chain([7]));
        assert!(set.contains(&99) && !set.contains(&100) && !set.insert(5));
        assert_eq!(set.pop(), Some(99));
        assert!(!set.contains(&99));
        assert!(set.iter().copied().eq(0..99));
        assert_eq!(set.len(), 99);
    }
}
