//! Deletion of a collection: each selected object is deleted in a separate transaction.

use futures::future::{BoxFuture, try_join_all};
use object_model::{Status, StatusReason};

use super::delete::{DeleteOptions, delete};
use super::list::{self, ReadForm};
use super::namespace;
use crate::catalog::registry::Resource;
use crate::handlers::output::{self, OutputFormat};
use crate::handlers::selection::Selection;
use crate::handlers::writer::Writer;
use crate::http::call::Call;
use crate::http::limits::DELETE_COLLECTION_WORKERS;
use crate::http::reply::Reply;
use crate::objects::write_request::{Validation, WriteOptions, WriteRequest};

/// Responds to a DELETE of a collection with the list of deleted objects.
pub(crate) async fn respond(
    writer: Writer<'_>,
    resource: &Resource,
    call: &Call,
    bytes: &[u8],
) -> Result<Reply, Status> {
    let (options, dry_run) = DeleteOptions::parse(&call.parts.headers, bytes, &call.query)?;
    options.check_collection()?;
    let selection = Selection::of(call, resource)?;
    let page = list::Page::parse(&call.query, writer.objects.store.current_revision())?;
    let space = namespace(resource, call);
    // The objects are converted before they are deleted, so that a failure has no effect.
    let form = ReadForm::of_answer(OutputFormat::of(call, resource)?.form, &selection);
    let objects = writer.objects;
    let (items, meta) = list::read(objects, resource, space, &selection, &page, form).await?;
    let write = WriteOptions {
        dry_run,
        validation: Validation::Ignore,
    };
    options.warn(&WriteRequest::of(call, resource, write));
    for batch in items.chunks(DELETE_COLLECTION_WORKERS) {
        let mut deletions: Vec<BoxFuture<'_, Result<(), Status>>> = Vec::new();
        for item in batch {
            let (namespace, name) = resource.names(&item.key);
            let request = WriteRequest {
                namespace,
                name,
                ..WriteRequest::of(call, resource, write)
            };
            deletions.push(Box::pin(delete_one(writer, request, &options)));
        }
        try_join_all(deletions).await?;
    }
    output::list(call, resource, &items, &meta).await
}

async fn delete_one(
    writer: Writer<'_>,
    request: WriteRequest<'_>,
    options: &DeleteOptions,
) -> Result<(), Status> {
    match delete(writer, &request, options).await {
        Ok(_) => Ok(()),
        // Another request has deleted the object meanwhile.
        Err(status) if status.reason == StatusReason::NotFound => Ok(()),
        Err(status) => Err(status),
    }
}
