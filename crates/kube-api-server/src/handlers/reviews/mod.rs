//! Reviews of access and identity: the response contains the result, nothing is stored.

mod identity;
mod kind;
mod rights;

use std::sync::Arc;

use json_tree::{Value, json};
use object_model::Status;
use resource_kinds::KindInfo;

use crate::admission::dynamic_admission;
use crate::catalog::registry::Resource;
use crate::handlers::output;
use crate::handlers::writer::Writer;
use crate::http::body::{self, BoxBody};
use crate::http::call::Call;
use crate::http::decode;
use crate::http::reply::Reply;
use crate::objects::write_request::{WriteOptions, WriteRequest};
use kind::ReviewKind;

/// Responds to a review such as SubjectAccessReview or TokenReview with the status set.
pub(crate) async fn respond(
    writer: Writer<'_>,
    info: &'static KindInfo<'static>,
    call: Call,
    body: BoxBody,
) -> Result<Reply, Status> {
    let options = WriteOptions::parse(&call.query, "CreateOptions")?;
    let bytes = body::read(body, &call.limits).await?;
    let mut review = decode::part(&call.parts.headers, &bytes, info.kind)?.value;
    let resource = Resource::computed(Arc::new(ReviewKind(info)));
    let request = WriteRequest::of(&call, &resource, options);
    dynamic_admission::admit_part(writer.admission, &request, &mut review).await?;
    let mut review = decode::typed(info.kind, review)?;
    let access = writer.access;
    let status = match info.kind {
        "SelfSubjectReview" => identity::self_review(&call.user),
        "TokenReview" => identity::of_token(&access.tokens, &mut review).await?,
        "SelfSubjectRulesReview" => rights::rules(&access.authorizer, &call.user, &review)?,
        "SelfSubjectAccessReview" => rights::self_review(&access.authorizer, &call.user, &review)?,
        _ => rights::of_subject(&access.authorizer, &call.info.namespace, &review)?,
    };
    if !review["metadata"].is_object() {
        review["metadata"] = json!({});
    }
    review["status"] = status;
    output::outcome(&call, &review)
}

/// A list of texts; empty if the field is missing.
fn texts(value: &Value) -> Vec<String> {
    let list = value.as_array().into_iter().flatten();
    list.filter_map(|text| text.as_str().map(str::to_owned))
        .collect()
}
