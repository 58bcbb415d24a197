//! System calls that may block while a server on another machine does not respond.

use std::collections::BTreeSet;
use std::io;
use std::sync::mpsc;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

/// The keys of the calls that have not returned yet.
static PENDING_KEYS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// The reason why a call has no result.
#[derive(Debug, thiserror::Error)]
pub enum TimedCallError {
    /// The call has not returned within the limit, or an earlier call with the same key has not returned.
    #[error("the kernel waits for a server that does not answer")]
    TimedOut,
    /// No thread can be started, or the call panicked.
    #[error("the call cannot be made: {0}")]
    Failed(io::Error),
}

/// Runs a call on a separate thread, and waits for it at most `limit`. So neither the threads of the runtime nor the
/// end of the process wait for a server. There is at most one call per key. A result that arrives after the limit is
/// dropped with its resources.
///
/// # Errors
/// See [`TimedCallError`].
pub fn call_with_timeout_blocking<T: Send + 'static>(
    key: String,
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, TimedCallError> {
    let (sender, receiver) = mpsc::sync_channel(1);
    start(key, work, move |result| {
        // After the limit, no receiver exists.
        sender.send(result).ok();
    })?;
    receiver.recv_timeout(limit).map_err(|error| match error {
        mpsc::RecvTimeoutError::Timeout => TimedCallError::TimedOut,
        mpsc::RecvTimeoutError::Disconnected => panicked(),
    })
}

/// Runs a blocking call with a time limit in async code.
///
/// # Errors
/// See [`TimedCallError`].
pub async fn call_with_timeout<T: Send + 'static>(
    key: String,
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, TimedCallError> {
    let (sender, receiver) = oneshot::channel();
    start(key, work, move |result| {
        sender.send(result).ok();
    })?;
    match timeout(limit, receiver).await {
        Ok(result) => result.map_err(|_| panicked()),
        Err(_) => Err(TimedCallError::TimedOut),
    }
}

fn panicked() -> TimedCallError {
    TimedCallError::Failed(io::Error::other("the call panicked"))
}

fn start<T: Send + 'static>(
    key: String,
    work: impl FnOnce() -> T + Send + 'static,
    send: impl FnOnce(T) + Send + 'static,
) -> Result<(), TimedCallError> {
    let permit = CallPermit::acquire(key).ok_or(TimedCallError::TimedOut)?;
    let call = move || {
        let result = work();
        drop(permit);
        send(result);
    };
    let thread = thread::Builder::new().name("remote-files".to_owned());
    thread.spawn(call).map(drop).map_err(TimedCallError::Failed)
}

/// The permit for the call of a key.
struct CallPermit(String);

impl CallPermit {
    fn acquire(key: String) -> Option<CallPermit> {
        let mut keys = PENDING_KEYS.lock().unwrap_or_else(PoisonError::into_inner);
        // Created only if the key is free, because dropping a permit takes the lock as well.
        keys.insert(key.clone()).then(|| CallPermit(key))
    }
}

impl Drop for CallPermit {
    fn drop(&mut self) {
        let mut keys = PENDING_KEYS.lock().unwrap_or_else(PoisonError::into_inner);
        keys.remove(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_is_held_is_left_and_its_result_dropped() {
        let (long, short) = (Duration::from_secs(60), Duration::from_millis(1));
        let quick = || call_with_timeout_blocking("held".to_owned(), long, || 1);
        assert_eq!(quick().unwrap(), 1);
        let (open, gate) = mpsc::channel::<()>();
        let (held, dropped) = mpsc::channel::<()>();
        let work = move || {
            gate.recv().ok();
            held
        };
        let left = call_with_timeout_blocking("held".to_owned(), short, work);
        assert!(matches!(left, Err(TimedCallError::TimedOut)));
        assert!(matches!(quick(), Err(TimedCallError::TimedOut)));
        open.send(()).unwrap();
        // The sender in the result of the call is dropped with the result.
        assert_eq!(dropped.recv(), Err(mpsc::RecvError));
        assert_eq!(quick().unwrap(), 1);
    }
}
