//! `exec` of older clients over SPDY, and port-forward over SPDY inside a WebSocket.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use json_tree::{Value, json};
use spdy::{Frame, Header, block, encode, parse_head, read_control};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::Harness;
use crate::terminal::{dial, exec, serve, start_reader};

/// Opens streams with their headers. The stream ids are 1, 3, 5, …
pub async fn open<C: AsyncWrite + Unpin>(client: &mut C, streams: &[&[(&str, &str)]]) {
    for (id, headers) in (1..).step_by(2).zip(streams) {
        let block = block(headers, id == 1).into();
        let (stream, fin) = (id, false);
        send(client, &Frame::Open { stream, fin, block }).await;
    }
}

pub async fn send<C: AsyncWrite + Unpin>(client: &mut C, frame: &Frame) {
    client.write_all(&encode(frame)).await.unwrap();
}

fn data(stream: u32, fin: bool, text: &'static str) -> Frame {
    let data = Bytes::from_static(text.as_bytes());
    Frame::Data { stream, fin, data }
}

/// The data of each stream, read until the streams `until` have ended.
async fn collect<C: AsyncRead + Unpin>(client: &mut C, until: &[u32]) -> BTreeMap<u32, String> {
    let mut texts: BTreeMap<u32, String> = BTreeMap::new();
    let mut ended = Vec::new();
    while !until.iter().all(|stream| ended.contains(stream)) {
        let mut head = [0; 8];
        client.read_exact(&mut head).await.unwrap();
        match parse_head(head).unwrap() {
            Header::Data {
                stream,
                fin,
                length,
            } => {
                let mut payload = vec![0; length];
                client.read_exact(&mut payload).await.unwrap();
                let text = texts.entry(stream).or_default();
                text.push_str(&String::from_utf8(payload).unwrap());
                ended.extend(fin.then_some(stream));
            }
            Header::Control {
                kind,
                flags,
                length,
            } => {
                let mut payload = vec![0; length];
                client.read_exact(&mut payload).await.unwrap();
                let frame = read_control(kind, flags, &payload.into()).unwrap();
                assert!(matches!(frame, Frame::Reply { .. }), "{frame:?}");
            }
        }
    }
    texts
}

/// A SPDY connection to the kubelet API.
pub async fn upgraded(harness: &Harness, path: &str) -> DuplexStream {
    upgraded_to(harness, path, "v4.channel.k8s.io").await
}

/// As [`upgraded`], with `newest` as the newest offered protocol.
pub async fn upgraded_to(harness: &Harness, path: &str, newest: &str) -> DuplexStream {
    let mut client = serve(harness.node());
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: node\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
         X-Stream-Protocol-Version: {newest}\r\n\
         X-Stream-Protocol-Version: v3.channel.k8s.io\r\nContent-Length: 0\r\n\r\n"
    );
    client.write_all(request.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    while !response.ends_with(b"\r\n\r\n") {
        response.push(client.read_u8().await.unwrap());
    }
    let response = String::from_utf8(response).unwrap().to_ascii_lowercase();
    assert!(response.starts_with("http/1.1 101"), "{response}");
    assert!(
        response.contains(&format!("x-stream-protocol-version: {newest}")),
        "{response}"
    );
    client
}

/// Opens streams of these kinds.
async fn open_kinds(client: &mut DuplexStream, kinds: &[&str]) {
    let headers: Vec<_> = kinds.iter().map(|kind| [("streamtype", *kind)]).collect();
    let headers: Vec<&[(&str, &str)]> = headers.iter().map(|header| &header[..]).collect();
    open(client, &headers).await;
}

pub async fn older_clients_run_commands() {
    // kubectl.md 5.1, 5.2
    let harness = Harness::started("spdy").await;
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [
        {"name": "c", "command": ["sh", "-c", crate::pods::SLEEP]}]});
    harness.pod("p", spec).await;
    harness.ready("p").await;
    let command = exec(
        &["sh", "-c", "cat; echo err >&2; exit 4"],
        "stdin=true&stdout=true&stderr=true",
    );
    let mut client = upgraded(&harness, &command).await;
    open_kinds(&mut client, &["error", "stdin", "stdout", "stderr"]).await;
    send(&mut client, &data(3, false, "typed\n")).await;
    send(&mut client, &data(3, true, "")).await;
    let texts = collect(&mut client, &[1, 5, 7]).await;
    assert_eq!(
        (texts[&5].as_str(), texts[&7].as_str()),
        ("typed\n", "err\n")
    );
    let status: Value = serde_json::from_str(&texts[&1]).unwrap();
    assert_eq!(status["details"]["causes"][0]["message"], "4");
    harness.end().await;
}

pub async fn older_clients_attach_and_hear_the_end_without_an_error() {
    let harness = Harness::started("spdy-attach").await;
    let path = start_reader(&harness).await;
    // findings C3: the end of the client's input ends the session, and the container continues.
    let mut first = upgraded(&harness, path).await;
    open_kinds(&mut first, &["error", "stdin", "stdout"]).await;
    send(&mut first, &data(3, false, "one\n")).await;
    send(&mut first, &data(3, true, "")).await;
    let status = collect(&mut first, &[1]).await[&1].clone();
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["status"], "Success", "{status}");
    // findings C2: the exit of the container is no error of the attach, even with a nonzero code.
    harness.logged("p", "c", "got one\n").await;
    let mut second = upgraded(&harness, path).await;
    open_kinds(&mut second, &["error", "stdin", "stdout"]).await;
    send(&mut second, &data(3, false, "two\n")).await;
    let texts = collect(&mut second, &[1, 5]).await;
    let status: Value = serde_json::from_str(&texts[&1]).unwrap();
    assert_eq!(
        (texts[&5].as_str(), &status["status"]),
        ("got two\n", &json!("Success"))
    );
    harness.end().await;
}

pub async fn ports_of_a_pod_are_forwarded() {
    // kubectl.md 5.6
    let harness = Harness::started("forward").await;
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [
        {"name": "c", "command": ["nc", "-ll", "-p", "80", "-e", "echo", "hello"],
         "readinessProbe": {"tcpSocket": {"port": 80}}}]});
    harness.pod("p", spec).await;
    harness.ready("p").await;
    let socket = dial(
        harness.node(),
        "/portForward/default/p",
        "SPDY/3.1+portforward.k8s.io",
    );
    let (mut sink, mut messages) = socket.await.split();
    let (mut client, ours) = tokio::io::duplex(1 << 16);
    let (mut reader, mut writer) = tokio::io::split(ours);
    tokio::spawn(async move {
        while let Some(Ok(Message::Binary(bytes))) = messages.next().await {
            writer.write_all(&bytes).await.unwrap();
        }
    });
    tokio::spawn(async move {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(count @ 1..) = reader.read(&mut buffer).await {
            let message = Message::binary(buffer[..count].to_vec());
            sink.send(message).await.unwrap();
        }
    });
    let pair = |port, id| {
        ["error", "data"].map(|kind| [("streamtype", kind), ("port", port), ("requestid", id)])
    };
    let (open_port, closed_port) = (pair("80", "0"), pair("81", "1"));
    let streams: Vec<&[(&str, &str)]> = open_port
        .iter()
        .chain(&closed_port)
        .map(|headers| &headers[..])
        .collect();
    open(&mut client, &streams).await;
    send(&mut client, &data(3, true, "")).await;
    let texts = collect(&mut client, &[1, 3, 5, 7]).await;
    assert_eq!(texts[&3], "hello\n", "{texts:?}");
    assert_eq!(texts[&1], "");
    assert!(
        texts[&5].starts_with("error forwarding port 81 to pod p, uid "),
        "{texts:?}"
    );

    // Clients without SPDY use channels instead.
    let path = "/portForward/default/p?ports=80,81";
    let mut socket = dial(harness.node(), path, "v4.channel.k8s.io").await;
    let mut channels: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
    while let Some(Ok(Message::Binary(bytes))) = socket.next().await {
        let channel = channels.entry(bytes[0]).or_default();
        channel.extend_from_slice(&bytes[1..]);
    }
    assert_eq!(
        (&channels[&0][..], &channels[&1][..]),
        (&b"\x50\0hello\n"[..], &b"\x50\0"[..])
    );
    assert!(
        channels[&3].starts_with(b"\x51\0error forwarding port 81"),
        "{channels:?}"
    );
    harness.end().await;
}
