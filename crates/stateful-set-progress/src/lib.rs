//! The progress of StatefulSets for the user of `mainstay up`: `view` computes the state of each ordinal, `frame` formats
//! the states, and a thin loop prints them at the bottom of a terminal, or as a line for each change elsewhere.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod frame;
mod http_url;
mod view;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster_inspection::pod_row::PodRows;
use command_output::output::{keep_at_foot, print_line};
use command_output::terminal::{self, Size};
use controller_framework::{Cache, WatchConfig};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube_api_client::{Api, Client};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use frame::{changes, frame};
pub use view::WatchedSet;
use view::{SetProgress, view};

/// Changes within this time are printed together.
const SETTLE: Duration = Duration::from_millis(20);

/// Prints the progress of these sets, or of all existing sets. Once every ordinal is ready, prints the
/// `hints` with their HTTP URLs; after that a terminal shows further changes until `stop`, and elsewhere the
/// output ends.
pub async fn show(
    client: Client,
    sets: Option<&[WatchedSet]>,
    rows: &PodRows<'_>,
    stop: &CancellationToken,
    hints: impl Fn(&[String]) -> String,
) {
    let watching = stop.child_token();
    let all_sets: Api<StatefulSet> = Api::all(client.clone());
    let all_pods: Api<Pod> = Api::all(client);
    let sets_cache = Cache::spawn(all_sets, WatchConfig::default(), watching.clone());
    let pods_cache = Cache::spawn(all_pods, WatchConfig::default(), watching.clone());
    let mut set_changes = sets_cache.subscribe();
    let mut pod_changes = pods_cache.subscribe();
    let synced = async { sets_cache.wait_synced().await && pods_cache.wait_synced().await };
    tokio::select! {
        synced = synced => if !synced { return },
        () = stop.cancelled() => return,
    }
    let mut resized = signal(SignalKind::window_change()).ok();
    let mut screen = Screen::new();
    let mut hinted = false;
    loop {
        let now = Timestamp::now();
        let watched = sets.map_or_else(|| all(&sets_cache), <[WatchedSet]>::to_vec);
        let views: Vec<SetProgress> = watched
            .iter()
            .map(|set| {
                let object = sets_cache.get(&set.namespace, &set.name);
                let pods = pods_cache.list_in(&set.namespace);
                view(set, object.as_deref(), &pods, rows, now)
            })
            .collect();
        screen.draw(&views);
        if !hinted && !views.is_empty() && views.iter().all(SetProgress::is_ready) {
            hinted = true;
            let urls = views.iter().filter_map(|view| {
                let pods = pods_cache.list_in(&view.set.namespace);
                first_url(view, &pods)
            });
            print_line(&hints(&urls.collect::<Vec<_>>()));
            if terminal::size().is_none() {
                break;
            }
        }
        tokio::select! {
            change = set_changes.next() => if change.is_none() { break },
            change = pod_changes.next() => if change.is_none() { break },
            () = resize(resized.as_mut()) => {}
            () = stop.cancelled() => break,
        }
        tokio::time::sleep(SETTLE).await;
    }
    watching.cancel();
}

/// All sets, by name.
fn all(cache: &Cache<StatefulSet>) -> Vec<WatchedSet> {
    let sets = cache.list();
    let mut all: Vec<WatchedSet> = sets.iter().map(|set| WatchedSet::of(set)).collect();
    all.sort_unstable();
    all
}

/// The HTTP URL of a set's first pod; `None` if the pod serves no HTTP.
fn first_url(view: &SetProgress, pods: &[Arc<Pod>]) -> Option<String> {
    let first = view.rows.first()?;
    let mut pods = pods.iter();
    let pod = pods.find(|pod| pod.metadata.name.as_deref() == Some(&first.pod))?;
    http_url::http_url(pod)
}

/// Waits until the size of the terminal changes.
async fn resize(signal: Option<&mut Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// The output of the progress.
struct Screen {
    started: Instant,
    drawn: Option<(Size, Vec<String>)>,
    printed: BTreeMap<String, String>,
}

impl Screen {
    fn new() -> Self {
        Self {
            started: Instant::now(),
            drawn: None,
            printed: BTreeMap::new(),
        }
    }

    fn draw(&mut self, views: &[SetProgress]) {
        let Some(size) = terminal::size() else {
            let elapsed = self.started.elapsed().as_secs_f32();
            for line in changes(&mut self.printed, views) {
                print_line(&format!("{elapsed:6.2}s {line}"));
            }
            return;
        };
        let drawn = Some((size, frame(views, size)));
        if self.drawn != drawn {
            self.drawn = drawn;
            if let Some((size, lines)) = &self.drawn {
                keep_at_foot(*size, lines.clone());
            }
        }
    }
}
