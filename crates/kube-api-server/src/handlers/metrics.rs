//! Metrics of requests and of the process, for `/metrics`.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::FutureExt;
use process_telemetry::prometheus::{Histogram, Metric, Page};
use process_telemetry::refusals;

use crate::catalog::snapshot::Snapshot;
use crate::catalog::virtual_resources;
use crate::http::request_info::RequestInfo;
use crate::objects::storage::Objects;

/// Upper bounds of the duration histogram, in seconds (upstream's values).
const BUCKETS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0,
    10.0, 15.0, 20.0, 30.0, 45.0, 60.0,
];

/// Maximum number of distinct pairs of label and code.
const SERIES_MAX: usize = 2000;

/// Maximum number of distinct labels with a duration histogram.
const TIMED_MAX: usize = 500;

/// Clock ticks per second in `/proc/self/stat`: 100 on every supported Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// Size of a memory page, in bytes.
const PAGE_BYTES: u64 = 4096;

/// The labels of a request. Their values come from a bounded set and never from arbitrary input of clients, because
/// refused requests are counted too.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
        let existing = served.registry.find(group, version, plural);
        let is_served =
            existing.is_some() || virtual_resources::find(group, version, plural).is_some();
        let subresource = match (&existing, info.subresource.as_str()) {
            (_, "") | (None, _) => "",
            (Some(resource), sub) if resource.subresource(sub).is_some() => sub,
            (Some(_), _) => "other",
        };
        let part = |text: &String| {
            if is_served {
                text.clone()
            } else {
                String::new()
            }
        };
        Self {
            verb: verb(&info.verb, subresource),
            group: part(group),
            version: part(version),
            resource: part(plural),
            subresource: subresource.to_owned(),
            scope: match () {
                () if !is_served => "",
                () if info.named || info.verb == "create" => "resource",
                () if info.namespace.is_empty() => "cluster",
                () => "namespace",
            },
        }
    }

    /// The metric labels.
    fn labels(&self) -> [(&'static str, &str); 7] {
        [
            ("component", "apiserver"),
            ("group", &self.group),
            ("resource", &self.resource),
            ("scope", self.scope),
            ("subresource", &self.subresource),
            ("verb", self.verb),
            ("version", &self.version),
        ]
    }

    fn is_long(&self) -> bool {
        matches!(self.verb, "WATCH" | "CONNECT")
    }
}

/// The value of the label `verb`, which existing dashboards use.
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

/// The counters of the requests with one label.
#[derive(Default)]
struct Requests {
    /// The number of requests by status code.
    codes: BTreeMap<u16, u64>,
    /// `None` for requests whose duration is not measured.
    durations: Option<Histogram>,
}

#[derive(Default)]
struct Series {
    requests: HashMap<Label, Requests>,
    /// The number of distinct pairs of label and code.
    codes: usize,
    /// The number of labels with a duration histogram.
    timed: usize,
}

/// A function that writes the metrics of another component.
type Source = Box<dyn Fn(&mut Page) + Send + Sync>;

/// The counters and histograms of `/metrics`.
pub(crate) struct Metrics {
    series: Mutex<Series>,
    /// Other components of the program that write metrics.
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

/// A running request; counted until this value is dropped.
pub(crate) struct InFlight(Arc<AtomicUsize>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Metrics {
    /// Counts a request as running; long-running requests are counted separately.
    pub(crate) fn begun(&self, label: &Label) -> Option<InFlight> {
        if label.is_long() {
            return None;
        }
        let reads = matches!(label.verb, "GET" | "LIST" | "other");
        let count = if reads { &self.reading } else { &self.writing };
        count.fetch_add(1, Ordering::Relaxed);
        Some(InFlight(count.clone()))
    }

    /// Counts a request whose response is complete.
    pub(crate) fn finished(&self, label: &Label, code: u16, took: Duration) {
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let series = &mut *series;
        let (may_count, may_time) = (series.codes < SERIES_MAX, series.timed < TIMED_MAX);
        let requests = match series.requests.get_mut(label) {
            Some(requests) => requests,
            None if may_count => series.requests.entry(label.clone()).or_default(),
            None => return,
        };
        if let Some(count) = requests.codes.get_mut(&code) {
            *count += 1;
        } else if may_count {
            requests.codes.insert(code, 1);
            series.codes += 1;
        }
        if label.is_long() {
            return;
        }
        if requests.durations.is_none() && may_time {
            requests.durations = Some(Histogram::new(&BUCKETS));
            series.timed += 1;
        }
        if let Some(durations) = &mut requests.durations {
            durations.observe(took.as_secs_f64());
        }
    }

    /// Adds the metrics of another component to `/metrics`.
    pub(crate) fn add(&self, source: impl Fn(&mut Page) + Send + Sync + 'static) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.push(Box::new(source));
    }

    fn write_requests(&self, page: &mut Page) {
        let series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let sorted: BTreeMap<_, _> = series.requests.iter().collect();
        page.describe(REQUESTS);
        for (label, requests) in &sorted {
            for (code, count) in &requests.codes {
                let code = code.to_string();
                let labels = [&[("code", &*code)], &label.labels()[..]].concat();
                page.add(REQUESTS, &labels, count);
            }
        }
        page.describe(DURATIONS);
        for (label, requests) in &sorted {
            if let Some(durations) = &requests.durations {
                page.add_histogram(DURATIONS, &label.labels(), durations);
            }
        }
    }
}

const REQUESTS: Metric = Metric::counter(
    "apiserver_request_total",
    "Requests by what they were about.",
);
const DURATIONS: Metric = Metric::histogram(
    "apiserver_request_duration_seconds",
    "Time to answer a request.",
);
const IN_FLIGHT: Metric = Metric::gauge(
    "apiserver_current_inflight_requests",
    "Requests being answered.",
);
const WATCHES: Metric = Metric::gauge("apiserver_longrunning_requests", "Watches that are open.");
const OBJECTS: Metric = Metric::gauge("apiserver_storage_objects", "Stored objects by kind.");
const REVISION: Metric = Metric::gauge("mainstay_store_revision", "Revision of the newest write.");
const BYTES: Metric = Metric::gauge(
    "mainstay_store_bytes",
    "Bytes of stored objects, all of which are in memory.",
);
const QUOTA: Metric = Metric::gauge("mainstay_store_quota_bytes", "Bytes that may be stored.");
const LARGEST: Metric = Metric::gauge(
    "mainstay_store_largest_namespace_bytes",
    "Bytes of the namespace that holds the most.",
);
const FULL: Metric = Metric::gauge(
    "mainstay_store_full",
    "Whether the store takes nothing new, for want of room on the disk or in its quota.",
);
const CPU: Metric = Metric::counter("process_cpu_seconds_total", "CPU time used.");
const VIRTUAL_MEMORY: Metric = Metric::gauge("process_virtual_memory_bytes", "Virtual memory.");
const RESIDENT_MEMORY: Metric = Metric::gauge("process_resident_memory_bytes", "Resident memory.");
const THREADS: Metric = Metric::gauge("process_threads", "Threads.");
const OPEN_FILES: Metric = Metric::gauge("process_open_fds", "Open file descriptors.");
const START: Metric = Metric::gauge(
    "process_start_time_seconds",
    "Start of the server since the epoch.",
);

/// The response to `/metrics`.
pub(crate) fn page(metrics: &Metrics, objects: &Objects) -> Page {
    let mut page = Page::default();
    metrics.write_requests(&mut page);
    for (kind, count) in [
        ("mutating", &metrics.writing),
        ("readOnly", &metrics.reading),
    ] {
        let count = count.load(Ordering::Relaxed);
        page.add(IN_FLIGHT, &[("request_kind", kind)], count);
    }
    let watches = metrics.watches.load(Ordering::Relaxed);
    let labels = [("component", "apiserver"), ("verb", "WATCH")];
    page.add(WATCHES, &labels, watches);
    page.describe(OBJECTS);
    for (resource, count) in count_objects(objects) {
        page.add(OBJECTS, &[("resource", &resource)], count);
    }
    page.add(REVISION, &[], objects.store.current_revision().0);
    let occupancy = objects.store.occupancy();
    page.add(BYTES, &[], occupancy.live_bytes);
    page.add(QUOTA, &[], occupancy.live_bytes_max);
    if let Some((namespace, bytes)) = objects.store.largest_owner() {
        let namespace = String::from_utf8_lossy(&namespace);
        page.add(LARGEST, &[("namespace", &namespace)], bytes);
    }
    page.add(FULL, &[], u8::from(occupancy.full.is_some()));
    objects.webhook_metrics.write(&mut page);
    objects.policy_metrics.write(&mut page);
    write_process(metrics.started, &mut page);
    refusals::write(&mut page);
    let sources = metrics.sources.lock();
    for source in &*sources.unwrap_or_else(PoisonError::into_inner) {
        source(&mut page);
    }
    page
}

/// The number of objects of each kind. A kind is skipped if the store does not know the number at once.
fn count_objects(objects: &Objects) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for resource in objects.catalog.snapshot().registry.resources() {
        let info = resource.info();
        let name = match info.group {
            "" => info.plural.to_owned(),
            group => format!("{}.{group}", info.plural),
        };
        if let Some(Ok(count)) = objects.count(resource).now_or_never() {
            counts.insert(name, count);
        }
    }
    counts
}

fn write_process(started: Instant, page: &mut Page) {
    if let Ok(stat) = std::fs::read_to_string("/proc/self/stat") {
        // The fields are counted after the command name, which may contain any character.
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
        page.add(CPU, &[], ticks as f64 / TICKS_PER_SECOND);
        page.add(VIRTUAL_MEMORY, &[], number(20));
        page.add(RESIDENT_MEMORY, &[], number(21) * PAGE_BYTES);
        page.add(THREADS, &[], number(17));
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        page.add(OPEN_FILES, &[], files.count());
    }
    let age = started.elapsed();
    if let Ok(now) = SystemTime::now().duration_since(UNIX_EPOCH) {
        page.add(START, &[], now.saturating_sub(age).as_secs_f64());
    }
}
