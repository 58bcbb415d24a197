//! Sockets in a pod's network namespace: connections to the kernel, and to programs of the pod.
//!
//! A socket belongs to the namespace in which it was opened. So a short-lived thread enters the namespace,
//! opens the socket and ends; no thread of the pool ever changes its namespace.

use std::io::Error as IoError;
use std::path::Path;

use nix::sched::{CloneFlags, setns};
use rtnetlink::Handle;
use tokio::net::TcpSocket;
use tokio::sync::oneshot;

use crate::error::Error;

/// Opens a connection to the kernel in the namespace at `path`.
pub(crate) async fn connect(path: &Path) -> Result<(Handle, std::fs::File), Error> {
    let (opened, namespace) = inside(path, rtnetlink::new_connection).await?;
    let (connection, handle, _) = opened;
    tokio::spawn(connection);
    Ok((handle, namespace))
}

/// Creates a TCP socket in the namespace at `path`. The socket can connect to the pod's addresses,
/// including `localhost`.
pub async fn tcp_socket(path: &Path, ipv6: bool) -> Result<TcpSocket, Error> {
    let open = if ipv6 {
        TcpSocket::new_v6
    } else {
        TcpSocket::new_v4
    };
    inside(path, open).await.map(|(socket, _)| socket)
}

/// Runs `open` on a short-lived thread in the namespace at `path`.
pub(crate) async fn inside<T, F>(path: &Path, open: F) -> Result<(T, std::fs::File), Error>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, IoError> + Send + 'static,
{
    let error = |source| Error::Namespace {
        path: path.to_owned(),
        source,
    };
    let namespace = std::fs::File::open(path).map_err(error)?;
    let inside = namespace.try_clone().map_err(error)?;
    let runtime = tokio::runtime::Handle::current();
    let (send, receive) = oneshot::channel();
    let enter = move || {
        let _runtime = runtime.enter();
        let opened = setns(&inside, CloneFlags::CLONE_NEWNET)
            .map_err(IoError::from)
            .and_then(|()| open());
        // A cancelled caller does not receive the socket, which is then closed.
        drop(send.send(opened));
    };
    std::thread::Builder::new()
        .name("netns".to_owned())
        .spawn(enter)
        .map_err(error)?;
    let lost = |_| error(IoError::other("the thread that enters it died"));
    let opened = receive.await.map_err(lost)?.map_err(error)?;
    Ok((opened, namespace))
}
