//! The check that the schema of a definition is structural: each value has one type, stated outside
//! of combinations of schemas (apiextensions.k8s.io/v1, "Specifying a structural schema").

use json_tree::{Map, Value};
use object_model::{FieldError, FieldPath};
use regex::Regex;

use crate::rule_types::RuleTypes;
use crate::schema::{Schema, Type};
use crate::shape::prune;
use crate::validate::validate;

const COMBINATIONS: [&str; 3] = ["allOf", "anyOf", "oneOf"];
/// Keywords of structure, which are not allowed in a value validation.
const STRUCTURE: [&str; 6] = [
    "type",
    "default",
    "nullable",
    "additionalProperties",
    "description",
    "title",
];
const DEPTH_MAX: usize = 64;

/// The validation errors of a schema.
pub(crate) fn check(schema: &Value, path: &FieldPath) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if schema["type"] != "object" {
        let at = path.child("type");
        let detail = "must be object at the root";
        errors.push(match schema.get("type") {
            None => FieldError::required(&at, detail),
            Some(other) => FieldError::invalid(&at, other.clone(), detail),
        });
    }
    check_node(schema, path, DEPTH_MAX, &mut errors);
    errors
}

fn check_node(schema: &Value, path: &FieldPath, depth: usize, errors: &mut Vec<FieldError>) {
    let Some(map) = schema.as_object() else {
        return;
    };
    if depth == 0 {
        errors.push(FieldError::forbidden(path, "nested too deeply"));
        return;
    }
    check_type(map, path, errors);
    check_words(map, path, errors);
    check_rules(map, depth == DEPTH_MAX, path, errors);
    check_default(schema, path, errors);
    for name in COMBINATIONS {
        for (index, part) in list(map, name).iter().enumerate() {
            check_combined(part, &path.child(name).index(index), depth - 1, errors);
        }
    }
    if let Some(part) = map.get("not") {
        check_combined(part, &path.child("not"), depth - 1, errors);
    }
    for (name, below) in map
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        let at = path.child("properties").key(name);
        check_node(below, &at, depth - 1, errors);
    }
    if let Some(below) = map.get("items") {
        check_node(below, &path.child("items"), depth - 1, errors);
    }
    if let Some(below @ Value::Object(_)) = map.get("additionalProperties") {
        check_node(
            below,
            &path.child("additionalProperties"),
            depth - 1,
            errors,
        );
    }
}

fn check_type(map: &Map<String, Value>, path: &FieldPath, errors: &mut Vec<FieldError>) {
    let flag = |name: &str| map.get(name) == Some(&Value::Bool(true));
    let at = path.child("type");
    match map.get("type").and_then(Value::as_str).unwrap_or_default() {
        "" => {
            let free =
                flag("x-kubernetes-int-or-string") || flag("x-kubernetes-preserve-unknown-fields");
            if !free {
                errors.push(FieldError::required(
                    &at,
                    "must not be empty for specified object fields",
                ));
            }
        }
        name if Type::named(name).is_none() => {
            let allowed = ["array", "boolean", "integer", "number", "object", "string"];
            errors.push(FieldError::not_supported(&at, name, &allowed));
        }
        name => {
            if name == "array" && !map.contains_key("items") {
                errors.push(FieldError::required(
                    &path.child("items"),
                    "must be specified",
                ));
            }
        }
    }
}

fn check_words(map: &Map<String, Value>, path: &FieldPath, errors: &mut Vec<FieldError>) {
    for name in [
        "$ref",
        "definitions",
        "dependencies",
        "deprecated",
        "patternProperties",
        "id",
    ] {
        if map.contains_key(name) {
            errors.push(FieldError::forbidden(
                &path.child(name),
                format!("{name} is not supported"),
            ));
        }
    }
    if map.get("uniqueItems") == Some(&Value::Bool(true)) {
        let detail =
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.push(FieldError::forbidden(&path.child("uniqueItems"), detail));
    }
    let named = map
        .get("properties")
        .and_then(Value::as_object)
        .is_some_and(|map| !map.is_empty());
    if named
        && map
            .get("additionalProperties")
            .is_some_and(|value| *value != Value::Bool(false))
    {
        let detail = "additionalProperties and properties are mutual exclusive";
        errors.push(FieldError::forbidden(
            &path.child("additionalProperties"),
            detail,
        ));
    } else if map.get("additionalProperties") == Some(&Value::Bool(false)) {
        let detail = "additionalProperties cannot be set to false";
        errors.push(FieldError::forbidden(
            &path.child("additionalProperties"),
            detail,
        ));
    }
    if let Some(source) = map.get("pattern").and_then(Value::as_str)
        && let Err(error) = Regex::new(source)
    {
        let detail = format!("must be a valid regular expression, but isn't: {error}");
        errors.push(FieldError::invalid(&path.child("pattern"), source, detail));
    }
    check_list_type(map, path, errors);
}

fn check_list_type(map: &Map<String, Value>, path: &FieldPath, errors: &mut Vec<FieldError>) {
    const KEYS: &str = "x-kubernetes-list-map-keys";
    let at = path.child("x-kubernetes-list-type");
    let kind = map.get("x-kubernetes-list-type").and_then(Value::as_str);
    if let Some(kind) = kind {
        if !["atomic", "map", "set"].contains(&kind) {
            errors.push(FieldError::not_supported(
                &at,
                kind,
                &["atomic", "map", "set"],
            ));
        }
        if map.get("type").and_then(Value::as_str) != Some("array") {
            let detail = "must be array if x-kubernetes-list-type is specified";
            let actual_type = map.get("type").cloned().unwrap_or_default();
            errors.push(FieldError::invalid(
                &path.child("type"),
                actual_type,
                detail,
            ));
        }
    }
    let keys = list(map, KEYS);
    match kind {
        Some("map") if keys.is_empty() => {
            let detail = "must not be empty if x-kubernetes-list-type is map";
            errors.push(FieldError::required(&path.child(KEYS), detail));
        }
        Some("map") => {
            let items = map.get("items").unwrap_or(&Value::Null);
            for key in keys.iter().filter_map(Value::as_str) {
                if items["properties"].get(key).is_none() {
                    let detail = "entries must all be names of item properties";
                    errors.push(FieldError::invalid(&path.child(KEYS), key, detail));
                }
            }
        }
        _ if !keys.is_empty() => {
            let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
            errors.push(FieldError::invalid(&at, kind.unwrap_or_default(), detail));
        }
        _ => {}
    }
}

fn check_rules(
    map: &Map<String, Value>,
    is_root: bool,
    path: &FieldPath,
    errors: &mut Vec<FieldError>,
) {
    let at = path.child("x-kubernetes-validations");
    let rules = list(map, "x-kubernetes-validations");
    if rules.is_empty() {
        return;
    }
    let types = RuleTypes::from_schema(map, is_root);
    for (index, rule) in rules.iter().enumerate() {
        let old_is_optional = rule["optionalOldSelf"] == true;
        let at = at.index(index);
        let source = rule["rule"].as_str().unwrap_or_default();
        if source.trim().is_empty() {
            errors.push(FieldError::required(
                &at.child("rule"),
                "rule is not specified",
            ));
        } else if let Err(detail) = types.check_rule(source, old_is_optional) {
            errors.push(FieldError::invalid(&at.child("rule"), source, detail));
        }
        if let Some(source) = rule["messageExpression"]
            .as_str()
            .filter(|text| !text.is_empty())
            && let Err(detail) = types.check_message(source, old_is_optional)
        {
            errors.push(FieldError::invalid(
                &at.child("messageExpression"),
                source,
                detail,
            ));
        }
        if rule["message"]
            .as_str()
            .is_some_and(|text| text.contains('\n'))
        {
            let detail = "message must not contain line breaks";
            errors.push(FieldError::invalid(
                &at.child("message"),
                rule["message"].clone(),
                detail,
            ));
        }
        if old_is_optional {
            let detail = "optionalOldSelf is not supported by this server";
            errors.push(FieldError::forbidden(&at.child("optionalOldSelf"), detail));
        }
    }
}

/// Checks that a default is valid for its schema.
fn check_default(schema: &Value, path: &FieldPath, errors: &mut Vec<FieldError>) {
    // As upstream, null means that there is no default.
    let Some(default) = schema.get("default").filter(|value| !value.is_null()) else {
        return;
    };
    let parsed = Schema::parse(schema);
    let at = path.child("default");
    let mut pruned = default.clone();
    if !prune(&mut pruned, &parsed).is_empty() {
        errors.push(FieldError::invalid(
            &at,
            default.clone(),
            "must not have unknown fields",
        ));
    }
    for error in validate(default, None, &parsed) {
        let below = error.field.to_string();
        let field = if below.is_empty() {
            at.clone()
        } else {
            at.child(&below)
        };
        errors.push(FieldError { field, ..error });
    }
}

/// Checks a schema inside of a combination (`allOf` and similar), which may only restrict values.
fn check_combined(schema: &Value, path: &FieldPath, depth: usize, errors: &mut Vec<FieldError>) {
    let Some(map) = schema.as_object().filter(|_| depth > 0) else {
        return;
    };
    for name in STRUCTURE {
        let Some(value) = map.get(name) else { continue };
        // The only allowed way to write out the types of an int-or-string.
        let spelled = name == "type" && (value == "integer" || value == "string");
        if !spelled {
            let detail = "must be empty to be structural";
            errors.push(FieldError::forbidden(&path.child(name), detail));
        }
    }
    for (name, below) in map
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        check_combined(
            below,
            &path.child("properties").key(name),
            depth - 1,
            errors,
        );
    }
    for name in ["items", "not"] {
        if let Some(below) = map.get(name) {
            check_combined(below, &path.child(name), depth - 1, errors);
        }
    }
    for name in COMBINATIONS {
        for (index, part) in list(map, name).iter().enumerate() {
            check_combined(part, &path.child(name).index(index), depth - 1, errors);
        }
    }
}

fn list<'m>(map: &'m Map<String, Value>, name: &str) -> &'m [Value] {
    let list = map.get(name).and_then(Value::as_array);
    list.map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    fn texts(schema: Value) -> Vec<String> {
        let errors = check(&schema, &FieldPath::root("schema"));
        errors.iter().map(ToString::to_string).collect()
    }

    /// A type next to `x-kubernetes-int-or-string` is accepted and has no effect: the published definition of
    /// VolumeSnapshot contains such a type.
    #[test]
    fn a_structural_schema_is_taken() {
        let schema = json!({"type": "object", "properties": {
            "spec": {"type": "object", "required": ["size"], "properties": {
                "size": {"type": "integer", "minimum": 1, "default": 3},
                "port": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
                "typed": {"type": "string", "x-kubernetes-int-or-string": true, "pattern": "^[0-9]+$"},
                "free": {"x-kubernetes-preserve-unknown-fields": true},
                "map": {"type": "object", "additionalProperties": {"type": "string"}},
                "list": {"type": "array", "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["name"],
                    "items": {"type": "object", "properties": {"name": {"type": "string"}}}}},
                "oneOf": [{"required": ["size"]}, {"required": ["map"]}],
                "x-kubernetes-validations": [{"rule": "self.size > 0"}]}}});
        assert_eq!(texts(schema), [""; 0]);
    }

    #[test]
    fn what_is_not_structural_is_named() {
        let schema = json!({"type": "object", "properties": {
            "untyped": {}, "odd": {"type": "text"}, "list": {"type": "array"},
            "both": {"type": "object", "properties": {"a": {"type": "string"}},
                "additionalProperties": {"type": "string"}},
            "late": {"type": "object", "anyOf": [{"properties": {"x": {"type": "object"}}}]},
            "bad": {"type": "integer", "default": "x"},
            "rule": {"type": "object", "x-kubernetes-validations": [{"rule": "self +"}]}}});
        let messages = texts(schema);
        let starts = [
            "schema.properties[untyped].type: Required value: must not be empty for specified object fields",
            "schema.properties[odd].type: Unsupported value: \"text\"",
            "schema.properties[list].items: Required value: must be specified",
            "schema.properties[both].additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive",
            "schema.properties[late].anyOf[0].properties[x].type: Forbidden: must be empty to be structural",
            "schema.properties[bad].default: Invalid value: \"string\"",
            "schema.properties[rule].x-kubernetes-validations[0].rule: Invalid value: \"self +\": compilation failed",
        ];
        assert_eq!(messages.len(), starts.len(), "{messages:#?}");
        for (message, start) in messages.iter().zip(starts) {
            assert!(message.starts_with(start), "{message}");
        }
    }
}
