//! Counts the writes of a world's clients, and the work of its controllers. Without a world nothing is counted.

use std::cell::RefCell;
use std::collections::BTreeMap;

use controllers::Metrics;
use process_telemetry::prometheus::Page;
use tokio::time::Instant;

/// The number of writes of each kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Accepted writes, by resource and sub-resource: `pods`, `pods/status`.
    pub accepted: BTreeMap<String, u64>,
    /// Writes that were refused with 409, by resource and sub-resource.
    pub conflicts: BTreeMap<String, u64>,
    /// The simulated times of the last accepted writes, by resource and sub-resource.
    pub last: BTreeMap<String, Instant>,
    /// The number of keys that controllers processed, by the name of the queue: for `statefulset` the number of plans.
    pub worked: BTreeMap<String, u64>,
}

impl Tally {
    /// The number of accepted writes of these resources.
    pub fn accepted_of(&self, resources: &[&str]) -> u64 {
        let counts = resources.iter().filter_map(|name| self.accepted.get(*name));
        counts.sum()
    }
}

thread_local! {
    static TALLY: RefCell<Option<Tally>> = const { RefCell::new(None) };
    /// The number of keys that the controllers had processed before the count started.
    static WORKED_BEFORE: RefCell<BTreeMap<String, u64>> = const { RefCell::new(BTreeMap::new()) };
    static METRICS: Metrics = Metrics::default();
}

/// The metrics of the controllers on this thread.
pub fn metrics() -> Metrics {
    METRICS.with(Metrics::clone)
}

/// Starts the count on this thread, from zero.
pub fn begin() {
    WORKED_BEFORE.set(worked());
    TALLY.set(Some(Tally::default()));
}

/// Ends the count.
pub fn end() -> Tally {
    let before = WORKED_BEFORE.take();
    let mut worked = worked();
    for (queue, number) in &mut worked {
        *number -= before.get(queue).copied().unwrap_or_default();
    }
    Tally {
        worked,
        ..TALLY.take().unwrap_or_default()
    }
}

/// The numbers of keys that controllers on this thread have processed.
fn worked() -> BTreeMap<String, u64> {
    let mut page = Page::default();
    metrics().write(&mut page);
    let text = page.text();
    let lines = text.lines().filter_map(|line| {
        let line = line.strip_prefix("workqueue_work_duration_seconds_count{name=\"")?;
        let (queue, number) = line.split_once("\"} ")?;
        Some((queue.to_owned(), number.parse().ok()?))
    });
    lines.collect()
}

/// Counts a write by its response.
pub fn count(path: &str, code: u16) {
    TALLY.with_borrow_mut(|tally| {
        let Some(tally) = tally else { return };
        let resource = resource(path);
        let counts = match code {
            200..300 => {
                tally.last.insert(resource.clone(), Instant::now());
                &mut tally.accepted
            }
            409 => &mut tally.conflicts,
            _ => return,
        };
        *counts.entry(resource).or_default() += 1;
    });
}

/// The resource of a path, with its sub-resource.
fn resource(path: &str) -> String {
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let version = if parts.first() == Some(&"api") { 2 } else { 3 };
    parts.drain(..version.min(parts.len()));
    // Namespaces are a resource, and a prefix of the paths of other resources.
    if parts.first() == Some(&"namespaces") && parts.len() > 2 {
        parts.drain(..2);
    }
    match parts.as_slice() {
        [resource, _, subresource, ..] => {
            format!("{resource}/{subresource}")
        }
        [resource, ..] => (*resource).to_owned(),
        [] => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_counted_by_resource() {
        let of = |path| resource(path);
        assert_eq!(of("/api/v1/namespaces/default/pods/web-0"), "pods");
        assert_eq!(
            of("/api/v1/namespaces/default/pods/web-0/status?x=y"),
            "pods/status"
        );
        assert_eq!(
            of("/apis/apps/v1/namespaces/default/statefulsets/web/status"),
            "statefulsets/status"
        );
        assert_eq!(of("/api/v1/namespaces/default"), "namespaces");
        assert_eq!(of("/api/v1/nodes/n1/status"), "nodes/status");
    }
}
