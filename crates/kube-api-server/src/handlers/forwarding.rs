//! A request that is forwarded over another connection, and the tunnel between both connections after an upgrade.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::http::body::{BoxBody, BoxError, boxed};

/// Headers that concern one connection only, and headers with credentials, which the backend must not see.
const NOT_FORWARDED: [&str; 7] = [
    "authorization",
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
];

/// Sends a request over a connection. After an upgrade, the bytes of both connections are copied in both directions.
pub(crate) async fn send<S>(
    stream: S,
    mut request: Request<BoxBody>,
) -> Result<Response<BoxBody>, BoxError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let upgrading = request.headers().contains_key(header::UPGRADE);
    if upgrading {
        let name = HeaderValue::from_static("Upgrade");
        request.headers_mut().insert(header::CONNECTION, name);
    }
    *request.version_mut() = http::Version::HTTP_11;
    let ours = hyper::upgrade::on(&mut request);
    let mut response = outbound_http::exchange(stream, request).await?;
    if upgrading && response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let theirs = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            let (Ok(ours), Ok(theirs)) = tokio::join!(ours, theirs) else {
                return;
            };
            outbound_http::splice(TokioIo::new(ours), TokioIo::new(theirs)).await;
        });
    } else {
        clean(response.headers_mut());
        response.headers_mut().remove(header::UPGRADE);
    }
    Ok(response.map(boxed))
}

pub(crate) fn clean(headers: &mut HeaderMap) {
    let impersonation = |name: &HeaderName| name.as_str().starts_with("impersonate-");
    let names: Vec<HeaderName> = headers
        .keys()
        .filter(|n| impersonation(n))
        .cloned()
        .collect();
    for name in names {
        headers.remove(name);
    }
    for name in NOT_FORWARDED {
        headers.remove(name);
    }
}
