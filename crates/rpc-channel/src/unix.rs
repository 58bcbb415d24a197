//! Unix sockets whose path may be longer than the 107 bytes that the kernel accepts: a path is resolved from a
//! descriptor of its directory.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};

use crate::{Channel, ChannelOptions, RpcError};

/// The short path of a socket, and the directory that must stay open while the path is used.
fn short_path(directory: File, name: &std::ffi::OsStr) -> (PathBuf, File) {
    let number = directory.as_raw_fd().to_string();
    (
        Path::new("/proc/self/fd").join(number).join(name),
        directory,
    )
}

fn parts(socket: &Path) -> io::Result<(&Path, &std::ffi::OsStr)> {
    let parts = socket.parent().zip(socket.file_name());
    parts.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// Connects to a socket.
///
/// # Errors
/// The directory cannot be opened, or no program listens at the socket.
pub async fn connect(socket: &Path) -> io::Result<UnixStream> {
    let (directory, name) = parts(socket)?;
    let directory = tokio::fs::File::open(directory).await?.into_std().await;
    let (path, _directory) = short_path(directory, name);
    UnixStream::connect(path).await
}

/// Opens a channel over a connection to a socket.
///
/// # Errors
/// No program accepts the connection within `limit`, or the handshake failed.
pub async fn open_channel(
    socket: &Path,
    options: ChannelOptions,
    limit: Duration,
) -> Result<Channel, RpcError> {
    let unreachable = |error: io::Error| {
        RpcError::Unreachable(format!("connect to {}: {error}", socket.display()))
    };
    let connected = tokio::time::timeout(limit, connect(socket)).await;
    let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    // The usual gRPC clients send this authority for a Unix socket.
    let base = "http://localhost".to_owned();
    Channel::over(connected.map_err(unreachable)?, base, options).await
}

/// Creates a socket and listens at it.
///
/// # Errors
/// The directory cannot be opened, or the name exists.
pub async fn listen(socket: &Path) -> io::Result<UnixListener> {
    let (directory, name) = parts(socket)?;
    let directory = tokio::fs::File::open(directory).await?.into_std().await;
    let (path, _directory) = short_path(directory, name);
    UnixListener::bind(path)
}
