//! `proxy` of pods, Services and nodes: forwards a request to them (kubectl.md 5.9).

use std::net::SocketAddr;

use futures::future::BoxFuture;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use json_tree::json;
use object_model::{Status, StatusReason};
use tower::ServiceExt;

use crate::access::authorize::authorize;
use crate::admission::dynamic_admission;
use crate::catalog::registry::Resource;
use crate::handlers::forwarding;
use crate::handlers::nodes::NodeConnector;
use crate::handlers::remote_nodes;
use crate::handlers::writer::Writer;
use crate::http::body::{BoxBody, BoxError, Segments, boxed};
use crate::http::call::{ApiResponse, Call};
use crate::http::limits::PROXY_CONNECT_TIMEOUT;
use crate::http::query::{decode, encode};
use crate::objects::service_address::{address, of_service};
use crate::objects::storage;
use crate::objects::storage::Objects;

/// Responds with the backend's response.
pub(super) async fn respond(
    writer: Writer<'_>,
    nodes: &dyn NodeConnector,
    resource: &Resource,
    call: Call,
    body: BoxBody,
) -> Result<ApiResponse, Status> {
    let path = call.info.rest.clone();
    let target_path = decode(&path, false);
    let mut options = match target_path.as_str() {
        "" => json!({}),
        path => json!({"path": path}),
    };
    dynamic_admission::connect(writer.admission, resource, &call, &mut options).await?;
    let path = match options["path"].as_str().unwrap_or_default() {
        same if same == target_path => path,
        other => other.split('/').map(encode).collect::<Vec<_>>().join("/"),
    };
    forward(writer, nodes, resource, &path, call, body).await
}

async fn forward(
    writer: Writer<'_>,
    nodes: &dyn NodeConnector,
    resource: &Resource,
    path: &str,
    call: Call,
    body: BoxBody,
) -> Result<ApiResponse, Status> {
    if path.is_empty() && matches!(call.parts.method, Method::GET | Method::HEAD) {
        return redirect(&call);
    }
    let target = Target::parse(&call.info.name)?;
    let uri = uri(path, call.parts.uri.query())?;
    let port_of_node = match resource.info().plural {
        "nodes" => port_of_node(writer.objects, resource, &target).await?,
        _ => None,
    };
    if resource.info().plural == "nodes" && port_of_node.is_none() {
        let upgrades = call.parts.headers.contains_key(header::UPGRADE);
        if call.info.verb == "get" && (upgrades || !only_reads(path)) {
            // A WebSocket request is a GET. Running a command needs the verb `create`, not only `get`.
            authorize(
                &writer.access.authorizer,
                &call.user,
                &call.info.with_verb("create"),
            )?;
        }
        writer.objects.must_read(resource, "", &target.name).await?;
        return to_node(nodes, &target.name, call, body, uri).await;
    }
    let address = match (port_of_node, resource.info().plural) {
        (Some(address), _) => address,
        (None, "services") => {
            let (namespace, name) = (&call.info.namespace, &target.name);
            of_service(writer.objects, resource, namespace, name, &target.port).await?
        }
        (None, _) => of_pod(writer.objects, resource, &call.info.namespace, &target).await?,
    };
    let mut parts = call.parts;
    parts.uri = uri;
    let host = HeaderValue::from_str(&address.to_string()).ok();
    forwarding::clean(&mut parts.headers);
    parts.headers.extend(host.map(|host| (header::HOST, host)));
    let request = Request::from_parts(parts, body);
    let response = send(address, request).await.map_err(|error| {
        let text = format!("error trying to reach service: {error}");
        Status::new(StatusReason::ServiceUnavailable, text)
    })?;
    Ok(ApiResponse::Raw(response))
}

/// Whether a path of a node's API is read-only.
fn only_reads(path: &str) -> bool {
    const SHOWN: [&str; 7] = [
        "configz",
        "containerLogs",
        "healthz",
        "logs",
        "metrics",
        "pods",
        "stats",
    ];
    let first = path.trim_start_matches('/').split('/').next();
    let only_reads = first.is_some_and(|first| SHOWN.contains(&first));
    if !only_reads {
        cov_mark::hit!(findings_s21);
    }
    only_reads
}

/// Redirects to the path with a slash at its end, because relative links of a page need the slash.
fn redirect(call: &Call) -> Result<ApiResponse, Status> {
    let query = call.parts.uri.query();
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    let to = format!("{}/{query}", call.info.path);
    let mut response = Response::new(boxed(Segments::new(Vec::new())));
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    let to = HeaderValue::from_str(&to)
        .map_err(|e| Status::bad_request(format!("path of the redirect: {e}")))?;
    response.headers_mut().insert(header::LOCATION, to);
    Ok(ApiResponse::Raw(response))
}

fn uri(path: &str, query: Option<&str>) -> Result<Uri, Status> {
    let path = if path.is_empty() { "/" } else { path };
    let text = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    text.parse()
        .map_err(|e| Status::bad_request(format!("path of the redirect: {e}")))
}

/// The target of a name `[scheme:]name[:port]`.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    name: String,
    /// A number or, for a Service, a port name. Empty for the first port, and for a node's API.
    port: String,
}

/// The name and the port in the last segment of a path.
pub(crate) fn name_and_port(text: &str) -> Option<(String, String)> {
    let target = Target::parse(text).ok()?;
    Some((target.name, target.port))
}

impl Target {
    fn parse(text: &str) -> Result<Self, Status> {
        let text = decode(text, false);
        let words: Vec<&str> = text.split(':').collect();
        let (scheme, name, port) = match words[..] {
            [name] => ("", name, ""),
            [name, port] => ("", name, port),
            [scheme, name, port] => (scheme, name, port),
            _ => return Err(Status::bad_request(format!("invalid name {text:?}"))),
        };
        match scheme {
            "" | "http" => Ok(Self {
                name: name.to_owned(),
                port: port.to_owned(),
            }),
            "https" => Err(Status::bad_request("proxying to https is not supported")),
            other => Err(Status::bad_request(format!("invalid scheme {other:?}"))),
        }
    }
}

async fn of_pod(
    objects: &Objects,
    resource: &Resource,
    namespace: &str,
    target: &Target,
) -> Result<SocketAddr, Status> {
    let stored = objects.must_read(resource, namespace, &target.name).await?;
    let pod = storage::decode(resource, &stored)?;
    let first = || {
        let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
        let mut ports = containers.flat_map(|c| c["ports"].as_array().into_iter().flatten());
        ports.next().and_then(|port| port["containerPort"].as_u64())
    };
    let port = match target.port.as_str() {
        "" => first().unwrap_or(80),
        text => text
            .parse()
            .map_err(|_| Status::bad_request(format!("invalid port {text:?}")))?,
    };
    address(pod["status"]["podIP"].as_str().unwrap_or_default(), port)
}

/// The address of a port of a node; `None` for the port of the node's API, which has its own connection.
async fn port_of_node(
    objects: &Objects,
    resource: &Resource,
    target: &Target,
) -> Result<Option<SocketAddr>, Status> {
    if target.port.is_empty() {
        return Ok(None);
    }
    let port: u16 = target
        .port
        .parse()
        .map_err(|_| Status::bad_request(format!("invalid port {:?}", target.port)))?;
    let stored = objects.must_read(resource, "", &target.name).await?;
    let node = storage::decode(resource, &stored)?;
    if port == remote_nodes::kubelet_port(&node) {
        return Ok(None);
    }
    // A host name is not used, because it could resolve to any address.
    let ip = remote_nodes::preferred_address(&node).unwrap_or_default();
    address(ip, port.into()).map(Some)
}

async fn to_node(
    nodes: &dyn NodeConnector,
    node: &str,
    call: Call,
    body: BoxBody,
    uri: Uri,
) -> Result<ApiResponse, Status> {
    let unavailable = |text: String| Status::new(StatusReason::ServiceUnavailable, text);
    let service = nodes.connect(node);
    let service = service.ok_or_else(|| unavailable(format!("node {node:?} cannot be reached")))?;
    let mut request = Request::from_parts(call.parts, body);
    *request.uri_mut() = uri;
    request.headers_mut().remove(header::AUTHORIZATION);
    let sent: BoxFuture<'static, Result<Response<BoxBody>, BoxError>> =
        Box::pin(service.oneshot(request));
    let response = sent
        .await
        .map_err(|e| unavailable(format!("node {node:?}: {e}")))?;
    Ok(ApiResponse::Raw(response))
}

/// Sends a request over a new connection. After an upgrade, the bytes of both connections are copied in both
/// directions.
async fn send(
    address: SocketAddr,
    request: Request<BoxBody>,
) -> Result<Response<BoxBody>, BoxError> {
    let stream = outbound_http::connect(address, PROXY_CONNECT_TIMEOUT).await?;
    forwarding::send(stream, request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths_are_read() {
        // kubectl.md 5.9
        let target = |text: &str| Target::parse(text).map(|t| (t.name, t.port));
        let pair = |name: &str, port: &str| (name.to_owned(), port.to_owned());
        assert_eq!(target("web").unwrap(), pair("web", ""));
        assert_eq!(target("web:80").unwrap(), pair("web", "80"));
        assert_eq!(target("http:web:http").unwrap(), pair("web", "http"));
        assert!(target("https:web:443").is_err());
        assert!(target("a:b:c:d").is_err());
    }

    #[test]
    fn only_what_shows_something_is_read() {
        cov_mark::check!(findings_s21);
        // findings S21
        for path in [
            "/pods",
            "/stats/summary",
            "/containerLogs/n/p/c",
            "/metrics/cadvisor",
        ] {
            assert!(only_reads(path), "{path}");
        }
        for path in [
            "",
            "/",
            "/exec/n/p/c",
            "//run/n/p/c",
            "/%65xec/n/p/c",
            "/./pods",
            "/attach",
        ] {
            assert!(!only_reads(path), "{path}");
        }
    }
}
