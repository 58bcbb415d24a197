//! Discovery documents: aggregated, and in the older form (kubectl.md 0.2, 0.3).

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Mutex;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use custom_resources::DefinedVersion;
use custom_resources::version_order::rank;
use http::StatusCode;
use http::header::{ETAG, HeaderValue, IF_NONE_MATCH, VARY};
use http::request::Parts;
use json_tree::{Value, json};
use object_model::Status;
use resource_kinds::{KindInfo, Scope, Verb};
use sha2::{Digest, Sha256};

use crate::catalog::etag::etag;
use crate::catalog::remote::RemoteVersion;
use crate::catalog::snapshot::Snapshot;
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
            let value = Groups::of(served).document(path, form);
            let value = value.ok_or_else(unknown_path)?;
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

/// The priority of the groups of this server among those of extension API servers (upstream gives its groups 16,600 to
/// 18,000).
const OWN_PRIORITY: i64 = 17_000;

/// The priority of the groups of CustomResourceDefinitions (as upstream).
const CUSTOM_PRIORITY: i64 = 1000;

/// The priority of this server's versions in a group that an extension API server serves in another version (upstream's
/// value for CustomResourceDefinitions).
const OWN_VERSION_PRIORITY: i64 = 100;

/// The served groups.
struct Groups<'a> {
    /// The kinds of this server, ordered by group and version.
    kinds: Vec<KindInfo<'a>>,
    custom: &'a [DefinedVersion],
    remote: &'a [RemoteVersion],
}

impl<'a> Groups<'a> {
    fn of(served: &'a Snapshot) -> Self {
        let mut kinds = served.kinds();
        kinds.retain(|info| !info.verbs.is_empty());
        Self {
            kinds,
            custom: &served.custom,
            remote: &served.remote,
        }
    }

    fn document(&self, path: &str, form: Form) -> Option<Value> {
        let words: Vec<&str> = path.split('/').skip(1).collect();
        match (words.as_slice(), form) {
            (["api"], Form::Aggregated(version)) => Some(self.aggregated(version, true)),
            (["apis"], Form::Aggregated(version)) => Some(self.aggregated(version, false)),
            (["api"], Form::Legacy) => Some(json!({
                "kind": "APIVersions",
                "versions": ["v1"],
                "serverAddressByClientCIDRs": [],
            })),
            (["apis"], Form::Legacy) => {
                let groups: Vec<Value> = self
                    .names()
                    .into_iter()
                    .filter(|name| !name.is_empty())
                    .map(|name| self.group(name))
                    .collect();
                Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
            }
            (["api", version], _) => resource_list(&self.kinds, "", version),
            (["apis", name], _) => self.names().contains(name).then(|| {
                let mut one = self.group(name);
                one["kind"] = json!("APIGroup");
                one["apiVersion"] = json!("v1");
                one
            }),
            (["apis", name, version], _) => resource_list(&self.kinds, name, version),
            _ => None,
        }
    }

    /// The groups by their priority. Groups of this server with equal priority have the order of their kinds, and the
    /// core group is first.
    fn names(&self) -> Vec<&'a str> {
        let mut names: Vec<&'a str> = Vec::new();
        let own = self.kinds.iter().map(|info| info.group);
        let remote = self.remote.iter().map(|version| version.group.as_str());
        for group in own.chain(remote) {
            if !names.contains(&group) {
                names.push(group);
            }
        }
        if !self.remote.is_empty() {
            names.sort_by_key(|group| Reverse(self.priority(group)));
        }
        names
    }

    fn priority(&self, group: &str) -> i64 {
        if group.is_empty() {
            return i64::MAX;
        }
        let remote = self.remote.iter().filter(|version| version.group == group);
        let remote = remote.map(|version| version.group_priority).max();
        let is_custom = self.custom.iter().any(|one| one.kind.info().group == group);
        let is_own = self.kinds.iter().any(|info| info.group == group);
        let own = match (is_own, is_custom) {
            (true, false) => Some(OWN_PRIORITY),
            (true, true) => Some(CUSTOM_PRIORITY),
            (false, _) => None,
        };
        own.max(remote).unwrap_or_default()
    }

    /// The versions of a group. The preferred version is first, because clients use the first version by default.
    fn versions(&self, group: &str) -> Vec<&'a str> {
        let remote = || self.remote.iter().filter(|version| version.group == group);
        let own = self.kinds.iter().filter(|info| info.group == group);
        let own = own.map(|info| info.version);
        let mut versions: Vec<&'a str> = Vec::new();
        for version in own.chain(remote().map(|version| version.version.as_str())) {
            if !versions.contains(&version) {
                versions.push(version);
            }
        }
        let priority = |name: &str| {
            let one = remote().find(|version| version.version == name);
            one.map_or(OWN_VERSION_PRIORITY, |one| one.version_priority)
        };
        versions.sort_by_key(|version| Reverse((priority(version), rank(version))));
        versions
    }

    fn group(&self, name: &str) -> Value {
        let versions: Vec<Value> = self
            .versions(name)
            .into_iter()
            .map(|version| json!({"groupVersion": format!("{name}/{version}"), "version": version}))
            .collect();
        let preferred = versions.first().cloned();
        json!({"name": name, "versions": versions, "preferredVersion": preferred})
    }

    fn aggregated(&self, form: &str, core: bool) -> Value {
        let items: Vec<Value> = self
            .names()
            .into_iter()
            .filter(|group| group.is_empty() == core)
            .map(|group| {
                let versions = self.versions(group).into_iter();
                let versions: Vec<Value> = versions
                    .map(|version| self.aggregated_version(group, version))
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

    fn aggregated_version(&self, group: &str, version: &str) -> Value {
        let mut remote = self.remote.iter();
        if let Some(one) = remote.find(|one| one.is(group, version)) {
            let resources = one.documents.as_ref().map(|one| one.resources.clone());
            let freshness = match one.is_fresh {
                true => "Current",
                false => "Stale",
            };
            return json!({"version": version, "resources": resources.unwrap_or_default(),
                "freshness": freshness});
        }
        let resources: Vec<Value> = in_version(&self.kinds, group, version)
            .map(aggregated_resource)
            .collect();
        json!({"version": version, "resources": resources, "freshness": "Current"})
    }
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
