//! gRPC over one HTTP/2 connection: calls with one answer, and streams in both directions.
//!
//! A message on the wire is a byte for compression (never used here), its length in four bytes, and
//! the protobuf message
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).

use std::{convert::Infallible, time::Duration};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures::{StreamExt as _, channel::mpsc};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

/// The head of a message on the wire.
const HEAD_BYTES: usize = 5;
/// Longest message that is accepted. Pages of keys are far shorter.
const MESSAGE_BYTES_MAX: usize = 512 * 1024 * 1024;
/// A connection that says nothing is asked after this time. etcd refuses clients that ask more often
/// than each five seconds (`--grpc-keepalive-min-time`).
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// The connection counts as broken without an answer after this time.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Flow control windows of a stream and of the connection.
const WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// The code of a status that is not "OK".
/// (<https://grpc.io/docs/guides/status-codes/>)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Code(pub(crate) u32);

impl Code {
    pub(crate) const INVALID_ARGUMENT: Self = Self(3);
    pub(crate) const NOT_FOUND: Self = Self(5);
    pub(crate) const PERMISSION_DENIED: Self = Self(7);
    pub(crate) const RESOURCE_EXHAUSTED: Self = Self(8);
    pub(crate) const FAILED_PRECONDITION: Self = Self(9);
    pub(crate) const OUT_OF_RANGE: Self = Self(11);
    pub(crate) const UNAUTHENTICATED: Self = Self(16);

    /// Whether the server says with it that it has not done what was asked, and will not. The other
    /// codes leave that open.
    fn is_refusal(self) -> bool {
        [
            Self::INVALID_ARGUMENT,
            Self::NOT_FOUND,
            Self::PERMISSION_DENIED,
            Self::RESOURCE_EXHAUSTED,
            Self::FAILED_PRECONDITION,
            Self::OUT_OF_RANGE,
            Self::UNAUTHENTICATED,
        ]
        .contains(&self)
    }
}

/// The error of a call.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum RpcError {
    /// No endpoint could be reached, so nothing was sent.
    #[error("{0}")]
    Unreachable(String),
    /// The connection broke, or the answer is malformed.
    #[error("{0}")]
    Broken(String),
    /// There was no answer in time.
    #[error("no answer within {} s", .0.as_secs_f32())]
    TimedOut(Duration),
    /// The server refused or failed.
    #[error("{message} (code {})", .code.0)]
    Status {
        /// The code.
        code: Code,
        /// The server's words.
        message: String,
    },
}

impl RpcError {
    /// Whether the call has certainly had no effect and will have none.
    pub(crate) fn is_without_effect(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            Self::Broken(_) | Self::TimedOut(_) => false,
            Self::Status { code, .. } => code.is_refusal(),
        }
    }

    fn broken(error: impl std::fmt::Display) -> Self {
        Self::Broken(error.to_string())
    }
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A connection with a server.
#[derive(Clone, Debug)]
pub(crate) struct Channel {
    sender: SendRequest<Body>,
    /// Scheme and authority.
    base: String,
}

impl Channel {
    /// Begins HTTP/2 on a connection with the server at `base` (`https://host:port`).
    pub(crate) async fn over<S>(stream: S, base: String) -> Result<Self, RpcError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(2 * WINDOW_BYTES);
        let (sender, connection) = builder
            .handshake(TokioIo::new(stream))
            .await
            .map_err(RpcError::broken)?;
        tokio::spawn(async move {
            // Every call over it gets the error, too.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection with etcd broke");
            }
        });
        Ok(Self { sender, base })
    }

    /// Whether the connection has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    fn request(&self, path: &str, body: Body) -> Result<Request<Body>, RpcError> {
        Request::post(format!("{}{path}", self.base))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            // A member without a leader refuses at once, and ends its watches.
            .header("hasleader", "true")
            .body(body)
            .map_err(RpcError::broken)
    }

    /// A call with one message and one answer.
    pub(crate) async fn call(
        &self,
        path: &str,
        message: &[u8],
        limit: Duration,
    ) -> Result<Bytes, RpcError> {
        let request = self.request(path, Full::new(framed(message)).boxed_unsync())?;
        let mut sender = self.sender.clone();
        let exchange = async {
            let response = sender
                .send_request(request)
                .await
                .map_err(RpcError::broken)?;
            let (head, body) = response.into_parts();
            check(&head.headers)?;
            let body = body.collect().await.map_err(RpcError::broken)?;
            let trailers = body.trailers().cloned().unwrap_or_default();
            if trailers.is_empty() && !head.headers.contains_key("grpc-status") {
                return Err(RpcError::broken("an answer without a status"));
            }
            check(&trailers)?;
            let mut bytes = BytesMut::from(body.to_bytes());
            take(&mut bytes)?.ok_or_else(|| RpcError::broken("an answer without a message"))
        };
        let answer = tokio::time::timeout(limit, exchange).await;
        answer.unwrap_or(Err(RpcError::TimedOut(limit)))
    }

    /// A stream in both directions, which begins with `message`.
    pub(crate) async fn stream(
        &self,
        path: &str,
        message: &[u8],
        limit: Duration,
    ) -> Result<Stream, RpcError> {
        let (sending, messages) = mpsc::unbounded();
        let body = StreamBody::new(messages.map(|bytes| Ok(Frame::data(bytes))));
        let request = self.request(path, body.boxed_unsync())?;
        let first = sending.unbounded_send(framed(message));
        first.map_err(RpcError::broken)?;
        let mut sender = self.sender.clone();
        let response = tokio::time::timeout(limit, sender.send_request(request)).await;
        let response = response.map_err(|_| RpcError::TimedOut(limit))?;
        let (head, receiving) = response.map_err(RpcError::broken)?.into_parts();
        check(&head.headers)?;
        Ok(Stream {
            sending,
            receiving,
            received: BytesMut::new(),
        })
    }
}

/// Both directions of a stream. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Stream {
    sending: mpsc::UnboundedSender<Bytes>,
    receiving: Incoming,
    received: BytesMut,
}

impl Stream {
    /// Sends a message.
    ///
    /// *Errors.* The stream has ended.
    pub(crate) fn send(&self, message: &[u8]) -> Result<(), RpcError> {
        let sent = self.sending.unbounded_send(framed(message));
        sent.map_err(RpcError::broken)
    }

    /// The next message. May be cancelled without losing one.
    ///
    /// *Errors.* The server ended the stream, or the connection broke.
    pub(crate) async fn next(&mut self) -> Result<Bytes, RpcError> {
        loop {
            if let Some(message) = take(&mut self.received)? {
                return Ok(message);
            }
            let frame = self.receiving.frame().await;
            let frame = frame.ok_or_else(|| RpcError::broken("the stream ended"))?;
            match frame.map_err(RpcError::broken)?.into_data() {
                Ok(data) => self.received.extend_from_slice(&data),
                Err(other) => {
                    let trailers = other.into_trailers().unwrap_or_default();
                    check(&trailers)?;
                }
            }
        }
    }
}

/// The message with its head.
fn framed(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(HEAD_BYTES + message.len());
    framed.put_u8(0);
    // Longer messages are refused by the server long before.
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(message);
    framed.freeze()
}

/// Takes a complete message off the front.
pub(crate) fn take(received: &mut BytesMut) -> Result<Option<Bytes>, RpcError> {
    let Some((head, rest)) = received.split_first_chunk::<HEAD_BYTES>() else {
        return Ok(None);
    };
    let [compressed, length @ ..] = *head;
    let length = u32::from_be_bytes(length) as usize;
    if compressed != 0 || length > MESSAGE_BYTES_MAX {
        return Err(RpcError::broken(
            "a compressed message, or one that is too long",
        ));
    }
    if rest.len() < length {
        return Ok(None);
    }
    received.advance(HEAD_BYTES);
    Ok(Some(received.split_to(length).freeze()))
}

/// The status in headers or trailers; none counts as OK.
fn check(headers: &HeaderMap) -> Result<(), RpcError> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(status) = text("grpc-status").filter(|status| *status != "0") else {
        return Ok(());
    };
    Err(RpcError::Status {
        code: Code(status.parse().unwrap_or(2)),
        message: text("grpc-message").unwrap_or_default().to_owned(),
    })
}
