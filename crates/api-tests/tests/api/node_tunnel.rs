//! Nodes that the server reaches only through their tunnels (docs/many-machines.md).

use std::net::SocketAddr;
use std::time::Duration;

use certificates::Authority;
use hyper_util::rt::TokioIo;
use json_tree::json;
use kube_api_server::{Limits, NodeConnection};
use node_tunnel::{PATH, PROTOCOL};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio_rustls::client::TlsStream;

use crate::harness::{Api, PODS};
use crate::network::{Served, get};
use crate::remote_nodes::{kubelet, put_node, serving, show};

/// A port without a listener.
async fn nobody() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().port()
}

fn upgrade_request() -> String {
    let headers = format!("Upgrade: {PROTOCOL}\r\n");
    get(PATH, &headers).replace("Connection: close", "Connection: Upgrade")
}

/// Opens a tunnel with the certificate of a node, to an API at a port of this machine.
async fn open_tunnel(served: &Served, node: &str, port: u16) -> AbortHandle {
    let user = format!("system:node:{node}");
    let identity = served.authority.client(&user, &["system:nodes"]).unwrap();
    let mut stream = served.connect(Some(&identity)).await;
    let head = head_of_response(&mut stream, &upgrade_request()).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let target = SocketAddr::from(([127, 0, 0, 1], port));
    let serving = async move { node_tunnel::serve(TokioIo::new(stream), target).await };
    tokio::spawn(serving).abort_handle()
}

async fn head_of_response(stream: &mut TlsStream<TcpStream>, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

fn dial_nodes(served: &Served) {
    let user = "kube-apiserver-kubelet-client";
    let client_certificate = served.authority.client(user, &[]).unwrap();
    show(&served.api, &served.authority, &client_certificate);
}

/// Requests a log of the node's pod until the response is as expected.
async fn wait_for_log(api: &Api, node: &str, code: u16, text: &str) {
    let path = format!("{PODS}/on-{node}/log");
    let mut last = String::new();
    for _ in 0..1200 {
        let response = api.raw("GET", &path, &[], "").await;
        last = response.text();
        if response.code == code && last.contains(text) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("no {code} with {text:?}: {last}");
}

async fn serve_kubelet(authority: &Authority, user: &str) -> u16 {
    let (certificate, key) = serving(authority, user);
    kubelet(authority, &certificate, &key).await
}

#[tokio::test]
async fn a_node_that_is_not_reached_is_asked_through_its_tunnel() {
    let served = Served::new(Limits::default()).await;
    let api = &served.api;
    api.with_account().await;
    dial_nodes(&served);
    put_node(api, "far", nobody().await).await;
    let log = format!("{PODS}/on-far/log");
    let response = api.raw("GET", &log, &[], "").await;
    assert_eq!(response.code, 503);
    let no_tunnel = "the node has no tunnel to this server";
    assert!(response.text().contains(no_tunnel), "{}", response.text());
    let reach = api.server.reach_node("far").await.unwrap();
    assert!(reach.connection.unwrap_err().contains(no_tunnel));
    let port = serve_kubelet(&served.authority, "system:node:far").await;
    let first = open_tunnel(&served, "far", port).await;
    // The node gets the certificate of the server, as over the network.
    let user = "kube-apiserver-kubelet-client: GET /containerLogs/default/on-far/c";
    wait_for_log(api, "far", 200, user).await;
    let upgrade = [("connection", "Upgrade"), ("upgrade", "test")];
    let exec = format!("{PODS}/on-far/exec?command=sh");
    assert_eq!(api.respond("POST", &exec, &upgrade, "").await.status(), 101);
    let metrics = api.raw("GET", "/metrics", &[], "").await.text();
    for line in [
        "mainstay_node_tunnels 1\n",
        "mainstay_node_connections_total{way=\"direct\",result=\"success\"} 0\n",
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
    let through = "mainstay_node_connections_total{way=\"tunnel\",result=\"success\"} ";
    let count = metrics.split_once(through).unwrap().1.lines().next();
    assert!(count.unwrap().parse::<u64>().unwrap() >= 2, "{metrics}");
    let reach = api.server.reach_node("far").await.unwrap();
    assert_eq!(reach.connection, Ok(NodeConnection::Tunnel));
    assert_eq!(api.server.reach_node("nobody").await, None);
    // A second tunnel opens, and the first closes: the node stays reachable.
    let second = open_tunnel(&served, "far", port).await;
    wait_for_log(api, "far", 200, user).await;
    first.abort();
    wait_for_log(api, "far", 200, user).await;
    second.abort();
    wait_for_log(api, "far", 503, no_tunnel).await;
}

/// A stolen certificate of one node cannot act for another node, neither by opening a tunnel nor inside of a tunnel.
#[tokio::test]
async fn a_tunnel_leads_to_its_own_node_only() {
    let served = Served::new(Limits::default()).await;
    let api = &served.api;
    api.with_account().await;
    dial_nodes(&served);
    put_node(api, "far", nobody().await).await;
    put_node(api, "near", nobody().await).await;
    let port = serve_kubelet(&served.authority, "system:node:near").await;
    open_tunnel(&served, "near", port).await;
    wait_for_log(api, "near", 200, "GET /containerLogs").await;
    wait_for_log(api, "far", 503, "the node has no tunnel").await;
    // With only a client certificate, the other end presents no certificate that the server accepts.
    open_tunnel(&served, "far", port).await;
    wait_for_log(api, "far", 503, "the certificate of another node").await;
}

#[tokio::test]
async fn others_than_nodes_open_no_tunnel() {
    let served = Served::new(Limits::default()).await;
    served
        .api
        .create("/api/v1/nodes", json!({"metadata": {"name": "far"}}))
        .await;
    let client = |name: &str, groups: &[&str]| served.authority.client(name, groups).unwrap();
    let request = upgrade_request();
    let plain = get(PATH, "");
    let node = || client("system:node:far", &["system:nodes"]);
    for (identity, request, expected) in [
        (None, &request, "401"),
        (Some(served.admin()), &request, "403"),
        (Some(client("system:node:far", &[])), &request, "403"),
        (
            Some(client("system:node:gone", &["system:nodes"])),
            &request,
            "404",
        ),
        (Some(node()), &plain, "400"),
        (Some(node()), &request.replace(PROTOCOL, "websocket"), "400"),
        (Some(node()), &request.replace("GET", "POST"), "403"),
        (Some(node()), &request.replace(PATH, "/mainstay.dev"), "403"),
        (Some(node()), &request, "101"),
    ] {
        let mut stream = served.connect(identity.as_ref()).await;
        let head = head_of_response(&mut stream, request).await;
        assert!(
            head.starts_with(&format!("HTTP/1.1 {expected} ")),
            "{request}{head}"
        );
    }
}
