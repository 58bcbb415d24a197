//! One request over a separate connection.

use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::client::conn::http1::Builder;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, ToSocketAddrs};
use tokio_util::task::AbortOnDropHandle;

use crate::body::Body;
use crate::{BoxError, socket};

/// Maximum number of buffered bytes of a response. The head of a response must fit into the buffer.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// The reason why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The error of the kernel or of the name resolution.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// No address has accepted the connection within the limit.
    #[error("deadline has elapsed")]
    TimedOut,
}

/// Connects within the time limit to the first address that accepts the connection.
///
/// # Errors
/// See [`ConnectError`].
pub async fn connect(
    addresses: impl ToSocketAddrs,
    limit: Duration,
) -> Result<TcpStream, ConnectError> {
    let connected = tokio::time::timeout(limit, TcpStream::connect(addresses)).await;
    let stream = connected.map_err(|_| ConnectError::TimedOut)??;
    socket::end_when_idle(&stream)?;
    Ok(stream)
}

/// Sends one request over a connection. The connection ends with the body of the response, or when this call is
/// cancelled. After a switch of protocols, the connection stays open for both sides.
///
/// # Errors
/// The connection ended, or the response is malformed.
pub async fn exchange<S, B>(stream: S, request: Request<B>) -> Result<Response<Body>, hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let (mut sender, connection) = Builder::new()
        .max_buf_size(BUFFER_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await?;
    let connection = tokio::spawn(async move {
        // An error of the connection is also reported as an error of the request or of the body.
        drop(connection.with_upgrades().await);
    });
    let connection = AbortOnDropHandle::new(connection);
    let response = sender.send_request(request).await?;
    let connection = match response.status() {
        StatusCode::SWITCHING_PROTOCOLS => {
            connection.detach();
            None
        }
        _ => Some(connection),
    };
    Ok(response.map(|incoming| Body::of_connection(incoming, connection)))
}
