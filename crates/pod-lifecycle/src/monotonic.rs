//! Readings of the monotonic clock for durations, in addition to the wall-clock time for users.
//!
//! The wall clock may be set while pods run, by hours and in both directions. Delays, periods, grace
//! periods and deadlines are therefore measured on the node's monotonic clock: an [`Instant`] is a reading
//! of that clock. The wall-clock time is only printed and reported. A [`Moment`] has a reading of both
//! clocks.

use std::ops::Add;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// A reading of the node's monotonic clock.
///
/// At the boot of the machine, the clock starts with the wall-clock time. So readings have the form of
/// times, and records of versions before 0.2, which have wall-clock times in these fields, can be read.
/// Only differences of readings have a meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Instant(Timestamp);

impl Instant {
    /// Earlier than any reading: an action that is due then is due at once.
    pub const EARLIEST: Self = Self(Timestamp::UNIX_EPOCH);

    /// A reading of the node's clock.
    pub fn reading(counted: Timestamp) -> Self {
        Self(counted)
    }

    /// The value of the reading, to set another clock.
    pub fn counted(self) -> Timestamp {
        self.0
    }

    /// The time from `earlier` to this reading; negative if `earlier` is later.
    pub fn since(self, earlier: Self) -> SignedDuration {
        self.0.duration_since(earlier.0)
    }
}

impl Add<SignedDuration> for Instant {
    type Output = Self;

    /// A later reading. The maximum if the sum cannot be represented.
    fn add(self, duration: SignedDuration) -> Self {
        let end = if duration.is_negative() {
            Timestamp::MIN
        } else {
            Timestamp::MAX
        };
        Self(self.0.checked_add(duration).unwrap_or(end))
    }
}

/// A reading of both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoredMoment")]
pub struct Moment {
    /// The wall clock, for statuses and events.
    pub wall: Timestamp,
    /// The monotonic clock, for durations.
    pub instant: Instant,
}

impl Moment {
    /// A moment with equal readings of both clocks.
    pub fn aligned(at: Timestamp) -> Self {
        Self {
            wall: at,
            instant: Instant(at),
        }
    }

    /// The moment of a past wall-clock time, relative to this moment. The result is never in the future,
    /// even if the wall clock was set since.
    pub fn past(self, wall: Timestamp) -> Self {
        let ago = self.wall.duration_since(wall).max(SignedDuration::ZERO);
        Self {
            wall,
            instant: self.instant + -ago,
        }
    }
}

impl Add<SignedDuration> for Moment {
    type Output = Self;

    fn add(self, duration: SignedDuration) -> Self {
        let wall = Instant(self.wall) + duration;
        Self {
            wall: wall.0,
            instant: self.instant + duration,
        }
    }
}

/// The serialised form of a moment. Before version 0.2, only the time was stored.
#[derive(Deserialize)]
#[serde(untagged)]
enum StoredMoment {
    Time(Timestamp),
    Both { wall: Timestamp, instant: Instant },
}

impl From<StoredMoment> for Moment {
    fn from(stored: StoredMoment) -> Self {
        match stored {
            StoredMoment::Time(wall) => Self::aligned(wall),
            StoredMoment::Both { wall, instant } => Self { wall, instant },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn moments_are_kept_and_those_of_earlier_versions_understood() {
        let moment = Moment {
            wall: at(5),
            instant: Instant(at(7)),
        };
        let json = serde_json::to_string(&moment).unwrap();
        assert_eq!(serde_json::from_str::<Moment>(&json).unwrap(), moment);
        let earlier = serde_json::to_string(&at(5)).unwrap();
        let read: Moment = serde_json::from_str(&earlier).unwrap();
        assert_eq!(read, Moment::aligned(at(5)));
    }

    #[test]
    fn what_is_known_by_its_time_alone_is_past() {
        let now = Moment {
            wall: at(1000),
            instant: Instant(at(5000)),
        };
        assert_eq!(now.past(at(990)).instant, Instant(at(4990)));
        // The clock was set back since that time.
        assert_eq!(now.past(at(2000)).instant, Instant(at(5000)));
    }

    #[test]
    fn sums_have_an_end() {
        let far = Instant(at(0)) + SignedDuration::MAX;
        assert_eq!(far.counted(), Timestamp::MAX);
    }
}
