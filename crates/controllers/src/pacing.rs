//! The times of the last writes to the objects of a controller, for the decision when the next write is due
//! ([`controller_planners::batching`]).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use controller_planners::batching::{WINDOW, WriteUrgency, delay};
use object_model::ObjectKey;
use tokio::time::Instant;

/// The times of each key. Bounded by the number of keys with a recent or an unwritten change, as long as the controller
/// reports when no write is left.
pub(crate) struct Pacing {
    /// The window of minor changes of an object that was not written recently.
    window: Duration,
    times: Mutex<HashMap<ObjectKey, Times>>,
}

impl Default for Pacing {
    fn default() -> Self {
        Self::with_window(WINDOW)
    }
}

#[derive(Clone, Copy, Default)]
struct Times {
    /// The last write, and the window after it.
    written: Option<(Instant, Duration)>,
    /// The time of the oldest change that is not written yet.
    waiting: Option<Instant>,
}

impl Times {
    /// Whether the window after the last write has ended.
    fn is_quiet(&self) -> bool {
        let over = |(at, window): (Instant, Duration)| at.elapsed() >= window;
        self.written.is_none_or(over)
    }
}

impl Pacing {
    pub fn with_window(window: Duration) -> Self {
        Self {
            window,
            times: Mutex::default(),
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<ObjectKey, Times>> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The remaining window after the last write; `None` if the window has ended.
    pub fn rest(&self, key: &ObjectKey) -> Option<Duration> {
        let (at, window) = self.all().get(key)?.written?;
        let rest = window.saturating_sub(at.elapsed());
        (!rest.is_zero()).then_some(rest)
    }

    /// The time until the next write to an object that may include a further change of this urgency: the remaining
    /// window after the last write, or of a waiting minor change.
    pub fn rest_of(&self, key: &ObjectKey, urgency: WriteUrgency) -> Option<Duration> {
        let times = *self.all().get(key)?;
        match times.waiting {
            Some(waiting) => self.delay(times, urgency, waiting),
            None => self.rest(key),
        }
    }

    /// The time to delay a change; `None` if the change is due.
    pub fn wait(&self, key: &ObjectKey, urgency: WriteUrgency) -> Option<Duration> {
        let mut all = self.all();
        let times = all.entry(key.clone()).or_default();
        let waiting = *times.waiting.get_or_insert_with(Instant::now);
        self.delay(*times, urgency, waiting)
    }

    fn delay(&self, times: Times, urgency: WriteUrgency, waiting: Instant) -> Option<Duration> {
        let since_write = times.written.map(|(at, _)| at.elapsed());
        let window = times.written.map_or(self.window, |(_, window)| window);
        let wait = delay(window, urgency, since_write, waiting.elapsed());
        (!wait.is_zero()).then_some(wait)
    }

    /// Records that all delayed changes were written, and the window in which further changes are collected.
    pub fn written(&self, key: &ObjectKey, window: Duration) {
        let times = Times {
            written: Some((Instant::now(), window)),
            waiting: None,
        };
        self.all().insert(key.clone(), times);
    }

    /// Records that no write is left.
    pub fn settled(&self, key: &ObjectKey) {
        let mut all = self.all();
        let Some(times) = all.get_mut(key) else {
            return;
        };
        times.waiting = None;
        if times.is_quiet() {
            all.remove(key);
        }
    }

    /// Removes the data of an object that does not exist any more.
    pub fn forget(&self, key: &ObjectKey) {
        self.all().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn changes_after_a_write_wait_for_the_end_of_the_window() {
        let (pacing, key) = (Pacing::default(), ObjectKey::new("default", "web"));
        assert_eq!(pacing.wait(&key, WriteUrgency::Prompt), None);
        pacing.written(&key, WINDOW);
        sleep(WINDOW / 4).await;
        assert_eq!(pacing.rest(&key), Some(WINDOW - WINDOW / 4));
        let wait = pacing.wait(&key, WriteUrgency::Prompt);
        assert_eq!(wait, Some(WINDOW - WINDOW / 4));
        sleep(WINDOW - WINDOW / 4).await;
        assert_eq!(pacing.rest(&key), None);
        assert_eq!(pacing.wait(&key, WriteUrgency::Prompt), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_minor_change_waits_from_the_time_at_which_it_was_seen() {
        let (pacing, key) = (Pacing::default(), ObjectKey::new("default", "web"));
        assert_eq!(pacing.wait(&key, WriteUrgency::Minor), Some(WINDOW));
        sleep(WINDOW / 2).await;
        assert_eq!(pacing.wait(&key, WriteUrgency::Minor), Some(WINDOW / 2));
        assert_eq!(pacing.wait(&key, WriteUrgency::Prompt), None);
        sleep(WINDOW / 2).await;
        assert_eq!(pacing.wait(&key, WriteUrgency::Minor), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_written_with_those_that_wait_if_it_is_no_more_urgent() {
        let (pacing, key) = (Pacing::default(), ObjectKey::new("default", "web"));
        assert_eq!(pacing.rest_of(&key, WriteUrgency::Minor), None);
        pacing.wait(&key, WriteUrgency::Minor);
        sleep(WINDOW / 2).await;
        assert_eq!(pacing.rest_of(&key, WriteUrgency::Minor), Some(WINDOW / 2));
        assert_eq!(pacing.rest_of(&key, WriteUrgency::Prompt), None);
        pacing.written(&key, WINDOW * 3);
        sleep(WINDOW).await;
        for urgency in [WriteUrgency::Minor, WriteUrgency::Prompt] {
            assert_eq!(pacing.rest_of(&key, urgency), Some(WINDOW * 2));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_remembered_of_a_quiet_object() {
        let (pacing, key) = (Pacing::default(), ObjectKey::new("default", "web"));
        pacing.written(&key, WINDOW);
        pacing.settled(&key);
        assert_eq!(pacing.all().len(), 1);
        sleep(WINDOW).await;
        pacing.settled(&key);
        assert!(pacing.all().is_empty());
        pacing.wait(&key, WriteUrgency::Minor);
        pacing.settled(&key);
        assert!(pacing.all().is_empty());
    }
}
