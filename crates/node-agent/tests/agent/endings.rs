//! The end of a stream is never delivered before its data: clients that disconnect directly after their
//! last byte, with every protocol and after several numbers of messages.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::SinkExt;
use json_tree::json;
use spdy::Frame;
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{Harness, PATIENCE};
use crate::pods::SLEEP;
use crate::spdy_client::{open, send, upgraded};
use crate::terminal::{Client, connect, dial, exec, finish};

/// Bytes per message.
const CHUNK: usize = 10_000;

/// Number of messages before the client disconnects: none, one, and more than the buffers of the connection
/// can hold.
const POINTS: [usize; 4] = [0, 1, 5, 30];

/// The protocols of exec and attach over WebSocket.
const PROTOCOLS: [&str; 5] = [
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
];

/// How a client disconnects.
#[derive(Clone, Copy, Debug)]
enum Leaving {
    /// With a close frame, and without reading.
    Close,
    /// The connection is closed without a close frame.
    Vanish,
}

const LEAVINGS: [Leaving; 2] = [Leaving::Close, Leaving::Vanish];

async fn leave(mut socket: Client, leaving: Leaving) {
    if let Leaving::Close = leaving {
        socket.send(Message::Close(None)).await.unwrap();
    }
}

/// A message for a channel.
fn message(protocol: &str, channel: u8, content: &[u8]) -> Message {
    match protocol.contains("base64") {
        true => {
            let digit = char::from(b'0' + channel);
            Message::text(format!("{digit}{}", STANDARD.encode(content)))
        }
        false => Message::binary([&[channel], content].concat()),
    }
}

async fn type_over_websocket(
    harness: &Harness,
    path: &str,
    (protocol, chunks, leaving): (&'static str, usize, Leaving),
) {
    let mut socket = dial(harness.node(), path, protocol).await;
    for _ in 0..chunks {
        let chunk = message(protocol, 0, &[b'x'; CHUNK]);
        socket.send(chunk).await.unwrap();
    }
    leave(socket, leaving).await;
}

async fn type_over_spdy(harness: &Harness, path: &str, chunks: usize) {
    let mut client = upgraded(harness, path).await;
    let kinds = ["error", "stdin", "stdout"].map(|kind| [("streamtype", kind)]);
    let kinds: Vec<&[(&str, &str)]> = kinds.iter().map(|kind| &kind[..]).collect();
    open(&mut client, &kinds).await;
    let data = vec![b'x'; CHUNK];
    for _ in 0..chunks {
        let frame = Frame::Data {
            stream: 3,
            fin: false,
            data: data.clone().into(),
        };
        send(&mut client, &frame).await;
    }
    client.flush().await.unwrap();
}

/// The size of a file in the container, after the command that writes the file has exited `ends` times.
async fn written(harness: &Harness, file: &str, ends: usize) -> usize {
    let script = format!(
        "until [ \"$(busybox wc -l < {file}.ends 2>/dev/null)\" = {ends} ]; do busybox usleep 10000; done; \
         busybox wc -c < {file}"
    );
    let asking = async {
        let command = exec(&["sh", "-c", &script], "stdout=true&stderr=true");
        finish(connect(harness.node(), &command).await).await
    };
    let (out, err, _) = tokio::time::timeout(PATIENCE, asking).await.unwrap();
    out.trim().parse().unwrap_or_else(|_| panic!("{out}{err}"))
}

// findings-2 K1
pub async fn a_command_gets_all_that_was_sent_and_then_its_end() {
    let harness = Harness::started("end-exec").await;
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [
        {"name": "c", "command": ["sh", "-c", SLEEP]}]});
    harness.pod("p", spec).await;
    harness.ready("p").await;
    let mut number = 0;
    let mut next = || {
        number += 1;
        // The client does not read the output of the command, and the command writes as much as it reads.
        let file = format!("/tmp/{number}");
        let script = format!("busybox tee {file}; echo end > {file}.ends");
        (file, exec(&["sh", "-c", &script], "stdin=true&stdout=true"))
    };
    for chunks in POINTS {
        for leaving in LEAVINGS {
            for protocol in PROTOCOLS {
                let (file, path) = next();
                type_over_websocket(&harness, &path, (protocol, chunks, leaving)).await;
                let got = written(&harness, &file, 1).await;
                assert_eq!(got, chunks * CHUNK, "{protocol} {leaving:?}");
            }
        }
        let (file, path) = next();
        type_over_spdy(&harness, &path, chunks).await;
        assert_eq!(written(&harness, &file, 1).await, chunks * CHUNK, "SPDY");
    }
    harness.end().await;
}

// findings-2 K1
pub async fn a_container_gets_all_that_who_was_attached_has_sent() {
    let harness = Harness::started("end-attach").await;
    // One container keeps its input open for the next client, the other closes its input after the first
    // client.
    let keeps = format!("busybox tee /tmp/all; {SLEEP}");
    let once = "busybox wc -c; echo over";
    harness
        .pod(
            "p",
            json!({"terminationGracePeriodSeconds": 1, "containers": [
                {"name": "c", "command": ["sh", "-c", keeps], "stdin": true}]}),
        )
        .await;
    harness.ready("p").await;
    let path = "/attach/default/p/c?stdin=true&stdout=true";
    let mut sent = 0;
    for chunks in POINTS {
        for leaving in LEAVINGS {
            for protocol in PROTOCOLS {
                type_over_websocket(&harness, path, (protocol, chunks, leaving)).await;
                sent += chunks * CHUNK;
            }
        }
        type_over_spdy(&harness, path, chunks).await;
        sent += chunks * CHUNK;
    }
    let script = format!(
        "until [ \"$(busybox wc -c < /tmp/all)\" = {sent} ]; do busybox usleep 10000; done; echo all"
    );
    let command = exec(&["sh", "-c", &script], "stdout=true");
    let socket = connect(harness.node(), &command).await;
    let asking = tokio::time::timeout(PATIENCE, finish(socket));
    assert_eq!(asking.await.unwrap().0, "all\n");
    for (name, leaving) in [("q", Leaving::Close), ("r", Leaving::Vanish)] {
        let spec = json!({"terminationGracePeriodSeconds": 1, "restartPolicy": "Never",
            "containers": [{"name": "c", "command": ["sh", "-c", once],
                "stdin": true, "stdinOnce": true}]});
        harness.pod(name, spec).await;
        harness.ready(name).await;
        let path = format!("/attach/default/{name}/c?stdin=true&stdout=true");
        let variant = ("v5.channel.k8s.io", 30, leaving);
        type_over_websocket(&harness, &path, variant).await;
        let expected = format!("{}\nover\n", 30 * CHUNK);
        harness.logged(name, "c", &expected).await;
    }
    harness.end().await;
}

// findings-2 K1
pub async fn a_port_gets_all_that_was_forwarded() {
    let harness = Harness::started("end-forward").await;
    let script = "cat >> /tmp/all; echo end >> /tmp/all.ends";
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [
        {"name": "c", "command": ["nc", "-ll", "-p", "80", "-e", "sh", "-c", script],
         "startupProbe": {"exec": {"command": ["sh", "-c", "busybox netstat -ltn | busybox grep -q :80"]}}}]});
    harness.pod("p", spec).await;
    harness.ready("p").await;
    let (mut sent, mut ends) = (0, 0);
    let pair =
        ["error", "data"].map(|kind| [("streamtype", kind), ("port", "80"), ("requestid", "0")]);
    let pair: Vec<&[(&str, &str)]> = pair.iter().map(|headers| &headers[..]).collect();
    for chunks in POINTS {
        let data = |stream| Frame::Data {
            stream,
            fin: false,
            data: vec![b'x'; CHUNK].into(),
        };
        for leaving in LEAVINGS {
            // SPDY inside a WebSocket.
            let protocol = "SPDY/3.1+portforward.k8s.io";
            let mut socket = dial(harness.node(), "/portForward/default/p", protocol).await;
            let mut frames = Vec::new();
            open(&mut frames, &pair).await;
            for _ in 0..chunks {
                send(&mut frames, &data(3)).await;
            }
            for part in frames.chunks(CHUNK) {
                socket.send(Message::binary(part.to_vec())).await.unwrap();
            }
            leave(socket, leaving).await;
            (sent, ends) = (sent + chunks * CHUNK, ends + 1);
            assert_eq!(
                written(&harness, "/tmp/all", ends).await,
                sent,
                "{leaving:?}"
            );
            // The WebSocket protocol with channels.
            let path = "/portForward/default/p?ports=80";
            let protocol = "v4.channel.k8s.io";
            type_over_websocket(&harness, path, (protocol, chunks, leaving)).await;
            (sent, ends) = (sent + chunks * CHUNK, ends + 1);
            assert_eq!(
                written(&harness, "/tmp/all", ends).await,
                sent,
                "{leaving:?}"
            );
        }
        // SPDY on the connection itself.
        let path = "/portForward/default/p";
        let mut client =
            crate::spdy_client::upgraded_to(&harness, path, "portforward.k8s.io").await;
        open(&mut client, &pair).await;
        for _ in 0..chunks {
            send(&mut client, &data(3)).await;
        }
        client.flush().await.unwrap();
        drop(client);
        (sent, ends) = (sent + chunks * CHUNK, ends + 1);
        assert_eq!(written(&harness, "/tmp/all", ends).await, sent, "SPDY");
    }
    harness.end().await;
}

// findings-2 K1: the opposite direction. The client still sends when the command exits, and receives all
// output of the command.
pub async fn a_client_that_still_sends_gets_all_output_and_the_status() {
    let harness = Harness::started("end-output").await;
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [
        {"name": "c", "command": ["sh", "-c", SLEEP]}]});
    harness.pod("p", spec).await;
    harness.ready("p").await;
    let script = "head -c 1 > /tmp/byte; head -c 300000 /dev/zero; exit 3";
    let path = exec(&["sh", "-c", script], "stdin=true&stdout=true");
    for _ in 0..5 {
        let socket = connect(harness.node(), &path).await;
        let (mut sink, messages) = futures::StreamExt::split(socket);
        let sending = tokio::spawn(async move {
            let chunk = || message("v5.channel.k8s.io", 0, &[b'x'; CHUNK]);
            while sink.send(chunk()).await.is_ok() {}
        });
        let reading = crate::terminal::finish_messages(messages);
        let (out, _, status) = tokio::time::timeout(PATIENCE, reading).await.unwrap();
        assert_eq!(out.len(), 300_000);
        assert_eq!(status["details"]["causes"][0]["message"], "3");
        sending.abort();
    }
    harness.end().await;
}
