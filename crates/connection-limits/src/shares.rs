//! Shares: a bounded number of places for each sender, so that one sender leaves room for the others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The places that senders have taken. Senders without places have no entry.
#[derive(Clone, Debug)]
pub struct Shares<K: Ord> {
    max: usize,
    taken: Arc<Mutex<BTreeMap<K, usize>>>,
}

/// A place of a sender; it is free again when it is dropped.
#[derive(Debug)]
pub struct Share<K: Ord> {
    shares: Shares<K>,
    sender: K,
}

impl<K: Ord + Clone> Shares<K> {
    /// At most `max` places for each sender.
    pub fn new(max: usize) -> Self {
        let taken = Arc::default();
        Self { max, taken }
    }

    /// Takes a place; `None` if the sender has all of its share.
    pub fn take(&self, sender: K) -> Option<Share<K>> {
        let mut taken = self.lock();
        let own = taken.entry(sender.clone()).or_default();
        if *own >= self.max {
            return None;
        }
        *own += 1;
        let shares = self.clone();
        Some(Share { shares, sender })
    }
}

impl<K: Ord> Shares<K> {
    /// Whether nobody has a place.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<K, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Ord> Drop for Share<K> {
    fn drop(&mut self) {
        let mut taken = self.shares.lock();
        if let Some(own) = taken.get_mut(&self.sender) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.sender);
            }
        }
    }
}
