//! Locks by key: all users of a key share one lock, which exists as long as it is in use.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A map from keys to locks. `L` is any type that makes users of one key wait, such as a mutex or a semaphore.
#[derive(Debug)]
pub struct KeyedLocks<L>(Mutex<BTreeMap<String, Arc<L>>>);

impl<L> Default for KeyedLocks<L> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<L> KeyedLocks<L> {
    /// The lock of a key. It is created if nobody uses it, because an unused lock is equal to a new one.
    pub fn get_or(&self, key: &str, new: impl FnOnce() -> L) -> Arc<L> {
        let mut locks = self.in_use();
        let lock = locks.entry(key.to_owned());
        Arc::clone(lock.or_insert_with(|| Arc::new(new())))
    }

    /// The number of locks in use.
    pub fn len(&self) -> usize {
        self.in_use().len()
    }

    /// Whether no lock is in use.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn in_use(&self) -> MutexGuard<'_, BTreeMap<String, Arc<L>>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        locks
    }
}

impl<L: Default> KeyedLocks<L> {
    /// The lock of a key.
    pub fn get(&self, key: &str) -> Arc<L> {
        self.get_or(key, L::default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_of_a_key_share_its_lock_until_the_last_one_drops_it() {
        let locks = KeyedLocks::<Mutex<u32>>::default();
        let (first, second, other) = (locks.get("a"), locks.get("a"), locks.get("b"));
        assert!(Arc::ptr_eq(&first, &second));
        assert!(!Arc::ptr_eq(&first, &other));
        assert_eq!(locks.len(), 2);
        drop((first, other));
        assert_eq!(locks.len(), 1);
        *second.lock().unwrap() = 7;
        assert_eq!(*locks.get("a").lock().unwrap(), 7);
        drop(second);
        assert!(locks.is_empty());
        assert_eq!(*locks.get("a").lock().unwrap(), 0);
    }
}
