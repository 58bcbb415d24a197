//! A watch over a WebSocket (RFC 6455): the response 101, then a message for each event.
//!
//! Clients in Java and browsers watch so. An event in JSON is a text message, an event in protobuf is a binary message,
//! as kube-apiserver sends them. Messages of the client are ignored, except for pings and the close frame.

use std::pin::pin;

use bytes::{Buf, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{FutureExt, SinkExt, StreamExt};
use http::header::{
    CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::request::Parts;
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use hyper::rt::Executor;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use object_model::Status;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tokio_util::sync::CancellationToken;

use crate::http::body::{BoxBody, Segments, boxed};
use crate::http::connection::Connection;
use crate::http::limits::{
    WATCH_BATCH_BYTES, WEB_SOCKET_CLOSING_MAX, WEB_SOCKET_MESSAGE_BYTES_MAX, WEB_SOCKET_READ_BYTES,
};
use crate::http::work::Tasks;

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// A request to upgrade the connection to a WebSocket.
pub(crate) struct WebSocketUpgrade {
    accept: HeaderValue,
    protocol: Option<HeaderValue>,
    upgraded: OnUpgrade,
    /// Cancelled when the connection must close at once.
    close: CancellationToken,
}

impl WebSocketUpgrade {
    /// The upgrade that the request asks for; `None` for an ordinary request.
    ///
    /// *Errors.* 400 for a request without the key or the version of RFC 6455.
    pub(crate) fn from_request(parts: &Parts) -> Result<Option<Self>, Status> {
        let headers = &parts.headers;
        if !has_token(headers, &UPGRADE, "websocket") || !has_token(headers, &CONNECTION, "upgrade")
        {
            return Ok(None);
        }
        // Neither HTTP/2 nor a component of this process can upgrade.
        let Some(upgraded) = parts.extensions.get::<OnUpgrade>().cloned() else {
            return Ok(None);
        };
        if headers
            .get(SEC_WEBSOCKET_VERSION)
            .is_none_or(|version| version != "13")
        {
            return Err(Status::bad_request("Sec-WebSocket-Version must be 13"));
        }
        let key = headers.get(SEC_WEBSOCKET_KEY);
        let accept = key.map(|key| derive_accept_key(key.as_bytes()));
        let accept = accept.and_then(|accept| HeaderValue::from_str(&accept).ok());
        let missing = || Status::bad_request("Sec-WebSocket-Key is missing");
        let connection = parts.extensions.get::<Connection>();
        Ok(Some(Self {
            accept: accept.ok_or_else(missing)?,
            // A browser closes the connection if none of its subprotocols is accepted. No subprotocol changes the events.
            protocol: tokens(headers, &SEC_WEBSOCKET_PROTOCOL)
                .next()
                .and_then(|name| HeaderValue::from_str(name).ok()),
            upgraded,
            close: connection.map(|one| one.close.clone()).unwrap_or_default(),
        }))
    }

    /// The response to the upgrade; the events of `response` follow as messages, sent by a new task.
    pub(crate) fn accept(self, response: Response<BoxBody>, tasks: &Tasks) -> Response<BoxBody> {
        let (mut parts, body) = response.into_parts();
        parts.status = StatusCode::SWITCHING_PROTOCOLS;
        let content_type = parts.headers.remove(CONTENT_TYPE);
        let is_protobuf = content_type
            .as_ref()
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.starts_with("application/vnd.kubernetes.protobuf"));
        let headers = &mut parts.headers;
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, self.accept);
        if let Some(protocol) = self.protocol {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        let (upgraded, close) = (self.upgraded, self.close);
        let events = EventMessages::new(is_protobuf);
        tasks.execute(async move {
            match upgraded.await {
                Ok(connection) => {
                    let serving = serve(connection, body, events);
                    close.run_until_cancelled(serving).await;
                }
                Err(error) => tracing::debug!(%error, "connection of a watch not upgraded"),
            }
        });
        Response::from_parts(parts, boxed(Segments::new(Vec::new())))
    }
}

/// Sends the events until the watch ends or the client disconnects.
async fn serve(connection: Upgraded, body: BoxBody, events: EventMessages) {
    let config = WebSocketConfig::default()
        .max_message_size(Some(WEB_SOCKET_MESSAGE_BYTES_MAX))
        .max_frame_size(Some(WEB_SOCKET_MESSAGE_BYTES_MAX))
        .read_buffer_size(WEB_SOCKET_READ_BYTES)
        .write_buffer_size(WATCH_BATCH_BYTES);
    let connection = TokioIo::new(connection);
    let socket: Socket =
        WebSocketStream::from_raw_socket(connection, Role::Server, Some(config)).await;
    let (mut sink, mut stream) = socket.split();
    let has_ended = tokio::select! {
        () = read_until_closed(&mut stream) => false,
        sent = send(&mut sink, body, events) => sent.is_ok(),
    };
    if has_ended {
        let closing = timeout(WEB_SOCKET_CLOSING_MAX, read_until_closed(&mut stream));
        if closing.await.is_err() {
            tracing::debug!("a client leaves its connection open after the end of a watch");
        }
    }
}

async fn send(
    sink: &mut SplitSink<Socket, Message>,
    body: BoxBody,
    mut events: EventMessages,
) -> Result<(), tokio_tungstenite::tungstenite::Error> {
    let mut body = pin!(body);
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else {
            continue;
        };
        events.push(data);
        while let Some(message) = events.next() {
            sink.feed(message).await?;
        }
        sink.flush().await?;
    }
    let close = CloseFrame {
        code: CloseCode::Normal,
        reason: Utf8Bytes::default(),
    };
    sink.send(Message::Close(Some(close))).await
}

/// Reads and ignores messages. A read also responds to pings.
async fn read_until_closed(stream: &mut SplitStream<Socket>) {
    while let Some(Ok(message)) = stream.next().await {
        if message.is_close() {
            // The next read writes the response to the close frame.
            drop(stream.next().now_or_never());
            return;
        }
    }
}

/// Divides the bytes of a watch into messages.
struct EventMessages {
    is_protobuf: bool,
    /// Bytes after the last complete event.
    rest: Bytes,
}

impl EventMessages {
    fn new(is_protobuf: bool) -> Self {
        let rest = Bytes::new();
        Self { is_protobuf, rest }
    }

    fn push(&mut self, data: Bytes) {
        if self.rest.is_empty() {
            self.rest = data;
            return;
        }
        let mut joined = BytesMut::with_capacity(self.rest.len() + data.len());
        joined.extend_from_slice(&self.rest);
        joined.extend_from_slice(&data);
        self.rest = joined.freeze();
    }

    /// The next complete event.
    fn next(&mut self) -> Option<Message> {
        if self.is_protobuf {
            // The length comes first, in four bytes.
            let prefix = *self.rest.first_chunk::<4>()?;
            let length = usize::try_from(u32::from_be_bytes(prefix)).ok()?;
            if self.rest.len() - prefix.len() < length {
                return None;
            }
            self.rest.advance(prefix.len());
            return Some(Message::Binary(self.rest.split_to(length)));
        }
        // JSON has no line break inside an event.
        let end = memchr::memchr(b'\n', &self.rest)? + 1;
        let line = self.rest.split_to(end);
        cov_mark::hit!(findings_2_k2);
        Some(match Utf8Bytes::try_from(line.clone()) {
            Ok(text) => Message::Text(text),
            Err(_) => Message::Binary(line),
        })
    }
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|one| one.eq_ignore_ascii_case(token))
}

/// The elements of a header whose value is a list.
fn tokens<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    let values = headers.get_all(name).into_iter();
    let lists = values.filter_map(|value| value.to_str().ok());
    let elements = lists.flat_map(|list| list.split(',')).map(str::trim);
    elements.filter(|element| !element.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// findings-2 K2.
    #[test]
    fn each_event_is_a_message() {
        cov_mark::check!(findings_2_k2);
        let text = |line: &'static str| Message::Text(Utf8Bytes::from_static(line));
        let mut events = EventMessages::new(false);
        events.push(Bytes::from_static(b"{\"a\":1}\n{\"b\":2}\n{\"c\""));
        assert_eq!(events.next(), Some(text("{\"a\":1}\n")));
        assert_eq!(events.next(), Some(text("{\"b\":2}\n")));
        assert_eq!(events.next(), None);
        events.push(Bytes::from_static(b":3}\n"));
        assert_eq!(events.next(), Some(text("{\"c\":3}\n")));
        assert_eq!(events.next(), None);

        let mut events = EventMessages::new(true);
        events.push(Bytes::from_static(b"\0\0\0\x02ab\0\0"));
        assert_eq!(events.next(), Some(Message::Binary("ab".into())));
        assert_eq!(events.next(), None);
        events.push(Bytes::from_static(b"\0\x03cd"));
        assert_eq!(events.next(), None);
        events.push(Bytes::from_static(b"e"));
        assert_eq!(events.next(), Some(Message::Binary("cde".into())));
    }

    #[test]
    fn only_a_request_with_both_headers_asks_for_a_web_socket() {
        let request = |headers: &[(HeaderName, &'static str)]| {
            let mut request = http::Request::new(());
            for (name, value) in headers {
                let value = HeaderValue::from_static(value);
                request.headers_mut().append(name, value);
            }
            let headers = request.headers();
            has_token(headers, &UPGRADE, "websocket") && has_token(headers, &CONNECTION, "upgrade")
        };
        assert!(request(&[
            (UPGRADE, "WebSocket"),
            (CONNECTION, "keep-alive, Upgrade")
        ]));
        assert!(!request(&[(UPGRADE, "websocket")]));
        assert!(!request(&[(UPGRADE, "h2c"), (CONNECTION, "upgrade")]));
        assert!(!request(&[
            (UPGRADE, "websocket"),
            (CONNECTION, "upgraded")
        ]));
    }
}
