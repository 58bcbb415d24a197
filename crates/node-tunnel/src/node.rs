//! The node's end of a tunnel.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::{
    RESPONSE_LIMIT, SILENCE, STREAM_BYTES, STREAMS_MAX, TARGET, TUNNEL_BYTES, UNSENT_BYTES,
};

/// Serves a tunnel over an upgraded connection to a server until the tunnel ends. `kubelet_api` is the
/// address at which this node serves its kubelet API; all connections lead to this address.
///
/// # Errors
/// The connection is broken, or the server does not respond in time.
pub async fn serve<S>(connection: S, kubelet_api: SocketAddr) -> Result<(), hyper::Error>
where
    S: Read + Write + Unpin + Send + 'static,
{
    let shutdown = CancellationToken::new();
    let _cancel = shutdown.clone().drop_guard();
    let service = service_fn(move |request: Request<Incoming>| {
        let shutdown = shutdown.clone();
        async move { Ok::<_, Infallible>(respond(request, kubelet_api, shutdown).await) }
    });
    Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(SILENCE)
        .keep_alive_timeout(RESPONSE_LIMIT)
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_BYTES)
        .initial_connection_window_size(TUNNEL_BYTES)
        .max_send_buf_size(UNSENT_BYTES)
        .serve_connection(connection, service)
        .await
}

async fn respond(
    mut request: Request<Incoming>,
    kubelet_api: SocketAddr,
    shutdown: CancellationToken,
) -> Response<Empty<Bytes>> {
    let code = match is_for_this_node(&request) {
        false => StatusCode::FORBIDDEN,
        true => match timeout(RESPONSE_LIMIT, TcpStream::connect(kubelet_api)).await {
            Ok(Ok(stream)) => {
                let upgrade = hyper::upgrade::on(&mut request);
                tokio::spawn(shutdown.run_until_cancelled_owned(join(upgrade, stream)));
                StatusCode::OK
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, %kubelet_api, "the tunnel does not reach the kubelet API");
                StatusCode::BAD_GATEWAY
            }
            Err(_) => StatusCode::GATEWAY_TIMEOUT,
        },
    };
    let mut response = Response::new(Empty::new());
    *response.status_mut() = code;
    response
}

fn is_for_this_node(request: &Request<Incoming>) -> bool {
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    request.method() == Method::CONNECT && authority == Some(TARGET)
}

async fn join(upgrade: OnUpgrade, kubelet: TcpStream) {
    let Ok(upgraded) = upgrade.await else {
        return;
    };
    drop(kubelet.set_nodelay(true));
    outbound_http::splice(TokioIo::new(upgraded), kubelet).await;
}
