//! HTTPS requests to servers that users configure: admission webhooks, conversion webhooks and extension API servers.
//! A server is a URL, or a Service of the cluster.

mod destination;

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::Full;
use outbound_http::Body;

pub(crate) use destination::{Address, Destination};

use crate::http::body::{BoxBody, boxed};
use crate::http::configured_servers::{CallError, ServerPools};
use crate::objects::storage::Objects;
use destination::Endpoint;

/// The bounds of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallBounds {
    /// The time until the whole response has arrived.
    pub(crate) timeout: Duration,
    pub(crate) response_bytes_max: usize,
}

/// Sends a JSON document, and returns the body of the response. `query` is the query of the URL; may be empty.
///
/// *Errors.* There is no response within the bounds, or its status code is not 2xx.
pub(crate) async fn post(
    objects: &Objects,
    destination: &Destination<'_>,
    query: &str,
    json: Bytes,
    bounds: CallBounds,
) -> Result<Bytes, CallError> {
    let endpoint = destination.endpoint(objects).await?;
    let path = endpoint.path_with(query);
    let call = async {
        let request = Request::post(endpoint.url(&path))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .body(boxed(Full::new(json)))
            .map_err(CallError::exchange)?;
        let response = exchange(&objects.server_pools, destination, &endpoint, request).await?;
        let (head, body) = response.into_parts();
        let body = body.whole(bounds.response_bytes_max).await;
        let body = body.map_err(CallError::exchange)?;
        match head.status.is_success() {
            true => Ok(body),
            false => Err(CallError::Refused(head.status)),
        }
    };
    let outcome = match tokio::time::timeout(bounds.timeout, call).await {
        Ok(outcome) => outcome,
        Err(_) => Err(CallError::Timeout),
    };
    outcome.map_err(|error| CallError::Post {
        url: endpoint.name(&path),
        reason: Box::new(error),
    })
}

/// Sends a request, and returns the response as a stream. The path and query of the request are sent unchanged; scheme,
/// authority and the header `Host` are those of the destination. A request with the header `Upgrade` has a separate
/// connection. There is no limit on the duration of the body.
///
/// *Errors.* There is no connection, or it ended before the response.
pub(crate) async fn send(
    objects: &Objects,
    pools: &ServerPools,
    destination: &Destination<'_>,
    mut request: Request<BoxBody>,
) -> Result<Response<Body>, CallError> {
    let endpoint = destination.endpoint(objects).await?;
    let path = request.uri().path_and_query();
    let path = path.map_or("/", http::uri::PathAndQuery::as_str);
    let url = endpoint.url(path).parse();
    *request.uri_mut() = url.map_err(CallError::exchange)?;
    exchange(pools, destination, &endpoint, request).await
}

async fn exchange(
    pools: &ServerPools,
    destination: &Destination<'_>,
    endpoint: &Endpoint,
    mut request: Request<BoxBody>,
) -> Result<Response<Body>, CallError> {
    let host = endpoint.authority().parse().map_err(CallError::exchange)?;
    request.headers_mut().insert(header::HOST, host);
    let name = endpoint.server_name();
    pools.exchange(destination.trust, name, request).await
}
