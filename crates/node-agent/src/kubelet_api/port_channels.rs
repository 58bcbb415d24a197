//! Port-forward for clients that support WebSockets but not SPDY: `v4.channel.k8s.io`, also without a name, or in
//! base64 `v4.base64.channel.k8s.io`, with the ports in the query (`ports=80,443`).
//!
//! Each port has two channels, one for data and one for errors; the first message in each channel is the
//! number of the port as two bytes, the low byte first. There is one connection per port and WebSocket.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

use super::port_forward::{Pod, wait_delivered};
use super::session::{CHUNK_BYTES, OUTGOING_MAX};
use super::streams::{Protocol, Socket, read_until_closed, respond_to_close};

/// The WebSocket subprotocols of port forwarding, the preferred one first.
pub const PROTOCOLS: [Protocol; 2] = [Protocol::V4, Protocol::V4Text];

/// The subprotocol of a client; [`V4`](Protocol::V4) without its name if the client offers no subprotocol. `None` if
/// the client offers other subprotocols only.
pub fn choose(offered: &[String]) -> Option<Protocol> {
    if offered.is_empty() {
        cov_mark::hit!(findings_2_k3);
        return Some(Protocol::Unnamed);
    }
    let mut protocols = PROTOCOLS.into_iter();
    protocols.find(|protocol| offered.iter().any(|name| name == protocol.name()))
}

/// Maximum number of ports of one client: their channels are numbered by a byte.
const PORTS_MAX: usize = 64;

/// The reason why the query parameters name no ports.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortsError {
    #[error("invalid port {0:?}")]
    Invalid(String),
    #[error("query parameter \"ports\" is required")]
    Absent,
    #[error("more than {} ports", PORTS_MAX)]
    TooMany,
}

/// The requested ports. A parameter may contain several ports.
pub fn ports(parameters: &[(String, String)]) -> Result<Vec<u16>, PortsError> {
    let values = parameters.iter().filter(|(name, _)| name == "ports");
    let ports = values.flat_map(|(_, value)| value.split(','));
    let ports: Result<Vec<u16>, PortsError> = ports
        .map(|port| match port.parse() {
            Ok(port @ 1..) => Ok(port),
            _ => Err(PortsError::Invalid(port.to_owned())),
        })
        .collect();
    match ports {
        Ok(ports) if ports.is_empty() => Err(PortsError::Absent),
        Ok(ports) if ports.len() > PORTS_MAX => Err(PortsError::TooMany),
        ports => ports,
    }
}

/// Forwards until the client disconnects or all connections have closed. After a disconnect, the pod still
/// receives the data that the client has sent.
pub async fn serve(socket: Socket, protocol: Protocol, pod: Arc<Pod>, ports: Vec<u16>) {
    let (sink, mut messages) = socket.split();
    let disconnected = CancellationToken::new();
    let (sender, outgoing) = mpsc::channel(OUTGOING_MAX);
    let mut inputs = Vec::new();
    let mut connections = JoinSet::new();
    for (channel, port) in (0u8..).step_by(2).zip(ports) {
        let (input, receiver) = mpsc::channel(OUTGOING_MAX);
        inputs.push(Some(input));
        let port = Port {
            channel,
            port,
            protocol,
            to: sender.clone(),
            disconnected: disconnected.clone(),
        };
        connections.spawn(port.forward(pod.clone(), receiver));
    }
    drop(sender);
    let input = async {
        forward_inputs(&mut messages, protocol, inputs).await;
        disconnected.cancel();
        wait_delivered(&mut connections).await;
    };
    let is_over = tokio::select! {
        () = send(sink, outgoing) => true,
        () = input => false,
    };
    if is_over {
        read_until_closed(&mut messages).await;
    }
}

async fn send(mut sink: SplitSink<Socket, Message>, mut messages: mpsc::Receiver<Message>) {
    let mut is_connected = true;
    while let Some(message) = messages.recv().await {
        // After a failed send, messages are dropped, so that a client that does not read does not block the
        // loop.
        is_connected = is_connected && sink.send(message).await.is_ok();
    }
    if let Err(error) = sink.send(Message::Close(None)).await {
        tracing::debug!(%error, "forwarding client left");
    }
}

async fn forward_inputs(
    messages: &mut SplitStream<Socket>,
    protocol: Protocol,
    mut inputs: Vec<Option<mpsc::Sender<Bytes>>>,
) {
    while let Some(Ok(message)) = messages.next().await {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => text.into(),
            Message::Close(_) => return respond_to_close(messages),
            _ => continue,
        };
        let Some((channel, bytes)) = protocol.content(bytes) else {
            continue;
        };
        // Clients do not send on error channels.
        if channel % 2 != 0 {
            continue;
        }
        let input = inputs.get_mut(usize::from(channel / 2));
        if let Some(slot) = input
            && let Some(input) = slot
            && input.send(bytes).await.is_err()
        {
            *slot = None;
        }
    }
}

/// One port of a client.
struct Port {
    channel: u8,
    port: u16,
    protocol: Protocol,
    to: mpsc::Sender<Message>,
    /// Cancelled when the client has disconnected.
    disconnected: CancellationToken,
}

impl Port {
    async fn forward(self, pod: Arc<Pod>, input: mpsc::Receiver<Bytes>) {
        for channel in [self.channel, self.channel + 1] {
            if !self.send(channel, &self.port.to_le_bytes()).await {
                return;
            }
        }
        match pod.connect(self.port).await {
            Ok(connection) => self.copy(connection, input).await,
            Err(error) => {
                let text = pod.failure(self.port, &error);
                self.send(self.channel + 1, text.as_bytes()).await;
            }
        }
    }

    async fn send(&self, channel: u8, bytes: &[u8]) -> bool {
        let message = self.protocol.message(channel, bytes);
        self.to.send(message).await.is_ok()
    }

    async fn copy(&self, connection: TcpStream, mut client_data: mpsc::Receiver<Bytes>) {
        let (mut from_pod, mut to_pod) = connection.into_split();
        let input = async {
            while let Some(bytes) = client_data.recv().await {
                if to_pod.write_all(&bytes).await.is_err() {
                    break;
                }
            }
            if let Err(error) = to_pod.shutdown().await {
                tracing::debug!(%error, "end of a forwarding client not passed on");
            }
            self.disconnected.cancelled().await;
        };
        let output = async {
            let mut buffer = BytesMut::with_capacity(CHUNK_BYTES);
            while let Ok(1..) = from_pod.read_buf(&mut buffer).await
                && self.send(self.channel, &buffer).await
            {
                buffer.clear();
            }
        };
        tokio::select! {
            () = input => {}
            () = output => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// findings-2 K3.
    #[test]
    fn a_client_without_a_subprotocol_is_served() {
        cov_mark::check!(findings_2_k3);
        let choose = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            choose(&names)
        };
        assert_eq!(choose(&[]), Some(Protocol::Unnamed));
        let text = "v4.base64.channel.k8s.io";
        assert_eq!(choose(&[text]), Some(Protocol::V4Text));
        assert_eq!(choose(&[text, "v4.channel.k8s.io"]), Some(Protocol::V4));
        assert_eq!(choose(&["channel.k8s.io"]), None);
    }

    #[test]
    fn ports_come_in_one_parameter_or_several() {
        // kubectl.md 5.6
        let parse = |values: &[&str]| {
            let pair = |value: &&str| ("ports".to_owned(), (*value).to_owned());
            ports(&values.iter().map(pair).collect::<Vec<_>>())
        };
        assert_eq!(parse(&["80,443", "8080"]), Ok(vec![80, 443, 8080]));
        for invalid in [&[][..], &["0"], &["x"], &["80,"], &["70000"]] {
            assert!(parse(invalid).is_err(), "{invalid:?}");
        }
    }
}
