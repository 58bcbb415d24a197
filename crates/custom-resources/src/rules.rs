//! Validation rules of custom kinds (`x-kubernetes-validations`), evaluated for each value of an object that has
//! rules.

use cel_evaluator::{EvaluationError, Value as Cel, Variables};
use json_tree::Value;
use object_model::{FieldError, FieldErrorType, FieldPath};

use crate::cel_values::typed;
use crate::expression::{Expression, OBJECT_UNITS_MAX, RULE_UNITS_MAX};
use crate::rule_types::compile_rule;
use crate::schema::{ListType, Schema, Validation};

/// The errors of all rules that an object violates; `old` is the object before an update.
pub fn broken_rules(object: &Value, old: Option<&Value>, schema: &Schema) -> Vec<FieldError> {
    broken_within(OBJECT_UNITS_MAX, object, old, schema)
}

fn broken_within(
    units: u64,
    object: &Value,
    old: Option<&Value>,
    schema: &Schema,
) -> Vec<FieldError> {
    if !schema.has_rules {
        return Vec::new();
    }
    let mut judge = Judge {
        units,
        ended: false,
        errors: Vec::new(),
    };
    judge.walk(
        object,
        Before::new(old, object),
        schema,
        &FieldPath::default(),
    );
    judge.errors
}

/// The compiled rule; `None` if it does not compile. The first call compiles it, so that a server with many definitions
/// starts without compiling all rules.
fn compiled<'v>(validation: &'v Validation, schema: &Schema) -> Option<&'v Expression> {
    let compile = || compile_rule(&validation.rule, schema, validation.optional_old_self).ok();
    let has_rule = !validation.rule.is_empty();
    has_rule.then(|| validation.compiled.get_or_init(compile).as_ref())?
}

/// The compiled `messageExpression`; `None` if it is absent or does not compile.
fn compiled_message<'v>(validation: &'v Validation, schema: &Schema) -> Option<&'v Expression> {
    let source = validation.message_expression.as_deref()?;
    let compile = || compile_rule(source, schema, validation.optional_old_self).ok();
    validation.compiled_message.get_or_init(compile).as_ref()
}

/// The state of a value before an update.
#[derive(Clone, Copy)]
struct Before<'v> {
    /// The old value; `None` if it cannot be determined, for example for an element of a list without keys.
    value: Option<&'v Value>,
    /// Whether the value is unchanged. If its old value cannot be determined, whether the closest outer value with a
    /// known old value is unchanged.
    is_same: bool,
}

impl<'v> Before<'v> {
    fn new(old: Option<&'v Value>, now: &Value) -> Self {
        Self {
            value: old,
            is_same: old == Some(now),
        }
    }

    /// The state of a value inside of this value.
    fn below(self, old: Option<&'v Value>, now: &Value) -> Self {
        match old {
            // Inside of an unchanged value nothing has changed. The old values of the elements of lists without keys
            // cannot be determined.
            _ if self.is_same => {
                cov_mark::hit!(findings_2_e3);
                Self {
                    value: old,
                    is_same: true,
                }
            }
            Some(_) => Self::new(old, now),
            None => Self {
                value: None,
                is_same: false,
            },
        }
    }
}

/// A value with rules: as JSON, and as the variables of its rules.
struct RuleSite<'v> {
    value: &'v Value,
    schema: &'v Schema,
    path: &'v FieldPath,
    /// With the unchanged value of `oldSelf`, if it is known.
    plain: Variables,
    /// With `oldSelf` as an optional value.
    optional: Variables,
}

struct Judge {
    /// The remaining budget of the object.
    units: u64,
    /// Whether the budget of the object or of a rule is exhausted.
    ended: bool,
    errors: Vec<FieldError>,
}

impl Judge {
    fn walk(&mut self, value: &Value, before: Before<'_>, schema: &Schema, path: &FieldPath) {
        if !schema.has_rules || (value.is_null() && schema.nullable) || self.ended {
            return;
        }
        // Transition rules are also evaluated for unchanged values; other rules are not evaluated again (as
        // kube-apiserver, `CRDValidationRatcheting`).
        let applies = |validation: &&Validation| match compiled(validation, schema) {
            Some(rule) if rule.compares => before.value.is_some() || validation.optional_old_self,
            _ => !before.is_same,
        };
        let mut rules = schema.validations.iter().filter(applies).peekable();
        if rules.peek().is_some() {
            let location = RuleSite::new(value, before.value, schema, path);
            for rule in rules {
                self.judge(&location, rule);
            }
        }
        match value {
            Value::Object(map) => {
                for (name, value) in map {
                    if let Some(below) = schema.field(name) {
                        let old = before.value.and_then(|old| old.get(name));
                        let before = before.below(old, value);
                        self.walk(value, before, below, &path.child(name));
                    }
                }
            }
            Value::Array(items) => {
                let Some(below) = &schema.items else { return };
                for (index, item) in items.iter().enumerate() {
                    let old = before.value;
                    let old = old.and_then(|old| counterpart(item, old, &schema.list_type));
                    let before = before.below(old, item);
                    self.walk(item, before, below, &path.index(index));
                }
            }
            _ => {}
        }
    }

    fn judge(&mut self, location: &RuleSite<'_>, validation: &Validation) {
        if self.ended {
            return;
        }
        let Some(rule) = compiled(validation, location.schema) else {
            let text = format!("rule cannot be compiled: {}", validation.rule.trim());
            self.refuse(location.path, location.value, None, text);
            return;
        };
        match self.evaluate(rule, location.variables(validation)) {
            Ok(Cel::Bool(true)) => {}
            Ok(Cel::Bool(false)) => {
                let text = self.message(location, validation);
                let field = match &validation.field_path {
                    Some(below) => below
                        .trim_start_matches('.')
                        .split('.')
                        .fold(location.path.clone(), |path, name| path.child(name)),
                    None => location.path.clone(),
                };
                self.refuse(&field, location.value, validation.reason.as_deref(), text);
            }
            Ok(_) => {
                let text = format!("rule {:?} does not give true or false", validation.rule);
                self.refuse(location.path, location.value, None, text);
            }
            Err(error) => {
                let text = error.text(&title(validation));
                self.refuse(location.path, location.value, None, text);
            }
        }
    }

    /// The result of an expression, whose cost is taken from the budget of the object.
    fn evaluate(&mut self, rule: &Expression, variables: &Variables) -> Result<Cel, RuleError> {
        let evaluation = rule.evaluate_in(variables, self.units.min(RULE_UNITS_MAX));
        // The limit of a rule is the rule's own, unless less than that is left for the object.
        let is_object_spent = evaluation.cost > self.units && self.units < RULE_UNITS_MAX;
        self.units = self.units.saturating_sub(evaluation.cost);
        let result = evaluation.result;
        let is_rule_spent = matches!(&result, Err(error) if error.is_cost_limit());
        if is_object_spent || is_rule_spent {
            cov_mark::hit!(findings_2_c25);
            self.ended = true;
        }
        match result {
            _ if is_object_spent => Err(RuleError::ObjectBudget),
            result => result.map_err(RuleError::Evaluation),
        }
    }

    /// The message of a violated rule.
    fn message(&mut self, location: &RuleSite<'_>, validation: &Validation) -> String {
        let message = compiled_message(validation, location.schema).and_then(|expression| {
            let result = self.evaluate(expression, location.variables(validation));
            result.ok()
        });
        if let Some(Cel::String(text)) = message
            && !text.trim().is_empty()
            && !text.contains('\n')
        {
            return text.trim().to_owned();
        }
        let plain = validation.message.clone();
        plain.unwrap_or_else(|| format!("failed rule: {}", validation.rule.trim()))
    }

    fn refuse(&mut self, path: &FieldPath, value: &Value, reason: Option<&str>, text: String) {
        let printed = match value {
            Value::Object(_) | Value::Array(_) => None,
            scalar => Some(scalar.clone()),
        };
        let kind = match reason {
            Some("FieldValueForbidden") => FieldErrorType::Forbidden,
            Some("FieldValueRequired") => FieldErrorType::Required,
            Some("FieldValueDuplicate") => FieldErrorType::Duplicate,
            _ => FieldErrorType::Invalid,
        };
        let tells_value = matches!(kind, FieldErrorType::Invalid | FieldErrorType::Duplicate);
        self.errors.push(FieldError {
            kind,
            field: path.clone(),
            value: printed.filter(|_| tells_value),
            detail: text,
        });
    }
}

/// The reason why a rule has no result.
enum RuleError {
    /// The rules of the object cost more than all of them together may.
    ObjectBudget,
    Evaluation(EvaluationError),
}

impl RuleError {
    /// The message, with the texts of upstream (`schema/cel/validation.go`).
    fn text(&self, title: &str) -> String {
        match self {
            Self::ObjectBudget => {
                "validation failed due to running out of cost budget, no further validation rules \
                                   will be run"
                    .to_owned()
            }
            Self::Evaluation(error @ EvaluationError::CostLimit) => format!(
                "'{error}': no further validation rules will be run due to call cost exceeds limit for rule: {title}"
            ),
            Self::Evaluation(error @ EvaluationError::NoOverload) => format!(
                "'{error}': call arguments did not match a supported operator, function or macro signature for rule: \
                 {title}"
            ),
            Self::Evaluation(error) => format!("{error} evaluating rule: {title}"),
        }
    }
}

impl<'v> RuleSite<'v> {
    fn new(value: &'v Value, old: Option<&Value>, schema: &'v Schema, path: &'v FieldPath) -> Self {
        let mut plain = Variables::default();
        plain.insert("self", typed(value, Some(schema)));
        let old = old.map(|old| typed(old, Some(schema)));
        let mut optional = plain.clone();
        optional.insert("oldSelf", Cel::Optional(old.clone().map(Into::into)));
        if let Some(old) = old {
            plain.insert("oldSelf", old);
        }
        Self {
            value,
            schema,
            path,
            plain,
            optional,
        }
    }

    /// The variables of a rule.
    fn variables(&self, validation: &Validation) -> &Variables {
        match validation.optional_old_self {
            true => &self.optional,
            false => &self.plain,
        }
    }
}

/// The old element with the key of a list element.
pub(crate) fn counterpart<'o>(
    item: &Value,
    old: &'o Value,
    list_type: &ListType,
) -> Option<&'o Value> {
    let ListType::Map(keys) = list_type else {
        return None;
    };
    let same = |other: &&Value| keys.iter().all(|key| item.get(key) == other.get(key));
    old.as_array()?.iter().find(same)
}

fn title(validation: &Validation) -> String {
    let named = validation.message.clone();
    named.unwrap_or_else(|| validation.rule.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    fn texts(schema: Value, object: Value, old: Option<Value>) -> Vec<String> {
        let errors = broken_rules(&object, old.as_ref(), &Schema::parse(&schema));
        errors.iter().map(ToString::to_string).collect()
    }

    fn spec(rules: Value, fields: Value) -> Value {
        json!({"type": "object", "properties": {"spec": {"type": "object",
            "x-kubernetes-validations": rules, "properties": fields}}})
    }

    #[test]
    fn a_rule_is_judged_where_it_stands() {
        let schema = spec(
            json!([
                {"rule": "self.min <= self.max", "message": "min is more than max"},
                {"rule": "self.min >= 0"},
                {"rule": "self.max < 10", "messageExpression": "'max is ' + string(self.max)",
                 "reason": "FieldValueForbidden", "fieldPath": ".max"},
            ]),
            json!({"min": {"type": "integer"}, "max": {"type": "integer"}}),
        );
        assert_eq!(
            texts(schema.clone(), json!({"spec": {"min": 1, "max": 2}}), None),
            [""; 0]
        );
        assert_eq!(
            texts(schema, json!({"spec": {"min": -1, "max": -2}}), None),
            [
                "spec: Invalid value: min is more than max",
                "spec: Invalid value: failed rule: self.min >= 0",
            ]
        );
    }

    // findings C27
    #[test]
    fn a_rule_is_not_asked_again_about_what_has_not_changed() {
        let schema = spec(
            json!([{"rule": "self.min >= 0"}, {"rule": "self.min > oldSelf.min - 1"},
                {"rule": "oldSelf.min > 5"}]),
            json!({"min": {"type": "integer"}}),
        );
        let old = json!({"spec": {"min": -1}});
        let messages = texts(schema.clone(), old.clone(), Some(old.clone()));
        assert_eq!(
            messages,
            ["spec: Invalid value: failed rule: oldSelf.min > 5"]
        );
        let messages = texts(schema, json!({"spec": {"min": -2}}), Some(old));
        assert_eq!(messages.len(), 3, "{messages:?}");
    }

    #[test]
    fn messages_and_places_can_be_made() {
        let schema = spec(
            json!([{"rule": "self.max < 10", "messageExpression": "'max is ' + string(self.max)",
                    "reason": "FieldValueForbidden", "fieldPath": ".max"}]),
            json!({"max": {"type": "integer"}}),
        );
        let messages = texts(schema, json!({"spec": {"max": 12}}), None);
        assert_eq!(messages, ["spec.max: Forbidden: max is 12"]);
    }

    #[test]
    fn changes_are_judged_against_what_was() {
        let schema = json!({"type": "object", "properties": {
            "name": {"type": "string", "x-kubernetes-validations":
                [{"rule": "self == oldSelf", "message": "is immutable"}]},
            "parts": {"type": "array", "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["id"], "items": {"type": "object",
                "x-kubernetes-validations": [{"rule": "self.size >= oldSelf.size"}],
                "properties": {"id": {"type": "string"}, "size": {"type": "integer"}}}}}});
        let old = json!({"name": "a", "parts": [{"id": "x", "size": 5}, {"id": "y", "size": 1}]});
        let new = json!({"name": "b", "parts": [{"id": "y", "size": 2}, {"id": "x", "size": 4},
            {"id": "z", "size": 0}]});
        assert_eq!(texts(schema.clone(), new.clone(), None), [""; 0]);
        assert_eq!(
            texts(schema, new, Some(old)),
            [
                r#"name: Invalid value: "b": is immutable"#,
                "parts[1]: Invalid value: failed rule: self.size >= oldSelf.size",
            ]
        );
    }

    #[test]
    fn the_libraries_are_there() {
        let fields = json!({"a": {"type": "array", "items": {"type": "integer"}},
            "q": {"type": "string"}, "t": {"type": "string", "format": "date-time"},
            "m": {"type": "object", "additionalProperties": {"type": "string"}},
            "x-y": {"type": "integer"}});
        let object = json!({"spec": {"a": [1, 2, 3], "q": "1Gi", "t": "2026-01-02T03:04:05Z",
            "m": {"k-1": "v"}, "x-y": 7}});
        let good = [
            "self.a.isSorted() && self.a.sum() == 6 && self.a.min() == 1 && self.a.max() == 3",
            "self.a.all(x, x > 0) && self.a.exists(x, x == 2) && self.a.map(x, x * 2) == [2, 4, 6]",
            "quantity(self.q).isLessThan(quantity('2Gi')) && isQuantity(self.q)",
            "quantity('1').add(quantity('1')).compareTo(quantity('2')) == 0",
            "self.t > timestamp('2025-01-01T00:00:00Z')",
            "self.m['k-1'] == 'v' && 'k-1' in self.m && !has(self.m.other)",
            "self.x__dash__y == 7",
            "'abc'.upperAscii() == 'ABC' && 'a,b'.split(',').size() == 2 && 'a1b'.find('[0-9]') == '1'",
            "isIP('10.0.0.1') && ip('::1').family() == 6 && isCIDR('10.0.0.0/8') && isURL('http://a')",
            "self.q.matches('^[0-9]+Gi$') && size(self.a) == 3",
            "has(self.q) ? true : false",
        ];
        for rule in good {
            let schema = spec(json!([{"rule": rule}]), fields.clone());
            assert_eq!(texts(schema, object.clone(), None), [""; 0], "{rule}");
        }
    }

    // findings-2 E4: as upstream, null is a value of a nullable field.
    #[test]
    fn a_null_of_a_nullable_field_is_there() {
        let fields = json!({"a": {"type": "string", "nullable": true}, "b": {"type": "string", "nullable": true}});
        for rule in [
            "has(self.a) && self.a == null",
            "!has(self.b)",
            "has(self.a) ? self.a == null || self.a.size() > 3 : false",
        ] {
            let schema = spec(json!([{"rule": rule}]), fields.clone());
            let object = json!({"spec": {"a": null}});
            assert_eq!(texts(schema, object, None), [""; 0], "{rule}");
        }
    }

    #[test]
    fn a_failure_in_a_rule_is_a_refusal() {
        let schema = spec(json!([{"rule": "self.missing > 1"}]), json!({}));
        let messages = texts(schema, json!({"spec": {}}), None);
        assert_eq!(messages.len(), 1);
        assert!(
            messages[0].contains("evaluating rule: self.missing > 1"),
            "{messages:?}"
        );
    }

    #[test]
    fn a_budget_that_is_spent_lets_nothing_pass() {
        let rules =
            json!([{"rule": "true"}, {"rule": "size('a') == 2"}, {"rule": "size('a') == 2"}]);
        let schema = json!({"type": "object", "x-kubernetes-validations": rules});
        let errors = broken_within(1, &json!({}), None, &Schema::parse(&schema));
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].detail.contains("cost budget"));
    }

    fn numbers(rules: Value) -> Value {
        json!({"type": "array", "items": {"type": "integer"}, "x-kubernetes-validations": rules})
    }

    // findings-2 C25
    #[test]
    fn an_expression_is_stopped_whatever_its_form() {
        let numbers = |rule: &str| numbers(json!([{"rule": rule}]));
        let list = json!(vec![1; 200]);
        for rule in [
            "self.all(a, self.all(b, self.all(c, a == a)))",
            "self.map(a, self.map(b, self.map(c, a))).size() > 0",
            "self.exists_one(a, self.exists_one(b, self.exists_one(c, a == 2)))",
            "self.filter(a, self.filter(b, self.filter(c, true).size() > 0).size() > 0).size() > 0",
            "self.exists(a, self.exists(b, self.exists(c, 1 / 0 == 1)))",
            "lists.range(1000000000).size() > 0",
            "self.all(a, lists.range(1000).distinct().size() == 1000)",
            "self.all(a, self.all(b, self.map(c, string(c)).join('xxxxxxxxxxxxxxxxxxxx') != ''))",
            "cel.bind(a, self + self + self + self + self + self + self, cel.bind(b, \
             a + a + a + a + a + a + a, cel.bind(c, b + b + b + b + b + b + b, cel.bind(d, \
             c + c + c + c + c + c + c, (d + d + d + d + d).size() > 0))))",
            "cel.bind(a, 'x'.replace('', 'yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy'), \
             cel.bind(b, a.replace('y', a), cel.bind(c, b.replace('y', b), \
             c.replace('y', c).size() > 0)))",
            "self.all(a, self.all(b, string(a + b).matches('(' + string(b) + '[a-z]{500}){9}') == false))",
        ] {
            let messages = texts(numbers(rule), list.clone(), None);
            assert_eq!(messages.len(), 1, "{rule}: {messages:?}");
            assert!(
                messages[0].contains("call cost exceeds limit for rule"),
                "{rule}: {messages:?}"
            );
        }
    }

    // findings-2 C25
    #[test]
    fn an_object_is_stopped_when_its_rules_cost_too_much_together() {
        cov_mark::check!(findings_2_c25);
        let rule = json!({"rule": "self.all(a, self.all(b, a == b))"});
        let schema = Schema::parse(&numbers(json!(vec![rule; 40])));
        let list = json!(vec![1; 100]);
        let errors = broken_within(500_000, &list, None, &schema);
        assert_eq!(errors.len(), 1, "{errors:?}");
        let text = &errors[0].detail;
        assert!(text.contains("no further validation rules"), "{text}");
    }

    // findings-2 C25
    #[test]
    fn ordinary_rules_cost_little() {
        let schema = json!({"type": "array", "items": {"type": "object", "properties": {
        "name": {"type": "string"}, "ports": {"type": "array", "items": {"type": "integer"}}}},
        "x-kubernetes-validations": [
            {"rule": "self.all(x, self.exists_one(y, y.name == x.name))"},
            {"rule": "self.all(x, x.name.matches('^[a-z0-9-]+$') && x.ports.all(p, p > 0))"},
            {"rule": "self.map(x, x.name).join(',').split(',').size() == self.size()"},
            {"rule": "self.filter(x, x.name.indexOf('7') == 1).sortBy(x, x.name).size() == 1"},
            {"rule": "self.map(x, x.name).distinct().size() == 64 && 'n7' in self.map(x, x.name)"},
            {"rule": "self.all(x, self.map(y, y.name)[0] == 'n0' && size(x.name) > 1)"},
            {"rule": "self[0].?name.orValue('') + 'x' == 'n0x' && self[0].name.find('[0-9]') == '0'"},
            {"rule": "'a1b2'.findAll('[0-9]') == ['1', '2'] && 'a'.replace('a', 'b') != 'a'"},
            {"rule": "self.all(math, math.name != '') && math.abs(-1) == 1"},
        ]});
        let list = (0..64).map(|number| json!({"name": format!("n{number}"), "ports": [1, 2]}));
        let messages = texts(schema, list.collect(), None);
        assert_eq!(messages, [""; 0]);
    }

    // findings-2 E6
    #[test]
    fn the_sum_of_no_durations_is_a_duration() {
        let schema = json!({"type": "object", "properties": {
            "periods": {"type": "array", "items": {"type": "string", "format": "duration"}},
            "bytes": {"type": "string", "format": "byte"}},
            "x-kubernetes-validations": [
                {"rule": "self.periods.sum() < duration('1h')"},
                {"rule": "self.periods.filter(p, p > duration('5h')).sum() == duration('0s')"},
                {"rule": "self.bytes == b'hello'"}]});
        let object = json!({"periods": [], "bytes": "aGVsbG8="});
        assert_eq!(texts(schema.clone(), object, None), [""; 0]);
        let object = json!({"periods": ["30m", "31m"], "bytes": "aGVsbG8="});
        assert_eq!(texts(schema, object, None).len(), 1);
    }

    // findings-2 E3
    #[test]
    fn elements_of_an_unchanged_list_are_not_judged_again() {
        cov_mark::check!(findings_2_e3);
        for list_type in ["atomic", "set"] {
            let schema = json!({"type": "object", "properties": {"size": {"type": "integer"},
                "names": {"type": "array", "x-kubernetes-list-type": list_type,
                "items": {"type": "string", "x-kubernetes-validations": [{"rule": "self != 'bad'"}]}}}});
            let old = json!({"names": ["good", "bad"], "size": 1});
            let mut new = json!({"names": ["good", "bad"], "size": 2});
            let messages = texts(schema.clone(), new.clone(), Some(old.clone()));
            assert_eq!(messages, [""; 0], "{list_type}");
            new["names"] = json!(["bad"]);
            let messages = texts(schema, new, Some(old));
            assert_eq!(messages.len(), 1, "{list_type}: {messages:?}");
        }
    }
}
