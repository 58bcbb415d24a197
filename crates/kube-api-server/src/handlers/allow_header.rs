//! The headers of a refusal that list the allowed methods or types.

use std::collections::BTreeSet;

use http::Method;
use http::header::{ALLOW, HeaderName, HeaderValue};
use object_model::{Status, StatusReason};
use resource_kinds::Verb;

use crate::catalog::snapshot::Snapshot;
use crate::handlers::destination;
use crate::handlers::verbs::patch;
use crate::http::request_info::RequestInfo;

/// The methods of a path, for 405 (RFC 9110, 15.5.6); the patch formats, for 415 (RFC 5789, 2.2).
pub(crate) fn header(
    served: &Snapshot,
    method: &Method,
    info: &RequestInfo,
    status: &Status,
) -> Option<(HeaderName, HeaderValue)> {
    let (name, list) = match status.reason {
        StatusReason::MethodNotAllowed if info.is_resource => {
            let verbs = destination::verbs(served, info)?;
            (ALLOW, methods_of(verbs.into_iter()))
        }
        StatusReason::MethodNotAllowed => (ALLOW, "GET, HEAD".to_owned()),
        StatusReason::UnsupportedMediaType if method == Method::PATCH => {
            let forms = patch::FORMS.join(", ");
            (HeaderName::from_static("accept-patch"), forms)
        }
        _ => return None,
    };
    let value = HeaderValue::from_str(&list).ok()?;
    Some((name, value))
}

fn methods_of(verbs: impl Iterator<Item = Verb>) -> String {
    let methods: BTreeSet<&str> = verbs.map(method_of).collect();
    methods.into_iter().collect::<Vec<_>>().join(", ")
}

fn method_of(verb: Verb) -> &'static str {
    match verb {
        Verb::Get | Verb::List | Verb::Watch => "GET",
        Verb::Create => "POST",
        Verb::Update => "PUT",
        Verb::Patch => "PATCH",
        Verb::Delete | Verb::DeleteCollection => "DELETE",
    }
}
