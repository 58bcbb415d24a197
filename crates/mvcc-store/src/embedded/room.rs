//! The room for a transaction: on the disk, and under the quota on stored objects, all of which are
//! in memory.
//!
//! What makes new keys is refused first. Changes, and keys that go by themselves (events), may use a
//! part more, so that a full store can still be told of and put in order; deletions always pass.

use super::limits::FREE_BYTES_MIN;
use crate::StoreError;

/// How much of the quota changes may use beyond it, as a fraction.
const CHANGES_BEYOND: u64 = 16;
/// How much of it keys with a lease may use beyond it.
const LEASED_BEYOND: u64 = 32;

/// The store is full when there is no room for an object of this size, or of this part of the quota.
const OBJECT_BYTES: u64 = 1536 * 1024;
const OBJECT_PART: u64 = 64;

/// What a transaction needs room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// It makes nothing larger.
    Nothing,
    /// It makes something larger that is there.
    Change,
    /// It adds keys, all of them with a lease.
    Leased,
    /// It adds keys.
    New,
}

/// The room there is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// Free bytes on the disk.
    pub(crate) free_bytes: u64,
    /// The quota: most bytes of live keys and values.
    pub(crate) live_bytes_max: u64,
}

impl Room {
    /// Why nothing new is taken, with so many live bytes, if that is so: there is no room for
    /// another object, though perhaps for a small one.
    pub(crate) fn full(&self, live_bytes: u64) -> Option<StoreError> {
        let another = (self.live_bytes_max / OBJECT_PART).min(OBJECT_BYTES);
        match self.check(Need::New, live_bytes.saturating_add(another)) {
            Err(StoreError::Quota { max, .. }) => Some(StoreError::Quota {
                stored: live_bytes,
                max,
            }),
            checked => checked.err(),
        }
    }

    /// Whether there is room for what a transaction needs, with so many live bytes after it.
    ///
    /// *Errors.* `Full` for the disk, `Quota` for the quota.
    pub(crate) fn check(&self, need: Need, live_bytes: u64) -> Result<(), StoreError> {
        let quota = self.live_bytes_max;
        let (free_min, live_max) = match need {
            Need::Nothing => return Ok(()),
            Need::Change => (0, quota.saturating_add(quota / CHANGES_BEYOND)),
            Need::Leased => (
                FREE_BYTES_MIN / 2,
                quota.saturating_add(quota / LEASED_BEYOND),
            ),
            Need::New => (FREE_BYTES_MIN, quota),
        };
        if self.free_bytes < free_min {
            return Err(StoreError::Full(format!(
                "{} MiB are free, new objects need {}; what is there can be deleted",
                self.free_bytes >> 20,
                FREE_BYTES_MIN >> 20
            )));
        }
        if live_bytes > live_max {
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
        let room = Room {
            free_bytes: u64::MAX,
            live_bytes_max: 3200,
        };
        let most = |need| (0..10_000).rfind(|live| room.check(need, *live).is_ok());
        assert_eq!(most(Need::New), Some(3200));
        assert_eq!(most(Need::Leased), Some(3300));
        assert_eq!(most(Need::Change), Some(3400));
        assert_eq!(most(Need::Nothing), Some(9_999));
        assert!(matches!(
            room.check(Need::New, 3201),
            Err(StoreError::Quota {
                stored: 3201,
                max: 3200
            })
        ));
    }

    #[test]
    fn the_disk_stops_what_is_new() {
        let least = |need| {
            (0..=FREE_BYTES_MIN).find(|free| {
                let room = Room {
                    free_bytes: *free << 10,
                    live_bytes_max: u64::MAX,
                };
                room.check(need, 0).is_ok()
            })
        };
        assert_eq!(least(Need::New), Some(FREE_BYTES_MIN >> 10));
        assert_eq!(least(Need::Leased), Some(FREE_BYTES_MIN >> 11));
        assert_eq!(least(Need::Change), Some(0));
        assert_eq!(least(Need::Nothing), Some(0));
    }
}
