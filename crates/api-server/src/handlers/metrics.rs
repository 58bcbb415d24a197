//! Metrics of requests and of the process, in Prometheus' text format.

use std::collections::BTreeMap;
use std::fmt::{Display, Formatter, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::FutureExt;
use mvcc_store::Range;

use crate::catalog::registry::end_of;
use crate::catalog::snapshot::Snapshot;
use crate::catalog::virtual_resources;
use crate::http::request_info::RequestInfo;
use crate::objects::storage::Objects;

/// Upper bounds of the duration histogram, in seconds (upstream's).
const BUCKETS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0,
    10.0, 15.0, 20.0, 30.0, 45.0, 60.0,
];

/// Most different (label, code) that are told apart.
const SERIES_MAX: usize = 2000;

/// Most different labels that are timed.
const TIMED_MAX: usize = 500;

/// Clock ticks per second of `/proc/self/stat`; 100 on every Linux this runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Size of a memory page, in bytes.
const PAGE_BYTES: u64 = 4096;

/// The labels of a request: words of a bounded set, not arbitrary input of clients, since refused
/// requests are counted too.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Label {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
}

impl Label {
    /// The label of a request.
    pub(crate) fn of(served: &Snapshot, info: &RequestInfo) -> Self {
        let (group, version, plural) = (&info.group, &info.version, &info.resource);
        let found = served.registry.find(group, version, plural);
        let known = found.is_some() || virtual_resources::find(group, version, plural).is_some();
        let subresource = match (&found, info.subresource.as_str()) {
            (_, "") | (None, _) => "",
            (Some(resource), sub) if resource.subresource(sub).is_some() => sub,
            (Some(_), _) => "other",
        };
        let part = |text: &String| if known { text.clone() } else { String::new() };
        Self {
            verb: verb(&info.verb, subresource),
            group: part(group),
            version: part(version),
            resource: part(plural),
            subresource: subresource.to_owned(),
            scope: match () {
                () if !known => "",
                () if info.named || info.verb == "create" => "resource",
                () if info.namespace.is_empty() => "cluster",
                () => "namespace",
            },
        }
    }

    /// Whether the request is long-running.
    fn is_long(&self) -> bool {
        matches!(self.verb, "WATCH" | "CONNECT")
    }
}

/// The word of dashboards for a verb.
fn verb(verb: &str, subresource: &str) -> &'static str {
    if matches!(
        subresource,
        "exec" | "attach" | "portforward" | "proxy" | "log"
    ) {
        return "CONNECT";
    }
    match verb {
        "get" | "head" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" | "post" => "POST",
        "update" | "put" => "PUT",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        _ => "other",
    }
}

impl Display for Label {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Self {
            verb,
            group,
            version,
            resource,
            subresource,
            scope,
        } = self;
        write!(
            f,
            "component=\"apiserver\",group=\"{group}\",resource=\"{resource}\",\
             scope=\"{scope}\",subresource=\"{subresource}\",verb=\"{verb}\",\
             version=\"{version}\""
        )
    }
}

#[derive(Default)]
struct Durations {
    counts: [u64; BUCKETS.len()],
    total: u64,
    sum: f64,
}

#[derive(Default)]
struct Series {
    requests: BTreeMap<(Label, u16), u64>,
    durations: BTreeMap<Label, Durations>,
}

/// Says something in figures, in the text form of Prometheus.
type Source = Box<dyn Fn() -> String + Send + Sync>;

/// Counters of the server.
pub(crate) struct Metrics {
    series: Mutex<Series>,
    /// Other parts of the program that have something to say.
    sources: Mutex<Vec<Source>>,
    pub(crate) watches: AtomicUsize,
    reading: Arc<AtomicUsize>,
    writing: Arc<AtomicUsize>,
    started: Instant,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            series: Mutex::default(),
            sources: Mutex::default(),
            watches: AtomicUsize::new(0),
            reading: Arc::default(),
            writing: Arc::default(),
            started: Instant::now(),
        }
    }
}

/// A request under way, counted until this is dropped.
pub(crate) struct InFlight(Arc<AtomicUsize>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Metrics {
    /// Counts a request as in progress; long-running ones are counted separately.
    pub(crate) fn begun(&self, label: &Label) -> Option<InFlight> {
        if label.is_long() {
            return None;
        }
        let reads = matches!(label.verb, "GET" | "LIST" | "other");
        let count = if reads { &self.reading } else { &self.writing };
        count.fetch_add(1, Ordering::Relaxed);
        Some(InFlight(count.clone()))
    }

    /// Counts a request that has been answered.
    pub(crate) fn finished(&self, label: &Label, code: u16, took: Duration) {
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let series = &mut *series;
        let full = series.requests.len() >= SERIES_MAX;
        let key = (label.clone(), code);
        if let Some(count) = series.requests.get_mut(&key) {
            *count += 1;
        } else if !full {
            series.requests.insert(key, 1);
        }
        if label.is_long() {
            return;
        }
        if series.durations.len() >= TIMED_MAX && !series.durations.contains_key(label) {
            return;
        }
        let durations = series.durations.entry(label.clone()).or_default();
        let seconds = took.as_secs_f64();
        durations.total += 1;
        durations.sum += seconds;
        for (count, bound) in durations.counts.iter_mut().zip(BUCKETS) {
            if seconds <= bound {
                *count += 1;
            }
        }
    }

    /// Shows metrics of another part of the program after the server's own: lines in Prometheus' text
    /// form.
    pub(crate) fn add(&self, source: impl Fn() -> String + Send + Sync + 'static) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.push(Box::new(source));
    }

    fn requests(&self, out: &mut String) -> std::fmt::Result {
        let series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let name = "apiserver_request_total";
        head(out, name, "counter", "Requests by what they were about.")?;
        for ((label, code), count) in &series.requests {
            writeln!(out, "{name}{{code=\"{code}\",{label}}} {count}")?;
        }
        let name = "apiserver_request_duration_seconds";
        head(out, name, "histogram", "Time to answer a request.")?;
        for (label, durations) in &series.durations {
            for (count, bound) in durations.counts.iter().zip(BUCKETS) {
                writeln!(out, "{name}_bucket{{{label},le=\"{bound}\"}} {count}")?;
            }
            let total = durations.total;
            writeln!(out, "{name}_bucket{{{label},le=\"+Inf\"}} {total}")?;
            writeln!(out, "{name}_sum{{{label}}} {}", durations.sum)?;
            writeln!(out, "{name}_count{{{label}}} {total}")?;
        }
        Ok(())
    }
}

/// The answer to `/metrics`.
pub(crate) fn document(metrics: &Metrics, objects: &Objects) -> String {
    let mut out = String::new();
    let counts = count_objects(objects);
    // Writing to a string does not fail.
    if write_all(metrics, objects, &counts, &mut out).is_err() {
        tracing::error!("write metrics");
    }
    out
}

/// The number of objects of each kind; left out if the store does not answer from memory.
fn count_objects(objects: &Objects) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for resource in objects.catalog.snapshot().registry.resources() {
        let info = resource.info();
        let name = match info.group {
            "" => info.plural.to_owned(),
            group => format!("{}.{group}", info.plural),
        };
        let start = resource.prefix("");
        let range = Range {
            end: Some(end_of(&start)),
            start,
            limit: Some(1),
            ..Range::default()
        };
        if let Some(Ok(found)) = objects.store.range(range).now_or_never() {
            counts.insert(name, found.count);
        }
    }
    counts
}

fn write_all(
    metrics: &Metrics,
    objects: &Objects,
    counts: &BTreeMap<String, usize>,
    out: &mut String,
) -> std::fmt::Result {
    metrics.requests(out)?;
    let name = "apiserver_current_inflight_requests";
    head(out, name, "gauge", "Requests being answered.")?;
    for (kind, count) in [
        ("mutating", &metrics.writing),
        ("readOnly", &metrics.reading),
    ] {
        let count = count.load(Ordering::Relaxed);
        writeln!(out, "{name}{{request_kind=\"{kind}\"}} {count}")?;
    }
    let name = "apiserver_longrunning_requests";
    head(out, name, "gauge", "Watches that are open.")?;
    let watches = metrics.watches.load(Ordering::Relaxed);
    writeln!(
        out,
        "{name}{{component=\"apiserver\",verb=\"WATCH\"}} {watches}"
    )?;
    let name = "apiserver_storage_objects";
    head(out, name, "gauge", "Stored objects by kind.")?;
    for (resource, count) in counts {
        writeln!(out, "{name}{{resource=\"{resource}\"}} {count}")?;
    }
    let revision = objects.store.current_revision().0;
    gauge(
        out,
        "mainstay_store_revision",
        "Revision of the newest write.",
        revision,
    )?;
    let occupancy = objects.store.occupancy();
    let help = "Bytes of stored objects, all of which are in memory.";
    gauge(out, "mainstay_store_bytes", help, occupancy.live_bytes)?;
    let (help, quota) = ("Bytes that may be stored.", occupancy.live_bytes_max);
    gauge(out, "mainstay_store_quota_bytes", help, quota)?;
    let help = "Whether the store takes nothing new, for want of room on the disk or in its quota.";
    gauge(
        out,
        "mainstay_store_full",
        help,
        u8::from(occupancy.full.is_some()),
    )?;
    process(metrics.started, out)?;
    let sources = metrics
        .sources
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    sources
        .iter()
        .try_for_each(|source| out.write_str(&source()))
}

fn process(started: Instant, out: &mut String) -> std::fmt::Result {
    if let Ok(stat) = std::fs::read_to_string("/proc/self/stat") {
        // Fields are counted from the end of the command, which may contain anything.
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
    let age = started.elapsed();
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

fn gauge(out: &mut String, name: &str, help: &str, value: impl Display) -> std::fmt::Result {
    head(out, name, "gauge", help)?;
    writeln!(out, "{name} {value}")
}
