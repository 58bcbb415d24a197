//! The bytes of a watch event in each form, so that a growing event is noticed.

use http_body_util::BodyExt;
use json_tree::json;

use crate::harness::{Api, PODS, pod};

/// The forms, with the maximum bytes of an event for a labelled pod. Lower a number if an event gets shorter; raise
/// it only for a documented reason.
const BOUNDS: [(&str, usize); 5] = [
    ("application/json", 1990),
    ("application/json;omit=managedFields", 1472),
    (
        "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
        806,
    ),
    (
        "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1;omit=managedFields",
        288,
    ),
    ("application/vnd.kubernetes.protobuf", 1033),
];

#[tokio::test]
async fn an_event_has_no_more_bytes_than_it_had() {
    let api = Api::new().await;
    api.with_account().await;
    let created = api.create(PODS, pod("p")).await;
    let version = created["metadata"]["resourceVersion"].as_str().unwrap();
    let path = format!("{PODS}?watch=true&resourceVersion={version}");
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    assert_eq!(api.patch(&format!("{PODS}/p"), "merge", label).await.0, 200);
    let mut wrong = Vec::new();
    for (form, bound) in BOUNDS {
        let response = api.respond("GET", &path, &[("accept", form)], "").await;
        assert_eq!(response.status(), 200, "{form}");
        let mut body = response.into_body();
        // The only event is one frame.
        let event = body.frame().await.unwrap().unwrap().into_data().unwrap();
        println!("{form}: {} bytes, at most {bound}", event.len());
        if event.len() > bound {
            wrong.push(format!("{form}: {} bytes, bound {bound}", event.len()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("; "));
}
