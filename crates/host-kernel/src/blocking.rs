//! Blocking work in async code.

use std::io;

use process_telemetry::polls::uncounted;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::JoinError;

/// Runs short blocking or long computing work on the current thread. The runtime continues on other threads with the
/// API, Leases and probes. A runtime with one thread (tests) has no other thread and waits. The work does not count
/// towards the current poll.
pub fn block_in_place<R>(work: impl FnOnce() -> R) -> R {
    let timed = || uncounted(work);
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(timed),
        _ => timed(),
    }
}

/// The work panicked, or the runtime ended before the work.
#[derive(Debug, thiserror::Error)]
#[error("interrupted: {0}")]
pub struct Interrupted(#[source] pub JoinError);

impl From<Interrupted> for String {
    fn from(error: Interrupted) -> Self {
        error.to_string()
    }
}

impl From<Interrupted> for io::Error {
    fn from(error: Interrupted) -> Self {
        error.0.into()
    }
}

/// Runs blocking work on a separate thread.
///
/// # Errors
/// The errors of the work, or the interruption of the work.
pub async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: From<Interrupted> + Send + 'static,
{
    // Boxed, so that all tasks with one type of result have one type, which is compiled once.
    let work: Box<dyn FnOnce() -> Result<T, E> + Send> = Box::new(work);
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Interrupted(error).into()),
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
