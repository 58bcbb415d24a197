//! A request that is proxied to an extension API server.

use std::sync::Arc;
use std::time::Duration;

use connection_limits::Share;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::Limited;
use hyper_util::rt::TokioIo;
use object_model::{Status, StatusReason};
use outbound_http::Body;
use process_telemetry::refusals::{self, Budget};

use crate::aggregation::identity;
use crate::aggregation::remote_service::RemoteService;
use crate::aggregation::state::Aggregation;
use crate::handlers::forwarding;
use crate::http::body::{BoxBody, GuardedBody, Segments, boxed};
use crate::http::call::{ApiResponse, Call};
use crate::http::configured_servers::CallError;
use crate::http::limits::EXTENSION_LOCAL_RESPONSE_BYTES_MAX;
use crate::http::query::decode;
use crate::http::refusals::unknown_path;
use crate::http::request_info::RequestInfo;
use crate::objects::service_client;
use crate::objects::storage::Objects;

/// The time without a response after which the server is checked.
const DOUBTED_AFTER: Duration = Duration::from_millis(500);

/// The time without a response after which a request fails if the server is no longer available.
const PATIENCE: Duration = Duration::from_secs(5);

/// The text of a response without an available server (upstream's).
const UNAVAILABLE: &str = "service unavailable";

/// The response headers of an extension API server that are not passed to the client.
const NOT_RETURNED: [&str; 2] = ["audit-id", "x-kubernetes-pf-flowschema-uid"];

/// The extension API server of a request; `None` if this server responds itself.
pub(crate) fn destination(
    aggregation: &Aggregation,
    info: &RequestInfo,
) -> Option<Arc<RemoteService>> {
    if info.is_resource {
        return aggregation.find(&info.group, &info.version);
    }
    let mut words = info.path.split('/').filter(|word| !word.is_empty());
    let words = [(); 6].map(|()| words.next());
    match words {
        [Some("apis"), Some(group), Some(version), None, ..]
        | [
            Some("openapi"),
            Some("v3"),
            Some("apis"),
            Some(group),
            Some(version),
            None,
        ] => aggregation.find(group, version),
        _ => None,
    }
}

/// Sends a request to an extension API server, and returns its response. Only the bytes of the body follow later.
///
/// *Errors.* 400 and 404 for a path that the server could read as another path than this server has authorised; 429 if
/// the sender, or the server, has too many requests without a response.
pub(crate) async fn forward(
    aggregation: &Aggregation,
    objects: &Objects,
    service: &RemoteService,
    call: Call,
    body: BoxBody,
) -> Result<ApiResponse, Status> {
    check_path(&call.info)?;
    if !service.is_available() {
        let unavailable = plain(StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE);
        return Ok(ApiResponse::Raw(unavailable));
    }
    let sender = call.user.sender().to_owned();
    let permits = admit(aggregation, service, &sender)?;
    let source = call.source();
    let is_stream = call.info.is_long_running(&call.query);
    let Call {
        mut parts,
        user,
        info,
        ..
    } = call;
    forwarding::clean(&mut parts.headers);
    // The client may name the agents before this server, but not the user.
    if let Some(source) = source {
        add_source(&mut parts.headers, &source.to_string());
    }
    if let Err(error) = identity::name_user(&mut parts.headers, &user) {
        let error = plain(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string());
        return Ok(ApiResponse::Raw(error));
    }
    let mut request = Request::from_parts(parts, body);
    let is_upgrade = request.headers().contains_key(header::UPGRADE);
    let upgraded = is_upgrade.then(|| {
        let name = HeaderValue::from_static("Upgrade");
        request.headers_mut().insert(header::CONNECTION, name);
        hyper::upgrade::on(&mut request)
    });
    *request.version_mut() = http::Version::default();
    let target = service.target.destination();
    let sending = service_client::send(objects, &aggregation.pools, &target, request);
    let mut response = match patiently(service, sending).await {
        Ok(response) => response,
        Err(text) => {
            service.doubted.notify_one();
            let error = plain(StatusCode::SERVICE_UNAVAILABLE, &text);
            return Ok(ApiResponse::Raw(error));
        }
    };
    if let Some(upgraded) = upgraded
        && response.status() == StatusCode::SWITCHING_PROTOCOLS
    {
        let stream = stream(aggregation, sender)?;
        let theirs = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            let _stream = stream;
            if let (Ok(ours), Ok(theirs)) = tokio::join!(upgraded, theirs) {
                outbound_http::splice(TokioIo::new(ours), TokioIo::new(theirs)).await;
            }
        });
        return Ok(ApiResponse::Raw(response.map(boxed)));
    }
    // A stream has a permit of the watches; other bodies keep their permit until their end.
    let permits = (!is_stream).then_some(permits);
    let mut response = returned(&info.path, response, permits);
    if source.is_none() && !is_stream {
        // A component of this process reads the whole body into memory.
        response =
            response.map(|body| boxed(Limited::new(body, EXTENSION_LOCAL_RESPONSE_BYTES_MAX)));
    }
    Ok(ApiResponse::Raw(response))
}

/// The response for the client.
fn returned(path: &str, response: Response<Body>, permits: Option<Permits>) -> Response<BoxBody> {
    if response.status().is_redirection()
        && let Some(location) = response.headers().get(header::LOCATION)
    {
        // The URL of an OpenAPI document with an old hash is redirected to the new URL.
        let prefix = format!("{path}?hash=");
        let is_document = path.starts_with("/openapi/v3/")
            && location.to_str().is_ok_and(|to| to.starts_with(&prefix));
        if !is_document {
            let text = "the backend attempted to redirect this request, which is not permitted";
            return plain(StatusCode::BAD_GATEWAY, text);
        }
    }
    let mut response = response.map(|body| {
        let body = boxed(body.without_silence_limit());
        match permits {
            Some(permits) => boxed(GuardedBody::new(body, permits)),
            None => body,
        }
    });
    let headers = response.headers_mut();
    forwarding::clean(headers);
    headers.remove(header::UPGRADE);
    for name in NOT_RETURNED {
        headers.remove(name);
    }
    response
}

/// Waits for the response. If there is none for some time, the server is checked, and the wait ends if the server is
/// not available.
///
/// *Errors.* The text for the client.
async fn patiently(
    service: &RemoteService,
    sending: impl Future<Output = Result<Response<Body>, CallError>>,
) -> Result<Response<Body>, String> {
    let watching = async {
        tokio::time::sleep(DOUBTED_AFTER).await;
        service.doubted.notify_one();
        tokio::time::sleep(PATIENCE.saturating_sub(DOUBTED_AFTER)).await;
        service.unavailable().await;
    };
    tokio::select! {
        response = sending => response.map_err(|error| match error {
            CallError::Service(_) => UNAVAILABLE.to_owned(),
            error => format!("error trying to reach service: {error}"),
        }),
        () = watching => Err(UNAVAILABLE.to_owned()),
    }
}

/// The permits of a request that has no response yet.
type Permits = (Share<String>, Share<String>);

/// *Errors.* 429 if the sender, or the server, has as many requests as it may have.
fn admit(
    aggregation: &Aggregation,
    service: &RemoteService,
    sender: &str,
) -> Result<Permits, Status> {
    let name = &service.target.name;
    let of_sender = aggregation.requests.take(sender.to_owned());
    let of_sender = of_sender
        .ok_or_else(|| too_many("too many requests of this user wait for extension API servers"))?;
    let of_service = aggregation.requests_by_service.take(name.clone());
    let of_service = of_service
        .ok_or_else(|| too_many(&format!("too many requests wait for the APIService {name}")))?;
    Ok((of_sender, of_service))
}

fn stream(aggregation: &Aggregation, sender: String) -> Result<Share<String>, Status> {
    let stream = aggregation.streams.take(sender);
    stream.ok_or_else(|| too_many("too many streams of this user to extension API servers"))
}

fn too_many(text: &str) -> Status {
    refusals::count(Budget::ExtensionRequests);
    let mut status = Status::new(StatusReason::TooManyRequests, text);
    let mut details = status.details.take().unwrap_or_default();
    details.retry_after_seconds = 1;
    status.details = Some(details);
    status
}

/// *Errors.* 404 for a path with an empty segment, and 400 for a path that another parser could split differently: then
/// the extension API server would handle another object than the authorised one.
fn check_path(info: &RequestInfo) -> Result<(), Status> {
    if info.has_gap || info.path.contains("//") {
        return Err(unknown_path());
    }
    for segment in info.path.split('/') {
        let text = decode(segment, false);
        if text.contains('/') || matches!(text.as_ref(), "." | "..") {
            let text = format!("path segment {segment:?} is invalid");
            return Err(Status::bad_request(text));
        }
    }
    Ok(())
}

/// Adds the address of the client to the addresses of the agents before it.
fn add_source(headers: &mut HeaderMap, source: &str) {
    let name = HeaderName::from_static("x-forwarded-for");
    let all = headers.get_all(&name).iter();
    let all = all.filter_map(|value| value.to_str().ok());
    let all: Vec<&str> = all.chain([source]).collect();
    if let Ok(value) = HeaderValue::from_str(&all.join(", ")) {
        headers.insert(name, value);
    }
}

/// A response with a line of plain text, as upstream's.
fn plain(code: StatusCode, text: &str) -> Response<BoxBody> {
    let line = format!("{text}\n");
    let mut response = Response::new(boxed(Segments::new(vec![line.into()])));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    headers.insert(header::CONTENT_TYPE, kind);
    let nosniff = HeaderValue::from_static("nosniff");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::http::query::Query;

    #[test]
    fn only_paths_that_every_parser_splits_alike_are_passed_on() {
        let code = |path: &str| {
            let info = RequestInfo::new(&Method::GET, path, &Query::default());
            check_path(&info).err().map_or(200, |status| status.code)
        };
        for path in [
            "/apis/g/v1",
            "/apis/g/v1/",
            "/apis/g/v1/namespaces/a/flunders/x/any/thing",
            "/apis/g/v1/namespaces/a/metrics/a%7Cb%20c",
            "/apis/g/v1/flunders/a..b",
        ] {
            assert_eq!(code(path), 200, "{path}");
        }
        for path in [
            "/apis/g/v1/flunders/x%2fstatus",
            "/apis/g/v1/flunders/%2E%2e/secrets",
            "/apis/g/v1/flunders/../secrets",
            "/apis/g/v1/./flunders",
        ] {
            assert_eq!(code(path), 400, "{path}");
        }
        for path in ["/apis/g/v1//flunders", "//apis/g/v1/flunders"] {
            assert_eq!(code(path), 404, "{path}");
        }
    }

    #[test]
    fn the_client_is_the_last_of_the_named_agents() {
        let mut headers = HeaderMap::new();
        add_source(&mut headers, "10.0.0.9");
        assert_eq!(headers["x-forwarded-for"], "10.0.0.9");
        headers.insert("x-forwarded-for", HeaderValue::from_static("a, b"));
        headers.append("x-forwarded-for", HeaderValue::from_static("c"));
        add_source(&mut headers, "10.0.0.9");
        assert_eq!(headers["x-forwarded-for"], "a, b, c, 10.0.0.9");
    }
}
