//! Discovery documents: aggregated, and in the older form (kubectl.md 0.2, 0.3).

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Mutex;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use custom_resources::version_order::rank;
use http::StatusCode;
use http::header::{ETAG, HeaderValue, IF_NONE_MATCH, VARY};
use http::request::Parts;
use json_tree::{Value, json};
use object_model::Status;
use resource_kinds::{KindInfo, Scope, Verb};
use sha2::{Digest, Sha256};

use crate::catalog::etag::etag;
use crate::catalog::registry::Registry;
use crate::catalog::snapshot::Snapshot;
use crate::catalog::virtual_resources;
use crate::http::negotiate;
use crate::http::refusals::unknown_path;
use crate::http::reply::{JSON, Reply};

/// The discovery documents that were built since the last change of the served kinds.
#[derive(Default)]
pub(crate) struct Discovery {
    documents: Mutex<BTreeMap<(String, &'static str), Document>>,
}

/// A document and its `ETag`.
#[derive(Clone)]
struct Document {
    body: Bytes,
    etag: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Aggregated(&'static str),
    Legacy,
}

/// Responds to `/api`, `/apis`, `/api/v1`, `/apis/<group>` and `/apis/<group>/<version>`.
pub(crate) fn respond(served: &Snapshot, path: &str, parts: &Parts) -> Result<Reply, Status> {
    let path = path.trim_end_matches('/');
    let accept = parts
        .headers
        .get(http::header::ACCEPT)
        .and_then(|v| v.to_str().ok());
    let form = match path {
        "/api" | "/apis" => form(accept.unwrap_or_default()),
        _ => Form::Legacy,
    };
    let key = match form {
        Form::Aggregated(version) => version,
        Form::Legacy => "",
    };
    let mut documents = served
        .discovery
        .documents
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let cached = documents.get(&(path.to_owned(), key)).cloned();
    let Document { body, etag } = match cached {
        Some(document) => document,
        None => {
            let value = document(&kinds(&served.registry), path, form).ok_or_else(unknown_path)?;
            let body = Bytes::from(value.to_string());
            let etag = etag(&body);
            let document = Document { body, etag };
            documents.insert((path.to_owned(), key), document.clone());
            document
        }
    };
    drop(documents);
    let content_type = match form {
        Form::Aggregated(v) => {
            format!("{JSON};g=apidiscovery.k8s.io;v={v};as=APIGroupDiscoveryList")
        }
        Form::Legacy => JSON.to_owned(),
    };
    let tag =
        HeaderValue::from_str(&etag).map_err(|e| Status::internal(format!("make an ETag: {e}")))?;
    let client_tag = parts
        .headers
        .get(IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok());
    let reply = if client_tag.is_some_and(|tags| tags.contains(&etag)) {
        Reply::bytes("", Bytes::new()).with_code(StatusCode::NOT_MODIFIED)
    } else {
        Reply::bytes(&content_type, body)
    };
    Ok(reply
        .with_header(ETAG, tag)
        .with_header(VARY, HeaderValue::from_static("Accept")))
}

fn form(accept: &str) -> Form {
    for clause in negotiate::clauses(accept) {
        let aggregated = clause.parameter("as") == Some("APIGroupDiscoveryList")
            && clause.parameter("g") == Some("apidiscovery.k8s.io");
        match (clause.media, clause.parameter("v")) {
            (JSON, Some("v2")) if aggregated => return Form::Aggregated("v2"),
            (JSON, Some("v2beta1")) if aggregated => return Form::Aggregated("v2beta1"),
            (JSON | "*/*" | "application/*", _) if clause.parameter("as").is_none() => {
                return Form::Legacy;
            }
            _ => {}
        }
    }
    Form::Legacy
}

/// The kinds with their own paths, ordered by group and version.
fn kinds(registry: &Registry) -> Vec<KindInfo<'_>> {
    let stored = registry.infos().filter(|info| !info.verbs.is_empty());
    stored.chain(virtual_resources::infos().copied()).collect()
}

fn document(kinds: &[KindInfo<'_>], path: &str, form: Form) -> Option<Value> {
    let words: Vec<&str> = path.split('/').skip(1).collect();
    match (words.as_slice(), form) {
        (["api"], Form::Aggregated(version)) => Some(aggregated(kinds, version, true)),
        (["apis"], Form::Aggregated(version)) => Some(aggregated(kinds, version, false)),
        (["api"], Form::Legacy) => Some(json!({
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [],
        })),
        (["apis"], Form::Legacy) => {
            let groups: Vec<Value> = groups(kinds)
                .into_iter()
                .filter(|g| !g.is_empty())
                .map(|g| group(kinds, g))
                .collect();
            Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        (["api", version], _) => resource_list(kinds, "", version),
        (["apis", name], _) => groups(kinds).contains(name).then(|| {
            let mut one = group(kinds, name);
            one["kind"] = json!("APIGroup");
            one["apiVersion"] = json!("v1");
            one
        }),
        (["apis", name, version], _) => resource_list(kinds, name, version),
        _ => None,
    }
}

/// The groups in the order of their kinds; the core group is first.
fn groups<'a>(kinds: &[KindInfo<'a>]) -> Vec<&'a str> {
    let mut groups: Vec<&'a str> = Vec::new();
    for info in kinds {
        if !groups.contains(&info.group) {
            groups.push(info.group);
        }
    }
    groups
}

/// The versions of a group. The preferred version is first, because clients use the first version by default.
fn versions<'a>(kinds: &[KindInfo<'a>], group: &str) -> Vec<&'a str> {
    let mut versions: Vec<&'a str> = Vec::new();
    for info in kinds.iter().filter(|info| info.group == group) {
        if !versions.contains(&info.version) {
            versions.push(info.version);
        }
    }
    versions.sort_by_key(|version| Reverse(rank(version)));
    versions
}

fn in_version<'k>(
    kinds: &'k [KindInfo<'k>],
    group: &str,
    version: &str,
) -> impl Iterator<Item = &'k KindInfo<'k>> {
    kinds
        .iter()
        .filter(move |info| info.group == group && info.version == version)
}

fn group(kinds: &[KindInfo<'_>], name: &str) -> Value {
    let versions: Vec<Value> = versions(kinds, name)
        .into_iter()
        .map(|version| json!({"groupVersion": format!("{name}/{version}"), "version": version}))
        .collect();
    let preferred = versions.first().cloned();
    json!({"name": name, "versions": versions, "preferredVersion": preferred})
}

fn aggregated(kinds: &[KindInfo<'_>], form: &str, core: bool) -> Value {
    let items: Vec<Value> = groups(kinds)
        .into_iter()
        .filter(|group| group.is_empty() == core)
        .map(|group| {
            let versions: Vec<Value> = versions(kinds, group)
                .into_iter()
                .map(|version| {
                    let resources: Vec<Value> = in_version(kinds, group, version)
                        .map(aggregated_resource)
                        .collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            let metadata = if group.is_empty() {
                json!({})
            } else {
                json!({"name": group})
            };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{form}"),
        "metadata": {},
        "items": items,
    })
}

fn aggregated_resource(info: &KindInfo<'_>) -> Value {
    let scope = if info.scope == Scope::Namespaced {
        "Namespaced"
    } else {
        "Cluster"
    };
    let mut resource = json!({
        "resource": info.plural,
        "responseKind": {"group": info.group, "version": info.version, "kind": info.kind},
        "scope": scope,
        "singularResource": info.singular,
        "verbs": verbs(info.verbs),
    });
    if !info.short_names.is_empty() {
        resource["shortNames"] = json!(info.short_names.to_vec());
    }
    if !info.categories.is_empty() {
        resource["categories"] = json!(info.categories.to_vec());
    }
    if !info.subresources.is_empty() {
        let subresources: Vec<Value> = info
            .subresources
            .iter()
            .map(|sub| {
                let (group, version, kind) = info.body(sub);
                json!({
                    "subresource": sub.name,
                    "responseKind": {"group": group, "version": version, "kind": kind},
                    "verbs": verbs(sub.verbs),
                })
            })
            .collect();
        resource["subresources"] = json!(subresources);
    }
    resource
}

fn resource_list(kinds: &[KindInfo<'_>], group: &str, version: &str) -> Option<Value> {
    let mut resources: Vec<Value> = Vec::new();
    for info in in_version(kinds, group, version) {
        resources.push(legacy_resource(info));
        for sub in info.subresources {
            let body = info.body(sub);
            let mut entry = json!({
                "name": format!("{}/{}", info.plural, sub.name),
                "singularName": "",
                "namespaced": info.scope == Scope::Namespaced,
                "kind": body.2,
                "verbs": verbs(sub.verbs),
            });
            if (body.0, body.1) != (info.group, info.version) {
                entry["group"] = json!(body.0);
                entry["version"] = json!(body.1);
            }
            resources.push(entry);
        }
    }
    if resources.is_empty() {
        return None;
    }
    let group_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    Some(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version,
        "resources": resources,
    }))
}

fn legacy_resource(info: &KindInfo<'_>) -> Value {
    let mut entry = json!({
        "name": info.plural,
        "singularName": info.singular,
        "namespaced": info.scope == Scope::Namespaced,
        "kind": info.kind,
        "verbs": verbs(info.verbs),
    });
    if !info.short_names.is_empty() {
        entry["shortNames"] = json!(info.short_names.to_vec());
    }
    if !info.categories.is_empty() {
        entry["categories"] = json!(info.categories.to_vec());
    }
    if !info.storage.is_empty() {
        let version = format!("{}/{}/{}", info.group, info.version, info.kind);
        let hash = Sha256::digest(version.as_bytes());
        entry["storageVersionHash"] = json!(STANDARD.encode(&hash[..8]));
    }
    entry
}

fn verbs(verbs: &[Verb]) -> Vec<&'static str> {
    let mut names: Vec<&'static str> = verbs.iter().map(|verb| verb_name(*verb)).collect();
    names.sort_unstable();
    names
}

pub(crate) fn verb_name(verb: Verb) -> &'static str {
    match verb {
        Verb::Create => "create",
        Verb::Delete => "delete",
        Verb::DeleteCollection => "deletecollection",
        Verb::Get => "get",
        Verb::List => "list",
        Verb::Patch => "patch",
        Verb::Update => "update",
        Verb::Watch => "watch",
    }
}
