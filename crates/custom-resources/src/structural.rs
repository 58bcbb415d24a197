//! The check that the schema of a definition is structural: each value has one type, stated outside of combinations
//! of schemas (apiextensions.k8s.io/v1, "Specifying a structural schema"). Rules and texts are those of
//! `pkg/apiserver/schema` in k8s.io/apiextensions-apiserver.

use cel_evaluator::compile_pattern;
use json_tree::Value;
use object_model::{FieldError, FieldPath};

use crate::expression::parse;
use crate::rule_types::RuleTypes;
use crate::schema_node::{Additional, Node};

const COMBINATIONS: [&str; 3] = ["allOf", "anyOf", "oneOf"];
const INT_OR_STRING: &str = "x-kubernetes-int-or-string";
const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
const EMBEDDED: &str = "x-kubernetes-embedded-resource";

/// The position of a schema, which decides the texts of errors.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// The parts of an int-or-string in which types may be written.
#[derive(Clone, Copy, Default)]
struct Skipped {
    any_of: bool,
    /// `anyOf` of the first schema of `allOf`.
    first_all_of: bool,
}

/// The errors of a schema without unsupported keywords, sorted by their texts.
pub(crate) fn check(schema: Node<'_>, path: &FieldPath) -> Vec<FieldError> {
    let mut errors = Vec::new();
    invariants(schema, Level::Root, path, &mut errors);
    complete_values(schema, Some(schema), path, path, &mut errors);
    errors.sort_by_cached_key(ToString::to_string);
    errors
}

/// The message for the first keyword that no structural schema has.
pub(crate) fn unsupported(schema: Node<'_>) -> Option<String> {
    for (name, shown) in [
        ("id", "id"),
        ("$schema", "schema"),
        ("$ref", "$ref"),
        ("patternProperties", "patternProperties"),
        ("dependencies", "dependencies"),
        ("additionalItems", "additionalItems"),
        ("definitions", "definitions"),
    ] {
        if has_content(schema, name) {
            return Some(format!("OpenAPIV3Schema '{shown}' is not supported"));
        }
    }
    if schema.get(PRESERVE).and_then(|value| value.as_bool()) == Some(false) {
        return Some(format!(
            "internal error: '{PRESERVE}' must be true or undefined"
        ));
    }
    if !schema.list("items").is_empty() {
        return Some("OpenAPIV3Schema 'items' must be a schema, but is an array".to_owned());
    }
    below(schema).find_map(unsupported)
}

/// Whether a keyword has a value that Kubernetes' types do not take for an absent value.
fn has_content(schema: Node<'_>, name: &str) -> bool {
    schema.get(name).is_some_and(|value| {
        value.as_str() != Some("") && value.as_object().is_none_or(|map| !map.is_empty())
    })
}

/// All schemas directly inside of a schema.
fn below(schema: Node<'_>) -> impl Iterator<Item = Node<'_>> {
    let combined = COMBINATIONS.into_iter();
    let single = ["not", "items"].into_iter();
    combined
        .flat_map(move |name| schema.parts(name))
        .chain(single.filter_map(move |name| schema.part(name)))
        .chain(schema.entries("properties").map(|(_, node)| node))
        .chain(schema.additional_schema())
}

fn invariants(schema: Node<'_>, level: Level, path: &FieldPath, errors: &mut Vec<FieldError>) {
    let items = schema.part("items");
    if schema.text("type") == "array" && items.is_none() {
        errors.push(FieldError::required(
            &path.child("items"),
            "must be specified",
        ));
    }
    if let Some(items) = items {
        invariants(items, Level::Item, &path.child("items"), errors);
    }
    for (name, below) in schema.entries("properties") {
        let at = path.child("properties").key(name);
        invariants(below, Level::Field, &at, errors);
    }
    if let Some(additional) = schema.additional() {
        let at = path.child("additionalProperties");
        if level == Level::Root {
            errors.push(FieldError::forbidden(&at, "must not be used at the root"));
        }
        if let Additional::Schema(below) = additional {
            invariants(below, Level::Field, &at, errors);
        }
    }
    check_extensions(schema, path, errors);
    let skipped = Skipped {
        any_of: is_int_or_string(schema),
        first_all_of: schema.parts("allOf").next().is_some_and(is_int_or_string),
    };
    values(schema, skipped, path, errors);
    check_type(schema, level, path, errors);
    check_object_fields(schema, level, path, errors);
}

fn check_extensions(schema: Node<'_>, path: &FieldPath, errors: &mut Vec<FieldError>) {
    if !schema.flag(INT_OR_STRING) {
        return;
    }
    for name in [PRESERVE, EMBEDDED] {
        if schema.flag(name) {
            let detail = format!("must be false if {INT_OR_STRING} is true");
            errors.push(FieldError::invalid(&path.child(name), true, detail));
        }
    }
}

/// Whether a schema has just the types of an int-or-string in `anyOf`.
fn is_int_or_string(schema: Node<'_>) -> bool {
    let parts = schema.list("anyOf");
    let is = |index: usize, name: &str| {
        let part = parts.get(index).and_then(Node::new);
        part.is_some_and(|part| part.text("type") == name && part.map().len() == 1)
    };
    parts.len() == 2 && is(0, "integer") && is(1, "string")
}

fn check_type(schema: Node<'_>, level: Level, path: &FieldPath, errors: &mut Vec<FieldError>) {
    let at = path.child("type");
    let kind = schema.text("type");
    if schema.flag(EMBEDDED) && kind != "object" {
        let detail = format!("must be object if {EMBEDDED} is true");
        errors.push(match kind {
            "" => FieldError::required(&at, detail),
            _ => FieldError::invalid(&at, kind, detail),
        });
    } else if kind.is_empty() && !schema.flag(INT_OR_STRING) && !schema.flag(PRESERVE) {
        let detail = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.push(FieldError::required(&at, detail));
    }
    if level == Level::Root && !kind.is_empty() && kind != "object" {
        errors.push(FieldError::invalid(&at, kind, "must be object at the root"));
    }
}

/// The fields that each object of the API has, and embedded objects.
fn check_object_fields(
    schema: Node<'_>,
    level: Level,
    path: &FieldPath,
    errors: &mut Vec<FieldError>,
) {
    let is_object = level == Level::Root || schema.flag(EMBEDDED);
    if schema.flag(EMBEDDED) && schema.additional().is_some() {
        let detail = format!("must not be used if {EMBEDDED} is set");
        errors.push(FieldError::forbidden(
            &path.child("additionalProperties"),
            detail,
        ));
    }
    for (name, expected) in [
        ("kind", "string"),
        ("apiVersion", "string"),
        ("metadata", "object"),
    ] {
        let field = schema.property(name).filter(|_| is_object);
        if let Some(kind) = field.map(|field| field.text("type"))
            && kind != expected
        {
            let at = path.child("properties").key(name).child("type");
            errors.push(FieldError::invalid(
                &at,
                kind,
                format!("must be {expected}"),
            ));
        }
    }
    if level == Level::Root
        && let Some(metadata) = schema.property("metadata")
        && restricts_more_than_names(metadata)
    {
        let detail = "must not specify anything other than name and generateName, but metadata is implicitly \
                      specified";
        let at = path.child("properties").key("metadata");
        errors.push(FieldError::forbidden(&at, detail));
    }
    if schema.flag(EMBEDDED) && !schema.flag(PRESERVE) && !schema.has_properties() {
        let detail = format!("must not be empty if {EMBEDDED} is true without {PRESERVE}");
        errors.push(FieldError::required(&path.child("properties"), detail));
    }
}

fn restricts_more_than_names(metadata: Node<'_>) -> bool {
    let is_other = |name: &str| !["type", "default", "properties"].contains(&name);
    let mut names = metadata.entries("properties").map(|(name, _)| name);
    let mut keywords = metadata.map().iter().filter(|(_, value)| !value.is_null());
    keywords.any(|(name, _)| is_other(name))
        || names.any(|name| !["name", "generateName"].contains(&name))
}

/// The combinations of a schema.
fn values(schema: Node<'_>, skipped: Skipped, path: &FieldPath, errors: &mut Vec<FieldError>) {
    for name in COMBINATIONS {
        if name == "anyOf" && skipped.any_of {
            continue;
        }
        for (index, part) in schema.parts(name).enumerate() {
            let skipped = Skipped {
                any_of: name == "allOf" && index == 0 && skipped.first_all_of,
                first_all_of: false,
            };
            nested(part, skipped, &path.child(name).index(index), errors);
        }
    }
    if let Some(part) = schema.part("not") {
        nested(part, Skipped::default(), &path.child("not"), errors);
    }
    let source = schema.text("pattern");
    if !source.is_empty()
        && let Err(error) = compile_pattern(source)
    {
        let detail = format!("must be a valid regular expression, but isn't: {error}");
        errors.push(FieldError::invalid(&path.child("pattern"), source, detail));
    }
}

/// A schema inside of a combination, which may only restrict values.
fn nested(schema: Node<'_>, skipped: Skipped, path: &FieldPath, errors: &mut Vec<FieldError>) {
    values(schema, skipped, path, errors);
    if let Some(part) = schema.part("items") {
        nested(part, Skipped::default(), &path.child("items"), errors);
    }
    for (name, part) in schema.entries("properties") {
        let at = path.child("properties").key(name);
        nested(part, Skipped::default(), &at, errors);
    }
    for (name, detail) in [
        ("type", "must be empty to be structural"),
        ("default", "must be undefined to be structural"),
        ("title", "must be empty to be structural"),
        ("description", "must be empty to be structural"),
        ("nullable", "must be false to be structural"),
        (PRESERVE, "must be false to be structural"),
        (EMBEDDED, "must be false to be structural"),
        (INT_OR_STRING, "must be false to be structural"),
        (
            "x-kubernetes-list-map-keys",
            "must be empty to be structural",
        ),
        (
            "x-kubernetes-list-type",
            "must be undefined to be structural",
        ),
        (
            "x-kubernetes-map-type",
            "must be undefined to be structural",
        ),
        ("x-kubernetes-validations", "must be empty to be structural"),
    ] {
        let value = schema.get(name).filter(|value| {
            value.as_bool() != Some(false)
                && value.as_str() != Some("")
                && value.as_array().is_none_or(|list| !list.is_empty())
        });
        let is_set = match name {
            "default" => schema.get(name).is_some(),
            _ => value.is_some(),
        };
        if is_set {
            errors.push(FieldError::forbidden(&path.child(name), detail));
        }
    }
    if matches!(
        schema.additional(),
        Some(Additional::Bool(true) | Additional::Schema(_))
    ) {
        let at = path.child("additionalProperties");
        let detail = "must be undefined to be structural";
        errors.push(FieldError::forbidden(&at, detail));
    }
    if schema.property("metadata").is_some() {
        let at = path.child("properties").key("metadata");
        let detail = "must not be specified in a nested context";
        errors.push(FieldError::forbidden(&at, detail));
    }
}

/// Checks that each value that a combination restricts has a schema outside of combinations.
fn complete_values(
    restriction: Node<'_>,
    schema: Option<Node<'_>>,
    schema_path: &FieldPath,
    path: &FieldPath,
    errors: &mut Vec<FieldError>,
) {
    let mut check = |part: Node<'_>, at: FieldPath| {
        complete_nested(part, schema, schema_path, &at, errors);
    };
    if let Some(part) = restriction.part("not") {
        check(part, path.child("not"));
    }
    for name in COMBINATIONS {
        for (index, part) in restriction.parts(name).enumerate() {
            check(part, path.child(name).index(index));
        }
    }
}

fn complete_nested(
    restriction: Node<'_>,
    schema: Option<Node<'_>>,
    schema_path: &FieldPath,
    path: &FieldPath,
    errors: &mut Vec<FieldError>,
) {
    let Some(schema) = schema else {
        let detail = format!("because it is defined in {path}");
        errors.push(FieldError::required(schema_path, detail));
        return;
    };
    complete_values(restriction, Some(schema), schema_path, path, errors);
    if let Some(part) = restriction.part("items") {
        let (at, path) = (schema_path.child("items"), path.child("items"));
        complete_nested(part, schema.part("items"), &at, &path, errors);
    }
    for (name, part) in restriction.entries("properties") {
        let at = schema_path.child("properties").key(name);
        let path = path.child("properties").key(name);
        complete_nested(part, schema.property(name), &at, &path, errors);
    }
}

/// Adds the errors of the expressions of a schema's rules. Elements of `uncorrelated` have no counterpart in an update,
/// so that their rules cannot compare.
pub(crate) fn check_rules(
    schema: Node<'_>,
    is_root: bool,
    path: &FieldPath,
    uncorrelated: Option<&FieldPath>,
    errors: &mut Vec<FieldError>,
) {
    let at = path.child("x-kubernetes-validations");
    let rules = schema.list("x-kubernetes-validations");
    if rules.is_empty() {
        return;
    }
    let types = RuleTypes::from_schema(schema.map(), is_root);
    for (index, rule) in rules.iter().enumerate() {
        let old_is_optional = rule["optionalOldSelf"] == true;
        let at = at.index(index);
        let source = rule["rule"].as_str().unwrap_or_default();
        if let Err(detail) = types.check_rule(source, old_is_optional) {
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
        check_old_value(rule, source, uncorrelated, &at, errors);
    }
}

/// Checks the use of the value before an update.
fn check_old_value(
    rule: &Value,
    source: &str,
    uncorrelated: Option<&FieldPath>,
    at: &FieldPath,
    errors: &mut Vec<FieldError>,
) {
    let compares = source.contains("oldSelf")
        && parse(source).is_ok_and(|program| program.references().has_variable("oldSelf"));
    let needs_old_value = compares && rule["optionalOldSelf"] != true;
    if let Some(outer) = uncorrelated.filter(|_| needs_old_value) {
        let detail = format!(
            "oldSelf cannot be used on the uncorrelatable portion of the schema within {outer}"
        );
        errors.push(FieldError::invalid(&at.child("rule"), source, detail));
    }
    if let Some(value) = rule["optionalOldSelf"].as_bool().filter(|_| !compares) {
        let detail = "may not be set if oldSelf is not used in rule";
        let at = at.child("optionalOldSelf");
        errors.push(FieldError::invalid(&at, value, detail));
    }
}
