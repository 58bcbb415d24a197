//! One HTTP/2 connection: calls with one response, and streams in both directions.

use std::{convert::Infallible, marker::PhantomData, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, channel::mpsc};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use percent_encoding::percent_decode_str;
use prost::Message;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};

use crate::framing::{HEAD_BYTES, framed, split_message};
use crate::{Code, Method, RpcError, StreamMethod, with_causes};

/// Timeout of the wait for the reason of a closed connection.
const REASON_TIME: Duration = Duration::from_millis(100);
/// Flow control windows of a stream and of the connection.
const WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// HTTP/2 pings on a silent connection. Servers close a connection with too many pings.
#[derive(Clone, Copy, Debug)]
pub struct KeepAlive {
    /// The time without received data after which a ping is sent.
    pub interval: Duration,
    /// The time without a response to a ping after which the connection counts as broken.
    pub timeout: Duration,
}

/// The settings that differ between gRPC servers.
#[derive(Clone, Copy, Debug)]
pub struct ChannelOptions {
    /// `None` if the kernel reports the end of a connection reliably, as on one machine.
    pub keep_alive: Option<KeepAlive>,
    /// Metadata (headers) of every request.
    pub headers: &'static [(&'static str, &'static str)],
    /// Maximum length of a response.
    pub message_bytes_max: usize,
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A connection to a server.
#[derive(Clone, Debug)]
pub struct Channel {
    sender: SendRequest<Body>,
    /// Scheme and authority.
    base: String,
    options: ChannelOptions,
    /// The error with which the connection ended; `None` if it is open or was closed without an error.
    ended: watch::Receiver<Option<String>>,
}

impl Channel {
    /// Starts HTTP/2 on a connection to the server at `base` (`https://host:port`).
    ///
    /// # Errors
    /// The handshake failed.
    pub async fn over<S>(stream: S, base: String, options: ChannelOptions) -> Result<Self, RpcError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(options.keep_alive.map(|keep| keep.interval))
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(2 * WINDOW_BYTES);
        if let Some(keep) = options.keep_alive {
            builder.keep_alive_timeout(keep.timeout);
        }
        let (sender, connection) = builder
            .handshake(TokioIo::new(stream))
            .await
            .map_err(RpcError::broken)?;
        let (ending, ended) = watch::channel(None);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                let reason = with_causes(&error);
                tracing::debug!(reason, "a connection of gRPC broke");
                ending.send_replace(Some(reason));
            }
        });
        Ok(Self {
            sender,
            base,
            options,
            ended,
        })
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    fn request(&self, path: &str, body: Body) -> Result<Request<Body>, RpcError> {
        let mut request = Request::post(format!("{}{path}", self.base))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in self.options.headers {
            request = request.header(*name, *value);
        }
        request.body(body).map_err(RpcError::broken)
    }

    /// The error of a request without a response. The connection may know the cause, such as the TLS alert
    /// with which the server refused the client's certificate.
    async fn broken(&self, error: &hyper::Error) -> RpcError {
        let mut ended = self.ended.clone();
        let reason = ended.wait_for(Option::is_some);
        let reason = match self.sender.is_closed() {
            true => tokio::time::timeout(REASON_TIME, reason).await.ok(),
            false => None,
        };
        let reason = reason.and_then(|reason| reason.ok()?.clone());
        RpcError::Broken(reason.unwrap_or_else(|| with_causes(error)))
    }

    /// A call with one request and one response.
    ///
    /// # Errors
    /// The server's status, the failure of the connection, or a malformed response.
    pub async fn call<Q: Message, A: Message + Default>(
        &self,
        method: Method<Q, A>,
        request: &Q,
        limit: Duration,
    ) -> Result<A, RpcError> {
        let message = request.encode_to_vec();
        let response = self.call_with_bytes(method.path(), &message, limit);
        A::decode(response.await?).map_err(RpcError::Malformed)
    }

    /// A call whose messages the caller encodes and decodes.
    ///
    /// # Errors
    /// As [`Channel::call`].
    pub async fn call_with_bytes(
        &self,
        path: &str,
        message: &[u8],
        limit: Duration,
    ) -> Result<Bytes, RpcError> {
        let request = self.request(path, Full::new(framed(message)).boxed_unsync())?;
        let mut sender = self.sender.clone();
        let exchange = async {
            let response = match sender.send_request(request).await {
                Ok(response) => response,
                Err(error) => return Err(self.broken(&error).await),
            };
            let (head, body) = response.into_parts();
            check(&head.headers)?;
            let bytes_max = self.options.message_bytes_max;
            let body = Limited::new(body, bytes_max.saturating_add(HEAD_BYTES));
            let body = body.collect().await.map_err(RpcError::broken)?;
            let trailers = body.trailers().cloned().unwrap_or_default();
            if trailers.is_empty() && !head.headers.contains_key("grpc-status") {
                return Err(RpcError::broken("an answer without a status"));
            }
            check(&trailers)?;
            let mut bytes = BytesMut::from(body.to_bytes());
            split_message(&mut bytes, bytes_max)?
                .ok_or_else(|| RpcError::broken("an answer without a message"))
        };
        let response = tokio::time::timeout(limit, exchange).await;
        response.unwrap_or(Err(RpcError::TimedOut(limit)))
    }

    /// A stream in both directions, which starts with `request`.
    ///
    /// # Errors
    /// As [`Channel::call`].
    pub async fn stream<Q: Message, A: Message + Default>(
        &self,
        method: StreamMethod<Q, A>,
        request: &Q,
        limit: Duration,
    ) -> Result<Stream<Q, A>, RpcError> {
        let (sending, messages) = mpsc::unbounded();
        let body = StreamBody::new(messages.map(|bytes| Ok(Frame::data(bytes))));
        let first = sending.unbounded_send(framed(&request.encode_to_vec()));
        let request = self.request(method.path(), body.boxed_unsync())?;
        first.map_err(RpcError::broken)?;
        let responses = tokio::time::timeout(limit, self.responses(request)).await;
        Ok(Stream {
            sending,
            responses: responses.map_err(|_| RpcError::TimedOut(limit))??,
            messages: PhantomData,
        })
    }

    /// A stream of responses to one request. Servers may send the head of the response only with the first response,
    /// so the future may be pending as long as there is no response.
    ///
    /// # Errors
    /// As [`Channel::call`].
    pub async fn subscribe<Q: Message, A: Message + Default>(
        &self,
        method: StreamMethod<Q, A>,
        request: &Q,
    ) -> Result<Responses<A>, RpcError> {
        let body = Full::new(framed(&request.encode_to_vec())).boxed_unsync();
        self.responses(self.request(method.path(), body)?).await
    }

    async fn responses<A>(&self, request: Request<Body>) -> Result<Responses<A>, RpcError> {
        let response = self.sender.clone().send_request(request).await;
        let (head, receiving) = response.map_err(RpcError::broken)?.into_parts();
        check(&head.headers)?;
        Ok(Responses {
            receiving,
            received: BytesMut::new(),
            message_bytes_max: self.options.message_bytes_max,
            messages: PhantomData,
        })
    }
}

/// Both directions of a stream of requests `Q` and responses `A`. Dropping it ends the stream.
#[derive(Debug)]
pub struct Stream<Q, A> {
    sending: mpsc::UnboundedSender<Bytes>,
    responses: Responses<A>,
    messages: PhantomData<fn(Q)>,
}

/// The received direction of a stream. Dropping it ends the stream.
#[derive(Debug)]
pub struct Responses<A> {
    receiving: Incoming,
    received: BytesMut,
    message_bytes_max: usize,
    messages: PhantomData<fn() -> A>,
}

impl<Q: Message, A: Message + Default> Stream<Q, A> {
    /// Sends a request.
    ///
    /// # Errors
    /// The stream has ended.
    pub fn send(&self, request: &Q) -> Result<(), RpcError> {
        let sent = self
            .sending
            .unbounded_send(framed(&request.encode_to_vec()));
        sent.map_err(RpcError::broken)
    }

    /// The next response. Can be cancelled without loss of a response.
    ///
    /// # Errors
    /// As [`Responses::next`].
    pub async fn next(&mut self) -> Result<A, RpcError> {
        self.responses.next().await
    }
}

impl<A: Message + Default> Responses<A> {
    /// The next response. Can be cancelled without loss of a response.
    ///
    /// # Errors
    /// The server ended the stream, the connection broke, or the response is malformed.
    pub async fn next(&mut self) -> Result<A, RpcError> {
        loop {
            if let Some(message) = split_message(&mut self.received, self.message_bytes_max)? {
                return A::decode(message).map_err(RpcError::Malformed);
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

/// Checks the status in headers or trailers; an absent status counts as OK.
fn check(headers: &HeaderMap) -> Result<(), RpcError> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(status) = text("grpc-status").filter(|status| *status != "0") else {
        return Ok(());
    };
    Err(RpcError::Status {
        code: status.parse().map_or(Code::UNKNOWN, Code),
        // Servers percent-encode bytes that are not printable ASCII.
        message: percent_decode_str(text("grpc-message").unwrap_or_default())
            .decode_utf8_lossy()
            .into_owned(),
    })
}
