//! The parsed structural schema of a custom resource: the structure of an object and the rules for its values
//! (apiextensions.k8s.io/v1, "Specifying a structural schema").

use std::collections::BTreeMap;
use std::sync::OnceLock;

use cel_evaluator::compile_pattern;
use json_tree::{Map, Value};
use regex::Regex;

use crate::expression::Expression;

/// The JSON type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// A map from names to values.
    Object,
    /// A list.
    Array,
    /// A text.
    String,
    /// A whole number.
    Integer,
    /// Any number.
    Number,
    /// True or false.
    Boolean,
}

impl Type {
    /// The type with this name; `None` for an unknown name.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "object" => Self::Object,
            "array" => Self::Array,
            "string" => Self::String,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            _ => return None,
        })
    }

    /// The name in schemas and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
}

/// `x-kubernetes-list-type`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    /// The list is one value.
    #[default]
    Atomic,
    /// Each element is its own key.
    Set,
    /// These fields of an element are its key.
    Map(Vec<String>),
}

/// A validation rule in CEL (`x-kubernetes-validations`).
#[derive(Clone, Debug, Default)]
pub struct Validation {
    /// The expression, which must be true.
    pub rule: String,
    /// The message of a violation.
    pub message: Option<String>,
    /// An expression that computes the message.
    pub message_expression: Option<String>,
    /// `reason` of the error, for instance `FieldValueInvalid`.
    pub reason: Option<String>,
    /// The path, relative to the value with the rule, that the error is reported for.
    pub field_path: Option<String>,
    /// Whether `oldSelf` is an optional value, so that a rule about it is evaluated for a new value, too.
    pub optional_old_self: bool,
    pub(crate) compiled: OnceLock<Option<Expression>>,
    pub(crate) compiled_message: OnceLock<Option<Expression>>,
}

/// The schema of one value.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    /// The type; `None` if it is unspecified.
    pub kind: Option<Type>,
    /// Whether null is a value.
    pub nullable: bool,
    /// Whether both numbers and texts are allowed.
    pub int_or_string: bool,
    /// Whether unknown fields are preserved.
    pub preserve_unknown: bool,
    /// Whether the value is a whole API object with metadata.
    pub embedded: bool,
    /// The schemas of the known fields (`properties`).
    pub properties: BTreeMap<String, Schema>,
    /// The schema of other fields; `None` if no other fields are allowed.
    pub additional: Option<AdditionalProperties>,
    /// The schema of a list's elements (`items`).
    pub items: Option<Box<Schema>>,
    /// The default value (`default`).
    pub default: Option<Value>,
    /// `x-kubernetes-list-type`: atomic, set or map.
    pub list_type: ListType,
    /// Whether a map is a single value for ownership (`x-kubernetes-map-type: atomic`).
    pub atomic_map: bool,
    /// Limits of the value, such as `maximum`, `maxLength` and `pattern`.
    pub limits: Limits,
    /// Validation rules in CEL.
    pub validations: Vec<Validation>,
    /// Whether this schema, or a schema inside of it, has such rules.
    pub has_rules: bool,
    /// Whether the rules of this schema, or of schemas inside of it, may be evaluated many times or may contain
    /// loops.
    pub has_loops: bool,
    /// Whether this schema, or a schema inside of it, is an embedded object.
    pub has_embedded: bool,
    /// The description for `kubectl explain`.
    pub description: Option<String>,
}

/// The schema of fields that are not in `properties`.
#[derive(Clone, Debug)]
pub enum AdditionalProperties {
    /// A boolean: whether other fields are valid.
    Allowed(bool),
    Like(Box<Schema>),
}

/// The limits of JSON schema for a value.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    pub format: Option<String>,
    pub pattern: Option<Pattern>,
    pub one_of_values: Option<Vec<Value>>,
    pub minimum: Option<f64>,
    pub exclusive_minimum: bool,
    pub maximum: Option<f64>,
    pub exclusive_maximum: bool,
    pub multiple_of: Option<f64>,
    pub min_length: Option<u64>,
    pub max_length: Option<u64>,
    pub min_items: Option<u64>,
    pub max_items: Option<u64>,
    pub unique_items: bool,
    pub min_properties: Option<u64>,
    pub max_properties: Option<u64>,
    pub required: Vec<String>,
    pub all_of: Vec<Schema>,
    pub any_of: Vec<Schema>,
    pub one_of: Vec<Schema>,
    pub not: Option<Box<Schema>>,
}

/// A regular expression and its source.
#[derive(Clone, Debug)]
pub struct Pattern {
    pub source: String,
    regex: OnceLock<Option<Regex>>,
}

impl Pattern {
    /// The compiled pattern; `None` if its syntax is not supported: it then matches every text. The first call
    /// compiles it.
    pub fn regex(&self) -> Option<&Regex> {
        let compile = || compile_pattern(&self.source).ok();
        self.regex.get_or_init(compile).as_ref()
    }
}

/// Maximum depth of a schema; deeper parts are unknown.
const DEPTH_MAX: usize = 64;

impl Schema {
    /// Parses the `openAPIV3Schema` of a definition. Malformed parts are ignored, because the validation of the
    /// definition refuses them.
    pub fn parse(value: &Value) -> Self {
        parse(value, DEPTH_MAX)
    }

    /// The schema of a field, from `properties` or `additionalProperties`.
    pub fn field(&self, name: &str) -> Option<&Schema> {
        self.properties.get(name).or(match &self.additional {
            Some(AdditionalProperties::Like(schema)) => Some(schema),
            _ => None,
        })
    }
}

fn parse(value: &Value, depth: usize) -> Schema {
    let Some(map) = value.as_object().filter(|_| depth > 0) else {
        return Schema {
            preserve_unknown: true,
            ..Schema::default()
        };
    };
    let flag = |name: &str| map.get(name).and_then(Value::as_bool).unwrap_or_default();
    let part = |value: &Value| parse(value, depth - 1);
    let properties = map.get("properties").and_then(Value::as_object);
    let mut schema = Schema {
        kind: text(map, "type").and_then(|name| Type::named(&name)),
        nullable: flag("nullable"),
        int_or_string: flag("x-kubernetes-int-or-string"),
        preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
        embedded: flag("x-kubernetes-embedded-resource"),
        properties: properties
            .into_iter()
            .flatten()
            .map(|(name, schema)| (name.clone(), part(schema)))
            .collect(),
        additional: match map.get("additionalProperties") {
            Some(Value::Bool(allowed)) => Some(AdditionalProperties::Allowed(*allowed)),
            Some(schema @ Value::Object(_)) => {
                Some(AdditionalProperties::Like(Box::new(part(schema))))
            }
            _ => None,
        },
        items: map
            .get("items")
            .filter(|schema| schema.is_object())
            .map(|schema| Box::new(part(schema))),
        default: map.get("default").filter(|value| !value.is_null()).cloned(),
        list_type: list_type(map),
        atomic_map: text(map, "x-kubernetes-map-type").as_deref() == Some("atomic"),
        limits: limits(map, depth),
        validations: validations(map),
        description: text(map, "description"),
        has_rules: false,
        has_loops: false,
        has_embedded: false,
    };
    schema.has_rules =
        !schema.validations.is_empty() || below(&schema).any(|below| below.has_rules);
    schema.has_loops = has_loops(&schema);
    schema.has_embedded = schema.embedded || below(&schema).any(|below| below.has_embedded);
    schema
}

/// Words in expressions whose cost is not limited by the length of the expression: loops, and functions on texts and
/// lists.
const COSTLY: [&str; 25] = [
    "all(",
    "exists(",
    "exists_one(",
    "filter(",
    "find",
    "format(",
    "indexOf(",
    "join(",
    "lastIndexOf(",
    "lists.",
    "map(",
    "matches(",
    "replace(",
    "sort",
    "split(",
    "sum(",
    "distinct(",
    "existsOne(",
    "flatten(",
    "max(",
    "min(",
    "reverse(",
    "sets.",
    "transform",
    "validate(",
];

fn has_loops(schema: &Schema) -> bool {
    let is_costly = |source: &str| {
        // White space may precede a bracket.
        let source: String = source.split_whitespace().collect();
        COSTLY.iter().any(|word| source.contains(word))
    };
    let mut expressions = schema.validations.iter().flat_map(|validation| {
        [
            Some(validation.rule.as_str()),
            validation.message_expression.as_deref(),
        ]
    });
    let named = schema.properties.values();
    let repeated = below(schema).skip(schema.properties.len());
    expressions.any(|source| source.is_some_and(is_costly))
        || named.into_iter().any(|below| below.has_loops)
        || repeated.into_iter().any(|below| below.has_rules)
}

/// The schemas of the values inside of a schema; the schemas of `properties` are first.
fn below(schema: &Schema) -> impl Iterator<Item = &Schema> {
    let additional = match &schema.additional {
        Some(AdditionalProperties::Like(below)) => Some(below.as_ref()),
        _ => None,
    };
    let values = schema.properties.values();
    values.chain(schema.items.as_deref()).chain(additional)
}

fn list_type(map: &Map<String, Value>) -> ListType {
    match text(map, "x-kubernetes-list-type").as_deref() {
        Some("set") => ListType::Set,
        Some("map") => ListType::Map(texts(map.get("x-kubernetes-list-map-keys"))),
        _ => ListType::Atomic,
    }
}

fn limits(map: &Map<String, Value>, depth: usize) -> Limits {
    let number = |name: &str| map.get(name).and_then(Value::as_f64);
    let count = |name: &str| {
        let value = map.get(name)?;
        value.as_u64().or_else(|| whole(value.as_f64()?))
    };
    let flag = |name: &str| map.get(name).and_then(Value::as_bool).unwrap_or_default();
    let schemas = |name: &str| -> Vec<Schema> {
        let list = map.get(name).and_then(Value::as_array);
        let list = list.map(Vec::as_slice).unwrap_or_default();
        list.iter().map(|schema| parse(schema, depth - 1)).collect()
    };
    Limits {
        format: text(map, "format"),
        pattern: text(map, "pattern").map(|source| Pattern {
            source,
            regex: OnceLock::new(),
        }),
        one_of_values: map.get("enum").and_then(Value::as_array).cloned(),
        minimum: number("minimum"),
        exclusive_minimum: flag("exclusiveMinimum"),
        maximum: number("maximum"),
        exclusive_maximum: flag("exclusiveMaximum"),
        multiple_of: number("multipleOf"),
        min_length: count("minLength"),
        max_length: count("maxLength"),
        min_items: count("minItems"),
        max_items: count("maxItems"),
        unique_items: flag("uniqueItems"),
        min_properties: count("minProperties"),
        max_properties: count("maxProperties"),
        required: texts(map.get("required")),
        all_of: schemas("allOf"),
        any_of: schemas("anyOf"),
        one_of: schemas("oneOf"),
        not: map
            .get("not")
            .filter(|schema| schema.is_object())
            .map(|schema| Box::new(parse(schema, depth - 1))),
    }
}

/// Counts may be written with a decimal point.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "in range, as just checked"
)]
fn whole(number: f64) -> Option<u64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    ((0.0..=EXACT).contains(&number) && number.fract() == 0.0).then_some(number as u64)
}

fn validations(map: &Map<String, Value>) -> Vec<Validation> {
    let list = map
        .get("x-kubernetes-validations")
        .and_then(Value::as_array);
    let list = list.map(Vec::as_slice).unwrap_or_default();
    list.iter()
        .filter_map(Value::as_object)
        .map(|map| {
            let nonempty = |name: &str| text(map, name).filter(|text| !text.is_empty());
            Validation {
                rule: nonempty("rule").unwrap_or_default(),
                message: nonempty("message"),
                message_expression: nonempty("messageExpression"),
                reason: nonempty("reason"),
                field_path: nonempty("fieldPath"),
                optional_old_self: map.get("optionalOldSelf") == Some(&Value::Bool(true)),
                compiled: OnceLock::new(),
                compiled_message: OnceLock::new(),
            }
        })
        .collect()
}

fn text(map: &Map<String, Value>, name: &str) -> Option<String> {
    Some(map.get(name)?.as_str()?.to_owned())
}

fn texts(list: Option<&Value>) -> Vec<String> {
    let list = list.and_then(Value::as_array);
    let list = list.map(Vec::as_slice).unwrap_or_default();
    list.iter()
        .filter_map(|text| Some(text.as_str()?.to_owned()))
        .collect()
}
