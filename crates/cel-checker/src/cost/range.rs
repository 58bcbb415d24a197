//! Ranges of sizes and of costs.

/// A least and a greatest number. All arithmetic stops at the largest number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub min: u64,
    pub max: u64,
}

impl Range {
    /// A range of which nothing is known.
    pub(super) const UNKNOWN: Self = Self {
        min: 0,
        max: u64::MAX,
    };
    pub(super) const ZERO: Self = Self::fixed(0);
    pub(super) const ONE: Self = Self::fixed(1);

    pub(super) const fn fixed(number: u64) -> Self {
        Self {
            min: number,
            max: number,
        }
    }

    pub(super) const fn up_to(max: u64) -> Self {
        Self { min: 0, max }
    }

    #[must_use]
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            min: self.min.saturating_add(other.min),
            max: self.max.saturating_add(other.max),
        }
    }

    #[must_use]
    pub(super) fn times(self, other: Self) -> Self {
        Self {
            min: self.min.saturating_mul(other.min),
            max: self.max.saturating_mul(other.max),
        }
    }

    /// The product with a factor, rounded up.
    #[must_use]
    pub(super) fn scaled(self, factor: f64) -> Self {
        // A conversion of a number that is too large has the largest number as its result.
        let scaled = |number: u64| (number as f64 * factor).ceil() as u64;
        Self {
            min: scaled(self.min),
            max: scaled(self.max),
        }
    }

    #[must_use]
    pub(super) fn union(self, other: Self) -> Self {
        Self {
            min: self.min.min(other.min),
            max: self.max.max(other.max),
        }
    }
}
