//! Resource usage of the node, its pods and their containers: the last two samples of each, and the
//! rates between them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use jiff::SignedDuration;
use pod_lifecycle::Moment;

/// The subject of a sample.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum UsageSubject {
    /// The machine as a whole.
    Node,
    /// The pod of that uid.
    Pod(String),
    /// One instance of a container, by the id that statuses show.
    Container(String),
}

/// One sample of the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsageSample {
    /// The time of the sample.
    pub at: Moment,
    /// CPU time used so far, in nanoseconds.
    pub cpu_ns: u64,
    /// Memory in bytes that cannot be reclaimed at once.
    pub working_set_bytes: u64,
    /// All memory in bytes, with all page cache.
    pub usage_bytes: u64,
    /// Memory in bytes that is not file-backed.
    pub rss_bytes: u64,
}

/// The newest sample, and the rate since the previous one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsageFigures {
    /// The newest sample of the counters.
    pub sample: UsageSample,
    /// CPU time used per second of the window, in billionths of a processor, and the window; `None` until
    /// there are two samples.
    pub rate: Option<(u64, SignedDuration)>,
}

#[derive(Clone, Copy, Debug)]
struct UsageTrack {
    earlier: Option<UsageSample>,
    latest: UsageSample,
}

impl UsageTrack {
    fn figures(&self) -> UsageFigures {
        UsageFigures {
            sample: self.latest,
            rate: self
                .earlier
                .and_then(|earlier| rate(&earlier, &self.latest)),
        }
    }
}

fn rate(earlier: &UsageSample, latest: &UsageSample) -> Option<(u64, SignedDuration)> {
    let window = latest.at.instant.since(earlier.at.instant);
    let length = u128::try_from(window.as_nanos())
        .ok()
        .filter(|ns| *ns > 0)?;
    // A counter that went back is another counter.
    let used = u128::from(latest.cpu_ns.checked_sub(earlier.cpu_ns)?);
    let per_second = used * 1_000_000_000 / length;
    Some((u64::try_from(per_second).ok()?, window))
}

/// The last two samples of everything that runs.
#[derive(Debug, Default)]
pub struct UsageHistory {
    tracks: Mutex<BTreeMap<UsageSubject, UsageTrack>>,
}

impl UsageHistory {
    /// Adds a round of samples; subjects without one are removed.
    pub fn note(&self, round: Vec<(UsageSubject, UsageSample)>) {
        let mut tracks = self.tracks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut former = std::mem::take(&mut *tracks);
        for (subject, latest) in round {
            let earlier = former.remove(&subject).map(|track| track.latest);
            tracks.insert(subject, UsageTrack { earlier, latest });
        }
    }

    /// The subject's usage at the last sample.
    pub fn figures(&self, subject: &UsageSubject) -> Option<UsageFigures> {
        let tracks = self.tracks.lock().unwrap_or_else(PoisonError::into_inner);
        tracks.get(subject).map(UsageTrack::figures)
    }
}

/// Nanoseconds as decimal seconds with nine decimal places.
pub fn seconds(nanoseconds: u64) -> String {
    let (seconds, rest) = (nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000);
    format!("{seconds}.{rest:09}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(second: i64, cpu_ns: u64) -> UsageSample {
        UsageSample {
            at: Moment::aligned(jiff::Timestamp::from_second(second).unwrap()),
            cpu_ns,
            working_set_bytes: 7,
            usage_bytes: 0,
            rss_bytes: 0,
        }
    }

    #[test]
    fn two_looks_make_a_rate() {
        // kubectl.md 6.1
        let history = UsageHistory::default();
        let pod = UsageSubject::Pod("u".to_owned());
        assert_eq!(history.figures(&pod), None);
        history.note(vec![(pod.clone(), sample(100, 1_000))]);
        let first = history.figures(&pod).unwrap();
        assert_eq!((first.sample.working_set_bytes, first.rate), (7, None));
        history.note(vec![(pod.clone(), sample(110, 5_000_001_000))]);
        let rate = history.figures(&pod).unwrap().rate.unwrap();
        assert_eq!(rate, (500_000_000, SignedDuration::from_secs(10)));
        // A reset counter, and a clock that stands still, give no rate.
        history.note(vec![(pod.clone(), sample(120, 5))]);
        assert_eq!(history.figures(&pod).unwrap().rate, None);
        history.note(vec![(pod.clone(), sample(120, 6))]);
        assert_eq!(history.figures(&pod).unwrap().rate, None);
        // A removed subject is forgotten.
        history.note(Vec::new());
        assert_eq!(history.figures(&pod), None);
    }
}
