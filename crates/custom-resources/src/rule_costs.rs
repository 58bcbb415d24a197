//! The estimated costs of the rules of a definition, and their limits (k8s.io/apiextensions-apiserver,
//! `pkg/apis/apiextensions/validation`).

use json_tree::{Map, Value};
use object_model::{FieldError, FieldPath};

use crate::rule_types::RuleTypes;

/// Maximum estimated cost of one expression.
const RULE_COST_MAX: u64 = 10_000_000;
/// Maximum estimated cost of all expressions of a schema.
const SCHEMA_COST_MAX: u64 = 100_000_000;
/// The number of expressions that an error about the whole schema names.
const NAMED_MAX: usize = 4;
const DEPTH_MAX: usize = 64;

/// The errors of expressions that cost too much. The expressions of the schema have been checked.
pub(crate) fn check(schema: &Value, path: &FieldPath) -> Vec<FieldError> {
    let mut costs = Costs::default();
    if let Some(schema) = schema.as_object() {
        costs.walk(schema, path, Some(1), DEPTH_MAX);
    }
    costs.finish(path)
}

#[derive(Default)]
struct Costs {
    total: u64,
    /// The expressions with a cost.
    expressions: Vec<(FieldPath, u64)>,
    errors: Vec<FieldError>,
}

impl Costs {
    /// `cardinality` is the number of values that the schema has in one object; `None` if it is not limited.
    fn walk(
        &mut self,
        schema: &Map<String, Value>,
        path: &FieldPath,
        cardinality: Option<u64>,
        depth: usize,
    ) {
        if depth == 0 {
            return;
        }
        self.rules(schema, path, cardinality, depth == DEPTH_MAX);
        let properties = schema.get("properties").and_then(Value::as_object);
        for (name, below) in properties.into_iter().flatten() {
            if let Some(below) = below.as_object() {
                let path = path.child("properties").key(name);
                self.walk(below, &path, cardinality, depth - 1);
            }
        }
        for (keyword, limit) in [
            ("items", "maxItems"),
            ("additionalProperties", "maxProperties"),
        ] {
            if let Some(below) = schema.get(keyword).and_then(Value::as_object) {
                let count = schema.get(limit).and_then(Value::as_u64);
                let below_cardinality = cardinality
                    .zip(count)
                    .map(|(outer, count)| outer.saturating_mul(count));
                self.walk(below, &path.child(keyword), below_cardinality, depth - 1);
            }
        }
    }

    fn rules(
        &mut self,
        schema: &Map<String, Value>,
        path: &FieldPath,
        cardinality: Option<u64>,
        is_root: bool,
    ) {
        let rules = schema
            .get("x-kubernetes-validations")
            .and_then(Value::as_array);
        let Some(rules) = rules.filter(|rules| !rules.is_empty()) else {
            return;
        };
        let types = RuleTypes::from_schema(schema, is_root);
        let cardinality = cardinality.unwrap_or_else(|| types.max_cardinality());
        for (index, rule) in rules.iter().enumerate() {
            let at = path.child("x-kubernetes-validations").index(index);
            let old_is_optional = rule["optionalOldSelf"] == true;
            let cost = |field: &str| {
                let source = rule[field].as_str().filter(|text| !text.is_empty())?;
                types.cost(source, old_is_optional)
            };
            if let Some(cost) = cost("rule") {
                let cost = cost.saturating_mul(cardinality);
                self.observe(&at.child("rule"), "rule", cost);
            }
            if let Some(cost) = cost("messageExpression") {
                self.observe(&at.child("messageExpression"), "messageExpression", cost);
            }
        }
    }

    fn observe(&mut self, path: &FieldPath, name: &str, cost: u64) {
        if cost > RULE_COST_MAX {
            cov_mark::hit!(findings_2_e7_cost);
            let text = exceeded(&format!("estimated {name} cost"), cost, RULE_COST_MAX);
            self.errors.push(FieldError::forbidden(path, text));
        }
        self.total = self.total.saturating_add(cost);
        if cost > 0 {
            self.expressions.push((path.clone(), cost));
        }
    }

    fn finish(mut self, path: &FieldPath) -> Vec<FieldError> {
        if self.total > SCHEMA_COST_MAX {
            self.expressions
                .sort_by_key(|(_, cost)| std::cmp::Reverse(*cost));
            for (path, _) in self.expressions.iter().take(NAMED_MAX) {
                let text = "contributed to estimated rule & messageExpression cost total exceeding cost limit for \
                            entire OpenAPIv3 schema";
                self.errors.push(FieldError::forbidden(path, text));
            }
            let name = "x-kubernetes-validations estimated rule & messageExpression cost total for entire OpenAPIv3 \
                        schema";
            let text = exceeded(name, self.total, SCHEMA_COST_MAX);
            self.errors.push(FieldError::forbidden(path, text));
        }
        self.errors
    }
}

fn exceeded(name: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = if factor > 100.0 {
        "more than 100x".to_owned()
    } else if factor < 1.5 {
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    };
    format!(
        "{name} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and \
         maxLength where arrays, maps, and strings are declared)"
    )
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    fn cost(schema: &Value, rule: &str) -> u64 {
        let types = RuleTypes::from_schema(schema.as_object().unwrap(), false);
        types.cost(rule, false).unwrap_or_else(|| panic!("{rule}"))
    }

    fn leaf(kind: &str) -> Value {
        match kind {
            "int-or-string" => json!({"x-kubernetes-int-or-string": true}),
            "duration" | "date" | "date-time" => json!({"type": "string", "format": kind}),
            "object" => json!({"type": "object", "required": ["required"], "properties": {
                "required": {"type": "string"}, "optional": {"type": "string"}}}),
            "numbers" => json!({"type": "array", "items": {"type": "number"}}),
            "map of numbers" => {
                json!({"type": "object", "additionalProperties": {"type": "number"}})
            }
            kind => json!({"type": kind}),
        }
    }

    /// A list or a map of such values.
    fn of(container: &str, kind: &str, limit: Option<u64>) -> Value {
        let mut schema = match container {
            "list" => json!({"type": "array", "items": leaf(kind)}),
            _ => json!({"type": "object", "additionalProperties": leaf(kind)}),
        };
        if let Some(limit) = limit {
            let name = if container == "list" {
                "maxItems"
            } else {
                "maxProperties"
            };
            schema[name] = json!(limit);
        }
        schema
    }

    // findings-2 E7
    #[test]
    fn costs_of_lists_and_maps_are_those_of_upstream() {
        for (container, kind, rule, unlimited, limit, limited) in [
            ("list", "number", "self.all(x, true)", 4_718_591, 10, 32),
            ("list", "string", "self.all(x, true)", 3_145_727, 20, 62),
            ("list", "boolean", "self.all(x, true)", 1_887_437, 5, 17),
            ("list", "numbers", "self.all(x, true)", 3_145_727, 100, 302),
            ("list", "object", "self.all(x, true)", 555_128, 50, 152),
            ("map", "number", "self.all(x, true)", 1_348_169, 10, 32),
            ("map", "string", "self.all(x, true)", 1_179_647, 3, 11),
            ("map", "boolean", "self.all(x, true)", 943_718, 100, 302),
            ("list", "number", "self[1] == 0.0", 2, 5000, 2),
            ("list", "string", "self[1] == self[1]", 314_577, 8, 314_577),
            (
                "list",
                "number",
                "self.all(x, x == 0.0)",
                6_291_454,
                6_291_456,
                25_165_826,
            ),
            (
                "list",
                "int-or-string",
                "self.all(x, true)",
                4_718_591,
                10,
                32,
            ),
            ("list", "int-or-string", "self[0] == 5", 3, 10, 3),
            ("list", "boolean", "self[0] == false", 2, 25, 2),
            ("list", "object", "self[0] == null", 2, 422, 2),
            ("list", "numbers", "self[0][0] == -1.0", 3, 51, 3),
            (
                "list",
                "map of numbers",
                "self.all(x, x.y == 25.2)",
                6_291_452,
                12,
                74,
            ),
            ("list", "map of numbers", "self[0].x > 2.0", 4, 3000, 4),
            ("list", "duration", "self.all(x, true)", 2_359_295, 5, 17),
            ("list", "duration", "self[0].getHours() == 2", 4, 525, 4),
            ("list", "date", "self.all(x, true)", 725_936, 15, 47),
            ("list", "date", "self[2].getDayOfMonth() == 13", 4, 42, 4),
            ("list", "date-time", "self.all(x, true)", 428_963, 25, 77),
            (
                "map",
                "int-or-string",
                "self.all(x, true)",
                1_348_169,
                15,
                47,
            ),
            ("map", "object", "self.all(x, true)", 428_963, 20, 62),
            (
                "map",
                "map of numbers",
                "self.all(x, true)",
                1_179_647,
                10,
                32,
            ),
            ("map", "number", "self['x'] == 0.0", 2, 0, 2),
        ] {
            let name = format!("{container} of {kind}: {rule}");
            assert_eq!(cost(&of(container, kind, None), rule), unlimited, "{name}");
            let schema = of(container, kind, Some(limit));
            assert_eq!(cost(&schema, rule), limited, "{name} with {limit}");
        }
    }

    // findings-2 E7
    #[test]
    fn costs_of_texts_are_those_of_upstream() {
        for (rule, unlimited, limit, limited) in [
            ("self.contains('test')", 314_574, 10, 5),
            ("self.startsWith('test')", 2, 15, 2),
            ("self.endsWith('test')", 2, 30, 2),
            ("size(self + 'hello') > size('hello')", 314_578, 4, 7),
            ("self.matches('x')", 314_574, 50, 22),
            ("''.matches('(((((((((())))))))))[0-9]')", 7, 10, 7),
            ("self.matches('')", 1, 100, 1),
            ("self == 'x'", 2, 0, 1),
        ] {
            assert_eq!(cost(&json!({"type": "string"}), rule), unlimited, "{rule}");
            let schema = json!({"type": "string", "maxLength": limit});
            assert_eq!(cost(&schema, rule), limited, "{rule} with {limit}");
        }
        let bytes = json!({"type": "string", "format": "byte"});
        assert_eq!(cost(&bytes, "self == b'x'"), 2);
    }

    // findings-2 E7
    #[test]
    fn nested_loops_multiply() {
        let limited = of("list", "number", Some(10));
        for (rule, expected) in [
            ("self.all(x, self.all(y, true))", 352),
            ("self.all(x, self.all(y, self.all(z, true)))", 3552),
        ] {
            assert_eq!(cost(&limited, rule), expected, "{rule}");
            assert!(
                cost(&of("list", "number", None), rule) > RULE_COST_MAX,
                "{rule}"
            );
        }
        let nested = |limit: Option<u64>| {
            let mut schema = json!({"type": "array", "items": of("map", "object", limit)});
            if let Some(limit) = limit {
                schema["maxItems"] = json!(limit);
            }
            schema
        };
        let rule = "self.all(x, x['y'].required == 'z')";
        assert_eq!(cost(&nested(None), rule), 7_340_027);
        assert_eq!(cost(&nested(Some(10)), rule), 72);
    }

    fn errors(schema: &Value) -> Vec<String> {
        let errors = check(schema, &FieldPath::root("schema"));
        errors.iter().map(ToString::to_string).collect()
    }

    // findings-2 E7
    #[test]
    fn a_rule_that_costs_too_much_is_refused() {
        cov_mark::check!(findings_2_e7_cost);
        let hint = "(try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, \
                    and strings are declared)";
        let rules = json!([{"rule": "self.all(x, self.all(y, x == y))"}]);
        let schema = |limit: Option<u64>| {
            let mut list = json!({"type": "array", "items": {"type": "integer"},
                "x-kubernetes-validations": rules.clone()});
            if let Some(limit) = limit {
                list["maxItems"] = json!(limit);
            }
            json!({"type": "object", "properties": {"list": list}})
        };
        assert_eq!(errors(&schema(Some(1000))), [""; 0]);
        let at = "schema.properties[list].x-kubernetes-validations[0].rule";
        assert_eq!(
            errors(&schema(None)),
            [
                format!(
                    "{at}: Forbidden: estimated rule cost exceeds budget by factor of more than 100x {hint}"
                ),
                format!(
                    "{at}: Forbidden: contributed to estimated rule & messageExpression cost total exceeding cost \
                     limit for entire OpenAPIv3 schema"
                ),
                format!(
                    "schema: Forbidden: x-kubernetes-validations estimated rule & messageExpression cost total for \
                     entire OpenAPIv3 schema exceeds budget by factor of more than 100x {hint}"
                ),
            ]
        );
        let message = errors(&schema(Some(1500)));
        assert_eq!(message.len(), 1, "{message:?}");
        assert!(message[0].contains("by factor of 1."), "{message:?}");
    }

    // findings-2 E7
    #[test]
    fn rules_of_elements_cost_once_for_each_element() {
        let schema = |limit: Option<u64>| {
            let mut list = json!({"type": "array", "items": {"type": "string", "maxLength": 1000,
                "x-kubernetes-validations": [{"rule": "self.matches('^[a-z0-9]+$')"}]}});
            if let Some(limit) = limit {
                list["maxItems"] = json!(limit);
            }
            json!({"type": "object", "properties": {"list": list}})
        };
        assert_eq!(errors(&schema(Some(64))), [""; 0]);
        assert!(!errors(&schema(None)).is_empty());
    }
}
