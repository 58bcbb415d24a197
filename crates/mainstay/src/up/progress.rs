//! The progress of each ordinal: what is shown is a pure function of the sets and pods; a thin
//! loop redraws it on a terminal, or prints a line per change elsewhere.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use reconcile::{Cache, WatchConfig};
use resource_kinds::Kind;
use tokio_util::sync::CancellationToken;

/// Changes that come together are shown together.
const SETTLE: Duration = Duration::from_millis(20);

/// A set that is being brought up.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Watched {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// One ordinal as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    pod: String,
    state: String,
    address: String,
    ready: bool,
}

/// What is known of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
struct View {
    set: Watched,
    rows: Vec<Row>,
}

impl View {
    fn is_ready(&self) -> bool {
        self.rows.iter().all(|row| row.ready)
    }
}

/// How a pod's state is worded: the STATUS column of `kubectl get pods`.
pub struct PodStates<'a> {
    kind: &'a dyn Kind,
    ready: usize,
    status: usize,
}

impl<'a> PodStates<'a> {
    /// Takes the wording from the Pod kind's own table.
    pub fn new(kind: &'a dyn Kind) -> Option<Self> {
        let column = |name: &str| {
            kind.columns()
                .iter()
                .position(|column| column.name.eq_ignore_ascii_case(name))
        };
        Some(Self {
            kind,
            ready: column("Ready")?,
            status: column("Status")?,
        })
    }

    fn of(&self, pod: &Pod) -> String {
        let Ok(object) = serde_json::to_value(pod) else {
            return "unknown".to_owned();
        };
        let cells = self.kind.row(&object, Timestamp::UNIX_EPOCH);
        let cell = |index: usize| {
            cells
                .get(index)
                .and_then(|cell| cell.as_str())
                .unwrap_or("")
        };
        format!("{} {}", cell(self.ready), cell(self.status))
    }
}

fn view(set: &Watched, object: Option<&StatefulSet>, pods: &[Pod], states: &PodStates<'_>) -> View {
    let spec = object.and_then(|set| set.spec.as_ref());
    let replicas = spec.map_or(0, |spec| spec.replicas.unwrap_or(1));
    let start = spec
        .and_then(|spec| spec.ordinals.as_ref())
        .and_then(|o| o.start)
        .unwrap_or(0);
    let rows = (start..start.saturating_add(replicas))
        .map(|ordinal| {
            let name = format!("{}-{ordinal}", set.name);
            let pod = pods
                .iter()
                .find(|pod| pod.metadata.name.as_deref() == Some(&name));
            match pod {
                None => Row {
                    pod: name,
                    state: "waiting for its turn".to_owned(),
                    address: String::new(),
                    ready: false,
                },
                Some(pod) => Row {
                    pod: name,
                    state: states.of(pod),
                    address: address(pod),
                    ready: is_ready(pod),
                },
            }
        })
        .collect();
    View {
        set: set.clone(),
        rows,
    }
}

fn address(pod: &Pod) -> String {
    pod.status
        .as_ref()
        .and_then(|status| status.pod_ip.clone())
        .unwrap_or_default()
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    let ready = conditions
        .into_iter()
        .flatten()
        .any(|c| c.type_ == "Ready" && c.status == "True");
    ready && pod.metadata.deletion_timestamp.is_none()
}

/// The lines of the block that a terminal shows.
fn block(views: &[View]) -> Vec<String> {
    let mut lines = Vec::new();
    for view in views {
        let ready = view.rows.iter().filter(|row| row.ready).count();
        lines.push(format!(
            "statefulset {}: {ready}/{} ready",
            view.set.name,
            view.rows.len()
        ));
        for row in &view.rows {
            let mark = if row.ready { "✓" } else { "·" };
            lines.push(format!(
                "  {mark} {:16} {:28} {}",
                row.pod, row.state, row.address
            ));
        }
    }
    lines
}

/// The lines for a log: one for each ordinal whose state has changed.
fn changes(shown: &mut BTreeMap<String, String>, views: &[View]) -> Vec<String> {
    let mut lines = Vec::new();
    for row in views.iter().flat_map(|view| &view.rows) {
        let text = format!("{}: {} {}", row.pod, row.state, row.address)
            .trim_end()
            .to_owned();
        if shown.get(&row.pod) != Some(&text) {
            shown.insert(row.pod.clone(), text.clone());
            lines.push(text);
        }
    }
    lines
}

/// Shows the sets' progress until every ordinal is ready. Returns whether they all are: `false`
/// when stopped before.
pub async fn show(
    client: Client,
    sets: &[Watched],
    states: &PodStates<'_>,
    stop: &CancellationToken,
) -> bool {
    let watching = stop.child_token();
    let all_sets: Api<StatefulSet> = Api::all(client.clone());
    let all_pods: Api<Pod> = Api::all(client);
    let sets_cache = Cache::spawn(all_sets, WatchConfig::default(), watching.clone());
    let pods_cache = Cache::spawn(all_pods, WatchConfig::default(), watching.clone());
    let mut set_changes = sets_cache.subscribe();
    let mut pod_changes = pods_cache.subscribe();
    let synced = async { sets_cache.wait_synced().await && pods_cache.wait_synced().await };
    tokio::select! {
        synced = synced => if !synced { return false },
        () = stop.cancelled() => return false,
    }
    let mut screen = Screen::new();
    let finished = loop {
        let views: Vec<View> = sets
            .iter()
            .map(|set| {
                let object = sets_cache.get(&set.namespace, &set.name);
                let pods: Vec<Pod> = pods_cache
                    .list_in(&set.namespace)
                    .iter()
                    .map(|p| Pod::clone(p))
                    .collect();
                view(set, object.as_deref(), &pods, states)
            })
            .collect();
        screen.draw(&views);
        if views.iter().all(View::is_ready) {
            break true;
        }
        tokio::select! {
            change = set_changes.next() => if change.is_none() { break false },
            change = pod_changes.next() => if change.is_none() { break false },
            () = stop.cancelled() => break false,
        }
        tokio::time::sleep(SETTLE).await;
    };
    watching.cancel();
    finished
}

/// The address of each set's first pod that has one, for the hints.
pub async fn first_addresses(client: Client, sets: &[Watched]) -> Vec<String> {
    let mut addresses = Vec::new();
    for set in sets {
        let pods: Api<Pod> = Api::namespaced(client.clone(), &set.namespace);
        // A hint that cannot be given is left out.
        let Ok(list) = pods.list(&Default::default()).await else {
            continue;
        };
        let prefix = format!("{}-", set.name);
        let of_set = |pod: &&Pod| {
            pod.metadata
                .name
                .as_deref()
                .is_some_and(|name| name.starts_with(&prefix))
        };
        let found = list.items.iter().filter(of_set).map(address);
        addresses.extend(found.filter(|address| !address.is_empty()).take(1));
    }
    addresses
}

/// Where the progress is shown.
struct Screen {
    terminal: bool,
    started: Instant,
    drawn: usize,
    shown: BTreeMap<String, String>,
}

impl Screen {
    fn new() -> Self {
        let terminal = std::io::stdout().is_terminal();
        Self {
            terminal,
            started: Instant::now(),
            drawn: 0,
            shown: BTreeMap::new(),
        }
    }

    fn draw(&mut self, views: &[View]) {
        let mut text = String::new();
        if self.terminal {
            if self.drawn > 0 {
                text.push_str(&format!("\x1b[{}A", self.drawn));
            }
            let lines = block(views);
            for line in &lines {
                text.push_str(&format!("\x1b[2K{line}\n"));
            }
            self.drawn = lines.len();
        } else {
            let elapsed = self.started.elapsed().as_secs_f32();
            for line in changes(&mut self.shown, views) {
                text.push_str(&format!("{elapsed:6.2}s {line}\n"));
            }
        }
        let mut output = std::io::stdout().lock();
        // Nobody may be reading any more; what is being shown goes on without them.
        drop(
            output
                .write_all(text.as_bytes())
                .and_then(|()| output.flush()),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(pod: &str, state: &str, ready: bool) -> Row {
        Row {
            pod: pod.into(),
            state: state.into(),
            address: String::new(),
            ready,
        }
    }

    fn views(rows: Vec<Row>) -> Vec<View> {
        vec![View {
            set: Watched {
                namespace: "default".into(),
                name: "web".into(),
            },
            rows,
        }]
    }

    #[test]
    fn the_block_counts_what_is_ready() {
        let rows = vec![
            row("web-0", "1/1 Running", true),
            row("web-1", "0/1 Pending", false),
        ];
        let lines = block(&views(rows));
        assert_eq!(lines[0], "statefulset web: 1/2 ready");
        assert!(lines[1].starts_with("  ✓ web-0"), "{lines:?}");
        assert!(lines[2].starts_with("  · web-1"), "{lines:?}");
    }

    #[test]
    fn a_log_line_appears_once_per_change() {
        let mut shown = BTreeMap::new();
        let pending = views(vec![row("web-0", "0/1 Pending", false)]);
        assert_eq!(changes(&mut shown, &pending), ["web-0: 0/1 Pending"]);
        assert_eq!(changes(&mut shown, &pending), Vec::<String>::new());
        let running = views(vec![row("web-0", "1/1 Running", true)]);
        assert_eq!(changes(&mut shown, &running), ["web-0: 1/1 Running"]);
    }

    #[test]
    fn a_set_of_none_is_ready() {
        assert!(views(Vec::new())[0].is_ready());
    }
}
