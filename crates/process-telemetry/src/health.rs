//! The health of long-running components: of watches, and of the work of controllers.
//!
//! Each watch and each controller counts its consecutive failures. After [`FAILURES_MAX`] failures it counts as
//! failing. The failure is logged once for each cause, so that all watches of a program without a server produce one
//! line. [`Health::failing`] reports it for `/readyz`, and [`Health::write`] for `/metrics`.

use std::collections::BTreeMap;
use std::fmt::{self, Debug, Display};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::limits::{FAILURES_MAX, WATCH_RETRY_DELAY_MAX};
use crate::polls::{self, SlowPolls};
use crate::prometheus::{Metric, Page};

const FAILURES: Metric = Metric::gauge(
    "mainstay_failures_in_a_row",
    "Failures since the last success of a watch, or of a controller's work.",
);

/// The kind of work whose health is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A list and watch of objects.
    Watch,
    /// The work of a controller on its queue.
    Work,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Watch => "watch",
            Self::Work => "work",
        }
    }

    /// The time after which a failure is forgotten; `None` if only a success ends it. A watch without events may have
    /// resumed, because its objects may not change. A failed watch is retried soon, so a longer silence means that it
    /// works. A failed controller recovers only with a success.
    fn forgets_after(self) -> Option<Duration> {
        match self {
            Self::Watch => Some(WATCH_RETRY_DELAY_MAX * 3),
            Self::Work => None,
        }
    }
}

/// The health of all watches and controllers of a program; clones share it.
#[derive(Clone, Default)]
pub struct Health {
    states: Arc<Mutex<Vec<Weak<State>>>>,
    /// The recorder of slow polls, if polls are measured.
    slow_polls: Option<Arc<SlowPolls>>,
}

impl Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").finish_non_exhaustive()
    }
}

impl Health {
    /// An empty record of health. If `slow_polls` is given, slow polls of the components are recorded there.
    pub fn watched_by(slow_polls: impl Into<Option<Arc<SlowPolls>>>) -> Self {
        Self {
            slow_polls: slow_polls.into(),
            ..Self::default()
        }
    }

    /// A component of the program that ends with `shutdown`.
    pub fn component(&self, name: &'static str, shutdown: CancellationToken) -> Component {
        Component {
            name,
            health: self.clone(),
            shutdown,
        }
    }

    /// The names of the failing watches or controllers, each with its number of failures.
    pub fn failing(&self, kind: Kind) -> Vec<String> {
        let mut failing: Vec<String> = self
            .consecutive()
            .into_iter()
            .filter(|((of, _, _), count)| *of == kind && *count >= FAILURES_MAX)
            .map(|((_, component, what), count)| {
                format!("{component}: {what} ({count} failures in a row)")
            })
            .collect();
        failing.sort_unstable();
        failing
    }

    /// Writes the metrics.
    pub fn write(&self, page: &mut Page) {
        page.describe(FAILURES);
        for ((kind, component, what), count) in self.consecutive() {
            let labels = [("kind", kind.as_str()), ("part", component), ("of", &what)];
            page.add(FAILURES, &labels, count);
        }
    }

    /// The consecutive failures by name. Watches of single objects share a name; the highest number counts.
    fn consecutive(&self) -> BTreeMap<(Kind, &'static str, String), u32> {
        let now = Instant::now();
        let mut all = BTreeMap::new();
        for state in self.states().iter().filter_map(Weak::upgrade) {
            let name = (state.kind, state.component, state.what.clone());
            let worst: &mut u32 = all.entry(name).or_default();
            *worst = state.row().length(state.kind, now).max(*worst);
        }
        all
    }

    /// Whether another watch or controller of the kind fails for the same cause.
    fn fails_too(&self, than: &Arc<State>, why: &str, now: Instant) -> bool {
        let states: Vec<Arc<State>> = self.states().iter().filter_map(Weak::upgrade).collect();
        let mut others = states
            .iter()
            .filter(|state| state.kind == than.kind && !Arc::ptr_eq(state, than));
        let fails_too = others.any(|state| {
            let row = state.row();
            row.length(state.kind, now) >= FAILURES_MAX && row.why == why
        });
        if fails_too {
            cov_mark::hit!(findings_2_r37);
        }
        fails_too
    }

    fn states(&self) -> MutexGuard<'_, Vec<Weak<State>>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A component of the program, as its tasks see it: the token that ends them, and the record of their failures.
#[derive(Clone, Debug)]
pub struct Component {
    name: &'static str,
    health: Health,
    /// The token that ends the component when cancelled.
    pub shutdown: CancellationToken,
}

/// A component whose health is not recorded.
impl From<CancellationToken> for Component {
    fn from(shutdown: CancellationToken) -> Self {
        Health::default().component("", shutdown)
    }
}

impl Component {
    /// A copy of the component that ends with another token.
    pub fn with_shutdown(&self, shutdown: CancellationToken) -> Self {
        self.health.component(self.name, shutdown)
    }

    /// Runs a task of the component; slow polls of the task are recorded if enabled.
    pub fn watched<W: Future>(
        &self,
        what: &str,
        work: W,
    ) -> impl Future<Output = W::Output> + use<W> {
        let what = format!("{}: {what}", self.name);
        let slow_polls = self.health.slow_polls.clone();
        async move { polls::watched(slow_polls, &what, work).await }
    }

    /// Counts the failures of one more watch or controller until the returned value is dropped.
    pub fn follow(&self, kind: Kind, what: impl Into<String>) -> FailureStreak {
        let state = Arc::new(State {
            kind,
            component: self.name,
            what: what.into(),
            row: Mutex::default(),
            slow_polls: self.health.slow_polls.clone(),
        });
        let mut states = self.health.states();
        states.retain(|state| state.strong_count() > 0);
        states.push(Arc::downgrade(&state));
        drop(states);
        FailureStreak {
            state,
            health: self.health.clone(),
        }
    }
}

struct State {
    kind: Kind,
    component: &'static str,
    what: String,
    row: Mutex<Row>,
    slow_polls: Option<Arc<SlowPolls>>,
}

impl State {
    fn row(&self) -> MutexGuard<'_, Row> {
        self.row.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A series of consecutive failures.
#[derive(Default)]
struct Row {
    count: u32,
    newest: Option<Instant>,
    /// The newest error.
    why: String,
    /// Whether the series was logged for users.
    is_logged: bool,
}

impl Row {
    fn length(&self, kind: Kind, now: Instant) -> u32 {
        let age = self.newest.map(|at| now.saturating_duration_since(at));
        match (age, kind.forgets_after()) {
            (Some(age), Some(limit)) if age > limit => 0,
            _ => self.count,
        }
    }
}

/// The consecutive failures of one watch, or of the work of one controller.
pub struct FailureStreak {
    state: Arc<State>,
    health: Health,
}

impl FailureStreak {
    /// Runs a part of the work; its slow polls are recorded if enabled.
    pub async fn watched<T>(&self, work: impl Future<Output = T>) -> T {
        let State {
            component, what, ..
        } = &*self.state;
        let slow_polls = self.state.slow_polls.clone();
        polls::watched(slow_polls, &format!("{component}: {what}"), work).await
    }

    /// Records a success, which ends a series of failures.
    pub fn succeeded(&self) {
        let row = std::mem::take(&mut *self.state.row());
        if row.is_logged {
            let State {
                kind,
                component,
                what,
                ..
            } = &*self.state;
            tracing::info!(component, of = what, "{} succeeds again", kind.as_str());
        }
    }

    /// Records a failure with its error. A long series of failures is reported.
    pub fn failed(&self, why: &dyn Display) {
        let State {
            kind,
            component,
            what,
            ..
        } = &*self.state;
        let now = Instant::now();
        let why = why.to_string();
        let count = {
            let mut row = self.state.row();
            let count = row.length(*kind, now).saturating_add(1);
            let is_logged = row.is_logged && count > 1;
            *row = Row {
                count,
                newest: Some(now),
                why: why.clone(),
                is_logged,
            };
            count
        };
        let is_new = count == FAILURES_MAX && !self.health.fails_too(&self.state, &why, now);
        if is_new {
            cov_mark::hit!(findings_a3);
            self.state.row().is_logged = true;
            tracing::warn!(
                component,
                of = what,
                error = why,
                failures = count,
                "{} fails again and again; others that fail for the same cause are not named",
                kind.as_str()
            );
        } else {
            tracing::debug!(
                component,
                of = what,
                error = why,
                failures = count,
                "{} failed",
                kind.as_str()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component() -> (Health, Component) {
        let health = Health::default();
        let component = health.component("scheduler", CancellationToken::new());
        (health, component)
    }

    /// findings A3: three consecutive failures are reported with the name, until a success.
    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_are_shown_until_a_success() {
        cov_mark::check!(findings_a3);
        let (health, component) = component();
        let pods = component.follow(Kind::Watch, "pods");
        let work = component.follow(Kind::Work, "job");
        for _ in 0..2 {
            pods.failed(&"gone");
            assert!(health.failing(Kind::Watch).is_empty());
        }
        pods.failed(&"gone");
        let reported = ["scheduler: pods (3 failures in a row)"];
        assert_eq!(health.failing(Kind::Watch), reported);
        assert!(health.failing(Kind::Work).is_empty());
        let series = "mainstay_failures_in_a_row{kind=\"watch\",part=\"scheduler\",of=\"pods\"} 3";
        let mut page = Page::default();
        health.write(&mut page);
        let text = page.text();
        assert!(text.contains(series), "{text}");
        pods.succeeded();
        assert!(health.failing(Kind::Watch).is_empty());
        for _ in 0..3 {
            work.failed(&"broken");
        }
        drop(work);
        assert!(health.failing(Kind::Work).is_empty(), "it is no more");
    }

    // findings-2 R37
    #[tokio::test(start_paused = true)]
    async fn watches_that_fail_for_one_cause_are_told_once() {
        cov_mark::check!(findings_2_r37);
        let (_, component) = component();
        let watches = ["pods", "nodes", "leases"].map(|what| component.follow(Kind::Watch, what));
        let reported = || {
            let reported = watches.iter().filter(|watch| watch.state.row().is_logged);
            reported
                .map(|watch| watch.state.what.clone())
                .collect::<Vec<_>>()
        };
        for _ in 0..5 {
            for watch in &watches[..2] {
                watch.failed(&"connection refused");
            }
            watches[2].failed(&"forbidden");
        }
        assert_eq!(reported(), ["pods", "leases"]);
        watches.iter().for_each(FailureStreak::succeeded);
        assert!(reported().is_empty());
        for _ in 0..3 {
            watches[1].failed(&"connection refused");
        }
        assert_eq!(reported(), ["nodes"]);
    }

    /// findings A3: a watch of quiet objects reports nothing when it resumes.
    #[tokio::test(start_paused = true)]
    async fn a_watch_that_no_longer_fails_follows_and_work_has_to_succeed() {
        let (health, component) = component();
        let pods = component.follow(Kind::Watch, "pods");
        let work = component.follow(Kind::Work, "job");
        for _ in 0..3 {
            pods.failed(&"gone");
            work.failed(&"broken");
            tokio::time::advance(WATCH_RETRY_DELAY_MAX).await;
        }
        assert_eq!(health.failing(Kind::Watch).len(), 1);
        tokio::time::advance(WATCH_RETRY_DELAY_MAX * 3).await;
        assert!(health.failing(Kind::Watch).is_empty());
        assert_eq!(health.failing(Kind::Work).len(), 1);
    }
}
