//! Metrics of flows at `/metrics`, with the names of Kubernetes.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use super::flows::{Counts, Flow};
use super::{FlowControl, lock};

type Figure = fn(&Counts) -> u64;

const FIGURES: [(&str, &str, &str, Figure); 3] = [
    (
        "apiserver_flowcontrol_dispatched_requests_total",
        "counter",
        "Requests that were dispatched.",
        |counts| counts.dispatched.load(Ordering::Relaxed),
    ),
    (
        "apiserver_flowcontrol_current_inqueue_requests",
        "gauge",
        "Requests that wait in a queue.",
        |counts| counts.waiting.load(Ordering::Relaxed) as u64,
    ),
    (
        "apiserver_flowcontrol_current_executing_requests",
        "gauge",
        "Requests that run; a watch counts until it has started.",
        |counts| counts.executing.load(Ordering::Relaxed) as u64,
    ),
];

const REASONS: [(&str, Figure); 4] = [
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
    /// The metrics, in the text form of Prometheus.
    pub(crate) fn figures(&self) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        if self.write(&mut out).is_err() {
            tracing::error!("write the metrics of flows");
        }
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let flows = self.current();
        let labels = |flow: &Flow| {
            format!(
                "flow_schema=\"{}\",priority_level=\"{}\"",
                flow.schema.name, flow.level
            )
        };
        for (name, kind, help, figure) in FIGURES {
            writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}")?;
            for flow in flows.all() {
                writeln!(out, "{name}{{{}}} {}", labels(flow), figure(&flow.counts))?;
            }
        }
        let name = "apiserver_flowcontrol_rejected_requests_total";
        let help = "Requests that were rejected, by reason.";
        writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter")?;
        for flow in flows.all() {
            let labels = labels(flow);
            for (reason, figure) in REASONS {
                let count = figure(&flow.counts);
                if count > 0 {
                    writeln!(out, "{name}{{{labels},reason=\"{reason}\"}} {count}")?;
                }
            }
        }
        let name = "apiserver_flowcontrol_work_estimated_seats";
        let help = "Requests by the seats that they take.";
        writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram")?;
        for flow in flows.all() {
            write_widths(out, name, &labels(flow), &flow.counts)?;
        }
        let name = "apiserver_flowcontrol_nominal_limit_seats";
        let help = "Nominal seats of each priority level.";
        writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge")?;
        for (level, seats) in lock(&self.seats).own() {
            writeln!(out, "{name}{{priority_level=\"{level}\"}} {seats}")?;
        }
        Ok(())
    }
}

/// Requests by width, with upstream's buckets.
fn write_widths(out: &mut String, name: &str, labels: &str, counts: &Counts) -> std::fmt::Result {
    let (mut count, mut sum) = (0, 0);
    for (width, requests) in (1_u64..).zip(&counts.widths) {
        let requests = requests.load(Ordering::Relaxed);
        count += requests;
        sum += requests * width;
        if matches!(width, 1 | 2 | 4 | 10) {
            writeln!(out, "{name}_bucket{{{labels},le=\"{width}\"}} {count}")?;
        }
    }
    writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}")?;
    writeln!(out, "{name}_sum{{{labels}}} {sum}")?;
    writeln!(out, "{name}_count{{{labels}}} {count}")
}
