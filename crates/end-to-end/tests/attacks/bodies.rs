//! Requests with large bodies, complete and unfinished, many concurrently.

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::task::JoinSet;

use super::{Scene, Tenant};

/// A little less than the maximum length of a body.
const BYTES: usize = 3 * 1024 * 1024 - 4096;

/// Each tenant sends a hundred such bodies concurrently on each of two connections.
fn send_at_once(attack: &str, content_type: &'static str, body: String) {
    let mut scene = Scene::with_tenants(12);
    let body = Bytes::from(body);
    let mut open = JoinSet::new();
    scene.on_each_stream(2, Tenant::connect, |tenant, connection| {
        let request = connection.post(&tenant.path("configmaps"), content_type, body.clone());
        let response = connection.sender.send_request(request);
        open.spawn(async move {
            response
                .await
                .map(|response| response.status().as_u16())
                .ok()
        });
    });
    let codes = scene.runtime.block_on(open.join_all());
    assert!(!codes.contains(&Some(500)), "{codes:?}");
    scene.assert_withstood(attack);
}

/// An object with as many small values as fit into a body.
fn of_small_values(value: &str, separator: &str) -> String {
    let count = BYTES / (value.len() + separator.len()) - 100;
    let values = vec![value; count].join(separator);
    format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"a"}},"x":[{values}]}}"#)
}

// findings-2 S38
#[test]
fn json_of_small_values() {
    let body = of_small_values("[]", ",");
    send_at_once("bodies of JSON", "application/json", body);
}

// findings-2 S38
#[test]
fn yaml_of_small_values() {
    let body = of_small_values("[]", ",");
    send_at_once("bodies of YAML", "application/yaml", body);
}

// findings-2 S38
#[test]
fn large_strings() {
    let text = "x".repeat(BYTES - 200);
    let body = format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"a"}},"data":{{"text":"{text}"}}}}"#
    );
    send_at_once("bodies of text", "application/json", body);
}

/// Each tenant begins a hundred bodies on each of ten connections, and completes none of them.
#[test]
fn unfinished() {
    let mut scene = Scene::with_tenants(12);
    let mut open = JoinSet::new();
    let half = Bytes::from(vec![b' '; BYTES / 2]);
    scene.on_each_stream(10, Tenant::connect, |tenant, connection| {
        let begin = Ok(Frame::data(half.clone()));
        let (sender, receiver) = futures::channel::mpsc::unbounded();
        sender.unbounded_send(begin).unwrap();
        let body = StreamBody::new(receiver).boxed();
        let path = tenant.path("configmaps");
        let request = connection.send(http::Method::POST, &path, "application/json", body);
        connection.hold_open(request, sender, &mut open);
    });
    scene.wait_until_stable();
    scene.assert_withstood("unfinished bodies");
}
