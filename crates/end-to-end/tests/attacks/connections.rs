//! Many connections, requests with large headers, and watches of nothing.

use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

use super::{Scene, Tenant};

/// As many watches as the server allows, of objects that never change.
// findings-2 S39
#[test]
fn idle_watches() {
    let mut scene = Scene::with_tenants(9);
    let mut open = JoinSet::new();
    scene.on_each_stream(20, Tenant::connect, |tenant, connection| {
        let path = tenant.path("configmaps?watch=true");
        let request = connection.get(&path, "application/json");
        connection.hold_open(request, (), &mut open);
    });
    scene.wait_until_it_grows_no_more();
    scene.assert_withstood("idle watches");
}

/// Connections of strangers who prove nothing, in TLS, some with the begin of a request.
// findings-2 S38
#[test]
fn strangers() {
    let mut scene = Scene::with_tenants(0);
    let Scene {
        runtime, server, ..
    } = &scene;
    let mut held = Vec::new();
    runtime.block_on(async {
        for _ in 0..600 {
            let mut stream = server.connect("h2").await;
            // The preface of HTTP/2, and the head of a frame that does not come.
            let _ = stream
                .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\x3f\xff\x01\x04\0\0\0\x01")
                .await;
            held.push(stream);
        }
    });
    scene.wait_until_it_grows_no_more();
    scene.assert_withstood("connections of strangers");
    assert!(scene.refusals("api_connections") > 0);
}

/// Requests with headers as large as the server takes them, each of them for a watch.
// findings-2 S38
#[test]
fn large_headers() {
    let mut scene = Scene::with_tenants(4);
    let mut open = JoinSet::new();
    scene.on_each_stream(100, Tenant::connect, |tenant, connection| {
        let path = tenant.path("configmaps?watch=true");
        let mut request = connection.get(&path, "application/json");
        let large = "x".repeat(12_000).parse().unwrap();
        request.headers_mut().insert("x-large", large);
        connection.hold_open(request, (), &mut open);
    });
    scene.wait_until_it_grows_no_more();
    scene.assert_withstood("large headers");
}
