//! The rules for the keywords of a schema in a definition. Rules and texts are those of
//! `ValidateCustomResourceDefinitionOpenAPISchema` in k8s.io/apiextensions-apiserver.

use json_tree::Value;
use object_model::{FieldError, FieldPath};

use crate::rule_costs;
use crate::schema_defaults;
use crate::schema_lists;
use crate::schema_node::Node;
use crate::schema_path::{Brackets, resolve};
use crate::structural::{self, check_rules};

/// Keywords that the root of a schema may have in addition to a `status` sub-resource, with their names in messages.
const ROOT_KEYWORDS: [(&str, &str); 22] = [
    ("description", "Description"),
    ("type", "Type"),
    ("format", "Format"),
    ("title", "Title"),
    ("maximum", "Maximum"),
    ("exclusiveMaximum", "ExclusiveMaximum"),
    ("minimum", "Minimum"),
    ("exclusiveMinimum", "ExclusiveMinimum"),
    ("maxLength", "MaxLength"),
    ("minLength", "MinLength"),
    ("pattern", "Pattern"),
    ("maxItems", "MaxItems"),
    ("minItems", "MinItems"),
    ("uniqueItems", "UniqueItems"),
    ("multipleOf", "MultipleOf"),
    ("required", "Required"),
    ("items", "Items"),
    ("properties", "Properties"),
    ("externalDocs", "ExternalDocs"),
    ("example", "Example"),
    (
        "x-kubernetes-preserve-unknown-fields",
        "XPreserveUnknownFields",
    ),
    ("x-kubernetes-validations", "XValidations"),
];
const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
const REASONS: [&str; 4] = [
    "FieldValueDuplicate",
    "FieldValueForbidden",
    "FieldValueInvalid",
    "FieldValueRequired",
];
const OBJECT_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];
const VALIDATIONS: &str = "x-kubernetes-validations";

/// The errors of the schema of a version.
pub(crate) fn check(schema: &Value, has_status: bool, path: &FieldPath) -> Vec<FieldError> {
    let Some(node) = Node::new(schema) else {
        return Vec::new();
    };
    let mut errors = Vec::new();
    if has_status {
        errors.extend(root_with_status(schema, node, path));
    }
    if node.flag("nullable") {
        let at = path.child("nullable");
        errors.push(FieldError::forbidden(
            &at,
            "nullable cannot be true at the root",
        ));
    }
    let unsupported = structural::unsupported(node);
    let before = errors.len();
    if unsupported.is_none() {
        errors.extend(structural::check(node, path));
        if errors.len() == before {
            errors.extend(schema_defaults::check(schema, path));
        }
    }
    let place = Place {
        path: path.clone(),
        is_root: true,
        is_in_metadata: false,
        no_defaults: None,
        uncorrelated: None,
        has_rules: unsupported.is_none() && errors.len() == before,
    };
    let found = keywords(node, &place);
    errors.extend(found.of_schema);
    errors.extend(found.of_rules);
    if errors.is_empty()
        && let Some(message) = unsupported
    {
        errors.push(FieldError::invalid(path, "", message));
    }
    if errors.is_empty() {
        errors = rule_costs::check(schema, path);
    }
    errors
}

/// The error of a keyword at the root that a schema of the status alone would lack.
fn root_with_status(schema: &Value, node: Node<'_>, path: &FieldPath) -> Option<FieldError> {
    let kind = node.text("type");
    if !kind.is_empty() && kind != "object" {
        let detail = "only \"object\" is allowed as the type at the root of the schema if the status subresource is \
                      enabled";
        return Some(FieldError::invalid(&path.child("type"), kind, detail));
    }
    let is_allowed = |name: &str| ROOT_KEYWORDS.iter().any(|(keyword, _)| *keyword == name);
    let mut keywords = node.map().iter().filter(|(_, value)| !value.is_null());
    keywords.find(|(name, _)| !is_allowed(name))?;
    let names: Vec<&str> = ROOT_KEYWORDS.iter().map(|(_, name)| *name).collect();
    let detail = format!(
        "only [{}] fields are allowed at the root of the schema if the status subresource is enabled",
        names.join(" ")
    );
    Some(FieldError::invalid(path, schema.clone(), detail))
}

/// The errors of a schema and of the schemas inside of it.
#[derive(Default)]
struct Found {
    of_schema: Vec<FieldError>,
    /// Errors of CEL. The rules of a schema are checked only if it, and all schemas inside of it, have no others.
    of_rules: Vec<FieldError>,
}

impl Found {
    fn extend(&mut self, other: Self) {
        self.of_schema.extend(other.of_schema);
        self.of_rules.extend(other.of_rules);
    }
}

/// The position of a schema inside of the schema of a version.
#[derive(Clone)]
struct Place {
    path: FieldPath,
    is_root: bool,
    /// Whether the schema describes `apiVersion`, `kind` or `metadata` of an object, or a part of them.
    is_in_metadata: bool,
    /// Why the schema may have no default.
    no_defaults: Option<String>,
    /// The outermost schema whose elements have no counterpart in an update.
    uncorrelated: Option<FieldPath>,
    /// Whether rules are checked.
    has_rules: bool,
}

impl Place {
    fn below(&self, path: FieldPath) -> Self {
        Self {
            path,
            is_root: false,
            ..self.clone()
        }
    }

    /// The position of a schema inside of a combination.
    fn combined(&self, path: FieldPath) -> Self {
        Self {
            has_rules: false,
            ..self.below(path)
        }
    }

    /// The position, if elements of this value have no counterpart in an update.
    fn without_counterpart(mut self, outer: &FieldPath) -> Self {
        self.uncorrelated.get_or_insert_with(|| outer.clone());
        self
    }
}

fn keywords(node: Node<'_>, place: &Place) -> Found {
    let mut found = Found::default();
    unsupported_keywords(node, place, &mut found.of_schema);
    let path = &place.path;
    if node.flag("uniqueItems") {
        let detail =
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        let at = path.child("uniqueItems");
        found.of_schema.push(FieldError::forbidden(&at, detail));
    }
    check_additional(node, place, &mut found);
    check_properties(node, place, &mut found);
    if let Some(part) = node.part("not") {
        found.extend(keywords(part, &place.combined(path.child("not"))));
    }
    for name in ["allOf", "oneOf", "anyOf"] {
        for (index, part) in node.parts(name).enumerate() {
            let place = place.combined(path.child(name).index(index));
            found.extend(keywords(part, &place));
        }
    }
    for (name, part) in node.entries("definitions") {
        let place = place.combined(path.child("definitions").key(name));
        found.extend(keywords(part, &place));
    }
    check_items(node, place, &mut found);
    schema_lists::check(node, path, &mut found.of_schema);
    rule_texts(node, path, &mut found.of_schema);
    if found.of_schema.is_empty() && place.has_rules {
        let uncorrelated = place.uncorrelated.as_ref();
        check_rules(node, place.is_root, path, uncorrelated, &mut found.of_rules);
    }
    found
}

fn unsupported_keywords(node: Node<'_>, place: &Place, errors: &mut Vec<FieldError>) {
    let path = &place.path;
    let kind = node.text("type");
    if !kind.is_empty() && !TYPES.contains(&kind) {
        errors.push(FieldError::not_supported(&path.child("type"), kind, &TYPES));
    }
    if let Some(reason) = place
        .no_defaults
        .as_deref()
        .filter(|_| node.get("default").is_some())
    {
        let detail = format!("must not be set {reason}");
        errors.push(FieldError::forbidden(&path.child("default"), detail));
    }
    for name in [
        "id",
        "additionalItems",
        "patternProperties",
        "definitions",
        "dependencies",
        "$ref",
    ] {
        let is_empty = |value: &Value| value.as_str() == Some("");
        if node.get(name).is_some_and(|value| !is_empty(value)) {
            let detail = format!("{name} is not supported");
            errors.push(FieldError::forbidden(&path.child(name), detail));
        }
    }
    if kind == "null" {
        let detail = "type cannot be set to null, use nullable as an alternative";
        errors.push(FieldError::forbidden(&path.child("type"), detail));
    }
    if !node.list("items").is_empty() {
        let detail = "items must be a schema object and not an array";
        errors.push(FieldError::forbidden(&path.child("items"), detail));
    }
    if place.is_in_metadata && node.flag("x-kubernetes-embedded-resource") {
        let at = path.child("x-kubernetes-embedded-resource");
        errors.push(FieldError::forbidden(
            &at,
            "must not be used inside of resource meta",
        ));
    }
    let preserve = path.child("x-kubernetes-preserve-unknown-fields");
    if node.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
        errors.push(FieldError::invalid(
            &preserve,
            false,
            "must be true or undefined",
        ));
    }
}

fn check_additional(node: Node<'_>, place: &Place, found: &mut Found) {
    let Some(value) = node.get("additionalProperties") else {
        return;
    };
    let at = place.path.child("additionalProperties");
    if node.has_properties() && value != &Value::Bool(true) {
        let detail = "additionalProperties and properties are mutual exclusive";
        found.of_schema.push(FieldError::forbidden(&at, detail));
    }
    if let Some(below) = node.additional_schema() {
        let mut place = place.below(at);
        if place.is_in_metadata {
            let reason = "inside additionalProperties applying to object metadata";
            place.no_defaults = Some(reason.to_owned());
        }
        found.extend(keywords(below, &place));
    }
}

fn check_properties(node: Node<'_>, place: &Place, found: &mut Found) {
    let map_type = node.get("x-kubernetes-map-type").and_then(Value::as_str);
    let is_object = place.is_root || node.flag("x-kubernetes-embedded-resource");
    for (name, below) in node.entries("properties") {
        let mut inner = place.below(place.path.child("properties").key(name));
        if !matches!(map_type, None | Some("granular" | "atomic")) {
            inner = inner.without_counterpart(&place.path);
        }
        if is_object && OBJECT_FIELDS.contains(&name) {
            inner.is_in_metadata = true;
            if place.is_root {
                inner.no_defaults = Some(format!("in top-level {name}"));
            }
        }
        found.extend(keywords(below, &inner));
    }
}

fn check_items(node: Node<'_>, place: &Place, found: &mut Found) {
    let at = place.path.child("items");
    let inner = |path: FieldPath| {
        let inner = place.below(path);
        match node.text("x-kubernetes-list-type") {
            "map" => inner,
            _ => inner.without_counterpart(&place.path),
        }
    };
    if let Some(below) = node.part("items") {
        found.extend(keywords(below, &inner(at.clone())));
    }
    for (index, below) in node.parts("items").enumerate() {
        found.extend(keywords(below, &inner(at.index(index))));
    }
}

fn has_line_break(text: &str) -> bool {
    text.contains(['\n', '\r'])
}

/// The texts of rules, without their expressions.
fn rule_texts(node: Node<'_>, path: &FieldPath, errors: &mut Vec<FieldError>) {
    for (index, rule) in node.parts(VALIDATIONS).enumerate() {
        let at = path.child(VALIDATIONS).index(index);
        let (source, message) = (rule.text("rule").trim(), rule.text("message"));
        let message_at = at.child("message");
        if source.is_empty() {
            errors.push(FieldError::required(
                &at.child("rule"),
                "rule is not specified",
            ));
        } else if !message.is_empty() && message.trim().is_empty() {
            let detail = "must be non-empty if specified";
            errors.push(FieldError::invalid(&message_at, message, detail));
        } else if has_line_break(message.trim()) {
            let detail = "must not contain line breaks";
            errors.push(FieldError::invalid(&message_at, message, detail));
        } else if has_line_break(source) && message.trim().is_empty() {
            let detail = "message must be specified if rule contains line breaks";
            errors.push(FieldError::required(&message_at, detail));
        }
        let expression = rule.text("messageExpression");
        if !expression.is_empty() && expression.trim().is_empty() {
            let detail = "messageExpression must be non-empty if specified";
            errors.push(FieldError::required(&at.child("messageExpression"), detail));
        }
        if let Some(reason) = rule.get("reason").and_then(Value::as_str)
            && !REASONS.contains(&reason)
        {
            let at = at.child("reason");
            errors.push(FieldError::not_supported(&at, reason, &REASONS));
        }
        field_path(node, rule.text("fieldPath"), &at.child("fieldPath"), errors);
    }
}

fn field_path(node: Node<'_>, text: &str, at: &FieldPath, errors: &mut Vec<FieldError>) {
    if text.is_empty() {
        return;
    }
    if text.trim().is_empty() {
        errors.push(FieldError::invalid(
            at,
            text,
            "must be non-empty if specified",
        ));
    }
    if has_line_break(text) {
        errors.push(FieldError::invalid(
            at,
            text,
            "must not contain line breaks",
        ));
    }
    let is_readable = structural::unsupported(node).is_none();
    if is_readable && resolve(text, node, Brackets::Allowed).is_err() {
        errors.push(FieldError::invalid(at, text, "must be a valid path"));
    }
}
