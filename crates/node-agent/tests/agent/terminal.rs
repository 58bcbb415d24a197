//! exec and attach over WebSocket, as the API server forwards them.

use std::io::Error;
use std::pin::Pin;

use futures::{SinkExt, StreamExt};
use http::HeaderValue;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper_util::rt::TokioIo;
use json_tree::{Value, json};
use node_agent::{BoxBody, BoxError, NodeService};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tower::ServiceExt;

use crate::harness::Harness;
use crate::pods::SLEEP;

type Body = UnsyncBoxBody<bytes::Bytes, Error>;
type PendingResponse = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Error>> + Send>>;
pub type Client = WebSocketStream<DuplexStream>;

type NodeAnswer = Pin<Box<dyn Future<Output = Result<http::Response<BoxBody>, BoxError>> + Send>>;

fn ask(node: NodeService, request: http::Request<BoxBody>) -> NodeAnswer {
    Box::pin(node.oneshot(request))
}

/// A connection to the kubelet API that can be upgraded.
pub fn serve(node: NodeService) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let service = hyper::service::service_fn(move |request: hyper::Request<_>| {
        let request: http::Request<BoxBody> = request.map(|body: hyper::body::Incoming| {
            body.map_err(|error| -> BoxError { Box::new(error) })
                .boxed_unsync()
        });
        let response = ask(node.clone(), request);
        let converted: PendingResponse = Box::pin(async move {
            let response = response.await.map_err(Error::other)?;
            Ok(response.map(|body| body.map_err(Error::other).boxed_unsync()))
        });
        converted
    });
    tokio::spawn(async move {
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(theirs), service)
            .with_upgrades();
        connection.await.unwrap();
    });
    ours
}

/// A WebSocket to the kubelet API.
pub async fn dial(node: NodeService, path: &str, protocol: &'static str) -> Client {
    let mut request = format!("ws://node{path}").into_client_request().unwrap();
    let name = "Sec-WebSocket-Protocol"
        .parse::<http::HeaderName>()
        .unwrap();
    request
        .headers_mut()
        .insert(name, HeaderValue::from_static(protocol));
    let (socket, response) = tokio_tungstenite::client_async(request, serve(node))
        .await
        .unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], protocol);
    socket
}

pub async fn connect(node: NodeService, path: &str) -> Client {
    dial(node, path, "v5.channel.k8s.io").await
}

/// Output, errors and the final status.
pub async fn finish<S>(socket: WebSocketStream<S>) -> (String, String, Value)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    finish_messages(socket).await
}

/// Output, errors and the final status, from the receiving half of a connection.
pub async fn finish_messages(
    mut socket: impl futures::Stream<Item = Result<Message, tokio_tungstenite::tungstenite::Error>>
    + Unpin,
) -> (String, String, Value) {
    let (mut out, mut err, mut status) = (Vec::new(), Vec::new(), Value::Null);
    while let Some(Ok(message)) = socket.next().await {
        let Message::Binary(bytes) = message else {
            continue;
        };
        match bytes[0] {
            1 => out.extend_from_slice(&bytes[1..]),
            2 => err.extend_from_slice(&bytes[1..]),
            3 => status = serde_json::from_slice(&bytes[1..]).unwrap(),
            other => panic!("channel {other}"),
        }
    }
    (
        String::from_utf8(out).unwrap(),
        String::from_utf8(err).unwrap(),
        status,
    )
}

pub fn exec(words: &[&str], flags: &str) -> String {
    let encoded = |word: &str| -> String { word.bytes().map(|b| format!("%{b:02x}")).collect() };
    let words: Vec<String> = words
        .iter()
        .map(|word| format!("command={}", encoded(word)))
        .collect();
    format!("/exec/default/p/c?{}&{flags}", words.join("&"))
}

pub async fn commands_run_with_input_output_and_exit_code() {
    // kubectl.md 5.1–5.3
    let harness = Harness::started("terminal").await;
    let script = format!("echo begin; cat; {SLEEP}");
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [
        {"name": "c", "command": ["sh", "-c", script], "stdin": true}]});
    harness.pod("p", spec).await;
    harness.ready("p").await;

    let both = "stdout=true&stderr=true";
    let command = exec(&["sh", "-c", "echo out; echo err >&2; exit 3"], both);
    let (out, err, status) = finish(connect(harness.node(), &command).await).await;
    assert_eq!((out.as_str(), err.as_str()), ("out\n", "err\n"));
    assert_eq!(status["reason"], "NonZeroExitCode");
    assert_eq!(status["details"]["causes"][0]["message"], "3");

    let mut cat = connect(harness.node(), &exec(&["cat"], "stdin=true&stdout=true")).await;
    cat.send(Message::binary(b"\0hello\n".to_vec()))
        .await
        .unwrap();
    cat.send(Message::binary(vec![255, 0])).await.unwrap();
    let (out, _, status) = finish(cat).await;
    assert_eq!(
        (out.as_str(), &status["status"]),
        ("hello\n", &json!("Success"))
    );

    let older = dial(harness.node(), &command, "channel.k8s.io").await;
    let messages: Vec<_> = older.filter_map(async |m| m.ok()).collect().await;
    let texts: Vec<_> = messages.into_iter().map(Message::into_data).collect();
    assert!(texts.contains(&b"\x01out\n"[..].into()), "{texts:?}");
    let failure = b"\x03command terminated with non-zero exit code: exit status 3";
    assert!(texts.contains(&failure[..].into()), "{texts:?}");
    let mut text = dial(harness.node(), &command, "base64.channel.k8s.io").await;
    let first = text.next().await.unwrap().unwrap();
    assert!(first.is_text(), "{first:?}");
    for (protocol, expected) in [
        ("binary.k8s.io", "begin\n"),
        ("base64.binary.k8s.io", "YmVnaW4K"),
    ] {
        let log = "/containerLogs/default/p/c?follow=true";
        let mut log = dial(harness.node(), log, protocol).await;
        let chunk = log.next().await.unwrap().unwrap();
        assert_eq!(chunk.into_data(), expected);
    }

    let tty = exec(&["sh"], "stdin=true&stdout=true&tty=true");
    let mut shell = connect(harness.node(), &tty).await;
    shell
        .send(Message::binary(b"\x04{\"Width\":99,\"Height\":9}".to_vec()))
        .await
        .unwrap();
    shell
        .send(Message::binary(b"\0echo $((6*7)); exit\n".to_vec()))
        .await
        .unwrap();
    let (out, _, status) = finish(shell).await;
    assert!(out.contains("42\r\n"), "{out:?}");
    assert_eq!(status["status"], "Success");

    let (_, _, status) = finish(connect(harness.node(), &exec(&["/none"], both)).await).await;
    assert!(
        status["message"].as_str().unwrap().contains("/none"),
        "{status}"
    );

    let mut attached = connect(harness.node(), "/attach/default/p/c?stdin=true&stdout=true").await;
    attached
        .send(Message::binary(b"\0typed\n".to_vec()))
        .await
        .unwrap();
    let output = attached.next().await.unwrap().unwrap();
    assert_eq!(output.into_data().as_ref(), b"\x01typed\n");
    attached.close(None).await.unwrap();
    harness.logged("p", "c", "begin\ntyped\n").await;
    harness.end().await;
}

/// Starts a pod that prints two lines of its input. Returns the path for an attach.
pub(crate) async fn start_reader(harness: &Harness) -> &'static str {
    let script = "read first; echo got $first; read second; echo got $second; exit 3";
    let spec = json!({"terminationGracePeriodSeconds": 1, "restartPolicy": "Never",
        "containers": [{"name": "c", "command": ["sh", "-c", script], "stdin": true}]});
    harness.pod("p", spec).await;
    harness.ready("p").await;
    "/attach/default/p/c?stdin=true&stdout=true"
}

/// findings-2 I4: a client that attaches after the exit gets the final status of a client that was attached
/// before, and no output.
pub async fn who_attaches_after_the_end_hears_it_without_an_error() {
    let harness = Harness::started("attach-late").await;
    for (name, policy, script) in [
        ("well", "Never", "echo said"),
        ("ill", "Never", "echo said; exit 3"),
        // The container waits for its next start.
        ("again", "Always", "echo said; exit 3"),
    ] {
        let spec = json!({"terminationGracePeriodSeconds": 1, "restartPolicy": policy,
            "containers": [{"name": "c", "command": ["sh", "-c", script], "stdin": true}]});
        harness.pod(name, spec).await;
        harness.logged(name, "c", "said\n").await;
        // The clients attach at once, while the node processes the exit, and later.
        for _ in 0..20 {
            let path = format!("/attach/default/{name}/c?stdin=true&stdout=true");
            let mut late = connect(harness.node(), &path).await;
            // The container may have exited meanwhile.
            drop(late.send(Message::binary(b"\0typed\n".to_vec())).await);
            let (_, _, status) = finish(late).await;
            assert_eq!(status["status"], "Success", "{name} {status}");
        }
    }
    let ended = async {
        loop {
            let pod: kube_api_client::Api<k8s_openapi::api::core::v1::Pod> =
                kube_api_client::Api::namespaced(harness.client.clone(), "default");
            let status = pod.get("well").await.unwrap().status.unwrap();
            if status.phase.as_deref() == Some("Succeeded") {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(crate::harness::PATIENCE, ended)
        .await
        .unwrap();
    let path = "/attach/default/well/c?stdin=true&stdout=true";
    let (out, err, status) = finish(connect(harness.node(), path).await).await;
    assert_eq!((out.as_str(), err.as_str()), ("", ""));
    assert_eq!(status["status"], "Success", "{status}");
    // A container that the pod does not have is still an error.
    let none = "/attach/default/well/none?stdout=true";
    assert_eq!(refused(harness.node(), none).await, 400);
    let exec = exec(&["true"], "stdout=true").replace("/p/", "/well/");
    assert_eq!(refused(harness.node(), &exec).await, 400);
    harness.end().await;
}

/// findings-2 I4: `kubectl run -i` reads the log and then attaches. The lines in between are sent exactly
/// once.
pub async fn who_has_just_read_the_log_hears_what_was_said_since() {
    let harness = Harness::started("attach-gap").await;
    let wait = |file: &str| format!("until [ -e {file} ]; do busybox usleep 10000; done");
    let script = format!(
        "echo begin; {}; echo said; echo bad >&2; touch /tmp/said; {}",
        wait("/tmp/go"),
        wait("/tmp/end")
    );
    let spec = json!({"terminationGracePeriodSeconds": 1, "restartPolicy": "Never",
        "containers": [{"name": "c", "command": ["sh", "-c", script]}]});
    harness.pod("p", spec).await;
    harness.ready("p").await;
    let run = async |script: String| {
        let command = exec(&["sh", "-c", &script], "stdout=true");
        finish(connect(harness.node(), &command).await).await
    };
    harness.logged("p", "c", "begin\n").await;
    run(format!("touch /tmp/go; {}", wait("/tmp/said"))).await;
    let path = "/attach/default/p/c?stdout=true&stderr=true";
    let mut first = connect(harness.node(), path).await;
    for expected in [&b"\x01said\n"[..], b"\x02bad\n"] {
        let message = first.next().await.unwrap().unwrap();
        assert_eq!(message.into_data().as_ref(), expected);
    }
    // Another client does not receive the lines again.
    let second = connect(harness.node(), path).await;
    run("touch /tmp/end".to_owned()).await;
    for socket in [first, second] {
        let (out, err, status) = finish(socket).await;
        assert_eq!((out.as_str(), err.as_str()), ("", ""));
        assert_eq!(status["status"], "Success");
    }
    harness.end().await;
}

/// The status code of a response that is no upgrade.
async fn refused(node: NodeService, path: &str) -> u16 {
    let request = format!("ws://node{path}").into_client_request().unwrap();
    match tokio_tungstenite::client_async(request, serve(node)).await {
        Err(tokio_tungstenite::tungstenite::Error::Http(response)) => response.status().as_u16(),
        other => panic!("{other:?}"),
    }
}

pub async fn who_is_attached_hears_the_end_without_an_error() {
    let harness = Harness::started("attach").await;
    let path = start_reader(&harness).await;
    // findings C3: the input of the container stays open when the client closes its input.
    let mut first = connect(harness.node(), path).await;
    first
        .send(Message::binary(b"\0one\n".to_vec()))
        .await
        .unwrap();
    let output = first.next().await.unwrap().unwrap();
    assert_eq!(output.into_data().as_ref(), b"\x01got one\n");
    first.send(Message::binary(vec![255, 0])).await.unwrap();
    let (_, _, status) = finish(first).await;
    assert_eq!(status["status"], "Success", "{status}");
    // findings C2: the exit of the container is no error of the attach, even with a nonzero code.
    let mut second = connect(harness.node(), path).await;
    second
        .send(Message::binary(b"\0two\n".to_vec()))
        .await
        .unwrap();
    let (out, _, status) = finish(second).await;
    assert_eq!(
        (out.as_str(), &status["status"]),
        ("got two\n", &json!("Success"))
    );
    harness.end().await;
}
