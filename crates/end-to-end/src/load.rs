//! The load of the machine during a measurement, by which a test decides whether the measured times are those of the
//! program.

use std::fmt;
use std::fs;

/// The machine is loaded if its processors are idle for less of the time, in percent.
const IDLE_PERCENT_MIN: u64 = 25;
/// The machine is loaded if its host gives its processors to other machines for more of the time, in percent.
const STOLEN_PERCENT_MAX: u64 = 5;

/// A measurement of the load, from its start on.
#[derive(Debug)]
pub struct LoadMeasurement(Ticks);

/// The load of the whole machine, including the measuring program and its processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    idle_percent: u64,
    stolen_percent: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ticks {
    idle: u64,
    stolen: u64,
    all: u64,
}

impl LoadMeasurement {
    /// Starts the measurement.
    ///
    /// # Panics
    ///
    /// The kernel does not report the times of its processors.
    pub fn begin() -> Self {
        Self(Ticks::now())
    }

    /// The load since the start.
    ///
    /// # Panics
    ///
    /// As [`LoadMeasurement::begin`].
    pub fn finish(&self) -> Load {
        Load::between(self.0, Ticks::now())
    }
}

impl Ticks {
    fn now() -> Self {
        let text = fs::read_to_string("/proc/stat").expect("read /proc/stat");
        Self::read(&text).expect("the times of the processors")
    }

    fn read(text: &str) -> Option<Self> {
        let line = text.lines().next()?.strip_prefix("cpu ")?;
        let times: Option<Vec<u64>> = line.split_whitespace().map(|n| n.parse().ok()).collect();
        // The times of guests are part of the times of users.
        let times = times?;
        let [_, _, _, idle, waiting, _, _, stolen, ..] = times.as_slice() else {
            return None;
        };
        Some(Self {
            idle: idle + waiting,
            stolen: *stolen,
            all: times.iter().take(8).sum(),
        })
    }
}

impl Load {
    fn between(begin: Ticks, end: Ticks) -> Self {
        let all = end.all.saturating_sub(begin.all).max(1);
        let percent = |begin: u64, end: u64| end.saturating_sub(begin) * 100 / all;
        Self {
            idle_percent: percent(begin.idle, end.idle),
            stolen_percent: percent(begin.stolen, end.stolen),
        }
    }

    /// Whether the load is so high that it affects measured times.
    pub fn is_high(self) -> bool {
        self.idle_percent < IDLE_PERCENT_MIN || self.stolen_percent > STOLEN_PERCENT_MAX
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the processors were idle for {} % of the time (loaded: below {IDLE_PERCENT_MIN} %), and taken away for {} % \
             (loaded: above {STOLEN_PERCENT_MAX} %)",
            self.idle_percent, self.stolen_percent
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // findings-2 R40
    #[test]
    fn a_machine_is_loaded_if_its_processors_do_not_rest_or_are_taken_away() {
        let ticks = |text: &str| Ticks::read(text).unwrap();
        let begin = ticks("cpu  100 0 100 1000 0 0 0 10 0 0\ncpu0 1 2 3 4\n");
        for (end, is_high) in [
            ("cpu  200 0 100 1800 100 0 0 10 0 0", false),
            ("cpu  900 0 100 1190 10 0 0 10 0 0", true),
            ("cpu  150 0 100 1450 0 0 0 70 0 0", true),
        ] {
            let load = Load::between(begin, ticks(end));
            assert_eq!(load.is_high(), is_high, "{load}");
        }
        assert_eq!(Ticks::read("cpu  1 2 3"), None);
    }
}
