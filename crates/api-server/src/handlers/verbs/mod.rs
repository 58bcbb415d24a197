//! The API's verbs on objects themselves, one file each.

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
use crate::handlers::output;
use crate::handlers::output::View;
use crate::http::body::{self, BoxBody};
use crate::http::call::Call;
use crate::http::decode;
use crate::http::reply::Reply;
use crate::http::work;
use crate::objects::write_request::Part;
use crate::server::ApiServer;

/// Answers a request for objects of one kind.
pub(crate) async fn answer(
    server: &Arc<ApiServer>,
    resource: &Arc<Resource>,
    verb: Verb,
    call: Call,
    body: BoxBody,
) -> Result<Reply, Status> {
    // Before anything is written: a reply that cannot be given is refused like any bad request.
    if verb != Verb::Watch {
        View::of(&call, resource)?;
    }
    match verb {
        Verb::Get => get(server, resource, &call).await,
        Verb::List => list::answer(server, resource, &call).await,
        Verb::Watch => watch::answer(server, resource, &call).await,
        Verb::Create => {
            let decoded = read(server, resource, &call, body).await?;
            create::answer(server, resource, &call, decoded).await
        }
        Verb::Update => {
            let decoded = read(server, resource, &call, body).await?;
            update::answer(server, resource, &call, decoded, Part::Whole).await
        }
        Verb::Patch => {
            let bytes = body::read(body, &server.limits).await?;
            patch::answer(server, resource, &call, &bytes, Part::Whole).await
        }
        Verb::Delete => {
            let bytes = body::read(body, &server.limits).await?;
            delete::answer(server, resource, &call, &bytes).await
        }
        Verb::DeleteCollection => {
            let bytes = body::read(body, &server.limits).await?;
            collection::answer(server, resource, &call, &bytes).await
        }
    }
}

/// Reads and decodes the body of a create or an update.
pub(crate) async fn read(
    server: &ApiServer,
    resource: &Resource,
    call: &Call,
    body: BoxBody,
) -> Result<decode::Decoded, Status> {
    let bytes = body::read(body, &server.limits).await?;
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

async fn get(server: &ApiServer, resource: &Resource, call: &Call) -> Result<Reply, Status> {
    list::check_not_newer(&call.query, server.store.current_revision())?;
    let namespace = namespace(resource, call);
    let stored = server
        .must_read(resource, namespace, &call.info.name)
        .await?;
    work::expect(stored.value.len()).await;
    output::object(call, resource, &stored, StatusCode::OK)
}
