//! The output of benchmarks: medians with their range, and comparisons.

use std::fmt;
use std::time::Duration;

/// Whether benchmarks only check that they run: `MAINSTAY_BENCH_SMALL` is set, the sizes are small and the figures have
/// no meaning.
pub fn is_small() -> bool {
    std::env::var_os("MAINSTAY_BENCH_SMALL").is_some()
}

/// The size for figures, or the size for a check that the benchmark runs.
pub fn sized<T>(full: T, small: T) -> T {
    if is_small() { small } else { full }
}

/// Measurements of one quantity.
#[derive(Clone, Debug)]
pub struct Sample {
    unit: &'static str,
    values: Vec<f64>,
}

impl Sample {
    /// An empty sample. A unit may be empty.
    pub fn new(unit: &'static str) -> Self {
        Self {
            unit,
            values: Vec::new(),
        }
    }

    /// Times in milliseconds.
    pub fn of_times(times: impl IntoIterator<Item = Duration>) -> Self {
        let mut sample = Self::new("ms");
        sample.values.extend(times.into_iter().map(milliseconds));
        sample
    }

    /// Adds a measurement.
    pub fn push(&mut self, value: f64) {
        self.values.push(value);
    }

    /// Adds a time to a sample of milliseconds.
    pub fn push_time(&mut self, time: Duration) {
        self.push(milliseconds(time));
    }

    /// The median of the values.
    ///
    /// # Panics
    ///
    /// The sample is empty.
    pub fn median(&self) -> f64 {
        let sorted = self.sorted();
        sorted[sorted.len() / 2]
    }

    /// The ratio of this median to the other sample's median.
    pub fn against(&self, other: &Self) -> String {
        format!("{:.2}", self.median() / other.median())
    }

    /// A percentile, by the nearest rank; `None` for an empty sample.
    pub fn percentile(&self, percent: usize) -> Option<f64> {
        let sorted = self.sorted();
        let rank = (sorted.len() * percent).div_ceil(100);
        sorted.get(rank.saturating_sub(1)).copied()
    }

    /// Some percentiles, by the nearest rank: `50 %: 110, 90 %: 114, 95 %: 114, most: 114 ms`.
    pub fn percentiles(&self) -> String {
        let at = |percent| self.percentile(percent).map_or_else(String::new, rounded);
        let [half, most_of_them, nearly_all, all] = [50, 90, 95, 100].map(at);
        format!(
            "50 %: {half}, 90 %: {most_of_them}, 95 %: {nearly_all}, most: {all} {}",
            self.unit
        )
    }

    fn sorted(&self) -> Vec<f64> {
        let mut values = self.values.clone();
        values.sort_by(f64::total_cmp);
        values
    }
}

/// `110 ms (96–114)`.
impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sorted = self.sorted();
        let (Some(least), Some(most)) = (sorted.first(), sorted.last()) else {
            return f.write_str("nothing");
        };
        let [median, least, most] = [self.median(), *least, *most].map(rounded);
        let space = if self.unit.is_empty() { "" } else { " " };
        write!(f, "{median}{space}{} ({least}–{most})", self.unit)
    }
}

/// A number with three significant digits.
fn rounded(value: f64) -> String {
    let digits = match value.abs() {
        small if small < 1.0 => 3,
        small if small < 10.0 => 2,
        medium if medium < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$}")
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_shown_by_its_median_and_range() {
        let times = [114, 96, 110].map(Duration::from_millis);
        let sample = Sample::of_times(times);
        assert_eq!(sample.to_string(), "110 ms (96.0–114)");
        let half = Sample::of_times([Duration::from_millis(55)]);
        assert_eq!(sample.against(&half), "2.00");
        assert_eq!(Sample::new("ms").to_string(), "nothing");
        let hundred = Sample::of_times((1..=100).map(Duration::from_millis));
        assert_eq!(
            hundred.percentiles(),
            "50 %: 50.0, 90 %: 90.0, 95 %: 95.0, most: 100 ms"
        );
    }
}
