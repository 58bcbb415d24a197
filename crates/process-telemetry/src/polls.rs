//! Detection of long work on the threads of the async runtime. These threads also respond to requests, renew Leases and
//! run probes. Long work belongs on other threads, or must be split into portions.
//!
//! Tests fail if there is long work ([`SlowPolls::new`]). A server logs long work with
//! `MAINSTAY_LOG=warn,process_telemetry::polls=debug` ([`SlowPolls::logged`]).
//!
//! In tests, the measure of a poll is its processor time relative to the current speed of the machine, because other
//! processes slow the machine down. The clock of a thread includes a part of the time that the host of a virtual
//! machine has taken away (steal time); such time does not count.

use std::cell::Cell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::task::coop;

/// Steps of the reference work that measures the speed of the machine.
const PACE_STEPS: u64 = 2000;
/// Consecutive runs of the reference work; the slowest run counts.
const PACE_TIMES: usize = 5;
/// The time of the reference work, without optimisation, on the idle machine on which the limits were chosen.
const PACE: Duration = Duration::from_micros(220);
/// The longest time for which a reading of the steal time is reused at the start of a poll.
const STOLEN_AGE_MAX: Duration = Duration::from_millis(50);
/// The unit in which the kernel reports times to programs, whatever its internal tick is.
const TICKS_PER_SECOND: u64 = 100;
/// The shortest poll that is logged.
const LOGGED_FROM: Duration = Duration::from_millis(2);

thread_local! {
    /// The processor time of this thread that does not count towards polls.
    static UNCOUNTED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    /// The last reading of the steal time, and its time.
    static STOLEN: Cell<Option<(Instant, Duration)>> = const { Cell::new(None) };
}

/// Records or logs polls that take too much processor time. A poll that a test has recorded contains work that belongs
/// on another thread.
pub struct SlowPolls {
    longest: Duration,
    /// The recorded polls; `None` if polls are logged.
    recorded: Option<Mutex<Vec<String>>>,
}

impl SlowPolls {
    /// A record of the polls that take longer than `longest` on a machine of normal speed.
    pub fn new(longest: Duration) -> Arc<Self> {
        Arc::new(Self {
            longest,
            recorded: Some(Mutex::default()),
        })
    }

    /// A log of long polls; `None` if the log level is off, so that nothing is measured.
    pub fn logged() -> Option<Arc<Self>> {
        tracing::enabled!(tracing::Level::DEBUG).then(|| {
            Arc::new(Self {
                longest: LOGGED_FROM,
                recorded: None,
            })
        })
    }

    /// The recorded polls: the name of the task, and the time.
    pub fn recorded(&self) -> Vec<String> {
        let recorded = self.recorded.as_ref().map(Mutex::lock);
        let recorded =
            recorded.map(|recorded| recorded.unwrap_or_else(PoisonError::into_inner).clone());
        recorded.unwrap_or_default()
    }

    /// Runs one poll, and records the poll if it takes too long.
    pub fn watch<R>(&self, what: &str, poll: impl FnOnce() -> R) -> R {
        let started = self.start_poll();
        let result = poll();
        self.end_poll(what, &started);
        result
    }

    fn start_poll(&self) -> PollStart {
        let stolen = self.recorded.as_ref().map(|_| stolen_lately());
        PollStart {
            stolen,
            processor_time: processor_time(),
            uncounted_before: UNCOUNTED.get(),
        }
    }

    fn end_poll(&self, what: &str, start: &PollStart) {
        let all = processor_time().saturating_sub(start.processor_time);
        let took = all.saturating_sub(UNCOUNTED.get().saturating_sub(start.uncounted_before));
        if took <= self.longest {
            return;
        }
        let milliseconds = took.as_millis();
        let Some((recorded, stolen_before)) = self.recorded.as_ref().zip(start.stolen) else {
            tracing::debug!(task = what, milliseconds, "a long poll");
            return;
        };
        let stolen = stolen().saturating_sub(stolen_before);
        if took.saturating_sub(stolen) > allowed(self.longest, pace_now()) {
            let mut recorded = recorded.lock().unwrap_or_else(PoisonError::into_inner);
            recorded.push(format!("{what}: {milliseconds} ms"));
        }
    }
}

/// The readings of the clocks at the start of a poll.
struct PollStart {
    /// `None` if polls are logged: then only the processor time counts.
    stolen: Option<Duration>,
    processor_time: Duration,
    /// The value of [`UNCOUNTED`] at that time.
    uncounted_before: Duration,
}

impl fmt::Debug for SlowPolls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.recorded()).finish()
    }
}

/// Runs a task, and measures its polls if measurement is enabled.
pub async fn watched<T>(
    slow_polls: Option<Arc<SlowPolls>>,
    what: &str,
    work: impl Future<Output = T>,
) -> T {
    let Some(polls) = slow_polls else {
        return work.await;
    };
    let mut work = pin!(work);
    poll_fn(|cx| polls.watch(what, || work.as_mut().poll(cx))).await
}

/// Counts work of a task. The runtime grants a task 128 units in each poll; each received change takes one unit, too.
/// After the last unit, other tasks run first. The portions are counted and not timed, so that a simulated world
/// behaves the same in each run of its seed.
pub async fn spend(units: usize) {
    for _ in 0..units {
        coop::consume_budget().await;
    }
}

/// Counts work of a task that cannot wait here. Other tasks run when the task next awaits [`spend`], a change, or an
/// input.
pub fn note_spent(units: usize) {
    let context = &mut Context::from_waker(Waker::noop());
    for _ in 0..units {
        match coop::poll_proceed(context) {
            Poll::Ready(work) => work.made_progress(),
            Poll::Pending => return,
        }
    }
}

/// Runs work that blocks no other task, so it does not count towards the current poll.
pub fn uncounted<R>(work: impl FnOnce() -> R) -> R {
    let (before, inner) = (processor_time(), UNCOUNTED.get());
    let result = work();
    // The difference already includes nested uncounted work, so `inner` is the value from before the work.
    UNCOUNTED.set(inner + processor_time().saturating_sub(before));
    result
}

/// The maximum time of a poll at the given speed of the machine.
fn allowed(longest: Duration, pace: Duration) -> Duration {
    longest.mul_f64(pace.div_duration_f64(PACE).max(1.0))
}

/// The current time of the reference work.
fn pace_now() -> Duration {
    let once = |_| {
        let before = processor_time();
        let hashes = BuildHasherDefault::<DefaultHasher>::default();
        let end = (0..PACE_STEPS).fold(0, |sum: u64, step| sum ^ hashes.hash_one((sum, step)));
        std::hint::black_box(end);
        processor_time().saturating_sub(before)
    };
    (0..PACE_TIMES).map(once).max().unwrap_or_default()
}

/// The steal time; the reading is at most [`STOLEN_AGE_MAX`] old.
fn stolen_lately() -> Duration {
    let now = Instant::now();
    match STOLEN.get() {
        Some((at, stolen)) if now.saturating_duration_since(at) < STOLEN_AGE_MAX => stolen,
        _ => {
            let stolen = stolen();
            STOLEN.set(Some((now, stolen)));
            stolen
        }
    }
}

/// The steal time: the time that the host has taken from all processors of this virtual machine; 0 on other machines.
fn stolen() -> Duration {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    stolen_in(&text).unwrap_or_default()
}

/// The field `steal` of the first line of `/proc/stat` (proc_stat(5)).
fn stolen_in(text: &str) -> Option<Duration> {
    let all = text.lines().next()?.strip_prefix("cpu ")?;
    let ticks: u64 = all.split_ascii_whitespace().nth(7)?.parse().ok()?;
    Some(Duration::from_millis(
        ticks.saturating_mul(1000 / TICKS_PER_SECOND),
    ))
}

/// The processor time of this thread. `getrusage` can be late by a tick of the kernel's scheduler.
pub fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0));
    seconds + Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn burn(longer_than: Duration) {
        let start = processor_time();
        while processor_time() - start < longer_than {
            std::hint::spin_loop();
        }
    }

    /// findings A9: a slow poll is recorded, unless its work is uncounted.
    #[tokio::test]
    async fn long_polls_are_noted_and_what_is_done_beside_is_not() {
        let polls = SlowPolls::new(Duration::from_millis(2));
        watched(Some(polls.clone()), "beside", async {
            uncounted(|| burn(Duration::from_millis(100)));
        })
        .await;
        assert!(polls.recorded().is_empty(), "{polls:?}");
        // A poll is not noted if the host took the processors away for as long.
        let mut attempts = 0..100;
        while polls.recorded().is_empty() {
            attempts.next().expect("a long poll is noted");
            let work = async { burn(Duration::from_millis(100)) };
            watched(Some(polls.clone()), "a task", work).await;
        }
        assert!(polls.recorded()[0].starts_with("a task: "), "{polls:?}");
    }

    #[test]
    fn the_stolen_time_is_read_where_there_is_one() {
        let line = "cpu  9417256 1158416 1135555 1421077 37323 0 37096 432494 1 0\ncpu0 1 2 3 4\n";
        assert_eq!(stolen_in(line), Some(Duration::from_millis(4_324_940)));
        for other in ["", "cpu  1 2 3\n", "cpu0 1 2 3 4 5 6 7 8 9 10\n"] {
            assert_eq!(stolen_in(other), None, "{other}");
        }
        assert!(stolen() >= stolen_lately());
    }

    /// A poll that is slow because the machine is slow is not recorded.
    #[test]
    fn a_poll_is_held_against_the_pace_of_the_machine() {
        let longest = Duration::from_millis(50);
        for (pace, most) in [(PACE / 2, 50), (PACE, 50), (PACE * 3, 150)] {
            assert_eq!(allowed(longest, pace).as_millis(), most);
        }
    }
}
