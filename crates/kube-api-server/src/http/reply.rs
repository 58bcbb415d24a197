//! Responses with their encoded body, content type and headers.

use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue, VARY};
use http::{Response, StatusCode};
use json_tree::Value;
use object_model::Status;

use crate::http::body::{BoxBody, Segments, boxed};
use crate::http::limits::{COMPRESSION_LEVEL, GZIP_BYTES_MIN, WORK_SLICE_BYTES};
use crate::http::work;

pub(crate) const JSON: &str = "application/json";

/// The body of a response.
pub(crate) enum Payload {
    /// The complete body in parts.
    Segments(Vec<Bytes>),
    /// A body that is still being produced.
    Stream(BoxBody),
}

/// A response before it is converted to HTTP.
pub(crate) struct Reply {
    pub(crate) code: StatusCode,
    pub(crate) content_type: String,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) payload: Payload,
}

impl Reply {
    pub(crate) fn bytes(content_type: &str, body: impl Into<Bytes>) -> Self {
        Self::segments(content_type, vec![body.into()])
    }

    pub(crate) fn segments(content_type: &str, parts: Vec<Bytes>) -> Self {
        Self {
            code: StatusCode::OK,
            content_type: content_type.to_owned(),
            headers: Vec::new(),
            payload: Payload::Segments(parts),
        }
    }

    pub(crate) fn stream(content_type: &str, body: BoxBody) -> Self {
        Self {
            code: StatusCode::OK,
            content_type: content_type.to_owned(),
            headers: Vec::new(),
            payload: Payload::Stream(body),
        }
    }

    pub(crate) fn json(value: &Value) -> Self {
        let mut text = value.to_string().into_bytes();
        text.push(b'\n');
        Self::bytes(JSON, text)
    }

    pub(crate) fn status(status: &Status) -> Self {
        let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut reply = Self::json(&status.to_json()).with_code(code);
        let retry = status
            .details
            .as_ref()
            .map_or(0, |details| details.retry_after_seconds);
        if retry > 0 {
            reply
                .headers
                .push((http::header::RETRY_AFTER, HeaderValue::from(retry)));
        }
        reply
    }

    /// The length in bytes of a complete body; 0 for a stream.
    pub(crate) fn len(&self) -> usize {
        let parts = self.segments_of().unwrap_or_default();
        parts.iter().map(Bytes::len).sum()
    }

    /// The parts of a complete body; `None` for a stream.
    pub(crate) fn segments_of(&self) -> Option<&[Bytes]> {
        match &self.payload {
            Payload::Segments(parts) => Some(parts),
            Payload::Stream(_) => None,
        }
    }

    pub(crate) fn with_code(mut self, code: StatusCode) -> Self {
        self.code = code;
        self
    }

    pub(crate) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Reformats a JSON body with line breaks and indentation.
    pub(crate) fn indented(mut self) -> Self {
        let encoded = self
            .headers
            .iter()
            .any(|(name, _)| name == CONTENT_ENCODING);
        if encoded || !self.content_type.starts_with(JSON) {
            return self;
        }
        let Payload::Segments(parts) = &self.payload else {
            return self;
        };
        let text = parts.concat();
        if let Ok(value) = serde_json::from_slice::<Value>(&text) {
            // The alternate format of a JSON value has indentation.
            self.payload = Payload::Segments(vec![format!("{value:#}\n").into()]);
        }
        self
    }

    /// Compresses the body if it is large and not encoded yet. Other requests can run between its slices.
    pub(crate) async fn compressed(mut self) -> Self {
        let encoded = self
            .headers
            .iter()
            .any(|(name, _)| name == CONTENT_ENCODING);
        let Payload::Segments(parts) = &self.payload else {
            return self;
        };
        if encoded || self.len() < GZIP_BYTES_MIN {
            return self;
        }
        let mut gzip = Gzip::default();
        let mut since = 0;
        for slice in parts.iter().flat_map(|part| part.chunks(WORK_SLICE_BYTES)) {
            gzip.push(slice);
            since += slice.len();
            if since > WORK_SLICE_BYTES {
                since = 0;
                work::let_others_go_first().await;
            }
        }
        self.payload = Payload::Segments(vec![gzip.finish()]);
        self.with_header(CONTENT_ENCODING, HeaderValue::from_static("gzip"))
            .with_header(VARY, HeaderValue::from_static("Accept-Encoding"))
    }

    pub(crate) fn into_response(self) -> Response<BoxBody> {
        let headers = self.headers;
        let body = match self.payload {
            Payload::Stream(body) => body,
            Payload::Segments(parts) => boxed(Segments::new(parts)),
        };
        let mut response = Response::new(body);
        *response.status_mut() = self.code;
        let map = response.headers_mut();
        for (name, value) in headers {
            map.append(name, value);
        }
        if let Ok(value) = HeaderValue::from_str(&self.content_type)
            && !self.content_type.is_empty()
        {
            map.insert(CONTENT_TYPE, value);
        }
        // Objects can change at any time, so intermediaries must not cache them (as upstream).
        map.entry(http::header::CACHE_CONTROL)
            .or_insert(HeaderValue::from_static("no-cache, private"));
        response
    }
}

/// One gzip member that is being written.
struct Gzip(GzEncoder<Vec<u8>>);

impl Default for Gzip {
    fn default() -> Self {
        Self(GzEncoder::new(
            Vec::new(),
            Compression::new(COMPRESSION_LEVEL),
        ))
    }
}

impl Gzip {
    fn push(&mut self, bytes: &[u8]) {
        if let Err(error) = self.0.write_all(bytes) {
            tracing::error!(%error, "compress into memory");
        }
    }

    fn finish(self) -> Bytes {
        self.0.finish().unwrap_or_default().into()
    }
}

/// Compresses bytes into one gzip member.
pub(crate) fn compress(bytes: &[u8]) -> Bytes {
    let mut gzip = Gzip::default();
    gzip.push(bytes);
    gzip.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of the list below after zlib 1.2.13 at its default level 6, with gzip's header and trailer instead of
    /// zlib's.
    const OF_ZLIB: usize = 413_551 - 6 + 18;

    #[test]
    fn a_list_is_no_larger_than_at_the_default_level_of_zlib() {
        let list = pods();
        let gzip = compress(list.as_bytes()).len();
        println!("{gzip} of {} bytes, zlib {OF_ZLIB}", list.len());
        assert!(gzip <= OF_ZLIB, "{gzip} bytes, zlib {OF_ZLIB}");
    }

    /// A list of 5,000 stored pods from one template: names, UIDs, times, addresses and token volumes differ.
    fn pods() -> String {
        let mut state = 1_u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005);
            state = state.wrapping_add(1_442_695_040_888_963_407);
            state >> 16
        };
        let mut list = String::from("{\"items\":[");
        for n in 0..5000_u64 {
            let [a, b, token] = [random(), random(), random() >> 20];
            let uid = format!("{a:012x}-4{:03x}-8{:03x}-{b:012x}", a & 0xfff, b & 0xfff);
            let time = format!("2026-01-02T03:{:02}:{:02}Z", n / 84 % 60, n % 60);
            let comma = if n > 0 { "," } else { "" };
            list.push_str(comma);
            let pod = TEMPLATE
                .trim_end()
                .replace("UID", &uid)
                .replace("TIME", &time)
                .replace("TOKEN", &format!("{token:07x}"))
                .replace("REVISION", &(1000 + 7 * n).to_string())
                .replace("NODE", &(n % 10).to_string())
                .replace("ADDRESS", &format!("{}.{}", n / 250, n % 250))
                .replace("NUMBER", &n.to_string());
            list.push_str(&pod);
        }
        list.push_str("]}");
        list
    }

    /// A stored pod.
    const TEMPLATE: &str = include_str!("../../tests/listed_pod.json");
}
