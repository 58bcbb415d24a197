//! Figures about requests and the process, in Prometheus' text form.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::server::ApiServer;

/// Upper bounds of the duration histogram, in seconds.
const BUCKETS: [f64; 8] = [0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];

/// Most different (verb, resource, code) that are told apart; clients choose the resource's name.
const SERIES_MAX: usize = 2000;

/// Most different verbs that are timed: there are eight, and methods of other requests.
const VERBS_MAX: usize = 20;

/// Clock ticks per second of `/proc/self/stat`; 100 on every Linux this runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Size of a memory page, in bytes.
const PAGE_BYTES: u64 = 4096;

#[derive(Default)]
struct Durations {
    counts: [u64; BUCKETS.len()],
    total: u64,
    sum: f64,
}

#[derive(Default)]
struct Series {
    requests: BTreeMap<(String, String, u16), u64>,
    durations: BTreeMap<String, Durations>,
}

/// Counters of the server.
pub(crate) struct Metrics {
    series: Mutex<Series>,
    pub(crate) watches: AtomicUsize,
    started: Instant,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            series: Mutex::default(),
            watches: AtomicUsize::new(0),
            started: Instant::now(),
        }
    }
}

impl Metrics {
    /// Counts a request that has been answered.
    pub(crate) fn finished(&self, verb: &str, resource: &str, code: u16, took: Duration) {
        let mut series = self
            .series
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let series = &mut *series;
        let full = series.requests.len() >= SERIES_MAX;
        let key = (verb.to_owned(), resource.to_owned(), code);
        if let Some(count) = series.requests.get_mut(&key) {
            *count += 1;
        } else if !full {
            series.requests.insert(key, 1);
        }
        if verb == "watch" {
            return;
        }
        if series.durations.len() >= VERBS_MAX && !series.durations.contains_key(verb) {
            return;
        }
        let durations = series.durations.entry(verb.to_owned()).or_default();
        let seconds = took.as_secs_f64();
        durations.total += 1;
        durations.sum += seconds;
        for (count, bound) in durations.counts.iter_mut().zip(BUCKETS) {
            if seconds <= bound {
                *count += 1;
            }
        }
    }

    fn requests(&self, out: &mut String) -> std::fmt::Result {
        let series = self
            .series
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        head(
            out,
            "apiserver_request_total",
            "counter",
            "Requests by verb, resource and code.",
        )?;
        for ((verb, resource, code), count) in &series.requests {
            let (verb, resource) = (escaped(verb), escaped(resource));
            writeln!(
                out,
                "apiserver_request_total{{verb=\"{verb}\",resource=\"{resource}\",\
                 code=\"{code}\"}} {count}"
            )?;
        }
        let name = "apiserver_request_duration_seconds";
        head(out, name, "histogram", "Time to answer a request, by verb.")?;
        for (verb, durations) in &series.durations {
            let verb = escaped(verb);
            for (count, bound) in durations.counts.iter().zip(BUCKETS) {
                writeln!(
                    out,
                    "{name}_bucket{{verb=\"{verb}\",le=\"{bound}\"}} {count}"
                )?;
            }
            let total = durations.total;
            writeln!(out, "{name}_bucket{{verb=\"{verb}\",le=\"+Inf\"}} {total}")?;
            writeln!(out, "{name}_sum{{verb=\"{verb}\"}} {}", durations.sum)?;
            writeln!(out, "{name}_count{{verb=\"{verb}\"}} {total}")?;
        }
        Ok(())
    }
}

/// The answer to `/metrics`.
pub(crate) fn document(server: &ApiServer) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    if write_all(server, &mut out).is_err() {
        tracing::error!("write metrics");
    }
    out
}

fn write_all(server: &ApiServer, out: &mut String) -> std::fmt::Result {
    server.metrics.requests(out)?;
    let in_flight = server.limits.requests_in_flight_max - server.requests.available_permits();
    gauge(
        out,
        "apiserver_current_inflight_requests",
        "Requests being answered.",
        in_flight,
    )?;
    let watches = server.metrics.watches.load(Ordering::Relaxed);
    gauge(
        out,
        "apiserver_longrunning_requests",
        "Watches that are open.",
        watches,
    )?;
    let revision = server.store.current_revision().0;
    gauge(
        out,
        "mainstay_store_revision",
        "Revision of the newest write.",
        revision,
    )?;
    process(server, out)
}

fn process(server: &ApiServer, out: &mut String) -> std::fmt::Result {
    if let Ok(stat) = std::fs::read_to_string("/proc/self/stat") {
        // Fields are counted from behind the command, which may hold anything.
        let fields: Vec<&str> = stat
            .rsplit_once(") ")
            .map_or("", |(_, rest)| rest)
            .split(' ')
            .collect();
        let number = |at: usize| {
            fields
                .get(at)
                .and_then(|f| f.parse::<u64>().ok())
                .unwrap_or(0)
        };
        let ticks = number(11) + number(12);
        let seconds = ticks as f64 / TICKS_PER_SECOND;
        head(
            out,
            "process_cpu_seconds_total",
            "counter",
            "CPU time used.",
        )?;
        writeln!(out, "process_cpu_seconds_total {seconds}")?;
        gauge(
            out,
            "process_virtual_memory_bytes",
            "Virtual memory.",
            number(20),
        )?;
        let resident = number(21) * PAGE_BYTES;
        gauge(
            out,
            "process_resident_memory_bytes",
            "Resident memory.",
            resident,
        )?;
        gauge(out, "process_threads", "Threads.", number(17))?;
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        gauge(
            out,
            "process_open_fds",
            "Open file descriptors.",
            files.count(),
        )?;
    }
    let age = server.metrics.started.elapsed();
    if let Ok(now) = SystemTime::now().duration_since(UNIX_EPOCH) {
        let start = now.saturating_sub(age).as_secs_f64();
        let help = "Start of the server since the epoch.";
        gauge(out, "process_start_time_seconds", help, start)?;
    }
    Ok(())
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) -> std::fmt::Result {
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}")
}

fn gauge(
    out: &mut String,
    name: &str,
    help: &str,
    value: impl std::fmt::Display,
) -> std::fmt::Result {
    head(out, name, "gauge", help)?;
    writeln!(out, "{name} {value}")
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}
