//! The OpenAPI documents. They are written directly into bytes, path by path and definition by definition, so that no
//! tree of a whole document is in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher};

use json_tree::{Map, Value, json};
use resource_kinds::KindInfo;

use crate::custom::{API_VERSION_DESCRIPTION, CustomKind, KIND_DESCRIPTION};
use crate::definitions::{definitions, reference};
use crate::dialect::{Dialect, gvk};
use crate::graph::Graph;
use crate::operations::{Gvk, KubernetesAction, Operation, Path, base_path, paths};
use crate::parameters::parameters;
use crate::v2_messages::Contents;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const PATCH_TYPES: [&str; 4] = [
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];
/// The patch types of kinds without published merge keys. The strategic type is absent, because clients would use it.
const CUSTOM_PATCH_TYPES: [&str; 3] = [
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
];
const BODY_TYPES: [&str; 2] = ["application/json", "application/yaml"];

/// `{paths: {"apis/apps/v1": {serverRelativeURL: …?hash=…}}}`. The hash is that of the document, so that clients may
/// cache the document until it changes.
pub(crate) fn v3_index(kinds: &[KindInfo<'_>], custom: &[CustomKind<'_>]) -> Vec<u8> {
    let source = Source::with(custom);
    let group_versions: BTreeSet<(&str, &str)> = kinds
        .iter()
        .map(|info| (info.group, info.version))
        .collect();
    let mut paths = Map::new();
    for (group, version) in group_versions {
        let hash = v3_hash(&source.v3(group, version, kinds));
        let base = base_path(group, version);
        let url = format!("/openapi/v3{base}?hash={hash}");
        paths.insert(
            base.trim_start_matches('/').into(),
            json!({"serverRelativeURL": url}),
        );
    }
    json!({"paths": paths}).to_string().into_bytes()
}

/// The hash of a document in the index.
pub fn v3_hash(document: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    hasher.write(document);
    format!("{:016X}", hasher.finish())
}

/// The document of one group version; `None` if the group version is not served.
pub(crate) fn v3_document(
    group_version: &str,
    kinds: &[KindInfo<'_>],
    custom: &[CustomKind<'_>],
) -> Option<Vec<u8>> {
    let (group, version) = group_version.split_once('/').unwrap_or(("", group_version));
    let served = kinds
        .iter()
        .any(|info| info.group == group && info.version == version);
    served.then(|| Source::with(custom).v3(group, version, kinds))
}

/// The document of all kinds in the older form.
pub(crate) fn v2_document(kinds: &[KindInfo<'_>], custom: &[CustomKind<'_>]) -> Vec<u8> {
    Source::with(custom).v2(kinds)
}

/// The document of version 2 in protobuf.
pub(crate) fn v2_protobuf(kinds: &[KindInfo<'_>], custom: &[CustomKind<'_>]) -> Vec<u8> {
    Source::with(custom).v2_protobuf(kinds)
}

/// The parts of documents. They need a few megabytes and are dropped after use.
struct Source<'a> {
    definitions: Map<String, Value>,
    names: BTreeMap<Gvk<'a>, String>,
    /// The names of the definitions of custom kinds.
    custom: BTreeSet<String>,
    graph: &'static Graph,
}

impl<'a> Source<'a> {
    fn with(custom: &[CustomKind<'a>]) -> Self {
        let graph = Graph::published();
        let mut definitions = definitions();
        let mut names: BTreeMap<Gvk<'_>, String> = graph
            .kinds()
            .map(|([group, version, kind], definition)| {
                let gvk = Gvk {
                    group,
                    version,
                    kind,
                };
                (gvk, graph.text(definition.name).to_owned())
            })
            .collect();
        for kind in custom {
            let gvk = Gvk {
                group: kind.info.group,
                version: kind.info.version,
                kind: kind.info.kind,
            };
            definitions.insert(kind.definition_name(), kind.definition());
            names.insert(gvk, kind.definition_name());
        }
        Self {
            definitions,
            names,
            custom: custom.iter().map(CustomKind::definition_name).collect(),
            graph,
        }
    }

    fn v3(&self, group: &str, version: &str, kinds: &[KindInfo<'_>]) -> Vec<u8> {
        let mut served: Vec<KindInfo<'_>> = kinds.to_vec();
        served.retain(|info| info.group == group && info.version == version);
        let head = "{\"openapi\":\"3.0.0\",\"info\":{\"title\":\"Kubernetes\",\
            \"version\":\"v1.36\"},\"paths\":{";
        let mut out = head.as_bytes().to_vec();
        self.write_paths(Dialect::V3, &served, &mut out);
        out.extend_from_slice(b"},\"components\":{\"schemas\":{");
        self.write_definitions(Dialect::V3, &served, &mut out);
        out.extend_from_slice(b"}}}");
        out
    }

    fn v2(&self, kinds: &[KindInfo<'_>]) -> Vec<u8> {
        let head = "{\"swagger\":\"2.0\",\"info\":{\"title\":\"Kubernetes\",\
            \"version\":\"v1.36\"},\"paths\":{";
        let mut out = head.as_bytes().to_vec();
        self.write_paths(Dialect::V2, kinds, &mut out);
        out.extend_from_slice(b"},\"definitions\":{");
        self.write_definitions(Dialect::V2, kinds, &mut out);
        out.extend_from_slice(b"}}");
        out
    }

    fn v2_protobuf(&self, kinds: &[KindInfo<'_>]) -> Vec<u8> {
        let mut contents = Contents::default();
        self.each_path(Dialect::V2, kinds, |path, item| contents.path(path, item));
        self.each_definition(Dialect::V2, kinds, |name, definition| {
            contents.definition(name, definition);
        });
        contents.document(&json!({
            "swagger": "2.0", "info": {"title": "Kubernetes", "version": "v1.36"},
        }))
    }

    fn write_paths(&self, dialect: Dialect, kinds: &[KindInfo<'_>], out: &mut Vec<u8>) {
        let mut index = 0;
        self.each_path(dialect, kinds, |path, item| {
            write_member(path, item, index, out);
            index += 1;
        });
    }

    fn each_path(
        &self,
        dialect: Dialect,
        kinds: &[KindInfo<'_>],
        mut visit: impl FnMut(&str, &Value),
    ) {
        let mut all: Vec<Path<'_>> = kinds.iter().flat_map(paths).collect();
        all.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        for path in &all {
            visit(&path.path, &self.path_item(dialect, path));
        }
    }

    fn path_item(&self, dialect: Dialect, path: &Path<'_>) -> Value {
        let mut item = Map::new();
        for operation in &path.operations {
            let method = operation.action.method().to_owned();
            item.insert(method, self.operation(dialect, operation));
        }
        let mut shared = Vec::new();
        if path.named {
            shared.push(("name", "The name of the object."));
        }
        if path.onwards {
            shared.push(("path", "The rest of the path, which is passed on."));
        }
        if path.in_namespace {
            shared.push(("namespace", "The namespace of the object."));
        }
        let shared: Vec<Value> = shared
            .into_iter()
            .map(|(name, description)| {
                let mut parameter = json!({
                    "name": name, "in": "path", "description": description, "required": true,
                });
                set_type(dialect, &mut parameter, "string");
                parameter
            })
            .collect();
        if !shared.is_empty() {
            item.insert("parameters".into(), shared.into());
        }
        item.into()
    }

    fn operation(&self, dialect: Dialect, operation: &Operation<'_>) -> Value {
        let mut query: Vec<Value> = parameters(operation)
            .into_iter()
            .map(|described| {
                let mut parameter = json!({
                    "name": described.name, "in": "query", "description": described.description,
                });
                set_type(dialect, &mut parameter, described.kind);
                parameter
            })
            .collect();
        let Gvk {
            group,
            version,
            kind,
        } = operation.gvk;
        let mut written = json!({
            "description": format!("{} {kind}", description(operation)),
            "operationId": operation.id,
            "x-kubernetes-action": operation.action.name(),
            "x-kubernetes-group-version-kind": gvk(group, version, kind),
        });
        if let Some(body) = self.body(operation) {
            let types: &[&str] = match operation.action {
                KubernetesAction::Patch => self.patch_types(&operation.gvk),
                _ => &BODY_TYPES,
            };
            match dialect {
                Dialect::V3 => {
                    written["requestBody"] =
                        json!({"content": content(types, &dialect.reference(&body))});
                }
                Dialect::V2 => {
                    written["consumes"] = json!(types);
                    let schema = dialect.reference(&body);
                    query.push(json!({"name": "body", "in": "body", "schema": schema}));
                }
            }
        }
        if !query.is_empty() {
            written["parameters"] = query.into();
        }
        written["responses"] = self.responses(dialect, operation);
        if dialect == Dialect::V2 {
            written["produces"] = json!(["application/json"]);
        }
        written
    }

    /// The content types of patches. Strategic merge patches are for built-in kinds only.
    fn patch_types(&self, gvk: &Gvk<'_>) -> &'static [&'static str] {
        let name = self.names.get(gvk);
        if name.is_some_and(|name| self.custom.contains(name)) {
            &CUSTOM_PATCH_TYPES
        } else {
            &PATCH_TYPES
        }
    }

    fn responses(&self, dialect: Dialect, operation: &Operation<'_>) -> Value {
        let codes: &[(&str, &str)] = match operation.action {
            KubernetesAction::Create => &[("200", "OK"), ("201", "Created"), ("202", "Accepted")],
            KubernetesAction::Replace | KubernetesAction::Patch => {
                &[("200", "OK"), ("201", "Created")]
            }
            KubernetesAction::Delete => &[("200", "OK"), ("202", "Accepted")],
            _ => &[("200", "OK")],
        };
        let schema = match self.response_definition(operation) {
            Some(name) => dialect.reference(&name),
            None => json!({"type": "string"}),
        };
        let mut responses = Map::new();
        for (code, text) in codes {
            let response = match dialect {
                Dialect::V3 => json!({
                    "description": text,
                    "content": content(&["application/json"], &schema),
                }),
                Dialect::V2 => json!({"description": text, "schema": schema}),
            };
            responses.insert((*code).to_owned(), response);
        }
        responses.insert("401".into(), json!({"description": "Unauthorized"}));
        responses.into()
    }

    /// The definition of an operation's request body.
    fn body(&self, operation: &Operation<'_>) -> Option<String> {
        match operation.action {
            KubernetesAction::Create | KubernetesAction::Replace => {
                self.names.get(&operation.gvk).cloned()
            }
            KubernetesAction::Patch => Some(format!("{META}Patch")),
            KubernetesAction::Delete | KubernetesAction::DeleteCollection => {
                Some(format!("{META}DeleteOptions"))
            }
            KubernetesAction::List
            | KubernetesAction::Get
            | KubernetesAction::Connect
            | KubernetesAction::Pass(_)
            | KubernetesAction::Watch
            | KubernetesAction::WatchList => None,
        }
    }

    /// The definition of an operation's response body; `None` for plain text.
    fn response_definition(&self, operation: &Operation<'_>) -> Option<String> {
        let kind = self.names.get(&operation.gvk)?;
        match operation.action {
            KubernetesAction::Connect | KubernetesAction::Pass(_) => None,
            KubernetesAction::Watch | KubernetesAction::WatchList => Some(WATCH_EVENT.to_owned()),
            KubernetesAction::Get if operation.subresource == "log" => None,
            KubernetesAction::Delete | KubernetesAction::DeleteCollection => {
                Some(format!("{META}Status"))
            }
            KubernetesAction::List => Some(list_definition(kind, operation.list_kind)),
            _ => Some(kind.clone()),
        }
    }

    fn write_definitions(&self, dialect: Dialect, kinds: &[KindInfo<'_>], out: &mut Vec<u8>) {
        let mut index = 0;
        self.each_definition(dialect, kinds, |name, definition| {
            write_member(name, definition, index, out);
            index += 1;
        });
    }

    fn each_definition(
        &self,
        dialect: Dialect,
        kinds: &[KindInfo<'_>],
        mut visit: impl FnMut(&str, &Value),
    ) {
        let mut names = BTreeSet::new();
        let mut lists = BTreeMap::new();
        for operation in kinds
            .iter()
            .flat_map(paths)
            .flat_map(|path| path.operations)
        {
            for name in [self.body(&operation), self.response_definition(&operation)]
                .into_iter()
                .flatten()
            {
                if operation.action == KubernetesAction::List {
                    lists.insert(name, operation.clone());
                } else {
                    self.collect(&name, &mut names);
                }
            }
        }
        for operation in lists.values() {
            if let Some(kind) = self.names.get(&operation.gvk) {
                self.collect(kind, &mut names);
            }
            self.collect(&format!("{META}ListMeta"), &mut names);
        }
        let mut all: BTreeMap<&str, Option<&Operation<'_>>> =
            names.iter().map(|name| (name.as_str(), None)).collect();
        all.extend(
            lists
                .iter()
                .map(|(name, operation)| (name.as_str(), Some(operation))),
        );
        for (name, list) in all {
            let definition = match list {
                Some(operation) => self.list(dialect, operation),
                None => self.definition(dialect, name),
            };
            visit(name, &definition);
        }
    }

    fn definition(&self, dialect: Dialect, name: &str) -> Value {
        match self.definitions.get(name) {
            Some(source) if self.custom.contains(name) => dialect.custom_definition(source),
            Some(source) => dialect.definition(name, source, self.graph),
            None if name == WATCH_EVENT => json!({
                "description": "Event represents a single event to a watched resource.",
                "type": "object",
                "required": ["type", "object"],
                "properties": {
                    "object": {
                        "description": "The object that changed, a bookmark or a Status.",
                        "type": "object",
                    },
                    "type": {"type": "string"},
                },
            }),
            None => json!({
                "description": "A change of an object, in the form that its content type names.",
                "type": "object",
            }),
        }
    }

    fn list(&self, dialect: Dialect, operation: &Operation<'_>) -> Value {
        let Gvk {
            group,
            version,
            kind,
        } = operation.gvk;
        let item = match self.names.get(&operation.gvk) {
            Some(name) => dialect.reference(name),
            None => json!({"type": "object"}),
        };
        let metadata = dialect.reference(&format!("{META}ListMeta"));
        json!({
            "description": format!("{} is a list of {kind} objects.", operation.list_kind),
            "type": "object",
            "required": ["items"],
            "properties": {
                "apiVersion": {"description": API_VERSION_DESCRIPTION, "type": "string"},
                "items": {"description": "The objects.", "type": "array", "items": item},
                "kind": {"description": KIND_DESCRIPTION, "type": "string"},
                "metadata": metadata,
            },
            "x-kubernetes-group-version-kind": [gvk(group, version, operation.list_kind)],
        })
    }

    /// Adds the definition with this name, and all definitions to which it refers.
    fn collect(&self, name: &str, names: &mut BTreeSet<String>) {
        if !names.insert(name.to_owned()) {
            return;
        }
        if let Some(source) = self.definitions.get(name) {
            self.collect_references(source, names);
        }
    }

    fn collect_references(&self, schema: &Value, names: &mut BTreeSet<String>) {
        if let Some(name) = reference(schema) {
            self.collect(name, names);
        }
        match schema {
            Value::Object(members) => {
                members
                    .values()
                    .for_each(|member| self.collect_references(member, names));
            }
            Value::Array(all) => all
                .iter()
                .for_each(|one| self.collect_references(one, names)),
            _ => {}
        }
    }
}

/// The definition of a watch event.
const WATCH_EVENT: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent";

fn list_definition(kind_definition: &str, list_kind: &str) -> String {
    match kind_definition.rsplit_once('.') {
        Some((package, _)) => format!("{package}.{list_kind}"),
        None => list_kind.to_owned(),
    }
}

fn description(operation: &Operation<'_>) -> &'static str {
    match operation.action {
        KubernetesAction::List => "list or watch objects of kind",
        KubernetesAction::Create => "create a",
        KubernetesAction::DeleteCollection => "delete a collection of",
        KubernetesAction::Get => "read the named",
        KubernetesAction::Replace => "replace the named",
        KubernetesAction::Patch => "change a part of the named",
        KubernetesAction::Delete => "delete the named",
        KubernetesAction::Connect => "open a stream by",
        KubernetesAction::Pass(_) => "pass a request on by",
        KubernetesAction::Watch => "watch changes to an object of kind",
        KubernetesAction::WatchList => "watch changes to a list of",
    }
}

fn set_type(dialect: Dialect, parameter: &mut Value, kind: &str) {
    match dialect {
        Dialect::V3 => parameter["schema"] = json!({"type": kind}),
        Dialect::V2 => parameter["type"] = kind.into(),
    }
}

fn content(types: &[&str], schema: &Value) -> Value {
    types
        .iter()
        .map(|content_type| ((*content_type).to_owned(), json!({"schema": schema})))
        .collect::<Map<String, Value>>()
        .into()
}

fn write_member(name: &str, value: &Value, index: usize, out: &mut Vec<u8>) {
    if index > 0 {
        out.push(b',');
    }
    out.extend_from_slice(Value::from(name).to_string().as_bytes());
    out.push(b':');
    out.extend_from_slice(value.to_string().as_bytes());
}
