//! The frames of several watches of a connection with HTTP/2, written together.
//!
//! h2 flushes each frame of data alone: an event for the hundred watches of a connection would be a hundred TLS records
//! and a hundred system calls. While a connection has several watches, its frames are collected, and written after all
//! tasks that were ready have run.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http::body::BoxError;

/// Bytes that are collected: two records of TLS.
const BATCH_BYTES_MAX: usize = 32 * 1024;

/// The number of watches of a connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct WatchCount(Arc<AtomicUsize>);

impl WatchCount {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn subtract(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    fn are_several(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 1
    }
}

/// A stream and the frames that are not written yet.
#[derive(Debug)]
struct Batch<S> {
    stream: S,
    watches: WatchCount,
    frames: Vec<u8>,
    /// The number of bytes of `frames` that were written.
    written: usize,
}

impl<S: AsyncWrite + Unpin> Batch<S> {
    fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Writes all collected frames. The memory of an idle connection is released.
    fn poll_write_frames(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.frames.len() {
            let rest = &self.frames[self.written..];
            match ready!(Pin::new(&mut self.stream).poll_write(context, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                bytes => self.written += bytes,
            }
        }
        self.frames = Vec::new();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    fn poll_write_out(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_frames(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    /// Adds the parts up to the size of a batch, after a full batch was written.
    fn poll_collect(
        &mut self,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.frames.len() >= BATCH_BYTES_MAX {
            ready!(self.poll_write_frames(context))?;
        }
        let before = self.frames.len();
        for part in parts {
            let space = BATCH_BYTES_MAX.saturating_sub(self.frames.len());
            self.frames
                .extend_from_slice(&part[..part.len().min(space)]);
        }
        Poll::Ready(Ok(self.frames.len() - before))
    }
}

/// The stream that the HTTP server writes to.
#[derive(Debug)]
pub(crate) struct BatchedStream<S>(Arc<Mutex<Batch<S>>>);

impl<S> BatchedStream<S> {
    /// The streams of a connection: for the HTTP server, and for [`BatchedConnection`].
    pub(crate) fn pair(stream: S, watches: WatchCount) -> (TokioIo<Self>, Self) {
        let batch = Arc::new(Mutex::new(Batch {
            stream,
            watches,
            frames: Vec::new(),
            written: 0,
        }));
        (TokioIo::new(Self(batch.clone())), Self(batch))
    }

    /// One task uses the stream, so nothing waits for the lock.
    fn lock(&self) -> MutexGuard<'_, Batch<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for BatchedStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.lock().stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for BatchedStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut batch = self.lock();
        if batch.watches.are_several() {
            return batch.poll_collect(context, parts);
        }
        ready!(batch.poll_write_frames(context))?;
        Pin::new(&mut batch.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.lock().stream.is_write_vectored()
    }

    /// Collected frames are flushed by [`BatchedConnection`].
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut batch = self.lock();
        if batch.watches.are_several() && !batch.is_empty() {
            return Poll::Ready(Ok(()));
        }
        batch.poll_write_out(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut batch = self.lock();
        ready!(batch.poll_write_frames(context))?;
        Pin::new(&mut batch.stream).poll_shutdown(context)
    }
}

/// A connection that writes its collected frames after the HTTP server has added those of all ready watches.
pub(crate) struct BatchedConnection<C, S> {
    pub(crate) connection: Pin<Box<C>>,
    pub(crate) stream: BatchedStream<S>,
    /// Whether the frames waited already for the tasks that were ready.
    pub(crate) has_waited: bool,
}

impl<C, S> Future for BatchedConnection<C, S>
where
    C: Future<Output = Result<(), BoxError>>,
    S: AsyncWrite + Unpin,
{
    type Output = Result<(), BoxError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let Poll::Ready(end) = this.connection.as_mut().poll(context) {
            return Poll::Ready(end);
        }
        let mut batch = this.stream.lock();
        if batch.is_empty() {
            this.has_waited = false;
            return Poll::Pending;
        }
        if !this.has_waited {
            // The runtime polls this task again after all others that are ready now.
            this.has_waited = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(batch.poll_write_out(context))?;
        this.has_waited = false;
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A stream that counts its writes.
    #[derive(Default)]
    struct Counted {
        writes: Vec<usize>,
        flushed: usize,
    }

    impl AsyncWrite for Counted {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.writes.push(bytes.len());
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.flushed = self.writes.len();
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn watches(count: usize) -> WatchCount {
        let watches = WatchCount::default();
        (0..count).for_each(|_| watches.add());
        watches
    }

    /// The writes of a connection that sends frames of 1,000 bytes, and flushes each.
    async fn writes(watches: WatchCount, frames: usize) -> Vec<usize> {
        let (io, stream) = BatchedStream::pair(Counted::default(), watches);
        let mut io = io.into_inner();
        let server = async move {
            for _ in 0..frames {
                io.write_all(&[1; 1000]).await?;
                io.flush().await?;
            }
            std::future::pending::<Result<(), BoxError>>().await
        };
        let mut connection = BatchedConnection {
            connection: Box::pin(server),
            stream,
            has_waited: false,
        };
        for _ in 0..3 {
            poll_fn(|context| {
                assert!(Pin::new(&mut connection).poll(context).is_pending());
                Poll::Ready(())
            })
            .await;
        }
        let batch = connection.stream.lock();
        assert_eq!(batch.stream.flushed, batch.stream.writes.len());
        assert!(batch.is_empty());
        batch.stream.writes.clone()
    }

    #[tokio::test]
    async fn the_frames_of_several_watches_are_one_write() {
        assert_eq!(writes(watches(2), 20).await, [20_000]);
        assert_eq!(writes(watches(1), 3).await, [1000; 3]);
        assert_eq!(writes(watches(0), 3).await, [1000; 3]);
    }

    #[tokio::test]
    async fn more_than_a_batch_is_written_at_once() {
        let writes = writes(watches(2), 40).await;
        assert_eq!(writes, [BATCH_BYTES_MAX, 40_000 - BATCH_BYTES_MAX]);
    }

    /// The socket is full: the frames wait, and the server gets no more than a batch rid of.
    #[tokio::test]
    async fn a_client_that_does_not_read_gets_one_batch() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let count = watches(2);
        let (io, stream) = BatchedStream::pair(ours, count.clone());
        let mut io = io.into_inner();
        let (sent, mut accepted) = tokio::sync::watch::channel(0);
        let server = async move {
            for _ in 0..100 {
                io.write_all(&[1; 1000]).await?;
                io.flush().await?;
                sent.send_modify(|bytes| *bytes += 1000);
            }
            io.shutdown().await?;
            Ok::<_, BoxError>(())
        };
        let connection = tokio::spawn(BatchedConnection {
            connection: Box::pin(server),
            stream,
            has_waited: false,
        });
        let most = BATCH_BYTES_MAX + 1000;
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        assert!(*accepted.borrow_and_update() <= most);
        // The rest is written also if the last watch ends meanwhile.
        count.subtract();
        let mut read = Vec::new();
        theirs.read_to_end(&mut read).await.unwrap();
        assert_eq!(read.len(), 100_000);
        connection.await.unwrap().unwrap();
    }
}
