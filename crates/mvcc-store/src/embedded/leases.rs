//! Leases: their keys and their expiry.
//!
//! Only the commit thread uses this table. The time to live of a lease is on disk, but its deadline is not. As in etcd,
//! every lease starts again with its full time after a restart, so no lease expires because the store was down.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{LeaseId, StoreError};

struct Lease {
    ttl: Duration,
    deadline: Instant,
    keys: BTreeSet<Arc<[u8]>>,
}

/// All leases of a store.
#[derive(Default)]
pub(crate) struct Leases {
    leases: BTreeMap<LeaseId, Lease>,
    deadlines: BTreeSet<(Instant, LeaseId)>,
}

impl Leases {
    /// Adds a lease that expires `ttl` after `now`.
    pub(crate) fn insert(&mut self, lease: LeaseId, ttl: Duration, now: Instant) {
        let deadline = now + ttl;
        self.deadlines.insert((deadline, lease));
        self.leases.insert(
            lease,
            Lease {
                ttl,
                deadline,
                keys: BTreeSet::new(),
            },
        );
    }

    /// Restarts the time to live of a lease.
    pub(crate) fn keep_alive(&mut self, lease: LeaseId, now: Instant) -> Result<(), StoreError> {
        let entry = self
            .leases
            .get_mut(&lease)
            .ok_or(StoreError::LeaseNotFound(lease))?;
        self.deadlines.remove(&(entry.deadline, lease));
        entry.deadline = now + entry.ttl;
        self.deadlines.insert((entry.deadline, lease));
        Ok(())
    }

    /// Removes the lease and returns its keys.
    pub(crate) fn remove(&mut self, lease: LeaseId) -> Option<BTreeSet<Arc<[u8]>>> {
        let entry = self.leases.remove(&lease)?;
        self.deadlines.remove(&(entry.deadline, lease));
        Some(entry.keys)
    }

    /// Whether a lease of this id exists.
    pub(crate) fn contains(&self, lease: LeaseId) -> bool {
        self.leases.contains_key(&lease)
    }

    /// Moves a key from one lease to another; `None` stands for no lease.
    pub(crate) fn attach(&mut self, key: &Arc<[u8]>, from: Option<LeaseId>, to: Option<LeaseId>) {
        if from == to {
            return;
        }
        if let Some(entry) = from.and_then(|lease| self.leases.get_mut(&lease)) {
            entry.keys.remove(key);
        }
        if let Some(entry) = to.and_then(|lease| self.leases.get_mut(&lease)) {
            entry.keys.insert(Arc::clone(key));
        }
    }

    /// The expired leases, in the order of their deadlines.
    pub(crate) fn expired(&self, now: Instant) -> Vec<LeaseId> {
        self.deadlines
            .iter()
            .take_while(|(deadline, _)| *deadline <= now)
            .map(|(_, lease)| *lease)
            .collect()
    }

    /// The expiry of the next lease.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keep_alive_moves_the_deadline_and_the_others_stay() {
        let start = Instant::now();
        let mut leases = Leases::default();
        leases.insert(LeaseId(1), Duration::from_secs(10), start);
        leases.insert(LeaseId(2), Duration::from_secs(20), start);
        leases
            .keep_alive(LeaseId(1), start + Duration::from_secs(15))
            .unwrap();
        assert_eq!(
            leases.expired(start + Duration::from_secs(20)),
            [LeaseId(2)]
        );
        assert_eq!(
            leases.next_deadline(),
            Some(start + Duration::from_secs(20))
        );
        assert!(leases.keep_alive(LeaseId(3), start).is_err());
    }

    #[test]
    fn a_key_lives_under_its_newest_lease_only() {
        let start = Instant::now();
        let mut leases = Leases::default();
        leases.insert(LeaseId(1), Duration::from_secs(10), start);
        leases.insert(LeaseId(2), Duration::from_secs(10), start);
        let key: Arc<[u8]> = Arc::from(&b"k"[..]);
        leases.attach(&key, None, Some(LeaseId(1)));
        leases.attach(&key, Some(LeaseId(1)), Some(LeaseId(2)));
        assert_eq!(leases.remove(LeaseId(1)), Some(BTreeSet::new()));
        assert_eq!(leases.remove(LeaseId(2)), Some(BTreeSet::from([key])));
        assert_eq!(leases.remove(LeaseId(2)), None);
    }
}
