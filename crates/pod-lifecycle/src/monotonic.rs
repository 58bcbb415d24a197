//! Monotonic points in time, from which durations are counted, beside the wall-clock time for
//! users.
//!
//! The wall clock may be set while pods run, by hours and in both directions. So delays, periods,
//! grace periods and deadlines are counted on a clock of the node that nobody sets: an [`Instant`]
//! is a reading of it. The wall clock only serves what is shown. A [`Moment`] has both readings.

use std::ops::Add;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// A reading of the node's monotonic clock.
///
/// The clock counts on from the wall clock's time at the start of the machine, so readings look
/// like times and records of versions before 0.2, which had the wall clock's times in the same
/// places, are understood. Only their differences mean anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Instant(Timestamp);

impl Instant {
    /// Earlier than any reading: what is due at it is due at once.
    pub const EARLIEST: Self = Self(Timestamp::UNIX_EPOCH);

    /// What the node's clock reads.
    pub fn reading(counted: Timestamp) -> Self {
        Self(counted)
    }

    /// The number that the clock reads, to set another clock by.
    pub fn counted(self) -> Timestamp {
        self.0
    }

    /// The time from `earlier` to this one, negative when it is the earlier one.
    pub fn since(self, earlier: Self) -> SignedDuration {
        self.0.duration_since(earlier.0)
    }
}

impl Add<SignedDuration> for Instant {
    type Output = Self;

    /// Later by that; a sum that cannot be represented is as late as can be.
    fn add(self, duration: SignedDuration) -> Self {
        let end = if duration.is_negative() {
            Timestamp::MIN
        } else {
            Timestamp::MAX
        };
        Self(self.0.checked_add(duration).unwrap_or(end))
    }
}

/// When something happened, on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Kept")]
pub struct Moment {
    /// The time that users see.
    pub wall: Timestamp,
    /// What durations are counted from.
    pub instant: Instant,
}

impl Moment {
    /// A moment at which both clocks read the same.
    pub fn aligned(at: Timestamp) -> Self {
        Self {
            wall: at,
            instant: Instant(at),
        }
    }

    /// When something happened of which only the time is known, seen from now. It is not in the
    /// future, wherever the wall clock was set since.
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

/// A moment as records have it: before version 0.2 the time alone.
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
