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
    /// The pod with this UID.
    Pod(String),
    /// One instance of a container, by its id in the pod's status.
    Container(String),
}

/// One sample of the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsageSample {
    pub at: Moment,
    /// CPU time used so far, in nanoseconds.
    pub cpu_ns: u64,
    /// Memory in bytes that cannot be reclaimed at once.
    pub working_set_bytes: u64,
    /// All memory in bytes, including the page cache.
    pub usage_bytes: u64,
    /// Memory in bytes that is not file-backed.
    pub rss_bytes: u64,
}

/// The newest sample, and the rate since the sample before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsageFigures {
    pub sample: UsageSample,
    /// CPU time used per second, in billionths of a processor, and the duration over which it was measured;
    /// `None` until there are two samples.
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
    // If the counter has decreased, the counter was reset, and there is no rate.
    let used = u128::from(latest.cpu_ns.checked_sub(earlier.cpu_ns)?);
    let per_second = used * 1_000_000_000 / length;
    Some((u64::try_from(per_second).ok()?, window))
}

/// The last two samples of each subject.
#[derive(Debug, Default)]
pub struct UsageHistory {
    tracks: Mutex<BTreeMap<UsageSubject, UsageTrack>>,
}

impl UsageHistory {
    /// Adds a round of samples. Subjects without a sample are removed.
    pub fn note(&self, round: Vec<(UsageSubject, UsageSample)>) {
        let mut tracks = self.tracks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut former = std::mem::take(&mut *tracks);
        for (subject, latest) in round {
            let earlier = former.remove(&subject).map(|track| track.latest);
            tracks.insert(subject, UsageTrack { earlier, latest });
        }
    }

    /// The usage of the subject at the last sample.
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
        // There is no rate after the counter was reset, or while the clock does not advance.
        history.note(vec![(pod.clone(), sample(120, 5))]);
        assert_eq!(history.figures(&pod).unwrap().rate, None);
        history.note(vec![(pod.clone(), sample(120, 6))]);
        assert_eq!(history.figures(&pod).unwrap().rate, None);
        // The samples of a removed subject are deleted.
        history.note(Vec::new());
        assert_eq!(history.figures(&pod), None);
    }
}
