//! The pods without a node: the order of attempts, and the time of the next attempt after a failure. The time is an
//! argument.
//!
//! Thousands of pods may wait, and every change of the cluster is processed here. Only a change that concerns all pods
//! visits all of them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use object_model::ObjectKey;
use process_telemetry::backoff;

use crate::limits;
use crate::metrics;

/// The order of pods: higher priority first, then the older pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QueueOrder {
    pub priority: i32,
    pub created: Option<Timestamp>,
}

/// The changes that may help a pod, in addition to free capacity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RetryTriggers {
    /// Changes of claims, volumes and their classes.
    pub claims: bool,
    /// Changes of devices and of claims of devices.
    pub devices: bool,
    /// Pods that get a node (inter-pod affinity).
    pub neighbours: bool,
}

/// The pods that a change concerns.
#[derive(Clone, Copy, Debug)]
pub(crate) enum AffectedPods<'c> {
    All,
    Pod(&'c ObjectKey),
    Claims,
    ClaimsIn(&'c str),
    Devices,
    Neighbours,
}

#[derive(Clone, Debug)]
struct Pending {
    rank: QueueOrder,
    interests: RetryTriggers,
    since: Instant,
    attempts: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The pod is to be scheduled.
    Ready,
    /// The pod was attempted at that time without success, and waits for a change.
    Parked(Instant),
    /// The pod is to be scheduled at that time.
    Delayed(Instant),
    /// The pod was attempted at that time, and waits until the pod itself changes.
    ParkedForPod(Instant),
}

/// The pods without a node.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    pods: BTreeMap<ObjectKey, Pending>,
    order: Order,
}

/// The pods by the event for which they wait.
///
/// Invariant: each pod is in `ready` or in `due`.
#[derive(Debug, Default)]
struct Order {
    /// The pods to be scheduled, in this order.
    ready: BTreeSet<(Reverse<i32>, Option<Timestamp>, ObjectKey)>,
    /// The other pods, by the time of their next attempt.
    due: BTreeSet<(Instant, ObjectKey)>,
    /// The pods that wait for a change: all of them, and by their interests.
    parked: BTreeSet<ObjectKey>,
    for_claims: BTreeSet<ObjectKey>,
    for_devices: BTreeSet<ObjectKey>,
    for_neighbours: BTreeSet<ObjectKey>,
    counts: metrics::Pending,
}

impl Order {
    fn enter(&mut self, key: &ObjectKey, pending: &Pending) {
        *self.count(pending.state) += 1;
        match pending.due() {
            None => {
                self.ready.insert(pending.order_key(key));
            }
            Some(due) => {
                self.due.insert((due, key.clone()));
            }
        }
        if let State::Parked(_) = pending.state {
            self.parked.insert(key.clone());
            for parked in self.interested(pending.interests) {
                parked.insert(key.clone());
            }
        }
    }

    fn leave(&mut self, key: &ObjectKey, pending: &Pending) {
        *self.count(pending.state) -= 1;
        self.ready.remove(&pending.order_key(key));
        if let Some(due) = pending.due() {
            self.due.remove(&(due, key.clone()));
        }
        if let State::Parked(_) = pending.state {
            self.parked.remove(key);
            for parked in self.interested(pending.interests) {
                parked.remove(key);
            }
        }
    }

    fn count(&mut self, state: State) -> &mut usize {
        match state {
            State::Ready => &mut self.counts.active,
            State::Delayed(_) => &mut self.counts.backoff,
            State::Parked(_) => &mut self.counts.unschedulable,
            State::ParkedForPod(_) => &mut self.counts.gated,
        }
    }

    fn interested(
        &mut self,
        interests: RetryTriggers,
    ) -> impl Iterator<Item = &mut BTreeSet<ObjectKey>> {
        let sets = [
            (&mut self.for_claims, interests.claims),
            (&mut self.for_devices, interests.devices),
            (&mut self.for_neighbours, interests.neighbours),
        ];
        let matching = sets.into_iter().filter(|(_, interested)| *interested);
        matching.map(|(keys, _)| keys)
    }

    /// The parked pods that a change concerns.
    fn concerned(&self, concern: AffectedPods<'_>) -> Vec<ObjectKey> {
        let keys = match concern {
            AffectedPods::All => &self.parked,
            AffectedPods::Claims => &self.for_claims,
            AffectedPods::Devices => &self.for_devices,
            AffectedPods::Neighbours => &self.for_neighbours,
            AffectedPods::Pod(key) => return self.parked.get(key).cloned().into_iter().collect(),
            AffectedPods::ClaimsIn(namespace) => {
                let from = self.for_claims.range(ObjectKey::new(namespace, "")..);
                let there = from.take_while(|key| *key.namespace == *namespace);
                return there.cloned().collect();
            }
        };
        keys.iter().cloned().collect()
    }
}

impl Backlog {
    /// Adds a pod, or makes a changed one ready at once.
    pub fn add(
        &mut self,
        key: ObjectKey,
        rank: QueueOrder,
        interests: RetryTriggers,
        now: Instant,
    ) {
        let since = self.pods.get(&key).map_or(now, |entry| entry.since);
        self.remove(&key);
        let pending = Pending {
            rank,
            interests,
            since,
            attempts: 0,
            state: State::Ready,
        };
        self.order.enter(&key, &pending);
        self.pods.insert(key, pending);
    }

    /// Removes a pod that has a node or is deleted.
    pub fn remove(&mut self, key: &ObjectKey) {
        if let Some(entry) = self.pods.remove(key) {
            self.order.leave(key, &entry);
        }
    }

    /// The next pod to schedule. It waits until [`wake`](Self::wake) or its delay makes it ready again.
    pub fn next(&mut self, now: Instant) -> Option<ObjectKey> {
        while self.order.due.first().is_some_and(|(due, _)| *due <= now) {
            let due = self.order.due.pop_first();
            if let Some((key, pending)) = due.and_then(|(_, key)| self.pods.get_key_value(&key)) {
                self.order.ready.insert(pending.order_key(key));
            }
        }
        let (_, _, key) = self.order.ready.first()?;
        let key = key.clone();
        self.change(&key, |pending| {
            pending.state = State::Parked(now);
            pending.attempts = pending.attempts.saturating_add(1);
        });
        Some(key)
    }

    /// Makes the pods that a change concerns ready.
    pub fn wake(&mut self, concern: AffectedPods<'_>) {
        for key in self.order.concerned(concern) {
            self.change(&key, |pending| {
                if let State::Parked(since) = pending.state {
                    pending.state = match back_off(pending.attempts) {
                        Duration::ZERO => State::Ready,
                        delay => State::Delayed(since + delay),
                    };
                }
            });
        }
    }

    /// Retries a pod after a backoff, because the writes of its decision failed.
    pub fn retry(&mut self, key: &ObjectKey, now: Instant) {
        self.change(key, |pending| {
            let delay = back_off(pending.attempts).max(limits::BACK_OFF_MIN);
            pending.state = State::Delayed(now + delay);
        });
    }

    /// Parks a pod until the pod itself changes.
    pub fn hold(&mut self, key: &ObjectKey, now: Instant) {
        self.change(key, |pending| pending.state = State::ParkedForPod(now));
    }

    fn change(&mut self, key: &ObjectKey, change: impl FnOnce(&mut Pending)) {
        if let Some(pending) = self.pods.get_mut(key) {
            self.order.leave(key, pending);
            change(pending);
            self.order.enter(key, pending);
        }
    }

    /// The time at which the next pod becomes ready.
    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        match self.order.ready.is_empty() {
            true => self.order.due.first().map(|(due, _)| *due),
            false => Some(now),
        }
    }

    /// The number of waiting pods by queue.
    pub fn metrics(&self) -> metrics::Pending {
        self.order.counts
    }

    /// The number of attempts, and the time since which the pod waits.
    pub fn history(&self, key: &ObjectKey) -> Option<(u32, Instant)> {
        let pending = self.pods.get(key)?;
        Some((pending.attempts, pending.since))
    }

    /// Whether the pod is in the backlog.
    pub fn contains(&self, key: &ObjectKey) -> bool {
        self.pods.contains_key(key)
    }
}

impl Pending {
    /// The time of the next attempt; `None` if the pod is ready now.
    fn due(&self) -> Option<Instant> {
        match self.state {
            State::Ready => None,
            State::Parked(since) | State::ParkedForPod(since) => {
                Some(since + limits::FORGOTTEN_AFTER)
            }
            State::Delayed(until) => Some(until),
        }
    }

    fn order_key(&self, key: &ObjectKey) -> (Reverse<i32>, Option<Timestamp>, ObjectKey) {
        (Reverse(self.rank.priority), self.rank.created, key.clone())
    }
}

fn back_off(attempts: u32) -> Duration {
    let late = attempts.saturating_sub(limits::PROMPT_ATTEMPTS);
    backoff::delay(limits::BACK_OFF_MIN, limits::BACK_OFF_MAX, late)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rank(priority: i32, created: i64) -> QueueOrder {
        QueueOrder {
            priority,
            created: Timestamp::from_second(created).ok(),
        }
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("default", name)
    }

    #[test]
    fn the_important_come_first_then_the_old() {
        let mut backlog = Backlog::default();
        let now = Instant::now();
        backlog.add(key("young"), rank(0, 2), RetryTriggers::default(), now);
        backlog.add(key("old"), rank(0, 1), RetryTriggers::default(), now);
        backlog.add(key("important"), rank(9, 3), RetryTriggers::default(), now);
        let order: Vec<ObjectKey> = std::iter::from_fn(|| backlog.next(now)).collect();
        assert_eq!(order, ["important", "old", "young"].map(key));
    }

    #[test]
    fn parked_pods_come_back_when_woken_at_once_at_first_and_later_with_delay() {
        let mut backlog = Backlog::default();
        let now = Instant::now();
        backlog.add(key("a"), rank(0, 1), RetryTriggers::default(), now);
        for _ in 0..limits::PROMPT_ATTEMPTS {
            assert_eq!(backlog.next(now), Some(key("a")));
            assert_eq!(backlog.next(now), None);
            backlog.wake(AffectedPods::All);
        }
        assert_eq!(backlog.next(now), Some(key("a")));
        backlog.wake(AffectedPods::All);
        assert_eq!(backlog.next(now), None);
        assert_eq!(backlog.next_due(now), Some(now + limits::BACK_OFF_MIN));
        assert_eq!(backlog.next(now + limits::BACK_OFF_MIN), Some(key("a")));
    }

    #[test]
    fn nothing_is_forgotten_for_ever() {
        let mut backlog = Backlog::default();
        let now = Instant::now();
        backlog.add(key("a"), rank(0, 1), RetryTriggers::default(), now);
        assert!(backlog.next(now).is_some());
        assert_eq!(backlog.next(now + limits::FORGOTTEN_AFTER), Some(key("a")));
    }

    #[test]
    fn pods_are_counted_by_what_they_wait_for() {
        let mut backlog = Backlog::default();
        let now = Instant::now();
        for name in ["a", "b", "c", "d"] {
            backlog.add(key(name), rank(0, 1), RetryTriggers::default(), now);
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
        backlog.wake(AffectedPods::All);
        let counts = metrics::Pending {
            active: 2,
            unschedulable: 0,
            ..counts
        };
        assert_eq!(backlog.metrics(), counts);
        // A changed pod waits since its arrival.
        let later = now + limits::BACK_OFF_MIN;
        backlog.add(key("a"), rank(0, 1), RetryTriggers::default(), later);
        assert_eq!(backlog.history(&key("a")), Some((0, now)));
    }

    #[test]
    fn a_change_wakes_those_that_it_may_help() {
        let mut backlog = Backlog::default();
        let now = Instant::now();
        let none = RetryTriggers::default();
        let claims = RetryTriggers {
            claims: true,
            ..none
        };
        let neighbours = RetryTriggers {
            neighbours: true,
            ..none
        };
        let add = |backlog: &mut Backlog, key: ObjectKey, interests| {
            backlog.add(key, rank(0, 1), interests, now);
        };
        add(&mut backlog, key("plain"), none);
        add(&mut backlog, key("claims"), claims);
        add(&mut backlog, ObjectKey::new("other", "claims"), claims);
        add(&mut backlog, key("near"), neighbours);
        let all = |backlog: &mut Backlog| -> Vec<String> {
            std::iter::from_fn(|| backlog.next(now).map(|key| key.to_string())).collect()
        };
        assert_eq!(all(&mut backlog).len(), 4);
        let mut woken = |concern: AffectedPods<'_>| {
            backlog.wake(concern);
            all(&mut backlog)
        };
        assert_eq!(woken(AffectedPods::Neighbours), ["default/near"]);
        assert_eq!(woken(AffectedPods::ClaimsIn("default")), ["default/claims"]);
        assert_eq!(
            woken(AffectedPods::Claims),
            ["default/claims", "other/claims"]
        );
        assert_eq!(woken(AffectedPods::Devices), [""; 0]);
        assert_eq!(woken(AffectedPods::Pod(&key("plain"))), ["default/plain"]);
        assert_eq!(woken(AffectedPods::Pod(&key("absent"))), [""; 0]);
    }
}
