//! The durations of calls of etcd, under the name that they have in Kubernetes' API server.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reconcile::prometheus::{Histogram, Metric, Page};

const DURATION: Metric = Metric::histogram(
    "etcd_request_duration_seconds",
    "Duration of calls of etcd in seconds, by operation.",
);

/// The bounds of Kubernetes' API server, without those above the limit of a call.
const BOUNDS: &[f64] = &[
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0,
];

/// The durations so far.
#[derive(Default)]
pub struct EtcdCalls(Mutex<BTreeMap<String, Histogram>>);

impl EtcdCalls {
    /// Counts a call.
    pub fn observe(&self, operation: &str, duration: Duration) {
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !calls.contains_key(operation) {
            calls.insert(operation.to_owned(), Histogram::new(BOUNDS));
        }
        if let Some(histogram) = calls.get_mut(operation) {
            histogram.observe(duration.as_secs_f64());
        }
    }

    /// Adds the metrics to a page.
    pub fn write(&self, page: &mut Page) {
        let calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (operation, histogram) in calls.iter() {
            page.add_histogram(DURATION, &[("operation", operation)], histogram);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_operation() {
        let calls = EtcdCalls::default();
        for millis in [1, 30] {
            calls.observe("Txn", Duration::from_millis(millis));
        }
        calls.observe("Range", Duration::from_millis(1));
        let mut page = Page::default();
        calls.write(&mut page);
        let text = page.text();
        for line in [
            "etcd_request_duration_seconds_bucket{operation=\"Txn\",le=\"0.005\"} 1",
            "etcd_request_duration_seconds_count{operation=\"Txn\"} 2",
            "etcd_request_duration_seconds_count{operation=\"Range\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{text}");
        }
    }
}
