//! Metrics of flows at `/metrics`, with the names of Kubernetes.

use std::sync::atomic::Ordering;

use process_telemetry::prometheus::{Histogram, Metric, Page};

use super::flows::Counts;
use super::{FlowControl, lock};

type Count = fn(&Counts) -> u64;

const COUNTS: [(Metric, Count); 3] = [
    (
        Metric::counter(
            "apiserver_flowcontrol_dispatched_requests_total",
            "Requests that were dispatched.",
        ),
        |counts| counts.dispatched.load(Ordering::Relaxed),
    ),
    (
        Metric::gauge(
            "apiserver_flowcontrol_current_inqueue_requests",
            "Requests that wait in a queue.",
        ),
        |counts| counts.waiting.load(Ordering::Relaxed) as u64,
    ),
    (
        Metric::gauge(
            "apiserver_flowcontrol_current_executing_requests",
            "Requests that run; a watch counts until it has started.",
        ),
        |counts| counts.executing.load(Ordering::Relaxed) as u64,
    ),
];

const REJECTED: Metric = Metric::counter(
    "apiserver_flowcontrol_rejected_requests_total",
    "Requests that were rejected, by reason.",
);
const WIDTHS: Metric = Metric::histogram(
    "apiserver_flowcontrol_work_estimated_seats",
    "Requests by the seats that they take.",
);
/// The bounds of [`WIDTHS`] (upstream's values).
const WIDTH_BOUNDS: [f64; 4] = [1.0, 2.0, 4.0, 10.0];
const SEATS: Metric = Metric::gauge(
    "apiserver_flowcontrol_nominal_limit_seats",
    "Nominal seats of each priority level.",
);

const REASONS: [(&str, Count); 4] = [
    ("queue-full", |counts| {
        counts.queue_full.load(Ordering::Relaxed)
    }),
    ("concurrency-limit", |counts| {
        counts.no_seat.load(Ordering::Relaxed)
    }),
    ("time-out", |counts| {
        counts.timed_out.load(Ordering::Relaxed)
    }),
    ("cancelled", |counts| {
        counts.cancelled.load(Ordering::Relaxed)
    }),
];

impl FlowControl {
    pub(crate) fn write_metrics(&self, page: &mut Page) {
        for (metric, _) in COUNTS {
            page.describe(metric);
        }
        page.describe(REJECTED);
        page.describe(WIDTHS);
        for flow in self.current().all() {
            let labels = [
                ("flow_schema", &*flow.schema.name),
                ("priority_level", &flow.level),
            ];
            for (metric, count) in COUNTS {
                page.add(metric, &labels, count(&flow.counts));
            }
            page.add_histogram(WIDTHS, &labels, &widths(&flow.counts));
            let [schema, level] = labels;
            for (reason, count) in REASONS {
                let count = count(&flow.counts);
                if count > 0 {
                    page.add(REJECTED, &[schema, level, ("reason", reason)], count);
                }
            }
        }
        page.describe(SEATS);
        for (level, seats) in lock(&self.seats).nominal() {
            page.add(SEATS, &[("priority_level", level)], seats);
        }
    }
}

/// Requests by width.
fn widths(counts: &Counts) -> Histogram {
    let mut widths = Histogram::new(&WIDTH_BOUNDS);
    for (width, requests) in (1_u32..).zip(&counts.widths) {
        widths.observe_times(f64::from(width), requests.load(Ordering::Relaxed));
    }
    widths
}
