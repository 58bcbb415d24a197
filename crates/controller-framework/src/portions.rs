//! Tests that count the work of a task in one poll: other tasks run after a bounded number of steps.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Request, Response};
use json_tree::{Value, json};
use k8s_openapi::api::core::v1::ConfigMap;
use kube_api_client::{Api, Client, Event};
use tokio_util::sync::CancellationToken;

use crate::{Cache, Queue, ReconcileResult, WatchConfig, limits, run_workers};

/// The highest number of steps in one poll, if a step takes `units` of the 128 units that the runtime grants. The last
/// step begins with the last unit, or detects that no unit is left.
const fn granted(units: usize) -> usize {
    128 / units + 1
}

/// The highest number of steps of a task between two runs of another task.
async fn most_in_one_poll(steps: impl Fn() -> usize, all: usize) -> usize {
    let (mut done, mut most) = (0, 0);
    while done < all {
        let before = std::mem::replace(&mut done, steps());
        most = most.max(done - before);
        tokio::task::yield_now().await;
    }
    most
}

fn object(number: usize) -> ConfigMap {
    let mut object = ConfigMap::default();
    object.metadata.namespace = Some("default".to_owned());
    object.metadata.name = Some(number.to_string());
    object.metadata.uid = Some(number.to_string());
    object.metadata.resource_version = Some((number + 1).to_string());
    object
}

#[tokio::test]
async fn a_subscriber_receives_a_bounded_number_of_changes_in_one_poll() {
    let (events, receiver) = futures::channel::mpsc::unbounded();
    let cache = Cache::from_events(receiver);
    for number in 0..1000 {
        events.unbounded_send(Event::Apply(object(number))).unwrap();
    }
    let most_cached = most_in_one_poll(|| cache.len(), 1000).await;
    assert!(
        most_cached <= granted(limits::OBJECT_UNITS),
        "{most_cached}"
    );
    let mut changes = cache.subscribe();
    let received = Arc::new(AtomicUsize::new(0));
    let count = received.clone();
    let reader = tokio::spawn(async move {
        while changes.next().await.is_some() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    let most = most_in_one_poll(|| received.load(Ordering::Relaxed), 1000).await;
    assert!(most <= granted(1), "{most}");
    drop(events);
    reader.await.unwrap();
}

/// The bound does not delay a reader that needs the current state.
#[tokio::test]
async fn all_that_waits_can_be_read_at_once() {
    let (events, receiver) = futures::channel::mpsc::unbounded();
    let cache = Cache::from_events(receiver);
    let mut changes = cache.subscribe();
    for number in 0..1000 {
        events.unbounded_send(Event::Apply(object(number))).unwrap();
    }
    assert!(cache.wait_until(|| cache.len() == 1000).await);
    let read = std::iter::from_fn(|| changes.ready()).count();
    assert_eq!(read, 1000);
}

#[tokio::test]
async fn a_page_of_a_list_is_decoded_in_portions() {
    let items: Vec<Value> = (0..500)
        .map(|number| json_tree::to_value(object(number)).unwrap())
        .collect();
    let list = json!({"metadata": {"resourceVersion": "1000"}, "items": items}).to_string();
    let respond = move |request: Request<kube_api_client::Body>| {
        let query = request.uri().query().unwrap_or_default();
        let (watches, list) = (query.contains("watch=true"), list.clone());
        async move {
            if watches {
                std::future::pending::<()>().await;
            }
            Ok::<_, Infallible>(Response::new(list))
        }
    };
    let client = Client::new(tower::service_fn(respond), "default");
    let end = CancellationToken::new();
    let _end = end.clone().drop_guard();
    let all: Api<ConfigMap> = Api::all(client);
    let cache = Cache::spawn(all, WatchConfig::default(), end);
    let most = most_in_one_poll(|| cache.len(), 500).await;
    assert!(most <= granted(limits::OBJECT_UNITS), "{most}");
}

/// The removal of objects that are not in a new list also happens in portions.
#[tokio::test]
async fn the_end_of_a_list_is_handled_in_portions() {
    let (events, receiver) = futures::channel::mpsc::unbounded();
    let cache = Cache::from_events(receiver);
    let send = |event| events.unbounded_send(event).unwrap();
    let is_listed = |number: &usize| number.is_multiple_of(10);
    (0..1000)
        .map(|number| Event::Apply(object(number)))
        .for_each(send);
    assert!(cache.wait_until(|| cache.len() == 1000).await);
    send(Event::Init);
    for number in (0..1000).filter(is_listed) {
        send(Event::InitApply(object(number)));
    }
    send(Event::InitDone);
    let most = most_in_one_poll(|| 1000 - cache.len(), 900).await;
    // The second portion begins with the units that the first portion has left.
    assert!(most <= 2 * limits::SWEEP_OBJECTS, "{most}");
    assert!(cache.wait_synced().await);
    let mut left: Vec<usize> = cache
        .list()
        .iter()
        .filter_map(|object| object.metadata.name.as_deref()?.parse().ok())
        .collect();
    left.sort_unstable();
    assert_eq!(left, (0..1000).filter(is_listed).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_worker_handles_a_bounded_number_of_keys_in_one_poll() {
    let (queue, end) = (Queue::new(), CancellationToken::new());
    for key in 0..200_usize {
        queue.add(key);
    }
    let handled = Arc::new(AtomicUsize::new(0));
    let count = handled.clone();
    let workers = run_workers(queue, 1, end.clone(), move |_| {
        let count = count.clone();
        async move {
            count.fetch_add(1, Ordering::Relaxed);
            Ok::<_, std::io::Error>(ReconcileResult::Done)
        }
    });
    let workers = tokio::spawn(workers);
    let most = most_in_one_poll(|| handled.load(Ordering::Relaxed), 200).await;
    assert!(most <= granted(limits::KEY_UNITS), "{most}");
    end.cancel();
    workers.await.unwrap();
}
