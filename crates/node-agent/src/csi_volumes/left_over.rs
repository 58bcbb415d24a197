//! The release of volumes that belong to no pod of the node: the agent was killed between two steps, or a
//! call failed.
//!
//! **Guarantees**: the release of each volume is retried until it succeeds, with a delay that doubles after
//! each failure. A driver that does not respond delays only its own volumes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use process_telemetry::backoff::Backoff;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::request::VolumeId;
use super::volumes::CsiVolumes;

/// Delay after a failure, doubled after each further failure up to the maximum. The values are kubelet's.
const FIRST_DELAY: Duration = Duration::from_millis(500);
const DELAY_MAX: Duration = Duration::from_secs(122);

/// Notification that there may be volumes to release.
#[derive(Debug, Default)]
pub struct LeftoverNotice(Notify);

impl LeftoverNotice {
    /// Starts a retry of all volumes now, without their delays.
    pub fn retry_now(&self) {
        self.0.notify_one();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReleaseState {
    Running(Backoff),
    Waiting { until: Instant, backoff: Backoff },
}

/// The volumes whose release is in progress or has failed.
#[derive(Debug, Default)]
struct Releases(BTreeMap<VolumeId, ReleaseState>);

impl Releases {
    /// Whether the release of a volume is due. If so, the volume is marked as running.
    fn begin(&mut self, id: &VolumeId, now: Instant) -> bool {
        let backoff = match self.0.get(id) {
            None => Backoff::new(FIRST_DELAY, DELAY_MAX),
            Some(ReleaseState::Waiting { until, backoff }) if *until <= now => *backoff,
            Some(_) => return false,
        };
        self.0.insert(id.clone(), ReleaseState::Running(backoff));
        true
    }

    fn record_end(&mut self, id: &VolumeId, has_failed: bool, now: Instant) {
        let former = self.0.remove(id);
        if let (Some(ReleaseState::Running(mut backoff)), true) = (former, has_failed) {
            let until = now + backoff.fail();
            self.0
                .insert(id.clone(), ReleaseState::Waiting { until, backoff });
        }
    }

    /// Ends all delays.
    fn end_delays(&mut self) {
        self.0
            .retain(|_, state| matches!(state, ReleaseState::Running(_)));
    }

    /// The earliest time at which a delay ends.
    fn next_retry(&self) -> Option<Instant> {
        let ends = self.0.values().filter_map(|state| match state {
            ReleaseState::Waiting { until, .. } => Some(*until),
            ReleaseState::Running(_) => None,
        });
        ends.min()
    }
}

/// Releases volumes of deleted pods until `shutdown`.
pub async fn clean_up(volumes: Arc<CsiVolumes>, shutdown: CancellationToken) {
    let mut states = Releases::default();
    let mut releases: JoinSet<(VolumeId, bool)> = JoinSet::new();
    loop {
        let ids = volumes.without_pod().await.unwrap_or_else(|error| {
            tracing::warn!(%error, "volumes are not cleaned up");
            Vec::new()
        });
        for id in ids {
            if !states.begin(&id, Instant::now()) {
                continue;
            }
            let volumes = volumes.clone();
            releases.spawn(async move {
                let result = volumes.release_unused(&id).await;
                let has_failed = result.is_err();
                if let Err(error) = result {
                    tracing::warn!(%error, "a volume that no pod uses is not released");
                }
                (id, has_failed)
            });
        }
        let next_retry = states.next_retry();
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = volumes.left_over().0.notified() => states.end_delays(),
            Some(ended) = releases.join_next() => match ended {
                Ok((id, has_failed)) => states.record_end(&id, has_failed, Instant::now()),
                // The error does not name the volume of the task.
                Err(_) => {
                    releases.abort_all();
                    states = Releases::default();
                }
            },
            () = sleep_until(next_retry) => {}
        }
    }
}

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(handle: &str) -> VolumeId {
        VolumeId {
            driver: "d".to_owned(),
            handle: handle.to_owned(),
        }
    }

    #[test]
    fn delays_double_up_to_the_maximum_and_end_with_success() {
        let (a, now) = (id("a"), Instant::now());
        let mut states = Releases::default();
        let mut time = now;
        let mut delays = Vec::new();
        for _ in 0..10 {
            assert!(states.begin(&a, time));
            assert!(!states.begin(&a, time), "once at a time");
            states.record_end(&a, true, time);
            let next = states.next_retry().unwrap();
            assert!(!states.begin(&a, next - Duration::from_millis(1)));
            delays.push((next - time).as_millis());
            time = next;
        }
        // A part of each delay is random.
        let longest = [500, 1000, 2000]
            .into_iter()
            .chain(std::iter::repeat(122_000));
        for (number, longest) in (0..3).chain(8..10).zip(longest) {
            assert!(
                (longest / 2..=longest).contains(&delays[number]),
                "{delays:?}"
            );
        }
        assert!(states.begin(&a, time));
        states.record_end(&a, false, time);
        assert_eq!(states.next_retry(), None);
        assert!(states.begin(&a, time));
        states.record_end(&a, true, time);
        assert!(states.next_retry().unwrap() <= time + FIRST_DELAY);
    }

    #[test]
    fn a_retry_ends_delays_and_no_release() {
        let (a, b, now) = (id("a"), id("b"), Instant::now());
        let mut states = Releases::default();
        assert!(states.begin(&a, now) && states.begin(&b, now));
        states.record_end(&a, true, now);
        states.end_delays();
        assert!(states.begin(&a, now));
        assert!(!states.begin(&b, now));
        // The release of `b` was running before the delays ended, so its delay keeps growing.
        states.record_end(&b, true, now);
        assert!(states.next_retry().unwrap() <= now + FIRST_DELAY);
    }
}
