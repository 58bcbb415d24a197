//! The gRPC health check: one unary call of `grpc.health.v1.Health/Check`.

use std::time::Duration;

use rpc_channel::{Channel, ChannelOptions, RpcError};
use service_protocols::grpc_health_v1::{
    HealthCheckRequest, health, health_check_response::ServingStatus,
};
use thiserror::Error;
use tokio::net::TcpStream;

use crate::limits::PROBE_OUTPUT_BYTES_MAX;

const OPTIONS: ChannelOptions = ChannelOptions {
    keep_alive: None,
    headers: &[("user-agent", "kube-probe/1.36")],
    message_bytes_max: PROBE_OUTPUT_BYTES_MAX,
};

/// The server is not healthy, or did not state its health.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum GrpcProbeError {
    #[error("error: health rpc probe failed: {0}")]
    Rpc(String),
    #[error("service unhealthy (responded with \"{0}\")")]
    NotServing(&'static str),
}

impl From<RpcError> for GrpcProbeError {
    fn from(error: RpcError) -> Self {
        Self::Rpc(reason(error))
    }
}

/// Checks whether the server reports `service` as serving; the empty name is the whole server. The caller
/// limits the time.
pub async fn check(stream: TcpStream, address: &str, service: &str) -> Result<(), GrpcProbeError> {
    let channel = Channel::over(stream, format!("http://{address}"), OPTIONS).await?;
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let response = channel.call(health::CHECK, &request, Duration::MAX).await?;
    let name = match response.status.try_into() {
        Ok(ServingStatus::Serving) => return Ok(()),
        Ok(status) => status.as_str_name(),
        Err(_) => ServingStatus::ServiceUnknown.as_str_name(),
    };
    Err(GrpcProbeError::NotServing(name))
}

/// The text of an error, as Go's gRPC library prints its statuses.
fn reason(error: RpcError) -> String {
    match error {
        RpcError::Status { code, message } => {
            format!("rpc error: code = {} desc = {message}", code.0)
        }
        error => error.to_string(),
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

    async fn checked(response: &[u8], code: &'static str) -> Result<(), String> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let response = Bytes::copy_from_slice(response);
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let service = hyper::service::service_fn(move |request: Request<_>| {
                let response = response.clone();
                async move {
                    let body: hyper::body::Incoming = request.into_body();
                    let sent = body.collect().await.unwrap().to_bytes();
                    assert_eq!(sent.as_ref(), b"\0\0\0\0\x04\x0a\x02db");
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", code.parse().unwrap());
                    let frames = [
                        Ok::<_, std::io::Error>(Frame::data(response)),
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
        result.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn servers_say_how_they_are() {
        // statefulset.md 12.5
        assert_eq!(checked(b"\0\0\0\0\x02\x08\x01", "0").await, Ok(()));
        let unwell = checked(b"\0\0\0\0\x02\x08\x02", "0").await.unwrap_err();
        assert_eq!(unwell, "service unhealthy (responded with \"NOT_SERVING\")");
        let refused = checked(b"", "12").await.unwrap_err();
        assert!(refused.contains("code = 12"), "{refused}");
    }

    #[tokio::test]
    async fn an_answer_longer_than_the_limit_is_refused() {
        let framed = |length: usize| {
            let head = u32::try_from(length).unwrap().to_be_bytes();
            // A field that the probe ignores fills the message after the status.
            let filling = length - 5;
            let tag_and_length = [0x12, (filling % 128 + 128) as u8, (filling / 128) as u8];
            let message = [8, 1].into_iter().chain(tag_and_length);
            let message = message.chain(std::iter::repeat_n(0, filling));
            std::iter::once(0)
                .chain(head)
                .chain(message)
                .collect::<Vec<u8>>()
        };
        assert_eq!(checked(&framed(PROBE_OUTPUT_BYTES_MAX), "0").await, Ok(()));
        let refused = checked(&framed(PROBE_OUTPUT_BYTES_MAX + 1), "0").await;
        let refused = refused.unwrap_err();
        assert!(
            refused.starts_with("error: health rpc probe failed"),
            "{refused}"
        );
    }
}
