//! The lines of a response that arrives in parts.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;

use crate::error::{Error, Result};
use crate::transport::ResponseBody;

/// The maximum length of a line; objects are far smaller. A response with a longer line fails.
const LINE_BYTES_MAX: usize = 64 << 20;

/// A response that is read line by line. A line that arrives as a whole is not copied.
pub struct ResponseLines {
    body: ResponseBody,
    /// The unread rest of the last part.
    part: Bytes,
    /// The start of a line whose end has not arrived.
    begun: BytesMut,
    /// Whether the response has ended.
    over: bool,
}

impl ResponseLines {
    pub(crate) fn new(body: ResponseBody) -> Self {
        Self {
            body,
            part: Bytes::new(),
            begun: BytesMut::new(),
            over: false,
        }
    }

    /// Whether the response has ended. The last line of a response that was cut off may be incomplete.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// The next line without its line break; `None` after the last line. The last line may lack a line break.
    ///
    /// If the future is dropped, no data is lost.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(line) = self.take_line() {
                return Ok(Some(line));
            }
            if self.begun.len() > LINE_BYTES_MAX {
                return Err(Error::LongLine(LINE_BYTES_MAX));
            }
            match self.body.frame().await {
                Some(frame) => {
                    if let Ok(data) = frame.map_err(Error::Body)?.into_data() {
                        self.part = data;
                    }
                }
                None => {
                    self.over = true;
                    let rest = self.begun.split().freeze();
                    return Ok((!rest.is_empty()).then_some(rest));
                }
            }
        }
    }

    /// The next line, if it has arrived as a whole.
    pub(crate) fn take_line(&mut self) -> Option<Bytes> {
        let Some(length) = memchr::memchr(b'\n', &self.part) else {
            self.begun
                .extend_from_slice(&std::mem::take(&mut self.part));
            return None;
        };
        let mut line = self.part.split_to(length + 1);
        line.truncate(length);
        if !self.begun.is_empty() {
            self.begun.extend_from_slice(&line);
            line = self.begun.split().freeze();
        }
        if line.last() == Some(&b'\r') {
            line.truncate(line.len() - 1);
        }
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::stream;
    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;

    #[tokio::test]
    async fn lines_are_joined_from_parts() {
        let parts = ["a", "b\nc\r\n\nd", "e", "", "\nlast"];
        let frames = parts.map(|part| Ok::<_, Infallible>(Frame::data(Bytes::from(part))));
        let body = StreamBody::new(stream::iter(frames));
        let mut lines = ResponseLines::new(body.map_err(Into::into).boxed_unsync());
        for expected in ["ab", "c", "", "de", "last"] {
            assert_eq!(lines.next().await.unwrap().unwrap(), expected);
        }
        assert!(lines.next().await.unwrap().is_none());
    }
}
