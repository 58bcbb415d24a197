//! Definitions, and the errors that Kubernetes finds in them. The cases describe those of
//! `pkg/apis/apiextensions/validation/validation_test.go` and of `pkg/apiserver/schema` in
//! k8s.io/apiextensions-apiserver; texts and paths are those of its code.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

use custom_resources::Definition;
use json_tree::{Value, json};
use resource_kinds::Kind;

/// One case in each line: `what` is defined, and the `errors` as `field: message`. In an error, `S` at the start is the
/// path of the schema, `A` that of its field `a`, and `...` is any text.
const CASES: [&str; 5] = [
    include_str!("schemas.jsonl"),
    include_str!("lists.jsonl"),
    include_str!("rules.jsonl"),
    include_str!("defaults.jsonl"),
    include_str!("parts.jsonl"),
];
const UPDATES: &str = include_str!("updates.jsonl");
const SCHEMA: &str = "spec.validation.openAPIV3Schema";
/// Cases that are fewer than these would be a lost file.
const CASES_MIN: usize = 200;

fn cases(lines: &str) -> Vec<Value> {
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    lines.lines().map(parse).collect()
}

fn merge(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        patch.clone_into(target);
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in patch {
        merge(&mut target[name.as_str()], value);
    }
}

/// A definition with the parts that a case names.
fn definition(case: &Value) -> Value {
    let mut object = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "as.example.org"},
        "spec": {"group": "example.org", "scope": "Namespaced", "names": {"plural": "as", "kind": "A"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    let parts = [case, &case["patch"]];
    for part in ["metadata", "spec"] {
        for patch in parts.iter().filter_map(|patch| patch.get(part)) {
            merge(&mut object[part], patch);
        }
    }
    let mut nothing = Value::Null;
    let versions = object["spec"]["versions"].as_array_mut().unwrap();
    let version = versions.first_mut().unwrap_or(&mut nothing);
    let schema = |version: &mut Value, schema: Value| {
        version["schema"]["openAPIV3Schema"] = schema;
    };
    if let Some(root) = case.get("schema") {
        schema(version, root.clone());
    }
    if let Some(field) = case.get("field") {
        schema(
            version,
            json!({"type": "object", "properties": {"a": field}}),
        );
    }
    if case["status"] == true {
        version["subresources"] = json!({"status": {}});
    }
    if let Some(patch) = case.get("version") {
        merge(version, patch);
    }
    if let Some(paths) = case.get("select").and_then(Value::as_array) {
        let texts: Vec<(&str, Value)> = "a b c d e f g h i x"
            .split(' ')
            .map(|name| (name, json!({"type": "string"})))
            .collect();
        let map: Value = texts
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        schema(
            version,
            json!({"type": "object", "properties": {
            "metadata": {"type": "object", "properties": {"name": {"type": "string"}}},
            "spec": {"type": "object", "properties": {"s": {"type": "string", "format": "date"},
                "b": {"type": "boolean"}, "i": {"type": "integer"}, "n": {"type": "number"},
                "l": {"type": "array", "items": {"type": "string"}},
                "p": {"x-kubernetes-int-or-string": true},
                "m": {"type": "object", "properties": map}}}}}),
        );
        let fields = paths.iter().map(|path| json!({"jsonPath": path}));
        version["selectableFields"] = fields.collect();
    }
    let mut object = Definition.decode(object).unwrap();
    Definition.default(&mut object);
    object
}

/// Whether a text is an expected text, in which `...` is any text.
fn fits(actual: &str, expected: &str) -> bool {
    let mut parts = expected.split("...");
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = actual.strip_prefix(first) else {
        return false;
    };
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
        if part.is_empty() {
            return true;
        }
    }
    rest.is_empty()
}

fn expected(case: &Value) -> Vec<String> {
    let errors = case["errors"].as_array().unwrap().iter();
    let full = |error: &Value| {
        let text = error.as_str().unwrap();
        let field = format!("{SCHEMA}.properties[a]");
        let (start, rest) = text.split_at(1);
        let text = match start {
            "S" if rest.starts_with(['.', ':']) => format!("{SCHEMA}{rest}"),
            "A" if rest.starts_with(['.', ':']) => format!("{field}{rest}"),
            _ => text.to_owned(),
        };
        let inner = text.replace("within A", &format!("within {field}"));
        inner.replace("defined in S.", &format!("defined in {SCHEMA}."))
    };
    errors.map(full).collect()
}

/// The difference between the errors and those of a case; `None` if there is none.
fn difference(case: &Value, errors: &[String]) -> Option<String> {
    let mut missing = expected(case);
    let mut other = Vec::new();
    for error in errors {
        match missing.iter().position(|expected| fits(error, expected)) {
            Some(index) => {
                missing.remove(index);
            }
            None => other.push(error),
        }
    }
    let is_equal = missing.is_empty() && other.is_empty();
    (!is_equal).then(|| format!("{}: missing {missing:#?}, but {other:#?}", case["what"]))
}

fn texts(errors: &[object_model::FieldError]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

// findings-2 E7, K8
#[test]
fn new_definitions_have_the_errors_of_kubernetes() {
    cov_mark::check!(findings_2_e7);
    let all: Vec<Value> = CASES.iter().flat_map(|lines| cases(lines)).collect();
    let judged = all.iter().filter_map(|case| {
        let errors = Definition.validate_create(&definition(case));
        difference(case, &texts(&errors))
    });
    let differences: Vec<String> = judged.collect();
    assert!(
        differences.is_empty(),
        "{} differ\n{}",
        differences.len(),
        differences.join("\n")
    );
    assert!(all.len() >= CASES_MIN, "{} cases", all.len());
}

// findings-2 E7
#[test]
fn changed_definitions_have_the_errors_of_kubernetes() {
    let judged = cases(UPDATES).into_iter().filter_map(|case| {
        let mut old = definition(&case["old"]);
        Definition.prepare_create(&mut old);
        if case["established"] == true {
            old["status"]["conditions"] = json!([{"type": "Established", "status": "True"}]);
        }
        let mut new = definition(&case["new"]);
        Definition.prepare_update(&mut new, &old);
        let errors = Definition.validate_update(&new, &old);
        difference(&case, &texts(&errors))
    });
    let differences: Vec<String> = judged.collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
