//! Metrics of work queues.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use process_telemetry::Component;
use process_telemetry::health::Kind;
use process_telemetry::prometheus::{Histogram, Metric, Page};
use tokio::time::Instant;

use crate::queue::{Queue, Work};

/// Histogram bounds of queue times, in seconds; as client-go.
const SECONDS: [f64; 12] = [
    1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3,
];

/// The counters of a queue name. A new queue of the same name continues them.
#[derive(Debug)]
pub(crate) struct Counts {
    pub adds: u64,
    pub retries: u64,
    pub waited: Histogram,
    pub worked: Histogram,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            adds: 0,
            retries: 0,
            waited: Histogram::new(&SECONDS),
            worked: Histogram::new(&SECONDS),
        }
    }
}

/// The load of a queue at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Load {
    /// Keys that wait to be worked on.
    pub depth: usize,
    /// The sum of the running times of the work in progress.
    pub unfinished: Duration,
    /// The longest running time of the work in progress.
    pub longest: Duration,
}

/// A source of a queue's load.
pub(crate) trait Loaded: Send + Sync {
    fn load(&self, now: Instant) -> Load;
}

/// The metrics of named queues; clones share them.
#[derive(Clone, Default)]
pub struct QueueMetrics {
    queues: Arc<Mutex<BTreeMap<&'static str, Named>>>,
}

struct Named {
    counts: Arc<Mutex<Counts>>,
    queue: Weak<dyn Loaded>,
}

impl std::fmt::Debug for QueueMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueueMetrics").finish_non_exhaustive()
    }
}

impl QueueMetrics {
    fn queues(&self) -> MutexGuard<'_, BTreeMap<&'static str, Named>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new, empty queue with the given name. Its counters continue those of an earlier queue with the name.
    pub fn queue<T: Work>(&self, name: &'static str, component: &Component) -> Queue<T> {
        let mut queues = self.queues();
        let counts = queues.get(name).map(|entry| entry.counts.clone());
        let counts = counts.unwrap_or_default();
        let streak = component.follow(Kind::Work, name);
        let queue = Queue::counted(counts.clone(), Some(streak));
        let loaded = Arc::downgrade(&queue.loaded());
        let named = Named {
            counts,
            queue: loaded,
        };
        queues.insert(name, named);
        queue
    }

    /// Writes the metrics under client-go's names.
    pub fn write(&self, page: &mut Page) {
        for metric in [DEPTH, ADDS, WAITED, WORKED, UNFINISHED, LONGEST, RETRIES] {
            page.describe(metric);
        }
        let now = Instant::now();
        for (name, queue) in &*self.queues() {
            let load = queue.queue.upgrade();
            let load = load.map_or_else(Load::default, |queue| queue.load(now));
            let counts = queue.counts.lock().unwrap_or_else(PoisonError::into_inner);
            let labels = [("name", *name)];
            page.add(DEPTH, &labels, load.depth);
            page.add(ADDS, &labels, counts.adds);
            page.add_histogram(WAITED, &labels, &counts.waited);
            page.add_histogram(WORKED, &labels, &counts.worked);
            page.add(UNFINISHED, &labels, load.unfinished.as_secs_f64());
            page.add(LONGEST, &labels, load.longest.as_secs_f64());
            page.add(RETRIES, &labels, counts.retries);
        }
    }
}

const DEPTH: Metric = Metric::gauge("workqueue_depth", "Keys that wait.");
const ADDS: Metric = Metric::counter("workqueue_adds_total", "Keys that were added.");
const WAITED: Metric = Metric::histogram(
    "workqueue_queue_duration_seconds",
    "Time that keys waited before they were worked on.",
);
const WORKED: Metric = Metric::histogram(
    "workqueue_work_duration_seconds",
    "Time that the work on keys took.",
);
const UNFINISHED: Metric = Metric::gauge(
    "workqueue_unfinished_work_seconds",
    "Time that the work on keys has taken which is not done, all together.",
);
const LONGEST: Metric = Metric::gauge(
    "workqueue_longest_running_processor_seconds",
    "Time that the longest of it has taken.",
);
const RETRIES: Metric =
    Metric::counter("workqueue_retries_total", "Keys that were added for later.");

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_queue_tells_what_waits_and_what_takes_long() {
        let metrics = QueueMetrics::default();
        let component = Component::from(tokio_util::sync::CancellationToken::new());
        let queue = metrics.queue("job", &component);
        let has = |expected: &str| {
            let mut page = Page::default();
            metrics.write(&mut page);
            let text = page.text();
            assert!(
                text.lines().any(|line| line == expected),
                "{expected}: {text}"
            );
        };
        queue.add("a");
        queue.add("a");
        queue.add("b");
        has("workqueue_depth{name=\"job\"} 2");
        has("workqueue_adds_total{name=\"job\"} 2");
        tokio::time::advance(Duration::from_millis(250)).await;
        let first = queue.next().await;
        tokio::time::advance(Duration::from_secs(2)).await;
        let second = queue.next().await;
        tokio::time::advance(Duration::from_secs(1)).await;
        has("workqueue_depth{name=\"job\"} 0");
        has("workqueue_unfinished_work_seconds{name=\"job\"} 4");
        has("workqueue_longest_running_processor_seconds{name=\"job\"} 3");
        has("workqueue_queue_duration_seconds_bucket{name=\"job\",le=\"1\"} 1");
        has("workqueue_queue_duration_seconds_sum{name=\"job\"} 2.5");
        // A key that is added again while in progress waits.
        queue.add("a");
        has("workqueue_depth{name=\"job\"} 1");
        drop((first, second));
        has("workqueue_work_duration_seconds_count{name=\"job\"} 2");
        has("workqueue_work_duration_seconds_bucket{name=\"job\",le=\"1\"} 1");
        has("workqueue_unfinished_work_seconds{name=\"job\"} 0");
        queue.add_rate_limited("c");
        queue.add_after("d", Duration::from_secs(1));
        has("workqueue_retries_total{name=\"job\"} 2");
        // A delayed key does not wait for a worker.
        has("workqueue_depth{name=\"job\"} 1");

        // Another queue of the same name continues the counters.
        drop(queue);
        has("workqueue_depth{name=\"job\"} 0");
        metrics.queue("job", &component).add("e");
        has("workqueue_adds_total{name=\"job\"} 4");
    }
}
