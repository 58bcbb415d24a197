//! Validation of an object by its schema. The messages are kube-apiserver's (k8s.io/kube-openapi
//! `pkg/validation`).

use std::collections::BTreeSet;

use json_tree::{Map, Value};
use object_model::{FieldError, FieldErrorType, FieldPath};

use crate::combinations::{check_combinations, of_schema};
use crate::format;
use crate::object_meta;
use crate::rules::counterpart;
use crate::schema::{AdditionalProperties, ListType, Schema, Type};

/// The first number above the range of int64.
const INT64_END: f64 = 9_223_372_036_854_775_808.0;
/// Maximum number of reported errors.
const ERRORS_MAX: usize = 100;

/// The validation errors of an object, without those of CEL rules.
///
/// Parts that an update (`old`) does not change are not validated again, so that a stricter definition does not block
/// other changes of its objects. As kube-apiserver (`CRDValidationRatcheting`): fields are compared by name, elements
/// of keyed lists by key, and other lists as a whole.
pub fn validate(object: &Value, old: Option<&Value>, schema: &Schema) -> Vec<FieldError> {
    let mut errors = Vec::new();
    check(object, old, schema, &FieldPath::default(), &mut errors);
    errors.sort_by(|one, other| one.field.cmp(&other.field));
    errors.truncate(ERRORS_MAX);
    errors
}

pub(crate) fn check(
    value: &Value,
    old: Option<&Value>,
    schema: &Schema,
    path: &FieldPath,
    errors: &mut Vec<FieldError>,
) {
    if old == Some(value) {
        cov_mark::hit!(findings_c27);
        return;
    }
    if value.is_null() && schema.nullable {
        return;
    }
    if !has_type(value, schema) {
        errors.push(wrong_type(value, schema, path));
        return;
    }
    match value {
        Value::String(text) => check_text(text, schema, path, errors),
        Value::Number(number) => check_number(number, schema, path, errors),
        Value::Array(items) => check_list(items, old, schema, path, errors),
        Value::Object(map) => check_map(map, old, schema, path, errors),
        Value::Null | Value::Bool(_) => {}
    }
    check_enum(value, schema, path, errors);
    check_combinations(value, schema, path, errors);
}

fn has_type(value: &Value, schema: &Schema) -> bool {
    if schema.int_or_string {
        return value.is_string() || is_whole(value);
    }
    match schema.kind {
        None => true,
        Some(Type::Object) => value.is_object(),
        Some(Type::Array) => value.is_array(),
        Some(Type::String) => value.is_string(),
        Some(Type::Boolean) => value.is_boolean(),
        Some(Type::Number) => value.is_number(),
        Some(Type::Integer) => is_whole(value),
    }
}

fn is_whole(value: &Value) -> bool {
    let whole = |number: f64| number.fract() == 0.0 && number.is_finite();
    value.is_i64() || value.is_u64() || value.as_f64().is_some_and(whole)
}

fn wrong_type(value: &Value, schema: &Schema, path: &FieldPath) -> FieldError {
    let expected = if schema.int_or_string {
        "integer,string"
    } else {
        schema.kind.map_or("", Type::name)
    };
    type_error(path, expected, type_of(value))
}

/// The error contains the invalid type, or the text that does not have the format.
fn type_error(path: &FieldPath, expected: &str, actual: &str) -> FieldError {
    FieldError {
        kind: FieldErrorType::TypeInvalid,
        field: path.clone(),
        value: Some(actual.into()),
        detail: format!(
            "{} must be of type {expected}: {actual:?}",
            path_in_body(path)
        ),
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) if is_whole(value) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn path_in_body(path: &FieldPath) -> String {
    format!("{path} in body")
}

fn check_text(text: &str, schema: &Schema, path: &FieldPath, errors: &mut Vec<FieldError>) {
    let limits = &schema.limits;
    let length = text.chars().count() as u64;
    if let Some(max) = limits.max_length.filter(|max| length > *max) {
        errors.push(FieldError {
            kind: FieldErrorType::TooLong,
            field: path.clone(),
            value: None,
            detail: format!("may not be more than {max} bytes"),
        });
    }
    if let Some(min) = limits.min_length.filter(|min| length < *min) {
        let detail = format!("{} should be at least {min} chars long", path_in_body(path));
        errors.push(FieldError::invalid(path, text, detail));
    }
    if let Some(pattern) = &limits.pattern
        && pattern.regex().is_some_and(|regex| !regex.is_match(text))
    {
        let detail = format!("{} should match '{}'", path_in_body(path), pattern.source);
        errors.push(FieldError::invalid(path, text, detail));
    }
    if let Some(name) = &limits.format
        && !format::matches(name, text)
    {
        errors.push(type_error(path, name, text));
    }
}

fn check_number(
    number: &json_tree::Number,
    schema: &Schema,
    path: &FieldPath,
    errors: &mut Vec<FieldError>,
) {
    let limits = &schema.limits;
    let Some(value) = number.as_f64() else { return };
    let mut refuse = |detail: String| {
        let detail = format!("{} {detail}", path_in_body(path));
        errors.push(FieldError::invalid(
            path,
            Value::Number(number.clone()),
            detail,
        ));
    };
    if let Some(max) = limits.maximum {
        if limits.exclusive_maximum && value >= max {
            refuse(format!("should be less than {max}"));
        } else if value > max {
            refuse(format!("should be less than or equal to {max}"));
        }
    }
    if let Some(min) = limits.minimum {
        if limits.exclusive_minimum && value <= min {
            refuse(format!("should be greater than {min}"));
        } else if value < min {
            refuse(format!("should be greater than or equal to {min}"));
        }
    }
    if let Some(factor) = limits.multiple_of.filter(|factor| *factor > 0.0) {
        let times = value / factor;
        if (times - times.round()).abs() > f64::EPSILON * times.abs().max(1.0) {
            refuse(format!("should be a multiple of {factor}"));
        }
    }
    check_range(number, schema, path, errors);
}

/// Checks that a number fits into its type. Formats of other types have no effect.
fn check_range(
    number: &json_tree::Number,
    schema: &Schema,
    path: &FieldPath,
    errors: &mut Vec<FieldError>,
) {
    let is_integer = schema.int_or_string || schema.kind == Some(Type::Integer);
    let format = schema.limits.format.as_deref();
    let format = format.filter(|format| match is_integer {
        true => matches!(*format, "int32" | "int64"),
        false => schema.kind == Some(Type::Number) && matches!(*format, "float" | "double"),
    });
    let fits = match format {
        Some("int32") => number
            .as_i64()
            .is_some_and(|whole| i32::try_from(whole).is_ok()),
        Some("float") => number
            .as_f64()
            .is_some_and(|number| number.abs() <= f64::from(f32::MAX)),
        _ if is_integer => number.is_i64() || number.as_f64().is_some_and(|n| n.abs() < INT64_END),
        _ => true,
    };
    // A whole number may have a fraction of zero.
    let is_small = number
        .as_f64()
        .is_some_and(|number| number.abs() <= f64::from(i32::MAX));
    if fits || (format == Some("int32") && is_small) {
        return;
    }
    let kind = if is_integer { "integer" } else { "number" };
    let form = match format {
        Some(format) => format!("with format {format}"),
        None => "(default format)".to_owned(),
    };
    errors.push(of_schema(format!(
        "Checked value must be of type {kind} {form} in {path}"
    )));
}

fn check_list(
    items: &[Value],
    old: Option<&Value>,
    schema: &Schema,
    path: &FieldPath,
    errors: &mut Vec<FieldError>,
) {
    let limits = &schema.limits;
    let count = items.len() as u64;
    if let Some(max) = limits.max_items.filter(|max| count > *max) {
        errors.push(too_many(path, count, max));
        // A value above the size limit is not checked further.
        return;
    }
    if let Some(min) = limits.min_items.filter(|min| count < *min) {
        let detail = format!("{} should have at least {min} items", path_in_body(path));
        errors.push(FieldError::invalid(path, count, detail));
    }
    if limits.unique_items && has_duplicates(items) {
        let detail = format!("{} shouldn't contain duplicates", path_in_body(path));
        errors.push(FieldError::invalid(
            path,
            Value::Array(items.to_vec()),
            detail,
        ));
    }
    if let Some(below) = &schema.items {
        for (index, item) in items.iter().enumerate() {
            if errors.len() > ERRORS_MAX {
                return;
            }
            let old = old.and_then(|old| counterpart(item, old, &schema.list_type));
            check(item, old, below, &path.index(index), errors);
        }
    }
    check_keys(items, &schema.list_type, path, errors);
}

fn too_many(path: &FieldPath, count: u64, max: u64) -> FieldError {
    FieldError {
        kind: FieldErrorType::TooMany,
        field: path.clone(),
        value: Some(count.into()),
        detail: format!("must have at most {max} items"),
    }
}

fn has_duplicates(items: &[Value]) -> bool {
    let mut unique = BTreeSet::new();
    items.iter().any(|item| !unique.insert(item.to_string()))
}

/// Checks that the keys of the elements of sets and keyed lists are unique.
fn check_keys(
    items: &[Value],
    list_type: &ListType,
    path: &FieldPath,
    errors: &mut Vec<FieldError>,
) {
    let mut unique = BTreeSet::new();
    for (index, item) in items.iter().enumerate() {
        let key = match list_type {
            ListType::Atomic => return,
            ListType::Set => item.clone(),
            ListType::Map(keys) => {
                let part = |key: &String| Some((key.clone(), item.get(key)?.clone()));
                Value::Object(keys.iter().filter_map(part).collect())
            }
        };
        if !unique.insert(key.to_string()) {
            errors.push(FieldError::duplicate(&path.index(index), key));
        }
    }
}

fn check_map(
    map: &Map<String, Value>,
    old: Option<&Value>,
    schema: &Schema,
    path: &FieldPath,
    errors: &mut Vec<FieldError>,
) {
    let limits = &schema.limits;
    for name in limits
        .required
        .iter()
        .filter(|name| !map.contains_key(*name))
    {
        errors.push(FieldError::required(&path.child(name), ""));
    }
    if schema.embedded {
        object_meta::validate_embedded(map, path, errors);
    }
    let count = map.len() as u64;
    if let Some(max) = limits.max_properties.filter(|max| count > *max) {
        errors.push(too_many(path, count, max));
        return;
    }
    if let Some(min) = limits.min_properties.filter(|min| count < *min) {
        let detail = format!(
            "{} should have at least {min} properties",
            path_in_body(path)
        );
        errors.push(FieldError::invalid(
            path,
            Value::Object(map.clone()),
            detail,
        ));
    }
    for (name, value) in map {
        if errors.len() > ERRORS_MAX {
            return;
        }
        if let Some(below) = schema.field(name) {
            let old = old.and_then(|old| old.get(name));
            check(value, old, below, &path.child(name), errors);
        } else if matches!(
            schema.additional,
            Some(AdditionalProperties::Allowed(false))
        ) && !(schema.embedded
            && ["apiVersion", "kind", "metadata"].contains(&name.as_str()))
        {
            let detail = format!("{path}.{name} in body is a forbidden property");
            errors.push(FieldError::invalid(path, name.as_str(), detail));
        }
    }
}

fn check_enum(value: &Value, schema: &Schema, path: &FieldPath, errors: &mut Vec<FieldError>) {
    let Some(allowed) = &schema.limits.one_of_values else {
        return;
    };
    if allowed.iter().any(|literal| same(literal, value)) {
        return;
    }
    let printed: Vec<String> = allowed
        .iter()
        .map(|literal| {
            literal
                .as_str()
                .map_or_else(|| literal.to_string(), str::to_owned)
        })
        .collect();
    let printed: Vec<&str> = printed.iter().map(String::as_str).collect();
    errors.push(FieldError::not_supported(path, value.clone(), &printed));
}

/// 1 and 1.0 are equal numbers.
fn same(one: &Value, other: &Value) -> bool {
    match (one.as_f64(), other.as_f64()) {
        (Some(one), Some(other)) => one.total_cmp(&other).is_eq(),
        _ => one == other,
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    fn texts(schema: Value, object: Value) -> Vec<String> {
        let errors = validate(&object, None, &Schema::parse(&schema));
        errors.iter().map(ToString::to_string).collect()
    }

    fn spec(fields: Value) -> Value {
        json!({"type": "object", "properties": {"spec": {"type": "object", "properties": fields}}})
    }

    #[test]
    fn types_are_checked_and_named() {
        let schema = spec(json!({"size": {"type": "integer"}, "any": {},
            "port": {"x-kubernetes-int-or-string": true}, "maybe": {"type": "string", "nullable": true},
            "typed": {"type": "string", "x-kubernetes-int-or-string": true}}));
        let object = json!({"spec": {"size": "x", "any": [1], "port": true, "maybe": null}});
        assert_eq!(
            texts(schema.clone(), object),
            [
                r#"spec.port: Invalid value: "boolean": spec.port in body must be of type integer,string: "boolean""#,
                r#"spec.size: Invalid value: "string": spec.size in body must be of type integer: "string""#,
            ]
        );
        let object = json!({"spec": {"size": 2.0, "port": "http", "maybe": "a", "typed": 5}});
        assert_eq!(texts(schema, object), [""; 0]);
    }

    // findings C27
    #[test]
    fn what_was_the_same_before_is_not_judged_again() {
        cov_mark::check!(findings_c27);
        let name = json!({"type": "string", "maxLength": 3});
        let schema = spec(json!({
            "name": name, "size": {"type": "integer", "maximum": 5},
            "parts": {"type": "array", "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["id"], "items": {"type": "object",
                "properties": {"id": {"type": "string"}, "name": name}}},
            "names": {"type": "array", "items": name},
        }));
        let schema = Schema::parse(&schema);
        let old = json!({"metadata": {"name": "a"}, "spec": {"name": "long", "size": 3,
            "parts": [{"id": "x", "name": "long"}, {"id": "y", "name": "long"}],
            "names": ["long"]}});
        let errors = |change: &dyn Fn(&mut Value)| {
            let mut new = old.clone();
            change(&mut new);
            let errors = validate(&new, Some(&old), &schema);
            errors
                .iter()
                .map(|error| error.field.to_string())
                .collect::<Vec<_>>()
        };
        let none: [&str; 0] = [];
        assert_eq!(errors(&|_| {}), none);
        assert_eq!(
            errors(&|new| new["metadata"]["finalizers"] = json!(["f"])),
            none
        );
        assert_eq!(errors(&|new| new["spec"]["size"] = json!(4)), none);
        assert_eq!(errors(&|new| new["spec"]["size"] = json!(9)), ["spec.size"]);
        assert_eq!(
            errors(&|new| new["spec"]["name"] = json!("longer")),
            ["spec.name"]
        );
        // Elements are compared by key, whatever their position; a changed element is validated.
        let turned = json!([{"id": "y", "name": "other"}, {"id": "x", "name": "long"}]);
        let messages = errors(&|new| new["spec"]["parts"] = turned.clone());
        assert_eq!(messages, ["spec.parts[0].name"]);
        let longer = json!(["long", "b"]);
        let messages = errors(&|new| new["spec"]["names"] = longer.clone());
        assert_eq!(
            messages,
            ["spec.names[0]"],
            "without keys there is only the whole list"
        );
        assert_eq!(
            validate(&old, None, &schema).len(),
            4,
            "all of it when it is new"
        );
    }

    #[test]
    fn limits_have_the_words_of_the_original() {
        let schema = spec(json!({
            "size": {"type": "integer", "minimum": 1, "maximum": 5, "multipleOf": 2},
            "name": {"type": "string", "maxLength": 3, "minLength": 1, "pattern": "^[a-z]*$"},
            "colour": {"type": "string", "enum": ["red", "blue"]},
            "list": {"type": "array", "maxItems": 1, "items": {"type": "string"}},
        }));
        let object =
            json!({"spec": {"size": 7, "name": "ABCD", "colour": "green", "list": ["a", "b"]}});
        assert_eq!(
            texts(schema.clone(), object),
            [
                r#"spec.colour: Unsupported value: "green": supported values: "blue", "red""#,
                "spec.list: Too many: 2: must have at most 1 items",
                "spec.name: Too long: may not be more than 3 bytes",
                r#"spec.name: Invalid value: "ABCD": spec.name in body should match '^[a-z]*$'"#,
                "spec.size: Invalid value: 7: spec.size in body should be less than or equal to 5",
                "spec.size: Invalid value: 7: spec.size in body should be a multiple of 2",
            ]
        );
        let object = json!({"spec": {"size": 0, "name": ""}});
        assert_eq!(
            texts(schema, object),
            [
                r#"spec.name: Invalid value: "": spec.name in body should be at least 1 chars long"#,
                "spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1",
            ]
        );
    }

    #[test]
    fn what_is_required_is_missed_where_it_should_be() {
        let schema = json!({"type": "object", "required": ["spec"], "properties": {"spec": {
            "type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}}});
        assert_eq!(texts(schema.clone(), json!({})), ["spec: Required value"]);
        let texts = texts(schema, json!({"spec": {}}));
        assert_eq!(texts, ["spec.name: Required value"]);
    }

    #[test]
    fn keys_of_lists_are_unique() {
        let schema = spec(json!({
            "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "ports": {"type": "array", "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["port"],
                "items": {"type": "object", "properties": {"port": {"type": "integer"}}}},
        }));
        let object =
            json!({"spec": {"set": ["a", "b", "a"], "ports": [{"port": 1, "x": 1}, {"port": 1}]}});
        assert_eq!(
            texts(schema, object),
            [
                r#"spec.ports[1]: Duplicate value: {"port":1}"#,
                r#"spec.set[2]: Duplicate value: "a""#,
            ]
        );
    }

    #[test]
    fn combinations_of_schemas() {
        let schema = spec(json!({"x": {"type": "integer",
            "anyOf": [{"minimum": 10}, {"maximum": 1}],
            "oneOf": [{"minimum": 0}, {"maximum": 5}],
            "not": {"enum": [4]}, "allOf": [{"maximum": 100}]}}));
        let messages = texts(schema.clone(), json!({"spec": {"x": 4}}));
        assert_eq!(
            messages,
            [
                r#"<nil>: Invalid value: "": "spec.x" must validate at least one schema (anyOf)"#,
                r#"<nil>: Invalid value: "": "spec.x" must validate one and only one schema (oneOf). Found 2 valid alternatives"#,
                r#"<nil>: Invalid value: "": "spec.x" must not validate the schema (not)"#,
                "spec.x: Invalid value: 4: spec.x in body should be greater than or equal to 10",
            ]
        );
        assert_eq!(texts(schema, json!({"spec": {"x": 10}})), [""; 0]);
    }
}
