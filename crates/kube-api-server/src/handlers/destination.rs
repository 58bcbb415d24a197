//! The destination of a resource request: the kind at its path, and the verbs of the path.
//!
//! The form of the path is compared with the scope of the kind here, for all kinds, so that authorisation and handler
//! see the same resource: a path with a namespace is 404 for a cluster-wide kind, and a path without a namespace is
//! 404 for an object of a namespaced kind.

use std::sync::Arc;

use http::Method;
use object_model::Status;
use resource_kinds::{KindInfo, Scope, Verb};

use crate::catalog::registry::Resource;
use crate::catalog::snapshot::Snapshot;
use crate::catalog::virtual_resources::{self, AUTHENTICATION, AUTHORIZATION, METRICS};
use crate::http::refusals::{not_allowed, unknown_path};
use crate::http::request_info::{RequestInfo, is_segment};
use crate::objects::definitions;
use crate::objects::storage::Objects;

/// The kind of a request, by the handler that serves it.
pub(crate) enum Destination {
    /// A review. The handler computes the result; nothing is stored.
    Review(&'static KindInfo<'static>),
    Metrics(&'static KindInfo<'static>),
    ComponentStatus(&'static KindInfo<'static>),
    Stored(Arc<Resource>),
}

impl Destination {
    /// The kind at a request's path.
    ///
    /// *Errors.* 404 if the path has no kind, or the form of the path does not fit the scope of the kind; 400 for
    /// names that no object can have; 405 for verbs that the path does not have.
    pub(crate) async fn find(objects: &Objects, info: &RequestInfo) -> Result<Self, Status> {
        let destination = match virtual_resource(info) {
            Some(destination) => destination,
            None => {
                let (group, version) = (&info.group, &info.version);
                let resource =
                    definitions::find_kind(objects, group, version, &info.resource).await?;
                Self::Stored(resource.ok_or_else(unknown_path)?)
            }
        };
        check_names(info)?;
        let kind = destination.kind();
        let offered = verbs_at(info, &kind);
        if offered.is_empty() {
            return Err(unknown_path());
        }
        Ok(destination)
    }

    fn kind(&self) -> KindInfo<'_> {
        match self {
            Self::Review(info) | Self::Metrics(info) | Self::ComponentStatus(info) => **info,
            Self::Stored(resource) => resource.info(),
        }
    }

    /// The verb of a request for whole objects.
    ///
    /// *Errors.* 405 for a method that the path does not support.
    pub(crate) fn verb(&self, method: &Method, info: &RequestInfo) -> Result<Verb, Status> {
        let verb = verb_of(method, info).ok_or_else(not_allowed)?;
        match verbs_at(info, &self.kind()).contains(&verb) {
            true => Ok(verb),
            false => Err(not_allowed()),
        }
    }
}

/// The verbs of a request's path; `None` if the path is not served.
pub(crate) fn verbs(served: &Snapshot, info: &RequestInfo) -> Option<Vec<Verb>> {
    let (group, version, plural) = (&info.group, &info.version, &info.resource);
    let destination = match virtual_resource(info) {
        Some(destination) => destination,
        None => Destination::Stored(served.registry.find(group, version, plural)?),
    };
    let offered = verbs_at(info, &destination.kind());
    (!offered.is_empty()).then_some(offered)
}

fn virtual_resource(info: &RequestInfo) -> Option<Destination> {
    let virtual_kind = virtual_resources::find(&info.group, &info.version, &info.resource)?;
    Some(match virtual_kind.group {
        AUTHENTICATION | AUTHORIZATION => Destination::Review(virtual_kind),
        METRICS => Destination::Metrics(virtual_kind),
        _ => Destination::ComponentStatus(virtual_kind),
    })
}

fn check_names(info: &RequestInfo) -> Result<(), Status> {
    for part in [&info.namespace, &info.name] {
        if !part.is_empty() && !is_segment(part) {
            let text = format!("name {part:?} is invalid: it may not contain '/' or '%'");
            return Err(Status::bad_request(text));
        }
    }
    Ok(())
}

/// The verbs of a request's path for a kind; empty if the path is not served.
fn verbs_at(info: &RequestInfo, kind: &KindInfo<'_>) -> Vec<Verb> {
    let goes_on = info.subresource != "proxy" && !info.rest.trim_matches('/').is_empty();
    if info.has_gap || goes_on || !is_at_its_scope(info, kind) {
        return Vec::new();
    }
    if !info.subresource.is_empty() {
        let mut parts = kind.subresources.iter();
        let part = parts.find(|part| part.name == info.subresource);
        return match part {
            Some(part) if !info.watch_path => part.verbs.to_vec(),
            _ => Vec::new(),
        };
    }
    let everywhere = kind.scope == Scope::Namespaced && !info.in_namespace;
    let here = |verb: &Verb| match verb {
        Verb::Watch if info.watch_path => true,
        _ if info.watch_path => false,
        Verb::Get | Verb::Update | Verb::Patch | Verb::Delete => info.named,
        Verb::List | Verb::Watch => !info.named,
        Verb::Create | Verb::DeleteCollection => !info.named && !everywhere,
    };
    kind.verbs.iter().copied().filter(here).collect()
}

/// Whether the path contains a namespace if and only if the kind needs one.
fn is_at_its_scope(info: &RequestInfo, kind: &KindInfo<'_>) -> bool {
    match kind.scope {
        // The path of a list or watch of all namespaces contains no namespace.
        Scope::Namespaced => info.in_namespace || !info.named && info.namespace.is_empty(),
        // The namespace of a Namespace object is its own name: `/namespaces/a` is parsed as namespace `a`.
        Scope::Cluster if (kind.group, kind.plural) == ("", "namespaces") => !info.in_namespace,
        Scope::Cluster => info.namespace.is_empty(),
    }
}

/// The verb of a request for objects; `None` for a method that objects do not have.
pub(crate) fn verb_of(method: &Method, info: &RequestInfo) -> Option<Verb> {
    if method == Method::HEAD || info.watch_path && method != Method::GET {
        return None;
    }
    match info.verb.as_str() {
        "create" => Some(Verb::Create),
        "get" => Some(Verb::Get),
        "list" => Some(Verb::List),
        "watch" => Some(Verb::Watch),
        "update" => Some(Verb::Update),
        "patch" => Some(Verb::Patch),
        "delete" => Some(Verb::Delete),
        "deletecollection" => Some(Verb::DeleteCollection),
        _ => None,
    }
}
