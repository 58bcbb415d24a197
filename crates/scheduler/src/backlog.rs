//! The pods without a node: the order of attempts, and the time of the next attempt after a
//! failure. Time is an argument.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use reconcile::Key;

use crate::limits;
use crate::metrics;

/// The order of pods: higher priority first, then older.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rank {
    pub priority: i32,
    pub created: Option<Timestamp>,
}

#[derive(Clone, Debug)]
struct Pending {
    rank: Rank,
    since: Instant,
    attempts: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// To be looked at.
    Ready,
    /// Attempted at that time without a result; waits for a change.
    Parked(Instant),
    /// To be looked at, but not before that time.
    Delayed(Instant),
    /// Looked at at that time; held back until the pod itself changes.
    Held(Instant),
}

/// The pods without a node.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    pods: BTreeMap<Key, Pending>,
}

impl Backlog {
    /// Adds a pod, or makes a changed one ready at once.
    pub fn add(&mut self, key: Key, rank: Rank, now: Instant) {
        let since = self.pods.get(&key).map_or(now, |known| known.since);
        let pending = Pending {
            rank,
            since,
            attempts: 0,
            state: State::Ready,
        };
        self.pods.insert(key, pending);
    }

    /// Forgets a pod.
    pub fn remove(&mut self, key: &Key) {
        self.pods.remove(key);
    }

    /// The next pod to look at; it is parked until [`wake`](Self::wake) or a delay brings it back.
    pub fn next(&mut self, now: Instant) -> Option<Key> {
        let ready = self
            .pods
            .iter()
            .filter(|(_, pending)| pending.is_ready(now));
        let first = ready.min_by(|(a_key, a), (b_key, b)| {
            let by_rank = b.rank.priority.cmp(&a.rank.priority);
            by_rank
                .then_with(|| a.rank.created.cmp(&b.rank.created))
                .then_with(|| a_key.cmp(b_key))
        });
        let key = first.map(|(key, _)| key.clone())?;
        let pending = self.pods.get_mut(&key)?;
        pending.state = State::Parked(now);
        pending.attempts = pending.attempts.saturating_add(1);
        Some(key)
    }

    /// Something has changed that may matter to these pods.
    pub fn wake(&mut self, concerns: impl Fn(&Key) -> bool) {
        for (key, pending) in &mut self.pods {
            if let State::Parked(since) = pending.state
                && concerns(key)
            {
                pending.state = match back_off(pending.attempts) {
                    Duration::ZERO => State::Ready,
                    delay => State::Delayed(since + delay),
                };
            }
        }
    }

    /// The decision's writes failed: retries after a back-off.
    pub fn retry(&mut self, key: &Key, now: Instant) {
        if let Some(pending) = self.pods.get_mut(key) {
            let delay = back_off(pending.attempts).max(limits::BACK_OFF_MIN);
            pending.state = State::Delayed(now + delay);
        }
    }

    /// No change of other objects can help the pod.
    pub fn hold(&mut self, key: &Key, now: Instant) {
        if let Some(pending) = self.pods.get_mut(key) {
            pending.state = State::Held(now);
        }
    }

    /// The time at which the next pod becomes ready.
    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        self.pods.values().map(|pending| pending.due(now)).min()
    }

    /// The number of waiting pods by queue.
    pub fn metrics(&self) -> metrics::Pending {
        let mut counts = metrics::Pending::default();
        for pending in self.pods.values() {
            *match pending.state {
                State::Ready => &mut counts.active,
                State::Delayed(_) => &mut counts.backoff,
                State::Parked(_) => &mut counts.unschedulable,
                State::Held(_) => &mut counts.gated,
            } += 1;
        }
        counts
    }

    /// The number of attempts, and the start of the wait.
    pub fn history(&self, key: &Key) -> Option<(u32, Instant)> {
        let pending = self.pods.get(key)?;
        Some((pending.attempts, pending.since))
    }

    /// Whether the pod has no node and is known.
    pub fn contains(&self, key: &Key) -> bool {
        self.pods.contains_key(key)
    }
}

impl Pending {
    fn due(&self, now: Instant) -> Instant {
        match self.state {
            State::Ready => now,
            State::Parked(since) | State::Held(since) => since + limits::FORGOTTEN_AFTER,
            State::Delayed(until) => until,
        }
    }

    fn is_ready(&self, now: Instant) -> bool {
        self.due(now) <= now
    }
}

fn back_off(attempts: u32) -> Duration {
    let late = attempts.saturating_sub(limits::PROMPT_ATTEMPTS);
    if late == 0 {
        return Duration::ZERO;
    }
    limits::BACK_OFF_MIN
        .saturating_mul(1 << (late - 1).min(10))
        .min(limits::BACK_OFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rank(priority: i32, created: i64) -> Rank {
        Rank {
            priority,
            created: Timestamp::from_second(created).ok(),
        }
    }

    fn key(name: &str) -> Key {
        Key::new("default", name)
    }

    #[test]
    fn the_important_come_first_then_the_old() {
        let mut backlog = Backlog::default();
        let now = Instant::now();
        backlog.add(key("young"), rank(0, 2), now);
        backlog.add(key("old"), rank(0, 1), now);
        backlog.add(key("important"), rank(9, 3), now);
        let order: Vec<Key> = std::iter::from_fn(|| backlog.next(now)).collect();
        assert_eq!(order, ["important", "old", "young"].map(key));
    }

    #[test]
    fn parked_pods_come_back_when_woken_at_once_at_first_and_later_with_delay() {
        let mut backlog = Backlog::default();
        let now = Instant::now();
        backlog.add(key("a"), rank(0, 1), now);
        for _ in 0..limits::PROMPT_ATTEMPTS {
            assert_eq!(backlog.next(now), Some(key("a")));
            assert_eq!(backlog.next(now), None);
            backlog.wake(|_| true);
        }
        assert_eq!(backlog.next(now), Some(key("a")));
        backlog.wake(|_| true);
        assert_eq!(backlog.next(now), None);
        assert_eq!(backlog.next_due(now), Some(now + limits::BACK_OFF_MIN));
        assert_eq!(backlog.next(now + limits::BACK_OFF_MIN), Some(key("a")));
    }

    #[test]
    fn nothing_is_forgotten_for_ever() {
        let mut backlog = Backlog::default();
        let now = Instant::now();
        backlog.add(key("a"), rank(0, 1), now);
        assert!(backlog.next(now).is_some());
        assert_eq!(backlog.next(now + limits::FORGOTTEN_AFTER), Some(key("a")));
    }

    #[test]
    fn pods_are_counted_by_what_they_wait_for() {
        let mut backlog = Backlog::default();
        let now = Instant::now();
        for name in ["a", "b", "c", "d"] {
            backlog.add(key(name), rank(0, 1), now);
        }
        for _ in 0..3 {
            backlog.next(now);
        }
        backlog.retry(&key("b"), now);
        backlog.hold(&key("c"), now);
        let counts = metrics::Pending {
            active: 1,
            backoff: 1,
            unschedulable: 1,
            gated: 1,
        };
        assert_eq!(backlog.metrics(), counts);
        backlog.wake(|_| true);
        let counts = metrics::Pending {
            active: 2,
            unschedulable: 0,
            ..counts
        };
        assert_eq!(backlog.metrics(), counts);
        // A pod that changes waits since it came.
        let later = now + limits::BACK_OFF_MIN;
        backlog.add(key("a"), rank(0, 1), later);
        assert_eq!(backlog.history(&key("a")), Some((0, now)));
    }
}
