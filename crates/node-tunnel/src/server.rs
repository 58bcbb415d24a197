//! The API server's end of a tunnel.

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Empty;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::rt::{Executor, Read, Write};
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_util::sync::CancellationToken;

use crate::{RESPONSE_LIMIT, SILENCE, STREAM_BYTES, TARGET, TUNNEL_BYTES, UNSENT_BYTES};

/// A connection to the node's kubelet API.
pub type NodeStream = TokioIo<Upgraded>;

/// The reason why a connection through a tunnel failed.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The tunnel has ended.
    #[error("the tunnel has ended")]
    Ended(#[from] hyper::Error),
    /// The node cannot connect to its kubelet API.
    #[error("the node does not reach its own API: status {0}")]
    Refused(StatusCode),
}

/// A tunnel to a node. Clones share the tunnel.
#[derive(Clone, Debug)]
pub struct Tunnel {
    sender: SendRequest<Empty<Bytes>>,
}

/// Starts a tunnel over the connection that a node has opened. The tunnel exists while the returned future
/// is polled, and ends with the future.
///
/// # Errors
/// The connection has ended.
pub async fn open<S>(
    connection: S,
) -> Result<
    (
        Tunnel,
        impl Future<Output = Result<(), hyper::Error>> + Send,
    ),
    hyper::Error,
>
where
    S: Read + Write + Unpin + Send + 'static,
{
    let ended = CancellationToken::new();
    let end = ended.clone().drop_guard();
    let (sender, running) = Builder::new(UntilEnd(ended))
        .timer(TokioTimer::new())
        .keep_alive_interval(SILENCE)
        .keep_alive_timeout(RESPONSE_LIMIT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_BYTES)
        .initial_connection_window_size(TUNNEL_BYTES)
        .max_send_buf_size(UNSENT_BYTES)
        .handshake(connection)
        .await?;
    let running = async move {
        let _end = end;
        running.await
    };
    Ok((Tunnel { sender }, running))
}

/// Runs the tasks of a tunnel until it ends. Without this executor, `hyper` would wait for all open
/// streams.
#[derive(Clone)]
struct UntilEnd(CancellationToken);

impl<F> Executor<F> for UntilEnd
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        tokio::spawn(self.0.clone().run_until_cancelled_owned(task));
    }
}

impl Tunnel {
    /// Whether new connections are possible.
    pub fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// A new connection to the node's kubelet API.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect(&self) -> Result<NodeStream, ConnectError> {
        let mut request = Request::new(Empty::new());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = Uri::from_static(TARGET);
        let mut sender = self.sender.clone();
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        match response.status() {
            StatusCode::OK => Ok(TokioIo::new(hyper::upgrade::on(response).await?)),
            status => Err(ConnectError::Refused(status)),
        }
    }
}
