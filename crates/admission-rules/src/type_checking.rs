//! The type check of ValidatingAdmissionPolicies against the schemas of the matched kinds: its warnings are in the
//! status, and change nothing (k8s.io/apiserver, `admission/plugin/policy/validating/typechecking.go`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use cel_checker::{NodeKind, SchemaNode, Type, schema_type};
use json_tree::{Map, Value, json};
use object_model::FieldPath;

use crate::environment::{CheckFailure, Environment, Expected};

/// Maximum number of kinds that a policy is checked against (upstream's value).
const KINDS_MAX: usize = 10;
/// The depth of schemas below which values have any type.
const DEPTH_MAX: usize = 64;

/// The served kinds and their schemas.
pub trait KindTypes: Send + Sync + Debug {
    /// The kind of a resource; `None` if the resource is not served.
    fn kind(&self, group: &str, version: &str, plural: &str) -> Option<String>;
    /// The OpenAPI v3 document of a group version (`v1`, `apps/v1`); `None` if the group version is not served.
    fn document(&self, group_version: &str) -> Option<Value>;
}

/// Group, version and kind of objects, in the order of the warnings.
type Gvk = (String, String, String);

/// The `status.typeChecking` of a policy with this spec.
pub(crate) fn type_checking(spec: &Value, kinds: &dyn KindTypes) -> Value {
    let mut schemas = Schemas::new(kinds);
    let objects: Vec<(Gvk, Type)> = matched_kinds(spec, kinds)
        .into_iter()
        .filter_map(|kind| {
            let of = schemas.type_of(&kind)?;
            Some((kind, of))
        })
        .collect();
    let params = params_kind(spec).and_then(|kind| schemas.type_of(&kind));
    let mut warnings = Vec::new();
    let environments: Vec<(Gvk, Environment)> = objects
        .into_iter()
        .map(|(kind, of)| (kind, environment(spec, &of, params.clone())))
        .collect();
    let at = FieldPath::root("spec").child("validations");
    let validations = spec["validations"].as_array().into_iter().flatten();
    for (index, validation) in validations.enumerate() {
        for field in ["expression", "messageExpression"] {
            let source = validation[field].as_str().unwrap_or_default();
            let texts = environments.iter().filter_map(|(kind, environment)| {
                let failure = environment.check(source, Expected::Any, true).err()?;
                Some(warning(kind, &failure))
            });
            let texts: Vec<String> = texts.collect();
            if !source.is_empty() && !texts.is_empty() {
                let field = at.index(index).child(field).to_string();
                warnings.push(json!({"fieldRef": field, "warning": texts.join("\n")}));
            }
        }
    }
    match warnings.is_empty() {
        true => json!({}),
        false => json!({"expressionWarnings": warnings}),
    }
}

fn warning((group, version, kind): &Gvk, failure: &CheckFailure) -> String {
    let why = match failure {
        CheckFailure::Compilation(error) => error.to_string(),
        CheckFailure::Result { .. } => failure.to_string(),
    };
    format!("{group}/{version}, Kind={kind}: {why}\n")
}

fn environment(spec: &Value, object: &Type, params: Option<Type>) -> Environment {
    let mut environment = Environment::new(object, params).with_variables();
    let variables = spec["variables"].as_array().into_iter().flatten();
    for variable in variables {
        let text = |field: &str| variable[field].as_str().unwrap_or_default();
        // As upstream, there is no warning about the expression itself: the variable has any type then.
        environment
            .add_variable(text("name"), text("expression"))
            .ok();
    }
    environment
}

fn params_kind(spec: &Value) -> Option<Gvk> {
    let kind = &spec["paramKind"];
    let version = kind["apiVersion"].as_str()?;
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let name = kind["kind"].as_str()?;
    Some((group.to_owned(), version.to_owned(), name.to_owned()))
}

/// The kinds that the rules of a policy name, without those of wildcards and of sub-resources.
fn matched_kinds(spec: &Value, kinds: &dyn KindTypes) -> Vec<Gvk> {
    let mut matched = BTreeSet::new();
    let rules = &spec["matchConstraints"]["resourceRules"];
    for rule in rules.as_array().into_iter().flatten() {
        let groups = exact(&rule["apiGroups"]);
        let versions = exact(&rule["apiVersions"]);
        let resources = sorted(&rule["resources"]);
        let resources = resources
            .into_iter()
            .filter(|name| !name.contains(['*', '/']));
        let resources: Vec<&str> = resources.collect();
        for group in &groups {
            for version in &versions {
                for resource in &resources {
                    let Some(kind) = kinds.kind(group, version, resource) else {
                        continue;
                    };
                    matched.insert(((*group).to_owned(), (*version).to_owned(), kind));
                    if matched.len() == KINDS_MAX {
                        return matched.into_iter().collect();
                    }
                }
            }
        }
    }
    matched.into_iter().collect()
}

/// The sorted texts of a list; empty if the list has a wildcard.
fn exact(list: &Value) -> Vec<&str> {
    let all = sorted(list);
    match all.iter().any(|text| text.contains('*')) {
        true => Vec::new(),
        false => all,
    }
}

fn sorted(list: &Value) -> Vec<&str> {
    let mut all: Vec<&str> = crate::matching::texts(list).collect();
    all.sort_unstable();
    all
}

/// The schemas of the documents that were read so far.
struct Schemas<'k> {
    kinds: &'k dyn KindTypes,
    documents: BTreeMap<String, Option<Value>>,
}

impl<'k> Schemas<'k> {
    fn new(kinds: &'k dyn KindTypes) -> Self {
        Self {
            kinds,
            documents: BTreeMap::new(),
        }
    }

    /// The type of the objects of a kind; `None` if the kind has no schema.
    fn type_of(&mut self, (group, version, kind): &Gvk) -> Option<Type> {
        let group_version = match group.as_str() {
            "" => version.clone(),
            group => format!("{group}/{version}"),
        };
        let kinds = self.kinds;
        let document = self
            .documents
            .entry(group_version)
            .or_insert_with_key(|group_version| kinds.document(group_version));
        let schemas = document.as_ref()?["components"]["schemas"].as_object()?;
        let (name, schema) = schemas.iter().find(|(_, schema)| {
            let kinds = schema["x-kubernetes-group-version-kind"].as_array();
            kinds.into_iter().flatten().any(|one| {
                one["group"] == group.as_str()
                    && one["version"] == version.as_str()
                    && one["kind"] == kind.as_str()
            })
        })?;
        let mut parents = vec![name.to_string()];
        let node = node(schemas, schema, &mut parents, DEPTH_MAX);
        schema_type(&node, kind, true)
    }
}

/// The content of a schema that decides its type; `parents` are the names of the schemas around it.
fn node(
    schemas: &Map<String, Value>,
    schema: &Value,
    parents: &mut Vec<String>,
    depth: usize,
) -> SchemaNode {
    if let Some(name) = reference(schema) {
        // As upstream, a schema inside of itself is an object without fields.
        if parents.iter().any(|parent| parent == name) {
            return SchemaNode {
                kind: Some(object_kind(Vec::new(), None)),
                ..SchemaNode::default()
            };
        }
        let Some(target) = schemas.get(name) else {
            return untyped();
        };
        parents.push(name.to_owned());
        let node = node(schemas, target, parents, depth);
        parents.pop();
        return node;
    }
    let flag = |name: &str| schema[name] == true;
    if depth == 0 || flag("x-kubernetes-int-or-string") || schema["format"] == "int-or-string" {
        return untyped();
    }
    match kind(schemas, schema, parents, depth - 1) {
        None => untyped(),
        kind => SchemaNode {
            kind,
            is_int_or_string: false,
            is_embedded: flag("x-kubernetes-embedded-resource"),
        },
    }
}

/// A value of any type: a schema without a single type, for instance of a quantity.
fn untyped() -> SchemaNode {
    SchemaNode {
        is_int_or_string: true,
        ..SchemaNode::default()
    }
}

fn object_kind(
    properties: Vec<(String, SchemaNode)>,
    additional: Option<Box<SchemaNode>>,
) -> NodeKind {
    NodeKind::Object {
        properties,
        additional,
    }
}

fn kind(
    schemas: &Map<String, Value>,
    schema: &Value,
    parents: &mut Vec<String>,
    depth: usize,
) -> Option<NodeKind> {
    let text = |name: &str| schema[name].as_str();
    let json_type = text("type")?;
    if let Some(scalar) = NodeKind::scalar(json_type, text("format")) {
        return Some(scalar);
    }
    Some(match json_type {
        "array" => {
            let items = &schema["items"];
            let items = items
                .is_object()
                .then(|| node(schemas, items, parents, depth));
            NodeKind::Array {
                items: Some(Box::new(items.unwrap_or_else(untyped))),
            }
        }
        "object" => {
            let properties = schema["properties"].as_object().into_iter().flatten();
            let mut fields = Vec::new();
            for (name, schema) in properties {
                fields.push((name.to_string(), node(schemas, schema, parents, depth)));
            }
            let additional = &schema["additionalProperties"];
            let additional = additional
                .is_object()
                .then(|| Box::new(node(schemas, additional, parents, depth)));
            object_kind(fields, additional)
        }
        _ => return None,
    })
}

/// The name of the schema that a schema refers to, also within `allOf`.
fn reference(schema: &Value) -> Option<&str> {
    fn target(schema: &Value) -> Option<&str> {
        schema["$ref"].as_str()
    }
    let mut all = schema["allOf"].as_array().into_iter().flatten();
    let target = target(schema).or_else(|| all.find_map(target))?;
    target.rsplit('/').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Apps;

    impl KindTypes for Apps {
        fn kind(&self, group: &str, version: &str, plural: &str) -> Option<String> {
            let kind = match (group, version, plural) {
                ("apps", "v1", "deployments") => "Deployment",
                ("apps", "v1", "daemonsets") => "DaemonSet",
                _ => return None,
            };
            Some(kind.to_owned())
        }

        fn document(&self, group_version: &str) -> Option<Value> {
            let gvk = |kind: &str| json!([{"group": "apps", "version": "v1", "kind": kind}]);
            let text = json!({"type": "string"});
            (group_version == "apps/v1").then(|| {
                json!({"components": {"schemas": {
                    "a.Deployment": {"type": "object", "x-kubernetes-group-version-kind": gvk("Deployment"),
                        "properties": {"foo": text, "spec": {"allOf": [{"$ref": "#/components/schemas/a.Spec"}]}}},
                    "a.DaemonSet": {"type": "object", "x-kubernetes-group-version-kind": gvk("DaemonSet"),
                        "properties": {"foo": {"type": "integer"}}},
                    "a.Spec": {"type": "object", "properties": {
                        "replicas": {"type": "integer"},
                        "size": {"oneOf": [{"type": "string"}, {"type": "number"}]},
                        "port": {"format": "int-or-string", "oneOf": [{"type": "string"}]},
                        "labels": {"type": "object", "additionalProperties": text},
                        "inner": {"$ref": "#/components/schemas/a.Spec"},
                        "list": {"type": "array", "items": {"$ref": "#/components/schemas/a.Port"}}}},
                    "a.Port": {"type": "object", "properties": {"number": {"type": "integer"}}}}}})
            })
        }
    }

    fn spec(resources: Value, validations: Value) -> Value {
        json!({"matchConstraints": {"resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"],
            "resources": resources}]}, "validations": validations})
    }

    fn warnings(spec: &Value) -> Vec<(String, String)> {
        let checked = type_checking(spec, &Apps);
        let all = checked["expressionWarnings"].as_array().cloned();
        let all = all.unwrap_or_default();
        let text = |one: &Value, field: &str| one[field].as_str().unwrap_or_default().to_owned();
        all.iter()
            .map(|one| (text(one, "fieldRef"), text(one, "warning")))
            .collect()
    }

    #[test]
    fn expressions_of_the_right_types_have_no_warnings() {
        for expression in [
            "object.foo == 'bar'",
            "object.spec.replicas > 1 && oldObject.spec.port == 80",
            "object.spec.port == 'http' && object.spec.size == '1Gi'",
            "object.spec.labels['a'] == 'b'",
            "object.spec.list.all(p, p.number > 80)",
            "object.metadata.name == 'a' && object.kind == 'Deployment'",
            "authorizer.requestResource.check('get').allowed()",
            "variables.works && variables.name == object.foo",
        ] {
            let mut spec = spec(json!(["deployments"]), json!([{"expression": expression}]));
            spec["variables"] = json!([{"name": "works", "expression": "true"},
                {"name": "name", "expression": "variables.works ? 'x' : object.foo"}]);
            assert_eq!(warnings(&spec), [], "{expression}");
        }
        let nothing = spec(json!(["deployments"]), json!([{"expression": "true"}]));
        assert_eq!(type_checking(&nothing, &Apps), json!({}));
    }

    #[test]
    fn a_warning_names_kind_place_and_reason() {
        let one = spec(
            json!(["deployments"]),
            json!([{"expression": "true", "messageExpression": "object.bar"},
                {"expression": "object.bar == 'foo'"}]),
        );
        assert_eq!(
            warnings(&one),
            [
                (
                    "spec.validations[0].messageExpression".to_owned(),
                    "apps/v1, Kind=Deployment: ERROR: <input>:1:7: undefined field 'bar'\n | object.bar\n \
                     | ......^\n"
                        .to_owned()
                ),
                (
                    "spec.validations[1].expression".to_owned(),
                    "apps/v1, Kind=Deployment: ERROR: <input>:1:7: undefined field 'bar'\n | object.bar == \
                     'foo'\n | ......^\n"
                        .to_owned()
                ),
            ]
        );
        for (expression, expected) in [
            (
                "object.spec.replicas == 'a'",
                "found no matching overload for '_==_'",
            ),
            (
                "object.spec.inner.replicas == 1",
                "undefined field 'replicas'",
            ),
            ("params.a == 1", "undeclared reference to 'params'"),
            ("variables.a", "undefined field 'a'"),
            (
                "authorizer.allowed()",
                "found no matching overload for 'allowed'",
            ),
        ] {
            let spec = spec(json!(["deployments"]), json!([{"expression": expression}]));
            let warnings = warnings(&spec);
            assert!(
                warnings[0].1.contains(expected),
                "{expression}: {warnings:?}"
            );
        }
    }

    #[test]
    fn each_kind_has_its_part_of_the_warning() {
        let both = spec(
            json!(["deployments", "daemonsets", "deployments/scale", "jobs"]),
            json!([{"expression": "object.foo == 'x' && object.bar == 1"}]),
        );
        let [(field, text)]: [(String, String); 1] = warnings(&both).try_into().unwrap();
        assert_eq!(field, "spec.validations[0].expression");
        let parts: Vec<&str> = text.split("\n\n").collect();
        assert_eq!(parts.len(), 2, "{text}");
        assert!(parts[0].starts_with("apps/v1, Kind=DaemonSet: ERROR: <input>:1:12: found no"));
        assert!(parts[1].starts_with("apps/v1, Kind=Deployment: ERROR: <input>:1:28: undefined"));
        for rule in [
            json!({"apiGroups": ["apps"], "apiVersions": ["*"], "resources": ["deployments"]}),
            json!({"apiGroups": ["*"], "apiVersions": ["v1"], "resources": ["deployments"]}),
            json!({"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["*"]}),
            json!({"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments/*"]}),
        ] {
            let spec = json!({"matchConstraints": {"resourceRules": [rule]},
                "validations": [{"expression": "object.bar == 1"}]});
            assert_eq!(warnings(&spec), [], "{spec}");
        }
    }
}
