//! Kinds that are questions: sent, answered, never stored.

mod access;
mod identity;

use std::sync::Arc;

use object_model::Status;
use resource_kinds::{KindInfo, Scope, Verb};
use serde_json::{Value, json};

use crate::catalog::registry::is_at;
use crate::handlers::output;
use crate::http::body::{self, BoxBody};
use crate::http::decode;
use crate::http::reply::Reply;
use crate::pipeline::Call;
use crate::server::ApiServer;

const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";

const fn review(
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    scope: Scope,
) -> KindInfo {
    KindInfo {
        group,
        version: "v1",
        kind,
        list_kind: "",
        plural,
        singular,
        short_names: &[],
        categories: &[],
        scope,
        verbs: &[Verb::Create],
        subresources: &[],
        storage: "",
    }
}

/// The facts of the reviews, for discovery and routing.
pub(crate) const INFOS: &[KindInfo] = &[
    review(
        AUTHENTICATION,
        "SelfSubjectReview",
        "selfsubjectreviews",
        "selfsubjectreview",
        Scope::Cluster,
    ),
    review(
        AUTHENTICATION,
        "TokenReview",
        "tokenreviews",
        "tokenreview",
        Scope::Cluster,
    ),
    review(
        AUTHORIZATION,
        "LocalSubjectAccessReview",
        "localsubjectaccessreviews",
        "localsubjectaccessreview",
        Scope::Namespaced,
    ),
    review(
        AUTHORIZATION,
        "SelfSubjectAccessReview",
        "selfsubjectaccessreviews",
        "selfsubjectaccessreview",
        Scope::Cluster,
    ),
    review(
        AUTHORIZATION,
        "SelfSubjectRulesReview",
        "selfsubjectrulesreviews",
        "selfsubjectrulesreview",
        Scope::Cluster,
    ),
    review(
        AUTHORIZATION,
        "SubjectAccessReview",
        "subjectaccessreviews",
        "subjectaccessreview",
        Scope::Cluster,
    ),
];

/// The review at a path, if there is one.
pub(crate) fn find(group: &str, version: &str, plural: &str) -> Option<&'static KindInfo> {
    let mut infos = INFOS.iter();
    infos.find(|info| is_at(info, group, version, plural))
}

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
