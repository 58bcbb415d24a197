//! A node with hostile responses in its tunnels, together with accounts that request its pods.

use std::net::IpAddr;
use std::sync::atomic::Ordering;

use end_to_end::program::{self, text};
use http::Method;
use node_identity::{CertificateSubject, Credentials, JoinToken, client, join};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

use super::hollow_node::{HollowNode, Manner};
use super::tenant::Tenant;
use super::{STREAMS, Scene};

const NODE: &str = "hollow";

/// An address that the server does not reach, so that the server uses the tunnel.
const ADDRESS: [u8; 4] = [192, 0, 2, 77];

/// More tunnels than a node may have.
const TUNNELS: usize = 20;

/// The test's node joins, and gets a pod of each tenant.
fn joined(scene: &Scene, manner: Manner) -> HollowNode {
    let data = scene.instance.data();
    let token = program::ok(&["token", "--data-dir", text(&data), "create"]);
    let token = JoinToken::read(&token).unwrap();
    let server = scene.api.configuration().cluster_url;
    let nodes = "/api/v1/nodes";
    let mut node = scene
        .api
        .create(nodes, &json!({"metadata": {"name": NODE}}));
    node["status"] = json!({
        "addresses": [{"type": "InternalIP", "address": IpAddr::from(ADDRESS)}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
    });
    // The version is removed, because the controllers may have written in the meantime.
    node["metadata"]["resourceVersion"].take();
    let status = format!("{nodes}/{NODE}/status");
    scene
        .api
        .request(Method::PUT, &status, Some(&node))
        .unwrap();
    let (identity, serving) = scene.runtime.block_on(async {
        let joined = join(&server, &token, NODE).await.unwrap();
        let credentials = Credentials::Identity(&joined.identity);
        let credentials = client(&server, &joined.ca_pem, &credentials).await.unwrap();
        let serving = CertificateSubject::serving(NODE, [ADDRESS.into()]);
        let serving = node_identity::request(&credentials, &serving)
            .await
            .unwrap();
        (joined.identity, serving)
    });
    for tenant in &scene.tenants {
        let pod = json!({
            "metadata": {"name": "far"},
            "spec": {"nodeName": NODE, "containers": [{"name": "c", "image": "busybox:1"}]}
        });
        scene.api.create(&tenant.path("pods"), &pod);
    }
    HollowNode::new(scene.server.clone(), &identity, &serving, manner)
}

/// The node opens tunnels, and the tenants request the log of its pod on each stream of that many connections.
fn request_logs(scene: &Scene, node: &HollowNode, connections: usize) -> JoinSet<()> {
    let mut open = JoinSet::new();
    scene.runtime.block_on(async {
        for _ in 0..TUNNELS {
            node.open_tunnel().await;
        }
    });
    scene.on_each_stream(connections, Tenant::connect_deaf, |tenant, connection| {
        let path = tenant.path("pods/far/log?follow=true");
        let request = connection.get(&path, "*/*");
        connection.hold_open(request, (), &mut open);
    });
    open
}

/// Checks that the node has had many connections and the maximum number of tunnels, and that the server has withstood
/// the attack.
#[track_caller]
fn assert_used(scene: &mut Scene, node: &HollowNode, attack: &str) {
    println!("{} connections", node.connections());
    scene.assert_withstood(attack);
    assert!(node.connections() > STREAMS);
    assert!(scene.refusals("tunnels") > 0);
}

/// The responses have no end, and the tenants do not read them.
// findings-2 S38
#[test]
fn a_node_that_talks_without_end() {
    let mut scene = Scene::with_tenants(4);
    let node = joined(&scene, Manner::Talks);
    let _open = request_logs(&scene, &node, 5);
    scene.wait_until_stable();
    assert_used(&mut scene, &node, "a node that talks without end");
}

/// The responses begin, and do not continue.
// findings-2 S38
#[test]
fn a_node_that_says_nothing_more() {
    let mut scene = Scene::with_tenants(4);
    let node = joined(&scene, Manner::Waits);
    let _open = request_logs(&scene, &node, 5);
    scene.wait_until_stable();
    assert_used(&mut scene, &node, "a node that says nothing more");
    assert!(scene.refusals("node_connections") > 0);
}

/// The node does not read the input that tenants send to commands in its pods.
// findings-2 S38
#[test]
fn a_node_that_reads_nothing() {
    let mut scene = Scene::with_tenants(4);
    let node = joined(&scene, Manner::Waits);
    scene.runtime.block_on(async {
        for _ in 0..TUNNELS {
            node.open_tunnel().await;
        }
        let mut sessions = Vec::new();
        for (index, tenant) in scene.tenants.iter().enumerate() {
            // Each pod has its own address and its own share of connections.
            let address = [127, 0, 1, u8::try_from(index + 1).unwrap()].into();
            for _ in 0..450 {
                sessions.push(async move {
                    let path = tenant.path("pods/far/exec?command=cat&stdin=true&container=c");
                    tenant.web_socket_from(address, &path).await
                });
            }
        }
        let sessions = futures::future::join_all(sessions).await;
        node.is_deaf.store(true, Ordering::Relaxed);
        let mut senders = JoinSet::new();
        for mut session in sessions.into_iter().flatten() {
            senders.spawn(async move {
                let input = vec![0; 64 << 10];
                while session.write_all(&input).await.is_ok() {}
            });
        }
        tokio::task::block_in_place(|| scene.wait_until_stable());
        senders.abort_all();
    });
    assert_used(&mut scene, &node, "a node that reads nothing");
    assert!(scene.refusals("node_connections") > 0);
}
