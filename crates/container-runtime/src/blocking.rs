//! Blocking disk calls from async code.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Runs short blocking work. The runtime continues without this thread: the API, leases and probes
/// run on the same threads. A runtime with one thread (tests) has no other to continue with.
pub fn block_in_place<R>(work: impl FnOnce() -> R) -> R {
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// findings A9: blocking work delays no other task, even with one thread.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn others_go_on_meanwhile() {
        let done = tokio::spawn(async {
            let (tell, told) = mpsc::channel();
            tokio::spawn(async move { tell.send(()) });
            block_in_place(|| told.recv())
        });
        assert_eq!(done.await.unwrap(), Ok(()));
    }
}
