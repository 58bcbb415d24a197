//! The API's verbs on whole objects, one file each.

pub(crate) mod apply;
mod collection;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod list;
pub(crate) mod patch;
pub(crate) mod update;
mod watch;

use std::sync::Arc;

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
pub(crate) async fn answer(
    writer: Writer<'_>,
    metrics: &Arc<Metrics>,
    resource: &Arc<Resource>,
    verb: Verb,
    call: Call,
    body: BoxBody,
) -> Result<Reply, Status> {
    // Before anything is written: a reply that cannot be given is refused like any bad request.
    if verb != Verb::Watch {
        OutputFormat::of(&call, resource)?;
    }
    match verb {
        Verb::Get => get(writer.objects, resource, &call).await,
        Verb::List => list::answer(writer.objects, resource, &call).await,
        Verb::Watch => watch::answer(writer.objects, metrics, resource, &call).await,
        Verb::Create => {
            let decoded = read(resource, &call, body).await?;
            create::answer(writer, resource, &call, decoded).await
        }
        Verb::Update => {
            let bytes = body::read(body, &call.limits).await?;
            update::answer(writer, resource, &call, &bytes, ObjectPart::Whole).await
        }
        Verb::Patch => {
            let bytes = body::read(body, &call.limits).await?;
            patch::answer(writer, resource, &call, &bytes, ObjectPart::Whole).await
        }
        Verb::Delete => {
            let bytes = body::read(body, &call.limits).await?;
            delete::answer(writer, resource, &call, &bytes).await
        }
        Verb::DeleteCollection => {
            let bytes = body::read(body, &call.limits).await?;
            collection::answer(writer, resource, &call, &bytes).await
        }
    }
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

/// The namespace of a request, empty for kinds that have none.
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
    work::expect(stored.value.len()).await;
    output::object(call, resource, &stored, StatusCode::OK)
}
