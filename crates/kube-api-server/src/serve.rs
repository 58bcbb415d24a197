//! Listeners: connections, TLS handshakes, HTTP/1.1 and HTTP/2, graceful shutdown.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use connection_limits::{ConnectionLimits, ConnectionSlot, Connections};
use futures::FutureExt;
use futures::future::BoxFuture;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use hyper_util::server::conn::auto;
use object_model::NodeName;
use process_telemetry::polls::watched;
use process_telemetry::refusals::{self, Budget};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::identity::{Caller, Certificate};
use crate::http::body::{BoxError, boxed};
use crate::http::call::Peer;
use crate::http::connection::{Connection, Observed, UnsentData};
use crate::http::frame_batch::{BatchedConnection, BatchedStream, WatchCount};
use crate::http::limits::{
    BODIES_WINDOW_BYTES, BODY_WINDOW_BYTES, CONNECTIONS_PER_NODE_MAX, PLAIN_BYTES_MAX,
    RESERVED_HANDSHAKES_MAX, STREAMS_PER_CONNECTION_MAX, UNSENT_STREAM_BYTES,
};
use crate::http::unread::Reader;
use crate::http::work::Tasks;
use crate::pipeline;
use crate::server::ApiServer;

/// The error of serving a listener.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The configuration of the server contained no TLS material.
    #[error("the API server has no certificate to listen with")]
    NoCertificate,
}

impl ApiServer {
    /// Serves HTTPS on a listener until `shutdown`; may be called for several listeners. Returns when the connections
    /// have closed, or some seconds after `shutdown`.
    ///
    /// *Errors.* The server has no certificate.
    pub fn serve(
        self: &Arc<Self>,
        listener: TcpListener,
        shutdown: CancellationToken,
    ) -> BoxFuture<'static, Result<(), ServeError>> {
        // The box causes this crate, and not the caller's crate, to compile the code of connections, with this
        // crate's optimisation.
        serve(self.clone(), listener, shutdown).boxed()
    }
}

/// Accepts connections until `shutdown`, then gives open connections a short time to finish.
async fn serve(
    server: Arc<ApiServer>,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let tls = server.tls.as_ref().ok_or(ServeError::NoCertificate)?;
    let acceptor = TlsAcceptor::from(tls.config.clone());
    let permits = Arc::new(Semaphore::new(server.limits.connections_max));
    let connections = Arc::new(Connections::default());
    let max = ConnectionLimits {
        all: server.limits.connections_max,
        per_address: server.limits.connections_per_address_max,
        per_node: CONNECTIONS_PER_NODE_MAX,
        handshakes: RESERVED_HANDSHAKES_MAX,
    };
    let tracker = TaskTracker::new();
    loop {
        let (stream, address) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // The usual cause is that the process has no free file descriptor. Other connections may close
                    // meanwhile.
                    tracing::warn!(%error, "connection not accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let close = CancellationToken::new();
        let slot = connections.enter(address.ip(), close.clone(), max);
        if slot.as_ref().is_none_or(ConnectionSlot::replaces_another) {
            refusals::count(Budget::ApiConnections);
        }
        let Some(slot) = slot else { continue };
        let (server, acceptor) = (server.clone(), acceptor.clone());
        let tokens = ConnectionTokens {
            stop: shutdown.child_token(),
            close: close.clone(),
        };
        let permits = permits.clone();
        let slow_polls = server.limits.slow_polls.clone();
        tracker.spawn(watched(slow_polls, "a connection", async move {
            let result = tokio::select! {
                () = close.cancelled() => Ok(()),
                result = connection(server, acceptor, stream, tokens, &slot, permits) => result,
            };
            if let Err(error) = result {
                tracing::debug!(%error, "connection ended");
            }
            drop(slot);
        }));
    }
    drop(listener);
    tracker.close();
    if tokio::time::timeout(server.limits.shutdown_grace, tracker.wait())
        .await
        .is_err()
    {
        tracing::debug!(
            open = tracker.len(),
            "connections still open at the end of the grace"
        );
    }
    Ok(())
}

/// The tokens that end a connection.
struct ConnectionTokens {
    /// The server stops: open requests may finish.
    stop: CancellationToken,
    /// The connection ends at once.
    close: CancellationToken,
}

async fn connection(
    server: Arc<ApiServer>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    tokens: ConnectionTokens,
    slot: &ConnectionSlot,
    permits: Arc<Semaphore>,
) -> Result<(), BoxError> {
    stream.set_nodelay(true)?;
    let peer = Peer(stream.peer_addr()?.ip());
    // The state of this function lives as long as the connection; the boxes keep the state of the handshake out of
    // it.
    let handshake = Box::pin(async move {
        if speaks_plain_http(&stream).await? {
            return refuse_plain_http(stream).await.map(|()| None);
        }
        acceptor
            .accept(stream)
            .await
            .map(|stream| Some(Box::new(stream)))
    });
    let handshake = tokio::time::timeout(server.limits.handshake_timeout, handshake);
    let Some(stream) = handshake.await?? else {
        return Ok(());
    };
    let session = stream.get_ref().1;
    let certificate = match &server.tls {
        Some(tls) => Certificate::of_chain(session.peer_certificates(), tls),
        None => Certificate::Absent,
    };
    let node = match &certificate {
        Certificate::Of(user) => {
            NodeName::of_identity(&user.name, &user.groups).map(NodeName::as_str)
        }
        _ => None,
    };
    if !slot.shook_hands(node) {
        tracing::debug!(peer = %peer.0, node, "too many connections of one address or node");
        return Ok(());
    }
    // While authenticated clients hold all permits, new connections wait, except for those of nodes.
    let _permit = match node {
        Some(_) => None,
        None => Some(permits.acquire_owned().await?),
    };
    let h2 = session.alpn_protocol() == Some(b"h2");
    let unsent = UnsentData::default();
    let watches = WatchCount::default();
    let from = Connection {
        stopping: tokens.stop.clone(),
        reader: Reader::new(tokens.close.clone()),
        close: tokens.close,
        unsent: (!h2).then(|| unsent.clone()),
        stage: slot.stage(),
        watches: watches.clone(),
    };
    let builder = builder(&server, h2);
    let grace = server.limits.shutdown_grace;
    let service = {
        service_fn(move |mut request: http::Request<Incoming>| {
            request.extensions_mut().insert(from.clone());
            request.extensions_mut().insert(peer);
            let caller = Caller::Network(certificate.clone());
            let handling = pipeline::run(server.clone(), request.map(boxed), caller);
            async move { Ok::<_, Infallible>(handling.await) }
        })
    };
    let (io, stream) = BatchedStream::pair(Observed::new(stream, unsent), watches);
    let mut connection = BatchedConnection {
        connection: Box::pin(builder.serve_connection_with_upgrades(io, service)),
        stream,
        has_waited: false,
    };
    tokio::select! {
        done = &mut connection => return done,
        () = tokens.stop.cancelled() => connection.connection.as_mut().graceful_shutdown(),
    }
    match tokio::time::timeout(grace, connection).await {
        Ok(done) => done,
        Err(_) => Ok(()),
    }
}

/// Whether the client sends a plain HTTP request instead of a TLS handshake. The first byte of a handshake is not a
/// letter, and the first byte of every method is.
async fn speaks_plain_http(stream: &TcpStream) -> std::io::Result<bool> {
    let mut first = [0; 1];
    let count = stream.peek(&mut first).await?;
    Ok(count == 1 && first[0].is_ascii_uppercase())
}

/// The response to plain HTTP, with the text of Go's server.
async fn refuse_plain_http(mut stream: TcpStream) -> std::io::Result<()> {
    let response =
        b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
    stream.write_all(response).await?;
    stream.shutdown().await?;
    // If the server closed the socket with unread bytes, the kernel would discard the response.
    let mut rest = [0; 1024];
    let mut left = PLAIN_BYTES_MAX;
    while left > 0 {
        match stream.read(&mut rest).await? {
            0 => break,
            count => left = left.saturating_sub(count),
        }
    }
    Ok(())
}

fn builder(server: &ApiServer, h2: bool) -> auto::Builder<Tasks> {
    let mut builder = auto::Builder::new(Tasks(server.limits.slow_polls.clone()));
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(server.limits.header_timeout)
        .max_buf_size(128 * 1024);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .max_send_buf_size(UNSENT_STREAM_BYTES)
        .initial_stream_window_size(BODY_WINDOW_BYTES)
        .initial_connection_window_size(BODIES_WINDOW_BYTES)
        .max_header_list_size(64 * 1024)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(15));
    if h2 {
        builder.http2_only()
    } else {
        builder.http1_only()
    }
}
