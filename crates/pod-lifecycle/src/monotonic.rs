//! Monotonic points in time for durations, beside the wall-clock time for users.
//!
//! The wall clock may be set while pods run, by hours and in both directions. Delays, periods,
//! grace periods and deadlines are therefore measured on the node's monotonic clock: an [`Instant`]
//! is a reading of it. The wall-clock time is only shown. A [`Moment`] has both readings.

use std::ops::Add;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// A reading of the node's monotonic clock.
///
/// The clock starts with the wall-clock time of the machine's boot, so readings look like times,
/// and records of versions before 0.2, which had wall-clock times in the same fields, can be read.
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

    /// The number of the reading, to set another clock.
    pub fn counted(self) -> Timestamp {
        self.0
    }

    /// The time from `earlier` to this one, negative if `earlier` is later.
    pub fn since(self, earlier: Self) -> SignedDuration {
        self.0.duration_since(earlier.0)
    }
}

impl Add<SignedDuration> for Instant {
    type Output = Self;

    /// A later reading; a sum that cannot be represented becomes the maximum.
    fn add(self, duration: SignedDuration) -> Self {
        let end = if duration.is_negative() {
            Timestamp::MIN
        } else {
            Timestamp::MAX
        };
        Self(self.0.checked_add(duration).unwrap_or(end))
    }
}

/// A point in time on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Kept")]
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

    /// The moment of a past wall-clock time, seen from now. It is never in the future, even if the
    /// wall clock was set since.
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

/// The serialized form of a moment: before version 0.2 the time alone.
#[derive(Deserialize)]
#[serde(untagged)]
enum Kept {
    Time(Timestamp),
    Both { wall: Timestamp, instant: Instant },
}

impl From<Kept> for Moment {
    fn from(kept: Kept) -> Self {
        match kept {
            Kept::Time(wall) => Self::aligned(wall),
            Kept::Both { wall, instant } => Self { wall, instant },
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
        let kept = serde_json::to_string(&moment).unwrap();
        assert_eq!(serde_json::from_str::<Moment>(&kept).unwrap(), moment);
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
        // The clock was set back since.
        assert_eq!(now.past(at(2000)).instant, Instant(at(5000)));
    }

    #[test]
    fn sums_have_an_end() {
        let far = Instant(at(0)) + SignedDuration::MAX;
        assert_eq!(far.counted(), Timestamp::MAX);
    }
}
