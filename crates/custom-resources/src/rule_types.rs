//! The types of validation rules, which are checked when a definition is written.

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue};
use cel::{Context, Program, Value as Cel};
use cel_checker::{
    Constant, ConstantKind, Declarations, NodeKind, SchemaNode, Type, check, invalid_constants,
    schema_type,
};
use json_tree::{Map, Value};
use regex::Regex;

use crate::expression::{ENVIRONMENT, Expression, parse};
use crate::expression_error::ExpressionError;

/// The depth of schemas below which values have no type.
const DEPTH_MAX: usize = 64;
/// The name of the type of `self` in messages.
const SELF_TYPE: &str = "selfType";

/// The types that the rules of one schema are checked with.
pub(crate) struct RuleTypes {
    declarations: Declarations,
    self_type: Type,
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
        }
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
            Expression::of_rule(&program)?;
        }
        Ok(is_expected)
    }

    fn result(&self, program: &Program, old_is_optional: bool) -> Result<Type, ExpressionError> {
        let old_type = match old_is_optional {
            true => Type::optional(self.self_type.clone()),
            false => self.self_type.clone(),
        };
        let declarations = self.declarations.clone().with_variable("oldSelf", old_type);
        let (expression, source) = (program.expression(), program.source_info());
        let checked = check(expression, source, &declarations).map_err(|errors| {
            cov_mark::hit!(findings_2_e5);
            ExpressionError::Syntax(errors.to_string())
        })?;
        invalid_constants(expression, source, is_valid)
            .map_err(|errors| ExpressionError::Syntax(errors.to_string()))?;
        Ok(checked.result)
    }
}

/// Whether a function accepts a literal argument.
fn is_valid(constant: Constant<'_>) -> bool {
    let function = match (constant.kind, constant.literal) {
        (ConstantKind::Pattern, LiteralValue::String(pattern)) => {
            return Regex::new(pattern.inner()).is_ok();
        }
        (ConstantKind::Pattern, _) => return true,
        (ConstantKind::Duration, _) => "duration",
        (ConstantKind::Timestamp, _) => "timestamp",
    };
    let argument = Expr::Literal(constant.literal.clone());
    let call = CallExpr {
        func_name: function.to_owned(),
        target: None,
        args: vec![IdedExpr {
            id: 1,
            expr: argument,
        }],
    };
    let call = IdedExpr {
        id: 2,
        expr: Expr::Call(call),
    };
    Cel::resolve(&call, &Context::with_env(ENVIRONMENT.clone())).is_ok()
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
    Some(match text("type")? {
        "boolean" => NodeKind::Boolean,
        "integer" => NodeKind::Integer,
        "number" => NodeKind::Number,
        "string" => NodeKind::String {
            format: text("format").map(str::to_owned),
        },
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
