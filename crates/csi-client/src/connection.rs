//! Calls over the Unix socket of a driver.

use std::io;
use std::path::Path;
use std::time::Duration;

use prost::Message;
use rpc_channel::{Channel, ChannelOptions, Method, RpcError, unix};

use crate::CsiError;

/// The responses are short, so the limit of the usual gRPC clients is enough.
const OPTIONS: ChannelOptions = ChannelOptions {
    keep_alive: None,
    headers: &[],
    message_bytes_max: 4 * 1024 * 1024,
};
/// Time limit for a driver to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Sends a call over a new connection to the socket.
pub(crate) async fn call<Q: Message, A: Message + Default>(
    socket: &Path,
    method: Method<Q, A>,
    request: &Q,
    limit: Duration,
) -> Result<A, CsiError> {
    let unreachable = |source| CsiError::Unreachable {
        socket: socket.to_owned(),
        source,
    };
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, unix::connect(socket));
    let stream = match connecting.await {
        Ok(connected) => connected.map_err(unreachable)?,
        Err(_) => return Err(unreachable(io::ErrorKind::TimedOut.into())),
    };
    let failed = |error: RpcError| {
        let method = method.path();
        match error {
            RpcError::Malformed(source) => CsiError::Malformed { method, source },
            source => CsiError::Call { method, source },
        }
    };
    // The usual gRPC clients send this authority for a Unix socket.
    let channel = Channel::over(stream, "http://localhost".to_owned(), OPTIONS)
        .await
        .map_err(failed)?;
    channel.call(method, request, limit).await.map_err(failed)
}
