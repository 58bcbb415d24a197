//! Many connections, requests with large headers, and idle watches.

use std::net::Ipv4Addr;

use end_to_end::Instance;
use futures::StreamExt;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

use super::Scene;
use super::tenant::{Server, Tenant};

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
    scene.wait_until_stable();
    scene.assert_withstood("idle watches");
}

/// TLS connections of clients without credentials, some with the begin of a request.
// findings-2 S38
#[test]
fn strangers() {
    let mut scene = Scene::with_tenants(0);
    // The preface of HTTP/2, and the header of a frame that never comes.
    let begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\x3f\xff\x01\x04\0\0\0\x01";
    let addresses = [Ipv4Addr::LOCALHOST];
    let _open = scene.hold_connections(&scene.server, (&addresses, 600), "h2", begin);
    scene.wait_until_stable();
    scene.assert_withstood("connections of strangers");
    assert!(scene.refusals("api_connections") > 0);
}

/// Connections without credentials to the kubelet API, from so many addresses that their shares exceed the number of
/// its connections.
// findings-2 S40
#[test]
fn strangers_at_the_kubelet_api() {
    let instance = Instance::start(&["--kubelet-port=0"]);
    let kubectl = instance.kubectl();
    let mut scene = Scene::on(instance, 0);
    let node = kubectl.json(&["get", "node", &kubectl.node_name()]);
    let status = &node["status"];
    let address = status["addresses"][0]["address"].as_str().unwrap();
    let port = status["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64();
    let kubelet = scene
        .server
        .clone()
        .at(address, port.unwrap().try_into().unwrap());
    let addresses = [2, 3, 4].map(|last| Ipv4Addr::new(127, 0, 0, last));
    let begin = [&b"GET /healthz HTTP/1.1\r\nx: "[..], &[b'x'; 8000]].concat();
    let _open = scene.hold_connections(&kubelet, (&addresses, 600), "http/1.1", &begin);
    scene.wait_until_stable();
    scene.assert_withstood("connections of strangers to the kubelet API");
    assert!(scene.refusals("kubelet_connections") > 0);
}

impl Scene {
    /// Opens that many connections from each address, and sends the begin of a request on each. Then as many are opened
    /// without a handshake: on a busy machine, the first connections reach the time limit of a header before the last
    /// handshake.
    fn hold_connections(
        &self,
        server: &Server,
        (addresses, each): (&[Ipv4Addr], usize),
        protocol: &str,
        begin: &[u8],
    ) -> impl Sized + use<> {
        let addresses = addresses
            .iter()
            .flat_map(|address| std::iter::repeat_n(*address, each));
        let connections = addresses.clone().map(|address| async move {
            // Beyond its limits, the server closes connections, those in a handshake first.
            let mut stream = server.connect_from(address.into(), protocol).await.ok()?;
            stream.write_all(begin).await.ok();
            Some(stream)
        });
        // Several at once: one after the other, the first would reach the time limit of a header before the last is
        // open.
        let connections = futures::stream::iter(connections).buffer_unordered(8);
        self.runtime.block_on(async {
            let begun = connections.collect::<Vec<_>>().await;
            let mut without_handshake = Vec::new();
            for address in addresses {
                without_handshake.push(server.connect_tcp(address.into()).await);
            }
            (begun, without_handshake)
        })
    }
}

/// Requests with headers of the maximum length, each for a watch.
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
    scene.wait_until_stable();
    scene.assert_withstood("large headers");
}
