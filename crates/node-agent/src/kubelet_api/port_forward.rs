//! `/portForward/{namespace}/{pod}` (kubectl.md 5.6): connections to ports inside a pod.
//!
//! Clients speak SPDY, either on the connection itself or inside a WebSocket's binary messages. For each
//! connection, a client opens two streams with equal `requestid`s: one for data, one for errors.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures::{SinkExt, StreamExt};
use host_kernel::block_in_place;
use http::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use object_model::{Status, Uid};
use pod_network::tcp_socket;
use spdy::{Stream, StreamReader, StreamWriter};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

use super::port_channels;
use super::query::parameters;
use super::response::{BoxBody, RequestTarget, error_status, uid_of};
use super::streams::{self, Protocol, Socket};
use super::upgrade::{Transport, accept, none_offered};
use crate::pods::pod_manager::PodManager;

const PROTOCOL: &str = "portforward.k8s.io";
const TUNNELLED: &str = "SPDY/3.1+portforward.k8s.io";

/// Maximum number of concurrent connections of one client.
const CONNECTIONS_MAX: usize = 512;

/// Maximum number of streams that wait for the second stream of their pair.
const UNPAIRED_MAX: usize = 64;

/// Bytes per read of a connection, and the buffer size of the tunnel through a WebSocket.
const CHUNK_BYTES: usize = 32 * 1024;

/// After a client has disconnected, the pod has this time to read the data that the client has sent.
pub const DELIVERY_MAX: Duration = Duration::from_secs(60);

/// Responds to the upgrade, then forwards until the client disconnects.
pub fn respond(
    pods: &PodManager,
    target: &RequestTarget<'_>,
    request: Request<BoxBody>,
) -> Result<Response<BoxBody>, Box<Status>> {
    let bad_request = |message: &str| error_status(StatusCode::BAD_REQUEST, message);
    let pod = Arc::new(block_in_place(|| Pod::find(pods, target))?);
    match Transport::from_request(&request)? {
        Transport::WebSocket(offered) if offered.iter().any(|name| name == TUNNELLED) => {
            accept(request, TUNNELLED, move |connection| async move {
                let (tunnel_end, session_end) = tokio::io::duplex(CHUNK_BYTES);
                let socket = streams::socket(connection).await;
                tokio::join!(tunnel(socket, tunnel_end), serve(session_end, pod));
            })
        }
        Transport::Spdy(offered) if offered.iter().any(|name| name == PROTOCOL) => {
            accept(request, PROTOCOL, move |connection| {
                serve(TokioIo::new(connection), pod)
            })
        }
        Transport::WebSocket(offered) => {
            let supported = || port_channels::PROTOCOLS.map(Protocol::name);
            let protocol = port_channels::choose(&offered);
            let protocol =
                protocol.ok_or_else(|| none_offered([TUNNELLED].into_iter().chain(supported())))?;
            let ports = port_channels::ports(&parameters(request.uri().query()));
            let ports = ports.map_err(|error| bad_request(&error.to_string()))?;
            accept(request, protocol.name(), move |connection| async move {
                let socket = streams::socket(connection).await;
                port_channels::serve(socket, protocol, pod, ports).await;
            })
        }
        Transport::Spdy(_) => Err(none_offered([PROTOCOL])),
    }
}

/// No connection to a port of the pod, with the error of the first address.
#[derive(Debug, thiserror::Error)]
#[error("connect to localhost:{port} inside the pod: {cause}")]
pub struct ConnectError {
    port: u16,
    cause: ConnectCause,
}

/// The reason why an address does not accept a connection.
#[derive(Debug, thiserror::Error)]
enum ConnectCause {
    #[error(transparent)]
    Namespace(#[from] pod_network::Error),
    #[error(transparent)]
    Socket(#[from] io::Error),
}

/// The pod whose ports are forwarded.
pub struct Pod {
    name: String,
    uid: Uid,
    /// The pod's network namespace; `None` for the host network.
    netns: Option<PathBuf>,
}

impl Pod {
    fn find(pods: &PodManager, target: &RequestTarget<'_>) -> Result<Self, Box<Status>> {
        let view = target.find(pods)?;
        let not_running_status = || {
            let message = format!(
                "unable to forward port because pod is not running: {}",
                target.pod
            );
            error_status(StatusCode::BAD_REQUEST, &message)
        };
        let sandbox = view.sandbox.as_ref().ok_or_else(not_running_status)?;
        Ok(Self {
            name: target.pod.to_owned(),
            uid: uid_of(&view)?,
            netns: sandbox.netns_path().map_err(|_| not_running_status())?,
        })
    }

    /// Connects to a port on the pod's `localhost`.
    pub async fn connect(&self, port: u16) -> Result<TcpStream, ConnectError> {
        let cause = match self.connect_to((Ipv4Addr::LOCALHOST, port).into()).await {
            Ok(connection) => return Ok(connection),
            Err(cause) => cause,
        };
        let connection = self.connect_to((Ipv6Addr::LOCALHOST, port).into()).await;
        connection.map_err(|_| ConnectError { port, cause })
    }

    async fn connect_to(&self, address: SocketAddr) -> Result<TcpStream, ConnectCause> {
        let socket = match (&self.netns, address.is_ipv6()) {
            (Some(path), ipv6) => tcp_socket(path, ipv6).await?,
            (None, true) => TcpSocket::new_v6()?,
            (None, false) => TcpSocket::new_v4()?,
        };
        Ok(socket.connect(address).await?)
    }

    /// The error for the client when the connection to the port fails.
    pub fn failure(&self, port: u16, error: &ConnectError) -> String {
        let Self { name, uid, .. } = self;
        format!("error forwarding port {port} to pod {name}, uid {uid}: {error}")
    }
}

/// Copies the bytes of a WebSocket's messages to `inner`, and the bytes of `inner` to the WebSocket.
async fn tunnel(socket: Socket, inner: DuplexStream) {
    let (mut sink, mut messages) = socket.split();
    let (mut reader, mut writer) = tokio::io::split(inner);
    let incoming = async move {
        while let Some(Ok(message)) = messages.next().await {
            let bytes = match message {
                Message::Binary(bytes) => bytes,
                Message::Close(_) => break,
                _ => continue,
            };
            if writer.write_all(&bytes).await.is_err() {
                break;
            }
        }
        if let Err(error) = writer.shutdown().await {
            tracing::debug!(%error, "end of a forwarding client not passed on");
        }
    };
    let outgoing = async move {
        let mut is_connected = true;
        loop {
            let mut buffer = BytesMut::with_capacity(CHUNK_BYTES);
            let message = match reader.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => Message::Close(None),
                Ok(_) => Message::Binary(buffer.freeze()),
            };
            let is_last = message.is_close();
            // After a failed send, messages are dropped, so that a client that does not read does not block
            // the loop.
            is_connected = is_connected && sink.send(message).await.is_ok();
            if is_last {
                return;
            }
        }
    };
    tokio::join!(incoming, outgoing);
}

/// Serves a client's streams. After a disconnect, the pod still receives the data that the client has sent.
async fn serve<I>(connection: I, pod: Arc<Pod>)
where
    I: AsyncRead + AsyncWrite + Send + 'static,
{
    let (mut opened, work) = spdy::serve(connection);
    let mut connections = JoinSet::new();
    let disconnected = CancellationToken::new();
    connections.spawn(async move {
        if let Err(error) = work.await {
            tracing::debug!(%error, "forwarding client left");
        }
    });
    let mut unpaired = BTreeMap::new();
    loop {
        let stream = tokio::select! {
            stream = opened.recv() => stream,
            Some(_) = connections.join_next() => continue,
        };
        let Some(stream) = stream else { break };
        if connections.len() > CONNECTIONS_MAX || unpaired.len() >= UNPAIRED_MAX {
            stream.split().1.reset().await;
            continue;
        }
        match pair(&mut unpaired, stream) {
            Ok(Some(pair)) => {
                connections.spawn(forward(pod.clone(), pair, disconnected.clone()));
            }
            Ok(None) => {}
            Err(invalid_stream) => {
                invalid_stream.split().1.reset().await;
            }
        }
    }
    drop(unpaired);
    disconnected.cancel();
    wait_delivered(&mut connections).await;
}

/// Waits until the pod has received all data of the client, up to a limit.
pub async fn wait_delivered(connections: &mut JoinSet<()>) {
    let delivery = async { while connections.join_next().await.is_some() {} };
    if timeout(DELIVERY_MAX, delivery).await.is_err() {
        tracing::debug!("a pod does not read the data of a forwarding client");
    }
}

/// The two streams of a connection.
struct Pair {
    port: u16,
    data: Stream,
    error: Stream,
}

/// Returns the pair of the stream if the second stream is open already; else stores the stream in
/// `unpaired`. Returns a stream with invalid headers as an error.
fn pair(unpaired: &mut BTreeMap<String, Stream>, stream: Stream) -> Result<Option<Pair>, Stream> {
    let kind = stream.header("streamtype").unwrap_or_default();
    let port = stream.header("port").and_then(|port| port.parse().ok());
    let (Some(port), "data" | "error") = (port.filter(|port| *port > 0), kind) else {
        return Err(stream);
    };
    let is_data = kind == "data";
    let id = match stream.header("requestid") {
        Some(id) => id.to_owned(),
        // Old clients open the error stream directly before the data stream.
        None if is_data => stream.id().saturating_sub(2).to_string(),
        None => stream.id().to_string(),
    };
    let Some(second_stream) = unpaired.remove(&id) else {
        unpaired.insert(id, stream);
        return Ok(None);
    };
    match (is_data, second_stream.header("streamtype")) {
        (true, Some("error")) => Ok(Some(Pair {
            port,
            data: stream,
            error: second_stream,
        })),
        (false, Some("data")) => Ok(Some(Pair {
            port,
            data: second_stream,
            error: stream,
        })),
        _ => {
            unpaired.insert(id, second_stream);
            Err(stream)
        }
    }
}

async fn forward(pod: Arc<Pod>, pair: Pair, disconnected: CancellationToken) {
    let (reader, writer) = pair.data.split();
    let (_, error) = pair.error.split();
    match pod.connect(pair.port).await {
        Ok(connection) => copy(connection, reader, &writer, &disconnected).await,
        Err(connect_error) => {
            error
                .write(pod.failure(pair.port, &connect_error).into())
                .await;
        }
    }
    writer.finish().await;
    error.finish().await;
}

/// Copies in both directions until the pod closes the connection. If the client closes its stream, the copy
/// continues until the client is `disconnected`.
async fn copy(
    connection: TcpStream,
    mut reader: StreamReader,
    writer: &StreamWriter,
    disconnected: &CancellationToken,
) {
    let (mut from_pod, mut to_pod) = connection.into_split();
    let input = async {
        while let Some(bytes) = reader.read().await {
            if to_pod.write_all(&bytes).await.is_err() {
                break;
            }
        }
        if let Err(error) = to_pod.shutdown().await {
            tracing::debug!(%error, "end of a forwarded connection not passed on");
        }
        disconnected.cancelled().await;
    };
    let output = async {
        loop {
            let mut buffer = BytesMut::with_capacity(CHUNK_BYTES);
            match from_pod.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            // If the client has disconnected, the data is dropped, so that the pod is not blocked by a full
            // buffer.
            writer.write(buffer.freeze()).await;
        }
    };
    tokio::select! {
        () = input => {}
        () = output => {}
    }
}
