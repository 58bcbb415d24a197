//! The check of the space for a transaction: on the disk, and under the quota on stored objects, all of which are in
//! memory.
//!
//! New keys are refused first. Changes, and keys with a lease (events), may exceed the quota by a fraction, so that the
//! problems of a full store can be reported and solved. Deletions are always allowed.

use super::limits::FREE_BYTES_MIN;
use crate::StoreError;

/// Changes may exceed the quota by this fraction.
const CHANGES_BEYOND: u64 = 16;
/// Keys with a lease may exceed the quota by this fraction.
const LEASED_BEYOND: u64 = 32;

/// The store counts as full without space for the largest object that clients may create, or for this fraction of a
/// small quota.
const OBJECT_BYTES: u64 = 1536 * 1024;
const OBJECT_PART: u64 = 8;

/// The space requirement of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SpaceNeed {
    /// The transaction enlarges no value.
    Nothing,
    /// The transaction enlarges an existing value.
    Change,
    /// The transaction adds keys, all of them with a lease.
    Leased,
    /// The transaction adds keys.
    New,
}

/// The free space of the disk and of the quota.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Space {
    /// Free bytes on the disk.
    pub(crate) free_bytes: u64,
    /// The quota: the maximum number of bytes of live keys and values.
    pub(crate) live_bytes_max: u64,
}

impl Space {
    /// The reason why new keys are refused at this number of live bytes, if they are: there is no space for a large
    /// object. A small object may still fit.
    pub(crate) fn full(&self, live_bytes: u64) -> Option<StoreError> {
        let another = (self.live_bytes_max / OBJECT_PART).min(OBJECT_BYTES);
        match self.check(SpaceNeed::New, live_bytes.saturating_add(another)) {
            Err(StoreError::Quota { max, .. }) => Some(StoreError::Quota {
                stored: live_bytes,
                max,
            }),
            checked => checked.err(),
        }
    }

    /// Checks that the available space suffices, with that number of live bytes afterwards.
    ///
    /// *Errors.* `Full` for the disk, `Quota` for the quota.
    pub(crate) fn check(&self, need: SpaceNeed, live_bytes: u64) -> Result<(), StoreError> {
        let quota = self.live_bytes_max;
        let (free_min, live_max) = match need {
            SpaceNeed::Nothing => return Ok(()),
            SpaceNeed::Change => (0, quota.saturating_add(quota / CHANGES_BEYOND)),
            SpaceNeed::Leased => (
                FREE_BYTES_MIN / 2,
                quota.saturating_add(quota / LEASED_BEYOND),
            ),
            SpaceNeed::New => (FREE_BYTES_MIN, quota),
        };
        if self.free_bytes < free_min {
            return Err(StoreError::Full(format!(
                "{} MiB are free, new objects need {}; existing objects can be deleted",
                self.free_bytes >> 20,
                FREE_BYTES_MIN >> 20
            )));
        }
        if live_bytes > live_max {
            cov_mark::hit!(findings_s26);
            return Err(StoreError::Quota {
                stored: live_bytes,
                max: quota,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// findings S26: creations are refused first, then changes; deletions never are.
    #[test]
    fn the_quota_stops_what_grows_and_lets_deletions_pass() {
        cov_mark::check!(findings_s26);
        let space = Space {
            free_bytes: u64::MAX,
            live_bytes_max: 3200,
        };
        let most = |need| (0..10_000).rfind(|live| space.check(need, *live).is_ok());
        assert_eq!(most(SpaceNeed::New), Some(3200));
        assert_eq!(most(SpaceNeed::Leased), Some(3300));
        assert_eq!(most(SpaceNeed::Change), Some(3400));
        assert_eq!(most(SpaceNeed::Nothing), Some(9_999));
        assert!(matches!(
            space.check(SpaceNeed::New, 3201),
            Err(StoreError::Quota {
                stored: 3201,
                max: 3200
            })
        ));
    }

    /// findings S26: if an object of the maximum size is refused, the store reports that it is full.
    #[test]
    fn a_store_without_room_for_a_large_object_is_full() {
        let quota = 16 << 20;
        let space = Space {
            free_bytes: u64::MAX,
            live_bytes_max: quota,
        };
        for live in (0..=quota).step_by(4096) {
            let refused = space.check(SpaceNeed::New, live + OBJECT_BYTES).is_err();
            assert_eq!(space.full(live).is_some(), refused, "{live}");
        }
    }

    #[test]
    fn the_disk_stops_what_is_new() {
        let least = |need| {
            (0..=FREE_BYTES_MIN).find(|free| {
                let space = Space {
                    free_bytes: *free << 10,
                    live_bytes_max: u64::MAX,
                };
                space.check(need, 0).is_ok()
            })
        };
        assert_eq!(least(SpaceNeed::New), Some(FREE_BYTES_MIN >> 10));
        assert_eq!(least(SpaceNeed::Leased), Some(FREE_BYTES_MIN >> 11));
        assert_eq!(least(SpaceNeed::Change), Some(0));
        assert_eq!(least(SpaceNeed::Nothing), Some(0));
    }
}
