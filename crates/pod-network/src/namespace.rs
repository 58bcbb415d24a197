//! A connection to the kernel inside a pod's network namespace.
//!
//! A netlink socket belongs to the namespace in which it was opened, whoever uses it later. So a
//! thread that is thrown away afterwards enters the namespace, opens the socket and ends; no
//! thread of the pool ever changes its namespace.

use std::path::Path;

use nix::sched::{CloneFlags, setns};
use rtnetlink::Handle;
use tokio::sync::oneshot;

use crate::error::Error;

/// Opens a connection to the kernel of the namespace at `path`.
pub(crate) async fn connect(path: &Path) -> Result<(Handle, std::fs::File), Error> {
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
            .map_err(std::io::Error::from)
            .and_then(|()| rtnetlink::new_connection());
        // Nobody waits any more when the caller was cancelled; the socket then just closes.
        drop(send.send(opened));
    };
    std::thread::Builder::new()
        .name("netns".to_owned())
        .spawn(enter)
        .map_err(error)?;
    let lost = |_| error(std::io::Error::other("the thread that enters it died"));
    let (connection, handle, _) = receive.await.map_err(lost)?.map_err(error)?;
    tokio::spawn(connection);
    Ok((handle, namespace))
}
