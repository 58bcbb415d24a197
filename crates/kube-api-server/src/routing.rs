//! Routing of an authorised request to its handler.

use std::sync::Arc;

use futures::FutureExt;
use http::Method;
use json_tree::{Value, json};
use object_model::Status;
use process_telemetry::prometheus;
use resource_kinds::{Verb, admissionregistration, flowcontrol};

use crate::access::oidc;
use crate::aggregation::{proxy, state};
use crate::catalog::discovery;
use crate::catalog::openapi;
use crate::catalog::registry::Resource;
use crate::flow_control::config_sync;
use crate::group_services;
use crate::handlers::component_health;
use crate::handlers::destination::Destination;
use crate::handlers::freshness;
use crate::handlers::health;
use crate::handlers::metrics;
use crate::handlers::remote_nodes;
use crate::handlers::resource_metrics;
use crate::handlers::reviews;
use crate::handlers::subresources;
use crate::handlers::verbs;
use crate::http::body::BoxBody;
use crate::http::call::{ApiResponse, Call};
use crate::http::refusals::{not_allowed, unknown_path};
use crate::http::reply::Reply;
use crate::http::version;
use crate::objects::definitions;
use crate::server::ApiServer;

/// Whether the request is allowed without credentials.
pub(crate) fn is_public(path: &str) -> bool {
    is_health(path) || matches!(path, "/version" | "/version/")
}

/// Whether the request reads the health of the server. Such requests are never limited.
pub(crate) fn is_health(path: &str) -> bool {
    let first = path
        .trim_start_matches('/')
        .split('/')
        .next()
        .unwrap_or_default();
    matches!(first, "livez" | "readyz" | "healthz")
}

/// Responds to an authenticated and authorised request.
pub(crate) async fn route(
    server: &Arc<ApiServer>,
    call: Call,
    body: BoxBody,
) -> Result<ApiResponse, Status> {
    if call.info.path == node_tunnel::PATH {
        return remote_nodes::accept(server.nodes.tunnels(), &server.objects, call);
    }
    if let Some(service) = proxy::destination(&server.aggregation, &call.info) {
        let (aggregation, objects) = (&server.aggregation, &server.objects);
        let forwarding = proxy::forward(aggregation, objects, &service, call, body);
        return forwarding.boxed().await;
    }
    if !call.info.is_resource {
        let page = page(server, &call).boxed();
        return page.await.map(ApiResponse::Reply);
    }
    let destination = Destination::find(&server.objects, &call.info).await?;
    if !call.info.subresource.is_empty() {
        // The computed kinds have no sub-resources.
        return match destination {
            Destination::Stored(resource) => stored(server, &resource, None, call, body).await,
            _ => Err(unknown_path()),
        };
    }
    let verb = destination.verb(&call.parts.method, &call.info)?;
    let handling = match destination {
        Destination::Review(review) => {
            let handling = reviews::respond(server.writer(), review, call, body);
            handling.boxed().await
        }
        Destination::Metrics(kind) => {
            resource_metrics::respond(&server.objects, &server.nodes, kind, verb, call)
                .boxed()
                .await
        }
        Destination::ComponentStatus(_) => {
            component_health::respond(&server.components, &server.objects, verb, &call)
                .boxed()
                .await
        }
        Destination::Stored(resource) => {
            return stored(server, &resource, Some(verb), call, body).await;
        }
    };
    handling.map(ApiResponse::Reply)
}

/// Handles a request for stored objects, or for a sub-resource if `verb` is `None`.
async fn stored(
    server: &Arc<ApiServer>,
    resource: &Arc<Resource>,
    verb: Option<Verb>,
    call: Call,
    body: BoxBody,
) -> Result<ApiResponse, Status> {
    let info = &call.info;
    let writes = !matches!(info.verb.as_str(), "get" | "list" | "watch");
    let defines = writes
        && (info.group.as_str(), info.resource.as_str())
            == (custom_resources::GROUP, custom_resources::PLURAL);
    let bounds = writes && info.group == flowcontrol::GROUP;
    let changes_admission = writes && info.group == admissionregistration::GROUP;
    let registers =
        writes && (info.group.as_str(), info.resource.as_str()) == (state::GROUP, state::PLURAL);
    let deprecation = resource.kind.deprecation();
    call.warnings.add(deprecation.map(str::to_owned));
    freshness::reach(server.objects.store.as_ref(), &call).await?;
    let handling = match verb {
        Some(verb) => verbs::respond(server.writer(), &server.metrics, resource, verb, call, body)
            .await
            .map(ApiResponse::Reply),
        None => {
            let handling =
                subresources::respond(server.writer(), &server.nodes, resource, call, body);
            handling.boxed().await
        }
    };
    if defines && handling.is_ok() {
        definitions::follow(&server.objects).boxed().await?;
        group_services::follow(server.writer()).boxed().await?;
    }
    if registers && handling.is_ok() {
        server.aggregation.follow(&server.objects).boxed().await?;
        group_services::follow(server.writer()).boxed().await?;
    }
    if changes_admission && handling.is_ok() {
        server.admission.follow_registrations();
    }
    if bounds && handling.is_ok() {
        config_sync::put_in_force(&server.flows, &server.objects)?;
    }
    handling
}

async fn page(server: &Arc<ApiServer>, call: &Call) -> Result<Reply, Status> {
    let path = call.info.path.as_str();
    if !matches!(call.parts.method, Method::GET | Method::HEAD) {
        return Err(not_allowed());
    }
    let first = path
        .trim_start_matches('/')
        .split('/')
        .next()
        .unwrap_or_default();
    match first {
        "livez" | "readyz" | "healthz" => {
            let checked = health::CheckedParts {
                health: &server.health,
                objects: &server.objects,
                rbac: &server.access.authorizer.rbac,
            };
            health::respond(checked, path, &call.query).await
        }
        "version" if is_public(path) => Ok(Reply::json(&version::document())),
        "metrics" if path == "/metrics" => {
            let mut page = metrics::page(&server.metrics, &server.objects);
            server.flows.write_metrics(&mut page);
            server.nodes.write_metrics(&mut page);
            server.unread.write_metrics(&mut page);
            Ok(Reply::bytes(prometheus::CONTENT_TYPE, page.text()))
        }
        "openid" | ".well-known" => oidc::respond(&server.access.tokens, path),
        "openapi" => openapi::respond(&server.objects.catalog.snapshot(), path, &call.parts).await,
        "api" | "apis" => discovery::respond(&server.objects.catalog.snapshot(), path, &call.parts),
        "" => Ok(Reply::json(&root())),
        _ => Err(unknown_path()),
    }
}

/// The response to `/`: the list of paths.
fn root() -> Value {
    json!({"paths": [
        "/.well-known/openid-configuration", "/api", "/apis", "/healthz", "/livez", "/metrics",
        "/openapi/v2", "/openapi/v3", "/openid/v1/jwks", "/readyz", "/version",
    ]})
}
