//! The lines of an answer that arrives in parts.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;

use crate::client::ResponseBody;
use crate::error::{Error, Result};

/// The length of a line above which the answer is given up; objects are far smaller.
const LINE_BYTES_MAX: usize = 64 << 20;

/// An answer, read by line.
pub struct Lines {
    body: ResponseBody,
    buffer: BytesMut,
    /// The part of the buffer that is known to have no end of a line.
    searched: usize,
}

impl Lines {
    pub(crate) fn new(body: ResponseBody) -> Self {
        Self {
            body,
            buffer: BytesMut::new(),
            searched: 0,
        }
    }

    /// The next line without its end; `None` after the last. The last may have no end.
    ///
    /// If the future is dropped, nothing is lost.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(line) = self.take_line() {
                return Ok(Some(line));
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                return Err(Error::LongLine(LINE_BYTES_MAX));
            }
            match self.body.frame().await {
                Some(frame) => {
                    if let Some(data) = frame.map_err(Error::Body)?.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
                None => {
                    self.searched = 0;
                    let rest = self.buffer.split().freeze();
                    return Ok((!rest.is_empty()).then_some(rest));
                }
            }
        }
    }

    fn take_line(&mut self) -> Option<Bytes> {
        let new = self.buffer.get(self.searched..)?;
        let Some(length) = new.iter().position(|byte| *byte == b'\n') else {
            self.searched = self.buffer.len();
            return None;
        };
        let mut line = self.buffer.split_to(self.searched + length + 1);
        self.searched = 0;
        line.truncate(line.len() - 1);
        if line.last() == Some(&b'\r') {
            line.truncate(line.len() - 1);
        }
        Some(line.freeze())
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
        let mut lines = Lines::new(body.map_err(Into::into).boxed_unsync());
        for expected in ["ab", "c", "", "de", "last"] {
            assert_eq!(lines.next().await.unwrap().unwrap(), expected);
        }
        assert!(lines.next().await.unwrap().is_none());
    }
}
