//! The state of a connection for long responses: whether the listener is stopping, and whether the client reads; and
//! a handle that closes the connection.
//!
//! The server polls a response's body only if the connection can accept data. The body of a client that reads nothing
//! is never polled, and therefore cannot end by itself.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use connection_limits::ConnectionStage;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::http::frame_batch::WatchCount;
use crate::http::unread::Reader;

/// Interval of the checks whether a slow client has received the written data.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// The connection of a request.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    /// Cancelled when the listener starts to stop.
    pub(crate) stopping: CancellationToken,
    /// Cancel this token to close the connection at once.
    pub(crate) close: CancellationToken,
    /// Whether a part of the response is still unsent, for a connection with one response at a time. `None` for a
    /// connection with several responses: the unsent part may belong to another response, and a client that receives
    /// nothing does not respond to pings either.
    pub(crate) unsent: Option<UnsentData>,
    pub(crate) stage: ConnectionStage,
    pub(crate) reader: Reader,
    /// The watches of a connection with HTTP/2.
    pub(crate) watches: WatchCount,
}

impl Connection {
    /// Records that a request had valid credentials.
    pub(crate) fn set_authenticated(&self) {
        self.stage.is_known();
    }

    /// Waits until the client has received all written data.
    pub(crate) async fn flushed(&self) {
        let Some(unsent) = &self.unsent else { return };
        // The last data of the body is written after the body has reported its end.
        tokio::task::yield_now().await;
        while unsent.0.load(Ordering::Relaxed) {
            sleep(CHECK_INTERVAL).await;
        }
    }

    /// Closes the connection at the given time, unless the returned handle is dropped before.
    pub(crate) fn close_at(&self, at: Instant) -> AbortOnDropHandle<()> {
        let close = self.close.clone();
        AbortOnDropHandle::new(tokio::spawn(async move {
            sleep_until(at).await;
            tracing::debug!("a watch has ended and is not read: its connection is closed");
            close.cancel();
        }))
    }
}

/// Whether written data is unsent.
#[derive(Clone, Debug, Default)]
pub(crate) struct UnsentData(Arc<AtomicBool>);

/// Bytes that a connection writes before other tasks may use the thread. Writing them takes about 0.1 ms. A list of
/// 5,000 pods has 18 MiB, and the socket of a fast reader accepts megabytes at once.
const BURST_BYTES: usize = 32 * 1024;

/// A stream that reports whether written data is unsent, and that yields the thread to other connections.
#[derive(Debug)]
pub(crate) struct Observed<S> {
    stream: S,
    unsent: UnsentData,
    /// Bytes that were written since the last yield to other tasks.
    burst: usize,
}

impl<S> Observed<S> {
    pub(crate) fn new(stream: S, unsent: UnsentData) -> Self {
        Self {
            stream,
            unsent,
            burst: 0,
        }
    }

    /// Pending if other tasks must run first.
    fn poll_yield(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.burst < BURST_BYTES {
            return Poll::Ready(());
        }
        self.burst = 0;
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Counts the bytes of a write.
    fn written(&mut self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &result {
            Poll::Ready(Ok(bytes)) => self.burst += bytes,
            Poll::Ready(Err(_)) | Poll::Pending => self.burst = 0,
        }
        result
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Observed<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Observed<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_yield(cx));
        this.unsent.0.store(true, Ordering::Relaxed);
        let result = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.written(result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_yield(cx));
        this.unsent.0.store(true, Ordering::Relaxed);
        let result = Pin::new(&mut this.stream).poll_write_vectored(cx, parts);
        this.written(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        if let Poll::Ready(Ok(())) = flushed {
            this.unsent.0.store(false, Ordering::Relaxed);
        }
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, BufWriter};

    use super::*;

    fn connection(unsent: &UnsentData) -> Connection {
        Connection {
            stopping: CancellationToken::new(),
            close: CancellationToken::new(),
            unsent: Some(unsent.clone()),
            stage: ConnectionStage::default(),
            reader: Reader::new(CancellationToken::new()),
            watches: WatchCount::default(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_read_has_not_gone_out() {
        let unsent = UnsentData::default();
        let (ours, mut theirs) = tokio::io::duplex(16);
        // As a TLS stream, the buffer accepts more bytes than it sends.
        let mut ours = Observed::new(BufWriter::new(ours), unsent.clone());
        let connection = connection(&unsent);
        connection.flushed().await;
        ours.write_all(&[0; 64]).await.unwrap();
        let patience = Duration::from_secs(60);
        let early = tokio::time::timeout(patience, connection.flushed()).await;
        assert!(early.is_err(), "nobody has read it");
        let read = tokio::spawn(async move {
            theirs.read_exact(&mut [0; 64]).await.unwrap();
            theirs
        });
        ours.flush().await.unwrap();
        connection.flushed().await;
        read.await.unwrap();
    }

    /// The socket accepts all bytes at once, so the write itself never waits.
    #[tokio::test]
    async fn other_tasks_run_while_a_long_answer_is_written() {
        let bursts = 5;
        let turns = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&turns);
        let other = tokio::spawn(async move {
            loop {
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        });
        let mut ours = Observed::new(tokio::io::sink(), UnsentData::default());
        for _ in 0..bursts * BURST_BYTES / 1024 {
            ours.write_all(&[0; 1024]).await.unwrap();
        }
        other.abort();
        assert_eq!(turns.load(Ordering::Relaxed), bursts - 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_closed_in_time_unless_that_is_called_off() {
        let connection = connection(&UnsentData::default());
        let at = Instant::now() + Duration::from_secs(5);
        drop(connection.close_at(at));
        sleep(Duration::from_secs(6)).await;
        assert!(!connection.close.is_cancelled());
        let _closing = connection.close_at(Instant::now() + Duration::from_secs(5));
        connection.close.cancelled().await;
    }
}
