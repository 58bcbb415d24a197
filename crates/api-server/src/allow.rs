//! What a refusal says in its headers of what would do instead.

use std::collections::BTreeSet;

use http::header::{ALLOW, HeaderName, HeaderValue};
use http::{Method, Uri};
use object_model::{Status, StatusReason};
use resource_kinds::Verb;

use crate::computed;
use crate::query::Query;
use crate::request_info::RequestInfo;
use crate::server::ApiServer;
use crate::verbs::patch;

/// The methods that a path has, for 405 (RFC 9110, 15.5.6); the forms of a patch, for 415 (RFC 5789,
/// 2.2).
pub(crate) fn header(
    server: &ApiServer,
    (method, uri): (&Method, &Uri),
    status: &Status,
) -> Option<(HeaderName, HeaderValue)> {
    let (name, list) = match status.reason {
        StatusReason::MethodNotAllowed => (ALLOW, methods(server, uri.path())?),
        StatusReason::UnsupportedMediaType if method == Method::PATCH => {
            let forms = patch::FORMS.join(", ");
            (HeaderName::from_static("accept-patch"), forms)
        }
        _ => return None,
    };
    let value = HeaderValue::from_str(&list).ok()?;
    Some((name, value))
}

/// The methods that a path has; `None` where nothing is served.
fn methods(server: &ApiServer, path: &str) -> Option<String> {
    let info = RequestInfo::new(&Method::GET, path, &Query::default());
    if !info.is_resource {
        return Some("GET, HEAD".to_owned());
    }
    if let Some(kind) = computed::find(&info.group, &info.version, &info.resource) {
        return Some(methods_of(kind.verbs.iter().copied()));
    }
    let served = server.served();
    let resource = served
        .registry
        .find(&info.group, &info.version, &info.resource)?;
    let everywhere = resource.namespaced() && info.namespace.is_empty();
    if !info.subresource.is_empty() {
        let part = resource.subresource(&info.subresource)?;
        return Some(methods_of(part.verbs.iter().copied()));
    }
    let here = |verb: &Verb| match verb {
        Verb::Get | Verb::Update | Verb::Patch | Verb::Delete => info.named,
        Verb::List | Verb::Watch => !info.named,
        Verb::Create | Verb::DeleteCollection => !info.named && !everywhere,
    };
    let verbs = resource.info().verbs.iter().copied();
    Some(methods_of(verbs.filter(here)))
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
