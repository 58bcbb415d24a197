//! Blocking work in async code.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use process_telemetry::polls::uncounted;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::{JoinError, JoinHandle};

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

/// The result of blocking work on another thread. The work continues if the task is dropped.
#[derive(Debug)]
pub struct BlockingTask<T, E>(JoinHandle<Result<T, E>>);

impl<T, E> BlockingTask<T, E> {
    /// Whether the work has ended.
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl<T, E: From<Interrupted>> Future for BlockingTask<T, E> {
    type Output = Result<T, E>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let joined = Pin::new(&mut self.0).poll(context);
        joined.map(|joined| joined.unwrap_or_else(|error| Err(Interrupted(error).into())))
    }
}

/// Starts blocking work on a separate thread at once, before the task is awaited. The task fails with the errors of
/// the work, or with the interruption of the work.
pub fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> BlockingTask<T, E>
where
    T: Send + 'static,
    E: From<Interrupted> + Send + 'static,
{
    // Boxed, so that all tasks with one type of result have one type, which is compiled once.
    let work: Box<dyn FnOnce() -> Result<T, E> + Send> = Box::new(work);
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that starts blocking work"
    )]
    let task = tokio::task::spawn_blocking(work);
    BlockingTask(task)
}

/// Starts blocking work that does not fail, as [`blocking`].
pub fn blocking_value<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> BlockingTask<T, Interrupted> {
    blocking(move || Ok(work()))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// findings A9: blocking work delays no other task, even with one thread.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn others_go_on_meanwhile() {
        let done = tokio::spawn(async {
            let (tell, message) = mpsc::channel();
            tokio::spawn(async move { tell.send(()) });
            block_in_place(|| message.recv())
        });
        assert_eq!(done.await.unwrap(), Ok(()));
    }
}
