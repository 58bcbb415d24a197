//! Metrics in the text format of Prometheus: histograms, and the metrics of work queues.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

use crate::Part;
use crate::health::Kind;
use crate::queue::{Queue, Work};

/// Bounds of the times of queues, in seconds; client-go's.
const SECONDS: [f64; 12] = [
    1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3,
];

/// The HELP and TYPE lines of a metric.
pub fn heading(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a string does not fail.
    let _written = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
}

/// The line of one metric; labels as in `a="b",c="d"`.
pub fn line(out: &mut String, name: &str, labels: &str, value: impl std::fmt::Display) {
    let _written = if labels.is_empty() {
        writeln!(out, "{name} {value}")
    } else {
        writeln!(out, "{name}{{{labels}}} {value}")
    };
}

/// The number of values up to each of some bounds.
#[derive(Clone, Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// Of values up to the bound and above the one before; at last those above all.
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    /// An empty histogram. Bounds are in ascending order.
    pub fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: vec![0; bounds.len() + 1],
            sum: 0.0,
        }
    }

    /// Counts a value.
    pub fn observe(&mut self, value: f64) {
        let place = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get_mut(place) {
            *count += 1;
        }
        self.sum += value;
    }

    /// Its lines.
    pub fn write(&self, out: &mut String, name: &str, labels: &str) {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut total = 0;
        for (count, bound) in self.counts.iter().zip(self.bounds) {
            total += count;
            // Small bounds are written as 1e-8.
            let _written = writeln!(
                out,
                "{name}_bucket{{{labels}{comma}le=\"{}\"}} {total}",
                Bound(*bound)
            );
        }
        total += self.counts.last().copied().unwrap_or_default();
        let _written = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {total}");
        line(out, &format!("{name}_sum"), labels, self.sum);
        line(out, &format!("{name}_count"), labels, total);
    }
}

/// A bound as Go writes it.
struct Bound(f64);

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0 >= 1e-4 {
            return write!(f, "{}", self.0);
        }
        let text = format!("{:e}", self.0);
        match text.split_once("e-") {
            Some((digits, power)) => write!(f, "{digits}e-{power:0>2}"),
            None => f.write_str(&text),
        }
    }
}

/// The counters of a queue; they outlive the queue.
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

/// The load of a queue at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Load {
    /// Keys that wait to be worked on.
    pub depth: usize,
    /// The sum of the running times of the work in progress.
    pub unfinished: Duration,
    /// The longest of these times.
    pub longest: Duration,
}

/// A source of a queue's load.
pub(crate) trait Loaded: Send + Sync {
    fn load(&self, now: Instant) -> Load;
}

/// The metrics of named queues; clones are one.
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

    /// An empty queue of that name; its counters continue from an earlier queue of the name.
    pub fn queue<T: Work>(&self, name: &'static str, part: &Part) -> Queue<T> {
        let mut queues = self.queues();
        let counts = queues.get(name).map(|known| known.counts.clone());
        let counts = counts.unwrap_or_default();
        let streak = part.follow(Kind::Work, name);
        let queue = Queue::counted(counts.clone(), Some(streak));
        let loaded = Arc::downgrade(&queue.loaded());
        let named = Named {
            counts,
            queue: loaded,
        };
        queues.insert(name, named);
        queue
    }

    /// The metrics, with client-go's names.
    pub fn text(&self) -> String {
        let now = Instant::now();
        let mut metrics = Metrics::default();
        for (name, queue) in &*self.queues() {
            let load = queue.queue.upgrade();
            let load = load.map_or_else(Load::default, |queue| queue.load(now));
            let counts = queue.counts.lock().unwrap_or_else(PoisonError::into_inner);
            metrics.add(name, load, &counts);
        }
        metrics.text()
    }
}

/// The lines of all queues, by metric.
#[derive(Default)]
struct Metrics {
    depth: String,
    adds: String,
    waited: String,
    worked: String,
    unfinished: String,
    longest: String,
    retries: String,
}

const DEPTH: &str = "workqueue_depth";
const ADDS: &str = "workqueue_adds_total";
const WAITED: &str = "workqueue_queue_duration_seconds";
const WORKED: &str = "workqueue_work_duration_seconds";
const UNFINISHED: &str = "workqueue_unfinished_work_seconds";
const LONGEST: &str = "workqueue_longest_running_processor_seconds";
const RETRIES: &str = "workqueue_retries_total";

impl Metrics {
    fn add(&mut self, name: &str, load: Load, counts: &Counts) {
        let labels = format!("name=\"{name}\"");
        line(&mut self.depth, DEPTH, &labels, load.depth);
        line(&mut self.adds, ADDS, &labels, counts.adds);
        counts.waited.write(&mut self.waited, WAITED, &labels);
        counts.worked.write(&mut self.worked, WORKED, &labels);
        let (all, longest) = (load.unfinished.as_secs_f64(), load.longest.as_secs_f64());
        line(&mut self.unfinished, UNFINISHED, &labels, all);
        line(&mut self.longest, LONGEST, &labels, longest);
        line(&mut self.retries, RETRIES, &labels, counts.retries);
    }

    fn text(self) -> String {
        let parts = [
            (DEPTH, "gauge", "Keys that wait.", self.depth),
            (ADDS, "counter", "Keys that were added.", self.adds),
            (
                WAITED,
                "histogram",
                "Time that keys waited before they were worked on.",
                self.waited,
            ),
            (
                WORKED,
                "histogram",
                "Time that the work on keys took.",
                self.worked,
            ),
            (
                UNFINISHED,
                "gauge",
                "Time that the work on keys has taken which is not done, all together.",
                self.unfinished,
            ),
            (
                LONGEST,
                "gauge",
                "Time that the longest of it has taken.",
                self.longest,
            ),
            (
                RETRIES,
                "counter",
                "Keys that were added for later.",
                self.retries,
            ),
        ];
        let mut out = String::new();
        for (name, kind, help, lines) in parts {
            heading(&mut out, name, kind, help);
            out.push_str(&lines);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_up_to_each_bound() {
        let mut histogram = Histogram::new(&[1e-5, 0.5, 2.0]);
        for value in [0.5, 0.75, 3.0, 0.0] {
            histogram.observe(value);
        }
        let mut out = String::new();
        histogram.write(&mut out, "x", "a=\"b\"");
        assert_eq!(
            out,
            "x_bucket{a=\"b\",le=\"1e-05\"} 1\nx_bucket{a=\"b\",le=\"0.5\"} 2\n\
             x_bucket{a=\"b\",le=\"2\"} 3\nx_bucket{a=\"b\",le=\"+Inf\"} 4\n\
             x_sum{a=\"b\"} 4.25\nx_count{a=\"b\"} 4\n"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_tells_what_waits_and_what_takes_long() {
        let metrics = QueueMetrics::default();
        let part = Part::from(tokio_util::sync::CancellationToken::new());
        let queue = metrics.queue("job", &part);
        let has = |wanted: &str| {
            let text = metrics.text();
            assert!(text.lines().any(|line| line == wanted), "{wanted}: {text}");
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
        // Added again while in progress: it waits.
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

        // Another queue of the name continues the counters.
        drop(queue);
        has("workqueue_depth{name=\"job\"} 0");
        metrics.queue("job", &part).add("e");
        has("workqueue_adds_total{name=\"job\"} 4");
    }
}
