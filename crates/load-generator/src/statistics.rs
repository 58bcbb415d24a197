//! Statistics of many latencies.

use std::time::Duration;

/// A summary of many durations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub count: usize,
    pub median: Duration,
    pub p99: Duration,
    pub max: Duration,
}

impl Summary {
    /// Computes the statistics of durations in any order.
    pub fn of(mut durations: Vec<Duration>) -> Self {
        durations.sort_unstable();
        Self {
            count: durations.len(),
            median: percentile(&durations, 50),
            p99: percentile(&durations, 99),
            max: percentile(&durations, 100),
        }
    }
}

/// The given percentile of the sorted durations; zero for an empty list.
pub fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100);
    let value = sorted.get(rank.saturating_sub(1));
    value.copied().unwrap_or_default()
}

/// The number of events per second.
pub fn per_second(count: f64, elapsed: Duration) -> f64 {
    if elapsed.is_zero() {
        return 0.0;
    }
    count / elapsed.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn milliseconds(numbers: impl IntoIterator<Item = u64>) -> Vec<Duration> {
        numbers.into_iter().map(Duration::from_millis).collect()
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let hundred = milliseconds(1..=100);
        assert_eq!(percentile(&hundred, 50), Duration::from_millis(50));
        assert_eq!(percentile(&hundred, 99), Duration::from_millis(99));
        assert_eq!(percentile(&hundred, 100), Duration::from_millis(100));
        let few = milliseconds([1, 2, 9]);
        assert_eq!(percentile(&few, 50), Duration::from_millis(2));
        assert_eq!(percentile(&few, 99), Duration::from_millis(9));
        assert_eq!(percentile(&few, 0), Duration::from_millis(1));
        assert_eq!(percentile(&[], 50), Duration::ZERO);
    }

    #[test]
    fn the_order_does_not_matter() {
        let summary = Summary::of(milliseconds([9, 1, 5]));
        assert_eq!(summary, Summary::of(milliseconds([1, 5, 9])));
        assert_eq!(summary.count, 3);
        assert_eq!(summary.median, Duration::from_millis(5));
        assert_eq!(summary.max, Duration::from_millis(9));
    }

    #[test]
    fn nothing_happens_in_no_time() {
        assert!((per_second(10.0, Duration::from_secs(2)) - 5.0).abs() < 1e-9);
        assert!(per_second(10.0, Duration::ZERO).abs() < 1e-9);
    }
}
