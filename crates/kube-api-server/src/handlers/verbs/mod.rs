//! The API's verbs on whole objects; each verb has its own file.

pub(crate) mod apply;
mod collection;
mod conversion;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod list;
pub(crate) mod patch;
pub(crate) mod update;
mod watch;

use std::sync::Arc;

use futures::FutureExt;
use http::StatusCode;
use object_model::Status;
use resource_kinds::Verb;

use crate::catalog::registry::Resource;
use crate::handlers::metrics::Metrics;
use crate::handlers::output;
use crate::handlers::output::OutputFormat;
use crate::handlers::writer::Writer;
use crate::http::body::{self, BoxBody};
use crate::http::call::Call;
use crate::http::decode;
use crate::http::reply::Reply;
use crate::http::work;
use crate::objects::storage::Objects;
use crate::objects::write_request::ObjectPart;

/// Dispatches a request for objects of one kind.
pub(crate) async fn respond(
    writer: Writer<'_>,
    metrics: &Arc<Metrics>,
    resource: &Arc<Resource>,
    verb: Verb,
    call: Call,
    body: BoxBody,
) -> Result<Reply, Status> {
    // An unacceptable `Accept` header is refused before anything is written.
    if verb != Verb::Watch {
        OutputFormat::of(&call, resource)?;
    }
    // A separate box for each verb: a request allocates and moves only the state of its own verb, and not the state
    // of the largest verb.
    match verb {
        Verb::Get => get(writer.objects, resource, &call).await,
        Verb::List => list::respond(writer.objects, resource, &call).boxed().await,
        Verb::Watch => {
            let watch = watch::respond(writer.objects, metrics, resource, &call);
            watch.boxed().await
        }
        Verb::Create => create_object(writer, resource, &call, body).boxed().await,
        Verb::Update | Verb::Patch | Verb::Delete | Verb::DeleteCollection => {
            let bytes = body::read(body, &call.limits).await?;
            let (call, bytes) = (&call, &bytes);
            let handling = match verb {
                Verb::Update => {
                    update::respond(writer, resource, call, bytes, ObjectPart::Whole).boxed()
                }
                Verb::Patch => {
                    patch::respond(writer, resource, call, bytes, ObjectPart::Whole).boxed()
                }
                Verb::Delete => delete::respond(writer, resource, call, bytes).boxed(),
                _ => collection::respond(writer, resource, call, bytes).boxed(),
            };
            handling.await
        }
    }
}

async fn create_object(
    writer: Writer<'_>,
    resource: &Arc<Resource>,
    call: &Call,
    body: BoxBody,
) -> Result<Reply, Status> {
    let decoded = read(resource, call, body).await?;
    create::respond(writer, resource, call, decoded).await
}

/// Reads and decodes the body of a create, or of another write of a whole object.
pub(crate) async fn read(
    resource: &Resource,
    call: &Call,
    body: BoxBody,
) -> Result<decode::Decoded, Status> {
    let bytes = body::read(body, &call.limits).await?;
    decode::body(&call.parts.headers, &bytes, resource.info().kind)
}

/// The namespace of a request; empty for cluster-wide kinds.
pub(crate) fn namespace<'c>(resource: &Resource, call: &'c Call) -> &'c str {
    if resource.namespaced() {
        &call.info.namespace
    } else {
        ""
    }
}

async fn get(objects: &Objects, resource: &Resource, call: &Call) -> Result<Reply, Status> {
    list::check_not_newer(&call.query, objects.store.current_revision())?;
    let namespace = namespace(resource, call);
    let stored = objects
        .must_read(resource, namespace, &call.info.name)
        .await?;
    work::announce(stored.value.len())?;
    work::expect(stored.value.len()).await;
    let stored = output::answer(objects, resource, call, stored).await?;
    output::object(call, resource, &stored, StatusCode::OK)
}
