//! The figures, for users and for programs.

use std::fmt::Write;
use std::time::Duration;

use json_tree::{Value, json};

use crate::heartbeats::IdleNodes;
use crate::load::Load;
use crate::objects::BenchSubject;
use crate::plan::LoadStep;
use crate::sets::SetsStep;
use crate::statistics::{Summary, per_second};
use crate::watchers::FanOut;

/// The results of all measurements.
#[derive(Debug)]
pub struct Report {
    objects: u32,
    subject: BenchSubject,
    pub rows: Vec<Row>,
    pub fan_outs: Vec<FanOut>,
    pub sets: Vec<SetsStep>,
    pub idle_nodes: Option<IdleNodes>,
    pub pod_memory: Option<PodMemory>,
}

/// One kind of request, and the number of clients.
#[derive(Debug)]
pub struct Row {
    operation: &'static str,
    clients: u32,
    latency: Summary,
    per_second: f64,
    bytes_per_second: f64,
    /// The server's processor time per request.
    processor: Option<Duration>,
    failures: u64,
    first_failure: Option<String>,
}

/// The cost of a stored pod.
#[derive(Debug)]
pub struct PodMemory {
    /// The size of the pod in a response.
    pub json_bytes: u64,
    /// The growth of the server's memory per pod.
    pub bytes_per_pod: u64,
    pub resident_before: u64,
    pub resident_after: u64,
}

impl Row {
    /// `processor` is the server's processor time for all requests of the load.
    pub fn of(step: LoadStep, load: Load, processor: Option<Duration>) -> Self {
        let latency = Summary::of(load.latencies);
        let requests = u32::try_from(latency.count).unwrap_or(u32::MAX).max(1);
        Self {
            processor: processor.map(|all| all / requests),
            operation: step.operation.name(),
            clients: step.clients,
            latency,
            per_second: per_second(latency.count as f64, load.elapsed),
            bytes_per_second: per_second(load.bytes as f64, load.elapsed),
            failures: load.failures,
            first_failure: load.first_failure,
        }
    }

    fn json(&self) -> Value {
        json!({
            "operation": self.operation,
            "clients": self.clients,
            "requests": self.latency.count,
            "perSecond": self.per_second,
            "medianMilliseconds": milliseconds(self.latency.median),
            "p99Milliseconds": milliseconds(self.latency.p99),
            "bytesPerSecond": self.bytes_per_second,
            "serverMicroseconds": self.processor.map(|each| each.as_micros() as u64),
            "failures": self.failures,
            "firstFailure": self.first_failure,
        })
    }
}

impl PodMemory {
    fn ratio(&self) -> f64 {
        self.bytes_per_pod as f64 / self.json_bytes.max(1) as f64
    }

    fn json(&self) -> Value {
        json!({
            "bytesPerPod": self.bytes_per_pod,
            "jsonBytes": self.json_bytes,
            "ratio": self.ratio(),
            "residentBefore": self.resident_before,
            "residentAfter": self.resident_after,
        })
    }
}

impl Report {
    pub fn of(objects: u32, subject: BenchSubject) -> Self {
        Self {
            objects,
            subject,
            rows: Vec::new(),
            fan_outs: Vec::new(),
            sets: Vec::new(),
            idle_nodes: None,
            pod_memory: None,
        }
    }

    /// The error of the first failed request.
    pub fn first_failure(&self) -> Option<String> {
        let of = |row: &Row| {
            let failure = row.first_failure.as_ref()?;
            Some(format!("{}: {failure}", row.operation))
        };
        self.rows.iter().find_map(of)
    }

    /// The report as JSON, for programs.
    pub fn json(&self) -> Value {
        let fan_out = |one: &FanOut| {
            json!({
                "watchers": one.watchers,
                "writes": one.last_watcher.count,
                "medianWatcher": both(one.median_watcher),
                "lastWatcher": both(one.last_watcher),
                "bytesPerWatcher": one.bytes_per_watcher,
                "serverMicrosecondsPerEvent": one.processor_per_event.map(microseconds),
            })
        };
        json!({
            "objects": self.objects,
            "kind": self.subject.kind(),
            "requests": self.rows.iter().map(Row::json).collect::<Vec<_>>(),
            "watch": self.fan_outs.iter().map(fan_out).collect::<Vec<_>>(),
            "sets": self.sets.iter().map(sets_json).collect::<Vec<_>>(),
            "idleNodes": self.idle_nodes.as_ref().map(idle_nodes_json),
            "memory": self.pod_memory.as_ref().map(PodMemory::json),
        })
    }

    /// The report as text, for users.
    pub fn text(&self) -> String {
        let mut lines = match (&self.idle_nodes, self.sets.is_empty()) {
            (Some(idle), _) => vec![idle_nodes_line(idle)],
            (None, true) => vec![format!("{} {}", self.objects, self.subject.plural())],
            (None, false) => sets_lines(&self.sets),
        };
        if !self.rows.is_empty() {
            lines.push(String::new());
            lines.push(format!(
                "{:<16}{:>8}{:>10}{:>12}{:>12}{:>12}{:>10}{:>12}{:>10}",
                "REQUESTS",
                "CLIENTS",
                "COUNT",
                "PER SECOND",
                "MEDIAN ms",
                "P99 ms",
                "MiB/s",
                "SERVER µs",
                "FAILED"
            ));
        }
        lines.extend(self.rows.iter().map(|row| {
            let each = row.processor;
            let each = each.map_or("-".to_owned(), |each| each.as_micros().to_string());
            format!(
                "{:<16}{:>8}{:>10}{:>12.0}{:>12.2}{:>12.2}{:>10.1}{each:>12}{:>10}",
                row.operation,
                row.clients,
                row.latency.count,
                row.per_second,
                milliseconds(row.latency.median),
                milliseconds(row.latency.p99),
                row.bytes_per_second / MEBIBYTE,
                row.failures
            )
        }));
        if !self.fan_outs.is_empty() {
            lines.push(String::new());
            lines.push("Time from a write to its events in the watches".to_owned());
            lines.push(format!(
                "{:<10}{:>18}{:>18}{:>18}{:>18}{:>18}",
                "WATCHERS",
                "MEDIAN OF ALL ms",
                "MEDIAN LAST ms",
                "P99 LAST ms",
                "KiB EACH",
                "SERVER µs EACH"
            ));
        }
        lines.extend(self.fan_outs.iter().map(|one| {
            let each = one.bytes_per_watcher;
            let each = each.map_or("-".to_owned(), |bytes| {
                format!("{:.1}", bytes as f64 / 1024.0)
            });
            let processor = one.processor_per_event;
            let processor =
                processor.map_or("-".to_owned(), |time| format!("{:.1}", microseconds(time)));
            format!(
                "{:<10}{:>18.2}{:>18.2}{:>18.2}{each:>18}{processor:>18}",
                one.watchers,
                milliseconds(one.median_watcher.median),
                milliseconds(one.last_watcher.median),
                milliseconds(one.last_watcher.p99),
            )
        }));
        if let Some(memory) = &self.pod_memory {
            lines.push(String::new());
            lines.push(format!(
                "A pod takes {} bytes of the server's memory, {:.1} times its JSON of {} bytes; \
                 resident: {:.1} MiB before, {:.1} MiB after",
                memory.bytes_per_pod,
                memory.ratio(),
                memory.json_bytes,
                mebibytes(memory.resident_before),
                mebibytes(memory.resident_after)
            ));
        }
        lines.into_iter().fold(String::new(), |mut text, line| {
            writeln!(text, "{line}").ok();
            text
        })
    }
}

fn sets_json(step: &SetsStep) -> Value {
    json!({
        "sets": step.sets.to_string(),
        "policy": step.policy.name(),
        "step": step.name,
        "seconds": step.elapsed.as_secs_f64(),
        "podsStarted": step.started,
        "processorSeconds": step.processor.map(|time| time.as_secs_f64()),
        "processorMillisecondsPerPod": step.processor_per_pod().map(milliseconds),
        "residentBytes": step.resident,
    })
}

fn sets_lines(steps: &[SetsStep]) -> Vec<String> {
    let mut lines = vec![format!(
        "{:<10}{:<14}{:<12}{:>10}{:>16}{:>22}{:>14}",
        "SETS", "POLICY", "STEP", "SECONDS", "SERVER CPU s", "CPU ms/POD STARTED", "RESIDENT MiB"
    )];
    let formatted = |number: Option<f64>| number.map_or("-".to_owned(), |n| format!("{n:.2}"));
    lines.extend(steps.iter().map(|step| {
        format!(
            "{:<10}{:<14}{:<12}{:>10.2}{:>16}{:>22}{:>14}",
            step.sets.to_string(),
            step.policy.name(),
            step.name,
            step.elapsed.as_secs_f64(),
            formatted(step.processor.map(|time| time.as_secs_f64())),
            formatted(step.processor_per_pod().map(milliseconds)),
            formatted(step.resident.map(mebibytes)),
        )
    }));
    lines
}

fn idle_nodes_json(idle: &IdleNodes) -> Value {
    json!({
        "nodes": idle.nodes,
        "seconds": idle.span.as_secs_f64(),
        "renewals": idle.renewals.count,
        "renewal": both(idle.renewals),
        "processorShare": idle.share(),
        "residentBefore": idle.resident.map(|[before, _]| before),
        "residentAfter": idle.resident.map(|[_, after]| after),
    })
}

fn idle_nodes_line(idle: &IdleNodes) -> String {
    let mut line = format!(
        "{} nodes for {:.0} s: {} renewals, median {:.2} ms, 99th percentile {:.2} ms",
        idle.nodes,
        idle.span.as_secs_f64(),
        idle.renewals.count,
        milliseconds(idle.renewals.median),
        milliseconds(idle.renewals.p99),
    );
    if let (Some(share), Some([before, after])) = (idle.share(), idle.resident) {
        let (percent, before, after) = (100.0 * share, mebibytes(before), mebibytes(after));
        let server = format!(
            "; the server used {percent:.1} % of one processor; resident {before:.1} MiB before the nodes, {after:.1} MiB with them"
        );
        line.push_str(&server);
    }
    line
}

const MEBIBYTE: f64 = 1024.0 * 1024.0;

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / MEBIBYTE
}

fn microseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn both(summary: Summary) -> Value {
    json!({
        "medianMilliseconds": milliseconds(summary.median),
        "p99Milliseconds": milliseconds(summary.p99),
    })
}
