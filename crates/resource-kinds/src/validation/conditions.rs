//! The rules of the conditions of a status (`metav1.Condition`, API conventions, "Typical status properties").

use std::collections::BTreeSet;

use json_tree::Value;
use object_model::{FieldError, names};

use crate::validation::field::{Field, Rules};

/// The longest reason, in bytes.
const REASON_BYTES_MAX: usize = 1024;

/// The longest message, in bytes.
const MESSAGE_BYTES_MAX: usize = 32 * 1024;

/// Checks a list of conditions, each of another type.
pub(crate) fn check_all(conditions: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let mut types = BTreeSet::new();
    for condition in conditions.items() {
        let kind = condition.get("type");
        if !types.insert(kind.text()) {
            errors.push(kind.duplicate());
        }
        check(&condition, errors);
    }
}

/// Checks one condition.
pub(crate) fn check(condition: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    errors.check_required_text(&condition.get("type"), names::qualified_name);
    errors.check_one_of(&condition.get("status"), &["False", "True", "Unknown"]);
    errors.check_not_negative(&condition.get("observedGeneration"));
    let since = condition.get("lastTransitionTime");
    if since.is_empty() {
        errors.push(since.required(""));
    }
    let reason = condition.get("reason");
    errors.check_required_text(&reason, reason_errors);
    for (field, max) in [
        (reason, REASON_BYTES_MAX),
        (condition.get("message"), MESSAGE_BYTES_MAX),
    ] {
        if field.text().len() > max {
            errors.push(FieldError::too_long(&field.path(), max));
        }
    }
}

/// Whether the object has a condition of this type with the status `True`.
pub(crate) fn is_true(object: &Value, kind: &str) -> bool {
    let conditions = Field::of(object, "status.conditions");
    let mut conditions = conditions.items();
    conditions.any(|one| one.get("type").text() == kind && one.get("status").text() == "True")
}

fn reason_errors(reason: &str) -> Vec<String> {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || b"_,:".contains(&byte);
    let bytes = reason.as_bytes();
    let is_valid = bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.iter().copied().all(is_inner)
        && !reason.ends_with([',', ':']);
    if is_valid {
        return Vec::new();
    }
    vec![
        "a condition reason must start with alphabetic character, optionally followed by a string \
         of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' \
         (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or \
         'ReasonA:ReasonB', regex used for validation is \
         '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')"
            .to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    fn found(conditions: &Value) -> Vec<String> {
        let mut errors = Vec::new();
        check_all(&Field::of(conditions, "conditions"), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_field_of_a_condition_has_a_rule() {
        let good = json!({"type": "Running", "status": "True", "reason": "Started_1,a:b",
            "lastTransitionTime": "2026-01-01T00:00:00Z", "message": ""});
        assert_eq!(found(&json!({ "conditions": [good] })), [""; 0]);
        let cases = [
            ("type", json!(""), "type: Required value"),
            ("type", json!("a b"), "type: Invalid value"),
            ("status", json!("yes"), "status: Unsupported value"),
            (
                "observedGeneration",
                json!(-1),
                "must be greater than or equal to 0",
            ),
            (
                "lastTransitionTime",
                Value::Null,
                "lastTransitionTime: Required value",
            ),
            ("reason", json!(""), "reason: Required value"),
            ("reason", json!("1a"), "a condition reason must start with"),
            ("reason", json!("a:"), "a condition reason must start with"),
            ("reason", json!("a".repeat(1025)), "reason: Too long"),
            ("message", json!("a".repeat(32_769)), "message: Too long"),
        ];
        for (field, value, expected) in cases {
            let mut bad = good.clone();
            bad[field] = value;
            let errors = found(&json!({ "conditions": [bad] }));
            assert!(
                errors.len() == 1 && errors[0].contains(expected),
                "{field}: {errors:?}"
            );
        }
        let errors = found(&json!({ "conditions": [good, good] }));
        assert_eq!(
            errors,
            [r#"conditions[1].type: Duplicate value: "Running""#]
        );
    }
}
