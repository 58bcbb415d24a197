//! Calls a driver with JSON, as the sidecars call it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use json_tree::Value;
use rpc_channel::{Channel, ChannelOptions, RpcError};
use tokio::net::UnixStream;

use crate::schema::{decode, encode};

const OPTIONS: ChannelOptions = ChannelOptions {
    keep_alive: None,
    headers: &[],
    message_bytes_max: 4 * 1024 * 1024,
};
/// Timeout of a call; the sidecars use 10 or 15 seconds.
const LIMIT: Duration = Duration::from_secs(15);

/// A driver at a socket.
#[derive(Clone, Debug)]
pub struct Caller {
    socket: PathBuf,
}

/// The error of a call: its gRPC code, or 14 for a broken connection, and the message.
pub type Refusal = (u32, String);

impl Caller {
    pub fn at(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// Calls a method such as `Controller/CreateVolume`.
    ///
    /// # Errors
    /// The error of the driver.
    pub async fn call(&self, method: &str, request: &Value) -> Result<Value, Refusal> {
        let name = method.rsplit('/').next().unwrap_or_default();
        let message = encode(&format!("{name}Request"), request);
        let message = message.map_err(|error| (3, error.to_string()))?;
        let path = format!("/csi.v1.{method}");
        let exchange = async {
            let stream = UnixStream::connect(&self.socket).await;
            let stream = stream.map_err(RpcError::broken)?;
            let channel = Channel::over(stream, "http://localhost".to_owned(), OPTIONS).await?;
            channel.call_with_bytes(&path, &message, LIMIT).await
        };
        let reply = exchange.await.map_err(|error| match error {
            RpcError::Status { code, message } => (code.0, message),
            error => (14, error.to_string()),
        })?;
        decode(&format!("{name}Response"), &reply).map_err(|error| (13, error.to_string()))
    }
}
