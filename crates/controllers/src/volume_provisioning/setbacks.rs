//! Retries of failed work for a claim, with growing delays.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use object_model::Uid;
use process_telemetry::backoff::Backoff;

/// First delay after the creation of a volume failed.
const RETRY_MIN: Duration = Duration::from_secs(1);
/// Maximum delay; external provisioners have a similar maximum.
const RETRY_MAX: Duration = Duration::from_secs(300);

/// Maximum delay after a failure of this node alone, because the claim's pod cannot be bound to another node meanwhile.
const RETRY_MAX_OF_NODE: Duration = Duration::from_secs(30);

/// The part of the cluster that has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// This node, for example because its disk is full.
    Node,
    /// Something else: the volume would fail on any node.
    Other,
}

/// The back-off of claims whose volumes could not be created or expanded, by UID.
#[derive(Debug, Default)]
pub(crate) struct ClaimBackoff {
    by_uid: BTreeMap<Uid, (Backoff, Instant)>,
}

impl ClaimBackoff {
    /// The remaining time before the next attempt.
    pub fn remaining(&self, uid: &Uid, now: Instant) -> Option<Duration> {
        let (_, until) = self.by_uid.get(uid)?;
        until
            .checked_duration_since(now)
            .filter(|left| !left.is_zero())
    }

    pub fn add(&mut self, uid: &Uid, cause: Cause, now: Instant) -> Duration {
        // Entries of claims that were deleted since.
        self.by_uid
            .retain(|_, (_, until)| *until + 2 * RETRY_MAX > now);
        let first = || (Backoff::new(RETRY_MIN, RETRY_MAX), now);
        let (backoff, until) = self.by_uid.entry(uid.clone()).or_insert_with(first);
        let delay = match cause {
            Cause::Node => backoff.fail().min(RETRY_MAX_OF_NODE),
            Cause::Other => backoff.fail(),
        };
        *until = now + delay;
        delay
    }

    pub fn forget(&mut self, uid: &Uid) {
        self.by_uid.remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setbacks_double_the_delay_until_they_are_forgotten() {
        // A part of each delay is random.
        let is_about = |delay: Duration, whole: Duration| (whole / 2..=whole).contains(&delay);
        let mut setbacks = ClaimBackoff::default();
        let now = Instant::now();
        let claim: Uid = "a".parse().unwrap();
        assert_eq!(setbacks.remaining(&claim, now), None);
        let first = setbacks.add(&claim, Cause::Other, now);
        assert!(is_about(first, RETRY_MIN));
        assert_eq!(setbacks.remaining(&claim, now), Some(first));
        assert_eq!(setbacks.remaining(&claim, now + RETRY_MIN), None);
        assert!(is_about(
            setbacks.add(&claim, Cause::Other, now),
            RETRY_MIN * 2
        ));
        for _ in 0..20 {
            setbacks.add(&claim, Cause::Other, now);
        }
        assert!(is_about(
            setbacks.remaining(&claim, now).unwrap(),
            RETRY_MAX
        ));
        // findings-2 R30: a node that cannot create the volume of a claim delays its pod for a short time only.
        assert!(is_about(
            setbacks.add(&claim, Cause::Node, now),
            RETRY_MAX_OF_NODE
        ));
        setbacks.forget(&claim);
        assert_eq!(setbacks.remaining(&claim, now), None);
    }
}
