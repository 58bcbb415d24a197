mod binding;
mod eviction;
mod finalize;
mod forward;
pub(crate) mod proxy;
mod scale;
pub(crate) mod token;

use std::sync::Arc;

use http::StatusCode;
use json_tree::json;
use mvcc_store::KeyValue;
use object_model::Status;
use resource_kinds::Verb;

use crate::catalog::registry::Resource;
use crate::handlers::destination;
use crate::handlers::nodes::NodeConnector;
use crate::handlers::output;
use crate::handlers::verbs::update;
use crate::handlers::verbs::{namespace, patch};
use crate::handlers::writer::Writer;
use crate::http::body::{self, BoxBody};
use crate::http::call::{ApiResponse, Call};
use crate::http::negotiate::Representation;
use crate::http::refusals::{not_allowed, unknown_path};
use crate::http::reply::Reply;
use crate::objects::write_request::ObjectPart;

/// Responds to a request for a sub-resource.
///
/// *Errors.* 404 if the kind has no sub-resource of that name, 405 if the sub-resource does not allow the verb.
pub(crate) async fn respond(
    writer: Writer<'_>,
    nodes: &dyn NodeConnector,
    resource: &Arc<Resource>,
    call: Call,
    body: BoxBody,
) -> Result<ApiResponse, Status> {
    let name = call.info.subresource.clone();
    let subresource = resource.subresource(&name).ok_or_else(unknown_path)?;
    if matches!(name.as_str(), "log" | "exec" | "attach" | "portforward") {
        return forward::respond(writer, nodes, resource, call, body).await;
    }
    if name == "proxy" {
        return proxy::respond(writer, nodes, resource, call, body).await;
    }
    let verb = destination::verb_of(&call.parts.method, &call.info);
    let verb = verb.filter(|verb| subresource.verbs.contains(verb));
    let verb = verb.ok_or_else(not_allowed)?;
    // An unacceptable `Accept` header is refused before anything is written, as for whole objects.
    Representation::of(&call.parts.headers, || true)?;
    let reply = match name.as_str() {
        "status" => part(writer, resource, verb, &call, body, ObjectPart::Status).await,
        "approval" | "ephemeralcontainers" | "resize" => {
            part(writer, resource, verb, &call, body, ObjectPart::Subresource).await
        }
        "scale" => scale::respond(writer, resource, verb, &call, body).await,
        "finalize" => finalize::respond(writer, resource, &call, body).await,
        "binding" => binding::respond(writer, resource, &call, body).await,
        "eviction" => eviction::respond(writer, resource, &call, body).await,
        "token" => token::respond(writer, resource, &call, body).await,
        _ => Err(unknown_path()),
    };
    reply.map(ApiResponse::Reply)
}

/// The stored object that the request names.
async fn stored(writer: Writer<'_>, resource: &Resource, call: &Call) -> Result<KeyValue, Status> {
    let namespace = namespace(resource, call);
    let reading = writer
        .objects
        .must_read(resource, namespace, &call.info.name);
    reading.await
}

/// The response for an action that has no object as its result.
fn created(call: &Call) -> Result<Reply, Status> {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201,
    });
    output::outcome(call, &status)
}

/// Responds to a request for a sub-resource whose requests and responses contain the whole object (`status`).
async fn part(
    writer: Writer<'_>,
    resource: &Resource,
    verb: Verb,
    call: &Call,
    body: BoxBody,
    part: ObjectPart,
) -> Result<Reply, Status> {
    match verb {
        Verb::Get => {
            let stored = stored(writer, resource, call).await?;
            let stored = output::answer(writer.objects, resource, call, stored).await?;
            output::object(call, resource, &stored, StatusCode::OK)
        }
        Verb::Update => {
            let bytes = body::read(body, &call.limits).await?;
            update::respond(writer, resource, call, &bytes, part).await
        }
        Verb::Patch => {
            let bytes = body::read(body, &call.limits).await?;
            patch::respond(writer, resource, call, &bytes, part).await
        }
        _ => Err(not_allowed()),
    }
}
