//! The types of validation rules, which are checked when a definition is written.

use std::collections::BTreeSet;
use std::sync::Arc;

use cel::Program;
use cel::common::ast::LiteralValue;
use cel_checker::{
    Constant, ConstantKind, Declarations, FieldSize, NodeKind, SchemaNode, Type, ValueSize, check,
    escape, estimate, invalid_constants, schema_type,
};
use cel_evaluator::{Time, compile_pattern, nanoseconds};
use json_tree::{Map, Value};

use crate::expression::{Expression, parse};
use crate::expression_error::ExpressionError;
use crate::schema::{self, AdditionalProperties, Schema};

/// The depth of schemas below which values have no type.
const DEPTH_MAX: usize = 64;
/// The name of the type of `self` in messages.
const SELF_TYPE: &str = "selfType";

/// The types that the rules of one schema are checked with.
pub(crate) struct RuleTypes {
    declarations: Declarations,
    self_type: Type,
    /// The sizes of the value and of its parts; `None` if the schema does not describe the value.
    size: Option<ValueSize>,
}

impl RuleTypes {
    /// The types for the rules of a schema. The root of a resource has the fields that each resource has.
    pub(crate) fn from_schema(schema: &Map<String, Value>, is_root: bool) -> Self {
        let node = node(schema, DEPTH_MAX);
        // Values that the schema does not describe are checked at evaluation.
        let self_type = schema_type(&node, SELF_TYPE, is_root || node.is_embedded);
        let self_type = self_type.unwrap_or(Type::Dyn);
        Self {
            declarations: Declarations::kubernetes().with_variable("self", self_type.clone()),
            self_type,
            size: size(schema, DEPTH_MAX, is_root || node.is_embedded),
        }
    }

    /// The estimated cost of an expression; `None` for an expression that cannot be evaluated.
    pub(crate) fn cost(&self, source: &str, old_is_optional: bool) -> Option<u64> {
        let program = parse(source).ok()?;
        let declarations = self.with_old_self(old_is_optional);
        let (expression, source) = (program.expression(), program.source_info());
        let checked = check(expression, source, &declarations).ok()?;
        Some(estimate(expression, &checked, self.size.as_ref()?).max)
    }

    /// The largest number of values of the schema in one request.
    pub(crate) fn max_cardinality(&self) -> u64 {
        self.size.as_ref().map_or(1, ValueSize::max_cardinality)
    }

    /// Checks that a rule can be evaluated, and results in a boolean.
    ///
    /// # Errors
    /// The message for the rule.
    pub(crate) fn check_rule(&self, source: &str, old_is_optional: bool) -> Result<(), String> {
        match self.results_in(&Type::Bool, source, old_is_optional) {
            Ok(true) => Ok(()),
            Ok(false) => Err("cel expression must evaluate to a bool".to_owned()),
            Err(error) => Err(format!("compilation failed: {error}")),
        }
    }

    /// Checks that a message expression can be evaluated, and results in a text.
    ///
    /// # Errors
    /// The message for the expression.
    pub(crate) fn check_message(&self, source: &str, old_is_optional: bool) -> Result<(), String> {
        match self.results_in(&Type::String, source, old_is_optional) {
            Ok(true) => Ok(()),
            Ok(false) => Err("messageExpression must evaluate to a string".to_owned()),
            Err(error) => Err(format!("messageExpression compilation failed: {error}")),
        }
    }

    /// Whether an expression results in this type; if so, the expression can be evaluated.
    fn results_in(
        &self,
        expected: &Type,
        source: &str,
        old_is_optional: bool,
    ) -> Result<bool, ExpressionError> {
        let program = parse(source)?;
        let is_expected = self.result(&program, old_is_optional)? == *expected;
        if is_expected {
            Expression::of_rule(&program, &BTreeSet::new())?;
        }
        Ok(is_expected)
    }

    fn result(&self, program: &Program, old_is_optional: bool) -> Result<Type, ExpressionError> {
        result_type(program, &self.with_old_self(old_is_optional))
    }

    fn with_old_self(&self, is_optional: bool) -> Declarations {
        let old_type = match is_optional {
            true => Type::optional(self.self_type.clone()),
            false => self.self_type.clone(),
        };
        self.declarations.clone().with_variable("oldSelf", old_type)
    }
}

/// The type of the result of an expression with these declarations.
///
/// # Errors
/// The errors of the types and of the literal arguments, with their positions.
pub(crate) fn result_type(
    program: &Program,
    declarations: &Declarations,
) -> Result<Type, ExpressionError> {
    let (expression, source) = (program.expression(), program.source_info());
    let checked = check(expression, source, declarations).map_err(|errors| {
        cov_mark::hit!(findings_2_e5);
        ExpressionError::Syntax(errors.to_string())
    })?;
    invalid_constants(expression, source, is_valid)
        .map_err(|errors| ExpressionError::Syntax(errors.to_string()))?;
    Ok(checked.result)
}

/// Whether a function accepts a literal argument.
fn is_valid(constant: Constant<'_>) -> bool {
    let LiteralValue::String(text) = constant.literal else {
        return true;
    };
    match constant.kind {
        ConstantKind::Pattern => compile_pattern(text.inner()).is_ok(),
        ConstantKind::Duration => nanoseconds(text.inner()).is_some(),
        ConstantKind::Timestamp => Time::parse(text.inner()).is_some(),
    }
}

/// Compiles an expression of a schema.
///
/// # Errors
/// A syntax error, an undeclared name, or an exceeded limit.
pub(crate) fn compile_rule(
    source: &str,
    schema: &Schema,
    old_is_optional: bool,
) -> Result<Expression, ExpressionError> {
    let program = parse(source)?;
    // Only the sum of an empty list depends on the types of the schema.
    let sums = match source.contains("sum") {
        true => duration_sums(&program, schema, old_is_optional),
        false => BTreeSet::new(),
    };
    Expression::of_rule(&program, &sums)
}

fn duration_sums(program: &Program, schema: &Schema, old_is_optional: bool) -> BTreeSet<u64> {
    let self_type = schema_type(&parsed_node(schema), SELF_TYPE, true).unwrap_or(Type::Dyn);
    let types = RuleTypes {
        declarations: Declarations::kubernetes().with_variable("self", self_type.clone()),
        self_type,
        size: None,
    };
    let declarations = types.with_old_self(old_is_optional);
    let checked = check(program.expression(), program.source_info(), &declarations);
    let overloads = checked.map(|checked| checked.overloads).unwrap_or_default();
    let is_sum = |ids: &[Arc<str>]| matches!(ids, [id] if **id == *"list_duration_sum_duration");
    overloads
        .into_iter()
        .filter_map(|(id, ids)| is_sum(&ids).then_some(id))
        .collect()
}

/// The content of a parsed schema that decides its type.
fn parsed_node(schema: &Schema) -> SchemaNode {
    let below = |schema: &Schema| Box::new(parsed_node(schema));
    let kind = schema.kind.map(|kind| match kind {
        schema::Type::Boolean => NodeKind::Boolean,
        schema::Type::Integer => NodeKind::Integer,
        schema::Type::Number => NodeKind::Number,
        schema::Type::String => NodeKind::String {
            format: schema.limits.format.clone(),
        },
        schema::Type::Array => NodeKind::Array {
            items: schema.items.as_deref().map(below),
        },
        schema::Type::Object => NodeKind::Object {
            properties: schema
                .properties
                .iter()
                .map(|(name, schema)| (name.clone(), parsed_node(schema)))
                .collect(),
            additional: match &schema.additional {
                Some(AdditionalProperties::Like(schema)) => Some(below(schema)),
                _ => None,
            },
        },
    });
    SchemaNode {
        kind,
        is_int_or_string: schema.int_or_string,
        is_embedded: schema.embedded,
    }
}

/// The content of a schema that decides its type.
fn node(schema: &Map<String, Value>, depth: usize) -> SchemaNode {
    let flag = |name: &str| schema.get(name) == Some(&Value::Bool(true));
    SchemaNode {
        kind: if depth == 0 {
            None
        } else {
            kind(schema, depth)
        },
        is_int_or_string: flag("x-kubernetes-int-or-string"),
        is_embedded: flag("x-kubernetes-embedded-resource"),
    }
}

fn kind(schema: &Map<String, Value>, depth: usize) -> Option<NodeKind> {
    let below = |value: &Value| value.as_object().map(|schema| node(schema, depth - 1));
    let text = |name: &str| schema.get(name).and_then(Value::as_str);
    let json_type = text("type")?;
    if let Some(scalar) = NodeKind::scalar(json_type, text("format")) {
        return Some(scalar);
    }
    Some(match json_type {
        "array" => NodeKind::Array {
            items: schema.get("items").and_then(below).map(Box::new),
        },
        "object" => {
            let properties = schema.get("properties").and_then(Value::as_object);
            let properties = properties.into_iter().flatten();
            let properties = properties
                .filter_map(|(name, value)| Some((name.to_string(), below(value)?)))
                .collect();
            let additional = schema.get("additionalProperties");
            NodeKind::Object {
                properties,
                additional: additional.and_then(below).map(Box::new),
            }
        }
        _ => return None,
    })
}

/// The sizes of the values of a schema. The root of a resource has the fields that each resource has.
fn size(schema: &Map<String, Value>, depth: usize, is_root: bool) -> Option<ValueSize> {
    if depth == 0 {
        return None;
    }
    let text = |name: &str| schema.get(name).and_then(Value::as_str);
    let number = |name: &str| schema.get(name).and_then(Value::as_u64);
    let below = |value: Option<&Value>| {
        let schema = value?.as_object()?;
        size(schema, depth - 1, is_embedded(schema))
    };
    if schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
        return Some(ValueSize::int_or_string(number("maxLength")));
    }
    Some(match text("type")? {
        "boolean" => ValueSize::boolean(),
        "integer" | "number" => ValueSize::number(),
        "string" => match text("format").unwrap_or_default() {
            "byte" => ValueSize::bytes(number("maxLength")),
            "duration" => ValueSize::duration(),
            "date" => ValueSize::date(),
            "date-time" => ValueSize::date_time(),
            _ => text_size(schema),
        },
        "array" => ValueSize::list(below(schema.get("items"))?, number("maxItems")),
        "object" => match schema.get("additionalProperties") {
            Some(additional @ Value::Object(_)) => {
                ValueSize::map(below(Some(additional))?, number("maxProperties"))
            }
            _ => object_size(schema, depth, is_root),
        },
        _ => return None,
    })
}

fn text_size(schema: &Map<String, Value>) -> ValueSize {
    let max_length = schema.get("maxLength").and_then(Value::as_u64);
    let values = schema.get("enum").and_then(Value::as_array);
    match (max_length, values.filter(|values| !values.is_empty())) {
        (None, Some(values)) => {
            let lengths = values.iter().filter_map(Value::as_str).map(str::len);
            ValueSize::one_of(lengths.max().unwrap_or_default() as u64)
        }
        (max_length, _) => ValueSize::text(max_length),
    }
}

fn is_embedded(schema: &Map<String, Value>) -> bool {
    schema.get("x-kubernetes-embedded-resource") == Some(&Value::Bool(true))
}

fn object_size(schema: &Map<String, Value>, depth: usize, is_root: bool) -> ValueSize {
    let required = schema.get("required").and_then(Value::as_array);
    let required: Vec<&str> = required
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let properties = schema.get("properties").and_then(Value::as_object);
    let fields = properties
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| {
            let schema = value.as_object()?;
            let has_default = schema.get("default").is_some_and(|value| !value.is_null());
            Some(FieldSize {
                name: name.to_string(),
                escaped: escape(name)?,
                size: size(schema, depth - 1, is_embedded(schema))?,
                is_sent: required.contains(&name.as_str()) && !has_default,
            })
        });
    match is_root {
        false => ValueSize::object(fields),
        // The fields of the resource replace the properties, as upstream.
        true => ValueSize::object(fields.chain(resource_fields())),
    }
}

/// The sizes of the fields of each resource.
fn resource_fields() -> impl Iterator<Item = FieldSize> {
    let field = |name: &str, size: ValueSize| FieldSize {
        name: name.to_owned(),
        escaped: name.to_owned(),
        size,
        is_sent: false,
    };
    let text = move |name: &str| field(name, ValueSize::text(None));
    let metadata = ValueSize::object([text("name"), text("generateName")]);
    [
        text("kind"),
        text("apiVersion"),
        field("metadata", metadata),
    ]
    .into_iter()
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    fn types() -> RuleTypes {
        let schema = json!({"type": "object", "properties": {
            "replicas": {"type": "integer"}, "name": {"type": "string"},
            "port": {"x-kubernetes-int-or-string": true},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "since": {"type": "string", "format": "date-time"},
            "x-y": {"type": "number"},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "parts": {"type": "array", "items": {"type": "object", "properties": {
                "size": {"type": "integer"}}}}}});
        RuleTypes::from_schema(schema.as_object().unwrap(), true)
    }

    #[test]
    fn rules_with_right_types_are_accepted() {
        for rule in [
            "self.replicas > 1 && self.name.size() < 5",
            "self.replicas >= oldSelf.replicas",
            "self.port == 1 || self.port == 'http'",
            "self.since > timestamp('2020-01-01T00:00:00Z')",
            "self.x__dash__y > 1.0 && self.x__dash__y < 2",
            "self.labels.all(k, self.labels[k] != '')",
            "self.parts.exists_one(p, p.size == 3)",
            "self.metadata.name.startsWith('a') && self.kind != '' && self.apiVersion != ''",
            "!has(self.labels) || 'a' in self.labels",
            "self.?labels['a'].orValue('') == ''",
            "quantity(self.name).isLessThan(quantity('2Gi'))",
            "self.name.matches('^[a-z]+$') && duration('1h') < duration('90m')",
            "cel.bind(a, self.replicas, a == a)",
            "self.parts.map(p, p.size).sum() < 10",
        ] {
            assert_eq!(types().check_rule(rule, false), Ok(()), "{rule}");
        }
        assert_eq!(
            types().check_message("'is ' + string(self.replicas)", false),
            Ok(())
        );
        assert_eq!(
            types().check_rule("oldSelf.hasValue() || self == oldSelf.orValue(self)", true),
            Ok(())
        );
    }

    // findings-2 E5
    #[test]
    fn rules_with_wrong_types_are_refused() {
        cov_mark::check!(findings_2_e5);
        for (rule, expected) in [
            (
                "self.nosuch == 1",
                "compilation failed: ERROR: <input>:1:5: undefined field 'nosuch'\n | self.nosuch == 1\n | ....^",
            ),
            (
                "self.replicas == 'a'",
                "compilation failed: ERROR: <input>:1:15: found no matching overload for '_==_' applied to \
                 '(int, string)'\n | self.replicas == 'a'\n | ..............^",
            ),
            (
                "other == 1",
                "compilation failed: ERROR: <input>:1:1: undeclared reference to 'other' (in container '')\n \
                 | other == 1\n | ^",
            ),
            (
                "self.name.nope()",
                "compilation failed: ERROR: <input>:1:15: undeclared reference to 'nope' (in container '')\n \
                 | self.name.nope()\n | ..............^",
            ),
            (
                "duration('1') < duration('1h')",
                "compilation failed: ERROR: <input>:1:10: invalid duration argument\n \
                 | duration('1') < duration('1h')\n | .........^",
            ),
            (
                "self.name.matches(')')",
                "compilation failed: ERROR: <input>:1:19: invalid matches argument\n \
                 | self.name.matches(')')\n | ..................^",
            ),
            (
                "self.free.a == 1",
                "compilation failed: ERROR: <input>:1:10: undefined field 'a'\n | self.free.a == 1\n | .........^",
            ),
            ("self.name", "cel expression must evaluate to a bool"),
        ] {
            assert_eq!(
                types().check_rule(rule, false),
                Err(expected.to_owned()),
                "{rule}"
            );
        }
        let message = types().check_message("self.replicas", false);
        assert_eq!(
            message,
            Err("messageExpression must evaluate to a string".to_owned())
        );
        let message = types().check_message("self.nosuch", false).unwrap_err();
        assert!(
            message
                .starts_with("messageExpression compilation failed: ERROR: <input>:1:5: undefined"),
            "{message}"
        );
    }
}
