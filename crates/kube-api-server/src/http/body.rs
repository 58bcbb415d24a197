//! Bodies of requests and responses, and limits on reading a request body.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::Read;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::buf::{Buf, Reader};
use bytes::{Bytes, BytesMut};
use flate2::bufread::GzDecoder;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use object_model::{Status, StatusReason};

use crate::http::limits::{DISCARD_FACTOR, DISCARD_TIME, FRAME_BYTES, Limits};
use crate::http::work;

/// An error of the connection, or of the source of a stream.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A body of any origin.
pub type BoxBody = http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>;

pub type ResponseBody = BoxBody;

/// A body of parts that are sent in order; small parts are sent together. The whole response is never copied.
pub(crate) struct Segments {
    parts: VecDeque<Bytes>,
    left: u64,
}

impl Segments {
    pub(crate) fn new(parts: Vec<Bytes>) -> Self {
        let left = parts.iter().map(|part| part.len() as u64).sum();
        Self {
            parts: parts.into_iter().filter(|part| !part.is_empty()).collect(),
            left,
        }
    }

    /// The next bytes to send.
    fn next(&mut self) -> Option<Bytes> {
        let first = self.parts.pop_front()?;
        if first.len() >= FRAME_BYTES || self.parts.is_empty() {
            return Some(first);
        }
        let mut joined = BytesMut::with_capacity(FRAME_BYTES);
        joined.extend_from_slice(&first);
        while let Some(part) = self.parts.front_mut() {
            let free = FRAME_BYTES - joined.len();
            if part.len() > free {
                joined.extend_from_slice(&part.split_to(free));
                break;
            }
            joined.extend_from_slice(part);
            self.parts.pop_front();
        }
        Some(joined.freeze())
    }
}

impl Body for Segments {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.next();
        if let Some(part) = &next {
            self.left -= part.len() as u64;
        }
        Poll::Ready(next.map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.parts.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// A body that is decompressed while it is sent.
pub(crate) struct Unpacked {
    decoder: GzDecoder<Reader<Bytes>>,
    left: u64,
}

impl Unpacked {
    /// The memory of a body during sending: the state of the decoder, and one frame.
    pub(crate) const STATE_BYTES: usize = 2 * FRAME_BYTES;

    /// `gzip` is one gzip member, `length` the length of its content.
    pub(crate) fn new(gzip: Bytes, length: u64) -> Self {
        let decoder = GzDecoder::new(gzip.reader());
        Self {
            decoder,
            left: length,
        }
    }
}

impl Body for Unpacked {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let this = self.get_mut();
        if this.left == 0 {
            return Poll::Ready(None);
        }
        let length = this.left.min(FRAME_BYTES as u64);
        let mut part = vec![0; usize::try_from(length).unwrap_or(FRAME_BYTES)];
        let read = this.decoder.read_exact(&mut part);
        this.left -= length;
        Poll::Ready(Some(read.map(|()| Frame::data(part.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// Boxes a body of any error type.
pub(crate) fn boxed<B>(body: B) -> BoxBody
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(Into::into).boxed_unsync()
}

/// Reads a whole request body.
///
/// *Errors.* 413 above the size limit, 408 after the timeout, 400 if the body ends early, 429 if the concurrent
/// bodies of the sender cost too much.
pub(crate) async fn read(mut body: BoxBody, limits: &Limits) -> Result<Bytes, Status> {
    let max = limits.body_bytes_max;
    let whole = tokio::time::timeout(limits.body_timeout, collect(&mut body, max)).await;
    match whole {
        Ok(Ok(bytes)) => {
            work::expect_body(bytes.len()).await;
            Ok(bytes)
        }
        Ok(Err(status)) => {
            if status.reason == StatusReason::RequestEntityTooLarge {
                // Many clients read the response only after they have sent the whole body.
                let rest = discard(body, max.saturating_mul(DISCARD_FACTOR));
                let _in_time = tokio::time::timeout(DISCARD_TIME, rest).await;
            }
            Err(status)
        }
        Err(_) => {
            let text = format!(
                "the request body did not arrive within {} seconds",
                limits.body_timeout.as_secs_f64()
            );
            let mut status = Status::new(StatusReason::Timeout, text);
            status.code = 408;
            Err(status)
        }
    }
}

async fn collect(body: &mut BoxBody, max: usize) -> Result<Bytes, Status> {
    let mut first: Option<Bytes> = None;
    let mut more = BytesMut::new();
    let mut total = 0;
    if body.size_hint().lower() > max as u64 {
        return Err(too_large(max));
    }
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|e| Status::bad_request(format!("the request body could not be read: {e}")))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        total += data.len();
        if total > max {
            return Err(too_large(max));
        }
        work::charge(data.len())?;
        match first.take() {
            None if more.is_empty() => first = Some(data),
            None => more.extend_from_slice(&data),
            Some(before) => {
                more.extend_from_slice(&before);
                more.extend_from_slice(&data);
            }
        }
    }
    Ok(first.unwrap_or_else(|| more.freeze()))
}

/// Reads and discards further bytes, up to a limit.
async fn discard(mut body: BoxBody, max: usize) {
    let mut total = 0;
    while let Some(Ok(frame)) = body.frame().await {
        total += frame.data_ref().map_or(0, Bytes::len);
        if total > max {
            return;
        }
    }
}

/// The start of a body, for error messages; unreadable parts are skipped.
pub(crate) async fn read_up_to(mut body: BoxBody, max: usize) -> Bytes {
    let mut start = BytesMut::new();
    while let Some(Ok(frame)) = body.frame().await {
        if let Some(data) = frame.data_ref() {
            let free = max - start.len();
            start.extend_from_slice(&data[..data.len().min(free)]);
        }
        if start.len() == max {
            break;
        }
    }
    start.freeze()
}

fn too_large(max: usize) -> Status {
    Status::new(
        StatusReason::RequestEntityTooLarge,
        format!("Request entity too large: limit is {max}"),
    )
}

/// A body that owns a guard until the body ends or is dropped.
pub(crate) struct GuardedBody<T> {
    body: BoxBody,
    _guard: T,
}

impl<T> GuardedBody<T> {
    pub(crate) fn new(body: BoxBody, guard: T) -> Self {
        Self {
            body,
            _guard: guard,
        }
    }
}

impl<T: Unpin> Body for GuardedBody<T> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn small_parts_are_joined_and_large_ones_sent_as_they_are() {
        let parts = [1, FRAME_BYTES - 2, 3, 0, FRAME_BYTES, 5, FRAME_BYTES * 3];
        let parts = parts.map(|length| Bytes::from(vec![b'x'; length]));
        let whole: usize = parts.iter().map(Bytes::len).sum();
        let mut body = Segments::new(parts.to_vec());
        let mut sent = Vec::new();
        while let Some(frame) = body.frame().await {
            let left = body.size_hint().exact();
            sent.push(frame.unwrap().into_data().unwrap().len());
            assert_eq!(left, Some((whole - sent.iter().sum::<usize>()) as u64));
        }
        assert_eq!(sent.iter().sum::<usize>(), whole);
        assert_eq!(sent[..3], [FRAME_BYTES, FRAME_BYTES, FRAME_BYTES]);
        assert!(body.is_end_stream());
    }
}
