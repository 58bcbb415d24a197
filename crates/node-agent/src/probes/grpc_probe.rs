//! The gRPC health check: one unary call of `grpc.health.v1.Health/Check`.

use std::time::Duration;

use grpc::{Channel, ChannelOptions, RpcError};
use object_model::varint;
use tokio::net::TcpStream;

use crate::limits::PROBE_OUTPUT_BYTES_MAX;

const SERVING: u64 = 1;

const OPTIONS: ChannelOptions = ChannelOptions {
    keep_alive: None,
    headers: &[("user-agent", "kube-probe/1.36")],
    message_bytes_max: PROBE_OUTPUT_BYTES_MAX,
};

/// Checks whether the server reports `service` as serving; the empty name is the whole server. The caller
/// limits the time.
///
/// # Errors
/// A message for users.
pub async fn check(stream: TcpStream, address: &str, service: &str) -> Result<(), String> {
    let failed = |error: RpcError| format!("error: health rpc probe failed: {}", reason(error));
    let channel = Channel::over(stream, format!("http://{address}"), OPTIONS).await;
    let channel = channel.map_err(failed)?;
    let path = "/grpc.health.v1.Health/Check";
    let answer = channel.call(path, &request(service), Duration::MAX).await;
    match status(&answer.map_err(failed)?) {
        Some(SERVING) => Ok(()),
        other => {
            let name = match other {
                Some(0) | None => "UNKNOWN",
                Some(2) => "NOT_SERVING",
                Some(_) => "SERVICE_UNKNOWN",
            };
            Err(format!("service unhealthy (responded with \"{name}\")"))
        }
    }
}

/// The text of an error, as Go's gRPC library prints its statuses.
fn reason(error: RpcError) -> String {
    match error {
        RpcError::Status { code, message } => {
            format!("rpc error: code = {} desc = {message}", code.0)
        }
        other => other.to_string(),
    }
}

/// An encoded `HealthCheckRequest` with the field `service`.
fn request(service: &str) -> Vec<u8> {
    let mut request = Vec::new();
    if !service.is_empty() {
        request.push(0x0a);
        varint::put(&mut request, service.len() as u64);
        request.extend_from_slice(service.as_bytes());
    }
    request
}

/// The field `status` of a `HealthCheckResponse`; an absent field is 0.
fn status(message: &[u8]) -> Option<u64> {
    match message {
        [] => Some(0),
        [0x08, value, ..] if *value < 0x80 => Some(u64::from(*value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http::{HeaderMap, Request};
    use http_body_util::BodyExt as _;
    use hyper::body::Frame;
    use hyper_util::rt::{TokioExecutor, TokioIo};

    async fn asked(answer: &[u8], code: &'static str) -> Result<(), String> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answer = Bytes::copy_from_slice(answer);
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let service = hyper::service::service_fn(move |request: Request<_>| {
                let answer = answer.clone();
                async move {
                    let body: hyper::body::Incoming = request.into_body();
                    let sent = body.collect().await.unwrap().to_bytes();
                    assert_eq!(sent.as_ref(), b"\0\0\0\0\x04\x0a\x02db");
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", code.parse().unwrap());
                    let frames = [
                        Ok::<_, std::io::Error>(Frame::data(answer)),
                        Ok(Frame::trailers(trailers)),
                    ];
                    let body = http_body_util::StreamBody::new(futures::stream::iter(frames));
                    Ok::<_, std::io::Error>(http::Response::new(body))
                }
            });
            let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            // The client disconnects after its response.
            http.serve_connection(TokioIo::new(stream), service)
                .await
                .ok();
        });
        let stream = TcpStream::connect(address).await.unwrap();
        let result = check(stream, &address.to_string(), "db").await;
        server.await.unwrap();
        result
    }

    #[tokio::test]
    async fn servers_say_how_they_are() {
        // statefulset.md 12.5
        assert_eq!(asked(b"\0\0\0\0\x02\x08\x01", "0").await, Ok(()));
        let unwell = asked(b"\0\0\0\0\x02\x08\x02", "0").await.unwrap_err();
        assert_eq!(unwell, "service unhealthy (responded with \"NOT_SERVING\")");
        let refused = asked(b"", "12").await.unwrap_err();
        assert!(refused.contains("code = 12"), "{refused}");
    }

    #[tokio::test]
    async fn an_answer_longer_than_the_limit_is_refused() {
        let framed = |length: usize| {
            let head = u32::try_from(length).unwrap().to_be_bytes();
            // A field that the probe ignores fills the message after the status.
            let message = [8, 1].into_iter().chain(std::iter::repeat_n(0, length - 2));
            std::iter::once(0)
                .chain(head)
                .chain(message)
                .collect::<Vec<u8>>()
        };
        assert_eq!(asked(&framed(PROBE_OUTPUT_BYTES_MAX), "0").await, Ok(()));
        let refused = asked(&framed(PROBE_OUTPUT_BYTES_MAX + 1), "0").await;
        let refused = refused.unwrap_err();
        assert!(
            refused.starts_with("error: health rpc probe failed"),
            "{refused}"
        );
    }
}
