//! Kinds that are questions: sent, answered, never stored.

mod access;
mod identity;

use std::sync::Arc;

use object_model::Status;
use resource_kinds::KindInfo;
use serde_json::{Value, json};

use crate::handlers::output;
use crate::http::body::{self, BoxBody};
use crate::http::call::Call;
use crate::http::decode;
use crate::http::reply::Reply;
use crate::server::ApiServer;

/// Answers a review.
pub(crate) async fn answer(
    server: &Arc<ApiServer>,
    info: &KindInfo,
    call: Call,
    body: BoxBody,
) -> Result<Reply, Status> {
    let bytes = body::read(body, &server.limits).await?;
    let mut review = decode::part(&call.parts.headers, &bytes, info.kind)?.value;
    let status = match info.kind {
        "SelfSubjectReview" => identity::own(&call.user),
        "TokenReview" => identity::of_token(server, &mut review).await?,
        "SelfSubjectRulesReview" => access::rules(server, &call.user, &review)?,
        "SelfSubjectAccessReview" => access::own(server, &call.user, &review)?,
        _ => access::of_subject(server, &call.info.namespace, &review)?,
    };
    if !review["metadata"].is_object() {
        review["metadata"] = json!({});
    }
    review["status"] = status;
    output::outcome(&call, &review)
}

/// A list of texts, empty if it is missing.
fn texts(value: &Value) -> Vec<String> {
    let list = value.as_array().into_iter().flatten();
    list.filter_map(|text| text.as_str().map(str::to_owned))
        .collect()
}
