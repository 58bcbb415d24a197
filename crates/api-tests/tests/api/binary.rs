//! Responses in protobuf (kubectl.md 0.11).

use http_body_util::BodyExt;
use json_tree::{Value, json};

use crate::harness::{Api, ApiResponse, CONFIG_MAPS, PODS, config_map, pod};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

async fn get(api: &Api, path: &str, accept: &str) -> ApiResponse {
    let response = api.raw("GET", path, &[("accept", accept)], "").await;
    assert_eq!(response.code, 200, "{path}");
    response
}

fn holds(bytes: &[u8], part: &str) -> bool {
    bytes
        .windows(part.len())
        .any(|window| window == part.as_bytes())
}

#[tokio::test]
async fn what_is_answered_can_be_sent_back() {
    let api = Api::new().await;
    api.with_account().await;
    api.create(PODS, pod("p")).await;
    api.create(CONFIG_MAPS, config_map("m")).await;
    for path in [format!("{PODS}/p"), format!("{CONFIG_MAPS}/m")] {
        let response = get(
            &api,
            &path,
            "application/vnd.kubernetes.protobuf,application/json",
        )
        .await;
        assert_eq!(response.headers["content-type"], PROTOBUF);
        assert!(response.bytes.starts_with(b"k8s\0"));
        let (_, before) = api.get(&path).await;
        let headers = [("content-type", PROTOBUF), ("accept", "application/json")];
        let after = api.raw("PUT", &path, &headers, response.bytes).await;
        assert_eq!(after.code, 200, "{}", after.text());
        assert_eq!(
            after.json()["metadata"]["resourceVersion"],
            before["metadata"]["resourceVersion"]
        );
    }
}

#[tokio::test]
async fn lists_metadata_and_results_have_that_form_too() {
    let api = Api::new().await;
    for name in ["m1", "m2"] {
        api.create(CONFIG_MAPS, config_map(name)).await;
    }
    let list = get(&api, CONFIG_MAPS, PROTOBUF).await;
    for part in ["ConfigMapList", "m1", "m2"] {
        assert!(holds(&list.bytes, part), "{part}");
    }
    let partial = format!("{PROTOBUF};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1");
    let list = get(&api, CONFIG_MAPS, &partial).await;
    assert_eq!(list.headers["content-type"], PROTOBUF);
    assert!(holds(&list.bytes, "PartialObjectMetadataList") && holds(&list.bytes, "m2"));
    let headers = [("accept", PROTOBUF)];
    let deleted = api
        .raw("DELETE", &format!("{CONFIG_MAPS}/m1"), &headers, "")
        .await;
    assert!(holds(&deleted.bytes, "Success"));
    // An error is JSON, as its content type states.
    let absent = api
        .raw("GET", &format!("{CONFIG_MAPS}/m1"), &headers, "")
        .await;
    assert_eq!(
        (absent.code, &absent.json()["kind"]),
        (404, &json!("Status"))
    );
    assert_eq!(absent.headers["content-type"], "application/json");
}

#[tokio::test]
async fn events_of_a_watch_have_lengths() {
    let api = Api::new().await;
    api.create(CONFIG_MAPS, config_map("m")).await;
    let path = format!(
        "{CONFIG_MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan\
         &allowWatchBookmarks=true&timeoutSeconds=1"
    );
    let response = api.respond("GET", &path, &[("accept", PROTOBUF)], "").await;
    assert_eq!(
        response.headers()["content-type"],
        "application/vnd.kubernetes.protobuf;stream=watch"
    );
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let mut rest = &bytes[..];
    let mut events = Vec::new();
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let (event, tail) = tail.split_at(u32::from_be_bytes(*length) as usize);
        events.push(event);
        rest = tail;
    }
    let added = events
        .iter()
        .position(|event| holds(event, "ADDED") && holds(event, "k8s\0"));
    let marked = events
        .iter()
        .position(|event| holds(event, "BOOKMARK") && holds(event, "k8s.io/initial-events-end"));
    assert!(added.is_some() && added < marked, "{events:?}");
}

#[tokio::test]
async fn a_patch_is_answered_in_the_form_that_was_asked_for() {
    let api = Api::new().await;
    api.create(CONFIG_MAPS, config_map("m")).await;
    let headers = [
        ("content-type", "application/merge-patch+json"),
        ("accept", "application/vnd.kubernetes.protobuf, */*"),
    ];
    let path = format!("{CONFIG_MAPS}/m");
    let response = api
        .raw(
            "PATCH",
            &path,
            &headers,
            json!({"data": {"a": Value::Null}}).to_string(),
        )
        .await;
    assert_eq!(response.code, 200);
    assert!(response.bytes.starts_with(b"k8s\0"));
}
