//! Rules of custom kinds (`x-kubernetes-validations`), judged at each place of an object that has
//! them.

use cel::Value as Cel;
use object_model::{FieldError, FieldErrorType, FieldPath};
use serde_json::Value;

use crate::cel_values::{size, typed};
use crate::expression::BUDGET;
use crate::schema::{ListType, Schema, Validation};

/// All rules that an object breaks; `old` is the object before an update.
pub fn broken_rules(object: &Value, old: Option<&Value>, schema: &Schema) -> Vec<FieldError> {
    let mut judge = Judge::with(BUDGET);
    judge.walk(object, old, schema, &FieldPath::default());
    judge.errors
}

/// A place that has rules: its value, and the same as expressions see it, now and before.
struct Place<'v> {
    value: &'v Value,
    path: &'v FieldPath,
    nodes: u64,
    now: Cel,
    before: Option<Cel>,
}

struct Judge {
    /// The remaining budget; `None` once it is exceeded.
    left: Option<u64>,
    errors: Vec<FieldError>,
}

impl Judge {
    fn with(budget: u64) -> Self {
        Self {
            left: Some(budget),
            errors: Vec::new(),
        }
    }

    fn walk(&mut self, value: &Value, old: Option<&Value>, schema: &Schema, path: &FieldPath) {
        if !schema.has_rules || (value.is_null() && schema.nullable) {
            return;
        }
        if !schema.validations.is_empty() {
            let place = Place {
                value,
                path,
                nodes: size(value) as u64,
                now: typed(value, Some(schema)),
                before: old.map(|old| typed(old, Some(schema))),
            };
            // Transition rules apply to unchanged values too; other rules are not evaluated again
            // (as kube-apiserver, `CRDValidationRatcheting`).
            let is_same = old == Some(value);
            let compares =
                |validation: &Validation| validation.compiled().is_some_and(|rule| rule.compares);
            for validation in &schema.validations {
                if !is_same || compares(validation) {
                    self.judge(&place, validation);
                }
            }
        }
        match value {
            Value::Object(map) => {
                for (name, value) in map {
                    if let Some(below) = schema.field(name) {
                        let old = old.and_then(|old| old.get(name));
                        self.walk(value, old, below, &path.child(name));
                    }
                }
            }
            Value::Array(items) => {
                let Some(below) = &schema.items else { return };
                for (index, item) in items.iter().enumerate() {
                    let old = old.and_then(|old| counterpart(item, old, &schema.list_type));
                    self.walk(item, old, below, &path.index(index));
                }
            }
            _ => {}
        }
    }

    fn judge(&mut self, place: &Place<'_>, validation: &Validation) {
        let Some(rule) = validation.compiled() else {
            let text = format!("rule cannot be compiled: {}", validation.rule.trim());
            self.refuse(place.path, place.value, None, text);
            return;
        };
        if rule.compares && place.before.is_none() {
            // A transition rule does not apply to new values.
            return;
        }
        let cost = place.nodes.saturating_pow(rule.depth.max(1));
        let Some(left) = self.left else {
            return;
        };
        self.left = left.checked_sub(cost);
        if self.left.is_none() {
            let text = "validation failed due to running out of cost budget, no further \
                        validation rules will be run";
            self.refuse(place.path, place.value, None, text.to_owned());
            return;
        }
        match rule.evaluate(&place.now, place.before.as_ref()) {
            Ok(Cel::Bool(true)) => {}
            Ok(Cel::Bool(false)) => {
                let text = message(validation, &place.now, place.before.as_ref());
                let field = match &validation.field_path {
                    Some(below) => below
                        .trim_start_matches('.')
                        .split('.')
                        .fold(place.path.clone(), |path, name| path.child(name)),
                    None => place.path.clone(),
                };
                self.refuse(&field, place.value, validation.reason.as_deref(), text);
            }
            Ok(_) => {
                let text = format!("rule {:?} does not give true or false", validation.rule);
                self.refuse(place.path, place.value, None, text);
            }
            Err(error) => {
                let text = format!("{error} evaluating rule: {}", title(validation));
                self.refuse(place.path, place.value, None, text);
            }
        }
    }

    fn refuse(&mut self, path: &FieldPath, value: &Value, reason: Option<&str>, text: String) {
        let shown = match value {
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
            value: shown.filter(|_| tells_value),
            detail: text,
        });
    }
}

/// The old element of a list element, by its key.
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

/// The message of a violated rule.
fn message(validation: &Validation, now: &Cel, before: Option<&Cel>) -> String {
    let made = validation
        .compiled_message()
        .and_then(|expression| expression.evaluate(now, before).ok());
    if let Some(Cel::String(text)) = made
        && !text.trim().is_empty()
        && !text.contains('\n')
    {
        return text.trim().to_owned();
    }
    let plain = validation.message.clone();
    plain.unwrap_or_else(|| format!("failed rule: {}", validation.rule.trim()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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
        let found = texts(schema.clone(), old.clone(), Some(old.clone()));
        assert_eq!(found, ["spec: Invalid value: failed rule: oldSelf.min > 5"]);
        let found = texts(schema, json!({"spec": {"min": -2}}), Some(old));
        assert_eq!(found.len(), 3, "{found:?}");
    }

    #[test]
    fn messages_and_places_can_be_made() {
        let schema = spec(
            json!([{"rule": "self.max < 10", "messageExpression": "'max is ' + string(self.max)",
                    "reason": "FieldValueForbidden", "fieldPath": ".max"}]),
            json!({"max": {"type": "integer"}}),
        );
        let found = texts(schema, json!({"spec": {"max": 12}}), None);
        assert_eq!(found, ["spec.max: Forbidden: max is 12"]);
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

    #[test]
    fn a_failure_in_a_rule_is_a_refusal() {
        let schema = spec(json!([{"rule": "self.missing > 1"}]), json!({}));
        let found = texts(schema, json!({"spec": {}}), None);
        assert_eq!(found.len(), 1);
        assert!(
            found[0].contains("evaluating rule: self.missing > 1"),
            "{found:?}"
        );
    }

    #[test]
    fn a_budget_that_is_just_spent_lets_nothing_pass() {
        let rules = json!([{"rule": "true"}, {"rule": "false"}, {"rule": "false"}]);
        let schema = json!({"type": "object", "x-kubernetes-validations": rules});
        let mut judge = Judge::with(1);
        let path = FieldPath::default();
        judge.walk(&json!({}), None, &Schema::parse(&schema), &path);
        assert_eq!(judge.errors.len(), 1, "{:?}", judge.errors);
        assert!(judge.errors[0].detail.contains("cost budget"));
    }

    #[test]
    fn loops_within_loops_are_paid_for() {
        let rule = "self.all(a, self.all(b, self.all(c, a + b + c < 0)))";
        let schema = json!({"type": "array", "items": {"type": "integer"},
            "x-kubernetes-validations": [{"rule": rule}]});
        let found = texts(schema, json!(vec![1; 1000]), None);
        assert!(found[0].contains("cost budget"), "{found:?}");
    }
}
