//! The stored custom resources that clients get as they are stored.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Maximum number of objects in a generation; an object needs about 20 bytes.
const GENERATION_MAX: usize = 16 << 10;

/// The texts of stored objects to which a version of a definition adds nothing: their metadata are well-formed, and no
/// default is missing. A changed definition has a new value of this type.
///
/// A text is known by its hash. The hash has a random key, so that no client can choose two texts with one hash. The texts
/// that were read last are in the new generation; the old generation is removed when the new one is full.
#[derive(Default)]
pub(crate) struct CompleteObjects {
    hasher: RandomState,
    generations: Mutex<Generations>,
}

/// The hashes of texts.
#[derive(Default)]
struct Generations {
    new: HashSet<u64>,
    old: HashSet<u64>,
}

impl CompleteObjects {
    pub(crate) fn contains(&self, text: &[u8]) -> bool {
        let hash = self.hasher.hash_one(text);
        let mut generations = self.lock();
        if generations.new.contains(&hash) {
            return true;
        }
        let is_old = generations.old.contains(&hash);
        if is_old {
            generations.add(hash);
        }
        is_old
    }

    pub(crate) fn insert(&self, text: &[u8]) {
        let hash = self.hasher.hash_one(text);
        self.lock().add(hash);
    }

    fn lock(&self) -> MutexGuard<'_, Generations> {
        let generations = self.generations.lock();
        generations.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generations {
    fn add(&mut self, hash: u64) {
        if self.new.len() >= GENERATION_MAX {
            self.old = mem::take(&mut self.new);
        }
        self.new.insert(hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_are_not_read_are_forgotten() {
        let complete = CompleteObjects::default();
        complete.insert(b"read");
        complete.insert(b"unread");
        assert!(complete.contains(b"unread") && !complete.contains(b"other"));
        for number in 0..3 * GENERATION_MAX {
            complete.insert(&number.to_le_bytes());
            assert!(complete.contains(b"read"), "{number}");
        }
        assert!(!complete.contains(b"unread"));
        let generations = complete.lock();
        assert!(generations.new.len() <= GENERATION_MAX);
        assert!(generations.old.len() <= GENERATION_MAX);
    }
}
