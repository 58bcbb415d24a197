//! A session's streams over a WebSocket: `v5.channel.k8s.io`, `v4.channel.k8s.io` and the older
//! `channel.k8s.io` (kubectl.md 5.2).
//!
//! The first byte of each binary message is the number of its channel: 0 input, 1 output, 2 errors, 3 the
//! final status, 4 the terminal's size; in version 5 also 255, which closes the channel whose number is the
//! next byte. Before version 4, only a failure has a status, which is a text.
//!
//! For text-only clients (`v4.base64.channel.k8s.io`, `base64.channel.k8s.io`) the number is a digit, and
//! the rest is in base64.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{FutureExt, SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use json_tree::Value;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::session::{
    self, CLOSING_MAX, ClientMessage, FromClient, Output, SessionState, SessionStreams, ToClient,
    terminal_size,
};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// The WebSocket of a client of `exec` or `attach`.
pub type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// The subprotocols, the newest last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// No subprotocol: as [`V1`](Self::V1).
    Unnamed,
    /// As [`V1`](Self::V1), but in base64.
    V1Text,
    /// The status is a text.
    V1,
    /// As [`V4`](Self::V4), but in base64.
    V4Text,
    /// The status is a JSON object. Single channels cannot be closed.
    V4,
    /// Single channels can be closed.
    V5,
}

impl Protocol {
    /// The subprotocols that have a name, the oldest first.
    pub const NAMED: [Self; 5] = [Self::V1Text, Self::V1, Self::V4Text, Self::V4, Self::V5];

    /// The newest offered subprotocol; `None` if the client offers subprotocols but none is supported.
    pub fn choose<'a>(mut offered: impl Iterator<Item = &'a str>) -> Option<Self> {
        let protocol_named = |name: &str| {
            Self::NAMED
                .into_iter()
                .find(|protocol| protocol.name() == name)
        };
        let Some(first_name) = offered.next() else {
            return Some(Self::Unnamed);
        };
        std::iter::once(first_name)
            .chain(offered)
            .filter_map(protocol_named)
            .max()
    }

    /// The name of the subprotocol; empty for `Unnamed`.
    pub fn name(self) -> &'static str {
        match self {
            Self::V5 => "v5.channel.k8s.io",
            Self::V4 => "v4.channel.k8s.io",
            Self::V4Text => "v4.base64.channel.k8s.io",
            Self::V1 => "channel.k8s.io",
            Self::V1Text => "base64.channel.k8s.io",
            Self::Unnamed => "",
        }
    }

    fn is_text(self) -> bool {
        matches!(self, Self::V4Text | Self::V1Text)
    }

    /// A message with the content of a channel.
    pub fn message(self, channel: u8, content: &[u8]) -> Message {
        if self.is_text() {
            let digit = char::from(b'0' + channel);
            return Message::text(format!("{digit}{}", STANDARD.encode(content)));
        }
        let mut bytes = Vec::with_capacity(1 + content.len());
        bytes.push(channel);
        bytes.extend_from_slice(content);
        Message::binary(bytes)
    }

    /// The channel and the content of a message; `None` if the message is malformed.
    pub fn content(self, mut message: Bytes) -> Option<(u8, Bytes)> {
        let channel = *message.first()?;
        let content = message.split_off(1);
        if !self.is_text() {
            return Some((channel, content));
        }
        let channel = channel.checked_sub(b'0')?;
        Some((channel, STANDARD.decode(content).ok()?.into()))
    }

    /// The final message. Before version 4, a success has no final message.
    fn final_message(self, status: &Value) -> Option<Message> {
        match self {
            Self::V5 | Self::V4 | Self::V4Text => {
                Some(self.message(ERROR, status.to_string().as_bytes()))
            }
            Self::V1 | Self::V1Text | Self::Unnamed => {
                let failure = status["message"].as_str()?;
                Some(self.message(ERROR, failure.as_bytes()))
            }
        }
    }
}

/// The WebSocket at the server's end of an upgraded connection.
pub async fn socket(connection: Upgraded) -> Socket {
    WebSocketStream::from_raw_socket(TokioIo::new(connection), Role::Server, None).await
}

/// Runs a session until it ends or the client disconnects; the final status has the command's exit
/// code if `exit_code` is set.
pub async fn run(
    socket: Socket,
    protocol: Protocol,
    requested: SessionStreams,
    session: SessionState,
    exit_code: bool,
) {
    let (sink, stream) = socket.split();
    let mut from_client = ClientMessages { stream, protocol };
    let to_client = OutputMessages {
        sink: Mutex::new(sink),
        protocol,
    };
    let status = session::run(session, requested, exit_code, &mut from_client, &to_client).await;
    if let Some(status) = status {
        to_client.finish(&status).await;
        read_until_closed(&mut from_client.stream).await;
    }
}

/// After the end of the session, reads the client's messages until the client closes the connection, up to
/// a limit.
pub(super) async fn read_until_closed(stream: &mut SplitStream<Socket>) {
    let reading = timeout(CLOSING_MAX, async {
        while let Some(Ok(_)) = stream.next().await {}
    });
    if reading.await.is_err() {
        tracing::debug!("a client leaves its connection open after the end");
    }
}

/// Sends the response to the client's close frame, if the connection accepts it without waiting: a client
/// may wait for the response.
pub(super) fn respond_to_close(stream: &mut SplitStream<Socket>) {
    // The next read also writes the response.
    drop(stream.next().now_or_never());
}

/// The client's messages.
struct ClientMessages {
    stream: SplitStream<Socket>,
    protocol: Protocol,
}

impl FromClient for ClientMessages {
    async fn next(&mut self) -> Option<ClientMessage> {
        while let Some(Ok(message)) = self.stream.next().await {
            if let Message::Close(_) = message {
                respond_to_close(&mut self.stream);
                return None;
            }
            if let Some(message) = client_message(message, self.protocol) {
                return Some(message);
            }
        }
        None
    }
}

/// The messages to the client.
struct OutputMessages {
    sink: Mutex<SplitSink<Socket, Message>>,
    protocol: Protocol,
}

impl ToClient for OutputMessages {
    async fn send(&self, output: Output, bytes: Bytes) -> bool {
        let channel = match output {
            Output::Stdout => STDOUT,
            Output::Stderr => STDERR,
        };
        self.write(self.protocol.message(channel, &bytes)).await
    }
}

impl OutputMessages {
    async fn write(&self, message: Message) -> bool {
        let result = self.sink.lock().await.send(message).await;
        result
            .inspect_err(
                |error| tracing::debug!(%error, "the client of a session has disconnected"),
            )
            .is_ok()
    }

    async fn finish(&self, status: &Value) {
        // Clients keep the data that they have read only after a normal close (RFC 6455 §7.4.1).
        let close_frame = CloseFrame {
            code: CloseCode::Normal,
            reason: Utf8Bytes::default(),
        };
        let messages = self.protocol.final_message(status);
        for message in messages
            .into_iter()
            .chain([Message::Close(Some(close_frame))])
        {
            if !self.write(message).await {
                return;
            }
        }
    }
}

/// Decodes a message; `None` if the message has no meaning for the session.
pub(super) fn client_message(message: Message, protocol: Protocol) -> Option<ClientMessage> {
    let bytes: Bytes = match message {
        Message::Binary(bytes) => bytes,
        Message::Text(text) => text.into(),
        _ => return None,
    };
    let (channel, content) = protocol.content(bytes)?;
    match (channel, protocol) {
        (STDIN, _) => Some(ClientMessage::Input(content)),
        (RESIZE, _) => terminal_size(&content).map(ClientMessage::Size),
        (CLOSE, Protocol::V5) if content.first() == Some(&STDIN) => Some(ClientMessage::InputEnds),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use container_runtime::spec::TerminalSize;

    use super::super::session::final_status;
    use super::*;

    #[test]
    fn the_newest_protocol_is_chosen() {
        // kubectl.md 5.1
        let choose = |list: &[&str]| Protocol::choose(list.iter().copied());
        assert_eq!(
            choose(&["v4.channel.k8s.io", "v5.channel.k8s.io"]),
            Some(Protocol::V5)
        );
        assert_eq!(
            choose(&["channel.k8s.io", "v4.channel.k8s.io"]),
            Some(Protocol::V4)
        );
        assert_eq!(choose(&["SPDY/3.1"]), None);
        let text_protocols = ["base64.channel.k8s.io", "v4.base64.channel.k8s.io"];
        assert_eq!(choose(&text_protocols), Some(Protocol::V4Text));
        assert_eq!(choose(&["channel.k8s.io"]), Some(Protocol::V1));
        assert_eq!(choose(&[]), Some(Protocol::Unnamed));
    }

    #[test]
    fn text_has_digits_and_base64() {
        for protocol in Protocol::NAMED {
            let message = protocol.message(RESIZE, br#"{"Width":80,"Height":24}"#);
            let size = TerminalSize {
                width: 80,
                height: 24,
            };
            assert_eq!(
                client_message(message, protocol),
                Some(ClientMessage::Size(size))
            );
        }
        assert_eq!(
            Protocol::V1Text.message(STDOUT, b"hi\n"),
            Message::text("1aGkK")
        );
        assert_eq!(client_message(Message::text("0a"), Protocol::V4Text), None);
        assert_eq!(
            client_message(Message::text("!aGkK"), Protocol::V4Text),
            None
        );
    }

    #[test]
    fn the_first_version_reports_failures_only() {
        let final_message = |status: &Value| Protocol::V1.final_message(status);
        assert_eq!(final_message(&final_status(Some(0), true)), None);
        let content = b"\x03command terminated with non-zero exit code: exit status 3";
        assert_eq!(
            final_message(&final_status(Some(3), true)),
            Some(Message::binary(content.to_vec()))
        );
    }
}
