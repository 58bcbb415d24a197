//! Metrics of etcd: its calls and its size, with the names and labels of kube-apiserver.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use etcd_store::Call;
use mvcc_store::{Compare, Operation, Txn};
use process_telemetry::prometheus::{Histogram, Metric, Page};
use resource_kinds::Kind;

const DURATION: Metric = Metric::histogram(
    "etcd_request_duration_seconds",
    "Duration of calls of etcd in seconds, by operation and kind of objects.",
);
const CALLS: Metric = Metric::counter(
    "etcd_requests_total",
    "Calls of etcd, by operation and kind of objects.",
);
const FAILED: Metric = Metric::counter(
    "etcd_request_errors_total",
    "Calls of etcd that failed, by operation and kind of objects.",
);
const SIZE: Metric = Metric::gauge(
    "apiserver_storage_size_bytes",
    "Size of the database file of the member of etcd in use.",
);

/// The buckets of kube-apiserver, up to the timeout of a call.
const BOUNDS: &[f64] = &[
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0,
];

/// The labels of a call.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Subject {
    operation: String,
    /// The kind in the key; empty for calls without an object.
    kind: String,
}

impl Subject {
    /// A transaction counts for the object of its first change.
    fn of(call: &Call<'_>) -> Self {
        let changed = call.txn.and_then(|txn| {
            let mut operations = txn.operations.iter();
            operations.find_map(|operation| {
                let (Operation::Put { key, .. } | Operation::Delete { key }) = operation;
                Some((txn, operation, kind_of(key)?))
            })
        });
        let (operation, kind) = match changed {
            Some((txn, Operation::Put { key, .. }, kind)) if is_new(txn, key) => ("create", kind),
            Some((_, Operation::Put { .. }, kind)) => ("update", kind),
            Some((_, Operation::Delete { .. }, kind)) => ("delete", kind),
            None => (call.method, ""),
        };
        Self {
            operation: operation.to_owned(),
            kind: kind.to_owned(),
        }
    }
}

fn is_new(txn: &Txn, key: &[u8]) -> bool {
    let mut compares = txn.compare.iter();
    compares.any(|compare| matches!(compare, Compare::Absent(absent) if absent == key))
}

/// The kind in the key of an object: `/registry/KIND/…`; the group is before the kind of a custom resource.
fn kind_of(key: &[u8]) -> Option<&str> {
    let rest = std::str::from_utf8(key).ok()?.strip_prefix("/registry/")?;
    let (first, after) = rest.split_once('/')?;
    match first.contains('.') {
        true => {
            let (plural, _) = after.split_once('/')?;
            rest.get(..first.len() + 1 + plural.len())
        }
        false => Some(first),
    }
}

struct Counts {
    durations: Histogram,
    failed: u64,
}

/// Durations and failures of the calls to etcd since the start.
#[derive(Default)]
pub struct EtcdCalls(Mutex<BTreeMap<Subject, Counts>>);

impl EtcdCalls {
    /// Counts one call with its duration and its result.
    pub fn observe(&self, call: &Call<'_>) {
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = calls.entry(Subject::of(call)).or_insert_with(|| Counts {
            durations: Histogram::new(BOUNDS),
            failed: 0,
        });
        counts.durations.observe(call.duration.as_secs_f64());
        counts.failed += u64::from(call.failed);
    }

    fn write(&self, groups: &Groups, page: &mut Page) {
        let calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        page.describe(FAILED);
        for (subject, counts) in calls.iter() {
            let (group, resource) = groups.of(&subject.kind);
            let labels = [
                ("operation", subject.operation.as_str()),
                ("group", group),
                ("resource", resource),
            ];
            page.add_histogram(DURATION, &labels, &counts.durations);
            page.add(CALLS, &labels, counts.durations.count());
            if counts.failed > 0 {
                page.add(FAILED, &labels, counts.failed);
            }
        }
    }
}

/// The groups of the built-in kinds, whose keys contain no group.
struct Groups(BTreeMap<String, String>);

impl Groups {
    fn of_kinds(kinds: &[Arc<dyn Kind>]) -> Self {
        let named = kinds.iter().map(|kind| {
            let info = kind.info();
            (info.storage.to_owned(), info.group.to_owned())
        });
        Self(named.collect())
    }

    /// Group and resource for a kind in a key.
    fn of<'a>(&'a self, kind: &'a str) -> (&'a str, &'a str) {
        let built_in = || (self.0.get(kind).map_or("", String::as_str), kind);
        kind.split_once('/').unwrap_or_else(built_in)
    }
}

/// Writes the metrics of the calls, and the size of etcd if it is known, to a page.
pub fn writer<S>(
    calls: Arc<EtcdCalls>,
    size: S,
    kinds: &[Arc<dyn Kind>],
) -> impl Fn(&mut Page) + Send + Sync + use<S>
where
    S: Fn() -> Option<u64> + Send + Sync,
{
    let groups = Groups::of_kinds(kinds);
    move |page| {
        calls.write(&groups, page);
        if let Some(size) = size() {
            // The label numbers the etcd clusters of a server; there is one cluster.
            page.add(SIZE, &[("storage_cluster_id", "etcd-0")], size);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mvcc_store::Value;

    use super::*;

    fn txn(compare: Vec<Compare>, operation: Operation) -> Txn {
        let guard = Operation::Put {
            key: b"/quota-guards/default".to_vec(),
            value: Value::Plain(Default::default()),
            lease: None,
        };
        Txn {
            compare,
            operations: vec![guard, operation],
        }
    }

    fn put(key: &str) -> Operation {
        Operation::Put {
            key: key.into(),
            value: Value::Plain(Default::default()),
            lease: None,
        }
    }

    #[test]
    fn calls_are_counted_by_operation_and_kind() {
        let calls = Arc::new(EtcdCalls::default());
        let observe = |txn: Option<&Txn>, millis, failed| {
            let (method, duration) = match txn {
                Some(_) => ("Txn", Duration::from_millis(millis)),
                None => ("Range", Duration::from_millis(millis)),
            };
            calls.observe(&Call {
                method,
                txn,
                duration,
                failed,
            });
        };
        let set = "/registry/statefulsets/default/a";
        let create = txn(vec![Compare::Absent(set.into())], put(set));
        observe(Some(&create), 1, false);
        observe(Some(&create), 30, true);
        observe(Some(&txn(Vec::new(), put(set))), 1, false);
        let key = b"/registry/example.com/widgets/default/a".to_vec();
        let delete = txn(Vec::new(), Operation::Delete { key });
        observe(Some(&delete), 1, false);
        observe(None, 1, false);
        let kinds = resource_kinds::all(&resource_kinds::ClusterConfig::default());
        let mut page = Page::default();
        writer(calls, || Some(4096), &kinds)(&mut page);
        let text = page.text();
        let create = "{operation=\"create\",group=\"apps\",resource=\"statefulsets\"";
        for line in [
            format!("etcd_request_duration_seconds_bucket{create},le=\"0.005\"}} 1"),
            format!("etcd_request_duration_seconds_count{create}}} 2"),
            format!("etcd_requests_total{create}}} 2"),
            format!("etcd_request_errors_total{create}}} 1"),
            "etcd_requests_total{operation=\"update\",group=\"apps\",resource=\"statefulsets\"} 1"
                .to_owned(),
            "etcd_requests_total{operation=\"delete\",group=\"example.com\",resource=\"widgets\"} 1"
                .to_owned(),
            "etcd_requests_total{operation=\"Range\",group=\"\",resource=\"\"} 1".to_owned(),
            "apiserver_storage_size_bytes{storage_cluster_id=\"etcd-0\"} 4096".to_owned(),
        ] {
            assert!(text.lines().any(|written_line| written_line == line), "{line}: {text}");
        }
    }
}
