//! Bodies of responses whose frames count as unread until the connection has written them.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use crate::http::body::{BoxBody, BoxError};
use crate::http::limits::{UNREAD_CHECK_INTERVAL, UNREAD_FRAME_BYTES, UNREAD_REQUEST_BYTES};
use crate::http::unread::UnreadBytes;

/// The data of a frame, counted until the connection drops the data.
struct CountedFrame {
    data: Bytes,
    count: UnreadBytes,
}

impl Drop for CountedFrame {
    fn drop(&mut self) {
        self.count.read();
    }
}

impl AsRef<[u8]> for CountedFrame {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

/// A body whose frames are counted. It produces no frame while its sender has too many unread bytes.
pub(crate) struct CountedBody {
    body: BoxBody,
    count: UnreadBytes,
    /// Whether all bytes were counted before.
    is_whole: bool,
    pause: Option<Pin<Box<Sleep>>>,
}

impl CountedBody {
    /// A body that is complete and counted.
    pub(crate) fn whole(body: BoxBody, count: UnreadBytes) -> Self {
        count.sent();
        Self {
            body,
            count,
            is_whole: true,
            pause: None,
        }
    }

    /// A body of unknown length, with the count of its buffered bytes.
    pub(crate) fn open_ended(body: BoxBody, mut count: UnreadBytes) -> Self {
        count.settle(count.bytes().saturating_sub(UNREAD_REQUEST_BYTES));
        count.sent();
        Self {
            body,
            count,
            is_whole: false,
            pause: None,
        }
    }
}

impl Body for CountedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        loop {
            if let Some(pause) = &mut this.pause {
                ready!(pause.as_mut().poll(cx));
                this.pause = None;
            }
            if this.is_whole || this.count.account().has_capacity_for(1) {
                break;
            }
            this.pause = Some(Box::pin(sleep(UNREAD_CHECK_INTERVAL)));
        }
        let Some(frame) = ready!(Pin::new(&mut this.body).poll_frame(cx)).transpose()? else {
            return Poll::Ready(None);
        };
        Poll::Ready(Some(Ok(match frame.into_data() {
            Ok(data) if data.is_empty() => Frame::data(data),
            Ok(data) => {
                let bytes = data.len() + UNREAD_FRAME_BYTES;
                let count = this.count.of_frame(bytes);
                Frame::data(Bytes::from_owner(CountedFrame { data, count }))
            }
            Err(other) => other,
        })))
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
    use std::sync::Arc;
    use std::time::Duration;

    use http_body_util::{BodyExt, Full};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::http::body::boxed;
    use crate::http::unread::{Reader, UnreadBounds, UnreadResponses};

    /// findings-2 S38: a frame counts until the connection drops it, and a body whose sender has reached its limit
    /// creates no frame.
    #[tokio::test(start_paused = true)]
    async fn a_body_produces_nothing_while_its_sender_has_too_much() {
        let bounds = UnreadBounds {
            all: 4 * UNREAD_FRAME_BYTES,
            per_sender: 2 * UNREAD_FRAME_BYTES,
        };
        let unread = Arc::new(UnreadResponses::new(bounds));
        let reader = Reader::new(CancellationToken::new());
        let one = unread.account("one", &reader, false);
        let body = |text: &'static str| {
            let body = boxed(Full::new(Bytes::from_static(text.as_bytes())));
            CountedBody::open_ended(body, one.count_existing(0))
        };
        let first = body("first").frame().await.unwrap().unwrap();
        let second = body("second").frame().await.unwrap().unwrap();
        let mut third = body("third");
        let patience = Duration::from_secs(60);
        let early = tokio::time::timeout(patience, third.frame()).await;
        assert!(early.is_err(), "nothing was read");
        drop(second);
        let frame = third.frame().await.unwrap().unwrap();
        assert_eq!(frame.data_ref().unwrap(), "third");
        drop((first, frame));
        assert_eq!(unread.figures().0, 0);
    }
}
