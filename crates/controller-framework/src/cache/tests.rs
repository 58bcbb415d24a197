use futures::FutureExt;
use k8s_openapi::api::core::v1::ConfigMap;

use super::*;
use crate::{ObjectChange, object_key};

fn object(name: &str, uid: &str, revision: &str) -> ConfigMap {
    let mut object = ConfigMap::default();
    object.metadata.namespace = Some("default".to_owned());
    object.metadata.name = Some(name.to_owned());
    object.metadata.uid = Some(uid.to_owned());
    object.metadata.resource_version = Some(revision.to_owned());
    object
}

async fn after(events: Vec<Event<ConfigMap>>) -> (Cache<ConfigMap>, Vec<String>) {
    let (sender, receiver) = futures::channel::mpsc::unbounded();
    let cache = Cache::from_events(receiver);
    let mut changes = cache.subscribe();
    let mut reported = Vec::new();
    for event in events {
        let quiet = matches!(event, Event::Init | Event::InitDone);
        sender.unbounded_send(event).unwrap();
        if !quiet {
            reported.push(describe(changes.next().await.unwrap()));
        }
    }
    drop(sender);
    while let Some(change) = changes.next().await {
        reported.push(describe(change));
    }
    (cache, reported)
}

fn describe(change: ObjectChange<ConfigMap>) -> String {
    let name = |o: &ConfigMap| {
        format!(
            "{}{}",
            o.metadata.name.clone().unwrap(),
            o.metadata.uid.clone().unwrap()
        )
    };
    match change {
        ObjectChange::Applied(new, None) => format!("+{}", name(&new)),
        ObjectChange::Applied(new, Some(_)) => format!("~{}", name(&new)),
        ObjectChange::Deleted(old) => format!("-{}", name(&old)),
    }
}

#[tokio::test]
async fn a_list_anew_tells_what_went_away_meanwhile() {
    let (cache, changes) = after(vec![
        Event::Init,
        Event::InitApply(object("a", "1", "1")),
        Event::InitApply(object("b", "1", "2")),
        Event::InitDone,
        Event::Apply(object("a", "1", "3")),
        Event::Init,
        Event::InitApply(object("a", "1", "4")),
        Event::InitDone,
    ])
    .await;
    assert_eq!(changes, ["+a1", "+b1", "~a1", "~a1", "-b1"]);
    assert_eq!(cache.list().len(), 1);
    assert!(cache.get("default", "a").is_some());
}

#[tokio::test]
async fn a_new_object_under_an_old_name_is_a_deletion_and_a_creation() {
    let (_, changes) = after(vec![
        Event::Init,
        Event::InitApply(object("a", "1", "1")),
        Event::InitDone,
        Event::Apply(object("a", "2", "5")),
    ])
    .await;
    assert_eq!(changes, ["+a1", "-a1", "+a2"]);
}

/// The version of a write is reached even if its object was deleted; while a list is not complete, only the earlier
/// events count.
#[tokio::test]
async fn a_cache_reaches_the_versions_of_its_events() {
    let (sender, receiver) = futures::channel::mpsc::unbounded();
    let cache = Cache::from_events(receiver);
    let mut changes = cache.subscribe();
    let mut reached = Vec::new();
    for event in [
        Event::InitApply(object("a", "1", "20")),
        Event::InitApply(object("b", "1", "3")),
        Event::InitDone,
        Event::Apply(object("c", "1", "100")),
        Event::Delete(object("c", "1", "101")),
    ] {
        let is_told = !matches!(event, Event::InitDone);
        sender.unbounded_send(event).unwrap();
        if is_told {
            changes.next().await.unwrap();
        } else {
            assert!(cache.wait_synced().await);
        }
        let of = |version: &&str| cache.has_reached(version.parse().unwrap());
        reached.push(
            ["3", "20", "100"]
                .into_iter()
                .filter(of)
                .collect::<Vec<_>>(),
        );
    }
    let (none, listed, all): (&[&str], _, _) = (&[], &["3", "20"], &["3", "20", "100"]);
    assert_eq!(reached, [none, none, listed, all, all]);
}

#[tokio::test]
async fn a_subscriber_hears_of_the_objects_that_it_wants() {
    let (sender, receiver) = futures::channel::mpsc::unbounded();
    let cache = Cache::from_events(receiver);
    let send = |event| sender.unbounded_send(event).unwrap();
    let is_wanted =
        |o: &ConfigMap| (&*object_key(o).name, o.metadata.uid.as_deref()) == ("a", Some("1"));
    let mut matching = cache.subscribe_to(is_wanted);
    let mut changes = Vec::new();
    for events in [
        [object("b", "1", "1"), object("a", "1", "2")],
        [object("b", "1", "3"), object("a", "1", "4")],
        // Another object with the name of a matching object.
        [object("b", "2", "5"), object("a", "2", "6")],
    ] {
        events.into_iter().map(Event::Apply).for_each(send);
        changes.extend(matching.next().await.map(describe));
    }
    // A subscriber that subscribes later gets the existing objects that match.
    let mut later = cache.subscribe_to(|o: &ConfigMap| *object_key(o).name == *"b");
    changes.extend(later.next().await.map(describe));
    send(Event::Delete(object("a", "2", "7")));
    drop(sender);
    assert!(matching.next().await.is_none() && later.next().await.is_none());
    assert_eq!(changes, ["+a1", "~a1", "-a1", "+b2"]);
}

#[tokio::test]
async fn a_subscriber_hears_of_the_changes_that_it_wants() {
    let (sender, receiver) = futures::channel::mpsc::unbounded();
    let cache = Cache::from_events(receiver);
    let labelled = |label: &str, version: &str| {
        let mut object = object("a", "1", version);
        object.metadata.labels = Some([("l".to_owned(), label.to_owned())].into());
        object
    };
    let mut changed = cache.subscribe_to_changes(|old, new| {
        let labels = |object: Option<&ConfigMap>| object.and_then(|o| o.metadata.labels.clone());
        labels(old) != labels(new)
    });
    let mut ended = cache.subscribe_to_changes(|_, new| new.is_none());
    let mut changes = Vec::new();
    for objects in [
        [labelled("x", "1"), labelled("x", "2")],
        [labelled("x", "3"), labelled("y", "4")],
    ] {
        for event in objects.map(Event::Apply) {
            sender.unbounded_send(event).unwrap();
        }
        let change = changed.next().await.unwrap();
        let version = |object: &ConfigMap| object.metadata.resource_version.clone().unwrap();
        changes.push(match &change {
            ObjectChange::Applied(new, old) => (version(new), old.as_deref().map(version)),
            ObjectChange::Deleted(_) => panic!("{change:?}"),
        });
    }
    sender
        .unbounded_send(Event::Delete(labelled("y", "5")))
        .unwrap();
    drop(sender);
    assert!(matches!(
        changed.next().await,
        Some(ObjectChange::Deleted(_))
    ));
    assert!(matches!(ended.next().await, Some(ObjectChange::Deleted(_))));
    assert!(changed.next().await.is_none() && ended.next().await.is_none());
    // The state before a change is the last one in the cache, also if the subscriber did not get it.
    assert_eq!(
        changes,
        [
            ("1".to_owned(), None),
            ("4".to_owned(), Some("3".to_owned()))
        ]
    );
}

#[tokio::test]
async fn a_wait_ends_with_the_awaited_change_or_with_the_cache() {
    let (sender, receiver) = futures::channel::mpsc::unbounded();
    let cache = Cache::from_events(receiver);
    let wait = |name: &'static str| {
        let cache = cache.clone();
        let is_there = move |cache: &Cache<ConfigMap>| cache.get("default", name).is_some();
        tokio::spawn(async move { cache.wait_until(|| is_there(&cache)).await })
    };
    let (awaited, never) = (wait("b"), wait("c"));
    for name in ["a", "b"] {
        let event = Event::Apply(object(name, "1", "1"));
        sender.unbounded_send(event).unwrap();
    }
    assert!(awaited.await.unwrap());
    drop(sender);
    assert!(!never.await.unwrap());
}

#[tokio::test]
async fn an_index_follows_its_cache() {
    let (sender, receiver) = futures::channel::mpsc::unbounded();
    let cache = Cache::from_events(receiver);
    let by_uid = cache.index(|o: &ConfigMap| o.metadata.uid.iter().cloned().collect());
    let mut changes = cache.subscribe();
    sender
        .unbounded_send(Event::Apply(object("a", "1", "1")))
        .unwrap();
    changes.next().await;
    assert_eq!(by_uid.get("1").len(), 1);
    sender
        .unbounded_send(Event::Delete(object("a", "1", "2")))
        .unwrap();
    changes.next().await;
    assert!(by_uid.get("1").is_empty());
}

/// A change of a pod is decoded once for all readers of the cache, and its deletion not at all.
#[tokio::test]
async fn an_object_is_decoded_once_per_state() {
    let cache = Cache::<ConfigMap>::empty(|object| Identity::of(object));
    let mut changes = cache.subscribe();
    let mut decoded = 0;
    let mut feed = Feed {
        store: cache.store.clone(),
        listing: Listing::default(),
        decode: |text: &[u8]| {
            decoded += 1;
            let object: ConfigMap = serde_json::from_slice(text)?;
            Ok(stored(object))
        },
    };
    let text = |name: &str, uid: &str, revision: &str| {
        let object = object(name, uid, revision);
        Bytes::from(serde_json::to_vec(&object).unwrap())
    };
    let events = [
        Event::Init,
        Event::InitApply(text("a", "1", "1")),
        Event::InitDone,
        Event::Apply(text("a", "1", "2")),
        Event::Delete(text("a", "1", "3")),
        Event::Delete(text("unknown", "1", "4")),
        Event::Apply(text("a", "2", "5")),
    ];
    let mut reported = Vec::new();
    for event in events {
        feed.process(event).unwrap();
        let change = changes.next().now_or_never().flatten();
        reported.extend(change.map(describe));
    }
    drop(feed);
    assert_eq!(reported, ["+a1", "~a1", "-a1", "+a2"]);
    assert_eq!(decoded, 3);
}

#[tokio::test]
async fn an_object_with_incomplete_metadata_is_an_error_and_not_an_absent_object() {
    let cache = Cache::<ConfigMap>::empty(|object| Identity::of(object));
    let mut feed = Feed {
        store: cache.store.clone(),
        listing: Listing::default(),
        decode: |text: &[u8]| Ok(stored(serde_json::from_slice::<ConfigMap>(text)?)),
    };
    let text = |object: &ConfigMap| Bytes::from(serde_json::to_vec(object).unwrap());
    let complete = object("a", "1", "1");
    feed.process(Event::Apply(text(&complete))).unwrap();
    let changes: [fn(&mut ConfigMap); 3] = [
        |object| object.metadata.name = None,
        |object| object.metadata.uid = None,
        |object| object.metadata.resource_version = Some("0".to_owned()),
    ];
    for change in changes {
        let mut incomplete = complete.clone();
        change(&mut incomplete);
        assert!(feed.process(Event::Apply(text(&incomplete))).is_err());
        assert_eq!(*cache.get("default", "a").unwrap(), complete);
    }
    let mut nameless = complete.clone();
    nameless.metadata.name = None;
    assert!(feed.process(Event::Delete(text(&nameless))).is_err());
    assert_eq!(cache.len(), 1);
}
