//! A gRPC server of calls with one request and one response, on one connection.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::framing::{HEAD_BYTES, framed, split_message};
use crate::{Code, RpcError};

/// The bounds of a connection.
#[derive(Clone, Copy, Debug)]
pub struct ServerOptions {
    /// Maximum length of a request.
    pub message_bytes_max: usize,
    /// Maximum number of concurrent calls.
    pub calls_max: u32,
    /// Time limit of the connection; calls in progress are broken off.
    pub lifetime: Duration,
}

/// The error of a call, which the client receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallRefusal {
    pub code: Code,
    pub message: String,
}

/// The bytes that gRPC encodes in the text of an error.
const ENCODED: &AsciiSet = &CONTROLS.add(b'%');
/// Maximum length of a request's headers.
const HEADER_BYTES_MAX: u32 = 16 * 1024;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Serves the calls of a connection. `respond` receives the path of the method (`/package.Service/Method`) and the
/// encoded request.
///
/// # Errors
/// The connection broke, or its time has passed.
pub async fn serve<S, R, F>(stream: S, options: ServerOptions, respond: R) -> Result<(), RpcError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    R: Fn(String, Bytes) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Vec<u8>, CallRefusal>> + Send + 'static,
{
    let respond = Arc::new(respond);
    let service = service_fn(move |request: Request<Incoming>| {
        let respond = respond.clone();
        async move {
            let path = request.uri().path().to_owned();
            let result = match read_message(request.into_body(), options.message_bytes_max).await {
                Ok(message) => respond(path, message).await,
                Err(refusal) => Err(refusal),
            };
            Ok::<_, Infallible>(response(result))
        }
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(options.calls_max)
        .max_header_list_size(HEADER_BYTES_MAX);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(options.lifetime, connection).await {
        Ok(ended) => ended.map_err(RpcError::broken),
        Err(_) => Err(RpcError::TimedOut(options.lifetime)),
    }
}

async fn read_message(body: Incoming, bytes_max: usize) -> Result<Bytes, CallRefusal> {
    let refusal = |code, message: String| CallRefusal { code, message };
    let body = Limited::new(body, bytes_max.saturating_add(HEAD_BYTES));
    let body = body.collect().await;
    let body = body.map_err(|error| refusal(Code::RESOURCE_EXHAUSTED, error.to_string()))?;
    let mut bytes = BytesMut::from(body.to_bytes());
    let message = split_message(&mut bytes, bytes_max);
    let message = message.map_err(|error| refusal(Code::RESOURCE_EXHAUSTED, error.to_string()))?;
    message.ok_or_else(|| {
        refusal(
            Code::INVALID_ARGUMENT,
            "a request without a message".to_owned(),
        )
    })
}

fn response(result: Result<Vec<u8>, CallRefusal>) -> Response<Body> {
    let mut trailers = HeaderMap::new();
    let mut frames = Vec::new();
    match result {
        Ok(message) => {
            frames.push(Ok(Frame::data(framed(&message))));
            trailers.insert("grpc-status", HeaderValue::from(0));
        }
        Err(CallRefusal { code, message }) => {
            trailers.insert("grpc-status", HeaderValue::from(code.0));
            let text = utf8_percent_encode(&message, ENCODED).to_string();
            if let Ok(text) = HeaderValue::try_from(text) {
                trailers.insert("grpc-message", text);
            }
        }
    }
    frames.push(Ok(Frame::trailers(trailers)));
    let mut response = Response::new(StreamBody::new(stream::iter(frames)).boxed_unsync());
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert("content-type", grpc);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Channel, ChannelOptions};

    const OPTIONS: ServerOptions = ServerOptions {
        message_bytes_max: 8,
        calls_max: 2,
        lifetime: Duration::from_secs(60),
    };

    async fn called(path: &str, message: &[u8]) -> Result<Bytes, RpcError> {
        let (client, server) = tokio::io::duplex(64 * 1024);
        tokio::spawn(serve(server, OPTIONS, |path, message| async move {
            match path.as_str() {
                "/a.B/Echo" => Ok(message.to_vec()),
                _ => Err(CallRefusal {
                    code: Code::UNIMPLEMENTED,
                    message: format!("100% unknown\n{path}"),
                }),
            }
        }));
        let options = ChannelOptions {
            keep_alive: None,
            headers: &[],
            message_bytes_max: 1024,
        };
        let channel = Channel::over(client, "http://localhost".to_owned(), options).await?;
        let limit = Duration::from_secs(10);
        channel.call_with_bytes(path, message, limit).await
    }

    #[tokio::test]
    async fn calls_are_answered_refused_and_bounded() {
        assert_eq!(called("/a.B/Echo", b"12345678").await.unwrap(), "12345678");
        let error = called("/a.B/Other", b"").await.unwrap_err();
        let RpcError::Status { code, message } = error else {
            panic!("{error}")
        };
        assert_eq!(code, Code::UNIMPLEMENTED);
        assert_eq!(message, "100% unknown\n/a.B/Other");
        let error = called("/a.B/Echo", b"123456789").await.unwrap_err();
        let exhausted = RpcError::Status {
            code: Code::RESOURCE_EXHAUSTED,
            message: String::new(),
        };
        assert_eq!(
            std::mem::discriminant(&error),
            std::mem::discriminant(&exhausted)
        );
    }
}
