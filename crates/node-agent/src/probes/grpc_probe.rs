//! The gRPC health check: one unary call of `grpc.health.v1.Health/Check`.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use object_model::varint;
use tokio::net::TcpStream;

const SERVING: u64 = 1;

/// Asks the server at the other end whether `service` (empty: all of it) serves.
///
/// # Errors
/// *Errors.* The message for the user.
pub async fn check(stream: TcpStream, address: &str, service: &str) -> Result<(), String> {
    let failed = |what: String| format!("error: health rpc probe failed: {what}");
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.36")
        .body(Full::new(message(service)))
        .map_err(|error| failed(error.to_string()))?;
    let io = TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .map_err(|error| failed(error.to_string()))?;
    let exchange = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(|e| e.to_string())?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| error.to_string())?;
        let none = HeaderMap::new();
        let refused = refusal(&head.headers).or_else(|| refusal(body.trailers().unwrap_or(&none)));
        match refused {
            Some(refused) => Err(refused),
            None => Ok(body.to_bytes()),
        }
    };
    let answer = tokio::select! {
        answer = exchange => answer,
        ended = connection => Err(ended.err().map_or("EOF".to_owned(), |error| error.to_string())),
    };
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

/// `HealthCheckRequest{service}` as one uncompressed gRPC message.
fn message(service: &str) -> Bytes {
    let mut request = BytesMut::new();
    if !service.is_empty() {
        request.put_u8(0x0a);
        varint::put(&mut request, service.len() as u64);
        request.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(request.len()).unwrap_or(0));
    framed.extend_from_slice(&request);
    framed.freeze()
}

/// The error of a call, if there is one.
fn refusal(headers: &HeaderMap) -> Option<String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let code = text("grpc-status").filter(|code| *code != "0")?;
    let reason = text("grpc-message").unwrap_or_default();
    Some(format!("rpc error: code = {code} desc = {reason}"))
}

/// The field `status` of a `HealthCheckResponse`; an absent field is 0.
fn status(framed: &[u8]) -> Option<u64> {
    let message = framed.get(5..)?;
    match message {
        [] => Some(0),
        [0x08, value, ..] if *value < 0x80 => Some(u64::from(*value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::body::Frame;

    async fn asked(answer: &'static [u8], code: &'static str) -> Result<(), String> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let service = hyper::service::service_fn(move |request: Request<_>| async move {
                let body: hyper::body::Incoming = request.into_body();
                let sent = body.collect().await.unwrap().to_bytes();
                assert_eq!(sent.as_ref(), b"\0\0\0\0\x04\x0a\x02db");
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", code.parse().unwrap());
                let frames = [
                    Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(answer))),
                    Ok(Frame::trailers(trailers)),
                ];
                let body = http_body_util::StreamBody::new(futures::stream::iter(frames));
                Ok::<_, std::io::Error>(http::Response::new(body))
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
}
