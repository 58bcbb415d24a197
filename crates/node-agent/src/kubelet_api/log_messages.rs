//! A log over a WebSocket, for clients that cannot follow a log in another way, such as browsers. The
//! subprotocols are `binary.k8s.io` and, in base64, `base64.binary.k8s.io`. The node ignores the client's
//! messages. When the client disconnects, the log ends.

use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use super::streams::{Socket, read_until_closed};

/// The WebSocket subprotocols of logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// No subprotocol: raw bytes.
    Unnamed,
    /// The bytes without an encoding.
    Binary,
    /// The bytes in base64, as text messages.
    Text,
}

impl Protocol {
    /// The subprotocols that have a name.
    pub const NAMED: [Self; 2] = [Self::Binary, Self::Text];

    /// The first offered subprotocol that is supported; `None` if the client offers subprotocols but none
    /// is supported.
    pub fn choose(offered: &[String]) -> Option<Self> {
        if offered.is_empty() {
            return Some(Self::Unnamed);
        }
        let named_protocol = |name: &String| {
            let mut named = Self::NAMED.into_iter();
            named.find(|protocol| protocol.name() == name)
        };
        offered.iter().find_map(named_protocol)
    }

    /// The name of the subprotocol; empty for `Unnamed`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unnamed => "",
            Self::Binary => "binary.k8s.io",
            Self::Text => "base64.binary.k8s.io",
        }
    }

    fn message(self, chunk: Bytes) -> Message {
        match self {
            Self::Unnamed | Self::Binary => Message::Binary(chunk),
            Self::Text => Message::text(STANDARD.encode(chunk)),
        }
    }
}

/// Sends the log until it ends or the client disconnects.
pub async fn send(socket: Socket, protocol: Protocol, mut log: mpsc::Receiver<io::Result<Bytes>>) {
    let (mut sink, mut messages) = socket.split();
    let transfer = async {
        while let Some(Ok(chunk)) = log.recv().await {
            if sink.send(protocol.message(chunk)).await.is_err() {
                return;
            }
        }
        if let Err(error) = sink.send(Message::Close(None)).await {
            tracing::debug!(%error, "the reader of a log has disconnected");
        }
    };
    let is_over = tokio::select! {
        () = transfer => true,
        () = async { while let Some(Ok(_)) = messages.next().await {} } => false,
    };
    if is_over {
        read_until_closed(&mut messages).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_bytes_or_text() {
        let choose = |offered: &[&str]| {
            let offered: Vec<String> = offered.iter().map(ToString::to_string).collect();
            Protocol::choose(&offered)
        };
        assert_eq!(choose(&[]), Some(Protocol::Unnamed));
        assert_eq!(choose(&["x", "base64.binary.k8s.io"]), Some(Protocol::Text));
        assert_eq!(choose(&["binary.k8s.io"]), Some(Protocol::Binary));
        assert_eq!(choose(&["v4.channel.k8s.io"]), None);
        let chunk = || Bytes::from_static(b"hi\n");
        assert_eq!(Protocol::Text.message(chunk()), Message::text("aGkK"));
        assert_eq!(
            Protocol::Binary.message(chunk()),
            Message::binary(b"hi\n".to_vec())
        );
    }
}
