//! The body of a response.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Sleep, sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::multiplexed::StreamPermit;

/// The reason why a body was not read to its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The body is longer than the caller accepts.
    #[error("length limit exceeded")]
    TooLong,
    /// The server sent nothing for this time.
    #[error("nothing was sent for {} seconds", .0.as_secs())]
    Silent(Duration),
    /// The connection ended, or the response is malformed.
    #[error(transparent)]
    Broken(#[from] hyper::Error),
}

/// The body of a response, read as it arrives. The connection ends with the body, unless a pool keeps the connection.
#[derive(Debug)]
pub struct Body {
    incoming: Incoming,
    silence_limit: Option<Duration>,
    /// The timer for the next frame. It survives a read that is cancelled.
    silence: Option<Pin<Box<Sleep>>>,
    _connection: Option<AbortOnDropHandle<()>>,
    /// The permit for a stream of a shared connection.
    _permit: Option<StreamPermit>,
}

impl Body {
    pub(crate) fn of_connection(
        incoming: Incoming,
        connection: Option<AbortOnDropHandle<()>>,
    ) -> Self {
        Self {
            incoming,
            silence_limit: None,
            silence: None,
            _connection: connection,
            _permit: None,
        }
    }

    pub(crate) fn of_pool(incoming: Incoming) -> Self {
        Self::of_connection(incoming, None)
    }

    pub(crate) fn of_stream(incoming: Incoming, permit: StreamPermit) -> Self {
        Self {
            _permit: Some(permit),
            ..Self::of_pool(incoming)
        }
    }

    pub(crate) fn with_silence_limit(mut self, limit: Duration) -> Self {
        self.silence_limit = Some(limit);
        self
    }

    /// Removes the limit on silence; for a watch, or for a log that is followed.
    pub fn without_silence_limit(mut self) -> Self {
        self.silence_limit = None;
        self
    }

    /// The length in the `Content-Length` header.
    pub fn content_length(&self) -> Option<u64> {
        http_body::Body::size_hint(&self.incoming).exact()
    }

    /// The next bytes; `None` at the end. A cancelled call loses no bytes.
    ///
    /// # Errors
    /// See [`BodyError`].
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, BodyError> {
        loop {
            match self.frame().await.transpose()?.map(Frame::into_data) {
                Some(Ok(bytes)) => return Ok(Some(bytes)),
                // A frame without data contains trailers.
                Some(Err(_)) => {}
                None => return Ok(None),
            }
        }
    }

    /// The whole body. Fails if the body is longer than `limit` bytes.
    ///
    /// # Errors
    /// See [`BodyError`].
    pub async fn whole(mut self, limit: usize) -> Result<Bytes, BodyError> {
        let mut whole = BytesMut::new();
        while let Some(chunk) = self.chunk().await? {
            if whole.len() + chunk.len() > limit {
                return Err(BodyError::TooLong);
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    }

    /// The first `limit` bytes, or the bytes that arrived before an error.
    pub async fn beginning(mut self, limit: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < limit
            && let Ok(Some(chunk)) = self.chunk().await
        {
            let length = chunk.len().min(limit - bytes.len());
            bytes.extend_from_slice(&chunk[..length]);
        }
        bytes
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(context) {
            self.silence = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(BodyError::from)));
        }
        let Some(limit) = self.silence_limit else {
            return Poll::Pending;
        };
        let silence = self.silence.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(silence.as_mut().poll(context));
        Poll::Ready(Some(Err(BodyError::Silent(limit))))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
