//! Caches of the cluster's objects, and workers, at most one for each object.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use json_tree::Value;
use kube_api_client::{Api, ApiResource, DynamicObject, Event, WatchConfig};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::{Kubernetes, Trouble, text};

type Collection = BTreeMap<String, Value>;

#[derive(Default)]
struct Shared {
    /// The caches whose first list is complete.
    collections: Mutex<BTreeMap<&'static str, Collection>>,
    changed: Notify,
}

/// The cached objects of some kinds, by the paths of their collections.
#[derive(Clone)]
pub(crate) struct Objects {
    kinds: &'static [&'static str],
    shared: Arc<Shared>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn key_of(object: &Value) -> String {
    let metadata = &object["metadata"];
    format!(
        "{}/{}",
        text(&metadata["namespace"]),
        text(&metadata["name"])
    )
}

/// The resource of a collection's path. Only its plural is used.
fn kind_of(path: &str) -> ApiResource {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match parts[..] {
        ["apis", group, version, plural] => ApiResource::new(group, version, "", plural),
        [_, version, plural] => ApiResource::new("", version, "", plural),
        _ => ApiResource::new("", "v1", "", path),
    }
}

impl Objects {
    /// Starts to list and watch the collections.
    pub(crate) fn follow(kubernetes: &Kubernetes, kinds: &'static [&'static str]) -> Self {
        let shared = Arc::new(Shared::default());
        for path in kinds {
            let client = kubernetes.client.clone();
            let shared = shared.clone();
            tokio::spawn(async move {
                let api: Api<DynamicObject> = Api::all_with(client, &kind_of(path));
                let mut watcher = api.watcher(WatchConfig::default());
                let mut begun = Collection::new();
                loop {
                    let event = match watcher.next().await {
                        Ok(event) => event,
                        Err(error) => {
                            eprintln!("{path}: {error}");
                            sleep(Duration::from_millis(500)).await;
                            continue;
                        }
                    };
                    let Ok(event) = event.try_map(|bytes| serde_json::from_slice(&bytes)) else {
                        continue;
                    };
                    shared.apply_event(path, &mut begun, event);
                }
            });
        }
        Self { kinds, shared }
    }

    /// Waits until the first list of each collection is complete.
    pub(crate) async fn wait_complete(&self) {
        while locked(&self.shared.collections).len() < self.kinds.len() {
            self.changed(Duration::from_secs(1)).await;
        }
    }

    /// Waits for a change, at most for this time.
    pub(crate) async fn changed(&self, longest: Duration) {
        drop(timeout(longest, self.shared.changed.notified()).await);
    }

    pub(crate) fn all(&self, path: &str) -> Vec<Value> {
        let collections = locked(&self.shared.collections);
        let all = collections.get(path);
        all.map_or_else(Vec::new, |all| all.values().cloned().collect())
    }

    /// The object with this name; null if it does not exist.
    pub(crate) fn get(&self, path: &str, namespace: &str, name: &str) -> Value {
        let collections = locked(&self.shared.collections);
        let all = collections.get(path);
        let object = all.and_then(|all| all.get(&format!("{namespace}/{name}")));
        object.cloned().unwrap_or_default()
    }
}

impl Shared {
    fn apply_event(&self, path: &'static str, begun: &mut Collection, event: Event<Value>) {
        let mut collections = locked(&self.collections);
        match event {
            Event::Init => {
                begun.clear();
                return;
            }
            Event::InitApply(object) => {
                begun.insert(key_of(&object), object);
                return;
            }
            Event::InitDone => drop(collections.insert(path, std::mem::take(begun))),
            Event::Apply(object) => {
                let all = collections.entry(path).or_default();
                all.insert(key_of(&object), object);
            }
            Event::Delete(object) => {
                collections
                    .entry(path)
                    .or_default()
                    .remove(&key_of(&object));
            }
        }
        drop(collections);
        self.changed.notify_one();
    }
}

#[derive(Default)]
struct WorkerState {
    runs: bool,
    failures: u32,
    not_before: Option<Instant>,
}

/// The workers, at most one for each key.
#[derive(Clone, Default)]
pub(crate) struct Workers(Arc<Mutex<BTreeMap<String, WorkerState>>>);

impl Workers {
    /// Starts a worker for a key, unless a worker runs or its delay has not passed.
    pub(crate) fn work<F>(&self, key: String, work: impl FnOnce() -> F)
    where
        F: Future<Output = Result<(), Trouble>> + Send + 'static,
    {
        let mut worker_states = locked(&self.0);
        let worker_state = worker_states.entry(key.clone()).or_default();
        if worker_state.runs
            || worker_state
                .not_before
                .is_some_and(|time| Instant::now() < time)
        {
            return;
        }
        worker_state.runs = true;
        let (worker_states, work) = (self.0.clone(), work());
        tokio::spawn(async move {
            let outcome = work.await;
            let mut worker_states = locked(&worker_states);
            let Err(trouble) = outcome else {
                worker_states.remove(&key);
                return;
            };
            eprintln!("{key}: {trouble}");
            let worker_state = worker_states.entry(key).or_default();
            worker_state.runs = false;
            worker_state.failures += 1;
            let pause = 100 << worker_state.failures.min(6);
            worker_state.not_before = Some(Instant::now() + Duration::from_millis(pause));
        });
    }
}
