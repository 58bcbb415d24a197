//! Watches.

use std::sync::Arc;

use json_tree::{Value, json};
use kube_api_server::Limits;
use mvcc_store::Store;
use mvcc_store::embedded::EmbeddedStore;

use crate::harness::{Api, CONFIG_MAPS, Events, config_map, pod};

#[tokio::test]
async fn changes_arrive_in_order_from_a_version_on() {
    // kubectl.md 0.12
    let api = Api::new().await;
    let created = api.create(CONFIG_MAPS, config_map("a")).await;
    let version = created["metadata"]["resourceVersion"].as_str().unwrap();
    let path = format!("{CONFIG_MAPS}?watch=true&resourceVersion={version}");
    let mut events = Events::open(&api, &path).await;
    api.create(CONFIG_MAPS, config_map("b")).await;
    let (_, changed) = api
        .patch(
            &format!("{CONFIG_MAPS}/a"),
            "merge",
            json!({"data": {"x": "y"}}),
        )
        .await;
    api.send("DELETE", &format!("{CONFIG_MAPS}/a"), Value::Null)
        .await;
    assert_eq!(events.short().await, "ADDED b");
    let event = events.next().await.unwrap();
    assert_eq!(
        (&event["type"], &event["object"]),
        (&json!("MODIFIED"), &changed)
    );
    let event = events.next().await.unwrap();
    assert_eq!(event["type"], "DELETED");
    assert_eq!(event["object"]["data"]["x"], "y");
    let number = |object: &Value| -> u64 {
        object["metadata"]["resourceVersion"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap()
    };
    assert!(number(&event["object"]) > number(&changed));
}

#[tokio::test]
async fn objects_that_enter_or_leave_the_selection_are_added_or_deleted() {
    let api = Api::new().await;
    let path = format!("{CONFIG_MAPS}?watch=1&labelSelector=on%3Dyes");
    let mut events = Events::open(&api, &path).await;
    let label = |value: Value| json!({"metadata": {"labels": {"on": value}}});
    let map = format!("{CONFIG_MAPS}/a");
    api.create(CONFIG_MAPS, config_map("a")).await;
    api.patch(&map, "merge", label(json!("yes"))).await;
    api.patch(&map, "merge", json!({"data": {"x": "y"}})).await;
    let (_, left) = api.patch(&map, "merge", label(json!("no"))).await;
    api.patch(&map, "merge", json!({"data": {"x": "z"}})).await;
    api.patch(&map, "merge", label(json!("yes"))).await;
    api.send("DELETE", &map, Value::Null).await;
    assert_eq!(events.short().await, "ADDED a");
    assert_eq!(events.short().await, "MODIFIED a");
    // The event contains the object as it was while it was selected, at the version at which it stopped matching.
    let event = events.next().await.unwrap();
    assert_eq!(event["type"], "DELETED");
    assert_eq!(event["object"]["metadata"]["labels"]["on"], "yes");
    assert_eq!(
        event["object"]["metadata"]["resourceVersion"],
        left["metadata"]["resourceVersion"]
    );
    assert_eq!(events.short().await, "ADDED a");
    assert_eq!(events.short().await, "DELETED a");
}

#[tokio::test]
async fn one_name_is_watched_without_its_longer_neighbours() {
    let api = Api::new().await;
    let long = "timeoutSeconds=9223372036854775807";
    let path = format!("{CONFIG_MAPS}?watch=1&{long}&fieldSelector=metadata.name%3Dweb");
    let mut events = Events::open(&api, &path).await;
    api.create(CONFIG_MAPS, config_map("web-0")).await;
    api.create(CONFIG_MAPS, config_map("web")).await;
    assert_eq!(events.short().await, "ADDED web");
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark() {
    // kubectl.md 0.13, 9.1
    let api = Api::new().await;
    api.create(CONFIG_MAPS, config_map("a")).await;
    let path = format!(
        "{CONFIG_MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan\
         &allowWatchBookmarks=true"
    );
    let mut events = Events::open(&api, &path).await;
    assert_eq!(events.short().await, "ADDED a");
    let bookmark = events.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["kind"], "ConfigMap");
    assert_eq!(
        bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    let revision = api.store.current_revision().0.to_string();
    assert_eq!(bookmark["object"]["metadata"]["resourceVersion"], revision);
    api.create(CONFIG_MAPS, config_map("b")).await;
    assert_eq!(events.short().await, "ADDED b");
    // `timeoutSeconds` ends the watch; a last bookmark is sent only if it contains a new version.
    let mut events = Events::open(&api, &format!("{path}&timeoutSeconds=1")).await;
    for expected in ["ADDED a", "ADDED b", "BOOKMARK -"] {
        assert_eq!(events.short().await, expected);
    }
    assert_eq!(events.next().await, None);
}

/// findings-2 E14: without a version, initial events are the default.
#[tokio::test]
async fn a_watch_without_a_version_marks_the_end_of_the_initial_events() {
    let api = Api::new().await;
    api.create(CONFIG_MAPS, config_map("a")).await;
    for version in ["", "&resourceVersion=", "&resourceVersion=0"] {
        let path = format!("{CONFIG_MAPS}?watch=1{version}");
        let mut events = Events::open(&api, &format!("{path}&allowWatchBookmarks=true")).await;
        assert_eq!(events.short().await, "ADDED a");
        let bookmark = events.next().await.unwrap();
        let annotations = &bookmark["object"]["metadata"]["annotations"];
        assert_eq!(annotations["k8s.io/initial-events-end"], "true", "{path}");
        // A client that has not asked for bookmarks gets none.
        let mut events = Events::open(&api, &path).await;
        assert_eq!(events.short().await, "ADDED a");
        api.create(CONFIG_MAPS, config_map("b")).await;
        assert_eq!(events.short().await, "ADDED b");
        api.send("DELETE", &format!("{CONFIG_MAPS}/b"), Value::Null)
            .await;
    }
}

/// findings R22: the error contains the version from the client, and the oldest available version.
#[tokio::test]
async fn versions_that_are_forgotten_end_a_watch_with_an_error() {
    let store = EmbeddedStore::in_memory();
    let api = Api::over(store.clone(), Limits::default(), None).await;
    for i in 0..5 {
        api.create(CONFIG_MAPS, config_map(&format!("m{i}"))).await;
    }
    let oldest = store.current_revision();
    store.compact(oldest).await.unwrap();
    let mut events = Events::open(&api, &format!("{CONFIG_MAPS}?watch=1&resourceVersion=2")).await;
    let event = events.next().await.unwrap();
    assert_eq!(event["type"], "ERROR");
    assert_eq!(event["object"]["code"], 410);
    assert_eq!(event["object"]["reason"], "Expired");
    let text = format!("too old resource version: 2 ({})", oldest.0);
    assert_eq!(event["object"]["message"], text);
    assert_eq!(events.next().await, None);
    let path = format!("{CONFIG_MAPS}?watch=1&resourceVersion={}", oldest.0);
    let mut events = Events::open(&api, &path).await;
    api.create(CONFIG_MAPS, config_map("later")).await;
    assert_eq!(events.short().await, "ADDED later");
}

/// After a restore, clients know versions that the server has not reached: they must list again.
#[tokio::test]
async fn a_version_that_is_not_reached_ends_a_watch_with_an_error() {
    let api = Api::new().await;
    let path = format!("{CONFIG_MAPS}?watch=1&resourceVersion=99999999");
    let mut events = Events::open(&api, &path).await;
    let event = events.next().await.unwrap();
    assert_eq!(event["type"], "ERROR");
    assert_eq!(event["object"]["code"], 504);
    let cause = &event["object"]["details"]["causes"][0];
    assert_eq!(cause["reason"], "ResourceVersionTooLarge");
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn tables_are_watched_row_by_row() {
    // kubectl.md 1.3
    let api = Api::new().await;
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let revision = api.store.current_revision().0;
    let path = format!("{CONFIG_MAPS}?watch=1&timeoutSeconds=1&resourceVersion={revision}");
    // The object is created before the watch, because a busy machine may do nothing else while the watch lasts.
    api.create(CONFIG_MAPS, config_map("a")).await;
    api.create(CONFIG_MAPS, config_map("b")).await;
    let watched = api.raw("GET", &path, &[("accept", accept)], "").await;
    let text = watched.text();
    let events: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(events.len(), 2);
    assert_eq!(events[0]["object"]["kind"], "Table");
    assert_eq!(events[0]["object"]["rows"][0]["cells"][0], "a");
    assert!(
        !events[0]["object"]["columnDefinitions"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    assert!(
        events[1]["object"]["columnDefinitions"]
            .as_array()
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn many_watchers_see_every_change() {
    let api = Arc::new(Api::new().await);
    let mut watchers = Vec::new();
    for _ in 0..20 {
        watchers.push(Events::open(&api, &format!("{CONFIG_MAPS}?watch=1")).await);
    }
    for i in 0..10 {
        api.create(CONFIG_MAPS, config_map(&format!("m{i}"))).await;
    }
    for mut watcher in watchers {
        for i in 0..10 {
            assert_eq!(watcher.short().await, format!("ADDED m{i}"));
        }
    }
}

/// features.md: upstream has no request by which clients get objects without the fields that only servers use.
#[tokio::test]
async fn a_client_may_do_without_managed_fields() {
    let api = Api::new().await;
    let accept = [("accept", "application/json;omit=managedFields")];
    let path = format!("{CONFIG_MAPS}?watch=1");
    let mut events = Events::open_with(&api, &path, &accept).await;
    let mut whole = Events::open_with(&api, &path, &[]).await;
    let created = api.create(CONFIG_MAPS, config_map("a")).await;
    let mut expected = created.clone();
    let metadata = expected["metadata"].as_object_mut().unwrap();
    assert!(metadata.shift_remove("managedFields").is_some());
    assert_eq!(events.next().await.unwrap()["object"], expected);
    let one = format!("{CONFIG_MAPS}/a");
    assert_eq!(api.raw("GET", &one, &accept, "").await.json(), expected);
    let list = api.raw("GET", CONFIG_MAPS, &accept, "").await.json();
    assert_eq!(list["items"][0]["metadata"], expected["metadata"]);
    let partial = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1;omit=managedFields";
    let metadata = api.raw("GET", &one, &[("accept", partial)], "").await;
    assert_eq!(metadata.json()["metadata"], expected["metadata"]);
    // The server still stores the managed fields.
    assert_eq!(api.get(&one).await.1, created);
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    assert_eq!(api.patch(&one, "merge", label).await.0, 200);
    api.send("DELETE", &one, Value::Null).await;
    assert_eq!(whole.next().await.unwrap()["object"], created);
    for kind in ["MODIFIED", "DELETED"] {
        let mut event = whole.next().await.unwrap();
        assert_eq!(event["type"], kind);
        let metadata = event["object"]["metadata"].as_object_mut().unwrap();
        assert!(metadata.shift_remove("managedFields").is_some());
        assert_eq!(events.next().await.unwrap(), event);
    }
}

#[tokio::test]
async fn pods_are_selected_by_texts_and_by_other_values_at_once() {
    let api = Api::new().await;
    let path = "/api/v1/namespaces/default/pods";
    api.with_account().await;
    for (name, node, shared) in [("a", "n1", true), ("b", "n1", false), ("c", "n2", true)] {
        let mut pod = pod(name);
        pod["spec"]["nodeName"] = json!(node);
        pod["spec"]["hostNetwork"] = json!(shared);
        api.create(path, pod).await;
    }
    for (selector, names) in [
        ("spec.nodeName=n1", vec!["a", "b"]),
        ("spec.nodeName!=n1", vec!["c"]),
        ("spec.nodeName=n1,spec.hostNetwork=true", vec!["a"]),
        ("status.phase=Pending,spec.nodeName=n2", vec!["c"]),
        ("status.nominatedNodeName=", vec!["a", "b", "c"]),
        (
            "spec.schedulerName=default-scheduler,metadata.name=b",
            vec!["b"],
        ),
    ] {
        let (_, list) = api
            .get(&format!(
                "{path}?fieldSelector={}",
                selector.replace('=', "%3D")
            ))
            .await;
        let items = list["items"].as_array().unwrap().iter();
        let pods: Vec<&str> = items
            .map(|pod| pod["metadata"]["name"].as_str().unwrap())
            .collect();
        assert_eq!(pods, names, "{selector}");
    }
}
