//! `finalize`: the second list of finalizers, `spec.finalizers`, of kinds that have one.

use http::StatusCode;
use json_tree::{Value, json};
use object_model::Status;

use crate::catalog::registry::Resource;
use crate::handlers::output;
use crate::handlers::verbs::read;
use crate::handlers::verbs::update::update;
use crate::handlers::writer::Writer;
use crate::http::body::BoxBody;
use crate::http::call::Call;
use crate::http::reply::Reply;
use crate::objects::metadata;
use crate::objects::write_request::ObjectPart;
use crate::objects::write_request::{WriteOptions, WriteRequest, accept};

/// Responds to a PUT that replaces an object's `spec.finalizers`.
pub(super) async fn respond(
    writer: Writer<'_>,
    resource: &Resource,
    call: &Call,
    body: BoxBody,
) -> Result<Reply, Status> {
    let options = WriteOptions::parse(&call.query, "UpdateOptions")?;
    let decoded = read(resource, call, body).await?;
    let (sent, warnings) = accept(resource, decoded, options.validation)?;
    call.warnings.add(warnings);
    let mut change = |old: &Value| {
        let mut object = old.clone();
        let list = sent["spec"]["finalizers"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        object["spec"]["finalizers"] = json!(list);
        for field in ["resourceVersion", "uid"] {
            let value = metadata::text(&sent, field);
            if !value.is_empty() {
                metadata::of(&mut object).insert(field.to_owned(), value.into());
            }
        }
        Ok(object)
    };
    let request = WriteRequest::of(call, resource, options);
    let written = update(writer, &request, ObjectPart::Trusted(&[]), &mut change).await?;
    output::written(call, resource, &written, StatusCode::OK)
}
