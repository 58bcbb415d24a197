//! Direct connections to the API, without the start of a client program: for benchmarks, and for thousands of objects.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use http::{Method, Request};
use kube::config::{self, KubeconfigError};
use kube::core::WatchEvent;
use kube::{Client, Config};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::Instance;

/// Maximum number of concurrent requests.
const AT_ONCE: usize = 16;

/// An administrator's connections to a server.
pub struct Api {
    runtime: Runtime,
    kubeconfig: PathBuf,
    client: Client,
}

impl Api {
    /// Connects.
    ///
    /// # Panics
    /// The kubeconfig is not usable.
    pub fn new(instance: &Instance) -> Self {
        Self::with(instance.data().join("kubeconfig"))
    }

    /// Connects to the server of a kubeconfig. The connections use the network of this thread.
    ///
    /// # Panics
    ///
    /// The kubeconfig is not usable.
    pub fn with(kubeconfig: PathBuf) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let client = runtime.block_on(async {
            Client::try_from(configuration(&kubeconfig).await).expect("a client")
        });
        Self {
            runtime,
            kubeconfig,
            client,
        }
    }

    /// Runs asynchronous work until it completes.
    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// The configuration of the connection, for callers that connect by themselves.
    pub fn configuration(&self) -> Config {
        self.block_on(configuration(&self.kubeconfig))
    }

    /// Sends a request and returns the response.
    ///
    /// # Errors
    ///
    /// The server refuses the request, or does not respond.
    pub fn request(
        &self,
        method: Method,
        path: &str,
        object: Option<&Value>,
    ) -> Result<Value, kube::Error> {
        self.block_on(request(&self.client, method, path, object))
    }

    /// Sends a request and returns the response; `None` without a response within the time.
    pub fn request_within(
        &self,
        limit: Duration,
        (method, path): (Method, &str),
        object: Option<&Value>,
    ) -> Option<Result<Value, kube::Error>> {
        self.block_on(async {
            let result = request(&self.client, method, path, object);
            tokio::time::timeout(limit, result).await.ok()
        })
    }

    /// Watches at `path`, which has the query of a watch, for a time. `each` gets the events, and returns whether the
    /// watch continues.
    ///
    /// # Errors
    ///
    /// The server refuses the watch, or the connection breaks.
    pub fn follow(
        &self,
        path: &str,
        time: Duration,
        mut each: impl FnMut(WatchEvent<Value>) -> bool,
    ) -> Result<(), kube::Error> {
        let request = Request::get(path).body(Vec::new()).expect("a request");
        let follow = async {
            let mut events = self.client.request_events::<Value>(request).await?.boxed();
            while let Some(event) = events.try_next().await? {
                if !each(event) {
                    break;
                }
            }
            Ok(())
        };
        let followed = self.block_on(async { tokio::time::timeout(time, follow).await });
        followed.unwrap_or(Ok(()))
    }

    /// Creates an object in the collection at `path`.
    ///
    /// # Panics
    /// The server refuses.
    pub fn create(&self, path: &str, object: &Value) -> Value {
        self.block_on(send(&self.client, Method::POST, path, Some(object)))
    }

    /// Creates objects, several concurrently, and returns them in the order of the arguments.
    ///
    /// # Panics
    ///
    /// The server refuses an object.
    pub fn create_all(&self, path: &str, objects: &[Value]) -> Vec<Value> {
        let requests = objects
            .iter()
            .map(|object| send(&self.client, Method::POST, path, Some(object)));
        let all = futures::stream::iter(requests).buffered(AT_ONCE);
        self.block_on(all.collect())
    }

    /// Deletes the object at `path`.
    ///
    /// # Panics
    /// The server refuses.
    pub fn delete(&self, path: &str) {
        self.block_on(send(&self.client, Method::DELETE, path, None));
    }

    /// Watches the collection at `path` from now on, until the receiver is dropped: the new state of each changed
    /// object, with the time of its arrival.
    ///
    /// # Panics
    ///
    /// The server refuses the watch.
    pub fn watch(&self, path: &str) -> Receiver<(Instant, Value)> {
        self.watch_for(path, |event| match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => Some(object),
            _ => None,
        })
    }

    /// As [`Self::watch`], for deletions: the last state of each deleted object.
    ///
    /// # Panics
    ///
    /// The server refuses the watch.
    pub fn watch_deletions(&self, path: &str) -> Receiver<(Instant, Value)> {
        self.watch_for(path, |event| match event {
            WatchEvent::Deleted(object) => Some(object),
            _ => None,
        })
    }

    fn watch_for(
        &self,
        path: &str,
        object_of: fn(WatchEvent<Value>) -> Option<Value>,
    ) -> Receiver<(Instant, Value)> {
        let (sender, receiver) = channel();
        let list = self.block_on(send(&self.client, Method::GET, path, None));
        let version = crate::text(&list, "/metadata/resourceVersion");
        let path = format!("{path}?watch=true&resourceVersion={version}");
        let request = Request::get(path).body(Vec::new()).expect("a request");
        let client = self.client.clone();
        let events = self.block_on(async move {
            let events = client.request_events::<Value>(request).await;
            events.expect("a watch").boxed()
        });
        self.runtime.spawn(async move {
            let mut events = events;
            while let Ok(Some(event)) = events.try_next().await {
                let Some(object) = object_of(event) else {
                    continue;
                };
                if sender.send((Instant::now(), object)).is_err() {
                    return;
                }
            }
        });
        receiver
    }
}

/// The first object of a watch that fulfils the condition, with the time of its arrival.
///
/// # Panics
///
/// No object fulfils the condition within that time.
#[track_caller]
pub fn first_match(
    objects: &Receiver<(Instant, Value)>,
    within: Duration,
    mut holds: impl FnMut(Instant, &Value) -> bool,
) -> (Instant, Value) {
    let started = Instant::now();
    loop {
        let left = within.saturating_sub(started.elapsed());
        let (at, object) = objects.recv_timeout(left).expect("the object in time");
        if holds(at, &object) {
            return (at, object);
        }
    }
}

/// The configuration for a connection as the administrator.
pub(crate) async fn configuration(kubeconfig: &std::path::Path) -> Config {
    let configuration = configuration_if_usable(kubeconfig).await;
    configuration.expect("a usable kubeconfig")
}

/// As [`configuration`], for a server that may not have written the file yet.
pub(crate) async fn configuration_if_usable(
    kubeconfig: &std::path::Path,
) -> Result<Config, KubeconfigError> {
    let read = config::Kubeconfig::read_from(kubeconfig)?;
    let options = config::KubeConfigOptions::default();
    Config::from_custom_kubeconfig(read, &options).await
}

async fn send(client: &Client, method: Method, path: &str, object: Option<&Value>) -> Value {
    let result = request(client, method, path, object).await;
    result.unwrap_or_else(|error| panic!("{path}: {error}"))
}

async fn request(
    client: &Client,
    method: Method,
    path: &str,
    object: Option<&Value>,
) -> Result<Value, kube::Error> {
    let body = object.map(|object| object.to_string().into_bytes());
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("Content-Type", "application/json")
        .body(body.unwrap_or_default())
        .expect("a request");
    client.request(request).await
}
